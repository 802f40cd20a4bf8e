/* daemon/fetch_parts.h: what the files of fetches share; for those alone. */
#ifndef KVTIER_DAEMON_FETCH_PARTS_H
#define KVTIER_DAEMON_FETCH_PARTS_H

#include "daemon/fetch.h"

enum fetch_state {
	FETCH_FREE,
	FETCH_GATHERING,  /* its keys are being named */
	FETCH_CONNECTING, /* until the peer is up */
	FETCH_ASKING,     /* some frames of the query were not taken yet */
	FETCH_ASKED,
	FETCH_SWITCHING,  /* the first gives no more; its arrivals end, then the second is asked */
	/* nothing comes any more; it answers FETCH_WAIT, and waits for its arrivals */
	FETCH_OVER
};

enum fetch_key_state {
	FETCH_KEY_HERE,     /* it was, when the keys were named */
	FETCH_KEY_ASKED,
	FETCH_KEY_GRANTED,
	FETCH_KEY_ARRIVING,
	FETCH_KEY_SECOND,   /* the first peer does not give it: the second is to be asked */
	FETCH_KEY_DONE,     /* it came */
	FETCH_KEY_LOST
};

struct fetch_group {
	uint64_t payload_bytes;
	uint32_t segments_count, tokens_per_block;
	bool is_full;
};

struct fetch {
	struct list_node link;
	enum fetch_state state;
	uint64_t id;
	struct session *session;       /* NULL: its engine has gone */
	struct tenant *tenant;
	uint32_t space;
	uint8_t fingerprint[SPACE_ID_BYTES];
	struct fetch_group groups[FRAME_GROUPS_MAX];
	unsigned groups_count;
	uint16_t world;
	struct peer *peer;             /* NULL: none; then nothing is asked */
	struct peer *second;           /* NULL: none, or it is `peer` by now */
	uint32_t second_count;         /* keys SECOND */
	uint32_t life;                 /* of the peer, since it was asked */
	uint64_t number;               /* of the query */
	uint32_t ticket_bytes;         /* 0: none */
	char ticket[FRAME_TICKET_BYTES_MAX];
	bool is_stream;
	bool is_eager;                 /* its blocks were asked for before they were granted */
	bool holds_space;
	bool is_answered;              /* what the peer gives is known */
	bool is_released;              /* the peer was told that nothing is wanted any more */
	uint64_t deadline_us;
	uint64_t await_us;             /* CONNECTING: until then */
	uint64_t lease_us, renew_us;   /* of the grant: how long it lasts, when to renew it */
	int result;                    /* why the peer gives nothing; 0 */
	/* a FETCH_WAIT that waits; request 0: none */
	uint64_t wait_request, wait_until_us;
	/* of the answer */
	struct frame_lookup ask;       /* tag, lease_us, costs */
	uint32_t sections_count;
	struct lookup_section sections[FETCH_SECTIONS_MAX];
	uint32_t count;                /* keys */
	uint32_t asked_count, asked_sent;
	uint32_t next;                 /* keys before it cannot begin */
	uint32_t came_count;           /* keys DONE */
	uint32_t open_count;           /* keys ASKED, GRANTED or ARRIVING */
	unsigned arrivals_count;
	uint64_t arriving_bytes;
	struct list parked;            /* load items that wait for a key */
	uint32_t asked[PEER_ITEMS_MAX]; /* the key of each item of the query */
	uint32_t places[2 * PEER_ITEMS_MAX]; /* a table: key + 1 by its hash; 0: none */
	struct peer_key keys[PEER_ITEMS_MAX];
};

enum arrival_state {
	ARRIVAL_FREE,
	ARRIVAL_COMING,  /* the network may write into its slot */
	ARRIVAL_CHECKED, /* a mill looks at it */
	ARRIVAL_HERE     /* its bytes are there; BLOCK has not come yet */
};

/* One shard of a key, in a FILLING cpu slot. */
struct arrival {
	struct list_node link;
	enum arrival_state state;
	struct fetch *fetch;
	struct peers *peers;
	uint64_t tag;
	uint32_t key, shard;
	uint32_t entry, slot, generation;
	uint32_t slot_bytes;
	uint64_t began_us;
	struct slot_header *memory;
	struct slot_address address;
	bool has_block;          /* the identity has come */
	bool is_stopped;
	int result;
	struct slot_identity identity;
	struct peer_transfer transfer;
	struct mill_op mill;
};

struct fetches {
	struct list free, live;
	struct list arrivals_free, arrivals;
	uint64_t ids, tags;
	struct arrival pool[ARRIVALS_MAX];
	struct fetch fetches[FETCHES_MAX];
};

/* Its peer is not up. */
void fetch_peer_await(struct peers *peers, struct fetch *fetch);
/* Whether there is somebody else to ask, for whom it is not too late. */
bool fetch_has_second(const struct peers *peers, const struct fetch *fetch);
/* The first peer has ended, or gives nothing: what it did not give is the second's. */
void fetch_second_take(struct peers *peers, struct fetch *fetch);
/* Nothing of the first is on its way any more: the second is asked for the rest, as if nobody had
 * been asked before. */
void fetch_second_ask(struct peers *peers, struct fetch *fetch);
/* Its peer is up: it is asked. */
void fetch_open(struct peers *peers, struct fetch *fetch);
/* Its peer is told that nothing more is wanted; again, if it could not be told now. */
void fetch_release_say(struct peers *peers, struct fetch *fetch);
/* A key has ended: who waits for it is told. */
void fetch_key_end(struct peers *peers, struct fetch *fetch, uint32_t key, bool is_here);
/* Nothing is wanted of the peer any more; what is on its way is stopped. */
void fetch_end(struct peers *peers, struct fetch *fetch, int result);
/* The key by its hash, or UINT32_MAX. */
uint32_t fetch_key_find(const struct fetch *fetch, uint16_t group, const uint8_t *hash);
void fetch_key_index(struct fetch *fetch, uint32_t key);
/* Begins as many arrivals as the window allows. */
bool fetch_arrivals_begin(struct peers *peers, struct fetch *fetch);
struct arrival *fetch_arrival_find(struct peers *peers, const struct peer *peer, uint64_t tag);
void fetch_arrivals_stop(struct peers *peers, struct fetch *fetch);
/* Load items that wait for this key look again. */
void fetch_wake(struct fetch *fetch, uint32_t key);
/* FOUND, with what is on its way. */
void fetch_answer(struct fetch *fetch);

#endif
