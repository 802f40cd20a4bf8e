/*
 * tiers/tier.h: a tier that does I/O: the contract of every back end (nvme; fault and fake in
 * tests). Runs on: submit, poll: the loop thread. What happens below is the back end's affair.
 */
#ifndef KVTIER_TIERS_TIER_H
#define KVTIER_TIERS_TIER_H

#include "base/clock.h"
#include "base/error.h"
#include "base/list.h"

#include <stdbool.h>
#include <stdint.h>

enum tier_verb {
	TIER_READ,   /* device -> memory */
	TIER_WRITE,  /* memory -> device */
	TIER_EXTENTS, /* writes the extent table copy at `memory` and syncs it; offset unused */
	TIER_PROBE    /* reads the device's first page, as other reads go; offset unused */
};

struct tier_op {
	enum tier_verb verb;
	uint32_t device;       /* which device of the tier */
	uint64_t offset;       /* bytes from the start of the device's slots area; 4 KiB aligned */
	void *memory;          /* borrowed until done(); 4 KiB aligned, in a registered region */
	uint64_t memory_bytes; /* multiple of 4 KiB */
	uint64_t submitted_us; /* set by tier_submit, for the latency histograms */
	uint64_t finished_us;
	int result;                       /* 0, or a negative errno; a short transfer is -EIO */
	void (*done)(struct tier_op *op); /* gives op back to the caller; may submit it again */
	struct list_node link;            /* the tier's, until done() */
};

struct tier;

struct tier_ops {
	const char *name;
	/* Never blocks. 0: done() runs exactly once, later, from poll(). -EAGAIN: the queue is
	 * full, and the op is still the caller's. -EIO: the device is fenced.
	 */
	int (*submit)(struct tier *tier, struct tier_op *op);
	/* Runs done() for at most `limit` finished ops; returns how many. */
	unsigned (*poll)(struct tier *tier, unsigned limit);
	/* A descriptor that becomes readable when poll() has work, armed by sleep(); -1: none. */
	int (*fd)(struct tier *tier, uint32_t device);
	/* False: there is something to poll already. */
	bool (*sleep)(struct tier *tier);
	/* Needs every op to have come back. Accepts a closed tier. */
	void (*close)(struct tier *tier);
};

struct tier {
	const struct tier_ops *ops;
	struct clock *clock; /* for submitted_us and finished_us; borrowed */
	uint64_t ops_submitted, ops_done, ops_failed, bytes_read, bytes_written;
	uint32_t in_flight;
};

/* The wrappers that users call; they assert and count. */
must_check int tier_submit(struct tier *tier, struct tier_op *op);
unsigned tier_poll(struct tier *tier, unsigned limit);
int tier_fd(struct tier *tier, uint32_t device);
bool tier_sleep(struct tier *tier);
void tier_close(struct tier *tier);

/* For back ends: counts a finished op and gives it back to its caller. Inside poll() only. */
void tier_op_finish(struct tier *tier, struct tier_op *op);

#endif
