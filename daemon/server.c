/* daemon/server.c: the sockets, and the pool of sessions, engines and lookups. */
#include "daemon/server.h"

#include "base/log.h"
#include "base/trusted_path.h"
#include "daemon/batch.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define EVENTS_A_PASS 64
#define ACCEPTS_A_PASS 16
#define REST_US UINT64_C(100000) /* without descriptors or memory, until the next try to accept */
#define ADMIN_SESSIONS_KEPT 4u   /* for the operator, when tenants have taken all of theirs */

struct listener {
	int fd;
	struct tenant *tenant;      /* NULL: the admin socket */
	uint64_t rests_until_us;    /* 0: it is watched */
};

struct server {
	int epoll_fd;
	struct listener listeners[SETTINGS_TENANTS_MAX + 1];
	unsigned listeners_count;
	struct list free, open;
	uint64_t sessions_ever;
	unsigned sessions_max;
	size_t bytes;               /* of this whole mapping */
	bool is_stopped;
	bool has_fired;             /* a watched descriptor was readable in the last wait */
	struct session *sessions;
	struct engine *engines;     /* sessions_max */
	struct lookup *lookups;     /* LOOKUPS_MAX */
	uint8_t *frame;             /* being read */
	uint8_t *scratch;           /* being answered */
	struct wire_fds fds;        /* that came with the frame */
};

static size_t carve(size_t *position, size_t bytes)
{
	size_t at = *position;

	*position += (bytes + 4095) / 4096 * 4096;
	return at;
}

static struct server *server_allocate(unsigned sessions_max)
{
	size_t bytes = 0;
	size_t server_at = carve(&bytes, sizeof(struct server));
	size_t sessions_at = carve(&bytes, sessions_max * sizeof(struct session));
	size_t engines_at = carve(&bytes, sessions_max * sizeof(struct engine));
	size_t lookups_at = carve(&bytes, LOOKUPS_MAX * sizeof(struct lookup));
	size_t frame_at = carve(&bytes, FRAME_BYTES_MAX);
	size_t scratch_at = carve(&bytes, FRAME_BYTES_MAX);
	size_t out_at = carve(&bytes, (size_t)sessions_max * FRAME_BYTES_MAX);
	uint8_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	struct server *server = (struct server *)(memory + server_at);
	server->bytes = bytes;
	server->sessions_max = sessions_max;
	server->sessions = (struct session *)(memory + sessions_at);
	server->engines = (struct engine *)(memory + engines_at);
	server->lookups = (struct lookup *)(memory + lookups_at);
	server->frame = memory + frame_at;
	server->scratch = memory + scratch_at;
	server->epoll_fd = -1;
	list_init(&server->free);
	list_init(&server->open);
	for (unsigned i = 0; i < sessions_max; i++) {
		server->sessions[i].out = memory + out_at + (size_t)i * FRAME_BYTES_MAX;
		server->sessions[i].window_fd = -1;
		list_append(&server->free, &server->sessions[i].link);
	}
	return server;
}

static int listener_add(struct daemon *daemon, struct tenant *tenant, struct error *error)
{
	struct server *server = daemon->server;
	struct listener *listener = &server->listeners[server->listeners_count];
	char path[2 * SETTINGS_PATH_BYTES];
	int result;

	if (tenant != NULL) {
		snprintf(path, sizeof(path), "%s/t/%s", daemon->settings.run_directory, tenant->name);
		result = trusted_folder_make(path, 0750, "run_directory", error);
		if (result < 0)
			return result;
		strcat(path, "/kv.sock");
	} else {
		snprintf(path, sizeof(path), "%s/admin.sock", daemon->settings.run_directory);
	}
	result = wire_listen(path, tenant != NULL ? 0660 : 0600, error);
	if (result < 0)
		return result;
	listener->fd = result;
	listener->tenant = tenant;
	server->listeners_count++;
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = listener };
	if (epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, listener->fd, &event) < 0)
		return error_set(error, -errno, "cannot watch %s: %s", path, strerror(errno));
	return 0;
}

