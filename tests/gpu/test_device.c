/*
 * tests/gpu/test_device.c: a device is opened by what names it, takes memory of another process,
 * and gives everything back; what its driver refuses is said in words.
 */
#include "tests/gpu/device_rig.h"
#include "tests/gpu/fake/fake.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

extern char **environ;

static void copy(struct rig *rig, enum device_queue queue, uint64_t address, uint8_t *host,
		 uint64_t bytes)
{
	const struct copy_rectangle rectangle = { .device = address, .host = host, .bytes = bytes,
						  .rows = 1 };
	const struct device_copy whole = { .rectangles = &rectangle, .count = 1 };
	uint32_t mark;

	if (device_copy_start(&rig->device, queue, &whole, &rig->error) < 0 ||
	    device_mark_set(&rig->device, queue, &mark, &rig->error) < 0 ||
	    rig_wait(rig, mark) != 1)
		fail_msg("%s", rig->error.text);
}

static void a_device_is_named_by_bus_id_or_uuid_and_describes_itself(void **unused)
{
	struct device_config config = rig_config();
	struct device device;
	struct error error;

	(void)unused;
	rig_control_reset();
	assert_int_equal(device_open(&device, &device_cuda_ops, &config, &error), 0);
	assert_string_equal(device.about.bus_id, FAKE_BUS_ID_0);
	assert_string_equal(device.about.name, "Fake GPU 0");
	assert_int_equal(device.about.driver_version, 13000);
	assert_int_equal(device.about.memory_bytes, FAKE_MEMORY_BYTES);
	assert_int_equal(device.about.memory_used_bytes, FAKE_CONTEXT_BYTES);
	device_close(&device);
	device_close(&device);
	config.bus_id = NULL;
	config.uuid = "gpu-10111213-1415-1617-1819-1A1B1C1D1E1F";
	assert_int_equal(device_open(&device, &device_cuda_ops, &config, &error), 0);
	assert_string_equal(device.about.bus_id, FAKE_BUS_ID_1);
	device_close(&device);
	config.uuid = "GPU-00000000-0000-0000-0000-000000000000";
	assert_int_equal(device_open(&device, &device_cuda_ops, &config, &error), -ENODEV);
	assert_non_null(strstr(error.text, config.uuid));
	config.bus_id = "0000:99:00.0";
	assert_int_equal(device_open(&device, &device_cuda_ops, &config, &error), -ENODEV);
	assert_non_null(strstr(error.text, "0000:99:00.0"));
	config.bus_id = config.uuid = NULL;
	assert_int_equal(device_open(&device, &device_cuda_ops, &config, &error), -EINVAL);
	assert_int_equal(rig_control->contexts, 0);
}

static void what_a_driver_has_but_cannot_do_is_found_out(void **unused)
{
	struct device_config config = rig_config();
	struct device device;
	struct error error;

	(void)unused;
	rig_control_reset();
	rig_control->lacks_batch = rig_control->lacks_words = 1;
	config.kernel_image = NULL;
	assert_int_equal(device_open(&device, &device_cuda_ops, &config, &error), 0);
	assert_false(device.about.has_words);
	assert_true(device.about.has_path[COPY_LOOP]);
	assert_true(device.about.has_path[COPY_2D]);
	assert_false(device.about.has_path[COPY_BATCH]);
	assert_false(device.about.has_path[COPY_KERNEL]);
	assert_int_equal(device_word_write(&device, DEVICE_WAIT, 64, 1, &error), -ENOTSUP);
	device_close(&device);
	rig_control->lacks_words = 0;
	config.without_words = true;
	assert_int_equal(device_open(&device, &device_cuda_ops, &config, &error), 0);
	assert_false(device.about.has_words);
	device_close(&device);
}

