/*
 * tests/gpu/test_calibrate.c: what copies cost is what the device makes them cost, within the
 * budget; a device that hangs, fails or is slow is told apart.
 */
#include "tests/gpu/device_rig.h"
#include "tests/gpu/fake/fake.h"
#include "transfer/calibrate.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define ALL_PATHS ((1u << COPY_PATHS) - 1)
#define SEED 5u
#define START_US 1000000u
#define NTH_MAX 400u

static const enum fake_call store_calls[COPY_PATHS] = {
	[COPY_LOOP] = FAKE_cuMemcpyDtoHAsync_v2,
	[COPY_2D] = FAKE_cuMemcpy2DAsync_v2,
	[COPY_BATCH] = FAKE_cuMemcpyBatchAsync_v2,
	[COPY_KERNEL] = FAKE_cuLaunchKernel,
};

static const char *const call_names[FAKE_CALL_COUNT] = {
#define NAME(name) #name,
	FAKE_CALLS(NAME)
#undef NAME
};

/* A clock that goes by what the driver was told to do, so each copy takes what it is said to. */
static struct {
	struct clock clock;
	double call_us[FAKE_CALL_COUNT];
	double byte_us[COPY_DIRECTIONS];
	uint64_t stall_after; /* copies of a run; 0: never */
	uint64_t looks;       /* while it is stalled */
} work;

#define LOOK_US 100u

static uint64_t work_now_us(struct clock *clock)
{
	double us = START_US;

	(void)clock;
	if (work.stall_after > 0 && rig_control->calls[FAKE_fake_copy] >= work.stall_after)
		rig_control->is_stalled = 1;
	work.looks += rig_control->is_stalled != 0;
	us += (double)(work.looks * LOOK_US);
	for (unsigned n = 0; n < FAKE_CALL_COUNT; n++)
		us += (double)rig_control->calls[n] * work.call_us[n];
	for (unsigned n = 0; n < COPY_DIRECTIONS; n++) {
		uint64_t throttle = rig_control->bytes_second[n];

		us += (double)rig_control->bytes[n] *
		      (work.byte_us[n] + (throttle > 0 ? 1e6 / (double)throttle : 0));
	}
	return (uint64_t)us;
}

static void call_costs(enum copy_path path, double us)
{
	work.call_us[store_calls[path]] = us;
	if (path == COPY_LOOP)
		work.call_us[FAKE_cuMemcpyHtoDAsync_v2] = us;
}

struct bench {
	struct device device;
	struct calibrate_config config;
	struct cost_table table;
	struct error error;
};

