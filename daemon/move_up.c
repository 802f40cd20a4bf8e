/* daemon/move_up.c: nvme slot -> cpu slot, believed only when header, address, key, epoch and
 * checksums are right. */
#include "daemon/mover_parts.h"

#include "daemon/purge.h"

#include "base/failpoint.h"
#include "tiers/nvme/nvme.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static void check_work(struct mill_op *op)
{
	struct move *move = move_of_mill(op);

	move->verdict = slot_claim_check(move->daemon, &move->claim, op->mill, move->memory);
	if (move->verdict != SLOT_GOOD)
		return;
	(void)failpoint(up_checked);
	move->memory->address[TIER_CPU] = move->cpu_address;
}

static void up_ended(struct move *move, int result)
{
	struct daemon *daemon = move->daemon;

	if (result < 0) {
		daemon->counters.up_failures++;
		if (move_cpu_is_current(move))
			cache_slot_drop(daemon->cache, TIER_CPU, move->cpu_slot);
	}
	move_tell(move, result);
	move_give(move);
}

static void check_done(struct mill_op *op)
{
	struct move *move = move_of_mill(op);
	struct daemon *daemon = move->daemon;

	cache_slot_release(daemon->cache, TIER_NVME, move->nvme_slot);
	if (move->verdict == SLOT_GOOD &&
	    cache_slot_ready(daemon->cache, TIER_CPU, move->cpu_slot)) {
		cache_slot_set_lower(daemon->cache, move->cpu_slot, LOWER_WRITTEN);
		daemon->counters.up_blocks++;
		daemon->counters.up_bytes += move->slot_bytes;
		(void)failpoint(up_ready);
		up_ended(move, 0);
		return;
	}
	if (move->verdict == SLOT_GOOD) {
		/* dropped or forgotten meanwhile; the slot is free again */
		purge_unfilled(daemon, move->memory, move->slot_bytes);
		move->cpu_slot = SLOT_NONE;
	}
	if (move->verdict != SLOT_GOOD && move_nvme_is_readable(move))
		slot_was_wrong(daemon, TIER_NVME, move->nvme_slot, move->verdict);
	up_ended(move, -ENOENT);
}

void move_up_done(struct tier_op *op)
{
	struct move *move = move_of_io(op);

	assert(move->kind == MOVE_UP && move->state == MOVE_IO);
	if (op->result < 0 || failpoint(up_read)) {
		/* A slot that cannot be read is not offered again. */
		cache_slot_release(move->daemon->cache, TIER_NVME, move->nvme_slot);
		if (move_nvme_is_readable(move))
			slot_was_unreadable(move->daemon, move->nvme_slot);
		up_ended(move, -ENOENT);
		return;
	}
	tier_speed_learn(&move->daemon->speeds[TIER_NVME], op, move->daemon->nvme->in_flight);
	move_mill(move, check_work, check_done);
}

void move_up_start(struct move *move)
{
	assert(move->kind == MOVE_UP && move->cpu_slot != SLOT_NONE);
	move_submit(move);
	(void)failpoint(up_submitted);
}

static struct move *up_on_list(struct list *list, uint32_t entry, unsigned shard)
{
	for (struct list_node *node = list_first(list); node != NULL;
	     node = list_after(list, node)) {
		struct move *move = list_item(node, struct move, link);

		if (move->kind == MOVE_UP && move->entry == entry && move->shard == shard)
			return move;
	}
	return NULL;
}

/* The move that is already bringing this shard up, or NULL. Without a cpu slot it can only be a
 * slotless one. */
static struct move *up_under_way(struct daemon *daemon, struct tenant *tenant, uint32_t entry,
				 unsigned shard, bool has_cpu_slot)
{
	struct move *move = NULL;

	if (!has_cpu_slot)
		return up_on_list(&tenant->slotless, entry, shard);
	move = up_on_list(&daemon->mover->active, entry, shard);
	return move != NULL ? move : up_on_list(&daemon->mover->queued_up, entry, shard);
}

int mover_raise(struct daemon *daemon, struct tenant *tenant, uint32_t entry, unsigned shard,
		uint64_t deadline_us, struct waiter *waiter)
{
	uint32_t cpu = cache_copy_slot(daemon->cache, entry, TIER_CPU, shard);
	uint32_t nvme = cache_copy_slot(daemon->cache, entry, TIER_NVME, shard);
	struct move *move;

	if (cpu != SLOT_NONE && cache_slot(daemon->cache, TIER_CPU, cpu)->state != SLOT_FILLING)
		return cache_slot(daemon->cache, TIER_CPU, cpu)->state == SLOT_BAD ? -ENOENT
										   : -EALREADY;
	if (nvme == SLOT_NONE || cache_slot(daemon->cache, TIER_NVME, nvme)->state != SLOT_READY)
		return -ENOENT;
	move = up_under_way(daemon, tenant, entry, shard, cpu != SLOT_NONE);
	if (move == NULL && cpu != SLOT_NONE)
		return -ENOENT;   /* a store is filling it; it will say so to its own waiters */
	if (move != NULL) {
		if (waiter != NULL)
			move_add_waiter(move, waiter);
		return 0;
	}
	move = move_take(daemon, MOVE_UP, tenant, entry, shard);
	if (move == NULL)
		return -EAGAIN;
	move->nvme_slot = nvme;
	move->deadline_us = deadline_us;
	slot_claim_make(daemon, TIER_NVME, nvme, &move->claim);
	move->nvme_place = move->claim.place;
	move->nvme_generation = move->nvme_place.slot_generation;
	move->slot_bytes = move->nvme_place.slot_bytes;
	cache_slot_hold(daemon->cache, TIER_NVME, nvme);
	if (waiter != NULL)
		move_add_waiter(move, waiter);
	move_become(move, MOVE_SLOTLESS);
	return 0;
}

static void proof_work(struct mill_op *op)
{
	struct move *move = move_of_mill(op);

	move->verdict = slot_claim_check(move->daemon, &move->claim, op->mill, move->memory);
}

static void proof_done(struct mill_op *op)
{
	struct move *move = move_of_mill(op);
	struct daemon *daemon = move->daemon;

	cache_slot_release(daemon->cache, TIER_CPU, move->cpu_slot);
	if (move->verdict != SLOT_GOOD && move_cpu_is_readable(move))
		slot_was_wrong(daemon, TIER_CPU, move->cpu_slot, move->verdict);
	move_give(move);
}

void mover_prove(struct daemon *daemon, struct tenant *tenant, uint32_t cpu_slot,
		 uint32_t generation)
{
	struct move *move;

	if (!slot_is_readable(daemon, TIER_CPU, cpu_slot, generation))
		return;
	const struct slot *slot = cache_slot(daemon->cache, TIER_CPU, cpu_slot);
	if (slot->entry == ENTRY_NONE)
		return;
	move = move_take(daemon, MOVE_PROOF, tenant, slot->entry, slot->shard);
	if (move == NULL)
		return;   /* busy; the next reader will find it wrong again */
	cache_slot_hold(daemon->cache, TIER_CPU, cpu_slot);
	move_has_cpu_slot(move, cpu_slot);
	slot_claim_make(daemon, TIER_CPU, cpu_slot, &move->claim);
	move_mill(move, proof_work, proof_done);
}
