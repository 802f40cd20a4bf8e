/* tests/daemon/test_admin_http.c: the server of probes and metrics, against well and badly behaved
 * clients. */
#include "daemon/admin_http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define SECOND UINT64_C(1000000)
#define STEPS_MAX 10000

struct rig {
	struct admin_http *http;
	uint64_t now_us;
	bool is_ready;
	size_t page_bytes;
	char directory[128];
	char path[160];
	char reply[1 << 20];
	size_t reply_bytes;
};

static struct rig rig;

static int render_ready(void *owner, struct admin_http_call *call)
{
	const struct rig *self = owner;

	text_printf(call->out, "%s%s", self->is_ready ? "ready" : "not ready",
		    call->is_verbose ? " verbosely" : "");
	return self->is_ready ? 200 : 503;
}

static int render_large(void *owner, struct admin_http_call *call)
{
	const struct rig *self = owner;

	for (size_t i = 0; i < self->page_bytes; i++)
		text_add(call->out, "x");
	return 200;
}

static const struct admin_http_page pages[] = {
	{ "/readyz", "text/plain", render_ready },
	{ "/large", "text/plain", render_large },
};

static int rig_init(void **unused)
{
	struct admin_http_config config = { .listen = "127.0.0.1:0",
					    .pages = pages,
					    .pages_count = 2,
					    .owner = &rig,
					    .connections_max = 3,
					    .share_max = 2,
					    .request_us_max = 5 * SECOND,
					    .page_bytes_max = 900000 };
	const char *folder = getenv("TMPDIR");
	struct error error;

	(void)unused;
	memset(&rig, 0, sizeof(rig));
	rig.is_ready = true;
	snprintf(rig.directory, sizeof(rig.directory), "%s/admin_http.XXXXXX",
		 folder == NULL ? "/tmp" : folder);
	assert_non_null(mkdtemp(rig.directory));
	snprintf(rig.path, sizeof(rig.path), "%s/http.sock", rig.directory);
	config.socket_path = rig.path;
	if (admin_http_open(&rig.http, &config, &error) < 0)
		fail_msg("%s", error.text);
	return 0;
}

static int rig_finish(void **unused)
{
	(void)unused;
	admin_http_close(rig.http);
	assert_int_equal(access(rig.path, F_OK), -1);
	rmdir(rig.directory);
	return 0;
}

