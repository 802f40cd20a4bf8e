/* tests/client/test_client_jobs.c: proof of what was loaded; deadlines, cancelling, quiescence. */
#include "tests/client/client_rig.h"

#include <errno.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void a_damaged_block_is_a_miss_and_reported_as_bad(void **unused)
{
	struct rig *rig;

	(void)unused;
	rig = rig_create();
	rig_run(rig, true, 3);
	fake_set(&rig->fake, FRAME_LOAD, FAKE_DAMAGED, 1);
	struct kvtier_completion completion = rig_run(rig, false, 3);
	assert_int_equal(completion.results[0], -EBADMSG);
	assert_int_equal(completion.results[1], 0);
	assert_int_equal(completion.good_count, 2);
	assert_int_equal(fake_wait_released(&rig->fake, 3), 1);
	rig_destroy(rig);
}

static void a_slot_of_another_block_is_a_miss_and_not_bad(void **unused)
{
	struct rig *rig;

	(void)unused;
	rig = rig_create();
	rig_run(rig, true, 3);
	fake_set(&rig->fake, FRAME_LOAD, FAKE_REUSED, 1);
	struct kvtier_completion completion = rig_run(rig, false, 3);
	assert_int_equal(completion.results[0], -ENOENT);
	assert_int_equal(completion.good_count, 2);
	assert_int_equal(fake_wait_released(&rig->fake, 3), 0);
	rig_destroy(rig);
}

static struct rig *hook_rig;

static void hook_reuse(void)
{
	atomic_store(&copier_block_hook, NULL);
	fake_reuse_slot(&hook_rig->fake, hook_rig->hashes[0]);
}

static void a_slot_reused_during_the_copy_is_a_miss_and_not_bad(void **unused)
{
	struct rig *rig;

	(void)unused;
	rig = rig_create();
	rig_run(rig, true, 3);
	hook_rig = rig;
	atomic_store(&copier_block_hook, hook_reuse);
	struct kvtier_completion completion = rig_run(rig, false, 3);
	assert_int_equal(completion.results[0], -ENOENT);
	assert_int_equal(completion.good_count, 2);
	assert_int_equal(fake_wait_released(&rig->fake, 3), 0);
	rig_destroy(rig);
}

/* Returns whether the frame that is under test was sent: where the machine is busy, a short
 * deadline can pass before that. */
static bool silent_job_expires(enum frame_type type, uint64_t deadline_us)
{
	struct rig *rig = rig_create();
	struct kvtier_completion completion;
	uint64_t job;

	fake_set(&rig->fake, type, FAKE_SILENT, 0);
	assert_int_equal(rig_begin(rig, type != FRAME_LOAD, 3, deadline_us, &job), 0);
	completion = rig_next(rig);
	assert_int_equal(completion.state, KVTIER_EXPIRED);
	assert_int_equal(completion.results[0], -ETIME);
	while (!completion.quiesced)
		completion = rig_next(rig);
	assert_int_equal(kvtier_poll(rig->client, &completion, 1), 0);
	bool was_sent = fake_seen(&rig->fake, type) > 0;
	if (was_sent)
		fake_wait_seen(&rig->fake, FRAME_CANCEL, 1);
	rig_destroy(rig);
	return was_sent;
}

static void a_job_of_a_silent_daemon_expires_once_and_quiescent(void **unused)
{
	const enum frame_type types[] = { FRAME_STORE, FRAME_COMMIT, FRAME_LOAD };

	(void)unused;
	for (unsigned i = 0; i < 3; i++) {
		uint64_t deadline_us = RIG_SHORT_US;

		while (!silent_job_expires(types[i], deadline_us)) {
			deadline_us *= 2;
			assert_true(deadline_us < RIG_WAIT_US);
		}
	}
}

static sem_t hook_entered, hook_may_leave;

static void hook_hang(void)
{
	sem_post(&hook_entered);
	sem_wait(&hook_may_leave);
	atomic_store(&copier_block_hook, NULL);
}

/* Begins a job and ends it while the copier is inside its first block. A deadline that passed
 * before the copier came so far, on a busy machine, is tried again, longer. */
static uint64_t job_end_inside_block(struct rig *rig, bool is_store, bool is_cancelled)
{
	struct kvtier_completion completion;
	uint64_t deadline_us = is_cancelled ? RIG_WAIT_US : RIG_SHORT_US;
	uint64_t job = 0;

	do {
		assert_true(deadline_us <= RIG_WAIT_US);
		assert_int_equal(rig_begin(rig, is_store, 3, deadline_us, &job), 0);
		if (is_cancelled) {
			sem_wait(&hook_entered);
			kvtier_cancel(rig->client, job);
		}
		completion = rig_next(rig);
		assert_int_equal(completion.state,
				 is_cancelled ? KVTIER_CANCELLED : KVTIER_EXPIRED);
		assert_true(completion.job == job);
		deadline_us *= 2;
	} while (!is_cancelled && completion.quiesced);
	assert_int_equal(completion.quiesced, 0);
	return job;
}

