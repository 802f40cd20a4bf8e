/*
 * daemon/node_inventory.h: the node's inventory, by the settings inventory_*: what of tiers and
 * engines is in its lines, what of it stands in the log and in the status. Without
 * `inventory_listen` there is none, and nothing here does anything.
 * Runs on: the loop thread; create and destroy: main.
 */
#ifndef KVTIER_DAEMON_NODE_INVENTORY_H
#define KVTIER_DAEMON_NODE_INVENTORY_H

#include "daemon/daemon.h"

struct inventory_status;
struct json_text;

/* Right behind the cache: it hears of all that comes into it. */
must_check int node_inventory_create(struct daemon *daemon, struct error *error);
bool node_inventory_is_on(const struct daemon *daemon);
/* The loop is woken by its process. */
must_check int node_inventory_open(struct daemon *daemon, struct error *error);
/* Kills the process. Before the cache goes. */
void node_inventory_destroy(struct daemon *daemon);
void node_inventory_changed(struct daemon *daemon, const struct entry *entry, enum tier_id tier,
			    bool is_whole);
bool node_inventory_step(struct daemon *daemon);
/* For the loop's wait. */
bool node_inventory_sleep(struct daemon *daemon);
void node_inventory_awake(struct daemon *daemon);
/* False: there is none. */
must_check bool node_inventory_look(const struct daemon *daemon,
				    struct inventory_status *out_status);
/* The object `inventory` of the status. */
void node_inventory_write(const struct daemon *daemon, struct json_text *json);

#endif
