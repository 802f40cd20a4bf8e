/* bench/gpu_sweep.c: copies of many runs, by each path: lengths, counts, and multiprocessors. */
#include "bench/gpu_bench.h"

#include "bench/micro.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define KIB UINT64_C(1024)
#define ROUND_SAMPLES 5u /* of a cell, between two looks at its bytes */
#define COST_SAMPLES 3u
#define KERNEL_RUN_BYTES (64 * KIB)
#define KERNEL_RUNS_MAX 1024u
#define KERNEL_NEAR_BEST 0.95

static const uint64_t lengths[] = { 1152,     4 * KIB,   8 * KIB,   16 * KIB,  32 * KIB,
				    64 * KIB, 128 * KIB, 256 * KIB, 2048 * KIB };
static const uint32_t counts[] = { 64, 1024 };
static const uint32_t kernel_blocks[] = { 1, 2, 4, 8, 12, 16, 32 };
#define LENGTHS_COUNT (sizeof(lengths) / sizeof(lengths[0]))
#define COUNTS_COUNT (sizeof(counts) / sizeof(counts[0]))
#define BLOCKS_COUNT (sizeof(kernel_blocks) / sizeof(kernel_blocks[0]))

_Static_assert(COPY_DIRECTIONS *COPY_PATHS *LENGTHS_COUNT *COUNTS_COUNT <= GPU_CELLS_MAX,
	       "room for all cells");

struct shape {
	enum copy_direction direction;
	enum copy_path path;
	uint64_t run_bytes;
	uint32_t runs;
};

struct cell_samples {
	unsigned count;
	double rates[MEASURE_PAIRS_MAX], submits_us[MEASURE_PAIRS_MAX];
};

/* Every other run of the device's memory, so that none joins the next: a payload in the host's. */
static struct copy_rectangle rectangle_of(const struct gpu_bench *bench, const struct shape *shape)
{
	bool is_store = shape->direction == COPY_STORE;

	return (struct copy_rectangle){
		.device = is_store ? gpu_device_source(bench) : gpu_device_target(bench),
		.host = (uint8_t *)(uintptr_t)(is_store ? gpu_host_target(bench)
							: gpu_host_source(bench)),
		.bytes = shape->run_bytes,
		.rows = shape->runs,
		.device_pitch = 2 * shape->run_bytes,
		.host_pitch = shape->run_bytes,
	};
}

/* How many runs there is memory for. */
static uint32_t runs_that_fit(const struct gpu_bench *bench, uint64_t run_bytes, uint32_t wanted)
{
	uint64_t most = bench->bytes / (2 * run_bytes);

	return most < wanted ? (uint32_t)most : wanted;
}

static int shape_copy(struct gpu_bench *bench, const struct shape *shape, double out_seconds[2],
		      struct error *error)
{
	const struct copy_rectangle rectangle = rectangle_of(bench, shape);
	const struct device_copy copy = { .rectangles = &rectangle,
					  .count = 1,
					  .path = shape->path };

	return gpu_copy(bench,
			shape->direction == COPY_STORE ? DEVICE_STORE_BULK : DEVICE_LOAD_URGENT,
			&copy, out_seconds, error);
}

static int shape_clear(struct gpu_bench *bench, const struct shape *shape, struct error *error)
{
	return gpu_clear(bench, shape->direction == COPY_STORE ? GPU_STORE : GPU_LOAD,
			 2 * shape->runs * shape->run_bytes, error);
}

static int shape_check(struct gpu_bench *bench, const struct shape *shape, struct error *error)
{
	const uint64_t length = shape->run_bytes;
	bool is_load = shape->direction == COPY_LOAD;
	int result = is_load ? gpu_read_back(bench, 2 * shape->runs * length, error) : 0;

	for (uint64_t n = 0; result == 0 && n < shape->runs; n++) {
		uint64_t packed = n * length, spread = 2 * n * length;

		result = gpu_compare(gpu_host_target(bench) + (is_load ? spread : packed),
				     gpu_host_source(bench) + (is_load ? packed : spread), length,
				     error);
	}
	return result;
}

/* ---- the sweep ---- */

static int cell_round(struct gpu_bench *bench, const struct gpu_cell *cell,
		      struct cell_samples *samples, struct error *error)
{
	const struct shape shape = { cell->direction, cell->path, cell->run_bytes, cell->runs };
	double seconds[2];
	int result = shape_clear(bench, &shape, error);

