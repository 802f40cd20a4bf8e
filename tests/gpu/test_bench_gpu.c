/* tests/gpu/test_bench_gpu.c: `kvtier-bench gpu` over the fake driver and over this machine's
 * memory: every part is there, and no wrong byte becomes a number. */
#include "bench/commands.h"
#include "tests/gpu/device_rig.h"

#include <dlfcn.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define ARGUMENTS_MAX 20
#define MIB (UINT64_C(1) << 20)
#define KIB64 (UINT64_C(64) << 10)
#define SECOND_COUNTS 4 /* of 1152 B to 16 KiB, in 4 MiB */
#define JSON_NAME "measures.json"

static char json_path[128];

static const char *const part_names[] = { "peak",   "sweep",      "kernel_blocks",
					  "engine", "small_copy", "pin" };
#define PARTS_COUNT (sizeof(part_names) / sizeof(part_names[0]))

static int open_machine(void **state)
{
	int result = rig_machine_open(state);

	snprintf(json_path, sizeof(json_path), "%s/" JSON_NAME, getenv(FAKE_ENVIRONMENT));
	return result;
}

/* The command in a process of its own, as it is run once in one; its status. */
static int run(const char *first, ...)
{
	char *argv[ARGUMENTS_MAX] = { (char *)(uintptr_t)first };
	va_list arguments;
	int argc = 0, status;
	pid_t child;

	va_start(arguments, first);
	while (argv[argc] != NULL && argc < ARGUMENTS_MAX - 1)
		argv[++argc] = va_arg(arguments, char *);
	va_end(arguments);
	fflush(NULL);
	unlink(json_path);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		if (freopen("/dev/null", "w", stdout) == NULL)
			_exit(100);
		exit(gpu_command(argc, argv));
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static json_t *json_take(void)
{
	json_t *root = json_load_file(json_path, 0, NULL);

	assert_non_null(root);
	unlink(json_path);
	return root;
}

static const char *part_state(const json_t *root, const char *name)
{
	json_t *part;
	size_t n;

	json_array_foreach(
		json_object_get(root, "parts"), n,
		part) if (strcmp(json_string_value(json_object_get(part, "name")), name) ==
			  0) return json_string_value(json_object_get(part, "state"));
	return "missing";
}

/* Measures whose names begin so; each must be a number, and those of a rate more than none. */
static unsigned measures_count(const json_t *root, const char *beginning)
{
	unsigned count = 0;
	json_t *measure;
	size_t n;

	json_array_foreach(json_object_get(root, "measures"), n, measure)
	{
		const char *name = json_string_value(json_object_get(measure, "name"));
		const char *unit = json_string_value(json_object_get(measure, "unit"));
		double value = json_number_value(json_object_get(measure, "value"));

		assert_true(json_is_number(json_object_get(measure, "value")));
		if (strcmp(unit, "GB/s") == 0)
			assert_true(value > 0);
		count += strncmp(name, beginning, strlen(beginning)) == 0;
	}
	return count;
}

static void assert_nothing_is_left(void)
{
	assert_int_equal(rig_control->left_behind, 0);
	assert_int_equal(rig_control->misuses, 0);
	assert_int_equal(rig_control->contexts, 0);
	assert_int_equal(rig_memory_used(), 0);
}

static void every_part_is_measured_on_a_gpu(void **unused)
{
	(void)unused;
	rig_control_reset();
	assert_int_equal(run("--vendor", "cuda", "--library", rig_library(), "--mib", "4",
			     "--seconds", "0", "--json", json_path, "--commit", "abc", NULL),
			 EXIT_FINE);
	json_t *root = json_take(), *device = json_object_get(root, "device");
	for (unsigned n = 0; n < PARTS_COUNT; n++)
		assert_string_equal(part_state(root, part_names[n]), "measured");
	assert_string_equal(json_string_value(json_object_get(device, "bus_id")), FAKE_BUS_ID_0);
	assert_int_equal(json_integer_value(json_object_get(device, "driver_version")), 13000);
	assert_string_equal(json_string_value(json_object_get(root, "commit")), "abc");
	assert_int_equal(measures_count(root, "peak_"), 3);
	assert_int_equal(measures_count(root, "engine_"), 9);
	assert_int_equal(measures_count(root, "kernel_"), 2 * (7 + 1));
	assert_int_equal(measures_count(root, "small_copy_"), 10);
	assert_int_equal(measures_count(root, "pin_"), 2);
	/* Of nine lengths, for four there is memory for a second count. */
	assert_int_equal(json_array_size(json_object_get(root, "sweep")),
			 (9 + SECOND_COUNTS) * COPY_DIRECTIONS * COPY_PATHS);
	json_decref(root);
	assert_nothing_is_left();
}

static void a_gpu_is_found_by_its_bus_id_alone(void **unused)
{
	(void)unused;
	rig_control_reset();
	assert_int_equal(run("--vendor", "cuda", "--library", rig_library(), "--device",
			     FAKE_BUS_ID_1, "--mib", "4", "--seconds", "0", "--only", "peak",
			     "--json", json_path, NULL),
			 EXIT_FINE);
	json_t *root = json_take();
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(root, "device"), "bus_id")),
		FAKE_BUS_ID_1);
	assert_int_equal(json_array_size(json_object_get(root, "parts")), 1);
	json_decref(root);
	assert_int_equal(run("--vendor", "cuda", "--library", rig_library(), "--device",
			     "0000:ff:00.0", NULL),
			 EXIT_REFUSED);
	assert_int_equal(run("--device", FAKE_BUS_ID_1, NULL), EXIT_REFUSED);
	assert_int_equal(run("--vendor", "cude", NULL), EXIT_REFUSED);
	assert_int_equal(run("--vendor", "host", "--only", "peek", NULL), EXIT_REFUSED);
	assert_int_equal(run("--vendor", "host", "--mib", "5", NULL), EXIT_REFUSED);
	assert_nothing_is_left();
}

