/* tests/cluster/test_inventory.c: from the index of a node, by what its loop tells, to what a
 * reader knows: blocks that are stored, evicted, moved between tiers, damaged and forgotten, a ring
 * that is full, snapshots between. */
#include "base/random.h"
#include "cluster/node_view.h"
#include "daemon/inventory.h"
#include "daemon/inventory_server.h"
#include "tests/index/rig.h"

#include <stdlib.h>

#define KEYS 3000u
#define CPU_UNITS 6u
#define NVME_UNITS 12u
#define UNIT_SLOTS 64u
#define STEP_US UINT64_C(2000)
/* As long as one may be. */
#define LONG_NAME "vllm-0123456789-0123456789-0123456789-0123456789-0123456789-012"
#define QUIET_US UINT64_C(2000000)

static struct scene {
	struct random random;
	uint64_t now_us;
	struct cache *cache;
	uint32_t tenant, spaces[2], area[TIERS];
	struct inventory *inventory;
	struct inventory_server *server;
	struct node_view *view;
	struct route_index *index;
	unsigned full_percent;         /* of messages that there is no room for */
	uint64_t told;
	bool is_wanted, has_engine;
	struct inventory_message want;
} scene;

static uint64_t route_key(uint64_t number)
{
	return number * UINT64_C(0x9e3779b97f4a7c15) | 1;
}

static const uint8_t *fingerprint(uint32_t space)
{
	return cache_space_fingerprint(scene.cache, space);
}

/* ---- what lies between ---- */

static void copy_whole(void *owner, const struct entry *entry, enum tier_id tier)
{
	(void)owner;
	inventory_changed(scene.inventory, entry, tier, true);
}

static void copy_gone(void *owner, const struct entry *entry, enum tier_id tier)
{
	(void)owner;
	inventory_changed(scene.inventory, entry, tier, false);
}

static bool loop_sends(void *owner, const struct inventory_message *message)
{
	struct error error;

	(void)owner;
	if (random_next(&scene.random) % 100 < scene.full_percent)
		return false;
	scene.told++;
	assert_int_equal(inventory_server_told(scene.server, message, scene.now_us, &error), 0);
	return true;
}

static void figures(void *owner, struct inventory *inventory)
{
	(void)owner;
	inventory_figure(inventory, INVENTORY_NVME, INVENTORY_CAPACITY_BYTES, 12345);
	if (scene.has_engine)
		inventory_engine(inventory, "tenant", LONG_NAME, 32, scene.spaces, 2);
}

static void publish(void *room, uint64_t sequence, const void *payload, uint32_t bytes)
{
	(void)room;
	node_view_heard(scene.view, sequence, payload, bytes, scene.now_us);
}

static void answer(void *room, const void *asker, uint32_t asker_bytes, uint64_t sequence,
		   const void *payload, uint32_t bytes)
{
	(void)room, (void)asker, (void)asker_bytes;
	node_view_answered(scene.view, sequence, payload, bytes, scene.now_us);
}

static bool want(void *room, const struct inventory_message *message)
{
	(void)room;
	scene.is_wanted = true;
	scene.want = *message;
	return true;
}

static void ask(void *owner, const void *question, size_t bytes)
{
	(void)owner;
	inventory_server_asked(scene.server, "me", 2, question, bytes);
}

static void pass(void)
{
	scene.now_us += STEP_US;
	/* Asked before; the answer may find another epoch. */
	if (scene.is_wanted) {
		scene.is_wanted = false;
		inventory_asked(scene.inventory, &scene.want);
	}
	(void)inventory_step(scene.inventory, scene.now_us);
	inventory_server_flush(scene.server);
	inventory_server_step(scene.server);
	node_view_step(scene.view, scene.now_us);
	while (route_index_sweep(scene.index))
		;
}

/* ---- the node ---- */

static void scene_open(uint64_t seed)
{
	const uint32_t units[TIERS] = { CPU_UNITS, NVME_UNITS };
	const struct inventory_wire wire = { publish, answer, want, NULL };
	struct cache_config config = rig_config(NULL);
	struct error error;

	memset(&scene, 0, sizeof(scene));
	random_init(&scene.random, seed);
	scene.now_us = 1000000;
	config.spaces_leaving_max = 4;
	config.listener = (struct cache_listener){ .copy_whole = copy_whole,
						   .copy_gone = copy_gone };
	assert_int_equal(cache_create(&scene.cache, &config, &error), 0);
	for (unsigned tier = 0; tier < TIERS; tier++)
		assert_int_equal(cache_area_add(scene.cache, tier, UNIT_SLOTS * RIG_SLOT_BYTES,
						&units[tier], 1, &scene.area[tier]),
				 0);
	assert_int_equal(cache_tenant_add(scene.cache, scene.area, units, &scene.tenant), 0);
	for (uint8_t i = 0; i < 2; i++) {
		const uint8_t bytes[SPACE_ID_BYTES] = { (uint8_t)(i + 1) };

		assert_int_equal(cache_space_open(scene.cache, scene.tenant, bytes,
						  &scene.spaces[i]),
				 0);
	}
	const struct inventory_config inventory = {
		.cache = scene.cache, .boot_id = 77, .spaces_max = 8, .send = loop_sends,
		.figures = figures,
	};
	assert_int_equal(inventory_create(&scene.inventory, &inventory, &error), 0);
	assert_int_equal(inventory_server_create(&scene.server, 77, &wire, &error), 0);
	assert_int_equal(route_index_create(&scene.index, 100000, seed, &error), 0);
	const struct node_view_config view = { .index = scene.index, .ask = ask };
	assert_int_equal(node_view_create(&scene.view, &view, &error), 0);
}

