/*
 * daemon/mover.h: moves one block's shard at a time: window -> cpu, cpu -> nvme, nvme -> cpu; and
 * between cpu and the device memory that an engine lent (*pulled*).
 *
 * A move is made of at most one mill op, one tier op or one copy of a device at a time. Every
 * waiter of a move is told exactly once.
 * Runs on: the loop thread; the mill part of a move touches only its slot (FILLING, so nobody
 * else's, or held) and the window.
 * Limit:   MOVES_MAX moves; none free is -EAGAIN.
 */
#ifndef KVTIER_DAEMON_MOVER_H
#define KVTIER_DAEMON_MOVER_H

#include "daemon/daemon.h"
#include "daemon/pull.h"
#include "proto/frames_blocks.h"

#ifdef KVTIER_SMALL /* tests/sim: pools that run empty */
#define MOVES_MAX 48u
#else
#define MOVES_MAX 4096u
#endif

/* Told once that the shard is READY in the cpu tier (0, the slot), or why not. */
struct waiter {
	struct list_node link;
	struct list *list;                /* of the move it waits on; NULL: of none */
	void (*done)(struct waiter *waiter, int result, uint32_t cpu_slot);
};

struct move;

/* Where a pulled block lies, or is to lie; copied. */
struct pull_order {
	struct lent_memory *lent;         /* not given back before the waiter was told */
	uint32_t bytes;                   /* of the block */
	struct frame_pull gate;
	uint32_t group, block;            /* the engine's */
	uint64_t deadline_us;
	/* a store: the engine's block was read; mover_pull_commit() or mover_pull_stop() is next */
	void (*copied)(struct waiter *waiter);
};

/* What a store needs; copied. */
struct store_order {
	struct tenant *tenant;
	uint32_t entry;
	unsigned shard;
	/* of the slot that admission reserved, FILLING: the move's from now on */
	enum tier_id tier;
	uint32_t slot;
	/* payload, in the window; stays mapped until the waiter was told */
	const uint8_t *source;
	/* with the committed segment checksums; sealed by us */
	const struct slot_identity *identity;
	uint64_t deadline_us;             /* for a cpu slot to become free */
	struct waiter *waiter;
	/* source NULL: it is pulled */
	const struct pull_order *pull;
};

must_check int mover_create(struct daemon *daemon, struct error *error);
void mover_destroy(struct mover *mover);

/* Copies a committed block into its slot, then down to nvme. -EAGAIN: no move is free. */
must_check int mover_store(struct daemon *daemon, const struct store_order *order);
/* The same of a block that is pulled: it is copied, `copied` is told, and the rest waits. */
must_check int mover_pull_store(struct daemon *daemon, const struct store_order *order,
				struct move **out_move);
/* `copied` was told, and the engine's block had not changed meanwhile. */
void mover_pull_commit(struct move *move);
/* Copies a cpu slot that the caller holds into lent memory, and proves the slot afterwards. 0: the
 * hold is the move's, and ends behind the waiter's call: 0: all of it is there; -EBADMSG: the slot
 * was wrong; others: it could not be copied. -EAGAIN: no move is free; -ENOENT: it belongs to
 * nobody any more: the hold is still the caller's. */
must_check int mover_pull_load(struct daemon *daemon, struct tenant *tenant, uint32_t cpu_slot,
			       const struct pull_order *order, struct waiter *waiter,
			       struct move **out_move);
/* Nobody wants this pulled block any more. If nothing of it is under way, it ends before this
 * returns, with `result`; else with its copy: a store with `result`, a load as it ends. */
void mover_pull_stop(struct move *move, int result);
/* A device copies for it right now. */
bool mover_pull_is_copying(const struct move *move);
/* How many pulled stores a tenant may have at once: an equal part of half of all moves. */
unsigned mover_pulls_max(const struct daemon *daemon);
/*
 * Brings one shard of an entry into the cpu tier. `waiter` (NULL: a prefetch) is told. 0: under
 * way. -EALREADY: it is READY there (nothing will be told). -ENOENT: in no tier. -EAGAIN: no move
 * is free.
 */
must_check int mover_raise(struct daemon *daemon, struct tenant *tenant, uint32_t entry,
			   unsigned shard, uint64_t deadline_us, struct waiter *waiter);
/* The waiter is not to be told any more (its owner goes away); the move goes on. */
void mover_forget_waiter(struct waiter *waiter);
/* A client found a wrong checksum: proves the cpu slot again and quarantines it if it is
 * damaged. */
void mover_prove(struct daemon *daemon, struct tenant *tenant, uint32_t cpu_slot,
		 uint32_t generation);
/* Writes a READY cpu slot down that has no copy below; anything else is passed over. */
void mover_lower(struct daemon *daemon, uint32_t cpu_slot);
/* The same of the cpu slots from *cursor on, a bounded step; *cursor gets to cpu_slots_max. False:
 * nothing was looked at, as what is lined up has to end first. */
bool mover_lower_from(struct daemon *daemon, uint32_t *cursor);
/* Whether new blocks are to be written down now. */
bool mover_lower_is_wanted(struct daemon *daemon, uint64_t bytes);
/* Takes slotless and queued moves further; expires them. Returns whether it did anything. */
bool mover_step(struct daemon *daemon);
unsigned mover_moves_count(const struct daemon *daemon);
unsigned mover_pending_down(const struct daemon *daemon);

#endif
