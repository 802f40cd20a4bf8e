/* daemon/peer_link.c: see peer_link.h. */
#include "daemon/peer_link.h"

#include "daemon/peer_link_parts.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define LOOK_US (UINT64_C(250) * 1000) /* between two looks for transfers that are late */

static_assert(sizeof(struct peer_message) % 8 == 0, "messages lie aligned in the ring");
/* Whether the process can be told something. */
static bool is_there(const struct peer_link *link)
{
	return link->worker != NULL && link->is_ready &&
	       worker_state(link->worker) == WORKER_RUNNING;
}

static bool is_unsaid(enum session_state state)
{
	return state == SESSION_WANTED || state == SESSION_UNWANTED;
}

static void session_become(struct peer_link *link, struct link_session *session,
			   enum session_state next)
{
	static const bool legal_move[SESSION_STATES][SESSION_STATES] = {
		[SESSION_FREE] = { [SESSION_WANTED] = true, [SESSION_ACCEPTED] = true },
		[SESSION_WANTED] = { [SESSION_ASKED] = true, [SESSION_FREE] = true },
		[SESSION_ASKED] = { [SESSION_UNWANTED] = true, [SESSION_WANTED] = true },
		[SESSION_ACCEPTED] = { [SESSION_UNWANTED] = true, [SESSION_FREE] = true },
		[SESSION_UNWANTED] = { [SESSION_LEAVING] = true, [SESSION_FREE] = true },
		[SESSION_LEAVING] = { [SESSION_FREE] = true },
	};

	assert(legal_move[session->state][next]);
	link->unsaid_count -= is_unsaid(session->state);
	link->unsaid_count += is_unsaid(next);
	session->state = next;
}

/* ---- ends ---- */

static void transfer_end(struct peer_link *link, uint32_t number, int result)
{
	struct peer_transfer *transfer = link->transfers[number].transfer;

	link->stopping_count -= link->transfers[number].is_stopping;
	link->transfers[number] = (struct link_transfer){ 0 };
	link->free[link->free_count++] = number;
	link->transfers_count--;
	link->sessions[transfer->session].transfers_count--;
	transfer->done(transfer, result);
}

static void session_down(struct peer_link *link, uint32_t number, int result, const char *reason)
{
	struct link_session *session = &link->sessions[number];

	assert(session->is_up && session->transfers_count == 0);
	session->is_up = false;
	session->transport[0] = '\0';
	if (session->state == SESSION_ACCEPTED)
		session_become(link, session, SESSION_FREE);
	if (session->state == SESSION_UNWANTED || session->state == SESSION_LEAVING)
		return; /* the owner has forgotten it */
	link->config.events->down(link->config.owner, number, session->life, result, reason);
}

/* What the next life is to be told again; what nobody wants any more is forgotten. */
static void session_lost(struct peer_link *link, uint32_t number, const char *reason)
{
	struct link_session *session = &link->sessions[number];

	if (session->is_up)
		session_down(link, number, -EIO, reason);
	if (session->state == SESSION_ASKED)
		session_become(link, session, SESSION_WANTED);
	if (session->state == SESSION_UNWANTED || session->state == SESSION_LEAVING)
		session_become(link, session, SESSION_FREE);
}

static void resolve_end(struct peer_link *link, int result, const char *text)
{
	link->resolving[0] = '\0';
	link->is_resolve_said = false;
	if (link->config.resolved != NULL)
		link->config.resolved(link->config.owner, result, text);
}

void peer_link_all_end(struct peer_link *link, const char *reason)
{
	link->is_ready = false;
	if (link->is_resolve_said)
		resolve_end(link, -EIO, reason);
	link->is_setup_sent = link->is_tls_sent = false;
	for (unsigned n = 0; n < PEER_ARENAS_MAX; n++)
		link->arenas[n].is_sent = false;
	for (uint32_t n = 0; n < PEER_TRANSFERS_MAX; n++)
		if (link->transfers[n].transfer != NULL)
			transfer_end(link, n, -EIO);
	for (uint32_t n = 0; n < PEER_SESSIONS_MAX; n++)
		session_lost(link, n, reason);
}

