/*
 * bench/simulate.h: runs a trace through index/cache.h, the very code of the daemon, without any
 * bytes: what would hit. Semantics: deepest-first LRU, as the daemon has it. With one tier it is
 * exact LRU of `capacity_blocks`. Runs on: one thread.
 */
#ifndef KVTIER_BENCH_SIMULATE_H
#define KVTIER_BENCH_SIMULATE_H

#include "bench/trace.h"

#define SIMULATION_CAPACITY_MAX (UINT64_C(1) << 30)

struct simulation_options {
	uint64_t cpu_blocks; /* 0: no such tier; one of them at least */
	uint64_t nvme_blocks;
	uint64_t requests_max;                                             /* 0: all */
	void (*progress)(uint64_t requests_done, uint64_t requests_count); /* NULL: none */
};

struct simulation {
	uint64_t requests, input_tokens, accesses;
	uint64_t hit_blocks, hit_tokens;
	uint64_t hit_tokens_cpu, hit_tokens_nvme;
	uint64_t promoted_blocks, stored_blocks, refused_blocks;
	double seconds;
	uint32_t *hits; /* blocks, a request; ours until simulation_finish() */
};

must_check int simulation_run(struct simulation *simulation, const struct trace *trace,
			      const struct simulation_options *options, struct error *error);
void simulation_finish(struct simulation *simulation);

#endif
