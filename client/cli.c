/* client/cli.c: finds the command, the socket that it asks, and runs it. */
#include "client/cli.h"

#include "base/nearest.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define SOCKET_ADMIN "/admin.sock"

enum cli_exit cli_usage_error(struct cli *cli, const char *format, ...)
{
	va_list arguments;

	fprintf(cli->error, "kvtier: ");
	va_start(arguments, format);
	vfprintf(cli->error, format, arguments);
	va_end(arguments);
	if (cli->name != NULL)
		fprintf(cli->error, "\ntry: kvtier help %s\n", cli->name);
	else
		fprintf(cli->error, "\ntry: kvtier --help\n");
	return CLI_USAGE;
}

static enum cli_exit unknown_command(struct cli *cli, const char *name)
{
	const char *names[CLI_COMMANDS_MAX];
	const char *nearest;

	for (unsigned i = 0; i < cli_commands_count; i++)
		names[i] = cli_commands[i].name;
	nearest = nearest_word(name, names, cli_commands_count);
	return nearest == NULL ? cli_usage_error(cli, "no such command: %s", name)
			       : cli_usage_error(cli, "no such command: %s; did you mean %s?", name,
						 nearest);
}

/* RUN/t/TENANT/kv.sock -> RUN/admin.sock. False: it is not such a path. */
static bool admin_beside(const char *tenant_socket, char *path)
{
	size_t end = strlen(tenant_socket);

	for (unsigned slashes = 0; slashes < 3; slashes++) {
		while (end > 0 && tenant_socket[end - 1] != '/')
			end--;
		if (end == 0)
			return false;
		end--;
	}
	return strncmp(tenant_socket + end, "/t/", 3) == 0 &&
	       snprintf(path, CLI_PATH_BYTES, "%.*s" SOCKET_ADMIN, (int)end, tenant_socket) <
		       CLI_PATH_BYTES;
}

void cli_admin_socket(const struct cli *cli, char *path)
{
	if (!admin_beside(cli->path, path))
		snprintf(path, CLI_PATH_BYTES, "%s", cli->path);
}

/* Which socket is asked. The one that was named, but for what only the admin socket may do: then
 * the admin socket of the same daemon. */
static void find_socket(struct cli *cli, enum cli_door door)
{
	const char *named = cli->socket;
	char admin[CLI_PATH_BYTES] = "";

	if (named == NULL)
		named = getenv("KVTIER_SOCKET");
	if (named == NULL || named[0] == 0)
		named = CLIENT_SOCKET_DEFAULT;
	snprintf(cli->path, sizeof(cli->path), "%s", named);
	/* A tenant by its name may be another one. */
	if (door == CLI_DOOR_TENANT && cli->tenant != NULL)
		door = CLI_DOOR_ANY;
	if (door != CLI_DOOR_ADMIN && (door != CLI_DOOR_ANY || cli->socket != NULL))
		return;
	if (!admin_beside(named, admin))
		return;
	if (door == CLI_DOOR_ADMIN || access(admin, W_OK) == 0)
		snprintf(cli->path, sizeof(cli->path), "%s", admin);
}

static enum cli_exit cli_run_command(struct cli *cli, const char *name)
{
	const struct cli_command *command = cli_command_find(name);
	enum cli_exit result;
	unsigned wrong;

	if (command == NULL)
		return unknown_command(cli, name);
	cli->name = command->name;
	if ((cli->given & CLI_HELP) != 0) {
		cli_print_help(command, cli->out);
		return CLI_DONE;
	}
	wrong = cli->given & ~(command->options | CLI_EVERYWHERE);
	for (unsigned i = 0; i < cli_options_count; i++)
		if ((wrong & cli_options[i].bit) != 0)
			return cli_usage_error(cli, "%s does not take --%s; right is: kvtier %s %s",
					       name, cli_options[i].name, name, command->arguments);
	if (cli->words_count < command->words_min || cli->words_count > command->words_max)
		return cli_usage_error(cli, "%s: %d words follow; right is: kvtier %s %s", name,
				       cli->words_count, name, command->arguments);
	/* Requests are listed for whoever may see all; so is one of them. */
	find_socket(cli, (cli->given & CLI_REQUEST) != 0 ? CLI_DOOR_ANY : command->door);
	result = cli_prefixes_resolve(cli);
	return result == CLI_DONE ? command->run(cli) : result;
}

/* What a person's terminal can do. */
static void look_at_terminal(struct cli *cli)
{
	const char *term = getenv("TERM"), *columns = getenv("COLUMNS");
	struct winsize size = { .ws_col = 0 };
	int fd = fileno(cli->out);
	bool is_dumb = term == NULL || strcmp(term, "dumb") == 0;

	cli->is_tty = fd >= 0 && isatty(fd) && isatty(STDERR_FILENO);
	cli->has_colours = cli->is_tty && !is_dumb && getenv("NO_COLOR") == NULL;
	cli->columns = 80;
	if (columns != NULL && atoi(columns) > 0)
		cli->columns = atoi(columns);
	else if (fd >= 0 && ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
		cli->columns = size.ws_col;
	if (cli->columns < CLI_COLUMNS_MIN)
		cli->columns = CLI_COLUMNS_MIN;
	if (cli->columns > CLI_COLUMNS_MAX)
		cli->columns = CLI_COLUMNS_MAX;
}

int cli_run(int arguments_count, char **arguments, FILE *out, FILE *error)
{
	struct cli cli = { .timeout_us = 5000000, .out = out, .error = error };
	enum cli_exit result;

	if (cli_verify_is_daemons(arguments_count, arguments))
		return cli_verify_run(arguments_count - 2, arguments + 2, error);
	result = cli_read_options(&cli, arguments_count, arguments);
	if (result != CLI_DONE || (cli.given & CLI_DESCRIBE) != 0)
		return result;
	look_at_terminal(&cli);
	cli.words = arguments + optind;
	cli.words_count = arguments_count - optind;
	if ((cli.given & CLI_VERSION) != 0)
		return cli_version(&cli);
	if (cli.words_count == 0 && (cli.given & CLI_HELP) != 0)
		return cli_help(&cli);
	if (cli.words_count == 0)
		return cli_usage_error(&cli, "a command is missing");
	cli.words++;
	cli.words_count--;
	return cli_run_command(&cli, cli.words[-1]);
}
