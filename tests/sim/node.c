/* tests/sim/node.c: lives of kvtierd: the loop, the mills and the devices as main starts them. */
#include "tests/sim/node.h"

#include "daemon/batch.h"
#include "daemon/mover.h"
#include "daemon/purge.h"
#include "daemon/reload.h"
#include "daemon/server.h"
#include "tests/sim/kernel_fds.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVICE_HEAD_BYTES (UINT64_C(4) << 20)

static void tenants_set(struct node *node)
{
	const struct node_shape *shape = &node->shape;

	for (unsigned i = 0; i < shape->tenants; i++) {
		struct tenant_settings *tenant = &node->settings.tenants[i];

		snprintf(tenant->name, sizeof(tenant->name), "tenant-%u", i);
		tenant->cpu_bytes = shape->cpu_units * shape->unit_bytes;
		tenant->nvme_bytes = shape->nvme_units * shape->unit_bytes * shape->devices /
				     shape->tenants;
		if (shape->nvme_units_tenant > 0 && shape->devices > 0)
			tenant->nvme_bytes = shape->nvme_units_tenant * shape->unit_bytes;
		if (shape->has_cpu_file)
			snprintf(tenant->cpu_file, sizeof(tenant->cpu_file), "/memory%s/arena-%u",
				 node->folder, i);
	}
	node->settings.tenants_count = shape->tenants;
}

static void settings_set_all(struct node *node)
{
	const struct node_shape *shape = &node->shape;
	struct settings *settings = &node->settings;

	settings_default(settings);
	snprintf(settings->run_directory, sizeof(settings->run_directory), "%s-run", node->folder);
	snprintf(settings->state_directory, sizeof(settings->state_directory), "%s-state",
		 node->folder);
	snprintf(settings->http_listen, sizeof(settings->http_listen), "0.0.0.0:%u",
		 NODE_HTTP_PORT);
	strcpy(settings->huge_pages, "never");
	strcpy(settings->gpus, "off"); /* the machine has none */
	settings->extent_bytes = shape->unit_bytes;
	settings->block_bytes_min = 4096;
	settings->mills = shape->mills;
	settings->window_bytes = shape->window_bytes;
	settings->connections_max = shape->connections_max;
	settings->spaces_max = shape->spaces_max;
	settings->leases_max = shape->leases_max;
	settings->lease_us_max = shape->lease_us_max;
	settings->restart_wait_us = shape->restart_wait_us;
	settings->batches_max = shape->batches_max;
	settings->load_window_blocks = shape->load_window_blocks;
	settings->write_bytes_day_max = shape->write_bytes_day_max;
	settings->queue_depth = shape->queue_depth;
	settings->encryption_buffer_bytes = shape->encryption_buffer_bytes;
	settings->scrub_bytes_second = shape->scrub_bytes_second;
	settings->scrub_interval_us = shape->scrub_interval_us;
	settings->readback_every = shape->readback_every;
	tenants_set(node);
	for (unsigned i = 0; i < shape->devices; i++) {
		struct device_settings *device = &settings->devices[i];

		snprintf(device->path, sizeof(device->path), "%s-disk-%u", node->folder, i);
		device->bytes = DEVICE_HEAD_BYTES + shape->nvme_units * shape->unit_bytes;
		device->raw_initialise = true;
		node->disks[i] = disk_create(device->path, device->bytes);
	}
	settings->devices_count = shape->devices;
}

void node_create(struct node *node, const struct node_shape *shape, const char *folder)
{
	memset(node, 0, sizeof(*node));
	node->shape = *shape;
	node->gpu.shape = shape->gpu;
	snprintf(node->folder, sizeof(node->folder), "%s", folder);
	settings_set_all(node);
	snprintf(node->catalog_path, sizeof(node->catalog_path), "%.40s/catalog/db",
		 node->settings.state_directory);
	snprintf(node->settings_path, sizeof(node->settings_path), "%s.yaml", node->folder);
	node->sources.file = node->settings_path;
	settings_file_mend(node);
}

