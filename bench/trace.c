/* bench/trace.c: tells the format of a trace, reads it, and credits outputs. */
#include "bench/trace.h"

#include "bench/trace_builder.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define USERS_DEFAULT 48
#define GAP_US_MAX_DEFAULT (UINT64_C(30) * 60 * 1000000)
#define SEED_DEFAULT 7

void trace_options_default(struct trace_options *options)
{
	memset(options, 0, sizeof(*options));
	options->users = USERS_DEFAULT;
	options->gap_us_max = GAP_US_MAX_DEFAULT;
	options->seed = SEED_DEFAULT;
}

struct trace_source {
	const char *path; /* or NULL: memory */
	const void *memory;
	size_t bytes;
	const char *name;
};

static int source_open(const struct trace_source *source, struct scan *scan, struct error *error)
{
	if (source->path != NULL)
		return scan_open(scan, source->path, error);
	scan_open_memory(scan, source->memory, source->bytes, source->name, error);
	return 0;
}

enum trace_format { FORMAT_CHAT = 1, FORMAT_SESSIONS };

/* Looks at the keys of the first object. */
static int format_tell(struct scan *scan)
{
	char key[SCAN_KEY_BYTES];
	int result = scan_more(scan);

	if (result < 0)
		return result;
	if (result == 0)
		return scan_refuse(scan, "an empty file, expected a trace");
	result = scan_peek(scan, "a JSON object of a trace");
	if (result < 0)
		return result;
	if (result != '{' && result != '[')
		return scan_refuse(scan,
				   "expected a JSON object (CSV traces hold lengths, no blocks, "
				   "and cannot be replayed)");
	if (result == '[') {
		result = scan_array_begin(scan, "sessions");
		if (result == 0)
			result = scan_array_next(scan);
		if (result < 0)
			return result;
	}
	result = scan_object_begin(scan, "a request or a session");
	while (result == 0 && (result = scan_object_next(scan, key)) == 1) {
		if (strcmp(key, "requests") == 0)
			return FORMAT_SESSIONS;
		if (strcmp(key, "hash_ids") == 0)
			return FORMAT_CHAT;
		result = scan_skip(scan);
	}
	if (result < 0)
		return result;
	return scan_refuse(scan, "neither \"hash_ids\" (a request) nor \"requests\" (a session) in "
				 "the first object");
}

static int source_tell(const struct trace_source *source, struct scan *scan, struct error *error)
{
	int result = source_open(source, scan, error);

	if (result < 0)
		return result;
	result = format_tell(scan);
	scan_close(scan);
	return result;
}

static int trace_order(struct trace *trace, struct scan *scan, const struct trace_options *options,
		       enum trace_format format, struct error *error)
{
	int result;

	if (options->order_path == NULL)
		return format == FORMAT_SESSIONS ? trace_order_merge(trace, options, error) : 0;
	if (format != FORMAT_SESSIONS)
		return error_set(error, -EINVAL,
				 "--order is for traces of sessions; this one is in order already");
	result = scan_open(scan, options->order_path, error);
	if (result < 0)
		return result;
	result = trace_order_read(trace, scan);
	scan_close(scan);
	return result;
}

static int options_check(const struct trace_options *options, struct error *error)
{
	if (options->block_tokens > TRACE_BLOCK_TOKENS_MAX)
		return error_set(error, -EINVAL, "blocks of %u tokens, expected at most %u",
				 options->block_tokens, TRACE_BLOCK_TOKENS_MAX);
	if (options->users == 0 || options->users > TRACE_USERS_MAX)
		return error_set(error, -EINVAL, "%u users, expected 1 to %u", options->users,
				 TRACE_USERS_MAX);
	return 0;
}

static int trace_source_read(struct trace *trace, const struct trace_source *source,
			     const struct trace_options *options, struct error *error)
{
	struct trace_builder builder;
	int result = options_check(options, error);

	if (result < 0)
		return result;
	struct scan *scan = malloc(sizeof(*scan));
	if (scan == NULL)
		return error_set(error, -ENOMEM, "no memory to read a trace");
	builder_init(&builder, trace, options);
	int format = source_tell(source, scan, error);
	result = format < 0 ? format : source_open(source, scan, error);
	if (result < 0)
		goto free_json;
	result = format == FORMAT_CHAT ? trace_chat_read(&builder, scan)
				       : trace_sessions_read(&builder, scan);
	scan_close(scan);
	if (result == 0 && trace->requests_count == 0)
		result = scan_refuse(scan, "no requests up to the end of the trace");
	if (result == 0)
		result = builder_number_blocks(&builder, error);
	if (result == 0)
		result = trace_order(trace, scan, options, (enum trace_format)format, error);
	builder_finish(&builder);
free_json:
	free(scan);
	if (result < 0)
		trace_finish(trace);
	return result;
}

int trace_read(struct trace *trace, const char *path, const struct trace_options *options,
	       struct error *error)
{
	struct trace_source source = { .path = path };

	return trace_source_read(trace, &source, options, error);
}

int trace_read_memory(struct trace *trace, const void *memory, size_t bytes, const char *name,
		      const struct trace_options *options, struct error *error)
{
	struct trace_source source = { .memory = memory, .bytes = bytes, .name = name };

	return trace_source_read(trace, &source, options, error);
}
