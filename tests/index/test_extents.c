/* tests/index/test_extents.c: classes, the extents they take, whom they take them from, quarantined
 * slots, and fenced devices. */
#include "tests/index/rig.h"

/* A block of any size behind no parent; READY. */
static enum cache_admission store_sized(struct rig *rig, uint64_t number, uint32_t slot_bytes)
{
	struct rig_key key = rig_key(number);
	struct cache_new block = {
		.space = rig->space,
		.shards_count = 1,
		.hash = key.hash,
		.epoch = 10,
		.slot_bytes = slot_bytes,
		.lower_wanted = true,
	};
	uint32_t entry;
	enum cache_admission admission = cache_admit(rig->cache, &block, &entry);

	if (admission == CACHE_ADMITTED)
		for (unsigned tier = 0; tier < TIERS; tier++)
			if (cache_copy_slot(rig->cache, entry, tier, 0) != SLOT_NONE)
				assert_true(cache_slot_ready(
					rig->cache, tier,
					cache_copy_slot(rig->cache, entry, tier, 0)));
	cache_check(rig->cache);
	return admission;
}

static void a_new_class_is_never_starved(void **unused)
{
	struct rig rig;
	struct cache_share_figures figures;

	(void)unused;
	rig_init(&rig, 4, 0, 4);
	for (unsigned i = 1; i <= 16; i++)
		rig_store(&rig, i, 0);
	/* All of it was touched a moment ago: the new one gets the coldest unit all the same. */
	assert_int_equal(store_sized(&rig, 100, 2 * RIG_SLOT_BYTES), CACHE_ADMITTED);
	for (unsigned i = 1; i <= 16; i++)
		assert_int_equal(rig_has(&rig, i), i > 4);
	cache_share_figures(rig.cache, rig.tenant, TIER_CPU, &figures);
	assert_int_equal(figures.units_used, 4);
	assert_int_equal(figures.extents_taken, 5);
	assert_int_equal(figures.copies_whole, 13);
	rig_finish(&rig);
}

static void a_held_extent_is_not_taken(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, 2, 0, 2);
	for (unsigned i = 1; i <= 4; i++)
		rig_store(&rig, i, 0);
	cache_slot_hold(rig.cache, TIER_CPU, rig_slot(&rig, 1, TIER_CPU));
	assert_int_equal(store_sized(&rig, 100, 2 * RIG_SLOT_BYTES), CACHE_ADMITTED);
	assert_true(rig_has(&rig, 1) && rig_has(&rig, 2) && !rig_has(&rig, 3) && !rig_has(&rig, 4));
	assert_int_equal(store_sized(&rig, 101, 4096), CACHE_ADMITTED); /* the other new class's */
	assert_false(rig_has(&rig, 100));
	assert_int_equal(store_sized(&rig, 102, 4096), CACHE_ADMITTED);
	cache_slot_hold(rig.cache, TIER_CPU, rig_slot(&rig, 102, TIER_CPU));
	assert_int_equal(store_sized(&rig, 103, 2 * RIG_SLOT_BYTES), CACHE_REFUSED_FULL);
	cache_slot_release(rig.cache, TIER_CPU, rig_slot(&rig, 102, TIER_CPU));
	cache_slot_release(rig.cache, TIER_CPU, rig_slot(&rig, 1, TIER_CPU));
	rig_finish(&rig);
}

static void the_older_of_own_victim_and_foreign_extent_goes(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, 2, 0, 2);
	for (unsigned i = 1; i <= 2; i++)
		rig_store(&rig, i, 0);
	for (unsigned i = 101; i <= 104; i++)
		assert_int_equal(store_sized(&rig, i, RIG_SLOT_BYTES / 2), CACHE_ADMITTED);
	for (unsigned i = 101; i <= 104; i++)
		rig_touch(&rig, i);
	rig_touch(&rig, 1);
	rig_touch(&rig, 2);
	/* Own victim 101 is older than the others' extent. */
	assert_int_equal(store_sized(&rig, 105, RIG_SLOT_BYTES / 2), CACHE_ADMITTED);
	assert_true(!rig_has(&rig, 101) && rig_has(&rig, 1) && rig_has(&rig, 2));
	for (unsigned i = 102; i <= 105; i++)
		rig_touch(&rig, i);
	/* Now the extent of 1 and 2 is older than the own victim 102. */
	assert_int_equal(store_sized(&rig, 106, RIG_SLOT_BYTES / 2), CACHE_ADMITTED);
	assert_true(rig_has(&rig, 102) && !rig_has(&rig, 1) && !rig_has(&rig, 2));
	rig_finish(&rig);
}

