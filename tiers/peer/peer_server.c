/* tiers/peer/peer_server.c: see peer_server.h: begin, end, messages and packets, the pass. */
#include "tiers/peer/peer_parts.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define ACCEPTS_A_STEP 16u
#define BACKLOG 64
#define LINK_STEPS_MAX 1000u
#define DATA_IDLE_US_MAX (UINT64_C(5) * 1000000)

bool server_say(struct peer_server *server, const struct peer_message *message)
{
	return server->config.answer(server->config.owner, message);
}

/* ---- packets ---- */

static int arena_map(struct peer_server *server, const struct peer_packet *packet, int fd,
		     struct error *error)
{
	struct arena_mapped *arena = &server->arenas[packet->number % PEER_ARENAS_MAX];
	struct stat status;

	if (packet->number >= PEER_ARENAS_MAX || arena->memory != NULL)
		return error_set(error, -EPROTO, "arena %u is there already", packet->number);
	if (fstat(fd, &status) < 0 || packet->bytes == 0 ||
	    (uint64_t)status.st_size < packet->bytes)
		return error_set(error, -EPROTO, "an arena of %llu bytes has fewer",
				 (unsigned long long)packet->bytes);
	void *memory = mmap(NULL, packet->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		return error_set(error, -errno, "an arena cannot be mapped: %s", strerror(errno));
	/* KV bytes are in no core. */
	(void)madvise(memory, packet->bytes, MADV_DONTDUMP);
	*arena = (struct arena_mapped){ .memory = memory, .bytes = packet->bytes };
	return 0;
}

/* "address:port": the settings' check let through nothing else. */
static int listen_open(struct peer_server *server, struct error *error)
{
	const char *text = server->config.listen;
	struct epoll_event event = { .events = EPOLLIN };
	struct sockaddr_storage address = { 0 };
	socklen_t bytes = 0;
	const int yes = 1;

	if (!peer_address_read(text, &address, &bytes))
		return error_set(error, -EINVAL, "peer_listen: %.60s is no address and port", text);
	server->listen_fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
				   0);
	if (server->listen_fd < 0)
		return error_set(error, -errno, "no socket for %.60s: %s", text, strerror(errno));
	(void)setsockopt(server->listen_fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (bind(server->listen_fd, (struct sockaddr *)&address, bytes) < 0 ||
	    listen(server->listen_fd, BACKLOG) < 0 ||
	    epoll_ctl(server->wake_fd, EPOLL_CTL_ADD, server->listen_fd, &event) < 0)
		return error_set(error, -errno, "cannot listen on %.60s: %s", text,
				 strerror(errno));
	return 0;
}

static int transport_open(struct peer_server *server, const struct transport_ops *ops,
			  const char *host, struct error *error)
{
	const struct transport_config config = { .host = host, .clock = server->config.clock,
						 .idle_us_max = DATA_IDLE_US_MAX };
	struct epoll_event event = { .events = EPOLLIN };
	struct transport *transport;
	int result = ops->create(&transport, &config, error);

	if (result < 0)
		return result;
	server->ops[server->transports_count] = ops;
	server->transports[server->transports_count++] = transport;
	for (unsigned n = 0; result == 0 && n < PEER_ARENAS_MAX; n++)
		if (server->arenas[n].memory != NULL)
			result = ops->region(transport, server->arenas[n].memory,
					     server->arenas[n].bytes, error);
	if (result == 0 && server->buffers != NULL)
		result = ops->region(transport, server->buffers,
				     (uint64_t)BUFFERS_MAX * CHUNK_BYTES, error);
	if (result == 0 &&
	    epoll_ctl(server->wake_fd, EPOLL_CTL_ADD, ops->fd(transport), &event) < 0)
		result = error_set(error, -errno, "%s cannot be waited for: %s", ops->name,
				   strerror(errno));
	return result;
}

/* Those that can be had; none of them is an error, and why. */
static int transports_open(struct peer_server *server, struct error *error)
{
	char host[64];
	const char *start = server->config.listen, *colon = strrchr(start, ':');
	int result = error_set(error, -ENOSYS, "no transport was asked for");

	if (*start == '[') {
		start++;
		colon--;
	}
	snprintf(host, sizeof(host), "%.*s", (int)(colon - start), start);
	for (unsigned n = 0; server->config.transports[n] != NULL; n++)
		result = transport_open(server, server->config.transports[n], host, error);
	return server->transports_count > 0 ? 0 : result;
}

static int everything_open(struct peer_server *server, struct error *error)
{
	int result = transports_open(server, error);

	if (result == 0)
		result = listen_open(server, error);
	server->is_open = result == 0;
	return result;
}

static void ready_say(struct peer_server *server, int result, const struct error *error)
{
	struct peer_message message = { .verb = PEER_READY, .result = result };
	size_t used = 0;

	if (result < 0)
		snprintf(message.text, sizeof(message.text), "%s", error->text);
	for (unsigned n = 0; result == 0 && n < server->transports_count; n++) {
		char one[120];

		server->ops[n]->describe(server->transports[n], one, sizeof(one));
		used += (size_t)snprintf(message.text + used, sizeof(message.text) - used, "%s%s",
					 n > 0 ? "; " : "", one);
		used = used < sizeof(message.text) ? used : sizeof(message.text) - 1;
	}
	/* The first message of a life: there is room. */
	(void)!server_say(server, &message);
}

static int setup_take(struct peer_server *server, const struct peer_setup *setup,
		      struct error *error)
{
	int result = 0;

