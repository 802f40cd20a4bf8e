/*
 * tests/daemon/test_worker.c: the frame of a worker process, under a virtual clock on the parent's
 * side. The test is its own worker: started with `--worker test MODE` it plays one that echoes,
 * aborts, stops itself, or lies. Waiting is always a bounded poll() on the worker's descriptor,
 * never a sleep.
 */
#include "daemon/worker.h"
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
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MESSAGES_MAX 16u
#define STALL_US     UINT64_C(5000000)
#define WAIT_MS_MAX  20000
#define TURNS_MAX    100000u

struct text {
	uint64_t number;
	uint64_t twice;
};

/* ---- the worker ---- */

static void side_send(struct worker_side *side, uint64_t number)
{
	struct text text = { .number = number, .twice = 2 * number };

	while (ring_send(&side->up, &text) == -EAGAIN)
		worker_side_wait(side, 1000);
}

static void side_echo(struct worker_side *side)
{
	struct text text;

	while (!worker_side_is_orphan(side)) {
		worker_side_beat(side);
		if (ring_take(&side->down, &text) == 1)
			side_send(side, text.number);
		else
			worker_side_wait(side, WORKER_BEAT_US);
	}
}

/* Says hello with number 1, then does what `mode` names. */
static int side_main(int arguments_count, char **arguments)
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
		uint32_t *tail = worker_ring_up(side.shared, sizeof(struct text), MESSAGES_MAX);
		memset(tail, 0xa5, sizeof(*tail));
		memset(worker_ring_down(side.shared), 0xa5, 192);
		kill(side.parent, 0);
		uint64_t one = 1;
		if (write(WORKER_FD_UP, &one, sizeof(one)) < 0)
			return 1;
	}
	if (strcmp(side.argument, "descriptors") == 0)
		side_send(&side, fcntl(60, F_GETFD) < 0 ? 1000 : 2000);
	side_echo(&side);
	return 0;
}

/* ---- the parent ---- */

struct rig {
	struct worker *worker;
	struct clock clock;
	unsigned starts, ends, messages;
	uint64_t last_number, wrong;
	char reason[200];
};

static void on_start(void *owner)
{
	((struct rig *)owner)->starts++;
}

static void on_message(void *owner, const void *message)
{
	struct rig *rig = owner;
	const struct text *text = message;

	rig->messages++;
	rig->last_number = text->number;
	if (text->twice != 2 * text->number)
		rig->wrong++;
}

static void on_end(void *owner, const char *reason)
{
	struct rig *rig = owner;

	rig->ends++;
	snprintf(rig->reason, sizeof(rig->reason), "%s", reason);
}

static void rig_init_program(struct rig *rig, const char *mode, const char *program)
{
	struct error error;

	*rig = (struct rig){ 0 };
	clock_virtual_init(&rig->clock, 1000000);
	struct worker_config config = {
		.name = "test",
		.argument = mode,
		.program = program,
		.message_bytes = sizeof(struct text),
		.messages_max = MESSAGES_MAX,
		.stall_us_max = STALL_US,
		.clock = &rig->clock,
		.on_start = on_start,
		.on_message = on_message,
		.on_end = on_end,
		.owner = rig,
	};
	assert_int_equal(worker_create(&rig->worker, &config, &error), 0);
	assert_int_equal(worker_state(rig->worker), WORKER_STOPPED);
}

static void rig_init(struct rig *rig, const char *mode)
{
	rig_init_program(rig, mode, NULL);
}

static void rig_finish(struct rig *rig)
{
	worker_destroy(rig->worker);
}

static void rig_step(struct rig *rig)
{
	worker_step(rig->worker, clock_now_us(&rig->clock));
}

static void rig_wait(struct rig *rig)
{
	struct pollfd waiting = { .fd = worker_fd(rig->worker), .events = POLLIN };

	if (worker_sleep(rig->worker))
		assert_int_equal(poll(&waiting, 1, WAIT_MS_MAX), 1);
	worker_awake(rig->worker);
}

