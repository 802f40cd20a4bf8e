/*
 * tests/daemon/test_journal.c: no damage and no crash ever lowers a floor that was answered.
 * fsync and fdatasync are this test's own: they wait for no disk, count, and fail when told to.
 */
#include "daemon/journal.h"

#include "base/failpoint.h"
#include "daemon/journal_file.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SPACES 8u
#define ROUNDS 1000u

static unsigned syncs, sync_that_fails; /* 0: none */

static int sync_pretended(void)
{
	if (++syncs != sync_that_fails)
		return 0;
	errno = EIO;
	return -1;
}

int fsync(int fd)
{
	(void)fd;
	return sync_pretended();
}

int fdatasync(int fd)
{
	(void)fd;
	return sync_pretended();
}

struct rig {
	char folder[64], path[128];
	struct journal *journal;
	struct journal_floors told; /* what the last open said */
	uint64_t epoch;
};

static void note(void *owner, const struct journal_record *record)
{
	journal_floors_raise(&((struct rig *)owner)->told, record);
}

static int rig_open(struct rig *rig, bool is_first_start)
{
	struct error error;

	memset(&rig->told, 0, sizeof(rig->told));
	return journal_open(&rig->journal, rig->path, is_first_start, note, rig, &rig->epoch,
			    &error);
}

static struct rig *rig_create(void)
{
	const char *temporary = getenv("TMPDIR");
	struct rig *rig = calloc(1, sizeof(*rig));

	assert_non_null(rig);
	snprintf(rig->folder, sizeof(rig->folder), "%.40s/journal-XXXXXX",
		 temporary != NULL ? temporary : "/tmp");
	assert_non_null(mkdtemp(rig->folder));
	snprintf(rig->path, sizeof(rig->path), "%s/journal", rig->folder);
	assert_int_equal(rig_open(rig, true), 0);
	return rig;
}

static void rig_close(struct rig *rig)
{
	journal_close(rig->journal);
	rig->journal = NULL;
}

static void rig_reopen(struct rig *rig)
{
	rig_close(rig);
	assert_int_equal(rig_open(rig, false), 0);
}

static void rig_destroy(struct rig *rig)
{
	char command[128];

	rig_close(rig);
	snprintf(command, sizeof(command), "rm -rf '%s'", rig->folder);
	assert_int_equal(system(command), 0);
	free(rig);
}

static struct journal_record record_of(enum journal_kind kind, unsigned tenant, unsigned space,
				       uint64_t floor)
{
	struct journal_record record = { .kind = kind, .floor = floor };

	if (kind != JOURNAL_ALL)
		memset(record.tenant, (int)(1 + tenant), sizeof(record.tenant));
	if (kind == JOURNAL_SPACE) {
		memset(record.space, 0x55, sizeof(record.space));
		memcpy(record.space, &space, sizeof(space));
	}
	return record;
}

static int rig_write(struct rig *rig, enum journal_kind kind, unsigned tenant, unsigned space,
		     uint64_t floor)
{
	struct journal_record record = record_of(kind, tenant, space, floor);
	struct error error;

	return journal_write(rig->journal, &record, &error);
}

/* What a reader of these floors forgets in this space. */
static uint64_t floor_of(const struct journal_floors *floors, unsigned tenant, unsigned space)
{
	struct journal_record wanted = record_of(JOURNAL_SPACE, tenant, space, 1);
	uint64_t floor = floors->all;

	for (uint32_t n = 0; n < floors->count; n++) {
		const struct journal_record *record = &floors->records[n];
		bool is_of_it = record->kind == JOURNAL_SPACE
					? memcmp(record->space, wanted.space,
						 sizeof(wanted.space)) == 0
					: memcmp(record->tenant, wanted.tenant,
						 sizeof(wanted.tenant)) == 0;
		if (is_of_it && record->floor > floor)
			floor = record->floor;
	}
	return floor;
}

struct image {
	uint8_t bytes[64 * JOURNAL_RECORD_BYTES];
	size_t count;
};

static void image_read(const struct rig *rig, struct image *image)
{
	FILE *file = fopen(rig->path, "r");

	assert_non_null(file);
	image->count = fread(image->bytes, 1, sizeof(image->bytes), file);
	assert_true(image->count < sizeof(image->bytes));
	fclose(file);
}

static void image_write(const char *path, const struct image *image, size_t count)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	assert_int_equal(fwrite(image->bytes, 1, count, file), count);
	fclose(file);
}

