/* bench/gpu_small.c: what an inference engine's own small copies wait for while blocks are loaded.
 */
#include "bench/gpu_scene.h"

#include "bench/micro.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define PAUSE_SECONDS 200e-6 /* between two small copies */
#define ROUNDS 4u
#define SLICE_SAMPLES_MIN GPU_SMALL_SLOTS /* so that all are used */
#define SLICE_SAMPLES_MAX 5000u
#define RATE_SAMPLES 5u

struct smalls {
	unsigned count;
	double us[ROUNDS * SLICE_SAMPLES_MAX];
};

static int small_start(struct gpu_bench *bench, uint64_t slot, uint32_t *out_mark,
		       struct error *error)
{
	const struct copy_rectangle row = {
		.device = gpu_device_small(bench) + slot * GPU_SMALL_BYTES,
		.host = gpu_host_small(bench) + slot * GPU_SMALL_BYTES,
		.bytes = GPU_SMALL_BYTES,
		.rows = 1,
	};
	const struct device_copy copy = { .rectangles = &row, .count = 1, .path = COPY_LOOP };
	int result = device_copy_start(&bench->device, DEVICE_LOAD_BULK, &copy, error);

	return result < 0 ? result
			  : device_mark_set(&bench->device, DEVICE_LOAD_BULK, out_mark, error);
}

/* One small copy, and the pause behind it; with `is_loading`, blocks are loaded all the while. */
static int small_once(struct gpu_scene *scene, bool is_loading, struct smalls *smalls,
		      struct error *error)
{
	struct gpu_bench *bench = scene->bench;
	double began = micro_now(), ended = 0;
	uint32_t mark;
	int result = small_start(bench, smalls->count % GPU_SMALL_SLOTS, &mark, error);

	while (result == 0 && (ended == 0 || micro_now() - ended < PAUSE_SECONDS)) {
		if (is_loading && !scene->flows[COPY_LOAD].is_under_way)
			result = gpu_flow_submit(scene, COPY_LOAD, error);
		if (result == 0)
			result = gpu_scene_step(scene, began, error);
		if (result < 0 || ended > 0)
			continue;
		result = device_mark_check(&bench->device, mark, error);
		if (result <= 0)
			continue;
		/* Counted from before it was started, as who starts it would. */
		ended = micro_now();
		smalls->us[smalls->count++] = (ended - began) * 1e6;
		result = 0;
	}
	return result;
}

static int smalls_clear(struct gpu_bench *bench, struct error *error)
{
	const uint64_t bytes = GPU_SMALL_SLOTS * GPU_SMALL_BYTES;
	int result = gpu_clear(bench, GPU_LOAD, bench->bytes, error);

	return result < 0 ? result
			  : gpu_copy_plain(bench, DEVICE_LOAD_BULK, gpu_device_small(bench),
					   gpu_host_target(bench), bytes, error);
}

static int smalls_check(struct gpu_scene *scene, bool is_loading, struct error *error)
{
	const uint64_t bytes = GPU_SMALL_SLOTS * GPU_SMALL_BYTES;
	struct gpu_bench *bench = scene->bench;
	int result = is_loading ? gpu_scene_check(scene, GPU_LOAD, error) : 0;

	memset(gpu_host_target(bench), 0, bytes);
	if (result == 0)
		result = gpu_copy_plain(bench, DEVICE_STORE_BULK, gpu_device_small(bench),
					gpu_host_target(bench), bytes, error);
	return result < 0
		       ? result
		       : gpu_compare(gpu_host_target(bench), gpu_host_small(bench), bytes, error);
}

