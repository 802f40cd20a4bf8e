/* tests/index/test_spaces.c: spaces come and go: who stays, who goes, and that nothing of a space
 * that went is ever found. */
#include "tests/index/rig.h"

#include <errno.h>

#define SPACES 4u

struct fingerprint {
	uint8_t bytes[SPACE_ID_BYTES];
};

static struct fingerprint fingerprint_of(uint32_t number)
{
	struct fingerprint fingerprint = { { 0xee } };

	memcpy(fingerprint.bytes + 4, &number, sizeof(number));
	return fingerprint;
}

static int space_open(struct rig *rig, uint32_t number, uint32_t *out_space)
{
	return cache_space_open(rig->cache, rig->tenant, fingerprint_of(number).bytes, out_space);
}

static bool space_is_there(struct rig *rig, uint32_t number)
{
	uint32_t space;

	return cache_space_find(rig->cache, rig->tenant, fingerprint_of(number).bytes, &space) == 0;
}

static void sweep(struct rig *rig)
{
	while (cache_forgotten_sweep(rig->cache, 3) > 0)
		cache_check(rig->cache);
}

/* The rig's own space and tenant are replaced: `rig->space` is what rig_store() stores into. */
static void spaces_init(struct rig *rig, uint32_t spaces_leaving_max)
{
	const uint32_t units[TIERS] = { 4, 8 };
	struct cache_config config = rig_config(rig);
	struct error error;

	memset(rig, 0, sizeof(*rig));
	config.spaces_max = SPACES;
	config.spaces_leaving_max = spaces_leaving_max;
	config.tenants_max = 2;
	assert_int_equal(cache_create(&rig->cache, &config, &error), 0);
	for (unsigned tier = 0; tier < TIERS; tier++)
		assert_int_equal(cache_area_add(rig->cache, tier, 16 * RIG_SLOT_BYTES, &units[tier],
						1, &rig->area[tier]),
				 0);
	assert_int_equal(cache_tenant_add(rig->cache, rig->area, units, &rig->tenant), 0);
}

/* Opens spaces first .. first + count - 1 with a block each, the first one first. */
static void spaces_fill(struct rig *rig, uint32_t first, uint32_t count)
{
	for (uint32_t number = first; number < first + count; number++) {
		assert_int_equal(space_open(rig, number, &rig->space), 0);
		rig_store(rig, 100 + number, 0);
	}
}

static void a_full_table_refuses_until_a_space_is_given_back(void **unused)
{
	struct rig rig;
	uint32_t space;

	(void)unused;
	spaces_init(&rig, 8);
	spaces_fill(&rig, 0, SPACES);
	assert_int_equal(space_open(&rig, SPACES, &space), -ENOSPC);
	assert_int_equal(cache_space_give_back(rig.cache, rig.tenant), 0);
	assert_int_equal(cache_spaces_count(rig.cache, rig.tenant), SPACES - 1);
	assert_int_equal(space_open(&rig, SPACES, &space), 0);
	assert_int_equal(space_open(&rig, SPACES + 1, &space), -ENOSPC);
	rig_finish(&rig);
}

static void a_space_without_blocks_goes_first_then_the_longest_unused(void **unused)
{
	struct rig rig;
	uint32_t empty, space;

	(void)unused;
	spaces_init(&rig, 8);
	spaces_fill(&rig, 0, SPACES - 1);
	assert_int_equal(space_open(&rig, 9, &empty), 0);
	/* Space 0 is used once more, so 1 is what was let go longest ago. */
	assert_int_equal(space_open(&rig, 0, &space), 0);
	cache_space_hold(rig.cache, space);
	cache_space_release(rig.cache, space);
	for (unsigned i = 0; i < SPACES; i++) {
		static const uint32_t order[SPACES] = { 9, 1, 2, 0 };

		assert_true(space_is_there(&rig, order[i]));
		assert_int_equal(cache_space_give_back(rig.cache, rig.tenant), 0);
		assert_false(space_is_there(&rig, order[i]));
		assert_int_equal(cache_spaces_count(rig.cache, rig.tenant), SPACES - 1 - i);
		cache_check(rig.cache);
	}
	assert_int_equal(cache_space_give_back(rig.cache, rig.tenant), -ENOENT);
	rig_finish(&rig);
}

