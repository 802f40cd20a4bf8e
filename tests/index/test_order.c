/* tests/index/test_order.c: who goes when there is no room: the recency order against the published
 * example and a naive list. */
#include "tests/index/rig.h"

#define LIST_MAX 64u

/* The order as the reference page words it: a list that is rebuilt by each request. */
struct naive {
	uint32_t nodes[LIST_MAX];
	unsigned count, capacity;
};

static bool naive_has(const struct naive *naive, uint32_t node)
{
	for (unsigned i = 0; i < naive->count; i++)
		if (naive->nodes[i] == node)
			return true;
	return false;
}

static unsigned naive_request(struct naive *naive, const uint32_t *nodes, unsigned count)
{
	struct naive next = { .capacity = naive->capacity };
	unsigned hits = 0;

	while (hits < count && naive_has(naive, nodes[hits]))
		hits++;
	for (unsigned i = 0; i < count && next.count < next.capacity; i++)
		next.nodes[next.count++] = nodes[i];
	unsigned mine = next.count;
	for (unsigned i = 0; i < naive->count && next.count < next.capacity; i++) {
		bool is_mine = false;
		for (unsigned j = 0; j < mine; j++)
			is_mine = is_mine || next.nodes[j] == naive->nodes[i];
		if (!is_mine)
			next.nodes[next.count++] = naive->nodes[i];
	}
	*naive = next;
	return hits;
}

/* A request as the simulator makes it; returns the leading hits. */
static unsigned rig_request(struct rig *rig, const uint32_t *nodes, unsigned count)
{
	struct rig_key keys[LIST_MAX];
	uint32_t entries[LIST_MAX];
	unsigned hits = 0;

	for (unsigned i = 0; i < count; i++)
		keys[i] = rig_key(nodes[i]);
	struct cache_query query = {
		.space = rig->space,
		.hashes = (const uint8_t(*)[BLOCK_HASH_BYTES])keys,
		.count = count,
	};
	cache_find(rig->cache, &query, entries);
	while (hits < count && entries[hits] != ENTRY_NONE)
		hits++;
	cache_touch(rig->cache, entries, count);
	for (unsigned i = hits; i < count; i++) {
		assert_int_equal(entries[i], ENTRY_NONE); /* prefix-closed */
		enum cache_admission admission = rig_admit(rig, nodes[i],
							   i == 0 ? 0 : nodes[i - 1]);
		assert_true(admission == CACHE_ADMITTED || admission == CACHE_REFUSED_PARENT);
		for (unsigned tier = 0; admission == CACHE_ADMITTED && tier < TIERS; tier++)
			if (rig_slot(rig, nodes[i], tier) != SLOT_NONE)
				assert_true(cache_slot_ready(rig->cache, tier,
							     rig_slot(rig, nodes[i], tier)));
	}
	cache_check(rig->cache);
	return hits;
}

static void the_published_example_gives_its_hits(void **unused)
{
	/* A node is its whole prefix: 1 12 123 | 7 | 1 12 126 1264 12645. */
	static const uint32_t a[] = { 1, 12, 123 }, b[] = { 7 }, c[] = { 1, 12, 126, 1264, 12645 };
	static const struct {
		const uint32_t *nodes;
		unsigned count, hits;
	} requests[] = { { a, 3, 0 }, { b, 1, 0 }, { a, 3, 2 }, { c, 5, 2 },
			 { c, 5, 3 }, { a, 3, 2 }, { a, 3, 3 } };

	(void)unused;
	for (unsigned tier = 0; tier < TIERS; tier++) {
		struct rig rig;
		rig_init(&rig, tier == TIER_CPU, tier == TIER_NVME, 3);
		for (unsigned i = 0; i < sizeof(requests) / sizeof(requests[0]); i++)
			assert_int_equal(rig_request(&rig, requests[i].nodes, requests[i].count),
					 requests[i].hits);
		rig_finish(&rig);
	}
}

/* A random walk down a random tree: a node is its parent's number and one of three children. */
static unsigned walk(uint64_t *random, uint32_t *nodes)
{
	unsigned count = (unsigned)(*random >> 20) % 12;
	uint32_t node = 0;

	for (unsigned i = 0; i < count; i++) {
		*random = *random * UINT64_C(6364136223846793005) + 1442695040888963407u;
		node = node * 3 + 1 + (uint32_t)(*random >> 33) % (i < 3 ? 3 : 2);
		nodes[i] = node;
	}
	*random = *random * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return count;
}

static void every_request_hits_what_a_naive_list_says(void **unused)
{
	(void)unused;
	for (unsigned capacity = 1; capacity < 50; capacity += 3) {
		struct naive naive = { .capacity = capacity };
		uint64_t random = capacity;
		struct rig rig;
		/* In units of one slot, so that slots come from many extents. */
		rig_init(&rig, capacity % 2 == 0 ? 1 : capacity, 0,
			 capacity % 2 == 0 ? capacity : 1);
		for (unsigned i = 0; i < 600; i++) {
			uint32_t nodes[LIST_MAX];
			unsigned count = walk(&random, nodes);
			assert_int_equal(rig_request(&rig, nodes, count),
					 naive_request(&naive, nodes, count));
			for (unsigned j = 0; j < naive.count; j++)
				assert_true(rig_has(&rig, naive.nodes[j]));
			assert_int_equal(cache_entries_count(rig.cache), naive.count);
		}
		rig_finish(&rig);
	}
}