static void a_job_that_ends_inside_a_block_is_followed_by_one_more_completion(void **unused)
{
	(void)unused;
	for (unsigned kind = 0; kind < 4; kind++) {
		bool is_store = kind & 1, is_cancelled = kind & 2;
		struct rig *rig = rig_create();
		struct kvtier_completion completion;

		if (!is_store)
			rig_run(rig, true, 3);
		sem_init(&hook_entered, 0, 0);
		sem_init(&hook_may_leave, 0, 0);
		atomic_store(&copier_block_hook, hook_hang);
		uint64_t job = job_end_inside_block(rig, is_store, is_cancelled);
		assert_int_equal(kvtier_poll(rig->client, &completion, 1), 0);
		sem_post(&hook_may_leave);
		completion = rig_next(rig);
		assert_int_equal(completion.quiesced, 1);
		assert_true(completion.job == job);
		assert_int_equal(completion.state,
				 is_cancelled ? KVTIER_CANCELLED : KVTIER_EXPIRED);
		assert_int_equal(kvtier_poll(rig->client, &completion, 1), 0);
		assert_int_equal(rig_run(rig, true, 4).state, KVTIER_DONE);
		rig_destroy(rig);
	}
}

static void a_cancelled_job_ends_even_when_the_daemon_is_silent(void **unused)
{
	struct rig *rig;
	uint64_t job;

	(void)unused;
	rig = rig_create();
	fake_set(&rig->fake, FRAME_STORE, FAKE_SILENT, 1);
	assert_int_equal(rig_begin(rig, true, 3, RIG_WAIT_US, &job), 0);
	fake_wait_seen(&rig->fake, FRAME_STORE, 1);
	kvtier_cancel(rig->client, job + 256); /* not ours */
	kvtier_cancel(rig->client, job);
	kvtier_cancel(rig->client, job);
	assert_int_equal(rig_next(rig).state, KVTIER_CANCELLED);
	assert_int_equal(rig_run(rig, true, 3).state, KVTIER_DONE);
	rig_destroy(rig);
}

static void too_many_jobs_are_refused_and_all_accepted_ones_end(void **unused)
{
	struct rig *rig;
	uint64_t job;
	unsigned accepted = 0, ended = 0;

	(void)unused;
	rig = rig_create();
	fake_set(&rig->fake, FRAME_STORE, FAKE_SILENT, 0);
	while (rig_begin(rig, true, 1, RIG_WAIT_US, &job) == 0)
		accepted++;
	assert_int_equal(accepted, CLIENT_JOBS_MAX);
	assert_int_equal(rig_begin(rig, true, 1, RIG_WAIT_US, &job), -EAGAIN);
	fake_set(&rig->fake, FRAME_STORE, FAKE_RIGHT, 0);
	fake_restart(&rig->fake);
	while (ended < accepted) {
		assert_int_equal(rig_next(rig).state, KVTIER_FAILED);
		ended++;
	}
	rig_reconnect(rig);
	assert_int_equal(rig_run(rig, true, 1).good_count, 1);
	rig_destroy(rig);
}

static void closing_a_client_with_jobs_under_way_leaves_nothing_behind(void **unused)
{
	struct rig *rig;
	uint64_t job;

	(void)unused;
	rig = rig_create();
	fake_set(&rig->fake, FRAME_COMMIT, FAKE_SILENT, 0);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(rig_begin(rig, i % 2 == 0, RIG_BLOCKS, RIG_WAIT_US, &job), 0);
	rig_destroy(rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_damaged_block_is_a_miss_and_reported_as_bad),
		cmocka_unit_test(a_slot_of_another_block_is_a_miss_and_not_bad),
		cmocka_unit_test(a_slot_reused_during_the_copy_is_a_miss_and_not_bad),
		cmocka_unit_test(a_job_of_a_silent_daemon_expires_once_and_quiescent),
		cmocka_unit_test(a_job_that_ends_inside_a_block_is_followed_by_one_more_completion),
		cmocka_unit_test(a_cancelled_job_ends_even_when_the_daemon_is_silent),
		cmocka_unit_test(too_many_jobs_are_refused_and_all_accepted_ones_end),
		cmocka_unit_test(closing_a_client_with_jobs_under_way_leaves_nothing_behind),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
