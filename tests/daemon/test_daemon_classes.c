/* tests/daemon/test_daemon_classes.c: block sizes beside each other, requests longer than a tier,
 * quotas of tenants. */
#include "tests/daemon/rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define CPU_BLOCKS (2 * RIG_SLOTS_A_UNIT)
#define NVME_BLOCKS (8 * RIG_SLOTS_A_UNIT)

static const struct rig_engine larger = {
	.name = "larger",
	.model = "larger",
	.groups_count = 1,
	.groups = { { .kind = FRAME_GROUP_FULL,
		      .tokens_per_block = RIG_TOKENS,
		      .payload_bytes = 150000,
		      .segments_count = 3 } },
};

static unsigned store_many(struct rig_client *client, uint64_t first, unsigned count, bool is_chain)
{
	unsigned stored = 0;

	for (unsigned i = 0; i < count; i += 20) {
		struct rig_blocks blocks = { .parent = i > 0 && is_chain ? first + i - 1 : 0,
					     .first = first + i,
					     .version = 1,
					     .count = count - i < 20 ? count - i : 20 };

		stored += rig_store(client, &blocks);
	}
	rig_settle(client->rig);
	return stored;
}

static void a_second_model_on_a_full_node_hits_what_it_has_just_stored(void **unused)
{
	(void)unused;
	for (unsigned no_nvme = 0; no_nvme < 2; no_nvme++) {
		struct rig rig;
		struct rig_client *first, *second;

		rig_init(&rig, &(struct rig_config){ .no_nvme = no_nvme });
		rig.is_checked = true;
		first = rig_register(&rig, NULL);
		second = rig_register(&rig, &larger);
		(void)store_many(first, 1, 2 * NVME_BLOCKS, false);
		assert_int_equal(
			rig_store(second,
				  &(struct rig_blocks){ .first = 1, .count = 4, .version = 1 }),
			4);
		assert_int_equal(rig_usable(second, 1, 4), 4);
		assert_int_equal(rig_load(second, &(struct rig_blocks){ .first = 1, .count = 4 }),
				 4);
		/* And back: the first one's turn again. */
		for (unsigned i = 0; i < 30; i++)
			(void)rig_store(second, &(struct rig_blocks){ .first = 1000 + 10 * i,
								      .count = 4,
								      .version = 1 });
		rig_settle(&rig);
		assert_int_equal(rig_store(first, &(struct rig_blocks){ .first = 90000,
									.count = 10,
									.version = 1 }),
				 10);
		assert_int_equal(
			rig_load(first, &(struct rig_blocks){ .first = 90000, .count = 10 }), 10);
		rig_finish_idle(&rig);
	}
}

/* The leading blocks that can be loaded. */
static unsigned head_of(struct rig_client *client, unsigned count)
{
	unsigned usable = rig_usable(client, 1, count);
	unsigned loaded = 0;

	for (unsigned i = 0; i < usable; i += 20) {
		struct rig_blocks blocks = { .first = 1 + i,
					     .count = usable - i < 20 ? usable - i : 20 };

		assert_int_equal(rig_load(client, &blocks), blocks.count);
		loaded += blocks.count;
	}
	rig_settle(client->rig);
	return loaded;
}

static void a_request_longer_than_cpu_keeps_its_head(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .no_nvme = true });
	client = rig_register(&rig, NULL);
	for (unsigned round = 0; round < 3; round++) {
		(void)store_many(client, 1, 3 * CPU_BLOCKS, true);
		assert_true(head_of(client, 3 * CPU_BLOCKS) >= CPU_BLOCKS - 2);
	}
	rig_assert_idle(&rig);
	rig_finish(&rig);
}

static void a_request_longer_than_nvme_keeps_its_head(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	for (unsigned round = 0; round < 2; round++) {
		(void)store_many(client, 1, 2 * NVME_BLOCKS, true);
		assert_true(head_of(client, 2 * NVME_BLOCKS) >= NVME_BLOCKS - 2);
	}
	rig_assert_idle(&rig);
	rig_finish(&rig);
}

