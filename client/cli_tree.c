/* client/cli_tree.c: any JSON as text for a person. */
#include "client/cli.h"

#include <string.h>

#define VALUE_COLUMN 27

static bool ends_with(const char *text, const char *end)
{
	size_t text_bytes = strlen(text), end_bytes = strlen(end);

	return text_bytes >= end_bytes && strcmp(text + text_bytes - end_bytes, end) == 0;
}

/* A number in units that its name tells. */
static void print_integer(FILE *out, const char *name, json_int_t value)
{
	char text[CLI_UNIT_BYTES];

	if (ends_with(name, "bytes"))
		fprintf(out, "%s", cli_bytes((double)value, text));
	else if (ends_with(name, "_us") && value >= 0)
		fprintf(out, "%s", cli_duration((uint64_t)value, text));
	else
		fprintf(out, "%" JSON_INTEGER_FORMAT, value);
}

int cli_print_harmless(FILE *out, const char *text)
{
	int count = 0;

	for (; *text != 0; text++, count++)
		fputc((unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text, out);
	return count;
}

static void print_scalar(FILE *out, const char *name, const json_t *value)
{
	if (json_is_string(value)) {
		cli_print_harmless(out, json_string_value(value));
	} else if (json_is_integer(value)) {
		print_integer(out, name, json_integer_value(value));
	} else if (json_is_real(value)) {
		fprintf(out, "%.4g", json_real_value(value));
	} else {
		fprintf(out, "%s", json_is_true(value) ? "yes" : json_is_false(value) ? "no" : "-");
	}
}

static bool is_nested(const json_t *value)
{
	return json_is_object(value) || json_is_array(value);
}

static void print_value(FILE *out, const char *name, const json_t *value, unsigned depth);

static void print_members(FILE *out, const json_t *object, unsigned depth)
{
	const char *name;
	json_t *member;

	/* Plain values first, then what is nested, each in the order it came. */
	json_object_foreach((json_t *)object, name, member) if (!is_nested(member))
	{
		print_value(out, name, member, depth);
	}
	json_object_foreach((json_t *)object, name, member) if (is_nested(member))
	{
		print_value(out, name, member, depth);
	}
}

static void print_value(FILE *out, const char *name, const json_t *value, unsigned depth)
{
	int indent = (int)depth * 2;
	size_t i;
	json_t *item;

	if (!is_nested(value)) {
		fprintf(out, "%*s", indent, "");
		indent += cli_print_harmless(out, name);
		fprintf(out, "%*s ", indent < VALUE_COLUMN ? VALUE_COLUMN - indent : 0, "");
		print_scalar(out, name, value);
		fputc('\n', out);
		return;
	}
	if (json_is_object(value) || json_array_size(value) == 0 || depth >= CLI_TREE_DEPTH_MAX) {
		fprintf(out, "%*s", indent, "");
		cli_print_harmless(out, name);
		fprintf(out, json_object_size(value) + json_array_size(value) == 0 ? " -\n"
			     : depth >= CLI_TREE_DEPTH_MAX                         ? " ...\n"
										   : "\n");
	}
	if (depth >= CLI_TREE_DEPTH_MAX)
		return;
	if (json_is_object(value)) {
		print_members(out, value, depth + 1);
		return;
	}
	json_array_foreach(value, i, item)
	{
		char numbered[96];

		snprintf(numbered, sizeof(numbered), "%.64s %zu", name, i);
		print_value(out, numbered, item, depth + json_is_array(item));
	}
}

void cli_print_tree(const json_t *value, FILE *out)
{
	if (json_is_object(value))
		print_members(out, value, 0);
	else
		print_value(out, "answer", value, 0);
}
