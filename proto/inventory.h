/*
 * proto/inventory.h: what a node says of the blocks that it keeps, for who decides where requests
 * go. Read by many, from any version of ours, over a wire that may lose, repeat and change it.
 *
 * A message has three frames, as vLLM's KV events have: topic (INVENTORY_TOPIC), sequence (8 bytes,
 * the most significant first), payload. The payload is msgpack:
 *   [version, boot, epoch, time_us, [statement, ...]]
 * boot: of the daemon; epoch: raised whenever what was said before is not to be relied on, as a
 * part of it was lost: whoever follows takes a snapshot. Sequences begin at 0 with each epoch, and
 * count by one. time_us: of the node's own clock, which has no date. Statements:
 *   [INVENTORY_SPACE, number, fingerprint (16 bytes)]  in this message the number means this
 *                                                      space; before the first of its statements
 *   [INVENTORY_SET, number, tiers, route keys]         each lies in these tiers now; 0: in none.
 *                                                      8 bytes each, the least significant first
 *   [INVENTORY_DIGEST, number, entries, digest]        what the space has at this place
 *   [INVENTORY_FIGURE, tier, figure, value]            see enum inventory_figure
 *   [INVENTORY_ENGINE, tenant, name, tokens, numbers]  an engine that is attached now: tokens of a
 *                                                      block; its spaces (4 bytes each, the least
 *                                                      significant first), an adapter's behind the
 *                                                      one without; said each second
 *   [INVENTORY_PIECE, first, next, end]                the last one of a piece of a snapshot: it
 *                                                      has what lies from `first` to below `next`
 * Who reads passes over statements of kinds it does not know, and over items behind those it knows.
 *
 * Questions go to a socket of their own: frames [identity,] "", question. Two kinds:
 * 8 bytes, as vLLM has it: the messages from this sequence on, at most INVENTORY_REPLAY_MAX; each
 * comes as "", topic, sequence, payload, and then one with sequence -1 and no payload. That one
 * alone: the first of them is not kept any more, and only a snapshot helps.
 * Msgpack [INVENTORY_ASK, cursor]: pieces of a snapshot from there on (0: the beginning), each a
 * message whose sequence is that of the last message before it: who has followed up to there, and
 * then takes the piece, has neither too much nor too little. At most INVENTORY_PIECES_MAX come;
 * `next` of the last one is the cursor of the next question, and equals `end` when there is no
 * more.
 */
#ifndef KVTIER_PROTO_INVENTORY_H
#define KVTIER_PROTO_INVENTORY_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define INVENTORY_TOPIC "kvtier"
#define INVENTORY_VERSION 1u
#define INVENTORY_SPACE_BYTES 16u
#define INVENTORY_PAYLOAD_BYTES_MAX 65536u
#define INVENTORY_KEYS_MAX 4096u            /* of a payload */
#define INVENTORY_NUMBERS_MAX 1024u         /* of spaces in a payload */
#define INVENTORY_NAME_BYTES_MAX 63u        /* of tenants and engines */
#define INVENTORY_ENGINE_SPACES_MAX 257u
#define INVENTORY_PIECES_MAX 64u
#define INVENTORY_REPLAY_MAX 512u
#define INVENTORY_SEQUENCE_BYTES 8u
#define INVENTORY_SEQUENCE_END UINT64_MAX

/* Where a block is; bits of `tiers`. */
#define INVENTORY_HBM 1u
#define INVENTORY_CPU 2u
#define INVENTORY_NVME 4u
#define INVENTORY_TIERS_ALL (INVENTORY_HBM | INVENTORY_CPU | INVENTORY_NVME)

enum inventory_kind {
	INVENTORY_SPACE,
	INVENTORY_SET,
	INVENTORY_DIGEST,
	INVENTORY_FIGURE,
	INVENTORY_PIECE,
	INVENTORY_ASK,
	INVENTORY_ENGINE,
	INVENTORY_KINDS
};

/* Of a tier: its bit; 0: of the node. */
enum inventory_figure {
	INVENTORY_LATENCY_NS,      /* before the first byte of a block, as measured */
	INVENTORY_BYTES_SECOND,    /* behind it, while it works */
	INVENTORY_QUEUE_BYTES,     /* asked for, and not yet there */
	INVENTORY_CAPACITY_BYTES,
	INVENTORY_USED_BYTES,
	INVENTORY_ENGINES,         /* attached to the daemon */
	INVENTORY_FIGURES
};

