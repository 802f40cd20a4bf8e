/* tests/client/test_nth_cli.c: every allocation and call of the kernel of the kvtier command fails
 * in turn: it ends with a status and a sentence, and leaves nothing behind. */
#include "client/cli.h"
#include "tests/client/fake_daemon.h"
#include "tests/nth/nth.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SPACE "000102030405060708090a0b0c0d0e0f"
#define HASH SPACE SPACE
#define WORDS_MAX 12
#define SAMPLE 20u

static struct fake_daemon fake;

static const char *const commands[][WORDS_MAX] = {
	{ "status" },
	{ "status", "-o", "json" },
	{ "explain", "--space", SPACE, HASH, HASH },
	{ "pin", "--space", SPACE, HASH },
	{ "forget", "--space", SPACE },
	{ "bypass", "on" },
	{ "doctor" },
};
#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

/* Runs one command while something fails; returns how many calls could have. */
static uint64_t run(const char *const *words, const struct nth_plan *plan)
{
	char *arguments[WORDS_MAX + 4] = { "kvtier", "--socket", fake.path, "--timeout" };
	char *out_text, *error_text;
	size_t out_bytes, error_bytes;
	FILE *out = open_memstream(&out_text, &out_bytes);
	FILE *error = open_memstream(&error_text, &error_bytes);
	uint64_t before = nth_books().allocations;
	int count = 5, status;

	arguments[4] = "1";
	for (unsigned i = 0; words[i] != NULL; i++)
		arguments[count++] = (char *)words[i];
	nth_arm(plan);
	status = cli_run(count, arguments, out, error);
	nth_disarm();
	fclose(out);
	fclose(error);
	if (status != 0 && strlen(error_text) < 10 && strlen(out_text) < 10)
		fail_msg("%s after %s failed: status %d without a word", words[0],
			 nth_failed_call(), status);
	if (nth_books().allocations != before)
		fail_msg("%s after %s failed: memory is left", words[0], nth_failed_call());
	free(out_text);
	free(error_text);
	return nth_seen();
}

static void fail_in_turn(struct nth_plan plan, uint64_t sums[2])
{
	for (unsigned c = 0; c < COMMANDS; c++) {
		uint64_t total, stride;

		plan.nth = 0;
		total = run(commands[c], &plan);
		stride = nth_stride(total, SAMPLE);
		for (plan.nth = 1; plan.nth <= total; plan.nth += stride) {
			(void)run(commands[c], &plan);
			sums[0] += nth_hits() > 0;
		}
		sums[1] += total;
	}
}

static void every_allocation_fails_in_turn(void **unused)
{
	struct nth_plan plan = { .classes = NTH_ALLOCATION, .errno_value = ENOMEM, .count = 1 };
	uint64_t sums[2] = { 0 };

	(void)unused;
	fail_in_turn(plan, sums);
	plan.count = UINT64_MAX;
	fail_in_turn(plan, sums);
	assert_true(sums[1] > 20);
	nth_report("kvtier: allocations", sums[0], sums[1]);
}

static void every_call_of_the_kernel_fails_in_turn(void **unused)
{
	static const struct {
		unsigned classes;
		int errno_value;
	} ways[] = { { NTH_IO, ENOMEM }, { NTH_IO, EMFILE }, { NTH_SOCKET, ECONNRESET },
		     { NTH_IO, EINTR },  { NTH_FILE, EIO } };
	uint64_t sums[2] = { 0 };

	(void)unused;
	for (unsigned i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		struct nth_plan plan = { .classes = ways[i].classes,
					 .errno_value = ways[i].errno_value,
					 .count = 1 };

		fail_in_turn(plan, sums);
	}
	assert_true(sums[1] > 20);
	nth_report("kvtier: calls of the kernel", sums[0], sums[1]);
}

static int daemon_up(void **unused)
{
	(void)unused;
	fake_start(&fake, 4096);
	return 0;
}

static int daemon_down(void **unused)
{
	(void)unused;
	fake_stop(&fake);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_allocation_fails_in_turn),
		cmocka_unit_test(every_call_of_the_kernel_fails_in_turn),
	};

	return cmocka_run_group_tests(tests, daemon_up, daemon_down);
}
