/*
 * tests/daemon/test_catalog_link.c: records on their way to the catalogue. First with the simulated
 * back end in this thread, then with RocksDB in a worker process that is killed again and again.
 * The test is its own worker (`--worker catalog PATH`). The clock is virtual; waiting is a bounded
 * poll().
 */
#include "daemon/catalog_link.h"
#include "daemon/worker.h"

#include "base/random.h"
#include "tiers/nvme/catalog_server.h"
#include "tiers/nvme/catalog_simulated.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define SLOTS 4096u
#define WAIT_MS_MAX 30000
#define TURNS_MAX 2000000u
#define HOUR_US (UINT64_C(3600) * 1000000)

/* Every slot's record is made from its number and version; version 0: there is none. */
struct rig {
	struct catalog_link *link;
	struct clock clock;
	struct random random;
	char folder[64], path[128];
	uint32_t versions[SLOTS], versions_given[SLOTS];
	uint32_t slots;
	/* What a scan gave. */
	uint32_t scanned[SLOTS];
	uint64_t scanned_rows, scanned_wrong;
	unsigned scans_done;
	struct catalog_scan_end end;
	unsigned resends;
	unsigned rows_until_kill;
};

static struct catalog_record record_of(uint32_t slot, uint32_t version)
{
	struct catalog_record record;

	memset(&record, 0, sizeof(record));
	memset(record.device, 1 + (int)(slot % 2), sizeof(record.device));
	record.offset = (uint64_t)slot * 4096 * 300;
	memset(record.space, 7, sizeof(record.space));
	for (unsigned n = 0; n < sizeof(record.hash); n++)
		record.hash[n] = (uint8_t)(slot * 31 + version * 17 + n * n);
	memset(record.parent, (int)(version & 0xff), sizeof(record.parent));
	record.epoch = UINT64_C(0x100000000) + version;
	record.route_key = ~(uint64_t)slot * version;
	record.payload_bytes = UINT64_C(5000000000) + slot;
	record.stored_at_us = UINT64_C(1790000000000000) + slot;
	record.extent_generation = slot + 1;
	record.slot_generation = version;
	record.tokens = 16;
	record.first_position = slot % 977;
	record.slot_bytes = UINT32_C(4000000000) + slot;
	record.group = (uint16_t)(slot % 3);
	record.shard = 1;
	record.shards_count = 2;
	record.segments_count = 64;
	return record;
}

static void note_row(void *owner, const struct catalog_record *record)
{
	struct rig *rig = owner;
	uint32_t slot = record->extent_generation - 1;

	rig->scanned_rows++;
	if (slot >= SLOTS || rig->scanned[slot] != 0) {
		rig->scanned_wrong++;
		return;
	}
	struct catalog_record expected = record_of(slot, record->slot_generation);
	if (memcmp(&expected, record, sizeof(expected)) != 0)
		rig->scanned_wrong++;
	rig->scanned[slot] = record->slot_generation;
	if (rig->rows_until_kill > 0 && --rig->rows_until_kill == 0 &&
	    catalog_link_pid(rig->link) > 0)
		kill(catalog_link_pid(rig->link), SIGKILL);
}

static void note_end(void *owner, const struct catalog_scan_end *end)
{
	struct rig *rig = owner;

	rig->scans_done++;
	rig->end = *end;
}

static bool resend(void *owner, uint64_t *cursor, unsigned limit)
{
	struct rig *rig = owner;

	rig->resends++;
	for (unsigned put = 0; put < limit && *cursor < rig->slots; ++*cursor) {
		if (rig->versions[*cursor] == 0)
			continue;
		struct catalog_record record = record_of((uint32_t)*cursor, rig->versions[*cursor]);
		catalog_link_put(rig->link, &record);
		put++;
	}
	return *cursor == rig->slots;
}

