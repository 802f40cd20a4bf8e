/* daemon/admin_http.c: a small HTTP server inside the loop. */
#include "daemon/admin_http_parts.h"

#include "daemon/admin_http_listen.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS_DEFAULT 32u
#define SHARE_DIVISOR 4u
#define REQUEST_US_DEFAULT UINT64_C(5000000)
#define PAGE_BYTES_DEFAULT (UINT64_C(1) << 20)
#define HEAD_BYTES_MAX 2048u /* of an answer */
#define EVENTS_MAX 8  /* in one step: each may be a page, and engines wait meanwhile */
#define ACCEPTS_MAX 8 /* of each listener in one step */
#define LINGER_BYTES_MAX (64u << 10)
#define REST_US UINT64_C(100000) /* without descriptors or memory, until the next try to accept */

static bool legal_move(enum connection_state from, enum connection_state to)
{
	static const bool legal[4][4] = {
		[CONNECTION_FREE] = { [CONNECTION_READING] = true },
		[CONNECTION_READING] = { [CONNECTION_WRITING] = true, [CONNECTION_FREE] = true },
		[CONNECTION_WRITING] = { [CONNECTION_READING] = true,
					 [CONNECTION_LINGERING] = true,
					 [CONNECTION_FREE] = true },
		[CONNECTION_LINGERING] = { [CONNECTION_FREE] = true },
	};

	return legal[from][to];
}

void admin_http_become(struct admin_http *http, struct connection *connection,
		       enum connection_state next)
{
	struct epoll_event event = { .events = next == CONNECTION_WRITING ? EPOLLOUT : EPOLLIN,
				     .data.u32 = ADMIN_HTTP_LISTENERS +
						 (uint32_t)(connection - http->connections) };
	int operation = connection->state == CONNECTION_FREE ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;

	assert(legal_move(connection->state, next));
	connection->state = next;
	if (next == CONNECTION_FREE) {
		close(connection->fd); /* which also takes it out of the epoll set */
		connection->fd = -1;
		text_finish(&connection->output);
		assert(http->connections_count > 0);
		http->connections_count--;
		return;
	}
	if (epoll_ctl(http->epoll_fd, operation, connection->fd, &event) < 0)
		admin_http_become(http, connection, CONNECTION_FREE);
}

/* Parses what has been read, up to one request. */
static void connection_parse(struct admin_http *http, struct connection *connection,
			     uint64_t now_us)
{
	struct http_parser *parser = &connection->parser;
	struct http_slice body;
	size_t used;
	enum http_event event = http_parse(parser, connection->input + connection->input_start,
					   connection->input_end - connection->input_start, &used,
					   &body);

	connection->input_start += (uint32_t)used;
	if (event == HTTP_HEAD)
		admin_http_answer(http, connection, now_us);
	else if (event == HTTP_REFUSED)
		admin_http_refuse(http, connection, parser->status, parser->reason, now_us);
	else
		assert(event == HTTP_MORE); /* a body or an end comes only after a head */
}

