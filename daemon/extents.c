/* daemon/extents.c: writes extent tables after they changed. */
#include "daemon/extents.h"

#include "base/failpoint.h"
#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TABLE_ALIGN_BYTES 4096u

/* One table at a time is made from the cache's; the loop thread is the only user. */
static struct cache_extent cache_rows[NVME_EXTENTS_MAX];
static struct nvme_extent table_rows[NVME_EXTENTS_MAX];

int extents_create(struct daemon *daemon, struct error *error)
{
	for (unsigned i = 0; i < daemon->devices_count; i++) {
		struct daemon_device *device = &daemon->devices[i];
		uint64_t bytes = nvme_extents_image_bytes(device->device);

		device->extents_image = aligned_alloc(
			TABLE_ALIGN_BYTES,
			(bytes + TABLE_ALIGN_BYTES - 1) / TABLE_ALIGN_BYTES * TABLE_ALIGN_BYTES);
		if (device->extents_image == NULL)
			return error_set(error, -ENOMEM, "no memory for the extent table of %s",
					 nvme_device_path(device->device));
	}
	return 0;
}

void extents_destroy(struct daemon *daemon)
{
	for (unsigned i = 0; i < daemon->devices_count; i++) {
		assert(!daemon->devices[i].extents_writing);
		free(daemon->devices[i].extents_image);
		daemon->devices[i].extents_image = NULL;
	}
}

void extents_changed(struct daemon *daemon, uint32_t area)
{
	for (unsigned i = 0; i < daemon->tenants_count; i++)
		if (daemon->tenants[i].cpu_area == area)
			daemon->tenants[i].arena_changed = true;
	if (area != daemon->nvme_area)
		return;
	for (unsigned i = 0; i < daemon->devices_count; i++)
		daemon->devices[i].extents_changed = true;
}

static const struct tenant *tenant_of(const struct daemon *daemon, uint32_t handle)
{
	for (unsigned i = 0; i < daemon->tenants_count; i++)
		if (daemon->tenants[i].handle == handle)
			return &daemon->tenants[i];
	return NULL;
}

/* The rows of an area that lie in [first_unit, first_unit + units), as a device or arena keeps
 * them. */
static unsigned table_make(struct daemon *daemon, uint32_t area, uint32_t first_unit,
			   uint32_t units)
{
	unsigned rows = cache_extents(daemon->cache, area, cache_rows, NVME_EXTENTS_MAX);
	unsigned count = 0;

	for (unsigned i = 0; i < rows; i++) {
		const struct cache_extent *extent = &cache_rows[i];
		const struct tenant *tenant = tenant_of(daemon, extent->tenant);

		if (tenant == NULL || extent->first_unit < first_unit ||
		    extent->first_unit >= first_unit + units)
			continue;
		memcpy(table_rows[count].tenant, tenant->digest, TENANT_DIGEST_BYTES);
		table_rows[count].first_unit = extent->first_unit - first_unit;
		table_rows[count].units_count = extent->units_count;
		table_rows[count].slot_bytes = extent->slot_bytes;
		table_rows[count].generation = extent->generation;
		count++;
	}
	return count;
}

static void table_written(struct tier_op *op)
{
	struct daemon_device *device = list_item(op, struct daemon_device, extents_op);

	device->extents_writing = false;
	(void)failpoint(extent_table_written);
	if (op->result == 0)
		return;
	log_line(LOG_WARNING, "extent_table_failed", "device=%s result=%d", nvme_device_path(device->device),
		 op->result);
	/* Again, or a restart would not find what lies in the new extents; a device that goes on
	 * failing is fenced. */
	device->extents_changed = true;
}

static bool device_step(struct daemon *daemon, unsigned number)
{
	struct daemon_device *device = &daemon->devices[number];
	unsigned count;

	if (!device->extents_changed || device->extents_writing || device->is_fenced)
		return false;
	count = table_make(daemon, daemon->nvme_area, device->first_unit, device->units);
	nvme_extents_image(device->device, table_rows, count, device->extents_image);
	memset(&device->extents_op, 0, sizeof(device->extents_op));
	device->extents_op.verb = TIER_EXTENTS;
	device->extents_op.device = number;
	device->extents_op.memory = device->extents_image;
	device->extents_op.memory_bytes = nvme_extents_image_bytes(device->device);
	device->extents_op.done = table_written;
	if (tier_submit(daemon->nvme, &device->extents_op) < 0)
		return false;
	device->extents_changed = false;
	device->extents_writing = true;
	return true;
}

bool extents_step(struct daemon *daemon)
{
	bool did_work = false;

	for (unsigned i = 0; i < daemon->tenants_count; i++) {
		struct tenant *tenant = &daemon->tenants[i];

		if (!tenant->arena_changed)
			continue;
		arena_extents_write(&tenant->arena, table_rows,
				    table_make(daemon, tenant->cpu_area, 0, UINT32_MAX));
		tenant->arena_changed = false;
		(void)failpoint(extent_assigned);
		did_work = true;
	}
	for (unsigned i = 0; i < daemon->devices_count; i++)
		did_work = device_step(daemon, i) || did_work;
	return did_work;
}

bool extents_are_busy(const struct daemon *daemon)
{
	for (unsigned i = 0; i < daemon->devices_count; i++)
		if (daemon->devices[i].extents_writing)
			return true;
	return false;
}
