/* tests/daemon/test_catalog_link.c: records on their way to the simulated catalogue, in this
 * thread. */
#include "daemon/worker.h"
#include "tests/daemon/catalog_rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void what_is_put_is_scanned_by_the_next_life(void **unused)
{
	struct catalog_rig rig;

	(void)unused;
	catalog_rig_init(&rig, &catalog_simulated_ops, 4096, 500);
	catalog_rig_change_some(&rig, 2000);
	catalog_rig_settle(&rig);
	assert_int_equal(catalog_link_state(rig.link), CATALOG_LINK_OK);
	catalog_rig_close(&rig);
	catalog_rig_open(&rig, &catalog_simulated_ops, 4096);
	catalog_rig_expect_scan(&rig);
	assert_false(rig.end.is_complete);
	catalog_rig_finish(&rig);
}

static void records_are_written_by_size_or_by_age_and_not_before(void **unused)
{
	struct catalog_rig rig;
	struct catalog_link_counters counters;

	(void)unused;
	catalog_rig_init(&rig, &catalog_simulated_ops, 4096, 4000);
	catalog_rig_run_until_open(&rig);
	for (uint32_t slot = 0; slot < CATALOG_BATCH_RECORDS - 1; slot++)
		catalog_rig_put(&rig, slot);
	catalog_rig_step(&rig);
	assert_int_equal(catalog_simulated_writes(rig.path), 0);
	catalog_rig_put(&rig, CATALOG_BATCH_RECORDS);
	catalog_rig_step(&rig);
	assert_int_equal(catalog_simulated_writes(rig.path), 1);
	catalog_rig_put(&rig, 1);
	catalog_rig_step(&rig);
	uint64_t now_us = clock_now_us(&rig.clock);
	assert_int_equal(catalog_link_next_us(rig.link, now_us), now_us + CATALOG_BATCH_US);
	clock_advance(&rig.clock, CATALOG_BATCH_US - 1);
	catalog_rig_step(&rig);
	assert_int_equal(catalog_simulated_writes(rig.path), 1);
	clock_advance(&rig.clock, 1);
	catalog_rig_step(&rig);
	assert_int_equal(catalog_simulated_writes(rig.path), 2);
	catalog_link_count(rig.link, &counters);
	assert_int_equal(counters.batches_written, 2);
	assert_int_equal(counters.pending, 0);
	catalog_rig_finish(&rig);
}

static void a_failed_write_never_loses_a_record(void **unused)
{
	struct catalog_rig rig;
	bool fault_was_hit = true;

	(void)unused;
	for (unsigned nth = 1; fault_was_hit; nth++) {
		catalog_rig_init(&rig, &catalog_simulated_ops, 16384, 500);
		catalog_simulated_fail(rig.path, CATALOG_SIMULATED_WRITE, nth, -EIO);
		for (unsigned round = 0; round < 12; round++) {
			catalog_rig_change_some(&rig, 700);
			catalog_rig_turn(&rig);
			clock_advance(&rig.clock, CATALOG_BATCH_US);
		}
		catalog_rig_settle(&rig);
		struct catalog_link_counters counters;
		catalog_link_count(rig.link, &counters);
		fault_was_hit = counters.deaths == 1;
		assert_true(fault_was_hit || nth > 5);
		assert_int_equal(counters.rebuilds, 0);
		assert_true(!fault_was_hit ||
			    strstr(catalog_link_reason(rig.link), "simulated catalogue fails"));
		catalog_rig_close(&rig);
		catalog_rig_open(&rig, &catalog_simulated_ops, 4096);
		catalog_rig_expect_scan(&rig);
		catalog_rig_finish(&rig);
	}
}

static void a_failed_open_is_tried_again(void **unused)
{
	struct catalog_rig rig;

	(void)unused;
	catalog_rig_init(&rig, &catalog_simulated_ops, 4096, 500);
	catalog_simulated_fail(rig.path, CATALOG_SIMULATED_OPEN, 1, -EIO);
	catalog_rig_put(&rig, 3);
	catalog_rig_step(&rig);
	assert_int_equal(catalog_link_state(rig.link), CATALOG_LINK_BEHIND);
	catalog_rig_settle(&rig);
	assert_int_equal(catalog_link_state(rig.link), CATALOG_LINK_OK);
	assert_int_equal(catalog_simulated_records(rig.path), 1);
	catalog_rig_finish(&rig);
}

