/* daemon/move_device.c: the device memory that an engine lent <-> cpu slot. */
#include "daemon/mover_parts.h"

#include "base/failpoint.h"
#include "daemon/purge.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

unsigned mover_pulls_max(const struct daemon *daemon)
{
	unsigned part = MOVES_MAX / 2 / daemon->tenants_count;

	return part == 0 ? 1 : part;
}

bool mover_pull_is_copying(const struct move *move)
{
	return move->state == MOVE_DEVICE;
}

static struct move *move_of_copy(struct gpu_copy *copy)
{
	return list_item(copy, struct move, copy);
}

void move_pulled_count(struct move *move)
{
	struct counters *counters = &move->daemon->counters;

	counters->pulled_blocks[move->copy.direction]++;
	counters->pulled_bytes[move->copy.direction] += move->memory->identity.payload_bytes;
}

/* ---- to the device and back ---- */

/* From the queue on: what waits before the device waits for it, too. */
static void copy_waits(struct move *move)
{
	pull_speed_begin(move->speed, move->copy_bytes, move->copy.gate_value > 0,
			 move->daemon->now_us);
}

static void copy_ended(struct move *move, bool is_copied)
{
	pull_speed_end(move->speed, move->copy_bytes, move->copy.gate_value > 0, is_copied,
		       move->daemon->now_us);
}

static void out_ended(struct move *move, int result)
{
	struct daemon *daemon = move->daemon;
	uint32_t cpu_slot = move->cpu_slot;

	move_tell(move, result);
	move_give(move);
	/* The hold keeps the entry, so it goes last. */
	cache_slot_release(daemon->cache, TIER_CPU, cpu_slot);
}

static void prove_work(struct mill_op *op)
{
	struct move *move = move_of_mill(op);

	move->verdict = slot_claim_check(move->daemon, &move->claim, op->mill, move->memory);
}

static void prove_done(struct mill_op *op)
{
	struct move *move = move_of_mill(op);

	if (move->verdict == SLOT_GOOD) {
		move_pulled_count(move);
		out_ended(move, 0);
		return;
	}
	if (move_cpu_is_readable(move))
		slot_was_wrong(move->daemon, TIER_CPU, move->cpu_slot, move->verdict);
	out_ended(move, -EBADMSG);
}

/* What of the slot reached the engine is proven by the slot as it is now: whatever was wrong before
 * the copy is wrong yet. */
static void out_copied(struct move *move, int result)
{
	if (result == 0 && failpoint(pull_load_copied))
		result = -EIO;
	if (result == 0)
		move_mill(move, prove_work, prove_done);
	else
		out_ended(move, move->stopped < 0 ? move->stopped : result);
}

static void in_failed(struct move *move, int result)
{
	if (move->cpu_slot != SLOT_NONE)
		purge_unfilled(move->daemon, move->memory, move->slot_bytes);
	move_store_failed(move, result);
}

static void in_copied(struct move *move, int result)
{
	struct waiter *waiter = list_item(list_first(&move->waiters), struct waiter, link);

	if (move->stopped < 0)
		result = move->stopped;
	else if (result == 0 && failpoint(pull_store_copied))
		result = -EIO;
	if (result < 0) {
		in_failed(move, result);
		return;
	}
	move_become(move, MOVE_COPIED);
	move->copied(waiter);
}

static void copy_done(struct gpu_copy *copy, int result)
{
	struct move *move = move_of_copy(copy);

	assert(move->state == MOVE_DEVICE && result <= 0);
	copy_ended(move, result == 0);
	if (move->kind == MOVE_OUT)
		out_copied(move, result);
	else
		in_copied(move, result);
}

/* False: the device takes no more now. */
static bool queued_submit(struct move *move)
{
	struct daemon *daemon = move->daemon;
	int result = daemon->pull_ops->copy(daemon, move->lent, move->tenant, &move->copy);

	assert(move->state == MOVE_QUEUED);
	if (result == -EAGAIN)
		return false;
	move_become(move, MOVE_DEVICE);
	(void)(move->kind == MOVE_OUT ? failpoint(pull_load_submitted)
				      : failpoint(pull_store_submitted));
	/* As if the device had said so: one way for every failure. */
	if (result < 0)
		copy_done(&move->copy, result);
	return true;
}