	for (unsigned n = 0; result == 0 && n < ROUND_SAMPLES; n++) {
		result = shape_copy(bench, &shape, seconds, error);
		if (result < 0 || samples->count == MEASURE_PAIRS_MAX)
			continue;
		samples->rates[samples->count] = (double)(shape.runs * shape.run_bytes) /
						 seconds[1] / 1e9;
		samples->submits_us[samples->count++] = seconds[0] * 1e6 / shape.runs;
	}
	return result < 0 ? result : shape_check(bench, &shape, error);
}

/* What the device can do, as far as there is memory: a count that is cut to the one before is left
 * out. */
static unsigned cells_make(const struct gpu_bench *bench, struct gpu_cell *cells)
{
	unsigned made = 0;

	for (unsigned length = 0; length < LENGTHS_COUNT; length++) {
		uint32_t before = 0;

		for (unsigned count = 0; count < COUNTS_COUNT; count++) {
			uint32_t runs = runs_that_fit(bench, lengths[length], counts[count]);

			if (runs == before)
				continue;
			before = runs;
			for (unsigned n = 0; n < COPY_DIRECTIONS * COPY_PATHS; n++) {
				if (!bench->device.about.has_path[n % COPY_PATHS])
					continue;
				cells[made++] = (struct gpu_cell){
					.direction = (enum copy_direction)(n / COPY_PATHS),
					.path = (enum copy_path)(n % COPY_PATHS),
					.run_bytes = lengths[length],
					.runs = runs,
				};
			}
		}
	}
	return made;
}

static void cell_finish(struct gpu_cell *cell, struct cell_samples *samples)
{
	cell->samples = samples->count;
	cell->rate = measure_median(samples->rates, samples->count);
	cell->rate_low = measure_quantile(samples->rates, samples->count, 0.25);
	cell->rate_high = measure_quantile(samples->rates, samples->count, 0.75);
	cell->submit_us = measure_median(samples->submits_us, samples->count);
}

int gpu_sweep(struct gpu_bench *bench, struct error *error)
{
	struct cell_samples *samples = calloc(GPU_CELLS_MAX, sizeof(*samples));
	unsigned count = cells_make(bench, bench->cells), n = 0;
	double until = micro_now() + bench->part_seconds;
	int result = 0;

	if (samples == NULL)
		return error_set(error, -ENOMEM, "no memory for samples");
	/* Round by round, so that each cell has its share of what else the machine does. */
	for (unsigned round = 0; result == 0 && samples[count - 1].count < MEASURE_PAIRS_MAX &&
				 (round == 0 || micro_now() < until);
	     round++)
		for (n = 0; result == 0 && n < count && (round == 0 || micro_now() < until); n++)
			result = cell_round(bench, &bench->cells[n], &samples[n], error);
	for (n = 0; result == 0 && n < count; n++)
		cell_finish(&bench->cells[n], &samples[n]);
	bench->cells_count = result == 0 ? count : 0;
	free(samples);
	return result;
}

/* ---- what the transfer engine chooses paths by ---- */

/* The median time of a copy, in nanoseconds. */
static int shape_time(struct gpu_bench *bench, const struct shape *shape, double *out_ns,
		      struct error *error)
{
	double samples[COST_SAMPLES], seconds[2];

	for (unsigned n = 0; n < COST_SAMPLES; n++) {
		int result = shape_copy(bench, shape, seconds, error);

		if (result < 0)
			return result;
		samples[n] = seconds[1] * 1e9;
	}
	*out_ns = measure_median(samples, COST_SAMPLES);
	return 0;
}

/* Where there is no memory for COST_MANY runs, as many as fit say what so many would take. */
static int line_measure(struct gpu_bench *bench, struct shape *shape, struct cost_line *out_line,
			struct error *error)
{
	uint32_t many = runs_that_fit(bench, shape->run_bytes, COST_MANY);
	uint32_t few = many / (COST_MANY / COST_FEW) + 1;
	double few_ns, many_ns;
	int result;

	shape->runs = few;
	result = shape_time(bench, shape, &few_ns, error);
	shape->runs = many;
	if (result == 0)
		result = shape_time(bench, shape, &many_ns, error);
	if (result < 0)
		return result;
	*out_line = cost_line_of((struct cost_time){ few, few_ns },
				 (struct cost_time){ many, many_ns });
	return 0;
}

