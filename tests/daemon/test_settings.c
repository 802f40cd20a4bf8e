/* tests/daemon/test_settings.c: every key, every type, every source, and what is refused with which
 * words. */
#include "daemon/settings_table.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static struct settings settings;
static struct error error;

static int fresh_settings(void **unused)
{
	(void)unused;
	memset(&error, 0, sizeof(error));
	settings_default(&settings);
	return 0;
}

static int read_text(const char *text)
{
	return settings_read_text(&settings, text, strlen(text), "kvtier.yaml", &error);
}

static void assert_refused(const char *text, const char *words)
{
	fresh_settings(NULL);
	assert_true(read_text(text) < 0);
	if (strstr(error.text, words) == NULL)
		fail_msg("'%s' is not in '%s'", words, error.text);
}

static void the_defaults_are_those_of_the_contract(void **unused)
{
	(void)unused;
	assert_string_equal(settings.run_directory, "/run/kvtier");
	assert_string_equal(settings.state_directory, "/var/lib/kvtier");
	assert_string_equal(settings.http_listen, "127.0.0.1:9469");
	assert_int_equal(settings.extent_bytes, 64 << 20);
	assert_int_equal(settings.queue_depth, 32);
	assert_int_equal(settings.block_bytes_min, 0);
	assert_int_equal(settings.connections_max, 256);
	assert_int_equal(settings.spaces_max, 1024);
	assert_int_equal(settings.leases_max, 4096);
	assert_int_equal(settings.lease_us_max, 60000000);
	assert_int_equal(settings.restart_wait_us, 10000000);
	assert_int_equal(settings.stall_us_max, 5000000);
	assert_string_equal(settings.bypass, "off");
	assert_int_equal(settings.tenants_count, 0);
}

static void a_whole_file_is_read(void **unused)
{
	(void)unused;
	assert_int_equal(
		read_text(
			"# comment\nlog_level: debug\nextent_bytes: 4MiB\nlease_max: 100ms\nhttp_listen: \"\"\n"
			"tenants:\n  - name: red\n    cpu_bytes: 32MiB\n  - {name: blue, cpu_bytes: 1GiB, nvme_bytes: 0}\n"
			"nvme:\n  - path: /cache/a\n    bytes: 1GiB\n    raw_initialise: true\n"),
		0);
	assert_string_equal(settings.log_level, "debug");
	assert_string_equal(settings.http_listen, "");
	assert_int_equal(settings.extent_bytes, 4 << 20);
	assert_int_equal(settings.lease_us_max, 100000);
	assert_int_equal(settings.tenants_count, 2);
	assert_string_equal(settings.tenants[1].name, "blue");
	assert_int_equal(settings.tenants[0].cpu_bytes, 32 << 20);
	assert_int_equal(settings.devices_count, 1);
	assert_string_equal(settings.devices[0].path, "/cache/a");
	assert_true(settings.devices[0].raw_initialise);
	assert_int_equal(settings_finish(&settings, &error), 0);
	assert_int_equal(settings.tenants[0].nvme_bytes, 1 << 30);
	assert_int_equal(settings.tenants[1].nvme_bytes, 0);
	assert_true(settings.mills > 0);
}

static void an_empty_file_is_the_defaults(void **unused)
{
	(void)unused;
	assert_int_equal(read_text(""), 0);
	assert_int_equal(read_text("# nothing\n"), 0);
	assert_int_equal(read_text("---\n# nothing\n"), 0);
	assert_int_equal(settings_finish(&settings, &error), 0);
	assert_int_equal(settings.tenants_count, 1);
	assert_string_equal(settings.tenants[0].name, "default");
	assert_int_equal(settings.tenants[0].cpu_bytes, 1 << 30);
}