static void scene_close(void)
{
	node_view_destroy(scene.view);
	inventory_server_destroy(scene.server);
	inventory_destroy(scene.inventory);
	cache_check(scene.cache);
	cache_destroy(scene.cache);
	route_index_destroy(scene.index);
}

static uint32_t space_draw(void)
{
	return scene.spaces[random_next(&scene.random) % 2];
}

/* Some have no route key: they are not spoken of. */
static void store(uint64_t number, uint32_t space, unsigned shards)
{
	struct rig_key key = rig_key(number);
	struct cache_new block = {
		.space = space, .shards_count = (uint8_t)shards, .hash = key.hash, .tokens = 16,
		.route_key = number % 10 == 0 ? 0 : route_key(number), .epoch = 10,
		.slot_bytes = RIG_SLOT_BYTES, .lower_wanted = true,
	};

	for (unsigned shard = 0; shard < shards; shard++) {
		uint32_t entry;

		block.shard = (uint8_t)shard;
		if (cache_admit(scene.cache, &block, &entry) != CACHE_ADMITTED)
			return;
		for (enum tier_id tier = 0; tier < TIERS; tier++) {
			uint32_t slot = cache_copy_slot(scene.cache, entry, tier, shard);

			if (slot != SLOT_NONE &&
			    cache_slot(scene.cache, tier, slot)->state == SLOT_FILLING)
				(void)cache_slot_ready(scene.cache, tier, slot);
		}
	}
}

/* Into the other tier, too. */
static void copy(uint32_t entry)
{
	const struct entry *seen = cache_entry(scene.cache, entry);
	enum tier_id tier = seen->copy[TIER_CPU] == SLOT_NONE ? TIER_CPU : TIER_NVME;
	uint32_t slot;

	if (seen->shards_count == 1 && seen->copy[tier] == SLOT_NONE &&
	    cache_slot_take(scene.cache, entry, tier, 0, RIG_SLOT_BYTES, ENTRY_NONE, &slot,
			    NULL) == 0)
		(void)cache_slot_ready(scene.cache, tier, slot);
}

static uint32_t entry_draw(void)
{
	uint32_t end = cache_entries_end(scene.cache), cursor;

	if (end == 0)
		return ENTRY_NONE;
	cursor = (uint32_t)(random_next(&scene.random) % end);
	return cache_entry_next(scene.cache, &cursor, 64);
}

static void change_some(void)
{
	uint32_t entry = entry_draw();
	unsigned what = (unsigned)(random_next(&scene.random) % 100);

	if (what < 60 || entry == ENTRY_NONE)
		store(random_next(&scene.random) % KEYS, space_draw(), what % 7 == 0 ? 3 : 1);
	else if (what < 85)
		copy(entry);
	else if (what < 95)
		cache_entry_drop(scene.cache, entry);
	else if (cache_entry(scene.cache, entry)->copy[TIER_NVME] != SLOT_NONE)
		cache_slot_quarantine(scene.cache, TIER_NVME,
				      cache_entry(scene.cache, entry)->copy[TIER_NVME]);
}

static unsigned bits_of(const struct entry *entry)
{
	return (entry_is_whole(entry, TIER_CPU) ? INVENTORY_CPU : 0) |
	       (entry_is_whole(entry, TIER_NVME) ? INVENTORY_NVME : 0);
}

/* All that the cache has, and nothing else. */
static void assert_view_is_right(void)
{
	uint64_t entries[2] = { 0 }, known, digest, sum;
	uint32_t cursor = 0, end = cache_entries_end(scene.cache);

	while (cursor < end) {
		uint32_t number = cache_entry_next(scene.cache, &cursor, end);

		if (number == ENTRY_NONE)
			break;
		const struct entry *entry = cache_entry(scene.cache, number);
		unsigned bits = bits_of(entry);
		if (entry->route_key == 0 || bits == 0)
			continue;
		uint16_t source = node_view_source(scene.view, fingerprint(entry->space));
		assert_int_not_equal(source, ROUTE_SOURCE_NONE);
		assert_int_equal(route_index_get(scene.index, source, entry->route_key), bits);
		entries[entry->space == scene.spaces[1]]++;
	}
	for (unsigned i = 0; i < 2; i++) {
		uint16_t source = node_view_source(scene.view, fingerprint(scene.spaces[i]));

		inventory_sums(scene.inventory, scene.spaces[i], &sum, &digest);
		assert_int_equal(sum, entries[i]);
		if (source == ROUTE_SOURCE_NONE) {
			assert_int_equal(entries[i], 0);
			continue;
		}
		route_source_look(scene.index, source, &known, &sum);
		assert_int_equal(known, entries[i]);
		assert_int_equal(sum, digest);
	}
}

