/*
 * tests/gpu/test_device_nth.c: each call of the driver fails in turn, over a whole life of a
 * device: no wrong byte, nothing left behind, and an error that names the call.
 */
#include "tests/gpu/device_rig.h"
#include "tests/gpu/fake/fake.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define NTH_MAX 2000u
#define FRAGMENT_BYTES 4096u
#define FRAGMENTS 8u
#define NEW_SEED 3u

static const char *const call_names[FAKE_CALL_COUNT] = {
#define NAME(name) #name,
	FAKE_CALLS(NAME)
#undef NAME
};

struct life {
	struct rig rig;
	struct engine *engine;
	struct device_memory lent, range, own;
	bool is_stored[COPY_PATHS]; /* the mark said so */
	uint8_t *host;
};

static int finish_copy(struct life *life, enum device_queue queue, const struct device_copy *copy)
{
	struct rig *rig = &life->rig;
	uint32_t mark;
	int result = device_copy_start(&rig->device, queue, copy, &rig->error);

	if (result == 0)
		result = device_mark_set(&rig->device, queue, &mark, &rig->error);
	if (result < 0)
		return result;
	result = rig_wait(rig, mark);
	return result == 1 ? 0 : result;
}

/* Stores from the engine's memory into the part of the host's memory that is this path's. */
static int store(struct life *life, enum copy_path path)
{
	const struct copy_rectangle rectangle = {
		.device = life->lent.address,
		.host = life->host + path * FRAGMENTS * FRAGMENT_BYTES,
		.bytes = FRAGMENT_BYTES, .rows = FRAGMENTS, .device_pitch = 2 * FRAGMENT_BYTES,
		.host_pitch = FRAGMENT_BYTES };
	const struct device_copy copy = { .rectangles = &rectangle, .count = 1, .path = path };
	int result = finish_copy(life, DEVICE_STORE_BULK, &copy);

	life->is_stored[path] = result == 0;
	return result;
}

/* Into memory of our own, and back to another place. */
static int load(struct life *life)
{
	struct rig *rig = &life->rig;
	struct copy_rectangle rectangle = {
		.device = life->own.address, .host = life->host + 4 * FRAGMENTS * FRAGMENT_BYTES,
		.bytes = FRAGMENT_BYTES, .rows = 1 };
	const struct device_copy copy = { .rectangles = &rectangle, .count = 1 };
	uint64_t word = life->own.address + FRAGMENT_BYTES;
	int result = device_word_wait(&rig->device, DEVICE_LOAD_BULK, word, 1, &rig->error);

	if (result == 0)
		result = device_word_write(&rig->device, DEVICE_WAIT, word, 1, &rig->error);
	if (result == 0)
		result = finish_copy(life, DEVICE_LOAD_BULK, &copy);
	rectangle.host += FRAGMENT_BYTES;
	return result == 0 ? finish_copy(life, DEVICE_STORE_URGENT, &copy) : result;
}

/* What is queued when a life ends early must end first: a word that is waited for is written. */
static void drain(struct life *life)
{
	struct rig *rig = &life->rig;

	rig_control->fail_nth = 0;
	if (life->own.bytes > 0)
		(void)!device_word_write(&rig->device, DEVICE_WAIT,
					 life->own.address + FRAGMENT_BYTES, 1, NULL);
	for (unsigned queue = 0; queue < DEVICE_QUEUES; queue++)
		while (device_is_idle(&rig->device, queue, NULL) == 0)
			usleep(20);
}

static int live(struct life *life)
{
	const uint64_t sizes[ENGINE_SEGMENTS] = { ENGINE_SEGMENT_BYTES, ENGINE_SEGMENT_BYTES,
						  ENGINE_SEGMENT_BYTES };
	const struct device_config config = rig_config();
	struct device *device = &life->rig.device;
	struct error *error = &life->rig.error;
	int result = device_open(device, &device_cuda_ops, &config, error);

	if (result == 0)
		result = device_pin(device, life->host, RIG_HOST_BYTES, error);
	if (result == 0)
		result = device_memory_open(device, 65536, &life->own, error);
	if (result == 0)
		result = device_import_handle(device, &life->engine->handle, 65536,
					      ENGINE_BYTES - 65536, &life->lent, error);
	if (result == 0)
		result = device_import_fds(device, life->engine->fds, sizes, ENGINE_SEGMENTS,
					   &life->range, error);
	for (unsigned path = 0; result == 0 && path < COPY_PATHS; path++)
		result = store(life, (enum copy_path)path);
	if (result == 0)
		result = load(life);
	if (result == 0)
		result = device_memory_close(device, &life->range, error);
	if (result == 0)
		result = device_memory_close(device, &life->lent, error);
	if (result == 0)
		result = device_unpin(device, life->host, RIG_HOST_BYTES, error);
	return result;
}

