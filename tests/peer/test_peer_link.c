/*
 * tests/peer/test_peer_link.c: two daemons' ends, each with its peer process, over real channels
 * and the tests' transport. The peer process is this program again, with --worker peer.
 */
#include "daemon/peer_link.h"
#include "tests/peer/peer_rig.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define BYTES (UINT64_C(5) << 20)
#define ARENA (UINT64_C(16) << 20)
#define TRANSFERS 64u
#define AWAIT_SECONDS 20u

struct noted {
	struct peer_transfer transfer;
	unsigned ends;
	int result;
};

static struct end {
	struct peer_link *link;
	char address[64];
	int arena_fd;
	uint8_t *arena;
	uint32_t session; /* that is up */
	uint32_t life;
	bool is_up, is_ours;
	unsigned ups, downs, frames;
	int down_result;
	char reason[PEER_TEXT_BYTES], name[PEER_NAME_BYTES];
	uint64_t frame_number;
	unsigned resolved;
	int resolve_result;
	char found[PEER_FRAME_BYTES_MAX];
	struct noted transfers[TRANSFERS];
} ends[2];
static struct end *const left = &ends[0], *const right = &ends[1];

/* ---- what the links say ---- */

static void up(void *owner, uint32_t session, uint32_t life, const struct peer_hello *hello,
	       const char *address, bool is_ours)
{
	struct end *end = owner;

	assert_false(end->is_up);
	assert_non_null(strchr(address, ':'));
	end->is_up = true;
	end->session = session;
	end->life = life;
	end->is_ours = is_ours;
	end->ups++;
	snprintf(end->name, sizeof(end->name), "%s", hello->name);
}

static void down(void *owner, uint32_t session, uint32_t life, int result, const char *reason)
{
	struct end *end = owner;

	snprintf(end->reason, sizeof(end->reason), "%s", reason);
	end->down_result = result;
	if (life == 0)
		return;
	assert_true(end->is_up && session == end->session && life == end->life);
	for (unsigned n = 0; n < TRANSFERS; n++)
		assert_true(end->transfers[n].transfer.bytes == 0 || end->transfers[n].ends == 1);
	end->is_up = false;
	end->downs++;
}

static void frame(void *owner, uint32_t session, uint32_t life, const void *bytes)
{
	struct end *end = owner;

	assert_true(end->is_up && session == end->session && life == end->life);
	end->frames++;
	end->frame_number = ((const struct peer_frame_header *)bytes)->number;
}

static const struct peer_events events = { .up = up, .down = down, .frame = frame };

static void resolved(void *owner, int result, const char *text)
{
	struct end *end = owner;

	end->resolved++;
	end->resolve_result = result;
	snprintf(end->found, sizeof(end->found), "%s", text);
}

static void done(struct peer_transfer *transfer, int result)
{
	struct noted *noted = (struct noted *)transfer;

	noted->ends++;
	noted->result = result;
}

/* ---- the pass ---- */

static void turn(void)
{
	struct pollfd waiting[2] = { { .events = POLLIN }, { .events = POLLIN } };
	bool may_wait = true;

	for (unsigned n = 0; n < 2; n++) {
		peer_link_step(ends[n].link, clock_now_us(clock_real()));
		waiting[n].fd = worker_fd(peer_link_worker(ends[n].link));
		may_wait = worker_sleep(peer_link_worker(ends[n].link)) && may_wait;
	}
	(void)poll(waiting, 2, may_wait ? 2 : 0);
	for (unsigned n = 0; n < 2; n++)
		worker_awake(peer_link_worker(ends[n].link));
}

#undef AWAIT
#define AWAIT(what)                                                                                \
	do {                                                                                       \
		uint64_t until_us = clock_now_us(clock_real()) + AWAIT_SECONDS * 1000000;          \
		bool is_so;                                                                        \
		while (!(is_so = (what)) && clock_now_us(clock_real()) < until_us)                 \
			turn();                                                                    \
		assert_true(is_so);                                                                \
	} while (0)

/* One that nobody has now. */
static uint16_t port_find(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t bytes = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&address, bytes), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &bytes), 0);
	close(fd);
	return ntohs(address.sin_port);
}

