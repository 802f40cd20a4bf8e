/* daemon/settings_describe.c: the table of settings for people and shells: --help, man page,
 * docs/SETTINGS.md, completion. */
#include "daemon/settings_table.h"

#include "base/failpoint.h"
#include "daemon/metrics_text.h"

#include <errno.h>
#include <string.h>

struct flag {
	const char *name;
	const char *argument; /* NULL: none */
	const char *help;
};

/* What daemon/main.c understands besides the settings, for the man page and the completion. */
static const struct flag flags[] = {
	{ "--config", "FILE",
	  "Read settings from FILE, YAML; without it the defaults and the environment count." },
	{ "--set", "KEY=VALUE",
	  "Set one value; stronger than environment and file. May be given many times." },
	{ "--check-config", NULL,
	  "Read and check all settings, say what is wrong, and exit with 0 or 78." },
	{ "--print-config", NULL,
	  "Print every value and where it came from, as a file that can be read back." },
	{ "--describe", "FORM",
	  "Print as FORM: help, man, markdown, completion, metrics or failpoints." },
	{ "--verify", NULL,
	  "Check all that lies in the tiers of a stopped or running kvtierd, change nothing, and exit with 0 (good), "
	  "1 (damage), 2 (usage) or 3 (unreadable); --verify --help lists its options." },
	{ "--list-failpoints", NULL, "Print the names of failpoints; none in a release build." },
	{ "--version", NULL, "Print the version." },
	{ "--help", NULL, "Print this." },
};
#define FLAGS (sizeof(flags) / sizeof(flags[0]))

static const char sources_text[] =
	"Each value comes from the first of: command line (--set KEY=VALUE), environment (KVTIER_<KEY>), file, default.";
static const char lists_text[] =
	"Items of lists are numbered from 0 there: --set nvme.0.path=/cache/a, KVTIER_NVME_0_PATH=/cache/a.";

static const char reload_text[] =
	"SIGHUP reads them again, by the same order and checks. What `reload` says yes to changes at once, the rest is "
	"named in the log and waits for a restart; when anything is wrong, nothing changes, and the log says why.";

static const char *type_words(const struct setting *row)
{
	static const char *const words[] = {
		[SETTING_SIZE] = "size",     [SETTING_DURATION] = "duration",
		[SETTING_COUNT] = "count",   [SETTING_TEXT] = "text",
		[SETTING_CHOICE] = "choice", [SETTING_BOOL] = "true or false",
	};

	return words[row->type];
}

static const char *initial_words(const struct setting *row)
{
	if (row->is_required)
		return "required";
	return row->initial[0] == '\0' ? "none" : row->initial;
}

/* "1MiB to 16GiB, or 0", "auto, always, never"; empty where anything goes. */
static void range_words(const struct setting *row, char *text, size_t text_bytes)
{
	char low[32], high[32];

	text[0] = '\0';
	if (row->type == SETTING_CHOICE) {
		snprintf(text, text_bytes, "%s", row->choices);
	} else if (row->type != SETTING_TEXT && row->type != SETTING_BOOL) {
		setting_format_number(row->type, row->minimum, low, sizeof(low));
		setting_format_number(row->type, row->maximum, high, sizeof(high));
		snprintf(text, text_bytes, "%s to %s%s", low, high,
			 row->zero_allowed ? ", or 0" : "");
	}
}

static void help_rows(const struct setting *rows, unsigned count, const char *indent, FILE *file)
{
	char range[128];

	for (unsigned i = 0; i < count; i++) {
		range_words(&rows[i], range, sizeof(range));
		fprintf(file, "%s%-20s %s%s%s; default: %s\n%s    %s\n", indent, rows[i].name,
			type_words(&rows[i]), range[0] == '\0' ? "" : ": ", range,
			initial_words(&rows[i]), indent, rows[i].help);
	}
}

/* daemon/main.c prints its flags before it. */
static void describe_help(FILE *file)
{
	fprintf(file, "%s\n%s\n\n", sources_text, lists_text);
	help_rows(settings_rows, settings_rows_count, "  ", file);
	for (unsigned l = 0; l < settings_lists_count; l++) {
		const struct setting_list *list = &settings_lists[l];

		fprintf(file, "\n  %s: a list of at most %u. %s\n", list->name, list->items_max,
			list->help);
		help_rows(list->rows, list->rows_count, "    ", file);
	}
}

