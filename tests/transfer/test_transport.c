/* tests/transfer/test_transport.c: bytes between two nodes, by each back end: all of them, where
 * they belong, once; and nobody's memory is touched after it was given back. */
#include "tests/transfer/transport_rig.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <arpa/inet.h>
#include <unistd.h>

static void every_size_arrives_whole_both_ways(void **unused)
{
	const uint32_t sizes[] = { 0, 1, 63, 64, 65, 4095, 4096, 65536, 262143, 262144, 262145,
				   1048576, TRANSPORT_PAYLOAD_MAX - 1, TRANSPORT_PAYLOAD_MAX };
	const unsigned count = sizeof(sizes) / sizeof(sizes[0]);
	uint8_t *sources[2][sizeof(sizes) / sizeof(sizes[0])];

	(void)unused;
	pair_join();
	for (unsigned from = 0; from < 2; from++) {
		for (unsigned i = 0; i < count; i++) {
			sources[from][i] = malloc(sizes[i] + 1);
			rig_pattern(sources[from][i], sizes[i], from * 100 + i);
			pair.sides[1 - from].places[i] = malloc(sizes[i] + 1);
			pair.sides[1 - from].places[i][sizes[i]] = 0x5a;
			rig_send_begin(from, i, sources[from][i], sizes[i]);
		}
	}
	UNTIL(pair.sides[0].arrived_count == count && pair.sides[1].arrived_count == count &&
	      pair.sides[0].sends_under_way + pair.sides[1].sends_under_way == 0);
	for (unsigned to = 0; to < 2; to++) {
		for (unsigned i = 0; i < count; i++) {
			assert_int_equal(pair.sides[to].arrived[i], 0);
			assert_int_equal(pair.sides[to].arrivals[i], 1);
			assert_int_equal(pair.sides[1 - to].sent[i], 0);
			assert_int_equal(pair.sides[1 - to].sent_times[i], 1);
			assert_memory_equal(pair.sides[to].places[i], sources[1 - to][i], sizes[i]);
			assert_int_equal(pair.sides[to].places[i][sizes[i]], 0x5a);
		}
	}
	pair_finish();
	for (unsigned side = 0; side < 2; side++)
		for (unsigned i = 0; i < count; i++) {
			free(sources[side][i]);
			free(pair.sides[side].places[i]);
		}
}

static void thousands_of_messages_some_of_them_unwanted(void **unused)
{
	uint8_t *source = malloc(1u << 20), *target = malloc(MESSAGES_MAX * 257u);

	(void)unused;
	rig_pattern(source, 1u << 20, 9);
	pair_join();
	for (unsigned i = 0; i < MESSAGES_MAX; i++) {
		uint32_t bytes = i % 7 == 0 ? (1u << 20) - i % 64 : i % 257;

		/* Long ones are wanted by nobody. */
		if (i % 7 != 0)
			pair.sides[1].places[i] = target + i * 257u;
		rig_send_begin(0, i, source + i % 64, bytes);
	}
	UNTIL(pair.sides[1].arrived_count == MESSAGES_MAX);
	for (unsigned i = 0; i < MESSAGES_MAX; i++) {
		assert_int_equal(pair.sides[1].arrivals[i], 1);
		if (i % 7 != 0)
			assert_memory_equal(target + i * 257u, source + i % 64, i % 257);
	}
	pair_finish();
	free(source);
	free(target);
}

