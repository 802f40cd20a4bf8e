/*
 * client/kvtier_load.c: the copier's part of a load. Where the daemon pulls, it moves and proves
 * the bytes. Else a block is good only when the slot's header is the right one before and after the
 * copy, and the bytes that arrived have the header's checksums. The arena can change under our
 * hands at any time: whatever is believed of it is copied first.
 */
#include "client/client.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

/* The daemon is to bring the blocks itself: where to, behind the hashes. */
static void load_ask_pull(const struct kvtier_client *client, const struct job *job,
			  struct frame_load *frame)
{
	const struct batch *batch = &job->batch;
	uint32_t *engine_blocks = (uint32_t *)((uint8_t *)frame + frame->header.bytes);

	frame->header.flags = FRAME_PULL;
	frame->header.bytes += batch->count * (uint32_t)sizeof(*engine_blocks);
	frame->pull = pull_of(client, job);
	for (uint32_t i = 0; i < batch->count; i++)
		engine_blocks[i] = job->blocks[batch->first + i].engine_block;
}

static int load_ask(struct kvtier_client *client, struct job *job)
{
	struct copier *copier = &client->copier;
	struct batch *batch = &job->batch;
	struct frame_load *frame = (struct frame_load *)copier->link.outgoing;
	uint8_t *hashes = (uint8_t *)(frame + 1);
	uint64_t now_us = client_now_us();
	uint32_t handle;

	batch_begin(client, job, BATCH_MOVING, &handle);
	memset(frame, 0, sizeof(*frame));
	frame_start(&frame->header, FRAME_LOAD,
		    (uint32_t)(sizeof(*frame) + batch->count * FRAME_HASH_BYTES), batch->number,
		    copier->link.boot_id);
	if (client_is_pulled(client))
		load_ask_pull(client, job, frame);
	memcpy(frame->tag, job->tag, sizeof(frame->tag));
	frame->batch = batch->number;
	frame->lease = job->lease;
	frame->deadline_us = job->deadline_us > now_us ? job->deadline_us - now_us : 0;
	frame->space = handle;
	frame->group = (uint16_t)job->group;
	frame->count = (uint16_t)batch->count;
	for (uint32_t i = 0; i < batch->count; i++)
		memcpy(hashes + i * FRAME_HASH_BYTES, job->blocks[batch->first + i].hash,
		       FRAME_HASH_BYTES);
	return copier_send(copier);
}

static int load_release(struct copier *copier, struct job *job)
{
	struct batch *batch = &job->batch;
	struct frame_release *frame = (struct frame_release *)copier->link.outgoing;
	size_t items_bytes = batch->releases_count * sizeof(batch->releases[0]);

	assert(batch->releases_count > 0);
	assert(copier_can_send(copier));
	memset(frame, 0, sizeof(*frame));
	frame_start(&frame->header, FRAME_RELEASE, (uint32_t)(sizeof(*frame) + items_bytes), 0,
		    copier->link.boot_id);
	frame->batch = batch->number;
	frame->count = batch->releases_count;
	memcpy(frame + 1, batch->releases, items_bytes);
	batch->releases_count = 0;
	return copier_send(copier);
}

int load_step(struct kvtier_client *client, struct job *job, bool is_open)
{
	struct copier *copier = &client->copier;
	struct batch *batch = &job->batch;
	int result;

	if (!copier_can_send(copier))
		return 0;
	if (batch->state == BATCH_NONE)
		result = load_ask(client, job);
	else if (batch->releases_count > 0)
		result = load_release(copier, job);
	else if (!is_open && !batch->is_cancelled && batch->left > 0)
		result = batch_cancel(copier, job);
	else
		goto nothing_to_say;
	return result < 0 ? result : 1;
nothing_to_say:
	if (!is_open && client_now_us() > job->deadline_us + CLIENT_GRACE_US)
		batch_give_up(job);
	if (batch->left > 0)
		return 0;
	batch_end(copier, job);
	return 1;
}

/* What must hold of a slot before a byte of it is used. */
static enum slot_verdict slot_examine(const struct kvtier_client *client, const struct job *job,
				      uint32_t index, const struct frame_loaded_item *item,
				      const struct slot_header *header)
{
	const struct group *group = &client->groups[job->group];
	struct slot_expectation expected = {
		.space = job->batch.fingerprint,
		.hash = job->blocks[job->batch.first + index].hash,
		/* Which arena this is was proven by the canary when it was mapped. */
		.device = header->address[TIER_CPU].device,
		.offset = item->offset,
		.slot_bytes = slot_bytes_for(group->frame.payload_bytes),
		.group = job->group,
		.shard = client->shard,
		.slot_generation = item->slot_generation,
	};
	enum slot_verdict verdict = slot_header_check(header, TIER_CPU, &expected);

	if (verdict == SLOT_GOOD &&
	    (header->identity.payload_bytes != group->frame.payload_bytes ||
	     header->identity.segments_count != group->frame.segments_count))
		return SLOT_STALE;
	return verdict;
}

