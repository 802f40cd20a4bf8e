/*
 * client/cli.h: the kvtier command. One table of commands and one of options (cli_table.c) make
 * help, man page, completions and docs/CLI.md. Whatever a command has to say is one JSON value,
 * which is printed as JSON, as YAML, or as a table for a person.
 */
#ifndef KVTIER_CLIENT_CLI_H
#define KVTIER_CLIENT_CLI_H

#include "client/client.h"
#include "proto/frames_operate.h"

#include <getopt.h>
#include <jansson.h>
#include <stdio.h>

#define CLI_COMMANDS_MAX 32
#define CLI_OPTIONS_MAX 32
#define CLI_TREE_DEPTH_MAX 16
#define CLI_PATH_BYTES 256
#define CLI_COLUMNS_MIN 60
#define CLI_COLUMNS_MAX 200

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
	CLI_DESCRIBE = 1 << 9,
	CLI_LIMIT = 1 << 10,
	CLI_FOR = 1 << 11,
	CLI_YES = 1 << 12,
	CLI_ONCE = 1 << 13,
	CLI_REQUEST = 1 << 14,
	CLI_OFF = 1 << 15,
	CLI_TIER = 1 << 16,
	CLI_RATE = 1 << 17
};
#define CLI_EVERYWHERE (CLI_SOCKET | CLI_OUTPUT | CLI_TIMEOUT | CLI_HELP)

enum cli_form { CLI_TABLE, CLI_JSON, CLI_YAML };

/* Which socket a command asks where none is named. */
enum cli_door {
	CLI_DOOR_TENANT, /* the tenant's */
	CLI_DOOR_ANY,    /* the admin socket where it may be used, else the tenant's */
	CLI_DOOR_ADMIN,  /* the admin socket: it concerns the node */
	CLI_DOOR_NONE    /* asks nobody */
};

struct cli {
	const char *name;   /* of the command */
	const char *socket; /* as it was given, or NULL */
	char path[CLI_PATH_BYTES]; /* the socket that is asked */
	enum cli_form form;
	uint64_t timeout_us;
	bool has_space;
	const char *space_prefix, *tag_prefix; /* until they are resolved; NULL: given in full */
	uint8_t space[16];
	uint32_t group;
	const char *tenant;
	bool is_all, is_yes, is_once, is_off;
	uint64_t limit;
	uint64_t for_us;
	unsigned tiers;     /* a bit each, by enum tier_id; 0: all */
	uint64_t rate_mib;  /* 0: the daemon's */
	uint8_t tag[FRAME_TAG_BYTES];
	unsigned given;  /* enum cli_option */
	int words_count; /* behind the command */
	char **words;
	FILE *out, *error;
	bool is_tty; /* both of them: a person looks */
	bool has_colours;
	int columns;
	bool is_cut;  /* lines end at `columns` */
	bool is_live; /* over what stood there */
	int rows, rows_printed; /* 0: as many as there are */
};

struct cli_command {
	const char *name;
	const char *arguments;
	const char *summary;
	const char *help; /* for the man page */
	unsigned options; /* besides CLI_EVERYWHERE */
	int words_min, words_max;
	const char *choices; /* of its first word, with spaces between; or NULL */
	enum cli_door door;
	enum cli_exit (*run)(struct cli *cli);
};

struct cli_option_row {
	const char *name;
	int letter;           /* or 0 */
	const char *argument; /* NULL: none */
	const char *summary;
	enum cli_option bit;
	const char *choices; /* words, with spaces between; or NULL */
};

/* ---- cli_table.c, cli_describe.c ---- */

extern const struct cli_command cli_commands[];
extern const unsigned cli_commands_count;
extern const struct cli_option_row cli_options[];
extern const unsigned cli_options_count;

const struct cli_command *cli_command_find(const char *name);
void cli_print_usage(FILE *out);
void cli_print_help(const struct cli_command *command, FILE *out);
/* "man", "bash", "zsh", "fish", "markdown"; false: another form. */
bool cli_describe(const char *form, FILE *out);

