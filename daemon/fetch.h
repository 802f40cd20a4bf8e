/*
 * daemon/fetch.h: blocks that an engine wants of another node: asked for, received into the cpu
 * tier, checked, and handed to the loads that wait for them.
 *
 * A fetch belongs to the control connection that began it, and ends with it, by END, or by its
 * deadline. Each key of it is, at any time, here, on its way, or lost; a load of a key that is on
 * its way waits for it. What arrives is believed only if the sender's identity part names the key
 * that was asked for, with our own geometry, and all checksums are right; its header is then
 * written as a store's is, last.
 * Runs on: the loop thread; checks on a mill.
 */
#ifndef KVTIER_DAEMON_FETCH_H
#define KVTIER_DAEMON_FETCH_H

#include "daemon/batch.h"
#include "daemon/peers.h"
#include "daemon/session.h"

#ifdef KVTIER_SMALL /* tests/sim: pools that run empty */
#define FETCHES_MAX 6u
#define ARRIVALS_MAX 8u
#else
#define FETCHES_MAX 64u
#define ARRIVALS_MAX 512u
#endif
/* Of one fetch on its way at once, and at least two blocks. */
#define FETCH_WINDOW_BYTES (UINT64_C(32) << 20)
#define FETCH_SECTIONS_MAX 64u

must_check int fetches_create(struct peers *peers, struct error *error);
void fetches_destroy(struct fetches *fetches);
bool fetches_step(struct peers *peers);
unsigned fetches_count(const struct peers *peers);
unsigned fetches_arrivals_count(const struct peers *peers);
bool fetch_has_peer(const struct peers *peers, const struct peer *peer);

/* ---- the engine's side ---- */

/* Its keys follow: gathering.h, which alone calls the next four. */
void fetch_frame(struct session *session, const struct frame_fetch *frame);
/* 0; -EINVAL: no such group; -E2BIG. */
must_check int fetch_keys_add(struct session *session, struct fetch *fetch,
			      const struct frame_lookup *frame);
/* Refuses it if its ticket is not for these keys. */
void fetch_check(struct session *session, const struct fetch *fetch,
		 const struct frame_lookup *last);
void fetch_begin(struct session *session, struct fetch *fetch, const struct frame_lookup *last);
void fetch_drop(struct fetch *fetch);
void fetch_wait_frame(struct session *session, const struct frame_fetch_wait *frame);
void fetch_end_frame(struct session *session, const struct frame_fetch_end *frame);
/* The session has ended: so have its fetches. */
void fetch_session_end(struct session *session);
/* A load's item is not here. True: it is on its way, and the item waits for it (PARKED). */
bool fetch_park(struct batch *batch, struct batch_item *item);
/* A parked item waits no longer. */
void fetch_unpark(struct batch *batch, struct batch_item *item);

/* ---- the other node's side ---- */

void fetch_peer_up(struct peer *peer, struct daemon *daemon);
/* `peer` is not up (any more): what was asked of it is lost. */
void fetch_peer_down(struct peer *peer, struct daemon *daemon);
void fetch_granted(struct peers *peers, struct peer *peer, const struct peer_grant *grant);
void fetch_block(struct peers *peers, struct peer *peer, const struct peer_block *block);
void fetch_failed(struct peers *peers, struct peer *peer, const struct peer_failed *failed);
void fetch_ended(struct peers *peers, struct peer *peer, const struct peer_frame_header *ended);

#endif
