/*
 * tests/gpu/test_device_copies.c: every byte, by every path, in both directions; what orders
 * copies.
 */
#include "base/random.h"
#include "tests/gpu/device_rig.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FRAGMENTS_MAX 8192u
#define ROWS 4u

static const uint64_t sizes[] = { 16, 1152, 4096, 8192, 16384, 65536, 524288, 2097152 };
static struct copy_rectangle rectangles[FRAGMENTS_MAX];
static uint32_t order[FRAGMENTS_MAX];
/* What lies there before a store, and what a load brings. */
static uint8_t on_device[RIG_DEVICE_BYTES], from_host[RIG_HOST_BYTES];

static void shuffle(uint32_t count, uint64_t seed)
{
	struct random random;

	random_init(&random, seed);
	for (uint32_t n = 0; n < count; n++)
		order[n] = n;
	for (uint32_t n = count; n > 1; n--) {
		uint32_t other = (uint32_t)random_below(&random, n);
		uint32_t kept = order[n - 1];

		order[n - 1] = order[other];
		order[other] = kept;
	}
}

static void copy(struct rig *rig, enum device_queue queue, enum copy_path path, uint32_t count)
{
	const struct device_copy whole = { .rectangles = rectangles, .count = count, .path = path };
	uint32_t mark;

	if (device_copy_start(&rig->device, queue, &whole, &rig->error) < 0 ||
	    device_mark_set(&rig->device, queue, &mark, &rig->error) < 0 ||
	    rig_wait(rig, mark) != 1)
		fail_msg("path %d: %s", path, rig->error.text);
}

/* The device has twice the host's bytes: fragment n of the host is place order[n] of the device,
 * with a gap of its own size behind each; rows: ROWS fragments that are neighbours on either
 * side. */
static uint32_t fragments_make(struct rig *rig, uint64_t bytes, bool as_rows)
{
	uint64_t fit = RIG_HOST_BYTES / bytes;
	uint32_t count = (uint32_t)(fit < FRAGMENTS_MAX ? fit : FRAGMENTS_MAX);
	uint32_t rows = as_rows && count >= ROWS ? ROWS : 1;

	count /= rows;
	shuffle(count, bytes);
	for (uint32_t n = 0; n < count; n++)
		rectangles[n] = (struct copy_rectangle){
			.device = rig->memory.address + 2 * bytes * rows * order[n],
			.host = rig->host + bytes * rows * n, .bytes = bytes, .rows = rows,
			.device_pitch = 2 * bytes, .host_pitch = bytes };
	return count;
}

static void check_places(struct rig *rig, uint32_t count, bool on_host)
{
	for (uint32_t n = 0; n < count; n++)
		for (uint64_t row = 0; row < rectangles[n].rows; row++) {
			uint64_t bytes = rectangles[n].bytes;
			uint64_t at = rectangles[n].device - rig->memory.address +
				      row * rectangles[n].device_pitch;
			uint64_t from = (uint64_t)(rectangles[n].host - rig->host) +
					row * rectangles[n].host_pitch;

			if (on_host) {
				assert_memory_equal(rig->host + from, on_device + at, bytes);
				continue;
			}
			assert_memory_equal(rig_peek(rig, at), from_host + from, bytes);
			/* The gap behind it on the device is as it was. */
			assert_memory_equal(rig_peek(rig, at + bytes), on_device + at + bytes,
					    bytes);
		}
}

static void both_ways(struct rig *rig, enum copy_path path, uint64_t bytes, bool as_rows)
{
	uint32_t count = fragments_make(rig, bytes, as_rows);

	memcpy(rig_peek(rig, 0), on_device, RIG_DEVICE_BYTES);
	memset(rig->host, 0, RIG_HOST_BYTES);
	copy(rig, DEVICE_STORE_BULK, path, count);
	check_places(rig, count, true);
	memcpy(rig->host, from_host, RIG_HOST_BYTES);
	copy(rig, DEVICE_LOAD_URGENT, path, count);
	check_places(rig, count, false);
}

