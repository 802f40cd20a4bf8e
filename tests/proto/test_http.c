/* tests/proto/test_http.c: what is read of requests, whole and byte by byte, bounds, and answers.
 * What is refused: test_http_strict.c. */
#include "proto/http.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define BODY_BYTES_MAX 64
#define GET "GET / HTTP/1.1\r\n"
#define POST "POST / HTTP/1.1\r\nHost: h\r\n"
#define CHUNKED POST "Transfer-Encoding: chunked\r\n\r\n"

static struct http_parser parser;
static char body[256];
static size_t body_bytes;

/* Feeds `text` in pieces of at most `piece` bytes; the status, 0 when it ended, 1 when it wants
 * more. */
static int feed(const char *text, size_t count, size_t piece)
{
	size_t start = 0;

	http_parser_init(&parser, BODY_BYTES_MAX);
	body_bytes = 0;
	for (;;) {
		struct http_slice slice = { NULL, 0 };
		size_t used, room = count - start < piece ? count - start : piece;
		enum http_event event = http_parse(&parser, text + start, room, &used, &slice);

		assert_true(used <= room);
		start += used;
		if (event == HTTP_END)
			return 0;
		if (event == HTTP_REFUSED)
			return parser.status;
		if (event == HTTP_BODY) {
			assert_true(body_bytes + slice.bytes <= sizeof(body));
			memcpy(body + body_bytes, slice.start, slice.bytes);
			body_bytes += slice.bytes;
		}
		if (event == HTTP_MORE && start == count)
			return 1;
	}
}

static void assert_feed(const char *text, int wanted)
{
	for (size_t piece = 1; piece <= strlen(text) + 1; piece++) {
		int got = feed(text, strlen(text), piece);

		if (got != wanted)
			fail_msg("%d, not %d (%s), in pieces of %zu: %s", got, wanted,
				 got >= 400 ? parser.reason : "", piece, text);
	}
}

