/*
 * daemon/drain.h: before a node is stopped: no new stores, and everything that is not on nvme yet
 * is written there.
 * Runs on: the loop thread.
 */
#ifndef KVTIER_DAEMON_DRAIN_H
#define KVTIER_DAEMON_DRAIN_H

#include <stdbool.h>
#include <stdint.h>

struct daemon;
struct tenant;

enum drain_state {
	DRAIN_OFF,
	DRAIN_LOWERING, /* cpu slots are lined up for nvme */
	DRAIN_WRITING,  /* until what is lined up, and stores that had begun, have ended */
	DRAIN_COUNTING, /* what stayed above all the same */
	DRAIN_DONE,
	DRAIN_STATES
};

struct drain {
	enum drain_state state; /* written by one function */
	uint32_t next;          /* cpu slot */
	uint64_t began_us;
	uint64_t above_blocks;  /* slots that are in cpu only: COUNTING, DONE */
	uint64_t written_before; /* counters.down_blocks when it began */
};

static inline bool drain_is_on(const struct drain *drain)
{
	return drain->state != DRAIN_OFF;
}

void drain_begin(struct daemon *daemon);
void drain_end(struct daemon *daemon);
/* Returns whether it did anything. */
bool drain_step(struct daemon *daemon);
/* A store that has begun goes on, and its blocks are written down as always. `tenant` NULL: of
 * anybody. */
bool drain_stores_are_running(const struct daemon *daemon, const struct tenant *tenant);
const char *drain_state_name(enum drain_state state);

#endif
