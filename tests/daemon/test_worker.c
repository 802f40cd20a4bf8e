/* tests/daemon/test_worker.c: the frame of a worker process: its lives, ends and limits. */
#include "daemon/worker_shared.h"
#include "tests/daemon/worker_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void a_worker_starts_at_the_first_step_and_echoes(void **unused)
{
	struct worker_rig rig;

	(void)unused;
	worker_rig_init(&rig, "echo");
	struct worker_text text = { .number = 5 };
	assert_int_equal(worker_send(rig.worker, &text), -ENOTCONN);
	worker_rig_step(&rig);
	assert_int_equal(rig.starts, 1);
	for (uint64_t n = 0; n < 10; n++) {
		text.number = 100 + n;
		assert_int_equal(worker_send(rig.worker, &text), 0);
	}
	worker_rig_run_until(&rig, &rig.messages, 11);
	worker_rig_step(&rig);
	assert_int_equal(rig.last_number, 109);
	assert_int_equal(rig.wrong, 0);
	assert_int_equal(worker_state(rig.worker), WORKER_RUNNING);
	assert_int_equal(worker_restarts(rig.worker), 0);
	assert_true(worker_pid(rig.worker) > 0);
	worker_rig_finish(&rig);
}

static void packets_take_descriptors_along(void **unused)
{
	static const uint8_t packet[WORKER_PACKET_BYTES_MAX];
	int fds[WORKER_PACKET_FDS_MAX];
	struct worker_rig rig;

	(void)unused;
	for (unsigned n = 0; n < WORKER_PACKET_FDS_MAX; n++) {
		fds[n] = memfd_create("packet", MFD_CLOEXEC);
		assert_int_equal(ftruncate(fds[n], 1000000 * (off_t)(n + 1)), 0);
	}
	worker_rig_init(&rig, "packets");
	assert_int_equal(worker_send_packet(rig.worker, packet, 1, fds, 1), -ENOTCONN);
	worker_rig_run_until(&rig, &rig.messages, 1);
	assert_int_equal(worker_send_packet(rig.worker, packet, 16, fds, 1), 0);
	worker_rig_run_until(&rig, &rig.messages, 2);
	assert_int_equal(rig.last_number, 1000016);
	assert_int_equal(worker_send_packet(rig.worker, packet, sizeof(packet), fds,
					    WORKER_PACKET_FDS_MAX),
			 0);
	worker_rig_run_until(&rig, &rig.messages, 3);
	assert_int_equal(rig.last_number, 253000000 + sizeof(packet));
	assert_int_equal(worker_send_packet(rig.worker, packet, 8, NULL, 0), 0);
	worker_rig_run_until(&rig, &rig.messages, 4);
	assert_int_equal(rig.last_number, 8);
	worker_rig_finish(&rig);
	for (unsigned n = 0; n < WORKER_PACKET_FDS_MAX; n++)
		close(fds[n]);
}

/* What does not fit is refused, not waited for, and not lost in the middle. */
static void a_full_channel_says_so(void **unused)
{
	static const uint8_t packet[WORKER_PACKET_BYTES_MAX];
	struct worker_rig rig;
	unsigned sent = 0;
	int result;

	(void)unused;
	worker_rig_init(&rig, "packets");
	worker_rig_run_until(&rig, &rig.messages, 1);
	kill(worker_pid(rig.worker), SIGSTOP);
	while ((result = worker_send_packet(rig.worker, packet, sizeof(packet), NULL, 0)) == 0)
		sent++;
	assert_int_equal(result, -EAGAIN);
	assert_true(sent > 0);
	kill(worker_pid(rig.worker), SIGCONT);
	worker_rig_run_until(&rig, &rig.messages, 1 + sent);
	assert_int_equal(rig.last_number, sizeof(packet));
	assert_int_equal(rig.wrong, 0);
	worker_rig_finish(&rig);
}

static void a_full_mailbox_says_so(void **unused)
{
	struct worker_rig rig;
	struct worker_text text = { .number = 5 };

	(void)unused;
	worker_rig_init(&rig, "mute");
	worker_rig_step(&rig);
	for (unsigned n = 0; n < WORKER_RIG_MESSAGES_MAX; n++) {
		assert_int_equal(worker_room(rig.worker), WORKER_RIG_MESSAGES_MAX - n);
		assert_int_equal(worker_send(rig.worker, &text), 0);
	}
	assert_int_equal(worker_send(rig.worker, &text), -EAGAIN);
	worker_rig_finish(&rig);
}

