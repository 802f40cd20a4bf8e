/*
 * daemon/grant.h: blocks that another node wants of us: held by a lease of our own clock, raised
 * to the cpu tier, sent from there.
 *
 * Nothing but what a grant holds is sent, each shard of it once for each time that it is asked
 * for. A grant ends by RELEASE, its deadline, or the end of the session's life; sends that are
 * under way end first.
 * Runs on: the loop thread.
 */
#ifndef KVTIER_DAEMON_GRANT_H
#define KVTIER_DAEMON_GRANT_H

#include "daemon/peers.h"

#ifdef KVTIER_SMALL /* tests/sim: pools that run empty */
#define GRANTS_MAX 6u
#define SENDS_MAX 12u
#else
#define GRANTS_MAX 128u
#define SENDS_MAX 2048u
#endif
#define GRANTS_A_PEER_MAX (GRANTS_MAX / 2)
#define SENDS_UNDER_WAY_MAX 64u /* of one peer: what the network has; the others wait here */

must_check int grants_create(struct peers *peers, struct error *error);
void grants_destroy(struct grants *grants);
bool grants_step(struct peers *peers);
unsigned grants_count(const struct peers *peers);
unsigned grants_sends_count(const struct peers *peers);

void grant_query(struct peers *peers, struct peer *peer, const struct peer_query *query);
void grant_fetch(struct peers *peers, struct peer *peer, const struct peer_fetch *fetch);
void grant_release(struct peers *peers, struct peer *peer, uint64_t number);
void grant_renew(struct peers *peers, struct peer *peer, uint64_t number);
/* Its life has ended, and every transfer of it. */
void grant_peer_down(struct peers *peers, struct peer *peer);

#endif
