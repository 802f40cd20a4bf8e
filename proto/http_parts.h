/* proto/http_parts.h: what the files of the HTTP codec share; for proto/http*.c alone. */
#ifndef KVTIER_PROTO_HTTP_PARTS_H
#define KVTIER_PROTO_HTTP_PARTS_H

#include "proto/http.h"

enum http_state {
	HTTP_REQUEST_LINE,
	HTTP_FIELD_LINE,
	HTTP_BODY_BYTES, /* left_bytes of a body with Content-Length */
	HTTP_CHUNK_LINE,
	HTTP_CHUNK_BYTES, /* left_bytes of the chunk */
	HTTP_CHUNK_CLOSE, /* the empty line behind a chunk */
	HTTP_TRAILER_LINE,
	HTTP_BODY_END, /* HTTP_END is to be said */
	HTTP_DONE,
	HTTP_FAILED
};

/* The value of a hexadecimal digit, or -1. */
static inline int http_hexadecimal(char letter)
{
	if (letter >= '0' && letter <= '9')
		return letter - '0';
	if (letter >= 'a' && letter <= 'f')
		return letter - 'a' + 10;
	return letter >= 'A' && letter <= 'F' ? letter - 'A' + 10 : -1;
}

/* RFC 9110, 5.6.2. */
bool http_is_token_character(char letter);
/* HOST or HOST:PORT, where HOST is a name, an IPv4 address, or an IPv6 one in brackets. */
bool http_is_authority(struct http_slice slice);
/* What comes before the first `mark`; *rest gets what comes behind it. False: there is none. */
bool http_cut_at(struct http_slice *rest, char mark, struct http_slice *out_before);
/* Without the blanks and tabs around it. */
struct http_slice http_trim(struct http_slice slice);
enum http_event http_refuse(struct http_parser *parser, int status, const char *reason);
/* One line without its CRLF, of the head (request line and fields; the empty one ends it). */
enum http_event http_head_line(struct http_parser *parser, struct http_slice line);
enum http_event http_trailer_line(struct http_parser *parser, struct http_slice line);

#endif
