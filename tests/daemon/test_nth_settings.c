/* tests/daemon/test_nth_settings.c: every allocation and every call on a file while settings are
 * read fails in turn: an error with a sentence, nothing half read that counts, nothing left. */
#include "daemon/settings.h"
#include "tests/nth/nth.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char path[64];

/* Returns how many calls could have failed. */
static uint64_t load(const struct nth_plan *plan)
{
	static struct settings settings;
	struct settings_sources sources = { .file = path };
	struct nth_books before = nth_books();
	struct error error = { 0 };
	int result;

	nth_arm(plan);
	result = settings_load(&settings, &sources, &error);
	nth_disarm();
	nth_assert_nothing_is_left(&before);
	/* What was tried again, or done in two halves, is whole. */
	if (result == 0)
		assert_int_equal(settings.lease_us_max, 7000000);
	else if (error.code >= 0 || strstr(error.text, path) == NULL)
		fail_msg("after %s failed: \"%s\"", nth_failed_call(), error.text);
	return nth_seen();
}

static void every_call_fails_in_turn(void **unused)
{
	static const struct nth_plan plans[] = {
		{ .classes = NTH_ALLOCATION, .errno_value = ENOMEM, .count = 1 },
		{ .classes = NTH_FILE, .errno_value = ENOMEM, .count = 1 },
		{ .classes = NTH_FILE, .errno_value = EIO, .count = 1 },
		{ .classes = NTH_FILE, .errno_value = EMFILE, .count = 1 },
		{ .classes = NTH_FILE, .errno_value = EINTR, .count = 1 },
		{ .classes = NTH_FILE, .is_short = true, .count = 1 },
	};
	uint64_t covered = 0, total = 0;

	(void)unused;
	for (unsigned i = 0; i < sizeof(plans) / sizeof(plans[0]); i++) {
		struct nth_plan plan = plans[i];
		uint64_t calls = load(&plan);

		assert_true(calls > 0);
		total += calls;
		for (plan.nth = 1; plan.nth <= calls; plan.nth++) {
			(void)load(&plan);
			covered += nth_hits() > 0;
		}
	}
	nth_report("settings: calls", covered, total);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_call_fails_in_turn),
	};
	static const char text[] = "lease_max: 7s\ntenants:\n  - name: a\n    cpu_bytes: 1GiB\n";
	const char *folder = getenv("TMPDIR");
	int fd, result;

	snprintf(path, sizeof(path), "%s/kvtier-nth-XXXXXX", folder == NULL ? "/tmp" : folder);
	fd = mkstemp(path);
	if (fd < 0 || write(fd, text, sizeof(text) - 1) != (ssize_t)sizeof(text) - 1)
		return 1;
	close(fd);
	result = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(path);
	return result;
}
