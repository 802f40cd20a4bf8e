/*
 * cluster/plan.h: the quickest way for one pod to a prompt's first token: which of its leading
 * blocks the pod uses where they are, which its node restores or another node sends, and what is
 * computed. Pure; any thread.
 */
#ifndef KVTIER_CLUSTER_PLAN_H
#define KVTIER_CLUSTER_PLAN_H

#include "cluster/route_index.h"
#include "index/worth.h"

/* Where a prompt's tokens come from, in their order: the first are the pod's own. */
enum plan_way {
	PLAN_HBM,     /* also what an earlier request brings there before this one's turn */
	PLAN_CPU,
	PLAN_NVME,
	PLAN_PEER,
	PLAN_COMPUTE,
	PLAN_WAYS
};

/* As measured. bytes_us 0: there is no such way. */
struct plan_speed {
	double latency_us, bytes_us, queued_bytes;
};

struct plan_pod {
	struct worth_cost cost;    /* of computing, in seconds; known */
	double queue_seconds;      /* until it begins with what comes now; meanwhile it restores */
	double token_bytes;        /* of KV */
	struct plan_speed cpu, nvme, peer;
};

struct plan_prompt {
	uint32_t tokens, block_tokens;
	/* Leading blocks that the best other node has: those behind the pod's own can come. */
	uint32_t peer_blocks;
};

struct plan {
	uint32_t tokens[PLAN_WAYS]; /* their sum is the prompt's */
	double restore_seconds, compute_seconds;
	double first_token_seconds; /* the later of queue and restoring, and computing */
};

/* What computing tokens `first`.. takes, to `tokens`. */
double plan_compute_seconds(const struct worth_cost *cost, uint32_t first, uint32_t tokens);

/* The quickest plan; of two alike, the one that restores less. At least one token is computed. */
void plan_make(const struct plan_pod *pod, const struct plan_prompt *prompt,
	       const struct route_match *match, struct plan *out_plan);

#endif
