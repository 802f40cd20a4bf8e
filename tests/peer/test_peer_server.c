/* tests/peer/test_peer_server.c: what two servers do for their daemons while nothing goes wrong,
 * and how connections become sessions. */
#include "tests/peer/peer_rig.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

static struct node *const first = &rig.nodes[0], *const second = &rig.nodes[1];

static void meet(const struct rig_options *options)
{
	rig_open(options);
	rig_connect(first, 0, second->address);
	AWAIT(first->sessions[0].is_up && rig_up(second) < PEER_SESSIONS_MAX);
	assert_int_equal(rig_up(second), PEER_SESSIONS_ASKED);
}

/* From one node's arena into the other's. */
static void bytes_go(struct node *from, struct node *to, uint64_t bytes, uint64_t tag)
{
	rig_fill(from->arena + 3, bytes, tag);
	memset(to->arena, 0xee, bytes + 8);
	rig_transfer(to, true, 5, rig_up(to), tag, 1, bytes);
	rig_transfer(from, false, 6, rig_up(from), tag, 3, bytes);
	AWAIT(to->ends[5] == 1 && from->ends[6] == 1);
	assert_int_equal(to->results[5], 0);
	assert_int_equal(from->results[6], 0);
	assert_true(rig_is_filled(to->arena + 1, bytes, tag));
	assert_int_equal(to->arena[0], 0xee);
	assert_int_equal(to->arena[bytes + 1], 0xee);
}

static void both_ways(bool is_encrypted)
{
	static const uint64_t sizes[] = { 1, 4095, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 7 * MIB + 5 };

	meet(&(struct rig_options){ .is_encrypted = is_encrypted });
	for (unsigned n = 0; n < sizeof(sizes) / sizeof(sizes[0]); n++) {
		bytes_go(first, second, sizes[n], 10 + n);
		bytes_go(second, first, sizes[n], 10 + n);
	}
	rig_close();
}

static void bytes_go_both_ways(void **unused)
{
	(void)unused;
	both_ways(false);
}

static void enciphered_bytes_go_both_ways(void **unused)
{
	(void)unused;
	both_ways(true);
}

static void bytes_go_by_tcp(void **unused)
{
	static const uint64_t sizes[] = { 1, 2 * MIB, 31 * MIB };

	(void)unused;
	for (unsigned way = 0; way < 4; way++) {
		meet(&(struct rig_options){ .is_encrypted = way % 2 == 1, .is_swapped = way > 1,
					    .first = { &transport_tcp },
					    .second = { &transport_tcp } });
		for (unsigned n = 0; n < sizeof(sizes) / sizeof(sizes[0]); n++) {
			bytes_go(first, second, sizes[n], 10 + n);
			bytes_go(second, first, sizes[n], 10 + n);
		}
		rig_close();
	}
}

static void each_hears_who_the_other_is_and_how_the_line_does(void **unused)
{
	(void)unused;
	meet(&(struct rig_options){ 0 });
	assert_string_equal(first->sessions[0].up.hello.name, "node 2");
	assert_string_equal(first->sessions[0].up.address, second->address);
	assert_string_equal(first->sessions[0].up.transport, "fake");
	assert_string_equal(second->sessions[PEER_SESSIONS_ASKED].up.hello.name, "node 1");
	bytes_go(first, second, 100, 1);
	for (unsigned n = 0; n < 100; n++) {
		rig.added_us += 30000;
		rig_turn();
	}
	AWAIT(first->sessions[0].line.sent_bytes == 100 &&
	      first->sessions[0].line.round_trip_us > 0);
	assert_int_equal(first->sessions[0].line.placed_bytes, 0);
	rig_close();
}

static void frames_say(struct node *node, uint32_t session, unsigned count)
{
	struct peer_message message = { .verb = PEER_SAY, .number = session,
					.life = node->sessions[session].life };
	struct peer_frame_header header = { .magic = PEER_FRAME_MAGIC, .type = PEER_GRANT,
					    .bytes = PEER_FRAME_BYTES_MAX,
					    .result = -EPERM }; /* a sentence follows */

	for (unsigned n = 0; n < count; n++) {
		header.number = n;
		memcpy(message.frame, &header, sizeof(header));
		rig_tell(node, message);
	}
}

