/*
 * daemon/purge.h: blocks are forgotten, and their bytes overwritten: in memory and on nvme, a slot
 * at a time, behind everything else.
 *
 * Each slot of what was forgotten is held before its entry is dropped, so it is nobody else's until
 * zeros have replaced its bytes. What an engine still reads is overwritten when it has let go.
 * Runs on: the loop thread. Limit: one purge at a time.
 */
#ifndef KVTIER_DAEMON_PURGE_H
#define KVTIER_DAEMON_PURGE_H

#include "daemon/daemon.h"

#define PURGE_HELD_MAX 1024u
#define PURGE_OPS_MAX 4u
#define PURGE_PIECE_BYTES (1u << 20)
/* how long stores and writes to nvme that had begun may take to end first */
#define PURGE_QUIET_US 2000000u

enum purge_state {
	PURGE_NONE,
	PURGE_WAITING,     /* for stores and writes that had begun; no new ones are taken */
	PURGE_OVERWRITING,
	PURGE_SETTLING,    /* until the catalogue has deleted its records */
	PURGE_DONE,
	PURGE_STATES
};

struct operation;

must_check int purge_create(struct daemon *daemon, struct error *error);
void purge_destroy(struct daemon *daemon);
bool purge_step(struct daemon *daemon);
/* "none", "waiting", "overwriting", "settling", "done". */
const char *purge_state_name(const struct daemon *daemon);
/* While it waits, no store of its tenant begins. */
bool purge_holds_stores(const struct daemon *daemon, const struct tenant *tenant);
/* Until it has taken all that it is about, the sweep leaves what is forgotten to it. */
bool purge_holds_sweep(const struct daemon *daemon);
bool purge_is_under_way(const struct daemon *daemon);
/* A cpu slot was filled for a block that had gone meanwhile, and is free again. */
void purge_unfilled(struct daemon *daemon, void *memory, uint64_t bytes);

void operate_purge(const struct operation *operation);

#endif
