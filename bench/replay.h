/*
 * bench/replay.h: drives a running daemon through libkvtier as engines do, and checks every byte it
 * gives back.
 *
 * Each process is an engine of its own, with a client for each of its shards. For each request:
 * look up the chain, load what hits, check it, store what is new. A daemon that goes away is a
 * miss; it is used again once it is back. Runs on: replay_run: the main process, which only waits;
 * the engines are forked from it.
 */
#ifndef KVTIER_BENCH_REPLAY_H
#define KVTIER_BENCH_REPLAY_H

#include "base/error.h"
#include "base/histogram.h"
#include "bench/trace.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define REPLAY_PROCESSES_MAX 64u
#define REPLAY_SHARDS_MAX 64u
#define REPLAY_LATE_US 10000u /* past its deadline by more: a late call */
#define REPLAY_QUIET_US_MAX                                                                        \
	30000000u /* a job that is not quiescent so long after its deadline is stuck */
#define REPLAY_HIT_UNKNOWN UINT32_MAX /* of a request that was not sent */

struct replay_options {
	const char *socket;
	const char *from;     /* NULL: none; other nodes to fetch from, with commas between */
	uint64_t block_bytes; /* of one shard of a block */
	uint32_t segments;
	uint32_t processes, shards;
	uint32_t engine_blocks; /* 0: chosen */
	uint64_t requests_max;  /* 0: all */
	double speed;           /* 0: as fast as possible */
	bool is_lockstep;
	uint64_t deadline_us; /* of each call */
	uint64_t away_us;     /* what a request takes while the daemon is away */
	uint64_t connect_us_max;
	uint64_t seed;
	uint64_t mark_at;      /* after so many requests `mark_path` is made: a script's cue */
	const char *mark_path; /* NULL: none */
	bool shows_progress;
};

/* What one process counts; in shared memory, written by that process alone. */
struct replay_figures {
	_Atomic uint64_t requests; /* also read while it runs */
	uint64_t input_tokens, input_blocks;
	uint64_t hit_tokens, hit_blocks, hit_tokens_cpu, hit_tokens_nvme;
	uint64_t hit_tokens_peer, failed_fetches;
	uint64_t hit_tokens_returned; /* after the daemon was away and came back */
	uint64_t checked_blocks, wrong_blocks, undelivered_blocks;
	uint64_t late_calls, failed_lookups, failed_jobs, stuck_jobs, away_requests, returns;
	uint64_t loaded_bytes, stored_bytes, present_blocks, stored_blocks, refused_blocks;
	uint64_t load_us, store_us, check_us;
	uint64_t lag_us_max; /* behind the trace's time */
	uint64_t lockstep_timeouts;
	struct histogram lookup, load, store; /* us */
	struct error error;                   /* code < 0: the process could not go on */
};

/* Between the processes: anonymous shared memory. */
struct replay_shared {
	uint64_t start_us;
	_Atomic uint32_t turn;  /* lockstep: the request whose turn it is */
	_Atomic uint32_t ready; /* processes that are connected */
	_Atomic bool stop;
	struct replay_figures figures[REPLAY_PROCESSES_MAX];
};

struct replay {
	struct replay_figures figures; /* of all */
	double seconds;
	uint32_t *hits; /* blocks a request, shared memory; ours until replay_finish() */
	uint64_t hits_count;
};

must_check int replay_run(struct replay *replay, const struct trace *trace,
			  const struct replay_options *options, struct error *error);
void replay_finish(struct replay *replay);

/* One process's engine (bench/replay_engine.c). */
struct engine;

must_check int engine_open(struct engine **out_engine, const struct trace *trace,
			   const struct replay_options *options, unsigned process,
			   struct replay_figures *figures, struct error *error);
void engine_close(struct engine *engine);
/* One request from lookup to store. Returns how many leading blocks were delivered. */
uint32_t engine_serve(struct engine *engine, const struct trace_request *request);
/* Waits until every copy down is done; false: it took too long, or the daemon is away. */
bool engine_settle(struct engine *engine);

#endif
