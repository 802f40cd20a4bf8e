/*
 * daemon/batch.h: a STORE or a LOAD of up to 1,024 blocks: the daemon's part of a job.
 *
 * Every item ends exactly once, by done, deadline, cancel or the connection's end; an end is
 * reported once, by an event, when the socket has room. The batch is freed when all items have
 * ended, were reported, and hold nothing.
 * Runs on: the loop thread. Limit: BATCHES_MAX over all sessions, settings.batches_max a session.
 */
#ifndef KVTIER_DAEMON_BATCH_H
#define KVTIER_DAEMON_BATCH_H

#include "daemon/mover.h"
#include "daemon/requests.h"
#include "daemon/session.h"

#ifdef KVTIER_SMALL /* tests/sim: pools that run empty */
#define BATCHES_MAX 24u
#else
#define BATCHES_MAX 1024u
#endif

enum item_state {
	ITEM_IDLE,      /* load: not begun; store: not wanted (ended by the reply) */
	ITEM_WANTED,    /* store: a place is reserved, bytes are to come */
	ITEM_ATTACHED,  /* store: waits for another's store of the same shard */
	ITEM_MOVING,    /* a move works for it */
	ITEM_PULLING,   /* pull: its move reads or writes the engine's block */
	ITEM_COPIED,    /* pulled store: its move waits for the COMMIT */
	ITEM_RAISED,    /* pulled load: the slot is held, and waits for a move */
	ITEM_PARKED,    /* load: its block is on its way from another node */
	ITEM_DELIVERED, /* load: the slot is held for the client */
	ITEM_ENDED,
	ITEM_STATES
};

struct batch_item {
	/* MOVING, PULLING, COPIED; on the batch's `unsaid` list when ENDED or DELIVERED and not
	 * reported */
	struct waiter waiter;
	/* ATTACHED: on the daemon's list; RAISED, or COPIED and not said yet: on the batch's
	 * `aside`; PARKED: of the fetch */
	struct list_node attached;
	struct move *move; /* PULLING, COPIED */
	struct fetch *fetch; /* PARKED */
	uint8_t hash[BLOCK_HASH_BYTES];
	uint64_t route_key;
	uint32_t entry;
	/* store WANTED: the reserved slot; load DELIVERED, RAISED: the held cpu slot; PARKED: the
	 * fetch's key */
	uint32_t slot, generation;
	uint32_t engine_block; /* pull */
	int32_t result;
	uint16_t index;
	uint8_t state; /* enum item_state */
	/* store: of the reserved slot; load: where it was found */
	uint8_t tier;
};

struct batch {
	struct list_node link; /* its session's batches, or the free list */
	struct session *session;
	bool is_store;
	bool is_cancelled;
	bool is_pull;
	bool is_cancel_due; /* pull: what is being copied is to end early */
	struct frame_pull pull;
	uint64_t id;
	uint64_t deadline_us;
	uint64_t lease;
	uint32_t space, epoch;
	uint32_t first_position;
	uint16_t group, count;
	uint16_t next;      /* load, pulled store: the next item to begin */
	uint16_t moving;    /* items that a move works for, or that wait for one (RAISED) */
	uint16_t delivered; /* load: slots held */
	/* items not ENDED (DELIVERED counts as open until released) */
	uint16_t open;
	uint32_t tokens_per_block;
	uint64_t payload_bytes;
	uint8_t tag[FRAME_TAG_BYTES];
	uint64_t request;   /* number; 0: none */
	uint64_t began_us;
	/* items that have ended, by enum request_outcome */
	uint16_t outcomes[REQUEST_OUTCOMES];
	uint8_t parent[BLOCK_HASH_BYTES];
	bool has_parent;
	struct list unsaid, aside;
	struct batch_item items[FRAME_KEYS_MAX];
};

must_check int batches_create(struct daemon *daemon, struct error *error);
void batches_destroy(struct batches *batches);
/* Holds the space until the batch is over. NULL: none free, or the session has its share, or the
 * number is in use. */
struct batch *batch_take(struct session *session, uint32_t space, uint64_t id, unsigned count);
/* When a batch ends that wants `wait_us` from now: slots are kept for nobody longer than a
 * lease. */
uint64_t batch_deadline_us(const struct daemon *daemon, uint64_t wait_us);
/* From now on its blocks are counted for the request with this tag. */
void batch_begin_request(struct batch *batch, const uint8_t tag[FRAME_TAG_BYTES]);
struct batch *batch_find(struct session *session, uint64_t id);
static inline struct batch *batch_of_item(struct batch_item *item)
{
	return list_item(item - item->index, struct batch, items);
}

/* Ends an item with a result that will be reported. */
void batch_item_end(struct batch_item *item, int result);
/* A load's item is to be reported as delivered. */
void batch_item_say(struct batch_item *item);
/* Whether there is something to say to the client. */
static inline bool batch_has_news(const struct batch *batch)
{
	return !list_is_empty(&batch->unsaid) ||
	       (batch->is_store && !list_is_empty(&batch->aside));
}
/* Reports what there is to say; frees the batch when it is over. Returns whether it did
 * anything. */
bool batch_step(struct batch *batch);
/* All batches: deadlines, reports, next loads. */
bool batches_step(struct daemon *daemon);
/* Cancel, deadline or the connection's end: every open item ends with `result`. */
void batch_end_all(struct batch *batch, int result);
/* Under way, over all sessions. */
unsigned batches_count(const struct daemon *daemon);

/* A store of this shard has ended: whoever was attached to it is told. */
void store_shard_ended(struct daemon *daemon, uint32_t entry, unsigned shard, int result);
/* Ends the waiting of attached items whose shard nobody stores any more. Returns whether it did
 * anything. */
bool store_attached_step(struct daemon *daemon);
/* What the header of an item's slot is to say; crcs NULL: not known yet. */
void store_identity(const struct batch *batch, const struct batch_item *item, const uint32_t *crcs,
		    struct slot_identity *out_identity);
/* Pulled: begins the next wanted items that the tenant's part of the moves allows. */
bool store_pull_next(struct batch *batch);
/* Pulled: 0, or -EPROTO: its COMMIT came before COPIED. */
must_check int store_pull_commit(struct batch_item *item);
/* Pulled: tells which blocks were copied. Returns whether it did anything. */
bool store_pull_report(struct batch *batch);
/* An attached item leaves the list of those that wait. */
void store_detach(struct daemon *daemon, struct batch_item *item);
/* Begins the next loads that the window allows. */
bool load_begin_next(struct batch *batch);
/* Pulled: a raised item ends without a move. */
void load_unraise(struct batch *batch, struct batch_item *item);
/* An item that was parked: its block is here now, or will not be. */
void load_look_again(struct batch *batch, struct batch_item *item);
void load_release_item(struct batch *batch, struct batch_item *item);

#endif
