/* client/kvtier_store.c: the copier's part of a store: ask, gather into the window (or hear that
 * the daemon has copied it, where it pulls), commit, hear what became of it. */
#include "client/client.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static int store_ask(struct kvtier_client *client, struct job *job)
{
	struct copier *copier = &client->copier;
	struct batch *batch = &job->batch;
	struct frame_store *frame = (struct frame_store *)copier->link.outgoing;
	struct frame_store_item *items = (struct frame_store_item *)(frame + 1);
	bool is_pulled = client_is_pulled(client);
	uint64_t now_us = client_now_us();
	uint32_t handle;

	batch_begin(client, job, BATCH_ASKING, &handle);
	memset(frame, 0, sizeof(*frame));
	frame_start(&frame->header, FRAME_STORE,
		    (uint32_t)(sizeof(*frame) + batch->count * sizeof(*items)), batch->number,
		    copier->link.boot_id);
	memcpy(frame->tag, job->tag, sizeof(frame->tag));
	frame->batch = batch->number;
	frame->deadline_us = job->deadline_us > now_us ? job->deadline_us - now_us : 0;
	frame->space = handle;
	frame->first_position = job->first_position + batch->first;
	frame->group = (uint16_t)job->group;
	frame->count = (uint16_t)batch->count;
	frame->has_parent = batch->first > 0 || job->has_parent;
	memcpy(frame->parent, batch->first > 0 ? job->blocks[batch->first - 1].hash : job->parent,
	       sizeof(frame->parent));
	for (uint32_t i = 0; i < batch->count; i++) {
		memcpy(items[i].hash, job->blocks[batch->first + i].hash, sizeof(items[i].hash));
		items[i].route_key = job->blocks[batch->first + i].route_key;
		items[i].engine_block = is_pulled ? job->blocks[batch->first + i].engine_block : 0;
		items[i].reserved = 0;
	}
	if (is_pulled) {
		frame->header.flags = FRAME_PULL;
		frame->pull = pull_of(client, job);
	}
	return copier_send(copier);
}

int store_replied(struct kvtier_client *client, struct job *job,
		  const struct frame_store_reply *frame)
{
	struct batch *batch = &job->batch;
	const uint8_t *admissions = (const uint8_t *)(frame + 1);
	int refusal = frame->header.result;
	/* What the daemon has begun to pull is waited for: it counts as its batch so long. */
	bool is_dropped = batch->is_cancelled && !client_is_pulled(client);

	if (batch->state != BATCH_ASKING || (refusal >= 0 && frame->count != batch->count))
		return -EPROTO;
	batch->state = BATCH_MOVING;
	for (uint32_t i = 0; i < batch->count; i++) {
		enum frame_admission admission = refusal < 0 ? FRAME_REFUSED_FULL : admissions[i];

		if (!is_dropped && admission == FRAME_ADMITTED) {
			batch->items[i] = ITEM_WANTED;
		} else if (!is_dropped && admission == FRAME_ATTACHED_TO_OTHER) {
			batch->items[i] = ITEM_WAITING;
		} else {
			job_set_result(client, job, batch->first + i,
				       admission == FRAME_PRESENT ? 1
				       : refusal < 0              ? refusal
								  : -ENOSPC);
			batch_item_over(job, i);
		}
	}
	return 0;
}

/* Nothing of a cancelled batch is committed any more; what is committed still holds its place in
 * the window. */
static void store_drop_uncommitted(struct job *job)
{
	struct batch *batch = &job->batch;

	for (uint32_t i = 0; i < batch->count; i++)
		if (batch->items[i] == ITEM_WANTED || batch->items[i] == ITEM_WAITING)
			batch_item_over(job, i);
}

/* Gathers one block behind the COMMIT that is being built. 1: done; 0: the window is full, or the
 * job has ended. */
static int store_gather(struct kvtier_client *client, struct job *job, uint32_t index,
			uint8_t *target)
{
	struct copier *copier = &client->copier;
	struct batch *batch = &job->batch;
	const struct group *group = &client->groups[job->group];
	struct frame_commit_item *item = (struct frame_commit_item *)target;
	uint64_t offset;

	if (!window_take(&copier->window, group->frame.payload_bytes, &batch->places[index],
			 &offset))
		return 0;
	if (!job_enter_block(client, job)) {
		window_give(&copier->window, batch->places[index]);
		return 0;
	}
	copier_call_block_hook();
	memset(target, 0, frame_commit_item_bytes(group->frame.segments_count));
	group_gather(group, job->blocks[batch->first + index].engine_block,
		     copier->window_memory + offset, (uint32_t *)(item + 1));
	job_leave_block(client, job);
	item->index = index;
	item->segments_count = group->frame.segments_count;
	item->window_offset = offset;
	batch->items[index] = ITEM_COMMITTED;
	return 1;
}

/* Gathers a few blocks and commits them: the daemon's mills work on them while we gather the next.
 */
static int store_commit_some(struct kvtier_client *client, struct job *job)
{
	struct copier *copier = &client->copier;
	struct batch *batch = &job->batch;
	struct frame_commit *frame = (struct frame_commit *)copier->link.outgoing;
	size_t item_bytes = frame_commit_item_bytes(
		client->groups[job->group].frame.segments_count);
	uint32_t count = 0;
	int result;

	while (count < CLIENT_COMMIT_BLOCKS && batch->next < batch->count) {
		if (batch->items[batch->next] == ITEM_WANTED) {
			if (store_gather(client, job, batch->next,
					 (uint8_t *)(frame + 1) + count * item_bytes) == 0)
				break;
			count++;
		}
		batch->next++;
	}
	if (count == 0)
		return 0;
	memset(frame, 0, sizeof(*frame));
	frame_start(&frame->header, FRAME_COMMIT, (uint32_t)(sizeof(*frame) + count * item_bytes),
		    0, copier->link.boot_id);
	frame->batch = batch->number;
	frame->count = count;
	result = copier_send(copier);
	return result < 0 ? result : 1;
}