static void too_much_pending_clears_the_catalogue_and_puts_all_again(void **unused)
{
	struct catalog_rig rig;
	struct catalog_link_counters counters;

	(void)unused;
	catalog_rig_init(&rig, &catalog_simulated_ops, 512, 2000);
	catalog_rig_run_until_open(&rig);
	for (unsigned round = 0; round < 10; round++) {
		catalog_rig_change_some(&rig, 200);
		catalog_rig_settle(&rig);
	}
	catalog_rig_change_some(&rig, 5000); /* without a step between: more than can be pending */
	assert_int_equal(catalog_link_state(rig.link), CATALOG_LINK_REBUILDING);
	/* Changes go on while it is rebuilt. */
	for (unsigned round = 0; round < 50; round++) {
		catalog_rig_step(&rig);
		catalog_rig_change_some(&rig, 20);
	}
	catalog_rig_settle(&rig);
	catalog_link_count(rig.link, &counters);
	assert_int_equal(counters.rebuilds, 1);
	assert_true(rig.resends >= 4); /* in steps */
	catalog_rig_close(&rig);
	catalog_rig_open(&rig, &catalog_simulated_ops, 512);
	catalog_rig_expect_scan(&rig);
	catalog_rig_finish(&rig);
}

static void a_rebuild_that_fails_at_any_operation_ends_with_everything(void **unused)
{
	struct catalog_rig rig;

	(void)unused;
	for (unsigned nth = 1; nth <= 8; nth++) {
		catalog_rig_init(&rig, &catalog_simulated_ops, 512, 2000);
		catalog_rig_run_until_open(&rig);
		catalog_rig_change_some(&rig, 2000);
		catalog_simulated_fail(rig.path, CATALOG_SIMULATED_WRITE, nth, -ENOSPC);
		if (nth % 2 == 1)
			catalog_simulated_fail(rig.path, CATALOG_SIMULATED_CLEAR, 1, -EIO);
		catalog_rig_settle(&rig);
		catalog_rig_close(&rig);
		catalog_rig_open(&rig, &catalog_simulated_ops, 512);
		catalog_rig_expect_scan(&rig);
		catalog_rig_finish(&rig);
	}
}

static void another_database_under_the_same_path_is_noticed_and_filled(void **unused)
{
	struct catalog_rig rig;
	struct catalog_link_counters counters;

	(void)unused;
	catalog_rig_init(&rig, &catalog_simulated_ops, 4096, 1000);
	catalog_rig_change_some(&rig, 1000);
	catalog_link_mark_complete(rig.link);
	catalog_rig_settle(&rig);
	/* The worker dies, and its successor finds the database unreadable. */
	catalog_simulated_fail(rig.path, CATALOG_SIMULATED_WRITE, 1, -EIO);
	catalog_rig_put(&rig, 1);
	catalog_link_flush(rig.link);
	catalog_rig_step(&rig);
	catalog_simulated_replace(rig.path);
	catalog_rig_settle(&rig);
	catalog_link_count(rig.link, &counters);
	assert_int_equal(counters.rebuilds, 1);
	catalog_rig_close(&rig);
	catalog_rig_open(&rig, &catalog_simulated_ops, 4096);
	catalog_rig_expect_scan(&rig);
	assert_true(rig.end.is_complete);
	catalog_rig_finish(&rig);
}

static void a_power_cut_leaves_what_was_settled(void **unused)
{
	struct catalog_rig rig;
	uint32_t settled[CATALOG_RIG_SLOTS];

	(void)unused;
	catalog_rig_init(&rig, &catalog_simulated_ops, 4096, 1000);
	catalog_rig_change_some(&rig, 800);
	catalog_rig_settle(&rig);
	catalog_simulated_settle(rig.path);
	memcpy(settled, rig.versions, sizeof(settled));
	catalog_rig_change_some(&rig, 800);
	catalog_rig_settle(&rig);
	catalog_rig_close(&rig);
	catalog_simulated_power_cut(rig.path);
	memcpy(rig.versions, settled, sizeof(settled));
	catalog_rig_open(&rig, &catalog_simulated_ops, 4096);
	catalog_rig_expect_scan(&rig);
	catalog_rig_finish(&rig);
}

