/* daemon/gpu_link.c: see gpu_link.h. */
#include "daemon/gpu_link.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARGUMENT_BYTES 800
#define LOOK_US (UINT64_C(250) * 1000) /* between two looks for copies that are late */

enum lent_state {
	LENT_FREE,
	LENT_ASKED,     /* for; the answer is on its way */
	LENT_REGRETTED, /* the same, and it is not wanted any more */
	LENT_USABLE,
	LENT_UNWANTED,  /* the process is still to be told */
	LENT_RETURNING, /* it was told */
	LENT_STATES
};

struct link_arena {
	int fd;
	uint64_t bytes, pinned; /* bytes 0: none */
	bool is_sent;           /* to this life */
	bool has_failed;        /* in this life: no more of it is pinned */
};

struct gpu_link {
	struct gpu_link_config config;
	struct worker *worker;
	bool is_ready;
	uint32_t changes;
	char device[96];
	char uuid[48];
	char reason[WORKER_REASON_BYTES];
	struct cost_speed speeds[COPY_DIRECTIONS];
	struct link_arena arenas[GPU_ARENAS_MAX];
	enum lent_state lents[GPU_LENTS_MAX];
	uint64_t looked_us;
	uint32_t copies_count, free_count;
	uint32_t free[GPU_COPIES_MAX];
	struct gpu_copy *copies[GPU_COPIES_MAX]; /* NULL: the number is free */
	_Alignas(8) uint8_t packet[GPU_PACKET_BYTES_MAX];
};

static_assert(GPU_PACKET_BYTES_MAX <= WORKER_PACKET_BYTES_MAX, "packets fit the channel");
static_assert(GPU_PACKET_FDS_MAX <= WORKER_PACKET_FDS_MAX, "descriptors fit the channel");
static_assert(sizeof(struct gpu_message) % 8 == 0, "messages lie aligned in the ring");

/* ---- ends ---- */

static void copy_end(struct gpu_link *link, uint32_t number, int result)
{
	struct gpu_copy *copy = link->copies[number];

	link->copies[number] = NULL;
	link->free[link->free_count++] = number;
	link->copies_count--;
	link->config.copied(link->config.owner, copy, result);
	copy->done(copy, result);
}

static void lent_become(struct gpu_link *link, uint32_t number, enum lent_state next)
{
	static const bool legal_move[LENT_STATES][LENT_STATES] = {
		[LENT_FREE] = { [LENT_ASKED] = true },
		[LENT_ASKED] = { [LENT_FREE] = true, [LENT_USABLE] = true,
				 [LENT_REGRETTED] = true },
		[LENT_REGRETTED] = { [LENT_FREE] = true, [LENT_UNWANTED] = true },
		[LENT_USABLE] = { [LENT_FREE] = true, [LENT_UNWANTED] = true },
		[LENT_UNWANTED] = { [LENT_FREE] = true, [LENT_RETURNING] = true },
		[LENT_RETURNING] = { [LENT_FREE] = true },
	};

	assert(legal_move[link->lents[number]][next]);
	link->lents[number] = next;
}

static void lent_end(struct gpu_link *link, uint32_t number)
{
	lent_become(link, number, LENT_FREE);
	link->config.returned(link->config.owner, number);
}

/* The process has gone: nothing is copied, pinned or mapped any more. */
static void all_end(struct gpu_link *link)
{
	link->is_ready = false;
	for (unsigned n = 0; n < GPU_ARENAS_MAX; n++) {
		link->arenas[n].is_sent = link->arenas[n].has_failed = false;
		link->arenas[n].pinned = 0;
	}
	for (uint32_t n = 0; n < GPU_COPIES_MAX; n++)
		if (link->copies[n] != NULL)
			copy_end(link, n, -EIO);
	for (uint32_t n = 0; n < GPU_LENTS_MAX; n++)
		if (link->lents[n] != LENT_FREE)
			lent_end(link, n);
}

static void on_start(void *owner)
{
	(void)owner; /* READY follows */
}

