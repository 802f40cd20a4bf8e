/*
 * daemon/extents.h: keeps the extent tables in the arenas' heads and on the devices as the cache
 * has them. A table may lag behind: a slot whose extent the table does not know, or knows with
 * another generation, is not restored.
 * Runs on: the loop thread.
 */
#ifndef KVTIER_DAEMON_EXTENTS_H
#define KVTIER_DAEMON_EXTENTS_H

#include "daemon/daemon.h"

/* The images of the tables, once the devices are open. */
must_check int extents_create(struct daemon *daemon, struct error *error);
void extents_destroy(struct daemon *daemon);
/* The cache's listener: an extent of this area changed. */
void extents_changed(struct daemon *daemon, uint32_t area);
/* Writes the tables that changed; one write a device at a time. */
bool extents_step(struct daemon *daemon);
bool extents_are_busy(const struct daemon *daemon);

#endif
