/* daemon/operate_stat.c: STAT: everything that is known of one block, in each space that has it. */
#include "daemon/operate_blocks.h"

#include <string.h>

static const char *const tier_names[TIERS] = { "cpu", "nvme" };
static const char *const state_names[SLOT_STATES] = { "free", "filling", "ready", "leaving",
						      "bad" };
static const char *const lower_names[] = { [LOWER_NONE] = "none",
					   [LOWER_PENDING] = "waits to be written",
					   [LOWER_WRITTEN] = "written" };

static void slot_write(struct daemon *daemon, enum tier_id tier, uint32_t number,
		       struct json_text *json)
{
	const struct slot *slot = cache_slot(daemon->cache, tier, number);
	struct slot_place place;

	cache_slot_place(daemon->cache, tier, number, &place);
	json_text_object_begin(json, NULL);
	json_text_string(json, "tier", tier_names[tier]);
	json_text_unsigned(json, "shard", slot->shard);
	json_text_string(json, "state", state_names[slot->state]);
	json_text_unsigned(json, "slot", number);
	json_text_unsigned(json, "slot_generation", slot->generation);
	json_text_unsigned(json, "extent_generation", place.extent_generation);
	json_text_string(json, "device",
			 tier == TIER_NVME
				 ? nvme_device_path(daemon->devices[place.device].device)
				 : NULL);
	json_text_unsigned(json, "offset", place.offset);
	json_text_unsigned(json, "bytes", place.slot_bytes);
	json_text_unsigned(json, "holds", slot->holds);
	json_text_string(json, "on_nvme", tier == TIER_CPU ? lower_names[slot->lower] : NULL);
	json_text_object_end(json);
}

/* As they are now, which is a moment after the block was found. */
static void slots_write(struct daemon *daemon, const struct shown_block *block,
			struct json_text *json)
{
	uint32_t entry = cache_find_any(daemon->cache, block->space, block->group, block->hash);

	json_text_array_begin(json, "slots");
	for (unsigned tier = 0; entry != ENTRY_NONE && tier < TIERS; tier++) {
		for (unsigned shard = 0; shard < block->shards_count; shard++) {
			uint32_t slot = cache_copy_slot(daemon->cache, entry, tier, shard);

			if (slot != SLOT_NONE && json->bytes < ANSWER_BYTES_ENOUGH)
				slot_write(daemon, tier, slot, json);
		}
	}
	json_text_array_end(json);
}

static void stat_write(struct shown *shown, const struct shown_block *block,
		       struct json_text *json)
{
	static const uint8_t none[BLOCK_HASH_BYTES];
	struct daemon *daemon = shown->session->daemon;
	const struct shown_header *header = &block->header;
	const struct tenant *tenant;
	struct frame_explained_item why;

	if (!cache_space_is_known(daemon->cache, block->space))
		return;
	tenant = daemon_tenant(daemon, cache_space_tenant(daemon->cache, block->space));
	explain_key(daemon, block->space, block->group, block->hash, &why);
	json_text_object_begin(json, NULL);
	json_text_hex(json, "space", cache_space_fingerprint(daemon->cache, block->space),
		      SPACE_ID_BYTES);
	json_text_string(json, "tenant", tenant->name);
	shown_write(json, shown, block);
	json_text_string(json, "reason",
			 daemon_bypass_of(daemon, tenant, block->space) == FRAME_BYPASS_ON
				 ? frame_reason_name(FRAME_REASON_BYPASSED)
				 : frame_reason_name(why.reason));
	json_text_unsigned(json, "shards_present", why.shards_present);
	json_text_unsigned(json, "route_key", block->route_key);
	if (header->is_known && memcmp(header->parent, none, sizeof(none)) != 0)
		json_text_hex(json, "parent", header->parent, BLOCK_HASH_BYTES);
	else
		json_text_string(json, "parent", NULL);
	json_text_unsigned(json, "payload_bytes", header->payload_bytes);
	json_text_unsigned(json, "segments", header->segments_count);
	slots_write(daemon, block, json);
	json_text_object_end(json);
}

static void stat_answer(struct shown *shown)
{
	struct json_text json;

	operate_answer_begin(shown->session->daemon, &json);
	json_text_object_begin(&json, NULL);
	json_text_array_begin(&json, "blocks");
	for (unsigned i = 0; i < shown->count && json.bytes < ANSWER_BYTES_ENOUGH; i++)
		stat_write(shown, &shown->blocks[i], &json);
	json_text_array_end(&json);
	json_text_object_end(&json);
	operate_answer_end(shown->session, shown->request, &json);
}

/* What is not there is answered by why. */
static void absent_answer(const struct operation *operation)
{
	struct daemon *daemon = operation->session->daemon;
	struct frame_explained_item why = { .reason = FRAME_REASON_NO_SPACE }, one;
	uint32_t cursor = 0, space;
	struct json_text json;

	while ((space = operate_next_space(operation, &cursor)) != UINT32_MAX) {
		explain_key(daemon, space, operation->frame->group,
			    (const uint8_t *)(operation->frame + 1), &one);
		/* That of the space which knew it. */
		if (why.reason == FRAME_REASON_NO_SPACE || one.reason != FRAME_REASON_NEVER_STORED)
			why = one;
	}
	operate_answer_begin(daemon, &json);
	json_text_object_begin(&json, NULL);
	json_text_array_begin(&json, "blocks");
	json_text_array_end(&json);
	json_text_string(&json, "reason", frame_reason_name(why.reason));
	json_text_unsigned(&json, "age_us", why.age_us);
	json_text_object_end(&json);
	operate_answer_end(operation->session, operation->frame->header.request, &json);
}

/* Without a space, in every space and group of the scope. */
void operate_stat(const struct operation *operation)
{
	static const uint8_t any[SPACE_ID_BYTES];
	struct cache *cache = operation->session->daemon->cache;
	const struct frame_operate *frame = operation->frame;
	bool is_anywhere = memcmp(frame->fingerprint, any, SPACE_ID_BYTES) == 0;
	unsigned groups_end = is_anywhere ? FRAME_GROUPS_MAX : frame->group + 1u;
	struct shown *shown = shown_create(operation, stat_answer);
	uint32_t cursor = 0, space;

	if (shown == NULL)
		return;
	while ((space = operate_next_space(operation, &cursor)) != UINT32_MAX) {
		for (unsigned group = is_anywhere ? 0 : frame->group; group < groups_end; group++) {
			uint32_t entry = cache_find_any(cache, space, (uint16_t)group,
							(const uint8_t *)(frame + 1));

			if (entry != ENTRY_NONE && shown->count < SHOWN_BLOCKS_MAX)
				shown_add(shown, entry);
		}
	}
	if (shown->count > 0) {
		shown_go(shown);
		return;
	}
	absent_answer(operation);
	shown_destroy(shown);
}
