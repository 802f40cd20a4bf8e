/* client/cli_verify.c: `kvtier verify` has a running daemon check what it holds; with --config it
 * is `kvtierd --verify`, which knows the tiers. */
#include "client/cli.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DAEMON "kvtierd"
#define LOOK_US 200000u

void cli_find_daemon(char *path, size_t path_bytes)
{
	ssize_t length = readlink("/proc/self/exe", path, path_bytes - sizeof("/" DAEMON));
	char *slash;

	path[length > 0 ? length : 0] = '\0';
	slash = strrchr(path, '/');
	if (slash != NULL)
		strcpy(slash + 1, DAEMON);
	if (slash == NULL || access(path, X_OK) < 0)
		path[0] = '\0';
}

enum cli_exit cli_verify_run(int count, char **words, FILE *error)
{
	char path[PATH_MAX];
	char **arguments = calloc((size_t)count + 3, sizeof(*arguments));

	if (arguments == NULL) {
		fprintf(error, "kvtier: no memory\n");
		return CLI_UNREACHED;
	}
	arguments[0] = DAEMON;
	arguments[1] = "--verify";
	memcpy(arguments + 2, words, (size_t)count * sizeof(*words));
	cli_find_daemon(path, sizeof(path));
	if (path[0] != '\0')
		execv(path, arguments);
	else
		execvp(DAEMON, arguments);
	fprintf(error, "kvtier: verify is done by kvtierd, which is neither beside this program nor in PATH (%s)\n",
		strerror(errno));
	free(arguments);
	return CLI_UNREACHED;
}

bool cli_verify_is_daemons(int count, char **arguments)
{
	if (count < 2 || strcmp(arguments[1], "verify") != 0)
		return false;
	for (int i = 2; i < count; i++)
		if (strncmp(arguments[i], "-c", 2) == 0 ||
		    strncmp(arguments[i], "--config", strlen("--config")) == 0 ||
		    strncmp(arguments[i], "--set", strlen("--set")) == 0)
			return true;
	return false;
}

/* ---- of a running daemon ---- */

static volatile sig_atomic_t was_interrupted;

static void interrupted(int number)
{
	(void)number;
	was_interrupted = 1;
}

static enum cli_exit ask(struct cli *cli, enum frame_verify step, json_t **out_answer)
{
	struct frame_operate frame;

	cli_operate_start(cli, &frame, FRAME_OPERATE_VERIFY);
	frame.value = step == FRAME_VERIFY_BEGIN
			      ? FRAME_VERIFY_VALUE(step, cli->tiers, cli->rate_mib)
			      : FRAME_VERIFY_VALUE(step, 0, 0);
	return cli_operate(cli, &frame, out_answer);
}

/* Of both tiers. */
static double sum(const json_t *answer, const char *key)
{
	return cli_number(cli_get(answer, "cpu"), key) + cli_number(cli_get(answer, "nvme"), key);
}

static void progress(struct cli_progress *progress, const json_t *answer)
{
	double slots = cli_number(answer, "slots");
	char size[CLI_UNIT_BYTES], words[96];

	snprintf(words, sizeof(words), "%.0f blocks, %s, %.0f damaged", sum(answer, "checked"),
		 cli_bytes(sum(answer, "bytes"), size), sum(answer, "damaged"));
	cli_progress_show(progress, slots > 0 ? cli_number(answer, "slots_looked_at") / slots : 1,
			  words);
}

static void print_tier(struct cli *cli, const json_t *answer, const char *tier)
{
	const json_t *counts = cli_get(answer, tier);
	double damaged = cli_number(counts, "damaged");
	char size[CLI_UNIT_BYTES];

	if (counts != NULL)
		cli_line(cli, damaged > 0 ? CLI_RED : CLI_GREEN,
			 "%s: %.0f blocks, %s checked; %.0f damaged, none of which is served", tier,
			 cli_number(counts, "checked"), cli_bytes(cli_number(counts, "bytes"), size),
			 damaged);
}

static void print(struct cli *cli, const json_t *answer)
{
	double unreadable = cli_number(answer, "unreadable");
	double rewritten = cli_number(answer, "rewritten");
	double out_of_use = cli_number(answer, "devices_out_of_use");

	print_tier(cli, answer, "nvme");
	print_tier(cli, answer, "cpu");
	if (rewritten > 0)
		cli_line(cli, CLI_PLAIN, "%.0f were written again from memory", rewritten);
	if (unreadable > 0)
		cli_line(cli, CLI_RED, "%.0f blocks could not be read: look at dmesg", unreadable);
	if (out_of_use > 0)
		cli_line(cli, CLI_RED, "%.0f devices are out of use and were not checked: kvtier status names them",
			 out_of_use);
	if (!json_is_true(cli_get(answer, "done")))
		cli_line(cli, CLI_YELLOW, "ended before all was checked");
}

static enum cli_exit status_of(const json_t *answer)
{
	if (!json_is_true(cli_get(answer, "done")) || cli_number(answer, "unreadable") > 0 ||
	    cli_number(answer, "devices_out_of_use") > 0)
		return CLI_UNREACHED;
	return sum(answer, "damaged") > 0 ? CLI_REFUSED : CLI_DONE;
}

enum cli_exit cli_verify(struct cli *cli)
{
	struct sigaction action = { .sa_handler = interrupted, .sa_flags = (int)SA_RESETHAND };
	struct cli_progress bar = { .cli = cli, .what = "verify", .began_us = client_now_us() };
	json_t *answer = NULL;
	enum cli_exit result = ask(cli, FRAME_VERIFY_BEGIN, &answer);

	(void)sigaction(SIGINT, &action, NULL);
	while (result == CLI_DONE && strcmp(cli_string(answer, "state"), "running") == 0) {
		progress(&bar, answer);
		cli_look_print(cli, answer);
		cli_pause(LOOK_US);
		json_decref(answer);
		answer = NULL;
		result = ask(cli, was_interrupted ? FRAME_VERIFY_END : FRAME_VERIFY_ASK, &answer);
	}
	cli_progress_end(&bar);
	if (result != CLI_DONE) {
		json_decref(answer);
		return result;
	}
	enum cli_exit status = status_of(answer);
	result = cli_show(cli, answer, print);
	return result == CLI_DONE ? status : result;
}
