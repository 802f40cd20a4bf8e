/*
 * client/cli.h: the kvtier command. One table of commands and one of options (cli_table.c) make the
 * usage, the man page, the completion and the manual's chapter. Exit status: 0 done; 1 the daemon
 * refused, or doctor found a failure; 2 wrong usage; 3 the daemon was not reached.
 */
#ifndef KVTIER_CLIENT_CLI_H
#define KVTIER_CLIENT_CLI_H

#include "client/client.h"

#include <getopt.h>
#include <stdio.h>

#define CLI_COMMANDS_MAX 16
#define CLI_OPTIONS_MAX 16
#define CLI_TREE_DEPTH_MAX 16

enum cli_exit { CLI_DONE, CLI_REFUSED, CLI_USAGE, CLI_UNREACHED };

enum cli_option {
	CLI_SOCKET = 1 << 0,
	CLI_OUTPUT = 1 << 1,
	CLI_TIMEOUT = 1 << 2,
	CLI_SPACE = 1 << 3,
	CLI_GROUP = 1 << 4,
	CLI_TENANT = 1 << 5,
	CLI_ALL = 1 << 6,
	CLI_HELP = 1 << 7,
	CLI_VERSION = 1 << 8,
	CLI_DESCRIBE = 1 << 9
};
#define CLI_EVERYWHERE (CLI_SOCKET | CLI_OUTPUT | CLI_TIMEOUT)

struct cli {
	const char *socket;
	bool is_json;
	uint64_t timeout_us;
	bool has_space;
	uint8_t space[16];
	uint32_t group;
	const char *tenant;
	bool is_all;
	unsigned given;  /* enum cli_option */
	int words_count; /* behind the command */
	char **words;
	FILE *out, *error;
};

struct cli_command {
	const char *name;
	const char *arguments;
	const char *summary;
	const char *help; /* for the man page */
	unsigned options; /* besides CLI_EVERYWHERE */
	int words_min, words_max;
	enum cli_exit (*run)(struct cli *cli);
};

struct cli_option_row {
	const char *name;
	int letter;           /* or 0 */
	const char *argument; /* NULL: none */
	const char *summary;
	enum cli_option bit;
};

extern const struct cli_command cli_commands[];
extern const unsigned cli_commands_count;
extern const struct cli_option_row cli_options[];
extern const unsigned cli_options_count;

/* The whole command; `out` and `error` instead of stdout and stderr for tests. */
int cli_run(int arguments_count, char **arguments, FILE *out, FILE *error);
/* Words a usage error on cli->error. */
__attribute__((format(printf, 2, 3))) enum cli_exit cli_usage_error(struct cli *cli,
								    const char *format, ...);
void cli_print_usage(FILE *out);
/* "man", "completion", "markdown"; false: another form. */
bool cli_describe(const char *form, FILE *out);

/* Connects, asks one thing, and closes. CLI_DONE: the reply is in link->incoming; link_finish() in
 * any case. */
enum cli_exit cli_ask(struct cli *cli, struct link *link, void *frame, enum frame_type reply);
/* Hexadecimal digits to exactly `bytes` bytes. */
bool cli_parse_hex(const char *text, uint8_t *out, size_t bytes);
/* Any JSON as an indented table: numbers of bytes and times in readable units. False: not JSON. */
bool cli_print_tree(const char *text, size_t bytes, FILE *out);

enum cli_exit cli_status(struct cli *cli);
enum cli_exit cli_explain(struct cli *cli);
enum cli_exit cli_bypass(struct cli *cli);
enum cli_exit cli_forget(struct cli *cli);
enum cli_exit cli_version(struct cli *cli);
enum cli_exit cli_doctor(struct cli *cli);
enum cli_exit cli_verify(struct cli *cli);
/* Becomes `kvtierd --verify` with these words; returns only if there is none. */
enum cli_exit cli_verify_run(int count, char **words, FILE *error);

#endif
