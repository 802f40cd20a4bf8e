/* daemon/tier_speed.h: how fast a tier gives bytes, as measured; for the estimate of a restore.
 *
 * Runs on: the loop thread; O(1), no memory.
 */
#ifndef KVTIER_DAEMON_TIER_SPEED_H
#define KVTIER_DAEMON_TIER_SPEED_H

#include <stdint.h>

#define TIER_SPEED_OLD_US (UINT64_C(10) * 1000000)
#define TIER_OP_BYTES (1u << 20)   /* what an operation in the queue is taken for */

struct tier_op;

struct tier_speed {
	double latency_us;
	double bytes_us;
	uint64_t learned_us; /* when a load taught it */
};

/* From a read that a load waited for and that ended well, beside in_flight others. */
void tier_speed_learn(struct tier_speed *speed, const struct tier_op *op, uint64_t in_flight);

/* From one that nobody waited for: it is alone and unhurried, so it says how fast the tier is at
 * least. Who is told that a disk is slow asks no more of it: once no load has taught anything for
 * TIER_SPEED_OLD_US, it is seen to mend by this. */
void tier_speed_mend(struct tier_speed *speed, const struct tier_op *op);

#endif
