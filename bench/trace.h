/*
 * bench/trace.h: a recorded workload in memory: requests with their blocks named by whole prefixes.
 *
 * A block is a node (parent node, id): equal ids under different parents are different blocks.
 * Nodes are interned at the granularity of the trace and every K-th of them is a block of K times
 * as many tokens, which names exactly the same prefixes as hashing K ids together would. Runs on:
 * one thread. Owns: all arrays, until trace_finish().
 */
#ifndef KVTIER_BENCH_TRACE_H
#define KVTIER_BENCH_TRACE_H

#include "base/error.h"
#include "bench/scan.h"

#include <stdbool.h>
#include <stdint.h>

#define TRACE_ACCESSES_MAX (UINT64_C(1) << 28) /* block accesses: 1 GiB */
#define TRACE_NODES_MAX (UINT32_C(1) << 26)    /* distinct source blocks: 1.5 GiB */
#define TRACE_REQUESTS_MAX (UINT32_C(1) << 24)
#define TRACE_TOKENS_MAX (UINT64_C(1) << 24) /* of one request */
#define TRACE_BLOCK_TOKENS_MAX 65536u
#define TRACE_USERS_MAX 65536u
#define NODE_NONE UINT32_MAX
#define SESSION_NONE UINT32_MAX

struct trace_request {
	uint64_t first_block; /* in trace->blocks */
	uint64_t arrival_us;  /* from the start of the trace */
	uint32_t blocks_count;
	uint32_t output_blocks_count; /* behind the blocks: what decoding adds; see
					 trace_credit_output */
	uint32_t input_tokens, output_tokens;
	uint32_t session; /* or SESSION_NONE */
};

struct trace {
	uint32_t block_tokens;
	uint32_t source_block_tokens;
	uint32_t requests_count, requests_max;
	struct trace_request *requests; /* in the order in which they are to be sent */
	uint64_t accesses_count, accesses_max;
	uint32_t *blocks; /* 0..unique_blocks-1 */
	uint32_t unique_blocks;
	uint64_t *identities; /* a chained 64-bit name for each unique block */
	uint32_t sessions_count;
	uint64_t input_tokens;
};

struct trace_options {
	uint32_t block_tokens; /* 0: the trace's own */
	uint32_t users;        /* slots that recorded sessions are laid on, without an order file */
	uint64_t gap_us_max;   /* longest pause within a session, without an order file */
	uint64_t seed;
	const char *order_path; /* CSV of time_s,session,request; NULL: none */
	uint64_t accesses_max;  /* 0: TRACE_ACCESSES_MAX */
	uint32_t nodes_max;     /* 0: TRACE_NODES_MAX */
};

void trace_options_default(struct trace_options *options);

/* Reads a Mooncake (or Bailian) JSONL or Weka session trace, plain or gzip; which one is told by
 * its keys. */
must_check int trace_read(struct trace *trace, const char *path,
			  const struct trace_options *options, struct error *error);
/* The same from memory (fuzzing, generated workloads); `name` stands in messages. */
must_check int trace_read_memory(struct trace *trace, const void *memory, size_t bytes,
				 const char *name, const struct trace_options *options,
				 struct error *error);
void trace_finish(struct trace *trace);

/*
 * Gives each request the blocks that its output fills: those of the session's next request where it
 * goes on from this one, as far as input and output reach; where none is known, blocks that nobody
 * asks for again (they still take room, as they would).
 */
must_check int trace_credit_output(struct trace *trace, struct error *error);

/* Blocks of request i, root first: blocks_count, then output_blocks_count. Borrowed. */
static inline const uint32_t *trace_blocks(const struct trace *trace,
					   const struct trace_request *request)
{
	return trace->blocks + request->first_block;
}

/* Tokens that `hit_blocks` leading blocks are worth: the last may be partial. */
static inline uint64_t trace_hit_tokens(const struct trace *trace,
					const struct trace_request *request, uint64_t hit_blocks)
{
	uint64_t tokens = hit_blocks * trace->block_tokens;

	return tokens < request->input_tokens ? tokens : request->input_tokens;
}

#endif
