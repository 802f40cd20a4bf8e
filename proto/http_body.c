/* proto/http_body.c: lines and bodies of HTTP requests as they arrive, and the heads of answers. */
#include "proto/http_parts.h"

#include <assert.h>
#include <string.h>

static void skip_blanks(const struct http_slice *line, size_t *at)
{
	while (*at < line->bytes && (line->start[*at] == ' ' || line->start[*at] == '\t'))
		(*at)++;
}

static size_t skip_token(const struct http_slice *line, size_t *at)
{
	size_t first = *at;

	while (*at < line->bytes && http_is_token_character(line->start[*at]))
		(*at)++;
	return *at - first;
}

/* `"..."` with `\` before what would end it. */
static bool skip_quoted(const struct http_slice *line, size_t *at)
{
	for ((*at)++; *at < line->bytes; (*at)++) {
		unsigned char byte = (unsigned char)line->start[*at];

		if (byte == '"') {
			(*at)++;
			return true;
		}
		if (byte == '\\' && ++*at == line->bytes)
			return false;
		byte = (unsigned char)line->start[*at];
		if ((byte < 0x20 && byte != '\t') || byte == 0x7f)
			return false;
	}
	return false;
}

/* `;name` or `;name=value`, any number of them; checked and ignored. */
static bool extensions_are_right(const struct http_slice *line, size_t at)
{
	while (at < line->bytes) {
		skip_blanks(line, &at);
		if (at == line->bytes || line->start[at++] != ';')
			return false;
		skip_blanks(line, &at);
		if (skip_token(line, &at) == 0)
			return false;
		if (at == line->bytes || line->start[at] == ';')
			continue;
		skip_blanks(line, &at);
		if (at == line->bytes)
			return false;
		if (line->start[at] != '=')
			continue; /* only another extension may follow */
		at++;
		skip_blanks(line, &at);
		if (at < line->bytes && line->start[at] == '"' ? !skip_quoted(line, &at)
							       : skip_token(line, &at) == 0)
			return false;
	}
	return true;
}

/* "1a2b;extension": the size. */
static enum http_event chunk_line(struct http_parser *parser, struct http_slice line)
{
	uint64_t bytes = 0;
	size_t digits = 0;

	for (; digits < line.bytes && http_hexadecimal(line.start[digits]) >= 0; digits++) {
		if (digits >= HTTP_CHUNK_DIGITS_MAX)
			return http_refuse(parser, 413, "a chunk is too large");
		bytes = bytes * 16 + (uint64_t)http_hexadecimal(line.start[digits]);
	}
	if (digits == 0)
		return http_refuse(parser, 400, "a chunk's size is not a hexadecimal number");
	if (!extensions_are_right(&line, digits))
		return http_refuse(parser, 400, "a chunk's size is followed by no extension");
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