static void an_extent_of_several_units_takes_neighbours(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, 8, 0, 2);
	for (unsigned i = 1; i <= 16; i++)
		rig_store(&rig, i, 0);
	rig_touch(
		&rig,
		3); /* in unit 1: the run of units 0 and 1 is young now, 2 and 3 are the coldest */
	assert_int_equal(store_sized(&rig, 100, 3 * RIG_SLOT_BYTES), CACHE_ADMITTED);
	for (unsigned i = 1; i <= 16; i++)
		assert_int_equal(rig_has(&rig, i), i < 5 || i > 8);
	rig_finish(&rig);
}

static void a_slot_that_fits_nowhere_is_refused(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, 3, 0, 2);
	assert_int_equal(store_sized(&rig, 1, 7 * RIG_SLOT_BYTES), CACHE_REFUSED_SIZE);
	assert_int_equal(store_sized(&rig, 2, 0), CACHE_REFUSED_SIZE);
	assert_int_equal(store_sized(&rig, 3, 6 * RIG_SLOT_BYTES),
			 CACHE_ADMITTED); /* the whole tier */
	assert_int_equal(store_sized(&rig, 4, RIG_SLOT_BYTES), CACHE_ADMITTED);
	assert_false(rig_has(&rig, 3));
	rig_finish(&rig);
}

static void extents_waste_little_and_stay_below_an_eighth(void **unused)
{
	struct rig rig;
	struct cache_extent extent;

	(void)unused;
	/* Slots of 5 in units of 8 slots: 5 units of 8 hold 8 of them without waste; 2 of 16 units
	 * are the eighth. */
	rig_init(&rig, 80, 0, 8);
	assert_int_equal(store_sized(&rig, 1, 5 * RIG_SLOT_BYTES), CACHE_ADMITTED);
	assert_int_equal(cache_extents(rig.cache, rig.area[TIER_CPU], &extent, 1), 1);
	assert_int_equal(extent.units_count, 5);
	rig_finish(&rig);
	rig_init(&rig, 16, 0, 8);
	assert_int_equal(store_sized(&rig, 1, 5 * RIG_SLOT_BYTES), CACHE_ADMITTED);
	assert_int_equal(cache_extents(rig.cache, rig.area[TIER_CPU], &extent, 1), 1);
	assert_int_equal(extent.units_count, 2);
	rig_finish(&rig);
}

static void more_sizes_than_classes_push_out_empty_ones(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, 2, 0, 32);
	for (unsigned i = 1; i <= 40; i++)
		assert_int_equal(store_sized(&rig, i, 4096 * i), CACHE_ADMITTED);
	rig_finish(&rig);
}

/* Of two units each, of which the tenant may have so many. */
static void rig_two_devices(struct rig *rig, uint32_t each_units, uint32_t units_max)
{
	const uint8_t fingerprint[SPACE_ID_BYTES] = { 1 };
	const uint32_t device_units[2] = { each_units, each_units };
	const uint32_t units[TIERS] = { 0, units_max };
	struct cache_config config = rig_config(rig);

	memset(rig, 0, sizeof(*rig));
	rig->area[TIER_CPU] = UINT32_MAX;
	assert_int_equal(cache_create(&rig->cache, &config, NULL), 0);
	assert_int_equal(cache_area_add(rig->cache, TIER_NVME, 4 * RIG_SLOT_BYTES, device_units, 2,
					&rig->area[TIER_NVME]),
			 0);
	assert_int_equal(cache_tenant_add(rig->cache, rig->area, units, &rig->tenant), 0);
	assert_int_equal(cache_space_open(rig->cache, rig->tenant, fingerprint, &rig->space), 0);
}

