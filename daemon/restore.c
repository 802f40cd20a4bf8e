/* daemon/restore.c: finds again what earlier lives have stored. */
#include "daemon/restore.h"

#include "base/failpoint.h"
#include "base/log.h"
#include "daemon/catalog.h"
#include "daemon/encryption.h"
#include "daemon/mover.h"
#include "daemon/spaces.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HEADERS_A_STEP  256u     /* of an arena, in one pass of the loop */
#define HEADERS_AN_OP   64u      /* of a device, in one mill op */

enum restore_phase { RESTORE_ARENAS, RESTORE_CATALOG, RESTORE_HEADERS, RESTORE_DOWN, RESTORE_DONE };

/* Steps through the slots of a table of extents. */
struct slot_cursor {
	struct nvme_extent *extents;
	unsigned extents_count;
	unsigned extent;
	uint32_t ordinal;
};

struct restore {
	struct daemon *daemon;
	enum restore_phase phase;
	unsigned number;                 /* of the tenant or device being read */
	bool is_begun;                   /* its table has been read */
	struct slot_cursor cursor;
	uint64_t began_us;
	/* headers of devices, read by a mill */
	struct mill_op mill;
	bool is_milling;
	struct slot_header *headers;
	struct {
		uint64_t offset;
		uint32_t slot_bytes, generation;
		int result;
	} reads[HEADERS_AN_OP];
	unsigned reads_count;
	struct nvme_device *device;
	uint32_t down_next;              /* cpu slot to look at: is it below, too? */
	uint32_t *unit_tenants;          /* of the nvme area: whose the restored extents are */
};

static bool cursor_next(struct slot_cursor *cursor, uint64_t unit_bytes, uint64_t *out_offset,
			const struct nvme_extent **out_extent)
{
	while (cursor->extent < cursor->extents_count) {
		const struct nvme_extent *extent = &cursor->extents[cursor->extent];
		uint64_t slots = extent->slot_bytes == 0
					 ? 0
					 : extent->units_count * unit_bytes / extent->slot_bytes;

		if (cursor->ordinal < slots) {
			*out_offset = extent->first_unit * unit_bytes +
				      (uint64_t)cursor->ordinal * extent->slot_bytes;
			*out_extent = extent;
			cursor->ordinal++;
			return true;
		}
		cursor->extent++;
		cursor->ordinal = 0;
	}
	return false;
}

static uint32_t tenant_by_digest(const struct daemon *daemon, const uint8_t *digest)
{
	for (unsigned i = 0; i < daemon->tenants_count; i++)
		if (memcmp(daemon->tenants[i].digest, digest, TENANT_DIGEST_BYTES) == 0)
			return daemon->tenants[i].handle;
	return UINT32_MAX;
}

static void restore_extents(struct daemon *daemon, uint32_t area, uint32_t first_unit,
			    const struct nvme_extent *extents, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct cache_extent extent = {
			.tenant = tenant_by_digest(daemon, extents[i].tenant),
			.first_unit = first_unit + extents[i].first_unit,
			.units_count = extents[i].units_count,
			.slot_bytes = extents[i].slot_bytes,
			.generation = extents[i].generation,
		};
		int result = extent.tenant == UINT32_MAX
				     ? -ENOENT
				     : cache_extent_restore(daemon->cache, area, &extent);

		if (result < 0)
			log_line(LOG_DEBUG, "extent_not_restored", "unit=%u result=%d", extent.first_unit, result);
		for (uint32_t unit = 0;
		     result == 0 && area == daemon->nvme_area && unit < extent.units_count; unit++)
			daemon->restore->unit_tenants[extent.first_unit + unit] = extent.tenant;
	}
}

/* One slot, as its header or record says; 0, or why it does not count. */
static int slot_restore(struct daemon *daemon, uint32_t area, uint32_t tenant,
			struct cache_restored *restored, const uint8_t *fingerprint,
			enum tier_id tier, uint32_t *out_slot)
{
	int result = -ESTALE;

	/* An epoch that was never given out: a header or record of another history of this node. */
	if (restored->epoch <= daemon->epoch)
		result = spaces_restore(daemon, tenant, fingerprint, &restored->space);
	if (result == 0)
		result = cache_slot_restore(daemon->cache, area, restored, out_slot);
	if (result == 0)
		daemon->counters.restored[tier]++;
	else
		daemon->counters.restore_refused++;
	(void)failpoint(restore_slot);
	return result;
}

static const uint8_t *parent_or_none(const uint8_t *parent)
{
	static const uint8_t none[BLOCK_HASH_BYTES];

	return memcmp(parent, none, sizeof(none)) == 0 ? NULL : parent;
}