static void what_yaml_can_say_and_settings_cannot_is_refused(void **unused)
{
	(void)unused;
	assert_refused("mills: &anchor 1\n", "kvtier.yaml:1: anchors and aliases ('anchor')");
	assert_refused("mills: *other\n", "anchors and aliases ('other')");
	assert_refused("mills: !!int 4\n", "tags");
	assert_refused("mills: 1\n---\nmills: 2\n", "a second document where the end is expected");
	assert_refused("mills: 1\n\nmills: 2\n",
		       "kvtier.yaml:3: 'mills' stands here a second time");
	assert_refused("nvme: []\nnvme: []\n", "'nvme' stands here a second time");
	assert_refused("nvme:\n  - path: /a\n    path: /b\n",
		       "kvtier.yaml:3: 'path' stands here a second time");
	assert_refused("- mills\n", "a list where a map of settings");
	assert_refused("mills\n", "a value where a map of settings");
	assert_refused("mills: [1]\n", "a list where a value");
	assert_refused("mills: {a: 1}\n", "a map where a value");
	assert_refused("[a, b]: 1\n", "a list where a key");
	assert_refused("tenants: red\n", "a value where a list of maps");
	assert_refused("tenants: [red]\n", "a value where a map of the item's keys");
	assert_refused("tenants: [[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]\n", "a list where a map");
	assert_refused("mills:\n", "mills: has no value");
	assert_refused("mills: \"4\\0\"\n", "NUL");
	assert_refused("mills: 'open\n", "not YAML");
	assert_refused("\tmills: 4\n", "not YAML");
	assert_refused("mills: 4\n  x: 5\n", "kvtier.yaml:");
	assert_refused("\xc3\x28", "not YAML");
}

static void an_unknown_key_is_answered_with_the_nearest(void **unused)
{
	(void)unused;
	assert_refused("\nextent_byte: 4MiB\n",
		       "kvtier.yaml:2: unknown key 'extent_byte'; the nearest is 'extent_bytes'");
	assert_refused("tenant:\n  - name: a\n", "the nearest is 'tenants'");
	assert_refused("tenants:\n  - nam: a\n",
		       "kvtier.yaml:2: unknown key 'nam'; the nearest is 'name'");
	assert_refused("zzzzzzzzzzzzzzzzzzz: 1\n", "--help");
}

static void values_of_the_wrong_kind_say_what_is_right(void **unused)
{
	(void)unused;
	assert_refused("extent_bytes: 64MB\n",
		       "kvtier.yaml:1: extent_bytes: '64MB' is not a size such as 64MiB");
	assert_refused("extent_bytes: -1\n", "not a size");
	assert_refused("extent_bytes: 1.5GiB\n", "not a size");
	assert_refused("extent_bytes: 99999999999999999999\n", "not a size");
	assert_refused("extent_bytes: 18446744073709551615TiB\n", "not a size");
	assert_refused("lease_max: 5\n", "lease_max: '5' is not a duration such as 100ms");
	assert_refused("lease_max: 5 s\n", "not a duration");
	assert_refused("mills: 4s\n", "not a whole number");
	assert_refused("mills: 0x4\n", "not a whole number");
	assert_refused("mills: 65\n", "mills: 65 is not within 1 and 64, or 0");
	assert_refused("extent_bytes: 1KiB\n", "not within 1MiB and 16GiB");
	assert_refused("io: uring\n", "'uring' is none of: auto io_uring psync");
	assert_refused("io: auto io_uring\n", "is none of");
	assert_refused("run_directory: run\n", "'run' is not an absolute path");
	assert_refused("run_directory: \"/a\\nb\"\n", "control characters");
	assert_refused("http_listen: localhost:1\n", "is not ADDRESS:PORT");
	assert_refused("http_listen: 127.0.0.1:65536\n", "is not ADDRESS:PORT");
	assert_refused("http_listen: '[::1:80'\n", "is not ADDRESS:PORT");
	assert_refused("peers: [{address: kv-2}]\n", "is not NAME:PORT");
	assert_refused("peers: [{address: \":9470\"}]\n", "is not NAME:PORT");
	assert_refused("peers: [{address: \"fd00::2:9470\"}]\n", "is not NAME:PORT");
	assert_refused("peers: [{address: \"kv 2:9470\"}]\n", "is not NAME:PORT");
	assert_refused("peers: [{address: \"kv-2:0\"}]\n", "is not NAME:PORT");
	assert_refused("peers: [{address: \"kv-2:65536\"}]\n", "is not NAME:PORT");
	assert_refused("nvme: [{path: /a, raw_initialise: yes}]\n",
		       "'yes' is neither true nor false");
	assert_refused("tenants: [{name: a/b, cpu_bytes: 1GiB}]\n", "is not a name");
	assert_refused("tenants: [{name: .., cpu_bytes: 1GiB}]\n", "is not a name");
	assert_refused("tenants: [{name: \"\", cpu_bytes: 1GiB}]\n", "is not a name");
}

