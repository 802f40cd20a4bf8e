/*
 * tests/proto/test_http_strict.c: what RFC 9112 and 9110 say that a server MUST do with requests,
 * one row each, in the manner of Http11Probe: framing that two readers could take for two requests,
 * hosts, targets, versions, characters; and, against the daemon's own server, what answers MUST
 * have. Each row is sent whole and in small pieces.
 */
#include "daemon/admin_http.h"
#include "proto/http.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define BODY_BYTES_MAX 64
#define STEPS_MAX 1000
#define TAKEN 0 /* the request is read to its end */
#define MORE 1  /* the request is not whole */
#define GET "GET / HTTP/1.1\r\n"
#define GET_HOST GET "Host: h\r\n"
#define POST "POST / HTTP/1.1\r\nHost: h\r\n"
#define CHUNKED POST "Transfer-Encoding: chunked\r\n\r\n"
#define ROW(name, text, status) { name, text, sizeof(text) - 1, status }

struct row {
	const char *name;
	const char *text;
	size_t bytes;
	int status;
};

static const struct row framing[] = {
	ROW("Content-Length before Transfer-Encoding",
	    POST "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
	ROW("Transfer-Encoding before Content-Length",
	    POST "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", 400),
	ROW("Content-Length with an unknown coding",
	    POST "Content-Length: 4\r\nTransfer-Encoding: x\r\n\r\nabcd", 400),
	ROW("two different Content-Lengths",
	    POST "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", 400),
	ROW("two equal Content-Lengths",
	    POST "Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd", 400),
	ROW("a list in Content-Length", POST "Content-Length: 4, 4\r\n\r\nabcd", 400),
	ROW("a list of different lengths", POST "Content-Length: 4, 5\r\n\r\nabcd", 400),
	ROW("Content-Length in upper case and lower",
	    POST "content-length: 4\r\nCONTENT-LENGTH: 4\r\n\r\nabcd", 400),
	ROW("a positive Content-Length", POST "Content-Length: +4\r\n\r\nabcd", 400),
	ROW("a negative Content-Length", POST "Content-Length: -4\r\n\r\n", 400),
	ROW("a hexadecimal Content-Length", POST "Content-Length: 0x4\r\n\r\nabcd", 400),
	ROW("Content-Length with letters", POST "Content-Length: 4a\r\n\r\nabcd", 400),
	ROW("Content-Length with a blank inside", POST "Content-Length: 4 2\r\n\r\nabcd", 400),
	ROW("Content-Length with a dot", POST "Content-Length: 4.0\r\n\r\nabcd", 400),
	ROW("Content-Length with underscores", POST "Content-Length: 1_0\r\n\r\nabcd", 400),
	ROW("Content-Length in quotes", POST "Content-Length: \"4\"\r\n\r\nabcd", 400),
	ROW("an empty Content-Length", POST "Content-Length:\r\n\r\n", 400),
	ROW("Content-Length past 64 bits", POST "Content-Length: 18446744073709551620\r\n\r\n", 400),
	ROW("Content-Length of 40 digits",
	    POST "Content-Length: 1111111111111111111111111111111111111111\r\n\r\n", 400),
	ROW("a body larger than allowed", POST "Content-Length: 65\r\n\r\n", 413),
	ROW("blanks around Content-Length", POST "Content-Length: \t4 \r\n\r\nabcd", TAKEN),
	ROW("Content-Length of a body still to come", POST "Content-Length: 4\r\n\r\nabc", MORE),
	ROW("chunked twice in one list", POST "Transfer-Encoding: chunked, chunked\r\n\r\n", 400),
	ROW("chunked twice in two fields",
	    POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
	ROW("identity behind chunked",
	    POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", 400),
	ROW("chunked is not the last coding", POST "Transfer-Encoding: chunked, gzip\r\n\r\n", 400),
	ROW("no chunked at all", POST "Transfer-Encoding: gzip\r\n\r\n", 400),
	ROW("a coding that is not known", POST "Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
	ROW("a word that ends in chunked", POST "Transfer-Encoding: xchunked\r\n\r\n", 400),
	ROW("a word that begins with chunked", POST "Transfer-Encoding: chunkedx\r\n\r\n", 400),
	ROW("chunked in quotes", POST "Transfer-Encoding: \"chunked\"\r\n\r\n", 400),
	ROW("chunked behind a vertical tab", POST "Transfer-Encoding: \vchunked\r\n\r\n", 400),
	ROW("chunked with a parameter", POST "Transfer-Encoding: chunked;a=b\r\n\r\n", 400),
	ROW("an empty element before chunked", POST "Transfer-Encoding: , chunked\r\n\r\n", 400),
	ROW("an empty Transfer-Encoding", POST "Transfer-Encoding:\r\n\r\n", 400),
	ROW("a blank before the colon of Transfer-Encoding",
	    POST "Transfer-Encoding : chunked\r\n\r\n", 400),
	ROW("Transfer-Encoding in HTTP/1.0",
	    "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
	ROW("chunked in any letter case", POST "Transfer-Encoding: ChUnKeD\r\n\r\n0\r\n\r\n", TAKEN),
};

static const struct row chunks[] = {
	ROW("a chunk", CHUNKED "5\r\nhello\r\n0\r\n\r\n", TAKEN),
	ROW("a size in any letter case", CHUNKED "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
	    TAKEN),
	ROW("zeros before the size", CHUNKED "005\r\nhello\r\n000\r\n\r\n", TAKEN),
	ROW("an extension", CHUNKED "5;a\r\nhello\r\n0\r\n\r\n", TAKEN),
	ROW("an extension with a value", CHUNKED "5;a=b;c=\"d;\\\"\"\r\nhello\r\n0\r\n\r\n", TAKEN),
	ROW("blanks around an extension", CHUNKED "5 ; a = b\r\nhello\r\n0\r\n\r\n", TAKEN),
	ROW("a trailer", CHUNKED "0\r\nX: y\r\n\r\n", TAKEN),
	ROW("a trailer changes no framing", CHUNKED "0\r\nContent-Length: 9\r\n\r\n", TAKEN),
	ROW("a body without its last chunk", CHUNKED "5\r\nhello\r\n", MORE),
	ROW("a missing size", CHUNKED "\r\nhello\r\n0\r\n\r\n", 400),
	ROW("a size that is no number", CHUNKED "xyz\r\nhello\r\n0\r\n\r\n", 400),
	ROW("0x before the size", CHUNKED "0x5\r\nhello\r\n0\r\n\r\n", 400),
	ROW("a negative size", CHUNKED "-5\r\nhello\r\n0\r\n\r\n", 400),
	ROW("a positive size", CHUNKED "+5\r\nhello\r\n0\r\n\r\n", 400),
	ROW("a blank before the size", CHUNKED " 5\r\nhello\r\n0\r\n\r\n", 400),
	ROW("a blank behind the size", CHUNKED "5 \r\nhello\r\n0\r\n\r\n", 400),
	ROW("underscores in the size", CHUNKED "1_0\r\nhello\r\n0\r\n\r\n", 400),
	ROW("a size past 32 bits", CHUNKED "100000005\r\nhello\r\n0\r\n\r\n", 413),
	ROW("a size past 64 bits", CHUNKED "10000000000000005\r\nhello\r\n0\r\n\r\n", 413),
	ROW("more than the body may have", CHUNKED "41\r\n", 413),
	ROW("chunks that together are more than it may have",
	    CHUNKED "40\r\n0123456789012345678901234567890123456789012345678901234567890123\r\n1\r\n",
	    413),
	ROW("a size of nine digits", CHUNKED "000000000\r\n\r\n", 413),
	ROW("a size that ends with LF", CHUNKED "5\nhello\r\n0\r\n\r\n", 400),
	ROW("a size that ends with CR", CHUNKED "5\rhello\r\n0\r\n\r\n", 400),
	ROW("a chunk that ends with LF", CHUNKED "5\r\nhello\n0\r\n\r\n", 400),
	ROW("a chunk without an end of line", CHUNKED "5\r\nhello0\r\n\r\n", 400),
	ROW("a chunk that is longer than its size", CHUNKED "5\r\nhelloo\r\n0\r\n\r\n", 400),
	ROW("an extension that ends with LF", CHUNKED "5;a\nhello\r\n0\r\n\r\n", 400),
	ROW("an extension with a CR inside", CHUNKED "5;a\rb\r\nhello\r\n0\r\n\r\n", 400),
	ROW("an extension without a name", CHUNKED "5;\r\nhello\r\n0\r\n\r\n", 400),
	ROW("an extension without a value", CHUNKED "5;a=\r\nhello\r\n0\r\n\r\n", 400),
	ROW("an extension with a NUL", CHUNKED "5;a=\0\r\nhello\r\n0\r\n\r\n", 400),
	ROW("a quoted value without an end", CHUNKED "5;a=\"b\r\nhello\r\n0\r\n\r\n", 400),
	ROW("an extension of blanks", CHUNKED "5; \r\nhello\r\n0\r\n\r\n", 400),
	ROW("an extension without its semicolon", CHUNKED "5 a=b\r\nhello\r\n0\r\n\r\n", 400),
	ROW("a trailer that is not a field", CHUNKED "0\r\nX\r\n\r\n", 400),
	ROW("a folded trailer", CHUNKED "0\r\nX: y\r\n z\r\n\r\n", 400),
	ROW("a trailer that begins with a blank", CHUNKED "0\r\n X: y\r\n\r\n", 400),
	ROW("a trailer that ends with LF", CHUNKED "0\r\nX: y\n\r\n", 400),
};

static const struct row lines[] = {
	ROW("LF at the end of the request line", "GET / HTTP/1.1\nHost: h\r\n\r\n", 400),
	ROW("LF at the end of a field", GET "Host: h\n\r\n", 400),
	ROW("LF at the end of the head", GET_HOST "\n", 400),
	ROW("CR within the request line", "GET /\rHTTP/1.1\r\nHost: h\r\n\r\n", 400),
	ROW("CR within a value", GET_HOST "X: a\rb\r\n\r\n", 400),
	ROW("CR at the end of a field", GET "Host: h\rX: y\r\n\r\n", 400),
	ROW("CR before CRLF", GET "Host: h\r\r\n\r\n", 400),
	ROW("a folded field by a blank", GET_HOST "X: a\r\n b\r\n\r\n", 400),
	ROW("a folded field by a tab", GET_HOST "X: a\r\n\tb\r\n\r\n", 400),
	ROW("a folded field first", GET " Host: h\r\n\r\n", 400),
	ROW("a blank before the colon", GET "Host : h\r\n\r\n", 400),
	ROW("a tab before the colon", GET "Host\t: h\r\n\r\n", 400),
	ROW("an empty field name", GET_HOST ": x\r\n\r\n", 400),
	ROW("a field without a colon", GET_HOST "X\r\n\r\n", 400),
	ROW("a field name with a blank", GET_HOST "X Y: z\r\n\r\n", 400),
	ROW("a field name with brackets", GET_HOST "X[]: y\r\n\r\n", 400),
	ROW("a field name of other letters", GET_HOST "\xc3\xa4: y\r\n\r\n", 400),
	ROW("NUL in a field name", GET_HOST "X\0: y\r\n\r\n", 400),
	ROW("NUL in a value", GET_HOST "X: a\0b\r\n\r\n", 400),
	ROW("a control character in a value", GET_HOST "X: a\x01\r\n\r\n", 400),
	ROW("DEL in a value", GET_HOST "X: a\x7f\r\n\r\n", 400),
	ROW("other letters in a value", GET_HOST "X: \xc3\xa4\r\n\r\n", TAKEN),
	ROW("a value of blanks", GET_HOST "X: \t \r\n\r\n", TAKEN),
	ROW("no blank behind the colon", GET "Host:h\r\n\r\n", TAKEN),
	ROW("one empty line before the request", "\r\n" GET_HOST "\r\n", TAKEN),
	ROW("two empty lines before the request", "\r\n\r\n" GET_HOST "\r\n", 400),
	ROW("a head without its end", GET_HOST, MORE),
};

static const struct row hosts[] = {
	ROW("no Host", GET "\r\n", 400),
	ROW("Host twice", GET "Host: h\r\nHost: h\r\n\r\n", 400),
	ROW("two different Hosts", GET "Host: h\r\nhost: i\r\n\r\n", 400),
	ROW("two hosts in one field", GET "Host: h, i\r\n\r\n", 400),
	ROW("two hosts with a blank", GET "Host: h i\r\n\r\n", 400),
	ROW("a Host with a path", GET "Host: h/a\r\n\r\n", 400),
	ROW("a Host with a scheme", GET "Host: http://h\r\n\r\n", 400),
	ROW("a Host with a user", GET "Host: u@h\r\n\r\n", 400),
	ROW("a Host with a query", GET "Host: h?a\r\n\r\n", 400),
	ROW("a Host with a fragment", GET "Host: h#a\r\n\r\n", 400),
	ROW("a Host with two ports", GET "Host: h:1:2\r\n\r\n", 400),
	ROW("a Host with a port of letters", GET "Host: h:http\r\n\r\n", 400),
	ROW("a Host with a port too large", GET "Host: h:65536\r\n\r\n", 400),
	ROW("a Host of a port alone", GET "Host: :80\r\n\r\n", 400),
	ROW("an IPv6 Host without brackets", GET "Host: ::1\r\n\r\n", 400),
	ROW("an IPv6 Host without its end", GET "Host: [::1\r\n\r\n", 400),
	ROW("a Host with a bad escape", GET "Host: h%zz\r\n\r\n", 400),
	ROW("a Host with a backslash", GET "Host: h\\i\r\n\r\n", 400),
	ROW("a Host in other letters", GET "Host: \xc3\xa4\r\n\r\n", 400),
	ROW("a Host with a port", GET "Host: h.example:9469\r\n\r\n", TAKEN),
	ROW("an IPv6 Host", GET "Host: [::1]:9469\r\n\r\n", TAKEN),
	ROW("an empty Host", GET "Host:\r\n\r\n", TAKEN),
	ROW("an absolute target", "GET http://h/a HTTP/1.1\r\nHost: h\r\n\r\n", TAKEN),
	ROW("an absolute target of another host", "GET http://i/a HTTP/1.1\r\nHost: h\r\n\r\n", TAKEN),
	ROW("an absolute target without a path", "GET http://h HTTP/1.1\r\nHost: h\r\n\r\n", TAKEN),
	ROW("an absolute target without Host", "GET http://h/ HTTP/1.1\r\n\r\n", 400),
	ROW("an absolute target without a host", "GET http:///a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
	ROW("an absolute target with a user", "GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
	ROW("an absolute target with a bad port", "GET http://h:x/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
	ROW("another scheme", "GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
};

static const struct row requests[] = {
	ROW("HTTP/0.9", "GET /\r\n", 400),
	ROW("HTTP/0.9 by its number", "GET / HTTP/0.9\r\nHost: h\r\n\r\n", 505),
	ROW("HTTP/1.0 without Host", "GET / HTTP/1.0\r\n\r\n", TAKEN),
	ROW("HTTP/1.2 is as HTTP/1.1", "GET / HTTP/1.2\r\nHost: h\r\n\r\n", TAKEN),
	ROW("HTTP/2.0", "GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
	ROW("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
	ROW("the version in lower case", "GET / http/1.1\r\nHost: h\r\n\r\n", 400),
	ROW("a version of two digits", "GET / HTTP/1.10\r\nHost: h\r\n\r\n", 400),
	ROW("a version without a dot", "GET / HTTP/11\r\nHost: h\r\n\r\n", 400),
	ROW("a version with a blank", "GET / HTTP/ 1.1\r\nHost: h\r\n\r\n", 400),
	ROW("another protocol", "GET / ICY/1.1\r\nHost: h\r\n\r\n", 400),
	ROW("a blank behind the version", "GET / HTTP/1.1 \r\nHost: h\r\n\r\n", 400),
	ROW("a blank before the method", " GET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
	ROW("two blanks behind the method", "GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
	ROW("two blanks behind the target", "GET /  HTTP/1.1\r\nHost: h\r\n\r\n", 400),
	ROW("a tab for a blank", "GET\t/\tHTTP/1.1\r\nHost: h\r\n\r\n", 400),
	ROW("a method of other characters", "G\x7f / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
	ROW("a method with a colon", "GET: / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
	ROW("CONNECT", "CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", 501),
	ROW("a target without a slash", "GET a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
	ROW("'*' without OPTIONS", "GET * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
	ROW("'*' with OPTIONS", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", TAKEN),
	ROW("a target with a blank", "GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
	ROW("a target with a fragment", "GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
	ROW("a target with a backslash", "GET /a\\b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
	ROW("a target with a bad escape", "GET /%g0 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
	ROW("a target with half an escape", "GET /%4 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
	ROW("a target in other letters", "GET /\xc3\xa4 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
	ROW("NUL in a target", "GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
	ROW("an expectation that is not known", POST "Expect: 200-ok\r\n\r\n", 417),
	ROW("100-continue", POST "Expect: 100-continue\r\nContent-Length: 1\r\n\r\na", TAKEN),
	ROW("words of TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 400),
};

static struct http_parser parser;
static unsigned musts, musts_met;

static int feed(const struct row *row, size_t piece)
{
	size_t start = 0;

	http_parser_init(&parser, BODY_BYTES_MAX);
	for (;;) {
		struct http_slice body;
		size_t used, room = row->bytes - start < piece ? row->bytes - start : piece;
		enum http_event event = http_parse(&parser, row->text + start, room, &used, &body);

		start += used;
		if (event == HTTP_END)
			return TAKEN;
		if (event == HTTP_REFUSED)
			return parser.status;
		if (event == HTTP_MORE && start == row->bytes)
			return MORE;
	}
}

static void rows_check(const struct row *rows, size_t count)
{
	unsigned failed = 0;

	for (size_t i = 0; i < count; i++) {
		bool is_met = true;

		for (size_t piece = 1; piece <= rows[i].bytes; piece = 2 * piece + 1) {
			int got = feed(&rows[i], piece);

			if (got == rows[i].status && feed(&rows[i], rows[i].bytes) == got)
				continue;
			print_error("%s: %d, not %d, in pieces of %zu\n", rows[i].name, got,
				    rows[i].status, piece);
			is_met = false;
			break;
		}
		musts++;
		musts_met += is_met;
		failed += !is_met;
	}
	assert_int_equal(failed, 0);
}

#define CHECK(rows) rows_check(rows, sizeof(rows) / sizeof((rows)[0]))

static void a_body_has_one_end_for_every_reader(void **unused)
{
	(void)unused;
	CHECK(framing);
	CHECK(chunks);
}

static void a_line_ends_with_crlf_and_nothing_else(void **unused)
{
	(void)unused;
	CHECK(lines);
}

static void a_request_names_one_host(void **unused)
{
	(void)unused;
	CHECK(hosts);
}

static void a_request_line_is_method_target_and_version(void **unused)
{
	(void)unused;
	CHECK(requests);
}

/* ---- the daemon's server ---- */

struct exchange {
	const char *name;
	const char *request;
	const char *wanted[4];   /* all stand in the answers */
	const char *unwanted[2]; /* none does */
	bool closes;
};

#define ANSWER_200 "HTTP/1.1 200 OK\r\n"
#define PAGE "GET /page HTTP/1.1\r\nHost: h\r\n"

static const struct exchange exchanges[] = {
	{ "an answer has a date", PAGE "\r\n", { ANSWER_200, "\r\nDate: ", " GMT\r\n" }, { NULL }, false },
	{ "an answer has a length", PAGE "\r\n", { "\r\nContent-Length: 4\r\n", "\r\n\r\npage" },
	  { "Transfer-Encoding" }, false },
	{ "HEAD has the head of GET and no body", "HEAD /page HTTP/1.1\r\nHost: h\r\n\r\n",
	  { ANSWER_200, "\r\nContent-Length: 4\r\n" }, { "\r\n\r\npage" }, false },
	{ "HEAD of what is not there has no body", "HEAD /none HTTP/1.1\r\nHost: h\r\n\r\n",
	  { "HTTP/1.1 404 " }, { "no such page" }, true },
	{ "close is obeyed and said", PAGE "Connection: close\r\n\r\n",
	  { ANSWER_200, "\r\nConnection: close\r\n" }, { NULL }, true },
	{ "close among other words is obeyed", PAGE "Connection: x, Close\r\n\r\n",
	  { ANSWER_200, "\r\nConnection: close\r\n" }, { NULL }, true },
	{ "HTTP/1.0 is closed", "GET /page HTTP/1.0\r\n\r\n",
	  { ANSWER_200, "\r\nConnection: close\r\n" }, { NULL }, true },
	{ "HTTP/1.0 is kept where asked", "GET /page HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
	  { ANSWER_200, "\r\nConnection: keep-alive\r\n" }, { NULL }, false },
	{ "requests in one piece are answered in order", PAGE "\r\nGET /none HTTP/1.1\r\nHost: h\r\n\r\n",
	  { "page", "HTTP/1.1 404 " }, { NULL }, true },
	{ "nothing is read behind a close", PAGE "Connection: close\r\n\r\nGET /none HTTP/1.1\r\nHost: h\r\n\r\n",
	  { ANSWER_200 }, { "HTTP/1.1 404 " }, true },
	{ "nothing is read behind a refusal", GET "\r\n" PAGE "\r\n", { "HTTP/1.1 400 " },
	  { ANSWER_200 }, true },
	{ "a smuggled request is not answered",
	  POST "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" PAGE "\r\n",
	  { "HTTP/1.1 400 ", "\r\nConnection: close\r\n" }, { ANSWER_200 }, true },
	{ "a body is not taken for a request", PAGE "Content-Length: 40\r\n\r\n" PAGE "\r\n",
	  { "HTTP/1.1 413 " }, { ANSWER_200 }, true },
	{ "no 100 for a body that is not wanted",
	  PAGE "Expect: 100-continue\r\nContent-Length: 4\r\n\r\n", { "HTTP/1.1 413 " },
	  { "HTTP/1.1 100 " }, true },
	{ "an expectation without a body is ignored", PAGE "Expect: 100-continue\r\n\r\n", { ANSWER_200 },
	  { "HTTP/1.1 100 " }, false },
	{ "405 for POST says what is allowed", "POST /page HTTP/1.1\r\nHost: h\r\n\r\n",
	  { "HTTP/1.1 405 ", "\r\nAllow: GET, HEAD\r\n" }, { NULL }, true },
	{ "405 for OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
	  { "HTTP/1.1 405 ", "\r\nAllow: GET, HEAD\r\n" }, { NULL }, true },
	{ "405 for TRACE echoes nothing", "TRACE /page HTTP/1.1\r\nHost: h\r\nX: secret\r\n\r\n",
	  { "HTTP/1.1 405 " }, { "secret" }, true },
	{ "methods have letter case", "get /page HTTP/1.1\r\nHost: h\r\n\r\n", { "HTTP/1.1 405 " },
	  { ANSWER_200 }, true },
	{ "paths have letter case", "GET /PAGE HTTP/1.1\r\nHost: h\r\n\r\n", { "HTTP/1.1 404 " },
	  { ANSWER_200 }, true },
	{ "an absolute target is its path", "GET http://i/page HTTP/1.1\r\nHost: h\r\n\r\n",
	  { ANSWER_200, "\r\n\r\npage" }, { NULL }, false },
	{ "no upgrade to another protocol", PAGE "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
	  { ANSWER_200 }, { "HTTP/1.1 101 " }, false },
	{ "nothing may be framed, sniffed or loaded", PAGE "\r\n",
	  { "\r\nX-Content-Type-Options: nosniff\r\n", "\r\nX-Frame-Options: DENY\r\n",
	    "\r\nContent-Security-Policy: default-src 'none'", "\r\nCache-Control: no-store\r\n" },
	  { NULL }, false },
};

static char answers[1 << 16];

static int render_page(void *owner, struct admin_http_call *call)
{
	(void)owner;
	text_add(call->out, "page");
	return 200;
}

/* Sends in pieces and reads what comes; true: the server has closed. */
static bool converse(struct admin_http *http, int fd, const char *request, size_t piece)
{
	size_t bytes = strlen(request), sent = 0, got = 0;

	for (unsigned i = 0, idle = 0; i < STEPS_MAX && idle < 3; i++) {
		size_t room = bytes - sent < piece ? bytes - sent : piece;
		ssize_t count = room > 0 ? send(fd, request + sent, room, MSG_NOSIGNAL) : 0;

		sent += count > 0 ? (size_t)count : 0;
		idle = admin_http_step(http, 1) || count > 0 ? 0 : idle + 1;
		count = recv(fd, answers + got, sizeof(answers) - 1 - got, MSG_DONTWAIT);
		got += count > 0 ? (size_t)count : 0;
		answers[got] = '\0';
		if (count == 0 || (count < 0 && errno != EAGAIN))
			return true;
	}
	return false;
}

static bool exchange_is_met(struct admin_http *http, const char *path,
			    const struct exchange *exchange, size_t piece)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	bool is_met, closed;

	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	closed = converse(http, fd, exchange->request, piece);
	close(fd);
	is_met = closed == exchange->closes;
	for (unsigned i = 0; i < 4 && exchange->wanted[i] != NULL; i++)
		is_met = is_met && strstr(answers, exchange->wanted[i]) != NULL;
	for (unsigned i = 0; i < 2 && exchange->unwanted[i] != NULL; i++)
		is_met = is_met && strstr(answers, exchange->unwanted[i]) == NULL;
	if (!is_met)
		print_error("%s (pieces of %zu, %s):\n%s\n", exchange->name, piece,
			    closed ? "closed" : "kept", answers);
	return is_met;
}

static void an_answer_is_what_the_client_can_rely_on(void **unused)
{
	static const struct admin_http_page pages[] = { { "/page", "text/plain", render_page } };
	struct admin_http_config config = { .pages = pages, .pages_count = 1,
					    .clock = clock_real() };
	const char *folder = getenv("TMPDIR");
	unsigned failed = 0;
	struct admin_http *http;
	struct error error;
	char path[100];

	(void)unused;
	snprintf(path, sizeof(path), "%s/strict.%d", folder == NULL ? "/tmp" : folder, getpid());
	config.socket_path = path;
	assert_int_equal(admin_http_open(&http, &config, &error), 0);
	for (size_t i = 0; i < sizeof(exchanges) / sizeof(exchanges[0]); i++) {
		bool is_met = exchange_is_met(http, path, &exchanges[i], 1000) &&
			      exchange_is_met(http, path, &exchanges[i], 7);

		musts++;
		musts_met += is_met;
		failed += !is_met;
	}
	admin_http_close(http);
	assert_int_equal(failed, 0);
}

static int musts_print(void **unused)
{
	(void)unused;
	printf("MUST %u / %u\n", musts_met, musts);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_body_has_one_end_for_every_reader),
		cmocka_unit_test(a_line_ends_with_crlf_and_nothing_else),
		cmocka_unit_test(a_request_names_one_host),
		cmocka_unit_test(a_request_line_is_method_target_and_version),
		cmocka_unit_test(an_answer_is_what_the_client_can_rely_on),
	};

	return cmocka_run_group_tests(tests, NULL, musts_print);
}
