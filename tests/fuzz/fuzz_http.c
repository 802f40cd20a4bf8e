/* tests/fuzz/fuzz_http.c: any bytes as requests: read in one piece and in many they mean the same,
 * within the bounds. */
#include "proto/http.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define BODY_BYTES_MAX 1000

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

/* What was understood: events and bytes folded into one number, whatever the pieces. */
struct meaning {
	uint64_t hash;
	int status;
	unsigned ends;
};

static void fold(struct meaning *meaning, const void *bytes, size_t count)
{
	const uint8_t *byte = bytes;

	for (size_t i = 0; i < count; i++)
		meaning->hash = (meaning->hash ^ byte[i]) * UINT64_C(1099511628211);
}

static void fold_slice(struct meaning *meaning, const struct http_parser *parser,
		       struct http_slice slice)
{
	assert(slice.bytes == 0 ||
	       (slice.start >= parser->buffer &&
		slice.start + slice.bytes <= parser->buffer + sizeof(parser->buffer)));
	fold(meaning, &slice.bytes, sizeof(slice.bytes));
	if (slice.bytes > 0)
		fold(meaning, slice.start, slice.bytes);
}

static void fold_head(struct meaning *meaning, const struct http_parser *parser)
{
	fold(meaning, "head", 4);
	fold_slice(meaning, parser, parser->method);
	fold_slice(meaning, parser, parser->target);
	fold_slice(meaning, parser, parser->path);
	fold_slice(meaning, parser, parser->query);
	fold_slice(meaning, parser, parser->authority);
	fold(meaning, &(unsigned){ http_accept_quality(parser, "text/plain") }, sizeof(unsigned));
	for (unsigned i = 0; i < parser->fields_count; i++) {
		fold_slice(meaning, parser, parser->fields[i].name);
		fold_slice(meaning, parser, parser->fields[i].value);
	}
	assert(!parser->is_chunked || parser->content_bytes == 0);
}

static struct meaning read_in_pieces(const char *bytes, size_t count, size_t piece)
{
	static struct http_parser parser;
	struct meaning meaning = { .hash = 1 };
	size_t start = 0, body_bytes = 0;

	http_parser_init(&parser, BODY_BYTES_MAX);
	for (;;) {
		struct http_slice body;
		size_t used, room = count - start < piece ? count - start : piece;
		enum http_event event = http_parse(&parser, bytes + start, room, &used, &body);

		assert(used <= room);
		start += used;
		if (event == HTTP_HEAD) {
			fold_head(&meaning, &parser);
		} else if (event == HTTP_BODY) {
			assert(body.bytes > 0 && body.start + body.bytes == bytes + start);
			body_bytes += body.bytes;
			assert(body_bytes <= BODY_BYTES_MAX);
			fold(&meaning, body.start, body.bytes);
		} else if (event == HTTP_END) {
			meaning.ends++;
			body_bytes = 0;
			http_parser_next(&parser);
		} else if (event == HTTP_REFUSED) {
			meaning.status = parser.status;
			assert(parser.status >= 400 && parser.reason != NULL);
			return meaning;
		} else if (start == count) {
			return meaning;
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
	struct meaning whole = read_in_pieces((const char *)bytes, count, count + 1);

	for (size_t piece = 1; piece <= 7; piece += 3) {
		struct meaning other = read_in_pieces((const char *)bytes, count, piece);

		assert(other.hash == whole.hash && other.status == whole.status &&
		       other.ends == whole.ends);
	}
	return 0;
}
