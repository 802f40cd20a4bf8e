/*
 * bench/replay_report.h: what a replay or a simulation found, as JSON, as CSV and for a person. The
 * first keys are the same for both: requests, input_tokens, hit_tokens, wrong_blocks, late_calls,
 * hit_tokens_cpu, hit_tokens_nvme.
 */
#ifndef KVTIER_BENCH_REPLAY_REPORT_H
#define KVTIER_BENCH_REPLAY_REPORT_H

#include "bench/replay.h"
#include "bench/simulate.h"

struct report_source {
	const struct trace *trace;
	const char *trace_path;
	uint64_t capacity_blocks; /* simulations; 0: none */
};

must_check int report_replay_json(const struct replay *replay, const struct replay_options *options,
				  const struct report_source *source, const char *path,
				  struct error *error);
must_check int report_simulation_json(const struct simulation *simulation,
				      const struct simulation_options *options,
				      const struct report_source *source, const char *path,
				      struct error *error);
void report_replay_print(const struct replay *replay);
void report_simulation_print(const struct simulation *simulation);

/* CSV of request,blocks,hit_blocks, in the order of the requests. */
must_check int report_dump(const struct trace *trace, const uint32_t *hits, uint64_t hits_count,
			   const char *path, struct error *error);
/* Compares hits with such a CSV, of which the first hits_count rows are read. Returns how many
 * differ in *out_different and says the first one on stderr. */
must_check int report_expect(const struct trace *trace, const uint32_t *hits, uint64_t hits_count,
			     const char *path, uint64_t *out_different, struct error *error);

#endif