static void all_paths(const struct device_ops *ops)
{
	struct rig rig;
	unsigned paths = 0;

	rig_init(&rig, ops);
	rig_fill(on_device, RIG_DEVICE_BYTES, 1);
	rig_fill(from_host, RIG_HOST_BYTES, 2);
	for (unsigned path = 0; path < COPY_PATHS; path++) {
		if (!rig.device.about.has_path[path])
			continue;
		for (unsigned n = 0; n < sizeof(sizes) / sizeof(sizes[0]); n++) {
			both_ways(&rig, (enum copy_path)path, sizes[n], false);
			both_ways(&rig, (enum copy_path)path, sizes[n], true);
		}
		paths++;
	}
	assert_int_equal(paths, ops == &device_host_ops ? 1 : COPY_PATHS);
	assert_int_equal(rig_control->synchronous, 0);
	rig_finish(&rig);
}

static void every_byte_arrives_by_every_path_of_a_gpu(void **unused)
{
	(void)unused;
	all_paths(&device_cuda_ops);
	assert_int_not_equal(rig_control->calls[FAKE_cuMemcpy2DAsync_v2], 0);
	assert_int_not_equal(rig_control->calls[FAKE_cuMemcpyBatchAsync_v2], 0);
	assert_int_not_equal(rig_control->calls[FAKE_cuLaunchKernel], 0);
}

static void every_byte_arrives_on_the_host_device(void **unused)
{
	(void)unused;
	rig_control_reset();
	all_paths(&device_host_ops);
}

static void what_a_path_cannot_take_goes_by_single_copies(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, &device_cuda_ops);
	rig_fill(rig_peek(&rig, 0), RIG_DEVICE_BYTES, 1);
	for (unsigned path = 0; path < COPY_PATHS; path++) {
		memset(rig.host, 0, RIG_HOST_BYTES);
		/* A length and addresses that the kernel does not take, and rows that overlap
		 * on the device, so that no pitch describes them. */
		rectangles[0] = (struct copy_rectangle){ .device = rig.memory.address + 3,
			.host = rig.host + 5, .bytes = 1001, .rows = 3, .device_pitch = 500,
			.host_pitch = 2000 };
		rectangles[1] = (struct copy_rectangle){ .device = rig.memory.address + 65536,
			.host = rig.host + 65536, .bytes = 4096, .rows = 1 };
		copy(&rig, DEVICE_STORE_URGENT, (enum copy_path)path, 2);
		for (uint64_t row = 0; row < 3; row++)
			assert_memory_equal(rig.host + 5 + row * 2000,
					    rig_peek(&rig, 3 + row * 500), 1001);
		assert_int_equal(rig.host[4], 0);
		assert_int_equal(rig.host[5 + 1001], 0);
		assert_memory_equal(rig.host + 65536, rig_peek(&rig, 65536), 4096);
	}
	rig_finish(&rig);
}

static void memory_that_is_not_pinned_is_copied_by_the_call_itself(void **unused)
{
	struct rig rig;
	uint8_t *loose = malloc(4096);

	(void)unused;
	rig_init(&rig, &device_cuda_ops);
	rig_fill(rig_peek(&rig, 0), 4096, 1);
	rectangles[0] = (struct copy_rectangle){ .device = rig.memory.address, .host = loose,
						 .bytes = 4096, .rows = 1 };
	copy(&rig, DEVICE_STORE_BULK, COPY_KERNEL, 1);
	assert_int_equal(rig_differs(loose, 4096, 1), 4096);
	assert_int_equal(rig_control->synchronous, 1);
	rig_finish(&rig);
	free(loose);
}

static void a_copy_over_two_pins_is_made_of_two(void **unused)
{
	const uint64_t half = RIG_HOST_BYTES / 2;
	struct rig rig;

	(void)unused;
	rig_init(&rig, &device_cuda_ops);
	rig_fill(rig_peek(&rig, 0), RIG_DEVICE_BYTES, 1);
	assert_int_equal(device_unpin(&rig.device, rig.host, RIG_HOST_BYTES, &rig.error), 0);
	assert_int_equal(device_pin(&rig.device, rig.host + half, half, &rig.error), 0);
	assert_int_equal(device_pin(&rig.device, rig.host, half, &rig.error), 0);
	for (unsigned path = 0; path < COPY_PATHS; path++) {
		memset(rig.host, 0, RIG_HOST_BYTES);
		rectangles[0] = (struct copy_rectangle){ .device = rig.memory.address,
			.host = rig.host + half - 6000, .bytes = 4096, .rows = 3,
			.device_pitch = 4096, .host_pitch = 4096 };
		copy(&rig, DEVICE_STORE_BULK, (enum copy_path)path, 1);
		assert_int_equal(rig_differs(rig.host + half - 6000, 3 * 4096, 1), 3 * 4096);
		assert_int_equal(rig.host[half - 6001] | rig.host[half - 6000 + 3 * 4096], 0);
	}
	assert_int_equal(rig_control->synchronous, 0);
	rig_finish(&rig);
}