static void a_scan_that_fails_is_begun_again_and_no_row_comes_twice(void **unused)
{
	struct catalog_rig rig;

	(void)unused;
	catalog_rig_init(&rig, &catalog_simulated_ops, 4096, 1000);
	catalog_rig_change_some(&rig, 1000);
	catalog_rig_settle(&rig);
	catalog_rig_close(&rig);
	catalog_simulated_fail(rig.path, CATALOG_SIMULATED_SCAN, 1, -EUCLEAN);
	catalog_rig_open(&rig, &catalog_simulated_ops, 4096);
	catalog_rig_expect_scan(&rig);
	catalog_rig_finish(&rig);
}

static void a_scan_that_takes_too_long_is_given_up_and_puts_go_on(void **unused)
{
	struct catalog_rig rig;

	(void)unused;
	catalog_rig_init(&rig, &catalog_simulated_ops, 4096, 1000);
	for (unsigned n = 0; n < 400; n++)
		catalog_simulated_fail(rig.path, CATALOG_SIMULATED_OPEN, 1, -EIO);
	catalog_link_scan(rig.link, catalog_rig_note_row, catalog_rig_note_end);
	catalog_rig_put(&rig, 5);
	for (unsigned n = 0; n < 299; n++) {
		catalog_simulated_fail(rig.path, CATALOG_SIMULATED_OPEN, 1, -EIO);
		catalog_rig_step(&rig);
		clock_advance(&rig.clock, WORKER_BACKOFF_US_MIN);
	}
	assert_int_equal(rig.scans_done, 0);
	clock_advance(&rig.clock, WORKER_BACKOFF_US_MIN * 2);
	catalog_rig_step(&rig);
	assert_int_equal(rig.scans_done, 1);
	assert_int_equal(rig.end.result, -ETIMEDOUT);
	assert_false(rig.end.is_complete);
	catalog_rig_settle(&rig);
	assert_int_equal(catalog_simulated_records(rig.path), 1);
	catalog_rig_finish(&rig);
}

static void the_mark_of_completeness_does_not_outlive_a_clear(void **unused)
{
	struct catalog_rig rig;

	(void)unused;
	catalog_rig_init(&rig, &catalog_simulated_ops, 512, 1000);
	catalog_rig_put(&rig, 1);
	catalog_link_mark_complete(rig.link);
	catalog_rig_settle(&rig);
	catalog_rig_close(&rig);
	catalog_rig_open(&rig, &catalog_simulated_ops, 512);
	catalog_rig_expect_scan(&rig);
	assert_true(rig.end.is_complete);
	catalog_rig_change_some(&rig, 2000);
	assert_int_equal(catalog_link_state(rig.link), CATALOG_LINK_REBUILDING);
	catalog_rig_step(&rig);
	catalog_rig_step(&rig); /* cleared, half full */
	catalog_rig_close(&rig);
	catalog_rig_open(&rig, &catalog_simulated_ops, 512);
	catalog_link_scan(rig.link, catalog_rig_note_row, catalog_rig_note_end);
	for (unsigned turn = 0; turn < 10; turn++)
		catalog_rig_turn(&rig);
	assert_int_equal(rig.scans_done, 2);
	assert_false(rig.end.is_complete);
	catalog_rig_finish(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_put_is_scanned_by_the_next_life),
		cmocka_unit_test(records_are_written_by_size_or_by_age_and_not_before),
		cmocka_unit_test(a_failed_write_never_loses_a_record),
		cmocka_unit_test(a_failed_open_is_tried_again),
		cmocka_unit_test(too_much_pending_clears_the_catalogue_and_puts_all_again),
		cmocka_unit_test(a_rebuild_that_fails_at_any_operation_ends_with_everything),
		cmocka_unit_test(another_database_under_the_same_path_is_noticed_and_filled),
		cmocka_unit_test(a_power_cut_leaves_what_was_settled),
		cmocka_unit_test(a_scan_that_fails_is_begun_again_and_no_row_comes_twice),
		cmocka_unit_test(a_scan_that_takes_too_long_is_given_up_and_puts_go_on),
		cmocka_unit_test(the_mark_of_completeness_does_not_outlive_a_clear),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