static void neighbouring_blocks_lie_on_all_devices(void **unused)
{
	struct rig rig;
	struct slot_place place;
	unsigned on_device[2] = { 0, 0 };

	(void)unused;
	rig_two_devices(&rig, 2, 4);
	for (unsigned i = 1; i <= 16; i++)
		rig_store(&rig, i, i - 1);
	rig_store(&rig, 100, 0);
	for (unsigned i = 1; i <= 8; i++) {
		cache_slot_place(rig.cache, TIER_NVME, rig_slot(&rig, i, TIER_NVME), &place);
		on_device[place.device]++;
	}
	assert_true(on_device[0] == 4 && on_device[1] == 4);
	rig_finish(&rig);
}

static void a_new_class_of_longer_extents_is_not_starved(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_two_devices(&rig, 2, 2);
	/* One extent on each device, and no more units may be taken. */
	assert_int_equal(store_sized(&rig, 1, RIG_SLOT_BYTES), CACHE_ADMITTED);
	assert_int_equal(store_sized(&rig, 2, 2 * RIG_SLOT_BYTES), CACHE_ADMITTED);
	/* Two units in a row, for which both have to go. */
	assert_int_equal(store_sized(&rig, 3, 5 * RIG_SLOT_BYTES), CACHE_ADMITTED);
	assert_true(rig_has(&rig, 3) && !rig_has(&rig, 1) && !rig_has(&rig, 2));
	rig_finish(&rig);
}

/* Block 1's extent of two units, and one of one unit of blocks 2 and 3 each, apart; no more units
 * may be taken. */
static void rig_extents_apart(struct rig *rig)
{
	rig_two_devices(rig, 4, 4);
	assert_int_equal(store_sized(rig, 1, 5 * RIG_SLOT_BYTES), CACHE_ADMITTED);
	assert_int_equal(store_sized(rig, 2, RIG_SLOT_BYTES), CACHE_ADMITTED);
	assert_int_equal(store_sized(rig, 3, 2 * RIG_SLOT_BYTES), CACHE_ADMITTED);
	rig_touch(rig, 1);
}

static void older_extents_that_lie_apart_go_for_a_longer_one(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_extents_apart(&rig);
	assert_int_equal(store_sized(&rig, 4, 5 * RIG_SLOT_BYTES), CACHE_ADMITTED);
	assert_true(rig_has(&rig, 1) && rig_has(&rig, 4));
	assert_true(!rig_has(&rig, 2) && !rig_has(&rig, 3));
	rig_finish(&rig);
}

static void none_goes_where_the_older_ones_do_not_suffice(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_extents_apart(&rig);
	rig_touch(&rig, 3);
	assert_int_equal(store_sized(&rig, 4, 5 * RIG_SLOT_BYTES), CACHE_ADMITTED);
	assert_true(rig_has(&rig, 2) && rig_has(&rig, 3) && !rig_has(&rig, 1));
	rig_finish(&rig);
}

/* Units of 8 slots, every second of which is another tenant's; the rig's tenant may have so many.
 * Extents of slots of five are to be two units long. */
static void rig_between_another_tenants(struct rig *rig, uint32_t units_max)
{
	const uint8_t fingerprint[SPACE_ID_BYTES] = { 2 };
	const uint32_t units[TIERS] = { units_max, 0 };
	struct cache_extent extent = { .units_count = 1, .slot_bytes = RIG_SLOT_BYTES };

	rig_init(rig, 16, 0, 8);
	extent.tenant = rig->tenant;
	for (; extent.first_unit < 16; extent.first_unit += 2)
		assert_int_equal(cache_extent_restore(rig->cache, rig->area[TIER_CPU], &extent), 0);
	assert_int_equal(cache_tenant_add(rig->cache, rig->area, units, &rig->tenant), 0);
	assert_int_equal(cache_space_open(rig->cache, rig->tenant, fingerprint, &rig->space), 0);
}

static void free_units_that_lie_apart_make_shorter_extents(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_between_another_tenants(&rig, 3);
	for (unsigned i = 1; i <= 3; i++) {
		assert_int_equal(store_sized(&rig, i, 5 * RIG_SLOT_BYTES), CACHE_ADMITTED);
		cache_slot_hold(rig.cache, TIER_CPU, rig_slot(&rig, i, TIER_CPU));
	}
	assert_int_equal(store_sized(&rig, 4, 5 * RIG_SLOT_BYTES), CACHE_REFUSED_FULL);
	for (unsigned i = 1; i <= 3; i++)
		cache_slot_release(rig.cache, TIER_CPU, rig_slot(&rig, i, TIER_CPU));
	rig_finish(&rig);
}

