/* daemon/node.c: builds the node from its settings, and takes it down: locks and devices first, so
 * that no earlier daemon's I/O can still write into an arena that is about to be trusted. */
#include "daemon/admin.h"
#include "daemon/batch.h"
#include "daemon/catalog.h"
#include "daemon/devices.h"
#include "daemon/encryption.h"
#include "daemon/extents.h"
#include "daemon/fingerprint.h"
#include "daemon/forget.h"
#include "daemon/gpus.h"
#include "daemon/graveyard.h"
#include "daemon/mover.h"
#include "daemon/node_inventory.h"
#include "daemon/peer_process.h"
#include "daemon/peers.h"
#include "daemon/probe.h"
#include "daemon/purge.h"
#include "daemon/reload.h"
#include "daemon/requests.h"
#include "daemon/restore.h"
#include "daemon/scrub.h"
#include "daemon/server.h"
#include "daemon/spaces.h"
#include "daemon/tenants.h"

#include "base/copy.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/trusted_path.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CLASSES_MAX      512u
#define LOCK_PAUSE_NS    5000000L
/* Believed until measured: a plain disk, and one core that copies and checks. */
#define SPEED_NVME_START { .latency_us = 500.0, .bytes_us = 1000.0 }
#define SPEED_CPU_START  { .latency_us = 50.0, .bytes_us = 5000.0 }

/* The cache's listener. */

static void on_slot_gone(void *owner, const struct entry *entry, enum tier_id tier, uint32_t slot,
			 const struct slot_place *place)
{
	struct daemon *daemon = owner;

	(void)entry;
	(void)slot;
	daemon->counters.evictions[tier]++;
	if (tier == TIER_CPU) {
		(void)failpoint(evict_cpu);
		return;
	}
	(void)failpoint(evict_nvme);
	if (daemon->catalog != NULL)
		catalog_link_delete(daemon->catalog,
				    nvme_device_id(daemon->devices[place->device].device),
				    place->offset);
}

static void on_copy_whole(void *owner, const struct entry *entry, enum tier_id tier)
{
	node_inventory_changed(owner, entry, tier, true);
}

static void on_copy_gone(void *owner, const struct entry *entry, enum tier_id tier)
{
	struct daemon *daemon = owner;
	enum frame_reason reason = daemon->gone_reason;

	node_inventory_changed(daemon, entry, tier, false);
	/* What is swept with a space that was given back was not forgotten: it had to make room. */
	if (reason == FRAME_REASON_FORGOTTEN && !cache_space_is_known(daemon->cache, entry->space))
		reason = FRAME_REASON_EVICTED;
	/* Damage is found while another slot is still being filled from the damaged one. */
	if (reason != FRAME_REASON_EVICTED ||
	    entry->copy[tier == TIER_CPU ? TIER_NVME : TIER_CPU] == SLOT_NONE)
		graveyard_bury(daemon->graveyard,
			       cache_space_fingerprint(daemon->cache, entry->space), entry->hash,
			       reason, daemon->now_us);
}

static void on_extent_changed(void *owner, uint32_t area)
{
	extents_changed(owner, area);
}

static uint64_t slots_for(const struct daemon *daemon, uint64_t bytes, uint64_t units)
{
	/* Chunks of 64 slots are handed to whole extents: one may be begun in vain in each. */
	return bytes / slot_bytes_for(daemon->settings.block_bytes_min) + 64 * (units + 1);
}

static int cache_open(struct daemon *daemon, struct error *error)
{
	const struct settings *settings = &daemon->settings;
	struct cache_config config = {
		.areas_max = settings->tenants_count + 1, .tenants_max = settings->tenants_count,
		.spaces_max = settings->spaces_max, .leases_max = settings->leases_max,
		.spaces_leaving_max = SPACES_LEAVING_MAX * settings->tenants_count,
		.classes_max = CLASSES_MAX, .seed = random_next(&daemon->random),
		.listener = { .slot_gone = on_slot_gone, .copy_gone = on_copy_gone,
			      .copy_whole = on_copy_whole,
			      .extent_changed = on_extent_changed, .owner = daemon },
	};
	uint64_t cpu_bytes = 0, nvme_bytes = 0, slots[TIERS], entries;

	for (unsigned i = 0; i < settings->tenants_count; i++)
		cpu_bytes += settings->tenants[i].cpu_bytes;
	for (unsigned i = 0; i < daemon->devices_count; i++)
		nvme_bytes += daemon->devices[i].units * settings->extent_bytes;
	slots[TIER_CPU] = slots_for(daemon, cpu_bytes, cpu_bytes / settings->extent_bytes);
	slots[TIER_NVME] = slots_for(daemon, nvme_bytes, nvme_bytes / settings->extent_bytes);
	entries = settings->index_blocks_max != 0 ? settings->index_blocks_max
						  : slots[TIER_CPU] + slots[TIER_NVME];
	if (slots[TIER_CPU] >= SLOT_NONE || slots[TIER_NVME] >= SLOT_NONE || entries >= ENTRY_NONE)
		return error_set(error, -ERANGE, "the tiers hold more than 4 billion blocks of block_bytes_min: raise "
				 "block_bytes_min");
	config.slots_max[TIER_CPU] = (uint32_t)slots[TIER_CPU];
	config.slots_max[TIER_NVME] = (uint32_t)slots[TIER_NVME];
	daemon->cpu_slots_max = config.slots_max[TIER_CPU];
	daemon->nvme_slots_max = config.slots_max[TIER_NVME];
	config.entries_max = (uint32_t)entries;
	config.lease_items_max = slots[TIER_CPU] + slots[TIER_NVME];
	int result = cache_create(&daemon->cache, &config, error);
	if (result == 0)
		log_line(LOG_INFO, "index", "blocks_max=%u bytes=%llu", config.entries_max,
			 (unsigned long long)cache_memory_bytes(daemon->cache));
	return result;
}

