/* daemon/load.c: LOAD and RELEASE: blocks brought up, delivered, and given back one by one. */
#include "daemon/batch.h"
#include "daemon/fetch.h"
#include "daemon/server.h"

#include "base/failpoint.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static void miss_count(struct session *session, unsigned blocks)
{
	session->daemon->counters.miss_blocks += blocks;
	session->tenant->counters.miss_blocks += blocks;
}

static void hit_count(const struct batch_item *item)
{
	const struct batch *batch = batch_of_item((struct batch_item *)item);
	struct session *session = batch->session;
	struct counters *counters = &session->daemon->counters;

	counters->hit_blocks[item->tier]++;
	counters->hit_tokens[item->tier] += batch->tokens_per_block;
	counters->loaded_bytes[item->tier] += batch->payload_bytes;
	session->tenant->counters.hit_blocks++;
	session->tenant->counters.loaded_bytes += batch->payload_bytes;
}

static void deliver(struct batch_item *item, uint32_t slot)
{
	struct batch *batch = batch_of_item(item);
	struct daemon *daemon = batch->session->daemon;

	assert(item->state == ITEM_IDLE || item->state == ITEM_MOVING);
	cache_slot_hold(daemon->cache, TIER_CPU, slot);
	if (item->state == ITEM_MOVING)
		batch->moving--;
	item->state = ITEM_DELIVERED;
	item->slot = slot;
	item->generation = cache_slot(daemon->cache, TIER_CPU, slot)->generation;
	item->result = 0;
	batch->delivered++;
	batch->outcomes[REQUEST_DONE]++;
	hit_count(item);
	batch_item_say(item);
	(void)failpoint(load_answered);
}

/* ---- pulled ---- */

/* All of it lies in the engine's block, or nothing touches that any more. */
static void pulled(struct waiter *waiter, int result, uint32_t cpu_slot)
{
	struct batch_item *item = list_item(waiter, struct batch_item, waiter);
	struct batch *batch = batch_of_item(item);
	struct session *session = batch->session;

	(void)cpu_slot;
	assert(item->state == ITEM_PULLING);
	item->move = NULL;
	if (result == 0) {
		hit_count(item);
		if (batch->lease != LEASE_NONE)
			(void)cache_lease_release_entry(session->daemon->cache, batch->lease,
							item->entry);
		(void)failpoint(load_answered);
	} else {
		miss_count(session, 1);
	}
	if (result < 0 && result != -EBADMSG && result != -ETIME &&
	    !(result == -ECANCELED && batch->is_cancelled))
		result = -ENOENT;
	batch_item_end(item, result);
	session_unuse(session);
}

void load_unraise(struct batch *batch, struct batch_item *item)
{
	assert(item->state == ITEM_RAISED);
	list_remove(&batch->aside, &item->attached);
	cache_slot_release(batch->session->daemon->cache, TIER_CPU, item->slot);
}

/* False: no move is free, try later. */
static bool item_pull(struct batch *batch, struct batch_item *item)
{
	struct session *session = batch->session;
	struct pull_order order = {
		.lent = &session->lent,
		.bytes = session->engine->groups[batch->group].payload_bytes,
		.gate = batch->pull,
		.group = batch->group,
		.block = item->engine_block,
		.deadline_us = batch->deadline_us,
	};

	item->waiter.done = pulled;
	int result = mover_pull_load(session->daemon, session->tenant, item->slot, &order,
				     &item->waiter, &item->move);
	if (result == -EAGAIN)
		return false;
	if (result < 0) {
		load_unraise(batch, item);
		miss_count(session, 1);
		batch_item_end(item, -ENOENT);
		return true;
	}
	list_remove(&batch->aside, &item->attached);
	item->state = ITEM_PULLING;
	session->users++;
	return true;
}

static bool pull_next(struct batch *batch)
{
	bool did_work = false;
	struct list_node *node;

	while ((node = list_first(&batch->aside)) != NULL) {
		if (!item_pull(batch, list_item(node, struct batch_item, attached)))
			return did_work;
		did_work = true;
	}
	return did_work;
}

