/*
 * tests/gpu/test_device_rocm.c: the back end over HIP's names: what differs from CUDA's is done as
 * HIP's versions want it. In a program of its own, as a process has one driver.
 */
#include "tests/gpu/device_rig.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BYTES 65536u

struct twin {
	struct rig rig;
	struct engine engine; /* of CUDA's names: the machine is the same */
	struct device_memory lent, range;
	uint8_t *host;
	uint64_t value;
};

static void twin_init(struct twin *twin, int version)
{
	struct device_config config = rig_config();
	struct device *device = &twin->rig.device;
	const uint64_t sizes[ENGINE_SEGMENTS] = { ENGINE_SEGMENT_BYTES, ENGINE_SEGMENT_BYTES,
						  ENGINE_SEGMENT_BYTES };

	config.library = rig_library_rocm();
	rig_control_reset();
	engine_start(&twin->engine);
	rig_control->version = version;
	twin->host = aligned_alloc(4096, BYTES);
	memset(twin->host, 0, BYTES);
	if (device_open(device, &device_rocm_ops, &config, &twin->rig.error) < 0 ||
	    device_pin(device, twin->host, BYTES, &twin->rig.error) < 0 ||
	    device_import_handle(device, &twin->engine.handle, 4096, BYTES, &twin->lent,
				 &twin->rig.error) < 0 ||
	    device_import_fds(device, twin->engine.fds, sizes, ENGINE_SEGMENTS, &twin->range,
			      &twin->rig.error) < 0)
		fail_msg("%s", twin->rig.error.text);
}

static void twin_finish(struct twin *twin)
{
	device_close(&twin->rig.device);
	rig_control->version = 0;
	engine_stop(&twin->engine);
	assert_int_equal(rig_control->left_behind, 0);
	assert_int_equal(rig_control->misuses, 0);
	assert_int_equal(rig_memory_used(), 0);
	free(twin->host);
}

static void store(struct twin *twin, enum copy_path path, uint64_t address)
{
	const struct copy_rectangle rectangle = {
		.device = address, .host = twin->host, .bytes = 4096, .rows = BYTES / 4096,
		.device_pitch = 4096, .host_pitch = 4096 };
	const struct device_copy copy = { .rectangles = &rectangle, .count = 1, .path = path };
	uint64_t word = twin->lent.address; /* its first bytes are no more needed */
	uint32_t mark;

	/* Another value each time, so that the write is over, too, when the copy is. */
	twin->value++;
	if (device_word_write(&twin->rig.device, DEVICE_WAIT, word, twin->value,
			      &twin->rig.error) < 0 ||
	    device_word_wait(&twin->rig.device, DEVICE_STORE_BULK, word, twin->value,
			     &twin->rig.error) < 0 ||
	    device_copy_start(&twin->rig.device, DEVICE_STORE_BULK, &copy, &twin->rig.error) < 0 ||
	    device_mark_set(&twin->rig.device, DEVICE_STORE_BULK, &mark, &twin->rig.error) < 0 ||
	    rig_wait(&twin->rig, mark) != 1)
		fail_msg("path %d: %s", path, twin->rig.error.text);
}

static void every_path(int version)
{
	struct twin twin = { 0 };

	twin_init(&twin, version);
	assert_int_equal(twin.rig.device.about.driver_version, version);
	assert_string_equal(twin.rig.device.about.uuid, ""); /* they are alike on AMD */
	assert_true(twin.rig.device.about.has_words);
	/* The rectangle's numbers are others there, so it is not asked for. */
	assert_false(twin.rig.device.about.has_path[COPY_2D]);
	for (unsigned path = 0; path < COPY_PATHS; path++) {
		if (path == COPY_2D)
			continue;
		memset(twin.host, 0, BYTES);
		store(&twin, (enum copy_path)path, twin.range.address + ENGINE_SEGMENT_BYTES);
		assert_int_equal(rig_differs(twin.host, BYTES, ENGINE_SEGMENT_SEED + 1), BYTES);
		memset(twin.host, 0, BYTES);
		store(&twin, (enum copy_path)path, twin.lent.address + 8);
		for (uint64_t n = 0; n < BYTES - 4096; n++)
			if (twin.host[n] != rig_byte(ENGINE_SEED, 4096 + 8 + n))
				fail_msg("path %u, byte %llu", path, (unsigned long long)n);
	}
	twin_finish(&twin);
}

static void rocm_5_takes_no_flag_and_the_address_of_a_descriptor(void **unused)
{
	(void)unused;
	every_path(50220000);
}

static void rocm_6_takes_the_flag_and_the_address_of_a_descriptor(void **unused)
{
	(void)unused;
	every_path(60200000);
}

static void rocm_7_1_takes_the_descriptor_itself(void **unused)
{
	(void)unused;
	every_path(70100000);
}

static void an_error_has_hips_names(void **unused)
{
	struct device_memory memory;
	struct twin twin = { 0 };

	(void)unused;
	twin_init(&twin, 60200000);
	rig_control->fail_call = FAKE_cuMemAlloc_v2;
	rig_control->fail_error = GPU_OUT_OF_MEMORY;
	rig_control->fail_nth = 1;
	assert_int_equal(device_memory_open(&twin.rig.device, 4096, &memory, &twin.rig.error),
			 -ENOMEM);
	assert_string_equal(twin.rig.error.text,
			    "hipMalloc: out of memory (hipErrorOutOfMemory, 2)");
	twin_finish(&twin);
}

int main(int count, char **arguments)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rocm_5_takes_no_flag_and_the_address_of_a_descriptor),
		cmocka_unit_test(rocm_6_takes_the_flag_and_the_address_of_a_descriptor),
		cmocka_unit_test(rocm_7_1_takes_the_descriptor_itself),
		cmocka_unit_test(an_error_has_hips_names),
	};

	if (strcmp(arguments[0], "engine") == 0)
		return engine_main(atoi(arguments[count - 1]));
	return cmocka_run_group_tests(tests, rig_machine_open, rig_machine_close);
}
