/* bench/trace_credit.c: the KV that decoding leaves behind, from the session's next request. */
#include "bench/trace_builder.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct turn {
	uint32_t session;
	uint32_t request;
};

static int by_session(const void *a, const void *b)
{
	const struct turn *left = a, *right = b;

	if (left->session != right->session)
		return left->session < right->session ? -1 : 1;
	return left->request < right->request ? -1 : left->request > right->request;
}

/* next[i]: the request of the same session after request i, or UINT32_MAX. NULL: no memory. */
static uint32_t *next_turns(const struct trace *trace)
{
	struct turn *turns = malloc((trace->requests_count + 1ull) * sizeof(*turns));
	uint32_t *next = malloc((trace->requests_count + 1ull) * sizeof(*next));

	if (turns == NULL || next == NULL) {
		free(turns);
		free(next);
		return NULL;
	}
	for (uint32_t i = 0; i < trace->requests_count; i++)
		turns[i] = (struct turn){ trace->requests[i].session, i };
	qsort(turns, trace->requests_count, sizeof(*turns), by_session);
	for (uint32_t i = 0; i < trace->requests_count; i++) {
		bool has_next = i + 1 < trace->requests_count && turns[i].session != SESSION_NONE &&
				turns[i].session == turns[i + 1].session;
		next[turns[i].request] = has_next ? turns[i + 1].request : UINT32_MAX;
	}
	free(turns);
	return next;
}

static uint32_t full_blocks(const struct trace *trace, const struct trace_request *request)
{
	uint32_t full = request->input_tokens / trace->block_tokens;

	return full < request->blocks_count ? full : request->blocks_count;
}

/* Blocks that are full once the output is there. */
static uint32_t reached_blocks(const struct trace *trace, const struct trace_request *request)
{
	uint32_t full = full_blocks(trace, request);
	uint32_t reached = (request->input_tokens + request->output_tokens) / trace->block_tokens;

	return reached > full ? reached : full;
}

/* Whether `later` goes on from `request`: begins with all its full blocks, and has more. */
static bool goes_on(const struct trace *trace, const struct trace_request *request,
		    const struct trace_request *later)
{
	uint32_t full = full_blocks(trace, request);

	return full > 0 && full_blocks(trace, later) > full &&
	       memcmp(trace_blocks(trace, request), trace_blocks(trace, later),
		      full * sizeof(uint32_t)) == 0;
}

/* Writes the request's full blocks and those of its output; returns where the next request's go. */
static uint32_t *request_credit(struct trace *trace, uint32_t i, const uint32_t *next,
				uint32_t *target)
{
	struct trace_request *request = &trace->requests[i];
	const uint32_t *blocks = trace_blocks(trace, request);
	uint32_t full = full_blocks(trace, request), reached = reached_blocks(trace, request);
	uint32_t known = full;

	memcpy(target, blocks, full * sizeof(*target));
	if (next[i] != UINT32_MAX && goes_on(trace, request, &trace->requests[next[i]])) {
		const struct trace_request *later = &trace->requests[next[i]];
		uint32_t later_full = full_blocks(trace, later);
		known = later_full < reached ? later_full : reached;
		memcpy(target + full, trace_blocks(trace, later) + full,
		       (known - full) * sizeof(*target));
	}
	for (; known < reached; known++) {
		uint64_t above = known > 0 ? trace->identities[target[known - 1]] : 0;
		trace->identities[trace->unique_blocks] = trace_mix(above + trace_mix(i + 1ull));
		target[known] = trace->unique_blocks++;
	}
	request->output_blocks_count = reached - full;
	return target + reached;
}

int trace_credit_output(struct trace *trace, struct error *error)
{
	uint64_t reached = 0;

	for (uint32_t i = 0; i < trace->requests_count; i++)
		reached += reached_blocks(trace, &trace->requests[i]);
	if (reached > TRACE_ACCESSES_MAX || trace->unique_blocks + reached >= UINT32_MAX)
		return error_set(error, -E2BIG, "%llu blocks with outputs, at most %llu fit",
				 (unsigned long long)reached,
				 (unsigned long long)TRACE_ACCESSES_MAX);
	uint32_t *next = next_turns(trace);
	uint32_t *blocks = malloc((reached + 1) * sizeof(*blocks));
	uint64_t *identities = realloc(trace->identities,
				       (trace->unique_blocks + reached + 1) * sizeof(*identities));
	if (identities != NULL)
		trace->identities = identities;
	if (next == NULL || blocks == NULL || identities == NULL) {
		free(next);
		free(blocks);
		return error_set(error, -ENOMEM, "no memory for %llu blocks with outputs",
				 (unsigned long long)reached);
	}
	uint32_t *target = blocks;
	for (uint32_t i = 0; i < trace->requests_count; i++)
		target = request_credit(trace, i, next, target);
	assert((uint64_t)(target - blocks) == reached);
	/* Only now may the requests point at the new blocks: they were read from each other. */
	for (uint64_t i = 0, at = 0; i < trace->requests_count; i++) {
		struct trace_request *request = &trace->requests[i];
		uint32_t full = full_blocks(trace, request);
		request->first_block = at;
		request->blocks_count = full;
		at += full + request->output_blocks_count;
	}
	free(trace->blocks);
	trace->blocks = blocks;
	trace->accesses_count = reached;
	trace->accesses_max = reached + 1;
	free(next);
	return 0;
}