static void an_aborted_worker_is_started_again_with_a_growing_back_off(void **unused)
{
	struct worker_rig rig;
	uint64_t backoff_us = WORKER_BACKOFF_US_MIN;

	(void)unused;
	worker_rig_init(&rig, "abort");
	for (unsigned life = 1; life <= 4; life++) {
		worker_rig_run_until(&rig, &rig.ends, life);
		assert_non_null(strstr(rig.reason, "signal 6"));
		assert_int_equal(worker_state(rig.worker), WORKER_WAITING);
		assert_int_equal(worker_pid(rig.worker), 0);
		uint64_t now_us = clock_now_us(&rig.clock);
		assert_int_equal(worker_next_us(rig.worker, now_us) - now_us, backoff_us);
		clock_advance(&rig.clock, backoff_us - 1);
		worker_rig_step(&rig);
		assert_int_equal(rig.starts, life);
		clock_advance(&rig.clock, 1);
		worker_rig_step(&rig);
		assert_int_equal(rig.starts, life + 1);
		backoff_us *= 2;
	}
	assert_int_equal(worker_restarts(rig.worker), 4);
	worker_rig_finish(&rig);
}

static void a_long_life_resets_the_back_off(void **unused)
{
	struct worker_rig rig;

	(void)unused;
	worker_rig_init(&rig, "echo");
	for (unsigned life = 1; life <= 4; life++) {
		worker_rig_run_until(&rig, &rig.messages, life);
		/* A minute of health, by beats that come as the clock goes on. */
		for (unsigned n = 0; life == 4 && n < 60; n++) {
			struct worker_text text = { .number = 9 };
			clock_advance(&rig.clock, 1000000);
			assert_int_equal(worker_send(rig.worker, &text), 0);
			worker_rig_run_until(&rig, &rig.messages, rig.messages + 1);
		}
		worker_kill(rig.worker, "enough");
		worker_rig_run_until(&rig, &rig.ends, life);
		assert_string_equal(rig.reason, "enough");
	}
	uint64_t now_us = clock_now_us(&rig.clock);
	assert_int_equal(worker_next_us(rig.worker, now_us) - now_us, WORKER_BACKOFF_US_MIN);
	worker_rig_finish(&rig);
}

static void the_back_off_ends_at_its_limit_and_too_many_deaths_make_it_rest(void **unused)
{
	struct worker_rig rig;

	(void)unused;
	worker_rig_init(&rig, "abort");
	for (unsigned life = 1; life <= WORKER_DEATHS_MAX; life++) {
		worker_rig_run_until(&rig, &rig.ends, life);
		assert_false(worker_is_resting(rig.worker));
		uint64_t now_us = clock_now_us(&rig.clock);
		assert_true(worker_next_us(rig.worker, now_us) - now_us <= WORKER_BACKOFF_US_MAX);
	}
	worker_rig_run_until(&rig, &rig.ends, WORKER_DEATHS_MAX + 1);
	assert_true(worker_is_resting(rig.worker));
	clock_advance(&rig.clock, WORKER_REST_US - 1);
	worker_rig_step(&rig);
	assert_int_equal(rig.starts, WORKER_DEATHS_MAX + 1);
	clock_advance(&rig.clock, 1);
	worker_rig_step(&rig);
	assert_int_equal(rig.starts, WORKER_DEATHS_MAX + 2);
	assert_false(worker_is_resting(rig.worker));
	worker_rig_finish(&rig);
}

static void deaths_far_apart_never_make_it_rest(void **unused)
{
	struct worker_rig rig;

	(void)unused;
	worker_rig_init(&rig, "abort");
	for (unsigned life = 1; life <= 2 * WORKER_DEATHS_MAX; life++) {
		worker_rig_run_until(&rig, &rig.ends, life);
		assert_false(worker_is_resting(rig.worker));
		clock_advance(&rig.clock, WORKER_DEATHS_US / WORKER_DEATHS_MAX);
	}
	worker_rig_finish(&rig);
}