static void a_link_that_is_closed_gives_everything_back(void **unused)
{
	uint8_t *memory = mmap(NULL, 64u << 20, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)unused;
	assert_ptr_not_equal(memory, MAP_FAILED);
	for (unsigned closer = 0; closer < 2; closer++) {
		for (unsigned passes = 0; passes < 40; passes += 3) {
			pair_join();
			for (unsigned i = 0; i < 16; i++) {
				pair.sides[1].places[i] = memory + (32u << 20) +
							  i * TRANSPORT_PAYLOAD_MAX;
				rig_send_begin(0, i, memory + i * TRANSPORT_PAYLOAD_MAX,
					   TRANSPORT_PAYLOAD_MAX);
			}
			for (unsigned i = 0; i < passes; i++)
				(void)rig_step();
			pair.ops->close(pair.sides[closer].link, -ECANCELED, "the test closes it");
			UNTIL(pair.sides[0].is_down && pair.sides[1].is_down);
			/* From now on who touches it dies. */
			assert_int_equal(mprotect(memory, 64u << 20, PROT_NONE), 0);
			for (unsigned i = 0; i < 50; i++)
				(void)rig_step();
			assert_int_equal(mprotect(memory, 64u << 20, PROT_READ | PROT_WRITE), 0);
			for (unsigned i = 0; i < 16; i++)
				assert_int_equal(pair.sides[0].sent_times[i], 1);
			assert_int_equal(pair.sides[closer].result, -ECANCELED);
			pair_finish();
		}
	}
	munmap(memory, 64u << 20);
}

static void a_link_may_be_closed_by_what_arrives(void **unused)
{
	static uint8_t source[100000], target[100000];

	(void)unused;
	pair_join();
	pair.sides[1].closes_when_it_arrives = true;
	for (unsigned i = 0; i < 20; i++) {
		pair.sides[1].places[i] = target;
		rig_send_begin(0, i, source, sizeof(source));
	}
	UNTIL(pair.sides[0].is_down && pair.sides[1].is_down);
	pair_finish();
}

static void a_wrong_token_opens_nothing(void **unused)
{
	uint8_t address[TRANSPORT_ADDRESS_BYTES_MAX], wrong[TRANSPORT_TOKEN_BYTES];
	struct side *one = &pair.sides[0], *other = &pair.sides[1];
	struct error error;

	(void)unused;
	pair_open();
	uint32_t bytes = pair.ops->address(other->transport, "127.0.0.1", address);
	memcpy(wrong, pair.token, sizeof(wrong));
	wrong[31] ^= 1;
	assert_int_equal(pair.ops->expect(other->transport, pair.token, &rig_events, other,
					  &other->link, &error),
			 0);
	assert_int_equal(pair.ops->connect(one->transport, address, bytes, wrong, &rig_events, one,
					   &one->link, &error),
			 0);
	/* UCX's own port answers everybody, but not with our token: only time tells. */
	if (tested == &transport_ucx) {
		for (unsigned i = 0; i < 1000; i++)
			(void)rig_step();
		clock_advance(&pair.clock, IDLE_US);
	}
	UNTIL(one->is_down);
	assert_false(one->is_up || other->is_up || other->is_down);
	/* The right one does, and once. */
	one->is_down = false;
	assert_int_equal(pair.ops->connect(one->transport, address, bytes, pair.token,
					   &rig_events, one,
					   &one->link, &error),
			 0);
	UNTIL(one->is_up && other->is_up);
	pair_finish();
}

static void an_address_of_somebody_else_is_refused(void **unused)
{
	const char *wrong[] = { "", ":", "127.0.0.1", "host.example:12", "127.0.0.1:99999x",
				"127.0.0.1:0:", "[::1:44" };
	struct error error;
	struct transport_link *link;

	(void)unused;
	pair_open();
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_true(pair.ops->connect(pair.sides[0].transport, (const uint8_t *)wrong[i],
					      (uint32_t)strlen(wrong[i]), pair.token, &rig_events,
					      &pair.sides[0], &link, &error) < 0);
	pair_finish();
}

