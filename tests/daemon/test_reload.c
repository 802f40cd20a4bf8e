/* tests/daemon/test_reload.c: settings that are read again while the daemon runs. */
#include "tests/daemon/rig.h"

#include "base/log.h"
#include "daemon/admin.h"
#include "daemon/reload.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

/* A daemon that was started by a file. */
struct reloading {
	struct rig rig;
	char path[128];
	struct settings_sources sources;
	struct reload_request request;
	struct reload_report report;
	unsigned done_count;
};

static void file_write(struct reloading *reloading, const char *more)
{
	FILE *file = fopen(reloading->path, "w");

	assert_non_null(file);
	settings_print(&reloading->rig.settings, file);
	fputs(more, file);
	assert_int_equal(fclose(file), 0);
}

/* The rig's settings without a row, so that a test can write it itself. */
static void file_write_instead(struct reloading *reloading, const char *key, const char *line)
{
	char *text = NULL, *row;
	size_t bytes;
	FILE *memory = open_memstream(&text, &bytes);
	FILE *file = fopen(reloading->path, "w");

	assert_non_null(memory);
	assert_non_null(file);
	settings_print(&reloading->rig.settings, memory);
	fclose(memory);
	row = strstr(text, key);
	assert_non_null(row);
	fprintf(file, "%.*s%s%s", (int)(row - text), text, line, strchr(row, '\n'));
	assert_int_equal(fclose(file), 0);
	free(text);
}

static void reload_was_done(struct reload_request *request, const struct reload_report *report)
{
	struct reloading *reloading = list_item(request, struct reloading, request);

	reloading->report = *report;
	reloading->done_count++;
}

static void setup(struct reloading *reloading, uint32_t load_window_blocks)
{
	/* Without nvme: the rig's disks have names that a file of settings may not say. */
	struct rig_config config = { .no_nvme = true, .load_window_blocks = load_window_blocks };
	struct error error;

	memset(reloading, 0, sizeof(*reloading));
	rig_init(&reloading->rig, &config);
	rig_stop(&reloading->rig);
	snprintf(reloading->path, sizeof(reloading->path), "%s/kvtier.yaml", reloading->rig.folder);
	file_write(reloading, "");
	reloading->sources = (struct settings_sources){ .file = reloading->path };
	/* As main reads it, so that all values have their origins. */
	if (settings_load(&reloading->rig.settings, &reloading->sources, &error) < 0)
		fail_msg("%s", error.text);
	rig_start(&reloading->rig);
	assert_int_equal(reload_create(reloading->rig.daemon, &reloading->sources, &error), 0);
	reloading->request.done = reload_was_done;
}

static void reload(struct reloading *reloading)
{
	unsigned before = reloading->done_count;

	assert_int_equal(reload_request(reloading->rig.daemon, &reloading->request), 0);
	assert_int_equal(reloading->done_count, before); /* never inside the request */
	rig_settle(&reloading->rig);
	assert_int_equal(reloading->done_count, before + 1);
}

static char *status(struct reloading *reloading)
{
	struct text text;
	char *copy;

	text_init(&text, FRAME_TEXT_BYTES_MAX);
	stats_write(reloading->rig.daemon, NULL, &text);
	copy = strdup(text_words(&text));
	text_finish(&text);
	return copy;
}

static void assert_status(struct reloading *reloading, const char *words)
{
	char *text = status(reloading);

	if (strstr(text, words) == NULL)
		fail_msg("'%s' is not in %s", words, text);
	free(text);
}

