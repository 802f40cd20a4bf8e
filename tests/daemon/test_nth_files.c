/* tests/daemon/test_nth_files.c: every call on a file or folder of a daemon fails in turn. Its
 * devices' own are in tests/tiers/test_nth_nvme.c. */
#include "daemon/guard.h"
#include "tests/daemon/nth_lives.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void every_call_on_a_file_fails_in_turn(void **unused)
{
	struct nth_sums sums = { 0 };

	(void)unused;
	nth_lives_fail_by(NTH_FILE, EIO, UINT64_MAX, &sums);
	nth_lives_fail_by(NTH_FILE, ENOSPC, UINT64_MAX, &sums);
	nth_lives_fail_by(NTH_FILE, EROFS, UINT64_MAX, &sums);
	nth_lives_fail_by(NTH_FILE, ENOMEM, UINT64_MAX, &sums);
	nth_lives_fail_by(NTH_FILE, EINTR, 3, &sums);
	assert_true(sums.total > 100);
	nth_report("daemon: calls on files", sums.covered, sums.total);
}

static void every_read_and_write_of_a_file_is_short_in_turn(void **unused)
{
	struct nth_sums sums = { 0 };

	(void)unused;
	struct nth_plan halves = { .classes = NTH_FILE, .is_short = true, .count = 1 };

	nth_lives_calls_fail(&halves, &sums);
	halves.count = 3;
	nth_lives_calls_fail(&halves, &sums);
	assert_true(sums.total > 0);
	nth_report("daemon: short reads and writes", sums.covered, sums.total);
}

static void every_operation_of_a_disk_fails_in_turn(void **unused)
{
	struct nth_sums sums = { 0 };

	(void)unused;
	nth_lives_disks_fail(BLOCK_FAULT_ERROR, EIO, &sums);
	nth_lives_disks_fail(BLOCK_FAULT_ERROR, ENOSPC, &sums);
	nth_lives_disks_fail(BLOCK_FAULT_ERROR, EROFS, &sums);
	nth_lives_disks_fail(BLOCK_FAULT_ERROR, ENOMEM, &sums);
	nth_lives_disks_fail(BLOCK_FAULT_SHORT, EIO, &sums);
	assert_true(sums.total > 100);
	nth_report("daemon: operations of disks", sums.covered, sums.total);
}

static void every_call_of_the_catalogue_fails_in_turn(void **unused)
{
	struct nth_sums sums = { 0 };

	(void)unused;
	nth_lives_catalog_fails(EIO, &sums);
	nth_lives_catalog_fails(ENOSPC, &sums);
	assert_true(sums.total > 10);
	nth_report("daemon: calls of the catalogue", sums.covered, sums.total);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_call_on_a_file_fails_in_turn),
		cmocka_unit_test(every_operation_of_a_disk_fails_in_turn),
		cmocka_unit_test(every_call_of_the_catalogue_fails_in_turn),
		cmocka_unit_test(every_read_and_write_of_a_file_is_short_in_turn),
	};
	struct error error;

	return guard_install(&error) < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
