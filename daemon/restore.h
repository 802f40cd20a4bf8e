/*
 * daemon/restore.h: what was there before a restart: floors, then warm arenas by their headers,
 * then nvme by the catalogue; without a catalogue, by the headers on the devices, in the
 * background.
 * Runs on: the loop thread, in bounded steps; lookups are served meanwhile, nvme takes no new
 * blocks until the catalogue has been read.
 */
#ifndef KVTIER_DAEMON_RESTORE_H
#define KVTIER_DAEMON_RESTORE_H

#include "daemon/daemon.h"

must_check int restore_create(struct daemon *daemon, struct error *error);
void restore_destroy(struct restore *restore);
bool restore_step(struct daemon *daemon);
/* "arenas", "catalog", "headers", "down", "done". */
const char *restore_phase_name(const struct daemon *daemon);

#endif
