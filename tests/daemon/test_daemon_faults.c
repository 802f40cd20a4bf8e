/* tests/daemon/test_daemon_faults.c: every failure of the devices, one by one: never wrong bytes,
 * never a lost tier. */
#include "tests/daemon/rig.h"

#include "base/failpoint.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#define BLOCKS 12u
#define NTH_MAX 1000u

static const struct rig_blocks all = { .first = 1, .count = BLOCKS, .version = 3 };
static const struct rig_blocks others = { .first = 100, .count = BLOCKS, .version = 3 };

/* Stores, and reads back from cpu; then from nvme. Everything is proven or missed. */
static void write_then_read(struct rig *rig, struct rig_client *client)
{
	assert_int_equal(rig_store(client, &all), BLOCKS);
	rig_settle(rig);
	/* Whatever became of the way down: the cpu tier has it. */
	assert_int_equal(rig_load(client, &all), BLOCKS);
	rig_drop_cpu(client, 0, 1, BLOCKS);
	(void)rig_load(client, &all);
	rig_settle(rig);
	/* And it can always be stored again. */
	for (unsigned i = 0; i < BLOCKS; i++) {
		struct rig_blocks one = { .parent = i, .first = i + 1, .count = 1, .version = 4 };

		assert_int_equal(rig_store(client, &one), 1);
	}
	rig_settle(rig);
	assert_int_equal(rig_load(client, &all), BLOCKS);
	rig_settle(rig);
	rig_assert_idle(rig);
}

static void fail_each_once(enum block_fault kind, int64_t misdirect_bytes)
{
	bool was_hit = true;

	for (unsigned nth = 1; was_hit; nth++) {
		struct rig rig;

		assert_true(nth < NTH_MAX);
		rig_init(&rig, NULL);
		struct rig_client *client = rig_register(&rig, NULL);
		rig.fault.misdirect_bytes = misdirect_bytes;
		block_io_fault_arm(&rig.fault, kind, BLOCK_FAULT_QUEUE, nth, 1);
		write_then_read(&rig, client);
		was_hit = block_io_fault_was_hit(&rig.fault);
		rig_finish(&rig);
	}
}

static void a_failed_operation_never_gives_wrong_bytes(void **unused)
{
	(void)unused;
	fail_each_once(BLOCK_FAULT_ERROR, 0);
}

static void a_short_operation_never_gives_wrong_bytes(void **unused)
{
	(void)unused;
	fail_each_once(BLOCK_FAULT_SHORT, 0);
}

static void a_torn_write_that_claims_success_is_a_miss(void **unused)
{
	(void)unused;
	fail_each_once(BLOCK_FAULT_TORN, 0);
}

static void a_lost_write_that_claims_success_is_a_miss(void **unused)
{
	(void)unused;
	fail_each_once(BLOCK_FAULT_LOST, 0);
}

static void a_misdirected_operation_is_a_miss_for_both_places(void **unused)
{
	(void)unused;
	fail_each_once(BLOCK_FAULT_MISDIRECTED, RIG_SLOT_BYTES);
	fail_each_once(BLOCK_FAULT_MISDIRECTED, RIG_PAGE_BYTES);
}

static void a_disk_that_fails_for_good_is_fenced_and_cpu_goes_on(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_store(client, &all), BLOCKS);
	rig_settle(&rig);
	block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_QUEUE, 1, UINT64_MAX / 2);
	rig_drop_cpu(client, 0, 1, BLOCKS);
	assert_int_equal(rig_load(client, &all), 0);
	rig_settle(&rig);
	assert_true(rig.daemon->devices[0].is_fenced);
	assert_int_equal(rig_usable(client, 1, BLOCKS), 0);
	/* As many as fit into cpu, thrice. */
	for (unsigned i = 0; i < 3 * RIG_SLOTS_A_UNIT; i += RIG_SLOTS_A_UNIT)
		assert_int_equal(rig_store(client, &(struct rig_blocks){ .first = 1000 + i,
									 .count = RIG_SLOTS_A_UNIT,
									 .version = 5 }),
				 RIG_SLOTS_A_UNIT);
	assert_int_equal(
		rig_load(client, &(struct rig_blocks){ .first = 1000 + 2 * RIG_SLOTS_A_UNIT,
						       .count = RIG_SLOTS_A_UNIT }),
		RIG_SLOTS_A_UNIT);
	rig_finish_idle(&rig);
}

static void a_device_that_answers_nothing_is_fenced_and_loads_end_by_their_deadline(void **unused)
{
	struct rig rig;
	struct rig_client *client;
	struct rig_batch *batch;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	assert_int_equal(rig_store(client, &all), BLOCKS);
	rig_drop_cpu(client, 0, 1, BLOCKS);
	block_io_fault_hold(&rig.fault);
	batch = rig_load_begin(client, &all);
	rig_pass_time(&rig, RIG_DEADLINE_US);
	assert_int_equal(rig_batch_count(batch, -ETIME), BLOCKS);
	rig_batch_give(batch);
	rig_pass_time(&rig, NVME_STALL_US_MAX);
	rig_pass_time(&rig, 1);
	assert_true(rig.daemon->devices[0].is_fenced);
	assert_int_equal(rig_store(client, &others), BLOCKS);
	assert_int_equal(rig_load(client, &others), BLOCKS);
	block_io_fault_flow(&rig.fault);
	rig_settle(&rig);
	assert_int_equal(rig_load(client, &others), BLOCKS);
	assert_int_equal(rig_store(client, &all), BLOCKS);
	assert_int_equal(rig_load(client, &all), BLOCKS);
	rig_finish_idle(&rig);
}

