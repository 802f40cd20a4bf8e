/* daemon/settings_value.c: one value as text and as a field: reading, checking, writing. */
#include "daemon/settings_table.h"

#include "base/nearest.h"
#include "base/numa.h"
#include "transfer/gpu_names.h"

#include <arpa/inet.h>
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define NAMES_MAX (SETTINGS_ORIGINS + 4)

struct unit {
	const char *name;
	uint64_t factor;
};

static const struct unit size_units[] = {
	/* the largest first, so that formatting takes it */
	{ "TiB", UINT64_C(1) << 40 },
	{ "GiB", UINT64_C(1) << 30 },
	{ "MiB", UINT64_C(1) << 20 },
	{ "KiB", UINT64_C(1) << 10 },
	{ "B", 1 },
	{ NULL, 0 },
};
static const struct unit duration_units[] = {
	{ "h", UINT64_C(3600000000) },
	{ "m", UINT64_C(60000000) },
	{ "s", UINT64_C(1000000) },
	{ "ms", 1000 },
	{ "us", 1 },
	{ NULL, 0 },
};

static const struct unit *units_of(enum setting_type type)
{
	if (type == SETTING_SIZE)
		return size_units;
	return type == SETTING_DURATION ? duration_units : NULL;
}

/* What a right value looks like, for messages. */
static const char *example_of(enum setting_type type)
{
	if (type == SETTING_SIZE)
		return "a size such as 64MiB, 1GiB or 4096";
	if (type == SETTING_DURATION)
		return "a duration such as 100ms, 5s or 1m";
	return "a whole number such as 16";
}

/* Reads the digits that begin `text`; NULL when there are none or they do not fit. */
static const char *digits_read(const char *text, uint64_t *out_number)
{
	uint64_t number = 0;
	const char *end = text;

	for (; isdigit((unsigned char)*end); end++) {
		if (__builtin_mul_overflow(number, 10u, &number) ||
		    __builtin_add_overflow(number, (uint64_t)(*end - '0'), &number))
			return NULL;
	}
	if (end == text)
		return NULL;
	*out_number = number;
	return end;
}

static bool number_read(enum setting_type type, const char *text, uint64_t *out_number)
{
	const struct unit *unit = units_of(type);
	uint64_t number = 0;
	const char *rest = digits_read(text, &number);

	if (rest == NULL)
		return false;
	if (*rest == '\0') {
		*out_number = number;
		return type != SETTING_DURATION ||
		       number == 0; /* "5" of what? Only nothing needs no unit */
	}
	for (; unit != NULL && unit->name != NULL; unit++)
		if (strcmp(rest, unit->name) == 0)
			return !__builtin_mul_overflow(number, unit->factor, out_number);
	return false;
}

void setting_format_number(enum setting_type type, uint64_t number, char *text, size_t text_bytes)
{
	const struct unit *unit = units_of(type);

	if (unit == NULL || number == 0 || (type == SETTING_SIZE && number < 1024)) {
		snprintf(text, text_bytes, "%llu", (unsigned long long)number);
		return;
	}
	while (number % unit->factor != 0)
		unit++;
	assert(unit->name != NULL);
	if (type == SETTING_SIZE && unit->factor == 1)
		snprintf(text, text_bytes, "%llu", (unsigned long long)number);
	else
		snprintf(text, text_bytes, "%llu%s", (unsigned long long)(number / unit->factor),
			 unit->name);
}

static int number_store(const struct setting *row, void *field, const char *text,
			const char *origin, struct error *error)
{
	char low[32], high[32];
	uint64_t number;

	if (!number_read(row->type, text, &number))
		return error_set(error, -EINVAL, "%s: %s: '%.40s' is not %s", origin, row->name,
				 text, example_of(row->type));
	if ((number < row->minimum && !(number == 0 && row->zero_allowed)) ||
	    number > row->maximum) {
		setting_format_number(row->type, row->minimum, low, sizeof(low));
		setting_format_number(row->type, row->maximum, high, sizeof(high));
		return error_set(error, -ERANGE, "%s: %s: %.40s is not within %s and %s%s", origin,
				 row->name, text, low, high, row->zero_allowed ? ", or 0" : "");
	}
	if (row->bytes == sizeof(uint32_t)) {
		assert(number <= UINT32_MAX);
		memcpy(field, &(uint32_t){ (uint32_t)number }, sizeof(uint32_t));
	} else {
		assert(row->bytes == sizeof(uint64_t));
		memcpy(field, &number, sizeof(number));
	}
	return 0;
}