static void connection_read(struct admin_http *http, struct connection *connection, uint64_t now_us)
{
	ssize_t count;

	assert(connection->input_start == connection->input_end);
	count = recv(connection->fd, connection->input, ADMIN_HTTP_INPUT_BYTES, 0);
	if (count < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (count <= 0) {
		admin_http_become(http, connection, CONNECTION_FREE);
		return;
	}
	connection->input_start = 0;
	connection->input_end = (uint32_t)count;
	connection_parse(http, connection, now_us);
}

static void connection_write(struct admin_http *http, struct connection *connection,
			     uint64_t now_us)
{
	struct http_slice body;
	size_t used;
	ssize_t count = send(connection->fd, connection->output.bytes + connection->sent,
			     connection->output.length - connection->sent, MSG_NOSIGNAL);

	if (count < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (count < 0) {
		admin_http_become(http, connection, CONNECTION_FREE);
		return;
	}
	connection->sent += (size_t)count;
	assert(connection->sent <= connection->output.length);
	if (connection->sent < connection->output.length)
		return;
	connection->deadline_us = now_us + http->config.request_us_max;
	if (connection->closes) {
		shutdown(connection->fd, SHUT_WR);
		admin_http_become(http, connection, CONNECTION_LINGERING);
		return;
	}
	if (http_parse(&connection->parser, "", 0, &used, &body) != HTTP_END)
		assert(!"a request without a body has an end");
	http_parser_next(&connection->parser);
	admin_http_become(http, connection, CONNECTION_READING);
	if (connection->state == CONNECTION_READING &&
	    connection->input_start < connection->input_end)
		connection_parse(http, connection, now_us); /* a request sent behind the first */
}

static void connection_linger(struct admin_http *http, struct connection *connection)
{
	ssize_t count = recv(connection->fd, connection->input, ADMIN_HTTP_INPUT_BYTES, 0);

	if (count < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	connection->lingered_bytes += count > 0 ? (uint32_t)count : 0;
	if (count <= 0 || connection->lingered_bytes > LINGER_BYTES_MAX)
		admin_http_become(http, connection, CONNECTION_FREE);
}

/* Of the connections whose request is not there yet, and whose `peer` it is unless that is NULL,
 * that which waits longest; NULL: none. */
static struct connection *connection_idlest(struct admin_http *http, const struct in6_addr *peer)
{
	struct connection *idlest = NULL;

	for (unsigned i = 0; i < http->config.connections_max; i++) {
		struct connection *connection = &http->connections[i];

		if (connection->state == CONNECTION_READING &&
		    (peer == NULL || memcmp(&connection->peer, peer, sizeof(*peer)) == 0) &&
		    (idlest == NULL || connection->deadline_us < idlest->deadline_us))
			idlest = connection;
	}
	return idlest;
}

/* A free connection for `peer`, for which another may have to go; NULL: all are being answered. */
static struct connection *connection_place(struct admin_http *http, const struct in6_addr *peer)
{
	struct connection *connection = NULL, *idlest;
	unsigned peers = 0;

	for (unsigned i = 0; i < http->config.connections_max; i++)
		if (http->connections[i].state == CONNECTION_FREE)
			connection = &http->connections[i];
		else
			peers += memcmp(&http->connections[i].peer, peer, sizeof(*peer)) == 0;
	if (connection != NULL && peers < http->config.share_max)
		return connection;
	http->counts.crowded++;
	idlest = connection_idlest(http, peers < http->config.share_max ? NULL : peer);
	if (idlest != NULL)
		admin_http_become(http, idlest, CONNECTION_FREE);
	return idlest;
}

/* Takes the descriptor. */
static void connection_begin(struct admin_http *http, int fd, const struct in6_addr *peer,
			     uint64_t now_us)
{
	struct connection *connection = connection_place(http, peer);

	if (connection == NULL) { /* left unaccepted, it would wake us for ever */
		close(fd);
		return;
	}
	memset(connection, 0, sizeof(*connection));
	connection->fd = fd;
	connection->peer = *peer;
	connection->is_loopback = peer_is_loopback(peer);
	connection->deadline_us = now_us + http->config.request_us_max;
	text_init(&connection->output, http->config.page_bytes_max + HEAD_BYTES_MAX);
	http_parser_init(&connection->parser, 0);
	http->connections_count++;
	admin_http_become(http, connection, CONNECTION_READING);
}

/* Who knocks stays at the door of a listener that cannot accept: watched, it would wake us at once
 * and for ever. Returns whether it worked. */
static bool listener_watch(struct admin_http *http, unsigned listener, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.u32 = listener };

	return epoll_ctl(http->epoll_fd, EPOLL_CTL_MOD, http->listen_fds[listener], &event) == 0;
}

static void listeners_look_after(struct admin_http *http, uint64_t now_us)
{
	for (unsigned i = 0; i < ADMIN_HTTP_LISTENERS; i++)
		if (http->rests_until_us[i] != 0 && now_us >= http->rests_until_us[i] &&
		    listener_watch(http, i, EPOLLIN))
			http->rests_until_us[i] = 0;
}

static void listener_accept(struct admin_http *http, unsigned listener, uint64_t now_us)
{
	for (unsigned i = 0; i < ACCEPTS_MAX; i++) {
		struct in6_addr peer;
		int fd = listen_accept(http->listen_fds[listener], &peer);

		if (fd < 0 && fd != -EAGAIN && fd != -EINTR && fd != -ECONNABORTED &&
		    listener_watch(http, listener, 0))
			http->rests_until_us[listener] = now_us + REST_US;
		if (fd < 0)
			return;
		connection_begin(http, fd, &peer, now_us);
	}
}

static bool deadlines_check(struct admin_http *http, uint64_t now_us)
{
	bool did = false;

	for (unsigned i = 0; i < http->config.connections_max; i++) {
		struct connection *connection = &http->connections[i];

		if (connection->state == CONNECTION_FREE || connection->deadline_us > now_us)
			continue;
		/* An idle connection that is kept open owes nothing. */
		http->counts.late += connection->state == CONNECTION_WRITING ||
				     http_parser_is_busy(&connection->parser);
		admin_http_become(http, connection, CONNECTION_FREE);
		did = true;
	}
	return did;
}

bool admin_http_step(struct admin_http *http, uint64_t now_us)
{
	struct epoll_event events[EVENTS_MAX];
	int count = epoll_wait(http->epoll_fd, events, EVENTS_MAX, 0);
	bool did = deadlines_check(http, now_us);

	listeners_look_after(http, now_us);
	for (int i = 0; i < count; i++) {
		uint32_t number = events[i].data.u32;
		struct connection *connection;

		if (number < ADMIN_HTTP_LISTENERS) {
			listener_accept(http, number, now_us);
			continue;
		}
		connection = &http->connections[number - ADMIN_HTTP_LISTENERS];
		if (connection->state == CONNECTION_READING)
			connection_read(http, connection, now_us);
		else if (connection->state == CONNECTION_WRITING)
			connection_write(http, connection, now_us);
		else if (connection->state == CONNECTION_LINGERING)
			connection_linger(http, connection);
	}
	return did || count > 0;
}

int admin_http_fd(const struct admin_http *http)
{
	return http->epoll_fd;
}

uint64_t admin_http_due_us(const struct admin_http *http)
{
	uint64_t due_us = UINT64_MAX;

	for (unsigned i = 0; i < http->config.connections_max; i++)
		if (http->connections[i].state != CONNECTION_FREE &&
		    http->connections[i].deadline_us < due_us)
			due_us = http->connections[i].deadline_us;
	return due_us;
}

unsigned admin_http_port(const struct admin_http *http)
{
	return http->listen_fds[1] < 0 ? 0 : listen_port(http->listen_fds[1]);
}

unsigned admin_http_connections(const struct admin_http *http)
{
	return http->connections_count;
}

struct admin_http_counts admin_http_counts(const struct admin_http *http)
{
	return http->counts;
}

static int listener_add(struct admin_http *http, unsigned listener, struct error *error)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = listener };

	if (epoll_ctl(http->epoll_fd, EPOLL_CTL_ADD, http->listen_fds[listener], &event) < 0)
		return error_set(error, -errno, "http: epoll: %s", strerror(errno));
	return 0;
}

