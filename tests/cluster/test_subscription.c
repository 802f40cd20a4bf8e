/* tests/cluster/test_subscription.c: what comes by real sockets is given out whole, whatever else
 * is sent; questions are asked; who is not there yet is found. */
#include "cluster/subscription.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define PAYLOAD_BYTES_MAX 1000u
#define WAIT_MS 10000
#define SILENT_US 1000000u

#ifdef __SANITIZE_THREAD__
/* ZeroMQ as packaged is not built for the sanitizer, which so does not see how it hands memory over
 * from thread to thread. */
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void);

const char *__tsan_default_suppressions(void)
{
	return "called_from_lib:libzmq.so\nrace:libzmq.so\n";
}
#endif

static struct scene {
	void *context, *said, *asked;
	char said_address[64], asked_address[64];
	struct subscriptions *all;
	struct subscription *subscription;
	unsigned heard, answers;
	uint64_t sequence;
	char payload[PAYLOAD_BYTES_MAX + 1];
} scene;

static uint64_t now_us = 1;

static void *listen_at(int kind, char out_address[64])
{
	char endpoint[80];
	size_t bytes = sizeof(endpoint);
	void *socket = zmq_socket(scene.context, kind);
	int linger = 0;

	assert_int_equal(zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof(linger)), 0);
	assert_int_equal(zmq_bind(socket, "tcp://127.0.0.1:*"), 0);
	assert_int_equal(zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, endpoint, &bytes), 0);
	snprintf(out_address, 64, "%.60s", strstr(endpoint, "//") + 2);
	return socket;
}

static void note(uint64_t sequence, const void *payload, size_t bytes)
{
	assert_true(bytes <= PAYLOAD_BYTES_MAX);
	scene.sequence = sequence;
	memcpy(scene.payload, payload, bytes);
	scene.payload[bytes] = '\0';
}

static void on_said(void *owner, uint64_t sequence, const void *payload, size_t bytes)
{
	assert_ptr_equal(owner, &scene);
	scene.heard++;
	note(sequence, payload, bytes);
}

static void on_answer(void *owner, uint64_t sequence, const void *payload, size_t bytes)
{
	assert_ptr_equal(owner, &scene);
	scene.answers++;
	note(sequence, payload, bytes);
}

static void subscribe(void)
{
	const struct subscription_config config = {
		.said = scene.said_address, .asked = scene.asked_address,
		.payload_bytes_max = PAYLOAD_BYTES_MAX, .silent_us_max = SILENT_US,
		.on_said = on_said, .on_answer = on_answer, .owner = &scene,
	};
	struct error error;

	assert_int_equal(subscriptions_create(&scene.all, &error), 0);
	assert_int_equal(subscription_open(scene.all, &scene.subscription, &config, &error), 0);
}

static int scene_open(void **unused)
{
	(void)unused;
	scene = (struct scene){ .context = zmq_ctx_new() };
	scene.said = listen_at(ZMQ_PUB, scene.said_address);
	scene.asked = listen_at(ZMQ_ROUTER, scene.asked_address);
	subscribe();
	return 0;
}

static int scene_close(void **unused)
{
	(void)unused;
	subscription_close(scene.subscription);
	subscriptions_destroy(scene.all);
	zmq_close(scene.said);
	zmq_close(scene.asked);
	zmq_ctx_term(scene.context);
	return 0;
}

static void send_frames(void *socket, unsigned count, const char *const *frames,
			const size_t *bytes)
{
	for (unsigned i = 0; i < count; i++)
		assert_true(zmq_send(socket, frames[i], bytes[i],
				     i + 1 < count ? ZMQ_SNDMORE : 0) >= 0);
}

static void say(const char *payload)
{
	send_frames(scene.said, 3, (const char *const[]){ "t", "\0\0\0\0\0\0\1\2", payload },
		    (const size_t[]){ 1, 8, strlen(payload) });
}

/* Until it has come, or WAIT_MS are over. */
static void hear(const unsigned *count, unsigned wanted)
{
	struct pollfd files[2] = { { .events = POLLIN }, { .events = POLLIN } };

	subscription_fds(scene.subscription, &files[0].fd, &files[1].fd);
	for (unsigned waited = 0; *count < wanted && waited < WAIT_MS; waited += 10) {
		while (subscription_hear(scene.subscription, 2, now_us))
			;
		if (*count < wanted)
			(void)poll(files, 2, 10);
	}
	assert_true(*count >= wanted);
}

/* PUB loses what it says before it knows of who listens. */
static void meet(void)
{
	struct pollfd files[2] = { { .events = POLLIN }, { .events = POLLIN } };
	unsigned before = scene.heard;

	subscription_fds(scene.subscription, &files[0].fd, &files[1].fd);
	for (unsigned waited = 0; scene.heard == before && waited < WAIT_MS; waited += 10) {
		say("hello");
		(void)poll(files, 2, 10);
		(void)subscription_hear(scene.subscription, 100, now_us);
	}
	say("met");
	while (strcmp(scene.payload, "met") != 0)
		hear(&scene.heard, scene.heard + 1);
}

