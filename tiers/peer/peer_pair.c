/* tiers/peer/peer_pair.c: two nodes that have proved themselves: whether there is a connection
 * between them already, and how the data link is made. */
#include "tiers/peer/peer_parts.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* ---- one connection a pair ---- */

/* Another connection with the same node that has come further than its handshake. */
static struct connection *other_of(struct connection *connection)
{
	struct peer_server *server = connection->server;

	for (unsigned n = 0; n < CONNECTIONS_MAX; n++) {
		struct connection *other = &server->connections[n];
		bool has_linked = other->state == CONNECTION_LINKING ||
				  other->state == CONNECTION_UP ||
				  (other->state == CONNECTION_WAITING && other->is_connecting);

		if (other != connection && has_linked &&
		    memcmp(other->theirs.node, connection->theirs.node, PEER_NODE_BYTES) == 0)
			return other;
	}
	return NULL;
}

/* The session that wanted `from` has `to`, which is not up yet. */
static void session_move(struct connection *from, struct connection *to)
{
	assert(to->session == NULL && from->session != NULL);
	to->session = from->session;
	to->session->connection = to;
	from->session = NULL;
}

/* Nothing has been said in its session yet, so nobody misses anything when it gets the number that
 * was asked for. */
static bool session_rename(struct connection *from, struct connection *to)
{
	struct peer_server *server = to->server;

	if (to->state != CONNECTION_UP || to->has_talked || to->transfers_count > 0 ||
	    server_room(server) < 2)
		return false;
	if (!session_down(server, to->session, -EALREADY, "is the node that was asked for"))
		return false;
	to->session = NULL;
	session_move(from, to);
	bool is_up = session_up(server, to);
	assert(is_up);
	return is_up;
}

/* Before we say LINK. False: ours has been ended for another that is there. */
static bool may_offer(struct connection *connection)
{
	struct connection *other = other_of(connection);
	char text[160];

	if (other == NULL)
		return true;
	if (other->theirs.boot_id != connection->theirs.boot_id) {
		connection_end(other, -ESTALE, "its kvtierd has been started again");
		return true;
	}
	if (other->session != NULL && other->session->is_asked) {
		snprintf(text, sizeof(text), "is the same node as %s",
			 other->session->address);
		connection->session->backoff_us = PEER_BACKOFF_US_MAX;
		connection_end(connection, -EALREADY, text);
		return false;
	}
	/* It was accepted. Now that we know whose it is it serves who asked for it, unless it is in
	 * use under another number: then this one takes its place. */
	if (other->session == NULL)
		session_move(connection, other);
	if (connection->session == NULL || session_rename(connection, other)) {
		connection_end(connection, -EALREADY, "already connected");
		return false;
	}
	connection_end(other, -EALREADY, "is joined with the connection that we made");
	return true;
}

/* Before we answer a LINK. False: it has been ended. */
static bool may_accept(struct connection *connection)
{
	struct connection *other = other_of(connection);

	if (other == NULL)
		return true;
	if (other->theirs.boot_id != connection->theirs.boot_id) {
		connection_end(other, -ESTALE, "its kvtierd has been started again");
		return true;
	}
	if (!other->is_connecting) {
		connection_end(other, -EALREADY, "was replaced by a newer connection");
		return true;
	}
	/* Both connected: of both, the one that the smaller node made. */
	if (is_smaller_node(connection)) {
		connection_end(connection, -EALREADY, "already connected");
		return false;
	}
	if (other->state != CONNECTION_UP && other->session != NULL)
		session_move(other, connection);
	connection_end(other, -EALREADY, "already connected");
	return true;
}

/* ---- the data link ---- */

/* As the other side reaches us: our end of the control connection. */
static void host_of(struct connection *connection, char *text, size_t bytes)
{
	struct sockaddr_storage address = { 0 };
	socklen_t length = sizeof(address);
	const void *host = &((struct sockaddr_in *)&address)->sin_addr;

	snprintf(text, bytes, "127.0.0.1");
	if (getsockname(channel_fd(connection->channel), (struct sockaddr *)&address, &length) < 0)
		return;
	if (address.ss_family == AF_INET6)
		host = &((struct sockaddr_in6 *)&address)->sin6_addr;
	if (address.ss_family == AF_INET6 || address.ss_family == AF_INET)
		(void)inet_ntop(address.ss_family, host, text, (socklen_t)bytes);
}

