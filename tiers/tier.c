/* tiers/tier.c: the wrappers around a tier's table: they assert what every back end may rely on,
 * and count. */
#include "tiers/tier.h"

#include "transfer/slot_header.h"

#include <assert.h>

static bool op_is_well_formed(const struct tier_op *op)
{
	if (op->memory == NULL || op->memory_bytes == 0 || op->done == NULL)
		return false;
	if ((uintptr_t)op->memory % SLOT_ALIGN_BYTES != 0)
		return false;
	return op->offset % SLOT_ALIGN_BYTES == 0 && op->memory_bytes % SLOT_ALIGN_BYTES == 0;
}

int tier_submit(struct tier *tier, struct tier_op *op)
{
	int result;

	assert(op_is_well_formed(op));
	assert(tier->in_flight < UINT32_MAX);
	op->submitted_us = tier->clock != NULL ? clock_now_us(tier->clock) : 0;
	op->finished_us = 0;
	op->result = 0;
	/* Counted before the hand-over: afterwards the op may be written by another thread. */
	tier->in_flight++;
	result = tier->ops->submit(tier, op);
	if (result == 0)
		tier->ops_submitted++;
	else
		tier->in_flight--;
	return result;
}

unsigned tier_poll(struct tier *tier, unsigned limit)
{
	unsigned finished = tier->ops->poll(tier, limit);

	assert(finished <= limit);
	return finished;
}

int tier_fd(struct tier *tier, uint32_t device)
{
	return tier->ops->fd(tier, device);
}

bool tier_sleep(struct tier *tier)
{
	return tier->ops->sleep(tier);
}

void tier_close(struct tier *tier)
{
	if (tier == NULL || tier->ops == NULL)
		return;
	assert(tier->in_flight == 0);
	tier->ops->close(tier);
}

void tier_op_finish(struct tier *tier, struct tier_op *op)
{
	assert(tier->in_flight > 0);
	assert(op->result <= 0);
	tier->in_flight--;
	tier->ops_done++;
	if (op->result < 0)
		tier->ops_failed++;
	else if (op->verb == TIER_READ || op->verb == TIER_PROBE)
		tier->bytes_read += op->memory_bytes;
	else
		tier->bytes_written += op->memory_bytes;
	op->done(op);
}
