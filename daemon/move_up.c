/* daemon/move_up.c: nvme slot -> cpu slot, believed only when header, address, key, epoch and
 * checksums are right. */
#include "daemon/mover_parts.h"

#include "base/failpoint.h"
#include "tiers/nvme/nvme.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define SPEED_WEIGHT 0.05   /* of the newest sample in the running means */

static void check_work(struct mill_op *op)
{
	struct move *move = move_of_mill(op);
	const struct slot_identity *identity = &move->identity;
	struct slot_expectation expected = {
		.space = identity->space,
		.hash = identity->hash,
		.device = move->device_id,
		.offset = move->nvme_place.offset,
		.slot_bytes = move->slot_bytes,
		.epoch_min = identity->epoch,
		.group = identity->group,
		.shard = identity->shard,
		.slot_generation = move->nvme_place.slot_generation,
		.extent_generation = move->nvme_place.extent_generation,
	};

	move->verdict = slot_header_check(move->memory, TIER_NVME, &expected);
	if (move->verdict == SLOT_GOOD && move->memory->identity.epoch != identity->epoch)
		move->verdict = SLOT_STALE;
	if (move->verdict == SLOT_GOOD)
		move->verdict = slot_payload_check(move->memory);
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

static void slot_damaged(struct daemon *daemon, enum tier_id tier, uint32_t slot)
{
	assert(daemon->gone_reason == FRAME_REASON_EVICTED);
	daemon->gone_reason = FRAME_REASON_DAMAGED;
	cache_slot_quarantine(daemon->cache, tier, slot);
	daemon->gone_reason = FRAME_REASON_EVICTED;
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
	if (move->verdict == SLOT_GOOD)
		/* dropped or forgotten meanwhile; the slot is free again */
		move->cpu_slot = SLOT_NONE;
	if (move_nvme_is_readable(move) && move->verdict == SLOT_DAMAGED) {
		daemon->counters.damaged[TIER_NVME]++;
		slot_damaged(daemon, TIER_NVME, move->nvme_slot);
	} else if (move_nvme_is_readable(move) && move->verdict != SLOT_GOOD) {
		daemon->counters.stale_entries++;
		cache_slot_drop(daemon->cache, TIER_NVME, move->nvme_slot);
	}
	up_ended(move, -ENOENT);
}

static void speed_learned(struct daemon *daemon, const struct tier_op *op)
{
	struct tier_speed *speed = &daemon->speeds[TIER_NVME];
	double took_us = op->finished_us > op->submitted_us
				 ? (double)(op->finished_us - op->submitted_us)
				 : 1.0;
	double bytes_us = (double)op->memory_bytes / took_us * (daemon->nvme->in_flight + 1);

	speed->bytes_us += SPEED_WEIGHT * (bytes_us - speed->bytes_us);
	speed->latency_us += SPEED_WEIGHT * (took_us - speed->latency_us);
}

void move_up_done(struct tier_op *op)
{
	struct move *move = move_of_io(op);

	assert(move->kind == MOVE_UP && move->state == MOVE_IO);
	if (op->result < 0 || failpoint(up_read)) {
		/* A slot that cannot be read is not offered again. */
		cache_slot_release(move->daemon->cache, TIER_NVME, move->nvme_slot);
		if (move_nvme_is_readable(move))
			slot_damaged(move->daemon, TIER_NVME, move->nvme_slot);
		up_ended(move, -ENOENT);
		return;
	}
	speed_learned(move->daemon, op);
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

static void up_expects(struct move *move, const struct entry *entry)
{
	struct daemon *daemon = move->daemon;

	memcpy(move->identity.space, cache_space_fingerprint(daemon->cache, entry->space),
	       SPACE_ID_BYTES);
	memcpy(move->identity.hash, entry->hash, BLOCK_HASH_BYTES);
	move->identity.epoch = entry->epoch;
	move->identity.group = entry->group;
	move->identity.shard = (uint16_t)move->shard;
	cache_slot_place(daemon->cache, TIER_NVME, move->nvme_slot, &move->nvme_place);
	move->nvme_generation = move->nvme_place.slot_generation;
	move->slot_bytes = move->nvme_place.slot_bytes;
	memcpy(move->device_id, nvme_device_id(daemon->devices[move->nvme_place.device].device),
	       DEVICE_ID_BYTES);
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
	up_expects(move, cache_entry(daemon->cache, entry));
	cache_slot_hold(daemon->cache, TIER_NVME, nvme);
	if (waiter != NULL)
		move_add_waiter(move, waiter);
	move_become(move, MOVE_SLOTLESS);
	return 0;
}

static void proof_work(struct mill_op *op)
{
	struct move *move = move_of_mill(op);
	struct slot_expectation expected = {
		.device = move->cpu_address.device, .offset = move->cpu_address.offset,
		.slot_bytes = move->slot_bytes, .slot_generation = move->cpu_generation,
	};

	move->verdict = slot_header_check(move->memory, TIER_CPU, &expected);
	if (move->verdict == SLOT_GOOD)
		move->verdict = slot_payload_check(move->memory);
}

static void proof_done(struct mill_op *op)
{
	struct move *move = move_of_mill(op);
	struct daemon *daemon = move->daemon;

	cache_slot_release(daemon->cache, TIER_CPU, move->cpu_slot);
	if (move->verdict != SLOT_GOOD && move_cpu_is_readable(move)) {
		daemon->counters.damaged[TIER_CPU]++;
		slot_damaged(daemon, TIER_CPU, move->cpu_slot);
		/* Nor is it found again by its header, which may be whole, at the next start. */
		slot_header_clear(move->memory);
	}
	move_give(move);
}

void mover_prove(struct daemon *daemon, struct tenant *tenant, uint32_t cpu_slot,
		 uint32_t generation)
{
	struct move *move;

	if (!cache_slot_is_current(daemon->cache, TIER_CPU, cpu_slot, generation))
		return;
	const struct slot *slot = cache_slot(daemon->cache, TIER_CPU, cpu_slot);
	if (slot->state != SLOT_READY && slot->state != SLOT_LEAVING)
		return;
	move = move_take(daemon, MOVE_PROOF, tenant, slot->entry, slot->shard);
	if (move == NULL)
		return;   /* busy; the next reader will find it wrong again */
	cache_slot_hold(daemon->cache, TIER_CPU, cpu_slot);
	move_has_cpu_slot(move, cpu_slot);
	move_mill(move, proof_work, proof_done);
}
