/* tests/daemon/rig_blocks.c: stores and loads of a client in the rig; a loaded block counts only
 * when it passes all that libkvtier asks of it, and then it must hold just what was stored. */
#include "tests/daemon/rig.h"

#include "base/checksum.h"
#include "tests/daemon/rig_gpu.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW_ALIGN 4096u
#define PAYLOAD_MAX (UINT64_C(4) << 20)

struct rig_batch rig_last;

void rig_batch_reply(struct rig_client *client, const struct frame_store_reply *reply);
void rig_batch_event(struct rig_client *client, const struct frame_header *frame);

static uint64_t mix(uint64_t value)
{
	value += UINT64_C(0x9e3779b97f4a7c15);
	value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
	return value ^ (value >> 31);
}

void rig_hash(uint64_t key, uint8_t hash[BLOCK_HASH_BYTES])
{
	for (unsigned i = 0; i < BLOCK_HASH_BYTES / sizeof(uint64_t); i++) {
		uint64_t word = mix(key * 4 + i + 1);

		memcpy(hash + i * sizeof(word), &word, sizeof(word));
	}
}

void rig_payload(const struct rig_client *client, unsigned group, uint64_t key, uint64_t version,
		 uint8_t *target)
{
	uint64_t bytes = client->engine.groups[group].payload_bytes, word;
	uint64_t state = mix(key ^ mix(version ^ mix(group * 64 + client->engine.shard +
						     client->engine.tenant * 4096)));

	for (const char *letter = client->engine.model; *letter != '\0'; letter++)
		state = mix(state ^ (uint64_t)*letter);
	for (uint64_t at = 0; at < bytes; at += sizeof(word)) {
		word = at == 0 ? version : (state = state * UINT64_C(6364136223846793005) + 1);
		memcpy(target + at, &word, bytes - at < sizeof(word) ? bytes - at : sizeof(word));
	}
}

static struct rig_batch *batch_take(struct rig_client *client, const struct rig_blocks *blocks,
				    bool is_store)
{
	unsigned place = 0;

	while (place < RIG_BATCHES_MAX && client->batches[place].is_used)
		place++;
	assert(place < RIG_BATCHES_MAX && blocks->count >= 1 && blocks->count <= FRAME_KEYS_MAX);
	struct rig_batch *batch = &client->batches[place];
	memset(batch, 0, offsetof(struct rig_batch, keys));
	batch->is_used = true;
	batch->is_store = is_store;
	batch->id = ++client->batches_ever;
	batch->version = blocks->version;
	batch->group = blocks->group;
	batch->count = blocks->count;
	batch->is_pull = blocks->is_pull;
	batch->is_uncommitted = blocks->is_uncommitted;
	for (unsigned i = 0; i < blocks->count; i++) {
		batch->keys[i] = blocks->first + i;
		batch->results[i] = RIG_OPEN;
		batch->versions[i] = 0;
		batch->admissions[i] = FRAME_ADMISSIONS;
		batch->was_copied[i] = false;
	}
	return batch;
}

void rig_batch_give(struct rig_batch *batch)
{
	batch->is_used = false;
}

static void pull_write(struct frame_pull *pull, const struct rig_batch *batch,
		       const struct rig_blocks *blocks)
{
	pull->job = batch->id;
	pull->job_place = (uint32_t)(batch->id % RIG_GPU_JOBS);
	pull->gate_value = blocks->gate_value;
}

static struct rig_batch *batch_find(struct rig_client *client, uint64_t id)
{
	for (unsigned i = 0; i < RIG_BATCHES_MAX; i++)
		if (client->batches[i].is_used && client->batches[i].id == id)
			return &client->batches[i];
	return NULL;
}

/* Exactly one result a block. */
static void result_set(struct rig_batch *batch, unsigned index, int result)
{
	assert(index < batch->count);
	assert(batch->results[index] == RIG_OPEN);
	batch->results[index] = result;
	batch->ended++;
}

struct rig_batch *rig_store_begin(struct rig_client *client, const struct rig_blocks *blocks)
{
	struct rig_batch *batch = batch_take(client, blocks, true);
	struct frame_store *frame = rig_frame(
		client, FRAME_STORE,
		sizeof(*frame) + blocks->count * sizeof(struct frame_store_item));
	struct frame_store_item *items = (struct frame_store_item *)(frame + 1);

