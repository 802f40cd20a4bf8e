/* cluster/fleet.c: see fleet.h: pods, and what is placed on them. */
#include "cluster/fleet_parts.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ARRIVED_US UINT64_C(2000000)   /* by then an engine has told of what it computed */
#define ARRIVING_KEYS_MAX 16384u
#define RESTORED_PART 0.2  /* of the time to a first token: beyond, it says little of computing */
#define NUMBER_SHIFT 32u

int fleet_create(struct fleet **out_fleet, struct route_index *index,
		 const struct fleet_settings *settings, struct error *error)
{
	struct fleet *fleet = calloc(1, sizeof(*fleet));
	struct placed *placed = calloc(FLEET_PLACED_MAX, sizeof(*placed));

	if (fleet == NULL || placed == NULL) {
		free(fleet);
		free(placed);
		return error_set(error, -ENOMEM, "no memory for %u requests%s", FLEET_PLACED_MAX,
				 error_advice(-ENOMEM));
	}
	fleet->index = index;
	fleet->settings = *settings;
	fleet->placed = placed;
	list_init(&fleet->free);
	list_init(&fleet->clearing);
	for (uint32_t i = 0; i < FLEET_PLACED_MAX; i++)
		list_append(&fleet->free, &placed[i].link);
	*out_fleet = fleet;
	return 0;
}

void fleet_destroy(struct fleet *fleet)
{
	if (fleet == NULL)
		return;
	for (uint32_t i = 0; i < FLEET_PLACED_MAX; i++)
		free(fleet->placed[i].keys);
	free(fleet->placed);
	free(fleet);
}

/* ---- pods ---- */

int fleet_join(struct fleet *fleet, const struct fleet_pod_facts *facts, uint32_t *out_pod)
{
	for (uint32_t i = 0; i < FLEET_PODS_MAX; i++) {
		struct fleet_pod *pod = &fleet->pods[i];

		if (pod->is_used)
			continue;
		memset(pod, 0, sizeof(*pod));
		pod->is_used = true;
		pod->facts = *facts;
		cost_fit_init(&pod->fit, &facts->cost);
		list_init(&pod->waiting);
		list_init(&pod->running);
		if (i >= fleet->pods_top)
			fleet->pods_top = i + 1;
		*out_pod = i;
		return 0;
	}
	return -EAGAIN;
}

void fleet_tell(struct fleet *fleet, uint32_t number, const struct fleet_pod_facts *facts)
{
	assert(fleet->pods[number].is_used);
	fleet->pods[number].facts = *facts;
}

void fleet_drain(struct fleet *fleet, uint32_t number, bool is_draining)
{
	assert(fleet->pods[number].is_used);
	fleet->pods[number].is_draining = is_draining;
}

/* ---- what is placed ---- */

/* Those at the beginning that another request brings already stay that one's. */
static void keys_mark(struct fleet *fleet, struct placed *placed, const uint64_t *keys,
		      uint32_t count)
{
	uint32_t first = 0;

	if (placed->source == ROUTE_SOURCE_NONE)
		return;
	if (count > ARRIVING_KEYS_MAX)
		count = ARRIVING_KEYS_MAX;
	while (first < count && (route_index_get(fleet->index, placed->source, keys[first]) &
				 ROUTE_BIT(ROUTE_ARRIVING)) != 0)
		first++;
	if (first == count)
		return;
	placed->keys = malloc((count - first) * sizeof(*keys));
	if (placed->keys == NULL)
		return;   /* others may compute it, too */
	memcpy(placed->keys, keys + first, (count - first) * sizeof(*keys));
	while (placed->keys_count < count - first &&
	       route_index_change(fleet->index, placed->source, placed->keys[placed->keys_count],
				  ROUTE_BIT(ROUTE_ARRIVING), 0) >= 0)
		placed->keys_count++;
}

/* Where another request with the same keys is still to come they are cleared for it, too: by now
 * the engine has told of them, or they never came. */
static void keys_clear(struct fleet *fleet, struct placed *placed)
{
	bool is_there = fleet->pods[placed->pod].is_used &&
			fleet->pods[placed->pod].facts.route.sources[0] == placed->source;

	for (uint32_t i = 0; i < placed->keys_count && is_there; i++)
		(void)route_index_change(fleet->index, placed->source, placed->keys[i], 0,
					 ROUTE_BIT(ROUTE_ARRIVING));
	free(placed->keys);
	placed->keys = NULL;
	placed->keys_count = 0;
	if (placed->is_clearing)
		list_remove(&fleet->clearing, &placed->clear);
	placed->is_clearing = false;
}

static void placed_give(struct fleet *fleet, struct placed *placed)
{
	assert(placed->keys == NULL);
	placed->is_used = false;
	placed->life++;
	list_append(&fleet->free, &placed->link);
}

static struct placed *placed_find(struct fleet *fleet, uint64_t number)
{
	struct placed *placed = &fleet->placed[(uint32_t)number % FLEET_PLACED_MAX];

	return placed->is_used && !placed->is_done && placed->life == number >> NUMBER_SHIFT
		       ? placed : NULL;
}

