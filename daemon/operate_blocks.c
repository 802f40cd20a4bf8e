/* daemon/operate_blocks.c: gathers what is known of blocks. */
#include "daemon/operate_blocks.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct shown *shown_create(const struct operation *operation, void (*answer)(struct shown *))
{
	struct daemon *daemon = operation->session->daemon;
	struct shown *shown = NULL;

	if (daemon->shown_count < SHOWN_MAX)
		shown = calloc(1, sizeof(*shown)); /* a rare call: not the data path */
	if (shown == NULL) {
		operate_refuse(operation->session, operation->frame->header.request, -EAGAIN,
			       "too many blocks are being listed at once: try again");
		return NULL;
	}
	daemon->shown_count++;
	shown->session = operation->session;
	shown->request = operation->frame->header.request;
	shown->answer = answer;
	shown->wall_us = clock_wall_us(daemon->clock);
	return shown;
}

void shown_destroy(struct shown *shown)
{
	struct daemon *daemon = shown->session->daemon;

	assert(daemon->shown_count > 0);
	daemon->shown_count--;
	free(shown);
}

static void header_take(struct shown_block *block, const struct slot_header *header)
{
	const struct slot_identity *identity = &header->identity;

	/* It may be another block's by now. */
	if (identity->magic != SLOT_MAGIC ||
	    memcmp(identity->hash, block->hash, BLOCK_HASH_BYTES) != 0)
		return;
	block->header = (struct shown_header){
		.is_known = true,
		.first_position = identity->first_position,
		.stored_at_us = identity->stored_at_us,
		.payload_bytes = identity->payload_bytes,
		.segments_count = identity->segments_count,
	};
	memcpy(block->header.parent, identity->parent, BLOCK_HASH_BYTES);
}

static void copy_look(struct daemon *daemon, struct shown_block *block, enum tier_id tier)
{
	block->is_whole[tier] = cache_copy_is_whole(daemon->cache, block->entry, tier);
	for (unsigned shard = 0; shard < block->shards_count; shard++) {
		uint32_t slot = cache_copy_slot(daemon->cache, block->entry, tier, shard);
		struct slot_place place;

		if (slot == SLOT_NONE)
			continue;
		cache_slot_place(daemon->cache, tier, slot, &place);
		block->bytes[tier] += place.slot_bytes;
		block->holds += cache_slot(daemon->cache, tier, slot)->holds;
		enum slot_state state = cache_slot(daemon->cache, tier, slot)->state;
		if (block->header.is_known || (state != SLOT_READY && state != SLOT_LEAVING))
			continue;
		if (tier == TIER_CPU) {
			const struct tenant *tenant = daemon_tenant(
				daemon, cache_space_tenant(daemon->cache, block->space));

			header_take(block, arena_slot(&tenant->arena, place.offset));
		} else if (!daemon->devices[place.device].is_fenced) {
			block->device = daemon->devices[place.device].device;
			block->offset = place.offset;
		}
	}
}

void shown_add(struct shown *shown, uint32_t number)
{
	struct daemon *daemon = shown->session->daemon;
	struct shown_block *block = &shown->blocks[shown->count++];
	const struct entry *entry = cache_entry(daemon->cache, number);

	assert(shown->count <= SHOWN_BLOCKS_MAX);
	memcpy(block->hash, entry->hash, BLOCK_HASH_BYTES);
	block->entry = number;
	block->space = entry->space;
	block->group = entry->group;
	block->shards_count = entry->shards_count;
	block->tokens = entry->tokens;
	block->epoch = entry->epoch;
	block->route_key = entry->route_key;
	block->is_forgotten = cache_entry_is_forgotten(daemon->cache, number);
	for (unsigned tier = 0; tier < TIERS; tier++)
		copy_look(daemon, block, tier);
	if (block->header.is_known)
		block->device = NULL;
}

static void shown_read(struct mill_op *op)
{
	struct shown *shown = list_item(op, struct shown, mill);

	for (unsigned i = 0; i < shown->count; i++) {
		struct shown_block *block = &shown->blocks[i];

		if (block->device != NULL &&
		    nvme_device_read_header(block->device, block->offset, &shown->page) == 0)
			header_take(block, &shown->page);
	}
}

static void shown_done(struct mill_op *op)
{
	struct shown *shown = list_item(op, struct shown, mill);

	shown->answer(shown);
	session_unuse(shown->session);
	shown_destroy(shown);
}

void shown_go(struct shown *shown)
{
	bool is_to_be_read = false;

	shown->mill.work = shown_read;
	shown->mill.done = shown_done;
	for (unsigned i = 0; i < shown->count; i++)
		is_to_be_read = is_to_be_read || shown->blocks[i].device != NULL;
	shown->session->users++;
	/* Full mills: what only a header knows is left out. */
	if (!is_to_be_read || !mills_submit(&shown->session->daemon->mills, &shown->mill))
		shown_done(&shown->mill);
}

void shown_write(struct json_text *json, const struct shown *shown, const struct shown_block *block)
{
	static const char *const tier_names[TIERS] = { "cpu", "nvme" };
	const struct shown_header *header = &block->header;

	json_text_hex(json, "hash", block->hash, BLOCK_HASH_BYTES);
	json_text_unsigned(json, "group", block->group);
	json_text_unsigned(json, "tokens", block->tokens);
	json_text_unsigned(json, "shards", block->shards_count);
	json_text_unsigned(json, "epoch", block->epoch);
	json_text_bool(json, "forgotten", block->is_forgotten);
	json_text_array_begin(json, "tiers");
	for (unsigned tier = 0; tier < TIERS; tier++)
		if (block->is_whole[tier])
			json_text_string(json, NULL, tier_names[tier]);
	json_text_array_end(json);
	json_text_unsigned(json, "bytes", block->bytes[TIER_CPU] + block->bytes[TIER_NVME]);
	json_text_unsigned(json, "holds", block->holds);
	if (header->is_known) {
		json_text_unsigned(json, "position", header->first_position);
		json_text_unsigned(json, "stored_at_unix_us", header->stored_at_us);
		json_text_unsigned(json, "age_us",
				   shown->wall_us > header->stored_at_us
					   ? shown->wall_us - header->stored_at_us
					   : 0);
	} else {
		json_text_string(json, "position", NULL);
		json_text_string(json, "stored_at_unix_us", NULL);
		json_text_string(json, "age_us", NULL);
	}
}
