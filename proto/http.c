/* proto/http.c: the request line, the fields, and which of the three ends of a body they announce.
 */
#include "proto/http_parts.h"

#include <assert.h>
#include <string.h>

enum http_event http_refuse(struct http_parser *parser, int status, const char *reason)
{
	assert(status >= 400 && status < 600);
	parser->state = HTTP_FAILED;
	parser->status = status;
	parser->reason = reason;
	return HTTP_REFUSED;
}

void http_parser_next(struct http_parser *parser)
{
	uint64_t body_bytes_max = parser->body_bytes_max;

	/* The buffer keeps its old bytes; nothing reads past line_end. */
	memset(parser, 0, offsetof(struct http_parser, buffer));
	parser->body_bytes_max = body_bytes_max;
	parser->state = HTTP_REQUEST_LINE;
}

void http_parser_init(struct http_parser *parser, uint64_t body_bytes_max)
{
	parser->body_bytes_max = body_bytes_max;
	http_parser_next(parser);
}

bool http_parser_is_busy(const struct http_parser *parser)
{
	if (parser->state == HTTP_REQUEST_LINE)
		return parser->line_end > 0 || parser->has_carriage_return ||
		       parser->framing_bytes > 0;
	return parser->state != HTTP_DONE && parser->state != HTTP_FAILED;
}

bool http_slice_is(struct http_slice slice, const char *text)
{
	return slice.bytes == strlen(text) && memcmp(slice.start, text, slice.bytes) == 0;
}

static char lower(char letter)
{
	return letter >= 'A' && letter <= 'Z' ? (char)(letter - 'A' + 'a') : letter;
}

bool http_slice_is_word(struct http_slice slice, const char *word)
{
	if (slice.bytes != strlen(word))
		return false;
	for (size_t i = 0; i < slice.bytes; i++)
		if (lower(slice.start[i]) != lower(word[i]))
			return false;
	return true;
}

/* RFC 9110, 5.6.2. */
bool http_is_token_character(char letter)
{
	if ((letter >= '0' && letter <= '9') || (lower(letter) >= 'a' && lower(letter) <= 'z'))
		return true;
	return letter != '\0' && strchr("!#$%&'*+-.^_`|~", letter) != NULL;
}

static bool is_token(struct http_slice slice)
{
	for (size_t i = 0; i < slice.bytes; i++)
		if (!http_is_token_character(slice.start[i]))
			return false;
	return slice.bytes > 0;
}

/* What may stand in a target: visible ASCII without what a URI never has. */
static bool is_target_character(char letter)
{
	return letter > 0x20 && letter < 0x7f && strchr("\"#<>\\^`{|}", letter) == NULL;
}

static bool is_value_character(char letter)
{
	unsigned char byte = (unsigned char)letter;

	return byte == '\t' || (byte >= 0x20 && byte != 0x7f);
}

/* What comes before the first `mark`; *rest gets what comes behind it. False: there is none. */
bool http_cut_at(struct http_slice *rest, char mark, struct http_slice *out_before)
{
	const char *found = memchr(rest->start, mark, rest->bytes);

	if (found == NULL)
		return false;
	*out_before = (struct http_slice){ rest->start, (size_t)(found - rest->start) };
	rest->bytes -= out_before->bytes + 1;
	rest->start = found + 1;
	return true;
}

struct http_slice http_trim(struct http_slice slice)
{
	while (slice.bytes > 0 && (slice.start[0] == ' ' || slice.start[0] == '\t')) {
		slice.start++;
		slice.bytes--;
	}
	while (slice.bytes > 0 &&
	       (slice.start[slice.bytes - 1] == ' ' || slice.start[slice.bytes - 1] == '\t'))
		slice.bytes--;
	return slice;
}

/* Visible ASCII that a URI may have, with two digits behind each '%'. */
static bool is_target(struct http_slice slice)
{
	for (size_t i = 0; i < slice.bytes; i++) {
		if (!is_target_character(slice.start[i]))
			return false;
		if (slice.start[i] == '%' &&
		    (slice.bytes - i < 3 || http_hexadecimal(slice.start[i + 1]) < 0 ||
		     http_hexadecimal(slice.start[i + 2]) < 0))
			return false;
	}
	return true;
}