static void raise_end(struct batch_item *item, uint32_t slot)
{
	struct batch *batch = batch_of_item(item);
	struct daemon *daemon = batch->session->daemon;

	if (!batch->is_pull) {
		deliver(item, slot);
		return;
	}
	assert(item->state == ITEM_IDLE || item->state == ITEM_MOVING);
	cache_slot_hold(daemon->cache, TIER_CPU, slot);
	if (item->state == ITEM_IDLE)
		batch->moving++;
	item->state = ITEM_RAISED;
	item->slot = slot;
	item->generation = cache_slot(daemon->cache, TIER_CPU, slot)->generation;
	list_append(&batch->aside, &item->attached);
	(void)pull_next(batch);
}

/* ---- what begins ---- */

static void raised(struct waiter *waiter, int result, uint32_t cpu_slot)
{
	struct batch_item *item = list_item(waiter, struct batch_item, waiter);
	struct batch *batch = batch_of_item(item);

	assert(item->state == ITEM_MOVING);
	if (result == 0) {
		raise_end(item, cpu_slot);
		return;
	}
	miss_count(batch->session, 1);
	batch_item_end(item, result == -ETIME ? -ETIME : -ENOENT);
}

/* False: no move is free, try later. may_park: it may wait for another node's. */
static bool item_begin(struct batch *batch, struct batch_item *item, bool may_park)
{
	struct session *session = batch->session;
	struct daemon *daemon = session->daemon;
	struct cache_query query = {
		.space = batch->space, .group = batch->group,
		.hashes = (const uint8_t (*)[BLOCK_HASH_BYTES])item->hash, .count = 1,
	};
	int result = -ENOENT;

	cache_find(daemon->cache, &query, &item->entry);
	if (item->entry != ENTRY_NONE) {
		item->waiter.done = raised;
		result = mover_raise(daemon, session->tenant, item->entry, session->shard,
				     batch->deadline_us, &item->waiter);
	}
	if (result == -EAGAIN)
		return false;
	item->tier = result == 0 ? TIER_NVME : TIER_CPU;
	if (result == 0) {
		item->state = ITEM_MOVING;
		batch->moving++;
	} else if (result == -EALREADY) {
		raise_end(item, cache_copy_slot(daemon->cache, item->entry, TIER_CPU,
						session->shard));
	} else if (!may_park || !fetch_park(batch, item)) {
		miss_count(session, 1);
		batch_item_end(item, -ENOENT);
	}
	return true;
}

void load_look_again(struct batch *batch, struct batch_item *item)
{
	if (item_begin(batch, item, false))
		return;
	miss_count(batch->session, 1);   /* it went down meanwhile, and no move is free */
	batch_item_end(item, -ENOENT);
}

bool load_begin_next(struct batch *batch)
{
	uint32_t window = batch->session->daemon->settings.load_window_blocks;
	bool did_work = pull_next(batch);

	assert(!batch->is_store);
	while (batch->next < batch->count && (uint32_t)batch->moving + batch->delivered < window) {
		if (!item_begin(batch, &batch->items[batch->next], true))
			return did_work;
		batch->next++;
		did_work = true;
	}
	return did_work;
}

static int load_check(const struct session *session, const struct frame_load *frame,
		      const char **out_reason)
{
	int result;

	*out_reason = "LOAD: no such space or group, or not a data connection of a registered "
		      "engine";
	if (session->state != SESSION_ATTACHED)
		return -ENOTCONN;
	if (frame->count == 0 || frame->group >= session->engine->groups_count ||
	    !session_may_use_space(session, frame->space))
		return -EINVAL;
	result = lend_allows(session, frame->header.flags, &frame->pull, out_reason);
	if (result < 0 || !(frame->header.flags & FRAME_PULL))
		return result;
	*out_reason = "LOAD: an engine block that is not lent";
	for (unsigned i = 0; i < frame->count; i++)
		if (frame_load_blocks(frame)[i] >= session->lent_blocks[frame->group])
			return -EINVAL;
	return 0;
}

