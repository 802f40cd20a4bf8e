/* tests/peer/fake_transport.c: see fake_transport.h. */
#include "tests/peer/fake_transport.h"

#include "daemon/peer_backends.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAD_BYTES (TRANSPORT_HEAD_BYTES + sizeof(uint32_t))

enum link_state { LINK_FREE, LINK_EXPECTED, LINK_JOINED, LINK_CLOSING };

struct transport_link {
	enum link_state state;
	struct transport *transport;
	const struct transport_events *events;
	void *owner;
	uint8_t token[TRANSPORT_TOKEN_BYTES];
	int fd, result;
	bool was_up;
	struct list sends;
	uint64_t written; /* of the first, with its head */
	uint8_t head[HEAD_BYTES];
	uint32_t head_bytes, payload_bytes, payload_read;
	uint8_t *memory;
	bool has_asked; /* arriving() was called for this head */
};

struct stranger {
	int fd;
	uint8_t token[TRANSPORT_TOKEN_BYTES];
	uint32_t bytes;
};

struct transport {
	int listen_fd, wake_fd;
	uint16_t port;
	struct stranger strangers[8];
	struct transport_link links[FAKE_LINKS];
};

struct fake_faults fake_faults = { .bytes_left = UINT64_MAX };
static struct transport *transports[8];

static int fake_create(struct transport **out, const struct transport_config *config,
		       struct error *error)
{
	struct transport *transport = calloc(1, sizeof(*transport));
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct epoll_event event = { .events = EPOLLIN };
	socklen_t bytes = sizeof(address);

	(void)config;
	(void)error;
	transport->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	transport->wake_fd = epoll_create1(EPOLL_CLOEXEC);
	assert(bind(transport->listen_fd, (struct sockaddr *)&address, bytes) == 0);
	assert(listen(transport->listen_fd, 8) == 0);
	assert(getsockname(transport->listen_fd, (struct sockaddr *)&address, &bytes) == 0);
	assert(epoll_ctl(transport->wake_fd, EPOLL_CTL_ADD, transport->listen_fd, &event) == 0);
	transport->port = address.sin_port;
	for (unsigned n = 0; n < 8; n++)
		transport->strangers[n].fd = -1;
	for (unsigned n = 0; n < 8; n++)
		if (transports[n] == NULL) {
			transports[n] = transport;
			break;
		}
	*out = transport;
	return 0;
}

static void link_gone(struct transport_link *link)
{
	struct list_node *node;

	if (link->fd >= 0)
		close(link->fd);
	if (link->has_asked) {
		link->has_asked = false;
		link->events->arrived(link->owner, link->head, link->payload_bytes, link->memory,
				      -ECONNRESET);
	}
	while ((node = list_take_first(&link->sends)) != NULL) {
		struct transport_send *send = list_item(node, struct transport_send, link);

		send->done(send, -ECONNRESET);
	}
	link->state = LINK_FREE;
	link->events->down(link->owner, link->result, "closed");
}

static void fake_destroy(struct transport *transport)
{
	for (unsigned n = 0; n < FAKE_LINKS; n++)
		if (transport->links[n].state != LINK_FREE)
			link_gone(&transport->links[n]);
	for (unsigned n = 0; n < 8; n++) {
		if (transports[n] == transport)
			transports[n] = NULL;
		if (transport->strangers[n].fd >= 0)
			close(transport->strangers[n].fd);
	}
	close(transport->listen_fd);
	close(transport->wake_fd);
	free(transport);
}

static int fake_region(struct transport *transport, void *start, uint64_t bytes,
		       struct error *error)
{
	(void)transport, (void)start, (void)bytes, (void)error;
	return 0;
}

static uint32_t fake_address(struct transport *transport, const char *host, uint8_t *out_bytes)
{
	(void)host;
	memcpy(out_bytes, &transport->port, sizeof(transport->port));
	return sizeof(transport->port);
}

static struct transport_link *link_make(struct transport *transport, const uint8_t *token,
					const struct transport_events *events, void *owner)
{
	struct transport_link *link = transport->links;

	while (link->state != LINK_FREE)
		link++;
	assert(link < transport->links + FAKE_LINKS);
	*link = (struct transport_link){ .transport = transport, .events = events, .owner = owner,
					 .fd = -1, .state = LINK_EXPECTED };
	memcpy(link->token, token, sizeof(link->token));
	list_init(&link->sends);
	return link;
}

static void link_join(struct transport_link *link, int fd)
{
	struct epoll_event event = { .events = EPOLLIN };

	link->fd = fd;
	link->state = LINK_JOINED;
	assert(epoll_ctl(link->transport->wake_fd, EPOLL_CTL_ADD, fd, &event) == 0);
}

