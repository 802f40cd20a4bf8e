/* client/cli_table.c: the commands and options, and all that is made from these two tables. */
#include "client/cli.h"

#include <limits.h>
#include <string.h>

const struct cli_command cli_commands[] = {
	{ "status", "", "what the daemon holds and how it is doing",
	  "Prints the daemon's counters, tiers, spaces and engines; with -o json as they come.", 0,
	  0, 0, cli_status },
	{ "explain", "--space FINGERPRINT [--group N] HASH...", "why each block hit or missed",
	  "For each block hash (64 hexadecimal digits) of the space: in which tier it is, or why it is not there and since "
	  "when.",
	  CLI_SPACE | CLI_GROUP, 1, (int)FRAME_KEYS_MAX, cli_explain },
	{ "bypass", "on|off|observe [--tenant T] [--space FINGERPRINT]",
	  "turns the cache off, on, or into an observer",
	  "on: every lookup misses and every store is refused; observe: stores and lookups are done, but lookups answer a "
	  "miss; off: the cache serves. For everything that the socket may name, one tenant, or one space.",
	  CLI_TENANT | CLI_SPACE, 1, 1, cli_bypass },
	{ "forget", "--space FINGERPRINT | --all", "makes stored blocks unreachable for ever",
	  "Raises the epoch of one space, or of the whole tenant. Durable when the command has ended.",
	  CLI_SPACE | CLI_ALL, 0, 0, cli_forget },
	{ "version", "", "what this command is built with", "Prints versions and built-in parts.",
	  0, 0, 0, cli_version },
	{ "doctor", "", "checks this machine for what kvtier needs",
	  "Each line says ok, warn or fail, and what to do about it. Exit status 1 if anything failed.",
	  0, 0, 0, cli_doctor },
	{ "verify", "--config FILE [--tier cpu|nvme] [-o json]",
	  "checks every block of a stopped or running kvtierd",
	  "Runs kvtierd --verify: superblocks, tables, headers and checksums of all slots, without a lock or a changed "
	  "byte. Exit status 0 all good, 1 damage found, 2 wrong usage, 3 not all could be read.",
	  0, 0, INT_MAX, cli_verify },
};
const unsigned cli_commands_count = sizeof(cli_commands) / sizeof(cli_commands[0]);

const struct cli_option_row cli_options[] = {
	{ "socket", 's', "PATH",
	  "the tenant's socket (default: $KVTIER_SOCKET, else " CLIENT_SOCKET_DEFAULT ")",
	  CLI_SOCKET },
	{ "output", 'o', "text|json", "how to print (default: text)", CLI_OUTPUT },
	{ "timeout", 't', "SECONDS", "how long to wait for the daemon (default: 5)", CLI_TIMEOUT },
	{ "space", 0, "FINGERPRINT", "a space: 32 hexadecimal digits, as status prints them",
	  CLI_SPACE },
	{ "group", 0, "N", "a KV group of the space (default: 0)", CLI_GROUP },
	{ "tenant", 0, "NAME", "one tenant", CLI_TENANT },
	{ "all", 0, NULL, "everything of the tenant", CLI_ALL },
	{ "help", 'h', NULL, "prints this", CLI_HELP },
	{ "version", 'V', NULL, "the same as the command version", CLI_VERSION },
	{ "describe", 0, "man|completion|markdown",
	  "prints the manual page, shell completion, or manual", CLI_DESCRIBE },
};
const unsigned cli_options_count = sizeof(cli_options) / sizeof(cli_options[0]);

static const char exit_text[] =
	"0 done; 1 the daemon refused, or doctor found a failure; 2 wrong usage; 3 the daemon was not reached";

void cli_print_usage(FILE *out)
{
	fprintf(out, "usage: kvtier [OPTION...] COMMAND\n\ncommands:\n");
	for (unsigned i = 0; i < cli_commands_count; i++)
		fprintf(out, "  %s%s%s\n        %s\n", cli_commands[i].name,
			cli_commands[i].arguments[0] ? " " : "", cli_commands[i].arguments,
			cli_commands[i].summary);
	fprintf(out, "\noptions:\n");
	for (unsigned i = 0; i < cli_options_count; i++) {
		const struct cli_option_row *option = &cli_options[i];
		char letter[8] = "    ";

		if (option->letter != 0)
			snprintf(letter, sizeof(letter), "-%c, ", option->letter);
		fprintf(out, "  %s--%s%s%s\n        %s\n", letter, option->name,
			option->argument ? " " : "", option->argument ? option->argument : "",
			option->summary);
	}
	fprintf(out, "\nexit status: %s\n", exit_text);
}

