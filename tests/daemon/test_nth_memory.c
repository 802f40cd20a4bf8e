/* tests/daemon/test_nth_memory.c: every allocation of a daemon fails in turn. */
#include "daemon/guard.h"
#include "tests/daemon/nth_lives.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void every_allocation_fails_in_turn(void **unused)
{
	struct nth_sums sums = { 0 };

	(void)unused;
	nth_lives_fail_by(NTH_ALLOCATION, ENOMEM, UINT64_MAX, &sums);
	assert_true(sums.total > 100);
	nth_report("daemon: allocations", sums.covered, sums.total);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_allocation_fails_in_turn),
	};
	struct error error;

	return guard_install(&error) < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
