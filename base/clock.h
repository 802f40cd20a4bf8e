/*
 * base/clock.h: the only reader of time. Tests set it.
 * Runs on: any thread; a virtual clock belongs to one thread.
 */
#ifndef KVTIER_BASE_CLOCK_H
#define KVTIER_BASE_CLOCK_H

#include <stdint.h>

struct clock {
	/* Microseconds of CLOCK_MONOTONIC; never goes back. */
	uint64_t (*now_us)(struct clock *clock);
	/* Microseconds since 1970, for logs and `stored-at` only; may jump. */
	uint64_t (*wall_us)(struct clock *clock);
	uint64_t set_us;   /* what a virtual clock shows */
};

/* The machine's clock. Shared, never closed. */
struct clock *clock_real(void);

/* A clock that stands at `start_us` until clock_advance(). Caller gives the memory. */
void clock_virtual_init(struct clock *clock, uint64_t start_us);
void clock_advance(struct clock *clock, uint64_t by_us);

static inline uint64_t clock_now_us(struct clock *clock)
{
	return clock->now_us(clock);
}

static inline uint64_t clock_wall_us(struct clock *clock)
{
	return clock->wall_us(clock);
}

#endif
