/* daemon/inventory_worker.c: the process that says what the node has: messages of the loop in,
 * messages to who listens out, questions between. */
#include "daemon/inventory.h"

#include "daemon/inventory_server.h"
#include "daemon/inventory_sockets.h"
#include "daemon/sandbox.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOLD_MAX 4096u           /* messages of the loop between two looks at questions */
#define BATCH_MS 2               /* between two messages: what changes meanwhile goes together */
#define SILENCE_MS 20            /* between two looks at a silent parent */

struct inventory_process {
	struct worker_side side;
	struct inventory_server *server;
	struct inventory_sockets *sockets;
};

static void wire_publish(void *room, uint64_t sequence, const void *payload, uint32_t bytes)
{
	struct inventory_process *process = room;

	inventory_sockets_publish(process->sockets, sequence, payload, bytes);
}

static void wire_answer(void *room, const void *asker, uint32_t asker_bytes, uint64_t sequence,
			const void *payload, uint32_t bytes)
{
	struct inventory_process *process = room;

	inventory_sockets_answer(process->sockets, asker, asker_bytes, sequence, payload, bytes);
}

static bool wire_want(void *room, const struct inventory_message *message)
{
	struct inventory_process *process = room;

	return ring_send(&process->side.up, message) == 0;
}

/* "LISTEN\tASK_LISTEN\tBOOT" */
static int process_open(struct inventory_process *process, struct error *error)
{
	const struct inventory_wire wire = { wire_publish, wire_answer, wire_want, process };
	char listen[256], ask_listen[256];
	unsigned long long boot;

	if (process->side.message_bytes != sizeof(struct inventory_message) ||
	    sscanf(process->side.argument, "%255[^\t]\t%255[^\t]\t%llu", listen, ask_listen,
		   &boot) != 3)
		return error_set(error, -EINVAL, "parent and process are of two versions");
	int result = inventory_server_create(&process->server, boot, &wire, error);
	if (result == 0)
		result = inventory_sockets_open(&process->sockets, listen, ask_listen, error);
	return result;
}

/* 1: all that was there; 0: there may be more. */
static int told_take(struct inventory_process *process, struct error *error)
{
	struct inventory_message message;

	for (unsigned n = 0; n < TOLD_MAX; n++) {
		int result = ring_take(&process->side.down, &message);

		if (result < 0)
			return error_set(error, result, "the parent wrote an impossible index");
		if (result == 0)
			return 1;
		result = inventory_server_told(process->server, &message,
					       clock_now_us(process->side.clock), error);
		if (result < 0)
			return result;
	}
	return 0;
}

/* Whoever asks is heard meanwhile; what is told is not, so that it is told without a wake-up. */
static void batch_wait(struct inventory_process *process)
{
	struct pollfd asked = { .fd = inventory_sockets_fd(process->sockets), .events = POLLIN };

	(void)poll(&asked, 1, BATCH_MS);
}

/* The ring is new: there is room. */
static void ready_say(struct inventory_process *process)
{
	struct inventory_message message = { .verb = TELL_READY };
	uint16_t said, asked;

	inventory_sockets_ports(process->sockets, &said, &asked);
	message.key = said;
	message.value = asked;
	(void)wire_want(process, &message);
}

static int serve(struct inventory_process *process, struct error *error)
{
	struct worker_side *side = &process->side;
	struct inventory_server_figures before, after;

	ready_say(process);
	while (!worker_side_is_orphan(side)) {
		/* Another daemon may be about to speak for this node. */
		if (!worker_side_beat(side)) {
			(void)poll(NULL, 0, SILENCE_MS);
			continue;
		}
		inventory_server_look(process->server, &before);
		int result = told_take(process, error);
		if (result < 0)
			return result;
		bool was_asked = inventory_sockets_hear(process->sockets, process->server);
		inventory_server_step(process->server);
		if (result == 0)
			continue;
		inventory_server_flush(process->server);
		inventory_server_look(process->server, &after);
		if (after.messages != before.messages)
			batch_wait(process);
		else if (!was_asked)
			worker_side_wait_also(side, inventory_sockets_fd(process->sockets),
					      WORKER_BEAT_US);
	}
	return 0;
}

int inventory_worker_main(int arguments_count, char **arguments)
{
	struct inventory_process process = { .server = NULL };
	struct error error = { 0 };
	int result = worker_side_open(&process.side, arguments_count, arguments, &error);

	if (result == 0)
		result = sandbox_inventory_worker(&error);
	if (result == 0)
		result = process_open(&process, &error);
	if (result == 0)
		result = serve(&process, &error);
	inventory_sockets_close(process.sockets);
	inventory_server_destroy(process.server);
	if (result < 0)
		fprintf(stderr, "kvtierd: inventory process: %s\n", error.text);
	return result < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
