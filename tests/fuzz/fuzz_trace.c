/* tests/fuzz/fuzz_trace.c: any bytes as a trace: read within bounds, or refused with words. */
#include "bench/trace.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define ACCESSES_MAX 100000u
#define NODES_MAX 50000u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

static void trace_check(const struct trace *trace)
{
	uint64_t input_tokens = 0;

	assert(trace->block_tokens > 0 || trace->accesses_count == 0);
	assert(trace->accesses_count <= ACCESSES_MAX);
	for (uint64_t i = 0; i < trace->accesses_count; i++)
		assert(trace->blocks[i] < trace->unique_blocks);
	for (uint32_t i = 0; i < trace->requests_count; i++) {
		const struct trace_request *request = &trace->requests[i];
		uint64_t blocks = (uint64_t)request->blocks_count + request->output_blocks_count;
		assert(request->first_block + blocks <= trace->accesses_count);
		assert(i == 0 || request->arrival_us >= trace->requests[i - 1].arrival_us);
		input_tokens += request->input_tokens;
	}
	assert(input_tokens == trace->input_tokens);
}

/* The first byte chooses the block, the second the outputs; the rest is the trace. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
	static const uint32_t block_tokens[] = { 0, 4, 64, 256, 512 };
	struct trace_options options;
	struct trace trace;
	struct error error = { 0 };

	if (count < 2)
		return 0;
	trace_options_default(&options);
	options.block_tokens = block_tokens[bytes[0] % 5];
	options.accesses_max = ACCESSES_MAX;
	options.nodes_max = NODES_MAX;
	options.users = 1 + bytes[1] % 7;
	int result = trace_read_memory(&trace, bytes + 2, count - 2, "input", &options, &error);
	if (result < 0) {
		assert(error.code == result && error.text[0] != '\0');
		return 0;
	}
	trace_check(&trace);
	/* Outputs of 16 M tokens in blocks of one are beyond what a fuzzer should wait for. */
	if (bytes[1] >= 128 && trace.block_tokens >= 64 && trace.requests_count < 64) {
		trace.accesses_max = trace.accesses_count;
		result = trace_credit_output(&trace, &error);
		assert(result == 0 || error.text[0] != '\0');
	}
	trace_finish(&trace);
	return 0;
}
