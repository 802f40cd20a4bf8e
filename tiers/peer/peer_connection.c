/* tiers/peer/peer_connection.c: one connection, from its socket to its end: channel, data link, and
 * all that belongs to them. */
#include "tiers/peer/peer_parts.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define LINGER_US (UINT64_C(1) * 1000000) /* for a last word */
#define LINE_US (UINT64_C(1) * 1000000)

static void connection_become(struct connection *connection, enum connection_state next)
{
	static const bool legal_move[CONNECTION_STATES][CONNECTION_STATES] = {
		[CONNECTION_FREE] = { [CONNECTION_SHAKING] = true },
		[CONNECTION_SHAKING] = { [CONNECTION_WAITING] = true, [CONNECTION_ENDING] = true },
		[CONNECTION_WAITING] = { [CONNECTION_LINKING] = true, [CONNECTION_ENDING] = true },
		[CONNECTION_LINKING] = { [CONNECTION_UP] = true, [CONNECTION_ENDING] = true },
		[CONNECTION_UP] = { [CONNECTION_ENDING] = true },
		[CONNECTION_ENDING] = { [CONNECTION_FREE] = true },
	};

	assert(legal_move[connection->state][next]);
	connection->state = next;
}

/* ---- begin ---- */

static void connection_unwatch(struct connection *connection)
{
	if (connection->watched != 0)
		(void)epoll_ctl(connection->server->wake_fd, EPOLL_CTL_DEL,
				channel_fd(connection->channel), NULL);
	connection->watched = 0;
}

static void channel_up(void *owner, const struct peer_hello *theirs)
{
	struct connection *connection = owner;

	if (connection->state != CONNECTION_SHAKING)
		return;
	connection->theirs = *theirs;
	connection->proved_us = connection->server->now_us;
	connection_become(connection, CONNECTION_WAITING);
	connection_is_proved(connection);
}

static void channel_frame(void *owner, const void *frame)
{
	struct connection *connection = owner;
	struct peer_frame_header header;

	memcpy(&header, frame, sizeof(header));
	if (header.type != PEER_LINK) {
		connection_hear(connection, frame);
		return;
	}
	if (connection->state == CONNECTION_WAITING)
		connection_link(connection, frame);
	else
		connection_end(connection, -EPROTO, "said twice how its data link is made");
	if (connection->state == CONNECTION_WAITING)
		connection_become(connection, CONNECTION_LINKING);
}

static void channel_down(void *owner, int result, const char *reason)
{
	struct connection *connection = owner;

	connection_unwatch(connection); /* while the descriptor's number is its own */
	connection->has_channel_ended = true;
	connection_end(connection, result, reason);
}

static int ciphers_create(struct connection *connection, struct error *error)
{
	int result = 0;

	if (!connection->server->config.is_encrypted)
		return 0;
	if (connection->seals == NULL)
		result = cipher_create(&connection->seals, error);
	if (result == 0 && connection->opens == NULL)
		result = cipher_create(&connection->opens, error);
	return result;
}

static int channel_begin(struct connection *connection, int fd, struct error *error)
{
	struct peer_server *server = connection->server;
	const struct channel_config config = {
		.is_connecting = connection->is_connecting,
		.hello = &server->setup->hello,
		.secrets = (const uint8_t (*)[CHANNEL_SECRET_BYTES])server->setup->secrets,
		.secrets_count = server->setup->secrets_count,
		.tls = server->tls,
		.tls_name = server->tls_name[0] != '\0' ? server->tls_name : NULL,
		.handshake_us = PEER_CONNECT_US_MAX / 2,
		.ping_us = PEER_PING_US,
		.silence_us = PEER_SILENCE_US_MAX,
		.clock = server->config.clock,
		.up = channel_up,
		.frame = channel_frame,
		.down = channel_down,
		.owner = connection,
	};
	int result = ciphers_create(connection, error);

	if (result < 0) {
		close(fd);
		return result;
	}
	return channel_create(&connection->channel, fd, &config, error);
}