static void large_memory_is_pinned_in_steps_all_or_nothing(void **unused)
{
	const uint64_t bytes = 2 * DEVICE_PIN_STEP_BYTES + 4096;
	uint8_t *memory = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			       -1, 0);
	struct rig rig;

	(void)unused;
	assert_true(memory != MAP_FAILED);
	rig_init(&rig, &device_cuda_ops);
	for (uint32_t nth = 1; nth <= 3; nth++) {
		rig_control->fail_call = FAKE_cuMemHostRegister_v2;
		rig_control->fail_error = GPU_OUT_OF_MEMORY;
		rig_control->fail_nth = nth;
		assert_int_equal(device_pin(&rig.device, memory, bytes, &rig.error), -ENOMEM);
		assert_non_null(strstr(rig.error.text,
				       "cuMemHostRegister_v2: out of memory (CUDA_ERROR_OUT_OF_MEMORY, 2)"));
	}
	rig_control->calls[FAKE_cuMemHostRegister_v2] = 0;
	rig_control->calls[FAKE_cuMemHostUnregister] = 0;
	assert_int_equal(device_pin(&rig.device, memory, bytes, &rig.error), 0);
	assert_int_equal(rig_control->calls[FAKE_cuMemHostRegister_v2], 3);
	assert_int_equal(device_pin(&rig.device, memory, 4096, &rig.error), -EEXIST);
	assert_int_equal(device_unpin(&rig.device, memory, bytes, &rig.error), 0);
	assert_int_equal(rig_control->calls[FAKE_cuMemHostUnregister], 3);
	assert_int_equal(device_pin(&rig.device, memory, 4096, &rig.error), 0); /* close unpins */
	rig_finish(&rig);
	munmap(memory, bytes);
}

static void memory_of_another_process_is_used_by_handle_and_offset(void **unused)
{
	const uint64_t offset = (1u << 20) + 512, bytes = ENGINE_BYTES - (1u << 20) - 512;
	struct device_memory memory, again;
	struct engine engine;
	struct rig rig;

	(void)unused;
	rig_init(&rig, &device_cuda_ops);
	engine_start(&engine);
	assert_int_equal(device_import_handle(&rig.device, &engine.handle, offset, bytes, &memory,
					      &rig.error), 0);
	copy(&rig, DEVICE_STORE_BULK, memory.address, rig.host, bytes);
	for (uint64_t n = 0; n < bytes; n++)
		if (rig.host[n] != rig_byte(ENGINE_SEED, offset + n))
			fail_msg("byte %llu", (unsigned long long)n);
	assert_int_equal(device_import_handle(&rig.device, &engine.handle, offset, bytes + 1,
					      &again, &rig.error), -ERANGE);
	assert_int_equal(device_import_handle(&rig.device, &engine.handle, UINT64_MAX, 2, &again,
					      &rig.error), -ERANGE);
	/* A handle may be opened more than once. */
	assert_int_equal(device_import_handle(&rig.device, &engine.handle, 0, 4096, &again,
					      &rig.error), 0);
	assert_int_equal(device_memory_close(&rig.device, &memory, &rig.error), 0);
	copy(&rig, DEVICE_STORE_BULK, again.address, rig.host, 4096);
	assert_int_equal(rig_differs(rig.host, 4096, ENGINE_SEED), 4096);
	assert_int_equal(device_memory_close(&rig.device, &again, &rig.error), 0);
	engine_stop(&engine);
	rig_finish(&rig);
}

static void what_is_loaded_arrives_in_the_engine_by_handle_and_by_descriptors(void **unused)
{
	const uint64_t sizes[ENGINE_SEGMENTS] = { ENGINE_SEGMENT_BYTES, ENGINE_SEGMENT_BYTES,
						  ENGINE_SEGMENT_BYTES };
	struct device_memory memory, range;
	struct engine engine;
	struct rig rig;

	(void)unused;
	rig_init(&rig, &device_cuda_ops);
	engine_start(&engine);
	assert_int_equal(device_import_handle(&rig.device, &engine.handle, 0, ENGINE_BYTES,
					      &memory, &rig.error), 0);
	assert_int_equal(device_import_fds(&rig.device, engine.fds, sizes, ENGINE_SEGMENTS, &range,
					   &rig.error), 0);
	assert_int_equal(range.bytes, ENGINE_SEGMENTS * ENGINE_SEGMENT_BYTES);
	/* One copy over all segments: they lie one behind the other. */
	copy(&rig, DEVICE_STORE_URGENT, range.address, rig.host, range.bytes);
	for (unsigned n = 0; n < ENGINE_SEGMENTS; n++)
		assert_int_equal(rig_differs(rig.host + n * ENGINE_SEGMENT_BYTES,
					     ENGINE_SEGMENT_BYTES, ENGINE_SEGMENT_SEED + n),
				 ENGINE_SEGMENT_BYTES);
	assert_false(engine_has_new(&engine));
	rig_fill(rig.host, ENGINE_BYTES, ENGINE_NEW_SEED);
	copy(&rig, DEVICE_LOAD_BULK, memory.address, rig.host, ENGINE_BYTES);
	for (unsigned n = 0; n < ENGINE_SEGMENTS; n++)
		rig_fill(rig.host + n * ENGINE_SEGMENT_BYTES, ENGINE_SEGMENT_BYTES,
			 ENGINE_NEW_SEED + 1 + n);
	copy(&rig, DEVICE_LOAD_URGENT, range.address, rig.host, range.bytes);
	assert_true(engine_has_new(&engine));
	assert_int_equal(device_memory_close(&rig.device, &range, &rig.error), 0);
	assert_int_equal(device_memory_close(&rig.device, &memory, &rig.error), 0);
	engine_stop(&engine);
	rig_finish(&rig);
}

