/*
 * proto/frames.h: the frames between libkvtier and kvtierd, one SOCK_SEQPACKET packet each.
 *
 * All integers little-endian (we build for little-endian machines only; checked in frames.c). A
 * request's reply carries its `request` number; events carry 0. Every frame of the daemon carries
 * its boot id, so that a client notices a restarted daemon at the next frame. A frame is copied out
 * of the socket before it is looked at; frame_check() says whether its type, size and counts agree,
 * and the readers below may then index without looking again. A frame that fails is answered by
 * FRAME_ERROR with -EPROTO and the reason, and the connection is closed.
 *
 * A client has two connections: *control* (HELLO, REGISTER; lookups, hints, admin), used by the
 * callers themselves, and *data* (HELLO, ATTACH; STORE, COMMIT, LOAD, RELEASE: frames_blocks.h),
 * used by its copy thread, which ATTACHED gives the descriptors of arena (read-only) and window.
 */
#ifndef KVTIER_PROTO_FRAMES_H
#define KVTIER_PROTO_FRAMES_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAME_MAGIC 0x3154564bu /* "KVT1" */
#define FRAME_VERSION_MIN 1u
#define FRAME_VERSION_MAX 1u
#define FRAME_BYTES_MAX (96u << 10)
#define FRAME_KEYS_MAX 1024u         /* keys of one frame */
#define FRAME_LOOKUP_KEYS_MAX 65536u /* keys of one lookup, over its frames */
#define FRAME_GROUPS_MAX 16u
#define FRAME_FIELDS_MAX 32u
#define FRAME_FIELD_BYTES_MAX 1024u
#define FRAME_TAG_BYTES 16u
#define FRAME_HASH_BYTES 32u
#define FRAME_NAME_BYTES 64u /* NUL-terminated inside */
#define FRAME_TEXT_BYTES_MAX (64u << 10)
#define FRAME_SEGMENTS_MAX 256u
#define FRAME_RUNS_MAX 64u

enum frame_type {
	/* requests; the reply's type is in the comment */
	FRAME_HELLO = 1,     /* HELLO_REPLY */
	FRAME_REGISTER,      /* REGISTERED */
	FRAME_ATTACH,        /* ATTACHED, with 2 descriptors: arena (read-only), window */
	FRAME_CANARY,        /* DONE: the daemon saw in the window what the client wrote there */
	FRAME_SPACE,         /* SPACE_REPLY: the space of an adapter */
	FRAME_LOOKUP,        /* FOUND, for the frame with FRAME_LAST */
	FRAME_LEASE_RELEASE, /* no reply */
	FRAME_STORE,         /* STORE_REPLY; then COMMITTED events */
	FRAME_COMMIT,        /* no reply; COMMITTED events */
	FRAME_LOAD,          /* no reply; LOADED events */
	FRAME_RELEASE,       /* no reply */
	FRAME_CANCEL,        /* no reply: what is under way of the batch still ends by its events */
	FRAME_HINT,          /* HINT_REPLY */
	FRAME_FORGET,        /* DONE, once durable */
	FRAME_STATS,         /* TEXT: JSON */
	FRAME_EXPLAIN,       /* EXPLAINED */
	FRAME_BYPASS,        /* DONE */
	FRAME_OPERATE,       /* TEXT: JSON; only to a daemon with FRAME_FEATURE_OPERATE */
	FRAME_LEND,          /* LENT, with a descriptor; only to a daemon with FRAME_FEATURE_PULL */
	/* frames_peers.h; only to a daemon with FRAME_FEATURE_PEERS */
	FRAME_FETCH,         /* FETCHING, or ERROR, for the last LOOKUP of its keys */
	FRAME_FETCH_WAIT,    /* FOUND */
	FRAME_FETCH_END,     /* no reply */
	FRAME_TICKET,        /* TICKETED, or ERROR, for the last LOOKUP of its keys */
	FRAME_REQUESTS_END,
	/* replies and events */
	FRAME_HELLO_REPLY = 64,
	FRAME_REGISTERED,
	FRAME_ATTACHED,
	FRAME_DONE, /* header only: result */
	FRAME_SPACE_REPLY,
	FRAME_FOUND,
	FRAME_STORE_REPLY,
	FRAME_COMMITTED,
	FRAME_LOADED,
	FRAME_HINT_REPLY,
	FRAME_TEXT,
	FRAME_EXPLAINED,
	/* result and a sentence; of a request, or (request 0) the last frame of the connection */
	FRAME_ERROR,
	FRAME_LENT,
	FRAME_COPIED, /* an event, before COMMIT of a block that the daemon pulls */
	FRAME_FETCHING,
	FRAME_TICKETED,
	FRAME_TYPES_END
};

/* hello_reply.features: what a daemon of the same version may lack. */
#define FRAME_FEATURE_OPERATE UINT64_C(1)
#define FRAME_FEATURE_PULL UINT64_C(2) /* it has GPUs that are not off */
#define FRAME_FEATURE_PEERS UINT64_C(4) /* it has peers */