/* More than a channel holds: the rest waits here. */
static void frames_go_both_ways_in_order(void **unused)
{
	struct peer_frame_header last;

	(void)unused;
	meet(&(struct rig_options){ 0 });
	frames_say(first, 0, 200);
	frames_say(second, PEER_SESSIONS_ASKED, 200);
	AWAIT(second->sessions[PEER_SESSIONS_ASKED].frames == 200 &&
	      first->sessions[0].frames == 200);
	memcpy(&last, first->sessions[0].frame, sizeof(last));
	assert_int_equal(last.number, 199);
	assert_true(first->sessions[0].is_up);
	rig_close();
}

/* Whom it will be for is not known yet: it connects itself, to somebody who says nothing. */
static int unsettled_meet(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t bytes = sizeof(address);
	char silent[40];
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&address, bytes), 0);
	assert_int_equal(listen(fd, 4), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &bytes), 0);
	snprintf(silent, sizeof(silent), "127.0.0.1:%u", ntohs(address.sin_port));
	rig_open(&(struct rig_options){ 0 });
	rig_connect(second, 1, silent);
	rig_connect(first, 0, second->address);
	AWAIT(first->sessions[0].is_up);
	assert_int_equal(rig_up(second), PEER_SESSIONS_MAX);
	return fd;
}

static void what_is_said_before_a_session_is_up_waits(void **unused)
{
	int fd = unsettled_meet();

	(void)unused;
	frames_say(first, 0, HELD_MAX);
	for (unsigned n = 0; n < 100; n++)
		rig_turn();
	assert_int_equal(rig_up(second), PEER_SESSIONS_MAX);
	rig.added_us += 1000000;
	AWAIT(second->sessions[PEER_SESSIONS_ASKED].frames == HELD_MAX);
	frames_say(first, 0, 1);
	AWAIT(second->sessions[PEER_SESSIONS_ASKED].frames == HELD_MAX + 1);
	rig_close();
	close(fd);
	fd = unsettled_meet();
	frames_say(first, 0, HELD_MAX + 1);
	AWAIT(first->sessions[0].downs == 1);
	assert_non_null(strstr(first->sessions[0].reason, "said more than can be listened to"));
	rig_close();
	close(fd);
}

static void a_frame_of_another_life_is_dropped(void **unused)
{
	(void)unused;
	meet(&(struct rig_options){ 0 });
	first->sessions[0].life += 7;
	frames_say(first, 0, 1);
	first->sessions[0].life -= 7;
	frames_say(first, 0, 1);
	AWAIT(second->sessions[PEER_SESSIONS_ASKED].frames > 0);
	assert_int_equal(second->sessions[PEER_SESSIONS_ASKED].frames, 1);
	rig_close();
}

static unsigned links_count(void)
{
	unsigned count = 0;

	while (fake_transport_links(count) != NULL)
		count++;
	return count;
}

static void both_connect(bool is_swapped)
{
	rig_open(&(struct rig_options){ .is_swapped = is_swapped });
	rig_connect(first, 0, second->address);
	rig_connect(second, 0, first->address);
	AWAIT(first->sessions[0].is_up && second->sessions[0].is_up);
	/* And so it stays. */
	for (unsigned n = 0; n < 200; n++) {
		rig.added_us += 20000;
		rig_turn();
	}
	assert_int_equal(first->sessions[0].downs + second->sessions[0].downs, 0);
	assert_int_equal(rig_up(first), 0);
	assert_int_equal(links_count(), 2); /* two ends of one */
	assert_false(first->sessions[PEER_SESSIONS_ASKED].is_up ||
		     second->sessions[PEER_SESSIONS_ASKED].is_up);
	bytes_go(first, second, 5 * MIB, 3);
	rig_close();
}

static void of_two_connections_begun_at_once_one_is_kept(void **unused)
{
	(void)unused;
	for (unsigned n = 0; n < 20; n++)
		both_connect(n % 2 == 1);
}