static void a_request_is_taken_apart(void **unused)
{
	(void)unused;
	assert_feed("GET /a/b?verbose&x=1 HTTP/1.1\r\nHost: h:80\r\nX-A:  b c \t\r\nEmpty:\r\n\r\n",
		    0);
	assert_true(http_slice_is(parser.method, "GET"));
	assert_true(http_slice_is(parser.path, "/a/b"));
	assert_true(http_slice_is(parser.query, "verbose&x=1"));
	assert_int_equal(parser.fields_count, 3);
	assert_true(http_slice_is_word(parser.fields[1].name, "x-a"));
	assert_true(http_slice_is(parser.fields[1].value, "b c"));
	assert_true(http_slice_is(parser.fields[2].value, ""));
	assert_true(parser.keeps_alive);
	assert_feed("GET http://host/a?b HTTP/1.1\r\nHost: host\r\n\r\n", 0);
	assert_true(http_slice_is(parser.path, "/a"));
	assert_true(http_slice_is(parser.query, "b"));
	assert_feed("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 0);
	assert_feed("\r\n" GET "Host: h\r\n\r\n", 0);
	assert_feed(GET "Host:\r\n\r\n", 0);
	assert_feed(GET "Host: h\r\n", 1);
	assert_feed("", 1);
}

static void who_keeps_the_connection(void **unused)
{
	(void)unused;
	assert_feed(GET "Host: h\r\nConnection: upgrade , Close\r\n\r\n", 0);
	assert_false(parser.keeps_alive);
	assert_feed("GET / HTTP/1.0\r\n\r\n", 0);
	assert_false(parser.keeps_alive);
	assert_feed("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 0);
	assert_true(parser.keeps_alive);
	assert_feed(GET "Host: h\r\nConnection: closed\r\n\r\n", 0);
	assert_true(parser.keeps_alive);
}

static void bodies_are_decoded(void **unused)
{
	(void)unused;
	assert_feed(POST "Content-Length: 5\r\n\r\nhello", 0);
	assert_int_equal(body_bytes, 5);
	assert_memory_equal(body, "hello", 5);
	assert_feed(POST "Content-Length: 5\r\n\r\nhell", 1);
	assert_feed(POST "Content-Length: 0\r\n\r\n", 0);
	assert_feed(CHUNKED
		    "5\r\nhello\r\n0A;name=\"value\"\r\n, world!!!\r\n0\r\nTrailer: x\r\n\r\n",
		    0);
	assert_int_equal(body_bytes, 15);
	assert_memory_equal(body, "hello, world!!!", 15);
	assert_feed(CHUNKED "0\r\n\r\n", 0);
	assert_feed(POST "Expect: 100-continue\r\nContent-Length: 1\r\n\r\na", 0);
	assert_true(parser.expects_continue);
}

static void a_nul_is_refused_anywhere(void **unused)
{
	static const char text[] = GET "Host: h\r\nX: y\r\n\r\n";
	char copy[sizeof(text)];

	(void)unused;
	for (size_t i = 0; i < strlen(text); i++) {
		memcpy(copy, text, sizeof(text));
		copy[i] = '\0';
		assert_int_not_equal(feed(copy, strlen(text), sizeof(text)), 0);
	}
}

static void everything_has_a_bound(void **unused)
{
	static char text[200000];
	size_t count = 0;

	(void)unused;
	memset(text, 'a', sizeof(text));
	assert_int_equal(feed(text, sizeof(text), sizeof(text)), 414);
	count = (size_t)sprintf(text, GET);
	memset(text + count, 'a', HTTP_HEAD_BYTES_MAX);
	assert_int_equal(feed(text, sizeof(text), 1000), 431);
	memcpy(text, "GET /", 5);
	memset(text + 5, 'a', HTTP_TARGET_BYTES_MAX);
	strcpy(text + 5 + HTTP_TARGET_BYTES_MAX, " HTTP/1.1\r\n");
	assert_int_equal(feed(text, strlen(text), 1000), 414);
	count = (size_t)sprintf(text, GET "Host: h\r\n");
	for (unsigned i = 0; i < HTTP_FIELDS_MAX; i++)
		count += (size_t)sprintf(text + count, "a:b\r\n");
	assert_int_equal(feed(text, count, 1000), 431);
	count = (size_t)sprintf(text, CHUNKED);
	memset(text + count, '0', 100);
	text[count] = '1';
	text[count + 1] = ';';
	memset(text + count + 2, 'x', HTTP_LINE_BYTES_MAX);
	assert_int_equal(feed(text, count + 2 + HTTP_LINE_BYTES_MAX, 1000), 400);
	count = (size_t)sprintf(text, CHUNKED "0\r\n");
	for (unsigned i = 0; i <= HTTP_TRAILERS_MAX; i++)
		count += (size_t)sprintf(text + count, "a:b\r\n");
	assert_int_equal(feed(text, count, 1000), 431);
}

static void too_much_framing_for_too_few_bytes_is_refused(void **unused)
{
	static char text[HTTP_FRAMING_BYTES_MAX + 100000];
	size_t count = (size_t)sprintf(text, CHUNKED);

	(void)unused;
	http_parser_init(&parser, UINT64_MAX);
	while (count < sizeof(text) - 600) {
		count += (size_t)sprintf(text + count, "1;");
		memset(text + count, 'x', 500);
		count += 500;
		count += (size_t)sprintf(text + count, "\r\na\r\n");
	}
	for (size_t start = 0, used = 0;; start += used) {
		struct http_slice slice;
		enum http_event event = http_parse(&parser, text + start, count - start, &used,
						   &slice);

		assert_int_not_equal(event, HTTP_MORE);
		if (event == HTTP_REFUSED)
			break;
	}
	assert_int_equal(parser.status, 413);
}

static void requests_follow_each_other(void **unused)
{
	static const char text[] = POST "Content-Length: 2\r\n\r\nab" CHUNKED
					"1\r\nc\r\n0\r\n\r\n" GET "Host: h\r\n\r\nGE";
	struct http_slice slice;
	size_t start = 0, used;
	unsigned ends = 0;

	(void)unused;
	http_parser_init(&parser, BODY_BYTES_MAX);
	assert_false(http_parser_is_busy(&parser));
	for (;;) {
		enum http_event event = http_parse(&parser, text + start, strlen(text) - start,
						   &used, &slice);

		assert_int_not_equal(event, HTTP_REFUSED);
		start += used;
		if (event == HTTP_END) {
			ends++;
			assert_false(http_parser_is_busy(&parser));
			http_parser_next(&parser);
		}
		if (event == HTTP_MORE)
			break;
	}
	assert_int_equal(ends, 3);
	assert_true(http_parser_is_busy(&parser));
}

static void answers_have_a_date_and_a_length(void **unused)
{
	struct http_answer answer = { .status = 405,
				      .content_type = "text/plain",
				      .allow = "GET, HEAD",
				      .content_bytes = 12,
				      .wall_seconds = 784111777 };
	struct text text;

	(void)unused;
	text_init(&text, 1000);
	http_answer_head(&text, &answer);
	assert_string_equal(text.bytes,
			    "HTTP/1.1 405 Method Not Allowed\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
			    "Content-Type: text/plain\r\nAllow: GET, HEAD\r\nContent-Length: 12\r\n"
			    "Cache-Control: no-store\r\n"
			    "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n"
			    "X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n"
			    "Referrer-Policy: no-referrer\r\n"
			    "Cross-Origin-Resource-Policy: same-origin\r\nConnection: close\r\n\r\n");
	text_finish(&text);
}

static void what_a_client_would_rather_have(void **unused)
{
	static const struct {
		const char *fields;
		unsigned text, open; /* the qualities of the two types */
	} rows[] = {
		{ "", 1000, 1000 },
		{ "Accept: */*\r\n", 1000, 1000 },
		{ "Accept: text/*;q=0.5\r\n", 500, 0 },
		{ "Accept: text/*;q=0.5, text/plain;q=0.25\r\n", 250, 0 },
		{ "Accept: application/openmetrics-text;version=1.0.0;q=0.5, text/plain;q=0.25, */*;q=0.1\r\n",
		  250, 500 },
		{ "Accept: application/openmetrics-text; version=0.0.1; Q=0.75\r\naccept: text/plain\r\n",
		  1000, 750 },
		{ "Accept: text/plain;q=0\r\n", 0, 0 },
		{ "Accept: text/plain;q=2, */*;q=0.125\r\n", 0, 125 },
		{ "Accept: text/plain;q=0.1234\r\n", 0, 0 },
		{ "Accept:\r\n", 0, 0 },
		{ "Accept: application/*;q=1.0, text/html\r\n", 0, 1000 },
	};
	char text[400];

	(void)unused;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		snprintf(text, sizeof(text), GET "Host: h\r\n%s\r\n", rows[i].fields);
		assert_feed(text, 0);
		assert_int_equal(http_accept_quality(&parser, "text/plain"), rows[i].text);
		assert_int_equal(http_accept_quality(&parser, "application/openmetrics-text"),
				 rows[i].open);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_request_is_taken_apart),
		cmocka_unit_test(who_keeps_the_connection),
		cmocka_unit_test(bodies_are_decoded),
		cmocka_unit_test(a_nul_is_refused_anywhere),
		cmocka_unit_test(everything_has_a_bound),
		cmocka_unit_test(too_much_framing_for_too_few_bytes_is_refused),
		cmocka_unit_test(requests_follow_each_other),
		cmocka_unit_test(answers_have_a_date_and_a_length),
		cmocka_unit_test(what_a_client_would_rather_have),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