static int listeners_open(struct daemon *daemon, struct error *error)
{
	char path[2 * SETTINGS_PATH_BYTES];
	int result = trusted_folder_make(daemon->settings.run_directory, 0755, "run_directory", error);

	if (result < 0)
		return result;
	snprintf(path, sizeof(path), "%s/t", daemon->settings.run_directory);
	result = trusted_folder_make(path, 0755, "run_directory", error);
	for (unsigned i = 0; result == 0 && i < daemon->tenants_count; i++)
		result = listener_add(daemon, &daemon->tenants[i], error);
	return result < 0 ? result : listener_add(daemon, NULL, error);
}

int server_create(struct daemon *daemon, struct error *error)
{
	struct server *server = server_allocate(daemon->settings.connections_max);
	int result;

	if (server == NULL)
		return error_set(error, -ENOMEM, "no memory for %u connections", daemon->settings.connections_max);
	daemon->server = server;
	server->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (server->epoll_fd < 0)
		result = error_set(error, -errno, "cannot make an epoll: %s", strerror(errno));
	else
		result = listeners_open(daemon, error);
	if (result < 0) {
		server_destroy(server);
		daemon->server = NULL;
	}
	return result;
}

void server_destroy(struct server *server)
{
	if (server == NULL)
		return;
	for (unsigned i = 0; i < server->listeners_count; i++)
		if (server->listeners[i].fd >= 0)
			close(server->listeners[i].fd);
	if (server->epoll_fd >= 0)
		close(server->epoll_fd);
	munmap(server, server->bytes);
}

int server_epoll_fd(const struct server *server)
{
	return server->epoll_fd;
}

int server_watch(struct server *server, int fd, struct error *error)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = NULL };

	if (epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		return error_set(error, -errno, "cannot watch a descriptor: %s", strerror(errno));
	return 0;
}

void *server_scratch(struct daemon *daemon)
{
	return daemon->server->scratch;
}

const struct wire_fds *server_fds(const struct daemon *daemon)
{
	return &daemon->server->fds;
}

struct session *server_adopt(struct daemon *daemon, const struct wire *wire, struct tenant *tenant,
			     bool is_admin)
{
	struct server *server = daemon->server;
	struct list_node *node = list_take_first(&server->free);
	uint8_t *out;

	if (node == NULL)
		return NULL;
	struct session *session = list_item(node, struct session, link);
	assert(session->state == SESSION_FREE);
	out = session->out;
	memset(session, 0, sizeof(*session));
	session->out = out;
	session->daemon = daemon;
	session->tenant = tenant;
	session->is_admin = is_admin;
	session->state = SESSION_NEW;
	session->wire = *wire;
	session->window_fd = -1;
	session->number = ++server->sessions_ever;
	list_init(&session->batches);
	list_init(&session->leases);
	list_append(&server->open, &session->link);
	return session;
}

/* Each tenant has an equal part, so that none can shut another or the operator out. */
static bool session_is_left(const struct daemon *daemon, const struct listener *listener)
{
	unsigned all = daemon->server->sessions_max;
	unsigned kept = all > 2 * ADMIN_SESSIONS_KEPT ? ADMIN_SESSIONS_KEPT : 0;
	unsigned part = (all - kept) / daemon->tenants_count;
	unsigned open = 0;

	if (listener->tenant == NULL)
		return true;
	for (const struct session *session = server_session_after(daemon, NULL); session != NULL;
	     session = server_session_after(daemon, session))
		open += session->tenant == listener->tenant;
	return open < (part == 0 ? 1 : part);
}

/* Who knocks stays at the door of a listener that cannot accept: watched, it would wake us at once
 * and for ever. */
static void listener_rest(struct daemon *daemon, struct listener *listener, int reason)
{
	struct epoll_event event = { .events = 0, .data.ptr = listener };

	log_line(LOG_WARNING, "accept_failed", "tenant=%s reason=\"%s\"",
		 listener->tenant != NULL ? listener->tenant->name : "(admin)", strerror(-reason));
	if (epoll_ctl(daemon->server->epoll_fd, EPOLL_CTL_MOD, listener->fd, &event) == 0)
		listener->rests_until_us = daemon->now_us + REST_US;
}