/* What fills the slot is not a store but a read from a device that was fenced meanwhile. */
static void a_store_attached_to_a_read_ends_with_the_read(void **unused)
{
	(void)unused;
	for (unsigned fails = 0; fails < 2; fails++) {
		struct rig rig;
		struct rig_batch *load, *store;

		rig_init(&rig, NULL);
		struct rig_client *client = rig_register(&rig, NULL);
		assert_int_equal(rig_store(client, &all), BLOCKS);
		rig_drop_cpu(client, 0, 1, BLOCKS);
		block_io_fault_hold(&rig.fault);
		if (fails)
			block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_QUEUE, 1,
					   BLOCKS);
		load = rig_load_begin(client, &all);
		rig_settle(&rig);
		nvme_device_fence(rig.daemon->devices[0].device, "a test");
		rig_settle(&rig);
		store = rig_store_begin(client, &all);
		rig_settle(&rig);
		assert_int_equal(store->admissions[0], FRAME_ATTACHED_TO_OTHER);
		assert_int_equal(store->ended, 0);
		block_io_fault_flow(&rig.fault);
		rig_settle(&rig);
		assert_int_equal(store->ended, BLOCKS);
		assert_int_equal(rig_batch_count(store, fails ? -EAGAIN : 0), BLOCKS);
		assert_int_equal(rig_batch_count(load, fails ? -ENOENT : 0), BLOCKS);
		rig_assert_idle(&rig);
		rig_finish(&rig);
	}
}

static void one_of_two_devices_fails_and_the_other_goes_on(void **unused)
{
	struct rig rig;
	struct rig_client *client;
	unsigned from_nvme = 0;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .devices = 2, .nvme_units = 4, .cpu_units = 4 });
	client = rig_register(&rig, NULL);
	nvme_device_fence(rig.daemon->devices[0].device, "a test");
	rig_settle(&rig);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(rig_store(client, &(struct rig_blocks){ .parent = i * 20,
									 .first = i * 20 + 1,
									 .count = 20,
									 .version = 1 }),
				 20);
	rig_settle(&rig);
	rig_drop_cpu(client, 0, 1, 60);
	from_nvme = rig_load(client, &(struct rig_blocks){ .first = 1, .count = 60 });
	assert_int_equal(from_nvme, 60);
	rig_finish_idle(&rig);
}

static void an_extent_table_whose_write_failed_is_written_again(void **unused)
{
	struct rig rig;
	struct rig_client *client;

	(void)unused;
	rig_init(&rig, NULL);
	client = rig_register(&rig, NULL);
	/* The first operation of a device that holds nothing is the table, or its first write. */
	block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_QUEUE, 1, 1);
	assert_int_equal(rig_store(client, &all), BLOCKS);
	rig_settle(&rig);
	rig_stop(&rig);
	rig_start(&rig);
	client = rig_register(&rig, NULL);
	assert_true(rig_load(client, &all) >= BLOCKS - 1);
	rig_settle(&rig);
	rig_finish(&rig);
}

#if KVTIER_FAILPOINTS
static void a_failure_at_any_step_of_a_store_or_load_is_a_miss_and_nothing_leaks(void **unused)
{
	static const char *const names[] = { "store_copying", "store_copied",
					     "store_header_written", "down_written", "up_read" };

	(void)unused;
	for (unsigned name = 0; name < sizeof(names) / sizeof(names[0]); name++) {
		bool was_hit = true;

		for (unsigned nth = 1; was_hit; nth++) {
			struct rig rig;
			char text[64];
			struct error error;

			assert_true(nth < NTH_MAX);
			rig_init(&rig, NULL);
			struct rig_client *client = rig_register(&rig, NULL);
			snprintf(text, sizeof(text), "%s:%u=error", names[name], nth);
			assert_int_equal(failpoint_arm(text, &error), 0);
			(void)rig_store(client, &all);
			rig_settle(&rig);
			rig_drop_cpu(client, 0, 1, BLOCKS);
			(void)rig_load(client, &all);
			rig_settle(&rig);
			rig_assert_idle(&rig);
			was_hit = failpoint_was_hit();
			failpoint_disarm();
			assert_true(rig_store(client, &all) >= 1);
			rig_finish_idle(&rig);
		}
	}
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_failed_operation_never_gives_wrong_bytes),
		cmocka_unit_test(a_short_operation_never_gives_wrong_bytes),
		cmocka_unit_test(a_torn_write_that_claims_success_is_a_miss),
		cmocka_unit_test(a_lost_write_that_claims_success_is_a_miss),
		cmocka_unit_test(a_misdirected_operation_is_a_miss_for_both_places),
		cmocka_unit_test(a_disk_that_fails_for_good_is_fenced_and_cpu_goes_on),
		cmocka_unit_test(
			a_device_that_answers_nothing_is_fenced_and_loads_end_by_their_deadline),
		cmocka_unit_test(a_store_attached_to_a_read_ends_with_the_read),
		cmocka_unit_test(one_of_two_devices_fails_and_the_other_goes_on),
		cmocka_unit_test(an_extent_table_whose_write_failed_is_written_again),
#if KVTIER_FAILPOINTS
		cmocka_unit_test(
			a_failure_at_any_step_of_a_store_or_load_is_a_miss_and_nothing_leaks),
#endif
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
