/* tests/daemon/test_journal.c: no crash and no failed write ever lowers a floor that was answered.
 */
#include "base/failpoint.h"
#include "tests/daemon/journal_rig.h"

#include <errno.h>
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

#define ROUNDS 1000u

static void a_first_start_has_no_floors_and_counts_from_one(void **unused)
{
	struct journal_rig *rig = journal_rig_create();

	(void)unused;
	assert_int_equal(journal_finding(rig->journal), JOURNAL_NEW);
	assert_int_equal(rig->told.all, 0);
	assert_int_equal(rig->told.count, 0);
	assert_int_equal(rig->epoch, 1);
	journal_rig_reopen(rig);
	assert_int_equal(journal_finding(rig->journal), JOURNAL_FINE);
	assert_int_equal(rig->epoch, 1);
	journal_rig_destroy(rig);
}

static void floors_outlive_a_restart_and_the_counter_is_above_them(void **unused)
{
	struct journal_rig *rig = journal_rig_create();

	(void)unused;
	journal_rig_fill(rig);
	for (unsigned n = 0; n < 3; n++) {
		journal_rig_reopen(rig);
		assert_int_equal(journal_finding(rig->journal), JOURNAL_FINE);
		journal_rig_expect_filled(rig);
	}
	assert_int_equal(journal_rig_write(rig, JOURNAL_SPACE, 0, 2, 5), 0); /* lower: no effect */
	journal_rig_reopen(rig);
	journal_rig_expect_filled(rig);
	assert_int_equal(journal_rig_write(rig, JOURNAL_ALL, 0, 0, 30), 0);
	journal_rig_reopen(rig);
	assert_int_equal(journal_rig_floor(&rig->told, 0, 1), 30);
	assert_int_equal(journal_rig_floor(&rig->told, 9, 9), 30);
	assert_int_equal(rig->epoch, 31);
	journal_rig_destroy(rig);
}

static void a_file_that_grows_is_rewritten_and_says_the_same(void **unused)
{
	struct journal_rig *rig = journal_rig_create();
	struct stat status;
	uint64_t floor = 100;
	off_t largest = 0;

	(void)unused;
	for (unsigned n = 0; n < ROUNDS; n++) {
		assert_int_equal(
			journal_rig_write(rig, JOURNAL_SPACE, 0, n % JOURNAL_RIG_SPACES, floor + n),
			0);
		assert_int_equal(stat(rig->path, &status), 0);
		largest = status.st_size > largest ? status.st_size : largest;
	}
	assert_true(largest <= 66 * JOURNAL_RECORD_BYTES);
	journal_rig_reopen(rig);
	for (unsigned space = 0; space < JOURNAL_RIG_SPACES; space++)
		assert_int_equal(journal_rig_floor(&rig->told, 0, space),
				 floor + ROUNDS - JOURNAL_RIG_SPACES + space);
	journal_rig_destroy(rig);
}

/* What a crash leaves at each step of a rewrite: the old file with any part of the new one beside
 * it. */
static void a_rewrite_cut_off_anywhere_leaves_the_old_journal(void **unused)
{
	struct journal_rig *rig = journal_rig_create();
	struct journal_image image;
	char fresh[160];

	(void)unused;
	journal_rig_fill(rig);
	journal_image_read(rig, &image);
	snprintf(fresh, sizeof(fresh), "%s.new", rig->path);
	for (size_t count = 0; count <= image.count; count += 112) {
		journal_rig_close(rig);
		journal_image_write(fresh, &image, count);
		assert_int_equal(journal_rig_open(rig, false), 0);
		assert_int_equal(journal_finding(rig->journal), JOURNAL_FINE);
		journal_rig_expect_filled(rig);
	}
	journal_rig_destroy(rig);
}

