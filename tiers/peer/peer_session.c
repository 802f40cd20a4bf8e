/* tiers/peer/peer_session.c: sessions, as the daemon knows them: asked for, connected, up, down,
 * and again. */
#include "tiers/peer/peer_parts.h"

#include "base/failpoint.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SETTLE_US (UINT64_C(1) * 1000000)
#define STEADY_US (UINT64_C(10) * 1000000) /* up for so long: the next back-off is short again */

static void session_become(struct session *session, enum session_state next)
{
	static const bool legal_move[SESSION_STATES][SESSION_STATES] = {
		[SESSION_FREE] = { [SESSION_RESTING] = true, [SESSION_UP] = true },
		[SESSION_RESTING] = { [SESSION_NAMING] = true, [SESSION_UP] = true,
				      [SESSION_FREE] = true },
		[SESSION_NAMING] = { [SESSION_CONNECTING] = true, [SESSION_RESTING] = true,
				     [SESSION_UP] = true, [SESSION_FREE] = true },
		[SESSION_CONNECTING] = { [SESSION_UP] = true, [SESSION_RESTING] = true,
					 [SESSION_FREE] = true },
		[SESSION_UP] = { [SESSION_ENDING] = true, [SESSION_RESTING] = true,
				 [SESSION_FREE] = true },
		[SESSION_ENDING] = { [SESSION_RESTING] = true, [SESSION_FREE] = true },
	};

	assert(legal_move[session->state][next]);
	session->state = next;
}

/* Its number is the daemon's again. */
static void session_free(struct session *session)
{
	uint32_t life = session->life, turn = session->turn;

	session_become(session, SESSION_FREE);
	*session = (struct session){ .life = life, .turn = turn + 1 };
}

static bool forgotten_say(struct peer_server *server, const struct session *session)
{
	const struct peer_message message = { .verb = PEER_FORGOTTEN,
					      .number = session_number(server, session) };

	return server_say(server, &message);
}

static bool down_say(struct peer_server *server, struct session *session, uint32_t life, int result,
		     const char *reason)
{
	struct peer_message message = { .verb = PEER_DOWN, .result = result, .life = life,
					.number = session_number(server, session) };

	snprintf(message.text, sizeof(message.text), "%s", reason);
	return server_say(server, &message);
}

/* ---- the daemon's wishes ---- */

int session_connect(struct peer_server *server, const struct peer_message *message,
		    struct error *error)
{
	struct session *session = &server->sessions[message->number % PEER_SESSIONS_MAX];

	if (message->number >= PEER_SESSIONS_ASKED || session->state != SESSION_FREE ||
	    strnlen(message->text, PEER_ADDRESS_TEXT_MAX) == PEER_ADDRESS_TEXT_MAX)
		return error_set(error, -EPROTO, "the daemon connected session %u twice",
				 message->number);
	session_become(session, SESSION_RESTING);
	session->is_asked = true;
	session->backoff_us = PEER_BACKOFF_US_MIN;
	session->next_us = server->now_us;
	snprintf(session->address, sizeof(session->address), "%.127s", message->text);
	return 0;
}

void session_forget(struct peer_server *server, uint32_t number)
{
	struct session *session = &server->sessions[number];
	struct connection *connection = session->connection;

	/* It may have gone by itself meanwhile: then FORGOTTEN is all there is to say. */
	session->is_forgotten = true;
	if (connection == NULL)
		return;
	if (session->state == SESSION_CONNECTING) {
		connection->session = NULL;
		session->connection = NULL;
	}
	connection_end(connection, -ECANCELED, "is not wanted any more");
}

/* ---- up and down ---- */

/* A connection that we make now may turn out to lead to the same node: it is told soon. */
static bool may_be_asked(const struct peer_server *server, const struct connection *connection)
{
	if (server->now_us - connection->proved_us >= SETTLE_US)
		return false;
	for (unsigned n = 0; n < PEER_SESSIONS_ASKED; n++) {
		const struct session *session = &server->sessions[n];

		if (session->is_asked && !session->is_known && !session->is_forgotten &&
		    (session->state != SESSION_RESTING || session->attempts == 0))
			return true;
	}
	return false;
}

