/*
 * daemon/gathering.h: keys that an engine names over several frames, for other nodes' sake: those
 * of a fetch, or of a ticket. At most one list is being named on a connection; what is wrong with
 * it is said with its last frame.
 * Runs on: the loop thread.
 */
#ifndef KVTIER_DAEMON_GATHERING_H
#define KVTIER_DAEMON_GATHERING_H

#include "daemon/session.h"

/* A list begins; `what`: the frame's name. False: not here, which is said. Where the daemon has no
 * peers the list is refused already, and nothing else is to be done. */
bool gathering_begin(struct session *session, uint64_t request, const char *what);
/* The first reason is the one that is told. */
void gathering_refuse(struct session *session, int result, const char *reason);
/* What is being named is dropped. */
void gathering_drop(struct session *session);
/* A LOOKUP with FRAME_REMOTE. */
void gathering_keys(struct session *session, const struct frame_lookup *frame);

#endif