static void setup(struct end *end, uint8_t id, uint8_t secret)
{
	struct peer_hello hello = { .boot_id = 100 + id };
	uint8_t secrets[1][PEER_SECRET_BYTES];

	memset(hello.node, id, sizeof(hello.node));
	memset(secrets, secret, sizeof(secrets));
	snprintf(hello.name, sizeof(hello.name), "end %u", id);
	peer_link_setup(end->link, &hello, (const uint8_t (*)[PEER_SECRET_BYTES])secrets, 1);
}

static void end_open(struct end *end, uint8_t id, uint8_t secret)
{
	const struct peer_link_config config = { .listen = end->address, .transport = "auto",
						 .clock = clock_real(), .events = &events,
						 .resolved = resolved, .owner = end };
	struct error error;

	snprintf(end->address, sizeof(end->address), "127.0.0.1:%u", port_find());
	assert_int_equal(peer_link_create(&end->link, &config, &error), 0);
	setup(end, id, secret);
	end->arena_fd = memfd_create("test", MFD_CLOEXEC);
	assert_int_equal(ftruncate(end->arena_fd, (off_t)ARENA), 0);
	end->arena = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_SHARED, end->arena_fd, 0);
	peer_link_arena(end->link, 3, end->arena_fd, ARENA);
}

static void scene_open(uint8_t right_secret)
{
	memset(ends, 0, sizeof(ends));
	end_open(left, 1, 7);
	end_open(right, 2, right_secret);
}

static bool is_ready(const struct end *end)
{
	struct peer_link_status status;

	peer_link_status(end->link, &status);
	return status.is_ready;
}

static pid_t pid_of(const struct end *end)
{
	struct peer_link_status status;

	peer_link_status(end->link, &status);
	return status.pid;
}

static void meet(void)
{
	uint32_t session;

	scene_open(7);
	assert_int_equal(peer_ops_link.connect(left->link, right->address, &session), 0);
	AWAIT(left->is_up && right->is_up);
	assert_int_equal(left->session, session);
	assert_true(left->is_ours && !right->is_ours);
}

static void scene_close(void)
{
	for (unsigned n = 0; n < 2; n++) {
		peer_link_destroy(ends[n].link);
		munmap(ends[n].arena, ARENA);
		close(ends[n].arena_fd);
		assert_false(ends[n].is_up);
		for (unsigned i = 0; i < TRANSFERS; i++)
			assert_true(ends[n].transfers[i].transfer.bytes == 0 ||
				    ends[n].transfers[i].ends == 1);
	}
}

static int begin(struct end *end, unsigned number, bool is_place, uint64_t tag, uint64_t offset)
{
	struct noted *noted = &end->transfers[number];

	*noted = (struct noted){
		.transfer = { .session = end->session, .life = end->life, .tag = tag, .arena = 3,
			      .offset = offset, .bytes = BYTES,
			      .deadline_us = clock_now_us(clock_real()) + 60000000,
			      .is_place = is_place, .done = done },
		.result = NOT_YET,
	};
	int result = peer_ops_link.transfer(end->link, &noted->transfer);
	if (result < 0)
		*noted = (struct noted){ 0 };
	return result;
}

static void bytes_go(struct end *from, struct end *to, uint64_t tag)
{
	rig_fill(from->arena + 9, BYTES, tag);
	memset(to->arena, 0, ARENA);
	assert_int_equal(begin(to, 0, true, tag, 5), 0);
	assert_int_equal(begin(from, 1, false, tag, 9), 0);
	assert_int_equal(to->transfers[0].ends, 0);
	AWAIT(to->transfers[0].ends == 1 && from->transfers[1].ends == 1);
	assert_int_equal(to->transfers[0].result, 0);
	assert_int_equal(from->transfers[1].result, 0);
	assert_true(rig_is_filled(to->arena + 5, BYTES, tag));
}

/* ---- tests ---- */

static void bytes_go_through_four_processes(void **unused)
{
	struct peer_link_session shown;
	struct peer_link_status status;

	(void)unused;
	meet();
	assert_string_equal(left->name, "end 2");
	assert_string_equal(right->name, "end 1");
	bytes_go(left, right, 1);
	bytes_go(right, left, 2);
	peer_link_session(left->link, left->session, &shown);
	assert_true(shown.is_up);
	assert_string_equal(shown.transport, "fake");
	peer_link_status(left->link, &status);
	assert_non_null(strstr(status.transport, "fake, port"));
	assert_int_equal(status.transfers, 0);
	scene_close();
}