static void a_link_that_does_not_move_ends(void **unused)
{
	static uint8_t source[TRANSPORT_PAYLOAD_MAX];
	struct side *one = &pair.sides[0];

	(void)unused;
	pair_join();
	/* The other side hangs. */
	for (unsigned i = 0; i < 64; i++)
		rig_send_begin(0, i, source, sizeof(source));
	for (unsigned i = 0; i < 1000; i++)
		(void)pair.ops->step(one->transport, clock_now_us(&pair.clock));
	assert_false(one->is_down);
	clock_advance(&pair.clock, IDLE_US - 1);
	(void)pair.ops->step(one->transport, clock_now_us(&pair.clock));
	assert_false(one->is_down);
	clock_advance(&pair.clock, SECOND);
	(void)pair.ops->step(one->transport, clock_now_us(&pair.clock));
	(void)pair.ops->step(one->transport, clock_now_us(&pair.clock));
	assert_true(one->is_down);
	assert_int_equal(one->result, -ETIMEDOUT);
	pair_finish();
}

static void an_idle_link_stays(void **unused)
{
	static uint8_t source[1000], target[1000];

	(void)unused;
	pair_join();
	for (unsigned i = 0; i < 10; i++) {
		clock_advance(&pair.clock, IDLE_US);
		for (unsigned k = 0; k < 10; k++)
			(void)rig_step();
	}
	assert_false(pair.sides[0].is_down || pair.sides[1].is_down);
	pair.sides[1].places[0] = target;
	rig_send_begin(0, 0, source, sizeof(source));
	UNTIL(pair.sides[1].arrived_count == 1);
	pair_finish();
}

/* ---- TCP only: who speaks another language ---- */

static int stranger_connect(void)
{
	uint8_t address[TRANSPORT_ADDRESS_BYTES_MAX];
	uint32_t bytes = pair.ops->address(pair.sides[1].transport, "127.0.0.1", address);
	struct sockaddr_in place = { .sin_family = AF_INET };
	char *port;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	address[bytes] = 0;
	port = strrchr((char *)address, ':');
	place.sin_port = htons((uint16_t)atoi(port + 1));
	place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(connect(fd, (struct sockaddr *)&place, sizeof(place)), 0);
	return fd;
}

static bool is_closed(int fd)
{
	char byte;
	ssize_t got = recv(fd, &byte, 1, MSG_DONTWAIT);

	return got == 0 || (got < 0 && errno != EAGAIN);
}

static void strangers_are_few_and_soon_gone(void **unused)
{
	int fds[TRANSPORT_STRANGERS_MAX + 5];
	unsigned closed = 0;

	(void)unused;
	pair_open();
	for (unsigned i = 0; i < TRANSPORT_STRANGERS_MAX + 5; i++) {
		fds[i] = stranger_connect();
		for (unsigned k = 0; k < 20; k++)
			(void)rig_step();
	}
	for (unsigned i = 0; i < TRANSPORT_STRANGERS_MAX + 5; i++)
		closed += is_closed(fds[i]);
	assert_int_equal(closed, 5);
	clock_advance(&pair.clock, TRANSPORT_TOKEN_US);
	for (unsigned k = 0; k < 20; k++)
		(void)rig_step();
	for (unsigned i = 0; i < TRANSPORT_STRANGERS_MAX + 5; i++) {
		assert_true(is_closed(fds[i]));
		close(fds[i]);
	}
	/* There is room for who belongs there. */
	pair_connect();
	UNTIL(pair.sides[0].is_up && pair.sides[1].is_up);
	pair_finish();
}

static void garbage_is_no_token(void **unused)
{
	char garbage[400];

	(void)unused;
	pair_open();
	memset(garbage, 'x', sizeof(garbage));
	int fd = stranger_connect();
	assert_int_equal(send(fd, garbage, sizeof(garbage), MSG_NOSIGNAL), sizeof(garbage));
	UNTIL(is_closed(fd));
	close(fd);
	pair_finish();
}