/* ---- cli.c, cli_options.c ---- */

/* The whole command; `out` and `error` instead of stdout and stderr for tests. */
int cli_run(int arguments_count, char **arguments, FILE *out, FILE *error);
/* The admin socket of the daemon that is asked; CLI_PATH_BYTES. */
void cli_admin_socket(const struct cli *cli, char *path);
/* Reads options; the rest stands behind optind. */
enum cli_exit cli_read_options(struct cli *cli, int count, char **arguments);
/* Words a usage error on cli->error. */
__attribute__((format(printf, 2, 3))) enum cli_exit cli_usage_error(struct cli *cli,
								    const char *format, ...);
/* Hexadecimal digits to exactly `bytes` bytes. */
bool cli_parse_hex(const char *text, uint8_t *out, size_t bytes);

/* ---- cli_prefix.c: --space and --request by their first digits ---- */

#define CLI_SHORT_DIGITS 12

/* Enough digits, and not all of them. */
bool cli_is_prefix(const char *text);
/* Asks the daemon what begins so. */
enum cli_exit cli_prefixes_resolve(struct cli *cli);
/* 8 digits of a block's hash or more, and not all. */
bool cli_is_hash_prefix(const char *text);
/* A LIST of the blocks whose hashes begin so. */
struct cli_hash_frame {
	struct frame_operate frame;
	uint8_t hashes[2][FRAME_HASH_BYTES];
};
void cli_hash_prefix(const char *digits, struct cli_hash_frame *frame);
/* A block's hash, or its first digits: the daemon is asked which block that is. */
enum cli_exit cli_take_hash(struct cli *cli, const char *word, uint8_t *out);
/* As many leading digits of the items' 32 as tell them apart; where no person looks, all. */
int cli_short_digits(const struct cli *cli, const json_t *items, const char *key);

/* ---- cli_ask.c ---- */

/* Connects, asks one thing, and closes. CLI_DONE: the reply is in link->incoming; link_finish() in
 * any case. */
enum cli_exit cli_ask(struct cli *cli, struct link *link, void *frame, enum frame_type reply);
/* STATS; the value is the caller's. */
enum cli_exit cli_stats(struct cli *cli, json_t **out_stats);
/* An OPERATE frame with the command's tenant and space in it. */
void cli_operate_start(struct cli *cli, struct frame_operate *frame, enum frame_operate_verb verb);
/* Asks for it, one page; `bytes` with what follows the fixed part. */
enum cli_exit cli_operate(struct cli *cli, struct frame_operate *frame, json_t **out_answer);
/* The same page by page: the items of `array` of all pages, at most `limit`. `*out_is_all`: there
 * are no more. */
enum cli_exit cli_operate_all(struct cli *cli, struct frame_operate *frame, const char *array,
			      uint64_t limit, json_t **out_items, bool *out_is_all);

/* ---- cli_show.c, cli_tree.c ---- */

/* Prints the value in the form that was asked for; takes it. `table` NULL: any JSON as a tree. */
enum cli_exit cli_show(struct cli *cli, json_t *value,
		       void (*table)(struct cli *cli, const json_t *value));
/* Any JSON as an indented table. */
void cli_print_tree(const json_t *value, FILE *out);
void cli_print_yaml(const json_t *value, FILE *out);
/* What a daemon says must not direct the terminal. Returns the columns printed. */
int cli_print_harmless(FILE *out, const char *text);

/* ---- cli_screen.c ---- */

enum cli_colour { CLI_PLAIN, CLI_BOLD, CLI_GREEN, CLI_YELLOW, CLI_RED };

/* One line. */
__attribute__((format(printf, 3, 4))) void cli_line(struct cli *cli, enum cli_colour colour,
						    const char *format, ...);
/* As many lines as it takes, broken between words. */
void cli_words(struct cli *cli, enum cli_colour colour, const char *indent, const char *text);
/* The same; before its first line stands `first`, as long as `indent`. */
void cli_words_behind(struct cli *cli, enum cli_colour colour, const char *first,
		      const char *indent, const char *text);

