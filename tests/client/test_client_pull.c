/* tests/client/test_client_pull.c: an engine's device memory is lent, the daemon moves the bytes,
 * and blocks are quiescent when the words of jobs or the end of the process say so. */
#include "tests/client/client_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void fake_refuse(struct rig *rig, int result, unsigned times)
{
	pthread_mutex_lock(&rig->fake.lock);
	rig->fake.refusal = result;
	pthread_mutex_unlock(&rig->fake.lock);
	fake_set(&rig->fake, FRAME_LEND, FAKE_REFUSE, times);
}

static struct frame_pull last_pull(struct rig *rig)
{
	struct frame_pull pull;

	pthread_mutex_lock(&rig->fake.lock);
	pull = rig->fake.pull.last;
	pthread_mutex_unlock(&rig->fake.lock);
	return pull;
}

/* Why it is not connected, once it is known: an attempt may be under way. */
static void expect_reason(struct rig *rig, const char *reason)
{
	unsigned tries = 0;

	do {
		assert_int_equal(
			kvtier_connect(rig->client, RIG_SHORT_US, rig->text, sizeof(rig->text)),
			-ENOTCONN);
	} while (strstr(rig->text, reason) == NULL && ++tries < 1000);
	assert_non_null(strstr(rig->text, reason));
}

/* ---- attaching ---- */

static void a_client_that_lends_is_connected_once_its_memory_is_imported(void **unused)
{
	struct rig *rig = rig_create_pull();
	uint8_t bytes[8000];

	(void)unused;
	assert_int_equal(fake_seen(&rig->fake, FRAME_LEND), 1);
	assert_int_equal(kvtier_block_read(rig->client, 0, 0, bytes, sizeof(bytes)), -EINVAL);
	assert_int_equal(kvtier_block_write(rig->client, 0, 0, bytes, sizeof(bytes)), -EINVAL);
	rig_destroy(rig);
}

static void a_daemon_that_is_not_ready_is_asked_again_after_a_while(void **unused)
{
	struct rig *rig = rig_create_pull_closed();

	(void)unused;
	fake_refuse(rig, -EAGAIN, 3);
	assert_int_equal(rig_open_client(rig, KVTIER_SCHEDULER | KVTIER_WORKER), 0);
	rig_reconnect(rig);
	assert_int_equal(fake_seen(&rig->fake, FRAME_LEND), 4);
	assert_int_equal(fake_seen(&rig->fake, FRAME_REGISTER), 1);
	assert_int_equal(rig_run(rig, true, 3).good_count, 3);
	rig_destroy(rig);
}

static void why_memory_cannot_be_pulled_from_is_said_by_kvtier_connect(void **unused)
{
	struct rig *rig = rig_create_pull_closed();

	(void)unused;
	fake_refuse(rig, -ENODEV, 0);
	assert_int_equal(rig_open_client(rig, KVTIER_WORKER), 0);
	expect_reason(rig, "refused for the test");
	rig_destroy(rig);
}

static void memory_that_will_never_be_pulled_from_fails_the_open(void **unused)
{
	struct rig *rig = rig_create_pull_closed();

	(void)unused;
	fake_refuse(rig, -EINVAL, 0);
	assert_int_equal(rig_open_client(rig, KVTIER_WORKER), -EINVAL);
	assert_string_equal(rig->text, "refused for the test");
	assert_null(rig->client);
	rig_destroy(rig);
}

static void a_daemon_without_a_gpu_is_told_of_by_its_setting(void **unused)
{
	struct rig *rig = rig_create_pull_closed();

	(void)unused;
	pthread_mutex_lock(&rig->fake.lock);
	rig->fake.pull.is_on = false;
	pthread_mutex_unlock(&rig->fake.lock);
	assert_int_equal(rig_open_client(rig, KVTIER_WORKER), 0);
	expect_reason(rig, "the daemon has no GPU switched on: setting gpus");
	pthread_mutex_lock(&rig->fake.lock);
	rig->fake.pull.is_on = true;
	pthread_mutex_unlock(&rig->fake.lock);
	rig_reconnect(rig);
	rig_destroy(rig);
}

static void what_is_no_descriptor_of_a_process_is_not_believed(void **unused)
{
	const enum fake_way ways[] = { FAKE_NO_FDS, FAKE_WRONG_FD };

	(void)unused;
	for (unsigned i = 0; i < 2; i++) {
		struct rig *rig = rig_create_pull_closed();

		fake_set(&rig->fake, FRAME_LEND, ways[i], 0);
		assert_int_equal(rig_open_client(rig, KVTIER_WORKER), 0);
		expect_reason(rig, "descriptor of its GPU's process");
		fake_set(&rig->fake, FRAME_LEND, FAKE_RIGHT, 0);
		rig_reconnect(rig);
		rig_destroy(rig);
	}
}

