/* bench/micro.c: `kvtier-bench micro`: runs the measures and writes them down. */
#include "bench/micro.h"

#include "base/copy.h"
#include "base/nearest.h"
#include "bench/commands.h"
#include "bench/options.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RESTART_BLOCKS 1000000u
#define INDEX_BLOCKS 10000000u

struct micro_options {
	const char *kvtierd, *directory, *json, *only;
	uint64_t pairs, restart_blocks, index_blocks;
};

static const struct option_row rows[] = {
	{ "kvtierd", OPTION_TEXT, "FILE", "the daemon to measure",
	  offsetof(struct micro_options, kvtierd), 0, 0, true },
	{ "directory", OPTION_TEXT, "DIR",
	  "an existing folder on the disk to measure (default: /tmp)",
	  offsetof(struct micro_options, directory), 0, 0, false },
	{ "json", OPTION_TEXT, "FILE", "write the measures there",
	  offsetof(struct micro_options, json), 0, 0, false },
	{ "only", OPTION_TEXT, "NAME",
	  "one part: nvme_1m, nvme_64k, nvme_enciphered, cipher, host, cpu, call, lookup, restart, simulate, "
	  "fair, idle",
	  offsetof(struct micro_options, only), 0, 0, false },
	{ "pairs", OPTION_COUNT, "N", "interleaved pairs of each measure (default 11)",
	  offsetof(struct micro_options, pairs), MEASURE_PAIRS_MIN, MEASURE_PAIRS_MAX - 1, false },
	{ "restart-blocks", OPTION_COUNT, "N", "blocks of the restart (default 1000000)",
	  offsetof(struct micro_options, restart_blocks), 1000, 100000000, false },
	{ "index-blocks", OPTION_COUNT, "N",
	  "blocks of the index that lookups are measured in (default 10000000)",
	  offsetof(struct micro_options, index_blocks), 1000000, 100000000, false },
};

static int nvme_1m(struct micro *micro, struct error *error)
{
	return micro_nvme(micro, UINT64_C(1) << 20, "1m", error);
}

static int nvme_64k(struct micro *micro, struct error *error)
{
	return micro_nvme(micro, UINT64_C(1) << 16, "64k", error);
}

/* The same with encryption: what is above it in the same run is without. */
static int nvme_enciphered(struct micro *micro, struct error *error)
{
	int result;

	micro->encryption = "ephemeral";
	result = micro_nvme(micro, UINT64_C(1) << 20, "1m_enciphered", error);
	if (result == 0)
		result = micro_nvme(micro, UINT64_C(1) << 16, "64k_enciphered", error);
	micro->encryption = NULL;
	return result;
}

static const struct part {
	const char *name;
	int (*run)(struct micro *micro, struct error *error);
} parts[] = {
	{ "nvme_1m", nvme_1m },         { "nvme_64k", nvme_64k },
	{ "nvme_enciphered", nvme_enciphered },
	{ "cipher", micro_cipher },     { "host", micro_host },     { "cpu", micro_cpu },
	{ "call", micro_call },         { "lookup", micro_lookup }, { "restart", micro_restart },
	{ "simulate", micro_simulate }, { "fair", micro_fair },     { "idle", micro_idle },
};

#define PARTS_COUNT (sizeof(parts) / sizeof(parts[0]))

static int only_check(const char *only)
{
	const char *names[PARTS_COUNT];
	const char *nearest;

	for (unsigned i = 0; i < PARTS_COUNT; i++) {
		names[i] = parts[i].name;
		if (only == NULL || strcmp(only, names[i]) == 0)
			return 0;
	}
	nearest = nearest_word(only, names, PARTS_COUNT);
	fprintf(stderr, "kvtier-bench micro: no part \"%.40s\"%s%s; --help lists them\n", only,
		nearest != NULL ? "; did you mean " : "", nearest != NULL ? nearest : "");
	return -EINVAL;
}

static int parts_run(struct micro *micro, const char *only)
{
	int status = EXIT_FINE;

	for (unsigned i = 0; i < PARTS_COUNT; i++) {
		struct error error = { .text = "" };

		if (only != NULL && strcmp(only, parts[i].name) != 0)
			continue;
		fprintf(stderr, "measuring %s\n", parts[i].name);
		if (parts[i].run(micro, &error) < 0) {
			fprintf(stderr, "kvtier-bench micro: %s: %s\n", parts[i].name, error.text);
			status = EXIT_REFUSED;
		}
	}
	return status;
}

int micro_command(int argc, char **argv)
{
	static const struct options options = {
		"micro", "measures operations beside what the machine gives for them", rows,
		sizeof(rows) / sizeof(rows[0])
	};
	static struct micro micro;
	struct micro_options chosen = { .directory = "/tmp",
					.pairs = MEASURE_PAIRS_MIN,
					.restart_blocks = RESTART_BLOCKS,
					.index_blocks = INDEX_BLOCKS };
	struct error error;
	char command[300];
	int result = options_parse(&options, &chosen, argc, argv, &error);

	if (result > 0)
		return EXIT_FINE;
	if (result < 0) {
		fprintf(stderr, "kvtier-bench micro: %s\n", error.text);
		return EXIT_REFUSED;
	}
	if (only_check(chosen.only) < 0)
		return EXIT_REFUSED;
	signal(SIGPIPE, SIG_IGN);
	copy_calibrate(1u << 20);
	micro.kvtierd = chosen.kvtierd;
	micro.pairs = chosen.pairs;
	micro.restart_blocks = chosen.restart_blocks;
	micro.index_blocks = chosen.index_blocks;
	snprintf(micro.directory, sizeof(micro.directory), "%.150s/kvtier-micro-XXXXXX",
		 chosen.directory);
	if (mkdtemp(micro.directory) == NULL) {
		fprintf(stderr, "kvtier-bench micro: cannot make a folder in %s: %s\n",
			chosen.directory, strerror(errno));
		return EXIT_REFUSED;
	}
	measures_init(&micro.measures, "core");
	int status = parts_run(&micro, chosen.only);
	measures_print(&micro.measures, stdout);
	if (chosen.json != NULL && measures_write(&micro.measures, chosen.json, &error) < 0) {
		fprintf(stderr, "kvtier-bench micro: %s\n", error.text);
		status = EXIT_REFUSED;
	}
	snprintf(command, sizeof(command), "rm -rf '%s'", micro.directory);
	return system(command) == 0 ? status : EXIT_REFUSED;
}
