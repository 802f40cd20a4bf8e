/* client/cli_options.c: the options of the command line, each checked as it is read. */
#include "client/cli.h"

#include "base/nearest.h"

#include <stdlib.h>
#include <string.h>

static int hex_digit(char digit)
{
	return digit >= '0' && digit <= '9'   ? digit - '0'
	       : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10
	       : digit >= 'A' && digit <= 'F' ? digit - 'A' + 10
					      : -1;
}

bool cli_parse_hex(const char *text, uint8_t *out, size_t bytes)
{
	if (strlen(text) != bytes * 2)
		return false;
	for (size_t i = 0; i < bytes; i++) {
		int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		out[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

static bool parse_number(const char *text, uint64_t maximum, uint64_t *out_number)
{
	char *end = NULL;

	if (text[0] < '0' || text[0] > '9')
		return false;
	*out_number = strtoull(text, &end, 10);
	return *end == 0 && *out_number <= maximum;
}

static enum cli_exit take_output(struct cli *cli, const char *argument)
{
	if (strcmp(argument, "json") == 0)
		cli->form = CLI_JSON;
	else if (strcmp(argument, "yaml") == 0)
		cli->form = CLI_YAML;
	else if (strcmp(argument, "table") == 0 || strcmp(argument, "text") == 0)
		cli->form = CLI_TABLE;
	else
		return cli_usage_error(cli, "--output %s: table, json or yaml is right", argument);
	return CLI_DONE;
}

static enum cli_exit take_timeout(struct cli *cli, const char *argument)
{
	char *end = NULL;
	double seconds = strtod(argument, &end);

	if (end == argument || *end != 0 || !(seconds > 0 && seconds <= 3600))
		return cli_usage_error(cli, "--timeout %s: seconds, at most 3600, are right",
				       argument);
	cli->timeout_us = (uint64_t)(seconds * 1e6);
	return CLI_DONE;
}

static enum cli_exit take_name(struct cli *cli, const char *argument)
{
	cli->tenant = argument;
	if (argument[0] == 0 || strlen(argument) >= FRAME_NAME_BYTES)
		return cli_usage_error(cli, "--tenant: a name of 1 to %u bytes is right",
				       FRAME_NAME_BYTES - 1);
	return CLI_DONE;
}

/* 32 digits, or the first of them. */
static enum cli_exit take_digits(struct cli *cli, const char *option, const char *argument,
				 uint8_t out[16], const char **out_prefix)
{
	*out_prefix = cli_is_prefix(argument) ? argument : NULL;
	if (*out_prefix == NULL && !cli_parse_hex(argument, out, 16))
		return cli_usage_error(cli, "--%s %s: 32 hexadecimal digits are right, or the first 6 or more",
				       option, argument);
	return CLI_DONE;
}

/* Takes one option's argument. */
static enum cli_exit cli_take(struct cli *cli, enum cli_option option, const char *argument)
{
	uint64_t number = 0;

	cli->given |= option;
	switch (option) {
	case CLI_SOCKET:
		cli->socket = argument;
		break;
	case CLI_OUTPUT:
		return take_output(cli, argument);
	case CLI_TIMEOUT:
		return take_timeout(cli, argument);
	case CLI_TENANT:
		return take_name(cli, argument);
	case CLI_SPACE:
		cli->has_space = true;
		return take_digits(cli, "space", argument, cli->space, &cli->space_prefix);
	case CLI_GROUP:
		if (!parse_number(argument, FRAME_GROUPS_MAX - 1, &number))
			return cli_usage_error(cli, "--group %s: 0 to %u is right", argument,
					       FRAME_GROUPS_MAX - 1);
		cli->group = (uint32_t)number;
		break;
	case CLI_LIMIT:
		if (!parse_number(argument, UINT32_MAX, &cli->limit) || cli->limit == 0)
			return cli_usage_error(cli, "--limit %s: a number from 1 is right",
					       argument);
		break;
	case CLI_FOR:
		if (!cli_parse_duration(argument, &cli->for_us))
			return cli_usage_error(
				cli, "--for %s: a duration such as 90s, 30m, 8h or 7d is right",
				argument);
		break;
	case CLI_TIER:
		if (strcmp(argument, "cpu") != 0 && strcmp(argument, "nvme") != 0)
			return cli_usage_error(cli, "--tier %s: cpu or nvme is right", argument);
		cli->tiers |= 1u << (argument[0] == 'c' ? TIER_CPU : TIER_NVME);
		break;
	case CLI_RATE:
		if (!parse_number(argument, FRAME_VERIFY_MIB_MAX, &cli->rate_mib) ||
		    cli->rate_mib == 0)
			return cli_usage_error(cli, "--rate %s: 1 to %u MiB a second is right",
					       argument, FRAME_VERIFY_MIB_MAX);
		break;
	case CLI_REQUEST:
		return take_digits(cli, "request", argument, cli->tag, &cli->tag_prefix);
	case CLI_DESCRIBE:
		return cli_describe(argument, cli->out)
			       ? CLI_DONE
			       : cli_usage_error(
					 cli,
					 "--describe %s: man, markdown, bash, zsh or fish is right",
					 argument);
	default:
		break;
	}
	return CLI_DONE;
}

static enum cli_exit cli_unknown_option(struct cli *cli, const char *word)
{
	const char *names[CLI_OPTIONS_MAX];
	const char *nearest;

	for (unsigned i = 0; i < cli_options_count; i++)
		names[i] = cli_options[i].name;
	nearest = strncmp(word, "--", 2) == 0 ? nearest_word(word + 2, names, cli_options_count)
					      : NULL;
	return nearest == NULL
		       ? cli_usage_error(cli, "no such option, or its argument is missing: %s",
					 word)
		       : cli_usage_error(
				 cli,
				 "no such option, or its argument is missing: %s; did you mean --%s?",
				 word, nearest);
}

static const struct cli_option_row *option_of(int code)
{
	for (unsigned i = 0; i < cli_options_count; i++)
		if (code == 256 + (int)i || (code != 0 && code == cli_options[i].letter))
			return &cli_options[i];
	return NULL;
}

enum cli_exit cli_read_options(struct cli *cli, int count, char **arguments)
{
	struct option rows[CLI_OPTIONS_MAX + 1] = { { .name = NULL } };
	char letters[3 * CLI_OPTIONS_MAX + 2] = ":";
	int code;

	for (unsigned i = 0; i < cli_options_count; i++) {
		rows[i] = (struct option){ .name = cli_options[i].name,
					   .has_arg = cli_options[i].argument != NULL,
					   .val = 256 + (int)i };
		if (cli_options[i].letter != 0)
			snprintf(letters + strlen(letters), 3, "%c%s", cli_options[i].letter,
				 cli_options[i].argument != NULL ? ":" : "");
	}
	optind = 0; /* glibc: begin anew, for tests */
	opterr = 0;
	while ((code = getopt_long(count, arguments, letters, rows, NULL)) != -1) {
		const struct cli_option_row *found = option_of(code);
		enum cli_exit result;

		if (found == NULL)
			return cli_unknown_option(cli, arguments[optind > 0 ? optind - 1 : 0]);
		result = cli_take(cli, found->bit, optarg);
		if (result != CLI_DONE)
			return result;
	}
	cli->is_all = (cli->given & CLI_ALL) != 0;
	cli->is_yes = (cli->given & CLI_YES) != 0;
	cli->is_once = (cli->given & CLI_ONCE) != 0;
	cli->is_off = (cli->given & CLI_OFF) != 0;
	return CLI_DONE;
}
