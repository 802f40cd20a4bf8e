/* tests/daemon/test_daemon_answers.c: from the usable and the worth tokens of a lookup every group
 * can go on, whatever its kind and size, also when a lease was clipped; and what is worth it. */
#include "tests/daemon/rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define GROUPS_MAX 3u
#define BLOCKS_MAX 64u
#define CPU_BLOCKS (2 * RIG_SLOTS_A_UNIT)
#define ROUNDS 60u

/* What is there of each group: a sign a block: '.' nothing, 'c' in cpu, 'n' in nvme only. */
struct answer_layout {
	struct frame_group groups[GROUPS_MAX];
	const char *blocks[GROUPS_MAX];
	unsigned own[GROUPS_MAX]; /* the engine's blocks, which are not asked for */
};

#define FULL(tokens) { .kind = FRAME_GROUP_FULL, .tokens_per_block = (tokens) }
#define WINDOW(tokens, window)                                                                     \
	{ .kind = FRAME_GROUP_WINDOW, .tokens_per_block = (tokens), .window_tokens = (window) }
#define STATE(tokens) { .kind = FRAME_GROUP_STATE, .tokens_per_block = (tokens) }

struct bench {
	struct rig rig;
	struct rig_client *client;
	struct answer_layout layout;
	unsigned groups_count;
};

static uint64_t key_of(unsigned group, unsigned block)
{
	return 1000 * (group + 1) + block;
}

static void group_store(struct bench *bench, unsigned group)
{
	const char *blocks = bench->layout.blocks[group];
	bool is_full = bench->layout.groups[group].kind == FRAME_GROUP_FULL;

	for (unsigned i = bench->layout.own[group]; i < strlen(blocks); i++) {
		struct rig_blocks one = { .group = group, .first = key_of(group, i), .count = 1,
					  .version = 1 };

		/* The parents of a full group's blocks are there; else it is a hole. */
		if (is_full && i > bench->layout.own[group] && blocks[i - 1] != '.')
			one.parent = key_of(group, i - 1);
		if (blocks[i] != '.')
			assert_int_equal(rig_store(bench->client, &one), 1);
	}
	rig_settle(&bench->rig);
	for (unsigned i = bench->layout.own[group]; i < strlen(blocks); i++)
		if (blocks[i] == 'n')
			rig_drop_cpu(bench->client, group, key_of(group, i), 1);
}

static void bench_init(struct bench *bench, const struct answer_layout *layout, bool no_nvme)
{
	struct rig_engine engine = { 0 };

	memset(bench, 0, sizeof(*bench));
	bench->layout = *layout;
	while (bench->groups_count < GROUPS_MAX && layout->blocks[bench->groups_count] != NULL) {
		struct frame_group *group = &engine.groups[bench->groups_count];

		*group = layout->groups[bench->groups_count++];
		group->payload_bytes = RIG_PAYLOAD_BYTES;
		group->segments_count = RIG_SEGMENTS;
	}
	engine.groups_count = bench->groups_count;
	rig_init(&bench->rig, &(struct rig_config){ .no_nvme = no_nvme });
	bench->client = rig_register(&bench->rig, &engine);
	for (unsigned group = 0; group < bench->groups_count; group++)
		group_store(bench, group);
}

static struct rig_found ask(struct bench *bench, uint64_t lease_us, const struct worth_cost *cost)
{
	struct rig_keys keys[GROUPS_MAX];

	for (unsigned group = 0; group < bench->groups_count; group++) {
		unsigned own = bench->layout.own[group];

		keys[group] = (struct rig_keys){
			.group = group,
			.first_position = own,
			.first = key_of(group, own),
			.count = (unsigned)strlen(bench->layout.blocks[group]) - own,
		};
	}
	return rig_lookup_weighed(bench->client, keys, bench->groups_count, lease_us, cost);
}