static void restored_from_header(const struct slot_header *header, enum tier_id tier,
				 uint32_t slot_bytes, struct cache_restored *out_restored)
{
	const struct slot_identity *identity = &header->identity;

	*out_restored = (struct cache_restored){
		.offset = header->address[tier].offset,
		.slot_bytes = slot_bytes,
		.extent_generation = header->address[tier].extent_generation,
		.slot_generation = header->address[tier].slot_generation,
		.epoch = (uint32_t)identity->epoch,
		.tokens = identity->tokens,
		.group = identity->group,
		.shard = (uint8_t)identity->shard,
		.shards_count = (uint8_t)identity->shards_count,
		.route_key = identity->route_key,
		.hash = identity->hash,
		.parent = parent_or_none(identity->parent),
	};
}

static bool header_is_good(const struct slot_header *header, enum tier_id tier,
			   const uint8_t *device, uint64_t offset, uint32_t slot_bytes,
			   uint32_t extent_generation)
{
	struct slot_expectation expected = {
		.device = device, .offset = offset, .slot_bytes = slot_bytes,
		.extent_generation = extent_generation,
	};
	const struct slot_identity *identity = &header->identity;

	return slot_header_check(header, tier, &expected) == SLOT_GOOD &&
	       identity->shards_count >= 1 && identity->shards_count <= CACHE_SHARDS_MAX &&
	       identity->shard < identity->shards_count && identity->epoch < UINT32_MAX;
}

static bool arena_step(struct restore *restore)
{
	struct daemon *daemon = restore->daemon;
	struct tenant *tenant = &daemon->tenants[restore->number];
	struct slot_cursor *cursor = &restore->cursor;
	const struct nvme_extent *extent;
	uint64_t offset;

	if (!restore->is_begun) {
		cursor->extents_count = arena_extents_read(&tenant->arena, cursor->extents,
							   NVME_EXTENTS_MAX);
		cursor->extent = cursor->ordinal = 0;
		restore->is_begun = true;
		restore_extents(daemon, tenant->cpu_area, 0, cursor->extents,
				cursor->extents_count);
	}
	for (unsigned i = 0; i < HEADERS_A_STEP; i++) {
		struct cache_restored restored;
		uint32_t slot;

		if (!cursor_next(cursor, tenant->arena.unit_bytes, &offset, &extent))
			return false;
		const struct slot_header *header = arena_slot(&tenant->arena, offset);
		if (!header_is_good(header, TIER_CPU, tenant->arena.id, offset, extent->slot_bytes,
				    extent->generation))
			continue;
		restored_from_header(header, TIER_CPU, extent->slot_bytes, &restored);
		(void)slot_restore(daemon, tenant->cpu_area, tenant->handle, &restored,
				   header->identity.space, TIER_CPU, &slot);
	}
	return true;
}

static struct daemon_device *device_by_id(struct daemon *daemon, const uint8_t *id)
{
	for (unsigned i = 0; i < daemon->devices_count; i++)
		if (memcmp(nvme_device_id(daemon->devices[i].device), id, DEVICE_ID_BYTES) == 0)
			return &daemon->devices[i];
	return NULL;
}

/* Which tenant the place belongs to: the extent that holds it says so. */
static uint32_t place_tenant(const struct restore *restore, unsigned device, uint64_t offset)
{
	const struct daemon *daemon = restore->daemon;

	return restore->unit_tenants[daemon->devices[device].first_unit +
				     offset / daemon->settings.extent_bytes];
}

static void on_row(void *owner, const struct catalog_record *record)
{
	struct daemon *daemon = owner;
	struct daemon_device *device = device_by_id(daemon, record->device);
	struct cache_restored restored = {
		.offset = record->offset,
		.slot_bytes = record->slot_bytes,
		.extent_generation = record->extent_generation,
		.slot_generation = record->slot_generation,
		.epoch = (uint32_t)record->epoch,
		.tokens = record->tokens,
		.group = record->group,
		.shard = (uint8_t)record->shard,
		.shards_count = (uint8_t)record->shards_count,
		.route_key = record->route_key,
		.hash = record->hash,
		.parent = parent_or_none(record->parent),
	};
	uint32_t tenant = UINT32_MAX, slot;

	if (device != NULL && record->offset / daemon->settings.extent_bytes < device->units) {
		restored.device = (uint32_t)(device - daemon->devices);
		tenant = place_tenant(daemon->restore, restored.device, record->offset);
	}
	if (tenant == UINT32_MAX || record->epoch >= UINT32_MAX ||
	    encryption_refuses(daemon, tenant, record->key_id, record->space, record->hash) ||
	    slot_restore(daemon, daemon->nvme_area, tenant, &restored, record->space, TIER_NVME,
			 &slot) < 0)
		catalog_link_delete(daemon->catalog, record->device, record->offset);
	else
		encryption_slot_has(daemon, slot, record->key_id);
}

