/* daemon/catalog.c: makes catalogue records of slots. */
#include "daemon/catalog.h"
#include "daemon/encryption.h"

#include "base/trusted_path.h"
#include "daemon/server.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* a compaction may take the worker's thread for long */
#define CATALOG_STALL_US (UINT64_C(20) * 1000000)

static void place_fill(const struct daemon *daemon, const struct slot_place *place,
		       struct catalog_record *record)
{
	memcpy(record->device, nvme_device_id(daemon->devices[place->device].device),
	       DEVICE_ID_BYTES);
	record->offset = place->offset;
	record->slot_bytes = place->slot_bytes;
	record->extent_generation = place->extent_generation;
	record->slot_generation = place->slot_generation;
}

void catalog_put_header(struct daemon *daemon, const struct slot_header *header, uint32_t key_id,
			const struct slot_place *place)
{
	const struct slot_identity *identity = &header->identity;
	struct catalog_record record = {
		.epoch = identity->epoch,
		.route_key = identity->route_key,
		.payload_bytes = identity->payload_bytes,
		.stored_at_us = identity->stored_at_us,
		.key_id = key_id,
		.tokens = identity->tokens,
		.first_position = identity->first_position,
		.group = identity->group,
		.shard = identity->shard,
		.shards_count = identity->shards_count,
		.segments_count = (uint16_t)identity->segments_count,
	};

	if (daemon->catalog == NULL)
		return;
	place_fill(daemon, place, &record);
	memcpy(record.space, identity->space, SPACE_ID_BYTES);
	memcpy(record.hash, identity->hash, BLOCK_HASH_BYTES);
	memcpy(record.parent, identity->parent, BLOCK_HASH_BYTES);
	catalog_link_put(daemon->catalog, &record);
}

void catalog_put_slot(struct daemon *daemon, uint32_t nvme_slot, uint32_t key_id)
{
	const struct slot *slot = cache_slot(daemon->cache, TIER_NVME, nvme_slot);
	const struct entry *entry = cache_entry(daemon->cache, slot->entry);
	struct slot_place place;
	struct catalog_record record = {
		.epoch = entry->epoch, .route_key = entry->route_key, .key_id = key_id,
		.tokens = entry->tokens,
		.group = entry->group, .shard = slot->shard, .shards_count = entry->shards_count,
	};

	assert(slot->state == SLOT_READY && slot->entry != ENTRY_NONE);
	cache_slot_place(daemon->cache, TIER_NVME, nvme_slot, &place);
	place_fill(daemon, &place, &record);
	memcpy(record.space, cache_space_fingerprint(daemon->cache, entry->space), SPACE_ID_BYTES);
	memcpy(record.hash, entry->hash, BLOCK_HASH_BYTES);
	catalog_link_put(daemon->catalog, &record);
}

/* The cursor is a slot's number. */
static bool resend(void *owner, uint64_t *cursor, unsigned limit)
{
	struct daemon *daemon = owner;
	unsigned looks = 16 * limit;

	for (; *cursor < daemon->nvme_slots_max && limit > 0 && looks > 0; (*cursor)++, looks--) {
		const struct slot *slot = cache_slot(daemon->cache, TIER_NVME, (uint32_t)*cursor);

		if (slot->state != SLOT_READY || slot->entry == ENTRY_NONE ||
		    slot->sibling == SLOT_NONE)
			continue;
		catalog_put_slot(daemon, (uint32_t)*cursor,
				 encryption_slot_key(daemon, (uint32_t)*cursor));
		limit--;
	}
	return *cursor >= daemon->nvme_slots_max;
}

int catalog_open(struct daemon *daemon, const struct daemon_seams *seams, struct error *error)
{
	char path[2 * SETTINGS_PATH_BYTES];
	struct catalog_link_config config = {
		.path = path,
		.ops = seams->catalog_ops,
		.clock = daemon->clock,
		.stall_us_max = CATALOG_STALL_US,
		.lock_fd = daemon->lock_fd,
		.resend = resend,
		.owner = daemon,
	};

	/* A folder that the worker may do in what it likes: it has no other. */
	snprintf(path, sizeof(path), "%s/catalog", daemon->settings.state_directory);
	int result = trusted_folder_make(path, 0700, "state_directory", error);
	if (result < 0)
		return result;
	strcat(path, "/db");
	result = catalog_link_open(&daemon->catalog, &config, error);
	if (result == 0 && catalog_link_fd(daemon->catalog) >= 0)
		result = server_watch(daemon->server, catalog_link_fd(daemon->catalog), error);
	return result;
}
