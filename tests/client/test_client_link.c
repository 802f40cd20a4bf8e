/* tests/client/test_client_link.c: libkvtier and a daemon that is slow, mad, gone or restarted. */
#include "tests/client/client_rig.h"

#include <errno.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static void a_silent_daemon_costs_a_lookup_its_bound_and_the_connection_stays(void **unused)
{
	struct rig *rig;
	struct kvtier_found found;

	(void)unused;
	rig = rig_create();
	rig_run(rig, true, 2);
	fake_set(&rig->fake, FRAME_LOOKUP, FAKE_SILENT, 1);
	assert_int_equal(rig_lookup(rig, 2, RIG_SHORT_US, &found), -ETIMEDOUT);
	assert_int_equal(found.usable_tokens, 0);
	rig_set_pause_end(rig, 0);
	assert_int_equal(rig_lookup(rig, 2, RIG_WAIT_US, &found), 0);
	assert_int_equal(found.usable_tokens, 32);
	rig_destroy(rig);
}

static void a_late_answer_is_not_taken_for_another_ones(void **unused)
{
	struct rig *rig;
	struct kvtier_found found;

	(void)unused;
	rig = rig_create();
	fake_set(&rig->fake, FRAME_LOOKUP, FAKE_LATE, 1);
	assert_int_equal(rig_lookup(rig, 1, RIG_SHORT_US, &found), -ETIMEDOUT);
	rig_run(rig, true, 2);
	rig_set_pause_end(rig, 0);
	assert_int_equal(rig_lookup(rig, 2, RIG_WAIT_US, &found),
			 0); /* the late one says: nothing there */
	assert_int_equal(found.usable_tokens, 32);
	assert_int_equal(fake_seen(&rig->fake, FRAME_REGISTER), 1);
	rig_destroy(rig);
}

static void whatever_breaks_the_connection_is_a_miss_and_the_client_comes_back(void **unused)
{
	const enum fake_way ways[] = { FAKE_CLOSE, FAKE_GARBAGE, FAKE_STRANGER, FAKE_WRONG_BOOT };
	struct rig *rig;
	struct kvtier_found found;

	(void)unused;
	rig = rig_create();
	for (unsigned i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		fake_set(&rig->fake, FRAME_LOOKUP, ways[i], 1);
		assert_int_equal(rig_lookup(rig, 2, RIG_WAIT_US, &found), -ENOTCONN);
		assert_int_equal(found.usable_tokens, 0);
		rig_reconnect(rig);
		assert_int_equal(rig_lookup(rig, 2, RIG_WAIT_US, &found), 0);
		assert_true(rig_run(rig, true, 2).good_count == 2);
	}
	rig_destroy(rig);
}

static void whatever_breaks_a_job_fails_it_and_the_client_comes_back(void **unused)
{
	const struct {
		enum frame_type type;
		enum fake_way way;
	} cases[] = {
		{ FRAME_STORE, FAKE_CLOSE },      { FRAME_STORE, FAKE_GARBAGE },
		{ FRAME_STORE, FAKE_WRONG_BOOT }, { FRAME_COMMIT, FAKE_CLOSE },
		{ FRAME_COMMIT, FAKE_GARBAGE },   { FRAME_COMMIT, FAKE_TWICE },
		{ FRAME_LOAD, FAKE_CLOSE },       { FRAME_LOAD, FAKE_GARBAGE },
		{ FRAME_LOAD, FAKE_OUTSIDE },     { FRAME_LOAD, FAKE_WRONG_BOOT },
	};
	struct rig *rig;

	(void)unused;
	rig = rig_create();
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		bool is_store = cases[i].type != FRAME_LOAD;

		fake_restart(&rig->fake);
		rig_reconnect(rig);
		rig_run(rig, true, 2);
		fake_set(&rig->fake, cases[i].type, cases[i].way, 1);
		struct kvtier_completion completion = rig_run(rig, is_store, RIG_BLOCKS);
		assert_int_equal(completion.state, KVTIER_FAILED);
		assert_int_equal(completion.results[RIG_BLOCKS - 1], -ENOTCONN);
	}
	rig_reconnect(rig);
	rig_destroy(rig);
}