/* Path and query of an origin-form ("/a?b"), absolute-form ("http://host/a?b") or "*". */
static bool target_split(struct http_parser *parser)
{
	struct http_slice rest = parser->target;
	static const char scheme[] = "http://";

	if (!is_target(rest))
		return false;
	if (http_slice_is(rest, "*")) {
		parser->path = rest;
		return http_slice_is(parser->method, "OPTIONS");
	}
	if (rest.bytes > strlen(scheme) &&
	    http_slice_is_word((struct http_slice){ rest.start, strlen(scheme) }, scheme)) {
		size_t bytes = 0;

		rest.start += strlen(scheme);
		rest.bytes -= strlen(scheme);
		while (bytes < rest.bytes && strchr("/?", rest.start[bytes]) == NULL)
			bytes++;
		/* Host of such a request is checked, and means nothing: RFC 9112, 3.2.2. */
		parser->authority = (struct http_slice){ rest.start, bytes };
		if (bytes == 0 || !http_is_authority(parser->authority))
			return false;
		rest.start += bytes;
		rest.bytes -= bytes;
		if (rest.bytes == 0 || rest.start[0] == '?') { /* "http://host": its root */
			parser->path = (struct http_slice){ parser->target.start + 5, 1 };
			if (rest.bytes > 0)
				parser->query =
					(struct http_slice){ rest.start + 1, rest.bytes - 1 };
			return true;
		}
	}
	if (rest.bytes == 0 || rest.start[0] != '/')
		return false;
	parser->path = rest;
	if (http_cut_at(&rest, '?', &parser->path))
		parser->query = rest;
	return true;
}

/* HTTP_MORE: the line is right. */
static enum http_event request_line(struct http_parser *parser, struct http_slice line)
{
	struct http_slice version = line;

	if (!http_cut_at(&version, ' ', &parser->method) ||
	    !http_cut_at(&version, ' ', &parser->target))
		return http_refuse(parser, 400, "the request line is not METHOD TARGET VERSION");
	if (!is_token(parser->method))
		return http_refuse(parser, 400, "the method is not a token");
	if (parser->target.bytes > HTTP_TARGET_BYTES_MAX)
		return http_refuse(parser, 414, "the target is too long");
	if (version.bytes != strlen("HTTP/1.1") || memcmp(version.start, "HTTP/", 5) != 0 ||
	    version.start[5] < '0' || version.start[5] > '9' || version.start[6] != '.' ||
	    version.start[7] < '0' || version.start[7] > '9')
		return http_refuse(parser, 400, "the version is not HTTP/1.1");
	if (version.start[5] != '1')
		return http_refuse(parser, 505, "only HTTP/1 is spoken here");
	parser->version_minor = (unsigned)(version.start[7] - '0');
	if (http_slice_is(parser->method, "CONNECT"))
		return http_refuse(parser, 501, "no tunnels");
	if (!target_split(parser))
		return http_refuse(parser, 400, "the target is not a path");
	return HTTP_MORE;
}

static enum http_event content_length(struct http_parser *parser, struct http_slice value)
{
	uint64_t bytes = 0;

	if (parser->has_content_length)
		return http_refuse(parser, 400, "Content-Length stands there twice");
	parser->has_content_length = true;
	if (value.bytes == 0 || value.bytes > 19)
		return http_refuse(parser, 400, "Content-Length is not a number");
	for (size_t i = 0; i < value.bytes; i++) {
		if (value.start[i] < '0' || value.start[i] > '9')
			return http_refuse(parser, 400, "Content-Length is not a number");
		bytes = bytes * 10 + (uint64_t)(value.start[i] - '0');
	}
	parser->content_bytes = bytes;
	return HTTP_MORE;
}

/* RFC 9112, 6.1: a body whose last coding is not chunked has no end that both sides agree on. */
static enum http_event transfer_encoding(struct http_parser *parser, struct http_slice value)
{
	struct http_slice coding, rest = value;
	bool more = true, has_others = false;

	if (parser->has_coding)
		return http_refuse(parser, 400, "Transfer-Encoding stands there twice");
	parser->has_coding = true;
	if (parser->version_minor == 0)
		return http_refuse(parser, 400, "Transfer-Encoding is not of HTTP/1.0");
	while (more) {
		more = http_cut_at(&rest, ',', &coding);
		coding = http_trim(more ? coding : rest);
		if (parser->is_chunked || coding.bytes == 0)
			return http_refuse(parser, 400, "chunked is not the last coding, once");
		parser->is_chunked = http_slice_is_word(coding, "chunked");
		has_others |= !parser->is_chunked;
	}
	if (!parser->is_chunked)
		return http_refuse(parser, 400, "the last transfer coding is not chunked");
	if (has_others)
		return http_refuse(parser, 501, "the only transfer coding is chunked");
	return HTTP_MORE;
}

