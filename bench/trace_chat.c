/*
 * bench/trace_chat.c: one request a line: Mooncake (timestamp in ms, hash_ids), its chat_id
 * variant, and Bailian (timestamp in s, parent_chat_id).
 */
#include "bench/trace_builder.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define TIME_S_MAX 1e9
#define ID_MAX (UINT64_C(1) << 62)

enum chat_field {
	CHAT_TIMESTAMP = 1,
	CHAT_INPUT = 2,
	CHAT_OUTPUT = 4,
	CHAT_IDS = 8,
	CHAT_PARENT = 16
};

struct chat_reader {
	struct trace_builder *builder;
	struct scan *scan;
	/* What the source's block may be, so that every line has ceil or floor(input / block) ids.
	 */
	uint64_t block_tokens_low, block_tokens_high;
	uint64_t latest_us;
};

static int chat_ids_read(struct chat_reader *reader)
{
	struct scan *scan = reader->scan;
	uint32_t node = NODE_NONE;
	uint64_t id;

	int result = scan_array_begin(scan, "\"hash_ids\"");
	while (result == 0 && (result = scan_array_next(scan)) == 1) {
		result = scan_count(scan, "an id of \"hash_ids\"", ID_MAX, &id);
		if (result == 0)
			result = builder_node(reader->builder, scan, node, id, &node);
		if (result == 0)
			result = builder_block(reader->builder, scan, node);
	}
	return result;
}

/* A chat id may be -1 in Bailian's parent_chat_id: nobody needs its value. */
static int chat_session_read(struct chat_reader *reader, struct trace_request *request)
{
	uint64_t session;
	int result = scan_count(reader->scan, "\"chat_id\"", SESSION_NONE - 1, &session);

	if (result == 0)
		request->session = (uint32_t)session;
	return result;
}

static int chat_field_read(struct chat_reader *reader, const char *key,
			   struct trace_request *request, double *time, unsigned *seen)
{
	struct scan *scan = reader->scan;
	uint64_t tokens = 0;
	unsigned field = 0;
	int result;

	if (strcmp(key, "timestamp") == 0) {
		field = CHAT_TIMESTAMP;
		result = scan_number(scan, "\"timestamp\"", TIME_S_MAX * 1000, time);
	} else if (strcmp(key, "input_length") == 0) {
		field = CHAT_INPUT;
		result = scan_count(scan, "\"input_length\"", TRACE_TOKENS_MAX, &tokens);
		request->input_tokens = (uint32_t)tokens;
	} else if (strcmp(key, "output_length") == 0) {
		field = CHAT_OUTPUT;
		result = scan_count(scan, "\"output_length\"", TRACE_TOKENS_MAX, &tokens);
		request->output_tokens = (uint32_t)tokens;
	} else if (strcmp(key, "hash_ids") == 0) {
		field = CHAT_IDS;
		if ((*seen & CHAT_IDS) != 0)
			return scan_refuse(scan,
					   "\"hash_ids\" stands twice in a request, expected once");
		result = chat_ids_read(reader);
	} else if (strcmp(key, "chat_id") == 0) {
		result = chat_session_read(reader, request);
	} else {
		field = strcmp(key, "parent_chat_id") == 0 ? CHAT_PARENT : 0;
		result = scan_skip(scan);
	}
	*seen |= field;
	return result;
}

static int chat_block_narrow(struct chat_reader *reader, uint64_t input, uint64_t ids)
{
	if (ids == 0)
		return 0;
	uint64_t low = input / (ids + 1) + 1;
	uint64_t high = ids > 1 && input > 0 ? (input - 1) / (ids - 1) : UINT64_MAX;
	if (low > reader->block_tokens_high || high < reader->block_tokens_low)
		return scan_refuse(reader->scan,
				   "%llu hash_ids for %llu tokens; the lines before have blocks of "
				   "%llu to %llu tokens, so about %llu ids were expected",
				   (unsigned long long)ids, (unsigned long long)input,
				   (unsigned long long)reader->block_tokens_low,
				   (unsigned long long)reader->block_tokens_high,
				   (unsigned long long)(input / reader->block_tokens_low));
	if (low > reader->block_tokens_low)
		reader->block_tokens_low = low;
	if (high < reader->block_tokens_high)
		reader->block_tokens_high = high;
	return 0;
}

