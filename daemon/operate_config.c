/* daemon/operate_config.c: CONFIG: each setting in force, and where its value came from. */
#include "daemon/operate.h"

#include "daemon/encryption.h"
#include "daemon/settings_table.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* One row of a record: its key as --set takes it. */
static void row_write(struct json_text *json, const struct setting_record *record, unsigned index,
		      const char *prefix)
{
	const struct setting *row = &record->rows[index];
	char key[128], value[SETTING_VALUE_TEXT_BYTES];

	snprintf(key, sizeof(key), "%s%s", prefix, row->name);
	setting_format(record, row, value, sizeof(value));
	json_text_object_begin(json, NULL);
	json_text_string(json, "key", key);
	json_text_string(json, "value", value);
	json_text_string(json, "origin", setting_origin(record, row));
	json_text_object_end(json);
}

static void record_write(struct json_text *json, const struct setting_record *record,
			 const char *prefix)
{
	for (unsigned i = 0; i < record->rows_count; i++)
		row_write(json, record, i, prefix);
}

/* What a key file says, as far as it may be said: which keys, and since when they are in force. */
static void keys_write(struct json_text *json, const struct daemon *daemon, unsigned tenant)
{
	const struct keyring *keyring = daemon->tenants[tenant].keyring;
	char key[64], names[SETTING_VALUE_TEXT_BYTES], origin[80], when[32] = "";
	struct tm parts;

	if (keyring == NULL || keyring->count == 0)
		return;
	time_t seconds = (time_t)(keyring->since_us[0] / 1000000);

	if (gmtime_r(&seconds, &parts) != NULL)
		(void)strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &parts);
	snprintf(key, sizeof(key), "tenants.%u.keys", tenant);
	snprintf(origin, sizeof(origin), "%s, the first since %s",
		 encryption_is_from_files(daemon) ? "key_file" : "ephemeral", when);
	keyring_list(keyring, names, sizeof(names));
	json_text_object_begin(json, NULL);
	json_text_string(json, "key", key);
	json_text_string(json, "value", names);
	json_text_string(json, "origin", origin);
	json_text_object_end(json);
}

/* About a hundred rows at most, so one frame holds them. */
void operate_config(const struct operation *operation)
{
	struct daemon *daemon = operation->session->daemon;
	struct setting_record record = settings_record(&daemon->settings);
	struct json_text json;

	operate_answer_begin(daemon, &json);
	json_text_object_begin(&json, NULL);
	json_text_array_begin(&json, "settings");
	record_write(&json, &record, "");
	for (unsigned l = 0; l < settings_lists_count; l++) {
		const struct setting_list *list = &settings_lists[l];
		uint32_t count = settings_list_count(&daemon->settings, list);

		for (uint32_t index = 0; index < count; index++) {
			char prefix[64];

			snprintf(prefix, sizeof(prefix), "%s.%u.", list->name, index);
			record = settings_list_record(&daemon->settings, list, index);
			record_write(&json, &record, prefix);
		}
	}
	for (unsigned i = 0; i < daemon->tenants_count; i++)
		keys_write(&json, daemon, i);
	json_text_array_end(&json);
	json_text_object_end(&json);
	operate_answer_end(operation->session, operation->frame->header.request, &json);
}