static void a_failed_write_is_made_good_by_a_new_file(void **unused)
{
	struct journal_rig *rig = journal_rig_create();
	struct rlimit old, small;
	struct stat before, status;

	(void)unused;
	journal_rig_fill(rig);
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(stat(rig->path, &status), 0);
	small = (struct rlimit){ (rlim_t)status.st_size + 50, old.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	assert_int_equal(journal_rig_write(rig, JOURNAL_SPACE, 0, 0, 70), -EIO);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(stat(rig->path, &before), 0);
	assert_int_equal(journal_rig_write(rig, JOURNAL_SPACE, 0, 1, 71), 0);
	assert_int_equal(stat(rig->path, &status), 0);
	assert_true(status.st_ino != before.st_ino);
	journal_rig_reopen(rig);
	assert_int_equal(journal_finding(rig->journal), JOURNAL_FINE);
	/* Of the call that failed, too. */
	assert_int_equal(journal_rig_floor(&rig->told, 0, 0), 70);
	assert_int_equal(journal_rig_floor(&rig->told, 0, 1), 71);
	assert_int_equal(journal_rig_write(rig, JOURNAL_SPACE, 0, 0, 72), 0);
	journal_rig_destroy(rig);
}

static void a_failed_sync_is_never_retried_on_its_file_and_lowers_nothing(void **unused)
{
	bool fault_was_hit = true;

	(void)unused;
	for (unsigned nth = 1; fault_was_hit; nth++) {
		struct journal_rig *rig = journal_rig_create();
		uint64_t answered = 0, floor = 0;
		int result = 0;

		journal_rig_syncs = 0;
		journal_rig_sync_that_fails = nth;
		while (result == 0 && floor < 70) { /* enough for a rewrite */
			result = journal_rig_write(rig, JOURNAL_SPACE, 0, 1, ++floor);
			answered = result == 0 ? floor : answered;
		}
		fault_was_hit = result != 0;
		unsigned before = journal_rig_syncs;
		journal_rig_sync_that_fails = 0;
		if (fault_was_hit) {
			assert_int_equal(result, -EIO);
			assert_int_equal(journal_rig_write(rig, JOURNAL_SPACE, 0, 1, 99), 0);
			/* A new file, and its folder. */
			assert_int_equal(journal_rig_syncs, before + 2);
			answered = floor = 99;
		}
		journal_rig_reopen(rig);
		assert_int_equal(journal_finding(rig->journal), JOURNAL_FINE);
		assert_true(journal_rig_floor(&rig->told, 0, 1) >= answered);
		assert_true(journal_rig_floor(&rig->told, 0, 1) <= floor);
		journal_rig_destroy(rig);
	}
}

static void floors_beyond_the_limit_are_covered_never_lost(void **unused)
{
	struct journal_rig *rig = journal_rig_create();
	struct journal_floors *floors = calloc(1, sizeof(*floors));

	(void)unused;
	assert_non_null(floors);
	for (unsigned n = 0; n < 3 * JOURNAL_LIVE_MAX; n++) {
		struct journal_record record = journal_rig_record(JOURNAL_SPACE, n % 7, n,
								  1000 + n);
		journal_floors_raise(floors, &record);
		assert_true(floors->count <= JOURNAL_LIVE_MAX);
		assert_true(journal_rig_floor(floors, n / 2 % 7, n / 2) >= 1000 + n / 2);
	}
	for (unsigned n = 0; n < 3 * JOURNAL_LIVE_MAX; n += 13)
		assert_true(journal_rig_floor(floors, n % 7, n) >= 1000 + n);
	free(floors);
	journal_rig_destroy(rig);
}

static void a_tenant_with_many_floors_makes_no_other_forget(void **unused)
{
	struct journal_floors *floors = calloc(1, sizeof(*floors));
	struct journal_record quiet = journal_rig_record(JOURNAL_SPACE, 1, 5, 10);

	(void)unused;
	assert_non_null(floors);
	journal_floors_raise(floors, &quiet);
	for (unsigned n = 0; n < 3 * JOURNAL_LIVE_MAX; n++) {
		struct journal_record busy = journal_rig_record(JOURNAL_SPACE, 2, n, 1000 + n);
		journal_floors_raise(floors, &busy);
		assert_true(floors->count <= JOURNAL_LIVE_MAX);
		assert_int_equal(journal_rig_floor(floors, 2, n), 1000 + n);
	}
	assert_int_equal(floors->all, 0);
	assert_int_equal(journal_rig_floor(floors, 1, 5), 10);
	assert_int_equal(journal_rig_floor(floors, 1, 6), 0);
	assert_true(journal_rig_floor(floors, 2, UINT32_MAX) > 1000);
	free(floors);
}

static void a_space_is_forgotten_by_its_own_tenant_alone(void **unused)
{
	struct journal_floors *floors = calloc(1, sizeof(*floors));
	struct journal_record foreign = journal_rig_record(JOURNAL_SPACE, 1, 5, 10);
	struct journal_record own = journal_rig_record(JOURNAL_SPACE, 2, 5, 20);

	(void)unused;
	assert_non_null(floors);
	journal_floors_raise(floors, &foreign);
	assert_int_equal(journal_rig_floor(floors, 2, 5), 0);
	journal_floors_raise(floors, &own);
	assert_int_equal(journal_rig_floor(floors, 1, 5), 10);
	assert_int_equal(journal_rig_floor(floors, 2, 5), 20);
	free(floors);
}

static void floors_of_thousands_of_tenants_are_covered_never_lost(void **unused)
{
	struct journal_floors *floors = calloc(1, sizeof(*floors));
	struct journal_record record = { .kind = JOURNAL_TENANT };

	(void)unused;
	assert_non_null(floors);
	for (uint32_t n = 0; n < 2 * JOURNAL_LIVE_MAX; n++) {
		memcpy(record.tenant, &n, sizeof(n));
		record.floor = 1000 + n;
		journal_floors_raise(floors, &record);
	}
	for (uint32_t n = 0; n < 2 * JOURNAL_LIVE_MAX; n += 7) {
		memcpy(record.tenant, &n, sizeof(n));
		assert_true(journal_floors_find(floors, record.tenant, record.space) >= 1000 + n);
	}
	free(floors);
}

#if KVTIER_FAILPOINTS
/* A process that dies or fails at `armed`, after which the journal says at least what was answered.
 */
static void die_at(const char *armed, bool is_killed)
{
	struct journal_rig *rig = journal_rig_create();
	int status;

	journal_rig_fill(rig);
	journal_rig_close(rig);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct error error;
		setenv("KVTIER_FAILPOINT", armed, 1);
		if (failpoint_arm_from_environment(&error) < 0 || journal_rig_open(rig, false) < 0)
			_exit(2);
		int result = journal_rig_write(rig, JOURNAL_SPACE, 0, 2, 90);
		int second = journal_rig_write(rig, JOURNAL_SPACE, 0, 3, 91);
		_exit(result == -EIO && second == 0 ? 0 : 3);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(is_killed ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL
			      : WIFEXITED(status) && WEXITSTATUS(status) == 0);
	assert_int_equal(journal_rig_open(rig, false), 0);
	assert_int_equal(journal_finding(rig->journal), JOURNAL_FINE);
	assert_int_equal(journal_rig_floor(&rig->told, 0, 1), 21);
	assert_true(journal_rig_floor(&rig->told, 0, 2) == 12 ||
		    journal_rig_floor(&rig->told, 0, 2) == 90);
	assert_true(journal_rig_floor(&rig->told, 0, 3) == (is_killed ? 13 : 91));
	journal_rig_destroy(rig);
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
		cmocka_unit_test(a_file_that_grows_is_rewritten_and_says_the_same),
		cmocka_unit_test(a_rewrite_cut_off_anywhere_leaves_the_old_journal),
		cmocka_unit_test(a_failed_write_is_made_good_by_a_new_file),
		cmocka_unit_test(a_failed_sync_is_never_retried_on_its_file_and_lowers_nothing),
		cmocka_unit_test(floors_beyond_the_limit_are_covered_never_lost),
		cmocka_unit_test(a_tenant_with_many_floors_makes_no_other_forget),
		cmocka_unit_test(a_space_is_forgotten_by_its_own_tenant_alone),
		cmocka_unit_test(floors_of_thousands_of_tenants_are_covered_never_lost),
#if KVTIER_FAILPOINTS
		cmocka_unit_test(
			a_death_or_failure_at_each_step_of_a_write_keeps_what_was_answered),
#endif
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
