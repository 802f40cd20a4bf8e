/* tests/peer/peer_rig.c: see peer_rig.h. */
#include "tests/peer/peer_rig.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct rig rig;

static uint64_t now_us(struct clock *clock)
{
	(void)clock;
	return clock_now_us(clock_real()) + rig.added_us;
}

uint64_t rig_now_us(void)
{
	return now_us(NULL);
}

static uint32_t room(void *owner)
{
	const struct node *node = owner;

	return node->queued < node->room ? node->room - node->queued : 0;
}

static bool answer(void *owner, const struct peer_message *message)
{
	struct node *node = owner;

	if (room(owner) == 0)
		return false;
	node->queue[node->queued++] = *message;
	return true;
}

/* ---- what is said ---- */

static void transferred(struct node *node, const struct peer_message *message)
{
	assert_true(message->transfer < PEER_TRANSFERS_MAX && message->result <= 0);
	node->ends[message->transfer]++;
	node->results[message->transfer] = message->result;
}

static void down(struct node *node, struct node_session *session,
		 const struct peer_message *message)
{
	session->result = message->result;
	memcpy(session->reason, message->text, sizeof(session->reason));
	if (message->life == 0) {
		assert_false(session->is_up);
		session->news++;
		return;
	}
	assert_true(session->is_up && message->life == session->life);
	session->is_up = false;
	session->downs++;
	/* All its transfers have ended. */
	for (unsigned n = 0; n < PEER_TRANSFERS_MAX; n++)
		if (node->session_of[n] == message->number)
			assert_int_equal(node->ends[n], 1);
}

static void hear(struct node *node, const struct peer_message *message)
{
	struct node_session *session = &node->sessions[message->number];

	switch (message->verb) {
	case PEER_READY:
		assert_int_equal(message->result, 0);
		node->is_ready = true;
		break;
	case PEER_UP:
		assert_false(session->is_up);
		assert_true(message->life > session->life);
		session->is_up = true;
		session->life = message->life;
		session->up = message->up;
		session->ups++;
		break;
	case PEER_DOWN:
		down(node, session, message);
		break;
	case PEER_SAID:
		assert_true(session->is_up && message->life == session->life);
		memcpy(session->frame, message->frame, sizeof(session->frame));
		session->frames++;
		break;
	case PEER_FORGOTTEN:
		assert_false(session->is_up);
		session->forgotten++;
		break;
	case PEER_LINE:
		session->line = message->line;
		break;
	default:
		assert_true(message->verb == PEER_PLACED || message->verb == PEER_SENT);
		transferred(node, message);
	}
}

/* ---- the pass ---- */

static bool node_step(struct node *node)
{
	bool did = peer_server_step(node->server, rig_now_us(), true);

	for (unsigned n = 0; n < node->queued; n++)
		hear(node, &node->queue[n]);
	node->queued = 0;
	return did;
}

bool rig_turn(void)
{
	struct pollfd waiting[2] = { { .events = POLLIN }, { .events = POLLIN } };
	bool did = node_step(&rig.nodes[0]);

	did = node_step(&rig.nodes[1]) || did;
	if (did)
		return true;
	for (unsigned n = 0; n < 2; n++)
		waiting[n].fd = peer_server_fd(rig.nodes[n].server);
	if (peer_server_arm(rig.nodes[0].server) && peer_server_arm(rig.nodes[1].server))
		(void)poll(waiting, 2, 1);
	peer_server_awake(rig.nodes[0].server);
	peer_server_awake(rig.nodes[1].server);
	return false;
}

/* ---- begin and end ---- */

static void setup_send(struct node *node, uint8_t id, uint64_t boot_id)
{
	struct peer_setup setup = { .packet = { .kind = PEER_PACKET_SETUP }, .secrets_count = 1 };
	const struct peer_packet arena = { .kind = PEER_PACKET_ARENA, .bytes = RIG_ARENA_BYTES };
	struct error error;

	setup.hello.boot_id = boot_id;
	memset(setup.hello.node, id, sizeof(setup.hello.node));
	snprintf(setup.hello.name, sizeof(setup.hello.name), "node %u", id);
	assert_int_equal(peer_server_packet(node->server, &arena, sizeof(arena), &node->arena_fd, 1,
					    &error), 0);
	assert_int_equal(peer_server_packet(node->server, &setup, sizeof(setup), NULL, 0, &error),
			 0);
}