static void rig_open(struct rig *rig, const struct catalog_ops *ops, uint32_t pending_max)
{
	struct error error = { 0 };
	struct catalog_link_config config = {
		.path = rig->path,
		.ops = ops,
		.clock = &rig->clock,
		.stall_us_max = HOUR_US,
		.pending_max = pending_max,
		.resend = resend,
		.owner = rig,
	};

	memset(rig->scanned, 0, sizeof(rig->scanned));
	rig->scanned_rows = rig->scanned_wrong = 0;
	assert_int_equal(catalog_link_open(&rig->link, &config, &error), 0);
}

static void rig_init(struct rig *rig, const struct catalog_ops *ops, uint32_t pending_max,
		     uint32_t slots)
{
	const char *temporary = getenv("TMPDIR");

	memset(rig, 0, sizeof(*rig));
	assert_true(slots <= SLOTS);
	rig->slots = slots;
	clock_virtual_init(&rig->clock, 1000000);
	random_init(&rig->random, 42);
	snprintf(rig->folder, sizeof(rig->folder), "%.40s/catalog-XXXXXX",
		 temporary != NULL ? temporary : "/tmp");
	assert_non_null(mkdtemp(rig->folder));
	snprintf(rig->path, sizeof(rig->path), "%s/catalog", rig->folder);
	rig_open(rig, ops, pending_max);
}

static void rig_close(struct rig *rig)
{
	catalog_link_close(rig->link);
	rig->link = NULL;
}

static void rig_finish(struct rig *rig)
{
	char command[160];

	rig_close(rig);
	catalog_simulated_forget_all();
	snprintf(command, sizeof(command), "rm -rf '%s'", rig->folder);
	assert_int_equal(system(command), 0);
}

static bool rig_step(struct rig *rig)
{
	return catalog_link_step(rig->link, clock_now_us(&rig->clock));
}

/* Steps, and waits where there is nothing to do; goes on to the next deadline when a worker is to
 * be started. */
static void rig_turn(struct rig *rig)
{
	uint64_t now_us = clock_now_us(&rig->clock), next_us;

	if (rig_step(rig))
		return;
	next_us = catalog_link_next_us(rig->link, now_us);
	struct pollfd waiting = { .fd = catalog_link_fd(rig->link), .events = POLLIN };
	bool is_idle = catalog_link_is_idle(rig->link) &&
		       catalog_link_state(rig->link) == CATALOG_LINK_OK;
	if (waiting.fd < 0 || is_idle || catalog_link_pid(rig->link) == 0 ||
	    next_us <= now_us + CATALOG_BATCH_US) {
		clock_advance(&rig->clock, next_us > now_us ? next_us - now_us : 1000);
		return;
	}
	clock_advance(&rig->clock, 1000);
	if (catalog_link_sleep(rig->link))
		assert_int_equal(poll(&waiting, 1, WAIT_MS_MAX), 1);
	catalog_link_awake(rig->link);
}

static void rig_settle(struct rig *rig)
{
	catalog_link_flush(rig->link);
	for (unsigned turn = 0; !catalog_link_is_idle(rig->link); turn++) {
		assert_true(turn < TURNS_MAX);
		rig_turn(rig);
	}
}

static void rig_run_until_open(struct rig *rig)
{
	for (unsigned turn = 0; catalog_link_state(rig->link) != CATALOG_LINK_OK; turn++) {
		assert_true(turn < TURNS_MAX);
		rig_turn(rig);
	}
}

static void rig_put(struct rig *rig, uint32_t slot)
{
	rig->versions[slot] = ++rig->versions_given[slot];
	struct catalog_record record = record_of(slot, rig->versions[slot]);

	catalog_link_put(rig->link, &record);
}

static void rig_delete(struct rig *rig, uint32_t slot)
{
	struct catalog_record record = record_of(slot, 1);

	rig->versions[slot] = 0;
	catalog_link_delete(rig->link, record.device, record.offset);
}

/* Versions only grow, also over a delete, so that no record looks like an earlier one. */
static void rig_change_some(struct rig *rig, unsigned count)
{
	for (unsigned n = 0; n < count; n++) {
		uint32_t slot = (uint32_t)random_below(&rig->random, rig->slots);
		if (rig->versions[slot] != 0 && random_below(&rig->random, 4) == 0)
			rig_delete(rig, slot);
		else
			rig_put(rig, slot);
	}
}

