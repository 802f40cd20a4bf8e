/* daemon/settings.c: settings from the environment and the command line, and the settings as a
 * whole in print. */
#include "daemon/settings_table.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ENVIRONMENT_NAME_BYTES 96

struct setting_record settings_record(struct settings *settings)
{
	return (struct setting_record){ settings, settings_rows, settings_rows_count,
					settings->origins };
}

static uint32_t *list_count(struct settings *settings, const struct setting_list *list)
{
	return (uint32_t *)(void *)((char *)settings + list->count_offset);
}

uint32_t settings_list_count(const struct settings *settings, const struct setting_list *list)
{
	uint32_t count;

	memcpy(&count, (const char *)settings + list->count_offset, sizeof(count));
	return count;
}

struct setting_record settings_list_record(struct settings *settings,
					   const struct setting_list *list, uint32_t index)
{
	char *item = (char *)settings + list->items_offset + (size_t)index * list->item_bytes;

	assert(index < list->items_max);
	return (struct setting_record){ item, list->rows, list->rows_count,
					(struct settings_origin *)(void *)(item +
									   list->origins_offset) };
}

int settings_list_append(struct settings *settings, const struct setting_list *list,
			 const char *origin, struct error *error)
{
	uint32_t *count = list_count(settings, list);
	struct setting_record record;

	if (*count == list->items_max)
		return error_set(error, -ENOSPC, "%s: more than %u items in %s", origin,
				 list->items_max, list->name);
	record = settings_list_record(settings, list, *count);
	setting_record_default(&record);
	(*count)++;
	return 0;
}

void settings_list_clear(struct settings *settings, const struct setting_list *list)
{
	*list_count(settings, list) = 0;
}

const struct setting_list *settings_list_find(const char *name)
{
	for (unsigned i = 0; i < settings_lists_count; i++)
		if (strcmp(settings_lists[i].name, name) == 0)
			return &settings_lists[i];
	return NULL;
}

void settings_default(struct settings *settings)
{
	struct setting_record record = settings_record(settings);

	memset(settings, 0, sizeof(*settings));
	setting_record_default(&record);
}

/* "tenants.0.cpu_bytes": `dot` is the first of its two. */
static int set_in_list(struct settings *settings, const char *key, const char *dot,
		       const char *value, const char *origin, struct error *error)
{
	char list_name[16], *end;
	const struct setting_list *list = NULL;
	const struct setting *row;
	struct setting_record record;
	unsigned long index;
	int result;

	if ((size_t)(dot - key) < sizeof(list_name)) {
		snprintf(list_name, sizeof(list_name), "%.*s", (int)(dot - key), key);
		list = settings_list_find(list_name);
	}
	if (list == NULL)
		return error_set(error, -EINVAL,
				 "%s: '%.40s' names no list; there are tenants and nvme", origin,
				 key);
	index = strtoul(dot + 1, &end, 10);
	if (!isdigit((unsigned char)dot[1]) || *end != '.')
		return error_set(error, -EINVAL,
				 "%s: '%.40s' is not %s.NUMBER.KEY, such as %s.0.%s", origin, key,
				 list_name, list_name, list->rows[0].name);
	if (index > settings_list_count(settings, list) || index >= list->items_max)
		return error_set(error, -EINVAL,
				 "%s: '%.40s': the next item of %s is number %u, of at most %u",
				 origin, key, list_name, settings_list_count(settings, list),
				 list->items_max);
	record = settings_list_record(settings, list, (uint32_t)index);
	result = setting_find(&record, end + 1, origin, &row, error);
	if (result < 0)
		return result;
	if (index == settings_list_count(settings, list)) {
		result = settings_list_append(settings, list, origin, error);
		if (result < 0)
			return result;
	}
	return setting_store(&record, row, value, origin, error);
}

int settings_set(struct settings *settings, const char *key, const char *value, const char *origin,
		 struct error *error)
{
	struct setting_record record = settings_record(settings);
	const char *dot = strchr(key, '.');
	const struct setting *row;
	int result;

	if (dot != NULL)
		return set_in_list(settings, key, dot, value, origin, error);
	if (settings_list_find(key) != NULL)
		return error_set(error, -EINVAL,
				 "%s: %s is a list; name an item's key, such as %s.0.%s", origin,
				 key, key, settings_list_find(key)->rows[0].name);
	result = setting_find(&record, key, origin, &row, error);
	return result < 0 ? result : setting_store(&record, row, value, origin, error);
}

