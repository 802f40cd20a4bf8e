/* daemon/store.c: STORE and COMMIT: what is wanted, and what became of it. */
#include "daemon/batch.h"
#include "daemon/purge.h"
#include "daemon/graveyard.h"
#include "daemon/server.h"

#include "base/failpoint.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define WINDOW_ALIGN_BYTES 64u
#define ATTACHED_LOOKS_A_PASS 32u

static const struct frame_group *group_of(const struct session *session, unsigned group)
{
	return group < session->engine->groups_count ? &session->engine->groups[group] : NULL;
}

static void attached_add(struct daemon *daemon, struct batch_item *item)
{
	item->state = ITEM_ATTACHED;
	list_append(&daemon->attached, &item->attached);
}

void store_detach(struct daemon *daemon, struct batch_item *item)
{
	assert(item->state == ITEM_ATTACHED);
	list_remove(&daemon->attached, &item->attached);
	item->state = ITEM_IDLE;
}

void store_shard_ended(struct daemon *daemon, uint32_t entry, unsigned shard, int result)
{
	struct list_node *node = list_first(&daemon->attached);

	while (node != NULL) {
		struct batch_item *item = list_item(node, struct batch_item, attached);

		node = list_after(&daemon->attached, node);
		if (item->entry != entry || batch_of_item(item)->session->shard != shard)
			continue;
		store_detach(daemon, item);
		batch_item_end(item, result);
	}
}

/* What has become of the shard that an item waits for: 0 and -EAGAIN end the waiting. */
static int attached_outcome(const struct daemon *daemon, const struct batch_item *item,
			    const struct batch *batch)
{
	bool is_filling = false;

	if (cache_find_any(daemon->cache, batch->space, batch->group, item->hash) != item->entry)
		return -EAGAIN;
	for (int tier = 0; tier < TIERS; tier++) {
		uint32_t slot = cache_copy_slot(daemon->cache, item->entry, tier,
						batch->session->shard);
		enum slot_state state = slot == SLOT_NONE
						? SLOT_FREE
						: cache_slot(daemon->cache, tier, slot)->state;

		if (state == SLOT_READY || state == SLOT_LEAVING)
			return 0;
		is_filling = is_filling || state == SLOT_FILLING;
	}
	return is_filling ? -EINPROGRESS : -EAGAIN;
}

/* Not every slot that is being filled belongs to a store that tells us: it may be a read from a
 * device that was fenced meanwhile. So those who wait look for themselves, a few in each pass. */
bool store_attached_step(struct daemon *daemon)
{
	bool did_work = false;

	for (unsigned i = 0; i < ATTACHED_LOOKS_A_PASS && !list_is_empty(&daemon->attached); i++) {
		struct list_node *node = list_take_first(&daemon->attached);
		struct batch_item *item = list_item(node, struct batch_item, attached);
		int outcome = attached_outcome(daemon, item, batch_of_item(item));

		list_append(&daemon->attached, node);
		if (outcome == -EINPROGRESS)
			continue;
		store_detach(daemon, item);
		batch_item_end(item, outcome);
		did_work = true;
	}
	return did_work;
}

/* The slot that admission reserved for this shard: in nvme if that is its home, else in cpu. */
static void reserved_remember(struct daemon *daemon, struct batch_item *item, unsigned shard)
{
	for (int tier = TIERS - 1; tier >= 0; tier--) {
		uint32_t slot = cache_copy_slot(daemon->cache, item->entry, tier, shard);

		if (slot == SLOT_NONE ||
		    cache_slot(daemon->cache, tier, slot)->state != SLOT_FILLING)
			continue;
		item->tier = (uint8_t)tier;
		item->slot = slot;
		item->generation = cache_slot(daemon->cache, tier, slot)->generation;
		return;
	}
	assert(!"an admitted block has a reserved slot");
}

static enum cache_admission item_admit(struct batch *batch, struct batch_item *item)
{
	struct session *session = batch->session;
	struct daemon *daemon = session->daemon;
	uint32_t slot_bytes = (uint32_t)slot_bytes_for(batch->payload_bytes);
	const struct frame_group *group = group_of(session, batch->group);
	struct cache_new block = {
		.space = batch->space,
		.group = batch->group,
		.shards_count = (uint8_t)session->engine->world,
		.parent_required = group->kind == FRAME_GROUP_FULL,
		.hash = item->hash,
		.parent = item->index > 0     ? batch->items[item->index - 1].hash
			  : batch->has_parent ? batch->parent
					      : NULL,
		.route_key = item->route_key,
		.tokens = group->tokens_per_block,
		.epoch = batch->epoch,
		.slot_bytes = slot_bytes,
		.shard = (uint8_t)session->shard,
		.lower_wanted = mover_lower_is_wanted(daemon, slot_bytes),
	};

	return cache_admit(daemon->cache, &block, &item->entry);
}

/* Settles one item of a STORE and counts it; what is not wanted has ended with the reply and is not
 * reported again. */
static enum cache_admission item_begin(struct batch *batch, struct batch_item *item)
{
	struct daemon *daemon = batch->session->daemon;
	enum cache_admission admission = item_admit(batch, item);