static void a_word_that_the_engine_writes_starts_our_copy(void **unused)
{
	struct device_memory memory;
	struct engine engine;
	struct rig rig;
	struct copy_rectangle rectangle;
	const struct device_copy whole = { .rectangles = &rectangle, .count = 1 };
	uint32_t mark;

	(void)unused;
	rig_init(&rig, &device_cuda_ops);
	engine_start(&engine);
	assert_int_equal(device_import_handle(&rig.device, &engine.handle, 0, ENGINE_BYTES,
					      &memory, &rig.error), 0);
	engine_write_word(&engine, 4);
	uint64_t before = rig_control->bytes[COPY_STORE];
	rectangle = (struct copy_rectangle){ .device = memory.address + 4096, .host = rig.host,
					     .bytes = 4096, .rows = 1 };
	assert_int_equal(device_word_wait(&rig.device, DEVICE_STORE_BULK, memory.address, 5,
					  &rig.error), 0);
	assert_int_equal(device_copy_start(&rig.device, DEVICE_STORE_BULK, &whole, &rig.error), 0);
	assert_int_equal(device_mark_set(&rig.device, DEVICE_STORE_BULK, &mark, &rig.error), 0);
	copy(&rig, DEVICE_STORE_URGENT, memory.address + 8192, rig.host + 8192, 4096);
	assert_int_equal(device_mark_check(&rig.device, mark, &rig.error), 0);
	/* Not a look at the bytes: no sanitizer sees that the engine's word comes between. */
	assert_int_equal(rig_control->bytes[COPY_STORE], before + 4096);
	engine_write_word(&engine, 5);
	assert_int_equal(rig_wait(&rig, mark), 1);
	for (uint64_t n = 0; n < 4096; n++)
		assert_int_equal(rig.host[n], rig_byte(ENGINE_SEED, 4096 + n));
	engine_stop(&engine);
	rig_finish(&rig);
}

static void memory_of_a_dead_engine_stays_until_it_is_closed(void **unused)
{
	struct device_memory memory;
	struct engine engine;
	struct rig rig;
	size_t free_bytes, with_engine;
	struct gpu_driver driver;

	(void)unused;
	rig_init(&rig, &device_cuda_ops);
	assert_int_equal(gpu_driver_open(&driver, GPU_CUDA, rig_library(), &rig.error), 0);
	engine_start(&engine);
	assert_int_equal(device_import_handle(&rig.device, &engine.handle, 0, ENGINE_BYTES,
					      &memory, &rig.error), 0);
	engine_kill(&engine);
	rig_control->contexts--; /* its own went with it */
	copy(&rig, DEVICE_STORE_BULK, memory.address, rig.host, ENGINE_BYTES);
	assert_int_equal(rig_differs(rig.host, ENGINE_BYTES, ENGINE_SEED), ENGINE_BYTES);
	assert_int_equal(driver.calls.memory_info(&with_engine, &free_bytes), 0);
	assert_int_equal(rig_memory_used(), RIG_DEVICE_BYTES + ENGINE_BYTES);
	assert_int_equal(device_memory_close(&rig.device, &memory, &rig.error), 0);
	assert_int_equal(rig_memory_used(), RIG_DEVICE_BYTES);
	gpu_driver_close(&driver);
	rig_finish(&rig);
}

