/* daemon/move_down.c: cpu slot -> nvme slot, started at READY; each block is written once. */
#include "daemon/mover_parts.h"

#include "base/failpoint.h"
#include "daemon/catalog.h"
#include "daemon/scrub.h"
#include "tiers/nvme/nvme.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define LOWERS_A_STEP 256u      /* cpu slots looked at in one pass */
#define LOWERS_PENDING_MAX 64u  /* beside which no more of these are lined up */
#define ENCIPHERING_A_MILL 4u

bool mover_lower_is_wanted(struct daemon *daemon, uint64_t bytes)
{
	return daemon->nvme != NULL && daemon->phase == DAEMON_SERVING &&
	       budget_allows(&daemon->write_budget, daemon->now_us, bytes);
}

static void down_ended(struct mover *mover, struct tenant *tenant)
{
	assert(mover->stores_down > 0 && tenant->downs_count > 0);
	mover->stores_down--;
	tenant->downs_count--;
}

/* The nvme slot of this block: what admission reserved, or one taken now; false: it stays above
 * only. */
static bool nvme_slot_found(struct daemon *daemon, struct down *down, uint32_t entry,
			    unsigned shard)
{
	struct slot_place place;
	unsigned leaving = 0;

	if (daemon->nvme == NULL ||
	    daemon->mover->downs_end - daemon->mover->downs_begin == DOWNS_MAX)
		return false;
	cache_slot_place(daemon->cache, TIER_CPU, down->cpu_slot, &place);
	if (!encryption_can_write(daemon, &daemon->tenants[down->tenant], place.slot_bytes))
		return false;
	if (down->nvme_slot != SLOT_NONE)
		return cache_slot_is_current(daemon->cache, TIER_NVME, down->nvme_slot,
					     down->nvme_generation) &&
		       cache_slot(daemon->cache, TIER_NVME, down->nvme_slot)->state == SLOT_FILLING;
	if (!mover_lower_is_wanted(daemon, place.slot_bytes) ||
	    cache_slot_take(daemon->cache, entry, TIER_NVME, shard, place.slot_bytes, ENTRY_NONE,
			    &down->nvme_slot, &leaving) < 0)
		return false;
	down->nvme_generation = cache_slot(daemon->cache, TIER_NVME, down->nvme_slot)->generation;
	return true;
}

static struct down down_of(const struct move *move)
{
	return (struct down){
		.tenant = (uint32_t)(move->tenant - move->daemon->tenants),
		.cpu_slot = move->cpu_slot,
		.cpu_generation = move->cpu_generation,
		.nvme_slot = move->nvme_slot,
		.nvme_generation = move->nvme_generation,
	};
}

static void nvme_slot_give_back(struct daemon *daemon, const struct down *down)
{
	if (down->nvme_slot != SLOT_NONE &&
	    cache_slot_is_current(daemon->cache, TIER_NVME, down->nvme_slot, down->nvme_generation))
		cache_slot_drop(daemon->cache, TIER_NVME, down->nvme_slot);
}

/* Puts a READY cpu slot on the line of those that go down. */
static void down_line_up(struct daemon *daemon, struct down *down)
{
	struct mover *mover = daemon->mover;
	const struct slot *slot = cache_slot(daemon->cache, TIER_CPU, down->cpu_slot);
	struct slot_place place;

	assert(slot->state == SLOT_READY);
	if (!nvme_slot_found(daemon, down, slot->entry, slot->shard)) {
		nvme_slot_give_back(daemon, down);
		daemon->counters.down_unwanted++;
		return;
	}
	cache_slot_place(daemon->cache, TIER_CPU, down->cpu_slot, &place);
	budget_spend(&daemon->write_budget, daemon->now_us, place.slot_bytes);
	cache_slot_set_lower(daemon->cache, down->cpu_slot, LOWER_PENDING);
	mover->downs[mover->downs_end++ % DOWNS_MAX] = *down;
	mover->stores_down++;
	daemon->tenants[down->tenant].downs_count++;
}

void move_down_start(struct move *move)
{
	struct down down = down_of(move);

	assert(move->kind == MOVE_STORE && move->cpu_slot != SLOT_NONE);
	/* The line is long and a move is large: what waits for the disk holds none. */
	down_line_up(move->daemon, &down);
	move_give(move);
}

