/*
 * cluster/plan.c: see plan.h.
 *
 * Let R(p) be the time to restore the first p tokens, and C(p) that to compute the others. While
 * R(p) is no longer than the queue, more tokens are always better. Behind that point a run's tokens
 * have one price each, and what they save grows with p, so R(p) + C(p) is least at one of its ends.
 * So the ends of runs, the last block that the queue hides, and the first that it does not, are
 * all that need be tried.
 */
#include "cluster/plan.h"

#include <math.h>
#include <string.h>

struct run {
	enum plan_way way;
	const struct plan_speed *speed;
	uint32_t blocks;
};

double plan_compute_seconds(const struct worth_cost *cost, uint32_t first, uint32_t tokens)
{
	double left = (double)tokens - first;

	return cost->a + cost->b * left + cost->c * left * (first + left / 2);
}

static double restore_seconds(const struct plan_pod *pod, const struct plan_speed *speed,
			      double tokens)
{
	return (speed->latency_us + (speed->queued_bytes + tokens * pod->token_bytes) /
					    speed->bytes_us) / 1e6;
}

/* How many leading tokens of a run are here within `seconds`. */
static double tokens_within(const struct plan_pod *pod, const struct plan_speed *speed,
			    double seconds)
{
	double bytes = (seconds * 1e6 - speed->latency_us) * speed->bytes_us - speed->queued_bytes;

	return bytes > 0 ? bytes / pod->token_bytes : 0;
}

/* Of the tokens up to `cached`, those of the last run are by its way. Takes it if it is quicker. */
static void plan_try(const struct plan_pod *pod, const struct plan_prompt *prompt,
		     const struct plan *before, enum plan_way way, uint32_t tokens, double restore,
		     struct plan *best)
{
	struct plan plan = *before;
	uint32_t cached = tokens;

	plan.tokens[way] += tokens;
	for (unsigned i = 0; i < way; i++)
		cached += before->tokens[i];
	plan.tokens[PLAN_COMPUTE] = prompt->tokens - cached;
	plan.restore_seconds = restore;
	plan.compute_seconds = plan_compute_seconds(&pod->cost, cached, prompt->tokens);
	plan.first_token_seconds = fmax(pod->queue_seconds, restore) + plan.compute_seconds;
	if (plan.first_token_seconds < best->first_token_seconds)
		*best = plan;
}

static void run_try(const struct plan_pod *pod, const struct plan_prompt *prompt,
		    const struct run *run, struct plan *so_far, struct plan *best)
{
	uint32_t before = 0, most = run->blocks * prompt->block_tokens;

	for (unsigned i = 0; i < PLAN_COMPUTE; i++)
		before += so_far->tokens[i];
	if (before + most > prompt->tokens - 1)
		most = (prompt->tokens - 1 - before) / prompt->block_tokens *
		       prompt->block_tokens;
	if (most == 0)
		return;
	double hidden = pod->queue_seconds - so_far->restore_seconds;
	double within = floor(tokens_within(pod, run->speed, hidden) / prompt->block_tokens) *
			prompt->block_tokens;
	for (unsigned i = 0; i < 2; i++, within += prompt->block_tokens)
		if (within > 0 && within < most)
			plan_try(pod, prompt, so_far, run->way, (uint32_t)within,
				 so_far->restore_seconds +
					 restore_seconds(pod, run->speed, within), best);
	double all = so_far->restore_seconds + restore_seconds(pod, run->speed, most);
	plan_try(pod, prompt, so_far, run->way, most, all, best);
	so_far->tokens[run->way] += most;
	so_far->restore_seconds = all;
}

void plan_make(const struct plan_pod *pod, const struct plan_prompt *prompt,
	       const struct route_match *match, struct plan *out_plan)
{
	const struct run runs[] = {
		{ PLAN_CPU, &pod->cpu, match->tier_blocks[ROUTE_CPU] },
		{ PLAN_NVME, &pod->nvme, match->tier_blocks[ROUTE_NVME] },
		{ PLAN_PEER, &pod->peer,
		  prompt->peer_blocks > match->blocks ? prompt->peer_blocks - match->blocks : 0 },
	};
	uint32_t own = (match->tier_blocks[ROUTE_HBM] + match->tier_blocks[ROUTE_ARRIVING]) *
		       prompt->block_tokens;
	struct plan so_far = { .tokens = { 0 } };

	if (own > prompt->tokens - 1)
		own = (prompt->tokens - 1) / prompt->block_tokens * prompt->block_tokens;
	out_plan->first_token_seconds = INFINITY;
	plan_try(pod, prompt, &so_far, PLAN_HBM, own, 0, out_plan);
	so_far.tokens[PLAN_HBM] = own;
	for (unsigned i = 0; i < sizeof(runs) / sizeof(runs[0]); i++) {
		/* What lies behind what cannot be had is of no use. */
		if (runs[i].blocks > 0 && !(runs[i].speed->bytes_us > 0))
			return;
		run_try(pod, prompt, &runs[i], &so_far, out_plan);
	}
}
