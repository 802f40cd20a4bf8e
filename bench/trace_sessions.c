/*
 * bench/trace_sessions.c: recorded sessions (Weka, AgentX), one JSON object each, one behind the
 * other or in one array: hash_runs or hash_ids, sub-agents replaced in place by their own requests.
 */
#include "bench/trace_builder.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SUBAGENTS_DEPTH_MAX 4
#define SESSIONS_MAX (UINT32_C(1) << 22)
#define TIME_S_MAX 1e9
#define ID_MAX ((UINT64_C(1) << 40) - 1)
#define RUNS_MAX (UINT64_C(1) << 26) /* of one session */
#define PREFIX_TOKENS_MAX ((UINT64_C(1) << 24) - 1)

/* A source block's name: a tag in the top bits, so that the kinds never meet. */
#define NAME_TOOLS (UINT64_C(1) << 62)  /* tool_tokens, position */
#define NAME_SYSTEM (UINT64_C(2) << 62) /* number of (tool_tokens, system_tokens), position */
#define NAME_PAIR (UINT64_C(3) << 62)   /* tool_tokens, system_tokens: only to number the pairs */

struct run {
	uint64_t first;
	uint64_t count;
};

struct raw_request {
	double time_s;
	uint32_t input_tokens, output_tokens;
	uint64_t first_run, runs_count, ids_count;
};

struct session_reader {
	struct trace_builder *builder;
	struct scan *scan;
	uint32_t session;
	uint64_t block_size, tool_tokens, system_tokens;
	bool ids_are_global;
	struct raw_request *requests;
	uint64_t requests_count, requests_max;
	struct run *runs;
	uint64_t runs_count, runs_max;
	/* The request before: most begin with the same blocks, whose nodes need not be searched
	 * again. */
	uint64_t *names;
	uint32_t *nodes;
	uint64_t names_count, names_max, nodes_max;
};

enum request_field {
	FIELD_TIME = 1,
	FIELD_INPUT = 2,
	FIELD_IDS = 4,
	FIELD_SUBAGENT = 8,
	FIELD_NESTED = 16
};

static int run_append(struct session_reader *reader, struct raw_request *request, uint64_t first,
		      uint64_t count)
{
	struct scan *scan = reader->scan;

	if (request->ids_count + count > TRACE_TOKENS_MAX)
		return scan_refuse(scan, "a request of more than %llu ids",
				   (unsigned long long)TRACE_TOKENS_MAX);
	request->ids_count += count;
	if (request->runs_count > 0) {
		struct run *last = &reader->runs[reader->runs_count - 1];
		if (last->first + last->count == first) {
			last->count += count;
			return 0;
		}
	}
	if (reader->runs_count == RUNS_MAX)
		return scan_refuse(scan, "a session of more than %llu runs of ids",
				   (unsigned long long)RUNS_MAX);
	if (builder_grow((void **)&reader->runs, reader->runs_count, &reader->runs_max,
			 sizeof(struct run)) < 0)
		return error_set(scan->error, -ENOMEM, "no memory for the ids of %s", scan->name);
	reader->runs[reader->runs_count++] = (struct run){ first, count };
	request->runs_count++;
	return 0;
}

static int ids_read(struct session_reader *reader, struct raw_request *request)
{
	struct scan *scan = reader->scan;
	uint64_t id;
	int result = scan_array_begin(scan, "\"hash_ids\"");

	while (result == 0 && (result = scan_array_next(scan)) == 1) {
		result = scan_count(scan, "an id of \"hash_ids\"", ID_MAX, &id);
		if (result == 0)
			result = run_append(reader, request, id, 1);
	}
	return result;
}

/* [[start, length], ...] */
static int runs_read(struct session_reader *reader, struct raw_request *request)
{
	struct scan *scan = reader->scan;
	uint64_t pair[2];
	int result = scan_array_begin(scan, "\"hash_runs\"");

	while (result == 0 && (result = scan_array_next(scan)) == 1) {
		result = scan_array_begin(scan, "a run [start, length]");
		for (int part = 0; part < 2 && result == 0; part++) {
			result = scan_array_next(scan);
			if (result == 0)
				return scan_refuse(scan,
						   "a run of %d numbers, expected [start, length]",
						   part);
			if (result == 1)
				result = scan_count(
					scan, part == 0 ? "a run's start" : "a run's length",
					part == 0 ? ID_MAX : TRACE_TOKENS_MAX, &pair[part]);
		}
		if (result == 0)
			result = scan_array_next(scan);
		if (result == 1)
			return scan_refuse(
				scan, "a run of more than two numbers, expected [start, length]");
		if (result == 0 && pair[0] + pair[1] > ID_MAX)
			return scan_refuse(scan, "a run up to id %llu, expected at most %llu",
					   (unsigned long long)(pair[0] + pair[1]),
					   (unsigned long long)ID_MAX);
		if (result == 0)
			result = run_append(reader, request, pair[0], pair[1]);
	}
	return result;
}