/* Who asked for this node, or a number of its own. NULL: not now. */
static struct session *session_for(struct peer_server *server, const struct connection *connection)
{
	struct session *free = NULL;

	for (unsigned n = 0; n < PEER_SESSIONS_MAX; n++) {
		struct session *session = &server->sessions[n];
		bool is_his = session->is_known && session->is_asked &&
			      memcmp(session->node, connection->theirs.node,
				     PEER_NODE_BYTES) == 0;

		if (is_his && !session->is_forgotten)
			return session->state == SESSION_UP || session->state == SESSION_ENDING
				       ? NULL
				       : session;
		if (n >= PEER_SESSIONS_ASKED && free == NULL && session->state == SESSION_FREE &&
		    !session->is_forgotten)
			free = session;
	}
	return may_be_asked(server, connection) ? NULL : free;
}

/* A try of its own that is under way is not needed any more. */
static void session_take(struct session *session, struct connection *connection)
{
	struct connection *before = session->connection;

	session->connection = connection;
	connection->session = session;
	session->turn++;
	if (before == NULL)
		return;
	before->session = NULL;
	connection_end(before, -EALREADY, "already connected");
}

bool session_up(struct peer_server *server, struct connection *connection)
{
	struct session *session = connection->session;
	struct peer_message message = { .verb = PEER_UP };

	if (server_room(server) == 0)
		return false;
	if (session == NULL)
		session = session_for(server, connection);
	if (session == NULL)
		return false;
	if (session->connection != connection)
		session_take(session, connection);
	session_become(session, SESSION_UP);
	session->is_known = true;
	memcpy(session->node, connection->theirs.node, PEER_NODE_BYTES);
	session->life++;
	session->up_us = server->now_us;
	session->told[0] = '\0';
	message.number = session_number(server, session);
	message.life = session->life;
	message.up.hello = connection->theirs;
	snprintf(message.up.address, sizeof(message.up.address), "%s",
		 session->is_asked ? session->address : connection->address);
	snprintf(message.up.transport, sizeof(message.up.transport), "%s",
		 server->ops[connection->transport]->name);
	bool is_told = server_say(server, &message);
	(void)failpoint(peer_connected);
	return is_told;
}

/* With jitter, so that nodes which lost each other at once do not meet at once again. */
static void rest_begin(struct peer_server *server, struct session *session)
{
	if (session->state != SESSION_RESTING)
		session_become(session, SESSION_RESTING);
	session->next_us = server->now_us + session->backoff_us / 2 +
			   random_below(&server->random, session->backoff_us / 2 + 1);
	session->backoff_us = session->backoff_us * 2 < PEER_BACKOFF_US_MAX
				      ? session->backoff_us * 2
				      : PEER_BACKOFF_US_MAX;
}

void session_rest(struct peer_server *server, struct session *session, int result,
		  const char *reason)
{
	/* Another may have what one of the two lacks. */
	if (result == -EPROTONOSUPPORT)
		session->transport = (session->transport + 1) % server->transports_count;
	if (strncmp(session->told, reason, sizeof(session->told) - 1) != 0 &&
	    !session->is_forgotten && down_say(server, session, 0, result, reason))
		snprintf(session->told, sizeof(session->told), "%s", reason);
	rest_begin(server, session);
}

bool session_down(struct peer_server *server, struct session *session, int result,
		  const char *reason)
{
	if (!down_say(server, session, session->life, result, reason))
		return false;
	session->connection = NULL;
	snprintf(session->told, sizeof(session->told), "%s", reason);
	if (!session->is_asked) {
		bool is_forgotten = session->is_forgotten;

		session_free(session);
		session->is_forgotten = is_forgotten;
		return true;
	}
	if (server->now_us - session->up_us >= STEADY_US)
		session->backoff_us = PEER_BACKOFF_US_MIN;
	rest_begin(server, session);
	return true;
}

/* ---- connecting ---- */

static int socket_connect(const struct peer_lookup *lookup, unsigned number, int *out_fd)
{
	const struct sockaddr *address = (const struct sockaddr *)&lookup->addresses[number];
	const int yes = 1;
	int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	if (connect(fd, address, lookup->bytes[number]) < 0 && errno != EINPROGRESS) {
		int result = -errno;

		close(fd);
		return result;
	}
	*out_fd = fd;
	return 0;
}

