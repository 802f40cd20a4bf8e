/*
 * daemon/peer_process.h: the node's peer process, by the settings peer_*: what it is given, what of
 * it stands in the log and in the status; nodes that the setting `peers` names are connected.
 * Without `peer_listen` there is none, and nothing here does anything.
 * Runs on: the loop thread; create and destroy: main.
 */
#ifndef KVTIER_DAEMON_PEER_PROCESS_H
#define KVTIER_DAEMON_PEER_PROCESS_H

#include "daemon/daemon.h"
#include "daemon/peer_ops.h"

struct json_text;

/* Before arenas are opened: they are made so that another process can map them. */
must_check int peer_process_create(struct daemon *daemon, struct error *error);
bool peer_process_is_on(const struct daemon *daemon);
/* For peers_create(); NULL: none. */
const struct peer_ops *peer_process_ops(const struct daemon *daemon);
void *peer_process_room(const struct daemon *daemon);
/* Every tenant's arena goes to it, the loop is woken by it, and nodes are connected. After
 * peers_create(). */
must_check int peer_process_open(struct daemon *daemon, struct error *error);
/* Kills the process, and sees its end: transfers come back. */
void peer_process_destroy(struct daemon *daemon);
bool peer_process_step(struct daemon *daemon);
/* For the loop's wait. */
bool peer_process_sleep(struct daemon *daemon);
void peer_process_awake(struct daemon *daemon);
/* See peer_link_resolve(). */
must_check int peer_process_resolve(struct daemon *daemon, const char *name);
/* The secrets' file once more, for a reload. On a mill. */
must_check int peer_process_read(struct daemon *daemon, struct error *error);
/* What was read is put in force, for connections that begin from now on, and noted as a change;
 * returns how many there are. */
unsigned peer_process_take(struct daemon *daemon, struct settings_change *changes,
			   unsigned changes_max);
/* The object `peers` of the status. */
void peer_process_write(const struct daemon *daemon, struct json_text *json);

#endif
