/* bench/micro_simulate.c: how long the simulation of ten million block accesses takes on one core.
 */
#include "bench/micro.h"

#include "base/random.h"
#include "bench/simulate.h"

#include <errno.h>
#include <stdlib.h>

#define ACCESSES UINT64_C(10000000)
#define SAMPLES 5u
#define USERS 48u
#define TURN_BLOCKS_MAX 32u /* appended a turn */
#define CHAIN_BLOCKS_MAX                                                                           \
	1000u /* then a new session begins: on average half of it, as coding agents have */
#define CAPACITY_PART 20u /* one part in so many of the unique blocks */
#define BLOCK_TOKENS 256u

/* Sessions that come back with everything they had and a little more. */
static void sessions_make(struct trace *trace)
{
	static uint32_t chains[USERS][CHAIN_BLOCKS_MAX];
	uint32_t lengths[USERS] = { 0 };
	struct random random;

	random_init(&random, 7);
	while (trace->accesses_count + CHAIN_BLOCKS_MAX <= ACCESSES + CHAIN_BLOCKS_MAX &&
	       trace->requests_count < trace->requests_max) {
		uint64_t user = random_below(&random, USERS);
		uint32_t more = 1 + (uint32_t)random_below(&random, TURN_BLOCKS_MAX);
		struct trace_request *request = &trace->requests[trace->requests_count++];

		if (lengths[user] + more > CHAIN_BLOCKS_MAX)
			lengths[user] = 0;
		for (uint32_t i = 0; i < more; i++)
			chains[user][lengths[user]++] = trace->unique_blocks++;
		*request = (struct trace_request){ .first_block = trace->accesses_count,
						   .blocks_count = lengths[user],
						   .input_tokens = lengths[user] * BLOCK_TOKENS,
						   .session = SESSION_NONE };
		for (uint32_t i = 0; i < lengths[user]; i++)
			trace->blocks[trace->accesses_count++] = chains[user][i];
		trace->input_tokens += request->input_tokens;
	}
}

static int trace_make(struct trace *trace, struct error *error)
{
	*trace = (struct trace){ .block_tokens = BLOCK_TOKENS,
				 .source_block_tokens = BLOCK_TOKENS,
				 .requests_max = ACCESSES / 64,
				 .accesses_max = ACCESSES + 2 * CHAIN_BLOCKS_MAX };
	trace->requests = calloc(trace->requests_max, sizeof(*trace->requests));
	trace->blocks = calloc(trace->accesses_max, sizeof(*trace->blocks));
	if (trace->requests != NULL && trace->blocks != NULL)
		sessions_make(trace);
	trace->identities = calloc(trace->unique_blocks + 1, sizeof(*trace->identities));
	if (trace->requests == NULL || trace->blocks == NULL || trace->identities == NULL)
		return error_set(error, -ENOMEM, "no memory for a trace of ten million accesses");
	for (uint32_t i = 0; i < trace->unique_blocks; i++)
		trace->identities[i] = i + 1;
	return 0;
}

int micro_simulate(struct micro *micro, struct error *error)
{
	struct trace trace = { 0 };
	double samples[SAMPLES];
	int result = trace_make(&trace, error);

	for (unsigned i = 0; result == 0 && i < SAMPLES; i++) {
		struct simulation simulation = { 0 };
		struct simulation_options options = {
			.nvme_blocks = trace.unique_blocks / CAPACITY_PART + 1
		};

		result = simulation_run(&simulation, &trace, &options, error);
		if (result == 0)
			samples[i] = simulation.seconds * (double)ACCESSES /
				     (double)simulation.accesses;
		simulation_finish(&simulation);
	}
	if (result == 0) {
		struct measure *measure = measures_add(&micro->measures, "simulate_10m_seconds",
						       measure_median(samples, SAMPLES), "s",
						       MEASURE_LOWER);

		measure->samples = SAMPLES;
		measure->spread_low = measure_quantile(samples, SAMPLES, 0.25);
		measure->spread_high = measure_quantile(samples, SAMPLES, 0.75);
		measure->goal = 5;
	}
	trace_finish(&trace);
	return result;
}
