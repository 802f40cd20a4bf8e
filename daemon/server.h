/*
 * daemon/server.h: listens, accepts, reads frames, writes what did not fit before.
 * Runs on: the loop thread. Limit: settings.connections_max sessions; one more is accepted and
 * closed at once.
 */
#ifndef KVTIER_DAEMON_SERVER_H
#define KVTIER_DAEMON_SERVER_H

#include "daemon/session.h"

/* moves and mill ops of one session under which it is read from */
#define SESSION_USERS_MAX 1024u
#define FRAMES_A_PASS_MAX 32u     /* of one session, so that none starves the others */

/* Sockets: RUN/t/TENANT/kv.sock (folder 0750, socket 0660) and RUN/admin.sock (0600). */
must_check int server_create(struct daemon *daemon, struct error *error);
void server_destroy(struct server *server);
/* The epoll descriptor that daemon_wait() waits on; other parts may add theirs with `data.ptr`
 * NULL. */
int server_epoll_fd(const struct server *server);
must_check int server_watch(struct server *server, int fd, struct error *error);
/* Waits at most `wait_us_max`, then serves what is ready. */
bool server_step(struct daemon *daemon, uint64_t wait_us_max);
/* Whether one of the watched descriptors was readable in the last step: else nothing needs to be
 * drained. */
bool server_has_fired(const struct daemon *daemon);
/* Takes a connection that is open already (tests); the wire is the session's from now on. NULL: no
 * room. */
struct session *server_adopt(struct daemon *daemon, const struct wire *wire, struct tenant *tenant,
			     bool is_admin);
/* Reads and serves at most FRAMES_A_PASS_MAX frames of one session; for wires without a
 * descriptor. */
bool server_serve(struct session *session);
void server_stop(struct daemon *daemon);
unsigned server_sessions_count(const struct daemon *daemon);
/* Steps through the open sessions; NULL starts. */
struct session *server_session_after(const struct daemon *daemon, const struct session *session);
struct lookup *server_lookup_take(struct daemon *daemon);
/* An engine by name, or a free place for it, or NULL. */
struct engine *server_engine_place(struct daemon *daemon, struct tenant *tenant, const char *name);
struct engine *server_engine_at(const struct daemon *daemon, unsigned number);
/* The descriptors that came with the frame that is being served; closed behind it. */
const struct wire_fds *server_fds(const struct daemon *daemon);
/* Room for a frame that is being answered; valid until the next frame. */
void *server_scratch(struct daemon *daemon);

#endif
