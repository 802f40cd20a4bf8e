/*
 * daemon/peers.h: other nodes, as the loop sees them: who they are, what we want of them
 * (fetch.h), and what we give them (grant.h).
 *
 * Runs on: the loop thread. Limits: PEER_SESSIONS_MAX nodes, FETCHES_MAX fetches with
 * ARRIVALS_MAX blocks on their way, GRANTS_MAX grants with SENDS_MAX blocks asked for. All memory
 * is taken by peers_create().
 */
#ifndef KVTIER_DAEMON_PEERS_H
#define KVTIER_DAEMON_PEERS_H

#include "base/list.h"
#include "daemon/daemon.h"
#include "daemon/peer_ops.h"
#include "daemon/tier_speed.h"
#include "proto/frames_peers.h"

#define PEER_ADDRESS_TEXT_BYTES 128u
#define PEER_REASON_BYTES 160u

/* Who names a node that we connect to. */
enum peer_source {
	PEER_BY_SETTING = 1,
	PEER_BY_FILE = 2,
	PEER_BY_DNS = 4,
	PEER_BY_TICKET = 8  /* some time ago */
};

/* One node. By its session's number. */
struct peer {
	bool is_used;
	bool is_up;
	bool is_asked;          /* we connect to it */
	unsigned wanted_by;     /* enum peer_source, bits; 0: let go of once idle */
	uint32_t session, life;
	char address[PEER_ADDRESS_TEXT_BYTES]; /* that we connect to; else where it came from */
	char reason[PEER_REASON_BYTES];        /* why it is not up; "" */
	struct peer_hello hello;               /* once it was up */
	uint64_t since_us;                     /* up, or not */
	uint64_t visited_us;                   /* by a ticket, last */
	uint32_t ups;
	struct tier_speed speed;               /* of blocks that came from it */
	uint64_t fetched_blocks, fetched_bytes, failed_blocks, refused_blocks;
	uint64_t sent_blocks, sent_bytes;
	unsigned grants_count, sends_count;
};

/* Keys of a request, in the order given: sections of one group one behind the other. */
struct peer_key {
	uint8_t hash[BLOCK_HASH_BYTES];
	uint32_t position;
	uint32_t item;          /* fetch: its place in the query; grant: in the ticket */
	uint16_t group;
	uint8_t state;
	uint8_t shards_left;
	uint64_t shards_asked;  /* grant for a ticket: each once, by its bit */
	bool is_spoilt;         /* fetch: one of its shards cannot come */
};

/* How a fetch ended, as figures tell it. */
enum fetch_outcome {
	FETCH_GIVEN,
	FETCH_NOTHING,
	FETCH_REFUSED,
	FETCH_UNREACHABLE,
	FETCH_LATE,
	FETCH_CANCELLED,
	FETCH_OUTCOMES
};

struct fetches;
struct grants;
struct tickets;
struct peer_secrets;

/* What tickets are made of and read by. */
struct peer_self {
	uint8_t node[PEER_NODE_BYTES];
	char address[PEER_ADDRESS_TEXT_BYTES]; /* at which others reach us; "": not known */
	const struct peer_secrets *secrets;    /* borrowed; NULL: no ticket is any good */
	bool gives_for_tickets_only;
};

struct peers {
	struct daemon *daemon;
	const struct peer_ops *ops;
	void *room;
	struct peer peers[PEER_SESSIONS_MAX];
	struct fetches *fetches;
	struct grants *grants;
	struct tickets *tickets;
	struct peer_self self;
	char itself[PEER_ADDRESS_TEXT_BYTES]; /* an address that turned out to be our own */
	uint64_t idle_us;       /* when those whom nobody wants are looked for again */
	uint64_t sessions_ever;
	uint64_t fetches_ended[FETCH_OUTCOMES];
	uint64_t sent_blocks, sent_bytes;
	uint64_t tickets_issued, tickets_redeemed, tickets_refused;
	uint64_t wrong_blocks;  /* that came, and were not what they should be */
	uint64_t wrong_frames;  /* frames of peers that make no sense */
};

extern const struct peer_events peer_events;

/* ops NULL: there are no other nodes, and daemon->peers stays NULL. */
must_check int peers_create(struct daemon *daemon, const struct peer_ops *ops, void *room,
			    struct error *error);
/* After the ops have given every transfer back. */
void peers_destroy(struct daemon *daemon);
bool peers_step(struct daemon *daemon);
/* Blocks are on their way to us or from us. */
bool peers_are_busy(const struct daemon *daemon);
/* Something of them has a deadline. */
bool peers_have_deadlines(const struct daemon *daemon);
/* By the address that a setting or a ticket names. NULL: none is known under it. */
struct peer *peers_find(struct daemon *daemon, const char *address);
/* `bytes` came from it within `us`, beside `beside` other blocks. */
void peer_speed_learn(struct peer *peer, uint64_t bytes, uint64_t us, unsigned beside);
/* Begins to connect to it, unless it is known. NULL: too many nodes, or no address. */
struct peer *peers_want(struct daemon *daemon, const char *address, enum peer_source source);
/* These sources (bits) name it no more. A node that nobody names is let go of once nothing is
 * wanted of it, or by it. */
void peers_unwant(struct peer *peer, unsigned sources);

#endif
