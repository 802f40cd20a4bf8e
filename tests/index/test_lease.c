/* tests/index/test_lease.c: leases: what they hold, when they end, and how many there may be; and
 * restored extents. */
#include "tests/index/rig.h"

#include "base/list.h"

#include <errno.h>

static void grant(struct rig *rig, uint64_t number, uint64_t deadline_us, uint64_t *out_lease)
{
	uint32_t entry = rig_entry(rig, number);
	unsigned count;

	assert_int_equal(cache_lease_grant(rig->cache, rig->tenant, &entry, 1, deadline_us,
					   out_lease, &count),
			 0);
	assert_int_equal(count, 1);
}

static uint16_t holds(struct rig *rig, uint64_t number)
{
	return cache_slot(rig->cache, TIER_CPU, rig_slot(rig, number, TIER_CPU))->holds;
}

static void leases_end_in_the_order_of_their_deadlines(void **unused)
{
	struct rig rig;
	uint64_t leases[12];

	(void)unused;
	rig_init(&rig, 1, 0, 64);
	for (unsigned i = 0; i < 12; i++) {
		rig_store(&rig, i + 1, 0);
		grant(&rig, i + 1, 100 + i * 7 % 12, &leases[i]);
	}
	cache_lease_release(rig.cache, leases[5]);
	cache_check(rig.cache);
	for (uint64_t now = 99; now < 113; now++) {
		cache_lease_expire(rig.cache, now);
		cache_check(rig.cache);
		for (unsigned i = 0; i < 12; i++)
			assert_int_equal(cache_lease_is_live(rig.cache, leases[i]),
					 i != 5 && 100 + i * 7 % 12 > now);
	}
	assert_int_equal(cache_leases_count(rig.cache, rig.tenant), 0);
	rig_finish(&rig);
}

static void leases_released_in_any_order_leave_the_next_to_expire_on_top(void **unused)
{
	struct rig rig;
	uint64_t leases[16] = { 0 };
	uint64_t random = 3;

	(void)unused;
	rig_init(&rig, 1, 0, 8);
	rig_store(&rig, 1, 0);
	for (unsigned step = 0; step < 2000; step++) {
		random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
		unsigned i = random >> 60;
		if (cache_lease_is_live(rig.cache, leases[i]))
			cache_lease_release(rig.cache, leases[i]);
		else
			grant(&rig, 1, random >> 40 & 0xff, &leases[i]);
		cache_check(rig.cache);
	}
	cache_lease_expire(rig.cache, 0xff);
	rig_finish(&rig);
}

static void an_old_handle_never_names_a_new_lease(void **unused)
{
	struct rig rig;
	uint64_t first, second;

	(void)unused;
	rig_init(&rig, 1, 0, 8);
	rig_store(&rig, 1, 0);
	grant(&rig, 1, 5, &first);
	cache_lease_release(rig.cache, first);
	grant(&rig, 1, 5, &second);
	assert_int_not_equal(first, second);
	cache_lease_release(rig.cache, first);
	assert_false(cache_lease_release_entry(rig.cache, first, rig_entry(&rig, 1)));
	assert_true(cache_lease_is_live(rig.cache, second));
	assert_false(cache_lease_is_live(rig.cache, LEASE_NONE));
	assert_false(cache_lease_is_live(rig.cache, UINT64_MAX));
	assert_int_equal(holds(&rig, 1), 1);
	cache_lease_release(rig.cache, second);
	rig_finish(&rig);
}

static void leases_of_the_same_blocks_share_them(void **unused)
{
	struct rig rig;
	uint64_t leases[10];

	(void)unused;
	rig_init(&rig, 1, 0, 2); /* half of it is one slot */
	rig_store(&rig, 1, 0);
	for (unsigned i = 0; i < 10; i++)
		grant(&rig, 1, 5, &leases[i]);
	assert_int_equal(holds(&rig, 1), 10);
	assert_int_equal(cache_lease_expire(rig.cache, 5), 10);
	assert_int_equal(holds(&rig, 1), 0);
	rig_finish(&rig);
}

