/* tests/sim/settings_file.c: what stands in a node's file of settings, and what may be in force. */
#include "tests/sim/settings_file.h"

#include "base/log.h"
#include "daemon/reload.h"
#include "tests/sim/kernel_files.h"
#include "tests/sim/node.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define MS_US UINT64_C(1000)
#define MIB (UINT64_C(1) << 20)
#define HALF_US_MAX 30000u

enum value {
	VALUE_BYPASS,
	VALUE_LOG_LEVEL,
	VALUE_LEASE,
	VALUE_WINDOW,
	VALUE_BUDGET,
	VALUE_SCRUB,
	VALUE_INTERVAL,
	VALUE_READBACK,
	VALUE_STALL
};

_Static_assert(VALUE_STALL + 1 == SETTINGS_VALUES, "a value for each setting");

/* How a value stands in the file, and what it is when it does not. */
static const struct {
	const char *name, *unit;
	uint64_t scale, initial;
	const char *const *words;
} rows[SETTINGS_VALUES] = {
	[VALUE_BYPASS] = { "bypass", "", 1, 0, (const char *const[]){ "off", "on", "observe" } },
	[VALUE_LOG_LEVEL] = { "log_level", "", 1, LOG_INFO,
			      (const char *const[]){ "error", "warning", "info", "debug" } },
	[VALUE_LEASE] = { "lease_max", "ms", MS_US, 60 * SECOND_US, NULL },
	[VALUE_WINDOW] = { "load_window_blocks", "", 1, 64, NULL },
	[VALUE_BUDGET] = { "write_bytes_day_max", "MiB", MIB, 0, NULL },
	[VALUE_SCRUB] = { "scrub_bytes_second", "MiB", MIB, 16 * MIB, NULL },
	[VALUE_INTERVAL] = { "scrub_interval", "ms", MS_US, 600 * SECOND_US, NULL },
	[VALUE_READBACK] = { "readback_every", "", 1, 1024, NULL },
	[VALUE_STALL] = { "stall_max", "ms", MS_US, 5 * SECOND_US, NULL },
};

/* What a person may get wrong, whatever else is right. */
static const char *const mistakes[] = {
	"lease_maximum: 2s\n",
	"lease_max: 1ms\n",
	"load_window_blocks: 0\n",
	"scrub_interval: 5\n",
	"stall_max: [\n",
	"bypass: maybe\n",
	"readback_every: 2\nreadback_every: 2\n",
	"queue_depth: &deep 3\n",
	"nvme:\n  - path: /nowhere/disk\n",
	"extent_bytes: 3MiB\n",
};

/* What waits for a restart. */
static const char *const static_rows[] = { "queue_depth: 7\n", "leases_max: 3\n",
					   "connections_max: 5\n", "spaces_max: 9\n" };

static void shape_values(const struct node *node, uint64_t *out_values)
{
	const struct node_shape *shape = &node->shape;

	for (unsigned i = 0; i < SETTINGS_VALUES; i++)
		out_values[i] = rows[i].initial;
	out_values[VALUE_LEASE] = shape->lease_us_max;
	out_values[VALUE_WINDOW] = shape->load_window_blocks;
	out_values[VALUE_BUDGET] = shape->write_bytes_day_max;
	out_values[VALUE_SCRUB] = shape->scrub_bytes_second;
	out_values[VALUE_INTERVAL] = shape->scrub_interval_us;
	out_values[VALUE_READBACK] = shape->readback_every;
}

static void values_in_force(const struct daemon *daemon, uint64_t *out_values)
{
	const struct settings *settings = &daemon->settings;

	out_values[VALUE_BYPASS] = daemon_bypass_parse(settings->bypass);
	out_values[VALUE_LOG_LEVEL] = (uint64_t)log_level_parse(settings->log_level);
	out_values[VALUE_LEASE] = settings->lease_us_max;
	out_values[VALUE_WINDOW] = settings->load_window_blocks;
	out_values[VALUE_BUDGET] = settings->write_bytes_day_max;
	out_values[VALUE_SCRUB] = settings->scrub_bytes_second;
	out_values[VALUE_INTERVAL] = settings->scrub_interval_us;
	out_values[VALUE_READBACK] = settings->readback_every;
	out_values[VALUE_STALL] = settings->stall_us_max;
}