static void a_held_space_stays(void **unused)
{
	struct rig rig;
	uint32_t spaces[SPACES];

	(void)unused;
	spaces_init(&rig, 8);
	for (uint32_t i = 0; i < SPACES; i++) {
		assert_int_equal(space_open(&rig, i, &spaces[i]), 0);
		cache_space_hold(rig.cache, spaces[i]);
	}
	assert_int_equal(cache_space_give_back(rig.cache, rig.tenant), -ENOENT);
	cache_space_hold(rig.cache, spaces[2]);
	cache_space_release(rig.cache, spaces[2]);
	assert_int_equal(cache_space_give_back(rig.cache, rig.tenant), -ENOENT);
	cache_space_release(rig.cache, spaces[2]);
	assert_int_equal(cache_space_give_back(rig.cache, rig.tenant), 0);
	assert_false(space_is_there(&rig, 2));
	rig_finish(&rig);
}

static void a_lease_keeps_the_space_of_its_blocks(void **unused)
{
	struct rig rig;
	uint64_t lease;
	unsigned granted;

	(void)unused;
	spaces_init(&rig, 8);
	assert_int_equal(space_open(&rig, 0, &rig.space), 0);
	rig_store(&rig, 1, 0);
	rig_store(&rig, 2, 1);
	uint32_t entries[2] = { rig_entry(&rig, 1), rig_entry(&rig, 2) };
	assert_int_equal(
		cache_lease_grant(rig.cache, rig.tenant, entries, 2, 50, &lease, &granted), 0);
	assert_int_equal(granted, 2);
	assert_int_equal(cache_space_give_back(rig.cache, rig.tenant), -ENOENT);
	assert_true(cache_lease_release_entry(rig.cache, lease, entries[0]));
	assert_int_equal(cache_space_give_back(rig.cache, rig.tenant), -ENOENT);
	assert_int_equal(cache_lease_expire(rig.cache, 50), 1);
	assert_int_equal(cache_space_give_back(rig.cache, rig.tenant), 0);
	sweep(&rig);
	assert_int_equal(cache_entries_count(rig.cache), 0);
	rig_finish(&rig);
}

static void a_space_of_the_same_name_finds_nothing_of_the_one_that_went(void **unused)
{
	struct rig rig;

	(void)unused;
	spaces_init(&rig, 8);
	spaces_fill(&rig, 0, 1);
	uint32_t before = rig.space;
	assert_true(rig_has(&rig, 100));
	uint64_t changes = cache_changes(rig.cache);
	assert_int_equal(cache_space_give_back(rig.cache, rig.tenant), 0);
	assert_true(cache_changes(rig.cache) > changes);
	/* Its block is there still, so its number is nobody else's. */
	assert_false(cache_space_is_known(rig.cache, before));
	assert_int_equal(space_open(&rig, 0, &rig.space), 0);
	assert_int_not_equal(rig.space, before);
	assert_false(rig_has(&rig, 100));
	assert_int_equal(rig_entry(&rig, 100), ENTRY_NONE);
	rig_store(&rig, 100, 0);
	sweep(&rig);
	assert_true(rig_has(&rig, 100));
	assert_int_equal(cache_entries_count(rig.cache), 1);
	/* And now it is: for another one, which finds nothing either. */
	assert_int_equal(space_open(&rig, 1, &rig.space), 0);
	assert_int_equal(rig.space, before);
	assert_false(rig_has(&rig, 100));
	rig_finish(&rig);
}

