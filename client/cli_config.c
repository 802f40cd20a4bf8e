/* client/cli_config.c: config: the settings of the running daemon, or a file, which kvtierd itself
 * reads. */
#include "client/cli.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void config_print(struct cli *cli, const json_t *value)
{
	size_t i;
	json_t *row;

	cli_line(cli, CLI_BOLD, "%-28s %-32s %s", "SETTING", "VALUE", "FROM");
	json_array_foreach(cli_get(value, "settings"), i, row)
	{
		cli_line(cli, strcmp(cli_string(row, "origin"), "default") == 0 ? CLI_PLAIN
										: CLI_BOLD,
			 "%-28s %-32s %s", cli_string(row, "key"), cli_string(row, "value"),
			 cli_string(row, "origin"));
	}
}

/* Runs kvtierd on the file; what it says, all of it, is the caller's to free. NULL: it could not
 * be run. */
static char *run_daemon(struct cli *cli, const char *flag, const char *file, bool *out_is_ok)
{
	char path[CLI_PATH_BYTES], *said = NULL;
	size_t bytes = 0;
	int status = 0, pipe_fds[2];
	pid_t child;

	cli_find_daemon(path, sizeof(path));
	if (path[0] == 0)
		strcpy(path, "kvtierd");
	fflush(NULL);
	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return NULL;
	child = fork();
	if (child == 0) {
		(void)dup2(pipe_fds[1], STDOUT_FILENO);
		(void)dup2(pipe_fds[1], STDERR_FILENO);
		execlp(path, "kvtierd", "--config", file, flag, (char *)NULL);
		_exit(127);
	}
	close(pipe_fds[1]);
	FILE *input = fdopen(pipe_fds[0], "r");
	if (input != NULL && getdelim(&said, &bytes, 0, input) < 0)
		said[0] = 0; /* glibc: room was made */
	if (input != NULL)
		fclose(input);
	if (child < 0 || waitpid(child, &status, 0) < 0 ||
	    (WIFEXITED(status) && WEXITSTATUS(status) == 127)) {
		fprintf(cli->error, "kvtier: cannot run %s; it is looked for beside kvtier and in PATH\n",
			path);
		free(said);
		return NULL;
	}
	*out_is_ok = WIFEXITED(status) && WEXITSTATUS(status) == 0;
	return said;
}

static void check_print(struct cli *cli, const json_t *value)
{
	size_t i;
	json_t *line;

	if (json_is_true(cli_get(value, "ok")))
		cli_line(cli, CLI_GREEN, "%s is right", cli_string(value, "file"));
	json_array_foreach(cli_get(value, "says"), i, line)
	{
		cli_line(cli, CLI_PLAIN, "%s", json_string_value(line));
	}
}

static enum cli_exit config_check(struct cli *cli, const char *file)
{
	bool is_ok = false;
	char *said = run_daemon(cli, "--check-config", file, &is_ok);
	json_t *lines = json_array();
	char *rest = said;
	enum cli_exit result;

	if (said == NULL) {
		json_decref(lines);
		return CLI_REFUSED;
	}
	for (char *line; (line = strsep(&rest, "\n")) != NULL;)
		if (line[0] != 0)
			json_array_append_new(lines, json_string(line));
	result = cli_show(cli,
			  json_pack("{s:s, s:b, s:o}", "file", file, "ok", is_ok, "says", lines),
			  check_print);
	free(said);
	return result == CLI_DONE && !is_ok ? CLI_REFUSED : result;
}

/* "  - key: value   # origin", as --print-config writes it. */
static void row_take(json_t *rows, char *line, char *list, int *number)
{
	char *origin = strstr(line, " # "), *colon, *end, key[160];
	bool is_item = line[0] == ' ', begins_item = strncmp(line, "  - ", 4) == 0;

	if (origin == NULL) { /* "tenants:" */
		snprintf(list, 64, "%.*s", (int)strcspn(line, ":"), line);
		*number = -1;
		return;
	}
	*number += begins_item;
	*origin = 0;
	line += is_item ? 4 : 0;
	colon = strstr(line, ": ");
	if (colon == NULL)
		return;
	*colon = 0;
	colon += 2;
	for (end = colon + strlen(colon); end > colon && end[-1] == ' ';)
		*--end = 0;
	if (colon[0] == '"' && end > colon + 1 && end[-1] == '"') {
		end[-1] = 0;
		colon++;
	}
	if (is_item)
		snprintf(key, sizeof(key), "%s.%d.%s", list, *number, line);
	else
		snprintf(key, sizeof(key), "%s", line);
	json_array_append_new(rows, json_pack("{s:s, s:s, s:s}", "key", key, "value", colon,
					      "origin", origin + 3));
}

static enum cli_exit config_print_file(struct cli *cli, const char *file)
{
	bool is_ok = false;
	char *said = run_daemon(cli, "--print-config", file, &is_ok);
	char *rest = said, list[64] = "";
	json_t *rows;
	int number = -1;

	if (said == NULL)
		return CLI_REFUSED;
	if (!is_ok) {
		fprintf(cli->error, "%s", said);
		free(said);
		return CLI_REFUSED;
	}
	rows = json_array();
	for (char *line; (line = strsep(&rest, "\n")) != NULL;)
		if (line[0] != 0)
			row_take(rows, line, list, &number);
	free(said);
	return cli_show(cli, json_pack("{s:o}", "settings", rows), config_print);
}

enum cli_exit cli_config(struct cli *cli)
{
	struct frame_operate frame;
	json_t *answer = NULL;
	enum cli_exit result;

	if (strcmp(cli->words[0], "check") == 0)
		return cli->words_count == 2
			       ? config_check(cli, cli->words[1])
			       : cli_usage_error(cli, "config check: which FILE?");
	if (strcmp(cli->words[0], "print") != 0)
		return cli_usage_error(cli, "config %s: print or check is right", cli->words[0]);
	if (cli->words_count == 2)
		return config_print_file(cli, cli->words[1]);
	cli_operate_start(cli, &frame, FRAME_OPERATE_CONFIG);
	result = cli_operate(cli, &frame, &answer);
	return result == CLI_DONE ? cli_show(cli, answer, config_print) : result;
}