	switch (admission) {
	case CACHE_ADMITTED:
		item->state = ITEM_WANTED;
		reserved_remember(daemon, item, batch->session->shard);
		(void)failpoint(store_admitted);
		return admission;
	case CACHE_ATTACHED:
		daemon->counters.attached_blocks++;
		attached_add(daemon, item);
		return admission;
	case CACHE_PRESENT:
		daemon->counters.present_blocks++;
		break;
	default:
		daemon->counters.refused[admission]++;
		graveyard_bury(daemon->graveyard,
			       cache_space_fingerprint(daemon->cache, batch->space), item->hash,
			       FRAME_REASON_REFUSED, daemon->now_us);
		break;
	}
	item->state = ITEM_ENDED;
	batch->open--;
	return admission;
}

static int store_check(struct session *session, const struct frame_store *frame,
		       const char **out_reason)
{
	const struct frame_store_item *items = (const struct frame_store_item *)(frame + 1);
	int result;

	*out_reason = "STORE: no blocks, no such space or group, or not "
		      "a data connection of a registered engine";
	if (session->state != SESSION_ATTACHED)
		return -ENOTCONN;
	if (group_of(session, frame->group) == NULL || frame->count == 0 ||
	    !session_may_use_space(session, frame->space))
		return -EINVAL;
	result = lend_allows(session, frame->header.flags, &frame->pull, out_reason);
	if (result < 0 || !(frame->header.flags & FRAME_PULL))
		return result;
	*out_reason = "STORE: an engine block that is not lent";
	for (unsigned i = 0; i < frame->count; i++)
		if (items[i].engine_block >= session->lent_blocks[frame->group])
			return -EINVAL;
	return 0;
}

static void store_reply(struct session *session, const struct frame_store *frame,
			struct batch *batch)
{
	struct frame_store_reply *reply = server_scratch(session->daemon);
	uint8_t *admissions = (uint8_t *)(reply + 1);
	uint32_t bytes = (uint32_t)sizeof(*reply) + frame->count;
	unsigned said[CACHE_ADMISSIONS] = { 0 };

	reply->batch = frame->batch;
	reply->count = frame->count;
	for (unsigned i = 0; i < frame->count; i++) {
		admissions[i] = batch == NULL ? CACHE_REFUSED_FULL
					      : (uint8_t)item_begin(batch, &batch->items[i]);
		said[admissions[i]]++;
	}
	reply->wanted_count = said[CACHE_ADMITTED];
	for (unsigned i = 0; batch != NULL && i < CACHE_ADMISSIONS; i++)
		if (said[i] > 0)
			requests_admitted(session->daemon, batch->request, i, said[i]);
	session_reply(session, reply, bytes, FRAME_STORE_REPLY, frame->header.request, 0);
}

void store_frame(struct session *session, const struct frame_store *frame)
{
	struct daemon *daemon = session->daemon;
	const struct frame_store_item *items = (const struct frame_store_item *)(frame + 1);
	struct batch *batch = NULL;
	const char *reason;
	int result = store_check(session, frame, &reason);

	if (result < 0) {
		session_refuse(session, frame->header.request, result, reason);
		return;
	}
	if (daemon_bypass_of(daemon, session->tenant, frame->space) == FRAME_BYPASS_ON ||
	    daemon->phase == DAEMON_DRAINING || drain_is_on(&daemon->drain) ||
	    purge_holds_stores(daemon, session->tenant))
		daemon->counters.refused_bypass += frame->count;
	else
		batch = batch_take(session, frame->space, frame->batch, frame->count);
	if (batch == NULL) {
		daemon->counters.refused_busy += frame->count;
		requests_admitted(daemon, requests_begin(session, frame->tag, true, frame->count),
				  CACHE_ADMISSIONS, frame->count);
		store_reply(session, frame, NULL);
		return;
	}
	batch->is_store = true;
	batch->is_pull = (frame->header.flags & FRAME_PULL) != 0;
	batch->pull = frame->pull;
	batch->deadline_us = batch_deadline_us(daemon, frame->deadline_us);
	batch->epoch = (uint32_t)daemon->epoch;
	batch->group = frame->group;
	batch->first_position = frame->first_position;
	batch->payload_bytes = group_of(session, frame->group)->payload_bytes;
	batch->tokens_per_block = group_of(session, frame->group)->tokens_per_block;
	batch->has_parent = frame->has_parent != 0;
	memcpy(batch->parent, frame->parent, BLOCK_HASH_BYTES);
	batch_begin_request(batch, frame->tag);
	for (unsigned i = 0; i < frame->count; i++) {
		memcpy(batch->items[i].hash, items[i].hash, BLOCK_HASH_BYTES);
		batch->items[i].route_key = items[i].route_key;
		batch->items[i].engine_block = items[i].engine_block;
	}
	store_reply(session, frame, batch);
	if (batch->is_pull && !batch->is_cancelled)
		(void)store_pull_next(batch);
}