static void a_restarted_daemon_is_noticed_and_spaces_keep_their_numbers(void **unused)
{
	uint8_t adapter[2][32] = { { 1 }, { 2 } };
	struct rig *rig;
	uint32_t space[2], again;
	uint64_t job;

	(void)unused;
	rig = rig_create();
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(kvtier_space_open(rig->client, adapter[i], RIG_WAIT_US, &space[i]),
				 0);
	assert_int_equal(space[0], 1);
	assert_int_equal(space[1], 2);
	rig_run(rig, true, 3);
	fake_restart(&rig->fake);
	rig_reconnect(rig);
	assert_int_equal(rig->fake.spaces_opened, 4);
	assert_int_equal(kvtier_space_open(rig->client, adapter[1], RIG_WAIT_US, &again), 0);
	assert_int_equal(again, 2);
	assert_int_equal(rig_run(rig, false, 3).results[0], -ENOENT);
	assert_int_equal(rig_begin(rig, true, 1, RIG_WAIT_US, &job), 0);
	assert_int_equal(rig_next(rig).good_count, 1);
	rig_destroy(rig);
}

static void a_refused_registration_is_final_and_says_why(void **unused)
{
	const int codes[] = { -EPERM, -EINVAL };
	struct rig *rig;

	(void)unused;
	rig = rig_create_closed(RIG_WINDOW_BYTES);
	for (unsigned i = 0; i < 2; i++) {
		rig->fake.refusal = codes[i];
		fake_set(&rig->fake, FRAME_REGISTER, FAKE_REFUSE, 1);
		assert_int_equal(rig_open_client(rig, KVTIER_WORKER), codes[i]);
		assert_string_equal(rig->text, "refused for the test");
		assert_null(rig->client);
	}
	rig_destroy(rig);
}

static void a_registration_refused_after_a_restart_ends_the_client_quietly(void **unused)
{
	struct rig *rig;
	struct kvtier_found found;
	uint64_t job;

	(void)unused;
	rig = rig_create();
	rig->fake.refusal = -EPERM;
	fake_set(&rig->fake, FRAME_REGISTER, FAKE_REFUSE, 0);
	fake_restart(&rig->fake);
	assert_int_equal(kvtier_connect(rig->client, RIG_WAIT_US, rig->text, sizeof(rig->text)),
			 -EPERM);
	assert_string_equal(rig->text, "refused for the test");
	assert_int_equal(rig_lookup(rig, 1, RIG_WAIT_US, &found), -EPERM);
	assert_int_equal(rig_begin(rig, true, 1, RIG_WAIT_US, &job), -EPERM);
	rig_destroy(rig);
}

static void a_refused_registration_is_tried_again_when_somebody_connects(void **unused)
{
	struct rig *rig;
	struct kvtier_found found;
	unsigned seen;
	uint64_t job;

	(void)unused;
	rig = rig_create();
	rig->fake.refusal = -EPERM;
	fake_set(&rig->fake, FRAME_REGISTER, FAKE_REFUSE, 0);
	fake_restart(&rig->fake);
	assert_int_equal(kvtier_connect(rig->client, RIG_WAIT_US, NULL, 0), -EPERM);
	seen = fake_seen(&rig->fake, FRAME_REGISTER);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(kvtier_connect(rig->client, RIG_WAIT_US, rig->text,
						sizeof(rig->text)),
				 -EPERM);
		assert_string_equal(rig->text, "refused for the test");
		assert_int_equal(fake_seen(&rig->fake, FRAME_REGISTER), ++seen);
	}
	fake_set(&rig->fake, FRAME_REGISTER, FAKE_RIGHT, 0);
	assert_int_equal(rig_lookup(rig, 1, RIG_WAIT_US, &found), -EPERM);
	assert_int_equal(rig_begin(rig, true, 1, RIG_WAIT_US, &job), -EPERM);
	assert_int_equal(kvtier_lease_release(rig->client, 1), -EPERM);
	assert_false(kvtier_is_connected(rig->client));
	assert_int_equal(fake_seen(&rig->fake, FRAME_REGISTER), seen);
	rig_reconnect(rig);
	assert_int_equal(rig_run(rig, true, 2).good_count, 2);
	assert_int_equal(rig_lookup(rig, 2, RIG_WAIT_US, &found), 0);
	assert_int_equal(found.usable_tokens, 32);
	rig_destroy(rig);
}

