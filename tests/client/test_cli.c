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
	assert_said(error_text, "which blocks?");
	assert_int_equal(run("explain", "--request", SPACE, HASH), CLI_USAGE);
	assert_int_equal(run("explain", "--request", "12"), CLI_USAGE);
	assert_int_equal(run("ls"), CLI_USAGE);
	assert_int_equal(run("ls", "--space", SPACE, "--limit", "0"), CLI_USAGE);
	assert_int_equal(run("stat"), CLI_USAGE);
	assert_int_equal(run("stat", "zz"), CLI_USAGE);
	assert_int_equal(run("pin"), CLI_USAGE);
	assert_int_equal(run("pin", "--space", SPACE, "--for", "soon"), CLI_USAGE);
	assert_said(error_text, "90s, 30m, 8h or 7d");
	assert_int_equal(run("purge"), CLI_USAGE);
	assert_int_equal(run("purge", "--all", "--tenant", "a"), CLI_USAGE);
	assert_int_equal(run("config", "prnt"), CLI_USAGE);
	assert_int_equal(run("config", "check"), CLI_USAGE);
	assert_int_equal(run("completion", "ksh"), CLI_USAGE);
	assert_int_equal(run("help", "stats"), CLI_USAGE);
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

static void the_table_makes_help_manual_and_completions(void **unused)
{
	const char *const forms[] = { "man", "markdown", "bash", "zsh", "fish" };

	(void)unused;
	assert_int_equal(run("--help"), CLI_DONE);
	for (unsigned c = 0; c < cli_commands_count; c++)
		assert_said(out_text, cli_commands[c].name);
	for (unsigned i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		assert_int_equal(run("--describe", forms[i]), CLI_DONE);
		for (unsigned c = 0; c < cli_commands_count; c++)
			assert_said(out_text, cli_commands[c].name);
	}
	for (unsigned c = 0; c < cli_commands_count; c++) {
		assert_int_equal(run("help", cli_commands[c].name), CLI_DONE);
		assert_said(out_text, cli_commands[c].summary);
		assert_int_equal(run(cli_commands[c].name, "--help"), CLI_DONE);
		assert_said(out_text, cli_commands[c].arguments);
	}
	assert_int_equal(run("--version"), CLI_DONE);
	assert_said(out_text, kvtier_version());
}

static void status_is_json_yaml_or_a_table(void **unused)
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
	assert_said(out_text, "Nothing is wrong.");
	assert_int_equal(run("status", "-s", fake.path, "-o", "yaml"), CLI_DONE);
	assert_said(out_text, "\ntiers:\n  cpu:\n    capacity_bytes: 1048576\n");
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
	assert_said(out_text, "evicted: others were used more recently, since 4.5 s");
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
	assert_true(json_array_size(root) > 6);
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
	json_t *root = json_loads(
		"{\"a\\u001b[31m\":\"b\\u001b[31m\",\"n\":[],\"l\":[1,{\"x_us\":2500000}],\"d\":"
		"[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]],\"o\":{\"o\":{\"o\":{}}}}",
		0, NULL);

	(void)unused;
	assert_non_null(root);
	cli_print_tree(root, out);
	cli_print_yaml(root, out);
	fclose(out);
	json_decref(root);
	assert_null(strchr(text, 27));
	assert_said(text, "2.5 s");
	free(text);
}

static void yaml_keeps_what_json_says(void **unused)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *out = open_memstream(&text, &bytes);
	json_t *root = json_loads(
		"{\"on\":\"off\",\"e\":[],\"l\":[{\"a\":1,\"b\":[true]},\"x: y\",[2,3]],\"z\":null}", 0,
		NULL);

	(void)unused;
	cli_print_yaml(root, out);
	fclose(out);
	json_decref(root);
	assert_string_equal(text, "\"on\": \"off\"\ne: []\nl:\n  - a: 1\n    b:\n      - true\n"
				  "  - \"x: y\"\n  - - 2\n    - 3\nz: null\n");
	free(text);
}

static void numbers_are_for_people(void **unused)
{
	static const struct {
		uint64_t us;
		const char *words;
	} durations[] = { { 0, "0 s" },		   { 7, "7 us" },	   { 1500, "1.5 ms" },
			  { 250000, "250 ms" },    { 90000000, "1.5 min" }, { 7200000000, "2.0 h" },
			  { 172800000000, "2.0 d" } };
	char text[CLI_UNIT_BYTES], bar[16];
	uint64_t us;

	(void)unused;
	for (unsigned i = 0; i < sizeof(durations) / sizeof(durations[0]); i++)
		assert_string_equal(cli_duration(durations[i].us, text), durations[i].words);
	assert_string_equal(cli_bytes(1023, text), "1023 B");
	assert_string_equal(cli_bytes(1536, text), "1.5 KiB");
	assert_string_equal(cli_bytes(300.0 * (1 << 30), text), "300 GiB");
	assert_string_equal(cli_count(12345, text), "12.3 k");
	assert_true(cli_parse_duration("90", &us) && us == 90000000);
	assert_true(cli_parse_duration("1.5h", &us) && us == UINT64_C(5400000000));
	assert_false(cli_parse_duration("1w", &us));
	assert_false(cli_parse_duration("-1s", &us));
	cli_bar(0.001, 10, bar);
	assert_string_equal(bar, "[#.........]");
	cli_bar(2, 10, bar);
	assert_string_equal(bar, "[##########]");
}

