/* tests/transfer/test_channel.c: who may talk to whom, and what becomes of everybody else. */
#include "tests/transfer/channel_rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static struct channel_rig rig;

static void say(unsigned end, uint64_t number)
{
	struct peer_frame_header frame;

	peer_frame_start(&frame, PEER_RELEASE, sizeof(frame), number);
	assert_int_equal(channel_send(rig.ends[end].channel, &frame), 0);
}

/* Joined, settled, and down on both sides: why. */
static void assert_refused(int result, const char *one, const char *other)
{
	channel_rig_join(&rig, -1);
	channel_rig_settle(&rig);
	for (unsigned i = 0; i < 2; i++) {
		assert_true(rig.ends[i].is_down);
		assert_false(rig.ends[i].is_up);
		if (result != 0)
			assert_int_equal(rig.ends[i].result, result);
	}
	assert_non_null(strstr(rig.ends[0].reason, one));
	assert_non_null(strstr(rig.ends[1].reason, other));
	channel_rig_finish(&rig);
}

static void both_sides_know_each_other_and_talk(void **unused)
{
	uint8_t keys[2][2][CHANNEL_KEY_BYTES];

	(void)unused;
	channel_rig_init(&rig);
	channel_rig_join(&rig, -1);
	const struct peer_frame_header early = { .bytes = sizeof(early) };
	assert_int_equal(channel_send(rig.ends[0].channel, &early), -ENOTCONN);
	channel_rig_settle(&rig);
	for (unsigned i = 0; i < 2; i++) {
		assert_true(rig.ends[i].is_up);
		assert_string_equal(rig.ends[i].theirs.name, rig.ends[1 - i].hello.name);
		assert_int_equal(rig.ends[i].theirs.boot_id, rig.ends[1 - i].hello.boot_id);
		for (unsigned is_sending = 0; is_sending < 2; is_sending++)
			channel_data_key(rig.ends[i].channel, is_sending, keys[i][is_sending]);
	}
	assert_memory_equal(keys[0][1], keys[1][0], CHANNEL_KEY_BYTES);
	assert_memory_equal(keys[0][0], keys[1][1], CHANNEL_KEY_BYTES);
	assert_memory_not_equal(keys[0][0], keys[0][1], CHANNEL_KEY_BYTES);
	for (unsigned i = 0; i < 1000; i++)
		say(i % 2, i);
	channel_rig_settle(&rig);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(rig.ends[i].frames, 500);
		for (unsigned k = 0; k < 500; k++)
			assert_int_equal(rig.ends[i].numbers[k], 2 * k + 1 - i);
	}
	/* Another connection has other keys. */
	channel_rig_finish(&rig);
	channel_rig_join(&rig, -1);
	channel_rig_settle(&rig);
	channel_data_key(rig.ends[0].channel, true, keys[1][0]);
	assert_memory_not_equal(keys[0][1], keys[1][0], CHANNEL_KEY_BYTES);
	channel_rig_finish(&rig);
}

static void a_secret_is_changed_without_a_pause(void **unused)
{
	uint8_t keys[2][CHANNEL_KEY_BYTES];

	(void)unused;
	/* Old and new; new and old; new alone. */
	for (unsigned end = 0; end < 2; end++) {
		channel_rig_init(&rig);
		memset(rig.ends[end].secrets[0], 0x77, CHANNEL_SECRET_BYTES);
		memset(rig.ends[end].secrets[1], 0x5a, CHANNEL_SECRET_BYTES);
		rig.ends[end].secrets_count = 2;
		memset(rig.ends[1 - end].secrets[1], 0x77, CHANNEL_SECRET_BYTES);
		rig.ends[1 - end].secrets_count = 2;
		channel_rig_join(&rig, -1);
		channel_rig_settle(&rig);
		assert_true(rig.ends[0].is_up && rig.ends[1].is_up);
		channel_data_key(rig.ends[0].channel, true, keys[0]);
		channel_data_key(rig.ends[1].channel, false, keys[1]);
		assert_memory_equal(keys[0], keys[1], CHANNEL_KEY_BYTES);
		channel_rig_finish(&rig);
	}
}

static void who_does_not_belong_there_is_told_why(void **unused)
{
	(void)unused;
	channel_rig_init(&rig);
	rig.ends[0].secrets[0][31] ^= 1;
	assert_refused(-EPERM, "peer_secret_file", "peer_secret_file");
	channel_rig_init(&rig);
	rig.ends[1].hello.features = PEER_FEATURE_ENCRYPT;
	assert_refused(-EINVAL, "peer_encryption", "peer_encryption");
	channel_rig_init(&rig);
	rig.ends[1].hello.boot_id = rig.ends[0].hello.boot_id;
	assert_refused(-ELOOP, "itself", "itself");
}