static void rig_expect_scan(struct rig *rig)
{
	catalog_link_scan(rig->link, note_row, note_end);
	unsigned done = rig->scans_done + 1;
	for (unsigned turn = 0; rig->scans_done < done; turn++) {
		assert_true(turn < TURNS_MAX);
		rig_turn(rig);
	}
	assert_int_equal(rig->end.result, 0);
	assert_int_equal(rig->end.skipped, 0);
	assert_int_equal(rig->scanned_wrong, 0);
	assert_int_equal(rig->end.rows, rig->scanned_rows);
	assert_memory_equal(rig->scanned, rig->versions, sizeof(rig->scanned));
}

/* ---- in one thread ---- */

static void what_is_put_is_scanned_by_the_next_life(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, &catalog_simulated_ops, 4096, 500);
	rig_change_some(&rig, 2000);
	rig_settle(&rig);
	assert_int_equal(catalog_link_state(rig.link), CATALOG_LINK_OK);
	rig_close(&rig);
	rig_open(&rig, &catalog_simulated_ops, 4096);
	rig_expect_scan(&rig);
	assert_false(rig.end.is_complete);
	rig_finish(&rig);
}

static void records_are_written_by_size_or_by_age_and_not_before(void **unused)
{
	struct rig rig;
	struct catalog_link_counters counters;

	(void)unused;
	rig_init(&rig, &catalog_simulated_ops, 4096, 4000);
	rig_run_until_open(&rig);
	for (uint32_t slot = 0; slot < CATALOG_BATCH_RECORDS - 1; slot++)
		rig_put(&rig, slot);
	rig_step(&rig);
	assert_int_equal(catalog_simulated_writes(rig.path), 0);
	rig_put(&rig, CATALOG_BATCH_RECORDS);
	rig_step(&rig);
	assert_int_equal(catalog_simulated_writes(rig.path), 1);
	rig_put(&rig, 1);
	rig_step(&rig);
	uint64_t now_us = clock_now_us(&rig.clock);
	assert_int_equal(catalog_link_next_us(rig.link, now_us), now_us + CATALOG_BATCH_US);
	clock_advance(&rig.clock, CATALOG_BATCH_US - 1);
	rig_step(&rig);
	assert_int_equal(catalog_simulated_writes(rig.path), 1);
	clock_advance(&rig.clock, 1);
	rig_step(&rig);
	assert_int_equal(catalog_simulated_writes(rig.path), 2);
	catalog_link_count(rig.link, &counters);
	assert_int_equal(counters.batches_written, 2);
	assert_int_equal(counters.pending, 0);
	rig_finish(&rig);
}

static void a_failed_write_never_loses_a_record(void **unused)
{
	struct rig rig;
	bool fault_was_hit = true;

	(void)unused;
	for (unsigned nth = 1; fault_was_hit; nth++) {
		rig_init(&rig, &catalog_simulated_ops, 16384, 500);
		catalog_simulated_fail(rig.path, CATALOG_SIMULATED_WRITE, nth, -EIO);
		for (unsigned round = 0; round < 12; round++) {
			rig_change_some(&rig, 700);
			rig_turn(&rig);
			clock_advance(&rig.clock, CATALOG_BATCH_US);
		}
		rig_settle(&rig);
		struct catalog_link_counters counters;
		catalog_link_count(rig.link, &counters);
		fault_was_hit = counters.deaths == 1;
		assert_true(fault_was_hit || nth > 5);
		assert_int_equal(counters.rebuilds, 0);
		assert_true(!fault_was_hit ||
			    strstr(catalog_link_reason(rig.link), "simulated catalogue fails"));
		rig_close(&rig);
		rig_open(&rig, &catalog_simulated_ops, 4096);
		rig_expect_scan(&rig);
		rig_finish(&rig);
	}
}