static void frames_go_through(void **unused)
{
	struct peer_frame_header header = { .magic = PEER_FRAME_MAGIC, .type = PEER_RENEW,
					    .bytes = sizeof(header), .number = 4711 };

	(void)unused;
	meet();
	assert_int_equal(peer_ops_link.say(left->link, left->session, left->life + 1, &header),
			 -ENOTCONN);
	assert_int_equal(peer_ops_link.say(left->link, left->session, left->life, &header), 0);
	AWAIT(right->frames == 1);
	assert_int_equal(right->frame_number, 4711);
	scene_close();
}

static void a_stopped_transfer_ends_from_a_step(void **unused)
{
	(void)unused;
	meet();
	assert_int_equal(begin(left, 0, true, 1, 0), 0);
	peer_ops_link.stop(left->link, &left->transfers[0].transfer);
	peer_ops_link.stop(left->link, &left->transfers[0].transfer);
	assert_int_equal(left->transfers[0].ends, 0);
	AWAIT(left->transfers[0].ends == 1);
	assert_int_equal(left->transfers[0].result, -ECANCELED);
	scene_close();
}

static void places_begin(struct end *end)
{
	for (unsigned n = 0; n < TRANSFERS; n++)
		assert_int_equal(begin(end, n, true, 100 + n, 0), 0);
}

static void places_assert(const struct end *end, int result)
{
	for (unsigned n = 0; n < TRANSFERS; n++) {
		assert_int_equal(end->transfers[n].ends, 1);
		assert_int_equal(end->transfers[n].result, result);
	}
}

/* Of ours: by its exit. Of theirs: by the session's end. */
static void after(int signal_number, const char *reason)
{
	meet();
	places_begin(left);
	places_begin(right);
	kill(pid_of(left), signal_number);
	AWAIT(left->downs == 1 && right->downs == 1);
	places_assert(left, -EIO);
	places_assert(right, -ENOTCONN);
	assert_non_null(strstr(left->reason, reason));
	assert_int_equal(begin(left, 0, true, 1, 0), -ENOTCONN);
	AWAIT(left->is_up && right->is_up);
	assert_int_equal(left->ups, 2);
	bytes_go(left, right, 1);
	bytes_go(right, left, 2);
	scene_close();
}

static void a_killed_process_ends_all_and_comes_back(void **unused)
{
	(void)unused;
	after(SIGKILL, "the peer process ended: killed by signal 9");
}

static void a_process_that_stands_still_is_killed(void **unused)
{
	(void)unused;
	after(SIGSTOP, "stalled");
}

static void who_has_another_secret_is_told_so(void **unused)
{
	uint32_t session;

	(void)unused;
	scene_open(8);
	assert_int_equal(peer_ops_link.connect(left->link, right->address, &session), 0);
	AWAIT(strstr(left->reason, "secret") != NULL);
	assert_false(left->is_up || right->is_up);
	/* Another is put in force without a pause. */
	setup(right, 2, 7);
	AWAIT(left->is_up && right->is_up);
	scene_close();
}

static void what_is_forgotten_is_not_heard_of_again(void **unused)
{
	uint32_t session, other;

	(void)unused;
	meet();
	assert_int_equal(begin(left, 0, true, 1, 0), 0);
	session = left->session;
	peer_ops_link.forget(left->link, session);
	assert_int_equal(begin(left, 1, true, 2, 0), -ENOTCONN);
	AWAIT(!right->is_up && left->transfers[0].ends == 1);
	assert_int_equal(left->downs, 0);
	left->is_up = false;
	AWAIT(peer_ops_link.connect(left->link, right->address, &other) == 0 && other == session);
	AWAIT(left->is_up && right->is_up);
	/* Before it could be told. */
	assert_int_equal(peer_ops_link.connect(left->link, "127.0.0.1:1", &other), 0);
	peer_ops_link.forget(left->link, other);
	scene_close();
}

