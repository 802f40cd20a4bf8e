/* daemon/move_store.c: window, or what was pulled -> cpu slot. */
#include "daemon/mover_parts.h"

#include "daemon/purge.h"

#include "base/copy.h"
#include "base/failpoint.h"
#include "daemon/guard.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

struct copying {
	struct move *move;
	uint32_t crcs[SLOT_SEGMENTS_MAX];
};

/* Reads the client's memory, so it runs under the guard. */
static void copy_payload(void *owner)
{
	struct copying *copying = owner;
	struct move *move = copying->move;
	const struct slot_identity *identity = &move->identity;

	copy_away_with_checksums((uint8_t *)move->memory + SLOT_HEADER_BYTES, move->source,
			    identity->payload_bytes,
			    slot_segment_bytes(identity->payload_bytes, identity->segments_count),
			    copying->crcs);
}

/* 0, and the slot has the payload that the identity proves. */
static int payload_take(struct move *move)
{
	struct copying copying = { .move = move };
	const struct slot_identity *identity = &move->identity;

	if (move->source == NULL) {
		move_pulled_checksums(move);
		return 0;
	}
	slot_header_clear(move->memory);
	atomic_thread_fence(memory_order_seq_cst);
	int result = guard_run(copy_payload, &copying);
	if (result < 0)
		return result;
	return memcmp(copying.crcs, identity->segment_crcs,
		      identity->segments_count * sizeof(uint32_t)) == 0
		       ? 0
		       : -EBADMSG;
}

/* On a mill. The header goes first and comes back last, so that whoever finds this slot after a
 * death of ours finds either no header or all of the payload. */
static void store_work(struct mill_op *op)
{
	struct move *move = move_of_mill(op);
	const struct slot_identity *identity = &move->identity;
	uint8_t *payload = (uint8_t *)move->memory + SLOT_HEADER_BYTES;

	if (failpoint(store_copying)) {
		op->result = -EIO;
		return;
	}
	op->result = payload_take(move);
	if (op->result < 0)
		return;
	memset(payload + identity->payload_bytes, 0,
	       move->slot_bytes - SLOT_HEADER_BYTES - identity->payload_bytes);
	if (failpoint(store_copied)) {
		op->result = -EIO;
		return;
	}
	atomic_thread_fence(memory_order_seq_cst);
	move->memory->address[TIER_CPU] = move->cpu_address;
	move->memory->identity = *identity;
	slot_identity_seal(move->memory);
	op->result = failpoint(store_header_written) ? -EIO : 0;
}

void move_store_failed(struct move *move, int result)
{
	struct daemon *daemon = move->daemon;

	daemon->counters.store_failures++;
	if (result == -EBADMSG)
		daemon->counters.store_checksum_failures++;
	if (result == -EFAULT)
		daemon->counters.window_faults++;
	/* Also what admission reserved below: nothing will be written there. */
	if (move_nvme_is_current(move))
		cache_slot_drop(daemon->cache, TIER_NVME, move->nvme_slot);
	if (move_cpu_is_current(move))
		cache_slot_drop(daemon->cache, TIER_CPU, move->cpu_slot);
	move_tell(move, result);
#ifdef KVTIER_PLANT_FAILED
	if (result == -EIO)
		return;
#endif
	move_give(move);
}

static void store_done(struct mill_op *op)
{
	struct move *move = move_of_mill(op);
	struct daemon *daemon = move->daemon;

	if (op->result == 0 && !cache_slot_ready(daemon->cache, TIER_CPU, move->cpu_slot)) {
		/* dropped or forgotten meanwhile; the slot is free again */
		purge_unfilled(daemon, move->memory, move->slot_bytes);
		op->result = -ECANCELED;
		move->cpu_slot = SLOT_NONE;
	}
	if (op->result < 0) {
		move_store_failed(move, op->result);
		return;
	}
	daemon->counters.stored_blocks++;
	daemon->counters.stored_bytes += move->identity.payload_bytes;
	move->tenant->counters.stored_blocks++;
	move->tenant->counters.stored_bytes += move->identity.payload_bytes;
	(void)failpoint(store_ready);
	if (move->source == NULL)
		move_pulled_count(move);
	move_tell(move, 0);
	move_down_start(move);
}

void move_store_start(struct move *move)
{
	assert(move->cpu_slot != SLOT_NONE);
	if (move->state != MOVE_COPIED && move->source == NULL)
		move_pull_start(move);
	else
		move_mill(move, store_work, store_done);
}

static struct move *store_take(struct daemon *daemon, const struct store_order *order)
{
	struct move *move = move_take(daemon, MOVE_STORE, order->tenant, order->entry,
				      order->shard);

	if (move == NULL)
		return NULL;
	/* By number, not through the entry: a slot whose entry was dropped meanwhile is still ours
	 * to give back. */
	assert(cache_slot(daemon->cache, order->tier, order->slot)->state == SLOT_FILLING);
	move->source = order->source;
	move->identity = *order->identity;
	move->deadline_us = order->deadline_us;
	move->slot_bytes = (uint32_t)slot_bytes_for(order->identity->payload_bytes);
	move_add_waiter(move, order->waiter);
	return move;
}

/* Into the slot that admission reserved, or, if that is below, into one that it has to wait for. */
static void store_begin(struct move *move, const struct store_order *order)
{
	struct daemon *daemon = move->daemon;

	if (order->tier == TIER_CPU) {
		move_has_cpu_slot(move, order->slot);
		move_store_start(move);
		return;
	}
	move->nvme_slot = order->slot;
	move->nvme_generation = cache_slot(daemon->cache, TIER_NVME, order->slot)->generation;
	move_become(move, MOVE_SLOTLESS);
}

int mover_store(struct daemon *daemon, const struct store_order *order)
{
	struct move *move = store_take(daemon, order);

	assert(order->source != NULL);
	if (move == NULL)
		return -EAGAIN;
	store_begin(move, order);
	return 0;
}

int mover_pull_store(struct daemon *daemon, const struct store_order *order,
		     struct move **out_move)
{
	struct move *move = store_take(daemon, order);

	assert(order->source == NULL && order->pull != NULL);
	if (move == NULL)
		return -EAGAIN;
	move_pull_prepare(move, order->pull);
	*out_move = move;
	store_begin(move, order);
	return 0;
}

void move_slotless_end(struct move *move, int result)
{
	assert(move->state == MOVE_SLOTLESS);
	assert(move->cpu_slot == SLOT_NONE);
	if (move->kind == MOVE_STORE) {
		move_store_failed(move, result);
		return;
	}
	if (move_nvme_is_current(move))
		cache_slot_release(move->daemon->cache, TIER_NVME, move->nvme_slot);
	move_tell(move, result);
	move_give(move);
}
