/* tests/cluster/test_route_index.c: the index of routes beside a plain list of what was told. */
#include "cluster/route_index_parts.h"

#include "base/random.h"
#include "proto/inventory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define SEED 42u
#define HBM ROUTE_BIT(ROUTE_HBM)
#define CPU ROUTE_BIT(ROUTE_CPU)
#define NVME ROUTE_BIT(ROUTE_NVME)
#define ARRIVING ROUTE_BIT(ROUTE_ARRIVING)

static struct route_index *index_make(uint64_t entries_max)
{
	struct route_index *index;
	struct error error;

	assert_int_equal(route_index_create(&index, entries_max, SEED, &error), 0);
	return index;
}

static uint16_t source_open(struct route_index *index)
{
	uint16_t source;

	assert_int_equal(route_source_open(index, &source), 0);
	return source;
}

static void put(struct route_index *index, uint16_t source, uint64_t first, unsigned count,
		unsigned tiers)
{
	for (unsigned i = 0; i < count; i++)
		assert_int_equal(route_index_change(index, source, first + i, tiers, 0), tiers);
}

static struct route_match match_one(struct route_index *index, uint16_t a, uint16_t b,
				    const uint64_t *keys, uint32_t count)
{
	const struct route_pod pod = { .sources = { a, b } };
	struct route_match match;

	route_index_match(index, keys, count, &pod, 1, &match);
	return match;
}

static void keys_number(uint64_t *keys, uint64_t first, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		keys[i] = first + i;
}

static void a_pod_has_what_its_engine_and_its_node_have(void **unused)
{
	struct route_index *index = index_make(1000);
	uint16_t engine = source_open(index), node = source_open(index);
	uint64_t keys[20];

	(void)unused;
	keys_number(keys, 100, 20);
	put(index, engine, 100, 5, HBM);
	put(index, engine, 110, 5, HBM);
	put(index, node, 102, 8, CPU);
	put(index, node, 112, 6, NVME);
	struct route_match match = match_one(index, engine, node, keys, 20);
	assert_int_equal(match.blocks, 18);
	assert_int_equal(match.tier_blocks[ROUTE_HBM], 10);
	assert_int_equal(match.tier_blocks[ROUTE_CPU], 5);
	assert_int_equal(match.tier_blocks[ROUTE_NVME], 3);
	assert_int_equal(match_one(index, engine, ROUTE_SOURCE_NONE, keys, 20).blocks, 5);
	assert_int_equal(match_one(index, ROUTE_SOURCE_NONE, node, keys, 20).blocks, 0);
	assert_int_equal(match_one(index, engine, node, keys, 0).blocks, 0);
	route_index_destroy(index);
}

static void the_quickest_tier_counts(void **unused)
{
	struct route_index *index = index_make(1000);
	uint16_t node = source_open(index);
	uint64_t key = 7;

	(void)unused;
	put(index, node, key, 1, CPU | NVME | ARRIVING);
	assert_int_equal(match_one(index, node, ROUTE_SOURCE_NONE, &key, 1)
				 .tier_blocks[ROUTE_CPU], 1);
	assert_int_equal(route_index_change(index, node, key, 0, CPU), NVME | ARRIVING);
	assert_int_equal(match_one(index, node, ROUTE_SOURCE_NONE, &key, 1)
				 .tier_blocks[ROUTE_NVME], 1);
	assert_int_equal(route_index_change(index, node, key, 0, NVME), ARRIVING);
	assert_int_equal(match_one(index, node, ROUTE_SOURCE_NONE, &key, 1)
				 .tier_blocks[ROUTE_ARRIVING], 1);
	assert_int_equal(route_index_change(index, node, key, 0, ARRIVING), 0);
	assert_int_equal(match_one(index, node, ROUTE_SOURCE_NONE, &key, 1).blocks, 0);
	assert_int_equal(route_index_change(index, node, key, 0, CPU), 0);
	route_index_destroy(index);
}