static void what_may_change_does_and_the_rest_is_named(void **unused)
{
	struct reloading reloading;

	(void)unused;
	setup(&reloading, 0);
	assert_status(&reloading, "\"reload\":null");
	file_write_instead(&reloading, "lease_max:", "lease_max: 7s");
	reload(&reloading);
	assert_int_equal(reloading.report.result, 0);
	assert_int_equal(reloading.report.changes_count, 1);
	assert_int_equal(reloading.report.applied_count, 1);
	assert_string_equal(reloading.report.changes[0].key, "lease_max");
	assert_string_equal(reloading.report.changes[0].from, "1m");
	assert_string_equal(reloading.report.changes[0].to, "7s");
	assert_int_equal(reloading.rig.daemon->settings.lease_us_max, 7 * RIG_SECOND);
	assert_status(&reloading, "\"changed\":[{\"key\":\"lease_max\",\"from\":\"1m\",\"to\":\"7s\"}],"
				  "\"needs_restart\":[]");
	/* The file as it was, but for one that was laid out at the start. */
	file_write_instead(&reloading, "connections_max:", "connections_max: 99");
	reload(&reloading);
	assert_int_equal(reloading.report.applied_count, 1);
	assert_int_equal(reloading.report.changes_count, 2);
	assert_int_equal(reloading.rig.daemon->settings.lease_us_max, 60 * RIG_SECOND);
	assert_int_equal(reloading.rig.daemon->settings.connections_max, 32);
	assert_status(&reloading, "\"needs_restart\":[{\"key\":\"connections_max\",\"from\":\"32\",\"to\":\"99\"}]");
	/* It still waits for the restart. */
	reload(&reloading);
	assert_int_equal(reloading.report.changes_count, 1);
	assert_int_equal(reloading.report.applied_count, 0);
	rig_finish(&reloading.rig);
}

static void when_anything_is_wrong_nothing_changes(void **unused)
{
	struct reloading reloading;

	(void)unused;
	setup(&reloading, 0);
	log_level_set(LOG_ERROR);
	file_write(&reloading, "lease_maxx: 5s\n");
	reload(&reloading);
	assert_int_equal(reloading.report.result, -EINVAL);
	assert_non_null(strstr(reloading.report.reason.text, "the nearest is 'lease_max'"));
	assert_status(&reloading, "\"result\":\"refused\",\"reason\":\"");
	/* One right value before a wrong one is not taken either. */
	file_write_instead(&reloading, "lease_max:", "lease_max: 7s\nmills: none # instead of");
	reload(&reloading);
	assert_true(reloading.report.result < 0);
	assert_int_equal(reloading.rig.daemon->settings.lease_us_max, 60 * RIG_SECOND);
	remove(reloading.path);
	reload(&reloading);
	assert_int_equal(reloading.report.result, -ENOENT);
	assert_int_equal(mkfifo(reloading.path, 0600), 0);
	reload(&reloading); /* which would wait for a writer for ever */
	assert_int_equal(reloading.report.result, -EINVAL);
	rig_finish(&reloading.rig);
}

static void each_reloadable_key_takes_effect(void **unused)
{
	struct reloading reloading;
	struct rig_client *client;
	struct rig_keys keys = { .first = 1, .count = 4 };

	(void)unused;
	setup(&reloading, 0);
	struct rig_blocks blocks = { .first = 1, .count = 4, .version = 1 };
	client = rig_register(&reloading.rig, NULL);
	assert_int_equal(rig_store(client, &blocks), 4);
	rig_settle(&reloading.rig);

	file_write_instead(&reloading, "bypass:", "bypass: on");
	reload(&reloading);
	assert_int_equal(rig_usable(client, 1, 4), 0);
	file_write(&reloading, "");
	reload(&reloading);
	assert_int_equal(rig_usable(client, 1, 4), 4);
	/* What a person switched stays, while the setting says nothing new. */
	reloading.rig.daemon->bypass = FRAME_BYPASS_ON;
	reload(&reloading);
	assert_int_equal(rig_usable(client, 1, 4), 0);
	reloading.rig.daemon->bypass = FRAME_BYPASS_OFF;

	file_write_instead(&reloading, "lease_max:", "lease_max: 2s");
	reload(&reloading);
	struct rig_found found = rig_lookup(client, &keys, 1, 60 * RIG_SECOND);
	assert_int_equal(found.lease_us, 2 * RIG_SECOND);
	rig_lease_release(client, found.lease);

	file_write_instead(&reloading, "write_bytes_day_max:", "write_bytes_day_max: 1GiB");
	reload(&reloading);
	assert_int_equal(reloading.rig.daemon->write_budget.bytes_day_max, UINT64_C(1) << 30);

	file_write_instead(&reloading, "log_level:", "log_level: error");
	reload(&reloading);
	assert_int_equal(log_level_get(), LOG_ERROR);
	rig_finish(&reloading.rig);
}

