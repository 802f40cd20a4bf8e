/* daemon/inventory_sockets.c: see inventory_sockets.h. */
#include "daemon/inventory_sockets.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#define FRAME_BYTES_MAX INT64_C(1024)  /* of what strangers say: a longer one ends what they say */
#define HANDSHAKE_MS 5000
#define HEARD_MAX 64u                  /* questions in one turn */

struct inventory_sockets {
	void *context, *said, *asked;
	uint16_t said_port, asked_port;
	int fd;
};

static int fail(struct error *error, const char *what, const char *address)
{
	int code = zmq_errno();

	return error_set(error, code > 0 && code < ZMQ_HAUSNUMERO ? -code : -EIO, "%s%s%s: %s",
			 what, address[0] != '\0' ? " " : "", address, zmq_strerror(code));
}

static int option_set(void *socket, int option, int value)
{
	return zmq_setsockopt(socket, option, &value, sizeof(value));
}

static uint16_t port_of(void *socket)
{
	char endpoint[256];
	size_t bytes = sizeof(endpoint);

	if (zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, endpoint, &bytes) < 0)
		return 0;
	const char *colon = strrchr(endpoint, ':');
	return colon == NULL ? 0 : (uint16_t)strtoul(colon + 1, NULL, 10);
}

static int socket_open(void **out_socket, void *context, int type, const char *address,
		       struct error *error)
{
	char endpoint[256];
	int64_t frame_bytes_max = FRAME_BYTES_MAX;
	void *socket = zmq_socket(context, type);

	*out_socket = socket;
	if (socket == NULL)
		return fail(error, "a socket of ZeroMQ", "");
	if (option_set(socket, ZMQ_LINGER, 0) < 0 || option_set(socket, ZMQ_IPV6, 1) < 0 ||
	    option_set(socket, ZMQ_SNDHWM, INVENTORY_QUEUE_MESSAGES) < 0 ||
	    option_set(socket, ZMQ_RCVHWM, (int)HEARD_MAX) < 0 ||
	    option_set(socket, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS) < 0 ||
	    zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &frame_bytes_max, sizeof(frame_bytes_max)) < 0)
		return fail(error, "an option of ZeroMQ", "");
	snprintf(endpoint, sizeof(endpoint), "tcp://%s", address);
	return zmq_bind(socket, endpoint) < 0 ? fail(error, "cannot listen at", address) : 0;
}

int inventory_sockets_open(struct inventory_sockets **out_sockets, const char *listen,
			   const char *ask_listen, struct error *error)
{
	struct inventory_sockets *sockets = calloc(1, sizeof(*sockets));
	size_t fd_bytes = sizeof(sockets->fd);
	int result = 0;

	if (sockets == NULL)
		return error_set(error, -ENOMEM, "no memory for the inventory's sockets");
	sockets->context = zmq_ctx_new();
	if (sockets->context == NULL)
		result = fail(error, "ZeroMQ", "");
	if (result == 0)
		result = socket_open(&sockets->said, sockets->context, ZMQ_PUB, listen, error);
	if (result == 0)
		result = socket_open(&sockets->asked, sockets->context, ZMQ_ROUTER, ask_listen,
				     error);
	if (result == 0 && zmq_getsockopt(sockets->asked, ZMQ_FD, &sockets->fd, &fd_bytes) < 0)
		result = fail(error, "what to wait for", "");
	if (result == 0) {
		sockets->said_port = port_of(sockets->said);
		sockets->asked_port = port_of(sockets->asked);
	}
	if (result < 0) {
		inventory_sockets_close(sockets);
		return result;
	}
	*out_sockets = sockets;
	return 0;
}

void inventory_sockets_close(struct inventory_sockets *sockets)
{
	if (sockets == NULL)
		return;
	if (sockets->said != NULL)
		(void)zmq_close(sockets->said);
	if (sockets->asked != NULL)
		(void)zmq_close(sockets->asked);
	if (sockets->context != NULL)
		(void)zmq_ctx_term(sockets->context);
	free(sockets);
}

void inventory_sockets_ports(const struct inventory_sockets *sockets, uint16_t *out_said,
			     uint16_t *out_asked)
{
	*out_said = sockets->said_port;
	*out_asked = sockets->asked_port;
}

/* False: the message is lost from here on. Frames of one message are queued all or none. */
static bool frame_send(void *socket, const void *bytes, size_t count, bool has_more)
{
	return zmq_send(socket, bytes, count, ZMQ_DONTWAIT | (has_more ? ZMQ_SNDMORE : 0)) >= 0;
}

static void sequence_write(uint8_t out_bytes[INVENTORY_SEQUENCE_BYTES], uint64_t sequence)
{
	for (unsigned i = 0; i < INVENTORY_SEQUENCE_BYTES; i++)
		out_bytes[i] = (uint8_t)(sequence >> (8 * (INVENTORY_SEQUENCE_BYTES - 1 - i)));
}

static void message_send(void *socket, uint64_t sequence, const void *payload, uint32_t bytes)
{
	uint8_t number[INVENTORY_SEQUENCE_BYTES];

	sequence_write(number, sequence);
	if (frame_send(socket, INVENTORY_TOPIC, strlen(INVENTORY_TOPIC), true) &&
	    frame_send(socket, number, sizeof(number), true))
		(void)frame_send(socket, payload, bytes, false);
}

void inventory_sockets_publish(void *room, uint64_t sequence, const void *payload, uint32_t bytes)
{
	struct inventory_sockets *sockets = room;

	message_send(sockets->said, sequence, payload, bytes);
}

void inventory_sockets_answer(void *room, const void *asker, uint32_t asker_bytes,
			      uint64_t sequence, const void *payload, uint32_t bytes)
{
	struct inventory_sockets *sockets = room;

	if (frame_send(sockets->asked, asker, asker_bytes, true) &&
	    frame_send(sockets->asked, "", 0, true))
		message_send(sockets->asked, sequence, payload, bytes);
}

/* One message: who asks, "", the question; whatever else it is is passed over. False: none. */
static bool question_hear(struct inventory_sockets *sockets, struct inventory_server *server)
{
	uint8_t asker[INVENTORY_ASKER_BYTES_MAX], question[INVENTORY_QUESTION_BYTES_MAX];
	int more = 1, asker_bytes = 0, question_bytes = 0;
	size_t more_bytes = sizeof(more);
	unsigned frames = 0;

	for (; more != 0; frames++) {
		uint8_t frame[FRAME_BYTES_MAX];
		int bytes = zmq_recv(sockets->asked, frame, sizeof(frame), ZMQ_DONTWAIT);

		if (bytes < 0)
			return false;
		if (frames == 0 && bytes <= (int)sizeof(asker))
			memcpy(asker, frame, (size_t)(asker_bytes = bytes));
		else if (frames == 2 && bytes <= (int)sizeof(question))
			memcpy(question, frame, (size_t)(question_bytes = bytes));
		else if (frames != 1 || bytes != 0)
			asker_bytes = 0;
		if (zmq_getsockopt(sockets->asked, ZMQ_RCVMORE, &more, &more_bytes) < 0)
			return false;
	}
	if (frames == 3 && asker_bytes > 0)
		inventory_server_asked(server, asker, (uint32_t)asker_bytes, question,
				       (size_t)question_bytes);
	return true;
}

bool inventory_sockets_hear(struct inventory_sockets *sockets, struct inventory_server *server)
{
	unsigned heard = 0;

	while (heard < HEARD_MAX && question_hear(sockets, server))
		heard++;
	return heard > 0;
}

int inventory_sockets_fd(const struct inventory_sockets *sockets)
{
	return sockets->fd;
}
