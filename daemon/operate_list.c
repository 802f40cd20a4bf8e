/* daemon/operate_list.c: LIST: the spaces of a scope, or the blocks of one space. */
#include "daemon/operate_blocks.h"

#include "daemon/server.h"

#include <errno.h>
#include <string.h>

#define LIST_LOOKS_MAX 65536u /* entries that one frame looks at */

static unsigned engines_in(struct daemon *daemon, uint32_t space)
{
	const struct engine *engine;
	unsigned count = 0;

	for (unsigned i = 0; (engine = server_engine_at(daemon, i)) != NULL; i++) {
		bool is_in = engine->tenant != NULL && engine->space == space;

		for (unsigned a = 0; engine->tenant != NULL && !is_in && a < engine->adapters_count;
		     a++)
			is_in = engine->adapters[a] == space;
		count += is_in;
	}
	return count;
}

static void figures_write(struct json_text *json, const char *name, const uint64_t values[TIERS])
{
	json_text_object_begin(json, name);
	json_text_unsigned(json, "cpu", values[TIER_CPU]);
	json_text_unsigned(json, "nvme", values[TIER_NVME]);
	json_text_object_end(json);
}

static void space_write(struct daemon *daemon, uint32_t space, struct json_text *json)
{
	const struct space_use *use = &daemon->space_uses[space];
	uint32_t handle = cache_space_tenant(daemon->cache, space);
	struct cache_space_figures figures;
	uint64_t until_us;
	uint64_t pinned = pins_of_space(daemon, space, &until_us);

	cache_space_figures(daemon->cache, space, &figures);
	json_text_object_begin(json, NULL);
	json_text_hex(json, "space", cache_space_fingerprint(daemon->cache, space), SPACE_ID_BYTES);
	json_text_string(json, "tenant", daemon_tenant(daemon, handle)->name);
	figures_write(json, "blocks", figures.blocks);
	figures_write(json, "bytes", figures.bytes);
	json_text_unsigned(json, "engines_now", engines_in(daemon, space));
	json_text_string(json, "last_engine", use->engine[0] != '\0' ? use->engine : NULL);
	if (use->used_us != 0)
		json_text_unsigned(json, "last_used_us", daemon->now_us - use->used_us);
	else
		json_text_string(json, "last_used_us", NULL);
	json_text_unsigned(json, "pinned_blocks", pinned);
	json_text_unsigned(json, "pinned_for_us",
			   until_us > daemon->now_us ? until_us - daemon->now_us : 0);
	json_text_object_end(json);
}

static void list_spaces(const struct operation *operation)
{
	struct daemon *daemon = operation->session->daemon;
	uint32_t cursor = (uint32_t)operation->frame->cursor;
	uint32_t space = UINT32_MAX;
	struct json_text json;

	operate_answer_begin(daemon, &json);
	json_text_object_begin(&json, NULL);
	json_text_array_begin(&json, "spaces");
	while (json.bytes < ANSWER_BYTES_ENOUGH &&
	       (space = operate_next_space(operation, &cursor)) != UINT32_MAX)
		space_write(daemon, space, &json);
	json_text_array_end(&json);
	json_text_unsigned(&json, "next", space == UINT32_MAX ? 0 : cursor);
	json_text_object_end(&json);
	operate_answer_end(operation->session, operation->frame->header.request, &json);
}

static void blocks_answer(struct shown *shown)
{
	struct json_text json;

	operate_answer_begin(shown->session->daemon, &json);
	json_text_object_begin(&json, NULL);
	json_text_array_begin(&json, "blocks");
	for (unsigned i = 0; i < shown->count; i++) {
		json_text_object_begin(&json, NULL);
		shown_write(&json, shown, &shown->blocks[i]);
		json_text_object_end(&json);
	}
	json_text_array_end(&json);
	json_text_unsigned(&json, "next", shown->next);
	json_text_object_end(&json);
	operate_answer_end(shown->session, shown->request, &json);
}

/* `space` UINT32_MAX: any that the operation may see. */
static bool is_listed(const struct operation *operation, uint32_t space, const struct entry *entry)
{
	const struct frame_operate *frame = operation->frame;
	const struct cache *cache = operation->session->daemon->cache;
	const uint8_t *first = (const uint8_t *)(frame + 1), *last = first + BLOCK_HASH_BYTES;

	if (frame->count > 0 && (memcmp(entry->hash, first, BLOCK_HASH_BYTES) < 0 ||
				 memcmp(entry->hash, last, BLOCK_HASH_BYTES) > 0))
		return false;
	if (space != UINT32_MAX)
		return entry->space == space;
	return cache_space_is_known(cache, entry->space) &&
	       (operation->tenant == NULL ||
		cache_space_tenant(cache, entry->space) == operation->tenant->handle);
}

static void list_blocks(const struct operation *operation, uint32_t space)
{
	struct cache *cache = operation->session->daemon->cache;
	uint32_t cursor = (uint32_t)operation->frame->cursor;
	unsigned count_max = operation->frame->value;
	struct shown *shown = shown_create(operation, blocks_answer);

	if (shown == NULL)
		return;
	if (operation->frame->value == 0 || operation->frame->value > SHOWN_BLOCKS_MAX)
		count_max = SHOWN_BLOCKS_MAX;
	for (unsigned looks = 0; looks < LIST_LOOKS_MAX && shown->count < count_max; looks++) {
		uint32_t entry = cache_entry_next(cache, &cursor, 1);

		if (entry != ENTRY_NONE && is_listed(operation, space, cache_entry(cache, entry)))
			shown_add(shown, entry);
	}
	shown->next = cursor < cache_entries_end(cache) ? cursor : 0;
	shown_go(shown);
}

/* The value is how many blocks a page has at most; 0: as many as fit. */
void operate_list(const struct operation *operation)
{
	static const uint8_t any[SPACE_ID_BYTES];
	uint32_t cursor = 0, space;

	if (memcmp(operation->frame->fingerprint, any, SPACE_ID_BYTES) == 0) {
		if (operation->frame->count > 0)
			list_blocks(operation, UINT32_MAX);
		else
			list_spaces(operation);
		return;
	}
	space = operate_next_space(operation, &cursor);
	if (space == UINT32_MAX)
		operate_refuse(operation->session, operation->frame->header.request, -ENOENT,
			       "there is no such space");
	else
		list_blocks(operation, space);
}