static void what_a_worker_said_before_it_ended_is_heard(void **unused)
{
	struct worker_rig rig;

	(void)unused;
	worker_rig_init(&rig, "exit");
	worker_rig_run_until(&rig, &rig.ends, 1);
	assert_int_equal(rig.messages, 2);
	assert_int_equal(rig.last_number, 2);
	assert_string_equal(rig.reason, "ended with status 3");
	worker_rig_finish(&rig);
}

static void a_stopped_worker_is_killed_when_it_has_not_beaten_for_the_limit(void **unused)
{
	struct worker_rig rig;

	(void)unused;
	worker_rig_init(&rig, "stop");
	worker_rig_run_until(&rig, &rig.messages, 1);
	worker_rig_step(&rig);
	clock_advance(&rig.clock, WORKER_RIG_STALL_US - 2000);
	worker_rig_step(&rig);
	assert_int_equal(worker_state(rig.worker), WORKER_RUNNING);
	clock_advance(&rig.clock, 4000);
	worker_rig_step(&rig);
	assert_int_equal(rig.starts, 1);
	worker_rig_run_until(&rig, &rig.ends, 1);
	assert_non_null(strstr(rig.reason, "stalled"));
	worker_rig_finish(&rig);
}

static void a_worker_that_never_becomes_ready_is_killed_later(void **unused)
{
	struct worker_rig rig;

	(void)unused;
	worker_rig_init(&rig, "mute");
	worker_rig_step(&rig);
	clock_advance(&rig.clock, WORKER_START_US_MAX - 1);
	worker_rig_step(&rig);
	assert_int_equal(worker_state(rig.worker), WORKER_STARTING);
	clock_advance(&rig.clock, 1);
	worker_rig_step(&rig);
	worker_rig_run_until(&rig, &rig.ends, 1);
	assert_non_null(strstr(rig.reason, "stalled"));
	worker_rig_finish(&rig);
}

static void garbage_in_the_mailbox_ends_the_life_and_nothing_else(void **unused)
{
	struct worker_rig rig;

	(void)unused;
	worker_rig_init(&rig, "garbage");
	worker_rig_run_until(&rig, &rig.ends, 2);
	assert_non_null(strstr(rig.reason, "impossible index"));
	assert_true(rig.messages <= 2);
	assert_int_equal(rig.wrong, 0);
	worker_rig_finish(&rig);
}

static void a_program_that_is_not_there_is_an_end_with_a_reason(void **unused)
{
	struct worker_rig_config config = { .mode = "echo", .program = "/nonexistent/kvtierd" };
	struct worker_rig rig;

	(void)unused;
	assert_int_equal(worker_rig_create(&rig, &config), 0);
	worker_rig_step(&rig);
	assert_int_equal(rig.starts, 0);
	assert_int_equal(rig.ends, 1);
	assert_non_null(strstr(rig.reason, "No such file"));
	assert_int_equal(worker_state(rig.worker), WORKER_WAITING);
	worker_rig_finish(&rig);
}

static void a_worker_inherits_nothing_but_its_own_descriptors(void **unused)
{
	struct worker_rig rig;

	(void)unused;
	assert_int_equal(dup2(STDERR_FILENO, 60), 60); /* without close-on-exec */
	worker_rig_init(&rig, "descriptors");
	worker_rig_run_until(&rig, &rig.messages, 2);
	assert_int_equal(rig.last_number, 1000);
	close(60);
	worker_rig_finish(&rig);
}

/* A process that starts a worker holding `lock_fd`, waits for its hello, and is then killed
 * outright. */
static void parent_that_is_killed(int lock_fd)
{
	struct worker_rig_config config = { .mode = "echo", .lock_fd = lock_fd };
	struct worker_rig rig;

	if (worker_rig_create(&rig, &config) < 0)
		_exit(1);
	worker_rig_run_until(&rig, &rig.messages, 1);
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
	assert_int_equal(poll(&waiting, 1, WORKER_RIG_WAIT_MS_MAX), 1);
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
		cmocka_unit_test(packets_take_descriptors_along),
		cmocka_unit_test(a_full_channel_says_so),
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
		return worker_rig_main(arguments_count, arguments);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