static void what_is_arriving_is_in_no_digest(void **unused)
{
	struct route_index *index = index_make(1000);
	uint16_t a = source_open(index), b = source_open(index);
	uint64_t entries, digest, other;

	(void)unused;
	put(index, a, 1, 10, CPU);
	put(index, b, 1, 10, CPU | ARRIVING);
	put(index, b, 11, 5, ARRIVING);
	route_source_look(index, a, &entries, &digest);
	route_source_look(index, b, &entries, &other);
	assert_int_equal(digest, other);
	assert_int_equal(entries, 15);
	assert_int_equal(route_index_change(index, b, 11, NVME, ARRIVING), NVME);
	route_source_look(index, b, &entries, &other);
	assert_int_equal(other - digest, inventory_digest(11, NVME));
	assert_int_not_equal(inventory_digest(11, NVME), inventory_digest(11, CPU));
	route_index_destroy(index);
}

static void there_is_a_limit(void **unused)
{
	struct route_index *index = index_make(10);
	uint16_t a = source_open(index), b = source_open(index);

	(void)unused;
	put(index, a, 1, 6, CPU);
	put(index, b, 1, 4, CPU);
	assert_int_equal(route_index_change(index, b, 5, CPU, 0), -ENOSPC);
	assert_int_equal(route_index_change(index, b, 4, NVME, 0), CPU | NVME);
	assert_int_equal(route_index_get(index, b, 5), 0);
	assert_int_equal(route_index_change(index, a, 6, 0, CPU), 0);
	assert_int_equal(route_index_change(index, b, 5, CPU, 0), CPU);
	route_index_destroy(index);
}

/* So many sources of one key that its members move through every size. */
static void a_key_may_be_everywhere(void **unused)
{
	struct route_index *index = index_make(UINT32_MAX);
	uint16_t sources[ROUTE_SOURCES_MAX];
	struct route_figures figures;
	uint16_t more;

	(void)unused;
	for (unsigned i = 0; i < ROUTE_SOURCES_MAX; i++)
		sources[i] = source_open(index);
	assert_int_equal(route_source_open(index, &more), -EAGAIN);
	for (unsigned i = 0; i < ROUTE_SOURCES_MAX; i++)
		for (uint64_t key = 0; key < 3; key++)
			assert_int_equal(route_index_change(index, sources[i], key, CPU, 0), CPU);
	route_index_look(index, &figures);
	assert_int_equal(figures.keys, 3);
	assert_int_equal(figures.entries, 3 * ROUTE_SOURCES_MAX);
	for (unsigned i = 0; i < ROUTE_SOURCES_MAX; i++)
		assert_int_equal(route_index_get(index, sources[i], 1), CPU);
	for (unsigned i = 0; i < ROUTE_SOURCES_MAX; i++) {
		assert_int_equal(route_index_change(index, sources[i], 1, 0, CPU), 0);
		assert_int_equal(route_index_get(index, sources[i], 1), 0);
		assert_int_equal(route_index_get(index, sources[ROUTE_SOURCES_MAX - 1], 1),
				 i + 1 < ROUTE_SOURCES_MAX ? CPU : 0);
		assert_int_equal(route_index_get(index, sources[i], 2), CPU);
	}
	uint64_t bytes = figures.bytes;
	for (unsigned i = 0; i < ROUTE_SOURCES_MAX; i++)
		put(index, sources[i], 1, 1, NVME);
	route_index_look(index, &figures);
	assert_int_equal(figures.bytes, bytes);   /* what was given back is taken again */
	route_index_destroy(index);
}

/* Keys come and go, each with more sources than a cell holds for a while. */
static void what_goes_leaves_its_memory(void **unused)
{
	struct route_index *index = index_make(UINT32_MAX);
	uint16_t sources[9];
	struct route_figures figures;
	uint64_t bytes = 0, key = 1;

	(void)unused;
	for (unsigned i = 0; i < 9; i++)
		sources[i] = source_open(index);
	for (unsigned round = 0; round < 200; round++, key += 1000) {
		for (unsigned i = 0; i < 9; i++)
			put(index, sources[i], key, 1000, HBM);
		for (unsigned i = 1; i < 9; i++)
			for (unsigned n = 0; n < 1000; n++)
				assert_int_equal(route_index_change(index, sources[i], key + n, 0,
								    HBM), 0);
		for (unsigned n = 0; n < 1000 && round > 0; n++)
			assert_int_equal(route_index_change(index, sources[0], key - 1000 + n, 0,
							    HBM), 0);
		route_index_look(index, &figures);
		assert_int_equal(figures.keys, 1000);
		if (round == 20)
			bytes = figures.bytes;
	}
	/* Here and there a segment has had more of them at once than before. */
	assert_in_range(figures.bytes, bytes, bytes + bytes / 4);
	route_index_destroy(index);
}