uint64_t fleet_place(struct fleet *fleet, const struct fleet_request *request,
		     const struct fleet_estimate *estimate, uint64_t now_us)
{
	struct fleet_pod *pod = &fleet->pods[estimate->pod];
	struct list_node *node = list_take_first(&fleet->free);
	const struct plan *plan = &estimate->plan;
	double seconds = request->output_tokens * pod->facts.token_seconds;

	if (node == NULL)
		return FLEET_NONE;
	struct placed *placed = list_item(node, struct placed, link);
	*placed = (struct placed){
		.life = placed->life,
		.pod = estimate->pod,
		.is_used = true,
		.tokens = request->tokens,
		.cached_tokens = request->tokens - plan->tokens[PLAN_COMPUTE],
		.kv_tokens = request->tokens + request->output_tokens - plan->tokens[PLAN_HBM],
		.compute_seconds = plan->compute_seconds,
		.restore_seconds = plan->restore_seconds,
		.placed_us = now_us,
		.until_us = now_us + fleet->settings.placed_us_max,
		.source = pod->facts.route.sources[0],
	};
	if (seconds > 0)
		placed->kv_rate = (double)placed->kv_tokens / seconds;
	pod->kv_placed += placed->kv_tokens;
	pod->kv_rate += placed->kv_rate;
	pod->waiting_seconds += placed->compute_seconds;
	list_append(&pod->waiting, &placed->link);
	keys_mark(fleet, placed, request->keys, request->keys_count);
	return (uint64_t)placed->life << NUMBER_SHIFT | (uint32_t)(placed - fleet->placed);
}

static void waiting_leave(struct fleet_pod *pod, struct placed *placed)
{
	list_remove(&pod->waiting, &placed->link);
	pod->waiting_seconds -= placed->compute_seconds;
	if (list_is_empty(&pod->waiting))
		pod->waiting_seconds = 0;   /* sums of many fractions drift */
}

/* What it took says what computing costs where it was first in line, and did not wait for a tier.
 */
static void cost_learn(struct fleet_pod *pod, const struct placed *placed, uint64_t now_us)
{
	uint64_t began_us = placed->placed_us > pod->first_us ? placed->placed_us : pod->first_us;
	double seconds = now_us > began_us ? (double)(now_us - began_us) / 1e6 : 0;

	if (list_first(&pod->waiting) != &placed->link || seconds <= 0 ||
	    placed->restore_seconds > RESTORED_PART * seconds)
		return;
	cost_fit_add(&pod->fit, placed->cached_tokens, placed->tokens, seconds);
}

void fleet_first(struct fleet *fleet, uint64_t number, uint32_t cached_tokens, uint64_t now_us)
{
	struct placed *placed = placed_find(fleet, number);

	if (placed == NULL || placed->has_first)
		return;
	struct fleet_pod *pod = &fleet->pods[placed->pod];
	if (cached_tokens < placed->tokens)
		placed->cached_tokens = cached_tokens;
	cost_learn(pod, placed, now_us);
	waiting_leave(pod, placed);
	pod->first_us = now_us;
	placed->has_first = true;
	list_append(&pod->running, &placed->link);
	placed->clear_us = now_us + ARRIVED_US;
	placed->is_clearing = placed->keys != NULL;
	if (placed->is_clearing)
		list_append(&fleet->clearing, &placed->clear);
}

static void placed_end(struct fleet *fleet, struct placed *placed)
{
	struct fleet_pod *pod = &fleet->pods[placed->pod];

	if (placed->has_first)
		list_remove(&pod->running, &placed->link);
	else
		waiting_leave(pod, placed);
	pod->kv_placed -= placed->kv_tokens;
	pod->kv_rate = fmax(pod->kv_rate - placed->kv_rate, 0);
	placed->is_done = true;
	/* Its keys are said to arrive until the engine has told of them; where there was no first
	 * token it never will. */
	if (!placed->has_first)
		keys_clear(fleet, placed);
	if (placed->keys == NULL)
		placed_give(fleet, placed);
}

void fleet_done(struct fleet *fleet, uint64_t number, uint64_t now_us)
{
	struct placed *placed = placed_find(fleet, number);

	(void)now_us;
	if (placed != NULL)
		placed_end(fleet, placed);
}

static void list_end(struct fleet *fleet, struct list *list, uint64_t now_us)
{
	while (!list_is_empty(list)) {
		struct placed *placed = list_item(list_first(list), struct placed, link);

		if (placed->until_us > now_us)
			return;
		placed_end(fleet, placed);
	}
}

void fleet_leave(struct fleet *fleet, uint32_t number)
{
	struct fleet_pod *pod = &fleet->pods[number];

	assert(pod->is_used);
	list_end(fleet, &pod->waiting, UINT64_MAX);
	list_end(fleet, &pod->running, UINT64_MAX);
	pod->is_used = false;
}

void fleet_step(struct fleet *fleet, uint64_t now_us)
{
	while (!list_is_empty(&fleet->clearing)) {
		struct placed *placed = list_item(list_first(&fleet->clearing), struct placed,
						  clear);

		if (placed->clear_us > now_us)
			break;
		keys_clear(fleet, placed);
		if (placed->is_done)
			placed_give(fleet, placed);
	}
	for (uint32_t i = 0; i < fleet->pods_top; i++) {
		list_end(fleet, &fleet->pods[i].waiting, now_us);
		list_end(fleet, &fleet->pods[i].running, now_us);
	}
}

uint32_t fleet_placed_count(const struct fleet *fleet, uint32_t number)
{
	return (uint32_t)(fleet->pods[number].waiting.count + fleet->pods[number].running.count);
}

const struct worth_cost *fleet_cost(const struct fleet *fleet, uint32_t number)
{
	return &fleet->pods[number].fit.cost;
}