/* ---- ends that the test speaks for ---- */

static uint8_t wire[65536] __attribute__((aligned(8)));

/* What the channel has said so far. */
static size_t listen_to(unsigned raw)
{
	size_t bytes = 0;

	for (;;) {
		channel_rig_settle(&rig);
		ssize_t result = recv(rig.ends[raw].fd, wire + bytes, sizeof(wire) - bytes,
				      MSG_DONTWAIT);
		if (result <= 0)
			return bytes;
		bytes += (size_t)result;
	}
}

static void tell(unsigned raw, const void *bytes, size_t count)
{
	ssize_t sent = send(rig.ends[raw].fd, bytes, count, MSG_NOSIGNAL | MSG_DONTWAIT);

	assert_int_equal(sent, count);
	channel_rig_settle(&rig);
}

static void another_version_is_refused_by_name(void **unused)
{
	struct peer_hello hello;

	(void)unused;
	channel_rig_init(&rig);
	channel_rig_join(&rig, 0);
	assert_int_equal(listen_to(0), sizeof(hello));
	memcpy(&hello, wire, sizeof(hello));
	hello.boot_id = 5;
	hello.version_min = hello.version_max = 9;
	tell(0, &hello, sizeof(hello));
	assert_true(rig.ends[1].is_down);
	assert_int_equal(rig.ends[1].result, -EPROTONOSUPPORT);
	assert_non_null(strstr(rig.ends[1].reason, "versions 1 to 1"));
	assert_int_equal(((struct peer_frame_header *)(wire))->type, PEER_HELLO);
	channel_rig_finish(&rig);
}

/* Of the acceptor's HELLO and our own, what it said next. */
static void greet(unsigned raw, struct peer_hello *ours, struct peer_hello *theirs)
{
	assert_int_equal(listen_to(raw), sizeof(*theirs));
	memcpy(theirs, wire, sizeof(*theirs));
	*ours = *theirs;
	ours->boot_id = 5;
	ours->nonce[0] ^= 0xff;
	tell(raw, ours, sizeof(*ours));
}

static void a_proof_that_is_reflected_proves_nothing(void **unused)
{
	struct peer_hello ours, theirs;
	struct peer_proof proof;

	(void)unused;
	for (unsigned raw = 0; raw < 2; raw++) {
		channel_rig_init(&rig);
		channel_rig_join(&rig, (int)raw);
		greet(raw, &ours, &theirs);
		assert_int_equal(listen_to(raw), sizeof(proof));
		memcpy(&proof, wire, sizeof(proof));
		assert_int_equal(proof.header.type, PEER_PROOF);
		tell(raw, &proof, sizeof(proof));
		assert_false(rig.ends[1 - raw].is_up);
		assert_int_equal(rig.ends[1 - raw].result, -EPERM);
		channel_rig_finish(&rig);
	}
}

/* All that a good node has said in an earlier connection, said again. */
static void a_handshake_that_is_played_again_proves_nothing(void **unused)
{
	static uint8_t heard[4096];
	size_t bytes = 0;

	(void)unused;
	channel_rig_init(&rig);
	channel_rig_join(&rig, -1);
	/* The connecting side's words, read on their way. */
	while (!rig.ends[1].is_up) {
		(void)channel_step(rig.ends[0].channel, clock_now_us(&rig.clock));
		ssize_t more = recv(rig.ends[1].fd, heard + bytes, sizeof(heard) - bytes,
				    MSG_DONTWAIT | MSG_PEEK);
		if (more > 0)
			bytes += (size_t)more;
		(void)channel_step(rig.ends[1].channel, clock_now_us(&rig.clock));
	}
	channel_rig_finish(&rig);
	assert_true(bytes >= sizeof(struct peer_hello) + sizeof(struct peer_proof));
	bytes = sizeof(struct peer_hello) + sizeof(struct peer_proof);
	channel_rig_join(&rig, 0);
	channel_rig_settle(&rig);
	tell(0, heard, bytes);
	assert_false(rig.ends[1].is_up);
	assert_int_equal(rig.ends[1].result, -EPERM);
	channel_rig_finish(&rig);
}