static void a_handle_of_a_process_with_our_id_is_told_apart(void **unused)
{
	int (*get)(gpu_ipc *, gpu_address);
	void *library = dlopen(rig_library(), RTLD_NOW | RTLD_LOCAL), *call;
	struct gpu_ipc_handle handle;
	struct device_memory memory;
	struct rig rig;

	(void)unused;
	rig_init(&rig, &device_cuda_ops);
	call = dlsym(library, "cuIpcGetMemHandle");
	memcpy(&get, &call, sizeof(get));
	assert_int_equal(get(&handle, rig.memory.address), 0);
	assert_int_equal(device_import_handle(&rig.device, &handle, 0, 4096, &memory, &rig.error),
			 -EEXIST);
	assert_non_null(strstr(rig.error.text, "201"));
	assert_non_null(strstr(rig.error.text, "process id"));
	memset(&handle, 1, sizeof(handle));
	assert_int_equal(device_import_handle(&rig.device, &handle, 0, 4096, &memory, &rig.error),
			 -EINVAL);
	rig_finish(&rig);
	dlclose(library);
}

static void descriptors_of_anything_else_are_refused_without_a_trace(void **unused)
{
	uint64_t sizes[ENGINE_SEGMENTS] = { ENGINE_SEGMENT_BYTES, ENGINE_SEGMENT_BYTES,
					    ENGINE_SEGMENT_BYTES };
	struct device_memory memory;
	struct engine engine;
	struct rig rig;
	int fds[ENGINE_SEGMENTS];

	(void)unused;
	rig_init(&rig, &device_cuda_ops);
	engine_start(&engine);
	memcpy(fds, engine.fds, sizeof(fds));
	fds[2] = 0;
	assert_int_equal(device_import_fds(&rig.device, fds, sizes, 3, &memory, &rig.error),
			 -EINVAL);
	assert_non_null(strstr(rig.error.text, "cuMemImportFromShareableHandle"));
	sizes[1] *= 2;
	assert_int_equal(device_import_fds(&rig.device, engine.fds, sizes, 3, &memory, &rig.error),
			 -EINVAL);
	sizes[1] = UINT64_MAX;
	assert_int_equal(device_import_fds(&rig.device, engine.fds, sizes, 3, &memory, &rig.error),
			 -ERANGE);
	sizes[1] = 0;
	assert_int_equal(device_import_fds(&rig.device, engine.fds, sizes, 3, &memory, &rig.error),
			 -ERANGE);
	assert_int_equal(device_import_fds(&rig.device, engine.fds, sizes, 0, &memory, &rig.error),
			 -EINVAL);
	engine_stop(&engine);
	rig_finish(&rig);
}

static void the_host_device_takes_memory_by_descriptor(void **unused)
{
	const struct device_config config = { 0 };
	const uint64_t sizes[2] = { 65536, 4096 };
	struct rig rig = { 0 };
	struct device_memory memory;
	struct gpu_ipc_handle handle = { { 0 } };
	uint8_t *loaded = malloc(69632);
	int fds[2] = { memfd_create("lent", MFD_CLOEXEC), memfd_create("lent", MFD_CLOEXEC) };

	(void)unused;
	assert_int_equal(ftruncate(fds[0], 65536) | ftruncate(fds[1], 4096), 0);
	assert_int_equal(device_open(&rig.device, &device_host_ops, &config, &rig.error), 0);
	assert_int_equal(device_import_fds(&rig.device, fds, sizes, 2, &memory, &rig.error), 0);
	rig_fill(loaded, 69632, 5);
	copy(&rig, DEVICE_LOAD_BULK, memory.address, loaded, 69632);
	memset(loaded, 0, 69632);
	assert_int_equal(pread(fds[0], loaded, 65536, 0), 65536);
	assert_int_equal(pread(fds[1], loaded + 65536, 4096, 0), 4096);
	assert_int_equal(rig_differs(loaded, 69632, 5), 69632);
	assert_int_equal(device_memory_close(&rig.device, &memory, &rig.error), 0);
	assert_int_equal(ftruncate(fds[1], 4095), 0);
	assert_int_equal(device_import_fds(&rig.device, fds, sizes, 2, &memory, &rig.error),
			 -ERANGE);
	assert_int_equal(device_import_handle(&rig.device, &handle, 0, 1, &memory, &rig.error),
			 -ENOTSUP);
	assert_int_equal(device_word_wait(&rig.device, DEVICE_WAIT, 64, 1, &rig.error), -ENOTSUP);
	device_close(&rig.device);
	close(fds[0]);
	close(fds[1]);
	free(loaded);
}

