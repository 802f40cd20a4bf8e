/* daemon/tenants.h: the tenants of the settings, each with its arena. */
#ifndef KVTIER_DAEMON_TENANTS_H
#define KVTIER_DAEMON_TENANTS_H

#include "daemon/daemon.h"

/* After the GPUs are known: they decide how arenas are made, and on which NUMA nodes they lie. May
 * block: waits for locks, touches all memory. On failure those that were opened are counted in
 * tenants_count, for daemon_destroy(). Runs on: main. */
must_check int tenants_open(struct daemon *daemon, struct error *error);

#endif
