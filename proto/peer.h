/*
 * proto/peer.h: what two kvtierd say to each other on their control connection: a stream of
 * frames, one behind the other. Bytes of blocks go beside it (transfer/peer/transport.h).
 *
 * All integers little-endian. A frame is at most PEER_FRAME_BYTES_MAX. A peer is authenticated
 * before anything but HELLO, PROOF and REFUSED is read of it, and is hostile all the same:
 * peer_frame_check() says whether type, size, counts and enums agree, and the readers may then
 * index without looking again. A frame that fails ends the connection, with REFUSED and the
 * reason as the last frame.
 *
 * Who wants blocks *asks* (QUERY), the other side *grants* (GRANT, and later again as more get
 * there: bits only ever go up), the asker FETCHes items into places of its own, named by tags;
 * for each tag comes BLOCK (with the data beside it) or FAILED, exactly once, unless RELEASE or
 * ENDED comes first. FETCH may be sent before GRANT has come. Both sides may ask.
 */
#ifndef KVTIER_PROTO_PEER_H
#define KVTIER_PROTO_PEER_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PEER_FRAME_MAGIC 0x5054564bu /* "KVTP" */
#define PEER_VERSION_MIN 1u
#define PEER_VERSION_MAX 1u
#define PEER_FRAME_BYTES_MAX 4096u
#define PEER_NAME_BYTES 64u     /* NUL-terminated inside */
#define PEER_ITEMS_MAX 16384u   /* of a query, over its frames */
#define PEER_NONCE_BYTES 32u
#define PEER_NODE_BYTES 16u
#define PEER_ADDRESS_BYTES_MAX 2048u
#define PEER_TOKEN_BYTES 32u
#define PEER_TICKET_BYTES_MAX 1024u
#define PEER_FETCH_ITEMS_MAX 200u
/* Of struct slot_identity (transfer/slot_header.h): with one segment, with 256. */
#define PEER_IDENTITY_BYTES_MIN 188u
#define PEER_IDENTITY_BYTES_MAX 1208u

enum peer_frame_type {
	PEER_HELLO = 1, /* each side's first */
	PEER_PROOF,     /* each side's second */
	PEER_REFUSED,   /* result, a sentence; the connection ends */
	PEER_PING,      /* PONG with the same number */
	PEER_PONG,
	/* how our transport is reached, and the token that a link to it begins with */
	PEER_LINK,
	PEER_QUERY,
	PEER_GRANT,
	PEER_FETCH,
	PEER_BLOCK,
	PEER_FAILED,
	PEER_RENEW,     /* of a query: its grant lasts for lease_us from now */
	PEER_RELEASE,   /* the asker wants nothing of this query any more */
	PEER_ENDED,     /* the granter gives nothing of this query any more: result */
	PEER_FRAME_TYPES_END
};

struct peer_frame_header {
	uint32_t magic;
	uint16_t type;
	uint16_t flags;
	uint32_t bytes;  /* of the whole frame */
	int32_t result;  /* 0 or a negative errno */
	/* of the query: the asker's to choose, above all it has used in this session */
	uint64_t number;
};

#define PEER_FEATURE_ENCRYPT UINT64_C(1) /* data goes by AES-256-GCM; both sides, or refused */

struct peer_hello {
	struct peer_frame_header header;
	uint32_t version_min, version_max;
	uint64_t features;
	uint64_t boot_id;
	uint8_t node[PEER_NODE_BYTES];    /* of the state directory: the same in each life */
	uint8_t nonce[PEER_NONCE_BYTES];
	char name[PEER_NAME_BYTES];       /* for people */
	char release[32];                 /* "0.1.0", for people */
};

/* HMAC-SHA256 under a key derived from the cluster's secret and both nonces, over a label with
 * the sender's part (connects, accepts), both HELLOs, and, with TLS, its exporter's bytes. */
struct peer_proof {
	struct peer_frame_header header;
	uint8_t mac[32];
};

/* A sentence follows, without a NUL. */
struct peer_refused {
	struct peer_frame_header header;
};
struct peer_ping {
	struct peer_frame_header header;
};

struct peer_link_frame {
	struct peer_frame_header header;
	char transport[16];               /* "tcp", "ucx" */
	uint8_t token[PEER_TOKEN_BYTES];
	uint32_t address_bytes;
	uint32_t reserved;
	/* the transport's own address */
};

#define PEER_QUERY_LAST 1u   /* header.flags: the query's last frame: it is answered */
#define PEER_QUERY_STREAM 2u /* blocks that are not there yet are waited for, to the deadline */

struct peer_item {
	uint8_t hash[32];
	uint32_t position;
	uint16_t group;
	uint16_t reserved;
};

struct peer_query {
	struct peer_frame_header header;
	char tenant[PEER_NAME_BYTES];
	uint8_t fingerprint[16];          /* of the space */
	uint64_t wait_us;                 /* from its arrival: nothing is wanted later */
	uint16_t ticket_bytes;            /* the first frame only; else 0 */
	uint16_t items_count;
	uint32_t reserved;
	/* the ticket, padded to 8 bytes; struct peer_item items[items_count] */
};

#define PEER_GRANT_FINAL 1u  /* header.flags: no more of the query will be granted */

struct peer_grant {
	/* result: refused, nothing more comes; a sentence follows instead of bits */
	struct peer_frame_header header;
	uint64_t lease_us;                /* from now; RENEW before it is over */
	uint32_t items_count;             /* of the query */
	uint32_t shards_count;            /* of each block */
	/* a bit an item: all its shards are here and held for this query */
};

struct peer_fetch_item {
	uint64_t tag;                     /* the asker's; not 0, not in use */
	uint32_t item;
	uint32_t shard;
};
struct peer_fetch {
	struct peer_frame_header header;
	uint32_t count;
	uint32_t reserved;
	/* struct peer_fetch_item items[count] */
};

/* Before, beside or behind its data. */
struct peer_block {
	struct peer_frame_header header;
	uint64_t tag;
	uint32_t identity_bytes;          /* as far as its last used segment checksum */
	uint32_t reserved;
	/* struct slot_identity (transfer/slot_header.h): opaque to this codec but for its length,
	 * 152..1176 */
};

struct peer_failed {
	struct peer_frame_header header;  /* result: why */
	uint64_t tag;
};

/*
 * Type, size, counts and flags agree, names end in a NUL, reserved fields are zero. `bytes`: what
 * is there of the stream, from the frame's first byte on, aligned to 8. > 0: the frame's bytes,
 * all there and checked; 0: it is not whole yet; -EPROTO with the reason.
 */
must_check int peer_frame_check(const void *frame, size_t bytes, struct error *error);
const char *peer_frame_type_name(unsigned type);
/* Fills a header for a frame of `bytes` bytes. */
void peer_frame_start(struct peer_frame_header *header, enum peer_frame_type type, uint32_t bytes,
		      uint64_t number);

/* What follows the fixed part; the frame has passed peer_frame_check(). Borrowed from the frame. */
const char *peer_query_ticket(const struct peer_query *query);
const struct peer_item *peer_query_items(const struct peer_query *query);
/* Whether an item of the query is granted; only where result is 0. */
bool peer_grant_has(const struct peer_grant *grant, uint32_t item);
const struct peer_fetch_item *peer_fetch_items(const struct peer_fetch *fetch);
/* REFUSED, and GRANT with a result: a sentence, without a NUL. */
const char *peer_frame_text(const void *frame, size_t *out_bytes);

#endif