static void listeners_look_after(struct daemon *daemon)
{
	struct server *server = daemon->server;

	for (unsigned i = 0; i < server->listeners_count; i++) {
		struct listener *listener = &server->listeners[i];
		struct epoll_event event = { .events = EPOLLIN, .data.ptr = listener };

		if (listener->rests_until_us == 0 || daemon->now_us < listener->rests_until_us ||
		    listener->fd < 0)
			continue;
		if (epoll_ctl(server->epoll_fd, EPOLL_CTL_MOD, listener->fd, &event) == 0)
			listener->rests_until_us = 0;
	}
}

static void accept_some(struct daemon *daemon, struct listener *listener)
{
	for (unsigned i = 0; i < ACCEPTS_A_PASS; i++) {
		struct ucred peer = { 0 };
		int fd = wire_accept(listener->fd, &peer);
		struct wire wire = { .ops = &wire_unix, .fd = fd };

		if (fd < 0) {
			if (fd != -EAGAIN && fd != -ECONNABORTED)
				listener_rest(daemon, listener, fd);
			return;
		}
		struct session *session = NULL;
		if (session_is_left(daemon, listener))
			session = server_adopt(daemon, &wire, listener->tenant,
					       listener->tenant == NULL);
		if (session == NULL) {
			log_line(LOG_WARNING, "client_rejected", "pid=%d reason=\"connections_max, or a tenant's part of it, reached\"",
				 (int)peer.pid);
			close(fd);
			continue;
		}
		session->peer = peer;
		struct epoll_event event = { .events = EPOLLIN, .data.ptr = session };
		if (epoll_ctl(daemon->server->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
			session_end(session);
		log_line(LOG_DEBUG, "client_accepted", "session=%llu tenant=%s pid=%d uid=%u gid=%u",
			 (unsigned long long)session->number,
			 listener->tenant != NULL ? listener->tenant->name : "(admin)", (int)peer.pid,
			 (unsigned)peer.uid, (unsigned)peer.gid);
	}
}

/* Not while a reply waits, nor while so much is under way for it that more would have to be
 * dropped: it waits at its socket, and the others keep their share of the moves. */
static bool may_read(const struct session *session)
{
	/* Pulled stores are bounded by their tenant's part, and wait for COMMITs that are to be
	 * read. */
	return session->out_bytes == 0 && session->users - session->pulls < SESSION_USERS_MAX;
}

bool server_serve(struct session *session)
{
	unsigned frames = 0;

	while (frames < FRAMES_A_PASS_MAX && session->state != SESSION_CLOSING &&
	       may_read(session)) {
		if (!session_read(session, session->daemon->server->frame,
				  &session->daemon->server->fds))
			break;
		frames++;
		/* A caller that waits for one answer sends nothing meanwhile: do not ask in
		 * vain. */
		if (session->connection == FRAME_CONTROL && session->lookup == NULL)
			break;
	}
	return frames > 0;
}

static void flush(struct session *session)
{
	int sent;

	if (session->out_bytes == 0 || session->state == SESSION_CLOSING)
		return;
	sent = session->wire.ops->send(&session->wire, session->out, session->out_bytes, NULL, 0);
	if (sent == -EAGAIN)
		return;
	session->out_bytes = 0;
	if (sent < 0)
		session_end(session);
}

/* Readable unless a reply waits; writable when something waits to be said. */
static void watch_again(struct session *session)
{
	bool waits = session->out_bytes > 0;
	struct epoll_event event = { .events = may_read(session) ? EPOLLIN : 0,
				     .data.ptr = session };

	if (session->wire.fd < 0 || session->state == SESSION_CLOSING)
		return;
	for (struct list_node *node = list_first(&session->batches); node != NULL && !waits;
	     node = list_after(&session->batches, node))
		waits = batch_has_news(list_item(node, struct batch, link));
	if (waits)
		event.events |= EPOLLOUT;
	if (event.events == session->watched)
		return;
	/* Else it is tried again in the next pass. */
	if (epoll_ctl(session->daemon->server->epoll_fd, EPOLL_CTL_MOD, session->wire.fd,
		      &event) == 0)
		session->watched = event.events;
}

static void session_free(struct session *session)
{
	struct server *server = session->daemon->server;

	assert(session->users == 0 && session->pulls == 0 && session->batches_count == 0);
	assert(session->lend_state == LEND_NONE || session->lend_state == LEND_GONE);
	assert(list_is_empty(&session->leases));
	if (session->window != NULL)
		munmap(session->window, session->window_bytes);
#ifndef KVTIER_PLANT_WINDOW
	if (session->window_fd >= 0)
		close(session->window_fd);
#endif
	session->window = NULL;
	session->window_fd = -1;
	session->state = SESSION_FREE;
	list_remove(&server->open, &session->link);
	list_append(&server->free, &session->link);
}

static bool sessions_look_after(struct daemon *daemon)
{
	struct list_node *node = list_first(&daemon->server->open);
	bool did_work = false;

	while (node != NULL) {
		struct session *session = list_item(node, struct session, link);

		node = list_after(&daemon->server->open, node);
		if (session->state == SESSION_CLOSING && session->users == 0 &&
		    session->batches_count == 0) {
			session_free(session);
			did_work = true;
			continue;
		}
		watch_again(session);
	}
	return did_work;
}

bool server_step(struct daemon *daemon, uint64_t wait_us_max)
{
	struct server *server = daemon->server;
	struct epoll_event events[EVENTS_A_PASS];
	bool did_work = sessions_look_after(daemon);

	listeners_look_after(daemon);
	int wait_ms = did_work ? 0 : (int)((wait_us_max + 999) / 1000);
	int count = epoll_wait(server->epoll_fd, events, EVENTS_A_PASS, wait_ms);

	daemon->now_us = clock_now_us(daemon->clock);
	server->has_fired = false;
	for (int i = 0; i < count; i++) {
		uint8_t *what = events[i].data.ptr;

		if (what == NULL) {   /* a mailbox or worker: its own step looks */
			server->has_fired = true;
			continue;
		}
		did_work = true;
		if (what >= (uint8_t *)server->listeners &&
		    what < (uint8_t *)(server->listeners + server->listeners_count)) {
			accept_some(daemon, (struct listener *)what);
			continue;
		}
		struct session *session = (struct session *)what;
		if (events[i].events & EPOLLOUT)
			flush(session);
		if (session->state != SESSION_CLOSING && session->state != SESSION_FREE)
			server_serve(session);
	}
	return did_work;
}

bool server_has_fired(const struct daemon *daemon)
{
	return daemon->server->has_fired;
}

void server_stop(struct daemon *daemon)
{
	struct server *server = daemon->server;

	if (server->is_stopped)
		return;
	server->is_stopped = true;
	for (unsigned i = 0; i < server->listeners_count; i++) {
		close(server->listeners[i].fd);
		server->listeners[i].fd = -1;
	}
	for (struct list_node *node = list_first(&server->open); node != NULL;
	     node = list_after(&server->open, node))
		session_end(list_item(node, struct session, link));
}

unsigned server_sessions_count(const struct daemon *daemon)
{
	return (unsigned)daemon->server->open.count;
}

struct session *server_session_after(const struct daemon *daemon, const struct session *session)
{
	struct list *open = &daemon->server->open;
	struct list_node *node = session == NULL
					 ? list_first(open)
					 : list_after(open, (struct list_node *)&session->link);

	return node == NULL ? NULL : list_item(node, struct session, link);
}

struct lookup *server_lookup_take(struct daemon *daemon)
{
	for (unsigned i = 0; i < LOOKUPS_MAX; i++)
		if (daemon->server->lookups[i].session == NULL)
			return &daemon->server->lookups[i];
	return NULL;
}

struct engine *server_engine_place(struct daemon *daemon, struct tenant *tenant, const char *name)
{
	struct engine *free_place = NULL;

	for (unsigned i = 0; i < daemon->server->sessions_max; i++) {
		struct engine *engine = &daemon->server->engines[i];

		if (engine->tenant == tenant && strcmp(engine->name, name) == 0)
			return engine;
		if (engine->tenant == NULL && free_place == NULL)
			free_place = engine;
	}
	return free_place;
}

struct engine *server_engine_at(const struct daemon *daemon, unsigned number)
{
	return number < daemon->server->sessions_max ? &daemon->server->engines[number] : NULL;
}