void peer_link_on_end(void *owner, const char *reason)
{
	struct peer_link *link = owner;
	char text[WORKER_REASON_BYTES + 32];

	link->changes++;
	/* What it said itself says more than its exit status. */
	if (link->is_ready || link->reason[0] == '\0')
		snprintf(link->reason, sizeof(link->reason), "%s", reason);
	snprintf(text, sizeof(text), "the peer process ended: %s", link->reason);
	peer_link_all_end(link, text);
}

/* ---- what it says ---- */

static void ready(struct peer_link *link, const struct peer_message *message)
{
	link->changes++;
	link->is_ready = message->result == 0;
	link->reason[0] = '\0';
	if (link->is_ready)
		snprintf(link->transport, sizeof(link->transport), "%s", message->text);
	else
		snprintf(link->reason, sizeof(link->reason), "%.159s", message->text);
}

static bool up(struct peer_link *link, struct peer_message *message)
{
	struct link_session *session = &link->sessions[message->number];
	struct peer_up *theirs = &message->up;

	theirs->address[sizeof(theirs->address) - 1] = '\0';
	theirs->transport[sizeof(theirs->transport) - 1] = '\0';
	theirs->hello.name[sizeof(theirs->hello.name) - 1] = '\0';
	theirs->hello.release[sizeof(theirs->hello.release) - 1] = '\0';
	if (session->is_up || message->life == 0 || session->state == SESSION_WANTED ||
	    (session->state == SESSION_FREE && message->number < PEER_SESSIONS_ASKED))
		return false;
	if (session->state == SESSION_FREE)
		session_become(link, session, SESSION_ACCEPTED);
	session->is_up = true;
	session->life = message->life;
	session->line = (struct peer_line){ 0 };
	snprintf(session->transport, sizeof(session->transport), "%s", theirs->transport);
	if (session->state == SESSION_ASKED || session->state == SESSION_ACCEPTED)
		link->config.events->up(link->config.owner, message->number, message->life,
					&theirs->hello, theirs->address,
					message->number < PEER_SESSIONS_ASKED);
	return true;
}

static bool down(struct peer_link *link, const struct peer_message *message)
{
	struct link_session *session = &link->sessions[message->number];

	if (message->life != 0) {
		if (!session->is_up || message->life != session->life ||
		    session->transfers_count > 0)
			return false;
		session_down(link, message->number, message->result, message->text);
		return true;
	}
	if (session->is_up)
		return false;
	if (session->state == SESSION_ASKED)
		link->config.events->down(link->config.owner, message->number, 0, message->result,
					  message->text);
	return true;
}

static bool said(struct peer_link *link, const struct peer_message *message)
{
	const struct link_session *session = &link->sessions[message->number];
	struct peer_frame_header header;

	memcpy(&header, message->frame, sizeof(header));
	if (!session->is_up || message->life != session->life || header.bytes < sizeof(header) ||
	    header.bytes > PEER_FRAME_BYTES_MAX)
		return false;
	if (session->state == SESSION_ASKED || session->state == SESSION_ACCEPTED)
		link->config.events->frame(link->config.owner, message->number, message->life,
					   message->frame);
	return true;
}

static bool transferred(struct peer_link *link, const struct peer_message *message)
{
	const struct peer_transfer *transfer;

	if (message->transfer >= PEER_TRANSFERS_MAX || message->result > 0)
		return false;
	transfer = link->transfers[message->transfer].transfer;
	if (transfer == NULL || transfer->is_place != (message->verb == PEER_PLACED))
		return false;
	transfer_end(link, message->transfer, message->result);
	return true;
}

static bool forgotten(struct peer_link *link, const struct peer_message *message)
{
	struct link_session *session = &link->sessions[message->number];

	if (session->is_up || session->state != SESSION_LEAVING)
		return false;
	session_become(link, session, SESSION_FREE);
	return true;
}

static bool resolved(struct peer_link *link, struct peer_message *message)
{
	if (!link->is_resolve_said || message->result > 0)
		return false;
	message->list[sizeof(message->list) - 1] = '\0';
	resolve_end(link, message->result, message->result < 0 ? message->text : message->list);
	return true;
}

