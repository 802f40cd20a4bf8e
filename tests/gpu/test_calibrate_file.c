/*
 * tests/gpu/test_calibrate_file.c: costs that are kept in a file are read back for the device that
 * they are of, and for no other; what is damaged is refused.
 */
#include "tests/gpu/device_rig.h"
#include "transfer/calibrate.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define ALL_PATHS ((1u << COPY_PATHS) - 1)

struct kept {
	struct rig rig;
	struct cost_table table;
};

static void kept_open(struct kept *kept)
{
	*kept = (struct kept){ 0 };
	rig_init(&kept->rig, &device_cuda_ops);
}

static void table_make(struct kept *kept, unsigned paths)
{
	for (unsigned direction = 0; direction < COPY_DIRECTIONS; direction++)
		for (unsigned path = 0; path < COPY_PATHS; path++)
			for (unsigned n = 0; n < COST_LENGTHS; n++)
				if ((paths & 1u << path) != 0)
					kept->table.lines[direction][path][n] = (struct cost_line){
						(float)(direction + path), (float)(n + 1)
					};
}

static int load(const struct kept *kept, const char *file, unsigned paths,
		struct cost_table *out_table, struct error *error)
{
	return calibrate_load(file, &kept->rig.device, paths, out_table, error);
}

static void a_stored_table_is_read_back_and_that_of_something_else_is_not(void **unused)
{
	char file[] = "costs-of-a-gpu";
	struct cost_table table;
	struct kept kept;
	struct error error;

	(void)unused;
	kept_open(&kept);
	assert_int_equal(load(&kept, file, ALL_PATHS, &table, &error), -ENOENT);
	table_make(&kept, ALL_PATHS);
	for (unsigned n = 0; n < 2; n++) /* also over what is there */
		assert_int_equal(
			calibrate_store(file, &kept.rig.device, ALL_PATHS, &kept.table, &error), 0);
	assert_int_equal(access("costs-of-a-gpu.new", F_OK), -1);
	assert_int_equal(load(&kept, file, ALL_PATHS, &table, &error), 0);
	assert_memory_equal(&table, &kept.table, sizeof(table));
	assert_int_equal(load(&kept, file, 1u << COPY_BATCH, &table, &error), -ENOENT);
	kept.rig.device.about.driver_version++;
	assert_int_equal(load(&kept, file, ALL_PATHS, &table, &error), -ENOENT);
	kept.rig.device.about.driver_version--;
	snprintf(kept.rig.device.about.bus_id, sizeof(kept.rig.device.about.bus_id), FAKE_BUS_ID_1);
	assert_int_equal(load(&kept, file, ALL_PATHS, &table, &error), -ENOENT);
	rig_finish(&kept.rig);
	unlink(file);
}

static void a_damaged_file_is_refused(void **unused)
{
	char file[] = "costs-of-a-gpu", text[COST_TEXT_BYTES + 8];
	struct cost_table table;
	struct kept kept;
	struct error error;

	(void)unused;
	kept_open(&kept);
	/* A row is missing: by a cut, or as it was not measured. */
	table_make(&kept, ALL_PATHS & ~(1u << COPY_KERNEL));
	assert_int_equal(calibrate_store(file, &kept.rig.device, ALL_PATHS, &kept.table, &error),
			 0);
	assert_int_equal(load(&kept, file, ALL_PATHS, &table, &error), -EINVAL);
	assert_string_equal(error.text, "the copy costs lack those of kernel");
	assert_int_equal(truncate(file, 300), 0);
	assert_int_equal(load(&kept, file, ALL_PATHS, &table, &error), -EINVAL);
	assert_int_equal(truncate(file, 0), 0);
	assert_int_equal(load(&kept, file, ALL_PATHS, &table, &error), -EINVAL);
	memset(text, 'x', sizeof(text));
	int fd = open(file, O_WRONLY | O_TRUNC);
	assert_int_equal(write(fd, text, sizeof(text)), sizeof(text));
	close(fd);
	assert_int_equal(load(&kept, file, ALL_PATHS, &table, &error), -EINVAL);
	unlink(file);
	assert_int_equal(mkfifo(file, 0600), 0); /* nobody waits for a writer */
	assert_int_equal(load(&kept, file, ALL_PATHS, &table, &error), -EINVAL);
	unlink(file);
	assert_int_equal(symlink("elsewhere", file), 0);
	assert_int_equal(load(&kept, file, ALL_PATHS, &table, &error), -ELOOP);
	unlink(file);
	rig_finish(&kept.rig);
}

static void a_file_that_cannot_be_written_leaves_nothing(void **unused)
{
	struct kept kept;
	struct error error;

	(void)unused;
	kept_open(&kept);
	table_make(&kept, ALL_PATHS);
	assert_int_equal(
		calibrate_store("nowhere/costs", &kept.rig.device, ALL_PATHS, &kept.table, &error),
		-ENOENT);
	assert_int_equal(mkdir("folder", 0700), 0); /* the table cannot take its name */
	assert_int_equal(
		calibrate_store("folder", &kept.rig.device, ALL_PATHS, &kept.table, &error),
		-EISDIR);
	assert_int_equal(access("folder.new", F_OK), -1);
	rmdir("folder");
	rig_finish(&kept.rig);
}

/* The files' folder. */
static char folder[64];

static int open_all(void **state)
{
	snprintf(folder, sizeof(folder), "/dev/shm/kvtier-costs-XXXXXX");
	if (rig_machine_open(state) < 0 || mkdtemp(folder) == NULL)
		return -1;
	return chdir(folder);
}

static int close_all(void **state)
{
	return chdir("/") < 0 || rmdir(folder) < 0 ? -1 : rig_machine_close(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_stored_table_is_read_back_and_that_of_something_else_is_not),
		cmocka_unit_test(a_damaged_file_is_refused),
		cmocka_unit_test(a_file_that_cannot_be_written_leaves_nothing),
	};

	return cmocka_run_group_tests(tests, open_all, close_all);
}