static void a_text_that_does_not_fit_is_refused(void **unused)
{
	char text[512] = "run_directory: /";

	(void)unused;
	memset(text + strlen(text), 'a', 300);
	assert_refused(text, "longer than 255 characters");
}

static void a_file_past_its_bound_is_refused(void **unused)
{
	char *text = calloc(1, SETTINGS_FILE_BYTES_MAX + 1);

	(void)unused;
	memset(text, '#', SETTINGS_FILE_BYTES_MAX + 1);
	assert_int_equal(
		settings_read_text(&settings, text, SETTINGS_FILE_BYTES_MAX + 1, "x", &error),
		-EFBIG);
	assert_int_equal(settings_read_text(&settings, text, SETTINGS_FILE_BYTES_MAX, "x", &error),
			 0);
	free(text);
}

static void too_many_items_are_refused(void **unused)
{
	char text[4096] = "nvme:\n";

	(void)unused;
	for (int i = 0; i <= SETTINGS_DEVICES_MAX; i++)
		strcat(text, "  - path: /a\n");
	assert_refused(text, "kvtier.yaml:10: more than 8 items in nvme");
}

/* A value of the row's type that is not its default. */
static void other_value(const struct setting *row, char *text, size_t text_bytes)
{
	if (row->type == SETTING_TEXT)
		snprintf(text, text_bytes, "%s",
			 row->check == CHECK_LISTEN ? "[::1]:0"
			 : row->check == CHECK_NAME ? "other-name"
			 : row->check == CHECK_GPUS ? "rocm:0001:C1:00.0, cuda:00000000:17:00.0"
			 : row->check == CHECK_NUMA ? "0,2-3"
			 : row->check == CHECK_PEER || row->check == CHECK_PEER_OR_NONE ? "[fd00::2]:9470"
						    : "/other \"path\" # \\ :");
	else if (row->type == SETTING_CHOICE)
		snprintf(text, text_bytes, "%s", strrchr(row->choices, ' ') + 1);
	else if (row->type == SETTING_BOOL)
		snprintf(text, text_bytes, "true");
	else
		setting_format_number(row->type, row->maximum, text, text_bytes);
}

static void every_key_is_set_printed_and_read_back(void **unused)
{
	static struct settings again;
	struct setting_record record = settings_record(&settings);
	char value[SETTING_VALUE_TEXT_BYTES], was[SETTING_VALUE_TEXT_BYTES],
		now[SETTING_VALUE_TEXT_BYTES], key[64];
	char *printed;
	size_t printed_bytes;
	FILE *file = open_memstream(&printed, &printed_bytes);

	(void)unused;
	for (unsigned i = 0; i < record.rows_count; i++) {
		other_value(&record.rows[i], value, sizeof(value));
		setting_format(&record, &record.rows[i], was, sizeof(was));
		assert_int_equal(
			settings_set(&settings, record.rows[i].name, value, "command line", &error),
			0);
		setting_format(&record, &record.rows[i], now, sizeof(now));
		assert_string_not_equal(was, now);
		assert_string_equal(value, now);
	}
	for (unsigned l = 0; l < settings_lists_count; l++) {
		for (unsigned i = 0; i < settings_lists[l].rows_count; i++) {
			other_value(&settings_lists[l].rows[i], value, sizeof(value));
			snprintf(key, sizeof(key), "%s.0.%s", settings_lists[l].name,
				 settings_lists[l].rows[i].name);
			assert_int_equal(
				settings_set(&settings, key, value, "command line", &error), 0);
		}
	}
	settings_print(&settings, file);
	fclose(file);
	assert_non_null(strstr(printed, "# command line\n"));
	assert_null(strstr(printed, "# default\n"));
	settings_default(&again);
	assert_int_equal(settings_read_text(&again, printed, printed_bytes, "printed", &error), 0);
	memset(again.origins, 0, sizeof(again.origins));
	memset(settings.origins, 0, sizeof(settings.origins));
	memset(again.tenants[0].origins, 0, sizeof(again.tenants[0].origins));
	memset(settings.tenants[0].origins, 0, sizeof(settings.tenants[0].origins));
	memset(again.devices[0].origins, 0, sizeof(again.devices[0].origins));
	memset(settings.devices[0].origins, 0, sizeof(settings.devices[0].origins));
	memset(again.peers[0].origins, 0, sizeof(again.peers[0].origins));
	memset(settings.peers[0].origins, 0, sizeof(settings.peers[0].origins));
	assert_memory_equal(&again, &settings, sizeof(settings));
	free(printed);
}

