/*
 * cluster/fleet.h: what a router knows of its pods, and where it sends a request: to the pod whose
 * first token is expected soonest, by its queue, by what it has of the prompt and where, and by
 * what the rest costs it (plan.h). Pure: time is given, nothing is read or sent.
 *
 * A request that is placed is *reserved*: its prefill until its first token, its KV until it is
 * done, at most for its time; and its blocks are *arriving* there, so that others with the same
 * prefix follow it instead of computing it elsewhere.
 *
 * Runs on: one thread. Limits: FLEET_PODS_MAX pods, FLEET_PLACED_MAX requests placed; all memory
 * is taken at the start.
 */
#ifndef KVTIER_CLUSTER_FLEET_H
#define KVTIER_CLUSTER_FLEET_H

#include "cluster/cost_fit.h"
#include "cluster/plan.h"
#include "cluster/route_index.h"

#define FLEET_PODS_MAX 1024u
#define FLEET_PLACED_MAX 65536u
#define FLEET_NAME_BYTES 128u
#define FLEET_NONE UINT32_MAX

/* What is known of a pod when it joins, and may be told anew at any time. */
struct fleet_pod_facts {
	char name[FLEET_NAME_BYTES];    /* "host:port" */
	uint32_t node;                  /* of which pods share the daemon; any numbers */
	struct route_pod route;
	struct worth_cost cost;         /* of prefill; where it is not known yet, a guess */
	struct plan_speed cpu, nvme, peer;
	double token_bytes;
	uint64_t kv_tokens;             /* that its cache holds; 0: not known, so never full */
	double token_seconds;           /* from one output token to the next; 0: not known */
};

struct fleet_settings {
	uint64_t router_id;      /* spreads near ties differently from other routers */
	double near;             /* estimates that differ by less, as a part, are alike */
	double sticky_seconds;   /* another pod must be quicker by so much to take a session over */
	double decode_price;     /* of a second by which a running request is delayed */
	double work_price;       /* of a second that a pod computes: others come after it */
	uint64_t placed_us_max;  /* a reservation's time, from when it was placed */
};

enum fleet_mode { FLEET_QUICKEST, FLEET_LEAST_LOADED };

struct fleet_request {
	const uint64_t *keys;        /* of its full blocks, of the index */
	uint32_t keys_count;
	uint32_t tokens;             /* > 0 */
	uint32_t block_tokens;
	uint32_t output_tokens;      /* expected */
	uint64_t hash;               /* its own: near ties */
	uint32_t home;               /* the pod of its session; FLEET_NONE */
	enum fleet_mode mode;
};

/* Why a pod was chosen, or was not. Seconds. */
struct fleet_estimate {
	uint32_t pod;
	double queue, kv_wait, harm;
	struct plan plan;
	double total;                /* what is compared */
};

struct fleet_choice {
	struct fleet_estimate best, next; /* next.pod FLEET_NONE: there was no other */
	bool is_home, was_near;
};

struct fleet;

must_check int fleet_create(struct fleet **out_fleet, struct route_index *index,
			    const struct fleet_settings *settings, struct error *error);
void fleet_destroy(struct fleet *fleet);

/* -EAGAIN: no room. The pod's number, until it leaves. */
must_check int fleet_join(struct fleet *fleet, const struct fleet_pod_facts *facts,
			  uint32_t *out_pod);
void fleet_tell(struct fleet *fleet, uint32_t pod, const struct fleet_pod_facts *facts);
/* What was placed there has failed; fleet_first() and fleet_done() of it do nothing. */
void fleet_leave(struct fleet *fleet, uint32_t pod);
/* It gets nothing new; what it has goes on. */
void fleet_drain(struct fleet *fleet, uint32_t pod, bool is_draining);

/* -ENOENT: no pod takes requests. estimates: of every pod that does, unordered; room for
 * FLEET_PODS_MAX, or NULL. */
must_check int fleet_choose(struct fleet *fleet, const struct fleet_request *request,
			    uint64_t now_us, struct fleet_choice *out_choice,
			    struct fleet_estimate *estimates, uint32_t *out_count);
/* Reserves it. The number of what is placed; FLEET_NONE: too much is placed, and nothing is
 * reserved. */
uint64_t fleet_place(struct fleet *fleet, const struct fleet_request *request,
		     const struct fleet_estimate *estimate, uint64_t now_us);
/* Its first token is here. cached_tokens: that the engine says it had; UINT32_MAX: not said. */
void fleet_first(struct fleet *fleet, uint64_t placed, uint32_t cached_tokens, uint64_t now_us);
/* It is done, or has failed; also before its first token. */
void fleet_done(struct fleet *fleet, uint64_t placed, uint64_t now_us);
/* Ends what is placed for longer than its time. */
void fleet_step(struct fleet *fleet, uint64_t now_us);

/* Seconds until the pod begins with what comes now. */
double fleet_queue_seconds(const struct fleet *fleet, uint32_t pod, uint64_t now_us);
uint32_t fleet_placed_count(const struct fleet *fleet, uint32_t pod);
const struct worth_cost *fleet_cost(const struct fleet *fleet, uint32_t pod);

#endif