static void a_failed_open_is_tried_again(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, &catalog_simulated_ops, 4096, 500);
	catalog_simulated_fail(rig.path, CATALOG_SIMULATED_OPEN, 1, -EIO);
	rig_put(&rig, 3);
	rig_step(&rig);
	assert_int_equal(catalog_link_state(rig.link), CATALOG_LINK_BEHIND);
	rig_settle(&rig);
	assert_int_equal(catalog_link_state(rig.link), CATALOG_LINK_OK);
	assert_int_equal(catalog_simulated_records(rig.path), 1);
	rig_finish(&rig);
}

static void too_much_pending_clears_the_catalogue_and_puts_all_again(void **unused)
{
	struct rig rig;
	struct catalog_link_counters counters;

	(void)unused;
	rig_init(&rig, &catalog_simulated_ops, 512, 2000);
	rig_run_until_open(&rig);
	for (unsigned round = 0; round < 10; round++) {
		rig_change_some(&rig, 200);
		rig_settle(&rig);
	}
	rig_change_some(&rig, 5000); /* without a step between: more than can be pending */
	assert_int_equal(catalog_link_state(rig.link), CATALOG_LINK_REBUILDING);
	/* Changes go on while it is rebuilt. */
	for (unsigned round = 0; round < 50; round++) {
		rig_step(&rig);
		rig_change_some(&rig, 20);
	}
	rig_settle(&rig);
	catalog_link_count(rig.link, &counters);
	assert_int_equal(counters.rebuilds, 1);
	assert_true(rig.resends >= 4); /* in steps */
	rig_close(&rig);
	rig_open(&rig, &catalog_simulated_ops, 512);
	rig_expect_scan(&rig);
	rig_finish(&rig);
}

static void a_rebuild_that_fails_at_any_operation_ends_with_everything(void **unused)
{
	struct rig rig;

	(void)unused;
	for (unsigned nth = 1; nth <= 8; nth++) {
		rig_init(&rig, &catalog_simulated_ops, 512, 2000);
		rig_run_until_open(&rig);
		rig_change_some(&rig, 2000);
		catalog_simulated_fail(rig.path, CATALOG_SIMULATED_WRITE, nth, -ENOSPC);
		if (nth % 2 == 1)
			catalog_simulated_fail(rig.path, CATALOG_SIMULATED_CLEAR, 1, -EIO);
		rig_settle(&rig);
		rig_close(&rig);
		rig_open(&rig, &catalog_simulated_ops, 512);
		rig_expect_scan(&rig);
		rig_finish(&rig);
	}
}

static void another_database_under_the_same_path_is_noticed_and_filled(void **unused)
{
	struct rig rig;
	struct catalog_link_counters counters;

	(void)unused;
	rig_init(&rig, &catalog_simulated_ops, 4096, 1000);
	rig_change_some(&rig, 1000);
	catalog_link_mark_complete(rig.link);
	rig_settle(&rig);
	/* The worker dies, and its successor finds the database unreadable. */
	catalog_simulated_fail(rig.path, CATALOG_SIMULATED_WRITE, 1, -EIO);
	rig_put(&rig, 1);
	catalog_link_flush(rig.link);
	rig_step(&rig);
	catalog_simulated_replace(rig.path);
	rig_settle(&rig);
	catalog_link_count(rig.link, &counters);
	assert_int_equal(counters.rebuilds, 1);
	rig_close(&rig);
	rig_open(&rig, &catalog_simulated_ops, 4096);
	rig_expect_scan(&rig);
	assert_true(rig.end.is_complete);
	rig_finish(&rig);
}

static void a_power_cut_leaves_what_was_settled(void **unused)
{
	struct rig rig;
	uint32_t settled[SLOTS];

	(void)unused;
	rig_init(&rig, &catalog_simulated_ops, 4096, 1000);
	rig_change_some(&rig, 800);
	rig_settle(&rig);
	catalog_simulated_settle(rig.path);
	memcpy(settled, rig.versions, sizeof(settled));
	rig_change_some(&rig, 800);
	rig_settle(&rig);
	rig_close(&rig);
	catalog_simulated_power_cut(rig.path);
	memcpy(rig.versions, settled, sizeof(settled));
	rig_open(&rig, &catalog_simulated_ops, 4096);
	rig_expect_scan(&rig);
	rig_finish(&rig);
}

