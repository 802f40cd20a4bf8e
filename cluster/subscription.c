/* cluster/subscription.c: see subscription.h. */
#include "cluster/subscription.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zmq.h>

#define FRAMES_MAX 4u            /* "", topic, sequence, payload */
#define SEQUENCE_BYTES 8u
#define SAID_WAITING_MAX 16384   /* messages that wait to be taken; more are lost */
#define ASKED_WAITING_MAX 1024
#define AGAIN_MS 100             /* before a connection is tried again ... */
#define AGAIN_MS_MAX 3000        /* ... doubled up to this */
#define BEAT_MS 2000             /* ZMTP's own heartbeat: a machine that went away is noticed */
#define BEAT_MS_MAX 6000
#define SOCKETS_MAX 8192
#define ENDPOINT_BYTES (SUBSCRIPTION_ADDRESS_BYTES + 8)

struct subscriptions {
	void *context;
};

struct subscription {
	struct subscription_config config;
	void *said, *asked;         /* asked: NULL without an address */
	int said_fd, asked_fd;
	char said_endpoint[ENDPOINT_BYTES], asked_endpoint[ENDPOINT_BYTES];
	uint64_t heard_us;          /* or connected; 0: not known yet */
	struct subscription_figures figures;
};

int subscriptions_create(struct subscriptions **out_all, struct error *error)
{
	struct subscriptions *all = calloc(1, sizeof(*all));

	if (all != NULL)
		all->context = zmq_ctx_new();
	if (all == NULL || all->context == NULL) {
		free(all);
		return error_set(error, -ENOMEM, "no memory for ZeroMQ%s", error_advice(-ENOMEM));
	}
	(void)zmq_ctx_set(all->context, ZMQ_MAX_SOCKETS, SOCKETS_MAX);
	*out_all = all;
	return 0;
}

void subscriptions_destroy(struct subscriptions *all)
{
	if (all == NULL)
		return;
	(void)zmq_ctx_term(all->context);
	free(all);
}

/* ---- one ---- */

/* ZeroMQ takes more (an address to connect from, behind a ';'), and checks little. */
static bool address_is_right(const char *address)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				      "0123456789.-_:[]%";
	const char *colon = strrchr(address, ':');
	size_t digits = colon == NULL ? 0 : strspn(colon + 1, "0123456789");
	long port = digits == 0 || digits > 5 ? 0 : strtol(colon + 1, NULL, 10);

	return strlen(address) < SUBSCRIPTION_ADDRESS_BYTES &&
	       address[strspn(address, letters)] == '\0' && colon > address &&
	       colon[1 + digits] == '\0' && port > 0 && port <= UINT16_MAX;
}

static bool option_set(void *socket, int option, int value)
{
	return zmq_setsockopt(socket, option, &value, sizeof(value)) == 0;
}

/* -EINVAL: ZeroMQ does not take the address. */
static int socket_open(struct subscriptions *all, int kind, const char *address,
		       const struct subscription_config *config, void **out_socket, int *out_fd,
		       char out_endpoint[ENDPOINT_BYTES])
{
	size_t fd_bytes = sizeof(*out_fd);
	int64_t bytes_max = config->payload_bytes_max;
	int waiting = kind == ZMQ_SUB ? SAID_WAITING_MAX : ASKED_WAITING_MAX;
	void *socket;

	if (!address_is_right(address))
		return -EINVAL;
	socket = zmq_socket(all->context, kind);
	if (socket == NULL)
		return errno == EMFILE ? -EMFILE : -ENOMEM;
	*out_socket = socket;
	if (!option_set(socket, ZMQ_LINGER, 0) || !option_set(socket, ZMQ_IPV6, 1) ||
	    !option_set(socket, ZMQ_RCVHWM, waiting) ||
	    !option_set(socket, ZMQ_SNDHWM, ASKED_WAITING_MAX) ||
	    !option_set(socket, ZMQ_RECONNECT_IVL, AGAIN_MS) ||
	    !option_set(socket, ZMQ_RECONNECT_IVL_MAX, AGAIN_MS_MAX) ||
	    !option_set(socket, ZMQ_HEARTBEAT_IVL, BEAT_MS) ||
	    !option_set(socket, ZMQ_HEARTBEAT_TIMEOUT, BEAT_MS_MAX) ||
	    zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &bytes_max, sizeof(bytes_max)) < 0 ||
	    (kind == ZMQ_SUB && zmq_setsockopt(socket, ZMQ_SUBSCRIBE, "", 0) < 0) ||
	    zmq_getsockopt(socket, ZMQ_FD, out_fd, &fd_bytes) < 0)
		return -ENOMEM;
	snprintf(out_endpoint, ENDPOINT_BYTES, "tcp://%s", address);
	return zmq_connect(socket, out_endpoint) == 0 ? 0 : -EINVAL;
}