static void leases_hold_at_most_half_but_the_only_one_gets_what_fits(void **unused)
{
	struct rig rig;
	uint32_t entries[8];
	uint64_t lease, other;
	unsigned count = 99;

	(void)unused;
	rig_init(&rig, 1, 0, 8);
	for (unsigned i = 0; i < 8; i++) {
		rig_store(&rig, i + 1, i);
		entries[i] = rig_entry(&rig, i + 1);
	}
	assert_int_equal(cache_lease_grant(rig.cache, rig.tenant, entries, 8, 5, &lease, &count),
			 0);
	assert_int_equal(count, 4);
	assert_int_equal(
		cache_lease_grant(rig.cache, rig.tenant, entries + 3, 2, 5, &other, &count),
		-EDQUOT);
	assert_int_equal(holds(&rig, 4), 1); /* what it took before the refusal was given back */
	assert_int_equal(holds(&rig, 5), 0);
	assert_true(cache_lease_release_entry(rig.cache, lease, entries[1]));
	assert_false(cache_lease_release_entry(rig.cache, lease, entries[1]));
	assert_int_equal(
		cache_lease_grant(rig.cache, rig.tenant, entries + 3, 2, 5, &other, &count), 0);
	assert_int_equal(count, 2);
	cache_lease_release(rig.cache, lease);
	cache_lease_release(rig.cache, other);
	rig_finish(&rig);
}

static void holes_are_passed_over(void **unused)
{
	struct rig rig;
	uint32_t entries[3] = { ENTRY_NONE, 0, ENTRY_NONE };
	uint64_t lease;
	unsigned count;

	(void)unused;
	rig_init(&rig, 1, 0, 8);
	rig_store(&rig, 1, 0);
	entries[1] = rig_entry(&rig, 1);
	assert_int_equal(cache_lease_grant(rig.cache, rig.tenant, entries, 3, 5, &lease, &count),
			 0);
	assert_int_equal(count, 3);
	assert_int_equal(holds(&rig, 1), 1);
	cache_lease_release(rig.cache, lease);
	rig_finish(&rig);
}

static void an_empty_pool_says_try_again(void **unused)
{
	struct rig rig;
	uint64_t leases[17];
	uint32_t entry;
	unsigned count;

	(void)unused;
	rig_init(&rig, 1, 0, 8);
	rig_store(&rig, 1, 0);
	entry = rig_entry(&rig, 1);
	for (unsigned i = 0; i < 16; i++)
		grant(&rig, 1, 5, &leases[i]);
	assert_int_equal(
		cache_lease_grant(rig.cache, rig.tenant, &entry, 1, 5, &leases[16], &count),
		-EAGAIN);
	cache_lease_release(rig.cache, leases[3]);
	grant(&rig, 1, 5, &leases[16]);
	assert_int_equal(cache_lease_expire(rig.cache, 5), 16);
	rig_finish(&rig);
}

static void the_leases_of_an_owner_end_when_it_leaves_and_no_others(void **unused)
{
	struct rig rig;
	struct list owners[2];
	uint64_t leases[6], nobodys;

	(void)unused;
	rig_init(&rig, 1, 0, 8);
	rig_store(&rig, 1, 0);
	for (unsigned i = 0; i < 2; i++)
		list_init(&owners[i]);
	for (unsigned i = 0; i < 6; i++) {
		grant(&rig, 1, 1000, &leases[i]);
		cache_lease_own(rig.cache, leases[i], &owners[i % 2]);
	}
	grant(&rig, 1, 1000, &nobodys);
	cache_lease_release(rig.cache, leases[2]);
	assert_int_equal(owners[0].count, 2);
	cache_leases_leave(rig.cache, &owners[0]);
	assert_true(list_is_empty(&owners[0]));
	/* Nobody finds them any more; their holds go with the next pass. */
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(cache_lease_is_live(rig.cache, leases[i]), i % 2 == 1);
	cache_check(rig.cache);
	assert_int_equal(cache_lease_expire(rig.cache, 0), 2);
	assert_int_equal(holds(&rig, 1), 4);
	cache_leases_leave(rig.cache, &owners[0]);
	assert_int_equal(cache_lease_expire(rig.cache, 999), 0);
	/* Deadlines end the others as before, and take them off their list. */
	assert_int_equal(cache_lease_expire(rig.cache, 1000), 4);
	assert_true(list_is_empty(&owners[1]));
	assert_int_equal(holds(&rig, 1), 0);
	rig_finish(&rig);
}

