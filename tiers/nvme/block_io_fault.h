/*
 * tiers/nvme/block_io_fault.h: block I/O that fails on demand: wraps another back end.
 * Runs on: one thread: whoever steps the device also arms and releases. Caller's memory; give `ops`
 * to nvme_config.
 */
#ifndef KVTIER_TIERS_NVME_BLOCK_IO_FAULT_H
#define KVTIER_TIERS_NVME_BLOCK_IO_FAULT_H

#include "tiers/nvme/block_io.h"

enum block_fault {
	BLOCK_FAULT_NONE,
	BLOCK_FAULT_ERROR, /* not done; `errno_value` */
	BLOCK_FAULT_SHORT, /* the first half is done; -EIO, as the seam's contract has it */
	BLOCK_FAULT_TORN,  /* the first half is written, and success is claimed: a lying disk */
	BLOCK_FAULT_LOST,  /* nothing is written, and success is claimed */
	BLOCK_FAULT_MISDIRECTED /* done `misdirect_bytes` further on, and success is claimed */
};

/* Which operations are counted; an open's many steps are tested by counting all. */
enum block_fault_scope {
	BLOCK_FAULT_ALL,  /* every function of the table that can fail, disk_ and queue alike */
	BLOCK_FAULT_QUEUE /* submitted requests only */
};

struct block_io_fault {
	struct block_io_ops ops; /* first; what the device is given */
	const struct block_io_ops *inner;
	bool refuse_direct;       /* as a filesystem without O_DIRECT */
	bool refuse_registration; /* as a low RLIMIT_MEMLOCK */
	enum block_fault fault;
	enum block_fault_scope scope;
	uint64_t nth;   /* 1: the next one */
	uint64_t count; /* how many in a row from the nth on */
	uint64_t seen;
	uint64_t hits;
	int errno_value; /* negative */
	int64_t misdirect_bytes;
	bool is_holding;   /* finished requests stay here */
	uint64_t released; /* of those, how many may go */
};

void block_io_fault_init(struct block_io_fault *fault, const struct block_io_ops *inner);
/* The nth operation from now on, and `count - 1` after it, fail so. Replaces what was armed. */
void block_io_fault_arm(struct block_io_fault *fault, enum block_fault kind,
			enum block_fault_scope scope, uint64_t nth, uint64_t count);
bool block_io_fault_was_hit(const struct block_io_fault *fault);
/* Completions are kept back until released. */
void block_io_fault_hold(struct block_io_fault *fault);
void block_io_fault_release(struct block_io_fault *fault, uint64_t count);
/* Releases all and holds no more. */
void block_io_fault_flow(struct block_io_fault *fault);

#endif
