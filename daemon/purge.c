/* daemon/purge.c: forgets, then overwrites. */
#include "daemon/purge_parts.h"

#include "base/log.h"
#include "daemon/batch.h"
#include "daemon/drain.h"
#include "daemon/forget.h"
#include "daemon/mover.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define LOOKS_A_STEP 4096u /* entries looked at in one pass */

void purge_become(struct purge_room *purge, enum purge_state next)
{
	assert((unsigned)next == purge->state + 1u ||
	       (next == PURGE_WAITING && purge->state == PURGE_DONE));
	purge->state = next;
}

int purge_create(struct daemon *daemon, struct error *error)
{
	struct purge_room *purge = calloc(1, sizeof(*purge));

	daemon->purge = purge;
	if (purge == NULL)
		return error_set(error, -ENOMEM, "no memory for purges");
	/* Never written: it costs nothing before the first purge, and no memory of its own then. */
	void *zeros = mmap(NULL, PURGE_PIECE_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (zeros == MAP_FAILED)
		return error_set(error, -ENOMEM, "no memory for purges");
	purge->zeros = zeros;
	for (unsigned i = 0; i < PURGE_OPS_MAX; i++)
		purge->wipes[i].daemon = daemon;
	return 0;
}

void purge_destroy(struct daemon *daemon)
{
	if (daemon->purge != NULL && daemon->purge->zeros != NULL)
		munmap(daemon->purge->zeros, PURGE_PIECE_BYTES);
	free(daemon->purge);
	daemon->purge = NULL;
}

const char *purge_state_name(const struct daemon *daemon)
{
	static const char *const names[PURGE_STATES] = { "none", "waiting", "overwriting",
							 "settling", "done" };

	return names[daemon->purge->state];
}

bool purge_holds_stores(const struct daemon *daemon, const struct tenant *tenant)
{
	const struct purge_room *purge = daemon->purge;

	return purge->state == PURGE_WAITING &&
	       (purge->tenant == NULL || purge->tenant == tenant);
}

bool purge_holds_sweep(const struct daemon *daemon)
{
	const struct purge_room *purge = daemon->purge;

	return purge->state == PURGE_WAITING ||
	       (purge->state == PURGE_OVERWRITING &&
		purge->cursor < cache_entries_end(daemon->cache));
}

bool purge_is_under_way(const struct daemon *daemon)
{
	return daemon->purge->state != PURGE_NONE && daemon->purge->state != PURGE_DONE;
}

void purge_unfilled(struct daemon *daemon, void *memory, uint64_t bytes)
{
	if (daemon->purge->state == PURGE_OVERWRITING)
		memset(memory, 0, bytes);
}

/* ---- what belongs to it ---- */

static bool is_in_scope(const struct daemon *daemon, uint32_t number)
{
	const struct purge_room *purge = daemon->purge;
	uint32_t space = cache_entry(daemon->cache, number)->space;

	if (!cache_entry_is_forgotten(daemon->cache, number))
		return false;
	if (purge->tenant != NULL &&
	    cache_space_tenant(daemon->cache, space) != purge->tenant->handle)
		return false;
	return purge->record.kind != JOURNAL_SPACE ||
	       memcmp(cache_space_fingerprint(daemon->cache, space), purge->record.space,
		      SPACE_ID_BYTES) == 0;
}

static void slot_take(struct daemon *daemon, enum tier_id tier, uint32_t slot)
{
	struct purge_room *purge = daemon->purge;
	struct slot_place place;
	enum slot_state state = cache_slot(daemon->cache, tier, slot)->state;

	/* A slot that is being filled goes by purge_unfilled(). */
	if (state != SLOT_READY && state != SLOT_LEAVING)
		return;
	assert(purge->held_count < PURGE_HELD_MAX);
	cache_slot_hold(daemon->cache, tier, slot);
	purge->held[purge->held_count++] = (struct purge_slot){ .tier = tier, .slot = slot };
	cache_slot_place(daemon->cache, tier, slot, &place);
	purge->slots++;
	purge->bytes += place.slot_bytes;
}

/* Nobody finds it from here on, and its slots stay where they are until we let go. */
static void entry_take(struct daemon *daemon, uint32_t number)
{
	unsigned shards = cache_entry(daemon->cache, number)->shards_count;

	for (unsigned tier = 0; tier < TIERS; tier++)
		for (unsigned shard = 0; shard < shards; shard++) {
			uint32_t slot = cache_copy_slot(daemon->cache, number, tier, shard);

			if (slot != SLOT_NONE)
				slot_take(daemon, tier, slot);
		}
	daemon->purge->blocks++;
	daemon->gone_reason = FRAME_REASON_FORGOTTEN;
	cache_entry_drop(daemon->cache, number);
	daemon->gone_reason = FRAME_REASON_EVICTED;
}

static bool entries_take(struct daemon *daemon)
{
	struct purge_room *purge = daemon->purge;
	bool did_work = false;

	for (unsigned looks = 0; looks < LOOKS_A_STEP; looks++) {
		uint32_t entry;

		if (purge->held_count + TIERS * CACHE_SHARDS_MAX > PURGE_HELD_MAX)
			break;
		entry = cache_entry_next(daemon->cache, &purge->cursor, 1);
		did_work = did_work || purge->cursor < cache_entries_end(daemon->cache);
		if (entry != ENTRY_NONE && is_in_scope(daemon, entry))
			entry_take(daemon, entry);
	}
	return did_work;
}

/* ---- overwriting ---- */

static void wipe_ended(struct wipe *wipe)
{
	struct purge_room *purge = wipe->daemon->purge;
	struct purge_slot *slot = wipe->slot;

	purge->overwritten_bytes += wipe->bytes_done;
	purge->failed_bytes += wipe->bytes - wipe->bytes_done;
	cache_slot_release(wipe->daemon->cache, slot->tier, slot->slot);
	slot->slot = SLOT_NONE; /* taken off the list by held_tidy() */
	wipe->slot = NULL;
}

static void memory_work(struct mill_op *op)
{
	struct wipe *wipe = list_item(op, struct wipe, mill);

	memset(wipe->memory, 0, wipe->bytes);
	op->result = 0;
}

static void memory_done(struct mill_op *op)
{
	struct wipe *wipe = list_item(op, struct wipe, mill);

	wipe->bytes_done = wipe->bytes;
	wipe_ended(wipe);
}

static void piece_done(struct tier_op *op);

static void piece_submit(struct wipe *wipe)
{
	uint64_t left = wipe->bytes - wipe->bytes_done;

	wipe->io.memory = wipe->daemon->purge->zeros;
	wipe->io.memory_bytes = left < PURGE_PIECE_BYTES ? left : PURGE_PIECE_BYTES;
	wipe->io.verb = TIER_WRITE;
	wipe->io.done = piece_done;
	/* A full queue is as good as a failure here: it is counted and said. */
	if (tier_submit(wipe->daemon->nvme, &wipe->io) < 0)
		wipe_ended(wipe);
}

static void piece_done(struct tier_op *op)
{
	struct wipe *wipe = list_item(op, struct wipe, io);

	if (op->result < 0) {
		wipe_ended(wipe);
		return;
	}
	wipe->bytes_done += op->memory_bytes;
	op->offset += op->memory_bytes;
	if (wipe->bytes_done == wipe->bytes)
		wipe_ended(wipe);
	else
		piece_submit(wipe);
}

static void wipe_begin(struct wipe *wipe, struct purge_slot *slot)
{
	struct daemon *daemon = wipe->daemon;
	struct slot_place place;

	cache_slot_place(daemon->cache, slot->tier, slot->slot, &place);
	wipe->slot = slot;
	wipe->bytes = place.slot_bytes;
	wipe->bytes_done = 0;
	slot->is_under_way = true;
	if (slot->tier == TIER_NVME) {
		memset(&wipe->io, 0, sizeof(wipe->io));
		wipe->io.device = place.device;
		wipe->io.offset = place.offset;
		piece_submit(wipe);
		return;
	}
	for (unsigned i = 0; i < daemon->tenants_count; i++)
		if (daemon->tenants[i].cpu_area == place.area)
			wipe->memory = (uint8_t *)arena_slot(&daemon->tenants[i].arena,
							     place.offset);
	wipe->mill.work = memory_work;
	wipe->mill.done = memory_done;
	if (!mills_submit(&daemon->mills, &wipe->mill)) {
		slot->is_under_way = false;
		wipe->slot = NULL;
	}
}

/* Somebody else's blocks go first: beside them, one write at a time. */
static bool wipe_may_begin(const struct daemon *daemon, enum tier_id tier)
{
	const struct purge_room *purge = daemon->purge;
	unsigned own = 0;

	for (unsigned i = 0; i < PURGE_OPS_MAX; i++)
		own += purge->wipes[i].slot != NULL && purge->wipes[i].slot->tier == TIER_NVME;
	return tier == TIER_CPU || own == 0 || daemon->nvme->in_flight <= own;
}

static bool wipes_begin(struct daemon *daemon)
{
	struct purge_room *purge = daemon->purge;
	bool did_work = false;

	for (unsigned i = 0; i < PURGE_OPS_MAX; i++) {
		unsigned next = 0;

		if (purge->wipes[i].slot != NULL)
			continue;
		while (next < purge->held_count &&
		       (purge->held[next].is_under_way || purge->held[next].slot == SLOT_NONE ||
			cache_slot(daemon->cache, purge->held[next].tier, purge->held[next].slot)
					->holds > 1 ||
			!wipe_may_begin(daemon, purge->held[next].tier)))
			next++;
		if (next == purge->held_count)
			break;
		wipe_begin(&purge->wipes[i], &purge->held[next]);
		did_work = true;
	}
	return did_work;
}

/* Takes what is through off the list; only while nothing points into it. */
static void held_tidy(struct purge_room *purge)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < PURGE_OPS_MAX; i++)
		if (purge->wipes[i].slot != NULL)
			return;
	for (unsigned i = 0; i < purge->held_count; i++)
		if (purge->held[i].slot != SLOT_NONE)
			purge->held[kept++] = purge->held[i];
	purge->held_count = kept;
}

