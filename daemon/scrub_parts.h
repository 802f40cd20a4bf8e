/* daemon/scrub_parts.h: the scrubber's insides, shared by scrub*.c and readback.c only. */
#ifndef KVTIER_DAEMON_SCRUB_PARTS_H
#define KVTIER_DAEMON_SCRUB_PARTS_H

#include "daemon/encryption.h"
#include "daemon/scrub.h"
#include "daemon/slot_check.h"

/* Of the one piece that is under way. */
enum scrub_state {
	SCRUB_IDLE,
	SCRUB_READING,   /* the nvme tier has it */
	SCRUB_MILLED     /* a mill has it */
};

/* The check of one slot, from its first piece to its last. */
struct scrub_check {
	bool is_open;
	uint32_t slot;                       /* held while a piece is under way */
	struct slot_stream stream;
};

/* A write that is to be read back. */
struct readback {
	uint32_t slot, generation;
	uint64_t late_us;                    /* when it is done even if there is other work */
	struct slot_identity written;
};

struct scrub {
	struct daemon *daemon;
	enum scrub_state state;
	struct scrub_check *check;           /* whose piece is under way */
	uint64_t piece_bytes;
	uint8_t *piece;                      /* in the buffer, or in an arena */
	struct tier_op io;
	struct mill_op mill;
	uint8_t *buffer;                     /* SCRUB_PIECE_BYTES */
	/* the round */
	struct scrub_check round;
	enum tier_id next_tier;
	uint32_t next_slot;
	bool is_passing;
	uint64_t pass_began_us;
	uint64_t due_us;                     /* when the budget has room for the next piece */
	uint64_t late_us;                    /* when that is read whatever else there is to do */
	struct scrub_asked asked;
	bool is_left;                        /* the piece under way is of a round that was left */
	/* the read-back that is being checked */
	struct scrub_check readback;
	struct slot_identity written;
	/* the cpu slot that it was written from, held; SLOT_NONE: gone */
	uint32_t source_slot;
	struct slot_claim source;
	struct slot_header *source_header;
	bool source_was_checked;             /* as the read-back was wrong */
	enum slot_verdict source_verdict;
	/* read-backs */
	uint64_t writes;
	struct readback readbacks[READBACKS_MAX];   /* a ring */
	unsigned readbacks_begin, readbacks_end;    /* counted on, never wound back */
	unsigned bad[NVME_DEVICES_MAX];             /* within the window */
	uint64_t window_us[NVME_DEVICES_MAX];       /* when it began */
	struct scrub_figures figures;
};

/* Whether a slot is there to be checked: READY, and of an entry that others find. */
bool scrub_slot_is_there(const struct daemon *daemon, enum tier_id tier, uint32_t slot);
/* Opens the check of such a slot. */
void scrub_check_open(struct scrub *scrub, struct scrub_check *check, enum tier_id tier,
		      uint32_t slot);
/* Has the next piece read and checked. -ENOENT: the slot has gone, or is another one now, and so is
 * the check. -EAGAIN: the device's queue is full. -EIO: it is fenced. */
must_check int scrub_piece_begin(struct scrub *scrub, struct scrub_check *check);
/* Not looked at to the end: nothing is said about the slot. */
void scrub_check_give_up(struct scrub *scrub, struct scrub_check *check);
/* The round that is due goes over this tier. */
bool scrub_has_tier(const struct scrub *scrub, enum tier_id tier);
uint32_t scrub_slots_end(const struct daemon *daemon, enum tier_id tier);
/* The asked round, if one is under way, has been everywhere, or is ended. */
void scrub_asked_become(struct scrub *scrub, enum scrub_asked_state next);
/* Holds the cpu slot that the read-back's was written from, where it is there still. */
void scrub_source_take(struct scrub *scrub);
/* Begins the read-back that has waited longest, if this is the moment, or it has waited too long.
 * Returns whether one was begun or skipped. */
bool readback_begin(struct scrub *scrub, bool is_quiet);
/* The check of a read-back has ended; what it was written from has been judged. */
void readback_ended(struct scrub *scrub, enum readback_result result);

#endif