static enum http_event host(struct http_parser *parser, struct http_slice value)
{
	if (parser->has_host)
		return http_refuse(parser, 400, "Host stands there twice");
	parser->has_host = true;
	/* Empty is what a client sends whose URI has no authority: RFC 9112, 3.2. */
	if (value.bytes > 0 && !http_is_authority(value))
		return http_refuse(parser, 400, "Host is not HOST or HOST:PORT");
	if (parser->authority.bytes == 0)
		parser->authority = value;
	return HTTP_MORE;
}

static void connection(struct http_parser *parser, struct http_slice rest)
{
	struct http_slice option;
	bool more = true;

	while (more) {
		more = http_cut_at(&rest, ',', &option);
		option = http_trim(more ? option : rest);
		parser->has_connection_close |= http_slice_is_word(option, "close");
		parser->has_keep_alive |= http_slice_is_word(option, "keep-alive");
	}
}

/* Splits and checks "Name: value". False: not a field. */
static bool field_split(struct http_slice line, struct http_field *out_field)
{
	struct http_slice rest = line;

	if (!http_cut_at(&rest, ':', &out_field->name) || !is_token(out_field->name))
		return false; /* also a folded line, and a space before ':' */
	out_field->value = http_trim(rest);
	for (size_t i = 0; i < rest.bytes; i++)
		if (!is_value_character(rest.start[i]))
			return false;
	return true;
}

static enum http_event field_line(struct http_parser *parser, struct http_slice line)
{
	struct http_field *field = &parser->fields[parser->fields_count];

	if (parser->fields_count == HTTP_FIELDS_MAX)
		return http_refuse(parser, 431, "too many fields");
	if (line.start[0] == ' ' || line.start[0] == '\t')
		return http_refuse(parser, 400, "a folded field");
	if (!field_split(line, field))
		return http_refuse(parser, 400, "a line that is not a field");
	parser->fields_count++;
	if (http_slice_is_word(field->name, "content-length"))
		return content_length(parser, field->value);
	if (http_slice_is_word(field->name, "transfer-encoding"))
		return transfer_encoding(parser, field->value);
	if (http_slice_is_word(field->name, "host"))
		return host(parser, field->value);
	if (http_slice_is_word(field->name, "connection"))
		connection(parser, field->value);
	if (http_slice_is_word(field->name, "expect")) {
		if (!http_slice_is_word(field->value, "100-continue"))
			return http_refuse(parser, 417, "the only expectation is 100-continue");
		parser->expects_continue = true;
	}
	return HTTP_MORE;
}

static enum http_event head_end(struct http_parser *parser)
{
	if (parser->has_content_length && parser->has_coding)
		return http_refuse(parser, 400, "Content-Length and Transfer-Encoding together");
	if (!parser->has_host && parser->version_minor > 0)
		return http_refuse(parser, 400, "Host is missing");
	if (parser->content_bytes > parser->body_bytes_max)
		return http_refuse(parser, 413, "the body is too large");
	parser->keeps_alive = !parser->has_connection_close &&
			      (parser->version_minor > 0 || parser->has_keep_alive);
	parser->left_bytes = parser->content_bytes;
	if (parser->is_chunked)
		parser->state = HTTP_CHUNK_LINE;
	else
		parser->state = parser->left_bytes > 0 ? HTTP_BODY_BYTES : HTTP_BODY_END;
	return HTTP_HEAD;
}

enum http_event http_head_line(struct http_parser *parser, struct http_slice line)
{
	enum http_event event;

	if (parser->state == HTTP_REQUEST_LINE) {
		if (line.bytes == 0 && parser->framing_bytes == 0) {
			parser->framing_bytes = 2; /* one empty line before a request is forgiven */
			return HTTP_MORE;
		}
		event = request_line(parser, line);
		if (event == HTTP_MORE)
			parser->state = HTTP_FIELD_LINE;
		return event;
	}
	assert(parser->state == HTTP_FIELD_LINE);
	return line.bytes == 0 ? head_end(parser) : field_line(parser, line);
}

enum http_event http_trailer_line(struct http_parser *parser, struct http_slice line)
{
	struct http_field unused;

	if (line.bytes == 0) {
		parser->state = HTTP_BODY_END;
		return HTTP_MORE;
	}
	if (parser->trailers_count++ == HTTP_TRAILERS_MAX)
		return http_refuse(parser, 431, "too many trailers");
	if (!field_split(line, &unused))
		return http_refuse(parser, 400, "a trailer that is not a field");
	return HTTP_MORE; /* none has a meaning here */
}