static void phase_begin(struct restore *restore, enum restore_phase phase)
{
	assert(phase > restore->phase);
	restore->phase = phase;
	restore->number = 0;
	restore->is_begun = false;
}

static void serving_begins(struct restore *restore)
{
	struct daemon *daemon = restore->daemon;

	if (daemon->phase != DAEMON_RESTORING)
		return;
	(void)failpoint(restore_done);
	daemon->phase = DAEMON_SERVING;
	log_line(LOG_INFO, "ready", "restored_cpu=%llu restored_nvme=%llu refused=%llu restore_ms=%llu "
		 "rebuilding=%d", (unsigned long long)daemon->counters.restored[TIER_CPU],
		 (unsigned long long)daemon->counters.restored[TIER_NVME],
		 (unsigned long long)daemon->counters.restore_refused,
		 (unsigned long long)(daemon->now_us - restore->began_us) / 1000,
		 restore->phase == RESTORE_HEADERS);
}

static void on_scanned(void *owner, const struct catalog_scan_end *end)
{
	struct daemon *daemon = owner;
	struct restore *restore = daemon->restore;
	bool is_complete = end->result == 0 && end->is_complete;

	log_line(LOG_INFO, "catalog_read", "rows=%llu skipped=%llu complete=%d result=%d",
		 (unsigned long long)end->rows, (unsigned long long)end->skipped, is_complete,
		 end->result);
	phase_begin(restore, is_complete ? RESTORE_DOWN : RESTORE_HEADERS);
	if (is_complete) {
		catalog_link_mark_complete(daemon->catalog);
		encryption_log_refused(daemon);
	} else {
		encryption_count_anew(daemon);
	}
	serving_begins(restore);
}

static void headers_work(struct mill_op *op)
{
	struct restore *restore = list_item(op, struct restore, mill);

	for (unsigned i = 0; i < restore->reads_count; i++)
		restore->reads[i].result = nvme_device_read_header(
			restore->device, restore->reads[i].offset, &restore->headers[i]);
}

static void headers_done(struct mill_op *op)
{
	struct restore *restore = list_item(op, struct restore, mill);
	struct daemon *daemon = restore->daemon;

	restore->is_milling = false;
	for (unsigned i = 0; i < restore->reads_count; i++) {
		const struct slot_header *header = &restore->headers[i];
		struct cache_restored restored;
		uint32_t tenant, slot;

		if (restore->reads[i].result < 0 ||
		    !header_is_good(header, TIER_NVME, nvme_device_id(restore->device),
				    restore->reads[i].offset, restore->reads[i].slot_bytes,
				    restore->reads[i].generation))
			continue;
		restored_from_header(header, TIER_NVME, restore->reads[i].slot_bytes, &restored);
		restored.device = restore->number;
		tenant = place_tenant(restore, restore->number, restored.offset);
		if (tenant != UINT32_MAX &&
		    !encryption_refuses(daemon, tenant, header->identity.key_id,
					header->identity.space, header->identity.hash) &&
		    slot_restore(daemon, daemon->nvme_area, tenant, &restored,
				 header->identity.space, TIER_NVME, &slot) == 0) {
			encryption_slot_has(daemon, slot, header->identity.key_id);
			catalog_put_slot(daemon, slot, header->identity.key_id);
		}
	}
}

/* Hands the next headers of a device to a mill. False: the device is through. */
static bool headers_step(struct restore *restore)
{
	struct daemon *daemon = restore->daemon;
	struct daemon_device *device = &daemon->devices[restore->number];
	struct slot_cursor *cursor = &restore->cursor;
	const struct nvme_extent *extent;
	uint64_t offset;

	if (!restore->is_begun) {
		cursor->extents_count = nvme_device_extents(device->device, cursor->extents);
		cursor->extent = cursor->ordinal = 0;
		restore->is_begun = true;
		restore->device = device->device;
	}
	restore->reads_count = 0;
	while (restore->reads_count < HEADERS_AN_OP &&
	       cursor_next(cursor, daemon->settings.extent_bytes, &offset, &extent)) {
		restore->reads[restore->reads_count].offset = offset;
		restore->reads[restore->reads_count].slot_bytes = extent->slot_bytes;
		restore->reads[restore->reads_count].generation = extent->generation;
		restore->reads_count++;
	}
	if (restore->reads_count == 0 || device->is_fenced)
		return false;
	restore->mill.work = headers_work;
	restore->mill.done = headers_done;
	restore->is_milling = mills_submit(&daemon->mills, &restore->mill);
	return true;
}