	frame->batch = batch->id;
	frame->deadline_us = blocks->deadline_us != 0 ? blocks->deadline_us : RIG_DEADLINE_US;
	frame->space = blocks->space != 0 ? blocks->space : client->space;
	frame->group = (uint16_t)blocks->group;
	frame->count = (uint16_t)blocks->count;
	frame->has_parent = blocks->parent != 0;
	if (blocks->parent != 0)
		rig_hash(blocks->parent, frame->parent);
	for (unsigned i = 0; i < blocks->count; i++) {
		rig_hash(batch->keys[i], items[i].hash);
		items[i].route_key = mix(batch->keys[i]);
		items[i].engine_block = blocks->is_pull ? i : 0;
	}
	if (blocks->is_pull) {
		rig_gpu_fill(client, batch);
		frame->header.flags = FRAME_PULL;
		pull_write(&frame->pull, batch, blocks);
	}
	rig_send(client, FRAME_DATA);
	return batch;
}

void rig_batch_reply(struct rig_client *client, const struct frame_store_reply *reply)
{
	struct rig_batch *batch = batch_find(client, reply->batch);
	const uint8_t *admissions = (const uint8_t *)(reply + 1);

	if (batch == NULL)
		return;
	assert(!batch->is_replied && batch->is_store && reply->count == batch->count);
	batch->is_replied = true;
	for (unsigned i = 0; i < batch->count; i++) {
		batch->admissions[i] = admissions[i];
		if (admissions[i] != FRAME_ADMITTED && admissions[i] != FRAME_ATTACHED_TO_OTHER)
			result_set(batch, i, admissions[i] == FRAME_PRESENT ? 1 : -ENOSPC);
	}
}

static uint64_t window_take(struct rig_client *client, uint64_t bytes)
{
	bytes = (bytes + WINDOW_ALIGN - 1) / WINDOW_ALIGN * WINDOW_ALIGN;
	assert(bytes <= client->window_bytes);
	if (client->window_at + bytes > client->window_bytes)
		client->window_at = 0;
	client->window_at += bytes;
	return client->window_at - bytes;
}

static void commit_fill(struct rig_client *client, const struct rig_batch *batch, unsigned index,
			struct frame_commit_item *item)
{
	const struct frame_group *group = &client->engine.groups[batch->group];
	uint64_t segment_bytes = slot_segment_bytes(group->payload_bytes, group->segments_count);
	uint32_t *crcs = (uint32_t *)(item + 1);

	item->index = index;
	item->segments_count = group->segments_count;
	item->window_offset = window_take(client, group->payload_bytes);
	uint8_t *payload = client->window + item->window_offset;
	rig_payload(client, batch->group, batch->keys[index], batch->version, payload);
	for (uint32_t i = 0; i < group->segments_count; i++) {
		uint64_t begin = i * segment_bytes;
		uint64_t left = group->payload_bytes > begin ? group->payload_bytes - begin : 0;

		crcs[i] = crc32c(payload + begin, left < segment_bytes ? left : segment_bytes);
	}
}

void rig_store_commit(struct rig_client *client, struct rig_batch *batch)
{
	size_t item_bytes = frame_commit_item_bytes(
		client->engine.groups[batch->group].segments_count);
	size_t bytes = sizeof(struct frame_commit);
	struct frame_commit *frame = rig_frame(client, FRAME_COMMIT, bytes);

	assert(batch->is_replied);
	frame->batch = batch->id;
	for (unsigned i = 0; i < batch->count; i++) {
		if (batch->admissions[i] != FRAME_ADMITTED || batch->results[i] != RIG_OPEN)
			continue;
		memset(client->out + bytes, 0, item_bytes);
		commit_fill(client, batch, i, (struct frame_commit_item *)(client->out + bytes));
		bytes += item_bytes;
		frame->count++;
	}
	frame->header.bytes = (uint32_t)bytes;
	if (frame->count > 0)
		rig_send(client, FRAME_DATA);
}

void rig_pull_commit(struct rig_client *client, struct rig_batch *batch, unsigned index)
{
	struct frame_commit *frame = rig_frame(
		client, FRAME_COMMIT, sizeof(*frame) + sizeof(struct frame_commit_item));

	frame->batch = batch->id;
	frame->count = 1;
	((struct frame_commit_item *)(frame + 1))->index = index;
	rig_send(client, FRAME_DATA);
}

