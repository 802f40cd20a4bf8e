/*
 * index/worth.c: see worth.h.
 *
 * Loading tokens p0..p saves b (p - p0) + c (p^2 - p0^2) / 2 seconds: the sum over the tokens of b
 * + c x at token x. `a` is paid either way, as an engine computes at least the last token. Late
 * tokens are the dear ones, so within a run, at one price a token, the gain is convex in p: it is
 * greatest at an end of the run, and only these need to be tried.
 */
#include "index/worth.h"

uint32_t worth_restore_us(uint64_t bytes, double latency_us, double bytes_us, double queued_bytes)
{
	double us = latency_us + ((double)bytes + queued_bytes) / bytes_us;

	return us >= 0 && us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
}

static double saved_seconds(const struct worth_cost *cost, double first, double end)
{
	return cost->b * (end - first) + cost->c * (end - first) * (end + first) / 2;
}

uint32_t worth_tokens(const struct worth_cost *cost, const struct worth_run *runs,
		      unsigned runs_count, uint32_t usable_tokens)
{
	uint64_t tokens = 0;
	double restore_seconds = 0, best_gain = 0;

	if (cost->a == 0 && cost->b == 0 && cost->c == 0)
		return usable_tokens;
	for (unsigned i = 0; i < runs_count; i++)
		tokens += runs[i].tokens;
	uint64_t first = tokens < usable_tokens ? usable_tokens - tokens : 0;
	uint64_t end = first;
	uint64_t best = first;
	for (unsigned i = 0; i < runs_count; i++) {
		end += runs[i].tokens;
		if (end > usable_tokens)
			end = usable_tokens;
		restore_seconds += runs[i].restore_us * 1e-6;
		double gain = saved_seconds(cost, (double)first, (double)end) - restore_seconds;
		if (gain > best_gain) {
			best_gain = gain;
			best = end;
		}
	}
	return (uint32_t)best;
}