static bool overwrite_step(struct daemon *daemon)
{
	struct purge_room *purge = daemon->purge;
	bool did_work = entries_take(daemon);

	held_tidy(purge);
	did_work = wipes_begin(daemon) || did_work;
	held_tidy(purge);
	if (purge->held_count > 0 || purge->cursor < cache_entries_end(daemon->cache))
		return did_work;
	if (daemon->catalog != NULL)
		catalog_link_flush(daemon->catalog);
	purge_become(purge, PURGE_SETTLING);
	return true;
}

/* ---- from one state to the next ---- */

/* Nothing of its tenant is on its way into a slot. */
static bool is_quiet(const struct daemon *daemon)
{
	const struct tenant *tenant = daemon->purge->tenant;

	return (tenant == NULL ? mover_pending_down(daemon) : tenant->downs_count) == 0 &&
	       !drain_stores_are_running(daemon, tenant);
}

/* The floor is on disk. */
static void forgotten(struct session *session, uint64_t request, int result)
{
	struct daemon *daemon = session->daemon;

	if (result < 0)
		operate_refuse(session, request, result,
			       "forgotten, but the journal could not be written: after a restart it may be there again");
	else
		purge_answer(daemon, session, request);
}

static void forget_now(struct daemon *daemon)
{
	struct purge_room *purge = daemon->purge;

	purge->was_quiet = is_quiet(daemon);
	for (uint32_t space = 0; space < cache_spaces_end(daemon->cache); space++) {
		bool is_its = cache_space_is_known(daemon->cache, space) &&
			      (purge->tenant == NULL ||
			       cache_space_tenant(daemon->cache, space) == purge->tenant->handle);

		if (is_its && (purge->record.kind != JOURNAL_SPACE ||
			       memcmp(cache_space_fingerprint(daemon->cache, space),
				      purge->record.space, SPACE_ID_BYTES) == 0))
			(void)pins_end(daemon, space);
	}
	if (forget_begin(purge->session, &purge->record, purge->request, forgotten) < 0)
		operate_refuse(purge->session, purge->request, -ENOMEM, "no memory");
	session_unuse(purge->session);
	purge->session = NULL;
	purge->cursor = 0;
	purge_become(purge, PURGE_OVERWRITING);
}

