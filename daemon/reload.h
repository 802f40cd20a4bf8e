/*
 * daemon/reload.h: the settings are read again while the daemon runs, for SIGHUP and for whoever
 * else asks: file, environment and --set by the code of a start. What may change does, at once and
 * all of it; what needs a restart is named; when anything is wrong, nothing changes and the log
 * says why.
 *
 * Runs on: the loop thread; a mill reads the file, so that a slow disk does not stop the loop.
 * Limit: one reading at a time; whoever asks meanwhile shares the next one, as the file may have
 * changed since this one began.
 */
#ifndef KVTIER_DAEMON_RELOAD_H
#define KVTIER_DAEMON_RELOAD_H

#include "base/list.h"
#include "daemon/daemon.h"

#define RELOAD_CHANGES_MAX 64u

/* How the last reload ended. */
struct reload_report {
	uint64_t wall_us;       /* when, since 1970; 0: there was none */
	int result;             /* 0, or a negative errno: the old settings stay */
	struct error reason;    /* of a result below 0 */
	unsigned changes_count; /* also of those that have no place below */
	unsigned applied_count; /* among them */
	struct settings_change changes[RELOAD_CHANGES_MAX];
};

struct reload_request {
	/* On the loop, once, never inside reload_request(). The report is borrowed. */
	void (*done)(struct reload_request *request, const struct reload_report *report);
	struct list_node link;
};

/* `sources` are borrowed for as long as the daemon lives. Without it, no reload is possible. */
must_check int reload_create(struct daemon *daemon, const struct settings_sources *sources,
			     struct error *error);
/* Needs every request to be done. Accepts a daemon without it. */
void reload_destroy(struct daemon *daemon);
/* The request is the daemon's until `done`. -ENOTSUP: there was no reload_create(). */
must_check int reload_request(struct daemon *daemon, struct reload_request *request);
/* A request that nobody waits for, but the service manager is told about (RELOADING=1, READY=1). */
void reload_by_signal(struct daemon *daemon);
bool reload_step(struct daemon *daemon);
/* Whether anybody waits for one. */
bool reload_is_busy(const struct daemon *daemon);
/* Never NULL. */
const struct reload_report *reload_last(const struct daemon *daemon);

#endif
