/*
 * proto/frames_peers.h: frames about blocks of other nodes: FETCH brings them here.
 *
 * FETCH begins a list of keys and is not answered itself: LOOKUP frames with FRAME_REMOTE follow
 * it on the same connection and name the keys, and the one with FRAME_LAST is answered, by
 * FETCHING, or ERROR with the reason. Its tag, costs and lease are those of FOUND, which answers
 * FETCH_WAIT. TICKET begins a list of keys in the same way, and is answered by TICKETED.
 */
#ifndef KVTIER_PROTO_FRAMES_PEERS_H
#define KVTIER_PROTO_FRAMES_PEERS_H

#include "proto/frames.h"

#define FRAME_PEER_BYTES 128u            /* "host:port", NUL-terminated inside */
#define FRAME_TICKET_BYTES_MAX 1024u
#define FRAME_FETCH_KEYS_MAX 16384u      /* over all frames */

enum frame_fetch_mode {
	FRAME_FETCH_PRESENT,             /* what is there now */
	FRAME_FETCH_STREAM,              /* also what gets there before the deadline */
	FRAME_FETCH_MODES
};

struct frame_fetch {
	struct frame_header header;
	char peer[FRAME_PEER_BYTES];     /* "": the ticket says where */
	char second[FRAME_PEER_BYTES];   /* asked for what that one does not give; "": nobody */
	uint64_t wait_us;                /* from now: what is not here then does not come */
	uint32_t mode;                   /* enum frame_fetch_mode */
	uint32_t ticket_bytes;           /* 0: none */
	/* the ticket's text */
};

struct frame_fetching {
	struct frame_header header;
	uint64_t fetch;                  /* for WAIT and END */
};

/* FOUND, once it is known what the other node gives, or at the latest after wait_us, with -EAGAIN.
 * Tokens that come are usable, in a run of FRAME_TIER_PEER. */
struct frame_fetch_wait {
	struct frame_header header;
	uint64_t fetch;
	uint64_t wait_us;
};

/* A promise of the keys that follow, to one other node, which names it in FETCH. */
struct frame_ticket {
	struct frame_header header;
	uint64_t keep_us;                /* from now: what is not asked for then is not given */
};

struct frame_ticketed {
	struct frame_header header;
	char text[FRAME_TICKET_BYTES_MAX]; /* NUL-terminated inside */
};

#define FRAME_TIER_PEER 2u               /* frame_run.tier: on its way from another node */

/* No reply. What is on its way is given up; blocks that are here stay. */
struct frame_fetch_end {
	struct frame_header header;
	uint64_t fetch;
};

#endif
