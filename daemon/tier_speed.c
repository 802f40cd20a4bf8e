/* daemon/tier_speed.c: see tier_speed.h. */
#include "daemon/tier_speed.h"

#include "tiers/tier.h"

#include <assert.h>

#define WEIGHT 0.05 /* of the newest sample in the running means */

static double took_us(const struct tier_op *op)
{
	assert(op->result == 0);
	return op->finished_us > op->submitted_us ? (double)(op->finished_us - op->submitted_us)
						  : 1.0;
}

void tier_speed_learn(struct tier_speed *speed, const struct tier_op *op, uint64_t in_flight)
{
	double us = took_us(op);
	double bytes_us = (double)op->memory_bytes / us * (double)(in_flight + 1);

	speed->bytes_us += WEIGHT * (bytes_us - speed->bytes_us);
	speed->latency_us += WEIGHT * (us - speed->latency_us);
	speed->learned_us = op->finished_us;
}

void tier_speed_mend(struct tier_speed *speed, const struct tier_op *op)
{
	double us = took_us(op);
	double bytes_us = (double)op->memory_bytes / us;

	if (op->finished_us < speed->learned_us + TIER_SPEED_OLD_US)
		return;
	if (bytes_us > speed->bytes_us)
		speed->bytes_us += WEIGHT * (bytes_us - speed->bytes_us);
	if (us < speed->latency_us)
		speed->latency_us += WEIGHT * (us - speed->latency_us);
}
