/* index/worth.h: is it quicker to load cached tokens, or to compute them again? Pure; any thread.
 */
#ifndef KVTIER_INDEX_WORTH_H
#define KVTIER_INDEX_WORTH_H

#include <stdint.h>

/* Computing u tokens behind p cached ones takes a + b u + c u (p + u / 2) seconds. All 0: not
 * known. */
struct worth_cost {
	double a, b, c;
};

/* Neighbouring tokens that lie in one tier. */
struct worth_run {
	uint32_t tier;
	uint32_t tokens;
	uint64_t bytes;
	uint32_t restore_us; /* estimated; see worth_restore_us() */
};

/* How long a tier takes for `bytes`: its latency, what is queued before, and the bytes at its
 * bandwidth. Saturates at UINT32_MAX, also for a tier without any bandwidth. */
uint32_t worth_restore_us(uint64_t bytes, double latency_us, double bytes_us, double queued_bytes);

/*
 * How many leading tokens are worth loading: at most `usable_tokens`, which the runs end with; what
 * is before the first run the engine has already, and is always counted. Runs are loaded one after
 * the other. Costs not known: all usable. Never an answer whose restore takes longer than computing
 * what it loads.
 */
uint32_t worth_tokens(const struct worth_cost *cost, const struct worth_run *runs,
		      unsigned runs_count, uint32_t usable_tokens);

#endif