/* Whether the slot still holds what `header`, our copy, says. */
static bool slot_is_unchanged(const struct slot_header *slot, const struct slot_header *header)
{
	/* The bytes were read before the header is looked at again, on any CPU. */
	__sync_synchronize();
	return memcmp(&slot->identity, &header->identity, sizeof(slot->identity)) == 0 &&
	       memcmp(&slot->address[TIER_CPU], &header->address[TIER_CPU],
		      sizeof(slot->address[0])) == 0;
}

/* Copies one block out of its slot. 0; -ENOENT: it is not what was asked for (any more); -EBADMSG:
 * it is damaged. */
static int load_copy(struct kvtier_client *client, struct job *job, uint32_t index,
		     const struct frame_loaded_item *item)
{
	const struct copier *copier = &client->copier;
	const struct group *group = &client->groups[job->group];
	const struct slot_header *slot = (const struct slot_header *)(copier->arena +
								      copier->units_offset +
								      item->offset);
	struct slot_header header;
	uint32_t crcs[SLOT_SEGMENTS_MAX] = { 0 }; /* an empty segment's is 0 */
	enum slot_verdict verdict;

	memcpy(&header, slot, sizeof(header));
	verdict = slot_examine(client, job, index, item, &header);
	if (verdict == SLOT_DAMAGED && slot_is_unchanged(slot, &header))
		return -EBADMSG;
	if (verdict != SLOT_GOOD)
		return -ENOENT;
	group_scatter(group, job->blocks[job->batch.first + index].engine_block,
		      (const uint8_t *)(slot + 1), crcs);
	copier_call_block_hook();
	if (!slot_is_unchanged(slot, &header))
		return -ENOENT;
#ifndef KVTIER_PLANT_CHECKSUM
	if (memcmp(crcs, header.identity.segment_crcs,
		   group->frame.segments_count * sizeof(crcs[0])) != 0)
		return -EBADMSG;
#endif
	return 0;
}

/* One block arrived in the arena, or (pull) proven in the engine's own, or will not come. */
static int load_take_item(struct kvtier_client *client, struct job *job,
			  const struct frame_loaded_item *item)
{
	struct copier *copier = &client->copier;
	struct batch *batch = &job->batch;
	uint64_t units_bytes = copier->arena_bytes - copier->units_offset;
	uint64_t slot_bytes = slot_bytes_for(client->groups[job->group].frame.payload_bytes);
	bool is_pulled = client_is_pulled(client);
	int result = item->result;

	if (item->index >= batch->count || batch->items[item->index] != ITEM_ASKED || result > 0)
		return -EPROTO;
	if (result == 0 && !is_pulled) {
		if (item->offset % SLOT_ALIGN_BYTES != 0 || slot_bytes > units_bytes ||
		    item->offset > units_bytes - slot_bytes)
			return -EPROTO;
		result = -ECANCELED;
		if (job_enter_block(client, job)) {
			result = load_copy(client, job, item->index, item);
			/* Known before the block is left: after that the job may be reported. */
			job_set_result(client, job, batch->first + item->index, result);
			job_leave_block(client, job);
		}
		batch->releases[batch->releases_count++] = (struct frame_release_item){
			.index = item->index,
			.bad = result == -EBADMSG,
		};
	} else {
		if (result < 0 && result != -ETIME && result != -ECANCELED &&
		    !(is_pulled && result == -EBADMSG))
			result = -ENOENT;
		job_set_result(client, job, batch->first + item->index, result);
	}
	batch_item_over(job, item->index);
	return 0;
}

int load_loaded(struct kvtier_client *client, struct job *job, const struct frame_loaded *frame)
{
	struct copier *copier = &client->copier;
	const struct frame_loaded_item *items = (const struct frame_loaded_item *)(frame + 1);

	if (job->batch.state != BATCH_MOVING)
		return -EPROTO;
	for (uint32_t i = 0; i < frame->count; i++) {
		int result = load_take_item(client, job, &items[i]);

		if (result == 0 && job->batch.releases_count >= CLIENT_RELEASE_ITEMS &&
		    copier_can_send(copier))
			result = load_release(copier, job);
		if (result < 0)
			return result;
	}
	return 0;
}