static void an_absent_daemon_is_a_miss_until_it_is_there(void **unused)
{
	struct rig *rig;
	struct kvtier_found found;
	uint64_t job;
	char away[128];

	(void)unused;
	rig = rig_create_closed(RIG_WINDOW_BYTES);
	snprintf(away, sizeof(away), "%s.away", rig->fake.path);
	assert_int_equal(rename(rig->fake.path, away), 0);
	assert_int_equal(rig_open_client(rig, KVTIER_WORKER | KVTIER_SCHEDULER), 0);
	assert_false(kvtier_is_connected(rig->client));
	assert_int_equal(rig_lookup(rig, 1, RIG_WAIT_US, &found), -ENOTCONN);
	assert_int_equal(rig_begin(rig, true, 1, RIG_WAIT_US, &job), -ENOTCONN);
	assert_int_equal(kvtier_connect(rig->client, RIG_SHORT_US, rig->text, sizeof(rig->text)),
			 -ENOTCONN);
	assert_non_null(strstr(rig->text, "there is no socket at "));
	assert_non_null(strstr(rig->text, rig->fake.path));
	assert_int_equal(rename(away, rig->fake.path), 0);
	rig_reconnect(rig);
	assert_int_equal(rig_run(rig, true, 1).good_count, 1);
	rig_destroy(rig);
}

/* What a daemon leaves behind that was killed. */
static void leave_dead_socket(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	assert_true(strlen(path) < sizeof(address.sun_path));
	strcpy(address.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	close(fd);
}

/* Opens a client that cannot connect, and asks it why. */
static void check_words(struct rig *rig, const char *words)
{
	rig->connect_us_max = RIG_SHORT_US;
	assert_int_equal(rig_open_client(rig, KVTIER_SCHEDULER), 0);
	assert_int_equal(kvtier_connect(rig->client, RIG_SHORT_US, rig->text, sizeof(rig->text)),
			 -ENOTCONN);
	if (strstr(rig->text, words) == NULL || strstr(rig->text, rig->fake.path) == NULL)
		fail_msg("not \"%s\" of %s: %s", words, rig->fake.path, rig->text);
	kvtier_close(rig->client);
	rig->client = NULL;
}

static void a_client_that_cannot_connect_says_what_it_met_and_where(void **unused)
{
	struct rig *rig;
	char away[128];

	(void)unused;
	rig = rig_create_closed(RIG_WINDOW_BYTES);
	snprintf(away, sizeof(away), "%s.away", rig->fake.path);
	assert_int_equal(rename(rig->fake.path, away), 0);
	check_words(rig, "there is no socket at ");
	leave_dead_socket(rig->fake.path);
	check_words(rig, "nobody listens at ");
	assert_int_equal(rename(away, rig->fake.path), 0);
	fake_set(&rig->fake, FRAME_HELLO, FAKE_SILENT, 0);
	check_words(rig, "did not answer within ");
	fake_set(&rig->fake, FRAME_HELLO, FAKE_RIGHT, 0);
	fake_set(&rig->fake, FRAME_REGISTER, FAKE_SILENT, 0);
	check_words(rig, "did not answer a registration within ");
	rig_destroy(rig);
}

static void an_engine_whose_ranks_are_missing_is_not_ready(void **unused)
{
	struct rig *rig;
	struct kvtier_found found;

	(void)unused;
	rig = rig_create_closed(RIG_WINDOW_BYTES);
	rig->fake.ranks_missing = 1;
	assert_int_equal(rig_open_client(rig, KVTIER_WORKER | KVTIER_SCHEDULER), 0);
	assert_false(kvtier_is_connected(rig->client));
	assert_int_equal(rig_lookup(rig, 1, RIG_WAIT_US, &found), -EAGAIN);
	assert_int_equal(kvtier_connect(rig->client, RIG_SHORT_US, rig->text, sizeof(rig->text)),
			 -EAGAIN);
	pthread_mutex_lock(&rig->fake.lock);
	rig->fake.ranks_missing = 0;
	pthread_mutex_unlock(&rig->fake.lock);
	rig_reconnect(rig);
	rig_destroy(rig);
}

static void mappings_that_are_not_what_the_daemon_says_are_not_used(void **unused)
{
	const struct {
		enum fake_way way;
		const char *words;
	} cases[] = {
		{ FAKE_UNSEALED, "not sealed" },
		{ FAKE_SHORT, "should have" },
		{ FAKE_WRONG_CANARY, "canary" },
		{ FAKE_NO_FDS, "descriptor" },
	};
	struct rig *rig;

	(void)unused;
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t job;

		rig = rig_create_closed(RIG_WINDOW_BYTES);
		fake_set(&rig->fake, FRAME_ATTACH, cases[i].way, 0);
		assert_int_equal(rig_open_client(rig, KVTIER_WORKER), 0);
		assert_false(kvtier_is_connected(rig->client));
		assert_int_equal(rig_begin(rig, true, 1, RIG_WAIT_US, &job), -ENOTCONN);
		pthread_mutex_lock(&rig->client->lock);
		assert_non_null(strstr(rig->client->failure.text, cases[i].words));
		pthread_mutex_unlock(&rig->client->lock);
		fake_set(&rig->fake, FRAME_ATTACH, FAKE_RIGHT, 0);
		rig_reconnect(rig);
		rig_destroy(rig);
	}
}