/* Two tenants, four spaces each; raised floors among them. */
static void rig_fill(struct rig *rig)
{
	for (unsigned space = 0; space < SPACES; space++)
		assert_int_equal(rig_write(rig, JOURNAL_SPACE, space / 4, space, 10 + space), 0);
	assert_int_equal(rig_write(rig, JOURNAL_TENANT, 1, 0, 20), 0);
	assert_int_equal(rig_write(rig, JOURNAL_SPACE, 0, 1, 21), 0);
}

static void expect_filled(const struct rig *rig)
{
	assert_int_equal(floor_of(&rig->told, 0, 0), 10);
	assert_int_equal(floor_of(&rig->told, 0, 1), 21);
	assert_int_equal(floor_of(&rig->told, 0, 2), 12);
	for (unsigned space = 4; space < SPACES; space++)
		assert_int_equal(floor_of(&rig->told, 1, space), 20);
	assert_int_equal(floor_of(&rig->told, 2, 99), 0);
	assert_int_equal(rig->epoch, 22);
}

static void expect_all_forgotten(struct rig *rig)
{
	assert_int_equal(journal_finding(rig->journal), JOURNAL_UNREADABLE);
	assert_true(rig->told.all > 22);
	assert_true(rig->epoch > rig->told.all);
}

static void a_first_start_has_no_floors_and_counts_from_one(void **unused)
{
	struct rig *rig = rig_create();

	(void)unused;
	assert_int_equal(journal_finding(rig->journal), JOURNAL_NEW);
	assert_int_equal(rig->told.all, 0);
	assert_int_equal(rig->told.count, 0);
	assert_int_equal(rig->epoch, 1);
	rig_reopen(rig);
	assert_int_equal(journal_finding(rig->journal), JOURNAL_FINE);
	assert_int_equal(rig->epoch, 1);
	rig_destroy(rig);
}

static void floors_outlive_a_restart_and_the_counter_is_above_them(void **unused)
{
	struct rig *rig = rig_create();

	(void)unused;
	rig_fill(rig);
	for (unsigned n = 0; n < 3; n++) {
		rig_reopen(rig);
		assert_int_equal(journal_finding(rig->journal), JOURNAL_FINE);
		expect_filled(rig);
	}
	assert_int_equal(rig_write(rig, JOURNAL_SPACE, 0, 2, 5), 0); /* lower: no effect */
	rig_reopen(rig);
	expect_filled(rig);
	assert_int_equal(rig_write(rig, JOURNAL_ALL, 0, 0, 30), 0);
	rig_reopen(rig);
	assert_int_equal(floor_of(&rig->told, 0, 1), 30);
	assert_int_equal(floor_of(&rig->told, 9, 9), 30);
	assert_int_equal(rig->epoch, 31);
	rig_destroy(rig);
}

static void any_flipped_bit_of_a_record_is_noticed(void **unused)
{
	struct rig *rig = rig_create();
	struct journal_record record;
	struct image image;
	uint8_t id[8], other_id[8];

	(void)unused;
	rig_fill(rig);
	image_read(rig, &image);
	assert_int_equal(image.count, 11 * JOURNAL_RECORD_BYTES);
	assert_true(journal_head_unpack(image.bytes, id));
	for (size_t bit = 0; bit < image.count * 8; bit++) {
		uint64_t number = bit / 8 / JOURNAL_RECORD_BYTES;
		uint8_t *bytes = image.bytes + number * JOURNAL_RECORD_BYTES;
		bool is_head = number == 0;

		image.bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		assert_false(is_head ? journal_head_unpack(bytes, other_id)
				     : journal_record_unpack(bytes, id, number, &record));
		image.bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		assert_true(is_head ? journal_head_unpack(bytes, other_id)
				    : journal_record_unpack(bytes, id, number, &record));
	}
	rig_destroy(rig);
}

static void a_damaged_byte_anywhere_forgets_everything_and_never_less(void **unused)
{
	struct rig *rig = rig_create();
	struct image image, flipped;

	(void)unused;
	assert_int_equal(rig_write(rig, JOURNAL_SPACE, 0, 1, 21), 0);
	assert_int_equal(rig_write(rig, JOURNAL_TENANT, 1, 0, 22), 0);
	image_read(rig, &image);
	for (size_t byte = 0; byte < image.count; byte += 7) {
		flipped = image;
		flipped.bytes[byte] ^= (uint8_t)(1u << (byte % 8));
		rig_close(rig);
		image_write(rig->path, &flipped, flipped.count);
		assert_int_equal(rig_open(rig, false), 0);
		expect_all_forgotten(rig);
		if (byte % 91 != 0)
			continue;
		uint64_t all = rig->told.all;
		rig_reopen(rig); /* and it stays forgotten */
		assert_int_equal(journal_finding(rig->journal), JOURNAL_FINE);
		assert_int_equal(rig->told.all, all);
	}
	rig_destroy(rig);
}