static void older_units_that_lie_apart_make_shorter_extents(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_between_another_tenants(&rig, 3);
	for (unsigned i = 1; i <= 24; i++)
		rig_store(&rig, i, 0);
	for (unsigned i = 17; i <= 24; i++)
		rig_touch(&rig, i);
	/* A new class takes what there is. */
	assert_int_equal(store_sized(&rig, 101, 5 * RIG_SLOT_BYTES), CACHE_ADMITTED);
	/* One with nothing to give up takes what is older. */
	rig_touch(&rig, 101);
	cache_slot_hold(rig.cache, TIER_CPU, rig_slot(&rig, 101, TIER_CPU));
	assert_int_equal(store_sized(&rig, 102, 5 * RIG_SLOT_BYTES), CACHE_ADMITTED);
	assert_true(rig_has(&rig, 101) && rig_has(&rig, 102));
	for (unsigned i = 1; i <= 24; i++)
		assert_int_equal(rig_has(&rig, i), i > 16);
	cache_slot_release(rig.cache, TIER_CPU, rig_slot(&rig, 101, TIER_CPU));
	/* One that can give up its own keeps to that. */
	assert_int_equal(store_sized(&rig, 103, 5 * RIG_SLOT_BYTES), CACHE_ADMITTED);
	assert_true(!rig_has(&rig, 101) && rig_has(&rig, 24));
	rig_finish(&rig);
}

static void a_chain_takes_the_emptied_extent_of_another_class(void **unused)
{
	struct rig rig;
	uint32_t entry;

	(void)unused;
	rig_init(&rig, 2, 0, 4);
	assert_int_equal(store_sized(&rig, 100, 2 * RIG_SLOT_BYTES), CACHE_ADMITTED);
	for (unsigned i = 1; i <= 4; i++)
		rig_store(&rig, i, i - 1);
	struct rig_key key = rig_key(100);
	entry = cache_find_any(rig.cache, rig.space, 0, key.hash);
	assert_int_not_equal(entry, ENTRY_NONE);
	cache_entry_drop(rig.cache, entry);
	/* Its class is full of its own ancestors, and all is of one age. */
	rig_store(&rig, 5, 4);
	for (unsigned i = 1; i <= 5; i++)
		assert_true(rig_has(&rig, i));
	rig_finish(&rig);
}

/* As after a power cut, or when an old image of the disk came back. */
static void a_share_of_quarantined_slots_alone_is_used_anew(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, 1, 0, 2);
	uint32_t bad[2];
	for (unsigned i = 0; i < 2; i++) {
		rig_store(&rig, 1 + i, 0);
		bad[i] = rig_slot(&rig, 1 + i, TIER_CPU);
		cache_slot_hold(rig.cache, TIER_CPU, bad[i]);
		cache_slot_quarantine(rig.cache, TIER_CPU, bad[i]);
	}
	uint32_t generation = cache_slot(rig.cache, TIER_CPU, bad[0])->generation;
	assert_int_equal(rig_admit(&rig, 3, 0), CACHE_REFUSED_FULL); /* both are held */
	for (unsigned i = 0; i < 2; i++)
		cache_slot_release(rig.cache, TIER_CPU, bad[i]);
	rig_store(&rig, 4, 0);
	rig_store(&rig, 5, 4);
	assert_true(rig_has(&rig, 4) && rig_has(&rig, 5));
	assert_false(cache_slot_is_current(rig.cache, TIER_CPU, bad[0], generation));
	rig_finish(&rig);
}

/* As after a power cut that tore some blocks: the others do not hold a whole chain. */
static void a_chain_that_fills_all_other_slots_gets_the_quarantined_ones(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, 1, 0, 4);
	for (unsigned i = 1; i <= 2; i++) {
		rig_store(&rig, i, 0);
		cache_slot_quarantine(rig.cache, TIER_CPU, rig_slot(&rig, i, TIER_CPU));
	}
	for (unsigned i = 11; i <= 14; i++)
		rig_store(&rig, i, i == 11 ? 0 : i - 1);
	for (unsigned i = 11; i <= 14; i++)
		assert_true(rig_has(&rig, i));
	/* Then it is as long as the class. */
	assert_int_equal(rig_admit(&rig, 15, 14), CACHE_REFUSED_PARENT);
	rig_finish(&rig);
}