/* A fragment is what it was or what it must become; what was said to be stored is there. */
static void check_bytes(const struct life *life)
{
	for (unsigned path = 0; path < COPY_PATHS; path++)
		for (uint64_t n = 0; n < (uint64_t)FRAGMENTS * FRAGMENT_BYTES; n++) {
			uint64_t at = 65536 + n / FRAGMENT_BYTES * 2 * FRAGMENT_BYTES +
				      n % FRAGMENT_BYTES;
			uint64_t place = path * FRAGMENTS * FRAGMENT_BYTES + n;
			uint8_t found = life->host[place];

			if (found != rig_byte(ENGINE_SEED, at) &&
			    (life->is_stored[path] || found != rig_byte(NEW_SEED, place)))
				fail_msg("path %u, byte %llu", path, (unsigned long long)n);
		}
}

/* True: the call was reached, and made to fail. */
static bool one_life(struct engine *engine, uint8_t *host, uint32_t nth, int error)
{
	struct life life = { .engine = engine, .host = host };
	uint64_t of_engine = ENGINE_BYTES + ENGINE_SEGMENTS * ENGINE_SEGMENT_BYTES;
	const char *failed;
	int result;

	rig_fill(host, COPY_PATHS * FRAGMENTS * FRAGMENT_BYTES, NEW_SEED);
	rig_control->was_failed = 0;
	rig_control->fail_call = FAKE_ANY_CALL;
	rig_control->fail_process = getpid();
	rig_control->fail_error = error;
	rig_control->fail_nth = nth;
	result = live(&life);
	if (life.rig.device.back_end != NULL)
		drain(&life);
	failed = rig_control->was_failed == 0 ? NULL : call_names[rig_control->was_failed - 1];
	check_bytes(&life);
	device_close(&life.rig.device);
	if (failed != NULL && (result == 0 || strstr(life.rig.error.text, failed) == NULL))
		fail_msg("pass %u: %s failed, and the result is %d: %s", nth, failed, result,
			 life.rig.error.text);
	assert_int_equal(failed == NULL, result == 0);
	assert_int_equal(rig_memory_used(), of_engine);
	assert_int_equal(rig_control->contexts, 1); /* the engine's */
	assert_int_equal(rig_control->left_behind, 0);
	assert_int_equal(rig_control->misuses, 0);
	return failed != NULL;
}

static void each_call(int error)
{
	uint8_t *host = aligned_alloc(4096, RIG_HOST_BYTES);
	struct engine engine;
	uint32_t nth = 1;

	rig_control_reset();
	engine_start(&engine);
	while (nth < NTH_MAX && one_life(&engine, host, nth, error))
		/* Most calls create one of the many marks: of those every 16th is enough. */
		nth += rig_control->was_failed - 1 == FAKE_cuEventCreate && nth % 16 != 0 ?
		       16 - nth % 16 : 1;
	assert_in_range(nth, 100, NTH_MAX - 1);
	engine_stop(&engine);
	free(host);
}

static void each_call_of_a_driver_fails_in_turn(void **unused)
{
	(void)unused;
	each_call(GPU_OUT_OF_MEMORY);
}

static void each_call_of_a_driver_answers_something_unknown_in_turn(void **unused)
{
	(void)unused;
	each_call(12345);
}

/* What closing gives back it gives back whatever the driver answers. */
static void closing_goes_on_where_the_driver_refuses(void **unused)
{
	bool was_hit = true;

	(void)unused;
	for (uint32_t nth = 1; was_hit && nth < NTH_MAX; nth += 20) {
		struct rig rig;

		rig_init(&rig, &device_cuda_ops);
		rig_control->fail_call = FAKE_ANY_CALL;
		rig_control->fail_error = GPU_INVALID_VALUE;
		rig_control->fail_nth = nth;
		rig_finish(&rig);
		was_hit = rig_control->was_failed != 0;
	}
	assert_false(was_hit);
}

int main(int count, char **arguments)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_call_of_a_driver_fails_in_turn),
		cmocka_unit_test(each_call_of_a_driver_answers_something_unknown_in_turn),
		cmocka_unit_test(closing_goes_on_where_the_driver_refuses),
	};

	if (strcmp(arguments[0], "engine") == 0)
		return engine_main(atoi(arguments[count - 1]));
	return cmocka_run_group_tests(tests, rig_machine_open, rig_machine_close);
}