/* ---- moving ---- */

static void what_is_stored_by_pull_is_loaded_into_other_blocks(void **unused)
{
	struct rig *rig = rig_create_pull();
	uint8_t *kept[RIG_PLANES];

	(void)unused;
	for (unsigned p = 0; p < RIG_PLANES; p++) {
		kept[p] = malloc(rig->region_bytes[p]);
		memcpy(kept[p], rig->planes[p], rig->region_bytes[p]);
	}
	assert_int_equal(rig_run(rig, true, 20).good_count, 20);
	assert_int_equal(rig_run(rig, true, 20).results[7], 1);
	rig_fill(rig, 2);
	for (unsigned i = 0; i < 20; i++)
		rig->blocks[i].engine_block = RIG_BLOCKS - 1 - i;
	assert_int_equal(rig_run(rig, false, 20).good_count, 20);
	for (unsigned p = 0; p < RIG_PLANES; p++) {
		for (unsigned i = 0; i < 20; i++)
			assert_memory_equal(
				rig->planes[p] + (RIG_BLOCKS - 1 - i) * rig_plane_stride[p],
				kept[p] + i * rig_plane_stride[p], rig_plane_bytes[p]);
		free(kept[p]);
	}
	rig_destroy(rig);
}

static void misses_and_damaged_blocks_of_a_pulled_load_are_told_apart(void **unused)
{
	struct rig *rig = rig_create_pull();
	struct kvtier_completion completion;

	(void)unused;
	rig_run(rig, true, 3);
	fake_set(&rig->fake, FRAME_LOAD, FAKE_DAMAGED, 1);
	completion = rig_run(rig, false, 5);
	assert_int_equal(completion.good_count, 2);
	assert_int_equal(completion.results[0], -EBADMSG);
	assert_int_equal(completion.results[1], 0);
	assert_int_equal(completion.results[4], -ENOENT);
	assert_int_equal(fake_seen(&rig->fake, FRAME_RELEASE), 0);
	rig_destroy(rig);
}

static void a_gate_value_reaches_the_daemon_with_the_job_and_its_place(void **unused)
{
	struct rig *rig = rig_create_pull();
	struct kvtier_transfer transfer = { .count = 2,
					    .blocks = rig->blocks,
					    .deadline_us = RIG_WAIT_US,
					    .user = rig,
					    .gate_value = 41 };
	uint64_t job;

	(void)unused;
	assert_int_equal(kvtier_store(rig->client, &transfer, &job), 0);
	assert_int_equal(rig_next(rig).good_count, 2);
	assert_true(last_pull(rig).gate_value == 41 && last_pull(rig).job == job);
	assert_int_equal(last_pull(rig).job_place, job % CLIENT_JOBS_MAX);
	transfer.gate_value = 42;
	assert_int_equal(kvtier_load(rig->client, &transfer, &job), 0);
	assert_int_equal(rig_next(rig).good_count, 2);
	assert_true(last_pull(rig).gate_value == 42 && last_pull(rig).job == job);
	rig_destroy(rig);
}

static void a_gate_value_that_nobody_can_wait_for_is_refused(void **unused)
{
	struct kvtier_transfer transfer = { .count = 2,
					    .deadline_us = RIG_WAIT_US,
					    .gate_value = 41 };
	struct rig *rig = rig_create();
	uint64_t job;

	(void)unused;
	transfer.blocks = rig->blocks;
	assert_int_equal(kvtier_store(rig->client, &transfer, &job), -EINVAL);
	rig_destroy(rig);
	rig = rig_create_pull_closed();
	rig->has_word = false;
	assert_int_equal(rig_open_client(rig, KVTIER_WORKER), 0);
	transfer.blocks = rig->blocks;
	assert_int_equal(kvtier_store(rig->client, &transfer, &job), -EINVAL);
	kvtier_close(rig->client);
	rig->has_word = true;
	rig->fake.pull.has_word = false;
	assert_int_equal(rig_open_client(rig, KVTIER_WORKER), 0);
	rig_reconnect(rig);
	assert_int_equal(kvtier_store(rig->client, &transfer, &job), -ENOTSUP);
	rig_destroy(rig);
}

/* ---- ends while blocks move ---- */

enum ending { END_DEADLINE, END_CANCEL, END_DAEMON, ENDINGS };

