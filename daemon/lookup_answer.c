/* daemon/lookup_answer.c: what a lookup is answered: the usable tokens, a lease on them, and how
 * many are worth loading. */
#include "daemon/lookup_parts.h"

#include "base/failpoint.h"
#include "index/usable.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define NVME_OP_BYTES (1u << 20)   /* what an operation in the queue is taken for */

/* What the answer is made from; one lookup at a time, on the loop. */
static uint8_t presence[FRAME_LOOKUP_KEYS_MAX];
static uint32_t wanted[FRAME_LOOKUP_KEYS_MAX];

static uint32_t usable_of(const struct session *session, const struct lookup *lookup)
{
	struct usable_group groups[FRAME_GROUPS_MAX];
	struct usable_run runs[LOOKUP_SECTIONS_MAX];
	const struct engine *engine = session->engine;

	for (unsigned i = 0; i < engine->groups_count; i++)
		groups[i] = (struct usable_group){
			.kind = (enum usable_kind)engine->groups[i].kind,
			.tokens_per_block = engine->groups[i].tokens_per_block,
			.window_tokens = engine->groups[i].window_tokens,
		};
	for (uint32_t i = 0; i < lookup->sections_count; i++)
		runs[i] = (struct usable_run){
			.group = lookup->sections[i].group,
			.first_position = lookup->sections[i].first_position,
			.count = lookup->sections[i].count,
			.present = presence + lookup->sections[i].first,
		};
	return usable_tokens(groups, engine->groups_count, runs, lookup->sections_count);
}

void answer_find(const struct session *session, const struct lookup *lookup,
		 struct answer *out_answer)
{
	for (uint32_t i = 0; i < lookup->keys_count; i++)
		presence[i] = lookup->tiers[i] != TIERS;
	*out_answer = (struct answer){ .presence = presence };
	out_answer->usable_tokens = usable_of(session, lookup);
}

/* The group whose blocks cover the usable tokens: the first full one, else the first. */
static unsigned covering_group(const struct engine *engine)
{
	for (unsigned group = 0; group < engine->groups_count; group++)
		if (engine->groups[group].kind == FRAME_GROUP_FULL)
			return group;
	return 0;
}

/* The last run grows by blocks of one tier; those of another one begin a new run, if there is
 * room. */
static void runs_add(struct answer *answer, const struct frame_group *group, enum tier_id tier,
		     uint64_t blocks)
{
	struct worth_run *run =
		answer->runs_count > 0 ? &answer->runs[answer->runs_count - 1] : NULL;

	if (run == NULL || (run->tier != tier && answer->runs_count < FRAME_RUNS_MAX)) {
		run = &answer->runs[answer->runs_count++];
		*run = (struct worth_run){ .tier = tier };
	}
	run->tokens += (uint32_t)(blocks * group->tokens_per_block);
	run->bytes += blocks * group->payload_bytes;
}

/* Runs of tokens of one tier. */
static void runs_make(const struct engine *engine, const struct lookup *lookup,
		      struct answer *answer)
{
	unsigned number = covering_group(engine);
	const struct frame_group *group = &engine->groups[number];
	uint32_t usable_blocks = answer->usable_tokens / group->tokens_per_block +
				 (answer->usable_tokens % group->tokens_per_block != 0);

	for (uint32_t i = 0; i < lookup->sections_count; i++) {
		const struct lookup_section *section = &lookup->sections[i];
		const uint8_t *tiers = lookup->tiers + section->first;

		if (section->group != number || section->first_position >= usable_blocks)
			continue;
		uint32_t end = usable_blocks - section->first_position;
		if (end > section->count)
			end = section->count;
		for (uint32_t key = 0, next; key < end; key = next) {
			next = key + 1;
			while (next < end && tiers[next] == tiers[key])
				next++;
			if (tiers[key] != TIERS)
				runs_add(answer, group, tiers[key], next - key);
		}
	}
}

static void worth_weigh(const struct session *session, const struct frame_lookup *frame,
			struct answer *answer)
{
	const struct daemon *daemon = session->daemon;
	struct worth_cost cost = { .a = frame->cost_a, .b = frame->cost_b, .c = frame->cost_c };
	double queued_bytes = daemon->nvme == NULL
				      ? 0.0
				      : (double)daemon->nvme->in_flight * NVME_OP_BYTES;

	for (uint32_t i = 0; i < answer->runs_count; i++) {
		struct worth_run *run = &answer->runs[i];
		const struct tier_speed *speed = &daemon->speeds[run->tier];

		run->restore_us = worth_restore_us(run->bytes, speed->latency_us, speed->bytes_us,
						   run->tier == TIER_NVME ? queued_bytes : 0.0);
	}
	answer->worth_tokens = worth_tokens(&cost, answer->runs, answer->runs_count,
					    answer->usable_tokens);
}

void answer_weigh(const struct session *session, const struct lookup *lookup,
		  const struct frame_lookup *frame, struct answer *answer)
{
	runs_make(session->engine, lookup, answer);
	worth_weigh(session, frame, answer);
}

bool lease_is_left(const struct daemon *daemon, const struct tenant *tenant)
{
	return cache_leases_count(daemon->cache, tenant->handle) <
	       daemon->settings.leases_max / daemon->tenants_count;
}

void answer_lease(struct session *session, const struct lookup *lookup, uint64_t lease_us,
		  struct answer *answer)
{
	struct daemon *daemon = session->daemon;
	const struct engine *engine = session->engine;
	uint32_t count = 0;
	unsigned granted = 0;

	for (uint32_t i = 0; i < lookup->sections_count; i++) {
		const struct lookup_section *section = &lookup->sections[i];
		uint32_t tokens_per_block = engine->groups[section->group].tokens_per_block;

		for (uint32_t key = 0; key < section->count; key++)
			if (lookup->entries[section->first + key] != ENTRY_NONE &&
			    (uint64_t)(section->first_position + key) * tokens_per_block <
				    answer->usable_tokens)
				wanted[count++] = lookup->entries[section->first + key];
	}
	if (count == 0)
		return;
	if (lease_us > daemon->settings.lease_us_max)
		lease_us = daemon->settings.lease_us_max;
	if (!lease_is_left(daemon, session->tenant) ||
	    cache_lease_grant(daemon->cache, session->tenant->handle, wanted, count,
			      daemon->now_us + lease_us, &answer->lease, &granted) < 0) {
		daemon->counters.leases_refused++;
		answer->usable_tokens = 0;
		return;
	}
	answer->lease_us = lease_us;
	if (granted < count)
		answer->usable_tokens = engine->groups_count > 1
						? 0
						: granted * engine->groups[0].tokens_per_block;
	(void)failpoint(lease_granted);
}
