/* daemon/settings_describe.c: the table of settings for people: --help, man pages,
 * docs/CONFIG.md. */
#include "daemon/settings_describe.h"

#include "base/failpoint.h"
#include "daemon/metrics_text.h"

#include <errno.h>
#include <string.h>

const struct settings_flag settings_flags[] = {
	{ "--config", "FILE",
	  "Read settings from FILE, YAML; without it the defaults and the environment count." },
	{ "--set", "KEY=VALUE",
	  "Set one value; stronger than environment and file. May be given many times." },
	{ "--check-config", NULL,
	  "Read and check all settings, say what is wrong, and exit with 0 or 78." },
	{ "--print-config", NULL,
	  "Print every value and where it came from, as a file that can be read back." },
	{ "--describe", "FORM",
	  "Print as FORM, one of: " SETTINGS_FORMS "." },
	{ "--verify", NULL,
	  "Check all that lies in the tiers of a stopped or running kvtierd, change nothing, and exit with 0 (good), "
	  "1 (damage), 2 (usage) or 3 (unreadable); --verify --help lists its options." },
	{ "--list-failpoints", NULL, "Print the names of failpoints; none in a release build." },
	{ "--version", NULL, "Print the version." },
	{ "--help", NULL, "Print this." },
};
const unsigned settings_flags_count = sizeof(settings_flags) / sizeof(settings_flags[0]);

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

static void man_settings(FILE *file)
{
	man_rows(settings_rows, settings_rows_count, file);
	for (unsigned l = 0; l < settings_lists_count; l++) {
		fprintf(file, ".SS %s\nA list of at most %u. ", settings_lists[l].name,
			settings_lists[l].items_max);
		man_text(settings_lists[l].help, file);
		fputc('\n', file);
		man_rows(settings_lists[l].rows, settings_lists[l].rows_count, file);
	}
}

/* kvtierd.yaml(5): the file alone. */
static void describe_man_file(FILE *file)
{
	fprintf(file, ".TH KVTIERD.YAML 5 \"\" \"kvtier %s\" \"File Formats Manual\"\n", KVTIER_VERSION);
	fputs(".SH NAME\nkvtierd.yaml \\- the settings of kvtierd\n.SH DESCRIPTION\n"
	      "YAML: one key a line, two lists. An unknown key is an error, and names the nearest known one.\n"
	      "Sizes are written 4096, 64MiB, 1GiB; durations 100ms, 5s, 1m.\n.PP\n",
	      file);
	man_text(sources_text, file);
	fputc('\n', file);
	man_text(lists_text, file);
	fputs("\n.PP\n", file);
	man_text(reload_text, file);
	fputs("\n.SH SETTINGS\n", file);
	man_settings(file);
	fputs(".SH EXAMPLE\n.EX\ntenants:\n  \\- name: default\n    cpu_bytes: 16GiB\nnvme:\n"
	      "  \\- path: /var/lib/kvtier/nvme0\n    bytes: 256GiB\n.EE\n.SH SEE ALSO\n.BR kvtierd (8),\n.BR kvtier (1)\n",
	      file);
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
	for (unsigned i = 0; i < settings_flags_count; i++) {
		fputs(".TP\n.B ", file);
		man_text(settings_flags[i].name, file);
		if (settings_flags[i].argument != NULL)
			fprintf(file, " \\fI%s\\fR", settings_flags[i].argument);
		fputc('\n', file);
		man_text(settings_flags[i].help, file);
		fputc('\n', file);
	}
	fputs(".SH SETTINGS\n", file);
	man_text(sources_text, file);
	fputc('\n', file);
	man_text(lists_text, file);
	fputc('\n', file);
	man_settings(file);
	fputs(".SH SIGNALS\n.B SIGTERM\nand\n.B SIGINT\nend the daemon after what is under way.\n.B SIGHUP\n"
	      "reads the settings again. What may change while the daemon runs does; what needs a restart is named in\n"
	      "the log; when anything is wrong, all stays as it was.\n"
	      ".SH EXIT STATUS\n0 stopped as told, 1 failed, 2 wrong usage, 78 wrong settings.\n"
	      ".SH FILES\n/etc/kvtier/kvtier.yaml is where the systemd unit looks.\n.SH SEE ALSO\n.BR kvtierd.yaml (5),\n.BR kvtier (1)\n",
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
		"# Configuration\n\nMade by `kvtierd --describe markdown`; do not edit.\n\n"
		"| strength | where | how |\n| --- | --- | --- |\n"
		"| 1 | command line | `kvtierd --set log_level=debug --set nvme.0.path=/cache/a` |\n"
		"| 2 | environment | `KVTIER_LOG_LEVEL=debug KVTIER_NVME_0_PATH=/cache/a` |\n"
		"| 3 | file | `kvtierd --config FILE`, YAML |\n"
		"| 4 | default | as below |\n\n"
		"%s %s `kvtier config print` says what is in force in a running daemon, and where each value came from; "
		"`kvtier config print FILE` what a file would mean.\n\n"
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
		{ "man5", describe_man_file },     { "markdown", describe_markdown },
		{ "completion", settings_describe_bash }, { "zsh", settings_describe_zsh },
		{ "fish", settings_describe_fish },
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