/* Each row is set by its own variable, and by nothing else's. */
static void every_key_has_its_variable(void **unused)
{
	struct setting_record record = settings_record(&settings);
	char value[SETTING_VALUE_TEXT_BYTES], now[SETTING_VALUE_TEXT_BYTES], name[96];

	(void)unused;
	for (unsigned i = 0; i < record.rows_count; i++) {
		settings_default(&settings);
		other_value(&record.rows[i], value, sizeof(value));
		setting_environment_name(NULL, 0, &record.rows[i], name, sizeof(name));
		setenv(name, value, 1);
		assert_int_equal(settings_read_environment(&settings, &error), 0);
		unsetenv(name);
		setting_format(&record, &record.rows[i], now, sizeof(now));
		assert_string_equal(value, now);
		for (unsigned other = 0; other < record.rows_count; other++)
			assert_int_equal(record.origins[other].text[0] != '\0', other == i);
	}
}

static void items_of_lists_come_from_the_environment(void **unused)
{
	(void)unused;
	setenv("KVTIER_NVME_0_PATH", "/a", 1);
	setenv("KVTIER_NVME_0_BYTES", "1GiB", 1);
	setenv("KVTIER_NVME_1_PATH", "/b", 1);
	setenv("KVTIER_SERVICE_HOST", "10.0.0.1", 1); /* Kubernetes makes it */
	assert_int_equal(settings_read_environment(&settings, &error), 0);
	assert_int_equal(settings.devices_count, 2);
	assert_string_equal(settings.devices[1].path, "/b");
	unsetenv("KVTIER_NVME_0_PATH");
	unsetenv("KVTIER_NVME_0_BYTES");
	settings_default(&settings);
	assert_int_equal(settings_read_environment(&settings, &error), -EINVAL); /* 1 without 0 */
	unsetenv("KVTIER_NVME_1_PATH");
	setenv("KVTIER_MILLS", "many", 1);
	assert_int_equal(settings_read_environment(&settings, &error), -EINVAL);
	assert_non_null(strstr(error.text, "environment: mills: 'many'"));
	unsetenv("KVTIER_MILLS");
	unsetenv("KVTIER_SERVICE_HOST");
}

static void keys_of_the_command_line_are_checked(void **unused)
{
	static const char *const wrong[] = { "nvme",
					     "nvme.",
					     "nvme.0",
					     "nvme.0.",
					     "nvme.x.path",
					     "nvme.-1.path",
					     "nvme. 0.path",
					     "nvme.1.path",
					     "nvme.8.path",
					     "nvme.99999999999999999999.path",
					     "nvme.0.pat",
					     "nvme.0x.path",
					     "mills.0.path",
					     ".0.path",
					     "",
					     ".",
					     "verylonglistnameindeed.0.x" };

	(void)unused;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		if (settings_set(&settings, wrong[i], "/a", "command line", &error) == 0)
			fail_msg("'%s' was taken", wrong[i]);
		assert_non_null(strstr(error.text, "command line: "));
		assert_int_equal(settings.devices_count, 0);
	}
}