/* The other node: connects to the address that it is told, and sends for as long as it lives. */
static void node_live(int address_fd, const uint8_t *payload, uint32_t payload_bytes)
{
	struct side *two = &pair.sides[1];
	uint8_t address[TRANSPORT_ADDRESS_BYTES_MAX];
	struct error error;

	pair_open_side(1);
	ssize_t bytes = read(address_fd, address, sizeof(address));
	if (bytes <= 0 || pair.ops->connect(two->transport, address, (uint32_t)bytes, pair.token,
					    &rig_events, two, &two->link, &error) < 0)
		_exit(1);
	for (unsigned i = 0; i < MESSAGES_MAX; i++)
		rig_send_begin(1, i, payload, payload_bytes);
	for (;;)
		if (!rig_step())
			rig_wait_a_little();
}

static void a_node_that_is_killed_ends_the_link(void **unused)
{
	static uint8_t target[TRANSPORT_PAYLOAD_MAX];
	struct side *one = &pair.sides[0];
	uint8_t address[TRANSPORT_ADDRESS_BYTES_MAX];
	struct error error;
	int address_fds[2];

	(void)unused;
	/* UCX does not survive a fork, so it comes before. */
	pair_begin();
	assert_int_equal(pipe(address_fds), 0);
	pid_t child = fork();
	if (child == 0)
		node_live(address_fds[0], target, sizeof(target));
	assert_true(child > 0);
	pair_open_side(0);
	assert_int_equal(pair.ops->expect(one->transport, pair.token, &rig_events, one, &one->link,
					  &error),
			 0);
	for (unsigned i = 0; i < MESSAGES_MAX; i++) {
		one->places[i] = target;
		one->bytes[i] = sizeof(target);
	}
	uint32_t bytes = pair.ops->address(one->transport, "127.0.0.1", address);
	assert_int_equal(write(address_fds[1], address, bytes), bytes);
	UNTIL(one->arrived_count > 3);
	kill(child, SIGKILL);
	UNTIL(one->is_down);
	assert_int_equal(waitpid(child, NULL, 0), child);
	close(address_fds[0]);
	close(address_fds[1]);
	pair_finish();
}

#define OF_EVERY_BACK_END                                                                          \
	cmocka_unit_test(every_size_arrives_whole_both_ways),                                      \
	cmocka_unit_test(thousands_of_messages_some_of_them_unwanted),                             \
	cmocka_unit_test(a_link_that_is_closed_gives_everything_back),                             \
	cmocka_unit_test(a_link_may_be_closed_by_what_arrives),                                    \
	cmocka_unit_test(a_wrong_token_opens_nothing),                                             \
	cmocka_unit_test(an_address_of_somebody_else_is_refused),                                  \
	cmocka_unit_test(a_link_that_does_not_move_ends),                                          \
	cmocka_unit_test(an_idle_link_stays),                                                      \
	cmocka_unit_test(a_node_that_is_killed_ends_the_link)

#if defined(__SANITIZE_THREAD__)
#define IS_THREAD_SANITIZED true
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define IS_THREAD_SANITIZED true
#endif
#endif
#ifndef IS_THREAD_SANITIZED
#define IS_THREAD_SANITIZED false
#endif

int main(void)
{
	/* UCX's hooks in memory calls run while a thread ends, when the sanitizer has left it. */
	if (IS_THREAD_SANITIZED) {
		(void)setenv("UCX_MEM_EVENTS", "n", 1);
		(void)setenv("UCX_MEM_MMAP_HOOK_MODE", "none", 1);
	}
	const struct CMUnitTest tcp[] = {
		OF_EVERY_BACK_END,
		cmocka_unit_test(strangers_are_few_and_soon_gone),
		cmocka_unit_test(garbage_is_no_token),
	};
	const struct CMUnitTest ucx[] = { OF_EVERY_BACK_END };
	int failed;

	tested = &transport_tcp;
	failed = cmocka_run_group_tests_name("tcp", tcp, NULL, NULL);
	tested = &transport_ucx;
	failed += cmocka_run_group_tests_name("ucx", ucx, NULL, NULL);
	return failed;
}