static int bool_store(const struct setting *row, void *field, const char *text, const char *origin,
		      struct error *error)
{
	bool value = strcmp(text, "true") == 0;

	assert(row->bytes == sizeof(bool));
	if (!value && strcmp(text, "false") != 0)
		return error_set(error, -EINVAL, "%s: %s: '%.40s' is neither true nor false",
				 origin, row->name, text);
	memcpy(field, &value, sizeof(value));
	return 0;
}

/* "127.0.0.1:9469" or "[::1]:9469"; a name would need a lookup, which may hang a start. */
static bool listen_is_right(const char *text)
{
	char host[64];
	uint8_t address[16];
	uint64_t port;
	const char *colon = strrchr(text, ':'), *end;

	if (text[0] == '\0')
		return true;
	if (colon == NULL || (size_t)(colon - text) >= sizeof(host))
		return false;
	end = digits_read(colon + 1, &port);
	if (end == NULL || *end != '\0' || port > 65535)
		return false;
	memcpy(host, text, (size_t)(colon - text));
	host[colon - text] = '\0';
	if (host[0] != '[')
		return inet_pton(AF_INET, host, address) == 1;
	if (host[strlen(host) - 1] != ']')
		return false;
	host[strlen(host) - 1] = '\0';
	return inet_pton(AF_INET6, host + 1, address) == 1;
}