/* In a process of its own, as the error is the process's. */
static int sticky_main(void)
{
	struct device_config config = rig_config();
	struct copy_rectangle one = { .bytes = 4096, .rows = 1 };
	const struct device_copy whole = { .rectangles = &one, .count = 1 };
	struct device_memory memory;
	struct rig rig = { 0 };
	static uint8_t host[4096] __attribute__((aligned(4096)));
	uint32_t mark, after;

	if (device_open(&rig.device, &device_cuda_ops, &config, &rig.error) < 0 ||
	    device_memory_open(&rig.device, 4096, &memory, &rig.error) < 0 ||
	    device_pin(&rig.device, host, sizeof(host), &rig.error) < 0 ||
	    device_mark_set(&rig.device, DEVICE_WAIT, &after, &rig.error) < 0)
		return 1;
	one.device = memory.address;
	one.host = host;
	rig_control->fail_call = FAKE_fake_copy; /* when its turn comes, not when it is asked for */
	rig_control->fail_error = GPU_LAUNCH_FAILED;
	rig_control->fail_nth = 1;
	rig_control->is_stalled = 1;
	if (device_copy_start(&rig.device, DEVICE_STORE_BULK, &whole, &rig.error) < 0 ||
	    device_mark_set(&rig.device, DEVICE_STORE_BULK, &mark, &rig.error) < 0)
		return 2;
	rig_control->is_stalled = 0;
	if (rig_wait(&rig, mark) != -EIO || strstr(rig.error.text, "device lost") == NULL ||
	    strstr(rig.error.text, "cuEventQuery") == NULL ||
	    strstr(rig.error.text, "CUDA_ERROR_LAUNCH_FAILED, 719") == NULL)
		return 3;
	if (device_mark_check(&rig.device, after, &rig.error) != -EIO ||
	    device_copy_start(&rig.device, DEVICE_LOAD_BULK, &whole, &rig.error) != -EIO ||
	    device_is_idle(&rig.device, DEVICE_LOAD_BULK, &rig.error) != -EIO ||
	    device_memory_open(&rig.device, 4096, &memory, &rig.error) != -EIO)
		return 4;
	device_close(&rig.device);
	/* Nothing but a new process helps. */
	return device_open(&rig.device, &device_cuda_ops, &config, &rig.error) == -EIO ? 0 : 5;
}

static void after_a_failed_copy_the_process_has_lost_the_device(void **unused)
{
	char *const arguments[] = { (char *)"sticky", NULL };
	pid_t process;
	int status;

	(void)unused;
	rig_control_reset();
	assert_int_equal(posix_spawn(&process, "/proc/self/exe", NULL, NULL, arguments, environ), 0);
	assert_int_equal(waitpid(process, &status, 0), process);
	assert_int_equal(status, 0);
	memset(rig_control, 0, sizeof(*rig_control));
}

int main(int count, char **arguments)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_device_is_named_by_bus_id_or_uuid_and_describes_itself),
		cmocka_unit_test(what_a_driver_has_but_cannot_do_is_found_out),
		cmocka_unit_test(large_memory_is_pinned_in_steps_all_or_nothing),
		cmocka_unit_test(memory_of_another_process_is_used_by_handle_and_offset),
		cmocka_unit_test(what_is_loaded_arrives_in_the_engine_by_handle_and_by_descriptors),
		cmocka_unit_test(a_word_that_the_engine_writes_starts_our_copy),
		cmocka_unit_test(memory_of_a_dead_engine_stays_until_it_is_closed),
		cmocka_unit_test(a_handle_of_a_process_with_our_id_is_told_apart),
		cmocka_unit_test(descriptors_of_anything_else_are_refused_without_a_trace),
		cmocka_unit_test(the_host_device_takes_memory_by_descriptor),
		cmocka_unit_test(after_a_failed_copy_the_process_has_lost_the_device),
	};

	if (strcmp(arguments[0], "engine") == 0)
		return engine_main(atoi(arguments[count - 1]));
	if (strcmp(arguments[0], "sticky") == 0)
		return rig_machine_again() < 0 ? 9 : sticky_main();
	return cmocka_run_group_tests(tests, rig_machine_open, rig_machine_close);
}