static void node_open(struct node *node, const struct rig_options *options, uint8_t id)
{
	const struct transport_ops *const *ops = node == rig.nodes ? options->first
								    : options->second;
	struct peer_server_config config = {
		.listen = "127.0.0.1:0",
		.transports = { ops[0], ops[1] },
		.is_encrypted = options->is_encrypted,
		.clock = &rig.clock,
		.answer = answer,
		.room = room,
		.owner = node,
	};
	struct error error;

	if (ops[0] == NULL)
		config.transports[0] = &fake_transport;
	node->room = RIG_QUEUE;
	node->queue = calloc(RIG_QUEUE, sizeof(*node->queue));
	for (unsigned n = 0; n < PEER_TRANSFERS_MAX; n++)
		node->session_of[n] = PEER_SESSIONS_MAX;
	node->arena_fd = memfd_create("test", MFD_CLOEXEC);
	assert_int_equal(ftruncate(node->arena_fd, (off_t)RIG_ARENA_BYTES), 0);
	node->arena = mmap(NULL, RIG_ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
			   node->arena_fd, 0);
	assert_int_equal(peer_server_create(&node->server, &config, &error), 0);
	setup_send(node, id, 1000 + (uint64_t)(node - rig.nodes));
	snprintf(node->address, sizeof(node->address), "127.0.0.1:%u",
		 peer_server_port(node->server));
}

void rig_open(const struct rig_options *options)
{
	memset(&rig, 0, sizeof(rig));
	rig.clock.now_us = now_us;
	fake_faults = (struct fake_faults){ .bytes_left = UINT64_MAX };
	node_open(&rig.nodes[0], options, options->is_swapped ? 2 : 1);
	node_open(&rig.nodes[1], options, options->is_swapped || options->is_same_node ? 1 : 2);
	AWAIT(rig.nodes[0].is_ready && rig.nodes[1].is_ready);
}

void rig_close(void)
{
	for (unsigned n = 0; n < 2; n++) {
		struct node *node = &rig.nodes[n];

		peer_server_destroy(node->server);
		munmap(node->arena, RIG_ARENA_BYTES);
		close(node->arena_fd);
		free(node->queue);
		for (unsigned i = 0; i < PEER_TRANSFERS_MAX; i++)
			assert_true(node->ends[i] <= 1);
	}
}

/* ---- what daemons say ---- */

void rig_tell(struct node *node, struct peer_message message)
{
	struct error error;

	assert_int_equal(peer_server_message(node->server, &message, &error), 0);
}

void rig_connect(struct node *node, uint32_t session, const char *address)
{
	struct peer_message message = { .verb = PEER_CONNECT, .number = session };

	snprintf(message.text, sizeof(message.text), "%s", address);
	rig_tell(node, message);
}

void rig_transfer_until(struct node *node, bool is_place, uint32_t number, uint32_t session,
			uint64_t tag, uint64_t offset, uint64_t bytes, uint64_t us)
{
	node->ends[number] = 0;
	node->results[number] = NOT_YET;
	node->session_of[number] = session;
	rig_tell(node, (struct peer_message){ .verb = is_place ? PEER_PLACE : PEER_SEND,
					      .number = session,
					      .life = node->sessions[session].life,
					      .transfer = number,
					      .tag = tag,
					      .offset = offset,
					      .bytes = bytes,
					      .deadline_us = rig_now_us() + us });
}

void rig_transfer(struct node *node, bool is_place, uint32_t number, uint32_t session, uint64_t tag,
		  uint64_t offset, uint64_t bytes)
{
	rig_transfer_until(node, is_place, number, session, tag, offset, bytes, LONG_US);
}

uint32_t rig_up(const struct node *node)
{
	uint32_t number = 0;

	while (number < PEER_SESSIONS_MAX && !node->sessions[number].is_up)
		number++;
	return number;
}

void rig_fill(uint8_t *memory, uint64_t bytes, uint64_t seed)
{
	for (uint64_t n = 0; n < bytes; n++)
		memory[n] = (uint8_t)((n * 2654435761u >> 13) + n + seed * 37);
}

bool rig_is_filled(const uint8_t *memory, uint64_t bytes, uint64_t seed)
{
	for (uint64_t n = 0; n < bytes; n++)
		if (memory[n] != (uint8_t)((n * 2654435761u >> 13) + n + seed * 37))
			return false;
	return true;
}
