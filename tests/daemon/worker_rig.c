/* tests/daemon/worker_rig.c: the two sides of a worker. */
#include "tests/daemon/worker_rig.h"

#include "daemon/worker_shared.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#define TURNS_MAX 100000u

static void side_send(struct worker_side *side, uint64_t number)
{
	struct worker_text text = { .number = number, .twice = 2 * number };

	while (ring_send(&side->up, &text) == -EAGAIN)
		worker_side_wait(side, 1000);
}

static void side_echo(struct worker_side *side)
{
	struct worker_text text;

	while (!worker_side_is_orphan(side)) {
		worker_side_beat(side);
		if (ring_take(&side->down, &text) == 1)
			side_send(side, text.number);
		else
			worker_side_wait(side, WORKER_BEAT_US);
	}
}

/* Answers each packet: the bytes in its last descriptor's file, or how many bytes it has itself. */
static void side_packets(struct worker_side *side)
{
	static _Alignas(8) uint8_t packet[WORKER_PACKET_BYTES_MAX];
	int fds[WORKER_PACKET_FDS_MAX];
	unsigned fds_count;
	size_t bytes;

	while (!worker_side_is_orphan(side)) {
		uint64_t answer = 0;

		worker_side_beat(side);
		if (worker_side_receive(side, packet, &bytes, fds, &fds_count) != 1) {
			worker_side_wait(side, WORKER_BEAT_US);
			continue;
		}
		if (fds_count > 0)
			answer = (uint64_t)lseek(fds[fds_count - 1], 0, SEEK_END);
		while (fds_count > 0)
			close(fds[--fds_count]);
		side_send(side, answer + bytes);
	}
}

int worker_rig_main(int arguments_count, char **arguments)
{
	struct worker_side side;
	struct rlimit no_core = { 0, 0 };
	struct error error;

	if (worker_side_open(&side, arguments_count, arguments, &error) < 0)
		return 77;
	setrlimit(RLIMIT_CORE, &no_core);
	if (strcmp(side.argument, "mute") == 0)
		pause();
	worker_side_beat(&side);
	side_send(&side, 1);
	if (strcmp(side.argument, "abort") == 0)
		abort();
	if (strcmp(side.argument, "exit") == 0) {
		side_send(&side, 2);
		return 3;
	}
	if (strcmp(side.argument, "stop") == 0)
		raise(SIGSTOP);
	if (strcmp(side.argument, "garbage") == 0) {
		uint32_t *tail = worker_ring_up(side.shared, sizeof(struct worker_text),
						WORKER_RIG_MESSAGES_MAX);
		memset(tail, 0xa5, sizeof(*tail));
		memset(worker_ring_down(side.shared), 0xa5, 192);
		kill(side.parent, 0);
		uint64_t one = 1;
		if (write(WORKER_FD_UP, &one, sizeof(one)) < 0)
			return 1;
	}
	if (strcmp(side.argument, "descriptors") == 0)
		side_send(&side, fcntl(60, F_GETFD) < 0 ? 1000 : 2000);
	if (strcmp(side.argument, "packets") == 0)
		side_packets(&side);
	side_echo(&side);
	return 0;
}

static void on_start(void *owner)
{
	((struct worker_rig *)owner)->starts++;
}

static void on_message(void *owner, const void *message)
{
	struct worker_rig *rig = owner;
	const struct worker_text *text = message;

	rig->messages++;
	rig->last_number = text->number;
	if (text->twice != 2 * text->number)
		rig->wrong++;
}

static void on_end(void *owner, const char *reason)
{
	struct worker_rig *rig = owner;

	rig->ends++;
	snprintf(rig->reason, sizeof(rig->reason), "%s", reason);
}

int worker_rig_create(struct worker_rig *rig, const struct worker_rig_config *config)
{
	struct error error;

	*rig = (struct worker_rig){ 0 };
	clock_virtual_init(&rig->clock, 1000000);
	struct worker_config worker = {
		.name = "test",
		.argument = config->mode,
		.program = config->program,
		.message_bytes = sizeof(struct worker_text),
		.messages_max = WORKER_RIG_MESSAGES_MAX,
		.stall_us_max = WORKER_RIG_STALL_US,
		.clock = &rig->clock,
		.on_start = on_start,
		.on_message = on_message,
		.on_end = on_end,
		.owner = rig,
		.lock_fd = config->lock_fd,
		.has_channel = strcmp(config->mode, "packets") == 0,
	};
	return worker_create(&rig->worker, &worker, &error);
}

void worker_rig_init(struct worker_rig *rig, const char *mode)
{
	struct worker_rig_config config = { .mode = mode };

	assert_int_equal(worker_rig_create(rig, &config), 0);
	assert_int_equal(worker_state(rig->worker), WORKER_STOPPED);
}

void worker_rig_finish(struct worker_rig *rig)
{
	worker_destroy(rig->worker);
}

void worker_rig_step(struct worker_rig *rig)
{
	worker_step(rig->worker, clock_now_us(&rig->clock));
}

static void worker_rig_wait(struct worker_rig *rig)
{
	struct pollfd waiting = { .fd = worker_fd(rig->worker), .events = POLLIN };

	if (worker_sleep(rig->worker))
		assert_int_equal(poll(&waiting, 1, WORKER_RIG_WAIT_MS_MAX), 1);
	worker_awake(rig->worker);
}

void worker_rig_run_until(struct worker_rig *rig, const unsigned *count, unsigned wanted)
{
	for (unsigned turn = 0; *count < wanted; turn++) {
		assert_true(turn < TURNS_MAX);
		worker_rig_step(rig);
		if (*count >= wanted)
			return;
		clock_advance(&rig->clock, 1000);
		if (worker_state(rig->worker) == WORKER_WAITING)
			clock_advance(&rig->clock, WORKER_BACKOFF_US_MAX);
		else
			worker_rig_wait(rig);
	}
}
