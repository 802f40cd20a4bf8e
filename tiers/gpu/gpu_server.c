/* tiers/gpu/gpu_server.c: messages in, transfers of what belongs together, an answer for each. */
#include "tiers/gpu/gpu_server.h"

#include "base/failpoint.h"
#include "tiers/gpu/gpu_parts.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static_assert(GPU_COPIES_MAX < GPU_MESSAGES_MAX, "every copy has room to be answered");

static struct copies *copies_of(struct list_node *node)
{
	return list_item(node, struct copies, link);
}

void gpu_answer(struct gpu_server *server, const struct gpu_message *message)
{
	if (!server->is_deaf)
		server->is_deaf = !server->config.answer(server->config.owner, message);
}

static void copy_answer(struct gpu_server *server, uint32_t number, int result)
{
	const struct gpu_message message = { .verb = GPU_COPIED, .number = number,
					     .result = result };

	gpu_answer(server, &message);
}

/* ---- transfers ---- */

static bool copied_fails(enum copy_direction direction)
{
	return direction == COPY_STORE ? failpoint(gpu_store_copied) : failpoint(gpu_load_copied);
}

static void copies_answer(struct copies *copies, uint32_t up_to, int result)
{
	while (copies->answered < up_to) {
		if (result == 0 && copied_fails(copies->transfer.direction))
			result = -EIO;
		job_word_leave(&copies->lent->words->words[copies->job_place]);
		copy_answer(copies->server, copies->numbers[copies->answered++], result);
	}
}

static void copies_give(struct copies *copies, int result)
{
	copies_answer(copies, copies->count, result);
	copies->lent->copies_count--;
	copies->lent = NULL;
	list_append(&copies->server->free, &copies->link);
}

static void copies_moved(struct transfer *transfer, uint32_t blocks_done)
{
	copies_answer((struct copies *)transfer, blocks_done, 0);
}

static void copies_done(struct transfer *transfer, int result)
{
	copies_give((struct copies *)transfer, result);
}

/* Those that were collected, in their order, as far as the engine takes them. */
static bool ready_submit(struct gpu_server *server)
{
	struct list_node *node = list_first(&server->ready);
	bool did = false;

	while (node != NULL) {
		struct copies *copies = copies_of(node);
		struct error error;
		int result;

		node = list_after(&server->ready, node);
		copies->transfer.blocks_count = copies->count;
		result = transfer_submit(server->engine, &copies->transfer, &error);
		if (result == -EAGAIN)
			continue; /* the other direction may have room */
		list_remove(&server->ready, &copies->link);
		copies->is_submitted = result == 0;
		if (result < 0)
			copies_give(copies, result);
		else
			(void)(copies->transfer.direction == COPY_STORE
				       ? failpoint(gpu_store_submitted)
				       : failpoint(gpu_load_submitted));
		did = true;
	}
	return did;
}

void gpu_copies_cancel(struct gpu_server *server, struct lent *lent, uint64_t job)
{
	for (unsigned n = 0; n < sizeof(server->copies) / sizeof(server->copies[0]); n++) {
		struct copies *copies = &server->copies[n];

		if (copies->lent != lent || (job != 0 && copies->job != job))
			continue;
		if (copies->is_submitted) {
			transfer_cancel(server->engine, &copies->transfer);
			continue;
		}
		list_remove(&server->ready, &copies->link);
		copies_give(copies, -ECANCELED);
	}
}

/* Of clients that ended their wait without the daemon, which may hang. */
static void stopped_cancel(struct gpu_server *server)
{
	for (unsigned n = 0; n < sizeof(server->copies) / sizeof(server->copies[0]); n++) {
		struct copies *copies = &server->copies[n];

		if (copies->lent != NULL && copies->is_submitted &&
		    job_word_is_stopped(&copies->lent->words->words[copies->job_place],
					copies->job))
			transfer_cancel(server->engine, &copies->transfer);
	}
}

/* ---- messages ---- */