struct inventory_head {
	uint64_t boot, epoch, time_us;
};

/* What a digest is the sum of, over the keys of a space: nothing without a tier. */
uint64_t inventory_digest(uint64_t key, unsigned tiers);

/* ---- to say ---- */

/* A payload that is being written. Public for reading only. */
struct inventory_writer {
	uint8_t bytes[INVENTORY_PAYLOAD_BYTES_MAX];
	uint32_t used;
	uint32_t statements, numbers;
	/* The keys of a SET that is still open. */
	uint32_t set_at, set_space, set_tiers, set_keys, keys;
};

void inventory_begin(struct inventory_writer *writer, const struct inventory_head *head);
/* False, of all of them: it is full, and nothing was added: begin another. */
must_check bool inventory_say_space(struct inventory_writer *writer, uint32_t number,
				    const uint8_t fingerprint[INVENTORY_SPACE_BYTES]);
must_check bool inventory_say_set(struct inventory_writer *writer, uint32_t number, unsigned tiers,
				  uint64_t key);
must_check bool inventory_say_digest(struct inventory_writer *writer, uint32_t number,
				     uint64_t entries, uint64_t digest);
must_check bool inventory_say_figure(struct inventory_writer *writer, unsigned tier,
				     enum inventory_figure figure, uint64_t value);
/* Names as above, spaces_count of INVENTORY_ENGINE_SPACES_MAX at most; the spaces were said. */
must_check bool inventory_say_engine(struct inventory_writer *writer, const char *tenant,
				     const char *engine, uint32_t tokens_per_block,
				     const uint32_t *spaces, uint32_t spaces_count);
/* There is always room for it. */
void inventory_say_piece(struct inventory_writer *writer, uint64_t first, uint64_t next,
			 uint64_t end);
/* What was written, until the next begin. `out_bytes` of them. */
const uint8_t *inventory_end(struct inventory_writer *writer, uint32_t *out_bytes);

/* Returns its bytes; room for INVENTORY_ASK_BYTES_MAX. */
#define INVENTORY_ASK_BYTES_MAX 16u
uint32_t inventory_ask_write(uint8_t *out_question, uint64_t cursor);
/* False: it is no such question. */
must_check bool inventory_ask_read(const uint8_t *question, size_t bytes, uint64_t *out_cursor);

/* ---- to listen ---- */

struct inventory_statement {
	enum inventory_kind kind;
	uint32_t number;             /* of SPACE, SET, DIGEST */
	const uint8_t *fingerprint;  /* of SPACE */
	unsigned tiers;              /* of SET; of FIGURE: its tier */
	const uint8_t *keys;         /* of SET: not aligned; inventory_key() */
	uint32_t keys_count;
	const char *tenant, *engine; /* of ENGINE; not NUL-terminated */
	uint32_t tenant_bytes, engine_bytes, tokens_per_block;
	const uint8_t *spaces;       /* of ENGINE: not aligned; inventory_space() */
	uint32_t spaces_count;
	uint32_t figure;             /* of FIGURE; may be one that this version does not know */
	uint64_t values[3]; /* DIGEST: entries, digest; FIGURE: value; PIECE: first, next, end */
};

struct inventory_reader {
	const char *at, *end;
	uint32_t left;               /* statements */
};

/* The whole payload is checked before anything is given out. -EPROTO: it is none; `error` says
 * why. -ENOTSUP: of another version. */
must_check int inventory_read(struct inventory_reader *reader, const void *payload, size_t bytes,
			      struct inventory_head *out_head, struct error *error);
/* The next statement of a kind that is known: 1; 0: none is left; -EPROTO: one of a known kind
 * is not as it has to be. Points into the payload. */
must_check int inventory_next(struct inventory_reader *reader,
			      struct inventory_statement *out_statement);

static inline uint64_t inventory_key(const struct inventory_statement *statement, uint32_t n)
{
	uint64_t key = 0;

	for (unsigned i = 0; i < 8; i++)
		key |= (uint64_t)statement->keys[8 * (size_t)n + i] << (8 * i);
	return key;
}

static inline uint32_t inventory_space(const struct inventory_statement *statement, uint32_t n)
{
	const uint8_t *at = statement->spaces + 4 * (size_t)n;

	return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 |
	       (uint32_t)at[3] << 24;
}

#endif
