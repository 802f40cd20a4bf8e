/* tiers/fault/tier_fake.c: a tier in memory. */
#include "tiers/fault/tier_fake.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct tier_fake *fake_of(struct tier *tier)
{
	return list_item(tier, struct tier_fake, tier);
}

static int fake_submit(struct tier *tier, struct tier_op *op)
{
	struct tier_fake *fake = fake_of(tier);

	assert(op->device < fake->devices_count);
	assert(op->verb == TIER_EXTENTS || op->verb == TIER_PROBE ||
	       op->offset + op->memory_bytes <= fake->device_bytes);
	if (fake->is_fenced[op->device])
		return -EIO;
	if (fake->queue.count >= fake->queue_max)
		return -EAGAIN;
	list_append(&fake->queue, &op->link);
	return 0;
}

static void op_move(struct tier_fake *fake, struct tier_op *op)
{
	uint8_t *place = fake->memory[op->device] + op->offset;

	switch (op->verb) {
	case TIER_READ:
		memcpy(op->memory, place, op->memory_bytes);
		break;
	case TIER_WRITE:
		memcpy(place, op->memory, op->memory_bytes);
		break;
	case TIER_EXTENTS:
		fake->tables_written++;
		break;
	case TIER_PROBE: /* it has no first page */
		memset(op->memory, 0, op->memory_bytes);
		break;
	}
	op->result = 0;
}

static unsigned fake_poll(struct tier *tier, unsigned limit)
{
	struct tier_fake *fake = fake_of(tier);
	/* What done() submits waits for the next poll, as with a real device. */
	uint64_t there = fake->queue.count;
	unsigned finished = 0;

	for (; finished < limit && finished < there; finished++) {
		struct tier_op *op;

		if (fake->is_holding && fake->released == 0)
			break;
		fake->released -= fake->is_holding;
		op = list_item(list_take_first(&fake->queue), struct tier_op, link);
		op_move(fake, op);
		op->finished_us = tier->clock != NULL ? clock_now_us(tier->clock) : 0;
		tier_op_finish(tier, op);
	}
	return finished;
}

static int fake_fd(struct tier *tier, uint32_t device)
{
	(void)tier;
	(void)device;
	return -1;
}

static bool fake_sleep(struct tier *tier)
{
	struct tier_fake *fake = fake_of(tier);

	return list_is_empty(&fake->queue) || (fake->is_holding && fake->released == 0);
}

static void fake_close(struct tier *tier)
{
	struct tier_fake *fake = fake_of(tier);

	assert(list_is_empty(&fake->queue));
	for (unsigned i = 0; i < fake->devices_count; i++)
		free(fake->memory[i]);
	memset(fake, 0, sizeof(*fake));
}

static const struct tier_ops tier_fake_ops = {
	.name = "fake",
	.submit = fake_submit,
	.poll = fake_poll,
	.fd = fake_fd,
	.sleep = fake_sleep,
	.close = fake_close,
};

int tier_fake_open(struct tier_fake *fake, unsigned devices_count, uint64_t device_bytes,
		   uint32_t queue_max, struct clock *clock, struct error *error)
{
	assert(devices_count >= 1 && devices_count <= TIER_FAKE_DEVICES_MAX);
	assert(queue_max > 0 && device_bytes > 0);
	memset(fake, 0, sizeof(*fake));
	list_init(&fake->queue);
	fake->tier.ops = &tier_fake_ops;
	fake->tier.clock = clock;
	fake->device_bytes = device_bytes;
	fake->queue_max = queue_max;
	for (; fake->devices_count < devices_count; fake->devices_count++) {
		fake->memory[fake->devices_count] = calloc(1, device_bytes);
		if (fake->memory[fake->devices_count] == NULL) {
			fake_close(&fake->tier);
			return error_set(error, -ENOMEM,
					 "no memory for a fake device of %llu bytes",
					 (unsigned long long)device_bytes);
		}
	}
	return 0;
}

void tier_fake_hold(struct tier_fake *fake)
{
	fake->is_holding = true;
	fake->released = 0;
}

void tier_fake_release(struct tier_fake *fake, uint64_t count)
{
	assert(fake->is_holding);
	fake->released += count;
}

void tier_fake_flow(struct tier_fake *fake)
{
	fake->is_holding = false;
	fake->released = 0;
}

uint8_t *tier_fake_memory(struct tier_fake *fake, uint32_t device)
{
	assert(device < fake->devices_count);
	return fake->memory[device];
}