/* Why this copy cannot be: 0 or a negative errno. */
static int copy_check(const struct gpu_server *server, const struct gpu_message *message)
{
	const struct lent *lent = &server->lents[message->memory % GPU_LENTS_MAX];
	const struct arena_pinned *arena = &server->arenas[message->arena % GPU_ARENAS_MAX];
	uint64_t bytes;

	if (message->memory >= GPU_LENTS_MAX || message->arena >= GPU_ARENAS_MAX ||
	    message->direction >= COPY_DIRECTIONS || message->job_place >= JOB_WORDS ||
	    message->job == 0 || message->gate_value > GATE_VALUE_MAX)
		return -EINVAL;
	if (lent->state != LENT_USABLE)
		return -ENODEV;
	if (message->group >= lent->layout.groups_count ||
	    message->block >= lent->layout.groups[message->group].blocks_count ||
	    (message->gate_value > 0 && !lent->has_gate))
		return -EINVAL;
	bytes = lent->layout.groups[message->group].payload_bytes;
	/* Not pinned yet: it may be, later. */
	if (bytes > arena->pinned || message->offset > arena->pinned - bytes)
		return -EAGAIN;
	return 0;
}

static bool copies_belong(const struct copies *copies, const struct gpu_message *message)
{
	const struct transfer *transfer = &copies->transfer;

	return copies->count < COPIES_BLOCKS_MAX && copies->lent->number == message->memory &&
	       transfer->group == &copies->lent->layout.groups[message->group] &&
	       (unsigned)transfer->direction == message->direction &&
	       transfer->is_urgent == (message->is_urgent != 0) &&
	       transfer->gate_value == message->gate_value &&
	       transfer->deadline_us == message->deadline_us && copies->job == message->job &&
	       copies->job_place == message->job_place;
}

static struct copies *copies_take(struct gpu_server *server, const struct gpu_message *message)
{
	struct lent *lent = &server->lents[message->memory];
	struct copies *copies = copies_of(list_take_first(&server->free));

	copies->lent = lent;
	copies->count = copies->answered = 0;
	copies->job = message->job;
	copies->job_place = message->job_place;
	copies->is_submitted = false;
	copies->transfer = (struct transfer){
		.direction = message->direction,
		.is_urgent = message->is_urgent != 0,
		.group = &lent->layout.groups[message->group],
		.region_bases = lent->bases,
		.blocks = copies->blocks,
		.gate = message->gate_value > 0 ? &lent->gate : NULL,
		.gate_value = message->gate_value,
		.deadline_us = message->deadline_us,
		.moved = copies_moved,
		.done = copies_done,
	};
	lent->copies_count++;
	list_append(&server->ready, &copies->link);
	return copies;
}

static void copy_take(struct gpu_server *server, const struct gpu_message *message)
{
	struct list_node *last = server->ready.head.previous;
	struct copies *copies = list_is_empty(&server->ready) ? NULL : copies_of(last);
	int result = copy_check(server, message);

	if (result == 0 &&
	    !job_word_enter(&server->lents[message->memory].words->words[message->job_place],
			    message->job))
		result = -ECANCELED;
	if (result < 0) {
		copy_answer(server, message->number, result);
		return;
	}
	if (copies == NULL || !copies_belong(copies, message))
		copies = copies_take(server, message);
	copies->numbers[copies->count] = message->number;
	copies->blocks[copies->count++] = (struct plan_block){
		.number = message->block,
		.host = server->arenas[message->arena].memory + message->offset,
	};
}

bool gpu_server_has_room(const struct gpu_server *server)
{
	return !list_is_empty(&server->free);
}

int gpu_server_message(struct gpu_server *server, const struct gpu_message *message,
		       struct error *error)
{
	struct lent *lent = &server->lents[message->number % GPU_LENTS_MAX];