static void a_torn_tail_is_dropped_and_nothing_else(void **unused)
{
	struct rig *rig = rig_create();
	struct image image, torn;

	(void)unused;
	rig_fill(rig);
	image_read(rig, &image);
	assert_int_equal(rig_write(rig, JOURNAL_SPACE, 0, 0, 50), 0);
	image_read(rig, &torn);
	for (size_t count = image.count; count < torn.count; count += 11) {
		rig_close(rig);
		image_write(rig->path, &torn, count);
		assert_int_equal(rig_open(rig, false), 0);
		assert_int_equal(journal_finding(rig->journal),
				 count == image.count ? JOURNAL_FINE : JOURNAL_TORN_TAIL);
		expect_filled(rig);
		assert_int_equal(rig_write(rig, JOURNAL_SPACE, 0, 3, 60), 0);
		rig_reopen(rig);
		assert_int_equal(journal_finding(rig->journal), JOURNAL_FINE);
		assert_int_equal(floor_of(&rig->told, 0, 3), 60);
		assert_int_equal(floor_of(&rig->told, 0, 1), 21);
	}
	rig_destroy(rig);
}

static void a_whole_last_record_that_is_damaged_forgets_everything(void **unused)
{
	struct rig *rig = rig_create();
	struct image image;

	(void)unused;
	rig_fill(rig);
	image_read(rig, &image);
	memset(image.bytes + image.count - JOURNAL_RECORD_BYTES, 0, JOURNAL_RECORD_BYTES);
	rig_close(rig);
	image_write(rig->path, &image, image.count);
	assert_int_equal(rig_open(rig, false), 0);
	expect_all_forgotten(rig);
	rig_destroy(rig);
}

static void a_missing_doubled_or_foreign_record_forgets_everything(void **unused)
{
	struct rig *rig = rig_create(), *other = rig_create();
	struct image image, foreign, changed;

	(void)unused;
	rig_fill(rig);
	rig_fill(other);
	image_read(rig, &image);
	image_read(other, &foreign);
	for (unsigned way = 0; way < 3; way++) {
		uint8_t *third = changed.bytes + 3 * JOURNAL_RECORD_BYTES;
		changed = image;
		if (way == 0)
			memmove(third, third + JOURNAL_RECORD_BYTES,
				image.count - 4 * JOURNAL_RECORD_BYTES);
		else if (way == 1)
			memcpy(third + JOURNAL_RECORD_BYTES, third, JOURNAL_RECORD_BYTES);
		else
			memcpy(third, foreign.bytes + 3 * JOURNAL_RECORD_BYTES,
			       JOURNAL_RECORD_BYTES);
		rig_close(rig);
		image_write(rig->path, &changed,
			    image.count - (way == 0 ? JOURNAL_RECORD_BYTES : 0));
		assert_int_equal(rig_open(rig, false), 0);
		expect_all_forgotten(rig);
	}
	rig_destroy(other);
	rig_destroy(rig);
}

static void a_missing_or_empty_file_later_than_the_first_start_forgets_everything(void **unused)
{
	struct rig *rig = rig_create();

	(void)unused;
	rig_fill(rig);
	rig_close(rig);
	assert_int_equal(unlink(rig->path), 0);
	assert_int_equal(rig_open(rig, false), 0);
	expect_all_forgotten(rig);
	rig_close(rig);
	assert_int_equal(truncate(rig->path, 0), 0);
	assert_int_equal(rig_open(rig, false), 0);
	expect_all_forgotten(rig);
	rig_close(rig);
	assert_int_equal(truncate(rig->path, 0), 0);
	assert_int_equal(rig_open(rig, true), 0); /* it is there, so this is no first start */
	expect_all_forgotten(rig);
	rig_destroy(rig);
}