static void wrong_addresses_and_too_many_are_refused(void **unused)
{
	static const char *const wrong[] = { "", "host", "host:", ":1" };
	char address[40];
	uint32_t session;

	(void)unused;
	scene_open(7);
	for (unsigned n = 0; n < sizeof(wrong) / sizeof(wrong[0]); n++)
		assert_int_equal(peer_ops_link.connect(left->link, wrong[n], &session), -EINVAL);
	for (unsigned n = 0; n < PEER_SESSIONS_ASKED; n++) {
		snprintf(address, sizeof(address), "127.0.0.1:%u", 1 + n);
		assert_int_equal(peer_ops_link.connect(left->link, address, &session), 0);
	}
	assert_int_equal(peer_ops_link.connect(left->link, "127.0.0.1:9", &session), -EAGAIN);
	peer_ops_link.forget(left->link, session);
	assert_int_equal(peer_ops_link.connect(left->link, "127.0.0.1:9", &session), 0);
	scene_close();
}

static void all_addresses_of_a_name_are_found(void **unused)
{
	char name[PEER_ADDRESS_TEXT_MAX + 1];

	(void)unused;
	scene_open(7);
	memset(name, 'a', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(peer_link_resolve(left->link, name), -EINVAL);
	assert_int_equal(peer_link_resolve(left->link, "localhost:77"), 0);
	assert_int_equal(peer_link_resolve(left->link, "localhost:78"), -EAGAIN);
	AWAIT(left->resolved == 1);
	assert_int_equal(left->resolve_result, 0);
	assert_true(strncmp(left->found, "127.0.0.1:77\n", 13) == 0 ||
		    strncmp(left->found, "[::1]:77\n", 9) == 0);
	assert_int_equal(peer_link_resolve(left->link, "[fd00::7]:78"), 0);
	AWAIT(left->resolved == 2);
	assert_string_equal(left->found, "[fd00::7]:78\n");
	assert_int_equal(peer_link_resolve(left->link, "no-port"), 0);
	AWAIT(left->resolved == 3);
	assert_true(left->resolve_result < 0);
	assert_non_null(strstr(left->found, "no-port has no address"));
	scene_close();
}

static void a_name_that_the_process_takes_with_it_is_answered_once(void **unused)
{
	(void)unused;
	scene_open(7);
	AWAIT(is_ready(left));
	kill(pid_of(left), SIGSTOP);
	assert_int_equal(peer_link_resolve(left->link, "localhost:77"), 0);
	AWAIT(left->resolved == 1);
	assert_int_equal(left->resolve_result, -EIO);
	assert_int_equal(peer_link_resolve(left->link, "localhost:77"), 0);
	AWAIT(left->resolved == 2);
	assert_int_equal(left->resolve_result, 0);
	scene_close();
}

static void an_address_in_use_is_said(void **unused)
{
	struct peer_link_status status;
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)unused;
	scene_open(7);
	address.sin_port = htons((uint16_t)atoi(strchr(left->address, ':') + 1));
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 1), 0);
	AWAIT(is_ready(right));
	AWAIT(peer_link_changes(left->link) > 1);
	peer_link_status(left->link, &status);
	assert_false(status.is_ready);
	assert_non_null(strstr(status.reason, "cannot listen on 127.0.0.1:"));
	/* It goes on trying. */
	close(fd);
	AWAIT(is_ready(left));
	scene_close();
}

int main(int count, char **arguments)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_go_through_four_processes),
		cmocka_unit_test(frames_go_through),
		cmocka_unit_test(a_stopped_transfer_ends_from_a_step),
		cmocka_unit_test(a_killed_process_ends_all_and_comes_back),
		cmocka_unit_test(a_process_that_stands_still_is_killed),
		cmocka_unit_test(who_has_another_secret_is_told_so),
		cmocka_unit_test(what_is_forgotten_is_not_heard_of_again),
		cmocka_unit_test(wrong_addresses_and_too_many_are_refused),
		cmocka_unit_test(all_addresses_of_a_name_are_found),
		cmocka_unit_test(a_name_that_the_process_takes_with_it_is_answered_once),
		cmocka_unit_test(an_address_in_use_is_said),
	};

	if (worker_side_is(count, arguments, "peer"))
		return peer_worker_main(count, arguments);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