static void a_window_that_shrinks_under_a_load_lets_it_end(void **unused)
{
	struct reloading reloading;
	struct rig_client *client;
	struct rig_batch *batch;

	(void)unused;
	setup(&reloading, 8);
	struct rig_blocks blocks = { .first = 1, .count = 20, .version = 1 };
	client = rig_register(&reloading.rig, NULL);
	assert_int_equal(rig_store(client, &blocks), 20);
	batch = rig_load_begin(client, &blocks);
	batch->is_kept = true;
	rig_settle(&reloading.rig);
	assert_int_equal(20 - rig_batch_count(batch, RIG_OPEN), 8);
	file_write_instead(&reloading, "load_window_blocks:", "load_window_blocks: 1");
	reload(&reloading);
	batch->is_kept = false;
	for (unsigned i = 0; i < 8; i++)
		rig_release(client, batch, i, false);
	rig_batch_await(&reloading.rig, batch);
	assert_int_equal(rig_batch_count(batch, 0), 20);
	rig_batch_give(batch);
	rig_finish(&reloading.rig);
}

static void who_asks_while_the_file_is_read_gets_the_next_reading(void **unused)
{
	struct reloading reloading;
	struct daemon *daemon;

	(void)unused;
	setup(&reloading, 0);
	daemon = reloading.rig.daemon;
	rig_settle(&reloading.rig);
	reload_by_signal(daemon);
	reload_by_signal(daemon); /* one that waits is enough */
	assert_true(reload_is_busy(daemon));
	assert_true(reload_step(daemon));
	assert_int_equal(mills_in_flight(&daemon->mills), 1);
	(void)mill_step(&daemon->mills.mills[0], 0, 1); /* the file has been read */
	file_write_instead(&reloading, "lease_max:", "lease_max: 3s");
	assert_int_equal(reload_request(daemon, &reloading.request), 0);
	reload_by_signal(daemon);
	rig_settle(&reloading.rig);
	assert_int_equal(reloading.done_count, 1);
	assert_int_equal(daemon->settings.lease_us_max, 3 * RIG_SECOND);
	assert_false(reload_is_busy(daemon));
	/* One that is asked for at the end is served before the end. */
	assert_int_equal(reload_request(daemon, &reloading.request), 0);
	rig_finish(&reloading.rig);
	assert_int_equal(reloading.done_count, 2);
}

static void without_sources_there_is_no_reload(void **unused)
{
	struct rig rig;
	struct reload_request request = { .done = reload_was_done };

	(void)unused;
	rig_init(&rig, NULL);
	reload_by_signal(rig.daemon);
	assert_int_equal(reload_request(rig.daemon, &request), -ENOTSUP);
	rig_finish(&rig);
}

static void what_differs_is_found_in_rows_and_in_lists(void **unused)
{
	static struct settings now, next;
	struct settings_change changes[8];
	struct error error;

	(void)unused;
	settings_default(&now);
	assert_int_equal(settings_set(&now, "tenants.0.cpu_bytes", "1GiB", "--set", &error), 0);
	next = now;
	assert_int_equal(settings_compare(&now, &next, changes, 8), 0);
	assert_int_equal(settings_set(&next, "tenants.0.cpu_bytes", "2GiB", "--set", &error), 0);
	assert_int_equal(settings_set(&next, "nvme.0.path", "/d", "--set", &error), 0);
	assert_int_equal(settings_set(&next, "stall_max", "9s", "--set", &error), 0);
	now.mills = 3; /* chosen at another time, on other CPUs */
	assert_int_equal(settings_compare(&now, &next, changes, 8), 3);
	assert_string_equal(changes[0].key, "stall_max");
	assert_true(changes[0].is_reloadable);
	assert_string_equal(changes[1].key, "tenants.0.cpu_bytes");
	assert_false(changes[1].is_reloadable);
	assert_string_equal(changes[2].key, "nvme");
	assert_string_equal(changes[2].to, "1 items");
	assert_int_equal(settings_compare(&now, &next, changes, 1), 3);
	settings_take(&now, &next);
	assert_int_equal(now.stall_us_max, 9 * RIG_SECOND);
	assert_int_equal(now.mills, 3);
	assert_int_equal(settings_compare(&now, &next, changes, 8), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_may_change_does_and_the_rest_is_named),
		cmocka_unit_test(when_anything_is_wrong_nothing_changes),
		cmocka_unit_test(each_reloadable_key_takes_effect),
		cmocka_unit_test(a_window_that_shrinks_under_a_load_lets_it_end),
		cmocka_unit_test(who_asks_while_the_file_is_read_gets_the_next_reading),
		cmocka_unit_test(without_sources_there_is_no_reload),
		cmocka_unit_test(what_differs_is_found_in_rows_and_in_lists),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