/* A HELLO that was changed on its way: each byte of what it says. */
static void who_changes_a_greeting_is_noticed(void **unused)
{
	(void)unused;
	for (size_t at = offsetof(struct peer_hello, boot_id); at < sizeof(struct peer_hello);
	     at += 3) {
		channel_rig_init(&rig);
		channel_rig_join(&rig, -1);
		/* The connecting side's HELLO is changed in the acceptor's socket. */
		(void)channel_step(rig.ends[0].channel, clock_now_us(&rig.clock));
		struct peer_hello hello;
		ssize_t bytes = recv(rig.ends[1].fd, &hello, sizeof(hello), MSG_DONTWAIT);
		assert_int_equal(bytes, sizeof(hello));
		((uint8_t *)&hello)[at] ^= 1;
		assert_int_equal(send(rig.ends[0].fd, &hello, sizeof(hello), MSG_DONTWAIT),
				 sizeof(hello));
		channel_rig_settle(&rig);
		assert_false(rig.ends[0].is_up && rig.ends[1].is_up);
		assert_true(rig.ends[0].is_down && rig.ends[1].is_down);
		channel_rig_finish(&rig);
	}
}

static void words_without_a_handshake_are_not_heard(void **unused)
{
	struct peer_frame_header release;

	(void)unused;
	peer_frame_start(&release, PEER_RELEASE, sizeof(release), 1);
	for (unsigned after_hello = 0; after_hello < 2; after_hello++) {
		struct peer_hello ours, theirs;

		channel_rig_init(&rig);
		channel_rig_join(&rig, 0);
		if (after_hello)
			greet(0, &ours, &theirs);
		else
			channel_rig_settle(&rig);
		tell(0, &release, sizeof(release));
		assert_true(rig.ends[1].is_down);
		assert_int_equal(rig.ends[1].frames, 0);
		assert_int_equal(rig.ends[1].result, -EPROTO);
		channel_rig_finish(&rig);
	}
	channel_rig_init(&rig);
	channel_rig_join(&rig, 0);
	tell(0, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 27);
	assert_int_equal(rig.ends[1].result, -EPROTO);
	assert_non_null(strstr(rig.ends[1].reason, "magic"));
	channel_rig_finish(&rig);
}

/* ---- time ---- */

static void who_says_nothing_is_given_up(void **unused)
{
	struct peer_hello ours, theirs;

	(void)unused;
	for (unsigned greets = 0; greets < 2; greets++) {
		channel_rig_init(&rig);
		channel_rig_join(&rig, 0);
		if (greets)
			greet(0, &ours, &theirs);
		clock_advance(&rig.clock, 2000 * RIG_MS - 1);
		channel_rig_settle(&rig);
		assert_false(rig.ends[1].is_down);
		clock_advance(&rig.clock, 1);
		channel_rig_settle(&rig);
		assert_int_equal(rig.ends[1].result, -ETIMEDOUT);
		channel_rig_finish(&rig);
	}
}

static void a_node_that_falls_silent_is_noticed(void **unused)
{
	(void)unused;
	channel_rig_init(&rig);
	channel_rig_join(&rig, -1);
	channel_rig_settle(&rig);
	/* While both beat nothing happens, for ever. */
	for (unsigned i = 0; i < 100; i++) {
		clock_advance(&rig.clock, 400 * RIG_MS);
		channel_rig_settle(&rig);
		assert_false(rig.ends[0].is_down || rig.ends[1].is_down);
	}
	/* One hangs: its socket is open, and takes bytes. */
	uint64_t heard_us = clock_now_us(&rig.clock);
	while (!rig.ends[0].is_down) {
		clock_advance(&rig.clock, 100 * RIG_MS);
		while (channel_step(rig.ends[0].channel, clock_now_us(&rig.clock)))
			;
		assert_true(clock_now_us(&rig.clock) <= heard_us + 2100 * RIG_MS);
	}
	assert_int_equal(rig.ends[0].result, -ETIMEDOUT);
	channel_rig_finish(&rig);
}

static void the_round_trip_is_measured(void **unused)
{
	(void)unused;
	channel_rig_init(&rig);
	channel_rig_join(&rig, -1);
	while (!rig.ends[0].is_up || !rig.ends[1].is_up)
		(void)channel_rig_step(&rig);
	clock_advance(&rig.clock, 500 * RIG_MS);
	(void)channel_step(rig.ends[0].channel, clock_now_us(&rig.clock));
	clock_advance(&rig.clock, 3 * RIG_MS);
	(void)channel_step(rig.ends[1].channel, clock_now_us(&rig.clock));
	(void)channel_step(rig.ends[0].channel, clock_now_us(&rig.clock));
	assert_int_equal(channel_round_trip_us(rig.ends[0].channel), 3 * RIG_MS);
	channel_rig_finish(&rig);
}