static bool message_take(struct peer_link *link, struct peer_message *message)
{
	if (message->number >= PEER_SESSIONS_MAX)
		return false;
	if (message->verb == PEER_READY || message->verb == PEER_DOWN)
		message->text[sizeof(message->text) - 1] = '\0';
	switch (message->verb) {
	case PEER_READY:
		ready(link, message);
		return true;
	case PEER_UP:
		return up(link, message);
	case PEER_DOWN:
		return down(link, message);
	case PEER_SAID:
		return said(link, message);
	case PEER_PLACED:
	case PEER_SENT:
		return transferred(link, message);
	case PEER_FORGOTTEN:
		return forgotten(link, message);
	case PEER_RESOLVED:
		return resolved(link, message);
	case PEER_LINE:
		link->sessions[message->number].line = message->line;
		return true;
	default:
		return false;
	}
}

void peer_link_on_message(void *owner, const void *bytes)
{
	struct peer_link *link = owner;
	struct peer_message message;

	memcpy(&message, bytes, sizeof(message));
	if (!message_take(link, &message))
		worker_kill(link->worker, "answered what it was not asked");
}

/* ---- what it is told ---- */

/* As soon as the process runs: it says READY when it has them. */
static void packets_send(struct peer_link *link)
{
	if (worker_state(link->worker) != WORKER_RUNNING)
		return;
	for (uint32_t n = 0; n < PEER_ARENAS_MAX; n++) {
		struct link_arena *arena = &link->arenas[n];
		const struct peer_packet packet = { .kind = PEER_PACKET_ARENA, .number = n,
						    .bytes = arena->bytes };

		if (arena->bytes > 0 && !arena->is_sent)
			arena->is_sent = worker_send_packet(link->worker, &packet, sizeof(packet),
							    &arena->fd, 1) == 0;
		if (arena->bytes > 0 && !arena->is_sent)
			return;
	}
	if (link->tls != NULL && !link->is_tls_sent)
		link->is_tls_sent = worker_send_packet(link->worker, link->tls,
						       sizeof(*link->tls), NULL, 0) == 0;
	if (link->tls != NULL && !link->is_tls_sent)
		return;
	if (!link->is_setup_sent)
		link->is_setup_sent = worker_send_packet(link->worker, link->setup,
							 sizeof(*link->setup), NULL, 0) == 0;
}

static void sessions_say(struct peer_link *link)
{
	for (uint32_t n = 0; link->unsaid_count > 0 && n < PEER_SESSIONS_MAX; n++) {
		struct link_session *session = &link->sessions[n];
		struct peer_message message = { .number = n };

		if (!is_unsaid(session->state))
			continue;
		message.verb = session->state == SESSION_WANTED ? PEER_CONNECT : PEER_FORGET;
		snprintf(message.text, sizeof(message.text), "%s", session->address);
		if (worker_send(link->worker, &message) < 0)
			return;
		session_become(link, session, session->state == SESSION_WANTED ? SESSION_ASKED
									       : SESSION_LEAVING);
	}
}

static void resolve_say(struct peer_link *link)
{
	struct peer_message message = { .verb = PEER_RESOLVE };

	if (link->resolving[0] == '\0' || link->is_resolve_said)
		return;
	snprintf(message.text, sizeof(message.text), "%s", link->resolving);
	link->is_resolve_said = worker_send(link->worker, &message) == 0;
}

int peer_link_resolve(struct peer_link *link, const char *name)
{
	if (strlen(name) >= sizeof(link->resolving))
		return -EINVAL;
	if (link->resolving[0] != '\0')
		return -EAGAIN;
	snprintf(link->resolving, sizeof(link->resolving), "%s", name);
	return 0;
}

static void stops_say(struct peer_link *link)
{
	for (uint32_t n = 0; link->stopping_count > 0 && n < PEER_TRANSFERS_MAX; n++) {
		const struct peer_message message = { .verb = PEER_STOP, .transfer = n };

		if (!link->transfers[n].is_stopping)
			continue;
		if (worker_send(link->worker, &message) < 0)
			return;
		link->transfers[n].is_stopping = false;
		link->stopping_count--;
	}
}

/* It beats, but a transfer does not come back. */
static void late_look(struct peer_link *link, uint64_t now_us)
{
	if (now_us - link->looked_us < LOOK_US)
		return;
	link->looked_us = now_us;
	for (uint32_t n = 0; link->transfers_count > 0 && n < PEER_TRANSFERS_MAX; n++) {
		const struct peer_transfer *transfer = link->transfers[n].transfer;

		if (transfer == NULL || now_us <= transfer->deadline_us ||
		    now_us - transfer->deadline_us < PEER_LINK_LATE_US_MAX)
			continue;
		worker_kill(link->worker, "a transfer did not end");
		return;
	}
}