static void a_lease_in_use_outlives_its_owner_until_its_last_use(void **unused)
{
	struct rig rig;
	struct list owner;
	uint64_t used, expires, released;

	(void)unused;
	rig_init(&rig, 1, 0, 8);
	rig_store(&rig, 1, 0);
	list_init(&owner);
	grant(&rig, 1, 1000, &used);
	grant(&rig, 1, 500, &expires);
	grant(&rig, 1, 1000, &released);
	cache_lease_own(rig.cache, used, &owner);
	cache_lease_own(rig.cache, expires, &owner);
	cache_lease_own(rig.cache, released, &owner);
	cache_lease_use(rig.cache, used);
	cache_lease_use(rig.cache, expires);
	cache_lease_use(rig.cache, released);
	cache_leases_leave(rig.cache, &owner);
	cache_lease_use(rig.cache, used);
	cache_lease_unuse(rig.cache, used);
	assert_int_equal(cache_lease_expire(rig.cache, 499), 0);
	/* Uses move no deadline, and keep nobody from a release. */
	assert_int_equal(cache_lease_expire(rig.cache, 500), 1);
	cache_lease_unuse(rig.cache, expires);
	cache_lease_release(rig.cache, released);
	cache_lease_unuse(rig.cache, released);
	assert_int_equal(holds(&rig, 1), 1);
	assert_true(cache_lease_is_live(rig.cache, used));
	cache_lease_unuse(rig.cache, used);
	assert_false(cache_lease_is_live(rig.cache, used));
	cache_check(rig.cache);
	assert_int_equal(cache_lease_expire(rig.cache, 500), 1);
	assert_int_equal(holds(&rig, 1), 0);
	cache_lease_unuse(rig.cache, used);
	rig_finish(&rig);
}

#define OWNERS 3u

struct owned_lease {
	uint64_t handle, deadline_us;
	unsigned owner, uses; /* OWNERS: nobody's */
	bool has_left;
};

/* Whatever comes when: a lease is live until its release, its deadline, or both its owner's leaving
 * and its last use. */
static void owners_uses_releases_and_deadlines_in_any_order_agree(void **unused)
{
	struct rig rig;
	struct list owners[OWNERS];
	struct owned_lease leases[16] = { 0 };
	uint64_t random = 5;

	(void)unused;
	rig_init(&rig, 1, 0, 8);
	rig_store(&rig, 1, 0);
	for (unsigned i = 0; i < OWNERS; i++)
		list_init(&owners[i]);
	for (uint64_t now = 1; now < 3000; now++) {
		random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
		struct owned_lease *lease = &leases[random >> 60];
		unsigned dice = random >> 40 & 15;
		(void)cache_lease_expire(rig.cache, now);
		for (unsigned i = 0; i < 16; i++)
			if (leases[i].deadline_us <= now ||
			    (leases[i].has_left && leases[i].uses == 0))
				leases[i].handle = 0;
		if (lease->handle == 0) {
			*lease = (struct owned_lease){ .deadline_us = now + 1 + (random >> 32 & 63),
						       .owner = dice % (OWNERS + 1) };
			grant(&rig, 1, lease->deadline_us, &lease->handle);
			if (lease->owner < OWNERS)
				cache_lease_own(rig.cache, lease->handle, &owners[lease->owner]);
		} else if (dice < 2) {
			cache_lease_release(rig.cache, lease->handle);
			lease->handle = 0;
		} else if (dice < 8) {
			cache_lease_use(rig.cache, lease->handle);
			lease->uses++;
		} else if (dice < 14 && lease->uses > 0) {
			cache_lease_unuse(rig.cache, lease->handle);
			lease->uses--;
		} else if (dice == 15) {
			unsigned owner = random >> 50 & 1;

			cache_leases_leave(rig.cache, &owners[owner]);
			for (unsigned i = 0; i < 16; i++)
				leases[i].has_left |= leases[i].owner == owner;
		}
		cache_check(rig.cache);
		for (unsigned i = 0; i < 16; i++)
			if (leases[i].handle != 0)
				assert_int_equal(cache_lease_is_live(rig.cache, leases[i].handle),
						 !leases[i].has_left || leases[i].uses > 0);
	}
	(void)cache_lease_expire(rig.cache, UINT64_MAX);
	for (unsigned i = 0; i < OWNERS; i++)
		assert_true(list_is_empty(&owners[i]));
	rig_finish(&rig);
}