static int client_open(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	memcpy(address.sun_path, rig.path, strlen(rig.path) + 1);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static int client_open_tcp(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_port = htons((uint16_t)admin_http_port(rig.http)),
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	return fd;
}

static void client_send(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* Steps until the server closed (true) or has nothing more to do (false); the bytes are in
 * rig.reply. */
static bool client_read(int fd)
{
	rig.reply_bytes = 0;
	for (unsigned i = 0; i < STEPS_MAX; i++) {
		struct pollfd ready = { .fd = admin_http_fd(rig.http), .events = POLLIN };
		bool did = admin_http_step(rig.http, rig.now_us);
		ssize_t count = recv(fd, rig.reply + rig.reply_bytes,
				     sizeof(rig.reply) - 1 - rig.reply_bytes, 0);

		if (count > 0)
			rig.reply_bytes += (size_t)count;
		rig.reply[rig.reply_bytes] = '\0';
		if (count == 0 || (count < 0 && errno == ECONNRESET))
			return true;
		if (!did && count < 0 && poll(&ready, 1, 0) == 0)
			return false;
	}
	fail_msg("the server never rests");
	return false;
}

static void assert_reply(const char *words)
{
	if (strstr(rig.reply, words) == NULL)
		fail_msg("'%s' is not in '%s'", words, rig.reply);
}

static void a_page_is_served_on_both_sockets(void **unused)
{
	int (*const open_client[])(void) = { client_open, client_open_tcp };

	(void)unused;
	for (int i = 0; i < 2; i++) {
		int fd = open_client[i]();

		client_send(fd, "GET /readyz HTTP/1.1\r\nHost: localhost:1\r\n\r\n");
		/* Over TCP the bytes may need a moment in the kernel. */
		while (client_read(fd), rig.reply_bytes == 0)
			;
		assert_reply("HTTP/1.1 200 OK\r\n");
		assert_reply("Content-Length: 5\r\n");
		assert_reply("\r\n\r\nready");
		close(fd);
	}
	assert_int_equal(admin_http_counts(rig.http).answered, 2);
}

static void a_connection_is_used_again(void **unused)
{
	int fd = client_open();

	(void)unused;
	for (int i = 0; i < 10; i++) {
		rig.is_ready = i % 2 == 0;
		client_send(fd, "GET /readyz?a=b&verbose=1 HTTP/1.1\r\nHost: h\r\n\r\n");
		assert_false(client_read(fd));
		assert_reply(rig.is_ready ? "200 OK" : "503 Service Unavailable");
		assert_reply("ready verbosely");
	}
	client_send(fd, "GET /readyz?verbosely HTTP/1.0\r\n\r\nGET /never HTTP/1.0\r\n\r\n");
	assert_true(client_read(fd));
	assert_reply("\r\n\r\nnot ready");
	assert_null(strstr(rig.reply, "verbosely"));
	assert_null(strstr(rig.reply, "404"));
	close(fd);
	client_read(client_open());
}

static void requests_sent_together_are_answered_in_turn(void **unused)
{
	int fd = client_open();

	(void)unused;
	client_send(
		fd,
		"HEAD /readyz HTTP/1.1\r\nHost: h\r\n\r\nGET /readyz HTTP/1.1\r\nHost: h\r\n\r\n"
		"GET /none HTTP/1.1\r\nHost: h\r\n\r\n");
	shutdown(fd, SHUT_WR);
	assert_true(client_read(fd));
	assert_ptr_not_equal(strstr(rig.reply, "200 OK"), strstr(rig.reply, "ready"));
	assert_reply(
		"Content-Length: 5\r\n");
	assert_reply("ready");
	assert_reply("404 Not Found");
	close(fd);
}

static void wrong_requests_are_refused_and_the_connection_closed(void **unused)
{
	static const struct {
		const char *text, *status;
	} wrong[] = {
		{ "POST /readyz HTTP/1.1\r\nHost: h\r\n\r\n", "405 Method Not Allowed" },
		{ "DELETE /readyz HTTP/1.1\r\nHost: h\r\n\r\n", "Allow: GET, HEAD\r\n" },
		{ "GET /readyz HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
		  "413 Content Too Large" },
		{ "GET /readyz HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		  "413" },
		{ "GET /readyz HTTP/1.1\nHost: h\n\n", "400 Bad Request" },
		{ "GET /READYZ HTTP/1.1\r\nHost: h\r\n\r\n", "404 Not Found" },
		{ "GET /readyz/ HTTP/1.1\r\nHost: h\r\n\r\n", "404 Not Found" },
	};

	(void)unused;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		int fd = client_open();

		client_send(fd, wrong[i].text);
		shutdown(fd, SHUT_WR);
		assert_true(client_read(fd));
		assert_reply(wrong[i].status);
		assert_reply("Connection: close\r\n");
		close(fd);
	}
	client_read(client_open());
	assert_int_equal(admin_http_counts(rig.http).refused, sizeof(wrong) / sizeof(wrong[0]));
	assert_int_equal(admin_http_counts(rig.http).answered, 0);
}

static void a_slow_client_is_gone_at_its_deadline(void **unused)
{
	int slow = client_open(), silent = client_open();

	(void)unused;
	assert_false(client_read(slow));
	assert_false(client_read(silent));
	for (int i = 0; i < 4; i++) { /* a byte a second moves no deadline */
		rig.now_us += SECOND;
		client_send(slow, "G");
		assert_false(client_read(slow));
	}
	assert_int_equal(admin_http_due_us(rig.http), 5 * SECOND);
	assert_int_equal(admin_http_connections(rig.http), 2);
	rig.now_us += SECOND;
	assert_true(client_read(slow));
	assert_true(client_read(silent));
	assert_int_equal(admin_http_connections(rig.http), 0);
	assert_int_equal(admin_http_counts(rig.http).late, 1);
	assert_true(admin_http_due_us(rig.http) == UINT64_MAX);
	close(slow);
	close(silent);
}

static void a_client_that_does_not_read_is_gone_at_its_deadline(void **unused)
{
	int fd = client_open();

	(void)unused;
	rig.page_bytes = 800000;
	client_send(fd, "GET /large HTTP/1.1\r\nHost: h\r\n\r\n");
	for (unsigned i = 0; i < STEPS_MAX && admin_http_step(rig.http, rig.now_us); i++)
		;
	assert_int_equal(admin_http_connections(rig.http), 1);
	rig.now_us += 5 * SECOND;
	admin_http_step(rig.http, rig.now_us);
	assert_int_equal(admin_http_connections(rig.http), 0);
	assert_int_equal(admin_http_counts(rig.http).late, 1);
	close(fd);
}

static void a_client_that_talks_on_after_a_refusal_is_cut(void **unused)
{
	int fd = client_open();
	char text[1000];
	unsigned sends = 0;

	(void)unused;
	memset(text, 'x', sizeof(text));
	client_send(fd, "POST /readyz HTTP/1.1\r\nHost: h\r\n\r\n");
	while (sends < STEPS_MAX) {
		ssize_t count = send(fd, text, sizeof(text), MSG_NOSIGNAL);

		if (count < 0 && errno == EPIPE)
			break;
		sends++;
		admin_http_step(rig.http, rig.now_us);
	}
	assert_in_range(sends, 1, STEPS_MAX - 1);
	assert_int_equal(admin_http_connections(rig.http), 0);
	close(fd);
}

static void a_large_page_arrives_whole_and_one_past_the_bound_does_not(void **unused)
{
	int fd = client_open();

	(void)unused;
	rig.page_bytes = 900000;
	client_send(fd, "GET /large HTTP/1.1\r\nHost: h\r\n\r\n");
	assert_false(client_read(fd));
	assert_reply("200 OK");
	assert_true(rig.reply_bytes > 900000);
	rig.page_bytes = 900001;
	client_send(fd, "GET /large HTTP/1.1\r\nHost: h\r\n\r\n");
	client_read(fd);
	assert_reply("500 Internal Server Error");
	close(fd);
}

static void a_flood_of_one_address_turns_out_itself(void **unused)
{
	int fds[6], other;

	(void)unused;
	for (int i = 0; i < 6; i++) { /* the share of the Unix socket is two */
		fds[i] = client_open();
		client_read(fds[i]);
		rig.now_us += 1;
	}
	assert_int_equal(admin_http_connections(rig.http), 2);
	assert_int_equal(admin_http_counts(rig.http).crowded, 4);
	assert_true(client_read(fds[3])); /* the eldest went first */
	assert_false(client_read(fds[4]));
	other = client_open_tcp();
	client_send(other, "GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
	while (client_read(other), rig.reply_bytes == 0)
		;
	assert_reply("200 OK");
	assert_int_equal(admin_http_counts(rig.http).crowded, 4);
	for (int i = 0; i < 6; i++)
		close(fds[i]);
	close(other);
	while (admin_http_connections(rig.http) > 0) /* TCP's end may need a moment */
		admin_http_step(rig.http, rig.now_us);
}

static void a_client_that_is_being_answered_makes_no_room(void **unused)
{
	int reads = client_open(), late;

	(void)unused;
	rig.page_bytes = 800000;
	for (int i = 0; i < 2; i++) {
		int fd = i == 0 ? reads : client_open();

		client_send(fd, "GET /large HTTP/1.1\r\nHost: h\r\n\r\n");
		for (unsigned step = 0; step < 10; step++)
			admin_http_step(rig.http, rig.now_us);
	}
	late = client_open();
	assert_true(client_read(late));
	assert_int_equal(admin_http_counts(rig.http).crowded, 1);
	assert_false(client_read(reads));
	assert_true(rig.reply_bytes > 800000);
	close(reads);
	close(late);
}

static void a_name_that_is_not_ours_is_refused_where_only_this_machine_listens(void **unused)
{
	static const struct {
		const char *host, *status;
	} rows[] = { { "evil.example:9469", "421 Misdirected Request" },
		     { "127.0.0.1.evil.example", "421" },
		     { "LocalHost:9469", "200 OK" },
		     { "127.0.0.1:9469", "200 OK" },
		     { "[::1]:9469", "200 OK" } };

	(void)unused;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int fd = client_open_tcp();
		char text[200];

		snprintf(text, sizeof(text), "GET /readyz HTTP/1.1\r\nHost: %s\r\n\r\n",
			 rows[i].host);
		client_send(fd, text);
		while (client_read(fd), rig.reply_bytes == 0)
			;
		assert_reply(rows[i].status);
		close(fd);
		rig.now_us += SECOND;
	}
}

static void a_stale_socket_is_replaced_and_a_file_is_not(void **unused)
{
	struct admin_http_config config = { .pages = pages, .pages_count = 2, .owner = &rig };
	struct admin_http *other;
	struct error error;
	struct stat status;
	char path[200];
	int fd;

	(void)unused;
	snprintf(path, sizeof(path), "%s/file", rig.directory);
	config.socket_path = path;
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	close(fd);
	assert_int_equal(admin_http_open(&other, &config, &error), -EEXIST);
	unlink(path);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(mknod(path, S_IFSOCK | 0600, 0), 0);
		assert_int_equal(admin_http_open(&other, &config, &error), 0);
		assert_int_equal(stat(path, &status), 0);
		assert_int_equal(status.st_mode & 0777, 0660);
		admin_http_close(other);
	}
	config.socket_path = NULL;
	config.listen = "localhost:1";
	assert_int_equal(admin_http_open(&other, &config, &error), -EINVAL);
	admin_http_close(NULL);
}

int main(void)
{
#define ROW(test) cmocka_unit_test_setup_teardown(test, rig_init, rig_finish)
	const struct CMUnitTest tests[] = {
		ROW(a_page_is_served_on_both_sockets),
		ROW(a_connection_is_used_again),
		ROW(requests_sent_together_are_answered_in_turn),
		ROW(wrong_requests_are_refused_and_the_connection_closed),
		ROW(a_slow_client_is_gone_at_its_deadline),
		ROW(a_client_that_does_not_read_is_gone_at_its_deadline),
		ROW(a_client_that_talks_on_after_a_refusal_is_cut),
		ROW(a_large_page_arrives_whole_and_one_past_the_bound_does_not),
		ROW(a_flood_of_one_address_turns_out_itself),
		ROW(a_client_that_is_being_answered_makes_no_room),
		ROW(a_name_that_is_not_ours_is_refused_where_only_this_machine_listens),
		ROW(a_stale_socket_is_replaced_and_a_file_is_not),
	};
#undef ROW

	return cmocka_run_group_tests(tests, NULL, NULL);
}
