/* daemon/daemon.c: one pass of the node, and how it waits. */
#include "daemon/daemon.h"

#include "base/log.h"
#include "daemon/admin.h"
#include "daemon/batch.h"
#include "daemon/encryption.h"
#include "daemon/extents.h"
#include "daemon/gpus.h"
#include "daemon/mover.h"
#include "daemon/node_inventory.h"
#include "daemon/peer_process.h"
#include "daemon/peers.h"
#include "daemon/probe.h"
#include "daemon/purge.h"
#include "daemon/reload.h"
#include "daemon/restore.h"
#include "daemon/scrub.h"
#include "daemon/server.h"

#include <assert.h>

#define OPS_A_PASS        256u
#define DRAIN_WRITE_US    2000000u  /* below what main waits for the drain */
/* while deadlines are running: how late one is noticed at most */
#define BUSY_WAIT_US      10000u
#define CATALOG_STEP_US   1000u
/* what nobody wakes us for: deadlines of HTTP clients, signals */
#define LOOK_US           50000u
#define IDLE_WAIT_US      200000u   /* heartbeats of workers need to be younger than 1 s */

static bool devices_look_after(struct daemon *daemon)
{
	for (unsigned i = 0; i < daemon->devices_count; i++) {
		struct daemon_device *device = &daemon->devices[i];
		struct nvme_figures figures;

		if (device->is_fenced || !nvme_device_is_fenced(device->device))
			continue;
		nvme_device_figures(device->device, &figures);
		log_line(LOG_ERROR, "nvme_fenced", "device=%s reason=\"%s\"", nvme_device_path(device->device),
			 figures.fence_reason);
		device->is_fenced = true;
		cache_device_fence(daemon->cache, daemon->nvme_area, i);
		return true;
	}
	return false;
}

/* The worker's death, heartbeat and batches can wait for a millisecond; its messages cannot. */
static bool catalog_step(struct daemon *daemon)
{
	struct catalog_link_counters counters;
	char quoted[256];

	if (daemon->catalog == NULL)
		return false;
	if (catalog_link_fd(daemon->catalog) >= 0 && !daemon->is_catalog_busy &&
	    !server_has_fired(daemon) && daemon->now_us - daemon->catalog_us < CATALOG_STEP_US)
		return false;
	daemon->catalog_us = daemon->now_us;
	daemon->is_catalog_busy = catalog_link_step(daemon->catalog, daemon->now_us);
	catalog_link_count(daemon->catalog, &counters);
	if (counters.deaths != daemon->catalog_deaths) {
		daemon->catalog_deaths = counters.deaths;
		log_line(LOG_WARNING, "worker_ended", "worker=catalog deaths=%llu reason=%s",
			 (unsigned long long)counters.deaths,
			 log_quote(quoted, sizeof(quoted),
				   catalog_link_reason(daemon->catalog)));
	}
	return daemon->is_catalog_busy;
}

bool daemon_step(struct daemon *daemon)
{
	bool did_work = false;

	daemon->now_us = clock_now_us(daemon->clock);
	did_work = mills_poll(&daemon->mills, OPS_A_PASS) > 0;
	if (daemon->nvme != NULL) {
		did_work = tier_poll(daemon->nvme, OPS_A_PASS) > 0 || did_work;
		did_work = devices_look_after(daemon) || did_work;
	}
	did_work = catalog_step(daemon) || did_work;
	did_work = gpus_step(daemon) || did_work;
	did_work = peer_process_step(daemon) || did_work;
	did_work = node_inventory_step(daemon) || did_work;
	did_work = restore_step(daemon) || did_work;
	did_work = cache_lease_expire(daemon->cache, daemon->now_us) > 0 || did_work;
	did_work = peers_step(daemon) || did_work;
	did_work = mover_step(daemon) || did_work;
	did_work = batches_step(daemon) || did_work;
	did_work = forget_step(daemon) || did_work;
	did_work = extents_step(daemon) || did_work;
	did_work = scrub_step(daemon) || did_work;
	did_work = drain_step(daemon) || did_work;
	did_work = purge_step(daemon) || did_work;
	did_work = encryption_step(daemon) || did_work;
	did_work = reload_step(daemon) || did_work;
	did_work = probe_step(daemon) || did_work;
	return did_work;
}

static bool deadlines_are_running(const struct daemon *daemon)
{
	return batches_count(daemon) > 0 || mover_moves_count(daemon) > 0 || daemon->is_sweeping ||
	       peers_have_deadlines(daemon) ||
	       purge_is_under_way(daemon) ||
	       (drain_is_on(&daemon->drain) && daemon->drain.state != DRAIN_DONE) ||
	       daemon_leases_count(daemon) > 0 || daemon->phase != DAEMON_SERVING;
}

/* Asks everything that sends to us to wake us. False: there is something to do already. */
static bool sleep_begin(struct daemon *daemon)
{
	bool may_sleep = mills_sleep(&daemon->mills);

	if (daemon->nvme != NULL)
		may_sleep = tier_sleep(daemon->nvme) && may_sleep;
	if (daemon->catalog != NULL)
		may_sleep = catalog_link_sleep(daemon->catalog) && may_sleep;
	may_sleep = peer_process_sleep(daemon) && may_sleep;
	may_sleep = node_inventory_sleep(daemon) && may_sleep;
	return gpus_sleep(daemon) && may_sleep;
}

void daemon_wait(struct daemon *daemon, uint64_t wait_us_max)
{
	uint64_t bound_us = deadlines_are_running(daemon) ? BUSY_WAIT_US : IDLE_WAIT_US;
	uint64_t scrub_us = scrub_wait_us(daemon);

	if (scrub_us < bound_us)
		bound_us = scrub_us;
	if (wait_us_max < bound_us)
		bound_us = wait_us_max;
	if (bound_us > 0 && !sleep_begin(daemon))
		bound_us = 0;
	server_step(daemon, bound_us);
	/* Nobody woke us: what stays armed costs its sender one wake-up, draining it would cost us
	 * a call each. */
	if (server_has_fired(daemon)) {
		mills_awake(&daemon->mills);
		if (daemon->catalog != NULL)
			catalog_link_awake(daemon->catalog);
		gpus_awake(daemon);
		peer_process_awake(daemon);
		node_inventory_awake(daemon);
	}
	if (server_has_fired(daemon) || daemon->now_us - daemon->looked_us >= LOOK_US) {
		daemon->looked_us = daemon->now_us;
		admin_step(daemon);
	}
}

void daemon_stop(struct daemon *daemon)
{
	if (daemon->phase == DAEMON_DRAINING)
		return;
	log_line(LOG_INFO, "stopping", "sessions=%u moves=%u", server_sessions_count(daemon),
		 mover_moves_count(daemon));
	daemon->phase = DAEMON_DRAINING;
	daemon->drain_us = daemon->now_us + DRAIN_WRITE_US;
	server_stop(daemon);
}

bool daemon_is_drained(const struct daemon *daemon)
{
	return daemon->phase == DAEMON_DRAINING && server_sessions_count(daemon) == 0 &&
	       mover_moves_count(daemon) == 0 && mover_pending_down(daemon) == 0 &&
	       !peers_are_busy(daemon) &&
	       mills_in_flight(&daemon->mills) == 0 &&
	       list_is_empty(&((struct daemon *)daemon)->forgettings) &&
	       !extents_are_busy(daemon) && !reload_is_busy(daemon) &&
	       (daemon->nvme == NULL || daemon->nvme->in_flight == 0);
}
