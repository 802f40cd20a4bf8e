/*
 * daemon/operate_blocks.h: blocks as an operator sees them: what the index knows of each, and what
 * stands in its header, which a mill may have to read from the disk.
 * Runs on: the loop thread, but for shown_read().
 */
#ifndef KVTIER_DAEMON_OPERATE_BLOCKS_H
#define KVTIER_DAEMON_OPERATE_BLOCKS_H

#include "daemon/operate.h"

#define SHOWN_BLOCKS_MAX 100u /* of one page */
#define SHOWN_MAX 4u          /* pages at once, over all sessions: mills have other work, too */

/* What a header says, for people. */
struct shown_header {
	bool is_known;
	uint32_t first_position;
	uint64_t stored_at_us;
	uint64_t payload_bytes;
	uint32_t segments_count;
	uint8_t parent[BLOCK_HASH_BYTES];
};

struct shown_block {
	uint8_t hash[BLOCK_HASH_BYTES];
	uint32_t entry, space; /* as it was when it was looked at */
	uint16_t group;
	uint8_t shards_count;
	uint32_t tokens, epoch;
	bool is_forgotten;
	bool is_whole[TIERS];
	uint64_t bytes[TIERS];
	uint32_t holds; /* over all slots */
	uint64_t route_key;
	struct shown_header header;
	struct nvme_device *device; /* where its header is to be read; NULL: nowhere */
	uint64_t offset;
};

/* One page on its way: the index first, then headers by a mill, then the answer. */
struct shown {
	struct mill_op mill;
	struct session *session;
	uint64_t request;
	uint64_t next; /* cursor */
	void (*answer)(struct shown *shown);
	uint64_t wall_us;
	unsigned count;
	struct shown_block blocks[SHOWN_BLOCKS_MAX];
	struct slot_header page; /* the mill's */
};

/* NULL: SHOWN_MAX are under way, or no memory, and it was refused. */
struct shown *shown_create(const struct operation *operation, void (*answer)(struct shown *));
/* Adds what the index knows of an entry. */
void shown_add(struct shown *shown, uint32_t entry);
/* Reads the headers that are on nvme only, then answers, once, and frees it. */
void shown_go(struct shown *shown);
/* Instead. */
void shown_destroy(struct shown *shown);
/* The members that every block has, of an object that is begun. */
void shown_write(struct json_text *json, const struct shown *shown,
		 const struct shown_block *block);

#endif
