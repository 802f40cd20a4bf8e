/*
 * daemon/scrub.h: slots are checked before somebody asks for them, and new ones soon after their
 * write.
 *
 * The scrubber goes round all READY slots, a piece of SCRUB_PIECE_BYTES at a time: of nvme it is
 * read into a buffer of its own, of cpu it is checked where it lies; a mill checks as for a load,
 * and neither a load nor a store waits behind more than one piece. While hardly anything else is
 * under way it goes at scrub_bytes_second; else, however long that lasts, at 1/SCRUB_FLOOR_PART of
 * it. It evicts nothing and touches no order; a slot that goes while it is checked is given up.
 * What it finds wrong goes as when a load had found it; where the cpu tier has the block as well,
 * it is written down again.
 *
 * A read-back is the same check of one write in readback_every, and the identity must be the one
 * that was written: a device that gives back something else at once is sick, and READBACKS_BAD_MAX
 * such within READBACK_WINDOW_US fence it.
 * Runs on: the loop thread; the check on a mill.
 * Limit:   one piece at a time, READBACKS_MAX read-backs wait (more are `skipped`).
 */
#ifndef KVTIER_DAEMON_SCRUB_H
#define KVTIER_DAEMON_SCRUB_H

#include "daemon/daemon.h"

#define SCRUB_PIECE_BYTES (UINT64_C(256) << 10)
#define SCRUB_FLOOR_PART 10u
#define READBACKS_MAX 16u
#define READBACKS_BAD_MAX 3u
#define READBACK_WINDOW_US (UINT64_C(3600) * 1000000)

enum readback_result {
	READBACK_GOOD,
	READBACK_BAD,      /* not the bytes that were written */
	READBACK_FAILED,   /* the device did not read them */
	READBACK_SKIPPED,  /* gone before it could be read, or too many waited */
	READBACK_RESULTS
};

struct scrub_figures {
	uint64_t slots[TIERS], bytes[TIERS];   /* checked */
	uint64_t damaged[TIERS];               /* of those: wrong in any way */
	uint64_t given_up;                     /* slots that went while they were checked */
	uint64_t unreadable;                   /* slots that a device did not give */
	uint64_t rewritten;                    /* blocks written down again from the cpu tier */
	uint64_t passes;                       /* completed */
	uint64_t pass_us;                      /* how long the last one took */
	uint64_t readbacks[READBACK_RESULTS];
};

/* A round that an operator asked for. It takes the place of the one under way. */
enum scrub_asked_state {
	SCRUB_UNASKED,
	SCRUB_ASKED,
	SCRUB_ASKED_DONE,
	SCRUB_ASKED_ENDED,    /* before its end: by a wish, or as nobody asked for SCRUB_ASKED_US */
	SCRUB_ASKED_STATES
};

#define SCRUB_ASKED_US (UINT64_C(10) * 1000000)

struct scrub_asked {
	enum scrub_asked_state state;
	bool has_tier[TIERS];
	uint64_t bytes_second;
	uint64_t began_us, ended_us;
	uint64_t asked_us;                     /* when somebody last wanted to know of it */
	uint64_t looked_at, slots;             /* how far it is */
	struct scrub_figures before, figures;  /* when it began; since then */
};

const char *readback_result_name(enum readback_result result);

/* Before the devices are registered with the memory they will use. */
must_check int scrub_create(struct daemon *daemon, struct error *error);
void scrub_destroy(struct scrub *scrub);
/* What its reads go to; registered with the devices. */
struct nvme_memory scrub_memory(const struct scrub *scrub);
/* One pass of the loop. Returns whether it did anything. */
bool scrub_step(struct daemon *daemon);
/* For how long there is nothing to do but to wait for time to pass. */
uint64_t scrub_wait_us(const struct daemon *daemon);
/* A slot has just been written down and is READY: one of readback_every waits to be read back. */
void readback_consider(struct daemon *daemon, uint32_t nvme_slot,
		       const struct slot_identity *written);
struct scrub_figures scrub_figures(const struct daemon *daemon);
/* Begins a round over these tiers. -EBUSY: another one is under way. */
must_check int scrub_ask(struct daemon *daemon, const bool has_tier[TIERS], uint64_t bytes_second);
void scrub_ask_end(struct daemon *daemon);
/* How far it is. Who does not ask for SCRUB_ASKED_US has lost interest: it is ended. */
struct scrub_asked scrub_ask_again(struct daemon *daemon);

#endif
