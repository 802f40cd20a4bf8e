/*
 * proto/frames_operate.h: OPERATE, the one frame for all that an operator asks of the daemon.
 */
#ifndef KVTIER_PROTO_FRAMES_OPERATE_H
#define KVTIER_PROTO_FRAMES_OPERATE_H

#include "proto/frames.h"

/*
 * What an operator asks. frame_operate_fields() says what each verb takes; the rest is zero.
 * Answered by TEXT, or by ERROR with the reason, after which the connection stays. An answer that
 * is longer than a frame comes in pages: it has "next", the cursor of the next page, until that
 * is 0.
 */
enum frame_operate_verb {
	/* Blocks of a space, or spaces where no fingerprint is given. With two hashes: blocks whose
	 * hashes lie from the one to the other, both included, of any space where none is given. */
	FRAME_OPERATE_LIST,
	FRAME_OPERATE_STAT,     /* everything about one block */
	FRAME_OPERATE_PIN,      /* value: for how many microseconds; 0: no longer */
	FRAME_OPERATE_PURGE,    /* value 0: begins; 1: how far it is */
	FRAME_OPERATE_DRAIN,    /* value: enum frame_drain */
	FRAME_OPERATE_RELOAD,   /* reads the configuration again */
	FRAME_OPERATE_CONFIG,   /* the settings in force */
	FRAME_OPERATE_REQUESTS, /* what lately became of requests with this tag */
	FRAME_OPERATE_VERIFY,   /* value: FRAME_VERIFY_VALUE() */
	FRAME_OPERATE_VERBS
};

enum frame_drain { FRAME_DRAIN_OFF, FRAME_DRAIN_ON, FRAME_DRAIN_ASK, FRAME_DRAINS };

/* A round of checks that is asked for: how far it is, begin it, end it. */
enum frame_verify { FRAME_VERIFY_ASK, FRAME_VERIFY_BEGIN, FRAME_VERIFY_END, FRAME_VERIFIES };

/* tiers: a bit each, by enum tier_id; 0: all. mib: a second; 0: FRAME_VERIFY_MIB. */
#define FRAME_VERIFY_MIB 256u
#define FRAME_VERIFY_MIB_MAX 16384u
#define FRAME_VERIFY_VALUE(step, tiers, mib) \
	((uint64_t)(step) | (uint64_t)(tiers) << 8 | (uint64_t)(mib) << 16)
#define FRAME_VERIFY_STEP(value) ((unsigned)((value) & 0xff))
#define FRAME_VERIFY_TIERS(value) ((unsigned)((value) >> 8 & 0xff))
#define FRAME_VERIFY_RATE(value) ((value) >> 16)

/* Bits: what a verb takes. */
enum frame_operate_field {
	FRAME_TAKES_TENANT = 1,
	FRAME_TAKES_SPACE = 2,
	FRAME_TAKES_TAG = 4,
	FRAME_TAKES_CURSOR = 8,
	FRAME_TAKES_VALUE = 16,
	FRAME_TAKES_GROUP = 32,
	FRAME_TAKES_HASHES = 64
};

struct frame_operate {
	struct frame_header header;
	char tenant[FRAME_NAME_BYTES]; /* "": all that the socket may see */
	uint8_t fingerprint[16];       /* all zero: any space */
	uint8_t tag[FRAME_TAG_BYTES];
	uint64_t cursor; /* 0: from the beginning */
	uint64_t value;
	uint32_t verb;
	uint16_t group;
	uint16_t count;
	/* hashes */
};

/* Name, verb and fields; not how many hashes follow. 0 or -EPROTO with the reason. */
must_check int frame_operate_check(const struct frame_operate *frame, struct error *error);
const char *frame_operate_name(unsigned verb);
/* enum frame_operate_field bits; `verb` < FRAME_OPERATE_VERBS. */
unsigned frame_operate_fields(unsigned verb);

#endif