int gpu_costs(struct gpu_bench *bench, struct cost_table *out_costs, struct error *error)
{
	int result = 0;

	*out_costs = (struct cost_table){ 0 };
	for (unsigned n = 0; n < COPY_DIRECTIONS * COPY_PATHS; n++) {
		struct shape shape = { .direction = (enum copy_direction)(n / COPY_PATHS),
				       .path = (enum copy_path)(n % COPY_PATHS) };
		struct cost_line *lines = out_costs->lines[shape.direction][shape.path];

		if (!bench->device.about.has_path[shape.path])
			continue;
		for (unsigned length = 0; result == 0 && length < COST_LENGTHS; length++) {
			shape.run_bytes = cost_lengths[length];
			if (runs_that_fit(bench, shape.run_bytes, COST_MANY) >= 4) {
				result = line_measure(bench, &shape, &lines[length], error);
				continue;
			}
			lines[length] = lines[length - 1]; /* longer runs cost what bytes do */
			lines[length].run_ns *= (float)cost_lengths[length] /
						(float)cost_lengths[length - 1];
		}
	}
	return result;
}

/* ---- how many multiprocessors a kernel needs ---- */

static int kernel_pairs(struct gpu_bench *bench, enum copy_direction direction, double seconds,
			struct measure_pairs *pairs, struct error *error)
{
	const struct shape shape = { direction, COPY_KERNEL, KERNEL_RUN_BYTES,
				     runs_that_fit(bench, KERNEL_RUN_BYTES, KERNEL_RUNS_MAX) };
	double until = micro_now() + seconds, took[2] = { 0 }, plain = 0;

	while (pairs->count < MEASURE_PAIRS_MIN ||
	       (micro_now() < until && pairs->count < MEASURE_PAIRS_MAX)) {
		int result = gpu_plain(bench, direction == COPY_STORE ? GPU_STORE : GPU_LOAD,
				       &plain, error);
		if (result == 0)
			result = shape_clear(bench, &shape, error);
		if (result == 0)
			result = shape_copy(bench, &shape, took, error);
		if (result == 0)
			result = shape_check(bench, &shape, error);
		if (result < 0)
			return result;
		measure_pairs_add(pairs, (double)(shape.runs * shape.run_bytes) / took[1] / 1e9,
				  plain);
	}
	return 0;
}

static void kernel_add(struct gpu_bench *bench, enum copy_direction direction,
		       const struct measure_pairs pairs[BLOCKS_COUNT])
{
	const char *of = gpu_mode_name(direction == COPY_STORE ? GPU_STORE : GPU_LOAD);
	double ratios[BLOCKS_COUNT], best = 0;
	char name[MEASURE_NAME_BYTES];
	unsigned fewest = 0;

	for (unsigned n = 0; n < BLOCKS_COUNT; n++) {
		snprintf(name, sizeof(name), "kernel_%s_%u", of, kernel_blocks[n]);
		ratios[n] = measures_add_pairs(&bench->measures, name, &pairs[n], "GB/s",
					       MEASURE_HIGHER)
				    ->ratio;
		best = ratios[n] > best ? ratios[n] : best;
	}
	while (ratios[fewest] < KERNEL_NEAR_BEST * best)
		fewest++;
	snprintf(name, sizeof(name), "kernel_blocks_%s", of);
	measures_add(&bench->measures, name, kernel_blocks[fewest], "blocks", MEASURE_LOWER);
}

int gpu_kernel_blocks(struct gpu_bench *bench, struct error *error)
{
	static struct measure_pairs pairs[COPY_DIRECTIONS][BLOCKS_COUNT];
	double seconds = bench->part_seconds / (BLOCKS_COUNT * COPY_DIRECTIONS);
	int result = 0;

	if (!bench->device.about.has_path[COPY_KERNEL]) {
		error_set(error, -ENOTSUP, "the device has no copy kernel");
		return 1;
	}
	/* The device is opened with as many as there may be. */
	for (unsigned n = 0; result == 0 && n < BLOCKS_COUNT; n++) {
		gpu_bench_close(bench);
		result = gpu_bench_open(bench, kernel_blocks[n], error);
		for (unsigned of = 0; result == 0 && of < COPY_DIRECTIONS; of++)
			result = kernel_pairs(bench, (enum copy_direction)of, seconds,
					      &pairs[of][n], error);
	}
	if (result < 0)
		return result;
	gpu_bench_close(bench);
	result = gpu_bench_open(bench, GPU_KERNEL_BLOCKS, error);
	for (unsigned of = 0; result == 0 && of < COPY_DIRECTIONS; of++)
		kernel_add(bench, (enum copy_direction)of, pairs[of]);
	return result;
}