static int chat_request_read(struct chat_reader *reader)
{
	struct trace *trace = reader->builder->trace;
	struct trace_request request = { .session = SESSION_NONE };
	char key[SCAN_KEY_BYTES];
	unsigned seen = 0;
	double time = 0;

	int result = builder_request(reader->builder, reader->scan, &request);
	if (result == 0)
		result = scan_object_begin(reader->scan, "a request");
	while (result == 0 && (result = scan_object_next(reader->scan, key)) == 1)
		result = chat_field_read(reader, key, &request, &time, &seen);
	if (result < 0)
		return result;
	unsigned required = CHAT_TIMESTAMP | CHAT_INPUT | CHAT_IDS;
	if ((seen & required) != required)
		return scan_refuse(reader->scan,
				   "a request without \"%s\"; timestamp, input_length and hash_ids "
				   "are required",
				   (seen & CHAT_TIMESTAMP) == 0 ? "timestamp"
				   : (seen & CHAT_INPUT) == 0   ? "input_length"
								: "hash_ids");
	struct trace_request *last = &trace->requests[trace->requests_count - 1];
	request.first_block = last->first_block;
	request.blocks_count = last->blocks_count;
	/* Lines are sent in their order, so a time that goes back is the time before it. */
	request.arrival_us = (uint64_t)(time * ((seen & CHAT_PARENT) != 0 ? 1e6 : 1e3));
	if (request.arrival_us < reader->latest_us)
		request.arrival_us = reader->latest_us;
	reader->latest_us = request.arrival_us;
	if ((seen & CHAT_PARENT) != 0)
		request.session = SESSION_NONE; /* a chat_id of its own for each turn */
	*last = request;
	trace->input_tokens += request.input_tokens;
	return chat_block_narrow(reader, request.input_tokens, request.blocks_count);
}

/* The source's block: what was asked for, or its largest divisor, or a power of two, that fits
 * every line. */
static uint64_t chat_block_tokens(const struct chat_reader *reader, uint64_t wanted)
{
	uint64_t low = reader->block_tokens_low, high = reader->block_tokens_high;

	if (wanted == 0) {
		for (uint64_t power = 1; power <= TRACE_BLOCK_TOKENS_MAX; power *= 2)
			if (power >= low && power <= high)
				return power;
		return low == high ? low : 0;
	}
	for (uint64_t parts = 1; parts <= wanted; parts++)
		if (wanted % parts == 0 && wanted / parts >= low && wanted / parts <= high)
			return wanted / parts;
	return 0;
}

int trace_chat_read(struct trace_builder *builder, struct scan *scan)
{
	struct chat_reader reader = { .builder = builder,
				      .scan = scan,
				      .block_tokens_low = 1,
				      .block_tokens_high = TRACE_BLOCK_TOKENS_MAX };
	struct trace *trace = builder->trace;
	uint32_t wanted = builder->options->block_tokens;
	int result;

	while ((result = scan_more(scan)) == 1) {
		result = chat_request_read(&reader);
		if (result < 0)
			return result;
	}
	if (result < 0)
		return result;
	uint64_t source = chat_block_tokens(&reader, wanted);
	if (source == 0)
		return error_set(
			scan->error, -EINVAL,
			"%s has blocks of %llu to %llu tokens; --block-tokens must be that or a "
			"multiple, not %u",
			scan->name, (unsigned long long)reader.block_tokens_low,
			(unsigned long long)reader.block_tokens_high, wanted);
	assert(wanted % source == 0);
	trace->source_block_tokens = (uint32_t)source;
	trace->block_tokens = wanted != 0 ? wanted : (uint32_t)source;
	builder_group(builder, trace->block_tokens / trace->source_block_tokens);
	return 0;
}
