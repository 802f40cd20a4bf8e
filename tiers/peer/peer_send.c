/* tiers/peer/peer_send.c: chunks that go: whose turn it is, under which seal. */
#include "tiers/peer/peer_parts.h"

#include "base/failpoint.h"

#include <errno.h>
#include <string.h>

static void send_done(struct transport_send *done, int result)
{
	struct send *send = (struct send *)done;
	struct transfer *transfer = send->transfer;
	struct connection *connection = transfer->connection;
	struct peer_server *server = connection->server;

	if (result == 0 && failpoint(peer_sent))
		result = -EIO;
	if (send->buffer != NULL)
		server->free_buffers[server->free_buffers_count++] = send->buffer;
	assert(transfer->under_way > 0 && connection->under_way_bytes >= done->bytes);
	transfer->under_way--;
	connection->under_way_bytes -= done->bytes;
	connection->line.sent_bytes += result == 0 ? done->bytes : 0;
	list_append(&server->free_sends, &send->link);
	if (transfer->state == TRANSFER_ENDING) {
		if (transfer->under_way == 0)
			transfer_end(server, transfer, transfer->result);
	} else if (result < 0) {
		transfer_stop(server, transfer, result);
	} else if (transfer->moved == transfer->bytes && transfer->under_way == 0) {
		transfer_end(server, transfer, 0);
	}
}

static void chunk_seal(struct connection *connection, struct send *send, struct chunk_head *head,
		       const uint8_t *payload)
{
	uint8_t iv[CRYPTO_IV_BYTES] = { 0 };

	memcpy(iv + CRYPTO_IV_BYTES - sizeof(head->sequence), &head->sequence,
	       sizeof(head->sequence));
	cipher_begin(connection->seals, true, iv,
		     (struct crypto_bytes){ head, SEALED_HEAD_BYTES });
	cipher_move(connection->seals, send->buffer, payload, head->bytes);
	cipher_end_seal(connection->seals, head->seal);
}

static void chunk_send(struct connection *connection, struct transfer *transfer)
{
	struct peer_server *server = connection->server;
	struct send *send = list_item(list_take_first(&server->free_sends), struct send, link);
	uint64_t left = transfer->bytes - transfer->moved;
	const uint8_t *payload = transfer->memory + transfer->moved;
	struct chunk_head head = {
		.tag = transfer->tag,
		.offset = transfer->moved,
		.total = transfer->bytes,
		.bytes = (uint32_t)(left < CHUNK_BYTES ? left : CHUNK_BYTES),
		.sequence = ++connection->sequence,
	};

	*send = (struct send){ .transfer = transfer };
	if (server->config.is_encrypted) {
		send->buffer = server->free_buffers[--server->free_buffers_count];
		chunk_seal(connection, send, &head, payload);
		payload = send->buffer;
	}
	memcpy(send->send.head, &head, sizeof(head));
	send->send.to = connection->link;
	send->send.payload = payload;
	send->send.bytes = head.bytes;
	send->send.done = send_done;
	transfer->moved += head.bytes;
	transfer->under_way++;
	connection->under_way_bytes += head.bytes;
	(void)failpoint(peer_sending);
	server->ops[connection->transport]->send(connection->link, &send->send);
}

/* The first of those that have something left; it goes behind the others. */
static struct transfer *next_of(struct connection *connection)
{
	for (uint64_t n = connection->sends.count; n > 0; n--) {
		struct list_node *node = list_take_first(&connection->sends);
		struct transfer *transfer = list_item(node, struct transfer, link);

		list_append(&connection->sends, node);
		if (transfer->state == TRANSFER_MOVING && transfer->moved < transfer->bytes)
			return transfer;
	}
	return NULL;
}

static bool may_send(const struct peer_server *server, const struct connection *connection)
{
	return connection->state == CONNECTION_UP && !list_is_empty(&connection->sends) &&
	       connection->under_way_bytes < PEER_CREDIT_BYTES && server->free_sends.count > 0 &&
	       (!server->config.is_encrypted || server->free_buffers_count > 0);
}

/* A chunk of each in turn, so that a fast one does not take what all share. */
bool sends_step(struct peer_server *server)
{
	bool did = false, more = true;

	server->turn = (server->turn + 1) % CONNECTIONS_MAX;
	while (more) {
		more = false;
		for (unsigned n = 0; n < CONNECTIONS_MAX; n++) {
			struct connection *connection =
				&server->connections[(server->turn + n) % CONNECTIONS_MAX];
			struct transfer *transfer;

			if (!may_send(server, connection))
				continue;
			transfer = next_of(connection);
			if (transfer == NULL)
				continue;
			chunk_send(connection, transfer);
			more = true;
		}
		did |= more;
		if (server->config.is_encrypted)
			break; /* the processor's work: others have their turn between */
	}
	return did;
}
