/*
 * tiers/nvme/block_io_simulated.h: a raw disk in memory, for one thread under a virtual clock:
 * latencies, a volatile write cache that a crash loses or tears, rot, misdirected writes, a disk
 * that hangs, and reads that outlive a killed daemon. Everything follows from one seed. Runs on:
 * one thread. Owns: both images of the disk. A device under test sees a raw device of `bytes`.
 */
#ifndef KVTIER_TIERS_NVME_BLOCK_IO_SIMULATED_H
#define KVTIER_TIERS_NVME_BLOCK_IO_SIMULATED_H

#include "base/random.h"
#include "tiers/nvme/block_io.h"

#define SIMULATED_SECTOR_BYTES 512u /* what a crash tears */
#define SIMULATED_OPS_MAX 1024u     /* under way, those of killed daemons included */

/* A transfer under way: a copy of the request, as its owner may be dead when it ends. */
struct simulated_op {
	struct block_request *request; /* NULL: its owner was killed */
	enum block_verb verb;
	uint64_t offset, bytes;
	uint8_t *memory;
	uint64_t due_us;
	uint64_t dirtied; /* SYNC: writes that had ended when it was submitted */
};

struct block_io_simulated {
	struct block_io_ops ops; /* first; what the device is given */
	struct clock *clock;
	struct random random;
	uint64_t bytes;
	uint8_t *current;  /* what a read sees */
	uint8_t *durable;  /* what a crash leaves for certain */
	uint64_t *dirtied; /* of each sector: the number of the write that changed it last; 0:
			      durable */
	uint64_t writes_ended;
	uint64_t latency_us_min, latency_us_max;
	double crash_keep_share;      /* of unsynced sectors, how many survive a crash; 0.5 */
	int64_t misdirect_next_bytes; /* the next write goes so much further; then 0 again */
	bool is_hanging;              /* nothing ends */
	int sick_errno;               /* 0, or what every transfer answers */
	bool is_locked;
	struct simulated_op in_flight[SIMULATED_OPS_MAX];
	uint32_t in_flight_count;
};

must_check int block_io_simulated_init(struct block_io_simulated *disk, uint64_t bytes,
				       struct clock *clock, uint64_t seed, struct error *error);
void block_io_simulated_finish(struct block_io_simulated *disk);
/* When the next transfer ends: to set the clock there. UINT64_MAX: nothing is under way. */
uint64_t block_io_simulated_next_us(const struct block_io_simulated *disk);
/* The daemon is killed: what it had under way goes on, also into its memory, and holds the lock
 * until it has ended. The device must then be abandoned, not closed. */
void block_io_simulated_kill(struct block_io_simulated *disk);
/* Lets transfers of killed daemons that are due end; open() and lock do so too. */
void block_io_simulated_step(struct block_io_simulated *disk);
/* The power fails: each unsynced sector, and each of a write under way, survives or not; all locks
 * are free. */
void block_io_simulated_crash(struct block_io_simulated *disk);
/* Flips one bit of what is stored. */
void block_io_simulated_rot(struct block_io_simulated *disk, uint64_t offset, unsigned bit);

#endif
