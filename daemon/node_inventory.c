/* daemon/node_inventory.c: see node_inventory.h. */
#include "daemon/node_inventory.h"

#include "base/log.h"
#include "daemon/inventory.h"
#include "daemon/server.h"
#include "daemon/session.h"
#include "daemon/spaces.h"
#include "daemon/tier_speed.h"
#include "proto/json_text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ENGINES_SAID_MAX 64u
#define STEP_US 1000u        /* beats and deaths can wait so long; questions wake the loop */

struct node_inventory {
	struct inventory *inventory;
	uint64_t stepped_us;
	bool is_busy;
	unsigned engine_next;        /* the last one that a line has named */
	/* As far as it was logged. */
	uint16_t port;
	char reason[WORKER_REASON_BYTES];
};

static void tier_figures(struct daemon *daemon, struct inventory *inventory, enum tier_id tier)
{
	const struct tier_speed *speed = &daemon->speeds[tier];
	unsigned bit = tier == TIER_CPU ? INVENTORY_CPU : INVENTORY_NVME;
	uint64_t used = 0, capacity = 0;

	for (unsigned i = 0; i < daemon->tenants_count; i++) {
		struct cache_share_figures share;

		cache_share_figures(daemon->cache, daemon->tenants[i].handle, tier, &share);
		used += share.bytes_ready;
		capacity += share.units_max * daemon->settings.extent_bytes;
	}
	inventory_figure(inventory, bit, INVENTORY_LATENCY_NS,
			 (uint64_t)(speed->latency_us * 1000.0));
	inventory_figure(inventory, bit, INVENTORY_BYTES_SECOND,
			 (uint64_t)(speed->bytes_us * 1e6));
	inventory_figure(inventory, bit, INVENTORY_QUEUE_BYTES,
			 tier == TIER_CPU ? 0 : (uint64_t)daemon->nvme->in_flight * TIER_OP_BYTES);
	inventory_figure(inventory, bit, INVENTORY_CAPACITY_BYTES, capacity);
	inventory_figure(inventory, bit, INVENTORY_USED_BYTES, used);
}

_Static_assert(1 + ENGINE_ADAPTERS_MAX <= INVENTORY_ENGINE_SPACES_MAX &&
		       FRAME_NAME_BYTES <= INVENTORY_NAME_BYTES_MAX + 1,
	       "an engine is told whole");

static void engine_say(const struct engine *engine, struct inventory *inventory)
{
	uint32_t spaces[1 + ENGINE_ADAPTERS_MAX];

	spaces[0] = engine->space;
	memcpy(spaces + 1, engine->adapters, engine->adapters_count * sizeof(spaces[0]));
	inventory_engine(inventory, engine->tenant->name, engine->name,
			 engine->groups[0].tokens_per_block, spaces, 1 + engine->adapters_count);
}

/* How many are attached; a line names ENGINES_SAID_MAX of them, the next one those behind them. */
static uint64_t engines_say(struct daemon *daemon, struct inventory *inventory)
{
	struct node_inventory *node = daemon->inventory;
	const struct engine *engine;
	unsigned slots = 0, said = 0;
	uint64_t attached = 0;

	for (; (engine = server_engine_at(daemon, slots)) != NULL; slots++)
		attached += engine->tenant != NULL;
	for (unsigned i = 0; i < slots && said < ENGINES_SAID_MAX && said < attached; i++) {
		node->engine_next = node->engine_next + 1 < slots ? node->engine_next + 1 : 0;
		engine = server_engine_at(daemon, node->engine_next);
		if (engine->tenant == NULL)
			continue;
		engine_say(engine, inventory);
		said++;
	}
	return attached;
}

static void figures(void *owner, struct inventory *inventory)
{
	struct daemon *daemon = owner;

	tier_figures(daemon, inventory, TIER_CPU);
	if (daemon->nvme != NULL)
		tier_figures(daemon, inventory, TIER_NVME);
	inventory_figure(inventory, 0, INVENTORY_ENGINES, engines_say(daemon, inventory));
}

