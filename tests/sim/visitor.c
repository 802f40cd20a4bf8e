/* tests/sim/visitor.c: pages, asked for in every way. */
#include "tests/sim/visitor.h"

#include "tests/sim/pages.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define REPLY_US 900000u
#define FLOOD 40u
#define WATCHES 50u
#define READY_TRIES 100u

static const char *const page_names[] = { "/readyz", "/metrics", "/status",	    "/livez",
					  "/",	     "/startupz", "/readyz?verbose" };

#define PAGES (sizeof(page_names) / sizeof(page_names[0]))

static uint64_t below(struct visitor *visitor, uint64_t limit)
{
	return random_below(&visitor->random, limit);
}

static void pause_us(uint64_t us)
{
	struct timespec pause = { .tv_sec = (time_t)(us / SECOND_US),
				  .tv_nsec = (long)(us % SECOND_US) * 1000 };

	nanosleep(&pause, NULL);
}

/* -1: nobody answers. */
static int visitor_connect(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(NODE_HTTP_PORT) };
	struct timeval wait = { .tv_usec = REPLY_US };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	close(fd);
	return -1;
}

static bool words_send(int fd, const char *words, size_t bytes)
{
	while (bytes > 0) {
		ssize_t sent = send(fd, words, bytes, MSG_NOSIGNAL);

		if (sent <= 0)
			return false;
		words += sent;
		bytes -= (size_t)sent;
	}
	return true;
}

/* Whether a whole answer has come; anything else that comes is wrong. */
static bool answer_is_whole(struct visitor *visitor)
{
	const char *head_end = strstr(visitor->answer, "\r\n\r\n");
	const char *length = strstr(visitor->answer, "Content-Length: ");
	size_t bytes;

	if (head_end == NULL)
		return false;
	if (sscanf(visitor->answer, "HTTP/1.1 %d ", &visitor->status) != 1 || length == NULL ||
	    length > head_end)
		sim_fail("this is no HTTP answer: %.60s", visitor->answer);
	visitor->body = head_end + 4;
	bytes = (size_t)(visitor->body - visitor->answer) + strtoul(length + 16, NULL, 10);
	if (bytes > ANSWER_BYTES_MAX)
		sim_fail("a page has %zu bytes", bytes);
	if (visitor->answer_bytes < bytes)
		return false;
	visitor->answer[bytes] = '\0';
	return true;
}

/* One answer, of a connection that is asked nothing else meanwhile. */
static bool answer_read(struct visitor *visitor, int fd)
{
	visitor->answer_bytes = 0;
	visitor->answer[0] = '\0';
	while (!answer_is_whole(visitor)) {
		ssize_t count = recv(fd, visitor->answer + visitor->answer_bytes,
				     ANSWER_BYTES_MAX - visitor->answer_bytes, 0);

		if (count <= 0)
			return false;
		visitor->answer_bytes += (size_t)count;
		visitor->answer[visitor->answer_bytes] = '\0';
	}
	return true;
}

static size_t request_write(char *text, size_t room, const char *path, bool stays)
{
	return (size_t)snprintf(text, room, "GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", path,
				stays ? "" : "Connection: close\r\n");
}

/* Asks, and checks what it got; false: there was no answer. */
static bool page_get(struct visitor *visitor, int fd, const char *path, bool stays)
{
	char request[128];
	size_t bytes = request_write(request, sizeof(request), path, stays);
	struct page_moment before;

	page_moment_take(visitor->node, &before);
	if (!words_send(fd, request, bytes) || !answer_read(visitor, fd))
		return false;
	page_check(visitor, path, &before);
	return true;
}

static bool page_get_alone(struct visitor *visitor, const char *path)
{
	int fd = visitor_connect();
	bool was_got = fd >= 0 && page_get(visitor, fd, path, false);

	if (fd >= 0)
		close(fd);
	return was_got;
}

/* ---- ways to ask ---- */

static void ask_orderly(struct visitor *visitor)
{
	int fd = visitor_connect();
	uint64_t count = 1 + below(visitor, 4);

	for (uint64_t i = 0; fd >= 0 && i < count; i++)
		if (!page_get(visitor, fd, page_names[below(visitor, PAGES)], true))
			break;
	if (fd >= 0)
		close(fd);
}

