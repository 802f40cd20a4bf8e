/*
 * daemon/probe.h: whether the data path works: canaries go the way that blocks go,
 * through every mill (a copy with its checksum), every device's queue (a read of its first page)
 * and the catalogue's worker (a batch of nothing). A part that a canary does not come back from
 * within stall_max is late.
 *
 * A canary a second while somebody asks (probe_ask(), by the pages and the watchdog) and for
 * PROBE_ASKED_US after that; else one in PROBE_IDLE_US, so that what is said is never older, and an
 * idle daemon stays idle: the loop wakes more often than that anyway. Limit: one canary in each
 * part.
 * Runs on: the loop thread; nothing here waits.
 */
#ifndef KVTIER_DAEMON_PROBE_H
#define KVTIER_DAEMON_PROBE_H

#include "daemon/daemon.h"

#define PROBE_EVERY_US (UINT64_C(1) * 1000000)
#define PROBE_IDLE_US (UINT64_C(10) * 1000000)
#define PROBE_ASKED_US (UINT64_C(60) * 1000000)

enum probe_state {
	PROBE_UNASKED, /* no canary has come back yet */
	PROBE_GOOD,
	PROBE_FAILED,  /* it came back with an error: what the part does is not believed */
	PROBE_LATE,
	PROBE_UNUSED,  /* a fenced device, an absent catalogue: nothing waits for it */
	PROBE_STATES
};

struct probe_figures {
	const char *name;    /* "mill 0", "nvme PATH", "catalogue" */
	bool is_needed;      /* late, it keeps the node from being ready */
	enum probe_state state;
	uint64_t took_us;    /* of the last canary that came back; 0: none has */
	uint64_t age_us;     /* since it did */
	uint64_t good, failed; /* canaries that came back */
	uint64_t waited_us;  /* for the one that is out now; 0: none is */
	int result;          /* of the last */
};

must_check int probe_create(struct daemon *daemon, struct error *error);
/* Needs every canary to have come back, or never to come. */
void probe_destroy(struct daemon *daemon);
bool probe_step(struct daemon *daemon);
void probe_ask(struct daemon *daemon);

unsigned probe_parts_count(const struct daemon *daemon);
void probe_part(const struct daemon *daemon, unsigned part, struct probe_figures *out_figures);
const char *probe_state_name(enum probe_state state);
/* NULL, or which part that is needed is late or fails, in words. */
const char *probe_unready_reason(const struct daemon *daemon);

#endif
