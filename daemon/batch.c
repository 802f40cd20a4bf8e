/* daemon/batch.c: the pool of batches, and what stores and loads have in common: ends, deadlines,
 * reports. */
#include "daemon/batch.h"
#include "daemon/fetch.h"
#include "daemon/server.h"
#include "daemon/spaces.h"

#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define REPORT_ITEMS_MAX 1024u

struct batches {
	struct list free;
	unsigned used;
	struct batch batches[];
};

static_assert(sizeof(struct frame_loaded) + REPORT_ITEMS_MAX * sizeof(struct frame_loaded_item) <=
	      FRAME_BYTES_MAX, "a report fits a frame");

static size_t pool_bytes(void)
{
	return sizeof(struct batches) + BATCHES_MAX * sizeof(struct batch);
}

int batches_create(struct daemon *daemon, struct error *error)
{
	struct batches *batches = mmap(NULL, pool_bytes(), PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (batches == MAP_FAILED)
		return error_set(error, -ENOMEM, "no memory for %u batches (%zu bytes)%s", BATCHES_MAX,
				 pool_bytes(), error_advice(-ENOMEM));
	list_init(&batches->free);
	for (unsigned i = 0; i < BATCHES_MAX; i++)
		list_append(&batches->free, &batches->batches[i].link);
	daemon->batches = batches;
	return 0;
}

void batches_destroy(struct batches *batches)
{
	if (batches != NULL)
		munmap(batches, pool_bytes());
}

struct batch *batch_find(struct session *session, uint64_t id)
{
	for (struct list_node *node = list_first(&session->batches); node != NULL;
	     node = list_after(&session->batches, node)) {
		struct batch *batch = list_item(node, struct batch, link);

		if (batch->id == id)
			return batch;
	}
	return NULL;
}

struct batch *batch_take(struct session *session, uint32_t space, uint64_t id, unsigned count)
{
	struct daemon *daemon = session->daemon;

	assert(count >= 1 && count <= FRAME_KEYS_MAX);
	/* Each tenant has an equal part of them, so that none can leave another without. */
	if (session->tenant->batches_count >= BATCHES_MAX / daemon->tenants_count ||
	    session->batches_count >= daemon->settings.batches_max ||
	    batch_find(session, id) != NULL)
		return NULL;
	struct list_node *node = list_take_first(&daemon->batches->free);
	if (node == NULL)
		return NULL;
	struct batch *batch = list_item(node, struct batch, link);
	memset(batch, 0, offsetof(struct batch, items) + count * sizeof(struct batch_item));
	batch->session = session;
	batch->space = space;
	batch->id = id;
	batch->count = (uint16_t)count;
	batch->open = (uint16_t)count;
	list_init(&batch->unsaid);
	list_init(&batch->aside);
	for (unsigned i = 0; i < count; i++) {
		batch->items[i].index = (uint16_t)i;
		batch->items[i].entry = ENTRY_NONE;
		batch->items[i].slot = SLOT_NONE;
	}
	cache_space_hold(daemon->cache, space);
	spaces_use(daemon, space, session->engine->name);
	list_append(&session->batches, &batch->link);
	session->batches_count++;
	session->tenant->batches_count++;
	daemon->batches->used++;
	return batch;
}

uint64_t batch_deadline_us(const struct daemon *daemon, uint64_t wait_us)
{
	uint64_t longest_us = daemon->settings.lease_us_max;

	return daemon->now_us + (wait_us < longest_us ? wait_us : longest_us);
}

void batch_begin_request(struct batch *batch, const uint8_t tag[FRAME_TAG_BYTES])
{
	struct session *session = batch->session;

	memcpy(batch->tag, tag, FRAME_TAG_BYTES);
	batch->began_us = session->daemon->now_us;
	batch->request = requests_begin(session, tag, batch->is_store, batch->count);
}

/* What a person would ask about: the engine waited in vain, or was served wrong bytes. */
static void batch_log(const struct batch *batch, uint64_t took_us)
{
	const uint16_t *outcomes = batch->outcomes;
	char engine[FRAME_NAME_BYTES + 8];
	char trace[2 * FRAME_TAG_BYTES + 1];

	if (outcomes[REQUEST_EXPIRED] + outcomes[REQUEST_DAMAGED] + outcomes[REQUEST_FAILED] == 0)
		return;
	for (unsigned i = 0; i < FRAME_TAG_BYTES; i++)
		snprintf(trace + 2 * i, 3, "%02x", batch->tag[i]);
	log_line(LOG_INFO, batch->is_store ? "store_incomplete" : "load_incomplete",
		 "tenant=%s engine=%s trace=%s blocks=%u done=%u missed=%u expired=%u damaged=%u failed=%u us=%llu",
		 batch->session->tenant->name,
		 log_quote(engine, sizeof(engine), batch->session->engine->name), trace,
		 batch->count, outcomes[REQUEST_DONE], outcomes[REQUEST_MISSED],
		 outcomes[REQUEST_EXPIRED], outcomes[REQUEST_DAMAGED], outcomes[REQUEST_FAILED],
		 (unsigned long long)took_us);
}

static void batch_account(const struct batch *batch)
{
	struct daemon *daemon = batch->session->daemon;
	uint64_t took_us = daemon->now_us - batch->began_us;

	for (unsigned i = 0; i < REQUEST_OUTCOMES; i++)
		if (batch->outcomes[i] > 0)
			requests_ended(daemon, batch->request, batch->is_store, i,
				       batch->outcomes[i]);
	requests_over(daemon, batch->request, batch->is_store, took_us);
	batch_log(batch, took_us);
}

static void batch_give(struct batch *batch)
{
	struct session *session = batch->session;
	struct daemon *daemon = session->daemon;

	batch_account(batch);
	assert(batch->open == 0 && batch->moving == 0 && batch->delivered == 0);
	assert(list_is_empty(&batch->unsaid) && list_is_empty(&batch->aside));
	cache_lease_unuse(daemon->cache, batch->lease);
	cache_space_release(daemon->cache, batch->space);
	list_remove(&session->batches, &batch->link);
	session->batches_count--;
	session->tenant->batches_count--;
	daemon->batches->used--;
	list_append(&daemon->batches->free, &batch->link);
}

void batch_item_say(struct batch_item *item)
{
	struct batch *batch = batch_of_item(item);

	assert(item->state == ITEM_DELIVERED || item->state == ITEM_ENDED);
	assert(item->waiter.list == NULL && item->waiter.link.next == NULL);
	list_append(&batch->unsaid, &item->waiter.link);
}

static enum request_outcome outcome_of(const struct batch *batch, int result)
{
	switch (result) {
	case 0:
		return REQUEST_DONE;
	case -ETIME:
		return REQUEST_EXPIRED;
	case -ECANCELED:
	case -ECONNRESET:
		return REQUEST_CANCELLED;
	case -EBADMSG:
		return batch->is_store ? REQUEST_FAILED : REQUEST_DAMAGED;
	default:
		return batch->is_store ? REQUEST_FAILED : REQUEST_MISSED;
	}
}

static bool is_moving(const struct batch_item *item)
{
	return item->state == ITEM_MOVING || item->state == ITEM_PULLING ||
	       item->state == ITEM_COPIED || item->state == ITEM_RAISED;
}

void batch_item_end(struct batch_item *item, int result)
{
	struct batch *batch = batch_of_item(item);

	assert(item->state != ITEM_ENDED && item->state != ITEM_DELIVERED);
	assert(batch->open > 0);
	if (is_moving(item)) {
		assert(batch->moving > 0);
		batch->moving--;
	}
	item->state = ITEM_ENDED;
	item->result = result;
	batch->open--;
	batch->outcomes[outcome_of(batch, result)]++;
	batch_item_say(item);
}

/* Fills one report from the unsaid items; they stay listed until it is sent. */
static uint32_t report_fill(struct batch *batch, void *frame, uint32_t *out_count)
{
	struct frame_loaded *loaded = frame;
	struct frame_committed *committed = frame;
	uint32_t count = 0;

	for (struct list_node *node = list_first(&batch->unsaid);
	     node != NULL && count < REPORT_ITEMS_MAX;
	     node = list_after(&batch->unsaid, node), count++) {
		struct batch_item *item = list_item(node, struct batch_item, waiter.link);

		if (batch->is_store) {
			struct frame_result *result = (struct frame_result *)(committed + 1) +
						      count;
			result->index = item->index;
			result->result = item->result;
			continue;
		}
		struct frame_loaded_item *delivered = (struct frame_loaded_item *)(loaded + 1) +
						      count;
		memset(delivered, 0, sizeof(*delivered));
		delivered->index = item->index;
		delivered->result = item->result;
		delivered->tier = item->tier;
		if (item->state == ITEM_DELIVERED) {
			struct slot_place place;

			cache_slot_place(batch->session->daemon->cache, TIER_CPU, item->slot,
					 &place);
			delivered->offset = place.offset;
			delivered->slot_generation = item->generation;
		}
	}
	committed->batch = batch->id;
	committed->count = count;
	committed->reserved = 0;
	*out_count = count;
	return batch->is_store
		       ? (uint32_t)(sizeof(*committed) + count * sizeof(struct frame_result))
		       : (uint32_t)(sizeof(*loaded) + count * sizeof(struct frame_loaded_item));
}

static bool batch_report(struct batch *batch)
{
	void *frame = server_scratch(batch->session->daemon);
	bool did_work = false;

	static_assert(offsetof(struct frame_loaded, count) ==
				      offsetof(struct frame_committed, count) &&
			      sizeof(struct frame_loaded) == sizeof(struct frame_committed),
		      "one head for both");
	while (!list_is_empty(&batch->unsaid)) {
		uint32_t count;
		uint32_t bytes = report_fill(batch, frame, &count);

		if (session_event(batch->session, frame, bytes,
				  batch->is_store ? FRAME_COMMITTED : FRAME_LOADED) == -EAGAIN)
			return did_work;
		for (uint32_t i = 0; i < count; i++)
			(void)list_take_first(&batch->unsaid);
		did_work = true;
	}
	return did_work;
}

static void item_end_now(struct batch_item *item, int result)
{
	struct batch *batch = batch_of_item(item);
	struct daemon *daemon = batch->session->daemon;
	uint32_t entry = item->entry;
	bool was_wanted = item->state == ITEM_WANTED;

	if (item->state == ITEM_DELIVERED) {
		load_release_item(batch, item);
		item->result = result;   /* in case the delivery was not reported yet */
		return;
	}
	if (item->state == ITEM_ENDED)
		return;
	if (item->state == ITEM_PULLING || item->state == ITEM_COPIED) {
		/* Its move's end tells: now, or when the device has let go of the block. */
		batch->is_cancel_due = batch->is_cancel_due || mover_pull_is_copying(item->move);
		mover_pull_stop(item->move, result);
		return;
	}
	if (item->state == ITEM_RAISED)
		load_unraise(batch, item);
	if (item->state == ITEM_PARKED)
		fetch_unpark(batch, item);
	if (item->state == ITEM_MOVING) {
		/* A store's move reads the window: its own end tells. A load's goes on without
		 * us. */
		if (batch->is_store)
			return;
		mover_forget_waiter(&item->waiter);
	}
	if (item->state == ITEM_ATTACHED)
		store_detach(daemon, item);
	if (was_wanted &&
	    cache_slot_is_current(daemon->cache, item->tier, item->slot, item->generation))
		cache_slot_drop(daemon->cache, item->tier, item->slot);
	batch_item_end(item, result);
	if (was_wanted)
		store_shard_ended(daemon, entry, batch->session->shard, -EAGAIN);
}

void batch_end_all(struct batch *batch, int result)
{
	batch->is_cancelled = true;
	batch->next = batch->count;
	for (unsigned i = 0; i < batch->count; i++)
		item_end_now(&batch->items[i], result);
}

/* Until the device's process has taken it; memory that is given back says the same. */
static void pull_cancel(struct batch *batch)
{
	struct session *session = batch->session;
	struct daemon *daemon = session->daemon;

	if (!batch->is_cancel_due)
		return;
	if (session->lend_state != LEND_LENT ||
	    daemon->pull_ops->cancel(daemon, &session->lent, batch->pull.job))
		batch->is_cancel_due = false;
}

bool batch_step(struct batch *batch)
{
	struct session *session = batch->session;
	struct daemon *daemon = session->daemon;
	bool did_work = false;

	if (!batch->is_cancelled && daemon->now_us >= batch->deadline_us) {
		daemon->counters.expired_blocks += batch->open;
		batch_end_all(batch, -ETIME);
		did_work = true;
	}
	if (!batch->is_store && !batch->is_cancelled)
		did_work = load_begin_next(batch) || did_work;
	if (batch->is_store && batch->is_pull && !batch->is_cancelled)
		did_work = store_pull_next(batch) || did_work;
	pull_cancel(batch);
	if (session->state == SESSION_CLOSING)
		while (list_take_first(&batch->unsaid) != NULL)
			did_work = true;
	else
		did_work = batch_report(batch) || did_work;
	if (batch->is_store && session->state != SESSION_CLOSING)
		did_work = store_pull_report(batch) || did_work;
	if (batch->open == 0 && batch->moving == 0 && list_is_empty(&batch->unsaid)) {
		batch_give(batch);
		did_work = true;
	}
	return did_work;
}

static bool session_batches_step(struct session *session)
{
	bool did_work = false;
	struct list_node *node = list_first(&session->batches);

	while (node != NULL) {
		struct batch *batch = list_item(node, struct batch, link);

		node = list_after(&session->batches, node);
		did_work = batch_step(batch) || did_work;
	}
	return did_work;
}

bool batches_step(struct daemon *daemon)
{
	struct session *session = NULL;
	bool did_work = false;

	if (daemon->batches->used == 0)
		return false;
	did_work = store_attached_step(daemon);
	while ((session = server_session_after(daemon, session)) != NULL)
		if (session->batches_count > 0)
			did_work = session_batches_step(session) || did_work;
	return did_work;
}

unsigned batches_count(const struct daemon *daemon)
{
	return daemon->batches->used;
}