static void bench_open(struct bench *bench, const struct device_ops *ops)
{
	const struct device_config config = rig_config();

	memset(&work, 0, sizeof(work));
	work.clock.now_us = work_now_us;
	memset(bench, 0, sizeof(*bench));
	bench->config = (struct calibrate_config){
		.scratch = mmap(NULL, CALIBRATE_SCRATCH_BYTES, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
		.scratch_bytes = CALIBRATE_SCRATCH_BYTES,
		.clock = &work.clock,
		.budget_us = CALIBRATE_BUDGET_US,
		.paths = ALL_PATHS,
	};
	assert_true(bench->config.scratch != MAP_FAILED);
	if (device_open(&bench->device, ops, &config, &bench->error) < 0 ||
	    device_pin(&bench->device, bench->config.scratch, CALIBRATE_SCRATCH_BYTES,
		       &bench->error) < 0)
		fail_msg("%s", bench->error.text);
}

static void bench_close(struct bench *bench)
{
	device_close(&bench->device);
	munmap(bench->config.scratch, CALIBRATE_SCRATCH_BYTES);
	assert_int_equal(rig_memory_used(), 0);
	assert_int_equal(rig_control->left_behind, 0);
	assert_int_equal(rig_control->misuses, 0);
	assert_int_equal(rig_control->contexts, 0);
}

static int bench_run(struct bench *bench)
{
	return calibrate(&bench->device, &bench->config, &bench->table, &bench->error);
}

static double estimate(const struct bench *bench, enum copy_direction direction,
		       enum copy_path path, uint64_t bytes)
{
	const struct cost_shape shape = { direction, 1, 100, bytes };

	return cost_estimate(&bench->table, path, &shape);
}

/* ---- what is measured ---- */

static void the_throttled_direction_is_dearer(void **unused)
{
	struct bench bench;

	(void)unused;
	rig_control_reset();
	bench_open(&bench, &device_cuda_ops);
	rig_control->bytes_second[COPY_STORE] = UINT64_C(2) << 30;
	work.byte_us[COPY_STORE] = work.byte_us[COPY_LOAD] = 1 / 20000.0;
	if (bench_run(&bench) < 0)
		fail_msg("%s", bench.error.text);
	for (unsigned n = 0; n < COST_LENGTHS; n++)
		assert_true(estimate(&bench, COPY_STORE, COPY_BATCH, cost_lengths[n]) >
			    5 * estimate(&bench, COPY_LOAD, COPY_BATCH, cost_lengths[n]));
	bench_close(&bench);
}

static void the_path_that_the_driver_makes_cheap_is_chosen(void **unused)
{
	(void)unused;
	for (unsigned cheap = 0; cheap < COPY_PATHS; cheap++) {
		struct bench bench;

		rig_control_reset();
		bench_open(&bench, &device_cuda_ops);
		for (unsigned path = 0; path < COPY_PATHS; path++)
			call_costs((enum copy_path)path, path == cheap       ? 1
							 : path == COPY_LOOP ? 10
									     : 1000);
		work.byte_us[COPY_STORE] = work.byte_us[COPY_LOAD] = 1 / 20000.0;
		bench.config.budget_us = 230000; /* a whole round, and some of the next */
		assert_int_equal(bench_run(&bench), 0);
		for (unsigned direction = 0; direction < COPY_DIRECTIONS; direction++)
			for (unsigned n = 0; n < COST_LENGTHS; n++) {
				const struct cost_shape shape = { (enum copy_direction)direction, 1,
								  16, cost_lengths[n] };

				assert_int_equal(cost_choose(&bench.table, ALL_PATHS, &shape),
						 cheap);
			}
		bench_close(&bench);
	}
}

/* A microsecond is the clock's step, and so the error of each time. */
static void assert_line(const struct cost_line *line, double start_us, double run_us, uint32_t runs)
{
	assert_true(fabs((double)line->run_ns / 1000 - run_us) <= 2.0 / runs);
	assert_true(fabs((double)line->start_ns / 1000 - start_us) <= 3);
}

static void each_line_is_what_a_copy_and_a_run_cost(void **unused)
{
	struct bench bench;

	(void)unused;
	rig_control_reset();
	bench_open(&bench, &device_cuda_ops);
	call_costs(COPY_LOOP, 7);
	call_costs(COPY_BATCH, 30);
	work.call_us[FAKE_fake_copy] = 2; /* of a loop or batch: a run */
	work.byte_us[COPY_STORE] = 1 / 40000.0;
	work.byte_us[COPY_LOAD] = 1 / 20000.0;
	bench.config.budget_us = 100000; /* a whole round, and some of the next */
	assert_int_equal(bench_run(&bench), 0);
	for (unsigned direction = 0; direction < COPY_DIRECTIONS; direction++)
		for (unsigned n = 0; n < COST_LENGTHS; n++) {
			struct cost_line(*lines)[COST_LENGTHS] = bench.table.lines[direction];
			double run_us = (double)cost_lengths[n] * work.byte_us[direction];
			uint32_t runs = n < 4 ? 240 : n == 4 ? 48 : n == 5 ? 12 : 2;

			assert_line(&lines[COPY_BATCH][n], 30, 2 + run_us, runs);
			assert_line(&lines[COPY_LOOP][n], 0, 9 + run_us, runs);
		}
	bench_close(&bench);
}

static void our_memory_has_the_same_bytes_afterwards(void **unused)
{
	struct bench bench;

	(void)unused;
	rig_control_reset();
	bench_open(&bench, &device_cuda_ops);
	rig_fill(bench.config.scratch, CALIBRATE_SCRATCH_BYTES, SEED);
	work.byte_us[COPY_STORE] = work.byte_us[COPY_LOAD] = 1 / 2000.0; /* about one round */
	assert_true(bench_run(&bench) >= 0);
	assert_int_equal(rig_differs(bench.config.scratch, CALIBRATE_SCRATCH_BYTES, SEED),
			 CALIBRATE_SCRATCH_BYTES);
	assert_true(rig_control->bytes[COPY_STORE] > CALIBRATE_SCRATCH_BYTES);
	bench_close(&bench);
}

static void a_path_that_is_not_there_or_not_allowed_has_no_costs(void **unused)
{
	struct bench bench;

	(void)unused;
	rig_control_reset();
	rig_control->lacks_batch = 1;
	bench_open(&bench, &device_cuda_ops);
	bench.config.paths = 1u << COPY_BATCH | 1u << COPY_2D;
	work.byte_us[COPY_STORE] = work.byte_us[COPY_LOAD] = 1 / 5000.0;
	assert_int_equal(bench_run(&bench), 0);
	assert_true(isinf(estimate(&bench, COPY_LOAD, COPY_BATCH, 4096)));
	assert_true(isinf(estimate(&bench, COPY_LOAD, COPY_KERNEL, 4096)));
	assert_true(isfinite(estimate(&bench, COPY_LOAD, COPY_2D, 4096)));
	/* What is left where nothing else goes. */
	assert_true(isfinite(estimate(&bench, COPY_LOAD, COPY_LOOP, 4096)));
	assert_int_equal(rig_control->calls[FAKE_fake_launch], 1); /* to see that it is there */
	bench_close(&bench);
}

static void memory_of_this_machine_is_measured_by_the_loop(void **unused)
{
	struct bench bench;

	(void)unused;
	rig_control_reset();
	bench_open(&bench, &device_host_ops);
	bench.config.clock = clock_real();
	bench.config.budget_us = 100 * CALIBRATE_BUDGET_US;
	assert_int_equal(bench_run(&bench), 0);
	for (unsigned direction = 0; direction < COPY_DIRECTIONS; direction++) {
		assert_true(estimate(&bench, direction, COPY_LOOP, 4 << 20) >
			    estimate(&bench, direction, COPY_LOOP, 1024));
		assert_true(isinf(estimate(&bench, direction, COPY_BATCH, 65536)));
	}
	bench_close(&bench);
}

static void what_cannot_be_measured_with_is_refused(void **unused)
{
	struct bench bench;

	(void)unused;
	rig_control_reset();
	bench_open(&bench, &device_cuda_ops);
	bench.config.scratch_bytes--;
	assert_int_equal(bench_run(&bench), -EINVAL);
	bench.config.scratch_bytes++;
	bench.config.paths = 0;
	assert_int_equal(bench_run(&bench), -EINVAL);
	assert_string_equal(bench.error.text, "no copy path is allowed");
	bench_close(&bench);
}

/* ---- time ---- */

/* Nobody is accused of hanging; what there was no time for is guessed, and never too cheap. */
static void a_slow_device_is_measured_in_part_and_within_the_budget(void **unused)
{
	static const double rates[] = { 10, 30, 100, 1000 }; /* bytes of a microsecond */

	(void)unused;
	for (unsigned n = 0; n < sizeof(rates) / sizeof(rates[0]); n++) {
		struct bench bench;
		bool is_known;

		rig_control_reset();
		bench_open(&bench, &device_cuda_ops);
		uint64_t began = work_now_us(NULL);
		work.byte_us[COPY_STORE] = work.byte_us[COPY_LOAD] = 1 / rates[n];
		assert_int_equal(bench_run(&bench), 1);
		assert_true(work_now_us(NULL) - began <= CALIBRATE_BUDGET_US);
		is_known = isfinite(estimate(&bench, COPY_LOAD, COPY_BATCH, 65536));
		assert_true(is_known || rates[n] < 100);
		for (unsigned length = 0; is_known && length < COST_LENGTHS; length++) {
			double ns = estimate(&bench, COPY_LOAD, COPY_BATCH, cost_lengths[length]);

			assert_true(ns >=
				    0.98 * 100 * (double)cost_lengths[length] / rates[n] * 1000);
		}
		bench_close(&bench);
	}
}

static void a_device_that_hangs_is_told_soon_after_the_budget(void **unused)
{
	static const char *const words[] = { "a load of 16 runs of 64 KiB by batch: it has",
					     "a store of 16 runs of 64 KiB by batch: it has",
					     " runs of 16 KiB by " };

	(void)unused;
	for (unsigned n = 0; n < sizeof(words) / sizeof(words[0]); n++) {
		struct bench bench;

		rig_control_reset();
		bench_open(&bench, &device_cuda_ops);
		uint64_t before = rig_control->calls[FAKE_fake_copy];
		work.stall_after = n == 0 ? before : n == 1 ? before + 16 : before + 2000;
		uint64_t began = work_now_us(NULL);
		assert_int_equal(bench_run(&bench), -ETIME);
		assert_in_range(work_now_us(NULL) - began, CALIBRATE_BUDGET_US + CALIBRATE_LATE_US,
				CALIBRATE_BUDGET_US + CALIBRATE_LATE_US + 10 * LOOK_US);
		if (strstr(bench.error.text, words[n]) == NULL)
			fail_msg("%s", bench.error.text);
		/* A copy may still come, so the memory that it writes to is there. */
		assert_true(rig_memory_used() > CALIBRATE_SCRATCH_BYTES);
		rig_control->is_stalled = 0;
		for (unsigned queue = 0; queue < DEVICE_WAIT; queue++)
			while (device_is_idle(&bench.device, queue, NULL) == 0)
				usleep(20);
		bench_close(&bench);
	}
}

/* ---- failures ---- */

/* As a whole, but little of it, as each run is a call. True: the call was reached. */
static bool one_failure(enum fake_call call, uint32_t nth)
{
	struct bench bench;
	char name[64];
	bool was_hit;

	rig_control_reset();
	bench_open(&bench, &device_cuda_ops);
	snprintf(name, sizeof(name), "%s", call_names[call]);
	work.byte_us[COPY_STORE] = work.byte_us[COPY_LOAD] = 1 / 500.0;
	rig_control->fail_call = call;
	rig_control->fail_error = GPU_INVALID_VALUE;
	rig_control->fail_nth = nth;
	int result = bench_run(&bench);
	was_hit = rig_control->was_failed != 0;
	rig_control->fail_nth = 0;
	assert_int_equal(result < 0, was_hit);
	if (was_hit && (result != -EINVAL || strstr(bench.error.text, name) == NULL))
		fail_msg("%s, the %uth: %d, %s", name, nth, result, bench.error.text);
	assert_int_equal(rig_memory_used(), 0);
	bench_close(&bench);
	return was_hit;
}

static void each_call_of_the_driver_fails_in_turn(void **unused)
{
	static const enum fake_call calls[] = {
		FAKE_cuMemAlloc_v2,        FAKE_cuMemFree_v2,       FAKE_cuMemcpyHtoDAsync_v2,
		FAKE_cuMemcpyDtoHAsync_v2, FAKE_cuMemcpy2DAsync_v2, FAKE_cuMemcpyBatchAsync_v2,
		FAKE_cuLaunchKernel,       FAKE_cuEventRecord,      FAKE_cuEventQuery,
	};

	(void)unused;
	for (unsigned n = 0; n < sizeof(calls) / sizeof(calls[0]); n++) {
		uint32_t nth = 1;

		/* Early ones, and some in the midst of copies. */
		while (nth < NTH_MAX && one_failure(calls[n], nth))
			nth = nth < 4 ? nth + 1 : nth * 3 - 1;
		assert_true(nth > 1);
	}
}

/* Last of its process, which it spoils. */
static void a_lost_device_is_told(void **unused)
{
	struct bench bench;

	(void)unused;
	rig_control_reset();
	bench_open(&bench, &device_cuda_ops);
	rig_control->fail_call = FAKE_fake_copy;
	rig_control->fail_error = GPU_LAUNCH_FAILED;
	rig_control->fail_nth = 100;
	assert_int_equal(bench_run(&bench), -EIO);
	assert_non_null(strstr(bench.error.text, "device lost"));
	device_close(&bench.device);
	munmap(bench.config.scratch, CALIBRATE_SCRATCH_BYTES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_throttled_direction_is_dearer),
		cmocka_unit_test(the_path_that_the_driver_makes_cheap_is_chosen),
		cmocka_unit_test(each_line_is_what_a_copy_and_a_run_cost),
		cmocka_unit_test(our_memory_has_the_same_bytes_afterwards),
		cmocka_unit_test(a_path_that_is_not_there_or_not_allowed_has_no_costs),
		cmocka_unit_test(memory_of_this_machine_is_measured_by_the_loop),
		cmocka_unit_test(what_cannot_be_measured_with_is_refused),
		cmocka_unit_test(a_slow_device_is_measured_in_part_and_within_the_budget),
		cmocka_unit_test(a_device_that_hangs_is_told_soon_after_the_budget),
		cmocka_unit_test(each_call_of_the_driver_fails_in_turn),
		cmocka_unit_test(a_lost_device_is_told),
	};

	return cmocka_run_group_tests(tests, rig_machine_open, rig_machine_close);
}