bool settings_is_peer(const char *text)
{
	static const char letters[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:[]";
	const char *colon = strrchr(text, ':'), *end;
	uint64_t port;

	if (colon == NULL || colon == text || text[strspn(text, letters)] != '\0')
		return false;
	/* Without brackets the port would be the address's last number. */
	if (memchr(text, ':', (size_t)(colon - text)) != NULL &&
	    (text[0] != '[' || colon[-1] != ']'))
		return false;
	end = digits_read(colon + 1, &port);
	return end != NULL && *end == '\0' && port > 0 && port <= 65535;
}

static bool is_printable(const char *text)
{
	for (; *text != '\0'; text++)
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			return false;
	return true;
}

static const char name_letters[] =
	"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";

/* NULL when right, or what would be. */
static const char *text_complaint(enum setting_check check, const char *text)
{
	uint64_t nodes;

	if (!is_printable(text))
		return "has control characters";
	switch (check) {
	case CHECK_PATH_OR_NONE:
		if (text[0] == '\0')
			return NULL;
		return text[0] == '/' ? NULL : "is not an absolute path, which begins with '/'";
	case CHECK_PATH:
		return text[0] == '/' ? NULL : "is not an absolute path, which begins with '/'";
	case CHECK_NAME:
		if (text[0] == '\0' || text[0] == '.' || text[strspn(text, name_letters)] != '\0')
			return "is not a name of letters, digits, '-', '_' and '.' (not first)";
		return NULL;
	case CHECK_LISTEN:
		return listen_is_right(text)
			       ? NULL
			       : "is not ADDRESS:PORT, such as 127.0.0.1:9469 or [::1]:9469";
	case CHECK_PEER_OR_NONE:
		if (text[0] == '\0')
			return NULL;
		__attribute__((fallthrough));
	case CHECK_PEER:
		return settings_is_peer(text)
			       ? NULL
			       : "is not NAME:PORT or ADDRESS:PORT, such as kv-2:9470 or [fd00::2]:9470";
	case CHECK_GPUS:
		return gpu_names_are_right(text)
			       ? NULL
			       : "is neither auto nor off nor GPUs, each once, as in " GPU_NAMES_EXAMPLE;
	case CHECK_NUMA:
		return strcmp(text, "auto") == 0 || strcmp(text, "off") == 0 ||
				       numa_nodes_read(text, &nodes) == 0
			       ? NULL
			       : "is neither auto nor off nor NUMA nodes below 64, as in 0,2-3";
	case CHECK_NOTHING:
		break;
	}
	return NULL;
}

static int text_store(const struct setting *row, void *field, const char *text, const char *origin,
		      struct error *error)
{
	const char *complaint = text_complaint(row->check, text);

	if (complaint != NULL)
		return error_set(error, -EINVAL, "%s: %s: '%.60s' %s", origin, row->name, text,
				 complaint);
	if (strlen(text) >= row->bytes)
		return error_set(error, -ENAMETOOLONG, "%s: %s: longer than %u characters", origin,
				 row->name, row->bytes - 1);
	memset(field, 0, row->bytes);
	memcpy(field, text, strlen(text));
	return 0;
}

static int choice_store(const struct setting *row, void *field, const char *text,
			const char *origin, struct error *error)
{
	size_t text_length = strlen(text);
	const char *choice = row->choices;

	while (choice != NULL) {
		size_t length = strcspn(choice, " ");

		if (length == text_length && memcmp(choice, text, length) == 0)
			return text_store(row, field, text, origin, error);
		choice = choice[length] == ' ' ? choice + length + 1 : NULL;
	}
	return error_set(error, -EINVAL, "%s: %s: '%.40s' is none of: %s", origin, row->name, text,
			 row->choices);
}

int setting_store(const struct setting_record *record, const struct setting *row, const char *text,
		  const char *origin, struct error *error)
{
	void *field = (char *)record->start + row->offset;
	struct settings_origin *kept = &record->origins[row - record->rows];
	size_t origin_bytes = strlen(origin);
	int result;

	assert(row >= record->rows && row < record->rows + record->rows_count);
	switch (row->type) {
	case SETTING_TEXT:
		result = text_store(row, field, text, origin, error);
		break;
	case SETTING_CHOICE:
		result = choice_store(row, field, text, origin, error);
		break;
	case SETTING_BOOL:
		result = bool_store(row, field, text, origin, error);
		break;
	default:
		result = number_store(row, field, text, origin, error);
	}
	if (result < 0)
		return result;
	/* A path's end and the line say more than its beginning. */
	if (origin_bytes >= sizeof(kept->text))
		origin += origin_bytes - sizeof(kept->text) + 1;
	snprintf(kept->text, sizeof(kept->text), "%s", origin);
	return 0;
}

void setting_format(const struct setting_record *record, const struct setting *row, char *text,
		    size_t text_bytes)
{
	const char *field = (const char *)record->start + row->offset;
	uint64_t number = 0;
	uint32_t small;

	if (row->type == SETTING_TEXT || row->type == SETTING_CHOICE) {
		snprintf(text, text_bytes, "%s", field);
		return;
	}
	if (row->type == SETTING_BOOL) {
		snprintf(text, text_bytes, "%s", *(const bool *)field ? "true" : "false");
		return;
	}
	if (row->bytes == sizeof(small)) {
		memcpy(&small, field, sizeof(small));
		number = small;
	} else {
		memcpy(&number, field, sizeof(number));
	}
	setting_format_number(row->type, number, text, text_bytes);
}

void setting_record_default(const struct setting_record *record)
{
	for (unsigned i = 0; i < record->rows_count; i++) {
		const struct setting *row = &record->rows[i];

		memset((char *)record->start + row->offset, 0, row->bytes);
		if (row->initial[0] != '\0') {
			int result = setting_store(record, row, row->initial, "default", NULL);

			assert(result == 0);
		}
		record->origins[i].text[0] = '\0';
	}
}

int setting_find(const struct setting_record *record, const char *name, const char *origin,
		 const struct setting **out_row, struct error *error)
{
	const char *names[NAMES_MAX];
	unsigned count = 0;
	const char *nearest;

	for (unsigned i = 0; i < record->rows_count; i++) {
		if (strcmp(record->rows[i].name, name) == 0) {
			*out_row = &record->rows[i];
			return 0;
		}
		names[count++] = record->rows[i].name;
	}
	for (unsigned i = 0; record->rows == settings_rows && i < settings_lists_count; i++)
		names[count++] = settings_lists[i].name;
	assert(count <= NAMES_MAX);
	nearest = nearest_word(name, names, count);
	if (nearest == NULL)
		return error_set(error, -EINVAL,
				 "%s: unknown key '%.40s'; kvtierd --help lists all", origin, name);
	return error_set(error, -EINVAL, "%s: unknown key '%.40s'; the nearest is '%s'", origin,
			 name, nearest);
}