static void the_kernel_copies_more_rows_than_one_list_has(void **unused)
{
	struct rig rig;
	struct device_copy whole = { .rectangles = rectangles, .count = 1, .path = COPY_KERNEL };

	(void)unused;
	rig_init(&rig, &device_cuda_ops);
	rig_fill(rig_peek(&rig, 0), RIG_DEVICE_BYTES, 1);
	rectangles[0] = (struct copy_rectangle){ .device = rig.memory.address, .host = rig.host,
		.bytes = 16, .rows = 10000, .device_pitch = 32, .host_pitch = 16 };
	copy(&rig, DEVICE_STORE_BULK, COPY_KERNEL, 1);
	for (uint64_t row = 0; row < 10000; row++)
		assert_memory_equal(rig.host + row * 16, rig_peek(&rig, row * 32), 16);
	rectangles[0].rows = 8 * 4096 + 1;
	assert_int_equal(device_copy_start(&rig.device, DEVICE_STORE_BULK, &whole, &rig.error),
			 -E2BIG);
	rig_finish(&rig);
}

static void lists_of_fragments_run_out_and_come_back(void **unused)
{
	struct rig rig;
	const struct device_copy whole = { .rectangles = rectangles, .count = 1,
					   .path = COPY_KERNEL };
	unsigned started = 0;
	uint32_t mark;

	(void)unused;
	rig_init(&rig, &device_cuda_ops);
	rectangles[0] = (struct copy_rectangle){ .device = rig.memory.address, .host = rig.host,
						 .bytes = 4096, .rows = 1 };
	rig_control->is_stalled = 1;
	while (device_copy_start(&rig.device, DEVICE_LOAD_BULK, &whole, &rig.error) == 0)
		started++;
	assert_int_equal(rig.error.code, -EAGAIN);
	assert_int_equal(started, 8);
	assert_int_equal(rig.device.copies_started, 8);
	assert_int_equal(device_mark_set(&rig.device, DEVICE_LOAD_BULK, &mark, &rig.error), 0);
	rig_control->is_stalled = 0;
	assert_int_equal(rig_wait(&rig, mark), 1);
	copy(&rig, DEVICE_LOAD_BULK, COPY_KERNEL, 1);
	rig_finish(&rig);
}

static void a_mark_is_not_done_before_what_stands_before_it(void **unused)
{
	struct rig rig;
	const struct device_copy whole = { .rectangles = rectangles, .count = 1 };
	uint32_t mark, marks[DEVICE_MARKS_MAX];

	(void)unused;
	rig_init(&rig, &device_cuda_ops);
	rectangles[0] = (struct copy_rectangle){ .device = rig.memory.address, .host = rig.host,
						 .bytes = 4096, .rows = 1 };
	rig_control->is_stalled = 1;
	assert_int_equal(device_copy_start(&rig.device, DEVICE_STORE_BULK, &whole, &rig.error), 0);
	for (unsigned n = 0; n < DEVICE_MARKS_MAX; n++)
		assert_int_equal(device_mark_set(&rig.device, DEVICE_STORE_BULK, &marks[n],
						 &rig.error), 0);
	assert_int_equal(device_mark_set(&rig.device, DEVICE_STORE_BULK, &mark, &rig.error),
			 -EAGAIN);
	assert_int_equal(device_mark_check(&rig.device, marks[0], &rig.error), 0);
	assert_int_equal(device_is_idle(&rig.device, DEVICE_STORE_BULK, &rig.error), 0);
	assert_int_equal(device_is_idle(&rig.device, DEVICE_LOAD_BULK, &rig.error), 1);
	rig_control->is_stalled = 0;
	for (unsigned n = 0; n < DEVICE_MARKS_MAX; n++)
		assert_int_equal(rig_wait(&rig, marks[n]), 1);
	rig_finish(&rig);
}