static int requests_read(struct session_reader *reader, unsigned depth);

static int request_tokens_read(struct session_reader *reader, const char *what,
			       uint32_t *out_tokens)
{
	uint64_t tokens;
	int result = scan_count(reader->scan, what, TRACE_TOKENS_MAX, &tokens);

	if (result == 0)
		*out_tokens = (uint32_t)tokens;
	return result;
}

static int request_field_read(struct session_reader *reader, const char *key,
			      struct raw_request *request, unsigned depth, unsigned *seen)
{
	struct scan *scan = reader->scan;
	char text[16];

	if (strcmp(key, "t") == 0) {
		*seen |= FIELD_TIME;
		return scan_number(scan, "\"t\"", TIME_S_MAX, &request->time_s);
	}
	if (strcmp(key, "in") == 0) {
		*seen |= FIELD_INPUT;
		return request_tokens_read(reader, "\"in\"", &request->input_tokens);
	}
	if (strcmp(key, "out") == 0)
		return request_tokens_read(reader, "\"out\"", &request->output_tokens);
	if (strcmp(key, "hash_ids") == 0 || strcmp(key, "hash_runs") == 0) {
		if ((*seen & (FIELD_IDS | FIELD_NESTED)) != 0)
			return scan_refuse(
				scan, "a request with more than one of hash_ids, hash_runs and "
				      "requests, expected one");
		*seen |= FIELD_IDS;
		return key[5] == 'i' ? ids_read(reader, request) : runs_read(reader, request);
	}
	if (strcmp(key, "type") == 0) {
		int result = scan_string(scan, "\"type\"", text, sizeof(text));
		if (result == 0 && strcmp(text, "subagent") == 0)
			*seen |= FIELD_SUBAGENT;
		return result;
	}
	if (strcmp(key, "requests") == 0) {
		if ((*seen & (FIELD_IDS | FIELD_NESTED)) != 0)
			return scan_refuse(
				scan, "a sub-agent with more than one of hash_ids, hash_runs and "
				      "requests, expected requests");
		*seen |= FIELD_NESTED;
		return requests_read(reader, depth + 1);
	}
	return scan_skip(scan);
}

/*
 * Nested times count from the sub-agent's own `t` (kv-cache-tester) or from the start of the
 * session (AgentX). A first nested time before the marker's can only be the former.
 */
static void nested_times_place(struct session_reader *reader, uint64_t first, double marker_s)
{
	if (first == reader->requests_count || reader->requests[first].time_s >= marker_s)
		return;
	for (uint64_t i = first; i < reader->requests_count; i++)
		reader->requests[i].time_s += marker_s;
}

static int request_keep(struct session_reader *reader, const struct raw_request *request,
			unsigned seen)
{
	struct scan *scan = reader->scan;

	if ((seen & FIELD_INPUT) == 0)
		return scan_refuse(scan,
				   "a request without \"in\", the number of its input tokens");
	if ((seen & FIELD_IDS) == 0)
		return scan_refuse(scan, "a request without \"hash_ids\" or \"hash_runs\"");
	if (reader->requests_count == TRACE_REQUESTS_MAX)
		return scan_refuse(scan, "a session of more than %u requests", TRACE_REQUESTS_MAX);
	if (builder_grow((void **)&reader->requests, reader->requests_count, &reader->requests_max,
			 sizeof(*request)) < 0)
		return error_set(scan->error, -ENOMEM, "no memory for the requests of %s",
				 scan->name);
	reader->requests[reader->requests_count++] = *request;
	return 0;
}

static int request_read(struct session_reader *reader, unsigned depth)
{
	struct scan *scan = reader->scan;
	struct raw_request request = { .first_run = reader->runs_count };
	uint64_t first_nested = reader->requests_count;
	char key[SCAN_KEY_BYTES];
	unsigned seen = 0;

	int result = scan_object_begin(scan, "a request");
	while (result == 0 && (result = scan_object_next(scan, key)) == 1)
		result = request_field_read(reader, key, &request, depth, &seen);
	if (result < 0)
		return result;
	if ((seen & FIELD_TIME) == 0)
		return scan_refuse(
			scan, "a request without \"t\", its seconds from the start of the session");
	if ((seen & FIELD_NESTED) == 0 && (seen & FIELD_SUBAGENT) == 0)
		return request_keep(reader, &request, seen);
	if ((seen & FIELD_NESTED) != 0)
		nested_times_place(reader, first_nested, request.time_s);
	return 0;
}

