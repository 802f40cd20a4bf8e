/* tiers/peer/peer_frames.c: frames of a session that cannot go on at once, either way. */
#include "tiers/peer/peer_parts.h"

#include <errno.h>
#include <string.h>

/* False: there is no room, or it has too many already. */
static bool frame_keep(struct peer_server *server, struct list *list, uint64_t max,
		       const void *frame)
{
	struct list_node *node = list->count < max ? list_take_first(&server->free_frames) : NULL;
	struct peer_frame_header header;

	if (node == NULL)
		return false;
	memcpy(&header, frame, sizeof(header));
	memcpy(list_item(node, struct frame_held, link)->frame, frame, header.bytes);
	list_append(list, node);
	return true;
}

static void first_drop(struct peer_server *server, struct list *list)
{
	list_append(&server->free_frames, list_take_first(list));
}

static bool said(struct connection *connection, const void *frame)
{
	const struct session *session = connection->session;
	struct peer_message message = {
		.verb = PEER_SAID,
		.number = session_number(connection->server, session),
		.life = session->life,
	};
	struct peer_frame_header header;

	memcpy(&header, frame, sizeof(header));
	memcpy(message.frame, frame, header.bytes);
	return server_say(connection->server, &message);
}

void connection_hear(struct connection *connection, const void *frame)
{
	bool is_up = connection->state == CONNECTION_UP && list_is_empty(&connection->held);

	if (connection->state == CONNECTION_ENDING || (is_up && said(connection, frame))) {
		connection->has_talked = true;
		return;
	}
	if (connection->state == CONNECTION_SHAKING || connection->state == CONNECTION_WAITING)
		connection_end(connection, -EPROTO, "spoke before its data link was made");
	else if (!frame_keep(connection->server, &connection->held, HELD_MAX, frame))
		connection_end(connection, -ENOBUFS, "said more than can be listened to");
}

void connection_say(struct connection *connection, const void *frame)
{
	int result = -EAGAIN;

	connection->has_talked = true;
	if (list_is_empty(&connection->unsaid))
		result = channel_send(connection->channel, frame);
	if (result == -EAGAIN &&
	    !frame_keep(connection->server, &connection->unsaid, UNSAID_MAX, frame))
		connection_end(connection, -ENOBUFS, "does not take what it is told");
}

bool connection_frames_step(struct connection *connection)
{
	struct list_node *node;
	bool did = false;

	while (connection->state == CONNECTION_UP &&
	       (node = list_first(&connection->held)) != NULL &&
	       said(connection, list_item(node, struct frame_held, link)->frame)) {
		connection->has_talked = did = true;
		first_drop(connection->server, &connection->held);
	}
	while (connection->state == CONNECTION_UP &&
	       (node = list_first(&connection->unsaid)) != NULL &&
	       channel_send(connection->channel,
			    list_item(node, struct frame_held, link)->frame) != -EAGAIN) {
		did = true;
		first_drop(connection->server, &connection->unsaid);
	}
	return did;
}

void connection_frames_drop(struct connection *connection)
{
	while (!list_is_empty(&connection->held))
		first_drop(connection->server, &connection->held);
	while (!list_is_empty(&connection->unsaid))
		first_drop(connection->server, &connection->unsaid);
}
