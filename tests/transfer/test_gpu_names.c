/* tests/transfer/test_gpu_names.c: GPUs by a list, and by what a PCI bus shows. */
#include "transfer/gpu_names.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char bus[64];

static int path_remove(const char *path, const struct stat *status, int flag, struct FTW *place)
{
	(void)status;
	(void)flag;
	(void)place;
	return remove(path);
}

static int bus_make(void **unused)
{
	(void)unused;
	strcpy(bus, "/tmp/kvtier-pci-XXXXXX");
	return mkdtemp(bus) == NULL ? -1 : 0;
}

static int bus_remove(void **unused)
{
	(void)unused;
	return nftw(bus, path_remove, 8, FTW_DEPTH | FTW_PHYS);
}

static void attribute_write(const char *bus_id, const char *name, const char *value)
{
	char path[160];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s/%s", bus, bus_id, name);
	file = fopen(path, "w");
	assert_non_null(file);
	fprintf(file, "%s\n", value);
	fclose(file);
}

/* `driver` NULL: none is bound. */
static void device_add(const char *bus_id, const char *class, const char *vendor,
		       const char *driver)
{
	char path[160], target[80];

	snprintf(path, sizeof(path), "%s/%s", bus, bus_id);
	assert_int_equal(mkdir(path, 0700), 0);
	attribute_write(bus_id, "class", class);
	attribute_write(bus_id, "vendor", vendor);
	if (driver == NULL)
		return;
	snprintf(path, sizeof(path), "%s/%s/driver", bus, bus_id);
	snprintf(target, sizeof(target), "../../../bus/pci/drivers/%s", driver);
	assert_int_equal(symlink(target, path), 0);
}

static void gpus_with_their_vendors_driver_are_found(void **unused)
{
	struct gpu_name names[GPUS_MAX];

	(void)unused;
	device_add("0000:c1:00.0", "0x120000", "0x1002", "amdgpu");
	device_add("0000:17:00.0", "0x030200", "0x10de", "nvidia");
	device_add("0001:65:00.0", "0x030000", "0x10de", "nvidia");
	device_add("0000:18:00.0", "0x030200", "0x10de", "vfio-pci"); /* a virtual machine's */
	device_add("0000:19:00.0", "0x030200", "0x10de", NULL);
	device_add("0000:1a:00.0", "0x068000", "0x10de", "nvidia");   /* an NVSwitch */
	device_add("0000:1b:00.0", "0x040300", "0x10de", "snd_hda_intel");
	device_add("0000:00:02.0", "0x030000", "0x8086", "i915");
	device_add("not-a-device", "0x030200", "0x10de", "nvidia");
	assert_int_equal(gpus_on_pci(bus, names), 3);
	assert_int_equal(gpu_names_read("auto", bus, names), 3);
	assert_string_equal(names[0].vendor, "cuda");
	assert_string_equal(names[0].bus_id, "0000:17:00.0");
	assert_string_equal(names[1].vendor, "rocm");
	assert_string_equal(names[1].bus_id, "0000:c1:00.0");
	assert_string_equal(names[2].bus_id, "0001:65:00.0");
	assert_int_equal(gpu_names_read("off", bus, names), 0);
}

static void a_machine_with_more_than_the_limit_shows_as_many(void **unused)
{
	struct gpu_name names[GPUS_MAX];
	char bus_id[16];

	(void)unused;
	for (unsigned n = 0; n < GPUS_MAX + 4; n++) {
		snprintf(bus_id, sizeof(bus_id), "0000:%02x:00.0", n);
		device_add(bus_id, "0x030200", "0x10de", "nvidia");
	}
	assert_int_equal(gpus_on_pci(bus, names), GPUS_MAX);
}

static void a_bus_that_is_not_there_has_no_gpus(void **unused)
{
	struct gpu_name names[GPUS_MAX];

	(void)unused;
	assert_int_equal(gpus_on_pci("/nowhere", names), 0);
}

static void a_list_names_each_gpu_once(void **unused)
{
	static const char *const wrong[] = {
		"", "on", "AUTO", "cuda:", "cuda:17", "cuda:17:00.0", "hip:0000:17:00.0",
		"cuda:0000:17:00.0,", ",cuda:0000:17:00.0", "cuda:0000:17:00.0 cuda:0000:18:00.0",
		"cuda:0000:17:00.0x", "cuda:0000: 7:00.0", "cuda:000000000:17:00.0",
		"cuda:0000:17:00.0, cuda:00000000:17:00.0", "auto,cuda:0000:17:00.0",
	};
	struct gpu_name names[GPUS_MAX];

	(void)unused;
	for (unsigned n = 0; n < sizeof(wrong) / sizeof(wrong[0]); n++)
		if (gpu_names_are_right(wrong[n]))
			fail_msg("\"%s\" was taken", wrong[n]);
	assert_int_equal(gpu_names_read("cuda:0000:17:00.0, rocm:00000001:C1:00.1", bus, names), 2);
	assert_string_equal(names[1].vendor, "rocm");
	assert_string_equal(names[1].bus_id, "00000001:C1:00.1");
}

static void a_list_ends_at_the_limit(void **unused)
{
	char text[GPUS_MAX * 32 + 32] = "cuda:0000:00:00.0";

	(void)unused;
	for (unsigned n = 1; n < GPUS_MAX; n++)
		sprintf(text + strlen(text), ",cuda:0000:%02x:00.0", n);
	assert_true(gpu_names_are_right(text));
	strcat(text, ",cuda:0000:ff:00.0");
	assert_false(gpu_names_are_right(text));
}

static void bus_ids_are_equal_however_they_are_written(void **unused)
{
	(void)unused;
	assert_true(gpu_bus_ids_are_equal("0000:C1:00.0", "00000000:c1:00.0"));
	assert_false(gpu_bus_ids_are_equal("0000:c1:00.0", "0001:c1:00.0"));
	assert_false(gpu_bus_ids_are_equal("0000:c1:00.0", "0000:c1:00.1"));
	assert_false(gpu_bus_ids_are_equal("0000:c1:00.0", "0000:c1:01.0"));
	assert_false(gpu_bus_ids_are_equal("0000:c1:00.0", "GPU-00010203"));
	assert_false(gpu_bus_ids_are_equal("", ""));
}

int main(void)
{
	const struct CMUnitTest all[] = {
		cmocka_unit_test_setup_teardown(gpus_with_their_vendors_driver_are_found, bus_make,
						bus_remove),
		cmocka_unit_test_setup_teardown(a_machine_with_more_than_the_limit_shows_as_many,
						bus_make, bus_remove),
		cmocka_unit_test(a_bus_that_is_not_there_has_no_gpus),
		cmocka_unit_test(a_list_names_each_gpu_once),
		cmocka_unit_test(a_list_ends_at_the_limit),
		cmocka_unit_test(bus_ids_are_equal_however_they_are_written),
	};

	return cmocka_run_group_tests(all, NULL, NULL);
}