void mover_lower(struct daemon *daemon, uint32_t cpu_slot)
{
	const struct slot *slot = cache_slot(daemon->cache, TIER_CPU, cpu_slot);
	struct down down = { .cpu_slot = cpu_slot, .nvme_slot = SLOT_NONE };

	/* An orphan (no ring) belongs to nobody any more. */
	if (slot->state != SLOT_READY || slot->entry == ENTRY_NONE || slot->sibling == SLOT_NONE ||
	    cache_copy_slot(daemon->cache, slot->entry, TIER_NVME, slot->shard) != SLOT_NONE)
		return;
	uint32_t handle = cache_space_tenant(daemon->cache,
					     cache_entry(daemon->cache, slot->entry)->space);
	down.tenant = (uint32_t)(daemon_tenant(daemon, handle) - daemon->tenants);
	down.cpu_generation = slot->generation;
	down_line_up(daemon, &down);
}

bool mover_lower_from(struct daemon *daemon, uint32_t *cursor)
{
	uint32_t before = *cursor;

	for (unsigned i = 0; i < LOWERS_A_STEP && *cursor < daemon->cpu_slots_max; i++) {
		if (mover_pending_down(daemon) >= LOWERS_PENDING_MAX)
			return *cursor != before;
		mover_lower(daemon, (*cursor)++);
	}
	return true;
}

/* What went meanwhile (dropped, forgotten, damaged) is not written; nor is, once we have to stop,
 * what the disk did not get to in time. */
static bool down_is_void(struct daemon *daemon, const struct down *down)
{
	bool is_late = daemon->phase == DAEMON_DRAINING && daemon->now_us >= daemon->drain_us;
	bool is_above = cache_slot_is_current(daemon->cache, TIER_CPU, down->cpu_slot,
					      down->cpu_generation);
	enum slot_state state = is_above
					? cache_slot(daemon->cache, TIER_CPU, down->cpu_slot)->state
					: SLOT_FREE;

	is_above = state == SLOT_READY || state == SLOT_LEAVING;
	if (is_above && !is_late &&
	    cache_slot_is_current(daemon->cache, TIER_NVME, down->nvme_slot, down->nvme_generation))
		return false;
	nvme_slot_give_back(daemon, down);
	if (is_above)
		cache_slot_set_lower(daemon->cache, down->cpu_slot, LOWER_NONE);
	daemon->counters.down_void++;
	down_ended(daemon->mover, &daemon->tenants[down->tenant]);
	return true;
}

/* The enciphered copy is written, or will not be: nothing of it is needed any more. */
static void bounce_end(struct move *move)
{
	bounce_give(&move->daemon->encryption->bounces, move->bounce);
	move->bounce = NULL;
	cache_slot_release(move->daemon->cache, TIER_CPU, move->cpu_slot);
}

/* On a mill. The slot was right when it became READY; its header decides how much is enciphered to
 * where, so it is looked at once more. */
static void encipher_work(struct mill_op *op)
{
	struct move *move = move_of_mill(op);
	struct slot_address address = move_nvme_address(move);
	struct slot_expectation expected = {
		.device = move->cpu_address.device, .offset = move->cpu_address.offset,
		.slot_bytes = move->slot_bytes, .slot_generation = move->cpu_generation,
	};

	move->verdict = slot_header_check(move->memory, TIER_CPU, &expected);
	if (move->verdict == SLOT_GOOD && move->memory->identity.key_id != 0)
		move->verdict = SLOT_DAMAGED;
	if (move->verdict == SLOT_GOOD)
		slot_encipher(move->daemon->encryption->ciphers[op->mill], move->key, &move->nonce,
			      &address, move->memory, move->bounce->memory);
}

static void encipher_done(struct mill_op *op)
{
	struct move *move = move_of_mill(op);
	struct daemon *daemon = move->daemon;
	struct down down = down_of(move);

	assert(move->kind == MOVE_DOWN && move->bounce != NULL);
	daemon->encryption->enciphering--;
	if (move->verdict == SLOT_GOOD && !down_is_void(daemon, &down)) {
		move_submit(move);
		(void)failpoint(down_submitted);
		return;
	}
	if (move->verdict != SLOT_GOOD) {
		/* Whoever reads it finds it damaged. */
		daemon->counters.down_failures++;
		nvme_slot_give_back(daemon, &down);
		if (move_cpu_is_readable(move))
			cache_slot_set_lower(daemon->cache, move->cpu_slot, LOWER_NONE);
		down_ended(daemon->mover, move->tenant);
	}
	bounce_end(move);
	move_give(move);
}

