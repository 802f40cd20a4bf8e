/* tests/daemon/rig_calls.c: lookups, hints and the operator's calls of a client in the rig. */
#include "tests/daemon/rig.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static size_t section_write(struct rig_client *client, size_t at, const struct rig_keys *keys)
{
	struct frame_keys section = {
		.first_position = keys->first_position,
		.group = (uint16_t)keys->group,
		.count = (uint16_t)keys->count,
	};

	memcpy(client->out + at, &section, sizeof(section));
	at += sizeof(section);
	for (unsigned i = 0; i < keys->count; i++, at += BLOCK_HASH_BYTES)
		rig_hash(keys->first + i, client->out + at);
	return at;
}

/* Writes one frame of a lookup; the caller says what sets it apart from the others. */
struct frame_lookup *rig_lookup_write(struct rig_client *client, const struct rig_keys *keys,
				      unsigned count)
{
	struct frame_lookup *frame = rig_frame(client, FRAME_LOOKUP, sizeof(*frame));
	size_t bytes = sizeof(*frame);

	for (unsigned i = 0; i < count; i++)
		bytes = section_write(client, bytes, &keys[i]);
	frame->header.bytes = (uint32_t)bytes;
	frame->space = client->space;
	frame->sections_count = count;
	return frame;
}

/* Sends the last frame, which lies in client->out, and takes the answer apart. */
struct rig_found rig_found_ask(struct rig_client *client)
{
	static struct rig_found found;
	const struct frame_found *reply = (const struct frame_found *)client->reply;

	memset(&found, 0, sizeof(found));
	found.result = rig_ask(client, FRAME_CONTROL, FRAME_FOUND);
	if (found.result < 0)
		return found;
	found.lease = reply->lease;
	found.lease_us = reply->lease_us;
	found.usable_tokens = reply->usable_tokens;
	found.worth_tokens = reply->worth_tokens;
	found.keys_count = reply->keys_count;
	found.runs_count = reply->runs_count;
	memcpy(found.runs, reply + 1, reply->runs_count * sizeof(struct frame_run));
	memcpy(found.bits,
	       (const uint8_t *)(reply + 1) + reply->runs_count * sizeof(struct frame_run),
	       (reply->keys_count + 7) / 8);
	return found;
}

struct rig_found rig_lookup_weighed(struct rig_client *client, const struct rig_keys *keys,
				    unsigned count, uint64_t lease_us,
				    const struct worth_cost *cost)
{
	struct frame_lookup *frame = rig_lookup_write(client, keys, count);

	frame->header.flags = FRAME_LAST;
	frame->lease_us = lease_us;
	frame->cost_a = cost->a;
	frame->cost_b = cost->b;
	frame->cost_c = cost->c;
	return rig_found_ask(client);
}

struct rig_found rig_lookup(struct rig_client *client, const struct rig_keys *keys, unsigned count,
			    uint64_t lease_us)
{
	return rig_lookup_weighed(client, keys, count, lease_us, &(struct worth_cost){ 0 });
}

static struct frame_lookup *frame_of(struct rig_lookup *lookup, const struct rig_keys *keys)
{
	struct frame_lookup *frame = rig_lookup_write(lookup->client, keys, 1);

	if (lookup->request == 0)
		lookup->request = frame->header.request;
	frame->header.request = lookup->request;
	memset(frame->tag, lookup->tag, sizeof(frame->tag));
	frame->lease_us = lookup->lease_us;
	return frame;
}

void rig_lookup_frame(struct rig_lookup *lookup, const struct rig_keys *keys)
{
	(void)frame_of(lookup, keys);
	rig_send(lookup->client, FRAME_CONTROL);
	rig_settle(lookup->client->rig);
}

struct rig_found rig_lookup_last(struct rig_lookup *lookup, const struct rig_keys *keys)
{
	frame_of(lookup, keys)->header.flags = FRAME_LAST;
	return rig_found_ask(lookup->client);
}

unsigned rig_usable(struct rig_client *client, uint64_t first, unsigned count)
{
	struct rig_keys keys = { .first = first, .count = count };

	return rig_lookup(client, &keys, 1, 0).usable_tokens / RIG_TOKENS;
}