int node_inventory_create(struct daemon *daemon, struct error *error)
{
	const struct settings *settings = &daemon->settings;
	struct node_inventory *node;

	if (settings->inventory_listen[0] == '\0')
		return 0;
	node = calloc(1, sizeof(*node));
	if (node == NULL)
		return error_set(error, -ENOMEM, "no memory for the inventory");
	daemon->inventory = node;
	const struct inventory_config config = {
		.listen = settings->inventory_listen,
		.ask_listen = settings->inventory_ask_listen,
		.clock = daemon->clock,
		.cache = daemon->cache,
		.boot_id = daemon->boot_id,
		.spaces_max = settings->spaces_max +
			      SPACES_LEAVING_MAX * settings->tenants_count,
		.lock_fd = daemon->lock_fd,
		.figures = figures,
		.owner = daemon,
	};
	return inventory_create(&node->inventory, &config, error);
}

bool node_inventory_is_on(const struct daemon *daemon)
{
	return daemon->inventory != NULL;
}

int node_inventory_open(struct daemon *daemon, struct error *error)
{
	return daemon->inventory == NULL
		       ? 0
		       : server_watch(daemon->server,
				      worker_fd(inventory_worker(daemon->inventory->inventory)),
				      error);
}

void node_inventory_destroy(struct daemon *daemon)
{
	if (daemon->inventory == NULL)
		return;
	inventory_destroy(daemon->inventory->inventory);
	free(daemon->inventory);
	daemon->inventory = NULL;
}

void node_inventory_changed(struct daemon *daemon, const struct entry *entry, enum tier_id tier,
			    bool is_whole)
{
	if (daemon->inventory != NULL)
		inventory_changed(daemon->inventory->inventory, entry, tier, is_whole);
}

static void changes_log(struct node_inventory *node, const struct daemon *daemon)
{
	struct inventory_status status;
	char quoted[2 * WORKER_REASON_BYTES];

	inventory_look(node->inventory, &status);
	if (status.port != 0 && status.port != node->port)
		log_line(LOG_INFO, "inventory_open", "listen=%s port=%u ask_port=%u pid=%d restarts=%u",
			 daemon->settings.inventory_listen, status.port, status.ask_port,
			 (int)status.pid, status.restarts);
	if (strcmp(status.reason, node->reason) != 0 || (node->port != 0 && status.port == 0))
		log_line(LOG_WARNING, "inventory_failed", "listen=%s restarts=%u reason=%s",
			 daemon->settings.inventory_listen, status.restarts,
			 log_quote(quoted, sizeof(quoted), status.reason));
	node->port = status.port;
	snprintf(node->reason, sizeof(node->reason), "%s", status.reason);
}

bool node_inventory_step(struct daemon *daemon)
{
	struct node_inventory *node = daemon->inventory;

	if (node == NULL || (!node->is_busy && !server_has_fired(daemon) &&
			     daemon->now_us - node->stepped_us < STEP_US))
		return false;
	node->stepped_us = daemon->now_us;
	node->is_busy = inventory_step(node->inventory, daemon->now_us);
	if (node->is_busy)
		changes_log(node, daemon);
	return node->is_busy;
}

bool node_inventory_sleep(struct daemon *daemon)
{
	return daemon->inventory == NULL ||
	       worker_sleep(inventory_worker(daemon->inventory->inventory));
}

void node_inventory_awake(struct daemon *daemon)
{
	if (daemon->inventory != NULL)
		worker_awake(inventory_worker(daemon->inventory->inventory));
}

bool node_inventory_look(const struct daemon *daemon, struct inventory_status *out_status)
{
	if (daemon->inventory == NULL)
		return false;
	inventory_look(daemon->inventory->inventory, out_status);
	return true;
}

void node_inventory_write(const struct daemon *daemon, struct json_text *json)
{
	struct inventory_status status;

	if (!node_inventory_look(daemon, &status))
		return;
	json_text_object_begin(json, "inventory");
	json_text_string(json, "state", status.port != 0 ? "ready" : "waiting");
	json_text_string(json, "reason", status.reason);
	json_text_string(json, "listen", daemon->settings.inventory_listen);
	json_text_unsigned(json, "port", status.port);
	json_text_unsigned(json, "ask_port", status.ask_port);
	json_text_unsigned(json, "epoch", status.epoch);
	json_text_unsigned(json, "changes", status.changes);
	json_text_unsigned(json, "epochs_lost", status.lost);
	json_text_unsigned(json, "pieces", status.pieces);
	json_text_unsigned(json, "pid", (uint64_t)status.pid);
	json_text_unsigned(json, "restarts", status.restarts);
	json_text_object_end(json);
}