const char *node_socket(const struct node *node, unsigned tenant)
{
	static char path[SETTINGS_PATH_BYTES + 32];

	snprintf(path, sizeof(path), "%s/t/tenant-%u/kv.sock", node->settings.run_directory,
		 tenant);
	return path;
}

/* As main's: false when what is under way does not end. */
static bool node_turn(struct node *node)
{
	struct daemon *daemon = node->daemon;
	uint64_t stop_us = 0;

	while (!daemon_is_drained(daemon)) {
		bool did_work = daemon_step(daemon);

		did_work = gpu_sim_step(&node->gpu) || did_work;
		daemon_wait(daemon, did_work ? 0 : UINT64_MAX);
		if (node->must_stop && stop_us == 0) {
			node->state = NODE_STOPPING;
			stop_us = daemon->now_us + NODE_DRAIN_US;
			daemon_stop(daemon);
		}
		if (node->must_reload && stop_us == 0) {
			node->must_reload = false;
			reload_by_signal(daemon);
		}
		if (stop_us != 0 && daemon->now_us >= stop_us)
			return false;
	}
	return true;
}

static void node_drain_catalog(struct node *node)
{
	struct daemon *daemon = node->daemon;
	uint64_t until_us = kernel.now_us + NODE_DRAIN_US;

	if (daemon->catalog == NULL)
		return;
	catalog_link_flush(daemon->catalog);
	while (!catalog_link_is_idle(daemon->catalog) && kernel.now_us < until_us &&
	       catalog_link_state(daemon->catalog) != CATALOG_LINK_ABSENT)
		if (!catalog_link_step(daemon->catalog, kernel.now_us) && !gpu_sim_step(&node->gpu))
			daemon_wait(daemon, 1000);
}

/* Leaves as kill -9 would: what is still under way happens. */
static _Noreturn void node_leave(struct node *node)
{
	node_life_is_over(node);
	for (unsigned i = 0; i < node->shape.devices; i++)
		disk_kill(node->disks[i]);
	node->daemon = NULL; /* its memory goes before anybody looks */
	process_exit();
}

/* The file says what can change while it runs; the rest is the machine's, and smaller than a file
 * may ask for. */
static int node_open(struct node *node, struct daemon **out_daemon, struct error *error)
{
	struct daemon_seams seams = { .io_ops = &disk_ops, .catalog_ops = &node_catalog_ops,
				      .pull_ops = node->gpu.shape.is_there ? &gpu_sim_ops : NULL };
	struct settings *settings = malloc(2 * sizeof(*settings));
	int result = settings_load(&settings[1], &node->sources, error);

	if (result == 0) {
		settings[0] = node->settings;
		settings_take(&settings[0], &settings[1]);
		result = daemon_create(out_daemon, &settings[0], &seams, error);
	}
	free(settings);
	return result < 0 ? result : reload_create(*out_daemon, &node->sources, error);
}

void node_die(struct node *node)
{
	node->kills++;
	node->refused[0] = '\0';
	node_leave(node);
}

static void *node_live(void *argument)
{
	struct node *node = argument;
	struct error error = { .code = 0 };
	struct daemon *daemon = NULL;

	if (node_open(node, &daemon, &error) < 0 ||
	    threads_start(&node->threads, daemon, &error) < 0) {
		snprintf(node->refused, sizeof(node->refused), "%s", error.text);
		node_leave(node);
	}
	node->refused[0] = '\0';
	gpu_sim_attach(&node->gpu, daemon);
	node->daemon = daemon;
	node->state = NODE_SERVING;
	node->fds_at_start = fds_count_of(node->process);
	if (!node_turn(node))
		node_leave(node);
	node_drain_catalog(node);
	threads_stop(&node->threads);
	node_check(node);
	node_life_is_over(node);
	node->daemon = NULL;
	gpu_sim_detach(&node->gpu);
	daemon_destroy(daemon);
	process_check_empty(node->process);
	node->stops++;
	process_exit();
}

