/* tiers/fault/tier_fault.c: a tier whose nth op fails. The inner tier gets copies of the ops, so it
 * counts its own. */
#include "tiers/fault/tier_fault.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct tier_fault_op {
	struct tier_op op; /* the inner tier's copy */
	struct tier_op *original;
	struct tier_fault *fault;
	bool is_to_fail; /* when it ends */
	int errno_value;
	struct list_node link; /* of idle or failed */
};

static struct tier_fault *fault_of(struct tier *tier)
{
	return list_item(tier, struct tier_fault, tier);
}

/* Ends the original with what became of the copy, or with what was injected. */
static void wrapper_end(struct tier_fault_op *wrapper)
{
	struct tier_fault *fault = wrapper->fault;
	struct tier_op *original = wrapper->original;

	assert(original != NULL);
	original->result = wrapper->is_to_fail ? wrapper->errno_value : wrapper->op.result;
	original->finished_us = fault->tier.clock != NULL ? clock_now_us(fault->tier.clock) : 0;
	wrapper->original = NULL;
	list_append(&fault->idle, &wrapper->link);
	fault->finished++;
	tier_op_finish(&fault->tier, original);
}

static void inner_done(struct tier_op *op)
{
	wrapper_end(list_item(op, struct tier_fault_op, op));
}

static bool is_hit(struct tier_fault *fault)
{
	if (fault->nth == 0)
		return false;
	fault->seen++;
	if (fault->seen < fault->nth || fault->seen - fault->nth >= fault->count)
		return false;
	fault->hits++;
	return true;
}

static int fault_submit(struct tier *tier, struct tier_op *op)
{
	struct tier_fault *fault = fault_of(tier);
	struct tier_fault_op *wrapper;
	bool hit;
	int result;

	if (list_is_empty(&fault->idle))
		return -EAGAIN;
	hit = is_hit(fault);
	if (hit && fault->place == TIER_FAULT_AT_SUBMIT)
		return fault->errno_value;
	wrapper = list_item(list_take_first(&fault->idle), struct tier_fault_op, link);
	wrapper->op = *op;
	wrapper->op.done = inner_done;
	wrapper->original = op;
	wrapper->fault = fault;
	wrapper->is_to_fail = hit;
	wrapper->errno_value = fault->errno_value;
	if (hit && fault->place == TIER_FAULT_BEFORE) {
		list_append(&fault->failed, &wrapper->link);
		return 0;
	}
	result = tier_submit(fault->inner, &wrapper->op);
	if (result < 0) {
		wrapper->original = NULL;
		list_prepend(&fault->idle, &wrapper->link);
	}
	return result;
}

static unsigned fault_poll(struct tier *tier, unsigned limit)
{
	struct tier_fault *fault = fault_of(tier);
	uint64_t failed_there = fault->failed.count;

	fault->finished = 0;
	for (; failed_there > 0 && fault->finished < limit; failed_there--)
		wrapper_end(list_item(list_take_first(&fault->failed), struct tier_fault_op, link));
	tier_poll(fault->inner, limit - fault->finished);
	return fault->finished;
}

static int fault_fd(struct tier *tier, uint32_t device)
{
	return tier_fd(fault_of(tier)->inner, device);
}

static bool fault_sleep(struct tier *tier)
{
	struct tier_fault *fault = fault_of(tier);

	return list_is_empty(&fault->failed) && tier_sleep(fault->inner);
}

static void fault_close(struct tier *tier)
{
	struct tier_fault *fault = fault_of(tier);

	assert(fault->idle.count == fault->ops_max);
	free(fault->wrappers);
	memset(fault, 0, sizeof(*fault));
}

static const struct tier_ops tier_fault_ops = {
	.name = "fault",
	.submit = fault_submit,
	.poll = fault_poll,
	.fd = fault_fd,
	.sleep = fault_sleep,
	.close = fault_close,
};

int tier_fault_open(struct tier_fault *fault, struct tier *inner, uint32_t ops_max,
		    struct error *error)
{
	assert(inner != NULL && ops_max > 0);
	memset(fault, 0, sizeof(*fault));
	fault->wrappers = calloc(ops_max, sizeof(*fault->wrappers));
	if (fault->wrappers == NULL)
		return error_set(error, -ENOMEM, "no memory for %u ops of a faulty tier", ops_max);
	fault->tier.ops = &tier_fault_ops;
	fault->tier.clock = inner->clock;
	fault->inner = inner;
	fault->ops_max = ops_max;
	list_init(&fault->idle);
	list_init(&fault->failed);
	for (uint32_t i = 0; i < ops_max; i++)
		list_append(&fault->idle, &fault->wrappers[i].link);
	return 0;
}

void tier_fault_arm(struct tier_fault *fault, uint64_t nth, int errno_value)
{
	tier_fault_arm_at(fault, TIER_FAULT_BEFORE, nth, 1, errno_value);
}

void tier_fault_arm_at(struct tier_fault *fault, enum tier_fault_place place, uint64_t nth,
		       uint64_t count, int errno_value)
{
	assert(nth > 0 && count > 0);
	assert(errno_value < 0);
	fault->place = place;
	fault->nth = nth;
	fault->count = count;
	fault->seen = 0;
	fault->hits = 0;
	fault->errno_value = errno_value;
}

bool tier_fault_was_hit(const struct tier_fault *fault)
{
	return fault->hits > 0;
}