void setting_environment_name(const struct setting_list *list, uint32_t index,
			      const struct setting *row, char *text, size_t text_bytes)
{
	if (list == NULL)
		snprintf(text, text_bytes, "KVTIER_%s", row->name);
	else
		snprintf(text, text_bytes, "KVTIER_%s_%u_%s", list->name, index, row->name);
	for (char *letter = text; *letter != '\0'; letter++)
		*letter = (char)toupper((unsigned char)*letter);
}

static int read_environment_list(struct settings *settings, const struct setting_list *list,
				 struct error *error)
{
	char name[ENVIRONMENT_NAME_BYTES], key[ENVIRONMENT_NAME_BYTES];

	for (uint32_t index = 0; index < list->items_max; index++) {
		for (unsigned i = 0; i < list->rows_count; i++) {
			const char *value;
			int result;

			setting_environment_name(list, index, &list->rows[i], name, sizeof(name));
			value = getenv(name);
			if (value == NULL)
				continue;
			snprintf(key, sizeof(key), "%s.%u.%s", list->name, index,
				 list->rows[i].name);
			result = settings_set(settings, key, value, "environment", error);
			if (result < 0)
				return result;
		}
	}
	return 0;
}

int settings_read_environment(struct settings *settings, struct error *error)
{
	char name[ENVIRONMENT_NAME_BYTES];

	for (unsigned i = 0; i < settings_rows_count; i++) {
		const char *value;
		int result;

		setting_environment_name(NULL, 0, &settings_rows[i], name, sizeof(name));
		value = getenv(name);
		if (value == NULL)
			continue;
		result = settings_set(settings, settings_rows[i].name, value, "environment", error);
		if (result < 0)
			return result;
	}
	for (unsigned i = 0; i < settings_lists_count; i++) {
		int result = read_environment_list(settings, &settings_lists[i], error);

		if (result < 0)
			return result;
	}
	return 0;
}

const char *setting_origin(const struct setting_record *record, const struct setting *row)
{
	const char *origin = record->origins[row - record->rows].text;
	char value[SETTING_VALUE_TEXT_BYTES];

	if (origin[0] != '\0')
		return origin;
	setting_format(record, row, value, sizeof(value));
	return strcmp(value, row->initial) == 0 ? "default" : "chosen";
}

/* A text is quoted, so that an empty one, or one with a ':' or '#' in it, is read back as it is. */
static void print_value(const struct setting_record *record, unsigned index, const char *indent,
			FILE *file)
{
	const struct setting *row = &record->rows[index];
	char value[SETTING_VALUE_TEXT_BYTES];
	int width;

	setting_format(record, row, value, sizeof(value));
	if (row->type != SETTING_TEXT) {
		width = fprintf(file, "%s%s: %s", indent, row->name, value);
	} else {
		width = fprintf(file, "%s%s: \"", indent, row->name);
		for (const char *letter = value; *letter != '\0'; letter++)
			width += fprintf(file, *letter == '"' || *letter == '\\' ? "\\%c" : "%c",
					 *letter);
		width += fprintf(file, "\"");
	}
	fprintf(file, "%*s# %s\n", width < 48 ? 48 - width : 1, "", setting_origin(record, row));
}

/* Neither given nor computed: not printed, as none of its values would say that. */
static bool is_unset(const struct setting_record *record, unsigned index)
{
	const struct setting *row = &record->rows[index];
	char value[SETTING_VALUE_TEXT_BYTES];

	setting_format(record, row, value, sizeof(value));
	return record->origins[index].text[0] == '\0' && row->initial[0] == '\0' &&
	       (value[0] == '\0' || strcmp(value, "0") == 0);
}

static void print_item(const struct setting_record *record, FILE *file)
{
	bool is_first = true;

	for (unsigned i = 0; i < record->rows_count; i++) {
		if (is_unset(record, i))
			continue;
		print_value(record, i, is_first ? "  - " : "    ", file);
		is_first = false;
	}
	assert(!is_first); /* each kind of item has a key with a default */
}

void settings_print(const struct settings *settings, FILE *file)
{
	struct settings copy = *settings;
	struct setting_record record = settings_record(&copy);

	for (unsigned i = 0; i < record.rows_count; i++)
		print_value(&record, i, "", file);
	for (unsigned l = 0; l < settings_lists_count; l++) {
		const struct setting_list *list = &settings_lists[l];
		uint32_t count = settings_list_count(&copy, list);

		fprintf(file, "%s:%s\n", list->name, count == 0 ? " []" : "");
		for (uint32_t index = 0; index < count; index++) {
			record = settings_list_record(&copy, list, index);
			print_item(&record, file);
		}
	}
}
