/* daemon/purge.c: forgets, then overwrites. */
#include "daemon/purge.h"

#include "base/log.h"
#include "daemon/batch.h"
#include "daemon/drain.h"
#include "daemon/forget.h"
#include "daemon/mover.h"
#include "daemon/operate.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOOKS_A_STEP 4096u /* entries looked at in one pass */

/* A slot that is ours alone as soon as nobody else holds it. */
struct purge_slot {
	enum tier_id tier;
	uint32_t slot;
	bool is_under_way;
};

struct wipe {
	struct purge_slot *slot; /* NULL: free */
	struct daemon *daemon;
	struct mill_op mill;
	struct tier_op io;
	uint8_t *memory; /* cpu: what is overwritten */
	uint64_t bytes, bytes_done;
};

struct purge_room {
	enum purge_state state; /* written by one function */
	struct tenant *tenant;  /* NULL: all */
	struct journal_record record;
	struct session *session; /* that waits for the journal; NULL: none */
	uint64_t request;
	uint64_t began_us, ended_us;
	uint32_t cursor;
	uint64_t blocks, slots, bytes, overwritten_bytes, failed_bytes;
	bool was_quiet; /* nothing was on its way when the floor went up */
	struct purge_slot held[PURGE_HELD_MAX];
	unsigned held_count;
	struct wipe wipes[PURGE_OPS_MAX];
	uint8_t *zeros; /* PURGE_PIECE_BYTES */
};

static void purge_become(struct purge_room *purge, enum purge_state next)
{
	assert(next == purge->state + 1 ||
	       (next == PURGE_WAITING && purge->state == PURGE_DONE));
	purge->state = next;
}

int purge_create(struct daemon *daemon, struct error *error)
{
	struct purge_room *purge = calloc(1, sizeof(*purge));

	daemon->purge = purge;
	if (purge != NULL)
		purge->zeros = aligned_alloc(SLOT_ALIGN_BYTES, PURGE_PIECE_BYTES);
	if (purge == NULL || purge->zeros == NULL)
		return error_set(error, -ENOMEM, "no memory for purges");
	memset(purge->zeros, 0, PURGE_PIECE_BYTES);
	for (unsigned i = 0; i < PURGE_OPS_MAX; i++)
		purge->wipes[i].daemon = daemon;
	return 0;
}

void purge_destroy(struct daemon *daemon)
{
	if (daemon->purge != NULL)
		free(daemon->purge->zeros);
	free(daemon->purge);
	daemon->purge = NULL;
}

const char *purge_state_name(const struct daemon *daemon)
{
	static const char *const names[PURGE_STATES] = { "none", "waiting", "overwriting",
							 "settling", "done" };

	return names[daemon->purge->state];
}

bool purge_holds_stores(const struct daemon *daemon)
{
	return daemon->purge->state == PURGE_WAITING;
}

bool purge_holds_sweep(const struct daemon *daemon)
{
	return daemon->purge->state == PURGE_WAITING || daemon->purge->state == PURGE_OVERWRITING;
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

static void purge_answer(struct daemon *daemon, struct session *session, uint64_t request);

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

	purge->was_quiet = mover_pending_down(daemon) == 0 && !drain_stores_are_running(daemon);
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
		if ((mover_pending_down(daemon) > 0 || drain_stores_are_running(daemon)) &&
		    daemon->now_us < purge->began_us + PURGE_QUIET_US)
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

/* ---- PURGE ---- */

static void purge_answer(struct daemon *daemon, struct session *session, uint64_t request)
{
	const struct purge_room *purge = daemon->purge;
	uint64_t until_us = purge->state == PURGE_DONE ? purge->ended_us : daemon->now_us;
	struct json_text json;

	operate_answer_begin(daemon, &json);
	json_text_object_begin(&json, NULL);
	json_text_string(&json, "state", purge_state_name(daemon));
	json_text_bool(&json, "done", purge->state == PURGE_DONE);
	json_text_unsigned(&json, "floor", purge->record.floor);
	json_text_unsigned(&json, "entries_looked_at", purge->cursor);
	json_text_unsigned(&json, "entries", cache_entries_end(daemon->cache));
	json_text_unsigned(&json, "blocks", purge->blocks);
	json_text_unsigned(&json, "slots", purge->slots);
	json_text_unsigned(&json, "bytes", purge->bytes);
	json_text_unsigned(&json, "overwritten_bytes", purge->overwritten_bytes);
	json_text_unsigned(&json, "failed_bytes", purge->failed_bytes);
	json_text_unsigned(&json, "held_slots", purge->held_count);
	json_text_bool(&json, "was_quiet", purge->was_quiet);
	json_text_unsigned(&json, "elapsed_us",
			   purge->state == PURGE_NONE ? 0 : until_us - purge->began_us);
	json_text_object_end(&json);
	operate_answer_end(session, request, &json);
}

static void purge_begin(const struct operation *operation)
{
	static const uint8_t any[SPACE_ID_BYTES];
	struct session *session = operation->session;
	struct purge_room *purge = session->daemon->purge;
	const struct frame_operate *frame = operation->frame;
	bool is_of_space = memcmp(frame->fingerprint, any, SPACE_ID_BYTES) != 0;

	if (purge->state != PURGE_NONE && purge->state != PURGE_DONE) {
		operate_refuse(session, frame->header.request, -EBUSY,
			       "another purge is under way: wait until it has ended");
		return;
	}
	if (is_of_space && operation->tenant == NULL) {
		operate_refuse(session, frame->header.request, -EINVAL,
			       "on the admin socket a space needs its tenant, too");
		return;
	}
	purge->state = PURGE_DONE; /* also of the first one */
	purge_become(purge, PURGE_WAITING);
	purge->tenant = operation->tenant;
	memset(&purge->record, 0, sizeof(purge->record));
	purge->record.kind = is_of_space		 ? JOURNAL_SPACE
			     : operation->tenant != NULL ? JOURNAL_TENANT
							 : JOURNAL_ALL;
	if (operation->tenant != NULL)
		memcpy(purge->record.tenant, operation->tenant->digest, TENANT_DIGEST_BYTES);
	memcpy(purge->record.space, frame->fingerprint, SPACE_ID_BYTES);
	purge->session = session;
	purge->request = frame->header.request;
	session->users++;
	purge->began_us = session->daemon->now_us;
	purge->cursor = 0;
	purge->blocks = purge->slots = purge->bytes = 0;
	purge->overwritten_bytes = purge->failed_bytes = 0;
}

void operate_purge(const struct operation *operation)
{
	const struct purge_room *purge = operation->session->daemon->purge;

	if (operation->frame->value == 0)
		purge_begin(operation);
	else if (purge->state != PURGE_NONE && operation->tenant != NULL &&
		 operation->tenant != purge->tenant)
		operate_refuse(operation->session, operation->frame->header.request, -EPERM,
			       "the purge under way is not this tenant's");
	else
		purge_answer(operation->session->daemon, operation->session,
			     operation->frame->header.request);
}
