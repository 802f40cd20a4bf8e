/* tests/daemon/test_nth_events.c: every call of a daemon on events, threads and descriptors of
 * memory fails in turn. */
#include "daemon/guard.h"
#include "tests/daemon/nth_lives.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void every_call_on_events_and_descriptors_fails_in_turn(void **unused)
{
	struct nth_sums sums = { 0 };

	(void)unused;
	nth_lives_fail_by(NTH_EVENT, ENOMEM, UINT64_MAX, &sums);
	nth_lives_fail_by(NTH_EVENT, EMFILE, UINT64_MAX, &sums);
	nth_lives_fail_by(NTH_EVENT, EINTR, 3, &sums);
	nth_lives_fail_by(NTH_EVENT, EAGAIN, 3, &sums);
	assert_true(sums.total > 50);
	nth_report("daemon: calls on events and descriptors", sums.covered, sums.total);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_call_on_events_and_descriptors_fails_in_turn),
	};
	struct error error;

	return guard_install(&error) < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