/* flags */
#define FRAME_LAST 1u /* the last frame of a lookup */
#define FRAME_PULL 2u /* STORE, LOAD: between memory that was lent and the arena */
#define FRAME_REMOTE 4u /* LOOKUP: it names keys of the FETCH or TICKET before it */

struct frame_header {
	uint32_t magic;
	uint16_t type;
	uint16_t flags;
	uint32_t bytes;   /* of the whole frame */
	int32_t result;   /* replies: 0 or a negative errno */
	uint64_t request; /* of the asker; echoed */
	uint64_t boot_id; /* replies and events; requests: what the client believes, 0: none yet */
};

enum frame_connection { FRAME_CONTROL, FRAME_DATA };

struct frame_hello {
	struct frame_header header;
	uint32_t version_min, version_max;
	uint64_t features;
	uint32_t pid;
	uint32_t connection; /* enum frame_connection */
};

struct frame_hello_reply {
	struct frame_header header;
	uint32_t version;
	uint32_t keys_max; /* of a lookup */
	uint64_t features;
	uint64_t window_bytes; /* of a data connection */
	uint64_t lease_us_max;
	uint32_t batches_max; /* STORE and LOAD batches at once on one connection */
	uint32_t load_window_blocks;
	char tenant[FRAME_NAME_BYTES];
};

enum frame_group_kind {
	FRAME_GROUP_FULL,
	FRAME_GROUP_WINDOW,
	FRAME_GROUP_STATE,
	FRAME_GROUP_KINDS
};

struct frame_group {
	uint32_t kind;
	uint32_t tokens_per_block;
	uint64_t payload_bytes;  /* of one shard of a block */
	uint32_t segments_count; /* 1..256 */
	uint32_t window_tokens;  /* WINDOW: how many tokens before a position must be there */
};

/* The typed fields of a space. Values are bytes; absent and empty are the same. MODEL_CONTENT is
 * required. */
enum frame_field_id {
	FRAME_FIELD_MODEL_CONTENT = 1,
	FRAME_FIELD_DTYPE,
	FRAME_FIELD_QUANTISATION,
	FRAME_FIELD_LAYOUT,
	FRAME_FIELD_SPLIT /* "tp=2,pp=1,dcp=1" */,
	FRAME_FIELD_SPECULATION,
	FRAME_FIELD_HASH_ALGORITHM,
	FRAME_FIELD_HASH_SEED,
	FRAME_FIELD_WEIGHTS_VERSION,
	FRAME_FIELD_ADAPTER /* set by SPACE only */,
	FRAME_FIELD_IDS
};

enum frame_role { FRAME_ROLE_SCHEDULER = 1, FRAME_ROLE_WORKER = 2 }; /* bits */

struct frame_register {
	struct frame_header header;
	char engine[FRAME_NAME_BYTES]; /* the same for all ranks of an engine */
	uint32_t roles;
	uint16_t shard, world; /* world 1..64; a scheduler without the worker role names shard 0 */
	uint16_t groups_count;
	uint16_t fields_count;
	uint32_t fields_bytes;
	/* struct frame_group groups[groups_count]; then fields: u16 id, u16 bytes, bytes; ascending
	 * ids, each once */
};

struct frame_registered {
	struct frame_header header;
	uint8_t fingerprint[16];
	uint64_t engine_token;  /* for ATTACH */
	uint32_t space;         /* handle; good while this boot id lives */
	uint32_t ranks_missing; /* LOOKUP answers -EAGAIN (not ready) until 0 */
};

struct frame_attach {
	struct frame_header header;
	uint64_t engine_token;
};

struct frame_attached {
	struct frame_header header;
	uint64_t arena_bytes;        /* of the whole mapping */
	uint64_t arena_units_offset; /* offsets in LOADED count from here */
	uint64_t canary_offset;
	uint64_t window_bytes;
	uint32_t canary_crc; /* CRC32C of the 64 bytes at canary_offset of the arena */
	uint32_t reserved;
};

struct frame_canary {
	struct frame_header header;
	uint32_t crc; /* of the 64 bytes the client wrote at offset 0 of the window */
	uint32_t reserved;
};

struct frame_space {
	struct frame_header header;
	uint32_t space; /* the base */
	uint32_t reserved;
	uint8_t adapter[32]; /* digest of the adapter's content */
};

struct frame_space_reply {
	struct frame_header header;
	uint8_t fingerprint[16];
	uint32_t space;
	uint32_t reserved;
};

/*
 * The frames of one LOOKUP carry the same `request` and follow each other; only the last has
 * FRAME_LAST, and only it is answered. A LOOKUP frame of another request drops what was gathered
 * before. No sections: only asks whether the engine is ready (FOUND, or -EAGAIN).
 */
/* One group's keys inside a LOOKUP: this, then count * 32 bytes. */
struct frame_keys {
	uint32_t first_position; /* of this frame's first key of the group */
	uint16_t group;
	uint16_t count;
};

struct frame_lookup {
	struct frame_header header; /* FRAME_LAST on the last one */
	uint8_t tag[FRAME_TAG_BYTES];
	uint32_t space;
	uint32_t sections_count;
	uint64_t lease_us; /* wanted; 0: no lease */
	/* prefill seconds: a + b u + c u (p + u / 2); all 0: load everything usable */
	double cost_a, cost_b, cost_c;
	/* sections: struct frame_keys, then its hashes, each; at most FRAME_KEYS_MAX keys in all */
};