void node_start(struct node *node)
{
	assert(node->state == NODE_DOWN);
	node->state = NODE_STARTING;
	node->must_stop = node->must_reload = false;
	settings_file_boot(node);
	node->lives++;
	node_keys_set(node);
	node_failpoint_arm(node);
	node->process = process_start("kvtierd", node_live, node);
}

void node_stop(struct node *node)
{
	node->must_stop = true;
}

void node_hang_up(struct node *node)
{
	settings_file_asked(node, true);
	node->must_reload = true;
}

static void node_is_down(struct node *node, bool is_power_cut)
{
	node->state = NODE_DOWN;
	node->daemon = NULL;
	gpu_sim_orphan(&node->gpu);
	if (is_power_cut)
		gpu_sim_kill(&node->gpu);
	process_release(node->process);
	node->process = NULL;
	catalog_kill(node->catalog_path, is_power_cut);
	if (!is_power_cut)
		return;
	files_power_cut();
	for (unsigned i = 0; i < node->shape.devices; i++)
		disk_power_cut(node->disks[i]);
}

void node_look(struct node *node)
{
	gpu_sim_look(&node->gpu);
	settings_file_look(node);
	if (node->state == NODE_DOWN || node->process->is_alive)
		return;
	node->starts_failed += node->refused[0] != '\0';
	node_is_down(node, false);
}

void node_kill(struct node *node, bool is_power_cut)
{
	node_look(node);
	if (node->state == NODE_DOWN)
		return;
	node_check(node);
	node_life_is_over(node);
	node->kills += !is_power_cut;
	node->power_cuts += is_power_cut;
	for (unsigned i = 0; i < node->shape.devices; i++)
		disk_kill(node->disks[i]);
	node_is_down(node, is_power_cut);
}

static const char *tenants_unrest(struct daemon *daemon)
{
	for (unsigned i = 0; i < daemon->tenants_count; i++) {
		for (enum tier_id tier = 0; tier < TIERS; tier++) {
			struct cache_share_figures figures;

			memset(&figures, 0, sizeof(figures));
			cache_share_figures(daemon->cache, daemon->tenants[i].handle, tier,
					    &figures);
			if (figures.holds != 0)
				return "a slot is held";
			if (figures.slots[SLOT_FILLING] != 0)
				return "a slot is FILLING";
			if (figures.slots[SLOT_LEAVING] != 0)
				return "a slot is LEAVING";
		}
	}
	return NULL;
}

const char *node_unrest(struct node *node)
{
	struct daemon *daemon = node->daemon;

	if (node->state != NODE_SERVING)
		return "the daemon does not serve";
	if (daemon->phase != DAEMON_SERVING)
		return "the daemon is still restoring";
	if (mover_moves_count(daemon) != 0)
		return "a move is left";
	if (mover_pending_down(daemon) != 0)
		return "a block waits to go down";
	if (batches_count(daemon) != 0)
		return "a batch is left";
	if (!list_is_empty(&daemon->attached))
		return "a store waits for another";
	if (mills_in_flight(&daemon->mills) != 0)
		return "a mill has work";
	if (daemon->nvme != NULL && daemon->nvme->in_flight != 0)
		return "nvme has work";
	if (daemon_leases_count(daemon) != 0)
		return "a lease is left";
	if (!list_is_empty(&daemon->forgettings))
		return "a FORGET is left";
	if (node->gpu.copies_count != 0)
		return "a copy to or from the GPU is left";
	if (purge_is_under_way(daemon))
		return "a purge is under way";
	if (node->must_reload || reload_is_busy(daemon))
		return "a reload is under way";
	return tenants_unrest(daemon);
}
