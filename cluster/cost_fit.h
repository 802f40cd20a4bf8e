/*
 * cluster/cost_fit.h: what computing costs a pod (struct worth_cost), learned from how long it
 * took: least squares of relative errors with non-negative a, b, c, where older samples count less
 * and what was assumed is the first few samples. Runs on: one thread.
 */
#ifndef KVTIER_CLUSTER_COST_FIT_H
#define KVTIER_CLUSTER_COST_FIT_H

#include "index/worth.h"

#define COST_FIT_TERMS 3u

struct cost_fit {
	double products[COST_FIT_TERMS][COST_FIT_TERMS], targets[COST_FIT_TERMS];
	struct worth_cost assumed, cost;
	double assumed_kept;    /* of the weight of what was assumed */
};

/* assumed: known (not all 0). */
void cost_fit_init(struct cost_fit *fit, const struct worth_cost *assumed);
/* Tokens first..tokens took `seconds` > 0. What is far above what was expected counts as a few
 * times that: it may have waited. */
void cost_fit_add(struct cost_fit *fit, uint32_t first, uint32_t tokens, double seconds);

#endif