static sem_t calls_made;

static void *call_many_times(void *argument)
{
	struct rig *rig = argument;
	struct kvtier_found found;
	struct kvtier_completion completion;
	uint64_t job;

	for (unsigned i = 0; i < 200; i++) {
		int result = rig_lookup(rig, 1 + i % RIG_BLOCKS, RIG_SHORT_US, &found);

		assert_true(result <= 0);
		if (rig_begin(rig, i % 3 == 0, 1 + i % RIG_BLOCKS, RIG_SHORT_US, &job) == 0 &&
		    i % 7 == 0)
			kvtier_cancel(rig->client, job);
		(void)kvtier_poll(rig->client, &completion, 1);
		(void)kvtier_is_connected(rig->client);
		if (i % 20 == 19)
			sem_post(&calls_made);
	}
	return NULL;
}

static void several_threads_and_a_daemon_that_restarts_do_not_get_in_each_others_way(void **unused)
{
	struct rig *rig;
	struct kvtier_completion completion;
	pthread_t threads[3];

	(void)unused;
	rig = rig_create();
	sem_init(&calls_made, 0, 0);
	for (unsigned i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, call_many_times, rig);
	for (unsigned i = 0; i < 5; i++) {
		sem_wait(&calls_made);
		fake_set(&rig->fake, i % 2 == 0 ? FRAME_COMMIT : FRAME_LOAD, FAKE_GARBAGE, 1);
		fake_restart(&rig->fake);
	}
	for (unsigned i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	fake_set(&rig->fake, FRAME_COMMIT, FAKE_RIGHT, 0);
	fake_set(&rig->fake, FRAME_LOAD, FAKE_RIGHT, 0);
	rig_reconnect(rig);
	while (kvtier_wait(rig->client, RIG_SHORT_US * 2) == 1)
		(void)kvtier_poll(rig->client, &completion, 1);
	assert_int_equal(rig_run(rig, true, 2).state, KVTIER_DONE);
	rig_destroy(rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_silent_daemon_costs_a_lookup_its_bound_and_the_connection_stays),
		cmocka_unit_test(a_late_answer_is_not_taken_for_another_ones),
		cmocka_unit_test(
			whatever_breaks_the_connection_is_a_miss_and_the_client_comes_back),
		cmocka_unit_test(whatever_breaks_a_job_fails_it_and_the_client_comes_back),
		cmocka_unit_test(a_restarted_daemon_is_noticed_and_spaces_keep_their_numbers),
		cmocka_unit_test(a_refused_registration_is_final_and_says_why),
		cmocka_unit_test(a_registration_refused_after_a_restart_ends_the_client_quietly),
		cmocka_unit_test(a_refused_registration_is_tried_again_when_somebody_connects),
		cmocka_unit_test(an_absent_daemon_is_a_miss_until_it_is_there),
		cmocka_unit_test(a_client_that_cannot_connect_says_what_it_met_and_where),
		cmocka_unit_test(an_engine_whose_ranks_are_missing_is_not_ready),
		cmocka_unit_test(mappings_that_are_not_what_the_daemon_says_are_not_used),
		cmocka_unit_test(
			several_threads_and_a_daemon_that_restarts_do_not_get_in_each_others_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
