/* bench/gpu_peak.c: what the device gives for plain copies of large pinned memory, and what pinning
 * costs. */
#include "bench/gpu_bench.h"

#include "bench/micro.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct samples {
	unsigned count;
	double values[MEASURE_PAIRS_MAX];
};

static void samples_add(struct measures *measures, const char *name, struct samples *samples,
			const char *unit, enum measure_better better)
{
	double median = measure_median(samples->values, samples->count); /* sorts */
	struct measure *measure = measures_add(measures, name, median, unit, better);

	measure->samples = samples->count;
	measure->spread_low = measure_quantile(samples->values, samples->count, 0.25);
	measure->spread_high = measure_quantile(samples->values, samples->count, 0.75);
}

int gpu_peak(struct gpu_bench *bench, struct error *error)
{
	struct samples samples[GPU_MODES] = { 0 };
	double until = micro_now() + bench->part_seconds;
	char name[MEASURE_NAME_BYTES];

	while (samples[0].count < MEASURE_PAIRS_MIN ||
	       (micro_now() < until && samples[0].count < MEASURE_PAIRS_MAX))
		for (unsigned mode = 0; mode < GPU_MODES; mode++) {
			struct samples *of = &samples[mode];
			int result = gpu_plain(bench, (enum gpu_mode)mode, &of->values[of->count],
					       error);
			if (result < 0)
				return result;
			of->count++;
		}
	for (unsigned mode = 0; mode < GPU_MODES; mode++) {
		snprintf(name, sizeof(name), "peak_%s", gpu_mode_name((enum gpu_mode)mode));
		samples_add(&bench->measures, name, &samples[mode], "GB/s", MEASURE_HIGHER);
	}
	return 0;
}

/* Milliseconds a GiB, of memory whose pages are there; a plain store shows that it is pinned. */
static int pin_once(struct gpu_bench *bench, int advice, double *out_ms, struct error *error)
{
	uint8_t *memory = mmap(NULL, bench->bytes, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int result;

	if (memory == MAP_FAILED)
		return error_set(error, -ENOMEM, "no memory for %llu MiB; less: --mib",
				 (unsigned long long)(bench->bytes >> 20));
	(void)madvise(memory, bench->bytes, advice);
	memset(memory, 0, bench->bytes);
	double began = micro_now();
	result = device_pin(&bench->device, memory, bench->bytes, error);
	*out_ms = (micro_now() - began) * 1e3 / ((double)bench->bytes / (double)(1u << 30));
	if (result == 0) {
		int unpinned;

		result = gpu_copy_plain(bench, DEVICE_STORE_BULK, gpu_device_source(bench), memory,
					bench->bytes, error);
		if (result == 0)
			result = gpu_compare(memory, gpu_host_source(bench), bench->bytes, error);
		if (bench->is_stuck)
			return result;
		unpinned = device_unpin(&bench->device, memory, bench->bytes,
					result < 0 ? NULL : error);
		result = result < 0 ? result : unpinned;
	}
	munmap(memory, bench->bytes);
	return result;
}

int gpu_pin_speed(struct gpu_bench *bench, struct error *error)
{
	static const struct {
		const char *name;
		int advice;
	} kinds[] = { { "pin_4k", MADV_NOHUGEPAGE }, { "pin_huge", MADV_HUGEPAGE } };
	struct samples samples[2] = { 0 };
	double until = micro_now() + bench->part_seconds;

	while (samples[0].count < MEASURE_PAIRS_MIN ||
	       (micro_now() < until && samples[0].count < MEASURE_PAIRS_MAX))
		for (unsigned n = 0; n < 2; n++) {
			struct samples *of = &samples[n];
			int result = pin_once(bench, kinds[n].advice, &of->values[of->count],
					      error);
			if (result < 0)
				return result;
			of->count++;
		}
	for (unsigned n = 0; n < 2; n++)
		samples_add(&bench->measures, kinds[n].name, &samples[n], "ms/GiB", MEASURE_LOWER);
	return 0;
}