static struct connection *connection_find_free(struct peer_server *server)
{
	for (unsigned n = 0; n < CONNECTIONS_MAX; n++)
		if (server->connections[n].state == CONNECTION_FREE)
			return &server->connections[n];
	return NULL;
}

struct connection *connection_begin(struct peer_server *server, int fd, struct session *session,
				    const char *address)
{
	struct connection *connection = connection_find_free(server);
	struct error error;

	if (connection == NULL) {
		close(fd);
		return NULL;
	}
	*connection = (struct connection){
		.server = server,
		.is_connecting = session != NULL,
		.session = session,
		.transport = session != NULL ? session->transport : 0,
		.deadline_us = server->now_us + PEER_CONNECT_US_MAX,
		.seals = connection->seals,
		.opens = connection->opens,
	};
	snprintf(connection->address, sizeof(connection->address), "%s", address);
	list_init(&connection->held);
	list_init(&connection->unsaid);
	list_init(&connection->places);
	list_init(&connection->sends);
	if (channel_begin(connection, fd, &error) < 0)
		return NULL;
	connection_become(connection, CONNECTION_SHAKING);
	return connection;
}

/* ---- the data link ---- */

static void link_up(void *owner)
{
	((struct connection *)owner)->is_link_up = true;
}

static void link_down(void *owner, int result, const char *reason)
{
	struct connection *connection = owner;
	char text[160];

	connection->link = NULL;
	snprintf(text, sizeof(text), "data link: %.140s", reason);
	connection_end(connection, result, text);
}

static void *link_arriving(void *owner, const uint8_t bytes[TRANSPORT_HEAD_BYTES], uint32_t count)
{
	struct chunk_head head;

	memcpy(&head, bytes, sizeof(head));
	return place_arriving(owner, &head, count);
}

static void link_arrived(void *owner, const uint8_t bytes[TRANSPORT_HEAD_BYTES], uint32_t count,
			 void *memory, int result)
{
	struct chunk_head head;

	(void)count;
	memcpy(&head, bytes, sizeof(head));
	place_arrived(owner, &head, memory, result);
}

const struct transport_events connection_link_events = {
	.arriving = link_arriving,
	.arrived = link_arrived,
	.up = link_up,
	.down = link_down,
};

/* ---- end ---- */

void connection_end(struct connection *connection, int result, const char *reason)
{
	struct peer_server *server = connection->server;

	if (connection->state == CONNECTION_ENDING || connection->state == CONNECTION_FREE)
		return;
	connection_become(connection, CONNECTION_ENDING);
	connection->end_result = result < 0 ? result : -ECONNRESET;
	snprintf(connection->end_reason, sizeof(connection->end_reason), "%s", reason);
	connection->deadline_us = server->now_us + LINGER_US;
	connection_frames_drop(connection);
	connection_unwatch(connection); /* while the descriptor's number is its own */
	if (!connection->has_channel_ended)
		channel_end(connection->channel, result, reason);
	if (connection->link != NULL)
		server->ops[connection->transport]->close(connection->link, result, reason);
	transfers_stop(connection, -ENOTCONN);
}

void connection_close(struct connection *connection)
{
	if (connection->channel != NULL) {
		connection_unwatch(connection);
		channel_destroy(connection->channel);
	}
	connection->channel = NULL;
	connection->state = CONNECTION_FREE;
}

/* True: there is nothing of it any more but its channel's last word. */
static bool session_leave(struct connection *connection)
{
	struct peer_server *server = connection->server;
	struct session *session = connection->session;

	if (connection->link != NULL || connection->transfers_count > 0)
		return false;
	if (session == NULL)
		return true;
	assert(session->connection == connection);
	if (session->state == SESSION_UP || session->state == SESSION_ENDING) {
		if (!session_down(server, session, connection->end_result,
				  connection->end_reason))
			return false;
	} else {
		session->connection = NULL;
		session_rest(server, session, connection->end_result, connection->end_reason);
	}
	connection->session = NULL;
	return true;
}

