/* tests/client/test_cli.c: the kvtier command against a daemon in a thread. */
#include "client/cli.h"
#include "tests/client/fake_daemon.h"

#include <errno.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define HASH "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define SPACE "000102030405060708090a0b0c0d0e0f"

static char *out_text, *error_text;

/* Runs the command with words up to NULL; what it printed is in out_text and error_text until the
 * next run. */
static int run_words(const char *const *words)
{
	char *arguments[16] = { "kvtier" };
	size_t out_bytes, error_bytes;
	FILE *out, *error;
	int count = 1, result;

	free(out_text);
	free(error_text);
	out = open_memstream(&out_text, &out_bytes);
	error = open_memstream(&error_text, &error_bytes);
	for (; words[count - 1] != NULL; count++)
		arguments[count] = (char *)words[count - 1];
	result = cli_run(count, arguments, out, error);
	fclose(out);
	fclose(error);
	return result;
}

#define run(...) run_words((const char *const[]){ __VA_ARGS__, NULL })
#define assert_said(text, words) assert_non_null(strstr(text, words))

static void wrong_usage_names_what_would_be_right(void **unused)
{
	(void)unused;
	assert_int_equal(run("statsu"), CLI_USAGE);
	assert_said(error_text, "did you mean status?");
	assert_int_equal(run("status", "--spcae", SPACE), CLI_USAGE);
	assert_said(error_text, "did you mean --space?");
	assert_int_equal(run("status", "--space", SPACE), CLI_USAGE);
	assert_said(error_text, "does not take --space");
	assert_int_equal(run("--space", "12", "forget"), CLI_USAGE);
	assert_said(error_text, "32 hexadecimal digits");
	assert_int_equal(run("forget"), CLI_USAGE);
	assert_int_equal(run("forget", "--all", "--space", SPACE), CLI_USAGE);
	assert_int_equal(run("bypass", "sideways"), CLI_USAGE);
	assert_said(error_text, "on, off or observe");
	assert_int_equal(run("explain", "--space", SPACE), CLI_USAGE);
	assert_int_equal(run("explain", HASH), CLI_USAGE);
	assert_said(error_text, "--space FINGERPRINT is required");
	assert_int_equal(run("explain", "--space", SPACE, "zz"), CLI_USAGE);
	assert_said(error_text, "64 hexadecimal digits");
	assert_int_equal(run("-o", "xml", "status"), CLI_USAGE);
	assert_int_equal(run("--group", "-1", "status"), CLI_USAGE);
	assert_int_equal(run("--timeout", "nan", "status"), CLI_USAGE);
	assert_int_equal(run("--timeout"), CLI_USAGE);
	assert_int_equal(run("--describe", "poem"), CLI_USAGE);
}

static void the_table_makes_help_manual_and_completion(void **unused)
{
	const char *const forms[] = { "man", "completion", "markdown" };

	(void)unused;
	assert_int_equal(run("--help"), CLI_DONE);
	for (unsigned c = 0; c < cli_commands_count; c++)
		assert_said(out_text, cli_commands[c].name);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(run("--describe", forms[i]), CLI_DONE);
		for (unsigned c = 0; c < cli_commands_count; c++)
			assert_said(out_text, cli_commands[c].name);
	}
	assert_int_equal(run("--version"), CLI_DONE);
	assert_said(out_text, kvtier_version());
}

static void status_is_json_as_it_came_or_a_table(void **unused)
{
	struct fake_daemon fake;
	json_t *root;

	(void)unused;
	fake_start(&fake, 4096);
	assert_int_equal(run("--socket", fake.path, "status", "-o", "json"), CLI_DONE);
	root = json_loads(out_text, 0, NULL);
	assert_non_null(root);
	json_decref(root);
	assert_int_equal(run("status", "-s", fake.path), CLI_DONE);
	assert_said(out_text, "1.0 MiB");
	assert_said(out_text, "catalog");
	fake_stop(&fake);
}

