/*
 * bench/trace_builder.h: what the readers of trace formats share: nodes, requests, re-blocking.
 * Private to bench/trace*.c.
 */
#ifndef KVTIER_BENCH_TRACE_BUILDER_H
#define KVTIER_BENCH_TRACE_BUILDER_H

#include "bench/trace.h"

struct node {
	uint64_t name;   /* of the source block under its parent */
	uint64_t chain;  /* mixed over the whole prefix */
	uint32_t parent; /* or NODE_NONE */
};

struct trace_builder {
	struct trace *trace;
	const struct trace_options *options;
	struct node *nodes;
	uint32_t nodes_count, nodes_max;
	uint32_t *slots; /* open addressing into nodes; a power of two, at most 3/4 full */
	uint64_t slots_mask;
};

void builder_init(struct trace_builder *builder, struct trace *trace,
		  const struct trace_options *options);
void builder_finish(struct trace_builder *builder);

/* The node of `name` under `parent`, made if it is new. Failures are worded at scan's line. */
must_check int builder_node(struct trace_builder *builder, struct scan *scan, uint32_t parent,
			    uint64_t name, uint32_t *out_node);
/* Appends one request without blocks; it is the last until the next. */
must_check int builder_request(struct trace_builder *builder, struct scan *scan,
			       const struct trace_request *request);
/* Appends a block (a node yet) to the last request. */
must_check int builder_block(struct trace_builder *builder, struct scan *scan, uint32_t node);
/* Keeps every `group`-th block of each request; a remainder is dropped. */
void builder_group(struct trace_builder *builder, uint32_t group);
/* Turns nodes into unique block numbers and identities; the nodes are not needed any more. */
must_check int builder_number_blocks(struct trace_builder *builder, struct error *error);

/* Makes room for one more of `item_bytes` each; doubles. -ENOMEM. */
must_check int builder_grow(void **items, uint64_t count, uint64_t *max, size_t item_bytes);

uint64_t trace_mix(uint64_t value);

/* One reader a format; each takes the values that follow. */
must_check int trace_chat_read(struct trace_builder *builder, struct scan *scan);
must_check int trace_sessions_read(struct trace_builder *builder, struct scan *scan);

/* Puts the requests of recorded sessions in order: by the order file, or merged on user slots. */
must_check int trace_order_read(struct trace *trace, struct scan *scan);
must_check int trace_order_merge(struct trace *trace, const struct trace_options *options,
				 struct error *error);

#endif
