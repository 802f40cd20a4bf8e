/* transfer/peer/transport_tcp.c: the TCP transport: who connects, who is expected, and what
 * became of them. */
#include "transfer/peer/tcp_parts.h"

#include "base/crypto.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS_A_STEP 64
#define LOOK_US UINT64_C(50000)   /* how late something that hangs is noticed */
#define BACKLOG 64

/* ---- addresses ---- */

static int name_read(const char *host, const char *port, int flags, struct addrinfo **out_list,
		     struct error *error)
{
	const struct addrinfo hints = {
		.ai_family = AF_UNSPEC,
		.ai_socktype = SOCK_STREAM,
		.ai_flags = flags | AI_NUMERICSERV | AI_NUMERICHOST,
	};
	int code = getaddrinfo(host, port, &hints, out_list);

	return code == 0 ? 0
			 : error_set(error, -EINVAL, "%s:%s: %s", host != NULL ? host : "any", port,
				     gai_strerror(code));
}

/* "host:port", the host in brackets or without colons. */
static int address_read(const uint8_t *address, uint32_t bytes, struct addrinfo **out_list,
			struct error *error)
{
	char text[128];
	char *host = text, *port;

	if (bytes >= sizeof(text) || memchr(address, 0, bytes) != NULL)
		return error_set(error, -EINVAL, "not an address of tcp");
	memcpy(text, address, bytes);
	text[bytes] = 0;
	port = strrchr(text, ':');
	if (port == NULL)
		return error_set(error, -EINVAL, "not an address of tcp");
	*port++ = 0;
	if (host[0] == '[' && host[strlen(host) - 1] == ']') {
		host[strlen(host) - 1] = 0;
		host++;
	}
	return name_read(host, port, 0, out_list, error);
}