static void stored(struct waiter *waiter, int result, uint32_t cpu_slot)
{
	struct batch_item *item = list_item(waiter, struct batch_item, waiter);
	struct batch *batch = batch_of_item(item);
	struct session *session = batch->session;
	uint32_t entry = item->entry;

	(void)cpu_slot;
	assert(item->state == ITEM_MOVING);
	batch_item_end(item, result);
	store_shard_ended(session->daemon, entry, session->shard, result == 0 ? 0 : -EAGAIN);
	session_unuse(session);
}

void store_identity(const struct batch *batch, const struct batch_item *item, const uint32_t *crcs,
		    struct slot_identity *out_identity)
{
	struct session *session = batch->session;
	struct daemon *daemon = session->daemon;
	const uint8_t *parent = item->index > 0 ? batch->items[item->index - 1].hash
						: batch->parent;

	memset(out_identity, 0, sizeof(*out_identity));
	memcpy(out_identity->space, cache_space_fingerprint(daemon->cache, batch->space),
	       SPACE_ID_BYTES);
	out_identity->epoch = batch->epoch;
	out_identity->group = batch->group;
	out_identity->shard = session->shard;
	out_identity->tokens = batch->tokens_per_block;
	memcpy(out_identity->hash, item->hash, BLOCK_HASH_BYTES);
	if (item->index > 0 || batch->has_parent)
		memcpy(out_identity->parent, parent, BLOCK_HASH_BYTES);
	out_identity->route_key = item->route_key;
	out_identity->payload_bytes = batch->payload_bytes;
	out_identity->stored_at_us = clock_wall_us(daemon->clock);
	out_identity->segments_count = group_of(session, batch->group)->segments_count;
	out_identity->first_position = batch->first_position + item->index;
	out_identity->shards_count = session->engine->world;
	if (crcs != NULL)
		memcpy(out_identity->segment_crcs, crcs,
		       out_identity->segments_count * sizeof(uint32_t));
}

/* Where the client says the payload lies: inside the window, aligned, and as many checksums as
 * registered. */
static bool commit_is_possible(const struct batch *batch, const struct frame_commit_item *commit)
{
	const struct session *session = batch->session;

	if (batch->is_pull)
		return commit->index < batch->count && commit->segments_count == 0 &&
		       commit->window_offset == 0;
	return commit->index < batch->count && commit->window_offset % WINDOW_ALIGN_BYTES == 0 &&
	       commit->window_offset <= session->window_bytes &&
	       batch->payload_bytes <= session->window_bytes - commit->window_offset &&
	       commit->segments_count == group_of(session, batch->group)->segments_count;
}

static void item_commit(struct batch *batch, const struct frame_commit_item *commit,
			const uint32_t *crcs)
{
	struct session *session = batch->session;
	struct daemon *daemon = session->daemon;
	struct batch_item *item = &batch->items[commit->index];
	struct slot_identity identity;
	struct store_order order = {
		.tenant = session->tenant,
		.entry = item->entry,
		.shard = session->shard,
		.tier = item->tier,
		.slot = item->slot,
		.source = session->window + commit->window_offset,
		.identity = &identity,
		.deadline_us = batch->deadline_us,
		.waiter = &item->waiter,
	};

	/* Ended by its deadline while the client copied: the result is on its way already. */
	if (item->state != ITEM_WANTED)
		return;
	if (!cache_slot_is_current(daemon->cache, item->tier, item->slot, item->generation)) {
		batch_item_end(item, -ECANCELED);
		store_shard_ended(daemon, order.entry, session->shard, -EAGAIN);
		return;
	}
	store_identity(batch, item, crcs, &identity);
	item->waiter.done = stored;
	item->state = ITEM_MOVING;
	batch->moving++;
	session->users++;
	if (mover_store(daemon, &order) == 0)
		return;
	/* All moves are busy: a full queue drops the store. */
	session->users--;
	daemon->counters.refused_busy++;
	cache_slot_drop(daemon->cache, item->tier, item->slot);
	batch_item_end(item, -EAGAIN);
	store_shard_ended(daemon, order.entry, session->shard, -EAGAIN);
}

void commit_frame(struct session *session, const struct frame_commit *frame)
{
	struct batch *batch = session->state == SESSION_ATTACHED ? batch_find(session, frame->batch)
								 : NULL;
	const struct frame_commit_item *commit;
	const uint32_t *crcs;
	size_t position = 0;

	if (batch == NULL)
		return; /* over by its deadline; its results have been reported */
	if (!batch->is_store) {
		session_refuse(session, frame->header.request, -EINVAL,
			       "COMMIT names a batch of loads");
		return;
	}
	while ((commit = frame_commit_next(frame, &position, &crcs)) != NULL) {
		if (!commit_is_possible(batch, commit)) {
			session_refuse(session, frame->header.request, -EINVAL,
				       "COMMIT: index, window place or "
				       "number of checksums is outside what was agreed");
			return;
		}
		if (batch->is_pull && store_pull_commit(&batch->items[commit->index]) < 0) {
			session_refuse(session, frame->header.request, -EPROTO,
				       "COMMIT: a block that COPIED has not named yet");
			return;
		}
		if (!batch->is_pull)
			item_commit(batch, commit, crcs);
	}
}