/* ---- names for the daemon ---- */

#define RESOLVING PEER_SESSIONS_MAX /* instead of a session's number */

int names_resolve(struct peer_server *server, const struct peer_message *message,
		  struct error *error)
{
	if (server->is_resolving ||
	    strnlen(message->text, PEER_ADDRESS_TEXT_MAX) == PEER_ADDRESS_TEXT_MAX)
		return error_set(error, -EPROTO, "the daemon asked for two names at once");
	/* Sessions that are asked for are fewer than lookups, so there is room. */
	server->is_resolving = peer_names_ask(server->names, RESOLVING, 0, message->text);
	return server->is_resolving ? 0 : error_set(error, -EAGAIN, "too many names are asked for");
}

/* Of one family: a node with an address of each would be two. */
static void resolved_say(struct peer_server *server)
{
	const struct peer_lookup *lookup = server->resolved;
	struct peer_message message = { .verb = PEER_RESOLVED, .result = lookup->result };
	size_t used = 0;

	snprintf(message.text, sizeof(message.text), "%s", lookup->reason);
	for (unsigned n = 0; lookup->result == 0 && n < lookup->count; n++) {
		char address[PEER_ADDRESS_TEXT_MAX];

		if (lookup->addresses[n].ss_family != lookup->addresses[0].ss_family)
			continue;
		peer_address_write(&lookup->addresses[n], address, sizeof(address));
		used += (size_t)snprintf(message.list + used, sizeof(message.list) - used, "%s\n",
					 address);
		if (used >= sizeof(message.list))
			break;
	}
	if (!server_say(server, &message))
		return;
	peer_names_give(server->names, server->resolved);
	server->resolved = NULL;
	server->is_resolving = false;
}

/* Each try takes the next of the addresses. */
static void lookup_take(struct peer_server *server, const struct peer_lookup *lookup)
{
	struct session *session = &server->sessions[lookup->session];
	int fd = -1, result = lookup->result;

	if (session->state != SESSION_NAMING || session->turn != lookup->turn)
		return;
	if (result < 0) {
		session_rest(server, session, result, lookup->reason);
		return;
	}
	result = socket_connect(lookup, session->attempts++ % lookup->count, &fd);
	if (result < 0) {
		session_rest(server, session, result, strerror(-result));
		return;
	}
	session->connection = connection_begin(server, fd, session, session->address);
	if (session->connection == NULL)
		session_rest(server, session, -EAGAIN, "there are too many connections");
	else
		session_become(session, SESSION_CONNECTING);
}

static bool session_step(struct peer_server *server, struct session *session)
{
	if (session->is_forgotten && session->connection == NULL) {
		if (!forgotten_say(server, session))
			return false;
		if (session->state == SESSION_FREE)
			session->is_forgotten = false;
		else
			session_free(session);
		return true;
	}
	if (session->state == SESSION_UP &&
	    session->connection->state == CONNECTION_ENDING)
		session_become(session, SESSION_ENDING);
	if (session->state != SESSION_RESTING || server->now_us < session->next_us ||
	    !peer_names_ask(server->names, session_number(server, session), ++session->turn,
			    session->address))
		return false;
	session_become(session, SESSION_NAMING);
	return true;
}

bool sessions_step(struct peer_server *server)
{
	struct peer_lookup *lookup;
	bool did = false;

	while ((lookup = peer_names_take(server->names)) != NULL) {
		did = true;
		if (lookup->session == RESOLVING) {
			server->resolved = lookup;
			continue;
		}
		lookup_take(server, lookup);
		peer_names_give(server->names, lookup);
	}
	if (server->resolved != NULL)
		resolved_say(server);
	for (unsigned n = 0; n < PEER_SESSIONS_MAX; n++)
		if (server->sessions[n].state != SESSION_FREE || server->sessions[n].is_forgotten)
			did = session_step(server, &server->sessions[n]) || did;
	return did;
}

uint64_t session_next_us(const struct session *session)
{
	return session->state == SESSION_RESTING ? session->next_us : UINT64_MAX;
}