/* In pieces, and perhaps not to the end. */
static void ask_slowly(struct visitor *visitor)
{
	const char *path = page_names[below(visitor, PAGES)];
	char request[128];
	size_t bytes = request_write(request, sizeof(request), path, false), sent = 0;
	size_t end = below(visitor, 3) == 0 ? (size_t)below(visitor, bytes) : bytes;
	struct page_moment before;
	int fd = visitor_connect();

	page_moment_take(visitor->node, &before);
	while (fd >= 0 && sent < end) {
		size_t piece = 1 + (size_t)below(visitor, end - sent);

		if (!words_send(fd, request + sent, piece))
			break;
		sent += piece;
		pause_us(below(visitor, 2 * SECOND_US));
	}
	if (fd >= 0 && sent == bytes && answer_read(visitor, fd))
		page_check(visitor, path, &before);
	if (fd >= 0)
		close(fd);
}

/* Many at once, of which none says all. */
static void ask_too_often(struct visitor *visitor)
{
	int fds[FLOOD];

	for (unsigned i = 0; i < FLOOD; i++) {
		fds[i] = visitor_connect();
		if (fds[i] >= 0)
			(void)words_send(fds[i], "GET / HT", below(visitor, 9));
	}
	pause_us(below(visitor, SECOND_US));
	for (unsigned i = 0; i < FLOOD; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static void ask_and_go(struct visitor *visitor)
{
	char request[128];
	size_t bytes = request_write(request, sizeof(request), page_names[below(visitor, PAGES)],
				     true);
	int fd = visitor_connect();

	if (fd < 0)
		return;
	for (uint64_t i = 1 + below(visitor, 3); i > 0; i--)
		(void)words_send(fd, request, bytes);
	pause_us(below(visitor, 2) * below(visitor, 2 * SECOND_US));
	close(fd);
}

/* What must be refused. */
static void ask_wrongly(struct visitor *visitor)
{
	static const char *const wrong[] = {
		"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
		"GET /metrics HTTP/1.1\r\n\r\n",
		"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"GET\r\n\r\n",
		"DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n",
	};
	const char *words = wrong[below(visitor, sizeof(wrong) / sizeof(wrong[0]))];
	int fd = visitor_connect();

	if (fd < 0)
		return;
	if (words_send(fd, words, strlen(words)) && answer_read(visitor, fd) &&
	    (visitor->status < 400 || visitor->status >= 500))
		sim_fail("a wrong request was answered with %d", visitor->status);
	close(fd);
}

static void watch(struct visitor *visitor)
{
	for (unsigned i = 0; i < WATCHES; i++) {
		(void)page_get_alone(visitor, "/readyz");
		pause_us(100000 + below(visitor, 300000));
	}
}

static void *visitor_live(void *argument)
{
	static void (*const ways[])(struct visitor *visitor) = {
		ask_orderly, ask_orderly, ask_slowly, ask_too_often, ask_and_go, ask_wrongly, watch,
	};
	struct visitor *visitor = argument;

	ways[below(visitor, sizeof(ways) / sizeof(ways[0]))](visitor);
	process_exit();
}

static void *watcher_live(void *argument)
{
	watch(argument);
	process_exit();
}

/* Everything is well: every page is there, and the node becomes ready. */
static void *expecting_live(void *argument)
{
	struct visitor *visitor = argument;
	bool is_ready = false;

	for (unsigned i = 0; i < READY_TRIES && !is_ready; i++) {
		is_ready = page_get_alone(visitor, "/readyz") && visitor->status == 200;
		if (!is_ready)
			pause_us(100000);
	}
	if (!is_ready)
		sim_fail("all is well, and /readyz says %d: %.60s", visitor->status,
			 visitor->body != NULL ? visitor->body : "");
	for (unsigned i = 0; i < PAGES; i++)
		if (!page_get_alone(visitor, page_names[i]) || visitor->status != 200)
			sim_fail("all is well, and %s is not answered", page_names[i]);
	visitor->has_ended_well = true;
	process_exit();
}

static void visitor_begin(struct visitor *visitor, struct node *node, uint64_t seed,
			  void *(*live)(void *argument))
{
	if (visitor->process != NULL && visitor->process->is_alive)
		return;
	visitor_kill(visitor);
	memset(visitor, 0, offsetof(struct visitor, answer));
	visitor->node = node;
	random_init(&visitor->random, seed);
	visitor->process = process_start("visitor", live, visitor);
}

void visitor_start(struct visitor *visitor, struct node *node, uint64_t seed)
{
	visitor_begin(visitor, node, seed, visitor_live);
}

void visitor_watch(struct visitor *visitor, struct node *node, uint64_t seed)
{
	visitor_begin(visitor, node, seed, watcher_live);
}

void visitor_expect(struct visitor *visitor, struct node *node)
{
	visitor_begin(visitor, node, 1, expecting_live);
}

void visitor_kill(struct visitor *visitor)
{
	process_release(visitor->process);
	visitor->process = NULL;
}