/* The other side has long connected when we are told to. */
static void a_session_that_was_accepted_becomes_the_one_that_is_asked_for(void **unused)
{
	(void)unused;
	for (unsigned n = 0; n < 10; n++) {
		meet(&(struct rig_options){ .is_swapped = n % 2 == 1 });
		rig_connect(second, 0, first->address);
		AWAIT(second->sessions[0].is_up && first->sessions[0].is_up);
		assert_int_equal(first->sessions[0].downs, 0); /* it has another number, no more */
		for (unsigned turns = 0; turns < 50; turns++)
			rig_turn();
		assert_int_equal(rig_up(second), 0);
		assert_false(second->sessions[PEER_SESSIONS_ASKED].is_up);
		bytes_go(second, first, MIB, 4);
		rig_close();
	}
}

static void a_session_in_use_is_ended_for_the_one_that_is_asked_for(void **unused)
{
	(void)unused;
	for (unsigned n = 0; n < 10; n++) {
		meet(&(struct rig_options){ .is_swapped = n % 2 == 1 });
		frames_say(first, 0, 1);
		AWAIT(second->sessions[PEER_SESSIONS_ASKED].frames == 1);
		rig_connect(second, 0, first->address);
		AWAIT(second->sessions[PEER_SESSIONS_ASKED].downs == 1);
		AWAIT(second->sessions[0].is_up && first->sessions[0].is_up);
		assert_int_equal(rig_up(second), 0);
		assert_false(second->sessions[PEER_SESSIONS_ASKED].is_up);
		bytes_go(second, first, MIB, 4);
		rig_close();
	}
}

static void two_addresses_of_one_node_are_one_session(void **unused)
{
	char other[80];

	(void)unused;
	meet(&(struct rig_options){ 0 });
	snprintf(other, sizeof(other), "localhost%s", strchr(second->address, ':'));
	rig_connect(first, 1, other);
	AWAIT(first->sessions[1].news == 1);
	assert_non_null(strstr(first->sessions[1].reason, "is the same node as 127.0.0.1:"));
	assert_int_equal(first->sessions[0].downs, 0);
	rig_close();
}

static void a_node_with_our_own_id_is_refused(void **unused)
{
	(void)unused;
	rig_open(&(struct rig_options){ .is_same_node = true });
	rig_connect(first, 0, second->address);
	AWAIT(first->sessions[0].news == 1);
	assert_non_null(strstr(first->sessions[0].reason, "our own node id"));
	rig_close();
}

static void forget(struct node *node, uint32_t session)
{
	rig_tell(node, (struct peer_message){ .verb = PEER_FORGET, .number = session });
}

static void a_forgotten_number_is_free_again(void **unused)
{
	(void)unused;
	meet(&(struct rig_options){ 0 });
	rig_transfer(first, true, 9, 0, 77, 0, 100);
	forget(first, 0);
	AWAIT(first->sessions[0].forgotten == 1);
	assert_int_equal(first->ends[9], 1);
	assert_int_equal(first->sessions[0].downs, 1);
	AWAIT(!second->sessions[PEER_SESSIONS_ASKED].is_up);
	rig_connect(first, 0, second->address);
	AWAIT(first->sessions[0].is_up);
	/* One that was never up, and one that they made. */
	rig_connect(first, 1, "no-such-name.invalid:1");
	forget(first, 1);
	forget(second, rig_up(second));
	AWAIT(first->sessions[1].forgotten == 1 &&
	      second->sessions[PEER_SESSIONS_ASKED].forgotten == 1);
	AWAIT(first->sessions[0].is_up && rig_up(second) < PEER_SESSIONS_MAX);
	rig_close();
}

static void a_name_without_an_address_is_news_once(void **unused)
{
	(void)unused;
	rig_open(&(struct rig_options){ 0 });
	rig_connect(first, 0, "no-such-name.invalid:4711");
	AWAIT(first->sessions[0].news == 1);
	assert_non_null(strstr(first->sessions[0].reason, "no-such-name.invalid:4711"));
	for (unsigned n = 0; n < 50; n++) {
		rig.added_us += 11000000;
		rig_turn();
	}
	assert_int_equal(first->sessions[0].news, 1);
	rig_close();
}

