/*
 * tests/daemon/rig_disk.h: disks in memory, behind the table of block I/O. They keep what was
 * written when the daemon goes, tear what was under way, and a power cut loses pages that were not
 * synced. Runs on: one thread.
 */
#ifndef KVTIER_TESTS_DAEMON_RIG_DISK_H
#define KVTIER_TESTS_DAEMON_RIG_DISK_H

#include "base/random.h"
#include "tiers/nvme/block_io.h"

#define RIG_FILES_MAX 12u
#define RIG_PAGE_BYTES 4096u

struct rig_file {
	char path[256];   /* "": no such file */
	uint8_t *now;     /* what a read sees */
	uint8_t *durable; /* what a power cut leaves at least */
	bool *is_dirty;   /* a page that the two may differ in */
	uint64_t bytes;
	bool is_locked;
};

struct rig_disk {
	struct block_io_ops ops; /* first; what the device is given */
	struct rig_file files[RIG_FILES_MAX];
	struct list queues;
	struct random random;
	struct clock *clock;
	uint64_t latency_us; /* of each request, by the clock */
	bool is_shuffled;    /* requests that are due end in any order */
	bool is_frozen;      /* the machine has gone: writes succeed and change nothing */
	uint64_t reads, writes, syncs;
};

void rig_disk_init(struct rig_disk *disk, struct clock *clock, uint64_t seed);
void rig_disk_finish(struct rig_disk *disk);
/* The file's bytes, to look at and to damage. */
struct rig_file *rig_disk_file(struct rig_disk *disk, const char *path);
/* The moment of a kill: of each write under way some pages are there. With `is_power_cut` some
 * pages that were not synced are what they were at the last sync. What the daemon does from now on
 * changes nothing. */
void rig_disk_crash(struct rig_disk *disk, bool is_power_cut);
void rig_disk_thaw(struct rig_disk *disk);

#endif
