/*
 * daemon/tickets.h: promises of blocks to other nodes (proto/ticket.h): issued to our engines,
 * redeemed by the nodes that come with them.
 *
 * A ticket is a right, not a lease: what it names may be on its way here still, may be evicted
 * before anybody asks, and is held from its redemption on, by the grant. The first node that comes
 * with it is the only one; each block is given once; it ends at its time, when all was given, or
 * with this life.
 * Runs on: the loop thread. Limits: TICKETS_MAX, with TICKET_CHUNKS_MAX * TICKET_CHUNK_KEYS keys in
 * all; shared out evenly among tenants. All memory is taken by tickets_create().
 */
#ifndef KVTIER_DAEMON_TICKETS_H
#define KVTIER_DAEMON_TICKETS_H

#include "daemon/peers.h"
#include "daemon/session.h"
#include "proto/ticket.h"

#define TICKET_CHUNK_KEYS 64u
#ifdef KVTIER_SMALL /* tests/sim: pools that run empty */
#define TICKETS_MAX 8u
#define TICKET_CHUNKS_MAX 16u
#else
#define TICKETS_MAX 4096u
#define TICKET_CHUNKS_MAX 16384u
#endif
#define TICKET_KEY_NONE UINT32_MAX

struct promise;

must_check int tickets_create(struct peers *peers, struct error *error);
void tickets_destroy(struct tickets *tickets);
/* Those that are open, expired ones included until their place is wanted. */
unsigned tickets_count(const struct peers *peers);

/* ---- the engine's side ---- */

/* Its keys follow, by LOOKUPs with FRAME_REMOTE. */
void ticket_frame(struct session *session, const struct frame_ticket *frame);
/* Of the ticket that is being named. 0; -E2BIG: no room for them. */
must_check int ticket_key_add(struct peers *peers, struct promise *promise, uint16_t group,
			      const uint8_t *hash);
/* TICKETED. All its keys were named. */
void ticket_issue(struct session *session, struct promise *promise,
		  const struct frame_lookup *last);
/* It is not issued after all. */
void ticket_drop(struct peers *peers, struct promise *promise);

/* A ticket of any node of our cluster: 0, or why it is of no use, with a sentence. */
must_check int ticket_check(const struct peers *peers, const char *text, size_t bytes,
			    struct ticket *out_ticket, const char **out_reason);

/* ---- the other node's side ---- */

/* Who comes with which text, for what. */
struct ticket_claim {
	const struct peer *peer;
	const struct peer_query *query;
	const char *text;
	size_t bytes;
};

/* 0: it is good, and from now on that node's alone; else why it is not. */
must_check int ticket_redeem(struct peers *peers, const struct ticket_claim *claim,
			     struct promise **out_promise, const char **out_reason);
/* For each key its place in the ticket, into `item`: TICKET_KEY_NONE if it is not one of its, or
 * was given before. */
void ticket_match(struct peers *peers, const struct promise *promise, struct peer_key *keys,
		  unsigned count);
/* This block is given now, and not again. False: it was given before, or the ticket has ended since
 * it was redeemed. `number`: promise_number() then. */
must_check bool ticket_spend(struct peers *peers, struct promise *promise, uint64_t number,
			     uint32_t key);
uint64_t promise_number(const struct promise *promise);
uint64_t promise_expires_us(const struct promise *promise);

#endif