static void on_end(void *owner, const char *reason)
{
	struct gpu_link *link = owner;

	link->changes++;
	/* What it said itself says more than its exit status. */
	if (link->is_ready || link->reason[0] == '\0')
		snprintf(link->reason, sizeof(link->reason), "%s", reason);
	all_end(link);
}

/* ---- what it says ---- */

static void ready(struct gpu_link *link, const struct gpu_message *message)
{
	link->changes++;
	link->is_ready = message->result == 0;
	link->reason[0] = '\0';
	if (!link->is_ready) {
		snprintf(link->reason, sizeof(link->reason), "%.159s", message->text);
		return;
	}
	size_t length = strcspn(message->text, "\n");
	snprintf(link->device, sizeof(link->device), "%.*s", (int)length, message->text);
	snprintf(link->uuid, sizeof(link->uuid), "%.47s",
		 message->text + length + (message->text[length] != '\0'));
	memcpy(link->speeds, message->speeds, sizeof(link->speeds));
}

static bool pinned(struct gpu_link *link, const struct gpu_message *message)
{
	struct link_arena *arena = &link->arenas[message->number % GPU_ARENAS_MAX];

	if (message->number >= GPU_ARENAS_MAX || message->offset > arena->bytes)
		return false;
	arena->pinned = message->offset;
	arena->has_failed = message->result < 0;
	link->changes += arena->has_failed;
	if (arena->has_failed)
		snprintf(link->reason, sizeof(link->reason), "%.159s", message->text);
	return true;
}

static bool lent(struct gpu_link *link, const struct gpu_message *message)
{
	uint32_t number = message->number;
	enum lent_state state = number < GPU_LENTS_MAX ? link->lents[number] : LENT_FREE;

	if (message->result > 0 || (state != LENT_ASKED && state != LENT_REGRETTED))
		return false;
	/* Only now it is told, as packets and messages may overtake each other. */
	if (state == LENT_REGRETTED && message->result < 0)
		lent_end(link, number);
	else if (state == LENT_REGRETTED)
		lent_become(link, number, LENT_UNWANTED);
	if (state == LENT_REGRETTED)
		return true;
	lent_become(link, number, message->result == 0 ? LENT_USABLE : LENT_FREE);
	link->config.lent(link->config.owner, number, message->result, message->text);
	return true;
}

static bool message_take(struct gpu_link *link, struct gpu_message *message)
{
	message->text[sizeof(message->text) - 1] = '\0';
	switch (message->verb) {
	case GPU_READY:
		ready(link, message);
		return true;
	case GPU_PINNED:
		return pinned(link, message);
	case GPU_LENT:
		return lent(link, message);
	case GPU_RETURNED:
		if (message->number >= GPU_LENTS_MAX ||
		    link->lents[message->number] != LENT_RETURNING)
			return false;
		lent_end(link, message->number);
		return true;
	case GPU_COPIED:
		if (message->number >= GPU_COPIES_MAX || link->copies[message->number] == NULL ||
		    message->result > 0)
			return false;
		copy_end(link, message->number, message->result);
		return true;
	default:
		return false;
	}
}

static void on_message(void *owner, const void *bytes)
{
	struct gpu_link *link = owner;
	struct gpu_message message;

	memcpy(&message, bytes, sizeof(message));
	if (!message_take(link, &message))
		worker_kill(link->worker, "answered what it was not asked");
}

/* ---- what it is told ---- */

static bool is_there(const struct gpu_link *link)
{
	return link->is_ready && link->worker != NULL &&
	       worker_state(link->worker) == WORKER_RUNNING;
}

static void arenas_send(struct gpu_link *link)
{
	for (uint32_t n = 0; n < GPU_ARENAS_MAX; n++) {
		struct link_arena *arena = &link->arenas[n];
		const struct gpu_packet packet = { .kind = GPU_PACKET_ARENA, .number = n,
						   .bytes = arena->bytes };

		if (arena->bytes > 0 && !arena->is_sent)
			arena->is_sent = worker_send_packet(link->worker, &packet, sizeof(packet),
							    &arena->fd, 1) == 0;
	}
}

