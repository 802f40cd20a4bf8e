/* client/cli_units.c: numbers for people, and back. */
#include "client/cli.h"

#include <stdlib.h>
#include <string.h>

#define SECOND_US 1000000.0

const char *cli_bytes(double bytes, char *text)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
	unsigned unit = 0;

	while (bytes >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		bytes /= 1024;
		unit++;
	}
	snprintf(text, CLI_UNIT_BYTES, unit == 0 || bytes >= 100 ? "%.0f %s" : "%.1f %s", bytes,
		 units[unit]);
	return text;
}

const char *cli_duration(uint64_t us, char *text)
{
	static const struct {
		double us;
		const char *name;
	} units[] = { { 86400 * SECOND_US, "d" }, { 3600 * SECOND_US, "h" },
		      { 60 * SECOND_US, "min" }, { SECOND_US, "s" }, { 1000, "ms" }, { 1, "us" } };
	unsigned unit = us == 0 ? 3 : 0; /* "0 s" */

	while (unit + 1 < sizeof(units) / sizeof(units[0]) && us > 0 && (double)us < units[unit].us)
		unit++;
	double count = (double)us / units[unit].us;
	snprintf(text, CLI_UNIT_BYTES,
		 us == 0 || count >= 100 || units[unit].us == 1 ? "%.0f %s" : "%.1f %s", count,
		 units[unit].name);
	return text;
}

const char *cli_count(double count, char *text)
{
	if (count >= 1e6)
		snprintf(text, CLI_UNIT_BYTES, "%.1f M", count / 1e6);
	else if (count >= 1e4)
		snprintf(text, CLI_UNIT_BYTES, "%.1f k", count / 1e3);
	else
		snprintf(text, CLI_UNIT_BYTES, count < 10 && count != (uint64_t)count ? "%.1f" : "%.0f",
			 count);
	return text;
}

bool cli_parse_duration(const char *text, uint64_t *out_us)
{
	static const struct {
		const char *name;
		double us;
	} units[] = { { "", SECOND_US },	 { "s", SECOND_US },     { "m", 60 * SECOND_US },
		      { "min", 60 * SECOND_US }, { "h", 3600 * SECOND_US }, { "d", 86400 * SECOND_US } };
	char *end = NULL;
	double count = strtod(text, &end);

	if (end == text || !(count > 0 && count < 1e9))
		return false;
	for (unsigned i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (strcmp(end, units[i].name) == 0) {
			*out_us = (uint64_t)(count * units[i].us);
			return true;
		}
	return false;
}

void cli_bar(double share, unsigned width, char *text)
{
	unsigned full;

	share = share < 0 ? 0 : share > 1 ? 1 : share;
	full = (unsigned)(share * width + 0.5);
	/* A little of something is not nothing. */
	if (full == 0 && share > 0)
		full = 1;
	text[0] = '[';
	memset(text + 1, '.', width);
	memset(text + 1, '#', full);
	text[width + 1] = ']';
	text[width + 2] = 0;
}

double cli_number(const json_t *object, const char *name)
{
	const json_t *value = json_object_get(object, name);

	return json_is_number(value) ? json_number_value(value) : 0;
}

const char *cli_string(const json_t *object, const char *name)
{
	const char *value = json_string_value(json_object_get(object, name));

	return value == NULL ? "" : value;
}

const json_t *cli_get(const json_t *object, const char *name)
{
	return json_object_get(object, name);
}