static void a_source_that_begins_anew_has_nothing(void **unused)
{
	struct route_index *index = index_make(100000);
	uint16_t old = source_open(index), other = source_open(index), anew;
	struct route_figures figures;
	uint64_t keys[1000], entries, digest;
	unsigned steps = 0;

	(void)unused;
	keys_number(keys, 1, 1000);
	put(index, old, 1, 1000, HBM);
	put(index, other, 1, 500, HBM);
	assert_false(route_index_sweep(index));
	route_source_drop(index, old);
	assert_int_equal(route_index_change(index, old, 1, HBM, 0), -ENOENT);
	anew = source_open(index);
	assert_int_not_equal(anew, old);
	assert_int_equal(match_one(index, old, ROUTE_SOURCE_NONE, keys, 1000).blocks, 0);
	put(index, anew, 1, 10, HBM);
	while (route_index_sweep(index)) {
		put(index, anew, 11 + steps % 500, 1, HBM);
		assert_in_range(++steps, 1, 100000);
	}
	assert_int_equal(match_one(index, anew, ROUTE_SOURCE_NONE, keys, 1000).blocks, 510);
	assert_int_equal(match_one(index, other, ROUTE_SOURCE_NONE, keys, 1000).blocks, 500);
	route_index_look(index, &figures);
	assert_int_equal(figures.entries, 1010);
	assert_int_equal(figures.keys, 510);
	assert_int_equal(figures.dropped, 0);
	/* Its number is anybody's again, and brings nothing along. */
	uint16_t again = source_open(index);
	assert_int_equal(again, old);
	route_source_look(index, again, &entries, &digest);
	assert_int_equal(entries, 0);
	assert_int_equal(digest, 0);
	assert_int_equal(match_one(index, again, ROUTE_SOURCE_NONE, keys, 1000).blocks, 0);
	route_index_destroy(index);
}

/* One that is dropped while others are swept waits for the next round. */
static void sources_may_be_dropped_during_a_sweep(void **unused)
{
	struct route_index *index = index_make(100000);
	uint16_t a = source_open(index), b = source_open(index);
	struct route_figures figures;

	(void)unused;
	put(index, a, 1, 2000, HBM);
	put(index, b, 1001, 2000, HBM);
	route_source_drop(index, a);
	for (unsigned i = 0; i < 2000; i++)
		assert_true(route_index_sweep(index));
	route_source_drop(index, b);
	while (route_index_sweep(index))
		continue;
	route_index_look(index, &figures);
	assert_int_equal(figures.entries, 0);
	assert_int_equal(figures.keys, 0);
	assert_int_equal(figures.dropped, 0);
	route_index_destroy(index);
}

/* ---- beside a plain table ---- */

#define PLAIN_KEYS 300u
#define PLAIN_SOURCES 40u
#define PLAIN_CHAIN 24u

struct plain {
	uint8_t tiers[PLAIN_SOURCES][PLAIN_KEYS];
	uint16_t numbers[PLAIN_SOURCES];
};

static uint64_t plain_keys[PLAIN_KEYS];

static uint64_t plain_key(unsigned key)
{
	return plain_keys[key];
}

/* All in two segments, so that they stand in each other's way. */
static void plain_keys_find(void)
{
	uint64_t key = 0;

	for (unsigned i = 0; i < PLAIN_KEYS; key++)
		if (route_mix(key ^ SEED) >> (64 - SEGMENT_BITS) <= 1)
			plain_keys[i++] = key;
}

static void plain_match(const struct plain *plain, const unsigned *chain, unsigned a, unsigned b,
			struct route_match *out_match)
{
	memset(out_match, 0, sizeof(*out_match));
	for (unsigned i = 0; i < PLAIN_CHAIN; i++) {
		unsigned tiers = plain->tiers[a][chain[i]] | plain->tiers[b][chain[i]];

		if (tiers == 0)
			return;
		out_match->blocks++;
		out_match->tier_blocks[__builtin_ctz(tiers)]++;
	}
}