static int fake_connect(struct transport *transport, const uint8_t *address,
			uint32_t address_bytes, const uint8_t token[TRANSPORT_TOKEN_BYTES],
			const struct transport_events *events, void *owner,
			struct transport_link **out_link, struct error *error)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct transport_link *link;
	int fd;

	if (fake_faults.refuses_links || address_bytes != sizeof(to.sin_port))
		return error_set(error, -EINVAL, "this link is refused");
	memcpy(&to.sin_port, address, sizeof(to.sin_port));
	*out_link = link = link_make(transport, token, events, owner);
	if (fake_faults.never_joins)
		return 0;
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	/* Of the loopback: at once. */
	assert(connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0);
	assert(write(fd, token, TRANSPORT_TOKEN_BYTES) == TRANSPORT_TOKEN_BYTES);
	link_join(link, fd);
	return 0;
}

static int fake_expect(struct transport *transport, const uint8_t token[TRANSPORT_TOKEN_BYTES],
		       const struct transport_events *events, void *owner,
		       struct transport_link **out_link, struct error *error)
{
	if (fake_faults.refuses_links)
		return error_set(error, -EAGAIN, "this link is refused");
	*out_link = link_make(transport, token, events, owner);
	return 0;
}

static void fake_send(struct transport_link *link, struct transport_send *send)
{
	assert(send->to == link);
	list_append(&link->sends, &send->link);
}

static void fake_close(struct transport_link *link, int result, const char *reason)
{
	(void)reason;
	link->state = LINK_CLOSING;
	link->result = result;
}

/* ---- the pass ---- */

static bool strangers_step(struct transport *transport)
{
	bool did = false;

	for (unsigned n = 0; n < 8; n++) {
		struct stranger *stranger = &transport->strangers[n];

		if (stranger->fd < 0) {
			stranger->fd = accept4(transport->listen_fd, NULL, NULL, SOCK_CLOEXEC);
			stranger->bytes = 0;
		}
		if (stranger->fd < 0)
			continue;
		ssize_t bytes = recv(stranger->fd, stranger->token + stranger->bytes,
				     sizeof(stranger->token) - stranger->bytes, MSG_DONTWAIT);
		if (bytes > 0)
			stranger->bytes += (uint32_t)bytes;
		if (stranger->bytes < sizeof(stranger->token))
			continue;
		for (unsigned i = 0; i < FAKE_LINKS; i++)
			if (transport->links[i].state == LINK_EXPECTED &&
			    memcmp(transport->links[i].token, stranger->token,
				   sizeof(stranger->token)) == 0) {
				link_join(&transport->links[i], stranger->fd);
				stranger->fd = -1;
				did = true;
				break;
			}
		if (stranger->fd >= 0)
			close(stranger->fd);
		stranger->fd = -1;
	}
	return did;
}

static void link_lost(struct transport_link *link)
{
	if (link->state == LINK_JOINED)
		fake_close(link, -ECONNRESET, "");
}