static bool block_is_there(struct bench *bench, unsigned group, unsigned block, bool is_held)
{
	const char *blocks = bench->layout.blocks[group];
	const struct cache *cache = bench->rig.daemon->cache;
	uint32_t slot;

	if (block < bench->layout.own[group])
		return true;
	if (block >= strlen(blocks) || blocks[block] == '.')
		return false;
	if (!is_held)
		return true;
	slot = rig_slot(bench->client, TIER_CPU, group, key_of(group, block));
	return slot != SLOT_NONE && cache_slot(cache, TIER_CPU, slot)->holds > 0;
}

/* By the words of kvtier.h: full groups have all blocks before the point, window groups those that
 * hold the last window_tokens before it, state groups the one that ends there. */
static bool can_go_on(struct bench *bench, uint32_t tokens, bool is_held)
{
	for (unsigned i = 0; i < bench->groups_count; i++) {
		const struct frame_group *group = &bench->layout.groups[i];
		unsigned end = tokens / group->tokens_per_block, first = 0;

		if (tokens % group->tokens_per_block != 0)
			return false;
		if (group->kind == FRAME_GROUP_STATE && end > 0)
			first = end - 1;
		if (group->kind == FRAME_GROUP_WINDOW && tokens > group->window_tokens)
			first = (tokens - group->window_tokens) / group->tokens_per_block;
		for (unsigned block = first; block < end; block++)
			if (!block_is_there(bench, i, block, is_held))
				return false;
	}
	return true;
}

static uint32_t most_usable(struct bench *bench)
{
	uint32_t most = 0;

	for (uint32_t tokens = 0; tokens <= 64 * BLOCKS_MAX; tokens++)
		if (can_go_on(bench, tokens, false))
			most = tokens;
	return most;
}

/* ---- points ---- */

struct clipped_row {
	struct answer_layout layout;
	uint32_t usable;
};

/* Of 84 slots in all leases hold 42. */
static const struct clipped_row clipped_rows[] = {
	{ { { WINDOW(16, 32) },
	    { "..........cccccccccccccccccccccccccccccccccccccccccccccccccc" },
	    { 0 } },
	  832 },
	/* The window before the end of what was leased has a hole. */
	{ { { WINDOW(16, 64) },
	    { "cccccccccccccccccccccccccccccccccccccc..cccccccccccccccccccc" },
	    { 0 } },
	  704 },
	{ { { STATE(16) },
	    { "c.ccccccccccccccccccccccccccccccccccccccc...cccccccccccccccc" },
	    { 0 } },
	  736 },
	{ { { FULL(16), STATE(32) },
	    { "cccccccccccccccccccccccccccccccccccccccccccccccccccccccc",
	      ".c.c.c.c.c.c.c.c.c.c.c.c.c.c" },
	    { 0 } },
	  448 },
	{ { { FULL(16), WINDOW(8, 40) },
	    { "cccccccccccccccccccccccccccccc",
	      "cccccccccccccccccccccccccccccccccccccccccccccccccc" },
	    { 0 } },
	  192 },
	{ { { WINDOW(8, 40), FULL(16) },
	    { "cccccccccccccccccccccccccccccccccccccccccccccccccc",
	      "cccccccccccccccccccccccccccccc" },
	    { 0 } },
	  192 },
	{ { { FULL(16), FULL(32), STATE(64) },
	    { "cccccccccccccccccccccccccccccccccccccccc", "cccccccccccccccccccc", "ccc.cc.ccc" },
	    { 0 } },
	  320 },
	{ { { FULL(16), WINDOW(16, 48) },
	    { "     cccccccccccccccccccccccccccccccccccccccc",
	      "     cccccccccccccccccccccccccccccccccccccccc" },
	    { 5, 5 } },
	  400 },
};

