/* daemon/scrub_parts.h: the scrubber's insides, shared by scrub.c and readback.c only. */
#ifndef KVTIER_DAEMON_SCRUB_PARTS_H
#define KVTIER_DAEMON_SCRUB_PARTS_H

#include "daemon/scrub.h"
#include "daemon/slot_check.h"

enum scrub_state {
	SCRUB_IDLE,
	SCRUB_READING,   /* the nvme tier has a piece */
	SCRUB_MILLED     /* a mill has the slot */
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
	/* the slot that is being checked; held */
	uint32_t slot;
	struct slot_claim claim;
	enum slot_verdict verdict;
	bool is_readback;
	struct slot_identity written;        /* of a read-back */
	/* of a read-back: the cpu slot that was written from, held; SLOT_NONE: gone */
	uint32_t source_slot;
	struct slot_claim source;
	struct slot_header *source_header;
	bool source_was_checked;             /* as the read-back was wrong */
	enum slot_verdict source_verdict;
	uint64_t read_bytes;
	struct slot_header *header;          /* in the buffer, or in an arena */
	struct tier_op io;
	struct mill_op mill;
	uint8_t *buffer;                     /* SCRUB_SLOT_BYTES_MAX of address space */
	/* the round */
	enum tier_id next_tier;
	uint32_t next_slot;
	bool is_passing;
	uint64_t pass_began_us;
	uint64_t due_us;                     /* when the budget has room for the next slot */
	/* read-backs */
	uint64_t writes;
	struct readback readbacks[READBACKS_MAX];   /* a ring */
	unsigned readbacks_begin, readbacks_end;    /* counted on, never wound back */
	unsigned bad[NVME_DEVICES_MAX];             /* within the window */
	uint64_t window_us[NVME_DEVICES_MAX];       /* when it began */
	struct scrub_figures figures;
};

/* Takes a READY slot that belongs to an entry: holds it and begins its check. False: it cannot be
 * begun now, or at all; nothing is held. */
bool scrub_check_begin(struct scrub *scrub, enum tier_id tier, uint32_t slot);
/* Holds the cpu slot that the slot was written from, where it is there still. */
void scrub_source_take(struct scrub *scrub);
/* Begins the read-back that has waited longest, if this is the moment, or it has waited too long.
 * Returns whether one was begun or skipped. */
bool readback_begin(struct scrub *scrub, bool is_quiet);
/* The check of a read-back has ended; what it was written from has been judged. */
void readback_ended(struct scrub *scrub, enum readback_result result);

#endif
