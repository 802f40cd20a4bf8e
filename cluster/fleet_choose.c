/* cluster/fleet_choose.c: see fleet.h: when each pod would have a request's first token, and which
 * pod gets it. */
#include "cluster/fleet_parts.h"

#include "proto/inventory.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#define OVERDUE_PART 0.1       /* of its estimate: what a prefill that takes longer still takes */
#define NEAR_SECONDS 0.001     /* estimates are no better than this */

double fleet_queue_seconds(const struct fleet *fleet, uint32_t number, uint64_t now_us)
{
	const struct fleet_pod *pod = &fleet->pods[number];
	struct list *waiting = (struct list *)&pod->waiting;

	if (list_is_empty(waiting))
		return 0;
	const struct placed *head = list_item(list_first(waiting), struct placed, link);
	uint64_t began_us = head->placed_us > pod->first_us ? head->placed_us : pod->first_us;
	double gone = now_us > began_us ? (double)(now_us - began_us) / 1e6 : 0;
	double left = fmax(head->compute_seconds - gone, OVERDUE_PART * head->compute_seconds);

	return fmax(pod->waiting_seconds - head->compute_seconds, 0) + left;
}

/* Until its cache has room for `tokens` more. */
static double kv_wait_seconds(const struct fleet_pod *pod, double tokens)
{
	double missing = (double)pod->kv_placed + tokens - (double)pod->facts.kv_tokens;

	if (pod->facts.kv_tokens == 0 || missing <= 0 || !(pod->kv_rate > 0))
		return 0;
	return missing / pod->kv_rate;
}

/* Leading blocks that pods of other nodes have: the most, and the most of yet another node. */
struct best_nodes {
	uint32_t node, blocks, other_blocks;
};

static struct best_nodes best_nodes_find(const struct fleet *fleet, uint32_t count)
{
	struct best_nodes best = { .blocks = 0 };

	for (uint32_t i = 0; i < count; i++) {
		uint32_t node = fleet->pods[fleet->numbers[i]].facts.node;
		uint32_t blocks = fleet->matches[i].blocks -
				  fleet->matches[i].tier_blocks[ROUTE_ARRIVING];

		if (blocks > best.blocks) {
			if (best.node != node)
				best.other_blocks = best.blocks;
			best.node = node;
			best.blocks = blocks;
		} else if (node != best.node && blocks > best.other_blocks) {
			best.other_blocks = blocks;
		}
	}
	return best;
}

static void estimate_make(struct fleet *fleet, const struct fleet_request *request,
			  const struct best_nodes *nodes, uint32_t place, uint64_t now_us)
{
	struct fleet_estimate *estimate = &fleet->estimates[place];
	const struct fleet_pod *pod = &fleet->pods[fleet->numbers[place]];
	struct plan_pod can = { .cost = pod->fit.cost, .token_bytes = pod->facts.token_bytes,
				.cpu = pod->facts.cpu, .nvme = pod->facts.nvme,
				.peer = pod->facts.peer };
	const struct plan_prompt prompt = {
		.tokens = request->tokens, .block_tokens = request->block_tokens,
		.peer_blocks = nodes->node == pod->facts.node ? nodes->other_blocks
							      : nodes->blocks,
	};

	estimate->pod = fleet->numbers[place];
	estimate->queue = fleet_queue_seconds(fleet, estimate->pod, now_us);
	can.queue_seconds = estimate->queue;
	plan_make(&can, &prompt, &fleet->matches[place], &estimate->plan);
	/* What it has already takes no more room. */
	estimate->kv_wait = kv_wait_seconds(pod, (double)request->tokens + request->output_tokens -
							 estimate->plan.tokens[PLAN_HBM]);
	if (estimate->kv_wait > 0) {
		can.queue_seconds += estimate->kv_wait;
		plan_make(&can, &prompt, &fleet->matches[place], &estimate->plan);
	}
	estimate->harm = (fleet->settings.decode_price * (double)pod->running.count +
			  fleet->settings.work_price) * estimate->plan.compute_seconds;
	estimate->total = request->mode == FLEET_LEAST_LOADED
				  ? estimate->queue + estimate->kv_wait
				  : estimate->plan.first_token_seconds + estimate->harm;
}

/* A number of the request, the pod and this router, which others draw differently. */
static uint64_t draw(const struct fleet *fleet, const struct fleet_request *request, uint32_t pod)
{
	return inventory_digest(request->hash ^ fleet->settings.router_id, 1) ^
	       inventory_digest(request->hash + pod, 2);
}

static bool is_near(const struct fleet *fleet, const struct fleet_estimate *estimate, double least)
{
	return estimate->total <= least * (1 + fleet->settings.near) + NEAR_SECONDS;
}

/* Of those that are about as quick as the quickest: its session's, else one by lot. */
static void choose(const struct fleet *fleet, const struct fleet_request *request, uint32_t count,
		   struct fleet_choice *choice)
{
	const struct fleet_estimate *all = fleet->estimates, *best = NULL, *next = NULL;
	const struct fleet_estimate *home = NULL;
	double least = INFINITY;

	for (uint32_t i = 0; i < count; i++) {
		least = fmin(least, all[i].total);
		if (all[i].pod == request->home)
			home = &all[i];
	}
	for (uint32_t i = 0; i < count; i++) {
		if (!is_near(fleet, &all[i], least))
			continue;
		choice->was_near = best != NULL;
		if (best == NULL ||
		    draw(fleet, request, all[i].pod) > draw(fleet, request, best->pod))
			best = &all[i];
	}
	if (home != NULL && request->mode == FLEET_QUICKEST &&
	    home->total - best->total < fleet->settings.sticky_seconds)
		best = home;
	for (uint32_t i = 0; i < count; i++)
		if (&all[i] != best && (next == NULL || all[i].total < next->total))
			next = &all[i];
	choice->best = *best;
	choice->is_home = best == home;
	choice->next.pod = FLEET_NONE;
	if (next != NULL)
		choice->next = *next;
}

int fleet_choose(struct fleet *fleet, const struct fleet_request *request, uint64_t now_us,
		 struct fleet_choice *out_choice, struct fleet_estimate *estimates,
		 uint32_t *out_count)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < fleet->pods_top; i++) {
		if (!fleet->pods[i].is_used || fleet->pods[i].is_draining)
			continue;
		fleet->numbers[count] = i;
		fleet->routes[count++] = fleet->pods[i].facts.route;
	}
	memset(out_choice, 0, sizeof(*out_choice));
	if (out_count != NULL)
		*out_count = count;
	if (count == 0)
		return -ENOENT;
	route_index_match(fleet->index, request->keys, request->keys_count, fleet->routes, count,
			  fleet->matches);
	struct best_nodes nodes = best_nodes_find(fleet, count);
	for (uint32_t i = 0; i < count; i++)
		estimate_make(fleet, request, &nodes, i, now_us);
	choose(fleet, request, count, out_choice);
	if (estimates != NULL)
		memcpy(estimates, fleet->estimates, count * sizeof(*estimates));
	return 0;
}