static void an_unreadable_file_is_kept_aside(void **unused)
{
	struct rig *rig = rig_create();
	struct image image, aside;
	char path[160];

	(void)unused;
	rig_fill(rig);
	image_read(rig, &image);
	image.bytes[200] ^= 1;
	rig_close(rig);
	image_write(rig->path, &image, image.count);
	assert_int_equal(rig_open(rig, false), 0);
	snprintf(path, sizeof(path), "%s.unreadable", rig->path);
	FILE *file = fopen(path, "r");
	assert_non_null(file);
	aside.count = fread(aside.bytes, 1, sizeof(aside.bytes), file);
	fclose(file);
	assert_int_equal(aside.count, image.count);
	assert_memory_equal(aside.bytes, image.bytes, image.count);
	rig_destroy(rig);
}

static void a_salvaged_floor_is_below_the_new_one_whatever_the_wall_clock_says(void **unused)
{
	struct rig *rig = rig_create();
	struct image image;
	uint64_t high = UINT64_C(1) << 30; /* far above any wall clock */

	(void)unused;
	assert_int_equal(rig_write(rig, JOURNAL_SPACE, 0, 0, 3), 0);
	assert_int_equal(rig_write(rig, JOURNAL_SPACE, 0, 1, high), 0);
	image_read(rig, &image);
	image.bytes[JOURNAL_RECORD_BYTES + 70] ^= 4;
	rig_close(rig);
	image_write(rig->path, &image, image.count);
	assert_int_equal(rig_open(rig, false), 0);
	assert_true(rig->told.all > high);
	rig_destroy(rig);
}

static void a_file_that_grows_is_rewritten_and_says_the_same(void **unused)
{
	struct rig *rig = rig_create();
	struct stat status;
	uint64_t floor = 100;
	off_t largest = 0;

	(void)unused;
	for (unsigned n = 0; n < ROUNDS; n++) {
		assert_int_equal(rig_write(rig, JOURNAL_SPACE, 0, n % SPACES, floor + n), 0);
		assert_int_equal(stat(rig->path, &status), 0);
		largest = status.st_size > largest ? status.st_size : largest;
	}
	assert_true(largest <= 66 * JOURNAL_RECORD_BYTES);
	rig_reopen(rig);
	for (unsigned space = 0; space < SPACES; space++)
		assert_int_equal(floor_of(&rig->told, 0, space), floor + ROUNDS - SPACES + space);
	rig_destroy(rig);
}

/* What a crash leaves at each step of a rewrite: the old file with any part of the new one beside
 * it. */
static void a_rewrite_cut_off_anywhere_leaves_the_old_journal(void **unused)
{
	struct rig *rig = rig_create();
	struct image image;
	char fresh[160];

	(void)unused;
	rig_fill(rig);
	image_read(rig, &image);
	snprintf(fresh, sizeof(fresh), "%s.new", rig->path);
	for (size_t count = 0; count <= image.count; count += 112) {
		rig_close(rig);
		image_write(fresh, &image, count);
		assert_int_equal(rig_open(rig, false), 0);
		assert_int_equal(journal_finding(rig->journal), JOURNAL_FINE);
		expect_filled(rig);
	}
	rig_destroy(rig);
}