static void a_request_longer_than_the_cache_keeps_its_head(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, 1, 0, 4);
	for (unsigned i = 1; i <= 4; i++)
		rig_store(&rig, i, i - 1);
	assert_int_equal(rig_admit(&rig, 5, 4), CACHE_REFUSED_PARENT);
	assert_int_equal(rig_admit(&rig, 6, 5), CACHE_REFUSED_PARENT);
	for (unsigned i = 1; i <= 4; i++)
		assert_true(rig_has(&rig, i));
	rig_finish(&rig);
}

/* While the tail is still being filled, the coldest that could go is the head: it must not. */
static void a_chain_being_stored_never_eats_its_own_head(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, 1, 0, 4);
	rig_store(&rig, 1, 0);
	rig_store(&rig, 2, 1);
	assert_int_equal(rig_admit(&rig, 3, 2), CACHE_ADMITTED);
	assert_int_equal(rig_admit(&rig, 4, 3), CACHE_ADMITTED);
	assert_int_equal(rig_admit(&rig, 5, 4), CACHE_REFUSED_PARENT);
	assert_true(rig_has(&rig, 1) && rig_has(&rig, 2));
	rig_finish(&rig);
}

static void held_and_filling_slots_are_passed_over(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, 1, 0, 3);
	rig_store(&rig, 1, 0);
	assert_int_equal(rig_admit(&rig, 2, 0), CACHE_ADMITTED);
	rig_store(&rig, 3, 0);
	cache_slot_hold(rig.cache, TIER_CPU, rig_slot(&rig, 1, TIER_CPU));
	rig_store(&rig, 4, 0);
	assert_true(rig_has(&rig, 1) && rig_has(&rig, 4) && !rig_has(&rig, 3));
	assert_int_not_equal(rig_entry(&rig, 2), ENTRY_NONE);
	cache_slot_hold(rig.cache, TIER_CPU, rig_slot(&rig, 4, TIER_CPU));
	assert_int_equal(rig_admit(&rig, 5, 0), CACHE_REFUSED_FULL);
	cache_slot_release(rig.cache, TIER_CPU, rig_slot(&rig, 1, TIER_CPU));
	rig_store(&rig, 5, 0);
	assert_false(rig_has(&rig, 1));
	cache_slot_release(rig.cache, TIER_CPU, rig_slot(&rig, 4, TIER_CPU));
	rig_finish(&rig);
}

static void an_end_hint_sends_the_private_tail_first(void **unused)
{
	struct rig rig;
	uint32_t entries[4];

	(void)unused;
	rig_init(&rig, 1, 0, 6);
	rig_store(&rig, 9, 0); /* the coldest, were it not for the hint */
	for (unsigned i = 1; i <= 4; i++)
		rig_store(&rig, i, i - 1);
	rig_store(&rig, 20, 2); /* block 2 is a fork: it and what is above it are shared */
	for (unsigned i = 0; i < 4; i++)
		entries[i] = rig_entry(&rig, i + 1);
	cache_touch(rig.cache, entries, 4);
	assert_int_equal(cache_demote_tail(rig.cache, entries, 4), 2);
	rig_store(&rig, 30, 0);
	assert_true(!rig_has(&rig, 4) && rig_has(&rig, 3) && rig_has(&rig, 9));
	rig_store(&rig, 31, 0);
	assert_true(!rig_has(&rig, 3) && rig_has(&rig, 2) && rig_has(&rig, 9));
	rig_store(&rig, 32, 0);
	assert_true(!rig_has(&rig, 9) && rig_has(&rig, 2) && rig_has(&rig, 20));
	rig_finish(&rig);
}

static void a_touch_counts_in_both_tiers(void **unused)
{
	struct rig rig;
	uint32_t slot;

	(void)unused;
	rig_init(&rig, 1, 1, 3); /* equal shares: cpu is home */
	for (unsigned i = 1; i <= 3; i++) {
		assert_int_equal(rig_store(&rig, i, 0), TIER_CPU);
		assert_int_equal(cache_slot_take(rig.cache, rig_entry(&rig, i), TIER_NVME, 0,
						 RIG_SLOT_BYTES, ENTRY_NONE, &slot, NULL),
				 0);
		assert_true(cache_slot_ready(rig.cache, TIER_NVME, slot));
	}
	rig_touch(&rig, 1);
	rig_store(&rig, 4, 0);
	assert_int_equal(rig_slot(&rig, 2, TIER_CPU), SLOT_NONE);
	assert_int_equal(cache_entry_tier(rig.cache, rig_find(&rig, 2)), TIER_NVME);
	assert_int_equal(cache_entry_tier(rig.cache, rig_find(&rig, 1)), TIER_CPU);
	assert_int_equal(cache_slot_take(rig.cache, rig_entry(&rig, 4), TIER_NVME, 0,
					 RIG_SLOT_BYTES, ENTRY_NONE, &slot, NULL),
			 0);
	assert_false(rig_has(&rig, 2));
	rig_finish(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_published_example_gives_its_hits),
		cmocka_unit_test(every_request_hits_what_a_naive_list_says),
		cmocka_unit_test(a_request_longer_than_the_cache_keeps_its_head),
		cmocka_unit_test(a_chain_being_stored_never_eats_its_own_head),
		cmocka_unit_test(held_and_filling_slots_are_passed_over),
		cmocka_unit_test(an_end_hint_sends_the_private_tail_first),
		cmocka_unit_test(a_touch_counts_in_both_tiers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
