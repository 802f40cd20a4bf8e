/* daemon/move_down.c: cpu slot -> nvme slot, started at READY; each block is written once. */
#include "daemon/mover_parts.h"

#include "base/failpoint.h"
#include "daemon/catalog.h"
#include "tiers/nvme/nvme.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

bool mover_lower_is_wanted(struct daemon *daemon, uint64_t bytes)
{
	return daemon->nvme != NULL && daemon->phase == DAEMON_SERVING &&
	       budget_allows(&daemon->write_budget, daemon->now_us, bytes);
}

static void down_ended(struct move *move)
{
	assert(move->daemon->mover->stores_down > 0);
	move->daemon->mover->stores_down--;
	move_give(move);
}

/* The nvme slot of this block: what admission reserved, or one taken now; false: it stays above
 * only. */
static bool nvme_slot_found(struct move *move)
{
	struct daemon *daemon = move->daemon;
	unsigned leaving = 0;

	if (daemon->nvme == NULL)
		return false;
	if (move->nvme_slot != SLOT_NONE)
		return move_nvme_is_current(move) &&
		       cache_slot(daemon->cache, TIER_NVME, move->nvme_slot)->state == SLOT_FILLING;
	if (!mover_lower_is_wanted(daemon, move->slot_bytes))
		return false;
	if (cache_slot_take(daemon->cache, move->entry, TIER_NVME, move->shard, move->slot_bytes,
			    ENTRY_NONE, &move->nvme_slot, &leaving) < 0) {
		move->nvme_slot = SLOT_NONE;
		return false;
	}
	move->nvme_generation = cache_slot(daemon->cache, TIER_NVME, move->nvme_slot)->generation;
	return true;
}

void move_down_start(struct move *move)
{
	struct daemon *daemon = move->daemon;

	assert(move->kind == MOVE_STORE && move->cpu_slot != SLOT_NONE);
	if (!nvme_slot_found(move)) {
		daemon->counters.down_unwanted++;
		cache_slot_set_lower(daemon->cache, move->cpu_slot, LOWER_NONE);
		move_give(move);
		return;
	}
	cache_slot_place(daemon->cache, TIER_NVME, move->nvme_slot, &move->nvme_place);
	memcpy(move->device_id, nvme_device_id(daemon->devices[move->nvme_place.device].device),
	       DEVICE_ID_BYTES);
	cache_slot_set_lower(daemon->cache, move->cpu_slot, LOWER_PENDING);
	budget_spend(&daemon->write_budget, daemon->now_us, move->slot_bytes);
	move->kind = MOVE_DOWN;
	daemon->mover->stores_down++;
	move_submit(move);
	(void)failpoint(down_submitted);
}

void mover_lower(struct daemon *daemon, uint32_t cpu_slot)
{
	const struct slot *slot = cache_slot(daemon->cache, TIER_CPU, cpu_slot);
	struct move *move;

	/* An orphan (no ring) belongs to nobody any more. */
	if (slot->state != SLOT_READY || slot->entry == ENTRY_NONE || slot->sibling == SLOT_NONE ||
	    cache_copy_slot(daemon->cache, slot->entry, TIER_NVME, slot->shard) != SLOT_NONE)
		return;
	uint32_t handle = cache_space_tenant(daemon->cache,
					     cache_entry(daemon->cache, slot->entry)->space);
	struct tenant *tenant = daemon_tenant(daemon, handle);
	move = move_take(daemon, MOVE_STORE, tenant, slot->entry, slot->shard);
	if (move == NULL)
		return;
	move_has_cpu_slot(move, cpu_slot);
	move_become(move, MOVE_MILLED);   /* as if a mill had just filled it */
	move_down_start(move);
}

/* A queued down whose cpu copy went (dropped, forgotten) is not written. */
static bool down_is_void(struct move *move)
{
	struct daemon *daemon = move->daemon;

	if (move_cpu_is_readable(move) && move_nvme_is_current(move))
		return false;
	daemon->counters.down_void++;
	if (move_nvme_is_current(move))
		cache_slot_drop(daemon->cache, TIER_NVME, move->nvme_slot);
	if (move_cpu_is_readable(move))
		cache_slot_set_lower(daemon->cache, move->cpu_slot, LOWER_NONE);
	down_ended(move);
	return true;
}

bool move_queued_is_void(struct move *move)
{
	assert(move->state == MOVE_QUEUED);
	return move->kind == MOVE_DOWN && down_is_void(move);
}

void move_down_done(struct tier_op *op)
{
	struct move *move = move_of_io(op);
	struct daemon *daemon = move->daemon;
	bool is_good = op->result == 0 && !failpoint(down_written);
	bool was_written = is_good;

	assert(move->kind == MOVE_DOWN);
	if (is_good)
		is_good = cache_slot_ready(daemon->cache, TIER_NVME, move->nvme_slot);
	if (is_good) {
		(void)failpoint(down_ready);
		catalog_put_header(daemon, move->memory, move->slot_bytes, &move->nvme_place);
		daemon->counters.down_blocks++;
		daemon->counters.down_bytes += move->slot_bytes;
	} else {
		daemon->counters.down_failures++;
		/* Not READY, though written: it was dropped meanwhile and is free already. */
		if (!was_written && move_nvme_is_current(move))
			cache_slot_drop(daemon->cache, TIER_NVME, move->nvme_slot);
	}
	/* Held since it was submitted, so the cpu slot is what it was, unless it was found
	 * damaged. */
	if (move_cpu_is_readable(move))
		cache_slot_set_lower(daemon->cache, move->cpu_slot,
				     is_good ? LOWER_WRITTEN : LOWER_NONE);
	cache_slot_release(daemon->cache, TIER_CPU, move->cpu_slot);
	down_ended(move);
}
