/* transfer/gpu_names.c: see gpu_names.h. */
#include "transfer/gpu_names.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define CLASS_DISPLAY 0x03u       /* VGA and 3D controllers */
#define CLASS_ACCELERATOR 0x1200u /* processing accelerators */
#define ATTRIBUTE_BYTES 32

static const struct {
	unsigned vendor;
	const char *name, *driver;
} vendors[] = {
	{ 0x10de, "cuda", "nvidia" },
	{ 0x1002, "rocm", "amdgpu" },
};

#define VENDORS (sizeof(vendors) / sizeof(vendors[0]))

struct bus_id {
	unsigned domain, bus, device, function;
};

static bool bus_id_read(const char *text, struct bus_id *out_id)
{
	int end = -1;

	/* %x would also take blanks and signs. */
	if (text[strspn(text, "0123456789abcdefABCDEF:.")] != '\0')
		return false;
	return sscanf(text, "%8x:%2x:%2x.%1x%n", &out_id->domain, &out_id->bus, &out_id->device,
		      &out_id->function, &end) == 4 &&
	       end > 0 && text[end] == '\0';
}

bool gpu_bus_ids_are_equal(const char *one, const char *other)
{
	struct bus_id a, b;

	return bus_id_read(one, &a) && bus_id_read(other, &b) && a.domain == b.domain &&
	       a.bus == b.bus && a.device == b.device && a.function == b.function;
}

/* ---- a list ---- */

/* "cuda:0000:17:00.0", of `length` characters. */
static bool name_read(const char *text, size_t length, struct gpu_name *out_name)
{
	struct bus_id id;

	for (size_t v = 0; v < VENDORS; v++) {
		size_t prefix = strlen(vendors[v].name);

		if (length <= prefix || strncmp(text, vendors[v].name, prefix) != 0 ||
		    text[prefix] != ':' || length - prefix > sizeof(out_name->bus_id))
			continue;
		snprintf(out_name->vendor, sizeof(out_name->vendor), "%s", vendors[v].name);
		snprintf(out_name->bus_id, sizeof(out_name->bus_id), "%.*s",
			 (int)(length - prefix - 1), text + prefix + 1);
		return bus_id_read(out_name->bus_id, &id);
	}
	return false;
}

static bool is_named(const struct gpu_name *names, unsigned count, const char *bus_id)
{
	for (unsigned n = 0; n < count; n++)
		if (gpu_bus_ids_are_equal(names[n].bus_id, bus_id))
			return true;
	return false;
}

/* How many; -EINVAL: one is no name, is there twice, or is one too many. */
static int list_read(const char *text, struct gpu_name *out_names)
{
	unsigned count = 0;

	for (;;) {
		text += strspn(text, " ");
		size_t length = strcspn(text, ", ");

		if (count == GPUS_MAX || !name_read(text, length, &out_names[count]) ||
		    is_named(out_names, count, out_names[count].bus_id))
			return -EINVAL;
		count++;
		text += length;
		text += strspn(text, " ");
		if (*text == '\0')
			return (int)count;
		if (*text++ != ',')
			return -EINVAL;
	}
}

bool gpu_names_are_right(const char *text)
{
	struct gpu_name names[GPUS_MAX];

	return strcmp(text, "auto") == 0 || strcmp(text, "off") == 0 || list_read(text, names) > 0;
}

unsigned gpu_names_read(const char *text, const char *folder, struct gpu_name *out_names)
{
	int count;

	if (strcmp(text, "off") == 0)
		return 0;
	if (strcmp(text, "auto") == 0)
		return gpus_on_pci(folder, out_names);
	count = list_read(text, out_names);
	return count < 0 ? 0 : (unsigned)count;
}

/* ---- the bus ---- */

static unsigned attribute_read(const char *device, const char *name)
{
	char path[PATH_MAX], text[ATTRIBUTE_BYTES] = "";
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", device, name);
	file = fopen(path, "re");
	if (file == NULL)
		return 0;
	if (fgets(text, sizeof(text), file) == NULL)
		text[0] = '\0';
	fclose(file);
	return (unsigned)strtoul(text, NULL, 16);
}

/* One that another driver has (vfio's, for a virtual machine) is not ours to open. */
static bool is_bound_to(const char *device, const char *driver)
{
	char path[PATH_MAX], target[PATH_MAX];
	ssize_t length;

	snprintf(path, sizeof(path), "%s/driver", device);
	length = readlink(path, target, sizeof(target) - 1);
	if (length < 0)
		return false;
	target[length] = '\0';
	const char *slash = strrchr(target, '/');
	return strcmp(slash == NULL ? target : slash + 1, driver) == 0;
}

static bool is_gpu(const char *folder, const char *bus_id, struct gpu_name *out_name)
{
	char device[PATH_MAX / 2];
	unsigned class, vendor;
	struct bus_id id;

	if (!bus_id_read(bus_id, &id) || strlen(bus_id) >= sizeof(out_name->bus_id))
		return false;
	snprintf(device, sizeof(device), "%s/%s", folder, bus_id);
	class = attribute_read(device, "class");
	vendor = attribute_read(device, "vendor");
	if (class >> 16 != CLASS_DISPLAY && class >> 8 != CLASS_ACCELERATOR)
		return false;
	for (size_t v = 0; v < VENDORS; v++) {
		if (vendors[v].vendor != vendor || !is_bound_to(device, vendors[v].driver))
			continue;
		snprintf(out_name->vendor, sizeof(out_name->vendor), "%s", vendors[v].name);
		snprintf(out_name->bus_id, sizeof(out_name->bus_id), "%s", bus_id);
		return true;
	}
	return false;
}

static int by_bus_id(const void *one, const void *other)
{
	return strcmp(((const struct gpu_name *)one)->bus_id,
		      ((const struct gpu_name *)other)->bus_id);
}

unsigned gpus_on_pci(const char *folder, struct gpu_name *out_names)
{
	DIR *devices = opendir(folder);
	struct dirent *entry;
	unsigned count = 0;

	if (devices == NULL)
		return 0;
	while (count < GPUS_MAX && (entry = readdir(devices)) != NULL)
		if (is_gpu(folder, entry->d_name, &out_names[count]))
			count++;
	closedir(devices);
	qsort(out_names, count, sizeof(out_names[0]), by_bus_id);
	return count;
}