static void a_scan_that_fails_is_begun_again_and_no_row_comes_twice(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, &catalog_simulated_ops, 4096, 1000);
	rig_change_some(&rig, 1000);
	rig_settle(&rig);
	rig_close(&rig);
	catalog_simulated_fail(rig.path, CATALOG_SIMULATED_SCAN, 1, -EUCLEAN);
	rig_open(&rig, &catalog_simulated_ops, 4096);
	rig_expect_scan(&rig);
	rig_finish(&rig);
}

static void a_scan_that_takes_too_long_is_given_up_and_puts_go_on(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, &catalog_simulated_ops, 4096, 1000);
	for (unsigned n = 0; n < 400; n++)
		catalog_simulated_fail(rig.path, CATALOG_SIMULATED_OPEN, 1, -EIO);
	catalog_link_scan(rig.link, note_row, note_end);
	rig_put(&rig, 5);
	for (unsigned n = 0; n < 299; n++) {
		catalog_simulated_fail(rig.path, CATALOG_SIMULATED_OPEN, 1, -EIO);
		rig_step(&rig);
		clock_advance(&rig.clock, WORKER_BACKOFF_US_MIN);
	}
	assert_int_equal(rig.scans_done, 0);
	clock_advance(&rig.clock, WORKER_BACKOFF_US_MIN * 2);
	rig_step(&rig);
	assert_int_equal(rig.scans_done, 1);
	assert_int_equal(rig.end.result, -ETIMEDOUT);
	assert_false(rig.end.is_complete);
	rig_settle(&rig);
	assert_int_equal(catalog_simulated_records(rig.path), 1);
	rig_finish(&rig);
}

static void the_mark_of_completeness_does_not_outlive_a_clear(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, &catalog_simulated_ops, 512, 1000);
	rig_put(&rig, 1);
	catalog_link_mark_complete(rig.link);
	rig_settle(&rig);
	rig_close(&rig);
	rig_open(&rig, &catalog_simulated_ops, 512);
	rig_expect_scan(&rig);
	assert_true(rig.end.is_complete);
	rig_change_some(&rig, 2000);
	assert_int_equal(catalog_link_state(rig.link), CATALOG_LINK_REBUILDING);
	rig_step(&rig);
	rig_step(&rig); /* cleared, half full */
	rig_close(&rig);
	rig_open(&rig, &catalog_simulated_ops, 512);
	catalog_link_scan(rig.link, note_row, note_end);
	for (unsigned turn = 0; turn < 10; turn++)
		rig_turn(&rig);
	assert_int_equal(rig.scans_done, 2);
	assert_false(rig.end.is_complete);
	rig_finish(&rig);
}

/* ---- a worker process ---- */

static void skip_without_rocksdb(void)
{
#if !HAVE_ROCKSDB
	print_message("skipped: built without RocksDB\n");
	skip();
#endif
}

static void without_a_back_end_the_catalogue_is_absent_and_nothing_waits(void **unused)
{
	struct rig rig;

	(void)unused;
#if HAVE_ROCKSDB
	print_message("skipped: built with RocksDB\n");
	skip();
#endif
	rig_init(&rig, NULL, 512, 1000);
	catalog_link_scan(rig.link, note_row, note_end);
	for (unsigned turn = 0; rig.scans_done == 0 && turn < TURNS_MAX; turn++)
		rig_turn(&rig);
	assert_int_equal(rig.end.result, -ENOTSUP);
	assert_int_equal(catalog_link_state(rig.link), CATALOG_LINK_ABSENT);
	rig_change_some(&rig, 5000);
	assert_true(catalog_link_is_idle(rig.link));
	rig_finish(&rig);
}

