/* tests/daemon/rig.c: lives of the daemon: start, step, stop, crash. */
#include "tests/daemon/rig.h"

#include "base/log.h"
#include "tests/daemon/rig_gpu.h"
#include "tests/daemon/rig_net.h"
#include "daemon/batch.h"
#include "daemon/fetch.h"
#include "daemon/grant.h"
#include "daemon/mover.h"
#include "daemon/server.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CLOCK_START_US (1000 * RIG_SECOND)
#define FORGIVEN_PASSES 300u /* half a minute when nothing happens */
#define MILL_OPS_A_STEP 64u
#define PARTS_MAX (4 + MILLS_MAX + NVME_DEVICES_MAX + RIG_CLIENTS_MAX)
#define FILE_BYTES_MAX (UINT64_C(64) << 20)

/* What lies in real files, as it was at the moment of a crash. */
struct snapshot {
	char path[SETTINGS_PATH_BYTES + 32];
	uint8_t *bytes;
	size_t bytes_count;
	bool is_there;
};

static const char *catalog_path(const struct rig *rig)
{
	static char path[2 * SETTINGS_PATH_BYTES];

	snprintf(path, sizeof(path), "%s/catalog/db", rig->settings.state_directory);
	return path;
}

const char *rig_catalog_path(struct rig *rig)
{
	return catalog_path(rig);
}

static void config_default(struct rig_config *config)
{
	if (config->cpu_units == 0)
		config->cpu_units = 2;
	if (config->nvme_units == 0)
		config->nvme_units = 8;
	if (config->devices == 0)
		config->devices = 1;
	if (config->no_nvme)
		config->devices = 0;
	if (config->tenants == 0)
		config->tenants = 1;
	if (config->mills == 0)
		config->mills = 1;
	if (config->seed == 0)
		config->seed = 1;
	if (config->catalog_ops == NULL)
		config->catalog_ops = &catalog_simulated_ops;
}

void rig_keys(struct rig *rig, unsigned tenant, const char *text)
{
	const char *path = rig->settings.tenants[tenant].key_file;
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert(fd >= 0);
	ssize_t written = write(fd, text, strlen(text));
	assert(written == (ssize_t)strlen(text));
	close(fd);
}

static void settings_of_tenants(struct rig *rig)
{
	for (unsigned i = 0; i < rig->config.tenants; i++) {
		struct tenant_settings *tenant = &rig->settings.tenants[i];

		snprintf(tenant->name, sizeof(tenant->name), "tenant-%u", i);
		tenant->cpu_bytes = rig->config.cpu_units * RIG_UNIT_BYTES;
		tenant->nvme_bytes = rig->config.nvme_units * RIG_UNIT_BYTES * rig->config.devices /
				     rig->config.tenants;
		if (rig->config.nvme_units_tenant > 0 && rig->config.devices > 0)
			tenant->nvme_bytes = rig->config.nvme_units_tenant * RIG_UNIT_BYTES;
		if (rig->config.has_cpu_file)
			snprintf(tenant->cpu_file, sizeof(tenant->cpu_file), "%s/arena-%u",
				 rig->memory_folder, i);
		if (rig->config.encryption != NULL &&
		    strcmp(rig->config.encryption, "key_file") == 0) {
			snprintf(tenant->key_file, sizeof(tenant->key_file), "%s/keys-%u",
				 rig->folder, i);
			rig_keys(rig, i, RIG_KEY);
		}
	}
	rig->settings.tenants_count = rig->config.tenants;
}