/* Steps until `*count` is at least `wanted`; each step is a millisecond of the virtual clock. */
static void rig_run_until(struct rig *rig, const unsigned *count, unsigned wanted)
{
	for (unsigned turn = 0; *count < wanted; turn++) {
		assert_true(turn < TURNS_MAX);
		rig_step(rig);
		if (*count >= wanted)
			return;
		clock_advance(&rig->clock, 1000);
		if (worker_state(rig->worker) == WORKER_WAITING)
			clock_advance(&rig->clock, WORKER_BACKOFF_US_MAX);
		else
			rig_wait(rig);
	}
}

static void a_worker_starts_at_the_first_step_and_echoes(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, "echo");
	struct text text = { .number = 5 };
	assert_int_equal(worker_send(rig.worker, &text), -ENOTCONN);
	rig_step(&rig);
	assert_int_equal(rig.starts, 1);
	for (uint64_t n = 0; n < 10; n++) {
		text.number = 100 + n;
		assert_int_equal(worker_send(rig.worker, &text), 0);
	}
	rig_run_until(&rig, &rig.messages, 11);
	rig_step(&rig);
	assert_int_equal(rig.last_number, 109);
	assert_int_equal(rig.wrong, 0);
	assert_int_equal(worker_state(rig.worker), WORKER_RUNNING);
	assert_int_equal(worker_restarts(rig.worker), 0);
	assert_true(worker_pid(rig.worker) > 0);
	rig_finish(&rig);
}

static void a_full_mailbox_says_so(void **unused)
{
	struct rig rig;
	struct text text = { .number = 5 };

	(void)unused;
	rig_init(&rig, "mute");
	rig_step(&rig);
	for (unsigned n = 0; n < MESSAGES_MAX; n++) {
		assert_int_equal(worker_room(rig.worker), MESSAGES_MAX - n);
		assert_int_equal(worker_send(rig.worker, &text), 0);
	}
	assert_int_equal(worker_send(rig.worker, &text), -EAGAIN);
	rig_finish(&rig);
}

static void an_aborted_worker_is_started_again_with_a_growing_back_off(void **unused)
{
	struct rig rig;
	uint64_t backoff_us = WORKER_BACKOFF_US_MIN;

	(void)unused;
	rig_init(&rig, "abort");
	for (unsigned life = 1; life <= 4; life++) {
		rig_run_until(&rig, &rig.ends, life);
		assert_non_null(strstr(rig.reason, "signal 6"));
		assert_int_equal(worker_state(rig.worker), WORKER_WAITING);
		assert_int_equal(worker_pid(rig.worker), 0);
		uint64_t now_us = clock_now_us(&rig.clock);
		assert_int_equal(worker_next_us(rig.worker, now_us) - now_us, backoff_us);
		clock_advance(&rig.clock, backoff_us - 1);
		rig_step(&rig);
		assert_int_equal(rig.starts, life);
		clock_advance(&rig.clock, 1);
		rig_step(&rig);
		assert_int_equal(rig.starts, life + 1);
		backoff_us *= 2;
	}
	assert_int_equal(worker_restarts(rig.worker), 4);
	rig_finish(&rig);
}

static void a_long_life_resets_the_back_off(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, "echo");
	for (unsigned life = 1; life <= 4; life++) {
		rig_run_until(&rig, &rig.messages, life);
		/* A minute of health, by beats that come as the clock goes on. */
		for (unsigned n = 0; life == 4 && n < 60; n++) {
			struct text text = { .number = 9 };
			clock_advance(&rig.clock, 1000000);
			assert_int_equal(worker_send(rig.worker, &text), 0);
			rig_run_until(&rig, &rig.messages, rig.messages + 1);
		}
		worker_kill(rig.worker, "enough");
		rig_run_until(&rig, &rig.ends, life);
		assert_string_equal(rig.reason, "enough");
	}
	uint64_t now_us = clock_now_us(&rig.clock);
	assert_int_equal(worker_next_us(rig.worker, now_us) - now_us, WORKER_BACKOFF_US_MIN);
	rig_finish(&rig);
}

