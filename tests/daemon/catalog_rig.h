/*
 * tests/daemon/catalog_rig.h: a catalogue link, and what ought to be in its catalogue. The clock is
 * virtual; waiting is a bounded poll(). With the simulated back end all is in this thread; without
 * one the link starts a worker process, which is the test itself (`--worker catalog PATH`).
 */
#ifndef KVTIER_TESTS_DAEMON_CATALOG_RIG_H
#define KVTIER_TESTS_DAEMON_CATALOG_RIG_H

#include "daemon/catalog_link.h"

#include "base/random.h"
#include "tiers/nvme/catalog_simulated.h"

#define CATALOG_RIG_SLOTS 4096u
#define CATALOG_RIG_TURNS_MAX 2000000u

/* Every slot's record is made from its number and version; version 0: there is none. */
struct catalog_rig {
	struct catalog_link *link;
	struct clock clock;
	struct random random;
	char folder[64], path[128];
	uint32_t versions[CATALOG_RIG_SLOTS], versions_given[CATALOG_RIG_SLOTS];
	uint32_t slots;
	/* What a scan gave. */
	uint32_t scanned[CATALOG_RIG_SLOTS];
	uint64_t scanned_rows, scanned_wrong;
	unsigned scans_done;
	struct catalog_scan_end end;
	unsigned resends;
	unsigned rows_until_kill; /* of the worker, by a scan; 0: never */
};

/* Opens a catalogue in a folder of its own. `ops` NULL: in a worker process. */
void catalog_rig_init(struct catalog_rig *rig, const struct catalog_ops *ops, uint32_t pending_max,
		      uint32_t slots);
void catalog_rig_finish(struct catalog_rig *rig);
/* Opens it again: another life of the daemon. */
void catalog_rig_open(struct catalog_rig *rig, const struct catalog_ops *ops, uint32_t pending_max);
void catalog_rig_close(struct catalog_rig *rig);
bool catalog_rig_step(struct catalog_rig *rig);
/* Steps, and waits where there is nothing to do; goes on to the next deadline when a worker is to
 * be started. */
void catalog_rig_turn(struct catalog_rig *rig);
/* Until everything that was put is written. */
void catalog_rig_settle(struct catalog_rig *rig);
void catalog_rig_run_until_open(struct catalog_rig *rig);
void catalog_rig_put(struct catalog_rig *rig, uint32_t slot);
void catalog_rig_delete(struct catalog_rig *rig, uint32_t slot);
/* Versions only grow, also over a delete, so that no record looks like an earlier one. */
void catalog_rig_change_some(struct catalog_rig *rig, unsigned count);
/* Scans, and finds exactly what was put. */
void catalog_rig_expect_scan(struct catalog_rig *rig);
/* What a scan calls; the owner is the rig. */
void catalog_rig_note_row(void *owner, const struct catalog_record *record);
void catalog_rig_note_end(void *owner, const struct catalog_scan_end *end);

#endif