void rig_lease_release(struct rig_client *client, uint64_t lease)
{
	struct frame_lease_release *frame = rig_frame(client, FRAME_LEASE_RELEASE, sizeof(*frame));

	frame->lease = lease;
	rig_send(client, FRAME_CONTROL);
	rig_settle(client->rig);
}

int rig_forget(struct rig_client *client, uint32_t space)
{
	struct frame_forget *frame = rig_frame(client, FRAME_FORGET, sizeof(*frame));

	frame->space = space;
	return rig_ask(client, FRAME_CONTROL, FRAME_DONE);
}

struct frame_hint_reply rig_hint(struct rig_client *client, enum frame_hint_kind kind,
				 const struct rig_blocks *blocks, uint64_t retain_us)
{
	struct frame_hint *frame = rig_frame(client, FRAME_HINT,
					     sizeof(*frame) + blocks->count * BLOCK_HASH_BYTES);
	struct frame_hint_reply reply = { 0 };

	frame->retain_us = retain_us;
	frame->space = client->space;
	frame->kind = kind;
	frame->group = (uint16_t)blocks->group;
	frame->count = (uint16_t)blocks->count;
	for (unsigned i = 0; i < blocks->count; i++)
		rig_hash(blocks->first + i, (uint8_t *)(frame + 1) + i * BLOCK_HASH_BYTES);
	int result = rig_ask(client, FRAME_CONTROL, FRAME_HINT_REPLY);
	assert(result == 0);
	memcpy(&reply, client->reply, sizeof(reply));
	return reply;
}

struct frame_explained_item rig_explain(struct rig_client *client, unsigned group, uint64_t key)
{
	struct frame_explain *frame = rig_frame(client, FRAME_EXPLAIN,
						sizeof(*frame) + BLOCK_HASH_BYTES);
	struct frame_explained_item item;

	frame->space = client->space;
	frame->group = (uint16_t)group;
	frame->count = 1;
	rig_hash(key, (uint8_t *)(frame + 1));
	int result = rig_ask(client, FRAME_CONTROL, FRAME_EXPLAINED);
	assert(result == 0);
	memcpy(&item, client->reply + sizeof(struct frame_explained), sizeof(item));
	return item;
}

int rig_bypass(struct rig_client *client, const char *tenant, bool is_of_space,
	       enum frame_bypass_mode mode)
{
	struct frame_bypass *frame = rig_frame(client, FRAME_BYPASS, sizeof(*frame));

	strcpy(frame->tenant, tenant);
	if (is_of_space)
		memcpy(frame->fingerprint, client->fingerprint, SPACE_ID_BYTES);
	frame->mode = mode;
	return rig_ask(client, FRAME_CONTROL, FRAME_DONE);
}

uint32_t rig_entry(struct rig_client *client, unsigned group, uint64_t key)
{
	uint8_t hash[BLOCK_HASH_BYTES];

	rig_hash(key, hash);
	return cache_find_any(client->rig->daemon->cache, client->space, (uint16_t)group, hash);
}

uint32_t rig_slot(struct rig_client *client, enum tier_id tier, unsigned group, uint64_t key)
{
	uint32_t entry = rig_entry(client, group, key);

	if (entry == ENTRY_NONE)
		return SLOT_NONE;
	return cache_copy_slot(client->rig->daemon->cache, entry, tier, client->engine.shard);
}

void rig_drop_cpu(struct rig_client *client, unsigned group, uint64_t first, unsigned count)
{
	/* A RELEASE may be under way. */
	rig_settle(client->rig);
	for (unsigned i = 0; i < count; i++) {
		uint32_t slot = rig_slot(client, TIER_CPU, group, first + i);

		if (slot == SLOT_NONE || rig_slot(client, TIER_NVME, group, first + i) == SLOT_NONE)
			continue;
		if (cache_slot(client->rig->daemon->cache, TIER_CPU, slot)->holds == 0)
			cache_slot_drop(client->rig->daemon->cache, TIER_CPU, slot);
	}
}