static bool has_finding(const char *stats, const char *level, const char *words)
{
	const struct cli cli = { .path = "/run/kvtier/admin.sock" };
	json_t *value = json_loads(stats, 0, NULL), *health = cli_health(&cli, value), *finding;
	bool is_there = false;
	size_t i;

	json_array_foreach(health, i, finding)
		is_there = is_there || (strcmp(cli_string(finding, "level"), level) == 0 &&
					strstr(cli_string(finding, "what"), words) != NULL &&
					cli_string(finding, "fix")[0] != 0);
	json_decref(health);
	json_decref(value);
	return is_there;
}

static void what_is_wrong_is_said_with_what_to_do(void **unused)
{
	static const struct {
		const char *stats, *level, *words;
	} rows[] = {
		{ "{\"state\":\"restoring\"}", "warn", "finding again" },
		{ "{\"state\":\"a mill thread does not answer\"}", "fail", "a mill thread" },
		{ "{\"bypass\":\"on\"}", "warn", "The bypass is on" },
		{ "{\"drain\":\"done\"}", "warn", "drained" },
		{ "{\"purge\":\"overwriting\"}", "warn", "A purge is under way" },
		{ "{\"catalog\":\"absent\"}", "warn", "catalogue is absent" },
		{ "{\"nvme\":[{\"path\":\"/d\",\"fenced\":\"errors in a row\"}]}", "fail",
		  "/d is out of use" },
		{ "{\"nvme\":[{\"path\":\"/d\",\"fenced\":\"\",\"read_errors\":3}]}", "warn",
		  "3 failed operations" },
		{ "{\"gpus\":[{\"bus_id\":\"0:1:2.3\",\"state\":\"waiting\",\"reason\":\"no driver\"}]}",
		  "warn", ":0:1:2.3 is not open: no driver" },
		{ "{\"gpus\":[{\"state\":\"ready\",\"reason\":\"no memory\"}]}", "warn",
		  "only a part of memory: no memory" },
		{ "{\"peers\":{\"reason\":\"cannot listen\",\"nodes\":[]}}", "warn",
		  "is not there: cannot listen" },
		{ "{\"peers\":{\"nodes\":[{\"address\":\"kv-2:9\",\"state\":\"down\","
		  "\"reason\":\"refused\"}]}}",
		  "warn", "Node kv-2:9 is not connected: refused" },
		{ "{\"counters\":{\"damaged_cpu\":2}}", "fail", "2 blocks in memory" },
		{ "{\"counters\":{\"damaged_nvme\":2}}", "warn", "2 blocks on nvme" },
		{ "{\"engines\":[{\"id\":\"e\",\"ranks\":1,\"world\":2}]}", "warn", "1 of 2 ranks" },
		{ "{\"tenants\":[{\"name\":\"a\",\"bypass\":\"observe\"}]}", "warn", "observing" },
		{ "{\"reload\":{\"result\":\"refused\",\"reason\":\"line 3\"}}", "warn", "line 3" },
		{ "{\"reload\":{\"result\":\"taken\",\"needs_restart\":[1]}}", "warn", "restart" },
	};

	(void)unused;
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_true(has_finding(rows[i].stats, rows[i].level, rows[i].words));
	assert_false(has_finding("{\"state\":\"serving\",\"bypass\":\"off\",\"drain\":\"off\"}", "warn",
				 ""));
}

static void a_daemon_without_operate_gets_a_sentence(void **unused)
{
	struct fake_daemon fake;

	(void)unused;
	fake_start(&fake, 4096);
	assert_int_equal(run("-s", fake.path, "spaces"), CLI_REFUSED);
	assert_said(error_text, "older than this command");
	assert_int_equal(fake_seen(&fake, FRAME_OPERATE), 0);
	fake_stop(&fake);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wrong_usage_names_what_would_be_right),
		cmocka_unit_test(the_table_makes_help_manual_and_completions),
		cmocka_unit_test(status_is_json_yaml_or_a_table),
		cmocka_unit_test(explain_says_why_for_each_block),
		cmocka_unit_test(bypass_and_forget_are_done_or_refused),
		cmocka_unit_test(doctor_says_what_to_do),
		cmocka_unit_test(yaml_keeps_what_json_says),
		cmocka_unit_test(numbers_are_for_people),
		cmocka_unit_test(what_is_wrong_is_said_with_what_to_do),
		cmocka_unit_test(a_daemon_without_operate_gets_a_sentence),
		cmocka_unit_test(
			a_tree_that_is_too_deep_or_directs_the_terminal_is_printed_harmlessly),
	};
	int result = cmocka_run_group_tests(tests, NULL, NULL);

	free(out_text);
	free(error_text);
	return result;
}