static void assert_unfinished(const char *text, const char *words)
{
	fresh_settings(NULL);
	assert_int_equal(read_text(text), 0);
	assert_true(settings_finish(&settings, &error) < 0);
	if (strstr(error.text, words) == NULL)
		fail_msg("'%s' is not in '%s'", words, error.text);
}

static void relations_are_checked(void **unused)
{
	(void)unused;
	assert_unfinished("extent_bytes: 3MiB\n", "is not a power of two");
	assert_unfinished("extent_bytes: 1MiB\nblock_bytes_min: 1MiB\n",
			  "does not fit into extent_bytes");
	assert_unfinished("tenants: [{name: a}]\n", "tenants.0.cpu_bytes: is required");
	assert_unfinished("tenants: [{name: a, cpu_bytes: 32MiB}]\n",
			  "smaller than one extent (extent_bytes: 64MiB)");
	assert_unfinished("tenants: [{name: a, cpu_bytes: 2TiB}]\n", "raise extent_bytes");
	assert_unfinished("tenants: [{name: a, cpu_bytes: 1GiB}, {name: a, cpu_bytes: 1GiB}]\n",
			  "is tenants.0 already");
	assert_unfinished(
		"tenants: [{name: a, cpu_bytes: 1GiB, cpu_file: /f}, {name: b, cpu_bytes: 1GiB, cpu_file: /f}]\n",
		"is that of tenants.0 already");
	assert_unfinished("inventory_listen: 127.0.0.1:65535\n", "has no next port");
	assert_unfinished("inventory_listen: 127.0.0.1:7\ninventory_ask_listen: 127.0.0.1:7\n",
			  "needs a port of its own");
	assert_unfinished("nvme: [{bytes: 1GiB}]\n", "nvme.0.path: is required");
	assert_unfinished("nvme: [{path: /dev/null}]\n", "nvme.0.bytes: is required for a file");
	assert_unfinished("nvme: [{path: /a, bytes: 1GiB}, {path: /a, bytes: 1GiB}]\n",
			  "is nvme.0 already");
	assert_unfinished(
		"nvme: [{path: /a, bytes: 1GiB}]\ntenants: [{name: a, cpu_bytes: 1GiB, nvme_bytes: 2GiB}]\n",
		"add up to 2GiB, the devices to 1GiB");
	assert_unfinished(
		"run_directory: /a123456789b123456789c123456789d123456789e123456789f123456789g123456789"
		"h123456789i123456789\n",
		"longer than 107 characters");
}

static void what_is_left_of_the_devices_is_shared_equally(void **unused)
{
	(void)unused;
	assert_int_equal(
		read_text("extent_bytes: 4MiB\nnvme: [{path: /a, bytes: 103MiB}]\ntenants:\n"
			  "  - {name: a, cpu_bytes: 34MiB}\n  - {name: b, cpu_bytes: 1GiB}\n"
			  "  - {name: c, cpu_bytes: 1GiB, nvme_bytes: 10MiB}\n"),
		0);
	for (int twice = 0; twice < 2; twice++) { /* finishing again changes nothing */
		assert_int_equal(settings_finish(&settings, &error), 0);
		assert_int_equal(settings.tenants[0].cpu_bytes, 32 << 20);
		assert_int_equal(settings.tenants[0].nvme_bytes, 44 << 20);
		assert_int_equal(settings.tenants[1].nvme_bytes, 44 << 20);
		assert_int_equal(settings.tenants[2].nvme_bytes, 8 << 20);
	}
}

static void origins_name_file_and_line(void **unused)
{
	char *printed;
	size_t printed_bytes;
	FILE *file = open_memstream(&printed, &printed_bytes);

	(void)unused;
	assert_int_equal(read_text("mills: 3\nnvme:\n  - path: /a\n"), 0);
	settings_print(&settings, file);
	fclose(file);
	assert_non_null(strstr(printed, "# kvtier.yaml:1\n"));
	assert_non_null(strstr(printed, "# kvtier.yaml:3\n"));
	assert_non_null(strstr(printed, "# default\n"));
	assert_null(strstr(printed, "# chosen\n"));
	free(printed);
}