static void a_tenant_evicts_its_own_blocks_only(void **unused)
{
	struct rig rig;
	struct rig_client *quiet, *loud;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .tenants = 2 });
	quiet = rig_register(&rig, NULL);
	loud = rig_register(&rig, &(struct rig_engine){ .tenant = 1 });
	assert_int_equal(store_many(quiet, 1, 60, true), 60);
	(void)store_many(loud, 1, 3 * NVME_BLOCKS, false);
	assert_true(rig_figures(&rig, 1, TIER_NVME).evictions > 0);
	for (enum tier_id tier = 0; tier < TIERS; tier++) {
		struct cache_share_figures figures = rig_figures(&rig, 1, tier);

		assert_true(figures.units_used <= figures.units_max);
		assert_int_equal(rig_figures(&rig, 0, tier).evictions, 0);
	}
	assert_int_equal(rig_usable(quiet, 1, 60), 60);
	assert_int_equal(rig_load(quiet, &(struct rig_blocks){ .first = 1, .count = 60 }), 60);
	rig_finish_idle(&rig);
}

static void tenants_with_the_same_model_do_not_see_each_other(void **unused)
{
	struct rig rig;
	struct rig_client *clients[2];

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .tenants = 2 });
	for (unsigned i = 0; i < 2; i++)
		clients[i] = rig_register(&rig, &(struct rig_engine){ .tenant = i });
	assert_int_equal(store_many(clients[0], 1, 10, true), 10);
	assert_int_equal(rig_usable(clients[1], 1, 10), 0);
	assert_int_equal(rig_load(clients[1], &(struct rig_blocks){ .first = 1, .count = 10 }), 0);
	assert_int_equal(rig_forget(clients[1], UINT32_MAX), 0);
	assert_int_equal(rig_load(clients[0], &(struct rig_blocks){ .first = 1, .count = 10 }), 10);
	/* Another tenant's space is none of its business: the connection ends. */
	(void)rig_load_begin(
		clients[1],
		&(struct rig_blocks){ .first = 1, .count = 10, .space = clients[0]->space + 1000 });
	rig_settle(&rig);
	assert_int_equal(clients[1]->refused, -EINVAL);
	assert_int_equal(rig_load(clients[0], &(struct rig_blocks){ .first = 1, .count = 10 }), 10);
	rig_finish(&rig);
}

static void a_block_that_fits_nowhere_is_refused_at_registration(void **unused)
{
	struct rig rig;
	struct rig_engine huge = larger;
	struct rig_client *client;

	(void)unused;
	huge.groups[0].payload_bytes = 3 * RIG_UNIT_BYTES;
	rig_init(&rig, NULL);
	client = rig_client_open(&rig, &huge);
	assert_int_equal(rig_client_connect(client, FRAME_CONTROL), 0);
	assert_int_equal(rig_client_say_register(client), -EINVAL);
	rig_finish(&rig);
}

static void without_write_budget_blocks_stay_in_cpu(void **unused)
{
	struct rig rig;
	struct rig_client *client;
	unsigned written;

	(void)unused;
	/* A day's budget, of which an hour or so may be spent at once: soon gone. */
	rig_init(&rig, &(struct rig_config){ .write_bytes_day_max = 64 * RIG_SLOT_BYTES });
	client = rig_register(&rig, NULL);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(store_many(client, 1 + 1000 * i, 20, true), 20);
	written = (unsigned)rig.daemon->counters.down_blocks;
	assert_true(written <= 64 + 20);
	assert_int_equal(rig_load(client, &(struct rig_blocks){ .first = 9001, .count = 20 }), 20);
	rig_finish_idle(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_second_model_on_a_full_node_hits_what_it_has_just_stored),
		cmocka_unit_test(a_request_longer_than_cpu_keeps_its_head),
		cmocka_unit_test(a_request_longer_than_nvme_keeps_its_head),
		cmocka_unit_test(a_tenant_evicts_its_own_blocks_only),
		cmocka_unit_test(tenants_with_the_same_model_do_not_see_each_other),
		cmocka_unit_test(a_block_that_fits_nowhere_is_refused_at_registration),
		cmocka_unit_test(without_write_budget_blocks_stay_in_cpu),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