static void settings_make(struct rig *rig)
{
	const struct rig_config *config = &rig->config;
	struct settings *settings = &rig->settings;

	settings_default(settings);
	snprintf(settings->run_directory, sizeof(settings->run_directory), "%s/run", rig->folder);
	snprintf(settings->state_directory, sizeof(settings->state_directory), "%s/state",
		 rig->folder);
	settings->http_listen[0] = '\0';
	strcpy(settings->huge_pages, "never");
	strcpy(settings->gpus, "off"); /* of the machine that runs the tests */
	settings->extent_bytes = RIG_UNIT_BYTES;
	settings->block_bytes_min = 4096;
	settings->mills = config->mills;
	settings->window_bytes = 8 * RIG_UNIT_BYTES;
	settings->connections_max = config->connections_max > 0 ? config->connections_max : 32;
	settings->spaces_max = config->spaces_max > 0 ? config->spaces_max : 64;
	settings->restart_wait_us = 0;
	if (config->load_window_blocks > 0)
		settings->load_window_blocks = config->load_window_blocks;
	if (config->batches_max > 0)
		settings->batches_max = config->batches_max;
	if (config->leases_max > 0)
		settings->leases_max = config->leases_max;
	if (config->lease_us_max > 0)
		settings->lease_us_max = config->lease_us_max;
	settings->write_bytes_day_max = config->write_bytes_day_max;
	settings->scrub_bytes_second = config->scrub_bytes_second;
	settings->readback_every = config->readback_every;
	if (config->encryption != NULL)
		strcpy(settings->encryption, config->encryption);
	settings->encryption_buffer_bytes = config->encryption_buffer_bytes > 0
						    ? config->encryption_buffer_bytes
						    : RIG_UNIT_BYTES;
	settings_of_tenants(rig);
	for (unsigned i = 0; i < config->devices; i++) {
		snprintf(settings->devices[i].path, sizeof(settings->devices[i].path), "disk-%u",
			 i);
		settings->devices[i].bytes = (4 + config->nvme_units) * RIG_UNIT_BYTES;
	}
	settings->devices_count = config->devices;
}

static void folder_make(char *folder, size_t folder_bytes, const char *root)
{
	snprintf(folder, folder_bytes, "%s/kvtier-rig-XXXXXX", root);
	bool was_made = mkdtemp(folder) != NULL;
	assert(was_made);
}

void rig_prepare(struct rig *rig, const struct rig_config *config)
{
	const char *root = getenv("TMPDIR");

	memset(rig, 0, sizeof(*rig));
	if (config != NULL)
		rig->config = *config;
	config_default(&rig->config);
	log_level_set(LOG_ERROR);
	clock_virtual_init(&rig->clock, CLOCK_START_US);
	random_init(&rig->random, rig->config.seed);
	rig_disk_init(&rig->disk, &rig->clock, random_next(&rig->random));
	block_io_fault_init(&rig->fault, &rig->disk.ops);
	folder_make(rig->folder, sizeof(rig->folder),
		    root != NULL && strlen(root) < 40 ? root : "/tmp");
	folder_make(rig->memory_folder, sizeof(rig->memory_folder), "/dev/shm");
	settings_make(rig);
}

void rig_init(struct rig *rig, const struct rig_config *config)
{
	rig_prepare(rig, config);
	rig_start(rig);
}

static int path_remove(const char *path, const struct stat *status, int type, struct FTW *place)
{
	(void)status;
	(void)type;
	(void)place;
	return remove(path);
}

void rig_finish(struct rig *rig)
{
	if (rig->daemon != NULL)
		rig_stop(rig);
	for (unsigned i = 0; i < RIG_CLIENTS_MAX; i++)
		rig_client_close(rig->clients[i]);
	rig_disk_finish(&rig->disk);
	if (rig->config.catalog_ops == &catalog_simulated_ops)
		catalog_simulated_forget_all();
	(void)nftw(rig->folder, path_remove, 16, FTW_DEPTH | FTW_PHYS);
	(void)nftw(rig->memory_folder, path_remove, 16, FTW_DEPTH | FTW_PHYS);
}

int rig_try_start(struct rig *rig, struct error *error)
{
	struct daemon_seams seams = {
		.clock = &rig->clock,
		.seed = random_next(&rig->random) | 1,
		.io_ops = &rig->fault.ops,
		.catalog_ops = rig->config.catalog_ops,
		.pull_ops = rig_gpu_ops(rig->config.gpu),
		.peer_ops = rig->config.net != NULL ? &rig_net_ops : NULL,
		.peer_room = rig_net_room(rig),
	};

	assert(rig->daemon == NULL);
	rig->lives++;
	int result = daemon_create(&rig->daemon, &rig->settings, &seams, error);
	if (result == 0)
		rig_net_introduce(rig);
	return result;
}

void rig_start(struct rig *rig)
{
	struct error error = { 0 };
	int result = rig_try_start(rig, &error);

	if (result < 0)
		fprintf(stderr, "daemon_create: %s\n", error.text);
	assert(result == 0);
	for (unsigned i = 0; rig->daemon->phase == DAEMON_RESTORING; i++) {
		bool did_work = rig_step(rig);

		assert(i < RIG_PASSES_MAX);
		if (!did_work)
			clock_advance(&rig->clock, 10000);
	}
}

