/* daemon/settings_change.c: all sources read in their order, what differs between two readings, and
 * what of it may be taken over while the daemon runs. */
#include "daemon/settings_table.h"

#include <errno.h>
#include <string.h>

struct differences {
	struct settings_change *changes;
	unsigned count, max;
};

static int set_one(struct settings *settings, const char *assignment, struct error *error)
{
	char name[128];
	const char *equals = strchr(assignment, '=');

	if (equals == NULL || (size_t)(equals - assignment) >= sizeof(name))
		return error_set(error, -EINVAL, "--set wants NAME=VALUE, not \"%.80s\"",
				 assignment);
	memcpy(name, assignment, (size_t)(equals - assignment));
	name[equals - assignment] = '\0';
	return settings_set(settings, name, equals + 1, "--set", error);
}

int settings_load(struct settings *settings, const struct settings_sources *sources,
		  struct error *error)
{
	int result = 0;

	settings_default(settings);
	if (sources->file != NULL)
		result = settings_read_file(settings, sources->file, error);
	if (result == 0)
		result = settings_read_environment(settings, error);
	for (unsigned i = 0; result == 0 && i < sources->sets_count; i++)
		result = set_one(settings, sources->sets[i], error);
	if (result == 0)
		result = settings_finish(settings, error);
	return result;
}

static void difference_add(struct differences *differences, const char *key, const char *from,
			   const char *to, bool is_reloadable)
{
	struct settings_change *change = &differences->changes[differences->count];

	if (differences->count++ >= differences->max)
		return;
	snprintf(change->key, sizeof(change->key), "%s", key);
	snprintf(change->from, sizeof(change->from), "%s", from);
	snprintf(change->to, sizeof(change->to), "%s", to);
	change->is_reloadable = is_reloadable;
}

/* `prefix` is "tenants.0." for items of lists. */
static void records_compare(const struct setting_record *now, const struct setting_record *next,
			    const char *prefix, struct differences *differences)
{
	char from[SETTING_VALUE_TEXT_BYTES], to[SETTING_VALUE_TEXT_BYTES], key[64];

	for (unsigned i = 0; i < now->rows_count; i++) {
		const struct setting *row = &now->rows[i];

		/* Chosen from the CPUs or from other settings, which speak for themselves. */
		if (now->origins[i].text[0] == '\0' && next->origins[i].text[0] == '\0')
			continue;
		setting_format(now, row, from, sizeof(from));
		setting_format(next, row, to, sizeof(to));
		if (strcmp(from, to) == 0)
			continue;
		snprintf(key, sizeof(key), "%s%s", prefix, row->name);
		difference_add(differences, key, from, to, row->is_reloadable);
	}
}

static void lists_compare(struct settings *now, struct settings *next,
			  const struct setting_list *list, struct differences *differences)
{
	uint32_t count = settings_list_count(now, list);
	uint32_t next_count = settings_list_count(next, list);
	char prefix[32], from[32], to[32];

	if (count != next_count) {
		snprintf(from, sizeof(from), "%u items", count);
		snprintf(to, sizeof(to), "%u items", next_count);
		difference_add(differences, list->name, from, to, false);
	}
	for (uint32_t index = 0; index < count && index < next_count; index++) {
		struct setting_record record = settings_list_record(now, list, index);
		struct setting_record next_record = settings_list_record(next, list, index);

		snprintf(prefix, sizeof(prefix), "%s.%u.", list->name, index);
		records_compare(&record, &next_record, prefix, differences);
	}
}

unsigned settings_compare(const struct settings *now, const struct settings *next,
			  struct settings_change *changes, unsigned changes_max)
{
	/* Records point at what could be written; nothing here does. */
	struct settings *left = (struct settings *)now, *right = (struct settings *)next;
	struct setting_record record = settings_record(left), next_record = settings_record(right);
	struct differences differences = { .changes = changes, .max = changes_max };

	records_compare(&record, &next_record, "", &differences);
	for (unsigned i = 0; i < settings_lists_count; i++)
		lists_compare(left, right, &settings_lists[i], &differences);
	return differences.count;
}

void settings_take(struct settings *now, const struct settings *next)
{
	for (unsigned i = 0; i < settings_rows_count; i++) {
		const struct setting *row = &settings_rows[i];

		if (!row->is_reloadable)
			continue;
		memcpy((char *)now + row->offset, (const char *)next + row->offset, row->bytes);
		now->origins[i] = next->origins[i];
	}
}