/* A leading '.' or '\'' would be a request, a '\\' an escape, a '-' a hyphen that cannot be pasted.
 */
static void man_text(const char *text, FILE *file)
{
	if (*text == '.' || *text == '\'')
		fputs("\\&", file);
	for (; *text != '\0'; text++) {
		if (*text == '\\')
			fputs("\\e", file);
		else if (*text == '-')
			fputs("\\-", file);
		else
			fputc(*text, file);
	}
}

static void man_rows(const struct setting *rows, unsigned count, FILE *file)
{
	char range[128];

	for (unsigned i = 0; i < count; i++) {
		range_words(&rows[i], range, sizeof(range));
		fprintf(file, ".TP\n.B %s\n", rows[i].name);
		man_text(rows[i].help, file);
		fprintf(file, "\n%s%s", type_words(&rows[i]), range[0] == '\0' ? "" : ": ");
		man_text(range, file);
		fputs("; default: ", file);
		man_text(initial_words(&rows[i]), file);
		fputs(rows[i].is_reloadable ? "; changes at a reload.\n" : ".\n", file);
	}
}

static void describe_man(FILE *file)
{
	fprintf(file, ".TH KVTIERD 8 \"\" \"kvtier %s\" \"System Manager's Manual\"\n",
		KVTIER_VERSION);
	fputs(".SH NAME\nkvtierd \\- the KV cache daemon of a node\n.SH SYNOPSIS\n.B kvtierd\n[\\fIFLAG\\fR]...\n",
	      file);
	fputs(".SH DESCRIPTION\nKeeps the KV blocks of inference engines in host memory and on NVMe, and gives them back\n"
	      "only when they are proven to be the bytes that were stored.\n.SH FLAGS\n",
	      file);
	for (unsigned i = 0; i < FLAGS; i++) {
		fputs(".TP\n.B ", file);
		man_text(flags[i].name, file);
		if (flags[i].argument != NULL)
			fprintf(file, " \\fI%s\\fR", flags[i].argument);
		fputc('\n', file);
		man_text(flags[i].help, file);
		fputc('\n', file);
	}
	fputs(".SH SETTINGS\n", file);
	man_text(sources_text, file);
	fputc('\n', file);
	man_text(lists_text, file);
	fputc('\n', file);
	man_rows(settings_rows, settings_rows_count, file);
	for (unsigned l = 0; l < settings_lists_count; l++) {
		fprintf(file, ".SS %s\nA list of at most %u. ", settings_lists[l].name,
			settings_lists[l].items_max);
		man_text(settings_lists[l].help, file);
		fputc('\n', file);
		man_rows(settings_lists[l].rows, settings_lists[l].rows_count, file);
	}
	fputs(".SH SIGNALS\n.B SIGTERM\nand\n.B SIGINT\nend the daemon after what is under way.\n.B SIGHUP\n"
	      "reads the settings again. What may change while the daemon runs does; what needs a restart is named in\n"
	      "the log; when anything is wrong, all stays as it was.\n"
	      ".SH EXIT STATUS\n0 stopped as told, 1 failed, 2 wrong usage, 78 wrong settings.\n"
	      ".SH FILES\n/etc/kvtier/kvtier.yaml is where the systemd unit looks.\n.SH SEE ALSO\n.BR kvtier (1)\n",
	      file);
}

static void markdown_rows(const struct setting *rows, unsigned count, FILE *file)
{
	char range[128];

	fputs("| key | type | values | default | reload | meaning |\n| --- | --- | --- | --- | --- | --- |\n",
	      file);
	for (unsigned i = 0; i < count; i++) {
		range_words(&rows[i], range, sizeof(range));
		fprintf(file, "| `%s` | %s | %s | %s | %s | %s |\n", rows[i].name,
			type_words(&rows[i]), range, initial_words(&rows[i]),
			rows[i].is_reloadable ? "yes" : "", rows[i].help);
	}
}