static void a_queue_that_waits_for_a_word_copies_nothing_before_it_is_written(void **unused)
{
	struct rig rig;
	struct device_copy first = { .rectangles = &rectangles[0], .count = 1 };
	uint64_t word;
	uint32_t mark;

	(void)unused;
	rig_init(&rig, &device_cuda_ops);
	assert_true(rig.device.about.has_words);
	rig_fill(rig_peek(&rig, 0), 8192, 1);
	word = rig.memory.address + 65536;
	rectangles[0] = (struct copy_rectangle){ .device = rig.memory.address, .host = rig.host,
						 .bytes = 4096, .rows = 1 };
	assert_int_equal(device_word_wait(&rig.device, DEVICE_STORE_BULK, word, 7, &rig.error), 0);
	assert_int_equal(device_copy_start(&rig.device, DEVICE_STORE_BULK, &first, &rig.error), 0);
	assert_int_equal(device_mark_set(&rig.device, DEVICE_STORE_BULK, &mark, &rig.error), 0);
	/* Another queue is not held up, and ends; a lower value is not waited for. */
	rectangles[0].host += 4096;
	assert_int_equal(device_word_write(&rig.device, DEVICE_WAIT, word, 6, &rig.error), 0);
	copy(&rig, DEVICE_STORE_URGENT, COPY_LOOP, 1);
	assert_int_equal(rig_differs(rig.host + 4096, 4096, 1), 4096);
	assert_int_equal(device_mark_check(&rig.device, mark, &rig.error), 0);
	assert_int_equal(rig.host[0] | rig.host[100] | rig.host[4095], 0);
	assert_int_equal(device_word_write(&rig.device, DEVICE_WAIT, word, 8, &rig.error), 0);
	assert_int_equal(rig_wait(&rig, mark), 1);
	assert_int_equal(rig_differs(rig.host, 4096, 1), 4096);
	rig_finish(&rig);
}

static void a_throttled_direction_does_not_hold_up_the_other(void **unused)
{
	struct rig rig;
	const struct device_copy whole = { .rectangles = rectangles, .count = 1 };
	uint32_t store;

	(void)unused;
	rig_init(&rig, &device_cuda_ops);
	rig_control->bytes_second[COPY_STORE] = RIG_HOST_BYTES; /* a quarter of a second */
	rectangles[0] = (struct copy_rectangle){ .device = rig.memory.address, .host = rig.host,
						 .bytes = RIG_HOST_BYTES / 4, .rows = 1 };
	assert_int_equal(device_copy_start(&rig.device, DEVICE_STORE_BULK, &whole, &rig.error), 0);
	assert_int_equal(device_mark_set(&rig.device, DEVICE_STORE_BULK, &store, &rig.error), 0);
	rectangles[0].device += RIG_HOST_BYTES;
	rectangles[0].host += RIG_HOST_BYTES / 2;
	copy(&rig, DEVICE_LOAD_BULK, COPY_LOOP, 1);
	assert_int_equal(device_mark_check(&rig.device, store, &rig.error), 0);
	assert_int_equal(rig_wait(&rig, store), 1);
	assert_int_equal(rig_control->bytes[COPY_LOAD], RIG_HOST_BYTES / 4);
	rig_finish(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_byte_arrives_by_every_path_of_a_gpu),
		cmocka_unit_test(every_byte_arrives_on_the_host_device),
		cmocka_unit_test(what_a_path_cannot_take_goes_by_single_copies),
		cmocka_unit_test(memory_that_is_not_pinned_is_copied_by_the_call_itself),
		cmocka_unit_test(a_copy_over_two_pins_is_made_of_two),
		cmocka_unit_test(the_kernel_copies_more_rows_than_one_list_has),
		cmocka_unit_test(lists_of_fragments_run_out_and_come_back),
		cmocka_unit_test(a_mark_is_not_done_before_what_stands_before_it),
		cmocka_unit_test(a_queue_that_waits_for_a_word_copies_nothing_before_it_is_written),
		cmocka_unit_test(a_throttled_direction_does_not_hold_up_the_other),
	};

	return cmocka_run_group_tests(tests, rig_machine_open, rig_machine_close);
}