/* A block that the whole window could not hold is refused here, or it would be waited for until the
 * deadline. */
static void store_refuse_too_long(struct kvtier_client *client, struct job *job)
{
	struct batch *batch = &job->batch;

	for (uint32_t i = 0; i < batch->count; i++) {
		if (batch->items[i] != ITEM_WANTED)
			continue;
		job_set_result(client, job, batch->first + i, -ENOSPC);
		batch_item_over(job, i);
	}
}

int store_copied(struct kvtier_client *client, struct job *job, const struct frame_copied *frame)
{
	struct batch *batch = &job->batch;
	const struct frame_result *results = (const struct frame_result *)(frame + 1);

	assert(client_is_pulled(client));
	if (batch->state != BATCH_MOVING)
		return -EPROTO;
	for (uint32_t i = 0; i < frame->count; i++) {
		uint32_t index = results[i].index;

		if (index >= batch->count || results[i].result != 0)
			return -EPROTO;
		if (batch->items[index] == ITEM_OVER && batch->is_cancelled)
			continue; /* we did not wait for it */
		if (batch->items[index] != ITEM_WANTED)
			return -EPROTO;
		batch->items[index] = ITEM_COPIED;
		batch->copied_count++;
	}
	return 0;
}

/* Commits what the daemon has copied. The caller has not written into these blocks, as it may do
 * so only after the job has ended: what was copied is what it meant. */
static int store_commit_copied(struct kvtier_client *client, struct job *job)
{
	struct copier *copier = &client->copier;
	struct batch *batch = &job->batch;
	struct frame_commit *frame = (struct frame_commit *)copier->link.outgoing;
	struct frame_commit_item *items = (struct frame_commit_item *)(frame + 1);
	int result;

	if (batch->copied_count == 0 || !job_enter_block(client, job))
		return 0;
	copier_call_block_hook();
	memset(frame, 0, sizeof(*frame));
	for (uint32_t i = 0; i < batch->count; i++) {
		if (batch->items[i] != ITEM_COPIED)
			continue;
		items[frame->count++] = (struct frame_commit_item){ .index = i };
		batch->items[i] = ITEM_COMMITTED;
	}
	assert(frame->count == batch->copied_count);
	batch->copied_count = 0;
	frame_start(&frame->header, FRAME_COMMIT,
		    (uint32_t)(sizeof(*frame) + frame->count * sizeof(*items)), 0,
		    copier->link.boot_id);
	frame->batch = batch->number;
	result = copier_send(copier);
	job_leave_block(client, job);
	return result < 0 ? result : 1;
}

/* The job has ended: the daemon is told so once. What it pulls is waited for, but not for ever. */
static int store_abandon(struct kvtier_client *client, struct job *job)
{
	struct batch *batch = &job->batch;
	int result;

	if (client_is_pulled(client)) {
		if (batch->state == BATCH_MOVING &&
		    client_now_us() > job->deadline_us + CLIENT_GRACE_US)
			batch_give_up(job);
	} else if (!batch->is_cancelled) {
		store_drop_uncommitted(job);
	}
	if (batch->is_cancelled)
		return 0;
	result = batch_cancel(&client->copier, job);
	return result < 0 ? result : 1;
}

int store_step(struct kvtier_client *client, struct job *job, bool is_open)
{
	struct copier *copier = &client->copier;
	struct batch *batch = &job->batch;
	bool is_pulled = client_is_pulled(client);
	bool is_too_long = !is_pulled && client->groups[job->group].frame.payload_bytes >
						 copier->window.bytes;
	int result;

	if (!copier_can_send(copier))
		return 0;
	if (batch->state == BATCH_NONE) {
		result = store_ask(client, job);
		return result < 0 ? result : 1;
	}
	if (batch->state == BATCH_MOVING && is_too_long)
		store_refuse_too_long(client, job);
	if (batch->state == BATCH_MOVING && batch->left == 0) {
		batch_end(copier, job);
		return 1;
	}
	if (!is_open)
		return store_abandon(client, job);
	if (batch->state != BATCH_MOVING)
		return 0;
	return is_pulled ? store_commit_copied(client, job) : store_commit_some(client, job);
}

/* Whether a result may come of an item; what it holds is given back. */
static bool store_may_end(struct kvtier_client *client, struct batch *batch, uint32_t index)
{
	switch (batch->items[index]) {
	case ITEM_COMMITTED:
		if (!client_is_pulled(client))
			window_give(&client->copier.window, batch->places[index]);
		return true;
	case ITEM_COPIED:
		batch->copied_count--;
		return true;
	default:
		return batch->items[index] == ITEM_WAITING || batch->items[index] == ITEM_WANTED;
	}
}

int store_committed(struct kvtier_client *client, struct job *job,
		    const struct frame_committed *frame)
{
	struct batch *batch = &job->batch;
	const struct frame_result *results = (const struct frame_result *)(frame + 1);

	if (batch->state != BATCH_MOVING)
		return -EPROTO;
	for (uint32_t i = 0; i < frame->count; i++) {
		uint32_t index = results[i].index;
		int result = results[i].result;

		if (index >= batch->count || result > 1 || result < -4095)
			return -EPROTO;
		if (batch->items[index] == ITEM_OVER && batch->is_cancelled)
			continue; /* we did not wait for it */
		if (!store_may_end(client, batch, index))
			return -EPROTO; /* a second result of the same block */
		job_set_result(client, job, batch->first + index, result);
		batch_item_over(job, index);
	}
	return 0;
}