static void a_failed_write_breaks_the_journal_until_the_next_start(void **unused)
{
	struct rig *rig = rig_create();
	struct rlimit old, small;
	struct stat status;

	(void)unused;
	rig_fill(rig);
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(stat(rig->path, &status), 0);
	small = (struct rlimit){ (rlim_t)status.st_size + 50, old.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	assert_int_equal(rig_write(rig, JOURNAL_SPACE, 0, 0, 70), -EIO);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(rig_write(rig, JOURNAL_SPACE, 0, 0, 71), -EIO); /* never retried */
	rig_reopen(rig);
	assert_int_equal(journal_finding(rig->journal), JOURNAL_TORN_TAIL);
	expect_filled(rig);
	assert_int_equal(rig_write(rig, JOURNAL_SPACE, 0, 0, 72), 0);
	rig_destroy(rig);
}

static void a_failed_sync_is_never_retried_and_lowers_nothing(void **unused)
{
	bool fault_was_hit = true;

	(void)unused;
	for (unsigned nth = 1; fault_was_hit; nth++) {
		struct rig *rig = rig_create();
		uint64_t answered = 0, floor = 0;
		int result = 0;

		syncs = 0;
		sync_that_fails = nth;
		while (result == 0 && floor < 70) { /* enough for a rewrite */
			result = rig_write(rig, JOURNAL_SPACE, 0, 1, ++floor);
			answered = result == 0 ? floor : answered;
		}
		fault_was_hit = result != 0;
		unsigned before = syncs;
		if (fault_was_hit) {
			assert_int_equal(result, -EIO);
			assert_int_equal(rig_write(rig, JOURNAL_SPACE, 0, 1, 99), -EIO);
			assert_int_equal(syncs, before);
		}
		sync_that_fails = 0;
		rig_reopen(rig);
		assert_int_equal(journal_finding(rig->journal), JOURNAL_FINE);
		assert_true(floor_of(&rig->told, 0, 1) >= answered);
		assert_true(floor_of(&rig->told, 0, 1) <= floor);
		rig_destroy(rig);
	}
}

static void floors_beyond_the_limit_are_covered_never_lost(void **unused)
{
	struct rig *rig = rig_create();
	struct journal_floors *floors = calloc(1, sizeof(*floors));

	(void)unused;
	assert_non_null(floors);
	for (unsigned n = 0; n < 3 * JOURNAL_LIVE_MAX; n++) {
		struct journal_record record = record_of(JOURNAL_SPACE, n % 7, n, 1000 + n);
		journal_floors_raise(floors, &record);
		assert_true(floors->count <= JOURNAL_LIVE_MAX);
		assert_true(floor_of(floors, n % 7, n / 2) >= 1000 + n / 2);
	}
	for (unsigned n = 0; n < 3 * JOURNAL_LIVE_MAX; n += 13)
		assert_true(floor_of(floors, n % 7, n) >= 1000 + n);
	free(floors);
	rig_destroy(rig);
}

#if KVTIER_FAILPOINTS
/* A process that dies or fails at `armed`, after which the journal says at least what was answered.
 */
static void die_at(const char *armed, bool is_killed)
{
	struct rig *rig = rig_create();
	int status;

	rig_fill(rig);
	rig_close(rig);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct error error;
		setenv("KVTIER_FAILPOINT", armed, 1);
		if (failpoint_arm_from_environment(&error) < 0 || rig_open(rig, false) < 0)
			_exit(2);
		int result = rig_write(rig, JOURNAL_SPACE, 0, 2, 90);
		int second = rig_write(rig, JOURNAL_SPACE, 0, 3, 91);
		_exit(result == -EIO && second == -EIO ? 0 : 3);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(is_killed ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL
			      : WIFEXITED(status) && WEXITSTATUS(status) == 0);
	assert_int_equal(rig_open(rig, false), 0);
	assert_int_equal(journal_finding(rig->journal), JOURNAL_FINE);
	assert_int_equal(floor_of(&rig->told, 0, 1), 21);
	assert_true(floor_of(&rig->told, 0, 2) == 12 || floor_of(&rig->told, 0, 2) == 90);
	assert_true(floor_of(&rig->told, 0, 3) == 13);
	rig_destroy(rig);
}

static void a_death_or_failure_at_each_step_of_a_write_keeps_what_was_answered(void **unused)
{
	(void)unused;
	die_at("journal_appended=kill", true);
	die_at("journal_synced=kill", true);
	die_at("journal_appended=error", false);
	die_at("journal_synced=error", false);
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_first_start_has_no_floors_and_counts_from_one),
		cmocka_unit_test(floors_outlive_a_restart_and_the_counter_is_above_them),
		cmocka_unit_test(any_flipped_bit_of_a_record_is_noticed),
		cmocka_unit_test(a_damaged_byte_anywhere_forgets_everything_and_never_less),
		cmocka_unit_test(a_torn_tail_is_dropped_and_nothing_else),
		cmocka_unit_test(a_whole_last_record_that_is_damaged_forgets_everything),
		cmocka_unit_test(a_missing_doubled_or_foreign_record_forgets_everything),
		cmocka_unit_test(
			a_missing_or_empty_file_later_than_the_first_start_forgets_everything),
		cmocka_unit_test(an_unreadable_file_is_kept_aside),
		cmocka_unit_test(
			a_salvaged_floor_is_below_the_new_one_whatever_the_wall_clock_says),
		cmocka_unit_test(a_file_that_grows_is_rewritten_and_says_the_same),
		cmocka_unit_test(a_rewrite_cut_off_anywhere_leaves_the_old_journal),
		cmocka_unit_test(a_failed_write_breaks_the_journal_until_the_next_start),
		cmocka_unit_test(a_failed_sync_is_never_retried_and_lowers_nothing),
		cmocka_unit_test(floors_beyond_the_limit_are_covered_never_lost),
#if KVTIER_FAILPOINTS
		cmocka_unit_test(
			a_death_or_failure_at_each_step_of_a_write_keeps_what_was_answered),
#endif
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