/* roff takes '-' for a hyphen and a leading '.' or '\'' for a request. */
static void print_roff(FILE *out, const char *text)
{
	for (; *text != 0; text++)
		fprintf(out, *text == '-' ? "\\-" : *text == '\\' ? "\\e" : "%c", *text);
}

static void describe_man(FILE *out)
{
	fprintf(out,
		".TH KVTIER 1 \"\" \"kvtier %s\" \"User Commands\"\n.SH NAME\nkvtier \\- asks and directs the kvtier "
		"KV-cache daemon\n.SH SYNOPSIS\n.B kvtier\n[\\fIOPTION\\fR...] \\fICOMMAND\\fR\n.SH COMMANDS\n",
		kvtier_version());
	for (unsigned i = 0; i < cli_commands_count; i++) {
		fprintf(out, ".TP\n\\fB%s\\fR ", cli_commands[i].name);
		print_roff(out, cli_commands[i].arguments);
		fprintf(out, "\n");
		print_roff(out, cli_commands[i].help);
		fprintf(out, "\n");
	}
	fprintf(out, ".SH OPTIONS\n");
	for (unsigned i = 0; i < cli_options_count; i++) {
		fprintf(out, ".TP\n\\fB\\-\\-%s\\fR", cli_options[i].name);
		if (cli_options[i].letter != 0)
			fprintf(out, ", \\fB\\-%c\\fR", cli_options[i].letter);
		fprintf(out, " \\fI%s\\fR\n",
			cli_options[i].argument ? cli_options[i].argument : "");
		print_roff(out, cli_options[i].summary);
		fprintf(out, "\n");
	}
	fprintf(out, ".SH EXIT STATUS\n");
	print_roff(out, exit_text);
	fprintf(out, "\n.SH SEE ALSO\n\\fBkvtierd\\fR(8)\n");
}

static void describe_completion(FILE *out)
{
	fprintf(out,
		"_kvtier() {\n\tlocal word=${COMP_WORDS[COMP_CWORD]} last=${COMP_WORDS[COMP_CWORD-1]}\n"
		"\tcase $last in\n\t-o|--output) COMPREPLY=($(compgen -W 'text json' -- \"$word\")); return;;\n"
		"\t-s|--socket) COMPREPLY=($(compgen -f -- \"$word\")); return;;\n"
		"\tbypass) COMPREPLY=($(compgen -W 'on off observe' -- \"$word\")); return;;\n"
		"\t--describe) COMPREPLY=($(compgen -W 'man completion markdown' -- \"$word\")); return;;\n\tesac\n"
		"\tCOMPREPLY=($(compgen -W '");
	for (unsigned i = 0; i < cli_commands_count; i++)
		fprintf(out, "%s ", cli_commands[i].name);
	for (unsigned i = 0; i < cli_options_count; i++)
		fprintf(out, "--%s%s", cli_options[i].name, i + 1 < cli_options_count ? " " : "");
	fprintf(out, "' -- \"$word\"))\n}\ncomplete -F _kvtier kvtier\n");
}

static void print_markdown_cell(FILE *out, const char *text)
{
	for (; *text != 0; text++)
		fprintf(out, *text == '|' ? "\\|" : "%c", *text);
}

static void describe_markdown(FILE *out)
{
	fprintf(out, "# kvtier\n\n| command | does |\n| --- | --- |\n");
	for (unsigned i = 0; i < cli_commands_count; i++) {
		fprintf(out, "| `%s ", cli_commands[i].name);
		print_markdown_cell(out, cli_commands[i].arguments);
		fprintf(out, "` | %s |\n", cli_commands[i].help);
	}
	fprintf(out, "\n| option | means |\n| --- | --- |\n");
	for (unsigned i = 0; i < cli_options_count; i++) {
		fprintf(out, "| `--%s ", cli_options[i].name);
		print_markdown_cell(out, cli_options[i].argument ? cli_options[i].argument : "");
		fprintf(out, "` | %s |\n", cli_options[i].summary);
	}
	fprintf(out, "\nExit status: %s.\n", exit_text);
}

bool cli_describe(const char *form, FILE *out)
{
	if (strcmp(form, "man") == 0)
		describe_man(out);
	else if (strcmp(form, "completion") == 0)
		describe_completion(out);
	else if (strcmp(form, "markdown") == 0)
		describe_markdown(out);
	else
		return false;
	return true;
}
