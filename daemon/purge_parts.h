/*
 * daemon/purge_parts.h: the insides of a purge, shared by its files only.
 */
#ifndef KVTIER_DAEMON_PURGE_PARTS_H
#define KVTIER_DAEMON_PURGE_PARTS_H

#include "daemon/operate.h"
#include "daemon/purge.h"

/* A slot that is ours alone as soon as nobody else holds it. */
struct purge_slot {
	enum tier_id tier;
	uint32_t slot;
	bool is_under_way;
};

struct wipe {
	struct purge_slot *slot; /* NULL: free */
	struct daemon *daemon;
	struct mill_op mill;
	struct tier_op io;
	uint8_t *memory; /* cpu: what is overwritten */
	uint64_t bytes, bytes_done;
};

struct purge_room {
	enum purge_state state; /* written by one function */
	struct tenant *tenant;  /* NULL: all */
	struct journal_record record;
	struct session *session; /* that waits for the journal; NULL: none */
	uint64_t request;
	uint64_t began_us, ended_us;
	uint32_t cursor;
	uint64_t blocks, slots, bytes, overwritten_bytes, failed_bytes;
	bool was_quiet; /* nothing was on its way when the floor went up */
	struct purge_slot held[PURGE_HELD_MAX];
	unsigned held_count;
	struct wipe wipes[PURGE_OPS_MAX];
	uint8_t *zeros; /* PURGE_PIECE_BYTES */
};

/* The one function that writes the state. */
void purge_become(struct purge_room *purge, enum purge_state next);
/* Says how far it is. */
void purge_answer(struct daemon *daemon, struct session *session, uint64_t request);

#endif
