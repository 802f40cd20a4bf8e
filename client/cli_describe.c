/* client/cli_describe.c: help, man page, completions and docs/CLI.md, from the two tables. */
#include "client/cli.h"

#include <string.h>

static const char exit_text[] =
	"0 done; 1 the daemon refused, or doctor, config check or purge found something wrong; 2 wrong usage; "
	"3 the daemon was not reached, or did not answer in time";

static const struct {
	const char *name, *means;
} variables[] = {
	{ "KVTIER_SOCKET", "the socket to ask, where --socket does not name one" },
	{ "NO_COLOR", "set to anything: no colours" },
	{ "COLUMNS", "how wide the screen is, where the terminal does not say it" },
};
#define VARIABLES_COUNT (sizeof(variables) / sizeof(variables[0]))

/* ---- help ---- */

void cli_print_usage(FILE *out)
{
	fprintf(out, "usage: kvtier COMMAND [OPTION...]\n\ncommands:\n");
	for (unsigned i = 0; i < cli_commands_count; i++)
		fprintf(out, "  %-11s %s\n", cli_commands[i].name, cli_commands[i].summary);
	fprintf(out, "\noptions of every command:\n"
		     "  -s, --socket PATH          -o, --output table|json|yaml\n"
		     "  -t, --timeout SECONDS      -h, --help\n"
		     "\nkvtier help COMMAND says more. Exit status: 0 done, 1 refused or failed,\n"
		     "2 wrong usage, 3 the daemon was not reached.\n");
}

static void print_option(const struct cli_option_row *option, FILE *out)
{
	char letter[8] = "    ";

	if (option->letter != 0)
		snprintf(letter, sizeof(letter), "-%c, ", option->letter);
	fprintf(out, "  %s--%s%s%s\n        %s\n", letter, option->name,
		option->argument ? " " : "", option->argument ? option->argument : "",
		option->summary);
}

/* Words that wrap at the width of a small screen. */
static void print_wrapped(const char *text, FILE *out)
{
	const int width = 78;
	int column = 0;

	while (*text != 0) {
		int word = (int)strcspn(text, " ");

		if (column > 0 && column + 1 + word > width) {
			fputc('\n', out);
			column = 0;
		}
		column += fprintf(out, "%s%.*s", column > 0 ? " " : "", word, text);
		text += word;
		text += strspn(text, " ");
	}
	fputc('\n', out);
}

void cli_print_help(const struct cli_command *command, FILE *out)
{
	fprintf(out, "kvtier %s: %s\n\nusage: kvtier %s%s%s\n\n", command->name, command->summary,
		command->name, command->arguments[0] ? " " : "", command->arguments);
	print_wrapped(command->help, out);
	fprintf(out, "\noptions:\n");
	for (unsigned i = 0; i < cli_options_count; i++)
		if (((command->options | CLI_EVERYWHERE) & cli_options[i].bit) != 0)
			print_option(&cli_options[i], out);
}

/* ---- man ---- */

/* roff takes '-' for a hyphen and a leading '.' or '\'' for a request. */
static void print_roff(FILE *out, const char *text)
{
	for (; *text != 0; text++)
		fprintf(out, *text == '-' ? "\\-" : *text == '\\' ? "\\e" : "%c", *text);
}

static void man_options(FILE *out)
{
	fprintf(out, ".SH OPTIONS\n");
	for (unsigned i = 0; i < cli_options_count; i++) {
		fprintf(out, ".TP\n\\fB\\-\\-%s\\fR", cli_options[i].name);
		if (cli_options[i].letter != 0)
			fprintf(out, ", \\fB\\-%c\\fR", cli_options[i].letter);
		if (cli_options[i].argument != NULL)
			fprintf(out, " \\fI%s\\fR", cli_options[i].argument);
		fprintf(out, "\n");
		print_roff(out, cli_options[i].summary);
		fprintf(out, "\n");
	}
}

static void describe_man(FILE *out)
{
	fprintf(out,
		".TH KVTIER 1 \"\" \"kvtier %s\" \"User Commands\"\n.SH NAME\nkvtier \\- asks and directs the kvtier "
		"KV-cache daemon\n.SH SYNOPSIS\n.B kvtier\n\\fICOMMAND\\fR [\\fIOPTION\\fR...]\n.SH COMMANDS\n",
		kvtier_version());
	for (unsigned i = 0; i < cli_commands_count; i++) {
		fprintf(out, ".TP\n\\fB%s\\fR ", cli_commands[i].name);
		print_roff(out, cli_commands[i].arguments);
		fprintf(out, "\n");
		print_roff(out, cli_commands[i].summary);
		fprintf(out, ".\n");
		print_roff(out, cli_commands[i].help);
		fprintf(out, "\n");
	}
	man_options(out);
	fprintf(out, ".SH ENVIRONMENT\n");
	for (unsigned i = 0; i < VARIABLES_COUNT; i++) {
		fprintf(out, ".TP\n\\fB%s\\fR\n", variables[i].name);
		print_roff(out, variables[i].means);
		fprintf(out, "\n");
	}
	fprintf(out, ".SH EXIT STATUS\n");
	print_roff(out, exit_text);
	fprintf(out, "\n.SH SEE ALSO\n\\fBkvtierd.yaml\\fR(5), \\fBkvtierd\\fR(8)\n");
}

