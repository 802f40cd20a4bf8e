/* tiers/peer/peer_transfer.c: places and sends: begin, end, deadline, answer. */
#include "tiers/peer/peer_parts.h"

#include "base/failpoint.h"

#include <errno.h>
#include <string.h>

#define LOOK_US 1000u                     /* between two looks for deadlines */
#define GRACE_US (UINT64_C(1) * 1000000)  /* for what is under way when one passes */

static void transfer_become(struct transfer *transfer, enum transfer_state next)
{
	static const bool legal_move[4][4] = {
		[TRANSFER_FREE] = { [TRANSFER_MOVING] = true, [TRANSFER_ANSWERING] = true },
		[TRANSFER_MOVING] = { [TRANSFER_ENDING] = true, [TRANSFER_ANSWERING] = true },
		[TRANSFER_ENDING] = { [TRANSFER_ANSWERING] = true },
		[TRANSFER_ANSWERING] = { [TRANSFER_FREE] = true },
	};

	assert(legal_move[transfer->state][next]);
	transfer->state = next;
}

static void answer_later(struct peer_server *server, struct transfer *transfer, int result)
{
	transfer_become(transfer, TRANSFER_ANSWERING);
	transfer->result = result;
	list_append(&server->answers, &transfer->link);
}

void transfer_end(struct peer_server *server, struct transfer *transfer, int result)
{
	struct connection *connection = transfer->connection;

	assert(transfer->under_way == 0 && transfer->state != TRANSFER_FREE);
	if (transfer->is_place)
		place_forget(server, transfer);
	list_remove(transfer->is_place ? &connection->places : &connection->sends,
		    &transfer->link);
	answer_later(server, transfer, result);
}

void transfer_stop(struct peer_server *server, struct transfer *transfer, int result)
{
	if (transfer->state != TRANSFER_MOVING)
		return;
	if (transfer->under_way == 0) {
		transfer_end(server, transfer, result);
		return;
	}
	transfer_become(transfer, TRANSFER_ENDING);
	transfer->result = result;
	transfer->deadline_us = server->now_us + GRACE_US;
}

static void list_stop(struct peer_server *server, struct list *list, int result)
{
	struct list_node *node = list_first(list);

	while (node != NULL) {
		struct transfer *transfer = list_item(node, struct transfer, link);

		node = list_after(list, node);
		transfer_stop(server, transfer, result);
	}
}

void transfers_stop(struct connection *connection, int result)
{
	list_stop(connection->server, &connection->places, result);
	list_stop(connection->server, &connection->sends, result);
}

/* ---- begin ---- */

/* 0, or why not. */
static int transfer_check(const struct peer_server *server, const struct peer_message *message)
{
	const struct session *session = &server->sessions[message->number % PEER_SESSIONS_MAX];
	const struct arena_mapped *arena = &server->arenas[message->arena % PEER_ARENAS_MAX];

	if (message->number >= PEER_SESSIONS_MAX || message->arena >= PEER_ARENAS_MAX ||
	    message->tag == 0 || message->bytes == 0 || message->bytes > PEER_TRANSFER_BYTES_MAX)
		return -EINVAL;
	if (message->bytes > arena->bytes || message->offset > arena->bytes - message->bytes)
		return -EINVAL;
	if (session->state != SESSION_UP || session->life != message->life ||
	    session->connection->state != CONNECTION_UP)
		return -ENOTCONN;
	return 0;
}

int transfer_begin(struct peer_server *server, const struct peer_message *message,
		   struct error *error)
{
	struct transfer *transfer = &server->transfers[message->transfer % PEER_TRANSFERS_MAX];
	int result = transfer_check(server, message);

	if (message->transfer >= PEER_TRANSFERS_MAX || transfer->state != TRANSFER_FREE)
		return error_set(error, -EPROTO, "the daemon began transfer %u twice",
				 message->transfer);
	*transfer = (struct transfer){
		.is_place = message->verb == PEER_PLACE,
		.tag = message->tag,
		.bytes = message->bytes,
		.deadline_us = message->deadline_us,
	};
	if (result < 0) {
		answer_later(server, transfer, result);
		return 0;
	}
	transfer->connection = server->sessions[message->number].connection;
	transfer->memory = server->arenas[message->arena].memory + message->offset;
	transfer->connection->transfers_count++;
	if (transfer->is_place && !place_begin(server, transfer)) {
		answer_later(server, transfer, -EEXIST);
		return 0;
	}
	transfer_become(transfer, TRANSFER_MOVING);
	list_append(transfer->is_place ? &transfer->connection->places
				       : &transfer->connection->sends,
		    &transfer->link);
	if (transfer->is_place && failpoint(peer_placed))
		transfer_stop(server, transfer, -EIO);
	return 0;
}

/* ---- the pass ---- */

static bool answers_give(struct peer_server *server)
{
	struct list_node *node;
	bool did = false;

	while ((node = list_first(&server->answers)) != NULL) {
		struct transfer *transfer = list_item(node, struct transfer, link);
		const struct peer_message message = {
			.verb = transfer->is_place ? PEER_PLACED : PEER_SENT,
			.transfer = (uint32_t)(transfer - server->transfers),
			.result = transfer->result,
		};

		if (!server_say(server, &message))
			return did;
		list_remove(&server->answers, &transfer->link);
		if (transfer->connection != NULL)
			transfer->connection->transfers_count--;
		transfer_become(transfer, TRANSFER_FREE);
		did = true;
	}
	return did;
}

static void deadline_look(struct peer_server *server, struct transfer *transfer)
{
	if (server->now_us < transfer->deadline_us)
		return;
	if (transfer->state == TRANSFER_MOVING)
		transfer_stop(server, transfer, -ETIME);
	/* Its memory is wanted back, and somebody still reads or writes it. */
	else if (transfer->state == TRANSFER_ENDING)
		connection_end(transfer->connection, -ETIME,
			       "bytes that are on their way do not get on");
}

bool transfers_step(struct peer_server *server)
{
	if (server->now_us - server->looked_us >= LOOK_US) {
		server->looked_us = server->now_us;
		for (uint32_t n = 0; n < PEER_TRANSFERS_MAX; n++)
			if (server->transfers[n].state == TRANSFER_MOVING ||
			    server->transfers[n].state == TRANSFER_ENDING)
				deadline_look(server, &server->transfers[n]);
	}
	return answers_give(server);
}