/* Where a driver is, the command would measure it: a test must not. */
static void without_a_gpu_it_is_skipped(void **unused)
{
	const char *const drivers[] = { "libcuda.so.1", "libamdhip64.so.7", "libamdhip64.so.6",
					"libamdhip64.so.5" };

	(void)unused;
	for (unsigned n = 0; n < sizeof(drivers) / sizeof(drivers[0]); n++)
		if (dlopen(drivers[n], RTLD_LAZY | RTLD_LOCAL) != NULL) {
			print_message("skipped: %s is here\n", drivers[n]);
			skip();
		}
	assert_int_equal(run("--only", "peak", NULL), EXIT_SKIPPED);
	assert_int_equal(run("--vendor", "cuda", NULL), EXIT_REFUSED);
}

static void amd_is_a_twin(void **unused)
{
	(void)unused;
	rig_control_reset();
	rig_control->version = 70200000;
	assert_int_equal(run("--vendor", "rocm", "--library", rig_library_rocm(), "--mib", "4",
			     "--seconds", "0", "--only", "engine", "--json", json_path, NULL),
			 EXIT_FINE);
	json_t *root = json_take();
	assert_int_equal(measures_count(root, "engine_"), 9);
	json_decref(root);
	assert_nothing_is_left();
}

static void this_machines_memory_is_measured_and_has_no_kernel(void **unused)
{
	(void)unused;
	assert_int_equal(
		run("--vendor", "host", "--mib", "4", "--seconds", "0", "--json", json_path, NULL),
		EXIT_FINE);
	json_t *root = json_take();
	for (unsigned n = 0; n < PARTS_COUNT; n++)
		assert_string_equal(part_state(root, part_names[n]),
				    strcmp(part_names[n], "kernel_blocks") == 0
					    ? "not here: the device has no copy kernel"
					    : "measured");
	assert_int_equal(measures_count(root, "kernel_"), 0);
	assert_int_equal(measures_count(root, "engine_"), 9);
	json_decref(root);
}

/* Copies and launches of a part whose runs have at least so many bytes; one of them is wrong. */
struct wrong {
	const char *part;
	enum copy_direction direction;
	uint64_t bytes_min;
	uint32_t nth;
	bool is_seen;
};