static void a_slot_that_is_read_or_filled_keeps_the_number_until_it_is_let_go(void **unused)
{
	struct rig rig;
	uint32_t entry, space;

	(void)unused;
	spaces_init(&rig, 8);
	assert_int_equal(space_open(&rig, 0, &rig.space), 0);
	enum tier_id tier = rig_store(&rig, 1, 0);
	uint32_t held = rig_slot(&rig, 1, tier);
	cache_slot_hold(rig.cache, tier, held);
	assert_int_equal(rig_admit_shard(&rig, 2, 1, 0, 1, &entry), CACHE_ADMITTED);
	uint32_t filling = rig_slot(&rig, 2, tier);
	assert_int_equal(cache_space_give_back(rig.cache, rig.tenant), 0);
	sweep(&rig);
	for (uint32_t number = 1; number < SPACES; number++) {
		assert_int_equal(space_open(&rig, number, &space), 0);
		assert_int_not_equal(space, rig.space);
	}
	assert_memory_equal(cache_space_fingerprint(rig.cache, rig.space), fingerprint_of(0).bytes,
			    SPACE_ID_BYTES);
	assert_false(cache_slot_ready(rig.cache, tier, filling));
	cache_check(rig.cache);
	cache_slot_release(rig.cache, tier, held);
	cache_check(rig.cache);
	assert_int_equal(space_open(&rig, SPACES, &space), 0);
	assert_int_equal(space, rig.space);
	rig_finish(&rig);
}

static void spaces_that_take_long_to_go_are_waited_for(void **unused)
{
	struct rig rig;

	(void)unused;
	spaces_init(&rig, 4); /* two for each of the two tenants */
	spaces_fill(&rig, 0, SPACES);
	assert_int_equal(cache_space_give_back(rig.cache, rig.tenant), 0);
	assert_int_equal(cache_space_give_back(rig.cache, rig.tenant), 0);
	assert_int_equal(cache_space_give_back(rig.cache, rig.tenant), -EAGAIN);
	assert_true(space_is_there(&rig, 2));
	sweep(&rig);
	assert_int_equal(cache_space_give_back(rig.cache, rig.tenant), 0);
	assert_false(space_is_there(&rig, 2));
	rig_finish(&rig);
}

/* Each give-back begins a round of the sweep, of which one step is made: the last entries are met
 * all the same. */
static void spaces_that_go_again_and_again_do_not_starve_the_sweep(void **unused)
{
	struct rig rig;

	(void)unused;
	spaces_init(&rig, 8);
	for (uint32_t number = 0; number < 500; number++) {
		if (cache_spaces_count(rig.cache, rig.tenant) == SPACES)
			assert_int_equal(cache_space_give_back(rig.cache, rig.tenant), 0);
		spaces_fill(&rig, number, 1);
		rig_store(&rig, 5000 + number, 100 + number);
		(void)cache_forgotten_sweep(rig.cache, 6);
		cache_check(rig.cache);
		assert_true(cache_entries_count(rig.cache) <= 2 * (SPACES + 4));
	}
	rig_finish(&rig);
}

static void another_tenant_keeps_its_spaces_and_blocks(void **unused)
{
	const uint32_t units[TIERS] = { 2, 2 };
	struct rig rig;
	uint32_t own, other, tenant;

	(void)unused;
	spaces_init(&rig, 8);
	assert_int_equal(cache_tenant_add(rig.cache, rig.area, units, &tenant), 0);
	assert_int_equal(cache_space_open(rig.cache, tenant, fingerprint_of(0).bytes, &other), 0);
	assert_int_equal(space_open(&rig, 0, &own), 0);
	assert_int_not_equal(own, other);
	rig.space = other;
	rig_store(&rig, 1, 0);
	assert_int_equal(cache_space_give_back(rig.cache, rig.tenant), 0);
	assert_int_equal(cache_space_give_back(rig.cache, rig.tenant), -ENOENT);
	sweep(&rig);
	assert_true(cache_space_is_known(rig.cache, other));
	assert_true(rig_has(&rig, 1));
	assert_int_equal(cache_spaces_count(rig.cache, tenant), 1);
	rig_finish(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_full_table_refuses_until_a_space_is_given_back),
		cmocka_unit_test(a_space_without_blocks_goes_first_then_the_longest_unused),
		cmocka_unit_test(a_held_space_stays),
		cmocka_unit_test(a_lease_keeps_the_space_of_its_blocks),
		cmocka_unit_test(a_space_of_the_same_name_finds_nothing_of_the_one_that_went),
		cmocka_unit_test(a_slot_that_is_read_or_filled_keeps_the_number_until_it_is_let_go),
		cmocka_unit_test(spaces_that_take_long_to_go_are_waited_for),
		cmocka_unit_test(spaces_that_go_again_and_again_do_not_starve_the_sweep),
		cmocka_unit_test(another_tenant_keeps_its_spaces_and_blocks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
