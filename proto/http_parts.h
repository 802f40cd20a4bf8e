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

enum http_event http_refuse(struct http_parser *parser, int status, const char *reason);
/* One line without its CRLF, of the head (request line and fields; the empty one ends it). */
enum http_event http_head_line(struct http_parser *parser, struct http_slice line);
enum http_event http_trailer_line(struct http_parser *parser, struct http_slice line);

#endif
