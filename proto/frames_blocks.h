/*
 * proto/frames_blocks.h: the frames of blocks, on a data connection. A client *pushes* (it copies
 * between its blocks and window or arena itself), or the daemon *pulls*: the client has lent memory
 * of a device, and STORE and LOAD have FRAME_PULL and name its blocks.
 */
#ifndef KVTIER_PROTO_FRAMES_BLOCKS_H
#define KVTIER_PROTO_FRAMES_BLOCKS_H

#include "proto/frames.h"

/*
 * Once a connection, after CANARY: from then on everything is pulled. The packet is
 * transfer/lend.h's; its descriptors come along: those of the job words (transfer/job_words.h),
 * then those of the regions in their order. Refused by ERROR with the reason, after which the
 * connection stays: -EAGAIN: the device's process is not ready, try again later; others: this
 * memory cannot be pulled from.
 */
#define FRAME_LEND_BYTES_MAX (64u << 10) /* of the packet */

struct frame_lend {
	struct frame_header header;
	/* the packet, padded with nothing: a multiple of 8 */
};

/* It is imported. With one descriptor: a pidfd of the process that copies. When that ends, or the
 * memory goes otherwise, the connection ends with ERROR (-ECONNRESET). */
struct frame_lent {
	struct frame_header header;
	uint32_t has_word; /* gate values may be given */
	uint32_t reserved;
};

/* PULL; else 0. */
struct frame_pull {
	uint64_t gate_value; /* that the lent word must have reached first; 0: none */
	uint64_t job;        /* its number, and its place in the job words */
	uint32_t job_place;
	uint32_t reserved;
};

struct frame_store_item {
	uint8_t hash[FRAME_HASH_BYTES];
	uint64_t route_key;
	uint32_t engine_block; /* PULL: from where; else 0 */
	uint32_t reserved;
};

struct frame_store {
	struct frame_header header;
	uint8_t tag[FRAME_TAG_BYTES];
	uint64_t batch;       /* the client's number, not in use on this connection */
	uint64_t deadline_us; /* from now */
	uint32_t space;
	uint32_t first_position;
	uint16_t group;
	uint16_t count;
	uint32_t has_parent;              /* 0: items[0] is the first of its prefix */
	uint8_t parent[FRAME_HASH_BYTES]; /* of items[0]; that of items[i] is items[i - 1] */
	struct frame_pull pull;
	/* struct frame_store_item items[count] */
};

/* What became of an item of a STORE; equal to enum cache_admission, which clients do not see. */
enum frame_admission {
	FRAME_ADMITTED,          /* bytes are wanted: COMMIT them */
	FRAME_PRESENT,           /* it is there already; no event follows */
	FRAME_ATTACHED_TO_OTHER, /* another store is under way; COMMITTED follows, no COMMIT */
	FRAME_REFUSED_PARENT,
	FRAME_REFUSED_FULL,
	FRAME_REFUSED_SIZE, /* no event follows */
	FRAME_ADMISSIONS
};

struct frame_store_reply {
	struct frame_header header;
	uint64_t batch;
	uint32_t count;
	uint32_t wanted_count; /* FRAME_ADMITTED ones */

	/* uint8_t admissions[count]: enum frame_admission */
};

/* One block of a COMMIT: this, then segments_count u32 checksums, padded with zeros to
 * frame_commit_item_bytes(). */
struct frame_commit_item {
	uint32_t index; /* in the STORE */
	uint32_t segments_count;
	uint64_t window_offset; /* of the payload; 64-byte aligned */
};

struct frame_commit {
	struct frame_header header;
	uint64_t batch;
	uint32_t count;
	uint32_t reserved;
};

struct frame_result {
	uint32_t index;
	int32_t result;
};

/* PULL: the copies out of these engine blocks are over, each index at most once; what failed is
 * said by COMMITTED alone. COMMIT them only while nobody has written there since. A pulled item's
 * COMMIT has neither checksums nor a window_offset. */
struct frame_copied {
	struct frame_header header;
	uint64_t batch;
	uint32_t count;
	uint32_t reserved;
	/* struct frame_result results[count]: 0 */
};

/* Results of committed, attached and expired blocks, each index once. After it the window's place
 * is free again. */
struct frame_committed {
	struct frame_header header;
	uint64_t batch;
	uint32_t count;
	uint32_t reserved;
	/* struct frame_result results[count] */
};

struct frame_load {
	struct frame_header header;
	uint8_t tag[FRAME_TAG_BYTES];
	uint64_t batch;
	uint64_t lease;       /* 0: without one; what went meanwhile is a miss */
	uint64_t deadline_us; /* from now */
	uint32_t space;
	uint16_t group;
	uint16_t count;
	struct frame_pull pull;
	/* uint8_t hashes[count][32]; PULL: then uint32_t engine_blocks[count] */
};

struct frame_loaded_item {
	uint32_t index;
	int32_t result;  /* 0; -ENOENT: a miss; -ETIME; -EIO; -ECANCELED */
	uint64_t offset; /* of the slot in the arena's units */
	uint32_t slot_generation;
	uint32_t tier; /* where it was found: enum tier_id */
};

/* Each index once. A slot with result 0 stays readable until RELEASE names it or the batch's
 * deadline has passed. PULL: 0 says that it lies in the engine's block, proven after the copy;
 * there is nothing to release (offset and slot_generation are 0). -EBADMSG: damaged, a miss. */
struct frame_loaded {
	struct frame_header header;
	uint64_t batch;
	uint32_t count;
	uint32_t reserved;
	/* struct frame_loaded_item items[count] */
};

struct frame_release_item {
	uint32_t index;
	uint32_t bad; /* 1: its checksum was wrong: drop it */
};

struct frame_release {
	struct frame_header header;
	uint64_t batch;
	uint32_t count;
	uint32_t reserved;
};

struct frame_cancel {
	struct frame_header header;
	uint64_t batch;
};

/* PULL: where to, of each hash. */
static inline const uint32_t *frame_load_blocks(const struct frame_load *frame)
{
	return (const uint32_t *)((const uint8_t *)(frame + 1) +
				  (size_t)frame->count * FRAME_HASH_BYTES);
}

/* What an item of a COMMIT takes in its frame: a multiple of 8. */
static inline size_t frame_commit_item_bytes(uint32_t segments_count)
{
	return (sizeof(struct frame_commit_item) + (size_t)segments_count * 4 + 7) / 8 * 8;
}
/* Steps through a COMMIT's items. */
const struct frame_commit_item *frame_commit_next(const struct frame_commit *frame,
						  size_t *position, const uint32_t **out_crcs);

#endif