	if (setup->secrets_count == 0 || setup->secrets_count > PEER_SECRETS_MAX)
		return error_set(error, -EPROTO, "the daemon sent %u secrets",
				 setup->secrets_count);
	*server->setup = *setup;
	if (server->is_open)
		return 0;
	if (server->config.has_tls && server->tls == NULL)
		return error_set(error, -EPROTO, "the daemon sent its setup before TLS");
	result = everything_open(server, error);
	ready_say(server, result, error);
	return result;
}

int peer_server_packet(struct peer_server *server, const void *packet, size_t bytes,
		       const int *fds, unsigned fds_count, struct error *error)
{
	const struct peer_packet *head = packet;

	if (bytes == sizeof(*head) && head->kind == PEER_PACKET_ARENA && fds_count == 1 &&
	    !server->is_open)
		return arena_map(server, head, fds[0], error);
	if (bytes == sizeof(struct peer_setup) && head->kind == PEER_PACKET_SETUP)
		return setup_take(server, packet, error);
	return error_set(error, -EPROTO, "the daemon sent a packet of %zu bytes", bytes);
}

void peer_server_tls(struct peer_server *server, struct channel_tls *tls, const char *name)
{
	/* Connections go on with the one that they began with: OpenSSL counts. */
	channel_tls_destroy(server->tls);
	server->tls = tls;
	snprintf(server->tls_name, sizeof(server->tls_name), "%s", name);
}

/* ---- messages ---- */

bool peer_server_has_room(const struct peer_server *server)
{
	return server_room(server) > 0;
}

static void say(struct peer_server *server, const struct peer_message *message)
{
	const struct session *session = &server->sessions[message->number];

	/* Of a life that is over: its DOWN is on the way. */
	if (session->state == SESSION_UP && session->life == message->life &&
	    session->connection->state == CONNECTION_UP)
		connection_say(session->connection, message->frame);
}

int peer_server_message(struct peer_server *server, const struct peer_message *message,
			struct error *error)
{
	if (message->number >= PEER_SESSIONS_MAX || !server->is_open)
		return error_set(error, -EPROTO, "the daemon named session %u", message->number);
	switch (message->verb) {
	case PEER_CONNECT:
		return session_connect(server, message, error);
	case PEER_RESOLVE:
		return names_resolve(server, message, error);
	case PEER_FORGET:
		session_forget(server, message->number);
		return 0;
	case PEER_SAY:
		say(server, message);
		return 0;
	case PEER_PLACE:
	case PEER_SEND:
		return transfer_begin(server, message, error);
	case PEER_STOP:
		if (message->transfer < PEER_TRANSFERS_MAX)
			transfer_stop(server, &server->transfers[message->transfer], -ECANCELED);
		return 0;
	default:
		return error_set(error, -EPROTO, "the daemon sent verb %u", message->verb);
	}
}

/* ---- the pass ---- */

static unsigned strangers_count(const struct peer_server *server)
{
	unsigned count = 0;

	for (unsigned n = 0; n < CONNECTIONS_MAX; n++)
		count += server->connections[n].state == CONNECTION_SHAKING &&
			 !server->connections[n].is_connecting;
	return count;
}

static bool accept_some(struct peer_server *server)
{
	bool did = false;

	for (unsigned n = 0; n < ACCEPTS_A_STEP; n++) {
		struct sockaddr_storage address = { 0 };
		socklen_t bytes = sizeof(address);
		char text[PEER_ADDRESS_TEXT_MAX];
		const int yes = 1;
		int fd = accept4(server->listen_fd, (struct sockaddr *)&address, &bytes,
				 SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0)
			return did;
		did = true;
		if (strangers_count(server) >= PEER_STRANGERS_MAX) {
			close(fd);
			continue;
		}
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
		peer_address_write(&address, text, sizeof(text));
		(void)connection_begin(server, fd, NULL, text);
	}
	return did;
}

bool peer_server_step(struct peer_server *server, uint64_t now_us, bool may_start)
{
	bool did = false;

	server->now_us = now_us;
	if (!server->is_open)
		return false;
	for (unsigned n = 0; n < server->transports_count; n++)
		did = server->ops[n]->step(server->transports[n], now_us) || did;
	did = transfers_step(server) || did;
	if (may_start) {
		did = accept_some(server) || did;
		did = sessions_step(server) || did;
	}
	did = connections_step(server) || did;
	if (may_start)
		did = sends_step(server) || did;
	return did;
}

int peer_server_fd(const struct peer_server *server)
{
	return server->wake_fd;
}

bool peer_server_arm(struct peer_server *server)
{
	bool may_wait = peer_names_sleep(server->names);

	for (unsigned n = 0; n < server->transports_count; n++)
		may_wait = server->ops[n]->arm(server->transports[n]) && may_wait;
	return may_wait;
}

void peer_server_awake(struct peer_server *server)
{
	peer_names_awake(server->names);
}

uint64_t peer_server_next_us(const struct peer_server *server)
{
	uint64_t next_us = UINT64_MAX;

	for (unsigned n = 0; n < PEER_SESSIONS_MAX; n++) {
		uint64_t own_us = session_next_us(&server->sessions[n]);

		next_us = own_us < next_us ? own_us : next_us;
	}
	for (unsigned n = 0; n < CONNECTIONS_MAX; n++) {
		const struct connection *connection = &server->connections[n];
		uint64_t own_us = connection->state == CONNECTION_FREE
					  ? UINT64_MAX
					  : connection_next_us(connection);

		next_us = own_us < next_us ? own_us : next_us;
		/* Its transfers have deadlines. */
		if (connection->state != CONNECTION_FREE && connection->transfers_count > 0 &&
		    next_us > server->now_us + 1000)
			next_us = server->now_us + 1000;
	}
	return next_us;
}

uint16_t peer_server_port(const struct peer_server *server)
{
	struct sockaddr_storage address = { 0 };
	socklen_t bytes = sizeof(address);

	if (server->listen_fd < 0 ||
	    getsockname(server->listen_fd, (struct sockaddr *)&address, &bytes) < 0)
		return 0;
	return ntohs(address.ss_family == AF_INET6
			     ? ((struct sockaddr_in6 *)&address)->sin6_port
			     : ((struct sockaddr_in *)&address)->sin_port);
}

/* ---- begin and end ---- */

static void pools_init(struct peer_server *server)
{
	list_init(&server->free_sends);
	list_init(&server->free_frames);
	list_init(&server->answers);
	for (unsigned n = 0; n < SENDS_MAX; n++)
		list_append(&server->free_sends, &server->sends[n].link);
	for (unsigned n = 0; n < FRAMES_MAX; n++)
		list_append(&server->free_frames, &server->frames[n].link);
	for (unsigned n = 0; n < PEER_TRANSFERS_MAX; n++)
		server->buckets[n] = NO_TRANSFER;
}

static int buffers_create(struct peer_server *server, struct error *error)
{
	const size_t bytes = (size_t)BUFFERS_MAX * CHUNK_BYTES;
	void *memory;

	if (!server->config.is_encrypted)
		return 0;
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return error_set(error, -ENOMEM, "no memory for enciphered chunks (%zu bytes)",
				 bytes);
	server->buffers = memory;
	for (unsigned n = 0; n < BUFFERS_MAX; n++)
		server->free_buffers[server->free_buffers_count++] =
			server->buffers + (size_t)n * CHUNK_BYTES;
	return 0;
}

static int parts_create(struct peer_server *server, struct error *error)
{
	struct epoll_event event = { .events = EPOLLIN };
	void *memory;
	int result = crypto_memory_create(&memory, sizeof(*server->setup), error);

	if (result < 0)
		return result;
	server->setup = memory;
	result = buffers_create(server, error);
	if (result == 0)
		result = peer_names_create(&server->names, error);
	if (result < 0)
		return result;
	server->wake_fd = epoll_create1(EPOLL_CLOEXEC);
	if (server->wake_fd < 0 ||
	    epoll_ctl(server->wake_fd, EPOLL_CTL_ADD, peer_names_fd(server->names), &event) < 0)
		return error_set(error, -errno, "no descriptors for peers: %s", strerror(errno));
	return 0;
}

int peer_server_create(struct peer_server **out_server, const struct peer_server_config *config,
		       struct error *error)
{
	struct peer_server *server = mmap(NULL, sizeof(*server), PROT_READ | PROT_WRITE,
					  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t seed;

	if (server == MAP_FAILED)
		return error_set(error, -ENOMEM, "no memory for peers");
	server->config = *config;
	server->listen_fd = server->wake_fd = -1;
	server->now_us = clock_now_us(config->clock);
	random_system(&seed, sizeof(seed));
	random_init(&server->random, seed);
	pools_init(server);
	int result = parts_create(server, error);
	if (result < 0) {
		peer_server_destroy(server);
		return result;
	}
	*out_server = server;
	return 0;
}

/* Transports end what is under way from their next steps. */
static void links_close(struct peer_server *server)
{
	bool are_there = true;

	for (unsigned n = 0; n < CONNECTIONS_MAX; n++)
		if (server->connections[n].link != NULL)
			connection_end(&server->connections[n], -ECANCELED, "we are stopping");
	for (unsigned passes = 0; are_there && passes < LINK_STEPS_MAX; passes++) {
		are_there = false;
		for (unsigned n = 0; n < server->transports_count; n++)
			(void)server->ops[n]->step(server->transports[n], server->now_us);
		for (unsigned n = 0; n < CONNECTIONS_MAX; n++)
			are_there |= server->connections[n].link != NULL;
	}
	assert(!are_there);
}

static void connections_close(struct peer_server *server)
{
	for (unsigned n = 0; n < CONNECTIONS_MAX; n++) {
		struct connection *connection = &server->connections[n];

		if (connection->state != CONNECTION_FREE)
			connection_close(connection);
		cipher_destroy(connection->seals);
		cipher_destroy(connection->opens);
	}
}

void peer_server_destroy(struct peer_server *server)
{
	if (server == NULL)
		return;
	peer_names_destroy(server->names);
	links_close(server);
	for (unsigned n = 0; n < server->transports_count; n++)
		server->ops[n]->destroy(server->transports[n]);
	connections_close(server);
	for (unsigned n = 0; n < PEER_ARENAS_MAX; n++)
		if (server->arenas[n].memory != NULL)
			munmap(server->arenas[n].memory, server->arenas[n].bytes);
	if (server->buffers != NULL)
		munmap(server->buffers, (size_t)BUFFERS_MAX * CHUNK_BYTES);
	if (server->listen_fd >= 0)
		close(server->listen_fd);
	if (server->wake_fd >= 0)
		close(server->wake_fd);
	channel_tls_destroy(server->tls);
	crypto_memory_destroy(server->setup, sizeof(*server->setup));
	munmap(server, sizeof(*server));
}