/* What comes is expected before the other side can know of it. */
static int link_offer(struct connection *connection, struct error *error)
{
	struct peer_server *server = connection->server;
	const struct transport_ops *ops = server->ops[connection->transport];
	struct transport *transport = server->transports[connection->transport];
	struct {
		struct peer_link_frame head;
		uint8_t address[TRANSPORT_ADDRESS_BYTES_MAX];
	} frame = { .head.header = { .magic = PEER_FRAME_MAGIC, .type = PEER_LINK } };
	char host[INET6_ADDRSTRLEN + 1];
	int result = 0;

	host_of(connection, host, sizeof(host));
	random_system(connection->token, sizeof(connection->token));
	memcpy(frame.head.token, connection->token, sizeof(frame.head.token));
	snprintf(frame.head.transport, sizeof(frame.head.transport), "%s", ops->name);
	frame.head.address_bytes = ops->address(transport, host, frame.address);
	frame.head.header.bytes = (uint32_t)sizeof(frame.head) + frame.head.address_bytes;
	if (!is_smaller_node(connection))
		result = ops->expect(transport, connection->token, &connection_link_events,
				     connection, &connection->link, error);
	if (result == 0)
		result = channel_send(connection->channel, &frame);
	return result;
}

static void offer(struct connection *connection)
{
	struct error error = { .text = "its LINK could not be said" };
	int result;

	if (memcmp(connection->server->setup->hello.node, connection->theirs.node,
		   PEER_NODE_BYTES) == 0) {
		connection_end(connection, -EEXIST,
			       "has our own node id: was a state_directory copied?");
		return;
	}
	result = link_offer(connection, &error);
	if (result < 0)
		connection_end(connection, result, error.text);
}

void connection_is_proved(struct connection *connection)
{
	struct session *session = connection->session;

	if (!connection->is_connecting)
		return;
	if (session == NULL) {
		connection_end(connection, -EALREADY, "is not wanted any more");
		return;
	}
	session->is_known = true;
	memcpy(session->node, connection->theirs.node, PEER_NODE_BYTES);
	if (may_offer(connection))
		offer(connection);
}

/* The number of the transport that their LINK names, or -EPROTONOSUPPORT. */
static int transport_find(const struct peer_server *server, const struct peer_link_frame *frame)
{
	for (unsigned n = 0; n < server->transports_count; n++)
		if (strncmp(server->ops[n]->name, frame->transport, sizeof(frame->transport)) == 0)
			return (int)n;
	return -EPROTONOSUPPORT;
}

static int link_connect(struct connection *connection, const struct peer_link_frame *theirs,
			struct error *error)
{
	struct peer_server *server = connection->server;

	if (!is_smaller_node(connection))
		return 0;
	return server->ops[connection->transport]->connect(
		server->transports[connection->transport], (const uint8_t *)(theirs + 1),
		theirs->address_bytes, theirs->token, &connection_link_events, connection,
		&connection->link, error);
}

void connection_link(struct connection *connection, const void *frame)
{
	const struct peer_link_frame *theirs = frame;
	int transport = transport_find(connection->server, theirs);
	struct error error = { .text = "the data link could not be begun" };
	char text[160];

	if (theirs->header.bytes < sizeof(*theirs) ||
	    theirs->address_bytes > theirs->header.bytes - sizeof(*theirs) ||
	    theirs->address_bytes > TRANSPORT_ADDRESS_BYTES_MAX) {
		connection_end(connection, -EPROTO, "said a LINK of a wrong size");
		return;
	}
	if (transport < 0 ||
	    (connection->is_connecting && transport != (int)connection->transport)) {
		snprintf(text, sizeof(text), "speaks %.16s, which we do not: setting peer_transport",
			 theirs->transport);
		connection_end(connection, -EPROTONOSUPPORT, text);
		return;
	}
	connection->transport = (unsigned)transport;
	if (!connection->is_connecting && may_accept(connection))
		offer(connection);
	if (connection->state == CONNECTION_ENDING)
		return;
	int result = link_connect(connection, theirs, &error);
	if (result < 0)
		connection_end(connection, result, error.text);
}