static int requests_read(struct session_reader *reader, unsigned depth)
{
	if (depth > SUBAGENTS_DEPTH_MAX)
		return scan_refuse(reader->scan, "sub-agents nest deeper than %d",
				   SUBAGENTS_DEPTH_MAX);
	int result = scan_array_begin(reader->scan, "\"requests\"");
	while (result == 0 && (result = scan_array_next(reader->scan)) == 1)
		result = request_read(reader, depth);
	return result;
}

static int session_field_read(struct session_reader *reader, const char *key, bool *has_requests)
{
	struct scan *scan = reader->scan;
	char text[16];
	int result;

	if (strcmp(key, "block_size") == 0)
		return scan_count(scan, "\"block_size\"", TRACE_BLOCK_TOKENS_MAX,
				  &reader->block_size);
	if (strcmp(key, "tool_tokens") == 0)
		return scan_count(scan, "\"tool_tokens\"", PREFIX_TOKENS_MAX, &reader->tool_tokens);
	if (strcmp(key, "system_tokens") == 0)
		return scan_count(scan, "\"system_tokens\"", PREFIX_TOKENS_MAX,
				  &reader->system_tokens);
	if (strcmp(key, "hash_id_scope") == 0) {
		result = scan_string(scan, "\"hash_id_scope\"", text, sizeof(text));
		if (result == 0 && strcmp(text, "local") != 0 && strcmp(text, "global") != 0)
			return scan_refuse(
				scan,
				"\"hash_id_scope\" is \"%s\", expected \"local\" or \"global\"",
				text);
		reader->ids_are_global = strcmp(text, "global") == 0;
		return result;
	}
	if (strcmp(key, "requests") == 0) {
		if (*has_requests)
			return scan_refuse(scan,
					   "\"requests\" stands twice in a session, expected once");
		*has_requests = true;
		return requests_read(reader, 0);
	}
	return scan_skip(scan);
}

/* The session's block size against that of the trace, and the wanted block against both. */
static int session_block_check(struct session_reader *reader)
{
	struct trace *trace = reader->builder->trace;
	uint32_t wanted = reader->builder->options->block_tokens;

	if (reader->block_size == 0)
		return scan_refuse(reader->scan,
				   "a session without \"block_size\", the tokens of a block");
	if (trace->source_block_tokens == 0) {
		if (wanted % reader->block_size != 0)
			return scan_refuse(
				reader->scan,
				"blocks of %llu tokens; --block-tokens must be that or a "
				"multiple, not %u",
				(unsigned long long)reader->block_size, wanted);
		trace->source_block_tokens = (uint32_t)reader->block_size;
		trace->block_tokens = wanted != 0 ? wanted : (uint32_t)reader->block_size;
	}
	if (trace->source_block_tokens != reader->block_size)
		return scan_refuse(reader->scan,
				   "blocks of %llu tokens behind sessions with blocks of %u; "
				   "expected one size",
				   (unsigned long long)reader->block_size,
				   trace->source_block_tokens);
	return 0;
}

struct naming {
	uint64_t tools_end, system_end; /* positions */
	uint64_t tools, system, own;    /* what the kinds' names begin with */
};

/* Sessions with equal token counts are taken to share their tools, then their system prompt. */
static int naming_init(struct session_reader *reader, struct naming *naming)
{
	uint32_t pair;
	int result = builder_node(reader->builder, reader->scan, NODE_NONE,
				  NAME_PAIR | reader->tool_tokens << 24 | reader->system_tokens,
				  &pair);

	if (result < 0)
		return result;
	naming->tools_end = reader->tool_tokens / reader->block_size;
	naming->system_end = (reader->tool_tokens + reader->system_tokens) / reader->block_size;
	naming->tools = NAME_TOOLS | reader->tool_tokens << 24;
	naming->system = NAME_SYSTEM | (uint64_t)pair << 26;
	naming->own = reader->ids_are_global ? 0 : (uint64_t)reader->session << 40;
	return 0;
}

static inline uint64_t naming_name(const struct naming *naming, uint64_t position, uint64_t id)
{
	if (position < naming->tools_end)
		return naming->tools | position;
	return position < naming->system_end ? naming->system | position : naming->own | id;
}