static void a_worker_killed_at_random_moments_loses_no_record(void **unused)
{
	struct rig rig;
	struct catalog_link_counters counters;
	unsigned kills = 0;

	(void)unused;
	skip_without_rocksdb();
	rig_init(&rig, NULL, 16384, 1000);
	for (unsigned turn = 0; kills < 60; turn++) {
		assert_true(turn < TURNS_MAX);
		catalog_link_count(rig.link, &counters);
		if (counters.pending < 12000)
			rig_change_some(&rig, (unsigned)random_below(&rig.random, 400));
		for (uint64_t n = random_below(&rig.random, 6); n > 0; n--)
			rig_turn(&rig);
		if (catalog_link_pid(rig.link) > 0 && random_below(&rig.random, 5) == 0) {
			kill(catalog_link_pid(rig.link), SIGKILL);
			kills++;
		}
	}
	rig_settle(&rig);
	catalog_link_count(rig.link, &counters);
	assert_true(counters.deaths >= 30);
	print_message("%u kills, %llu deaths, %llu batches written, %llu rebuilds\n", kills,
		      (unsigned long long)counters.deaths,
		      (unsigned long long)counters.batches_written,
		      (unsigned long long)counters.rebuilds);
	rig_close(&rig);
	rig_open(&rig, NULL, 4096);
	rig_expect_scan(&rig);
	rig_finish(&rig);
}

static void a_worker_killed_during_a_rebuild_ends_with_everything(void **unused)
{
	struct rig rig;
	struct catalog_link_counters counters;

	(void)unused;
	skip_without_rocksdb();
	rig_init(&rig, NULL, 1024, SLOTS);
	for (unsigned round = 0; round < 20; round++) {
		rig_change_some(&rig, 3000);
		for (uint64_t n = random_below(&rig.random, 30); n > 0; n--)
			rig_turn(&rig);
		if (catalog_link_pid(rig.link) > 0)
			kill(catalog_link_pid(rig.link), SIGKILL);
	}
	rig_settle(&rig);
	catalog_link_count(rig.link, &counters);
	assert_true(counters.rebuilds > 0 && counters.deaths > 0);
	rig_close(&rig);
	rig_open(&rig, NULL, 4096);
	rig_expect_scan(&rig);
	rig_finish(&rig);
}

static void a_worker_killed_during_the_scan_gives_each_row_once(void **unused)
{
	struct rig rig;

	(void)unused;
	skip_without_rocksdb();
	rig_init(&rig, NULL, 16384, SLOTS);
	rig_change_some(&rig, 12000);
	catalog_link_mark_complete(rig.link);
	rig_settle(&rig);
	rig_close(&rig);
	rig_open(&rig, NULL, 4096);
	rig.rows_until_kill = 10;
	rig_expect_scan(&rig);
	assert_true(rig.end.is_complete);
	rig_finish(&rig);
}

static void an_unreadable_database_is_set_aside_and_filled_again(void **unused)
{
	struct rig rig;
	struct catalog_link_counters counters;
	char name[200];
	struct stat status;

	(void)unused;
	skip_without_rocksdb();
	rig_init(&rig, NULL, 4096, 1000);
	rig_change_some(&rig, 1000);
	rig_settle(&rig);
	snprintf(name, sizeof(name), "%s/CURRENT", rig.path);
	FILE *file = fopen(name, "w");
	assert_non_null(file);
	fputs("nonsense", file);
	fclose(file);
	kill(catalog_link_pid(rig.link), SIGKILL);
	rig_change_some(&rig, 10);
	rig_settle(&rig);
	catalog_link_count(rig.link, &counters);
	assert_int_equal(counters.rebuilds, 1);
	snprintf(name, sizeof(name), "%s.unreadable-1", rig.path);
	assert_int_equal(stat(name, &status), 0);
	rig_close(&rig);
	rig_open(&rig, NULL, 4096);
	rig_expect_scan(&rig);
	rig_finish(&rig);
}

int main(int arguments_count, char **arguments)
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