static int listeners_open(struct admin_http *http, struct error *error)
{
	const struct admin_http_config *config = &http->config;
	int result = 0;

	if (config->socket_path != NULL && config->socket_path[0] != '\0') {
		result = listen_unix(config->socket_path, &http->listen_fds[0], error);
		if (result == 0)
			result = listener_add(http, 0, error);
	}
	if (result == 0 && config->listen != NULL && config->listen[0] != '\0') {
		result = listen_tcp(config->listen, &http->listen_fds[1], error);
		if (result == 0)
			result = listener_add(http, 1, error);
	}
	return result;
}

int admin_http_open(struct admin_http **out_http, const struct admin_http_config *config,
		    struct error *error)
{
	unsigned connections_max = config->connections_max == 0 ? CONNECTIONS_DEFAULT
								: config->connections_max;
	struct admin_http *http;
	int result;

	assert(connections_max <= ADMIN_HTTP_CONNECTIONS_MAX &&
	       config->pages_count <= ADMIN_HTTP_PAGES_MAX);
	http = calloc(1, sizeof(*http) + connections_max * sizeof(http->connections[0]));
	if (http == NULL)
		return error_set(error, -ENOMEM, "http: no memory for %u connections",
				 connections_max);
	http->config = *config;
	http->config.connections_max = connections_max;
	if (http->config.share_max == 0)
		http->config.share_max = (connections_max + SHARE_DIVISOR - 1) / SHARE_DIVISOR;
	if (http->config.request_us_max == 0)
		http->config.request_us_max = REQUEST_US_DEFAULT;
	if (http->config.page_bytes_max == 0)
		http->config.page_bytes_max = PAGE_BYTES_DEFAULT;
	text_init(&http->page, http->config.page_bytes_max);
	http->listen_fds[0] = -1;
	http->listen_fds[1] = -1;
	http->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (http->epoll_fd < 0)
		result = error_set(error, -errno, "http: epoll: %s", strerror(errno));
	else
		result = listeners_open(http, error);
	if (result < 0) {
		admin_http_close(http);
		return result;
	}
	*out_http = http;
	return 0;
}

void admin_http_close(struct admin_http *http)
{
	if (http == NULL)
		return;
	for (unsigned i = 0; i < http->config.connections_max; i++)
		if (http->connections[i].state != CONNECTION_FREE)
			admin_http_become(http, &http->connections[i], CONNECTION_FREE);
	assert(http->connections_count == 0);
	if (http->listen_fds[0] >= 0) {
		unlink(http->config.socket_path);
		close(http->listen_fds[0]);
	}
	if (http->listen_fds[1] >= 0)
		close(http->listen_fds[1]);
	if (http->epoll_fd >= 0)
		close(http->epoll_fd);
	text_finish(&http->page);
	free(http);
}
