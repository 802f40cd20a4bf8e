/*
 * daemon/forget.h: raising a floor: a miss at once, durable when `done` is called.
 * Runs on: the loop thread.
 */
#ifndef KVTIER_DAEMON_FORGET_H
#define KVTIER_DAEMON_FORGET_H

#include "daemon/session.h"

/* `record` says what; it gets its floor. `done` is called once, later, with the request; the
 * session stays until then. -ENOMEM: nothing was forgotten. */
must_check int forget_begin(struct session *session, struct journal_record *record,
			    uint64_t request,
			    void (*done)(struct session *session, uint64_t request, int result));

#endif
