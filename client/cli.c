/* client/cli.c: reads the command line and runs one command. */
#include "client/cli.h"

#include "base/nearest.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum cli_exit cli_usage_error(struct cli *cli, const char *format, ...)
{
	va_list arguments;

	fprintf(cli->error, "kvtier: ");
	va_start(arguments, format);
	vfprintf(cli->error, format, arguments);
	va_end(arguments);
	fprintf(cli->error, "\ntry: kvtier --help\n");
	return CLI_USAGE;
}

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

/* Takes one option's argument. */
static enum cli_exit cli_take(struct cli *cli, enum cli_option option, const char *argument)
{
	char *end = NULL;
	double seconds;

	cli->given |= option;
	switch (option) {
	case CLI_SOCKET:
		cli->socket = argument;
		break;
	case CLI_OUTPUT:
		cli->is_json = strcmp(argument, "json") == 0;
		if (!cli->is_json && strcmp(argument, "text") != 0)
			return cli_usage_error(cli, "--output %s: text or json is right", argument);
		break;
	case CLI_TIMEOUT:
		seconds = strtod(argument, &end);
		if (end == argument || *end != 0 || !(seconds > 0 && seconds <= 3600))
			return cli_usage_error(
				cli, "--timeout %s: seconds, at most 3600, are right", argument);
		cli->timeout_us = (uint64_t)(seconds * 1e6);
		break;
	case CLI_SPACE:
		if (!cli_parse_hex(argument, cli->space, sizeof(cli->space)))
			return cli_usage_error(cli, "--space %s: 32 hexadecimal digits are right",
					       argument);
		break;
	case CLI_GROUP:
		cli->group = (uint32_t)strtoul(argument, &end, 10);
		if (end == argument || *end != 0 || argument[0] == '-' ||
		    cli->group >= FRAME_GROUPS_MAX)
			return cli_usage_error(cli, "--group %s: 0 to %u is right", argument,
					       FRAME_GROUPS_MAX - 1);
		break;
	case CLI_TENANT:
		cli->tenant = argument;
		if (argument[0] == 0 || strlen(argument) >= FRAME_NAME_BYTES)
			return cli_usage_error(cli, "--tenant: a name of 1 to %u bytes is right",
					       FRAME_NAME_BYTES - 1);
		break;
	case CLI_DESCRIBE:
		return cli_describe(argument, cli->out)
			       ? CLI_DONE
			       : cli_usage_error(
					 cli, "--describe %s: man, completion or markdown is right",
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

static enum cli_exit cli_read_options(struct cli *cli, int count, char **arguments)
{
	struct option rows[CLI_OPTIONS_MAX + 1] = { { .name = NULL } };
	char letters[2 * CLI_OPTIONS_MAX + 2] = ":";
	int code;

	_Static_assert(sizeof(enum cli_option) <= sizeof(int), "bits fit a code");
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
		const struct cli_option_row *found = NULL;
		enum cli_exit result;

		for (unsigned i = 0; i < cli_options_count; i++)
			if (code == 256 + (int)i || (code != 0 && code == cli_options[i].letter))
				found = &cli_options[i];
		if (found == NULL)
			return cli_unknown_option(cli, arguments[optind > 0 ? optind - 1 : 0]);
		result = cli_take(cli, found->bit, optarg);
		if (result != CLI_DONE)
			return result;
	}
	return CLI_DONE;
}

static enum cli_exit cli_run_command(struct cli *cli, const char *name)
{
	const char *names[CLI_COMMANDS_MAX];
	const struct cli_command *command = NULL;
	const char *nearest;
	unsigned wrong;

	for (unsigned i = 0; i < cli_commands_count; i++) {
		names[i] = cli_commands[i].name;
		if (strcmp(name, names[i]) == 0)
			command = &cli_commands[i];
	}
	if (command == NULL) {
		nearest = nearest_word(name, names, cli_commands_count);
		return nearest == NULL
			       ? cli_usage_error(cli, "no such command: %s", name)
			       : cli_usage_error(cli, "no such command: %s; did you mean %s?", name,
						 nearest);
	}
	wrong = cli->given & ~(command->options | CLI_EVERYWHERE);
	for (unsigned i = 0; i < cli_options_count; i++)
		if ((wrong & cli_options[i].bit) != 0)
			return cli_usage_error(cli, "%s does not take --%s; right is: kvtier %s %s",
					       name, cli_options[i].name, name, command->arguments);
	if (cli->words_count < command->words_min || cli->words_count > command->words_max)
		return cli_usage_error(cli, "%s: %d words follow; right is: kvtier %s %s", name,
				       cli->words_count, name, command->arguments);
	return command->run(cli);
}

int cli_run(int arguments_count, char **arguments, FILE *out, FILE *error)
{
	struct cli cli = { .timeout_us = 5000000, .out = out, .error = error };
	enum cli_exit result;

	/* All that follows is kvtierd's to read. */
	if (arguments_count >= 2 && strcmp(arguments[1], "verify") == 0)
		return cli_verify_run(arguments_count - 2, arguments + 2, error);
	result = cli_read_options(&cli, arguments_count, arguments);
	if (result != CLI_DONE || (cli.given & CLI_DESCRIBE) != 0)
		return result;
	cli.has_space = (cli.given & CLI_SPACE) != 0;
	cli.is_all = (cli.given & CLI_ALL) != 0;
	if (cli.socket == NULL)
		cli.socket = getenv("KVTIER_SOCKET");
	if (cli.socket == NULL || cli.socket[0] == 0)
		cli.socket = CLIENT_SOCKET_DEFAULT;
	if ((cli.given & CLI_HELP) != 0) {
		cli_print_usage(out);
		return CLI_DONE;
	}
	if ((cli.given & CLI_VERSION) != 0)
		return cli_version(&cli);
	if (optind >= arguments_count)
		return cli_usage_error(&cli, "a command is missing");
	cli.words = arguments + optind + 1;
	cli.words_count = arguments_count - optind - 1;
	return cli_run_command(&cli, arguments[optind]);
}

enum cli_exit cli_ask(struct cli *cli, struct link *link, void *frame, enum frame_type reply)
{
	uint64_t deadline_us = client_deadline_us(cli->timeout_us);
	struct error error = { .code = 0 };
	int result = link_init(link, -1);

	if (result < 0) {
		fprintf(cli->error, "kvtier: no memory\n");
		return CLI_UNREACHED;
	}
	result = link_open(link, cli->socket, FRAME_CONTROL, deadline_us, &error);
	if (result < 0) {
		fprintf(cli->error, "kvtier: %s\n", error.text);
		return CLI_UNREACHED;
	}
	result = link_ask(link, frame, reply, deadline_us, &error);
	if (result == 0)
		return CLI_DONE;
	fprintf(cli->error, "kvtier: %s\n", error.text);
	return link->is_broken || result == -ETIMEDOUT ? CLI_UNREACHED : CLI_REFUSED;
}
