/* daemon/store_pull.c: stores whose blocks the daemon pulls out of lent memory: copied as soon as
 * they are wanted, READY only once the client says that they had not changed meanwhile. */
#include "daemon/batch.h"
#include "daemon/server.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static void ended(struct waiter *waiter, int result, uint32_t cpu_slot)
{
	struct batch_item *item = list_item(waiter, struct batch_item, waiter);
	struct batch *batch = batch_of_item(item);
	struct session *session = batch->session;
	uint32_t entry = item->entry;

	(void)cpu_slot;
	assert(item->state == ITEM_PULLING || item->state == ITEM_COPIED ||
	       item->state == ITEM_MOVING);
	if (item->attached.next != NULL)
		list_remove(&batch->aside, &item->attached);
	item->move = NULL;
	batch_item_end(item, result);
	store_shard_ended(session->daemon, entry, session->shard, result == 0 ? 0 : -EAGAIN);
	assert(session->pulls > 0 && session->tenant->pulls_count > 0);
	session->pulls--;
	session->tenant->pulls_count--;
	session_unuse(session);
}

static void copied(struct waiter *waiter)
{
	struct batch_item *item = list_item(waiter, struct batch_item, waiter);

	assert(item->state == ITEM_PULLING);
	item->state = ITEM_COPIED;
	list_append(&batch_of_item(item)->aside, &item->attached);
}

/* False: no move is free, try later. */
static bool item_begin(struct batch *batch, struct batch_item *item)
{
	struct session *session = batch->session;
	struct daemon *daemon = session->daemon;
	struct slot_identity identity;
	const struct pull_order pull = {
		.lent = &session->lent,
		.bytes = session->engine->groups[batch->group].payload_bytes,
		.gate = batch->pull,
		.group = batch->group,
		.block = item->engine_block,
		.deadline_us = batch->deadline_us,
		.copied = copied,
	};
	const struct store_order order = {
		.tenant = session->tenant,
		.entry = item->entry,
		.shard = session->shard,
		.tier = item->tier,
		.slot = item->slot,
		.identity = &identity,
		.deadline_us = batch->deadline_us,
		.waiter = &item->waiter,
		.pull = &pull,
	};

	if (!cache_slot_is_current(daemon->cache, item->tier, item->slot, item->generation)) {
		batch_item_end(item, -ECANCELED);
		store_shard_ended(daemon, order.entry, session->shard, -EAGAIN);
		return true;
	}
	store_identity(batch, item, NULL, &identity);
	item->waiter.done = ended;
	if (mover_pull_store(daemon, &order, &item->move) < 0)
		return false;
	item->state = ITEM_PULLING;
	batch->moving++;
	session->users++;
	session->pulls++;
	session->tenant->pulls_count++;
	return true;
}

bool store_pull_next(struct batch *batch)
{
	struct session *session = batch->session;
	unsigned pulls_max = mover_pulls_max(session->daemon);
	bool did_work = false;

	assert(batch->is_store && batch->is_pull);
	while (batch->next < batch->count) {
		struct batch_item *item = &batch->items[batch->next];

		if (item->state == ITEM_WANTED &&
		    (session->tenant->pulls_count >= pulls_max || !item_begin(batch, item)))
			return did_work;
		batch->next++;
		did_work = true;
	}
	return did_work;
}

int store_pull_commit(struct batch_item *item)
{
	if (item->state == ITEM_WANTED || item->state == ITEM_PULLING)
		return -EPROTO;
	/* Ended meanwhile, or committed already. */
	if (item->state != ITEM_COPIED)
		return 0;
	if (item->attached.next != NULL)
		return -EPROTO;
	item->state = ITEM_MOVING;
	mover_pull_commit(item->move);
	return 0;
}

static uint32_t report_fill(struct batch *batch, struct frame_copied *frame)
{
	struct frame_result *results = (struct frame_result *)(frame + 1);
	uint32_t count = 0;

	for (struct list_node *node = list_first(&batch->aside); node != NULL;
	     node = list_after(&batch->aside, node), count++)
		results[count] = (struct frame_result){
			.index = list_item(node, struct batch_item, attached)->index,
		};
	assert(count <= batch->count);
	frame->batch = batch->id;
	frame->count = count;
	frame->reserved = 0;
	return (uint32_t)(sizeof(*frame) + count * sizeof(*results));
}

bool store_pull_report(struct batch *batch)
{
	struct frame_copied *frame = server_scratch(batch->session->daemon);

	if (list_is_empty(&batch->aside) ||
	    session_event(batch->session, frame, report_fill(batch, frame), FRAME_COPIED) ==
		    -EAGAIN)
		return false;
	while (list_take_first(&batch->aside) != NULL)
		;
	return true;
}
