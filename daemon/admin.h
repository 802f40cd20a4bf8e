/*
 * daemon/admin.h: what people and machines ask of the daemon itself: STATS as JSON, /livez,
 * /readyz, /metrics.
 * Runs on: the loop thread.
 */
#ifndef KVTIER_DAEMON_ADMIN_H
#define KVTIER_DAEMON_ADMIN_H

#include "base/text.h"
#include "daemon/daemon.h"
#include "daemon/metrics_text.h"

must_check int admin_create(struct daemon *daemon, struct error *error);
void admin_destroy(struct daemon *daemon);
void admin_step(struct daemon *daemon);
/* What answers on loopback, 0: nothing. */
unsigned admin_port(const struct daemon *daemon);

/* The status as one JSON object. `tenant` NULL: of all. */
void stats_write(struct daemon *daemon, const struct tenant *tenant, struct text *text);
/* The page of metrics. */
void metrics_write(struct daemon *daemon, struct text *text, enum metrics_format format);
/* NULL: serving; else why not, for people. */
const char *daemon_unready_reason(const struct daemon *daemon);

#endif
