/* cluster/node_picture.c: what a node says, in the index of routes. See node_view.h. */
#include "cluster/node_view_parts.h"

#include <errno.h>
#include <string.h>

/* ---- pictures ---- */

void picture_drop(struct node_view *view, struct picture *picture)
{
	for (uint32_t i = 0; i < picture->count; i++)
		if (picture->spaces[i].source != ROUTE_SOURCE_NONE)
			route_source_drop(view->config.index, picture->spaces[i].source);
	picture->count = 0;
}

struct view_space *picture_find(const struct picture *picture, const uint8_t *fingerprint)
{
	for (uint32_t i = 0; i < picture->count; i++)
		if (memcmp(picture->spaces[i].fingerprint, fingerprint, INVENTORY_SPACE_BYTES) == 0)
			return &picture->spaces[i];
	return NULL;
}

/* Found, or begun; NULL: there are too many. */
static struct view_space *picture_space(struct node_view *view, struct picture *picture,
					const uint8_t *fingerprint)
{
	struct view_space *space = picture_find(picture, fingerprint);

	if (space != NULL || picture->count == NODE_SPACES_MAX)
		return space;
	space = &picture->spaces[picture->count++];
	memcpy(space->fingerprint, fingerprint, INVENTORY_SPACE_BYTES);
	if (route_source_open(view->config.index, &space->source) < 0)
		space->source = ROUTE_SOURCE_NONE;
	return space;
}

/* ---- statements ---- */

/* The spaces that a message has said numbers of. */
struct numbers {
	struct view_space *spaces[NODE_SPACES_MAX];
	uint32_t numbers[NODE_SPACES_MAX];
	uint32_t count;
};

static struct view_space *number_find(const struct numbers *numbers, uint32_t number)
{
	/* Mostly the one that was said last. */
	for (uint32_t i = numbers->count; i > 0; i--)
		if (numbers->numbers[i - 1] == number)
			return numbers->spaces[i - 1];
	return NULL;
}

static void set_apply(struct node_view *view, const struct view_space *space,
		      const struct inventory_statement *set)
{
	if (space == NULL || space->source == ROUTE_SOURCE_NONE) {
		view->figures.short_entries += set->keys_count;
		return;
	}
	for (uint32_t i = 0; i < set->keys_count; i++)
		if (route_index_change(view->config.index, space->source, inventory_key(set, i),
				       set->tiers, INVENTORY_TIERS_ALL & ~set->tiers) < 0)
			view->figures.short_entries++;
}

/* What differs although nothing was missed, and there was room for all: seen, and mended. */
static void digest_check(struct node_view *view, const struct view_space *space,
			 const struct inventory_statement *sums)
{
	uint64_t entries = 0, digest = 0;

	if (view->figures.state != NODE_FOLLOWING || view->figures.short_entries > 0)
		return;
	if (space != NULL && space->source != ROUTE_SOURCE_NONE)
		route_source_look(view->config.index, space->source, &entries, &digest);
	if (entries == sums->values[0] && digest == sums->values[1])
		return;
	view->figures.differences++;
	view->differed_us = view->now_us;
	if (view->differs_us == 0)
		view->differs_us = view->now_us;
}

static void figure_note(struct node_view *view, const struct inventory_statement *statement)
{
	if (statement->figure >= INVENTORY_FIGURES)
		return;
	view->values[statement->tiers][statement->figure] = statement->values[0];
	view->has_values[statement->tiers][statement->figure] = true;
}

/* Its place, or that of one that has been silent; NULL: all are taken. */
static struct view_engine *engine_place(struct node_view *view, const char *tenant,
					const char *name)
{
	struct view_engine *free_one = NULL;

	for (uint32_t i = 0; i < NODE_ENGINES_MAX; i++) {
		struct view_engine *engine = &view->engines[i];

		if (engine->heard_us != 0 && strcmp(engine->name, name) == 0 &&
		    strcmp(engine->tenant, tenant) == 0)
			return engine;
		if (free_one == NULL && (engine->heard_us == 0 ||
					 view->now_us - engine->heard_us > NODE_SILENT_US))
			free_one = engine;
	}
	return free_one;
}

static void name_copy(char out_name[INVENTORY_NAME_BYTES_MAX + 1], const char *name,
		      uint32_t bytes)
{
	memcpy(out_name, name, bytes);
	out_name[bytes] = '\0';
}

static void engine_note(struct node_view *view, const struct numbers *numbers,
			const struct inventory_statement *statement)
{
	char tenant[INVENTORY_NAME_BYTES_MAX + 1], name[INVENTORY_NAME_BYTES_MAX + 1];
	struct view_engine *engine;

	name_copy(tenant, statement->tenant, statement->tenant_bytes);
	name_copy(name, statement->engine, statement->engine_bytes);
	engine = engine_place(view, tenant, name);
	if (engine == NULL)
		return;
	strcpy(engine->tenant, tenant);
	strcpy(engine->name, name);
	engine->heard_us = view->now_us;
	engine->tokens_per_block = statement->tokens_per_block;
	engine->spaces_count = 0;
	for (uint32_t i = 0; i < statement->spaces_count && i < NODE_ENGINE_SPACES_MAX; i++) {
		const struct view_space *space =
			number_find(numbers, inventory_space(statement, i));

		if (space != NULL)
			memcpy(engine->spaces[engine->spaces_count++], space->fingerprint,
			       INVENTORY_SPACE_BYTES);
	}
}

static int statement_apply(struct node_view *view, struct picture *picture,
			   struct numbers *numbers, const struct inventory_statement *statement)
{
	const struct view_space *space;

	switch (statement->kind) {
	case INVENTORY_SPACE:
		if (numbers->count == NODE_SPACES_MAX)
			return -EPROTO;
		numbers->numbers[numbers->count] = statement->number;
		numbers->spaces[numbers->count++] =
			picture_space(view, picture, statement->fingerprint);
		return 0;
	case INVENTORY_SET:
		set_apply(view, number_find(numbers, statement->number), statement);
		return 0;
	case INVENTORY_DIGEST:
		space = number_find(numbers, statement->number);
		digest_check(view, space, statement);
		return 0;
	case INVENTORY_FIGURE:
		figure_note(view, statement);
		return 0;
	case INVENTORY_ENGINE:
		engine_note(view, numbers, statement);
		return 0;
	default:
		return 0;
	}
}

int picture_apply(struct node_view *view, struct picture *picture, const void *payload,
		  size_t bytes)
{
	struct inventory_statement statement;
	struct inventory_reader reader;
	struct inventory_head head;
	struct numbers numbers = { .count = 0 };
	struct error error;
	int result = inventory_read(&reader, payload, bytes, &head, &error);

	while (result == 0 && (result = inventory_next(&reader, &statement)) == 1)
		result = statement_apply(view, picture, &numbers, &statement);
	return result;
}