static int areas_add(struct daemon *daemon, struct error *error)
{
	const struct settings *settings = &daemon->settings;
	uint32_t units[NVME_DEVICES_MAX];
	uint64_t nvme_units = 0;
	int result = 0;

	daemon->nvme_area = UINT32_MAX;
	for (unsigned i = 0; i < daemon->devices_count; i++) {
		units[i] = daemon->devices[i].units;
		nvme_units += units[i];
	}
	if (daemon->devices_count > 0)
		result = cache_area_add(daemon->cache, TIER_NVME, settings->extent_bytes, units,
					daemon->devices_count, &daemon->nvme_area);
	for (unsigned i = 0; result == 0 && i < daemon->tenants_count; i++) {
		struct tenant *tenant = &daemon->tenants[i];
		uint32_t cpu_units = (uint32_t)(tenant->arena.bytes / settings->extent_bytes);
		uint64_t quota = settings->tenants[i].nvme_bytes / settings->extent_bytes;
		/* A device's superblock and tables take a unit of what its size promised. */
		uint32_t units_max[TIERS] = { cpu_units,
					      (uint32_t)(quota < nvme_units ? quota : nvme_units) };
		uint32_t areas[TIERS];

		result = cache_area_add(daemon->cache, TIER_CPU, settings->extent_bytes, &cpu_units,
					1, &tenant->cpu_area);
		if (result < 0)
			break;
		areas[TIER_CPU] = tenant->cpu_area;
		areas[TIER_NVME] = daemon->nvme_area;
		result = cache_tenant_add(daemon->cache, areas, units_max, &tenant->handle);
	}
	return result == 0 ? 0 : error_set(error, result, "cannot set up the index's areas: %s", strerror(-result));
}

static int nvme_open(struct daemon *daemon, struct error *error)
{
	struct nvme_memory memory[SETTINGS_TENANTS_MAX + 2];
	unsigned memory_count = daemon->tenants_count;
	struct nvme_device *devices[NVME_DEVICES_MAX];
	int result = 0;

	if (daemon->devices_count == 0)
		return 0;
	for (unsigned i = 0; i < daemon->tenants_count; i++) {
		memory[i].start = daemon->tenants[i].arena.start;
		memory[i].bytes = ARENA_HEAD_BYTES + daemon->tenants[i].arena.bytes;
	}
	memory[memory_count++] = scrub_memory(daemon->scrub);
	if (daemon->encryption != NULL)
		memory[memory_count++] = (struct nvme_memory){
			.start = daemon->encryption->bounces.memory,
			.bytes = daemon->encryption->bounces.bytes,
		};
	for (unsigned i = 0; result >= 0 && i < daemon->devices_count; i++) {
		devices[i] = daemon->devices[i].device;
		result = nvme_device_register(devices[i], memory, memory_count, error);
		if (result > 0)
			devices_slower(nvme_device_path(devices[i]), error);
	}
	if (result >= 0)
		result = nvme_tier_create(&daemon->nvme, devices, daemon->devices_count, error);
	return result < 0 ? result : extents_create(daemon, error);
}

static void on_floor(void *owner, const struct journal_record *record)
{
	spaces_floor_raise(owner, record);
}

/* Nothing that could hold blocks was there before: then a missing journal is no loss. */
static bool is_first_start(const struct daemon *daemon)
{
	if (daemon->absent_count > 0)
		return false;
	for (unsigned i = 0; i < daemon->devices_count; i++)
		if (!nvme_device_is_new(daemon->devices[i].device))
			return false;
	for (unsigned i = 0; i < daemon->tenants_count; i++)
		if (daemon->tenants[i].arena.is_warm)
			return false;
	return true;
}

