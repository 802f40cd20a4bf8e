/*
 * daemon/peer_link.h: the daemon's end of its peer process (`kvtierd --worker peer`), as peer_ops.
 *
 * Every place and send ends exactly once: by the process's answer, or by its exit, which is awaited
 * (-EIO). With the process all sessions end; what was connected is connected again by the next
 * life, and arenas and secrets are sent to it by the link itself. A process that beats, but leaves
 * a transfer under way for PEER_LINK_LATE_US_MAX behind its deadline, is killed.
 * Runs on: the loop thread; nothing here waits. Events and done() come from peer_link_step() and
 * peer_link_destroy() alone.
 */
#ifndef KVTIER_DAEMON_PEER_LINK_H
#define KVTIER_DAEMON_PEER_LINK_H

#include "base/clock.h"
#include "base/error.h"
#include "daemon/peer_ops.h"
#include "daemon/worker.h"
#include "tiers/peer/peer_messages.h"

#include <stdbool.h>
#include <stdint.h>

#define PEER_LINK_STALL_US_MAX (UINT64_C(2) * 1000000)
#define PEER_LINK_LATE_US_MAX (UINT64_C(5) * 1000000)

struct peer_link_config {
	const char *listen;     /* "host:port" of the control connections */
	const char *transport;  /* "auto", "ucx", "tcp" */
	bool is_encrypted;      /* the data */
	bool has_tls;           /* peer_link_tls() is called before the first step */
	const char *program;    /* NULL: ourselves */
	struct clock *clock;
	int lock_fd;            /* see worker_config */
	const struct peer_events *events;
	/* Of peer_link_resolve(); "host:port", a line each; or result, and why not. May be NULL. */
	void (*resolved)(void *owner, int result, const char *text);
	void *owner;            /* of the events */
};

/* Of one session, for people. */
struct peer_link_session {
	bool is_up;
	char transport[16];     /* "" while it is not up */
	struct peer_line line;
};

struct peer_link_status {
	enum worker_state state;
	bool is_ready;          /* it listens */
	char transport[PEER_TEXT_BYTES];  /* what it said of it, once it was ready */
	char reason[WORKER_REASON_BYTES]; /* why it is not ready, or last ended; "" */
	uint32_t transfers, restarts;
	pid_t pid;              /* 0: none */
};

struct peer_link;

must_check int peer_link_create(struct peer_link **out_link, const struct peer_link_config *config,
				struct error *error);
/* Kills the process; transfers are given back, sessions are down. Accepts NULL. */
void peer_link_destroy(struct peer_link *link);
/* Room of every call is the link. */
extern const struct peer_ops peer_ops_link;

/* Who we are and what proves it, copied; from now on, in this life and the next. Sessions that are
 * up stay. Before the first step, and again after a reload. */
void peer_link_setup(struct peer_link *link, const struct peer_hello *hello,
		     const uint8_t (*secrets)[PEER_SECRET_BYTES], unsigned secrets_count);
/* Contents of PEM files, copied, for every life and, in this one, for connections that begin later.
 * Before the first step, and again after a reload. */
void peer_link_tls(struct peer_link *link, const struct peer_tls *files);
/* Mapped writable by every life. `fd` is borrowed until destroy. */
void peer_link_arena(struct peer_link *link, uint32_t number, int fd, uint64_t bytes);

/* All addresses of "name:port" are looked up: config.resolved() once, also when the process ends
 * before. -EAGAIN: one is under way. -EINVAL: too long. */
must_check int peer_link_resolve(struct peer_link *link, const char *name);
bool peer_link_step(struct peer_link *link, uint64_t now_us);
/* For the loop's wait: see worker_fd() and the two below it. */
struct worker *peer_link_worker(struct peer_link *link);
void peer_link_status(const struct peer_link *link, struct peer_link_status *out_status);
void peer_link_session(const struct peer_link *link, uint32_t session,
		       struct peer_link_session *out_session);
/* Another number when what there is to say in the log has changed: it listens, it failed. */
uint32_t peer_link_changes(const struct peer_link *link);

/* ---- the process ---- */

/* main() of `kvtierd --worker peer "LISTEN TRANSPORT DATA CONTROL"`, tabs between: DATA: plain or
 * encrypted; CONTROL: plain or tls. */
int peer_worker_main(int arguments_count, char **arguments);

#endif
