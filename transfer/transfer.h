/*
 * transfer/transfer.h: moves blocks between one device and pinned memory, chunk by chunk.
 *
 * A transfer is a list of blocks of one group in one direction. Its bytes go to the device in
 * chunks of at most `chunk_bytes`, and no more than TRANSFER_CHUNKS_MAX chunks a direction are in
 * the device's hands at a time: a copy engine does not preempt, so the inference engine's own small
 * copies never wait for longer than two chunks. In each direction urgent transfers go first, and
 * transfers of equal urgency take turns, a chunk each. Directions do not wait for each other.
 *
 * A transfer may have a gate: a word in the inference engine's memory and a value that it must have
 * reached, before which not a byte is read or written. Who waits at a gate delays nobody else.
 *
 * A transfer ends exactly once, and then nothing of it is under way any more (QUIESCENT): by its
 * last byte, its deadline, a cancel, or a failure of the device. What was submitted cannot be taken
 * back, so the end of a cancelled one comes after its last chunk. One exception: a device that is
 * lost says nothing of its copies, so no transfer ends any more; the process is to end, and its
 * exit is what proves that memory is left alone.
 *
 * Runs on: one thread, the device's. Nothing here blocks, and nothing allocates after create.
 */
#ifndef KVTIER_TRANSFER_TRANSFER_H
#define KVTIER_TRANSFER_TRANSFER_H

#include "base/error.h"
#include "base/list.h"
#include "transfer/copy.h"
#include "transfer/cost.h"
#include "transfer/device.h"
#include "transfer/gate.h"
#include "transfer/plan.h"

#include <stdbool.h>
#include <stdint.h>

#define TRANSFER_CHUNKS_MAX 2u
#define TRANSFER_RECTANGLES_MAX 1024u /* of a chunk */
#define TRANSFER_CHUNK_BYTES_MIN (UINT64_C(64) << 10)
#define TRANSFER_CHUNK_BYTES_MAX (UINT64_C(64) << 20)

enum transfer_state {
	TRANSFER_IDLE,   /* the owner's */
	TRANSFER_QUEUED, /* waits for its gate or its turn; nothing is under way */
	TRANSFER_MOVING, /* some chunks are under way or done, others are to come */
	TRANSFER_ENDING, /* no further chunks; the last ones are under way */
	TRANSFER_STATES
};

struct transfer {
	/* The owner's, set before submit. */
	enum copy_direction direction;
	bool is_urgent;
	const struct layout_group *group; /* these four: borrowed until done() */
	const uint64_t *region_bases;     /* the device's address of each region */
	const struct plan_block *blocks;
	uint32_t blocks_count;
	struct gate *gate; /* NULL: none */
	uint64_t gate_value;
	uint64_t deadline_us; /* of the clock that step() is told */
	/* The first `blocks_done` blocks are there, as a whole; grows. From step(). */
	void (*moved)(struct transfer *transfer, uint32_t blocks_done);
	/* Gives the transfer back: 0, or -ETIME, -ECANCELED, or the device's error. From step(). */
	void (*done)(struct transfer *transfer, int result);

	/* The engine's. */
	enum transfer_state state;
	int result;
	uint32_t chunks; /* under way */
	uint32_t blocks_done;
	uint64_t bytes_submitted;
	struct plan plan;
	struct list_node link;
};

struct transfer_config {
	struct device *device;          /* open; borrowed */
	const struct cost_table *costs; /* borrowed */
	unsigned paths;                 /* allowed: bits 1 << enum copy_path */
	uint64_t chunk_bytes;
	uint64_t bytes_second_max[COPY_DIRECTIONS]; /* 0: as fast as it goes */
	uint32_t transfers_max[COPY_DIRECTIONS];
};

/* Of one direction, since the start; times in microseconds. */
struct transfer_measures {
	uint64_t bytes, chunks, busy_us; /* busy: at least one chunk was under way */
	uint64_t bytes_waiting;          /* submitted by owners, not by us */
	uint64_t bytes_second;           /* lately; 0: nothing moved yet */
	uint64_t chunks_by[COPY_PATHS];
	uint64_t expired, failed, cancelled;
};

struct transfer_engine;

must_check int transfer_engine_create(struct transfer_engine **out_engine,
				      const struct transfer_config *config, struct error *error);
/* Needs every transfer to have ended, or a lost device. NULL is allowed. */
void transfer_engine_destroy(struct transfer_engine *engine);
/* 0: done() runs exactly once, later, from step(). -EAGAIN: transfers_max are there already, and
 * the transfer is still the caller's. -EIO: the device is lost. -EINVAL: no blocks, or a block that
 * the group does not have. */
must_check int transfer_submit(struct transfer_engine *engine, struct transfer *transfer,
			       struct error *error);
/* It ends soon, as -ECANCELED, unless its last byte has been submitted. */
void transfer_cancel(struct transfer_engine *engine, struct transfer *transfer);
/* One pass: what has ended, gates, deadlines, new chunks. `may_submit` false: no new chunks (nobody
 * is there who would be told). Returns whether it did anything. */
bool transfer_engine_step(struct transfer_engine *engine, uint64_t now_us, bool may_submit);
/* No chunk is under way. */
bool transfer_engine_is_quiet(const struct transfer_engine *engine);
/* The device has failed for good: see above. */
bool transfer_engine_is_lost(const struct transfer_engine *engine);
const struct transfer_measures *transfer_engine_measures(const struct transfer_engine *engine,
							 enum copy_direction direction);

#endif