static uint64_t value_draw(enum value value, struct random *random)
{
	static const uint64_t readbacks[] = { 0, 1, 4, 1024 };

	switch (value) {
	case VALUE_BYPASS:
		return random_below(random, 6) < 4 ? 0 : 1 + random_below(random, 2);
	case VALUE_LOG_LEVEL:
		return random_below(random, 4);
	case VALUE_LEASE:
		return (1 + random_below(random, 5)) * SECOND_US;
	case VALUE_WINDOW:
		return 1 + random_below(random, 16);
	case VALUE_BUDGET:
		return random_below(random, 4) == 0 ? (1 + random_below(random, 20)) * MIB : 0;
	case VALUE_SCRUB:
		return random_below(random, 3) * 8 * MIB;
	case VALUE_INTERVAL:
		return (1 + random_below(random, 20)) * SECOND_US;
	case VALUE_READBACK:
		return readbacks[random_below(random, 4)];
	case VALUE_STALL:
		return (100 + random_below(random, 5000)) * MS_US;
	}
	assert(false);
}

/* ---- what is on file ---- */

static void version_put(struct node *node, const struct settings_version *version,
			const char *text, size_t text_bytes)
{
	struct settings_model *file = &node->file;

	assert(file->possible_count < SETTINGS_VERSIONS_MAX);
	file->possible[file->possible_count++] = *version;
	file->was_changed = true;
	file_put(node->settings_path, text, text_bytes);
}

static size_t row_write(char *text, size_t room, unsigned row, uint64_t value)
{
	int count;

	if (rows[row].words != NULL)
		count = snprintf(text, room, "%s: %s\n", rows[row].name, rows[row].words[value]);
	else
		count = snprintf(text, room, "%s: %llu%s\n", rows[row].name,
				 (unsigned long long)(value / rows[row].scale),
				 value == 0 ? "" : rows[row].unit);
	assert(count > 0 && (size_t)count < room);
	return (size_t)count;
}

void settings_file_mend(struct node *node)
{
	struct settings_version version = { .is_right = true };
	char text[SETTINGS_TEXT_BYTES];
	size_t bytes = 0;

	shape_values(node, version.values);
	for (unsigned i = 0; i < SETTINGS_VALUES; i++)
		bytes += row_write(text + bytes, sizeof(text) - bytes, i, version.values[i]);
	version_put(node, &version, text, bytes);
}

bool settings_file_is_right(const struct node *node)
{
	return node->file.possible[node->file.possible_count - 1].is_right;
}

/* The file as it is written, line by line: what it says so far. */
struct writing {
	struct settings_version version;
	char text[SETTINGS_TEXT_BYTES];
	size_t bytes;
};

static void line_add(struct writing *writing, const char *line)
{
	assert(writing->bytes + strlen(line) < sizeof(writing->text));
	strcpy(writing->text + writing->bytes, line);
	writing->bytes += strlen(line);
}

static void rows_add(struct writing *writing, unsigned first, unsigned end, struct random *random)
{
	for (unsigned i = first; i < end; i++) {
		if (random_below(random, 4) == 0)
			continue;
		writing->version.values[i] = value_draw((enum value)i, random);
		writing->bytes += row_write(writing->text + writing->bytes,
					    sizeof(writing->text) - writing->bytes, i,
					    writing->version.values[i]);
	}
}

static void half_stays(struct random *random)
{
	uint64_t us = random_below(random, HALF_US_MAX);
	struct timespec pause = { .tv_nsec = (long)us * 1000 };

	nanosleep(&pause, NULL);
}

void settings_file_change(struct node *node, struct random *random)
{
	struct writing writing = { .version.is_right = true };
	unsigned middle = (unsigned)random_below(random, SETTINGS_VALUES + 1);
	bool is_wrong = random_below(random, 3) == 0;
	bool is_renamed = random_below(random, 2) == 0;

	/* Each change may be read on its own: no more of them than there is room for. */
	if (node->file.possible_count + 3 > SETTINGS_VERSIONS_MAX)
		return;
	for (unsigned i = 0; i < SETTINGS_VALUES; i++)
		writing.version.values[i] = rows[i].initial;
	rows_add(&writing, 0, middle, random);
	if (random_below(random, 3) == 0)
		line_add(&writing, static_rows[random_below(random, 4)]);
	if (!is_renamed) {
		version_put(node, &writing.version, writing.text, writing.bytes);
		half_stays(random);
	}
	if (is_wrong)
		line_add(&writing, mistakes[random_below(random, sizeof(mistakes) /
									 sizeof(mistakes[0]))]);
	rows_add(&writing, middle, SETTINGS_VALUES, random);
	writing.version.is_right = !is_wrong;
	version_put(node, &writing.version, writing.text, writing.bytes);
	sim_tell("settings: a %s file", is_wrong ? "wrong" : "right");
}