/* Begins a job, and ends it for the caller while its copies are held back. */
static uint64_t job_end_while_moving(struct rig *rig, bool is_store, enum ending ending)
{
	const enum kvtier_state states[ENDINGS] = { KVTIER_EXPIRED, KVTIER_CANCELLED,
						    KVTIER_FAILED };
	struct kvtier_completion completion;
	uint64_t job;

	fake_pull_hold(&rig->fake);
	assert_int_equal(rig_begin(rig, is_store, 3, RIG_WAIT_US, &job), 0);
	fake_pull_wait_held(&rig->fake);
	if (ending == END_CANCEL)
		kvtier_cancel(rig->client, job);
	if (ending == END_DAEMON)
		fake_restart(&rig->fake);
	if (ending == END_DEADLINE) {
		pthread_mutex_lock(&rig->client->lock);
		rig->client->jobs[job % CLIENT_JOBS_MAX].deadline_us = rig->client->alarm_us = 1;
		pthread_mutex_unlock(&rig->client->lock);
		client_wake_copier(rig->client);
	}
	completion = rig_next(rig);
	assert_int_equal(completion.state, states[ending]);
	assert_int_equal(completion.quiesced, 0);
	assert_true(completion.job == job);
	assert_int_equal(kvtier_poll(rig->client, &completion, 1), 0);
	return job;
}

static void expect_quiesced(struct rig *rig, uint64_t job)
{
	struct kvtier_completion completion = rig_next(rig);

	assert_true(completion.job == job);
	assert_int_equal(completion.quiesced, 1);
	assert_int_equal(kvtier_poll(rig->client, &completion, 1), 0);
}

static void a_job_ended_while_blocks_move_is_quiescent_when_its_word_says_so(void **unused)
{
	(void)unused;
	for (unsigned kind = 0; kind < 2 * ENDINGS; kind++) {
		struct rig *rig = rig_create_pull();

		if (kind % 2 == 0)
			rig_run(rig, true, 3);
		uint64_t job = job_end_while_moving(rig, kind % 2, kind / 2);
		fake_pull_end(&rig->fake);
		expect_quiesced(rig, job);
		rig_reconnect(rig);
		rig_fill(rig, 9);
		assert_int_equal(rig_run(rig, true, 4).good_count, 4);
		rig_destroy(rig);
	}
}

static void the_end_of_the_process_proves_that_blocks_are_left_alone(void **unused)
{
	(void)unused;
	for (unsigned kind = 0; kind < 2 * ENDINGS; kind++) {
		struct rig *rig = rig_create_pull();

		if (kind % 2 == 0)
			rig_run(rig, true, 3);
		uint64_t job = job_end_while_moving(rig, kind % 2, kind / 2);
		fake_pull_kill(&rig->fake);
		expect_quiesced(rig, job);
		rig_destroy(rig);
	}
}

static void what_is_copied_after_the_job_has_ended_is_not_committed(void **unused)
{
	struct rig *rig = rig_create_pull();
	uint64_t job;

	(void)unused;
	job = job_end_while_moving(rig, true, END_CANCEL);
	fake_wait_seen(&rig->fake, FRAME_CANCEL, 1);
	fake_pull_end(&rig->fake);
	expect_quiesced(rig, job);
	rig_fill(rig, 3);
	/* Behind what is said of the first. */
	assert_int_equal(rig_run(rig, false, 3).good_count, 0);
	assert_int_equal(fake_seen(&rig->fake, FRAME_COMMIT), 0);
	assert_int_equal(rig_run(rig, true, 3).good_count, 3);
	rig_destroy(rig);
}

static void a_job_that_ends_before_anything_moves_is_quiescent_at_once(void **unused)
{
	struct rig *rig = rig_create_pull();
	struct kvtier_completion completion;
	uint64_t job;

	(void)unused;
	fake_set(&rig->fake, FRAME_STORE, FAKE_SILENT, 1);
	assert_int_equal(rig_begin(rig, true, 3, RIG_WAIT_US, &job), 0);
	kvtier_cancel(rig->client, job);
	completion = rig_next(rig);
	assert_int_equal(completion.state, KVTIER_CANCELLED);
	assert_int_equal(completion.quiesced, 1);
	rig_destroy(rig);
}

/* ---- close, fork ---- */

struct closing {
	struct rig *rig;
	_Atomic bool has_ended;
};

static void *end_once_detached(void *argument)
{
	struct closing *closing = argument;

	fake_wait_detached(&closing->rig->fake);
	atomic_store(&closing->has_ended, true);
	fake_pull_end(&closing->rig->fake);
	return NULL;
}

static void closing_waits_until_the_blocks_that_move_are_left_alone(void **unused)
{
	struct closing closing = { .rig = rig_create_pull() };
	struct rig *rig = closing.rig;
	pthread_t thread;
	uint64_t job;

	(void)unused;
	fake_pull_hold(&rig->fake);
	assert_int_equal(rig_begin(rig, true, 3, RIG_WAIT_US, &job), 0);
	fake_pull_wait_held(&rig->fake);
	assert_int_equal(pthread_create(&thread, NULL, end_once_detached, &closing), 0);
	kvtier_close(rig->client);
	assert_true(atomic_load(&closing.has_ended));
	rig->client = NULL;
	pthread_join(thread, NULL);
	rig_destroy(rig);
}