static int name_keep(struct session_reader *reader, uint64_t position, uint64_t name, uint32_t node)
{
	if (builder_grow((void **)&reader->names, position, &reader->names_max,
			 sizeof(*reader->names)) < 0 ||
	    builder_grow((void **)&reader->nodes, position, &reader->nodes_max,
			 sizeof(*reader->nodes)) < 0)
		return error_set(reader->scan->error, -ENOMEM, "no memory for the ids of %s",
				 reader->scan->name);
	reader->names[position] = name;
	reader->nodes[position] = node;
	reader->names_count = position + 1;
	return 0;
}

/* Names one request's source blocks and appends every group-th of them. */
static int request_blocks_add(struct session_reader *reader, const struct raw_request *request,
			      const struct naming *naming, uint32_t group)
{
	uint32_t node = NODE_NONE;
	uint64_t position = 0;
	bool same = true;

	for (uint64_t run = 0; run < request->runs_count; run++) {
		const struct run *ids = &reader->runs[request->first_run + run];
		for (uint64_t i = 0; i < ids->count; i++, position++) {
			uint64_t name = naming_name(naming, position, ids->first + i);
			same = same && position < reader->names_count &&
			       reader->names[position] == name;
			int result = 0;
			if (same) {
				node = reader->nodes[position];
			} else {
				result = builder_node(reader->builder, reader->scan, node, name,
						      &node);
				if (result == 0)
					result = name_keep(reader, position, name, node);
			}
			if (result == 0 && (position + 1) % group == 0)
				result = builder_block(reader->builder, reader->scan, node);
			if (result < 0)
				return result;
		}
	}
	return 0;
}

static int session_keep(struct session_reader *reader)
{
	struct naming naming = { 0 };
	int result = session_block_check(reader);

	if (result == 0)
		result = naming_init(reader, &naming);
	if (result < 0)
		return result;
	uint32_t group = reader->builder->trace->block_tokens / (uint32_t)reader->block_size;
	reader->names_count = 0;
	for (uint64_t i = 0; i < reader->requests_count; i++) {
		const struct raw_request *raw = &reader->requests[i];
		struct trace_request request = { .arrival_us = (uint64_t)(raw->time_s * 1e6),
						 .input_tokens = raw->input_tokens,
						 .output_tokens = raw->output_tokens,
						 .session = reader->session };
		if (raw->ids_count > raw->input_tokens / reader->block_size + 1)
			return scan_refuse(
				reader->scan,
				"request %llu of this session has %llu ids for %u tokens, "
				"expected %llu",
				(unsigned long long)i, (unsigned long long)raw->ids_count,
				raw->input_tokens,
				(unsigned long long)(raw->input_tokens / reader->block_size));
		result = builder_request(reader->builder, reader->scan, &request);
		if (result == 0)
			result = request_blocks_add(reader, raw, &naming, group);
		if (result < 0)
			return result;
	}
	return 0;
}

static int session_read(struct session_reader *reader)
{
	char key[SCAN_KEY_BYTES];
	bool has_requests = false;

	if (reader->session == SESSIONS_MAX)
		return scan_refuse(reader->scan, "more than %u sessions: the limit of a trace",
				   SESSIONS_MAX);
	reader->requests_count = 0;
	reader->runs_count = 0;
	reader->block_size = 0;
	reader->tool_tokens = 0;
	reader->system_tokens = 0;
	reader->ids_are_global = false;
	int result = scan_object_begin(reader->scan, "a session");
	while (result == 0 && (result = scan_object_next(reader->scan, key)) == 1)
		result = session_field_read(reader, key, &has_requests);
	if (result < 0)
		return result;
	if (!has_requests)
		return scan_refuse(reader->scan, "a session without \"requests\"");
	result = session_keep(reader);
	reader->session++;
	return result;
}

static int sessions_all_read(struct session_reader *reader)
{
	int result;

	while ((result = scan_more(reader->scan)) == 1) {
		result = scan_peek(reader->scan, "a session or an array of sessions");
		if (result == '[') {
			result = scan_array_begin(reader->scan, "sessions");
			while (result == 0 && (result = scan_array_next(reader->scan)) == 1)
				result = session_read(reader);
		} else if (result > 0) {
			result = session_read(reader);
		}
		if (result < 0)
			return result;
	}
	return result;
}

int trace_sessions_read(struct trace_builder *builder, struct scan *scan)
{
	struct session_reader reader = { .builder = builder, .scan = scan };
	int result = sessions_all_read(&reader);

	builder->trace->sessions_count = reader.session;
	free(reader.requests);
	free(reader.runs);
	free(reader.names);
	free(reader.nodes);
	return result;
}