	assert(gpu_server_has_room(server));
	switch (message->verb) {
	case GPU_COPY:
		copy_take(server, message);
		return 0;
	case GPU_CANCEL:
		if (message->number < GPU_LENTS_MAX && lent->state != LENT_FREE)
			gpu_copies_cancel(server, lent, message->job);
		return 0;
	case GPU_RETURN:
		if (message->number < GPU_LENTS_MAX)
			gpu_lent_return(server, lent);
		return 0;
	default:
		return error_set(error, -EPROTO, "the daemon sent verb %u", message->verb);
	}
}

int gpu_server_packet(struct gpu_server *server, const void *packet, size_t bytes, const int *fds,
		      unsigned fds_count, struct error *error)
{
	const struct gpu_packet *head = packet;
	struct lend_view view;
	int result;

	if (bytes < sizeof(*head))
		return error_set(error, -EPROTO, "the daemon sent a packet of %zu bytes", bytes);
	if (head->kind == GPU_PACKET_ARENA && fds_count == 1) {
		gpu_arena_take(server, head, fds[0]);
		return 0;
	}
	if (head->kind != GPU_PACKET_LEND)
		return error_set(error, -EPROTO, "the daemon sent a packet of kind %u with %u "
				 "descriptors", head->kind, fds_count);
	/* The daemon has read it already. */
	result = lend_read(head + 1, bytes - sizeof(*head), &view, error);
	if (result < 0 || fds_count != 1 + view.head->fds_count)
		return error_set(error, -EPROTO, "the daemon passed on what it should have refused");
	gpu_lent_take(server, head->number, &view, fds);
	return 0;
}

/* ---- the server ---- */

int gpu_server_step(struct gpu_server *server, uint64_t now_us, bool may_submit,
		    struct error *error)
{
	bool did = ready_submit(server);

	stopped_cancel(server);
	did |= transfer_engine_step(server->engine, now_us, may_submit);
	did |= gpu_lents_step(server);
	/* Slow, and not while an engine waits for its blocks. */
	if (may_submit && !did && gpu_server_is_idle(server))
		did |= gpu_arenas_step(server);
	if (server->is_lost || transfer_engine_is_lost(server->engine))
		return error_set(error, -EIO, "%s is lost", server->device->about.name);
	if (server->is_deaf)
		return error_set(error, -EPIPE, "nobody takes answers");
	return did;
}

bool gpu_server_is_idle(const struct gpu_server *server)
{
	for (unsigned n = 0; n < GPU_LENTS_MAX; n++)
		if (server->lents[n].state == LENT_RETURNING)
			return false;
	return server->free.count == sizeof(server->copies) / sizeof(server->copies[0]);
}

int gpu_server_create(struct gpu_server **out_server, const struct gpu_server_config *config,
		      struct error *error)
{
	struct gpu_server *server = calloc(1, sizeof(*server));
	const struct transfer_config transfers = {
		.device = config->device,
		.costs = config->costs,
		.paths = config->paths,
		.chunk_bytes = config->chunk_bytes,
		.bytes_second_max = { config->bytes_second_max[0], config->bytes_second_max[1] },
		.transfers_max = { COPIES_A_LANE, COPIES_A_LANE },
	};
	int result;

	if (server == NULL)
		return error_set(error, -ENOMEM, "no memory for a GPU's copies");
	server->config = *config;
	server->device = config->device;
	list_init(&server->free);
	list_init(&server->ready);
	for (unsigned n = 0; n < sizeof(server->copies) / sizeof(server->copies[0]); n++) {
		server->copies[n].server = server;
		list_append(&server->free, &server->copies[n].link);
	}
	result = transfer_engine_create(&server->engine, &transfers, error);
	if (result < 0) {
		free(server);
		return result;
	}
	*out_server = server;
	return 0;
}

void gpu_server_destroy(struct gpu_server *server)
{
	if (server == NULL)
		return;
	bool is_lost = server->is_lost || transfer_engine_is_lost(server->engine);

	assert(is_lost || gpu_server_is_idle(server));
	transfer_engine_destroy(server->engine);
	if (!is_lost)
		gpu_lents_close(server);
	free(server);
}