static void a_clipped_lease_ends_where_every_group_can_go_on_with_what_it_holds(void **unused)
{
	(void)unused;
	for (unsigned row = 0; row < sizeof(clipped_rows) / sizeof(clipped_rows[0]); row++) {
		struct bench bench;

		bench_init(&bench, &clipped_rows[row].layout, true);
		struct rig_found found = ask(&bench, RIG_SECOND, &(struct worth_cost){ 0 });
		assert_int_not_equal(found.lease, 0);
		assert_int_equal(found.usable_tokens, clipped_rows[row].usable);
		assert_true(found.usable_tokens < most_usable(&bench));
		assert_true(can_go_on(&bench, found.usable_tokens, true));
		assert_int_equal(found.worth_tokens, found.usable_tokens);
		/* Without a lease all of it is usable. */
		rig_lease_release(bench.client, found.lease);
		found = ask(&bench, 0, &(struct worth_cost){ 0 });
		assert_int_equal(found.usable_tokens, most_usable(&bench));
		rig_assert_idle(&bench.rig);
		rig_finish(&bench.rig);
	}
}

static void layout_make(struct answer_layout *layout, char blocks[][BLOCKS_MAX + 1],
			struct random *random)
{
	unsigned count = 1 + (unsigned)random_below(random, GROUPS_MAX);
	unsigned blocks_max = CPU_BLOCKS / count < BLOCKS_MAX ? CPU_BLOCKS / count : BLOCKS_MAX;
	uint32_t own_tokens = random_below(random, 3) == 0 ? 32 : 0;

	memset(layout, 0, sizeof(*layout));
	for (unsigned group = 0; group < count; group++) {
		uint32_t tokens = 8u << random_below(random, 3);
		unsigned holes_in = 2 + (unsigned)random_below(random, 30);
		unsigned own = own_tokens / tokens;

		layout->groups[group] = (struct frame_group){
			.kind = (uint16_t)random_below(random, 3),
			.tokens_per_block = tokens,
			.window_tokens = 0,
		};
		if (layout->groups[group].kind == FRAME_GROUP_WINDOW)
			layout->groups[group].window_tokens =
				1 + (uint32_t)random_below(random, 4 * tokens);
		memset(blocks[group], 'c', BLOCKS_MAX);
		for (unsigned i = own; i < blocks_max; i++)
			if (random_below(random, holes_in) == 0)
				blocks[group][i] = '.';
		blocks[group][blocks_max] = 0;
		layout->own[group] = own;
		layout->blocks[group] = blocks[group];
	}
}

static void whatever_the_groups_every_answer_is_a_point_and_is_held(void **unused)
{
	struct random random;
	unsigned clipped = 0, cut = 0, points = 0;

	(void)unused;
	random_init(&random, 7);
	for (unsigned round = 0; round < ROUNDS; round++) {
		char blocks[GROUPS_MAX][BLOCKS_MAX + 1];
		struct answer_layout layout;
		struct bench bench;

		layout_make(&layout, blocks, &random);
		bench_init(&bench, &layout, true);
		/* Of ten microseconds for a token, or none; a load of a block takes 0 to 200. */
		bench.rig.daemon->speeds[TIER_CPU] = (struct tier_speed){
			.latency_us = (double)random_below(&random, 2000), .bytes_us = 100.0
		};
		struct worth_cost cost = { .b = random_below(&random, 2) ? 1e-5 : 0,
					   .c = random_below(&random, 2) ? 1e-7 : 0 };
		struct rig_found found = ask(&bench, RIG_SECOND, &cost);
		assert_true(can_go_on(&bench, found.usable_tokens, found.lease != 0));
		assert_true(can_go_on(&bench, found.worth_tokens, found.lease != 0));
		assert_true(found.worth_tokens <= found.usable_tokens);
		clipped += found.usable_tokens < most_usable(&bench);
		cut += found.worth_tokens < found.usable_tokens;
		points += found.worth_tokens > 0;
		rig_lease_release(bench.client, found.lease);
		found = ask(&bench, 0, &cost);
		assert_int_equal(found.usable_tokens, most_usable(&bench));
		assert_true(can_go_on(&bench, found.worth_tokens, false));
		rig_assert_idle(&bench.rig);
		rig_finish(&bench.rig);
	}
	assert_true(clipped > 0 && cut > 0 && points > 0);
}