/* Only steps submit, so whoever begins a move knows of it before it can end. */
static void pull_queue(struct move *move)
{
	move->copy.offset = (uint64_t)((uint8_t *)move->memory - move->tenant->arena.start) +
			    SLOT_HEADER_BYTES;
	copy_waits(move);
	move_become(move, MOVE_QUEUED);
}

static bool queue_submit(struct list *queue)
{
	bool did_work = false;
	struct list_node *node;

	while ((node = list_first(queue)) != NULL) {
		if (!queued_submit(list_item(node, struct move, link)))
			return did_work;
		did_work = true;
	}
	return did_work;
}

bool move_pulls_step(struct daemon *daemon)
{
	bool did_work = queue_submit(&daemon->mover->queued_out);

	return queue_submit(&daemon->mover->queued_in) || did_work;
}

/* ---- pulled stores ---- */

void move_pull_prepare(struct move *move, const struct pull_order *order)
{
	bool is_store = move->kind == MOVE_STORE;

	move->lent = order->lent;
	move->speed = &order->lent->speeds[is_store ? COPY_STORE : COPY_LOAD];
	move->copy_bytes = order->bytes;
	move->copied = order->copied;
	move->copy = (struct gpu_copy){
		.group = order->group,
		.block = order->block,
		.direction = is_store ? COPY_STORE : COPY_LOAD,
		.is_urgent = !is_store,
		.gate_value = order->gate.gate_value,
		.deadline_us = order->deadline_us,
		.job = order->gate.job,
		.job_place = order->gate.job_place,
		.done = copy_done,
	};
}

void move_pull_start(struct move *move)
{
	assert(move->kind == MOVE_STORE && move->lent != NULL);
	/* Before its payload: whoever finds the slot after a death of ours finds no header. */
	slot_header_clear(move->memory);
	pull_queue(move);
}

void move_pulled_checksums(struct move *move)
{
	struct slot_identity *identity = &move->identity;
	struct slot_payload payload = { 0 };

	slot_payload_more(&payload, identity, move->memory + 1, identity->payload_bytes);
	memcpy(identity->segment_crcs, payload.crcs, identity->segments_count * sizeof(uint32_t));
}

void mover_pull_commit(struct move *move)
{
	assert(move->kind == MOVE_STORE && move->state == MOVE_COPIED);
	move_store_start(move);
}

/* ---- pulled loads ---- */

int mover_pull_load(struct daemon *daemon, struct tenant *tenant, uint32_t cpu_slot,
		    const struct pull_order *order, struct waiter *waiter, struct move **out_move)
{
	const struct slot *slot = cache_slot(daemon->cache, TIER_CPU, cpu_slot);
	struct move *move;

	if (slot->entry == ENTRY_NONE)
		return -ENOENT;
	move = move_take(daemon, MOVE_OUT, tenant, slot->entry, slot->shard);
	if (move == NULL)
		return -EAGAIN;
	move_has_cpu_slot(move, cpu_slot);
	slot_claim_make(daemon, TIER_CPU, cpu_slot, &move->claim);
	move_pull_prepare(move, order);
	move_add_waiter(move, waiter);
	pull_queue(move);
	*out_move = move;
	return 0;
}

/* ---- the end that nobody waits for ---- */

void mover_pull_stop(struct move *move, int result)
{
	assert(result < 0 && move->lent != NULL);
	switch (move->state) {
	case MOVE_SLOTLESS:
		move_slotless_end(move, result);
		return;
	case MOVE_QUEUED:
		copy_ended(move, false);
		/* fall through */
	case MOVE_COPIED:
		if (move->kind == MOVE_OUT)
			out_ended(move, result);
		else
			in_failed(move, result);
		return;
	case MOVE_DEVICE:
		if (move->stopped == 0)
			move->stopped = result;
		return;
	default:
		assert(move->state == MOVE_MILLED);
	}
}