/* ---- completions ---- */

static void print_names(FILE *out)
{
	for (unsigned i = 0; i < cli_commands_count; i++)
		fprintf(out, "%s%s", i > 0 ? " " : "", cli_commands[i].name);
}

static void bash_options_of(const struct cli_command *command, FILE *out)
{
	for (unsigned i = 0; i < cli_options_count; i++)
		if (((command->options | CLI_EVERYWHERE) & cli_options[i].bit) != 0)
			fprintf(out, " --%s", cli_options[i].name);
}

static void describe_bash(FILE *out)
{
	fprintf(out,
		"# bash completion of kvtier; made by kvtier completion bash\n_kvtier() {\n"
		"\tlocal word=${COMP_WORDS[COMP_CWORD]} last=${COMP_WORDS[COMP_CWORD-1]} command= one\n"
		"\tcase $last in\n\t-s|--socket) COMPREPLY=($(compgen -f -- \"$word\")); return;;\n");
	for (unsigned i = 0; i < cli_options_count; i++) {
		const struct cli_option_row *option = &cli_options[i];
		char letter[8] = "";

		if (option->letter != 0)
			snprintf(letter, sizeof(letter), "-%c|", option->letter);
		if (option->choices != NULL)
			fprintf(out,
				"\t%s--%s) COMPREPLY=($(compgen -W '%s' -- \"$word\")); return;;\n",
				letter, option->name, option->choices);
	}
	fprintf(out, "\tesac\n\tfor one in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n\t\tcase $one in\n\t\t");
	for (unsigned i = 0; i < cli_commands_count; i++)
		fprintf(out, "%s%s", i > 0 ? "|" : "", cli_commands[i].name);
	fprintf(out, ") command=$one; break;;\n\t\tesac\n\tdone\n\tcase $command in\n");
	for (unsigned i = 0; i < cli_commands_count; i++) {
		const struct cli_command *command = &cli_commands[i];

		fprintf(out, "\t%s) COMPREPLY=($(compgen -W '%s", command->name,
			command->choices != NULL ? command->choices : "");
		if (strcmp(command->name, "help") == 0)
			print_names(out);
		bash_options_of(command, out);
		fprintf(out, "' -- \"$word\")); [[ $command == config ]] && COMPREPLY+=($(compgen -f -- \"$word\"));;\n");
	}
	fprintf(out, "\t*) COMPREPLY=($(compgen -W '");
	print_names(out);
	fprintf(out, " --help --version' -- \"$word\"));;\n\tesac\n}\ncomplete -F _kvtier kvtier\n");
}

/* In single quotes, with ':' escaped where it parts a name from what it means. */
static void print_quoted(FILE *out, const char *text)
{
	for (; *text != 0; text++)
		fprintf(out, *text == '\'' ? "'\\''" : *text == ':' ? "\\:"
						     : *text == '['   ? "\\["
						     : *text == ']'   ? "\\]"
								      : "%c",
			*text);
}

static void zsh_option(const struct cli_option_row *option, FILE *out)
{
	fprintf(out, "'--%s[", option->name);
	print_quoted(out, option->summary);
	fprintf(out, "]");
	if (option->argument != NULL && option->choices != NULL)
		fprintf(out, ":%s:(%s)", option->name, option->choices);
	else if (option->argument != NULL)
		fprintf(out, ":%s:%s", option->argument,
			option->bit == CLI_SOCKET ? "_files" : "");
	fprintf(out, "' ");
}

static void describe_zsh(FILE *out)
{
	fprintf(out, "#compdef kvtier\n# zsh completion of kvtier; made by kvtier completion zsh\n"
		     "_kvtier() {\n\tlocal -a commands\n\tcommands=(\n");
	for (unsigned i = 0; i < cli_commands_count; i++) {
		fprintf(out, "\t\t'%s:", cli_commands[i].name);
		print_quoted(out, cli_commands[i].summary);
		fprintf(out, "'\n");
	}
	fprintf(out, "\t)\n\tif (( CURRENT == 2 )); then\n\t\t_describe command commands\n\t\treturn\n\tfi\n"
		     "\tlocal command=$words[2]\n\tshift words\n\t(( CURRENT-- ))\n\tcase $command in\n");
	for (unsigned c = 0; c < cli_commands_count; c++) {
		const struct cli_command *command = &cli_commands[c];

		fprintf(out, "\t%s) _arguments ", command->name);
		for (unsigned i = 0; i < cli_options_count; i++)
			if (((command->options | CLI_EVERYWHERE) & cli_options[i].bit) != 0)
				zsh_option(&cli_options[i], out);
		if (command->choices != NULL)
			fprintf(out, "'1:what:(%s)' ", command->choices);
		if (strcmp(command->name, "config") == 0)
			fprintf(out, "'2:file:_files' ");
		if (strcmp(command->name, "help") == 0) {
			fprintf(out, "'1:command:(");
			print_names(out);
			fprintf(out, ")' ");
		}
		fprintf(out, ";;\n");
	}
	fprintf(out, "\tesac\n}\n_kvtier \"$@\"\n");
}