/* Until its thread has done something; false: it has nothing to do. */
static bool mill_await(struct mill *mill)
{
	struct pollfd poll_fd = { .fd = mailbox_fd(&mill->up), .events = POLLIN };

	if (mill->in_flight == 0)
		return false;
	if (mailbox_sleep(&mill->up))
		(void)poll(&poll_fd, 1, 1000);
	mailbox_awake(&mill->up);
	return true;
}

static bool part_step(struct rig *rig, unsigned part)
{
	struct daemon *daemon = rig->daemon;

	if (part == 0)
		return daemon_step(daemon);
	if (part == 1)
		return server_step(daemon, 0);
	part -= 2;
	if (part < daemon->mills.count && rig->is_milled_elsewhere)
		return mill_await(&daemon->mills.mills[part]);
	if (part < daemon->mills.count)
		return mill_step(&daemon->mills.mills[part], clock_now_us(&rig->clock),
				 rig->is_shuffled ? 1 : MILL_OPS_A_STEP) > 0;
	part -= daemon->mills.count;
	if (part < daemon->devices_count)
		return nvme_device_step(daemon->devices[part].device, clock_now_us(&rig->clock));
	part -= daemon->devices_count;
	if (part == RIG_CLIENTS_MAX)
		return rig->config.gpu != NULL && rig_gpu_step(rig->config.gpu);
	if (part == RIG_CLIENTS_MAX + 1)
		return rig->config.net != NULL && rig_net_step(rig->config.net, rig);
	return rig->clients[part] != NULL && !rig->clients[part]->is_deaf &&
	       rig_client_read(rig->clients[part]);
}

bool rig_step(struct rig *rig)
{
	struct daemon *daemon = rig->daemon;
	unsigned count = 4 + daemon->mills.count + daemon->devices_count + RIG_CLIENTS_MAX;
	unsigned order[PARTS_MAX];
	bool did_work = false;

	assert(count <= PARTS_MAX);
	for (unsigned i = 0; i < count; i++) {
		unsigned place = rig->is_shuffled ? (unsigned)random_below(&rig->random, i + 1) : i;

		order[i] = order[place];
		order[place] = i;
	}
	for (unsigned i = 0; i < count; i++)
		did_work = part_step(rig, order[i]) || did_work;
	rig->passes++;
	if (rig->is_checked)
		cache_check(daemon->cache);
	return did_work;
}

bool rig_waits_on(struct rig *rig, unsigned pass)
{
	bool did_work = rig_step(rig);

	if (!rig->is_forgiving) {
		assert(pass < RIG_PASSES_MAX);
		return true;
	}
	if (!did_work)
		clock_advance(&rig->clock, RIG_SECOND / 10);
	return pass < FORGIVEN_PASSES;
}

void rig_settle(struct rig *rig)
{
	for (unsigned i = 0; rig_step(rig); i++)
		assert(i < RIG_PASSES_MAX);
}

void rig_pass_time(struct rig *rig, uint64_t by_us)
{
	rig_settle(rig);
	clock_advance(&rig->clock, by_us);
	rig_settle(rig);
}

/* The daemon's end, once it is not to take new work: everything under way comes back. */
static void daemon_end(struct rig *rig)
{
	struct daemon *daemon = rig->daemon;

	for (unsigned i = 0; i < RIG_CLIENTS_MAX; i++) {
		rig_client_close(rig->clients[i]);
		assert(rig->clients[i] == NULL);
	}
	block_io_fault_flow(&rig->fault);
	daemon_stop(daemon);
	for (unsigned i = 0; !daemon_is_drained(daemon); i++) {
		assert(i < RIG_PASSES_MAX);
		if (!rig_step(rig))
			clock_advance(&rig->clock, 1000);
	}
	while (mills_in_flight(&daemon->mills) > 0)
		(void)rig_step(rig);
	cache_check(daemon->cache);
	daemon_destroy(daemon);
	rig->daemon = NULL;
}

void rig_stop(struct rig *rig)
{
	struct daemon *daemon = rig->daemon;

	if (daemon->catalog != NULL) {
		catalog_link_flush(daemon->catalog);
		for (unsigned i = 0; i < 1000 && !catalog_link_is_idle(daemon->catalog); i++)
			(void)rig_step(rig);
	}
	daemon_end(rig);
}

static void snapshot_take(struct snapshot *snapshot)
{
	FILE *file = fopen(snapshot->path, "rb");

	snapshot->is_there = file != NULL;
	if (file == NULL)
		return;
	snapshot->bytes = malloc(FILE_BYTES_MAX);
	assert(snapshot->bytes != NULL);
	snapshot->bytes_count = fread(snapshot->bytes, 1, FILE_BYTES_MAX, file);
	assert(snapshot->bytes_count < FILE_BYTES_MAX);
	fclose(file);
}

