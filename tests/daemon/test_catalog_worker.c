/*
 * tests/daemon/test_catalog_worker.c: records on their way to RocksDB in a worker process that is
 * killed again and again. The test is its own worker.
 */
#include "daemon/worker.h"
#include "tests/daemon/catalog_rig.h"
#include "tiers/nvme/catalog_server.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cmocka.h>

static void skip_without_rocksdb(void)
{
#if !HAVE_ROCKSDB
	print_message("skipped: built without RocksDB\n");
	skip();
#endif
}

static void without_a_back_end_the_catalogue_is_absent_and_nothing_waits(void **unused)
{
	struct catalog_rig rig;

	(void)unused;
#if HAVE_ROCKSDB
	print_message("skipped: built with RocksDB\n");
	skip();
#endif
	catalog_rig_init(&rig, NULL, 512, 1000);
	catalog_link_scan(rig.link, catalog_rig_note_row, catalog_rig_note_end);
	for (unsigned turn = 0; rig.scans_done == 0 && turn < CATALOG_RIG_TURNS_MAX; turn++)
		catalog_rig_turn(&rig);
	assert_int_equal(rig.end.result, -ENOTSUP);
	assert_int_equal(catalog_link_state(rig.link), CATALOG_LINK_ABSENT);
	catalog_rig_change_some(&rig, 5000);
	assert_true(catalog_link_is_idle(rig.link));
	catalog_rig_finish(&rig);
}

static void a_worker_killed_at_random_moments_loses_no_record(void **unused)
{
	struct catalog_rig rig;
	struct catalog_link_counters counters;
	unsigned kills = 0;

	(void)unused;
	skip_without_rocksdb();
	catalog_rig_init(&rig, NULL, 16384, 1000);
	for (unsigned turn = 0; kills < 60; turn++) {
		assert_true(turn < CATALOG_RIG_TURNS_MAX);
		catalog_link_count(rig.link, &counters);
		if (counters.pending < 12000)
			catalog_rig_change_some(&rig, (unsigned)random_below(&rig.random, 400));
		for (uint64_t n = random_below(&rig.random, 6); n > 0; n--)
			catalog_rig_turn(&rig);
		if (catalog_link_pid(rig.link) > 0 && random_below(&rig.random, 5) == 0) {
			kill(catalog_link_pid(rig.link), SIGKILL);
			kills++;
		}
	}
	catalog_rig_settle(&rig);
	catalog_link_count(rig.link, &counters);
	assert_true(counters.deaths >= 30);
	print_message("%u kills, %llu deaths, %llu batches written, %llu rebuilds\n", kills,
		      (unsigned long long)counters.deaths,
		      (unsigned long long)counters.batches_written,
		      (unsigned long long)counters.rebuilds);
	catalog_rig_close(&rig);
	catalog_rig_open(&rig, NULL, 4096);
	catalog_rig_expect_scan(&rig);
	catalog_rig_finish(&rig);
}

static void a_worker_killed_during_a_rebuild_ends_with_everything(void **unused)
{
	struct catalog_rig rig;
	struct catalog_link_counters counters;

	(void)unused;
	skip_without_rocksdb();
	catalog_rig_init(&rig, NULL, 1024, CATALOG_RIG_SLOTS);
	for (unsigned round = 0; round < 20; round++) {
		catalog_rig_change_some(&rig, 3000);
		for (uint64_t n = random_below(&rig.random, 30); n > 0; n--)
			catalog_rig_turn(&rig);
		if (catalog_link_pid(rig.link) > 0)
			kill(catalog_link_pid(rig.link), SIGKILL);
	}
	catalog_rig_settle(&rig);
	catalog_link_count(rig.link, &counters);
	assert_true(counters.rebuilds > 0 && counters.deaths > 0);
	catalog_rig_close(&rig);
	catalog_rig_open(&rig, NULL, 4096);
	catalog_rig_expect_scan(&rig);
	catalog_rig_finish(&rig);
}

static void a_worker_killed_during_the_scan_gives_each_row_once(void **unused)
{
	struct catalog_rig rig;

	(void)unused;
	skip_without_rocksdb();
	catalog_rig_init(&rig, NULL, 16384, CATALOG_RIG_SLOTS);
	catalog_rig_change_some(&rig, 12000);
	catalog_link_mark_complete(rig.link);
	catalog_rig_settle(&rig);
	catalog_rig_close(&rig);
	catalog_rig_open(&rig, NULL, 4096);
	rig.rows_until_kill = 10;
	catalog_rig_expect_scan(&rig);
	assert_true(rig.end.is_complete);
	catalog_rig_finish(&rig);
}

static void an_unreadable_database_is_set_aside_and_filled_again(void **unused)
{
	struct catalog_rig rig;
	struct catalog_link_counters counters;
	char name[200];
	struct stat status;

	(void)unused;
	skip_without_rocksdb();
	catalog_rig_init(&rig, NULL, 4096, 1000);
	catalog_rig_change_some(&rig, 1000);
	catalog_rig_settle(&rig);
	snprintf(name, sizeof(name), "%s/CURRENT", rig.path);
	FILE *file = fopen(name, "w");
	assert_non_null(file);
	fputs("nonsense", file);
	fclose(file);
	kill(catalog_link_pid(rig.link), SIGKILL);
	catalog_rig_change_some(&rig, 10);
	catalog_rig_settle(&rig);
	catalog_link_count(rig.link, &counters);
	assert_int_equal(counters.rebuilds, 1);
	snprintf(name, sizeof(name), "%s.unreadable-1", rig.path);
	assert_int_equal(stat(name, &status), 0);
	catalog_rig_close(&rig);
	catalog_rig_open(&rig, NULL, 4096);
	catalog_rig_expect_scan(&rig);
	catalog_rig_finish(&rig);
}

int main(int arguments_count, char **arguments)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_a_back_end_the_catalogue_is_absent_and_nothing_waits),
		cmocka_unit_test(a_worker_killed_at_random_moments_loses_no_record),
		cmocka_unit_test(a_worker_killed_during_a_rebuild_ends_with_everything),
		cmocka_unit_test(a_worker_killed_during_the_scan_gives_each_row_once),
		cmocka_unit_test(an_unreadable_database_is_set_aside_and_filled_again),
	};

	if (worker_side_is(arguments_count, arguments, "catalog"))
		return catalog_worker_main(arguments[3], arguments_count, arguments);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
