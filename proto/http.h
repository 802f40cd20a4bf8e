/*
 * proto/http.h: HTTP/1.1 requests as a server reads them (RFC 9112), byte by byte, and strictly:
 * what two readers could understand in two ways is refused, so that nothing can be smuggled past
 * whoever stands in front of us.
 *
 * Refused: a bare LF or CR, a space before ':', folded fields, Content-Length with
 * Transfer-Encoding, twice, or not plain digits, any coding but chunked, a missing or second Host,
 * characters outside the grammar; tests/proto/test_http_strict.c has them all. No I/O, no heap.
 * Runs on: one thread at a time.
 */
#ifndef KVTIER_PROTO_HTTP_H
#define KVTIER_PROTO_HTTP_H

#include "base/text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTP_HEAD_BYTES_MAX 8192u /* request line and fields */
#define HTTP_LINE_BYTES_MAX 512u  /* a line of chunked framing */
#define HTTP_FIELDS_MAX 64u
#define HTTP_TARGET_BYTES_MAX 2048u
#define HTTP_TRAILERS_MAX 16u
#define HTTP_CHUNK_DIGITS_MAX 8u
/* Bytes of framing (chunk lines) that a body may have beyond its bytes: a flood of tiny chunks is
 * refused. */
#define HTTP_FRAMING_BYTES_MAX (64u << 10)

/* A run of bytes; not NUL-terminated. */
struct http_slice {
	const char *start;
	size_t bytes;
};

struct http_field {
	struct http_slice name;  /* as sent; compare with http_slice_is_word() */
	struct http_slice value; /* without the white space around it */
};

enum http_event {
	HTTP_MORE,   /* all bytes are used: give more */
	HTTP_HEAD,   /* the fields of the parser are filled in */
	HTTP_BODY,   /* a piece of the body, decoded */
	HTTP_END,    /* the request is whole; http_parser_next() begins another */
	HTTP_REFUSED /* answer with `status` and close */
};

struct http_parser {
	/* Valid from HTTP_HEAD until http_parser_next(); slices point into this struct. */
	struct http_slice method;
	struct http_slice target; /* as sent */
	struct http_slice path;   /* without query and authority; "*" of OPTIONS */
	struct http_slice query;  /* behind '?', may be empty */
	struct http_slice authority; /* of an absolute-form, else of Host; may be empty */
	struct http_field fields[HTTP_FIELDS_MAX];
	unsigned fields_count;
	unsigned version_minor; /* HTTP/1.x */
	bool is_chunked;
	bool keeps_alive; /* the client would use the connection again */
	bool expects_continue;
	uint64_t content_bytes; /* of Content-Length; 0 without */

	int status;         /* of HTTP_REFUSED */
	const char *reason; /* the same in words */

	/* The parser's own. */
	uint64_t body_bytes_max;
	uint64_t body_bytes; /* seen so far */
	uint64_t left_bytes; /* of the body or of the chunk */
	uint32_t framing_bytes;
	uint32_t line_start, line_end; /* of the line being read, in buffer */
	unsigned state;
	unsigned trailers_count;
	bool has_carriage_return;
	bool has_content_length, has_coding, has_host, has_connection_close, has_keep_alive;
	char buffer[HTTP_HEAD_BYTES_MAX + HTTP_LINE_BYTES_MAX];
};

/* Bodies over `body_bytes_max` are refused with 413. */
void http_parser_init(struct http_parser *parser, uint64_t body_bytes_max);
/* After HTTP_END: forgets the request. */
void http_parser_next(struct http_parser *parser);

/*
 * Reads at most `count` bytes up to the next event; *out_used says how many were taken. Call again
 * with the rest until HTTP_MORE. `out_body` is written on HTTP_BODY and points into `bytes`. After
 * HTTP_END or HTTP_REFUSED nothing is read.
 */
enum http_event http_parse(struct http_parser *parser, const char *bytes, size_t count,
			   size_t *out_used, struct http_slice *out_body);
/* True while a request has begun and not ended. */
bool http_parser_is_busy(const struct http_parser *parser);

/* Compares without letter case (field names, codings); the other with it (methods, paths). */
bool http_slice_is_word(struct http_slice slice, const char *word);
bool http_slice_is(struct http_slice slice, const char *text);

/*
 * How much the client wants `type` ("text/plain"), in thousandths: the quality of the most exact
 * media range of all Accept fields that names it. Without Accept 1000; 0: not at all.
 */
unsigned http_accept_quality(const struct http_parser *parser, const char *type);

struct http_answer {
	int status;
	const char *content_type; /* NULL: none */
	const char *allow;        /* of 405; NULL else */
	const char *policy;       /* Content-Security-Policy; NULL: nothing may be loaded */
	uint64_t content_bytes;
	uint64_t wall_seconds; /* since 1970, for Date; 0: no clock */
	bool keeps_alive;
};

/* Writes the head of an answer with Content-Length, as far as the empty line. */
void http_answer_head(struct text *text, const struct http_answer *answer);
const char *http_status_words(int status);

#endif