static void what_is_said_is_given_out_and_what_has_no_form_is_counted(void **unused)
{
	struct subscription_figures figures;

	(void)unused;
	meet();
	assert_int_equal(scene.sequence, 0x102);
	unsigned heard = scene.heard;
	send_frames(scene.said, 1, (const char *const[]){ "alone" }, (const size_t[]){ 5 });
	send_frames(scene.said, 2, (const char *const[]){ "1234567", "x" }, (const size_t[]){ 7, 1 });
	send_frames(scene.said, 5,
		    (const char *const[]){ "a", "b", "c", "\0\0\0\0\0\0\0\7", "five" },
		    (const size_t[]){ 1, 1, 1, 8, 4 });
	/* vLLM's topic may be empty; a payload, too. */
	send_frames(scene.said, 3, (const char *const[]){ "", "\xff\0\0\0\0\0\0\0", "" },
		    (const size_t[]){ 0, 8, 0 });
	hear(&scene.heard, heard + 1);
	assert_int_equal(scene.heard, heard + 1);
	assert_true(scene.sequence == UINT64_C(0xff) << 56);
	assert_string_equal(scene.payload, "");
	subscription_look(scene.subscription, &figures);
	assert_int_equal(figures.malformed, 3);
}

static void questions_are_answered(void **unused)
{
	char identity[64], frame[64];
	int identity_bytes, bytes;

	(void)unused;
	subscription_ask(scene.subscription, "question", 8);
	identity_bytes = zmq_recv(scene.asked, identity, sizeof(identity), 0);
	assert_true(identity_bytes > 0 && identity_bytes <= (int)sizeof(identity));
	assert_int_equal(zmq_recv(scene.asked, frame, sizeof(frame), 0), 0);
	bytes = zmq_recv(scene.asked, frame, sizeof(frame), 0);
	assert_int_equal(bytes, 8);
	assert_memory_equal(frame, "question", 8);
	/* With and without a topic, as ours and vLLM's come. */
	send_frames(scene.asked, 5,
		    (const char *const[]){ identity, "", "t", "\0\0\0\0\0\0\0\3", "ours" },
		    (const size_t[]){ (size_t)identity_bytes, 0, 1, 8, 4 });
	hear(&scene.answers, 1);
	assert_string_equal(scene.payload, "ours");
	send_frames(scene.asked, 4,
		    (const char *const[]){ identity, "", "\xff\xff\xff\xff\xff\xff\xff\xff", "" },
		    (const size_t[]){ (size_t)identity_bytes, 0, 8, 0 });
	hear(&scene.answers, 2);
	assert_true(scene.sequence == UINT64_MAX);
	assert_int_equal(scene.heard, 0);
}

/* ZeroMQ gives up who said it; a silence later it is heard again. */
static void more_than_may_be_said_costs_a_silence(void **unused)
{
	char large[PAYLOAD_BYTES_MAX + 2];
	struct subscription_figures figures;

	(void)unused;
	memset(large, 'x', sizeof(large) - 1);
	large[sizeof(large) - 1] = '\0';
	meet();
	say(large);
	scene.payload[0] = '\0';
	now_us += SILENT_US - 1;
	(void)subscription_hear(scene.subscription, 100, now_us);
	subscription_look(scene.subscription, &figures);
	assert_int_equal(figures.again, 0);
	now_us++;
	meet();
	subscription_look(scene.subscription, &figures);
	assert_int_equal(figures.again, 1);
}

static void who_comes_back_is_heard_again(void **unused)
{
	char endpoint[80];

	(void)unused;
	meet();
	zmq_close(scene.said);
	scene.payload[0] = '\0';
	scene.said = zmq_socket(scene.context, ZMQ_PUB);
	snprintf(endpoint, sizeof(endpoint), "tcp://%s", scene.said_address);
	for (unsigned waited = 0; zmq_bind(scene.said, endpoint) < 0 && waited < WAIT_MS;
	     waited += 10)
		(void)poll(NULL, 0, 10);   /* its closing takes a moment */
	meet();
}

static void what_is_no_address_is_refused(void **unused)
{
	static const char *const wrong[] = { "", "host", "host:", ":7", "host:x", "host:0", "host:99999",
					     "host:7x", "127.0.0.1:7;host:8" };
	struct subscription *subscription;
	struct error error;

	(void)unused;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		const struct subscription_config config = {
			.said = wrong[i], .payload_bytes_max = PAYLOAD_BYTES_MAX,
			.on_said = on_said, .on_answer = on_answer, .owner = &scene,
		};

		assert_true(subscription_open(scene.all, &subscription, &config, &error) < 0);
		assert_non_null(strstr(error.text, "HOST:PORT"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			what_is_said_is_given_out_and_what_has_no_form_is_counted, scene_open,
			scene_close),
		cmocka_unit_test_setup_teardown(questions_are_answered, scene_open, scene_close),
		cmocka_unit_test_setup_teardown(more_than_may_be_said_costs_a_silence, scene_open,
						scene_close),
		cmocka_unit_test_setup_teardown(who_comes_back_is_heard_again, scene_open,
						scene_close),
		cmocka_unit_test_setup_teardown(what_is_no_address_is_refused, scene_open,
						scene_close),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
