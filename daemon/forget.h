/*
 * daemon/forget.h: raising a floor: a miss at once, durable when `done` is called.
 * Runs on: the loop thread.
 */
#ifndef KVTIER_DAEMON_FORGET_H
#define KVTIER_DAEMON_FORGET_H

#include "daemon/session.h"

/* `record` says what; it gets its floor. `done` is called once, later, with the request; the
 * session stays until then. -ENOMEM, -EAGAIN (no epoch is reserved at this moment): nothing was
 * forgotten. */
must_check int forget_begin(struct session *session, struct journal_record *record,
			    uint64_t request,
			    void (*done)(struct session *session, uint64_t request, int result));

/* The record that says which epochs this life may use, JOURNAL_RESERVE more than now. */
struct journal_record forget_reservation(const struct daemon *daemon);

#endif