bool peer_link_step(struct peer_link *link, uint64_t now_us)
{
	bool did = worker_step(link->worker, now_us);

	packets_send(link);
	if (is_there(link)) {
		sessions_say(link);
		stops_say(link);
		resolve_say(link);
		late_look(link, now_us);
	}
	return did;
}

/* ---- peer_ops ---- */

static int link_connect(void *room, const char *address, uint32_t *out_session)
{
	struct peer_link *link = room;
	const char *colon = strrchr(address, ':');
	uint32_t number = 0;

	if (strlen(address) >= PEER_ADDRESS_TEXT_MAX || colon == NULL || colon == address ||
	    colon[1] == '\0')
		return -EINVAL;
	while (number < PEER_SESSIONS_ASKED && link->sessions[number].state != SESSION_FREE)
		number++;
	if (number == PEER_SESSIONS_ASKED)
		return -EAGAIN;
	struct link_session *session = &link->sessions[number];
	snprintf(session->address, sizeof(session->address), "%s", address);
	session_become(link, session, SESSION_WANTED);
	*out_session = number;
	return 0;
}

static void link_forget(void *room, uint32_t number)
{
	struct peer_link *link = room;
	struct link_session *session = &link->sessions[number];

	assert(number < PEER_SESSIONS_MAX);
	if (session->state == SESSION_WANTED)
		session_become(link, session, SESSION_FREE);
	else if (session->state == SESSION_ASKED || session->state == SESSION_ACCEPTED)
		session_become(link, session, SESSION_UNWANTED);
}

static bool is_connected(const struct peer_link *link, uint32_t number, uint32_t life)
{
	const struct link_session *session = &link->sessions[number % PEER_SESSIONS_MAX];

	return is_there(link) && number < PEER_SESSIONS_MAX && session->is_up &&
	       session->life == life &&
	       (session->state == SESSION_ASKED || session->state == SESSION_ACCEPTED);
}

static int link_say(void *room, uint32_t number, uint32_t life, const void *frame)
{
	struct peer_link *link = room;
	struct peer_message message = { .verb = PEER_SAY, .number = number, .life = life };
	struct peer_frame_header header;

	memcpy(&header, frame, sizeof(header));
	assert(header.bytes >= sizeof(header) && header.bytes <= sizeof(message.frame));
	if (!is_connected(link, number, life))
		return -ENOTCONN;
	memcpy(message.frame, frame, header.bytes);
	return worker_send(link->worker, &message);
}

static int link_transfer(void *room, struct peer_transfer *transfer)
{
	struct peer_link *link = room;
	struct peer_message message = {
		.verb = transfer->is_place ? PEER_PLACE : PEER_SEND,
		.number = transfer->session,
		.life = transfer->life,
		.arena = transfer->arena,
		.tag = transfer->tag,
		.offset = transfer->offset,
		.bytes = transfer->bytes,
		.deadline_us = transfer->deadline_us,
	};

	if (!is_connected(link, transfer->session, transfer->life))
		return -ENOTCONN;
	if (link->free_count == 0)
		return -EAGAIN;
	message.transfer = transfer->number = link->free[link->free_count - 1];
	int result = worker_send(link->worker, &message);
	if (result < 0)
		return result;
	link->free_count--;
	link->transfers_count++;
	link->sessions[transfer->session].transfers_count++;
	link->transfers[transfer->number] = (struct link_transfer){ .transfer = transfer };
	return 0;
}

static void link_stop(void *room, struct peer_transfer *transfer)
{
	struct peer_link *link = room;
	struct link_transfer *known = &link->transfers[transfer->number];

	assert(transfer->number < PEER_TRANSFERS_MAX && known->transfer == transfer);
	link->stopping_count += !known->is_stopping;
	known->is_stopping = true;
	if (is_there(link))
		stops_say(link); /* or the next step does */
}

const struct peer_ops peer_ops_link = {
	.name = "link",
	.connect = link_connect,
	.forget = link_forget,
	.say = link_say,
	.transfer = link_transfer,
	.stop = link_stop,
};