/* NULL: not now. Few at a time in each mill, as readers wait behind them; and no more than the
 * tier is to have, as each takes a move. */
static struct bounce *bounce_found(struct daemon *daemon, uint64_t slot_bytes)
{
	struct encryption *encryption = daemon->encryption;

	if (encryption->enciphering >= ENCIPHERING_A_MILL * daemon->mills.count ||
	    encryption->bounces.count >= move_tier_room(daemon))
		return NULL;
	return bounce_take(&encryption->bounces, slot_bytes);
}

/* False: no buffer is free now. */
static bool encipher_begin(struct move *move)
{
	struct daemon *daemon = move->daemon;
	struct keyring *keyring = move->tenant->keyring;

	move->bounce = bounce_found(daemon, move->slot_bytes);
	if (move->bounce == NULL)
		return false;
	move->key = keyring_newest(keyring);
	move->key_id = move->key->id;
	move->nonce = keyring_nonce(keyring);
	cache_slot_hold(daemon->cache, TIER_CPU, move->cpu_slot);
	daemon->encryption->enciphering++;
	move_mill(move, encipher_work, encipher_done);
	return true;
}

static bool down_begin(struct daemon *daemon, const struct down *down)
{
	const struct slot *slot = cache_slot(daemon->cache, TIER_CPU, down->cpu_slot);
	struct move *move = move_take(daemon, MOVE_DOWN, &daemon->tenants[down->tenant],
				      slot->entry, slot->shard);

	if (move == NULL)
		return false;
	move_has_cpu_slot(move, down->cpu_slot);
	move->nvme_slot = down->nvme_slot;
	move->nvme_generation = down->nvme_generation;
	cache_slot_place(daemon->cache, TIER_NVME, move->nvme_slot, &move->nvme_place);
	/* Or the write would reach into the next slot. */
	assert(move->nvme_place.slot_bytes == move->slot_bytes);
	memcpy(move->device_id, nvme_device_id(daemon->devices[move->nvme_place.device].device),
	       DEVICE_ID_BYTES);
	move->key_id = 0;
	/* A move that was taken and has gone nowhere is still the first of the free. */
	if (move->tenant->keyring != NULL)
		return encipher_begin(move);
	move_submit(move);
	(void)failpoint(down_submitted);
	return true;
}

bool move_downs_step(struct daemon *daemon)
{
	struct mover *mover = daemon->mover;
	bool did_work = false;

	while (mover->downs_begin != mover->downs_end && move_tier_has_room(daemon)) {
		const struct down *down = &mover->downs[mover->downs_begin % DOWNS_MAX];

		if (!down_is_void(daemon, down) && !down_begin(daemon, down))
			break;
		mover->downs_begin++;
		did_work = true;
	}
	return did_work;
}

bool move_queued_is_void(struct move *move)
{
	struct down down = down_of(move);

	assert(move->state == MOVE_QUEUED);
	if (move->kind != MOVE_DOWN || !down_is_void(move->daemon, &down))
		return false;
	if (move->bounce != NULL)
		bounce_end(move);
	move_give(move);
	return true;
}

/* False: its key was taken away while it was written. */
static bool down_is_readable(struct move *move)
{
	struct daemon *daemon = move->daemon;

	encryption_slot_has(daemon, move->nvme_slot, move->key_id);
	if (encryption_knows(move->tenant, move->key_id))
		return true;
	slot_was_wrong(daemon, TIER_NVME, move->nvme_slot, SLOT_KEYLESS);
	return false;
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
		catalog_put_header(daemon, move->memory, move->key_id, &move->nvme_place);
		daemon->counters.down_blocks++;
		daemon->counters.down_bytes += move->slot_bytes;
		is_good = down_is_readable(move);
		if (is_good)
			readback_consider(daemon, move->nvme_slot, &move->memory->identity);
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
	if (move->bounce != NULL)
		bounce_end(move);
	else
		cache_slot_release(daemon->cache, TIER_CPU, move->cpu_slot);
	down_ended(daemon->mover, move->tenant);
	move_give(move);
}
