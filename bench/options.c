/* bench/options.c: parses options by their table. */
#include "bench/options.h"

#include "base/nearest.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_BYTES 64

static const struct {
	const char *suffix;
	double bytes;
} units[] = {
	{ "", 1 },
	{ "KiB", 1024.0 },
	{ "MiB", 1048576.0 },
	{ "GiB", 1073741824.0 },
	{ "TiB", 1099511627776.0 },
};

int options_parse_bytes(const char *text, uint64_t *out_bytes)
{
	char *end;

	errno = 0;
	double number = strtod(text, &end);
	if (end == text || errno != 0 || !isfinite(number) || number < 0)
		return -EINVAL;
	for (unsigned i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		double bytes = number * units[i].bytes;
		if (strcmp(end, units[i].suffix) != 0)
			continue;
		if (bytes > 9e18 || bytes != floor(bytes))
			return -EINVAL;
		*out_bytes = (uint64_t)bytes;
		return 0;
	}
	return -EINVAL;
}

static void options_help(const struct options *options)
{
	printf("kvtier-bench %s: %s\n\n", options->command, options->summary);
	for (unsigned i = 0; i < options->count; i++) {
		const struct option_row *row = &options->rows[i];
		char left[NAME_BYTES];
		snprintf(left, sizeof(left), "--%s%s%s", row->name, row->metavar != NULL ? " " : "",
			 row->metavar != NULL ? row->metavar : "");
		printf("  %-26s %s%s\n", left, row->help, row->required ? " (required)" : "");
	}
	printf("  %-26s this help\n", "--help");
}

static int unknown_option(const struct options *options, const char *name, struct error *error)
{
	const char *names[OPTIONS_MAX];

	assert(options->count <= OPTIONS_MAX);
	for (unsigned i = 0; i < options->count; i++)
		names[i] = options->rows[i].name;
	const char *nearest = nearest_word(name, names, options->count);
	if (nearest != NULL)
		return error_set(error, -EINVAL, "%s knows no option --%.40s; did you mean --%s?",
				 options->command, name, nearest);
	return error_set(error, -EINVAL, "%s knows no option --%.40s; see kvtier-bench %s --help",
			 options->command, name, options->command);
}

static int range_check(const struct option_row *row, double number, const char *text,
		       struct error *error)
{
	if (number >= row->low && (row->high == 0 || number <= row->high))
		return 0;
	if (row->high == 0)
		return error_set(error, -EINVAL, "--%s is %.40s, expected at least %.15g",
				 row->name, text, row->low);
	return error_set(error, -EINVAL, "--%s is %.40s, expected %.15g to %.15g", row->name, text,
			 row->low, row->high);
}

static int value_set(const struct option_row *row, void *target, const char *text,
		     struct error *error)
{
	void *value = (char *)target + row->offset;
	char *end;
	uint64_t bytes = 0;

	switch (row->kind) {
	case OPTION_FLAG:
		*(bool *)value = true;
		return 0;
	case OPTION_TEXT:
		*(const char **)value = text;
		return 0;
	case OPTION_COUNT:
		errno = 0;
		bytes = strtoull(text, &end, 10);
		if (end == text || *end != '\0' || errno != 0 || text[0] < '0' || text[0] > '9')
			return error_set(error, -EINVAL,
					 "--%s is \"%.40s\", expected a whole number", row->name,
					 text);
		*(uint64_t *)value = bytes;
		return range_check(row, (double)bytes, text, error);
	case OPTION_BYTES:
		if (options_parse_bytes(text, &bytes) < 0)
			return error_set(error, -EINVAL,
					 "--%s is \"%.40s\", expected a size such as 2MiB or 65536",
					 row->name, text);
		*(uint64_t *)value = bytes;
		return range_check(row, (double)bytes, text, error);
	case OPTION_NUMBER:
		break;
	}
	double number = strtod(text, &end);
	if (end == text || *end != '\0' || !isfinite(number))
		return error_set(error, -EINVAL, "--%s is \"%.40s\", expected a number", row->name,
				 text);
	*(double *)value = number;
	return range_check(row, number, text, error);
}

static const struct option_row *option_find(const struct options *options, const char *name)
{
	for (unsigned i = 0; i < options->count; i++)
		if (strcmp(options->rows[i].name, name) == 0)
			return &options->rows[i];
	return NULL;
}

/* Takes one option and its value; *at is moved behind them. */
static int option_take(const struct options *options, void *target, int argc, char **argv, int *at,
		       bool *given, struct error *error)
{
	const char *argument = argv[*at];
	char name[NAME_BYTES];

	if (strncmp(argument, "--", 2) != 0 || argument[2] == '\0')
		return error_set(
			error, -EINVAL,
			"%s takes options only, and \"%.60s\" is none; see kvtier-bench %s --help",
			options->command, argument, options->command);
	const char *equals = strchr(argument, '=');
	size_t length = equals != NULL ? (size_t)(equals - argument) - 2 : strlen(argument) - 2;
	snprintf(name, sizeof(name), "%.*s", length < NAME_BYTES ? (int)length : NAME_BYTES - 1,
		 argument + 2);
	const struct option_row *row = option_find(options, name);
	if (row == NULL)
		return unknown_option(options, name, error);
	given[row - options->rows] = true;
	++*at;
	if (row->kind == OPTION_FLAG) {
		if (equals != NULL)
			return error_set(error, -EINVAL, "--%s takes no value", name);
		return value_set(row, target, NULL, error);
	}
	if (equals != NULL)
		return value_set(row, target, equals + 1, error);
	if (*at == argc)
		return error_set(error, -EINVAL, "--%s needs a value: --%s %s", name, name,
				 row->metavar);
	return value_set(row, target, argv[(*at)++], error);
}

int options_parse(const struct options *options, void *target, int argc, char **argv,
		  struct error *error)
{
	bool given[OPTIONS_MAX] = { false };
	int at = 0;

	assert(options->count <= OPTIONS_MAX);
	while (at < argc) {
		if (strcmp(argv[at], "--help") == 0) {
			options_help(options);
			return 1;
		}
		int result = option_take(options, target, argc, argv, &at, given, error);
		if (result < 0)
			return result;
	}
	for (unsigned i = 0; i < options->count; i++)
		if (options->rows[i].required && !given[i])
			return error_set(error, -EINVAL, "%s needs --%s %s", options->command,
					 options->rows[i].name, options->rows[i].metavar);
	return 0;
}