void rig_batch_await(struct rig *rig, struct rig_batch *batch)
{
	for (unsigned i = 0; batch->ended < batch->count; i++)
		if (!rig_waits_on(rig, i))
			return;
}

unsigned rig_batch_count(const struct rig_batch *batch, int result)
{
	unsigned count = 0;

	for (unsigned i = 0; i < batch->count; i++)
		count += batch->results[i] == result;
	return count;
}

unsigned rig_store(struct rig_client *client, const struct rig_blocks *blocks)
{
	struct rig_batch *batch = rig_store_begin(client, blocks);

	for (unsigned i = 0; !batch->is_replied; i++)
		if (!rig_waits_on(client->rig, i))
			break;
	if (batch->is_replied && !batch->is_pull)
		rig_store_commit(client, batch);
	rig_batch_await(client->rig, batch);
	rig_last = *batch;
	rig_batch_give(batch);
	return rig_batch_count(&rig_last, 0) + rig_batch_count(&rig_last, 1);
}

struct rig_batch *rig_load_begin(struct rig_client *client, const struct rig_blocks *blocks)
{
	struct rig_batch *batch = batch_take(client, blocks, false);
	size_t item_bytes = BLOCK_HASH_BYTES + (blocks->is_pull ? sizeof(uint32_t) : 0);
	struct frame_load *frame = rig_frame(client, FRAME_LOAD,
					     sizeof(*frame) + blocks->count * item_bytes);
	uint8_t *hashes = (uint8_t *)(frame + 1);

	frame->batch = batch->id;
	frame->lease = blocks->lease;
	frame->deadline_us = blocks->deadline_us != 0 ? blocks->deadline_us : RIG_DEADLINE_US;
	frame->space = blocks->space != 0 ? blocks->space : client->space;
	frame->group = (uint16_t)blocks->group;
	frame->count = (uint16_t)blocks->count;
	for (unsigned i = 0; i < blocks->count; i++)
		rig_hash(batch->keys[i], hashes + i * BLOCK_HASH_BYTES);
	if (blocks->is_pull) {
		frame->header.flags = FRAME_PULL;
		pull_write(&frame->pull, batch, blocks);
		for (uint32_t i = 0; i < blocks->count; i++)
			((uint32_t *)(hashes + blocks->count * BLOCK_HASH_BYTES))[i] = i;
	}
	rig_send(client, FRAME_DATA);
	return batch;
}

void rig_release(struct rig_client *client, struct rig_batch *batch, unsigned index, bool is_bad)
{
	struct frame_release *frame = rig_frame(client, FRAME_RELEASE,
						sizeof(*frame) + sizeof(struct frame_release_item));
	struct frame_release_item *item = (struct frame_release_item *)(frame + 1);

	frame->batch = batch->id;
	frame->count = 1;
	item->index = index;
	item->bad = is_bad;
	rig_send(client, FRAME_DATA);
}

void rig_cancel(struct rig_client *client, struct rig_batch *batch)
{
	struct frame_cancel *frame = rig_frame(client, FRAME_CANCEL, sizeof(*frame));

	frame->batch = batch->id;
	rig_send(client, FRAME_DATA);
}

static bool slot_is_unchanged(const struct slot_header *slot, const struct slot_header *header)
{
	return memcmp(&slot->identity, &header->identity, sizeof(slot->identity)) == 0 &&
	       memcmp(&slot->address[TIER_CPU], &header->address[TIER_CPU],
		      sizeof(slot->address[0])) == 0;
}

static bool payload_is_proven(const struct slot_header *header, const struct frame_group *group,
			      const uint8_t *payload)
{
	uint64_t segment_bytes = slot_segment_bytes(group->payload_bytes, group->segments_count);

	for (uint32_t i = 0; i < group->segments_count; i++) {
		uint64_t begin = i * segment_bytes;
		uint64_t left = group->payload_bytes > begin ? group->payload_bytes - begin : 0;

		if (crc32c(payload + begin, left < segment_bytes ? left : segment_bytes) !=
		    header->identity.segment_crcs[i])
			return false;
	}
	return true;
}