static void assert_seen(const struct wrong *wrong)
{
	rig_control_reset();
	atomic_store(&rig_control->corrupt_bytes_min, wrong->bytes_min);
	atomic_store(&rig_control->corrupt_nth[wrong->direction], wrong->nth);
	int status = run("--vendor", "cuda", "--library", rig_library(), "--mib", "4", "--seconds",
			 "0", "--only", wrong->part, "--json", json_path, NULL);
	assert_int_equal(atomic_load(&rig_control->corrupt_nth[wrong->direction]), 0);
	assert_nothing_is_left();
	assert_int_equal(status, wrong->is_seen ? EXIT_REFUSED : EXIT_FINE);
	json_t *root = json_take();
	if (wrong->is_seen) {
		assert_non_null(strstr(part_state(root, wrong->part), "wrong bytes"));
		assert_int_equal(json_array_size(json_object_get(root, "measures")), 0);
		assert_int_equal(json_array_size(json_object_get(root, "sweep")), 0);
	}
	json_decref(root);
}

static void a_wrong_byte_is_never_a_number(void **unused)
{
	const struct wrong wrongs[] = {
		{ "peak", COPY_STORE, MIB, 1, true },
		/* The first load fills the source, the next clears the target, then it counts. */
		{ "peak", COPY_LOAD, MIB, 1, true },
		{ "peak", COPY_LOAD, MIB, 2, false },
		{ "peak", COPY_LOAD, MIB, 3, true },
		{ "sweep", COPY_STORE, 2 * MIB, 5, true }, /* the last of a round */
		{ "kernel_blocks", COPY_STORE, KIB64, 1, true },
		{ "kernel_blocks", COPY_STORE, KIB64, 2, true }, /* a launch, after a plain one */
		{ "engine", COPY_STORE, 2 * MIB, 2, true },      /* a chunk, after a plain one */
		{ "engine", COPY_LOAD, 2 * MIB, 5, true }, /* fill, clear, plain, clear, chunk */
		{ "small_copy", COPY_STORE, MIB, 6,
		  true }, /* five of plain loads, then the engine's */
		{ "pin", COPY_STORE, MIB, 1, true },
	};

	(void)unused;
	for (unsigned n = 0; n < sizeof(wrongs) / sizeof(wrongs[0]); n++) {
		print_message("%s: %s %u\n", wrongs[n].part,
			      wrongs[n].direction == COPY_STORE ? "store" : "load", wrongs[n].nth);
		assert_seen(&wrongs[n]);
	}
}

static void a_lost_gpu_ends_it(void **unused)
{
	(void)unused;
	rig_control_reset();
	atomic_store(&rig_control->fail_call, FAKE_fake_copy);
	atomic_store(&rig_control->fail_error, GPU_LAUNCH_FAILED);
	atomic_store(&rig_control->fail_nth, 20); /* some are made to open it */
	assert_int_equal(run("--vendor", "cuda", "--library", rig_library(), "--mib", "4",
			     "--seconds", "0", "--json", json_path, NULL),
			 EXIT_REFUSED);
	json_t *root = json_take();
	assert_int_equal(json_array_size(json_object_get(root, "parts")), 1);
	assert_non_null(strstr(part_state(root, "peak"), "failed"));
	assert_int_equal(json_array_size(json_object_get(root, "measures")), 0);
	json_decref(root);
	assert_int_equal(rig_memory_used(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_part_is_measured_on_a_gpu),
		cmocka_unit_test(a_gpu_is_found_by_its_bus_id_alone),
		cmocka_unit_test(without_a_gpu_it_is_skipped),
		cmocka_unit_test(amd_is_a_twin),
		cmocka_unit_test(this_machines_memory_is_measured_and_has_no_kernel),
		cmocka_unit_test(a_wrong_byte_is_never_a_number),
		cmocka_unit_test(a_lost_gpu_ends_it),
	};

	return cmocka_run_group_tests(tests, open_machine, rig_machine_close);
}