static void closing_does_not_wait_for_a_process_that_never_ends_for_ever(void **unused)
{
	struct rig *rig = rig_create_pull();
	uint64_t job;

	(void)unused;
	fake_pull_hold(&rig->fake);
	assert_int_equal(rig_begin(rig, true, 3, RIG_WAIT_US, &job), 0);
	fake_pull_wait_held(&rig->fake);
	rig_destroy(rig);
}

static void a_child_after_fork_has_neither_the_client_nor_the_memory(void **unused)
{
	struct rig *rig = rig_create_pull();
	int status, kept_fd = rig->client->lending.fds[0];
	pid_t child;

	(void)unused;
	child = fork();
	if (child == 0) {
		struct kvtier_completion completion;
		bool is_right = kvtier_poll(rig->client, &completion, 1) == -ECHILD &&
				fcntl(kept_fd, F_GETFD) < 0;

		kvtier_close(rig->client);
		_exit(is_right ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(rig_run(rig, true, 3).good_count, 3);
	rig_destroy(rig);
}

/* ---- a daemon that is mad ---- */

static void a_daemon_that_says_copied_wrongly_loses_the_connection_only(void **unused)
{
	const enum fake_way ways[] = { FAKE_TWICE, FAKE_WRONG_ITEM };

	(void)unused;
	for (unsigned i = 0; i < 2; i++) {
		struct rig *rig = rig_create_pull();
		struct kvtier_completion completion;
		uint64_t job;

		fake_set(&rig->fake, FRAME_STORE, ways[i], 1);
		fake_set(&rig->fake, FRAME_COMMIT, FAKE_SILENT, 0);
		assert_int_equal(rig_begin(rig, true, 3, RIG_WAIT_US, &job), 0);
		completion = rig_next(rig);
		assert_int_equal(completion.state, KVTIER_FAILED);
		while (!completion.quiesced)
			completion = rig_next(rig);
		fake_set(&rig->fake, FRAME_COMMIT, FAKE_RIGHT, 0);
		rig_reconnect(rig);
		rig_run(rig, true, 3);
		rig_destroy(rig);
	}
}

static void results_that_come_twice_lose_the_connection_and_nothing_else(void **unused)
{
	const enum frame_type types[] = { FRAME_COMMIT, FRAME_LOAD };

	(void)unused;
	for (unsigned i = 0; i < 2; i++) {
		struct rig *rig = rig_create_pull();

		rig_run(rig, true, 3);
		for (unsigned b = 0; b < RIG_BLOCKS; b++)
			rig->blocks[b].hash[0] ^= i == 0 ? 0x80 : 0;
		fake_set(&rig->fake, types[i], FAKE_TWICE, 1);
		assert_int_equal(rig_run(rig, i == 0, 3).good_count, 3);
		rig_reconnect(rig);
		assert_int_equal(rig_run(rig, false, 3).good_count, 3);
		rig_destroy(rig);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_client_that_lends_is_connected_once_its_memory_is_imported),
		cmocka_unit_test(a_daemon_that_is_not_ready_is_asked_again_after_a_while),
		cmocka_unit_test(why_memory_cannot_be_pulled_from_is_said_by_kvtier_connect),
		cmocka_unit_test(memory_that_will_never_be_pulled_from_fails_the_open),
		cmocka_unit_test(a_daemon_without_a_gpu_is_told_of_by_its_setting),
		cmocka_unit_test(what_is_no_descriptor_of_a_process_is_not_believed),
		cmocka_unit_test(what_is_stored_by_pull_is_loaded_into_other_blocks),
		cmocka_unit_test(misses_and_damaged_blocks_of_a_pulled_load_are_told_apart),
		cmocka_unit_test(a_gate_value_reaches_the_daemon_with_the_job_and_its_place),
		cmocka_unit_test(a_gate_value_that_nobody_can_wait_for_is_refused),
		cmocka_unit_test(a_job_ended_while_blocks_move_is_quiescent_when_its_word_says_so),
		cmocka_unit_test(the_end_of_the_process_proves_that_blocks_are_left_alone),
		cmocka_unit_test(what_is_copied_after_the_job_has_ended_is_not_committed),
		cmocka_unit_test(a_job_that_ends_before_anything_moves_is_quiescent_at_once),
		cmocka_unit_test(closing_waits_until_the_blocks_that_move_are_left_alone),
		cmocka_unit_test(closing_does_not_wait_for_a_process_that_never_ends_for_ever),
		cmocka_unit_test(a_child_after_fork_has_neither_the_client_nor_the_memory),
		cmocka_unit_test(a_daemon_that_says_copied_wrongly_loses_the_connection_only),
		cmocka_unit_test(results_that_come_twice_lose_the_connection_and_nothing_else),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
