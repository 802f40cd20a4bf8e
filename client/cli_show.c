/* client/cli_show.c: one JSON value, printed in the form that was asked for. */
#include "client/cli.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static bool is_nested(const json_t *value)
{
	return (json_is_object(value) && json_object_size(value) > 0) ||
	       (json_is_array(value) && json_array_size(value) > 0);
}

/* A JSON scalar is a YAML scalar; strings are quoted as JSON does it, so none is taken for a number
 * or a keyword. */
static void yaml_scalar(const json_t *value, FILE *out)
{
	char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);

	fprintf(out, "%s\n", text == NULL ? "null" : text);
	free(text);
}

static bool is_plain_key(const char *key)
{
	if (*key == 0 || !isalpha((unsigned char)*key))
		return false;
	for (; *key != 0; key++)
		if (!isalnum((unsigned char)*key) && *key != '_' && *key != '-')
			return false;
	return true;
}

/* In YAML 1.1 these are booleans. */
static bool is_keyword(const char *key)
{
	static const char *const words[] = { "y", "n", "yes", "no", "on", "off", "true", "false",
					     "null" };

	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strcasecmp(key, words[i]) == 0)
			return true;
	return false;
}

static void yaml_value(const json_t *value, unsigned depth, bool is_in_list, FILE *out)
{
	const char *key;
	json_t *item;
	size_t i;
	bool is_first = true;

	if (!is_nested(value) || depth >= CLI_TREE_DEPTH_MAX) {
		yaml_scalar(value, out);
		return;
	}
	if (json_is_array(value)) {
		json_array_foreach(value, i, item)
		{
			fprintf(out, "%*s- ", i == 0 && is_in_list ? 0 : (int)depth * 2, "");
			yaml_value(item, depth + 1, true, out);
		}
		return;
	}
	json_object_foreach((json_t *)value, key, item)
	{
		json_t *name = json_string(key);
		char *quoted = json_dumps(name, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
		bool is_plain = is_plain_key(key) && !is_keyword(key);

		fprintf(out, "%*s%s:%s", is_first && is_in_list ? 0 : (int)depth * 2, "",
			is_plain ? key : quoted, is_nested(item) ? "\n" : " ");
		free(quoted);
		json_decref(name);
		is_first = false;
		yaml_value(item, depth + 1, false, out);
	}
}

void cli_print_yaml(const json_t *value, FILE *out)
{
	yaml_value(value, 0, false, out);
}

enum cli_exit cli_show(struct cli *cli, json_t *value,
		       void (*table)(struct cli *cli, const json_t *value))
{
	if (value == NULL) {
		fprintf(cli->error, "kvtier: no memory\n");
		return CLI_REFUSED;
	}
	if (cli->form == CLI_JSON) {
		json_dumpf(value, cli->out, JSON_COMPACT | JSON_ENCODE_ANY);
		fputc('\n', cli->out);
	} else if (cli->form == CLI_YAML) {
		cli_print_yaml(value, cli->out);
	} else if (table != NULL) {
		table(cli, value);
	} else {
		cli_print_tree(value, cli->out);
	}
	json_decref(value);
	return CLI_DONE;
}
