/* proto/http_body.c: lines and bodies of HTTP requests as they arrive, and the heads of answers. */
#include "proto/http_parts.h"

#include <assert.h>
#include <string.h>

/* "1a2b;extension": the size; extensions are checked and ignored. */
static enum http_event chunk_line(struct http_parser *parser, struct http_slice line)
{
	uint64_t bytes = 0;
	size_t digits = 0;

	for (; digits < line.bytes; digits++) {
		char letter = line.start[digits];

		if (letter >= '0' && letter <= '9')
			bytes = bytes * 16 + (uint64_t)(letter - '0');
		else if (letter >= 'a' && letter <= 'f')
			bytes = bytes * 16 + (uint64_t)(letter - 'a' + 10);
		else if (letter >= 'A' && letter <= 'F')
			bytes = bytes * 16 + (uint64_t)(letter - 'A' + 10);
		else
			break;
		if (digits >= HTTP_CHUNK_DIGITS_MAX)
			return http_refuse(parser, 413, "a chunk is too large");
	}
	if (digits == 0 || (digits < line.bytes && line.start[digits] != ';'))
		return http_refuse(parser, 400, "a chunk's size is not a hexadecimal number");
	for (size_t i = digits; i < line.bytes; i++)
		if (line.start[i] != '\t' && (line.start[i] < 0x20 || line.start[i] == 0x7f))
			return http_refuse(parser, 400,
					   "a chunk's extension has control characters");
	if (bytes > parser->body_bytes_max - parser->body_bytes)
		return http_refuse(parser, 413, "the body is too large");
	parser->left_bytes = bytes;
	parser->state = bytes == 0 ? HTTP_TRAILER_LINE : HTTP_CHUNK_BYTES;
	return HTTP_MORE;
}

static bool state_is_head(const struct http_parser *parser)
{
	return parser->state == HTTP_REQUEST_LINE || parser->state == HTTP_FIELD_LINE;
}

static enum http_event line_end(struct http_parser *parser)
{
	struct http_slice line = { parser->buffer + parser->line_start,
				   parser->line_end - parser->line_start };

	parser->has_carriage_return = false;
	if (state_is_head(parser)) {
		parser->line_start = parser->line_end; /* fields stay where they are */
		return http_head_line(parser, line);
	}
	parser->line_end = parser->line_start; /* framing is read and forgotten */
	if (parser->state == HTTP_CHUNK_LINE)
		return chunk_line(parser, line);
	if (parser->state == HTTP_TRAILER_LINE)
		return http_trailer_line(parser, line);
	assert(parser->state == HTTP_CHUNK_CLOSE);
	if (line.bytes > 0)
		return http_refuse(parser, 400, "a chunk is longer than its size");
	parser->state = HTTP_CHUNK_LINE;
	return HTTP_MORE;
}

/* One byte of a line. */
static enum http_event line_byte(struct http_parser *parser, char byte)
{
	if (byte == '\n') {
		if (!parser->has_carriage_return)
			return http_refuse(parser, 400, "a line ends with LF alone");
		return line_end(parser);
	}
	if (parser->has_carriage_return)
		return http_refuse(parser, 400, "a CR that no LF follows");
	if (byte == '\r') {
		parser->has_carriage_return = true;
		return HTTP_MORE;
	}
	if (state_is_head(parser)) {
		if (parser->line_end == HTTP_HEAD_BYTES_MAX)
			return parser->state == HTTP_REQUEST_LINE
				       ? http_refuse(parser, 414, "the request line is too long")
				       : http_refuse(parser, 431, "the fields are too long");
	} else {
		if (++parser->framing_bytes > HTTP_FRAMING_BYTES_MAX)
			return http_refuse(parser, 413, "too much chunked framing");
		if (parser->line_end - parser->line_start == HTTP_LINE_BYTES_MAX)
			return http_refuse(parser, 400, "a line of chunked framing is too long");
	}
	assert(parser->line_end < sizeof(parser->buffer));
	parser->buffer[parser->line_end++] = byte;
	return HTTP_MORE;
}

static enum http_event body_bytes(struct http_parser *parser, const char *bytes, size_t count,
				  size_t *used, struct http_slice *out_body)
{
	size_t taken = count - *used;

	assert(parser->left_bytes > 0 && taken > 0);
	if (taken > parser->left_bytes)
		taken = (size_t)parser->left_bytes;
	*out_body = (struct http_slice){ bytes + *used, taken };
	*used += taken;
	parser->left_bytes -= taken;
	parser->body_bytes += taken;
	if (parser->left_bytes == 0)
		parser->state = parser->is_chunked ? HTTP_CHUNK_CLOSE : HTTP_BODY_END;
	return HTTP_BODY;
}

enum http_event http_parse(struct http_parser *parser, const char *bytes, size_t count,
			   size_t *out_used, struct http_slice *out_body)
{
	enum http_event event = HTTP_MORE;
	size_t used = 0;

	while (event == HTTP_MORE) {
		if (parser->state == HTTP_BODY_END) {
			parser->state = HTTP_DONE;
			event = HTTP_END;
		} else if (parser->state == HTTP_DONE || parser->state == HTTP_FAILED) {
			event = parser->state == HTTP_DONE ? HTTP_END : HTTP_REFUSED;
		} else if (used == count) {
			break;
		} else if (parser->state == HTTP_BODY_BYTES || parser->state == HTTP_CHUNK_BYTES) {
			event = body_bytes(parser, bytes, count, &used, out_body);
		} else {
			event = line_byte(parser, bytes[used++]);
		}
	}
	*out_used = used;
	return event;
}

const char *http_status_words(int status)
{
	static const struct {
		int status;
		const char *words;
	} known[] = {
		{ 200, "OK" },
		{ 400, "Bad Request" },
		{ 404, "Not Found" },
		{ 405, "Method Not Allowed" },
		{ 408, "Request Timeout" },
		{ 413, "Content Too Large" },
		{ 414, "URI Too Long" },
		{ 417, "Expectation Failed" },
		{ 431, "Request Header Fields Too Large" },
		{ 500, "Internal Server Error" },
		{ 501, "Not Implemented" },
		{ 503, "Service Unavailable" },
		{ 505, "HTTP Version Not Supported" },
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (known[i].status == status)
			return known[i].words;
	return "Unknown";
}

void http_answer_head(struct text *text, const struct http_answer *answer)
{
	text_printf(text, "HTTP/1.1 %d %s\r\n", answer->status, http_status_words(answer->status));
	if (answer->content_type != NULL)
		text_printf(text, "Content-Type: %s\r\n", answer->content_type);
	if (answer->allow != NULL)
		text_printf(text, "Allow: %s\r\n", answer->allow);
	text_printf(text,
		    "Content-Length: %llu\r\nCache-Control: no-store\r\nConnection: %s\r\n\r\n",
		    (unsigned long long)answer->content_bytes,
		    answer->keeps_alive ? "keep-alive" : "close");
}
