/*
 * daemon/guard.h: reads of memory that a client can take away. A SIGBUS inside guard_run() ends the
 * work with -EFAULT instead of the daemon; a SIGBUS anywhere else is a bug and kills as usual.
 * Runs on: mill threads.
 */
#ifndef KVTIER_DAEMON_GUARD_H
#define KVTIER_DAEMON_GUARD_H

#include "base/error.h"

/* Installs the handler, once, before threads start. */
must_check int guard_install(struct error *error);
/* Runs work(owner): 0, or -EFAULT when it touched memory that is not there. `work` must own nothing
 * to unwind. */
must_check int guard_run(void (*work)(void *owner), void *owner);

#endif