static void returns_send(struct gpu_link *link)
{
	for (uint32_t n = 0; n < GPU_LENTS_MAX; n++) {
		const struct gpu_message message = { .verb = GPU_RETURN, .number = n };

		if (link->lents[n] == LENT_UNWANTED && worker_send(link->worker, &message) == 0)
			lent_become(link, n, LENT_RETURNING);
	}
}

/* The device hangs: its process beats, but a copy does not come back. */
static void late_look(struct gpu_link *link, uint64_t now_us)
{
	if (now_us - link->looked_us < LOOK_US)
		return;
	link->looked_us = now_us;
	for (uint32_t n = 0; n < GPU_COPIES_MAX; n++) {
		const struct gpu_copy *copy = link->copies[n];

		if (copy == NULL || now_us <= copy->deadline_us ||
		    now_us - copy->deadline_us < GPU_LINK_LATE_US_MAX)
			continue;
		worker_kill(link->worker, "a copy did not end: the device hangs");
		return;
	}
}

bool gpu_link_step(struct gpu_link *link, uint64_t now_us)
{
	bool did = worker_step(link->worker, now_us);

	if (is_there(link)) {
		arenas_send(link);
		returns_send(link);
		late_look(link, now_us);
	}
	return did;
}

/* ---- from outside ---- */

struct worker *gpu_link_worker(struct gpu_link *link)
{
	return link->worker;
}

void gpu_link_arena(struct gpu_link *link, uint32_t number, int fd, uint64_t bytes)
{
	assert(number < GPU_ARENAS_MAX && link->arenas[number].bytes == 0);
	link->arenas[number] = (struct link_arena){ .fd = fd, .bytes = bytes };
}

uint64_t gpu_link_pinned(const struct gpu_link *link, uint32_t number)
{
	return number < GPU_ARENAS_MAX ? link->arenas[number].pinned : 0;
}

int gpu_link_lend(struct gpu_link *link, const void *packet, size_t bytes, const int *fds,
		  unsigned fds_count, uint32_t *out_number)
{
	struct gpu_packet head = { .kind = GPU_PACKET_LEND };
	int result;

	assert(bytes <= LEND_BYTES_MAX && fds_count <= GPU_PACKET_FDS_MAX);
	if (!is_there(link))
		return -ENODEV;
	while (head.number < GPU_LENTS_MAX && link->lents[head.number] != LENT_FREE)
		head.number++;
	if (head.number == GPU_LENTS_MAX)
		return -EAGAIN;
	memcpy(link->packet, &head, sizeof(head));
	memcpy(link->packet + sizeof(head), packet, bytes);
	result = worker_send_packet(link->worker, link->packet, sizeof(head) + bytes, fds,
				    fds_count);
	if (result < 0)
		return result == -ENOTCONN ? -ENODEV : result;
	lent_become(link, head.number, LENT_ASKED);
	*out_number = head.number;
	return 0;
}

void gpu_link_return(struct gpu_link *link, uint32_t number)
{
	assert(number < GPU_LENTS_MAX);
	if (link->lents[number] != LENT_ASKED && link->lents[number] != LENT_USABLE)
		return;
	lent_become(link, number,
		    link->lents[number] == LENT_ASKED ? LENT_REGRETTED : LENT_UNWANTED);
	if (is_there(link))
		returns_send(link); /* or the next step does */
}