/* A slice of one condition; chunk_bytes 0: the small copies are alone. */
static int small_slice(struct gpu_scene *scene, const struct cost_table *costs,
		       uint64_t chunk_bytes, struct smalls *smalls, struct error *error)
{
	struct gpu_bench *bench = scene->bench;
	bool is_loading = chunk_bytes > 0;
	unsigned first = smalls->count, taken = 0;
	int drained, result = smalls_clear(bench, error);

	if (result == 0)
		result = gpu_engine_open(scene, costs, is_loading ? chunk_bytes : GPU_CHUNK_BYTES,
					 error);
	if (result < 0)
		return result;
	double until = micro_now() + bench->part_seconds;
	while (result == 0 && taken < SLICE_SAMPLES_MAX &&
	       (taken < SLICE_SAMPLES_MIN || micro_now() < until)) {
		result = small_once(scene, is_loading, smalls, error);
		taken = smalls->count - first;
	}
	drained = bench->is_stuck ? 0 : gpu_scene_drain(scene, result < 0 ? NULL : error);
	gpu_engine_close(scene);
	result = result < 0 ? result : drained;
	return result < 0 ? result : smalls_check(scene, is_loading, error);
}

static const struct {
	const char *name;
	uint64_t chunk_bytes;
} conditions[] = { { "alone", 0 },
		   { "512k", GPU_MIB / 2 },
		   { "2m", 2 * GPU_MIB },
		   { "8m", 8 * GPU_MIB },
		   { "64m", 64 * GPU_MIB } };
#define CONDITIONS_COUNT (sizeof(conditions) / sizeof(conditions[0]))

static void smalls_add(struct gpu_bench *bench, struct smalls smalls[CONDITIONS_COUNT],
		       double load_rate)
{
	double alone_us = 0;
	char name[MEASURE_NAME_BYTES];

	for (unsigned n = 0; n < CONDITIONS_COUNT; n++) {
		struct smalls *of = &smalls[n];
		double chunk_us = (double)conditions[n].chunk_bytes / load_rate / 1e3;
		double middle = measure_median(of->us, of->count); /* sorts */
		double last = measure_quantile(of->us, of->count, 0.99);

		snprintf(name, sizeof(name), "small_copy_%s_p50", conditions[n].name);
		struct measure *measure = measures_add(&bench->measures, name, middle, "us",
						       MEASURE_LOWER);
		measure->samples = of->count;
		measure->spread_low = measure_quantile(of->us, of->count, 0.25);
		measure->spread_high = measure_quantile(of->us, of->count, 0.75);
		snprintf(name, sizeof(name), "small_copy_%s_p99", conditions[n].name);
		measure = measures_add(&bench->measures, name, last, "us", MEASURE_LOWER);
		measure->samples = of->count;
		/* What is in the device's hands when it comes: TRANSFER_CHUNKS_MAX. */
		measure->goal = n == 0 ? NAN : alone_us + TRANSFER_CHUNKS_MAX * chunk_us;
		if (n == 0)
			alone_us = last;
	}
}

/* The conditions in turn, several times, so that all have their share of the machine's moods. */
static int smalls_run(struct gpu_scene *scene, const struct cost_table *costs,
		      struct smalls smalls[CONDITIONS_COUNT], double *out_load_rate,
		      struct error *error)
{
	double rates[ROUNDS * RATE_SAMPLES];
	unsigned count = 0;
	int result = 0;

	for (unsigned round = 0; round < ROUNDS && result == 0; round++) {
		for (unsigned n = 0; n < RATE_SAMPLES && result == 0; n++)
			result = gpu_plain(scene->bench, GPU_LOAD, &rates[count++], error);
		for (unsigned n = 0; n < CONDITIONS_COUNT && result == 0; n++)
			result = small_slice(scene, costs, conditions[n].chunk_bytes, &smalls[n],
					     error);
	}
	if (result == 0)
		*out_load_rate = measure_median(rates, count);
	return result;
}

int gpu_small_copy(struct gpu_bench *bench, struct error *error)
{
	static struct smalls smalls[CONDITIONS_COUNT];
	double seconds = bench->part_seconds, load_rate = 0;
	struct cost_table costs;
	struct gpu_scene scene;
	int result = gpu_costs(bench, &costs, error);

	if (result == 0)
		result = gpu_scene_init(&scene, bench, 1, error);
	if (result < 0)
		return result;
	bench->part_seconds = seconds / (ROUNDS * CONDITIONS_COUNT);
	result = smalls_run(&scene, &costs, smalls, &load_rate, error);
	bench->part_seconds = seconds;
	gpu_scene_finish(&scene);
	if (result == 0)
		smalls_add(bench, smalls, load_rate);
	return result;
}
