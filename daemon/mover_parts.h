/*
 * daemon/mover_parts.h: the mover's insides, shared by its files only.
 *
 *   store:  SLOTLESS -> MILLED (copy, check, header) -> slot READY, waiters told
 *           -> on the line down
 *   down:   (on the line) -> QUEUED -> IO (write; holds the cpu slot) -> nvme slot READY
 *           with encryption: (on the line) -> MILLED (encipher into a bounce buffer; holds the cpu
 *           slot from here on) -> QUEUED -> ...
 *   up:     SLOTLESS -> QUEUED -> IO (read; holds the nvme slot) -> MILLED (decipher, check)
 *           -> cpu slot READY, waiters told
 *   proof:  MILLED (check of a READY slot, held)
 *   pulled store: SLOTLESS -> QUEUED -> DEVICE (copy) -> COPIED (until it is committed)
 *           -> MILLED (checksums, header) -> as a store
 *   pulled load (out): QUEUED -> DEVICE (copy; holds the cpu slot) -> MILLED (check)
 */
#ifndef KVTIER_DAEMON_MOVER_PARTS_H
#define KVTIER_DAEMON_MOVER_PARTS_H

#include "daemon/encryption.h"
#include "daemon/mover.h"
#include "daemon/slot_check.h"

enum move_kind { MOVE_STORE, MOVE_DOWN, MOVE_UP, MOVE_PROOF, MOVE_OUT };

enum move_state {
	MOVE_FREE,
	MOVE_SLOTLESS,    /* no cpu slot yet; on its tenant's list */
	/* the tier's or device's queue is full; on the mover's list of its direction */
	MOVE_QUEUED,
	MOVE_IO,          /* the tier has it */
	MOVE_DEVICE,      /* a device copies */
	MOVE_COPIED,      /* a pulled store is to be committed */
	MOVE_MILLED,      /* a mill has it */
	MOVE_STATES
};

struct move {
	struct list_node link;
	enum move_kind kind;
	enum move_state state;
	struct daemon *daemon;
	struct tenant *tenant;
	uint32_t entry;
	uint32_t shard;
	uint32_t slot_bytes;
	uint32_t cpu_slot, cpu_generation;      /* SLOT_NONE: not yet */
	uint32_t nvme_slot, nvme_generation;
	struct slot_place nvme_place;
	struct slot_header *memory;             /* of the cpu slot */
	struct slot_address cpu_address;        /* what a mill seals into the header */
	struct tier_op io;
	struct mill_op mill;
	struct list waiters;
	uint64_t deadline_us;
	/* store */
	const uint8_t *source;                  /* NULL: it is pulled */
	struct slot_identity identity;
	/* pulled store, out */
	struct lent_memory *lent;
	struct pull_speed *speed;               /* of its device and direction */
	uint32_t copy_bytes;
	struct gpu_copy copy;
	void (*copied)(struct waiter *waiter);
	int stopped;                            /* 0, or how a store ends once it was copied */
	/* down: the enciphered copy; NULL: it is written as it lies in memory */
	struct bounce *bounce;
	const struct slot_key *key;             /* the loop's choice; while MILLED */
	uint32_t key_id;                        /* 0: in the clear */
	struct slot_nonce nonce;
	/* up, proof, out */
	struct slot_claim claim;
	/* up, proof, out, down with encryption */
	enum slot_verdict verdict;
	uint8_t device_id[DEVICE_ID_BYTES];
};

/* A cpu slot that waits for its copy down: on the mover's line, in order of READY. */
struct down {
	uint32_t tenant;                        /* its number in daemon->tenants */
	uint32_t cpu_slot, cpu_generation;
	uint32_t nvme_slot, nvme_generation;
};

#define DOWNS_MAX (UINT32_C(1) << 18)           /* beyond it new blocks stay above only */

struct mover {
	struct move *moves;                     /* MOVES_MAX */
	struct list free;
	struct list queued_up, queued_down;
	struct list queued_out, queued_in;      /* pulled loads, pulled stores */
	struct list active;                     /* MILLED, IO, DEVICE and COPIED */
	struct down *downs;                     /* DOWNS_MAX, a ring */
	uint32_t downs_begin, downs_end;        /* counted on, never wound back */
	unsigned stores_down;                   /* downs not yet ended */
};

static inline struct move *move_of_mill(struct mill_op *op)
{
	return list_item(op, struct move, mill);
}

static inline struct move *move_of_io(struct tier_op *op)
{
	return list_item(op, struct move, io);
}

/* Takes a free move, or NULL. */
struct move *move_take(struct daemon *daemon, enum move_kind kind, struct tenant *tenant,
		       uint32_t entry, uint32_t shard);
/* Puts it back; its waiters have been told. */
void move_give(struct move *move);
/* The one place that writes the state; keeps the move on the list of it. */
void move_become(struct move *move, enum move_state next);
void move_add_waiter(struct move *move, struct waiter *waiter);
/* Tells every waiter, once. */
void move_tell(struct move *move, int result);
/* Hands the move to a mill; a full mill is a bug (its room is larger than MOVES_MAX). */
void move_mill(struct move *move, void (*work)(struct mill_op *), void (*done)(struct mill_op *));
/* Hands the move to the nvme tier, or to the queue of its direction. */
void move_submit(struct move *move);
/* Fills in memory and address of the cpu slot that the move has got. */
void move_has_cpu_slot(struct move *move, uint32_t slot);
/* True while the slots that the move knows are still what they were. */
bool move_cpu_is_current(const struct move *move);
bool move_nvme_is_current(const struct move *move);
/* ... and may be read: not quarantined meanwhile. */
bool move_cpu_is_readable(const struct move *move);
bool move_nvme_is_readable(const struct move *move);

/* Each kind's first step once it has a cpu slot, and its end without one. */
void move_store_start(struct move *move);
void move_up_start(struct move *move);
void move_slotless_end(struct move *move, int result);
/* A store ended without a block: what was reserved is given back, the waiter is told. */
void move_store_failed(struct move *move, int result);
/* A pulled store has its slot: hands it to the device, or to the queue. */
void move_pull_start(struct move *move);
/* Hands more of what is queued to the devices. */
bool move_pulls_step(struct daemon *daemon);
void move_pull_prepare(struct move *move, const struct pull_order *order);
/* One more block was pulled, in the direction of the move. */
void move_pulled_count(struct move *move);
/* On a mill: the checksums of what was pulled. */
void move_pulled_checksums(struct move *move);
/* A cpu slot became READY by this store: tells the waiters, then goes down if that is wanted. */
void move_down_start(struct move *move);
void move_down_done(struct tier_op *op);
void move_up_done(struct tier_op *op);
bool move_downs_step(struct daemon *daemon);
/* Whether one more op may be handed to the tier now; and how many may be there at once. */
bool move_tier_has_room(const struct daemon *daemon);
uint32_t move_tier_room(const struct daemon *daemon);
/* The address part of the nvme slot that the move knows, sealed. Any thread. */
struct slot_address move_nvme_address(const struct move *move);
/* A queued move whose slots went meanwhile ends. */
bool move_queued_is_void(struct move *move);

#endif