static bool settle_step(struct daemon *daemon)
{
	struct purge_room *purge = daemon->purge;
	struct catalog_link_counters counters = { .pending = 0 };

	if (daemon->catalog != NULL &&
	    catalog_link_state(daemon->catalog) != CATALOG_LINK_ABSENT)
		catalog_link_count(daemon->catalog, &counters);
	if (counters.pending > 0)
		return false;
	purge->ended_us = daemon->now_us;
	purge_become(purge, PURGE_DONE);
	log_line(LOG_INFO, "purged", "blocks=%llu bytes=%llu overwritten_bytes=%llu failed_bytes=%llu",
		 (unsigned long long)purge->blocks, (unsigned long long)purge->bytes,
		 (unsigned long long)purge->overwritten_bytes,
		 (unsigned long long)purge->failed_bytes);
	return true;
}

bool purge_step(struct daemon *daemon)
{
	struct purge_room *purge = daemon->purge;

	switch (purge->state) {
	case PURGE_WAITING:
		if (!is_quiet(daemon) && daemon->now_us < purge->began_us + PURGE_QUIET_US)
			return false;
		forget_now(daemon);
		return true;
	case PURGE_OVERWRITING:
		return overwrite_step(daemon);
	case PURGE_SETTLING:
		return settle_step(daemon);
	default:
		return false;
	}
}