int subscription_open(struct subscriptions *all, struct subscription **out_subscription,
		      const struct subscription_config *config, struct error *error)
{
	struct subscription *subscription = calloc(1, sizeof(*subscription));
	const char *address = config->said;
	int result;

	if (subscription == NULL)
		return error_set(error, -ENOMEM, "no memory for a subscription");
	subscription->config = *config;
	subscription->asked_fd = -1;
	result = socket_open(all, ZMQ_SUB, address, config, &subscription->said,
			     &subscription->said_fd, subscription->said_endpoint);
	if (result == 0 && config->asked != NULL) {
		address = config->asked;
		result = socket_open(all, ZMQ_DEALER, address, config, &subscription->asked,
				     &subscription->asked_fd, subscription->asked_endpoint);
	}
	if (result < 0) {
		subscription_close(subscription);
		return result == -EINVAL
			       ? error_set(error, result, "%s is not HOST:PORT, such as "
					   "10.0.0.1:9471 or [fd00::2]:9471", address)
			       : error_set(error, result, "no socket for %s%s", address,
					   error_advice(result));
	}
	*out_subscription = subscription;
	return 0;
}

void subscription_close(struct subscription *subscription)
{
	if (subscription == NULL)
		return;
	if (subscription->said != NULL)
		(void)zmq_close(subscription->said);
	if (subscription->asked != NULL)
		(void)zmq_close(subscription->asked);
	free(subscription);
}

void subscription_ask(struct subscription *subscription, const void *question, size_t bytes)
{
	/* Frames of one message are queued all or none. */
	if (subscription->asked == NULL ||
	    zmq_send(subscription->asked, "", 0, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0 ||
	    zmq_send(subscription->asked, question, bytes, ZMQ_DONTWAIT) < 0)
		subscription->figures.unasked++;
}

static uint64_t sequence_read(zmq_msg_t *frame)
{
	const uint8_t *bytes = zmq_msg_data(frame);
	uint64_t sequence = 0;

	for (unsigned i = 0; i < SEQUENCE_BYTES; i++)
		sequence = sequence << 8 | bytes[i];
	return sequence;
}

/* One message: its last two frames are what counts. False: none has come. */
static bool message_hear(struct subscription *subscription, void *socket)
{
	const struct subscription_config *config = &subscription->config;
	zmq_msg_t frames[2];
	unsigned count = 0;
	bool has_more = true;

	zmq_msg_init(&frames[0]);
	zmq_msg_init(&frames[1]);
	while (has_more && zmq_msg_recv(&frames[count % 2], socket, ZMQ_DONTWAIT) >= 0)
		has_more = zmq_msg_more(&frames[count++ % 2]);
	if (count >= 2) {
		zmq_msg_t *sequence = &frames[count % 2], *payload = &frames[(count + 1) % 2];
		bool is_good = count <= FRAMES_MAX && zmq_msg_size(sequence) == SEQUENCE_BYTES;

		subscription->figures.malformed += !is_good;
		if (is_good)
			(socket == subscription->said ? config->on_said : config->on_answer)(
				config->owner, sequence_read(sequence), zmq_msg_data(payload),
				zmq_msg_size(payload));
	} else {
		subscription->figures.malformed += count;
	}
	zmq_msg_close(&frames[0]);
	zmq_msg_close(&frames[1]);
	return count > 0;
}

/* It may be connected still, or given up. */
static void connect_again(void *socket, const char *endpoint)
{
	(void)zmq_disconnect(socket, endpoint);
	(void)zmq_connect(socket, endpoint);
}

static void silence_check(struct subscription *subscription, uint64_t now_us)
{
	if (subscription->heard_us == 0)
		subscription->heard_us = now_us;
	if (now_us - subscription->heard_us < subscription->config.silent_us_max)
		return;
	subscription->heard_us = now_us;
	subscription->figures.again++;
	connect_again(subscription->said, subscription->said_endpoint);
	if (subscription->asked != NULL)
		connect_again(subscription->asked, subscription->asked_endpoint);
}

bool subscription_hear(struct subscription *subscription, unsigned messages_max, uint64_t now_us)
{
	unsigned said = 0, answers = 0;

	while (said < messages_max && message_hear(subscription, subscription->said))
		said++;
	while (subscription->asked != NULL && answers < messages_max &&
	       message_hear(subscription, subscription->asked))
		answers++;
	if (said + answers > 0)
		subscription->heard_us = now_us;
	silence_check(subscription, now_us);
	subscription->figures.said += said;
	subscription->figures.answers += answers;
	return said == messages_max || answers == messages_max;
}

void subscription_fds(const struct subscription *subscription, int *out_said, int *out_asked)
{
	*out_said = subscription->said_fd;
	*out_asked = subscription->asked_fd;
}

void subscription_look(const struct subscription *subscription,
		       struct subscription_figures *out_figures)
{
	*out_figures = subscription->figures;
}
