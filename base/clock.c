/* base/clock.c: the machine's clock, and one that tests set. */
#include "base/clock.h"

#include <assert.h>
#include <time.h>

#define US_PER_SECOND 1000000u
#define NS_PER_US 1000u

static uint64_t read_us(clockid_t id)
{
	struct timespec now;
	int result = clock_gettime(id, &now);

	assert(result == 0);
	return (uint64_t)now.tv_sec * US_PER_SECOND + (uint64_t)now.tv_nsec / NS_PER_US;
}

static uint64_t real_now_us(struct clock *clock)
{
	(void)clock;
	return read_us(CLOCK_MONOTONIC);
}

static uint64_t real_wall_us(struct clock *clock)
{
	(void)clock;
	return read_us(CLOCK_REALTIME);
}

static uint64_t virtual_us(struct clock *clock)
{
	return clock->set_us;
}

struct clock *clock_real(void)
{
	/* Nothing ever writes to it, so threads may share it. */
	static struct clock real = { .now_us = real_now_us, .wall_us = real_wall_us };

	return &real;
}

void clock_virtual_init(struct clock *clock, uint64_t start_us)
{
	clock->now_us = virtual_us;
	clock->wall_us = virtual_us;
	clock->set_us = start_us;
}

void clock_advance(struct clock *clock, uint64_t by_us)
{
	assert(clock->now_us == virtual_us);   /* nobody sets the machine's clock */
	assert(clock->set_us + by_us >= clock->set_us);
	clock->set_us += by_us;
}