/* ---- what is worth it ---- */

struct worth_row {
	const char *what;
	struct answer_layout layout;
	double cpu_us, nvme_us; /* before the first byte; bytes take no time */
	uint32_t usable, worth;
};

/* Computing takes 100 us a token: 1,600 us a block of 16. */
static const struct worth_row worth_rows[] = {
	{ "a full group ends where the slow tier begins",
	  { { FULL(16) }, { "ccccccnn" }, { 0 } }, 0, 1e6, 128, 96 },
	{ "all of it where the tier below is fast",
	  { { FULL(16) }, { "ccccccnn" }, { 0 } }, 0, 0, 128, 128 },
	{ "no further than the last state before the slow tier",
	  { { FULL(16), STATE(16) }, { "ccccccnn", "...c...c" }, { 0 } }, 0, 1e6, 128, 64 },
	{ "nothing where there is no state before the slow tier",
	  { { FULL(16), STATE(16) }, { "ccccccnn", ".......c" }, { 0 } }, 0, 1e6, 128, 0 },
	{ "the state behind it, when the slow tier still gains",
	  { { FULL(16), STATE(16) }, { "ccccccnn", "...c...c" }, { 0 } }, 0, 6000, 128, 128 },
	{ "a point whose few tokens cost more than they save is not worth it",
	  { { FULL(16), STATE(16) }, { "ccccccnn", "c......c" }, { 0 } }, 5000, 1e6, 128, 0 },
	{ "no further than the last window before the slow tier",
	  { { FULL(16), WINDOW(16, 32) }, { "ccccccnn", ".cc...cc" }, { 0 } }, 0, 1e6, 128, 48 },
	{ "a multiple of the largest block",
	  { { FULL(16), FULL(32) }, { "cccccnnn", "cccc" }, { 0 } }, 0, 1e6, 128, 64 },
	{ "a window alone counts what it spans, not what is there",
	  { { WINDOW(16, 32) }, { "......cc" }, { 0 } }, 1e6, 0, 128, 0 },
	{ "a window alone is worth it for all that it spares",
	  { { WINDOW(16, 32) }, { "......cc" }, { 0 } }, 10000, 0, 128, 128 },
	{ "what the engine has is counted",
	  { { FULL(16), STATE(16) }, { "  ccccnn", "  .....c" }, { 2, 2 } }, 0, 1e6, 128, 32 },
	{ "what the engine has, to a multiple of the largest block",
	  { { FULL(16), FULL(32) }, { "   cnnnn", " ccc" }, { 3, 1 } }, 0, 1e6, 128, 64 },
};

static void only_points_that_are_quicker_to_load_are_worth_it(void **unused)
{
	(void)unused;
	for (unsigned row = 0; row < sizeof(worth_rows) / sizeof(worth_rows[0]); row++) {
		const struct worth_row *given = &worth_rows[row];
		struct bench bench;

		bench_init(&bench, &given->layout, false);
		bench.rig.daemon->speeds[TIER_CPU] =
			(struct tier_speed){ .latency_us = given->cpu_us, .bytes_us = 1e12 };
		bench.rig.daemon->speeds[TIER_NVME] =
			(struct tier_speed){ .latency_us = given->nvme_us, .bytes_us = 1e12 };
		struct rig_found found = ask(&bench, 0, &(struct worth_cost){ .b = 1e-4 });
		if (found.usable_tokens != given->usable || found.worth_tokens != given->worth)
			print_error("%s: %u usable, %u worth it\n", given->what,
				    found.usable_tokens, found.worth_tokens);
		assert_int_equal(found.usable_tokens, given->usable);
		assert_int_equal(found.worth_tokens, given->worth);
		rig_finish(&bench.rig);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			a_clipped_lease_ends_where_every_group_can_go_on_with_what_it_holds),
		cmocka_unit_test(whatever_the_groups_every_answer_is_a_point_and_is_held),
		cmocka_unit_test(only_points_that_are_quicker_to_load_are_worth_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
