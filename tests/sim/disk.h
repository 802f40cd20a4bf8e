/*
 * tests/sim/disk.h: raw disks in memory, behind the table of block I/O. They tear, misdirect,
 * forget what was not synced, rot, slow down, fill up, fail and hang; what a killed daemon had
 * under way still happens, also into its arena. Runs on: one thread.
 */
#ifndef KVTIER_TESTS_SIM_DISK_H
#define KVTIER_TESTS_SIM_DISK_H

#include "tests/sim/kernel.h"
#include "tiers/nvme/block_io.h"

#define DISK_BYTES_MAX (UINT64_C(16) << 20)
#define DISK_PAGE_BYTES 4096u
#define DISK_PAGES_MAX (DISK_BYTES_MAX / DISK_PAGE_BYTES)
#define DISK_PENDING_MAX 256u
#define DISKS_MAX 8u

/* What goes wrong, in 1/1000 of the requests. */
enum disk_fault {
	DISK_ERROR,
	DISK_FULL,
	DISK_TORN,             /* the first half is written, and success is claimed */
	DISK_LOST,             /* nothing is written, and success is claimed */
	DISK_MISDIRECTED_WRITE, /* written elsewhere */
	DISK_MISDIRECTED_READ,
	DISK_ROT, /* what is read was damaged where it lies */
	DISK_SLOW,
	DISK_HANG, /* for seconds, all of it */
	DISK_FAULTS
};

struct disk {
	char path[64];
	uint64_t bytes;
	uint8_t *now, *durable;
	bool is_dirty[DISK_PAGES_MAX], was_touched[DISK_PAGES_MAX];
	bool is_there, is_locked;
	unsigned permille[DISK_FAULTS];
	uint64_t latency_us, hangs_until_us;
	struct list pending; /* struct block_request */
	struct orphan {
		struct memory *held;
		uint8_t *memory;
		uint64_t offset, bytes, due_us;
		bool is_write;
	} orphans[DISK_PENDING_MAX];
	unsigned orphans_count;
	unsigned depth;
	uint64_t hits[DISK_FAULTS];
};

/* The table, for all disks; they are found by their path. */
extern const struct block_io_ops disk_ops;

void disks_start(void);
struct disk *disk_create(const char *path, uint64_t bytes);
/* Before its daemon's process is killed. */
void disk_kill(struct disk *disk);
/* Behind it: of what was not synced some sectors are lost. */
void disk_power_cut(struct disk *disk);
void disk_damage(struct disk *disk);
void disk_heal(struct disk *disk);

#endif