static void describe_markdown(FILE *file)
{
	fprintf(file,
		"# Settings\n\nMade by `kvtierd --describe markdown`; do not edit. %s %s\n\n"
		"Sizes: `4096`, `64MiB`, `1GiB` (B, KiB, MiB, GiB, TiB). Durations: `100ms`, `5s`, `1m` (us, ms, s, m, h).\n\n%s\n\n"
		"`kvtierd --check-config` reads and checks all of it and ends: exit status 0, all is right; "
		"78, something is wrong, and one line says what; 2, the command line itself is wrong.\n\n",
		sources_text, lists_text, reload_text);
	markdown_rows(settings_rows, settings_rows_count, file);
	for (unsigned l = 0; l < settings_lists_count; l++) {
		const struct setting_list *list = &settings_lists[l];

		fprintf(file, "\n## `%s`\n\nA list of at most %u. %s\n\n", list->name,
			list->items_max, list->help);
		markdown_rows(list->rows, list->rows_count, file);
	}
}

static void describe_completion(FILE *file)
{
	fputs("# bash completion of kvtierd; made by `kvtierd --describe completion`\n_kvtierd()\n{\n"
	      "\tlocal word=\"${COMP_WORDS[COMP_CWORD]}\" previous=\"${COMP_WORDS[COMP_CWORD-1]}\"\n\tlocal key\n"
	      "\tif [ \"$word\" = = ]; then word=; key=$previous; previous=value\n"
	      "\telif [ \"$previous\" = = ]; then key=\"${COMP_WORDS[COMP_CWORD-2]}\"; previous=value; fi\n"
	      "\tcase \"$previous\" in\n",
	      file);
	fputs("\t--config) COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n"
	      "\t--describe) COMPREPLY=($(compgen -W 'help man markdown completion metrics failpoints' -- \"$word\")); return ;;\n"
	      "\t--set) COMPREPLY=($(compgen -S = -W '",
	      file);
	for (unsigned i = 0; i < settings_rows_count; i++)
		fprintf(file, "%s%s", i == 0 ? "" : " ", settings_rows[i].name);
	for (unsigned l = 0; l < settings_lists_count; l++)
		for (unsigned i = 0; i < settings_lists[l].rows_count; i++)
			fprintf(file, " %s.0.%s", settings_lists[l].name,
				settings_lists[l].rows[i].name);
	fputs("' -- \"$word\")); compopt -o nospace 2>/dev/null; return ;;\n\tvalue)\n\t\tcase \"$key\" in\n",
	      file);
	for (unsigned i = 0; i < settings_rows_count; i++)
		if (settings_rows[i].type == SETTING_CHOICE)
			fprintf(file, "\t\t%s) COMPREPLY=($(compgen -W '%s' -- \"$word\")) ;;\n",
				settings_rows[i].name, settings_rows[i].choices);
	fputs("\t\tesac\n\t\treturn ;;\n\tesac\n\tCOMPREPLY=($(compgen -W '", file);
	for (unsigned i = 0; i < FLAGS; i++)
		fprintf(file, "%s%s", i == 0 ? "" : " ", flags[i].name);
	fputs("' -- \"$word\"))\n}\ncomplete -F _kvtierd kvtierd\n", file);
}

static void describe_failpoints(FILE *file)
{
	static const char *const rows[] = {
#define FAILPOINT_LINE(name, help) "| `" #name "` | " help " |",
		FAILPOINT_TABLE(FAILPOINT_LINE)
#undef FAILPOINT_LINE
	};

	fputs("# Failpoints\n\nMade by `make docs`; do not edit. Places where a test makes the daemon die, "
	      "stop or fail:\n`KVTIER_FAILPOINT=name[:nth]=kill|error|stop`, in builds with `FAILPOINTS=1` "
	      "only.\n\n| name | where |\n| --- | --- |\n",
	      file);
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		fprintf(file, "%s\n", rows[i]);
}

int settings_describe(const char *form, FILE *file)
{
	static const struct {
		const char *name;
		void (*describe)(FILE *file);
	} forms[] = {
		{ "help", describe_help },         { "man", describe_man },
		{ "markdown", describe_markdown }, { "completion", describe_completion },
		{ "metrics", metrics_describe },   { "failpoints", describe_failpoints },
	};

	for (unsigned i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		if (strcmp(forms[i].name, form) != 0)
			continue;
		forms[i].describe(file);
		return 0;
	}
	return -EINVAL;
}
