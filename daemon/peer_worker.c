/* daemon/peer_worker.c: the process that speaks to other nodes: packets and messages in, answers
 * out, a beat between. */
#include "base/crypto.h"
#include "daemon/peer_backends.h"
#include "daemon/peer_link.h"
#include "daemon/sandbox.h"
#include "tiers/peer/peer_server.h"

#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HANDLED_MAX 256u /* messages between two steps */

struct peer_worker {
	struct worker_side side;
	struct peer_server *server;
	char listen[80], transport[8];
	bool is_encrypted, has_tls; /* as asked for */
	bool has_tls_now;
	_Alignas(8) uint8_t packet[WORKER_PACKET_BYTES_MAX];
};

static bool answer(void *owner, const struct peer_message *message)
{
	struct peer_worker *worker = owner;

	return ring_send(&worker->side.up, message) == 0;
}

static uint32_t room(void *owner)
{
	return ring_room(&((struct peer_worker *)owner)->side.up);
}

static int argument_read(struct peer_worker *worker, struct error *error)
{
	char data[16], control[16];

	if (sscanf(worker->side.argument, "%79[^\t]\t%7[^\t]\t%15[^\t]\t%15[^\t]", worker->listen,
		   worker->transport, data, control) != 4)
		return error_set(error, -EINVAL,
				 "a peer worker was started for \"%s\", not for an address, a "
				 "transport, and how data and control go",
				 worker->side.argument);
	worker->is_encrypted = strcmp(data, "encrypted") == 0;
	worker->has_tls = strcmp(control, "tls") == 0;
	return 0;
}

/* Sockets by UCX are no faster than by ourselves, and its port answers strangers. */
static bool has_rdma(void)
{
	glob_t devices;
	bool has = glob("/sys/class/infiniband/*", 0, NULL, &devices) == 0;

	if (has)
		globfree(&devices);
	return has;
}

static bool is_wanted(const struct peer_worker *worker, const struct transport_ops *ops)
{
	if (strcmp(worker->transport, "auto") != 0)
		return strcmp(worker->transport, ops->name) == 0;
	return strcmp(ops->name, "ucx") != 0 || has_rdma();
}

/* Of those that are built in, what the setting names. */
static int server_open(struct peer_worker *worker, struct error *error)
{
	struct peer_server_config config = {
		.listen = worker->listen,
		.is_encrypted = worker->is_encrypted,
		.has_tls = worker->has_tls,
		.clock = worker->side.clock,
		.answer = answer,
		.room = room,
		.owner = worker,
	};
	unsigned count = 0;

	/* UCX's shared memory is for processes of one node, and not in the sandbox. */
	(void)setenv("UCX_TLS", "^sm", 0);
	for (unsigned n = 0; peer_transports[n] != NULL && count < PEER_TRANSPORTS_MAX; n++)
		if (is_wanted(worker, peer_transports[n]))
			config.transports[count++] = peer_transports[n];
	if (count == 0)
		return error_set(error, -ENOTSUP, "peer_transport: %s is not built in",
				 worker->transport);
	return peer_server_create(&worker->server, &config, error);
}

static int packet_take(struct peer_worker *worker, size_t bytes, const int *fds, unsigned fds_count,
		       struct error *error)
{
	struct peer_packet head = { 0 };
	const struct peer_tls *files = (const struct peer_tls *)worker->packet;
	struct channel_tls *tls;

	memcpy(&head, worker->packet, bytes < sizeof(head) ? bytes : sizeof(head));
	if (head.kind != PEER_PACKET_TLS || bytes != sizeof(struct peer_tls))
		return peer_server_packet(worker->server, worker->packet, bytes, fds, fds_count,
					  error);
	int result = channel_tls_create(&tls, files->ca, files->certificate, files->key, error);
	if (result == 0)
		peer_server_tls(worker->server, tls, files->name);
	/* Others than those that it has: it goes on with these. */
	if (result < 0 && worker->has_tls_now)
		return 0;
	worker->has_tls_now = result == 0;
	return result;
}

static int packets_take(struct peer_worker *worker, struct error *error)
{
	int fds[WORKER_PACKET_FDS_MAX];
	unsigned fds_count;
	size_t bytes;
	int result;

	while ((result = worker_side_receive(&worker->side, worker->packet, &bytes, fds,
					     &fds_count)) == 1) {
		result = packet_take(worker, bytes, fds, fds_count, error);
		while (fds_count > 0)
			close(fds[--fds_count]);
		crypto_wipe(worker->packet, bytes);
		if (result < 0)
			return result;
		(void)worker_side_beat(&worker->side); /* to register an arena may take long */
	}
	return result == 0 ? 0 : error_set(error, result, "a packet did not come whole");
}

static int messages_take(struct peer_worker *worker, struct error *error)
{
	struct peer_message message;
	int result = 0;

	for (unsigned n = 0; result == 0 && n < HANDLED_MAX; n++) {
		if (!peer_server_has_room(worker->server))
			return 0;
		int taken = ring_take(&worker->side.down, &message);
		if (taken < 0)
			return error_set(error, taken, "the parent wrote an impossible index");
		if (taken == 0)
			return 0;
		result = peer_server_message(worker->server, &message, error);
	}
	return result;
}

static void idle(struct peer_worker *worker)
{
	uint64_t now_us = clock_now_us(worker->side.clock);
	uint64_t next_us = peer_server_next_us(worker->server);

	if (peer_server_arm(worker->server) && next_us > now_us)
		worker_side_wait_also(&worker->side, peer_server_fd(worker->server),
				      next_us - now_us);
	peer_server_awake(worker->server);
}

/* Also under a silent parent: what is under way ends. */
static int serve(struct peer_worker *worker, struct error *error)
{
	int result = 0;

	while (result >= 0 && !worker_side_is_orphan(&worker->side)) {
		bool may_start = worker_side_beat(&worker->side);

		result = packets_take(worker, error);
		if (result == 0)
			result = messages_take(worker, error);
		if (result == 0 && !peer_server_step(worker->server,
						     clock_now_us(worker->side.clock), may_start))
			idle(worker);
	}
	return result;
}

static void say_failed(struct peer_worker *worker, int result, const struct error *error)
{
	struct peer_message message = { .verb = PEER_READY, .result = result };

	snprintf(message.text, sizeof(message.text), "%s", error->text);
	(void)answer(worker, &message);
}

int peer_worker_main(int arguments_count, char **arguments)
{
	static struct peer_worker worker;
	struct error error = { 0 };
	int result = worker_side_open(&worker.side, arguments_count, arguments, &error);

	if (result == 0 && worker.side.message_bytes != sizeof(struct peer_message))
		result = error_set(
			&error, -EINVAL,
			"messages of %u bytes, not %zu: parent and worker are of two versions",
			worker.side.message_bytes, sizeof(struct peer_message));
	if (result < 0)
		goto failed;
	result = argument_read(&worker, &error);
	if (result == 0)
		result = sandbox_peer_worker(strcmp(worker.transport, "tcp") != 0, &error);
	sandbox_worker_cores();
	if (result == 0)
		result = server_open(&worker, &error);
	if (result == 0)
		result = serve(&worker, &error);
	if (result < 0)
		say_failed(&worker, result, &error);
failed:
	if (result < 0)
		fprintf(stderr, "kvtierd: peer worker: %s\n", error.text);
	/* Nothing is given back by hand: the process's end does it, whatever is under way. */
	return result < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