static void plain_compare(struct route_index *index, const struct plain *plain,
			  struct random *random)
{
	unsigned chain[PLAIN_CHAIN], first = (unsigned)random_below(random, PLAIN_KEYS);
	struct route_pod pods[PLAIN_SOURCES];
	struct route_match found[PLAIN_SOURCES], wanted;
	uint64_t keys[PLAIN_CHAIN];

	for (unsigned i = 0; i < PLAIN_CHAIN; i++) {
		chain[i] = (first + i) % PLAIN_KEYS;
		keys[i] = plain_key(chain[i]);
	}
	for (unsigned i = 0; i < PLAIN_SOURCES; i++)
		pods[i] = (struct route_pod){ { plain->numbers[i],
						plain->numbers[(i + 1) % PLAIN_SOURCES] } };
	route_index_match(index, keys, PLAIN_CHAIN, pods, PLAIN_SOURCES, found);
	for (unsigned i = 0; i < PLAIN_SOURCES; i++) {
		plain_match(plain, chain, i, (i + 1) % PLAIN_SOURCES, &wanted);
		assert_memory_equal(&found[i], &wanted, sizeof(wanted));
	}
}

static void plain_totals(const struct route_index *index, const struct plain *plain)
{
	uint64_t all = 0;
	struct route_figures figures;

	for (unsigned i = 0; i < PLAIN_SOURCES; i++) {
		uint64_t entries = 0, digest = 0, found, sum;

		for (unsigned key = 0; key < PLAIN_KEYS; key++) {
			entries += plain->tiers[i][key] != 0;
			digest += inventory_digest(plain_key(key), plain->tiers[i][key]);
			assert_int_equal(route_index_get(index, plain->numbers[i], plain_key(key)),
					 plain->tiers[i][key]);
		}
		route_source_look(index, plain->numbers[i], &found, &sum);
		assert_int_equal(found, entries);
		assert_int_equal(sum, digest);
		all += entries;
	}
	route_index_look(index, &figures);
	if (figures.dropped == 0)
		assert_int_equal(figures.entries, all);
}

static void it_says_what_a_plain_table_says(void **unused)
{
	(void)unused;
	plain_keys_find();
	for (unsigned seed = 0; seed < 20; seed++) {
		struct route_index *index = index_make(UINT32_MAX);
		static struct plain plain;
		struct random random;

		random_init(&random, seed);
		memset(&plain, 0, sizeof(plain));
		for (unsigned i = 0; i < PLAIN_SOURCES; i++)
			plain.numbers[i] = source_open(index);
		for (unsigned step = 0; step < 20000; step++) {
			unsigned source = (unsigned)random_below(&random, PLAIN_SOURCES);
			unsigned key = (unsigned)random_below(&random, PLAIN_KEYS);
			unsigned set = (unsigned)random_next(&random) & 15;
			unsigned clear = (unsigned)random_next(&random) & 15;
			uint8_t *tiers = &plain.tiers[source][key];

			if (random_below(&random, 3) > 0)
				set = 0;
			*tiers = (uint8_t)((*tiers & ~clear) | set);
			assert_int_equal(route_index_change(index, plain.numbers[source],
							    plain_key(key), set, clear), *tiers);
			(void)route_index_sweep(index);
			if (step % 500 == 0)
				plain_compare(index, &plain, &random);
			if (step % 3000 != 0)
				continue;
			route_source_drop(index, plain.numbers[source]);
			plain.numbers[source] = source_open(index);
			memset(plain.tiers[source], 0, sizeof(plain.tiers[source]));
		}
		plain_totals(index, &plain);
		route_index_destroy(index);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_pod_has_what_its_engine_and_its_node_have),
		cmocka_unit_test(the_quickest_tier_counts),
		cmocka_unit_test(what_is_arriving_is_in_no_digest),
		cmocka_unit_test(there_is_a_limit),
		cmocka_unit_test(a_key_may_be_everywhere),
		cmocka_unit_test(what_goes_leaves_its_memory),
		cmocka_unit_test(a_source_that_begins_anew_has_nothing),
		cmocka_unit_test(sources_may_be_dropped_during_a_sweep),
		cmocka_unit_test(it_says_what_a_plain_table_says),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