int gpu_link_copy(struct gpu_link *link, struct gpu_copy *copy)
{
	struct gpu_message message = {
		.verb = GPU_COPY,
		.memory = copy->lent,
		.arena = copy->arena,
		.group = copy->group,
		.block = copy->block,
		.direction = (uint16_t)copy->direction,
		.is_urgent = copy->is_urgent,
		.offset = copy->offset,
		.gate_value = copy->gate_value,
		.deadline_us = copy->deadline_us,
		.job = copy->job,
		.job_place = copy->job_place,
	};

	if (!is_there(link) || copy->lent >= GPU_LENTS_MAX ||
	    link->lents[copy->lent] != LENT_USABLE)
		return -ENODEV;
	if (link->free_count == 0)
		return -EAGAIN;
	message.number = copy->number = link->free[link->free_count - 1];
	int result = worker_send(link->worker, &message);
	if (result < 0)
		return result == -ENOTCONN ? -ENODEV : result;
	link->free_count--;
	link->copies_count++;
	link->copies[copy->number] = copy;
	return 0;
}

bool gpu_link_cancel(struct gpu_link *link, uint32_t number, uint64_t job)
{
	const struct gpu_message message = { .verb = GPU_CANCEL, .number = number, .job = job };

	return !is_there(link) || worker_send(link->worker, &message) != -EAGAIN;
}

uint32_t gpu_link_changes(const struct gpu_link *link)
{
	/* READY may be read before the first beat is seen: only both make it usable. */
	return link->changes * 2 + is_there(link);
}

void gpu_link_status(const struct gpu_link *link, struct gpu_link_status *out_status)
{
	*out_status = (struct gpu_link_status){
		.state = worker_state(link->worker),
		.is_ready = is_there(link),
		.copies = link->copies_count,
		.restarts = worker_restarts(link->worker),
		.pid = worker_pid(link->worker),
	};
	snprintf(out_status->device, sizeof(out_status->device), "%s", link->device);
	snprintf(out_status->uuid, sizeof(out_status->uuid), "%s", link->uuid);
	snprintf(out_status->reason, sizeof(out_status->reason), "%s", link->reason);
	memcpy(out_status->speeds, link->speeds, sizeof(out_status->speeds));
	for (unsigned n = 0; n < GPU_ARENAS_MAX; n++) {
		out_status->pinned_bytes += link->arenas[n].pinned;
		out_status->arenas_bytes += link->arenas[n].bytes;
		out_status->is_pinning |= !link->arenas[n].has_failed &&
					  link->arenas[n].pinned < link->arenas[n].bytes;
	}
	for (unsigned n = 0; n < GPU_LENTS_MAX; n++)
		out_status->lents += link->lents[n] != LENT_FREE;
}

int gpu_link_create(struct gpu_link **out_link, const struct gpu_link_config *config,
		    struct error *error)
{
	struct gpu_link *link = calloc(1, sizeof(*link));
	char argument[ARGUMENT_BYTES];

	if (link == NULL)
		return error_set(error, -ENOMEM, "no memory for GPU %s", config->bus_id);
	link->config = *config;
	for (uint32_t n = 0; n < GPU_COPIES_MAX; n++)
		link->free[link->free_count++] = GPU_COPIES_MAX - 1 - n;
	/* Paths have blanks, and no control characters. */
	snprintf(argument, sizeof(argument), "%s\t%s\t%s\t%s", config->vendor, config->bus_id,
		 config->library == NULL ? "-" : config->library, config->folder);
	const struct worker_config worker = {
		.name = "gpu",
		.argument = argument,
		.program = config->program,
		.message_bytes = sizeof(struct gpu_message),
		.messages_max = GPU_MESSAGES_MAX,
		.stall_us_max = GPU_LINK_STALL_US_MAX,
		.clock = config->clock,
		.on_start = on_start,
		.on_message = on_message,
		.on_end = on_end,
		.owner = link,
		.lock_fd = config->lock_fd,
		.has_channel = true,
	};
	int result = worker_create(&link->worker, &worker, error);
	if (result < 0) {
		free(link);
		return result;
	}
	*out_link = link;
	return 0;
}

void gpu_link_destroy(struct gpu_link *link)
{
	if (link == NULL)
		return;
	worker_destroy(link->worker);
	link->worker = NULL; /* who hears of an end may ask for the next copy */
	all_end(link);
	free(link);
}