static bool ending_step(struct connection *connection)
{
	struct peer_server *server = connection->server;

	if (!session_leave(connection) ||
	    (!connection->has_channel_ended && server->now_us < connection->deadline_us))
		return false;
	connection_close(connection);
	return true;
}

/* ---- the pass ---- */

static bool up_step(struct connection *connection)
{
	uint8_t key[CRYPTO_KEY_BYTES];

	if (!connection->is_link_up || !session_up(connection->server, connection))
		return false;
	if (connection->seals != NULL) {
		channel_data_key(connection->channel, true, key);
		cipher_set_key(connection->seals, key);
		channel_data_key(connection->channel, false, key);
		cipher_set_key(connection->opens, key);
		crypto_wipe(key, sizeof(key));
	}
	connection_become(connection, CONNECTION_UP);
	connection->line_us = connection->server->now_us;
	return true;
}

static void line_say(struct connection *connection)
{
	struct peer_server *server = connection->server;
	struct peer_message message = { .verb = PEER_LINE };

	if (server->now_us - connection->line_us < LINE_US)
		return;
	connection->line_us = server->now_us;
	connection->line.round_trip_us = channel_round_trip_us(connection->channel);
	connection->line.bytes_under_way = connection->under_way_bytes;
	if (memcmp(&connection->line, &connection->line_said, sizeof(connection->line)) == 0)
		return;
	message.number = session_number(server, connection->session);
	message.life = connection->session->life;
	message.line = connection->line;
	if (server_say(server, &message))
		connection->line_said = connection->line;
}

/* What the channel waits for changes; the descriptor is its own until it has ended. */
static void connection_watch(struct connection *connection)
{
	short wanted = connection->has_channel_ended ? 0 : channel_events(connection->channel);
	struct epoll_event event = { .events = (wanted & POLLIN ? EPOLLIN : 0) |
					       (wanted & POLLOUT ? EPOLLOUT : 0) };

	if (wanted == connection->watched)
		return;
	if (wanted == 0) {
		connection_unwatch(connection);
		return;
	}
	if (epoll_ctl(connection->server->wake_fd,
		      connection->watched == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD,
		      channel_fd(connection->channel), &event) == 0)
		connection->watched = wanted;
}

static bool connection_step(struct connection *connection)
{
	struct peer_server *server = connection->server;
	bool did = false;

	if (!connection->has_channel_ended && server_room(server) >= ROOM_MIN)
		did = channel_step(connection->channel, server->now_us);
	if (connection->state == CONNECTION_LINKING)
		did = up_step(connection) || did;
	if (connection->state == CONNECTION_UP) {
		did = connection_frames_step(connection) || did;
		line_say(connection);
	} else if (connection->state != CONNECTION_ENDING &&
		   server->now_us >= connection->deadline_us) {
		connection_end(connection, -ETIMEDOUT,
			       connection->state == CONNECTION_LINKING
				       ? "the data link was not made in time"
				       : "the handshake took too long");
		did = true;
	}
	connection_watch(connection);
	if (connection->state == CONNECTION_ENDING)
		did = ending_step(connection) || did;
	return did;
}

bool connections_step(struct peer_server *server)
{
	bool did = false;

	for (unsigned n = 0; n < CONNECTIONS_MAX; n++)
		if (server->connections[n].state != CONNECTION_FREE)
			did = connection_step(&server->connections[n]) || did;
	return did;
}

uint64_t connection_next_us(const struct connection *connection)
{
	uint64_t next_us = connection->has_channel_ended ? UINT64_MAX
							 : channel_next_us(connection->channel);
	uint64_t own_us = connection->state == CONNECTION_UP ? connection->line_us + LINE_US
							     : connection->deadline_us;

	return own_us < next_us ? own_us : next_us;
}