/* Believes a slot as libkvtier does. 0: `payload` is proven; -ENOENT; -EBADMSG. */
static int slot_believe(struct rig_client *client, struct rig_batch *batch, unsigned index,
			uint8_t *payload)
{
	const struct frame_group *group = &client->engine.groups[batch->group];
	const struct frame_loaded_item *item = &batch->items[index];
	const struct slot_header *slot = (const struct slot_header *)(client->arena +
								      client->units_offset +
								      item->offset);
	uint8_t hash[BLOCK_HASH_BYTES];
	struct slot_header header;
	enum slot_verdict verdict;

	rig_hash(batch->keys[index], hash);
	memcpy(&header, slot, sizeof(header));
	struct slot_expectation expected = {
		.space = client->fingerprint,
		.hash = hash,
		.device = header.address[TIER_CPU].device,
		.offset = item->offset,
		.slot_bytes = slot_bytes_for(group->payload_bytes),
		.group = batch->group,
		.shard = client->engine.shard,
		.slot_generation = item->slot_generation,
	};
	verdict = slot_header_check(&header, TIER_CPU, &expected);
	if (verdict == SLOT_GOOD && (header.identity.payload_bytes != group->payload_bytes ||
				     header.identity.segments_count != group->segments_count))
		verdict = SLOT_STALE;
	if (verdict == SLOT_DAMAGED)
		return -EBADMSG;
	if (verdict != SLOT_GOOD)
		return -ENOENT;
	memcpy(payload, slot + 1, group->payload_bytes);
	if (!slot_is_unchanged(slot, &header))
		return -ENOENT;
	return payload_is_proven(&header, group, payload) ? 0 : -EBADMSG;
}

/* What is believed must be what was stored, under some version. */
static void payload_compare(struct rig_client *client, struct rig_batch *batch, unsigned index,
			    const uint8_t *payload)
{
	static uint8_t expected[PAYLOAD_MAX];
	uint64_t bytes = client->engine.groups[batch->group].payload_bytes;

	memcpy(&batch->versions[index], payload, sizeof(uint64_t));
	rig_payload(client, batch->group, batch->keys[index], batch->versions[index], expected);
	if (memcmp(payload, expected, bytes) == 0)
		return;
	fprintf(stderr, "WRONG BYTES were served: key %llu, group %u, version read %llu\n",
		(unsigned long long)batch->keys[index], batch->group,
		(unsigned long long)batch->versions[index]);
	abort();
}

static void loaded_take(struct rig_client *client, struct rig_batch *batch,
			const struct frame_loaded_item *item)
{
	static uint8_t payload[PAYLOAD_MAX];
	int result = item->result;

	batch->items[item->index] = *item;
	assert(result <= 0);
	if (batch->is_pull && result == 0) {
		assert(item->offset == 0 && item->slot_generation == 0);
		rig_gpu_gather(client, batch->group, item->index, payload);
	}
	if (result == 0 && !batch->is_pull)
		result = slot_believe(client, batch, item->index, payload);
	if (result == 0)
		payload_compare(client, batch, item->index, payload);
	client->served += result == 0;
	client->misses += result < 0 && item->result < 0;
	client->detected += result < 0 && item->result == 0;
	result_set(batch, item->index, result);
	if (item->result == 0 && !batch->is_kept && !batch->is_pull)
		rig_release(client, batch, item->index, result == -EBADMSG || batch->is_lying);
}

void rig_batch_event(struct rig_client *client, const struct frame_header *frame)
{
	const struct frame_loaded *head = (const struct frame_loaded *)frame;
	struct rig_batch *batch = batch_find(client, head->batch);

	if (batch == NULL)
		return;
	for (uint32_t i = 0; i < head->count; i++) {
		if (frame->type == FRAME_LOADED) {
			loaded_take(client, batch,
				    (const struct frame_loaded_item *)(head + 1) + i);
			continue;
		}
		const struct frame_result *result = (const struct frame_result *)(head + 1) + i;
		if (frame->type == FRAME_COPIED) {
			assert(batch->is_pull && result->result == 0);
			assert(batch->results[result->index] == RIG_OPEN);
			assert(!batch->was_copied[result->index]);
			batch->was_copied[result->index] = true;
			if (!batch->is_uncommitted)
				rig_pull_commit(client, batch, result->index);
			continue;
		}
		result_set(batch, result->index, result->result);
	}
}

unsigned rig_load(struct rig_client *client, const struct rig_blocks *blocks)
{
	struct rig_batch *batch = rig_load_begin(client, blocks);

	rig_batch_await(client->rig, batch);
	rig_last = *batch;
	rig_batch_give(batch);
	return rig_batch_count(&rig_last, 0);
}