static void settle(void)
{
	scene.full_percent = 0;
	for (uint64_t end_us = scene.now_us + QUIET_US; scene.now_us < end_us;)
		pass();
	assert_view_is_right();
}

static void what_the_index_has_is_known(void **unused)
{
	struct node_view_figures seen;
	uint64_t value;

	(void)unused;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		scene_open(seed);
		for (unsigned n = 0; n < 2000; n++) {
			for (unsigned i = 0; i < seed % 4; i++)
				change_some();
			pass();
		}
		settle();
		node_view_look(scene.view, &seen);
		assert_int_equal(seen.snapshots, 1);
		assert_int_equal(seen.differences + seen.gaps + seen.garbled, 0);
		assert_true(node_view_figure(scene.view, INVENTORY_NVME, INVENTORY_CAPACITY_BYTES,
					     &value));
		assert_int_equal(value, 12345);
		scene_close();
	}
}

static void a_full_ring_costs_an_epoch(void **unused)
{
	struct inventory_status status;

	(void)unused;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		scene_open(seed);
		for (unsigned n = 0; n < 1000; n++) {
			scene.full_percent = n % 200 < 20 ? 5 : 0;
			for (unsigned i = 0; i < 3; i++)
				change_some();
			pass();
		}
		settle();
		inventory_look(scene.inventory, &status);
		assert_true(status.lost > 0 && status.epoch == status.lost + 1);
		scene_close();
	}
}

/* Its number means another space then; and what was forgotten goes as it is swept. */
static void a_space_that_is_given_back_is_not_taken_for_another(void **unused)
{
	(void)unused;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		const uint8_t other[SPACE_ID_BYTES] = { 9, (uint8_t)seed };
		uint8_t before[SPACE_ID_BYTES];

		scene_open(seed);
		for (unsigned n = 0; n < 600; n++) {
			change_some();
			pass();
		}
		memcpy(before, fingerprint(scene.spaces[1]), sizeof(before));
		cache_space_forget(scene.cache, scene.spaces[0], 11);
		cache_space_hold(scene.cache, scene.spaces[0]);
		assert_int_equal(cache_space_give_back(scene.cache, scene.tenant), 0);
		while (cache_forgotten_sweep(scene.cache, 100) > 0)
			pass();
		assert_int_equal(cache_space_open(scene.cache, scene.tenant, other,
						  &scene.spaces[1]),
				 0);
		cache_space_release(scene.cache, scene.spaces[0]);
		for (unsigned n = 0; n < 100; n++) {
			change_some();
			pass();
		}
		settle();
		uint16_t source = node_view_source(scene.view, before);
		uint64_t entries = 0, digest;
		if (source != ROUTE_SOURCE_NONE)
			route_source_look(scene.index, source, &entries, &digest);
		assert_int_equal(entries, 0);
		scene_close();
	}
}

static void an_engine_is_known_with_its_spaces_until_it_goes(void **unused)
{
	uint64_t entries = 0, all = 0, digest;
	struct node_view_figures seen;
	struct node_engine engine;

	(void)unused;
	scene_open(1);
	assert_false(node_view_engine(scene.view, "tenant", LONG_NAME, &engine));
	scene.has_engine = true;
	for (unsigned n = 0; n < 600; n++) {
		change_some();
		pass();
	}
	settle();
	assert_true(node_view_engine(scene.view, "tenant", LONG_NAME, &engine));
	assert_false(node_view_engine(scene.view, LONG_NAME, "tenant", &engine));
	assert_int_equal(engine.tokens_per_block, 32);
	assert_int_equal(engine.sources_count, 2);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(engine.sources[i],
				 node_view_source(scene.view, fingerprint(scene.spaces[i])));
		route_source_look(scene.index, engine.sources[i], &entries, &digest);
		assert_true(entries > 0);
		all += entries;
	}
	node_view_look(scene.view, &seen);
	assert_int_equal(all, seen.entries);
	/* An epoch that ends in the middle of its names. */
	for (scene.full_percent = 20; scene.told % 97 != 0;)
		pass();
	settle();
	assert_true(node_view_engine(scene.view, "tenant", LONG_NAME, &engine));
	scene.has_engine = false;
	for (uint64_t end_us = scene.now_us + NODE_SILENT_US + INVENTORY_LINE_US;
	     scene.now_us < end_us;)
		pass();
	assert_false(node_view_engine(scene.view, "tenant", LONG_NAME, &engine));
	scene_close();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_the_index_has_is_known),
		cmocka_unit_test(a_full_ring_costs_an_epoch),
		cmocka_unit_test(a_space_that_is_given_back_is_not_taken_for_another),
		cmocka_unit_test(an_engine_is_known_with_its_spaces_until_it_goes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
