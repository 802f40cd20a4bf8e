/* bench/gpu_command.c: `kvtier-bench gpu`: finds a device, runs the parts, and writes them down. */
#include "bench/gpu_bench.h"

#include "base/copy.h"
#include "base/nearest.h"
#include "bench/commands.h"
#include "bench/micro.h"
#include "bench/options.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define SECONDS_DEFAULT                                                                            \
	150.0 /* of measuring; opening, clearing and the least samples come on top */
#define MIB_DEFAULT 256u
#define MIB_STEP 4u /* so that blocks and runs fit without a rest */

struct gpu_options {
	const char *vendor, *device, *library, *json, *only, *commit;
	double seconds;
	uint64_t mib;
};

static const struct option_row rows[] = {
	{ "vendor", OPTION_TEXT, "NAME",
	  "cuda, rocm, or host: this machine's memory (default: the first GPU that is found)",
	  offsetof(struct gpu_options, vendor), 0, 0, false },
	{ "device", OPTION_TEXT, "BUS_ID",
	  "the GPU's PCI bus id, 0000:17:00.0 (default: the first)",
	  offsetof(struct gpu_options, device), 0, 0, false },
	{ "library", OPTION_TEXT, "FILE", "the vendor's driver library (default: the usual one)",
	  offsetof(struct gpu_options, library), 0, 0, false },
	{ "json", OPTION_TEXT, "FILE", "write the measures there",
	  offsetof(struct gpu_options, json), 0, 0, false },
	{ "only", OPTION_TEXT, "NAME",
	  "one part: peak, sweep, kernel_blocks, engine, small_copy, pin",
	  offsetof(struct gpu_options, only), 0, 0, false },
	{ "seconds", OPTION_NUMBER, "N",
	  "time to measure, in all; each part takes its least samples whatever it is (default 150)",
	  offsetof(struct gpu_options, seconds), 0, 3600, false },
	{ "mib", OPTION_COUNT, "N",
	  "MiB of each of two areas on either side, a multiple of 4 (default 256)",
	  offsetof(struct gpu_options, mib), MIB_STEP, 65536, false },
	{ "commit", OPTION_TEXT, "ID", "what this was built from, for the JSON",
	  offsetof(struct gpu_options, commit), 0, 0, false },
};

static const struct part {
	const char *name;
	int (*run)(struct gpu_bench *bench, struct error *error);
	unsigned share; /* of the time, in hundredths */
} parts[] = {
	{ "peak", gpu_peak, 10 },
	{ "sweep", gpu_sweep, 25 },
	{ "kernel_blocks", gpu_kernel_blocks, 15 },
	{ "engine", gpu_engine, 30 },
	{ "small_copy", gpu_small_copy, 15 },
	{ "pin", gpu_pin_speed, 5 },
};
#define PARTS_COUNT (sizeof(parts) / sizeof(parts[0]))

_Static_assert(PARTS_COUNT <= GPU_PARTS_MAX, "room for what became of each");

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
	fprintf(stderr, "kvtier-bench gpu: no part \"%.40s\"%s%s; --help lists them\n", only,
		nearest != NULL ? "; did you mean " : "", nearest != NULL ? nearest : "");
	return -EINVAL;
}

static int part_run(struct gpu_bench *bench, const struct part *part)
{
	struct gpu_outcome *outcome = &bench->outcomes[bench->outcomes_count++];
	struct error error = { .text = "" };
	double began = micro_now();

	fprintf(stderr, "measuring %s\n", part->name);
	outcome->name = part->name;
	int result = part->run(bench, &error);
	outcome->seconds = micro_now() - began;
	if (result == 0)
		snprintf(outcome->state, sizeof(outcome->state), "measured");
	else
		snprintf(outcome->state, sizeof(outcome->state), "%s: %s",
			 result > 0 ? "not here" : "failed", error.text);
	if (result < 0)
		fprintf(stderr, "kvtier-bench gpu: %s: %s\n", part->name, error.text);
	return result;
}

/* A device that moves wrong bytes, is lost, or does not answer, is not measured any further. */
static int parts_run(struct gpu_bench *bench, const struct gpu_options *chosen)
{
	int status = EXIT_FINE, result = 0;

	for (unsigned i = 0; i < PARTS_COUNT; i++) {
		if (chosen->only != NULL && strcmp(chosen->only, parts[i].name) != 0)
			continue;
		bench->part_seconds = chosen->seconds *
				      (chosen->only != NULL ? 1 : parts[i].share / 100.0);
		result = part_run(bench, &parts[i]);
		if (result < 0)
			status = EXIT_REFUSED;
		if (result == -EILSEQ || result == -EIO || bench->is_stuck || !bench->is_open)
			break;
	}
	return status;
}

static int bench_open(struct gpu_bench *bench, const struct gpu_options *chosen)
{
	struct error error = { .text = "" };
	bool is_asked_for = chosen->vendor != NULL || chosen->device != NULL ||
			    chosen->library != NULL;
	int result = gpu_bench_choose(bench, chosen->vendor, chosen->device, &error);

	if (result == -ENODEV && !is_asked_for) {
		fprintf(stderr,
			"kvtier-bench gpu: skipped: %s; --vendor host measures this machine's memory\n",
			error.text);
		return EXIT_SKIPPED;
	}
	if (result == 0)
		result = gpu_bench_open(bench, GPU_KERNEL_BLOCKS, &error);
	if (result == 0)
		return EXIT_FINE;
	fprintf(stderr, "kvtier-bench gpu: %s\n", error.text);
	return EXIT_REFUSED;
}

static int options_take(struct gpu_options *chosen, int argc, char **argv)
{
	static const struct options options = {
		"gpu",
		"measures the transfer engine beside what a GPU gives for large plain copies", rows,
		sizeof(rows) / sizeof(rows[0])
	};
	struct error error;
	int result = options_parse(&options, chosen, argc, argv, &error);

	if (result == 0 && chosen->mib % MIB_STEP != 0)
		result = error_set(&error, -EINVAL, "--mib is %llu, expected a multiple of %u",
				   (unsigned long long)chosen->mib, MIB_STEP);
	if (result < 0)
		fprintf(stderr, "kvtier-bench gpu: %s\n", error.text);
	return result == 0 ? only_check(chosen->only) : result;
}

int gpu_command(int argc, char **argv)
{
	static struct gpu_bench bench;
	struct gpu_options chosen = { .seconds = SECONDS_DEFAULT, .mib = MIB_DEFAULT };
	struct error error;
	int status, result = options_take(&chosen, argc, argv);

	if (result != 0)
		return result > 0 ? EXIT_FINE : EXIT_REFUSED;
	copy_calibrate(1u << 20);
	bench.library = chosen.library;
	bench.commit = chosen.commit;
	bench.bytes = chosen.mib * GPU_MIB;
	measures_init(&bench.measures, "gpu");
	status = bench_open(&bench, &chosen);
	if (status != EXIT_FINE)
		return status;
	status = parts_run(&bench, &chosen);
	gpu_report_print(&bench, stdout);
	if (chosen.json != NULL && gpu_report_write(&bench, chosen.json, &error) < 0) {
		fprintf(stderr, "kvtier-bench gpu: %s\n", error.text);
		status = EXIT_REFUSED;
	}
	gpu_bench_close(&bench);
	return status;
}