static void a_leased_block_survives_what_would_evict_it(void **unused)
{
	struct rig rig;
	uint64_t lease;

	(void)unused;
	rig_init(&rig, 1, 0, 4);
	rig_store(&rig, 1, 0);
	grant(&rig, 1, 5, &lease);
	for (unsigned i = 2; i < 20; i++)
		rig_store(&rig, i, 0);
	assert_true(rig_has(&rig, 1));
	cache_entry_drop(rig.cache,
			 rig_entry(&rig, 1)); /* a bad one goes, its bytes with the lease */
	assert_false(rig_has(&rig, 1));
	cache_check(rig.cache);
	assert_int_equal(cache_lease_expire(rig.cache, 4), 0);
	assert_int_equal(cache_lease_expire(rig.cache, 5), 1);
	rig_finish(&rig);
}

/* ---- restoring ---- */

static void an_impossible_extent_is_refused(void **unused)
{
	struct rig rig;
	static const struct {
		struct cache_extent extent;
		int result;
	} rows[] = {
		{ { 0, 0, 0, 8192, 1 }, -EINVAL },
		{ { 0, 0, 9, 8192, 1 }, -EINVAL },
		{ { 0, UINT32_MAX, UINT32_MAX, 8192, 1 }, -EINVAL },
		{ { 0, 0, 1, 0, 1 }, -EINVAL },
		{ { 0, 0, 1, 5 * 8192, 1 }, -EINVAL },
		{ { 3, 0, 1, 8192, 1 }, -EINVAL },
		{ { UINT32_MAX, 0, 1, 8192, 7 }, 0 },
		{ { 0, 1, 2, 8192, 3 }, 0 },
		{ { 0, 2, 1, 8192, 3 }, -EEXIST },
		{ { 0, 0, 3, 8192, 3 }, -EDQUOT },
	};

	(void)unused;
	rig_init(&rig, 4, 0, 4);
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_int_equal(
			cache_extent_restore(rig.cache, rig.area[TIER_CPU], &rows[i].extent),
			rows[i].result);
		cache_check(rig.cache);
	}
	assert_int_equal(cache_extent_restore(rig.cache, 77, &rows[0].extent), -EINVAL);
	/* A new extent is younger than all that were told of, also those of unknown tenants. */
	struct cache_extent extents[4];
	for (unsigned i = 1; i <= 9; i++)
		rig_store(&rig, i, 0);
	assert_int_equal(cache_extents(rig.cache, rig.area[TIER_CPU], extents, 4), 2);
	assert_true(extents[0].generation > 7);
	rig_finish(&rig);
}

static void a_restored_slot_must_fit_its_extent_to_the_byte(void **unused)
{
	struct rig rig;
	struct rig_key key = rig_key(1);
	const struct cache_extent extent = { 0, 1, 2, RIG_SLOT_BYTES, 3 };
	struct cache_restored good = {
		.offset = 5 * RIG_SLOT_BYTES,
		.slot_bytes = RIG_SLOT_BYTES,
		.extent_generation = 3,
		.slot_generation = 9,
		.epoch = 10,
		.shards_count = 1,
		.hash = key.hash,
	};
	uint32_t slot;

	(void)unused;
	rig_init(&rig, 4, 0, 4);
	assert_int_equal(cache_extent_restore(rig.cache, rig.area[TIER_CPU], &extent), 0);
	cache_space_forget(rig.cache, rig.space, 10);
	struct cache_restored bad[12];
	for (unsigned i = 0; i < 12; i++)
		bad[i] = good;
	bad[0].device = 1, bad[1].offset = 0, bad[2].offset += 4096,
	bad[3].offset = 12 * RIG_SLOT_BYTES;
	bad[4].slot_bytes = 4096, bad[5].extent_generation = 2, bad[6].slot_generation = 0,
	bad[7].epoch = 9;
	bad[8].shard = 1, bad[9].shards_count = 65, bad[10].space = 5, bad[11].offset = UINT64_MAX;
	for (unsigned i = 0; i < 12; i++)
		assert_int_equal(cache_slot_restore(rig.cache, rig.area[TIER_CPU], &bad[i], &slot),
				 -ESTALE);
	assert_int_equal(cache_slot_restore(rig.cache, rig.area[TIER_CPU], &good, &slot), 0);
	assert_true(rig_has(&rig, 1));
	struct slot_place place;
	cache_slot_place(rig.cache, TIER_CPU, slot, &place);
	assert_int_equal(place.offset, good.offset);
	assert_int_equal(place.slot_generation, 9);
	assert_int_equal(place.extent_generation, 3);
	good.offset += RIG_SLOT_BYTES;
	assert_int_equal(cache_slot_restore(rig.cache, rig.area[TIER_CPU], &good, &slot),
			 -ESTALE); /* twice */
	rig_finish(&rig);
}