/* ---- what is in force ---- */

static bool values_are(const uint64_t *left, const uint64_t *right)
{
	return memcmp(left, right, SETTINGS_VALUES * sizeof(*left)) == 0;
}

void settings_file_boot(struct node *node)
{
	struct settings_model *file = &node->file;

	file->possible[0] = file->possible[file->possible_count - 1];
	file->possible_count = 1;
	file->was_asked = true;
	file->was_changed = file->is_known = false;
	file->may_fail = kernel.file_error_permille > 0;
	file->asking = 0;
	model.bypassed_all = 0;
}

void settings_file_asked(struct node *node, bool is_signal)
{
	node->file.was_asked = true;
	node->file.was_changed = false;
	node->file.asking += !is_signal;
	model.bypassed_all = 0;
}

void settings_file_answered(struct node *node, bool was_done)
{
	struct settings_model *file = &node->file;

	file->asking -= file->asking > 0;
	for (unsigned i = 0; i < file->possible_count; i++)
		if (file->possible[i].is_right == was_done)
			return;
	if (was_done || !file->may_fail)
		sim_fail("a reload was %s, and the file was %s", was_done ? "done" : "refused",
			 was_done ? "wrong" : "right");
}

/* What was known is over: another of the possible ones, or one of the same words. */
static void change_check(struct settings_model *file, const uint64_t *values)
{
	if (file->is_known && !file->was_asked)
		sim_fail("settings changed though nobody asked for it");
	for (unsigned i = 0; i < file->possible_count; i++)
		if (file->possible[i].is_right && values_are(file->possible[i].values, values)) {
			file->reloads += file->is_known;
			file->in_force = file->possible[i];
			return;
		}
	for (unsigned i = 0; i < SETTINGS_VALUES; i++)
		if (values[i] != file->in_force.values[i])
			sim_tell("%s: %llu, and it was %llu", rows[i].name,
				 (unsigned long long)values[i],
				 (unsigned long long)file->in_force.values[i]);
	sim_fail("settings are in force that no right file ever had");
}

/* What waits for a restart is as it was, and what does not read the settings follows them. */
static void effects_check(const struct node *node)
{
	const struct daemon *daemon = node->daemon;
	const struct settings *now = &daemon->settings, *before = &node->settings;
	const uint64_t *values = node->file.in_force.values;

	if (now->queue_depth != before->queue_depth || now->leases_max != before->leases_max ||
	    now->connections_max != before->connections_max ||
	    now->spaces_max != before->spaces_max || now->tenants_count != before->tenants_count ||
	    now->devices_count != before->devices_count)
		sim_fail("a setting that needs a restart changed without one");
	if ((uint64_t)daemon->bypass != values[VALUE_BYPASS])
		sim_fail("the bypass is not that of the settings in force");
	if (daemon->write_budget.bytes_day_max != values[VALUE_BUDGET])
		sim_fail("the write budget is not that of the settings in force");
}

/* No reading is under way: what was asked for has been done. */
static void rest_check(struct settings_model *file)
{
	const struct settings_version *last = &file->possible[file->possible_count - 1];

	if (file->was_asked && !file->was_changed && !file->may_fail && last->is_right &&
	    !values_are(last->values, file->in_force.values))
		sim_fail("a right file was read, and other settings are in force");
	file->possible[0] = *last;
	file->possible_count = 1;
	file->was_asked = false;
	file->may_fail = kernel.file_error_permille > 0;
	if (file->in_force.values[VALUE_BYPASS] != 0 && model.bypassed_all == 0)
		model.bypassed_all = model_now();
}

void settings_file_look(struct node *node)
{
	struct settings_model *file = &node->file;
	uint64_t values[SETTINGS_VALUES];

	file->may_fail = file->may_fail || kernel.file_error_permille > 0;
	if (node->daemon == NULL || node->daemon->reload == NULL)
		return;
	values_in_force(node->daemon, values);
	if (!file->is_known || !values_are(values, file->in_force.values))
		change_check(file, values);
	file->is_known = true;
	effects_check(node);
	if (!settings_file_is_pending(node))
		rest_check(file);
}

bool settings_file_is_pending(const struct node *node)
{
	return node->file.asking > 0 || node->must_reload ||
	       (node->daemon != NULL && reload_is_busy(node->daemon));
}