/* A share that was not given must not come back as "none". */
static void what_was_not_given_is_not_printed(void **unused)
{
	char *printed;
	size_t printed_bytes;
	FILE *file = open_memstream(&printed, &printed_bytes);

	(void)unused;
	assert_int_equal(read_text("tenants: [{name: red, cpu_bytes: 1GiB}]\nnvme: [{}]\n"), 0);
	settings_print(&settings, file);
	fclose(file);
	assert_null(strstr(printed, "nvme_bytes"));
	assert_non_null(strstr(printed, "nvme:\n  - raw_initialise: false"));
	fresh_settings(NULL);
	assert_int_equal(read_text(printed), 0);
	assert_int_equal(settings.devices_count, 1);
	free(printed);
}

static void a_file_is_read_or_the_reason_is_given(void **unused)
{
	char path[] = "/tmp/test_settings.XXXXXX";
	int fd = mkstemp(path);

	(void)unused;
	assert_true(fd >= 0);
	assert_int_equal(write(fd, "mills: 5\n", 9), 9);
	close(fd);
	assert_int_equal(settings_read_file(&settings, path, &error), 0);
	assert_int_equal(settings.mills, 5);
	unlink(path);
	assert_int_equal(settings_read_file(&settings, path, &error), -ENOENT);
	assert_non_null(strstr(error.text, path));
	assert_int_equal(settings_read_file(&settings, "/", &error), -EISDIR);
}

static void every_form_describes_every_key(void **unused)
{
	static const char *const forms[] = { "help", "man", "markdown", "completion" };

	(void)unused;
	for (unsigned form = 0; form < 4; form++) {
		char *printed;
		size_t printed_bytes;
		FILE *file = open_memstream(&printed, &printed_bytes);

		assert_int_equal(settings_describe(forms[form], file), 0);
		fclose(file);
		for (unsigned i = 0; i < settings_rows_count; i++)
			assert_non_null(strstr(printed, settings_rows[i].name));
		for (unsigned l = 0; l < settings_lists_count; l++)
			for (unsigned i = 0; i < settings_lists[l].rows_count; i++)
				assert_non_null(strstr(printed, settings_lists[l].rows[i].name));
		free(printed);
	}
	assert_int_equal(settings_describe("html", stderr), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(the_defaults_are_those_of_the_contract, fresh_settings),
		cmocka_unit_test_setup(a_whole_file_is_read, fresh_settings),
		cmocka_unit_test_setup(an_empty_file_is_the_defaults, fresh_settings),
		cmocka_unit_test_setup(what_yaml_can_say_and_settings_cannot_is_refused,
				       fresh_settings),
		cmocka_unit_test_setup(an_unknown_key_is_answered_with_the_nearest, fresh_settings),
		cmocka_unit_test_setup(values_of_the_wrong_kind_say_what_is_right, fresh_settings),
		cmocka_unit_test_setup(a_text_that_does_not_fit_is_refused, fresh_settings),
		cmocka_unit_test_setup(a_file_past_its_bound_is_refused, fresh_settings),
		cmocka_unit_test_setup(too_many_items_are_refused, fresh_settings),
		cmocka_unit_test_setup(every_key_is_set_printed_and_read_back, fresh_settings),
		cmocka_unit_test_setup(every_key_has_its_variable, fresh_settings),
		cmocka_unit_test_setup(items_of_lists_come_from_the_environment, fresh_settings),
		cmocka_unit_test_setup(keys_of_the_command_line_are_checked, fresh_settings),
		cmocka_unit_test_setup(relations_are_checked, fresh_settings),
		cmocka_unit_test_setup(what_is_left_of_the_devices_is_shared_equally,
				       fresh_settings),
		cmocka_unit_test_setup(origins_name_file_and_line, fresh_settings),
		cmocka_unit_test_setup(what_was_not_given_is_not_printed, fresh_settings),
		cmocka_unit_test_setup(a_file_is_read_or_the_reason_is_given, fresh_settings),
		cmocka_unit_test_setup(every_form_describes_every_key, fresh_settings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