static void nobody_there_is_tried_again_ever_more_rarely(void **unused)
{
	const struct session *session;
	uint64_t before_us = 0;

	(void)unused;
	rig_open(&(struct rig_options){ 0 });
	rig_connect(first, 0, "127.0.0.1:1");
	session = &first->server->sessions[0];
	for (unsigned attempts = 1; attempts < 12; attempts++) {
		AWAIT(session->attempts == attempts && session->state == SESSION_RESTING);
		assert_true(session->backoff_us > before_us ||
			    session->backoff_us == PEER_BACKOFF_US_MAX);
		before_us = session->backoff_us;
		rig.added_us += PEER_BACKOFF_US_MAX;
	}
	assert_int_equal(before_us, PEER_BACKOFF_US_MAX);
	assert_int_equal(first->sessions[0].news, 1);
	assert_non_null(strstr(first->sessions[0].reason, "refused"));
	rig_close();
}

static void a_transport_that_both_have_is_found(void **unused)
{
	(void)unused;
	rig_open(&(struct rig_options){ .first = { &fake_transport_other, &fake_transport } });
	rig_connect(first, 0, second->address);
	AWAIT(first->sessions[0].news == 1);
	assert_non_null(strstr(first->sessions[0].reason,
			       "speaks other, which we do not: setting peer_transport"));
	rig.added_us += PEER_BACKOFF_US_MIN;
	AWAIT(first->sessions[0].is_up);
	assert_string_equal(first->sessions[0].up.transport, "fake");
	bytes_go(first, second, 3 * MIB, 3);
	rig_close();
}

static int stranger(const char *address)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				  .sin_port = htons((uint16_t)atoi(strchr(address, ':') + 1)) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	return fd;
}

static bool is_closed(int fd)
{
	char bytes[512];
	ssize_t got;

	while ((got = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
		;
	return got == 0 || errno != EAGAIN;
}

static void strangers_are_few_and_do_not_stay(void **unused)
{
	int fds[PEER_STRANGERS_MAX + 4];
	unsigned count = sizeof(fds) / sizeof(fds[0]);

	(void)unused;
	rig_open(&(struct rig_options){ 0 });
	for (unsigned n = 0; n < count; n++) {
		fds[n] = stranger(first->address);
		rig_turn();
	}
	AWAIT(is_closed(fds[count - 1]));
	assert_false(is_closed(fds[0]));
	rig.added_us += PEER_CONNECT_US_MAX;
	AWAIT(is_closed(fds[0]));
	rig.added_us += PEER_CONNECT_US_MAX;
	rig_connect(second, 0, first->address);
	AWAIT(second->sessions[0].is_up);
	for (unsigned n = 0; n < count; n++)
		close(fds[n]);
	rig_close();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_go_both_ways),
		cmocka_unit_test(enciphered_bytes_go_both_ways),
		cmocka_unit_test(bytes_go_by_tcp),
		cmocka_unit_test(each_hears_who_the_other_is_and_how_the_line_does),
		cmocka_unit_test(frames_go_both_ways_in_order),
		cmocka_unit_test(what_is_said_before_a_session_is_up_waits),
		cmocka_unit_test(a_frame_of_another_life_is_dropped),
		cmocka_unit_test(of_two_connections_begun_at_once_one_is_kept),
		cmocka_unit_test(a_session_that_was_accepted_becomes_the_one_that_is_asked_for),
		cmocka_unit_test(a_session_in_use_is_ended_for_the_one_that_is_asked_for),
		cmocka_unit_test(two_addresses_of_one_node_are_one_session),
		cmocka_unit_test(a_node_with_our_own_id_is_refused),
		cmocka_unit_test(a_forgotten_number_is_free_again),
		cmocka_unit_test(a_name_without_an_address_is_news_once),
		cmocka_unit_test(nobody_there_is_tried_again_ever_more_rarely),
		cmocka_unit_test(a_transport_that_both_have_is_found),
		cmocka_unit_test(strangers_are_few_and_do_not_stay),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