/* Two copies, in either order: of the one with the older epoch nothing is to stay. */
static void restore_two(uint32_t cpu_epoch, uint32_t nvme_epoch, enum tier_id first)
{
	const struct cache_extent extent = { 0, 0, 1, RIG_SLOT_BYTES, 3 };
	const uint32_t epochs[] = { [TIER_CPU] = cpu_epoch, [TIER_NVME] = nvme_epoch };
	enum tier_id newer = cpu_epoch > nvme_epoch ? TIER_CPU : TIER_NVME;
	enum tier_id older = newer == TIER_CPU ? TIER_NVME : TIER_CPU;
	enum tier_id order[] = { first, first == TIER_CPU ? TIER_NVME : TIER_CPU };
	struct rig_key key = rig_key(1);
	struct rig rig;
	uint32_t slot;

	rig_init(&rig, 4, 4, 4);
	for (unsigned i = 0; i < 2; i++) {
		struct cache_restored copy = {
			.slot_bytes = RIG_SLOT_BYTES,
			.extent_generation = 3,
			.slot_generation = 9,
			.epoch = epochs[order[i]],
			.shards_count = 1,
			.hash = key.hash,
		};
		bool is_refused = i == 1 && order[i] != newer;

		assert_int_equal(cache_extent_restore(rig.cache, rig.area[order[i]], &extent), 0);
		assert_int_equal(cache_slot_restore(rig.cache, rig.area[order[i]], &copy, &slot),
				 is_refused ? -ESTALE : 0);
		cache_check(rig.cache);
	}
	uint32_t entry = cache_find_any(rig.cache, rig.space, 0, key.hash);
	assert_int_not_equal(entry, ENTRY_NONE);
	assert_int_equal(cache_entry(rig.cache, entry)->epoch, epochs[newer]);
	assert_true(cache_copy_is_whole(rig.cache, entry, newer));
	assert_false(cache_copy_is_whole(rig.cache, entry, older));
	rig_finish(&rig);
}

static void of_copies_from_two_lives_only_the_newer_is_restored(void **unused)
{
	(void)unused;
	for (enum tier_id first = TIER_CPU; first < TIERS; first++) {
		restore_two(7, 5, first);
		restore_two(5, 7, first);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(leases_end_in_the_order_of_their_deadlines),
		cmocka_unit_test(leases_released_in_any_order_leave_the_next_to_expire_on_top),
		cmocka_unit_test(an_old_handle_never_names_a_new_lease),
		cmocka_unit_test(leases_of_the_same_blocks_share_them),
		cmocka_unit_test(leases_hold_at_most_half_but_the_only_one_gets_what_fits),
		cmocka_unit_test(holes_are_passed_over),
		cmocka_unit_test(an_empty_pool_says_try_again),
		cmocka_unit_test(the_leases_of_an_owner_end_when_it_leaves_and_no_others),
		cmocka_unit_test(a_lease_in_use_outlives_its_owner_until_its_last_use),
		cmocka_unit_test(owners_uses_releases_and_deadlines_in_any_order_agree),
		cmocka_unit_test(a_leased_block_survives_what_would_evict_it),
		cmocka_unit_test(an_impossible_extent_is_refused),
		cmocka_unit_test(a_restored_slot_must_fit_its_extent_to_the_byte),
		cmocka_unit_test(of_copies_from_two_lives_only_the_newer_is_restored),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