static void a_node_that_does_not_read_fills_a_bounded_buffer(void **unused)
{
	struct peer_frame_header frame;
	unsigned taken = 0;

	(void)unused;
	channel_rig_init(&rig);
	channel_rig_join(&rig, -1);
	channel_rig_settle(&rig);
	peer_frame_start(&frame, PEER_RELEASE, sizeof(frame), 1);
	while (channel_send(rig.ends[0].channel, &frame) == 0) {
		taken++;
		(void)channel_step(rig.ends[0].channel, clock_now_us(&rig.clock));
		assert_true(taken < 1000000);
	}
	/* Nothing is lost once it reads. */
	channel_rig_settle(&rig);
	assert_int_equal(rig.ends[1].frames, taken);
	channel_rig_finish(&rig);
}

/* ---- pieces ---- */

static void bytes_come_one_at_a_time(void **unused)
{
	int pair[2];
	uint8_t byte;

	(void)unused;
	channel_rig_init(&rig);
	channel_rig_join(&rig, 0);
	/* A second pair of ends behind the first: what one says reaches the other byte by byte. */
	struct channel_rig *other = calloc(1, sizeof(*other));
	channel_rig_init(other);
	other->clock = rig.clock;
	channel_rig_join(other, 1);
	pair[0] = rig.ends[0].fd;
	pair[1] = other->ends[1].fd;
	for (unsigned i = 0; i < 100000 && !(rig.ends[1].is_up && other->ends[0].is_up); i++) {
		(void)channel_rig_step(&rig);
		(void)channel_rig_step(other);
		for (unsigned k = 0; k < 2; k++)
			if (recv(pair[k], &byte, 1, MSG_DONTWAIT) == 1)
				assert_int_equal(send(pair[1 - k], &byte, 1, MSG_DONTWAIT), 1);
	}
	assert_true(rig.ends[1].is_up && other->ends[0].is_up);
	channel_rig_finish(other);
	free(other);
	channel_rig_finish(&rig);
}

static void a_connection_may_end_at_any_byte(void **unused)
{
	struct peer_hello hello = { .boot_id = 5 };

	(void)unused;
	peer_frame_start(&hello.header, PEER_HELLO, sizeof(hello), 0);
	hello.version_max = 1;
	hello.version_min = 1;
	for (size_t bytes = 0; bytes <= sizeof(hello); bytes++) {
		channel_rig_init(&rig);
		channel_rig_join(&rig, 0);
		channel_rig_settle(&rig);
		if (bytes > 0)
			tell(0, &hello, bytes);
		close(rig.ends[0].fd);
		rig.ends[0].fd = -1;
		channel_rig_settle(&rig);
		assert_true(rig.ends[1].is_down);
		assert_false(rig.ends[1].is_up);
		channel_rig_finish(&rig);
	}
}

static void an_end_is_told_to_the_other_side(void **unused)
{
	(void)unused;
	channel_rig_init(&rig);
	channel_rig_join(&rig, -1);
	channel_rig_settle(&rig);
	channel_end(rig.ends[0].channel, -ESHUTDOWN, "this node \x1b[31mstops");
	channel_rig_settle(&rig);
	assert_int_equal(rig.ends[0].result, -ESHUTDOWN);
	assert_int_equal(rig.ends[1].result, -ESHUTDOWN);
	assert_string_equal(rig.ends[1].reason, "refused by the other node: this node ?[31mstops");
	assert_int_equal(channel_send(rig.ends[1].channel,
				      &(struct peer_frame_header){ .bytes = 24 }),
			 -ENOTCONN);
	channel_rig_finish(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_sides_know_each_other_and_talk),
		cmocka_unit_test(a_secret_is_changed_without_a_pause),
		cmocka_unit_test(who_does_not_belong_there_is_told_why),
		cmocka_unit_test(another_version_is_refused_by_name),
		cmocka_unit_test(a_proof_that_is_reflected_proves_nothing),
		cmocka_unit_test(a_handshake_that_is_played_again_proves_nothing),
		cmocka_unit_test(who_changes_a_greeting_is_noticed),
		cmocka_unit_test(words_without_a_handshake_are_not_heard),
		cmocka_unit_test(who_says_nothing_is_given_up),
		cmocka_unit_test(a_node_that_falls_silent_is_noticed),
		cmocka_unit_test(the_round_trip_is_measured),
		cmocka_unit_test(a_node_that_does_not_read_fills_a_bounded_buffer),
		cmocka_unit_test(bytes_come_one_at_a_time),
		cmocka_unit_test(a_connection_may_end_at_any_byte),
		cmocka_unit_test(an_end_is_told_to_the_other_side),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
