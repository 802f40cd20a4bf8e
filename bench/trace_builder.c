/* bench/trace_builder.c: interned prefixes, growing arrays, re-blocking. */
#include "bench/trace_builder.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS_FIRST 4096u

void builder_init(struct trace_builder *builder, struct trace *trace,
		  const struct trace_options *options)
{
	memset(builder, 0, sizeof(*builder));
	memset(trace, 0, sizeof(*trace));
	builder->trace = trace;
	builder->options = options;
}

void builder_finish(struct trace_builder *builder)
{
	free(builder->nodes);
	free(builder->slots);
	builder->nodes = NULL;
	builder->slots = NULL;
}

void trace_finish(struct trace *trace)
{
	if (trace == NULL)
		return;
	free(trace->requests);
	free(trace->blocks);
	free(trace->identities);
	memset(trace, 0, sizeof(*trace));
}

uint64_t trace_mix(uint64_t value)
{
	value ^= value >> 32;
	value *= UINT64_C(0xd6e8feb86659fd93);
	value ^= value >> 32;
	value *= UINT64_C(0xd6e8feb86659fd93);
	value ^= value >> 32;
	return value;
}

int builder_grow(void **items, uint64_t count, uint64_t *max, size_t item_bytes)
{
	assert(count <= *max);
	if (count < *max)
		return 0;
	uint64_t more = *max == 0 ? 64 : *max * 2;
	void *grown = realloc(*items, more * item_bytes);
	if (grown == NULL)
		return -ENOMEM;
	*items = grown;
	*max = more;
	return 0;
}

static uint64_t node_place(uint32_t parent, uint64_t name)
{
	return trace_mix(name ^ ((uint64_t)parent << 32 | (parent ^ 0x5bd1e995u)));
}

static void slots_put(struct trace_builder *builder, uint32_t node)
{
	uint64_t slot = node_place(builder->nodes[node].parent, builder->nodes[node].name);

	while (builder->slots[slot & builder->slots_mask] != NODE_NONE)
		slot++;
	builder->slots[slot & builder->slots_mask] = node;
}

static int slots_grow(struct trace_builder *builder)
{
	uint64_t slots_count = builder->slots == NULL ? SLOTS_FIRST : (builder->slots_mask + 1) * 2;
	uint32_t *slots = malloc(slots_count * sizeof(*slots));
	if (slots == NULL)
		return -ENOMEM;
	memset(slots, 0xff, slots_count * sizeof(*slots));
	free(builder->slots);
	builder->slots = slots;
	builder->slots_mask = slots_count - 1;
	for (uint32_t node = 0; node < builder->nodes_count; node++)
		slots_put(builder, node);
	return 0;
}

static int node_append(struct trace_builder *builder, struct scan *scan, uint32_t parent,
		       uint64_t name)
{
	uint32_t limit = builder->options->nodes_max != 0 ? builder->options->nodes_max
							  : TRACE_NODES_MAX;
	uint64_t max = builder->nodes_max;

	if (builder->nodes_count >= limit)
		return scan_refuse(scan, "more than %u distinct blocks: the limit of a trace",
				   limit);
	if (builder_grow((void **)&builder->nodes, builder->nodes_count, &max,
			 sizeof(*builder->nodes)) < 0)
		return error_set(scan->error, -ENOMEM, "no memory for more than %u blocks of %s",
				 builder->nodes_count, scan->name);
	builder->nodes_max = (uint32_t)max;
	uint64_t above = parent == NODE_NONE ? UINT64_C(0x6b76746965720001)
					     : builder->nodes[parent].chain;
	struct node *node = &builder->nodes[builder->nodes_count++];
	node->parent = parent;
	node->name = name;
	node->chain = trace_mix(above * UINT64_C(0x9e3779b97f4a7c15) + trace_mix(name + 1));
	return 0;
}