static void explain_says_why_for_each_block(void **unused)
{
	struct fake_daemon fake;
	json_t *root;

	(void)unused;
	fake_start(&fake, 4096);
	assert_int_equal(run("-s", fake.path, "explain", "--space", SPACE, HASH, HASH, HASH, HASH),
			 CLI_DONE);
	assert_said(out_text, "hit-cpu");
	assert_said(out_text, "evicted         4.5 s ago");
	assert_int_equal(run("-s", fake.path, "explain", "-o", "json", "--space", SPACE, HASH),
			 CLI_DONE);
	root = json_loads(out_text, 0, NULL);
	assert_string_equal(json_string_value(json_object_get(json_array_get(root, 0), "reason")),
			    "hit-cpu");
	json_decref(root);
	fake_stop(&fake);
}

static void bypass_and_forget_are_done_or_refused(void **unused)
{
	struct fake_daemon fake;

	(void)unused;
	fake_start(&fake, 4096);
	assert_int_equal(run("-s", fake.path, "bypass", "observe", "--tenant", "a"), CLI_DONE);
	assert_int_equal(run("-s", fake.path, "forget", "--all"), CLI_DONE);
	assert_int_equal(run("-s", fake.path, "forget", "--space", SPACE, "-o", "json"), CLI_DONE);
	assert_string_equal(out_text, "{\"done\":\"forgotten, durably\"}\n");
	fake.refusal = -EPERM;
	fake_set(&fake, FRAME_BYPASS, FAKE_REFUSE, 1);
	assert_int_equal(run("-s", fake.path, "bypass", "on"), CLI_REFUSED);
	assert_said(error_text, "refused for the test");
	fake_set(&fake, FRAME_FORGET, FAKE_CLOSE, 1);
	assert_int_equal(run("-s", fake.path, "forget", "--all"), CLI_UNREACHED);
	fake_set(&fake, FRAME_STATS, FAKE_SILENT, 1);
	assert_int_equal(run("-s", fake.path, "-t", "0.02", "status"), CLI_UNREACHED);
	fake_stop(&fake);
	assert_int_equal(run("-s", fake.path, "status"), CLI_UNREACHED);
}

static void doctor_says_what_to_do(void **unused)
{
	struct fake_daemon fake;
	json_t *root;

	(void)unused;
	fake_start(&fake, 4096);
	run("-s", fake.path, "doctor");
	assert_said(out_text, "ok    socket");
	run("-s", fake.path, "doctor", "-o", "json");
	root = json_loads(out_text, 0, NULL);
	assert_int_equal(json_array_size(root), 6);
	json_decref(root);
	fake_stop(&fake);
	assert_int_equal(run("-s", "/nonexistent", "doctor"), CLI_REFUSED);
	assert_said(out_text, "fail  socket");
}

static void a_tree_that_is_too_deep_or_directs_the_terminal_is_printed_harmlessly(void **unused)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *out = open_memstream(&text, &bytes);
	const char *wild =
		"{\"a\\u001b[31m\":\"b\\u001b[31m\",\"n\":[],\"l\":[1,{\"x_us\":2500000}],\"d\":"
		"[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]],\"o\":{\"o\":{\"o\":{}}}}";

	(void)unused;
	assert_false(cli_print_tree("{", 1, out));
	assert_true(cli_print_tree(wild, strlen(wild), out));
	fclose(out);
	assert_null(strchr(text, 27));
	assert_said(text, "2.5 s");
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wrong_usage_names_what_would_be_right),
		cmocka_unit_test(the_table_makes_help_manual_and_completion),
		cmocka_unit_test(status_is_json_as_it_came_or_a_table),
		cmocka_unit_test(explain_says_why_for_each_block),
		cmocka_unit_test(bypass_and_forget_are_done_or_refused),
		cmocka_unit_test(doctor_says_what_to_do),
		cmocka_unit_test(
			a_tree_that_is_too_deep_or_directs_the_terminal_is_printed_harmlessly),
	};
	int result = cmocka_run_group_tests(tests, NULL, NULL);

	free(out_text);
	free(error_text);
	return result;
}