static ssize_t send_some(int fd, const void *from, uint64_t bytes)
{
	return send(fd, from, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static bool link_write(struct transport_link *link)
{
	struct list_node *node = list_first(&link->sends);
	struct transport_send *send = list_item(node, struct transport_send, link);
	uint8_t head[HEAD_BYTES];
	const uint8_t *from;
	uint64_t left;

	if (node == NULL)
		return false;
	memcpy(head, send->head, TRANSPORT_HEAD_BYTES);
	memcpy(head + TRANSPORT_HEAD_BYTES, &send->bytes, sizeof(send->bytes));
	if (link->written < HEAD_BYTES) {
		from = head + link->written;
		left = HEAD_BYTES - link->written;
	} else {
		from = (const uint8_t *)send->payload + (link->written - HEAD_BYTES);
		left = send->bytes - (link->written - HEAD_BYTES);
	}
	if (left > fake_faults.bytes_left)
		left = fake_faults.bytes_left;
	if (left == 0)
		return false;
	ssize_t bytes = send_some(link->fd, from, left);
	if (bytes < 0 && errno != EAGAIN)
		link_lost(link);
	if (bytes <= 0)
		return false;
	link->written += (uint64_t)bytes;
	if (fake_faults.bytes_left != UINT64_MAX)
		fake_faults.bytes_left -= (uint64_t)bytes;
	if (link->written == HEAD_BYTES + send->bytes) {
		link->written = 0;
		list_remove(&link->sends, node);
		send->done(send, 0);
	}
	return true;
}

static bool payload_read(struct transport_link *link)
{
	uint8_t nowhere[4096];
	uint32_t left = link->payload_bytes - link->payload_read;
	ssize_t bytes;

	if (link->memory == NULL && left > sizeof(nowhere))
		left = sizeof(nowhere);
	bytes = recv(link->fd, link->memory == NULL ? nowhere : link->memory + link->payload_read,
		     left, MSG_DONTWAIT);
	if (bytes == 0 || (bytes < 0 && errno != EAGAIN))
		link_lost(link);
	if (bytes <= 0)
		return false;
	link->payload_read += (uint32_t)bytes;
	if (link->payload_read < link->payload_bytes)
		return true;
	link->has_asked = false;
	link->head_bytes = 0;
	link->events->arrived(link->owner, link->head, link->payload_bytes, link->memory, 0);
	return true;
}

static bool link_read(struct transport_link *link)
{
	ssize_t bytes;

	if (link->has_asked)
		return payload_read(link);
	bytes = recv(link->fd, link->head + link->head_bytes, HEAD_BYTES - link->head_bytes,
		     MSG_DONTWAIT);
	if (bytes == 0 || (bytes < 0 && errno != EAGAIN))
		link_lost(link);
	if (bytes <= 0)
		return false;
	link->head_bytes += (uint32_t)bytes;
	if (link->head_bytes < HEAD_BYTES)
		return true;
	memcpy(&link->payload_bytes, link->head + TRANSPORT_HEAD_BYTES, sizeof(uint32_t));
	link->payload_read = 0;
	link->memory = link->events->arriving(link->owner, link->head, link->payload_bytes);
	link->has_asked = true;
	return true;
}

static bool fake_step(struct transport *transport, uint64_t now_us)
{
	bool did = strangers_step(transport);

	(void)now_us;
	for (unsigned n = 0; n < FAKE_LINKS; n++) {
		struct transport_link *link = &transport->links[n];

		if (link->state == LINK_JOINED && !link->was_up) {
			link->was_up = did = true;
			link->events->up(link->owner);
		}
		for (unsigned i = 0; i < 64 && link->state == LINK_JOINED; i++) {
			bool more = link_read(link);

			if (link->state == LINK_JOINED)
				more = link_write(link) || more;
			if (!more)
				break;
			did = true;
		}
		if (link->state == LINK_CLOSING) {
			link_gone(link);
			did = true;
		}
	}
	return did;
}

static int fake_fd(struct transport *transport)
{
	return transport->wake_fd;
}

static bool fake_arm(struct transport *transport)
{
	for (unsigned n = 0; n < FAKE_LINKS; n++)
		if (transport->links[n].state == LINK_CLOSING ||
		    (transport->links[n].state == LINK_JOINED &&
		     (!transport->links[n].was_up ||
		      !list_is_empty(&transport->links[n].sends))))
			return false;
	return true;
}

static void fake_describe(struct transport *transport, char *text, size_t bytes)
{
	snprintf(text, bytes, "fake, port %u", ntohs(transport->port));
}

/* ---- what tests do with it ---- */

struct transport_link *fake_transport_links(unsigned nth)
{
	for (unsigned i = 0; i < 8; i++)
		for (unsigned n = 0; transports[i] != NULL && n < FAKE_LINKS; n++)
			if (transports[i]->links[n].was_up &&
			    transports[i]->links[n].state == LINK_JOINED && nth-- == 0)
				return &transports[i]->links[n];
	return NULL;
}

void *fake_transport_owner(struct transport_link *link)
{
	return link->owner;
}

void fake_transport_inject(struct transport_link *link, const void *head, const void *payload,
			   uint32_t bytes)
{
	assert(list_is_empty(&link->sends));
	assert(write(link->fd, head, TRANSPORT_HEAD_BYTES) == TRANSPORT_HEAD_BYTES);
	assert(write(link->fd, &bytes, sizeof(bytes)) == sizeof(bytes));
	/* As far as the socket takes it. */
	assert(bytes == 0 || send_some(link->fd, payload, bytes) > 0);
}

void fake_transport_cut(struct transport_link *link)
{
	assert(shutdown(link->fd, SHUT_RDWR) == 0);
}

#define FAKE(is_called)                                                                            \
	{                                                                                          \
		.name = is_called, .create = fake_create, .destroy = fake_destroy,                 \
		.region = fake_region, .address = fake_address, .connect = fake_connect,           \
		.expect = fake_expect, .send = fake_send, .close = fake_close, .step = fake_step,  \
		.fd = fake_fd, .arm = fake_arm, .describe = fake_describe                          \
	}
const struct transport_ops fake_transport = FAKE("fake"), fake_transport_other = FAKE("other");

/* In place of those that are built in. */
const struct transport_ops *const peer_transports[] = { &fake_transport, NULL };