static void catalog_begin(struct restore *restore)
{
	struct daemon *daemon = restore->daemon;
	bool is_new = true;

	for (unsigned i = 0; i < daemon->devices_count; i++) {
		is_new = is_new && nvme_device_is_new(daemon->devices[i].device);
		restore_extents(
			daemon, daemon->nvme_area, daemon->devices[i].first_unit,
			restore->cursor.extents,
			nvme_device_extents(daemon->devices[i].device, restore->cursor.extents));
	}
	catalog_link_scan(daemon->catalog, on_row, on_scanned);
	restore->is_begun = true;
	/* Devices that were just made hold nothing: whatever the catalogue says of others is
	 * deleted as it comes. */
	if (is_new)
		serving_begins(restore);
}

static void headers_ended(struct restore *restore)
{
	struct daemon *daemon = restore->daemon;

	phase_begin(restore, RESTORE_DOWN);
	catalog_link_mark_complete(daemon->catalog);
	encryption_log_refused(daemon);
	log_line(LOG_INFO, "rebuilt", "restored_nvme=%llu",
		 (unsigned long long)daemon->counters.restored[TIER_NVME]);
}

/* Blocks that came in before nvme took any, or were not written when an earlier life ended, go down
 * now. False: the moves under way have to end first, and wake us. */
static bool down_step(struct restore *restore)
{
	struct daemon *daemon = restore->daemon;

	if (!mover_lower_from(daemon, &restore->down_next))
		return false;
	if (restore->down_next >= daemon->cpu_slots_max)
		phase_begin(restore, RESTORE_DONE);
	return true;
}

static bool restore_arenas_step(struct daemon *daemon)
{
	struct restore *restore = daemon->restore;

	if (restore->number < daemon->tenants_count) {
		if (!daemon->tenants[restore->number].arena.is_warm || !arena_step(restore)) {
			restore->number++;
			restore->is_begun = false;
		}
		return true;
	}
	phase_begin(restore, daemon->nvme != NULL ? RESTORE_CATALOG : RESTORE_DONE);
	if (restore->phase == RESTORE_DONE)
		serving_begins(restore);
	return true;
}

bool restore_step(struct daemon *daemon)
{
	struct restore *restore = daemon->restore;

	if (restore->phase == RESTORE_DONE || daemon->phase == DAEMON_DRAINING)
		return false;
	if (restore->phase == RESTORE_ARENAS)
		return restore_arenas_step(daemon);
	if (restore->phase == RESTORE_CATALOG) {
		if (restore->is_begun)
			return false;
		catalog_begin(restore);
		return true;
	}
	if (restore->phase == RESTORE_DOWN)
		return down_step(restore);
	if (restore->is_milling)
		return false;
	if (restore->number == daemon->devices_count) {
		headers_ended(restore);
	} else if (!headers_step(restore)) {
		restore->number++;
		restore->is_begun = false;
	}
	return true;
}

const char *restore_phase_name(const struct daemon *daemon)
{
	static const char *const names[] = { "arenas", "catalog", "headers", "down", "done" };

	return names[daemon->restore->phase];
}

int restore_create(struct daemon *daemon, struct error *error)
{
	struct restore *restore = calloc(1, sizeof(*restore));
	size_t units = 0;

	if (restore == NULL)
		return error_set(error, -ENOMEM, "no memory to find earlier blocks again");
	restore->daemon = daemon;
	restore->began_us = daemon->started_us;
	restore->cursor.extents = calloc(NVME_EXTENTS_MAX, sizeof(struct nvme_extent));
	restore->headers = aligned_alloc(SLOT_ALIGN_BYTES, HEADERS_AN_OP * SLOT_HEADER_BYTES);
	daemon->restore = restore;
	daemon->phase = DAEMON_RESTORING;
	for (unsigned i = 0; i < daemon->devices_count; i++)
		units += daemon->devices[i].units;
	restore->unit_tenants = malloc((units + 1) * sizeof(*restore->unit_tenants));
	if (restore->cursor.extents == NULL || restore->headers == NULL ||
	    restore->unit_tenants == NULL)
		return error_set(error, -ENOMEM, "no memory for extent tables");
	memset(restore->unit_tenants, 0xff, (units + 1) * sizeof(*restore->unit_tenants));
	return 0;
}

void restore_destroy(struct restore *restore)
{
	if (restore == NULL)
		return;
	assert(!restore->is_milling);
	free(restore->cursor.extents);
	free(restore->headers);
	free(restore->unit_tenants);
	free(restore);
}