static void the_back_off_ends_at_its_limit_and_too_many_deaths_make_it_rest(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, "abort");
	for (unsigned life = 1; life <= WORKER_DEATHS_MAX; life++) {
		rig_run_until(&rig, &rig.ends, life);
		assert_false(worker_is_resting(rig.worker));
		uint64_t now_us = clock_now_us(&rig.clock);
		assert_true(worker_next_us(rig.worker, now_us) - now_us <= WORKER_BACKOFF_US_MAX);
	}
	rig_run_until(&rig, &rig.ends, WORKER_DEATHS_MAX + 1);
	assert_true(worker_is_resting(rig.worker));
	clock_advance(&rig.clock, WORKER_REST_US - 1);
	rig_step(&rig);
	assert_int_equal(rig.starts, WORKER_DEATHS_MAX + 1);
	clock_advance(&rig.clock, 1);
	rig_step(&rig);
	assert_int_equal(rig.starts, WORKER_DEATHS_MAX + 2);
	assert_false(worker_is_resting(rig.worker));
	rig_finish(&rig);
}

static void deaths_far_apart_never_make_it_rest(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, "abort");
	for (unsigned life = 1; life <= 2 * WORKER_DEATHS_MAX; life++) {
		rig_run_until(&rig, &rig.ends, life);
		assert_false(worker_is_resting(rig.worker));
		clock_advance(&rig.clock, WORKER_DEATHS_US / WORKER_DEATHS_MAX);
	}
	rig_finish(&rig);
}

static void what_a_worker_said_before_it_ended_is_heard(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, "exit");
	rig_run_until(&rig, &rig.ends, 1);
	assert_int_equal(rig.messages, 2);
	assert_int_equal(rig.last_number, 2);
	assert_string_equal(rig.reason, "ended with status 3");
	rig_finish(&rig);
}

static void a_stopped_worker_is_killed_when_it_has_not_beaten_for_the_limit(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, "stop");
	rig_run_until(&rig, &rig.messages, 1);
	rig_step(&rig);
	clock_advance(&rig.clock, STALL_US - 2000);
	rig_step(&rig);
	assert_int_equal(worker_state(rig.worker), WORKER_RUNNING);
	clock_advance(&rig.clock, 4000);
	rig_step(&rig);
	assert_int_equal(rig.starts, 1);
	rig_run_until(&rig, &rig.ends, 1);
	assert_non_null(strstr(rig.reason, "stalled"));
	rig_finish(&rig);
}

static void a_worker_that_never_becomes_ready_is_killed_later(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, "mute");
	rig_step(&rig);
	clock_advance(&rig.clock, WORKER_START_US_MAX - 1);
	rig_step(&rig);
	assert_int_equal(worker_state(rig.worker), WORKER_STARTING);
	clock_advance(&rig.clock, 1);
	rig_step(&rig);
	rig_run_until(&rig, &rig.ends, 1);
	assert_non_null(strstr(rig.reason, "stalled"));
	rig_finish(&rig);
}

static void garbage_in_the_mailbox_ends_the_life_and_nothing_else(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, "garbage");
	rig_run_until(&rig, &rig.ends, 2);
	assert_non_null(strstr(rig.reason, "impossible index"));
	assert_true(rig.messages <= 2);
	assert_int_equal(rig.wrong, 0);
	rig_finish(&rig);
}

static void a_program_that_is_not_there_is_an_end_with_a_reason(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init_program(&rig, "echo", "/nonexistent/kvtierd");
	rig_step(&rig);
	assert_int_equal(rig.starts, 0);
	assert_int_equal(rig.ends, 1);
	assert_non_null(strstr(rig.reason, "No such file"));
	assert_int_equal(worker_state(rig.worker), WORKER_WAITING);
	rig_finish(&rig);
}

static void a_worker_inherits_nothing_but_its_own_descriptors(void **unused)
{
	struct rig rig;

	(void)unused;
	assert_int_equal(dup2(STDERR_FILENO, 60), 60); /* without close-on-exec */
	rig_init(&rig, "descriptors");
	rig_run_until(&rig, &rig.messages, 2);
	assert_int_equal(rig.last_number, 1000);
	close(60);
	rig_finish(&rig);
}

/* A process that starts a worker holding `lock_fd`, waits for its hello, and is then killed
 * outright. */