/* ---- cli_health.c ---- */

/* What is wrong, by what the daemon says of itself: an array of {level, what, fix}; "level" is warn
 * or fail. */
json_t *cli_health(const struct cli *cli, const json_t *stats);
/* Prints them; returns how many there are. */
unsigned cli_health_print(struct cli *cli, const json_t *health);
/* How much a tier holds: the tenants' shares together, but of nvme not more than there is. */
double cli_tier_size(const json_t *stats, const char *tier);
/* Sums of all tenants. */
double cli_tier_sum(const json_t *stats, const char *tier, const char *name);

/* ---- cli_blocks.c, cli_requests.c ---- */

/* What each reason of EXPLAIN means for whoever looks something up. */
const char *cli_reason_words(const char *reason);
/* explain --request. */
enum cli_exit cli_explain_request(struct cli *cli);

/* ---- cli_units.c ---- */

#define CLI_UNIT_BYTES 16

/* "1.5 GiB" and "2.5 s", into texts of CLI_UNIT_BYTES; returned. */
const char *cli_bytes(double bytes, char *text);
const char *cli_duration(uint64_t us, char *text);
/* "12.3 k" */
const char *cli_count(double count, char *text);
/* "90", "5m", "2h", "7d"; false: none of them. */
bool cli_parse_duration(const char *text, uint64_t *out_us);
/* [######....] */
void cli_bar(double share, unsigned width, char *text);

/* ---- JSON that came from a daemon: what is missing is 0 or "" ---- */

double cli_number(const json_t *object, const char *name);
const char *cli_string(const json_t *object, const char *name);
const json_t *cli_get(const json_t *object, const char *name);

/* ---- cli_progress.c: one line that is written again and again ---- */

struct cli_progress {
	struct cli *cli;
	const char *what;
	uint64_t began_us;
	bool is_shown;
};

/* A bar with the time left, on a terminal only. */
void cli_progress_show(struct cli_progress *progress, double share, const char *words);
void cli_progress_end(struct cli_progress *progress);
/* With -o json each look is a line, the last of them the result. */
void cli_look_print(struct cli *cli, const json_t *answer);
/* Until the next look. */
void cli_pause(uint64_t us);

/* ---- commands ---- */

enum cli_exit cli_status(struct cli *cli);
enum cli_exit cli_peers(struct cli *cli);
enum cli_exit cli_spaces(struct cli *cli);
enum cli_exit cli_top(struct cli *cli);
enum cli_exit cli_ls(struct cli *cli);
enum cli_exit cli_stat(struct cli *cli);
enum cli_exit cli_explain(struct cli *cli);
enum cli_exit cli_requests(struct cli *cli);
enum cli_exit cli_bypass(struct cli *cli);
enum cli_exit cli_pin(struct cli *cli);
enum cli_exit cli_unpin(struct cli *cli);
enum cli_exit cli_forget(struct cli *cli);
enum cli_exit cli_purge(struct cli *cli);
enum cli_exit cli_drain(struct cli *cli);
enum cli_exit cli_reload(struct cli *cli);
enum cli_exit cli_config(struct cli *cli);
enum cli_exit cli_verify(struct cli *cli);
/* Whether the arguments are `verify` of tiers on disk: all that follows is kvtierd's to read. */
bool cli_verify_is_daemons(int count, char **arguments);
/* Becomes `kvtierd --verify` with these words; returns only if there is none. */
enum cli_exit cli_verify_run(int count, char **words, FILE *error);
/* The kvtierd beside this program, or "": the one in PATH then. */
void cli_find_daemon(char *path, size_t path_bytes);
enum cli_exit cli_doctor(struct cli *cli);
enum cli_exit cli_completion(struct cli *cli);
enum cli_exit cli_version(struct cli *cli);
enum cli_exit cli_help(struct cli *cli);

#endif