struct folder {
	const char *key;               /* of the settings */
	const char *path;
	const char *lock;              /* the file in it that is locked */
	mode_t mode;
};

/* Makes the folder if need be, and locks it by a file in it. */
static int folder_lock(struct daemon *daemon, const struct folder *folder, int *out_fd,
		       struct error *error)
{
	const char *key = folder->key;
	char path[2 * SETTINGS_PATH_BYTES];
	uint64_t until_us = clock_now_us(daemon->clock) + daemon->settings.restart_wait_us;

	int result = trusted_folder_make(folder->path, folder->mode, key, error);

	if (result < 0)
		return result;
	snprintf(path, sizeof(path), "%s/%s", folder->path, folder->lock);
	*out_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (*out_fd < 0)
		return error_set(error, -errno, "%s: cannot open %s: %s%s", key, path, strerror(errno),
				 error_advice(-errno));
	result = trusted_file(*out_fd, path, error);
	if (result < 0)
		return result;
	while (flock(*out_fd, LOCK_EX | LOCK_NB) < 0) {
		struct timespec pause = { .tv_nsec = LOCK_PAUSE_NS };

		if (errno != EWOULDBLOCK && errno != EINTR)
			return error_set(error, -errno, "%s: cannot lock %s: %s", key, path, strerror(errno));
		if (clock_now_us(daemon->clock) >= until_us)
			return error_set(error, -EBUSY, "another kvtierd uses %s: stop it, or set another "
					 "%s", folder->path, key);
		nanosleep(&pause, NULL);
	}
	return 0;
}

/* One daemon a state directory. Our workers inherit the description, so the lock also outlives a
 * killed daemon for as long as they do. And one a run directory: a second would take the sockets
 * away from the first. */
static int folders_lock(struct daemon *daemon, struct error *error)
{
	struct folder state = { "state_directory", daemon->settings.state_directory, "lock", 0700 };
	struct folder run = { "run_directory", daemon->settings.run_directory, "sockets.lock", 0755 };
	int result = folder_lock(daemon, &state, &daemon->lock_fd, error);

	return result < 0 ? result : folder_lock(daemon, &run, &daemon->run_lock_fd, error);
}

static int state_open(struct daemon *daemon, struct error *error)
{
	char path[2 * SETTINGS_PATH_BYTES];

	snprintf(path, sizeof(path), "%s/journal", daemon->settings.state_directory);
	int result = journal_open(&daemon->journal, path, is_first_start(daemon), on_floor, daemon,
				  &daemon->epoch, error);
	if (result < 0)
		return result;
	/* Without it nothing is wrong but FORGETs, which ask for it again. */
	struct journal_record reserved = forget_reservation(daemon);
	struct error reason;
	daemon->epoch_reserved = daemon->epoch;
	if (journal_write(daemon->journal, &reserved, &reason) < 0)
		log_line(LOG_WARNING, "journal_full", "reason=\"%s\" effect=\"nothing can be forgotten\"",
			 reason.text);
	else
		daemon->epoch_reserved = reserved.floor;
	return 0;
}

static int rooms_open(struct daemon *daemon, struct error *error)
{
	int result = mills_open(&daemon->mills, daemon->settings.mills, error);

	if (result == 0)
		result = mover_create(daemon, error);
	if (result == 0)
		result = batches_create(daemon, error);
	if (result == 0)
		result = requests_create(daemon, error);
	if (result == 0)
		result = purge_create(daemon, error);
	if (result == 0)
		result = server_create(daemon, error);
	if (result == 0)
		result = admin_create(daemon, error);
	return result;
}

static int watches_add(struct daemon *daemon, struct error *error)
{
	int result = 0;

	for (unsigned i = 0; result == 0 && i < daemon->mills.count; i++)
		result = server_watch(daemon->server, mailbox_fd(&daemon->mills.mills[i].up),
				      error);
	for (unsigned i = 0; result == 0 && i < daemon->devices_count; i++) {
		int fd = daemon->nvme->ops->fd(daemon->nvme, i);

		if (fd >= 0)
			result = server_watch(daemon->server, fd, error);
	}
	return result;
}