static void parent_that_is_killed(int lock_fd)
{
	struct rig rig;
	struct error error;

	rig = (struct rig){ 0 };
	clock_virtual_init(&rig.clock, 1000000);
	struct worker_config config = {
		.name = "test",
		.argument = "echo",
		.message_bytes = sizeof(struct text),
		.messages_max = MESSAGES_MAX,
		.stall_us_max = STALL_US,
		.clock = &rig.clock,
		.on_start = on_start,
		.on_message = on_message,
		.on_end = on_end,
		.owner = &rig,
		.lock_fd = lock_fd,
	};
	if (worker_create(&rig.worker, &config, &error) < 0)
		_exit(1);
	rig_run_until(&rig, &rig.messages, 1);
	raise(SIGKILL);
}

static void a_worker_dies_with_its_parent(void **unused)
{
	int ends[2], status;
	char byte;

	(void)unused;
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		parent_that_is_killed(ends[1]);
	close(ends[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	/* The worker held the other end; its death is the end of the file. */
	struct pollfd waiting = { .fd = ends[0], .events = POLLIN };
	assert_int_equal(poll(&waiting, 1, WAIT_MS_MAX), 1);
	assert_int_equal(read(ends[0], &byte, 1), 0);
	close(ends[0]);
}

static void a_worker_whose_parent_is_silent_submits_nothing(void **unused)
{
	struct worker_shared shared = { 0 };
	struct clock clock;
	struct worker_side side = { .clock = &clock, .shared = &shared };

	(void)unused;
	clock_virtual_init(&clock, 5000000);
	atomic_store(&shared.parent_beat_us, 5000000);
	clock_advance(&clock, WORKER_SILENCE_US_MAX - 1);
	assert_true(worker_side_beat(&side));
	clock_advance(&clock, 1);
	assert_false(worker_side_beat(&side));
	assert_int_equal(atomic_load(&shared.worker_beat_us), clock_now_us(&clock));
	atomic_store(&shared.parent_beat_us, clock_now_us(&clock));
	assert_true(worker_side_beat(&side));
}

static void wrong_arguments_of_a_worker_are_refused_with_words(void **unused)
{
	static char *wrong[][7] = {
		{ "kvtierd", "--worker", "test", "x", "0", "16", "16" },
		{ "kvtierd", "--worker", "test", "x", "12x", "16", "16" },
		{ "kvtierd", "--worker", "test", "x", "12", "99999", "16" },
		{ "kvtierd", "--worker", "test", "x", "12", "16", "15" },
	};
	struct worker_side side;
	struct error error;

	(void)unused;
	for (unsigned n = 0; n < sizeof(wrong) / sizeof(wrong[0]); n++) {
		error.text[0] = '\0';
		assert_int_equal(worker_side_open(&side, 7, wrong[n], &error), -EINVAL);
		assert_true(error.text[0] != '\0');
	}
	assert_int_equal(worker_side_open(&side, 3, wrong[0], &error), -EINVAL);
	assert_false(worker_side_is(7, wrong[0], "other"));
	assert_true(worker_side_is(7, wrong[0], "test"));
	assert_false(worker_side_is(2, wrong[0], "test"));
}

int main(int arguments_count, char **arguments)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_worker_starts_at_the_first_step_and_echoes),
		cmocka_unit_test(a_full_mailbox_says_so),
		cmocka_unit_test(an_aborted_worker_is_started_again_with_a_growing_back_off),
		cmocka_unit_test(a_long_life_resets_the_back_off),
		cmocka_unit_test(the_back_off_ends_at_its_limit_and_too_many_deaths_make_it_rest),
		cmocka_unit_test(deaths_far_apart_never_make_it_rest),
		cmocka_unit_test(what_a_worker_said_before_it_ended_is_heard),
		cmocka_unit_test(a_stopped_worker_is_killed_when_it_has_not_beaten_for_the_limit),
		cmocka_unit_test(a_worker_that_never_becomes_ready_is_killed_later),
		cmocka_unit_test(garbage_in_the_mailbox_ends_the_life_and_nothing_else),
		cmocka_unit_test(a_program_that_is_not_there_is_an_end_with_a_reason),
		cmocka_unit_test(a_worker_inherits_nothing_but_its_own_descriptors),
		cmocka_unit_test(a_worker_dies_with_its_parent),
		cmocka_unit_test(a_worker_whose_parent_is_silent_submits_nothing),
		cmocka_unit_test(wrong_arguments_of_a_worker_are_refused_with_words),
	};

	if (worker_side_is(arguments_count, arguments, "test"))
		return side_main(arguments_count, arguments);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
