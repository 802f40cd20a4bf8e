/* daemon/verify_main.c: the command line of `kvtierd --verify`. */
#include "daemon/verify.h"

#include <getopt.h>
#include <string.h>
#include <unistd.h>

#define STATUS_USAGE 2
#define STATUS_FAILED 3
#define SETS_MAX 64

static const char usage[] =
	"usage: kvtierd --verify --config FILE [--tier cpu|nvme] [--json]\n"
	"\n"
	"Checks what lies in the tiers of a stopped or running kvtierd, slot by slot: superblocks, extent tables,\n"
	"headers, checksums, the journal. Takes no lock and changes no byte.\n"
	"\n"
	"  -c, --config FILE      the settings of the kvtierd whose tiers they are\n"
	"      --set NAME=VALUE   one setting, over the file and the environment\n"
	"      --tier cpu|nvme    that tier alone; cpu tiers are there when they have a cpu_file\n"
	"  -o, --output FORM      text or json\n"
	"      --json             lines of JSON: error, note, progress, damaged, part, and one summary at the end\n"
	"      --repair no        the only way: a damaged block is a miss, and kvtierd itself drops it\n"
	"  -h, --help             this\n"
	"\n"
	"Exit status: 0 all is good, 1 something is damaged, 2 wrong usage or settings, 3 not all could be read.\n";

enum { OPTION_VERIFY = 256, OPTION_SET, OPTION_JSON, OPTION_TIER, OPTION_REPAIR };

static const struct option rows[] = {
	{ "verify", no_argument, NULL, OPTION_VERIFY },
	{ "config", required_argument, NULL, 'c' },
	{ "set", required_argument, NULL, OPTION_SET },
	{ "tier", required_argument, NULL, OPTION_TIER },
	{ "json", no_argument, NULL, OPTION_JSON },
	{ "output", required_argument, NULL, 'o' },
	{ "repair", required_argument, NULL, OPTION_REPAIR },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

struct line {
	struct settings_sources sources;
	const char *sets[SETS_MAX];
	struct verify_options options;
};

static int wrong(const char *what, const char *word)
{
	fprintf(stderr, "kvtierd: --verify: %s%s; kvtierd --verify --help lists the options\n",
		what, word);
	return STATUS_USAGE;
}

/* -1: go on; else the exit status. */
static int take(struct line *line, int option, const char *argument)
{
	switch (option) {
	case 'c':
		line->sources.file = argument;
		return -1;
	case OPTION_SET:
		if (line->sources.sets_count == SETS_MAX)
			return wrong("too many --set", "");
		line->sets[line->sources.sets_count++] = argument;
		return -1;
	case OPTION_JSON:
		line->options.is_json = true;
		return -1;
	case 'o':
		line->options.is_json = strcmp(argument, "json") == 0;
		return line->options.is_json || strcmp(argument, "text") == 0
			       ? -1
			       : wrong("--output is text or json, not ", argument);
	case OPTION_TIER:
		if (strcmp(argument, "cpu") != 0 && strcmp(argument, "nvme") != 0)
			return wrong("--tier is cpu or nvme, not ", argument);
		line->options.has_tier[argument[0] == 'c' ? TIER_CPU : TIER_NVME] = true;
		return -1;
	case OPTION_REPAIR:
		return strcmp(argument, "no") == 0
			       ? -1
			       : wrong("it changes nothing, so --repair is \"no\", not ", argument);
	case OPTION_VERIFY:
		return -1;
	case 'h':
		fputs(usage, stdout);
		return 0;
	default:
		return wrong("see above", "");
	}
}

int verify_main(int count, char **arguments)
{
	static struct settings settings;
	struct line line = { .sources = { .sets = line.sets } };
	struct verify_options *options = &line.options;
	struct verify_result result;
	struct error error;
	int option, status = -1;

	while (status < 0 && (option = getopt_long(count, arguments, "c:o:h", rows, NULL)) != -1)
		status = take(&line, option, optarg);
	if (status < 0 && optind < count)
		status = wrong("unexpected argument ", arguments[optind]);
	if (status < 0 && line.sources.file == NULL && line.sources.sets_count == 0)
		status = wrong("--config FILE is missing", "");
	if (status >= 0)
		return status;
	if (settings_load(&settings, &line.sources, &error) < 0) {
		fprintf(stderr, "kvtierd: %s\n", error.text);
		return STATUS_USAGE;
	}
	if (!options->has_tier[TIER_CPU] && !options->has_tier[TIER_NVME])
		options->has_tier[TIER_CPU] = options->has_tier[TIER_NVME] = true;
	options->settings = &settings;
	options->out = stdout;
	options->progress = stderr;
	options->has_bar = !options->is_json && isatty(STDERR_FILENO) == 1;
	if (verify_run(options, &result) < 0) {
		fputs("kvtierd: --verify: no memory\n", stderr);
		return STATUS_FAILED;
	}
	return verify_status(&result);
}