int builder_node(struct trace_builder *builder, struct scan *scan, uint32_t parent, uint64_t name,
		 uint32_t *out_node)
{
	assert(parent == NODE_NONE || parent < builder->nodes_count);
	if (builder->slots == NULL || builder->nodes_count >= (builder->slots_mask + 1) / 4 * 3) {
		if (slots_grow(builder) < 0)
			return error_set(scan->error, -ENOMEM,
					 "no memory for more than %u blocks of %s",
					 builder->nodes_count, scan->name);
	}
	for (uint64_t slot = node_place(parent, name);; slot++) {
		uint32_t node = builder->slots[slot & builder->slots_mask];
		if (node == NODE_NONE)
			break;
		if (builder->nodes[node].name == name && builder->nodes[node].parent == parent) {
			*out_node = node;
			return 0;
		}
	}
	int result = node_append(builder, scan, parent, name);
	if (result < 0)
		return result;
	*out_node = builder->nodes_count - 1;
	slots_put(builder, *out_node);
	return 0;
}

int builder_request(struct trace_builder *builder, struct scan *scan,
		    const struct trace_request *request)
{
	struct trace *trace = builder->trace;
	uint64_t max = trace->requests_max;

	if (trace->requests_count == TRACE_REQUESTS_MAX)
		return scan_refuse(scan, "more than %u requests: the limit of a trace",
				   TRACE_REQUESTS_MAX);
	if (builder_grow((void **)&trace->requests, trace->requests_count, &max, sizeof(*request)) <
	    0)
		return error_set(scan->error, -ENOMEM, "no memory for more than %u requests of %s",
				 trace->requests_count, scan->name);
	trace->requests_max = (uint32_t)max;
	struct trace_request *last = &trace->requests[trace->requests_count++];
	*last = *request;
	last->first_block = trace->accesses_count;
	last->blocks_count = 0;
	trace->input_tokens += request->input_tokens;
	return 0;
}

int builder_block(struct trace_builder *builder, struct scan *scan, uint32_t node)
{
	struct trace *trace = builder->trace;
	uint64_t limit = builder->options->accesses_max != 0 ? builder->options->accesses_max
							     : TRACE_ACCESSES_MAX;

	assert(trace->requests_count > 0);
	if (trace->accesses_count >= limit)
		return scan_refuse(scan, "more than %llu block accesses: the limit of a trace",
				   (unsigned long long)limit);
	if (builder_grow((void **)&trace->blocks, trace->accesses_count, &trace->accesses_max,
			 sizeof(*trace->blocks)) < 0)
		return error_set(scan->error, -ENOMEM,
				 "no memory for more than %llu block accesses of %s",
				 (unsigned long long)trace->accesses_count, scan->name);
	trace->blocks[trace->accesses_count++] = node;
	trace->requests[trace->requests_count - 1].blocks_count++;
	return 0;
}

void builder_group(struct trace_builder *builder, uint32_t group)
{
	struct trace *trace = builder->trace;
	uint64_t kept = 0;

	assert(group > 0);
	for (uint32_t i = 0; i < trace->requests_count && group > 1; i++) {
		struct trace_request *request = &trace->requests[i];
		uint64_t first = kept;
		for (uint32_t block = group; block <= request->blocks_count; block += group)
			trace->blocks[kept++] = trace->blocks[request->first_block + block - 1];
		request->first_block = first;
		request->blocks_count = (uint32_t)(kept - first);
	}
	if (group > 1)
		trace->accesses_count = kept;
}

int builder_number_blocks(struct trace_builder *builder, struct error *error)
{
	struct trace *trace = builder->trace;
	uint32_t nodes_count = builder->nodes_count;

	free(builder->slots);
	builder->slots = NULL;
	uint32_t *numbers = malloc((nodes_count + 1ull) * sizeof(*numbers));
	trace->identities = malloc((nodes_count + 1ull) * sizeof(*trace->identities));
	/* Also a trace without any block has a place where its blocks would be. */
	int grown = builder_grow((void **)&trace->blocks, trace->accesses_count,
				 &trace->accesses_max, sizeof(*trace->blocks));
	if (numbers == NULL || trace->identities == NULL || grown < 0) {
		free(numbers);
		return error_set(error, -ENOMEM, "no memory to number %u blocks", nodes_count);
	}
	memset(numbers, 0xff, nodes_count * sizeof(*numbers));
	for (uint64_t i = 0; i < trace->accesses_count; i++) {
		uint32_t node = trace->blocks[i];
		assert(node < nodes_count);
		if (numbers[node] == NODE_NONE) {
			numbers[node] = trace->unique_blocks;
			trace->identities[trace->unique_blocks++] = builder->nodes[node].chain;
		}
		trace->blocks[i] = numbers[node];
	}
	free(numbers);
	return 0;
}