struct frame_run {
	uint32_t tokens;
	uint32_t restore_us;
	uint32_t tier; /* enum tier_id */
	uint32_t reserved;
};

struct frame_found {
	struct frame_header header;
	uint64_t lease; /* 0: none */
	uint64_t lease_us;
	uint32_t usable_tokens;
	uint32_t worth_tokens; /* leading tokens that are worth loading */
	uint32_t keys_count;   /* over all frames, in the order sent */
	uint32_t runs_count;
	/* struct frame_run runs[runs_count]; then a bit a key: present */
};

struct frame_lease_release {
	struct frame_header header;
	uint64_t lease;
};

enum frame_hint_kind {
	FRAME_HINT_END,
	FRAME_HINT_RETAIN,
	FRAME_HINT_PREFETCH,
	FRAME_HINT_PIN,
	FRAME_HINT_TOUCH,
	FRAME_HINTS
};
enum frame_hint_outcome {
	FRAME_HINT_ACCEPTED,
	FRAME_HINT_CLIPPED,
	FRAME_HINT_DEFERRED,
	FRAME_HINT_REJECTED
};

struct frame_hint {
	struct frame_header header;
	uint8_t tag[FRAME_TAG_BYTES];
	uint64_t retain_us; /* RETAIN, PIN */
	uint32_t space;
	uint32_t kind;
	uint16_t group;
	uint16_t count;
	uint32_t reserved;
	/* hashes */
};

struct frame_hint_reply {
	struct frame_header header;
	uint64_t lease; /* PIN */
	uint32_t outcome;
	uint32_t blocks; /* that it took effect on */
};

struct frame_forget {
	struct frame_header header;
	uint8_t fingerprint[16]; /* all zero: `space` counts */
	uint32_t space;          /* UINT32_MAX: everything of the tenant */
	uint32_t reserved;
};

struct frame_explain {
	struct frame_header header;
	uint8_t fingerprint[16]; /* all zero: `space` counts */
	uint32_t space;
	uint16_t group;
	uint16_t count;
	/* hashes */
};

enum frame_reason {
	FRAME_REASON_HIT_CPU,
	FRAME_REASON_HIT_NVME,
	FRAME_REASON_NEVER_STORED /* or gone so long that nothing is known */,
	FRAME_REASON_EVICTED,
	FRAME_REASON_FORGOTTEN,
	FRAME_REASON_FILLING,
	FRAME_REASON_SHARDS_MISSING,
	FRAME_REASON_DAMAGED,
	FRAME_REASON_REFUSED,
	FRAME_REASON_BYPASSED,
	FRAME_REASON_NO_SPACE,
	FRAME_REASON_KEY_MISSING /* it lies on nvme, enciphered by a key that is not here */,
	FRAME_REASON_IN_CLEAR /* it lay on nvme in the clear while encryption is on */,
	FRAME_REASONS
};

struct frame_explained_item {
	uint32_t reason;
	uint32_t shards_present;
	uint64_t age_us; /* since what `reason` says happened; 0: not known */
};

struct frame_explained {
	struct frame_header header;
	uint32_t count;
	uint32_t reserved;
};

enum frame_bypass_mode {
	FRAME_BYPASS_OFF,
	FRAME_BYPASS_ON,
	FRAME_BYPASS_OBSERVE,
	FRAME_BYPASS_MODES
};

struct frame_bypass {
	struct frame_header header;
	char tenant[FRAME_NAME_BYTES]; /* "": all (admin socket), or the socket's own */
	uint8_t fingerprint[16];       /* not all zero: this space only */
	uint32_t mode;
	uint32_t reserved;
};

struct frame_text {
	struct frame_header header; /* TEXT, ERROR: the text follows, without a NUL */
};

/*
 * The frame's type and size agree, all counts are within the limits and inside the frame, names end
 * in a NUL, enums are in range. A reply with a negative result says nothing but its header (its
 * fixed part is there, counts are 0). `frame` is aligned to 8 bytes. `from_daemon`: replies and
 * events; else requests. 0 or -EPROTO with the reason.
 */
must_check int frame_check(const void *frame, size_t bytes, bool from_daemon, struct error *error);
const char *frame_type_name(unsigned type);
const char *frame_reason_name(unsigned reason);

/* Fills a header for a frame of `bytes` bytes. */
void frame_start(struct frame_header *header, enum frame_type type, uint32_t bytes,
		 uint64_t request, uint64_t boot_id);

/* What follows the fixed part; the frame has passed frame_check(). Borrowed from the frame. */
const struct frame_group *frame_register_groups(const struct frame_register *frame);
const uint8_t *frame_register_fields(const struct frame_register *frame);
/* Steps through a LOOKUP's sections: *position starts at 0. NULL at the end. */
const struct frame_keys *frame_lookup_next(const struct frame_lookup *frame, size_t *position,
					   const uint8_t (**out_hashes)[FRAME_HASH_BYTES]);

#endif