static void snapshot_give(struct snapshot *snapshot)
{
	FILE *file = snapshot->is_there ? fopen(snapshot->path, "wb") : NULL;

	if (file != NULL) {
		size_t written = fwrite(snapshot->bytes, 1, snapshot->bytes_count, file);

		assert(written == snapshot->bytes_count);
		fclose(file);
	}
	free(snapshot->bytes);
}

void rig_crash(struct rig *rig, enum rig_crash kind)
{
	struct snapshot snapshots[SETTINGS_TENANTS_MAX + 1];
	unsigned count = 1;
	bool is_simulated = rig->config.catalog_ops == &catalog_simulated_ops;

	memset(snapshots, 0, sizeof(snapshots));
	snprintf(snapshots[0].path, sizeof(snapshots[0].path), "%s/journal",
		 rig->settings.state_directory);
	/* A power cut takes the memory. */
	for (unsigned i = 0; rig->config.has_cpu_file && i < rig->config.tenants; i++) {
		if (kind == RIG_POWER_CUT)
			unlink(rig->settings.tenants[i].cpu_file);
		else
			strcpy(snapshots[count++].path, rig->settings.tenants[i].cpu_file);
	}
	for (unsigned i = 0; i < count; i++)
		snapshot_take(&snapshots[i]);
	if (is_simulated)
		catalog_simulated_settle(catalog_path(rig));
	block_io_fault_arm(&rig->fault, BLOCK_FAULT_NONE, BLOCK_FAULT_ALL, 1, 1);
	rig_disk_crash(&rig->disk, kind == RIG_POWER_CUT);
	daemon_end(rig);
	rig_disk_thaw(&rig->disk);
	if (is_simulated)
		catalog_simulated_power_cut(catalog_path(rig));
	for (unsigned i = 0; i < count; i++)
		snapshot_give(&snapshots[i]);
}

struct cache_share_figures rig_figures(struct rig *rig, unsigned tenant, enum tier_id tier)
{
	struct cache_share_figures figures;

	memset(&figures, 0, sizeof(figures));
	cache_share_figures(rig->daemon->cache, rig->daemon->tenants[tenant].handle, tier,
			    &figures);
	return figures;
}

void rig_assert_idle(struct rig *rig)
{
	struct daemon *daemon = rig->daemon;

	cache_check(daemon->cache);
	assert(mover_moves_count(daemon) == 0);
	assert(mover_pending_down(daemon) == 0);
	assert(batches_count(daemon) == 0);
	assert(list_is_empty(&daemon->attached));
	assert(mills_in_flight(&daemon->mills) == 0);
	assert(daemon->nvme == NULL || daemon->nvme->in_flight == 0);
	assert(daemon_leases_count(daemon) == 0);
	assert(daemon->peers == NULL || (!peers_are_busy(daemon) &&
					 fetches_count(daemon->peers) == 0 &&
					 grants_count(daemon->peers) == 0));
	for (unsigned i = 0; i < daemon->tenants_count; i++) {
		for (enum tier_id tier = 0; tier < TIERS; tier++) {
			struct cache_share_figures figures = rig_figures(rig, i, tier);

			assert(figures.holds == 0);
			assert(figures.slots[SLOT_FILLING] == 0);
			assert(figures.slots[SLOT_LEAVING] == 0);
		}
	}
}

void rig_finish_idle(struct rig *rig)
{
	rig_settle(rig);
	rig_assert_idle(rig);
	rig_finish(rig);
}

uint8_t *rig_slot_bytes(struct rig *rig, enum tier_id tier, uint32_t slot)
{
	struct daemon *daemon = rig->daemon;
	struct slot_place place;

	cache_slot_place(daemon->cache, tier, slot, &place);
	if (tier == TIER_NVME) {
		struct daemon_device *device = &daemon->devices[place.device];
		struct rig_file *file = rig_disk_file(&rig->disk, nvme_device_path(device->device));

		return file->now + nvme_device_slots_offset(device->device) + place.offset;
	}
	for (unsigned i = 0; i < daemon->tenants_count; i++)
		if (daemon->tenants[i].cpu_area == place.area)
			return (uint8_t *)arena_slot(&daemon->tenants[i].arena, place.offset);
	assert(!"a slot of no tenant");
}