static void describe_fish(FILE *out)
{
	fprintf(out, "# fish completion of kvtier; made by kvtier completion fish\ncomplete -c kvtier -f\n");
	for (unsigned c = 0; c < cli_commands_count; c++) {
		const struct cli_command *command = &cli_commands[c];

		fprintf(out, "complete -c kvtier -n __fish_use_subcommand -a %s -d '", command->name);
		for (const char *text = command->summary; *text != 0; text++)
			fprintf(out, *text == '\'' ? "\\'" : "%c", *text);
		fprintf(out, "'\n");
		if (command->choices != NULL)
			fprintf(out,
				"complete -c kvtier -n '__fish_seen_subcommand_from %s' -a '%s'\n",
				command->name, command->choices);
		for (unsigned i = 0; i < cli_options_count; i++) {
			const struct cli_option_row *option = &cli_options[i];

			if (((command->options | CLI_EVERYWHERE) & option->bit) == 0)
				continue;
			fprintf(out, "complete -c kvtier -n '__fish_seen_subcommand_from %s' -l %s",
				command->name, option->name);
			if (option->letter != 0)
				fprintf(out, " -s %c", option->letter);
			if (option->choices != NULL)
				fprintf(out, " -x -a '%s'", option->choices);
			else if (option->argument != NULL)
				fprintf(out, option->bit == CLI_SOCKET ? " -r -F" : " -x");
			fprintf(out, "\n");
		}
	}
}

/* ---- docs/CLI.md ---- */

static void print_markdown_cell(FILE *out, const char *text)
{
	for (; *text != 0; text++)
		fprintf(out, *text == '|' ? "\\|" : "%c", *text);
}

static void describe_markdown(FILE *out)
{
	fprintf(out, "# The kvtier command\n\nMade by `kvtier --describe markdown`; do not edit.\n\n"
		     "| command | does |\n| --- | --- |\n");
	for (unsigned i = 0; i < cli_commands_count; i++) {
		fprintf(out, "| `%s%s", cli_commands[i].name,
			cli_commands[i].arguments[0] ? " " : "");
		print_markdown_cell(out, cli_commands[i].arguments);
		fprintf(out, "` | %s |\n", cli_commands[i].help);
	}
	fprintf(out, "\n| option | means |\n| --- | --- |\n");
	for (unsigned i = 0; i < cli_options_count; i++) {
		fprintf(out, "| `--%s%s", cli_options[i].name, cli_options[i].argument ? " " : "");
		print_markdown_cell(out, cli_options[i].argument ? cli_options[i].argument : "");
		fprintf(out, "` | %s |\n", cli_options[i].summary);
	}
	fprintf(out, "\n| variable | means |\n| --- | --- |\n");
	for (unsigned i = 0; i < VARIABLES_COUNT; i++)
		fprintf(out, "| `%s` | %s |\n", variables[i].name, variables[i].means);
	fprintf(out, "\nExit status: %s.\n\nWith `-o json` and `-o yaml` sizes are bytes, names that end in `_us` are "
		     "microseconds, and names only ever come in addition.\n",
		exit_text);
}

bool cli_describe(const char *form, FILE *out)
{
	static const struct {
		const char *name;
		void (*describe)(FILE *out);
	} forms[] = { { "man", describe_man },	 { "markdown", describe_markdown },
		      { "bash", describe_bash }, { "zsh", describe_zsh },
		      { "fish", describe_fish } };

	for (unsigned i = 0; i < sizeof(forms) / sizeof(forms[0]); i++)
		if (strcmp(form, forms[i].name) == 0) {
			forms[i].describe(out);
			return true;
		}
	return false;
}

enum cli_exit cli_completion(struct cli *cli)
{
	if (strcmp(cli->words[0], "bash") != 0 && strcmp(cli->words[0], "zsh") != 0 &&
	    strcmp(cli->words[0], "fish") != 0)
		return cli_usage_error(cli, "completion %s: bash, zsh or fish is right",
				       cli->words[0]);
	return cli_describe(cli->words[0], cli->out) ? CLI_DONE : CLI_USAGE;
}

enum cli_exit cli_help(struct cli *cli)
{
	const struct cli_command *command;

	if (cli->words_count == 0) {
		cli_print_usage(cli->out);
		return CLI_DONE;
	}
	command = cli_command_find(cli->words[0]);
	if (command == NULL)
		return cli_usage_error(cli, "no such command: %s", cli->words[0]);
	cli_print_help(command, cli->out);
	return CLI_DONE;
}
