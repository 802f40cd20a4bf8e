/*
 * daemon/peer_members.h: which nodes this one connects to, where a name or a file says it: both are
 * looked at again and again, so nodes may join and leave.
 *
 * A name is that of a headless Service: each of its addresses is a node. What a look finds is
 * wanted from then on; what two looks in a row do not find is wanted no more, and let go of once it
 * is idle. A look that fails changes nothing. This node itself is left out, by its address or once
 * it has turned out to be itself.
 * Runs on: the loop thread; the file is read on a mill, names are looked up by the peer process.
 */
#ifndef KVTIER_DAEMON_PEER_MEMBERS_H
#define KVTIER_DAEMON_PEER_MEMBERS_H

#include "daemon/daemon.h"
#include "proto/json_text.h"

struct peer_members;

/* With neither a file nor a name there is nothing, and *out_members is NULL. */
must_check int peer_members_create(struct daemon *daemon, struct peer_members **out_members,
				   struct error *error);
/* After the mills were closed. Accepts NULL. */
void peer_members_destroy(struct peer_members *members);
/* Accepts NULL. */
bool peer_members_step(struct peer_members *members);
/* Of the peer process: "host:port", a line each; or result, and why not. */
void peer_members_resolved(struct peer_members *members, int result, const char *text);
/* For people: "members". Accepts NULL. */
void peer_members_write(const struct peer_members *members, struct json_text *json);

#endif