static void a_fenced_device_loses_its_blocks_and_gets_no_more(void **unused)
{
	struct rig rig;
	struct slot_place place;
	struct cache_share_figures figures;
	uint32_t held = SLOT_NONE;

	(void)unused;
	rig_two_devices(&rig, 2, 4);
	for (unsigned i = 1; i <= 16; i++)
		rig_store(&rig, i, 0);
	for (unsigned i = 1; i <= 16; i++) {
		cache_slot_place(rig.cache, TIER_NVME, rig_slot(&rig, i, TIER_NVME), &place);
		if (place.device == 1)
			held = rig_slot(&rig, i, TIER_NVME);
	}
	cache_slot_hold(rig.cache, TIER_NVME, held);
	cache_device_fence(rig.cache, rig.area[TIER_NVME], 1);
	cache_device_fence(rig.cache, rig.area[TIER_NVME], 1);
	cache_check(rig.cache);
	assert_int_equal(cache_entries_count(rig.cache), 8);
	for (unsigned i = 20; i <= 40; i++) {
		rig_store(&rig, i, 0);
		cache_slot_place(rig.cache, TIER_NVME, rig_slot(&rig, i, TIER_NVME), &place);
		assert_int_equal(place.device, 0);
	}
	cache_slot_release(rig.cache, TIER_NVME, held);
	cache_share_figures(rig.cache, rig.tenant, TIER_NVME, &figures);
	assert_int_equal(figures.units_used, 2);
	assert_int_equal(figures.slots[SLOT_READY], 8);
	rig_finish(&rig);
}

static void wrong_settings_are_refused(void **unused)
{
	struct rig rig;
	struct cache_config config = rig_config(&rig);
	struct cache *cache;
	struct error error;
	const uint32_t none = 0, wrong[TIERS] = { 7, UINT32_MAX }, units[TIERS] = { 1, 1 };
	uint32_t handle;

	(void)unused;
	rig_init(&rig, 1, 1, 2);
	assert_int_equal(cache_area_add(rig.cache, TIER_CPU, 4096, &none, 1, &handle), -22);
	assert_int_equal(cache_area_add(rig.cache, TIER_CPU, 4096, units, 9, &handle), -22);
	assert_int_equal(cache_tenant_add(rig.cache, wrong, units, &handle), -22);
	assert_int_equal(
		cache_space_open(rig.cache, 9, (const uint8_t[SPACE_ID_BYTES]){ 0 }, &handle), -22);
	assert_int_equal(cache_space_find(rig.cache, rig.tenant,
					  (const uint8_t[SPACE_ID_BYTES]){ 9 }, &handle),
			 -2);
	rig_finish(&rig);
	config.entries_max = 0;
	assert_int_equal(cache_create(&cache, &config, &error), -22);
	assert_non_null(strstr(error.text, "entries_max"));
	cache_destroy(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_class_is_never_starved),
		cmocka_unit_test(a_held_extent_is_not_taken),
		cmocka_unit_test(the_older_of_own_victim_and_foreign_extent_goes),
		cmocka_unit_test(an_extent_of_several_units_takes_neighbours),
		cmocka_unit_test(a_slot_that_fits_nowhere_is_refused),
		cmocka_unit_test(extents_waste_little_and_stay_below_an_eighth),
		cmocka_unit_test(more_sizes_than_classes_push_out_empty_ones),
		cmocka_unit_test(neighbouring_blocks_lie_on_all_devices),
		cmocka_unit_test(a_new_class_of_longer_extents_is_not_starved),
		cmocka_unit_test(older_extents_that_lie_apart_go_for_a_longer_one),
		cmocka_unit_test(none_goes_where_the_older_ones_do_not_suffice),
		cmocka_unit_test(free_units_that_lie_apart_make_shorter_extents),
		cmocka_unit_test(older_units_that_lie_apart_make_shorter_extents),
		cmocka_unit_test(a_chain_takes_the_emptied_extent_of_another_class),
		cmocka_unit_test(a_share_of_quarantined_slots_alone_is_used_anew),
		cmocka_unit_test(a_chain_that_fills_all_other_slots_gets_the_quarantined_ones),
		cmocka_unit_test(a_fenced_device_loses_its_blocks_and_gets_no_more),
		cmocka_unit_test(wrong_settings_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