static int parts_open(struct daemon *daemon, const struct daemon_seams *seams, struct error *error)
{
	int result = folders_lock(daemon, error);

	if (result == 0)
		result = graveyard_create(&daemon->graveyard, error);
	if (result == 0)
		result = devices_open(daemon, seams, error);
	if (result == 0)
		result = gpus_create(daemon, error);
	if (result == 0 && seams->peer_ops == NULL)
		result = peer_process_create(daemon, error);
	if (result == 0)
		result = tenants_open(daemon, error);
	if (result == 0)
		result = cache_open(daemon, error);
	if (result == 0)
		result = node_inventory_create(daemon, error);
	if (result == 0)
		result = areas_add(daemon, error);
	if (result == 0)
		result = scrub_create(daemon, error);
	if (result == 0)
		result = encryption_create(daemon, error);
	if (result == 0)
		result = nvme_open(daemon, error);
	if (result == 0)
		result = spaces_create(daemon, error);
	if (result == 0)
		result = state_open(daemon, error);
	if (result == 0)
		result = rooms_open(daemon, error);
	if (result == 0)
		result = watches_add(daemon, error);
	if (result == 0)
		result = gpus_open(daemon, error);
	if (result == 0 && daemon->nvme != NULL)
		result = catalog_open(daemon, seams, error);
	if (result == 0)
		result = restore_create(daemon, error);
	if (result == 0)
		result = probe_create(daemon, error);
	if (result == 0)
		result = seams->peer_ops != NULL
				 ? peers_create(daemon, seams->peer_ops, seams->peer_room, error)
				 : peers_create(daemon, peer_process_ops(daemon),
						peer_process_room(daemon), error);
	if (result == 0)
		result = peer_process_open(daemon, error);
	if (result == 0)
		result = node_inventory_open(daemon, error);
	return result;
}

int daemon_create(struct daemon **out_daemon, const struct settings *settings,
		  const struct daemon_seams *seams, struct error *error)
{
	static const struct daemon_seams real;
	struct daemon *daemon = calloc(1, sizeof(*daemon));
	uint64_t seed;
	int result;

	if (seams == NULL)
		seams = &real;
	if (daemon == NULL)
		return error_set(error, -ENOMEM, "no memory for the node");
	daemon->settings = *settings;
	daemon->lock_fd = daemon->run_lock_fd = -1;
	daemon->gone_reason = FRAME_REASON_EVICTED;
	daemon->clock = seams->clock != NULL ? seams->clock : clock_real();
	seed = seams->seed;
	if (seed == 0)
		random_system(&seed, sizeof(seed));
	random_init(&daemon->random, seed);
	daemon->boot_id = random_next(&daemon->random) | 1;
	daemon->now_us = daemon->started_us = clock_now_us(daemon->clock);
	daemon->speeds[TIER_CPU] = (struct tier_speed)SPEED_CPU_START;
	daemon->speeds[TIER_NVME] = (struct tier_speed)SPEED_NVME_START;
	daemon->bypass = daemon_bypass_parse(settings->bypass);
	daemon->pull_ops = seams->pull_ops;
	list_init(&daemon->attached);
	list_init(&daemon->forgettings);
	budget_init(&daemon->write_budget, settings->write_bytes_day_max, daemon->now_us);
	daemon->call_us = calloc(CALLS_COUNT, sizeof(struct histogram));
	if (daemon->call_us == NULL) {
		free(daemon);
		return error_set(error, -ENOMEM, "no memory for the node's times of calls");
	}
	for (unsigned i = 0; i < CALLS_COUNT; i++)
		histogram_init(&daemon->call_us[i]);
	result = parts_open(daemon, seams, error);
	if (result < 0) {
		daemon_destroy(daemon);
		return result;
	}
	*out_daemon = daemon;
	return 0;
}

void daemon_destroy(struct daemon *daemon)
{
	if (daemon == NULL)
		return;
	reload_destroy(daemon);
	restore_destroy(daemon->restore);
	catalog_link_close(daemon->catalog);
#ifdef KVTIER_PLANT_FREED
	if (daemon->catalog != NULL && catalog_link_state(daemon->catalog) == CATALOG_LINK_ABSENT)
		daemon->catalog = NULL;
#endif
	gpus_destroy(daemon);
	peer_process_destroy(daemon);
	node_inventory_destroy(daemon);
	admin_destroy(daemon);
	server_destroy(daemon->server);
	peers_destroy(daemon);
	purge_destroy(daemon);
	batches_destroy(daemon->batches);
	requests_destroy(daemon);
	mover_destroy(daemon->mover);
	scrub_destroy(daemon->scrub);
	mills_close(&daemon->mills);
	probe_destroy(daemon);
	journal_close(daemon->journal);
	extents_destroy(daemon);
	tier_close(daemon->nvme);
	for (unsigned i = 0; i < daemon->devices_count; i++)
		nvme_device_close(daemon->devices[i].device);
	encryption_destroy(daemon);
	cache_destroy(daemon->cache);
	for (unsigned i = 0; i < daemon->tenants_count; i++)
		arena_close(&daemon->tenants[i].arena);
	graveyard_destroy(daemon->graveyard);
	spaces_destroy(daemon);
	if (daemon->lock_fd >= 0)
		close(daemon->lock_fd);
	if (daemon->run_lock_fd >= 0)
		close(daemon->run_lock_fd);
	free(daemon->call_us);
	free(daemon);
}