static int listen_at(struct transport *transport, const struct addrinfo *place, uint16_t port)
{
	struct sockaddr_storage address;
	socklen_t bytes = place->ai_addrlen;
	int on = 1, off = 0;

	memcpy(&address, place->ai_addr, bytes);
	if (address.ss_family == AF_INET6)
		((struct sockaddr_in6 *)&address)->sin6_port = htons(port);
	else
		((struct sockaddr_in *)&address)->sin_port = htons(port);
	int fd = socket(place->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (place->ai_family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	if (bind(fd, (struct sockaddr *)&address, bytes) < 0 || listen(fd, BACKLOG) < 0 ||
	    getsockname(fd, (struct sockaddr *)&address, &bytes) < 0) {
		int result = -errno;

		close(fd);
		return result;
	}
	transport->port = ntohs(address.ss_family == AF_INET6
					? ((struct sockaddr_in6 *)&address)->sin6_port
					: ((struct sockaddr_in *)&address)->sin_port);
	transport->listen_fd = fd;
	return 0;
}

static int listener_open(struct transport *transport, struct error *error)
{
	const struct transport_config *config = &transport->config;
	struct addrinfo *list;
	int result = name_read(config->host != NULL ? config->host : "::", "0", AI_PASSIVE, &list,
			       error);
	uint32_t port = config->port_min;

	if (result < 0)
		return result;
	do
		result = listen_at(transport, list, (uint16_t)port);
	while (result == -EADDRINUSE && ++port <= config->port_max);
	freeaddrinfo(list);
	if (result == -EAFNOSUPPORT && config->host == NULL) {
		/* A machine without IPv6. */
		if (name_read("0.0.0.0", "0", AI_PASSIVE, &list, error) < 0)
			return -EINVAL;
		result = listen_at(transport, list, config->port_min);
		freeaddrinfo(list);
	}
	return result == 0 ? 0
			   : error_set(error, result, "data of peers: cannot listen on %s, port %u: %s",
				       config->host != NULL ? config->host : "any address",
				       config->port_min, strerror(-result));
}

/* ---- life ---- */

static void watch(struct transport *transport, int fd, uint32_t events, void *what, bool is_new)
{
	struct epoll_event event = { .events = events, .data.ptr = what };
	int result = epoll_ctl(transport->epoll_fd, is_new ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd,
			       &event);

	assert(result == 0);
}

static void tcp_destroy(struct transport *transport)
{
	if (transport == NULL)
		return;
	assert(list_is_empty(&transport->links));
	for (unsigned i = 0; i < TRANSPORT_STRANGERS_MAX; i++)
		if (transport->strangers[i].fd >= 0)
			close(transport->strangers[i].fd);
	if (transport->listen_fd >= 0)
		close(transport->listen_fd);
	if (transport->epoll_fd >= 0)
		close(transport->epoll_fd);
	free(transport);
}

static int tcp_create(struct transport **out_transport, const struct transport_config *config,
		      struct error *error)
{
	struct transport *transport = calloc(1, sizeof(*transport));
	int result;

	if (transport == NULL)
		return error_set(error, -ENOMEM, "no memory for a transport");
	transport->config = *config;
	transport->listen_fd = -1;
	list_init(&transport->links);
	for (unsigned i = 0; i < TRANSPORT_STRANGERS_MAX; i++)
		transport->strangers[i].fd = -1;
	transport->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	result = transport->epoll_fd < 0 ? error_set(error, -errno, "epoll: %s", strerror(errno))
					 : listener_open(transport, error);
	if (result < 0) {
		tcp_destroy(transport);
		return result;
	}
	watch(transport, transport->listen_fd, EPOLLIN, NULL, true);
	*out_transport = transport;
	return 0;
}

static int tcp_region(struct transport *transport, void *start, uint64_t bytes, struct error *error)
{
	(void)transport;
	(void)start;
	(void)bytes;
	(void)error;
	return 0;   /* the kernel copies from and to any memory */
}

static uint32_t tcp_address(struct transport *transport, const char *host, uint8_t *out_bytes)
{
	bool has_colons = strchr(host, ':') != NULL;
	int bytes = snprintf((char *)out_bytes, TRANSPORT_ADDRESS_BYTES_MAX, "%s%s%s:%u",
			     has_colons ? "[" : "", host, has_colons ? "]" : "", transport->port);

	return (uint32_t)bytes;
}

/* ---- links ---- */

static struct transport_link *link_new(struct transport *transport, const uint8_t *token,
				       const struct transport_events *events, void *owner)
{
	struct transport_link *link = transport->links_count < TRANSPORT_LINKS_MAX
					      ? calloc(1, sizeof(*link))
					      : NULL;

	if (link == NULL)
		return NULL;
	link->transport = transport;
	link->events = events;
	link->owner = owner;
	link->fd = -1;
	link->preface.magic = TCP_MAGIC;
	memcpy(link->preface.token, token, TRANSPORT_TOKEN_BYTES);
	link->moved_us = clock_now_us(transport->config.clock);
	list_init(&link->sends);
	list_append(&transport->links, &link->link);
	transport->links_count++;
	return link;
}

static int tcp_connect(struct transport *transport, const uint8_t *address, uint32_t address_bytes,
		       const uint8_t token[TRANSPORT_TOKEN_BYTES],
		       const struct transport_events *events, void *owner,
		       struct transport_link **out_link, struct error *error)
{
	struct addrinfo *list;
	int result = address_read(address, address_bytes, &list, error);

	if (result < 0)
		return result;
	int fd = socket(list->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, list->ai_addr, list->ai_addrlen) < 0 && errno != EINPROGRESS) {
		result = -errno;
		close(fd);
		fd = -1;
	}
	freeaddrinfo(list);
	struct transport_link *link = fd >= 0 ? link_new(transport, token, events, owner) : NULL;
	if (link == NULL) {
		if (fd >= 0)
			close(fd);
		return error_set(error, result < 0 ? result : -EAGAIN, "connecting %.*s: %s",
				 (int)address_bytes, (const char *)address,
				 result < 0 ? strerror(-result) : "too many links");
	}
	link->fd = fd;
	link->state = LINK_CONNECTING;
	tcp_socket_prepare(fd, transport->config.idle_us_max);
	link->watched = EPOLLIN | EPOLLOUT;
	watch(transport, fd, link->watched, link, true);
	*out_link = link;
	return 0;
}

static int tcp_expect(struct transport *transport, const uint8_t token[TRANSPORT_TOKEN_BYTES],
		      const struct transport_events *events, void *owner,
		      struct transport_link **out_link, struct error *error)
{
	struct transport_link *link = link_new(transport, token, events, owner);

	if (link == NULL)
		return error_set(error, -EAGAIN, "too many links");
	link->state = LINK_EXPECTING;
	*out_link = link;
	return 0;
}

static void tcp_send(struct transport_link *link, struct transport_send *send)
{
	assert(send->bytes <= TRANSPORT_PAYLOAD_MAX);
	send->to = link;
	list_append(&link->sends, &send->link);
	link->transport->has_dirty = true;
}

static void tcp_close(struct transport_link *link, int result, const char *reason)
{
	tcp_link_fail(link, result, reason);
}

static void link_end(struct transport_link *link)
{
	struct transport *transport = link->transport;

	if (link->fd >= 0)
		close(link->fd);
	tcp_link_give_back(link);
	list_remove(&transport->links, &link->link);
	transport->links_count--;
	link->events->down(link->owner, link->result, link->reason);
	free(link);
}

static void connecting_step(struct transport_link *link)
{
	int code = 0;
	socklen_t bytes = sizeof(code);
	char reason[TRANSPORT_REASON_BYTES];

	if (getsockopt(link->fd, SOL_SOCKET, SO_ERROR, &code, &bytes) < 0)
		code = errno;
	if (code == 0) {
		link->state = LINK_NAMING;
		return;
	}
	snprintf(reason, sizeof(reason), "the data connection: %s", strerror(code));
	tcp_link_fail(link, -code, reason);
}

/* ---- strangers ---- */

static struct tcp_stranger *stranger_place(struct transport *transport)
{
	for (unsigned i = 0; i < TRANSPORT_STRANGERS_MAX; i++)
		if (transport->strangers[i].fd < 0)
			return &transport->strangers[i];
	return NULL;
}

static bool accept_step(struct transport *transport, uint64_t now_us)
{
	int fd = accept4(transport->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct tcp_stranger *stranger = stranger_place(transport);

	if (fd < 0)
		return false;
	if (stranger == NULL) {
		close(fd);
		return true;
	}
	*stranger = (struct tcp_stranger){ .fd = fd, .since_us = now_us };
	tcp_socket_prepare(fd, transport->config.idle_us_max);
	watch(transport, fd, EPOLLIN, stranger, true);
	return true;
}

static void stranger_end(struct tcp_stranger *stranger)
{
	close(stranger->fd);
	stranger->fd = -1;
}

/* Its token is whole: it is one that is expected, or nobody's. */
static void stranger_named(struct transport *transport, struct tcp_stranger *stranger)
{
	struct list_node *node = list_first(&transport->links);

	for (; node != NULL; node = list_after(&transport->links, node)) {
		struct transport_link *link = list_item(node, struct transport_link, link);

		if (link->state != LINK_EXPECTING || stranger->preface.magic != TCP_MAGIC ||
		    !crypto_equal(link->preface.token, stranger->preface.token,
				  TRANSPORT_TOKEN_BYTES))
			continue;
		link->fd = stranger->fd;
		stranger->fd = -1;
		link->state = LINK_ANSWERING;
		link->preface_read = sizeof(link->theirs);
		link->watched = EPOLLIN | EPOLLOUT;
		watch(transport, link->fd, link->watched, link, false);
		return;
	}
	stranger_end(stranger);
}

static void stranger_step(struct transport *transport, struct tcp_stranger *stranger)
{
	uint8_t *bytes = (uint8_t *)&stranger->preface;
	ssize_t got = recv(stranger->fd, bytes + stranger->read,
			   sizeof(stranger->preface) - stranger->read, MSG_DONTWAIT);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) {
		stranger_end(stranger);
		return;
	}
	stranger->read += (uint32_t)got;
	if (stranger->read == sizeof(stranger->preface))
		stranger_named(transport, stranger);
}

static bool is_stranger(const struct transport *transport, const void *what)
{
	return (const struct tcp_stranger *)what >= transport->strangers &&
	       (const struct tcp_stranger *)what < transport->strangers + TRANSPORT_STRANGERS_MAX;
}

/* ---- each pass ---- */

static bool sockets_step(struct transport *transport, uint64_t now_us)
{
	struct epoll_event events[EVENTS_A_STEP];
	int count = epoll_wait(transport->epoll_fd, events, EVENTS_A_STEP, 0);

	for (int i = 0; i < count; i++) {
		void *what = events[i].data.ptr;

		if (what == NULL)
			(void)accept_step(transport, now_us);
		else if (is_stranger(transport, what) && ((struct tcp_stranger *)what)->fd >= 0)
			stranger_step(transport, what);
		else if (!is_stranger(transport, what) &&
			 ((struct transport_link *)what)->state == LINK_CONNECTING &&
			 (events[i].events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0)
			connecting_step(what);
	}
	return count > 0;
}

/* Wants to write: something waits for it, and the socket did not take it at once. */
static void link_watch(struct transport_link *link)
{
	bool wants_out = link->state == LINK_CONNECTING || !list_is_empty(&link->sends) ||
			 (link->state != LINK_JOINED && link->preface_sent < sizeof(link->preface));
	uint32_t wanted = EPOLLIN | (wants_out ? EPOLLOUT : 0u);

	if (link->fd < 0 || link->watched == wanted)
		return;
	link->watched = wanted;
	watch(link->transport, link->fd, wanted, link, false);
}

static bool late_look(struct transport *transport, uint64_t now_us)
{
	struct list_node *node = list_first(&transport->links);

	if (now_us < transport->looked_us + LOOK_US)
		return false;
	transport->looked_us = now_us;
	for (; node != NULL; node = list_after(&transport->links, node)) {
		struct transport_link *link = list_item(node, struct transport_link, link);

		/* Who expects waits as long as its owner likes. */
		if (link->state != LINK_EXPECTING && link->state != LINK_CLOSING &&
		    tcp_link_is_busy(link) &&
		    now_us >= link->moved_us + transport->config.idle_us_max)
			tcp_link_fail(link, -ETIMEDOUT, "nothing moves on the data connection");
	}
	for (unsigned i = 0; i < TRANSPORT_STRANGERS_MAX; i++)
		if (transport->strangers[i].fd >= 0 &&
		    now_us >= transport->strangers[i].since_us + TRANSPORT_TOKEN_US)
			stranger_end(&transport->strangers[i]);
	return true;
}

static bool tcp_step(struct transport *transport, uint64_t now_us)
{
	bool did_work = false;

	transport->has_dirty = false;
	did_work = sockets_step(transport, now_us);
	(void)late_look(transport, now_us);
	for (struct list_node *node = list_first(&transport->links); node != NULL;) {
		struct transport_link *link = list_item(node, struct transport_link, link);

		did_work = tcp_link_step(link, now_us) || did_work;
		node = list_after(&transport->links, node);
		if (link->state == LINK_CLOSING) {
			link_end(link);
			did_work = true;
		} else {
			link_watch(link);
		}
	}
	return did_work;
}

static int tcp_fd(struct transport *transport)
{
	return transport->epoll_fd;
}

static bool tcp_arm(struct transport *transport)
{
	return !transport->has_dirty;
}

static void tcp_describe(struct transport *transport, char *text, size_t bytes)
{
	snprintf(text, bytes, "tcp by sockets, port %u", transport->port);
}

const struct transport_ops transport_tcp = {
	.name = "tcp",
	.create = tcp_create,
	.destroy = tcp_destroy,
	.region = tcp_region,
	.address = tcp_address,
	.connect = tcp_connect,
	.expect = tcp_expect,
	.send = tcp_send,
	.close = tcp_close,
	.step = tcp_step,
	.fd = tcp_fd,
	.arm = tcp_arm,
	.describe = tcp_describe,
};
