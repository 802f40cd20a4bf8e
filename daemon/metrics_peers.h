/* daemon/metrics_peers.h: the metrics of other nodes. Runs on: the loop thread. */
#ifndef KVTIER_DAEMON_METRICS_PEERS_H
#define KVTIER_DAEMON_METRICS_PEERS_H

#include "daemon/daemon.h"
#include "daemon/metrics_text.h"

/* Nothing where the daemon has no peers. In the table's order. */
void metrics_peers_write(const struct daemon *daemon, struct metrics_page *page);

#endif