static void load_all_missed(struct session *session, const struct frame_load *frame)
{
	struct frame_loaded *loaded = server_scratch(session->daemon);
	struct frame_loaded_item *items = (struct frame_loaded_item *)(loaded + 1);

	memset(loaded, 0, sizeof(*loaded) + frame->count * sizeof(*items));
	loaded->batch = frame->batch;
	loaded->count = frame->count;
	for (unsigned i = 0; i < frame->count; i++) {
		items[i].index = i;
		items[i].result = -ENOENT;
	}
	session_reply(session, loaded, (uint32_t)(sizeof(*loaded) + frame->count * sizeof(*items)),
		      FRAME_LOADED, 0, 0);
}

void load_frame(struct session *session, const struct frame_load *frame)
{
	struct daemon *daemon = session->daemon;
	const uint8_t *hashes = (const uint8_t *)(frame + 1);
	struct batch *batch = NULL;
	const char *reason;
	int result = load_check(session, frame, &reason);

	if (result < 0) {
		session_refuse(session, frame->header.request, result, reason);
		return;
	}
	if (daemon_bypass_of(daemon, session->tenant, frame->space) == FRAME_BYPASS_OFF &&
	    daemon->phase != DAEMON_DRAINING)
		batch = batch_take(session, frame->space, frame->batch, frame->count);
	if (batch == NULL) {
		miss_count(session, frame->count);
		requests_ended(daemon, requests_begin(session, frame->tag, false, frame->count),
			       false, REQUEST_MISSED, frame->count);
		load_all_missed(session, frame);
		return;
	}
	batch->is_pull = (frame->header.flags & FRAME_PULL) != 0;
	batch->pull = frame->pull;
	batch->deadline_us = batch_deadline_us(daemon, frame->deadline_us);
	/* Of somebody else, or over: as without one. */
	batch->lease = cache_lease_is_of(daemon->cache, frame->lease, session->tenant->handle)
			       ? frame->lease
			       : LEASE_NONE;
	cache_lease_use(daemon->cache, batch->lease);
	batch->group = frame->group;
	batch->payload_bytes = session->engine->groups[frame->group].payload_bytes;
	batch->tokens_per_block = session->engine->groups[frame->group].tokens_per_block;
	batch_begin_request(batch, frame->tag);
	for (unsigned i = 0; i < frame->count; i++) {
		memcpy(batch->items[i].hash, hashes + (size_t)i * BLOCK_HASH_BYTES,
		       BLOCK_HASH_BYTES);
		if (batch->is_pull)
			batch->items[i].engine_block = frame_load_blocks(frame)[i];
	}
	(void)load_begin_next(batch);
}

void load_release_item(struct batch *batch, struct batch_item *item)
{
	struct daemon *daemon = batch->session->daemon;

	assert(item->state == ITEM_DELIVERED && batch->delivered > 0 && batch->open > 0);
	/* The hold keeps the entry, so it goes last. */
	if (batch->lease != LEASE_NONE)
		(void)cache_lease_release_entry(daemon->cache, batch->lease, item->entry);
	cache_slot_release(daemon->cache, TIER_CPU, item->slot);
	batch->delivered--;
	batch->open--;
	item->state = ITEM_ENDED;
}

void release_frame(struct session *session, const struct frame_release *frame)
{
	const struct frame_release_item *items = (const struct frame_release_item *)(frame + 1);
	struct batch *batch = session->state == SESSION_ATTACHED ? batch_find(session, frame->batch)
								 : NULL;

	if (batch == NULL || batch->is_store)
		return;   /* over by its deadline: the holds are gone */
	for (unsigned i = 0; i < frame->count; i++) {
		struct batch_item *item = items[i].index < batch->count
						  ? &batch->items[items[i].index]
						  : NULL;

		if (item == NULL || item->state != ITEM_DELIVERED)
			continue;
		/* Its word alone is not believed: the slot is proven again before it goes. */
		if (items[i].bad) {
			mover_prove(session->daemon, session->tenant, item->slot, item->generation);
			batch->outcomes[REQUEST_DONE]--;
			batch->outcomes[REQUEST_DAMAGED]++;
		}
		load_release_item(batch, item);
	}
}

void cancel_frame(struct session *session, const struct frame_cancel *frame)
{
	struct batch *batch = session->state == SESSION_ATTACHED ? batch_find(session, frame->batch)
								 : NULL;

	if (batch != NULL)
		batch_end_all(batch, -ECANCELED);
}
