/* daemon/lookup_answer.c: what a lookup is answered: the usable tokens, a lease on them, and how
 * many are worth loading. */
#include "daemon/lookup_parts.h"

#include "base/failpoint.h"
#include "index/usable.h"

#include <assert.h>
#include <errno.h>
#include <string.h>


/* What the answer is made from; one lookup at a time, on the loop. A byte a key: it is there; a
 * clipped lease holds it; none. */
static uint8_t presence[FRAME_LOOKUP_KEYS_MAX];
static uint8_t leased[FRAME_LOOKUP_KEYS_MAX];
static const uint8_t nothing[FRAME_LOOKUP_KEYS_MAX];
static uint32_t wanted[FRAME_LOOKUP_KEYS_MAX]; /* entries that a lease is asked for */

/* The most tokens, at most `tokens_max`, from which every group can go on with these keys alone. */
static uint32_t usable_of(const struct session *session, const struct lookup *lookup,
			  const uint8_t *keys, uint32_t tokens_max)
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
			.present = keys + lookup->sections[i].first,
		};
	return usable_tokens_within(groups, engine->groups_count, runs, lookup->sections_count,
				    tokens_max);
}

void answer_find(const struct session *session, const struct lookup *lookup,
		 const struct remote_lookup *remote, struct answer *out_answer)
{
	for (uint32_t i = 0; i < lookup->keys_count; i++)
		presence[i] = lookup->tiers[i] != TIERS || (remote != NULL && remote->coming[i]);
	*out_answer = (struct answer){
		.presence = presence, .promised = presence, .remote = remote,
	};
	out_answer->usable_tokens = usable_of(session, lookup, presence, UINT32_MAX);
}

/* The group whose blocks cover the usable tokens: the first full one, else the first. */
static unsigned covering_group(const struct engine *engine)
{
	for (unsigned group = 0; group < engine->groups_count; group++)
		if (engine->groups[group].kind == FRAME_GROUP_FULL)
			return group;
	return 0;
}

/* The last run grows by the blocks `first` to `end` of one tier; those of another one begin a new
 * run, if there is room. */
static void runs_add(struct answer *answer, const struct frame_group *group, enum tier_id tier,
		     uint64_t first, uint64_t end)
{
	struct worth_run *run =
		answer->runs_count > 0 ? &answer->runs[answer->runs_count - 1] : NULL;

	if (run == NULL || (run->tier != tier && answer->runs_count < FRAME_RUNS_MAX)) {
		answer->starts[answer->runs_count] = first * group->tokens_per_block;
		run = &answer->runs[answer->runs_count++];
		*run = (struct worth_run){ .tier = tier };
	}
	answer->ends[answer->runs_count - 1] = end * group->tokens_per_block;
	run->tokens += (uint32_t)((end - first) * group->tokens_per_block);
	run->bytes += (end - first) * group->payload_bytes;
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
		uint64_t first = section->first_position;

		if (section->group != number || first >= usable_blocks)
			continue;
		uint32_t end = usable_blocks - section->first_position;
		if (end > section->count)
			end = section->count;
		for (uint32_t key = 0, next; key < end; key = next) {
			next = key + 1;
			while (next < end && tiers[next] == tiers[key] &&
			       answer->presence[section->first + next] ==
				       answer->presence[section->first + key])
				next++;
			/* What is in no tier is missing, or on its way. */
			if (tiers[key] != TIERS || answer->presence[section->first + key])
				runs_add(answer, group, tiers[key], first + key, first + next);
		}
	}
}

/* What the copy to devices takes, where the engine lends their memory: its ranks load at once, so
 * the slowest counts. */
static uint32_t device_us(const struct session *session, uint64_t bytes, bool is_first)
{
	const struct list *lenders = &session->engine->lenders;
	uint32_t us_max = 0;

	for (struct list_node *node = lenders->head.next; node != &lenders->head;
	     node = node->next) {
		struct session *lender = list_item(node, struct session, lender);
		struct pull_speed *speed = &lender->lent.speeds[COPY_LOAD];

		pull_speed_settle(speed, session->daemon->now_us);
		uint32_t us = pull_speed_us(speed, bytes, is_first);
		us_max = us > us_max ? us : us_max;
	}
	return us_max;
}

/* From another node: its first block, what comes before, and the bytes. */
static uint32_t remote_us(const struct remote_lookup *remote, uint64_t bytes)
{
	return remote == NULL || remote->speed == NULL
		       ? 0
		       : worth_restore_us(bytes, remote->speed->latency_us, remote->speed->bytes_us,
					  (double)remote->queued_bytes);
}

static uint32_t tier_us(const struct daemon *daemon, enum tier_id tier, uint64_t bytes)
{
	const struct tier_speed *speed = &daemon->speeds[tier];
	double queued_bytes = tier != TIER_NVME || daemon->nvme == NULL
				      ? 0.0
				      : (double)daemon->nvme->in_flight * TIER_OP_BYTES;

	return worth_restore_us(bytes, speed->latency_us, speed->bytes_us, queued_bytes);
}

/* Of the first `bytes` of a run. To lent memory no processor copies, and blocks of nvme go through
 * tier and device one behind the other, so the slower of the two counts. */
static uint32_t restore_us(const struct session *session, const struct answer *answer,
			   const struct worth_run *run, uint64_t bytes)
{
	uint32_t of_device_us = device_us(session, bytes, run == answer->runs);

	if (run->tier == TIERS) {
		uint32_t of_network_us = remote_us(answer->remote, bytes);

		return of_network_us > of_device_us ? of_network_us : of_device_us;
	}
	if (!list_is_empty(&session->engine->lenders) && run->tier != TIER_NVME)
		return of_device_us;
	uint32_t of_tier_us = tier_us(session->daemon, (enum tier_id)run->tier, bytes);
	return of_tier_us > of_device_us ? of_tier_us : of_device_us;
}

/* How long everything before the token `point` takes, run by run. */
static uint64_t restore_until_us(const struct session *session, const struct answer *answer,
				 uint32_t point)
{
	uint64_t us = 0;

	for (uint32_t i = 0; i < answer->runs_count && answer->starts[i] < point; i++) {
		const struct worth_run *run = &answer->runs[i];
		uint64_t begin = answer->starts[i], end = answer->ends[i];

		if (point >= end || point == answer->usable_tokens)
			us += run->restore_us;
		else
			us += restore_us(session, answer, run,
					 run->bytes * (point - begin) / (end - begin));
	}
	return us;
}

/* Loading may end only where every group can go on: for each run the last such point in it, if
 * there is any. The steps between them are what is weighed; together they lead from what the engine
 * has to what is usable. */
static void steps_make(const struct session *session, const struct lookup *lookup,
		       const struct answer *answer, struct worth_run *out_steps)
{
	const struct engine *engine = session->engine;
	bool is_plain = engine->groups_count == 1 && engine->groups[0].kind == FRAME_GROUP_FULL;
	uint32_t from = usable_of(session, lookup, nothing, answer->usable_tokens);
	uint64_t from_us = restore_until_us(session, answer, from);

	for (uint32_t i = 0; i < answer->runs_count; i++) {
		uint32_t point = answer->usable_tokens;

		if (i + 1 < answer->runs_count && answer->ends[i] < point)
			point = is_plain ? (uint32_t)answer->ends[i]
					 : usable_of(session, lookup, answer->promised,
						     (uint32_t)answer->ends[i]);
		if (point < from)
			point = from;
		uint64_t us = restore_until_us(session, answer, point);
		uint64_t step_us = us > from_us ? us - from_us : 0;
		out_steps[i] = (struct worth_run){
			.tokens = point - from,
			.restore_us = step_us < UINT32_MAX ? (uint32_t)step_us : UINT32_MAX,
		};
		from = point;
		from_us = us;
	}
}

void answer_weigh(const struct session *session, const struct lookup *lookup,
		  const struct frame_lookup *frame, struct answer *answer)
{
	struct worth_cost cost = { .a = frame->cost_a, .b = frame->cost_b, .c = frame->cost_c };
	struct worth_run steps[FRAME_RUNS_MAX];

	runs_make(session->engine, lookup, answer);
	for (uint32_t i = 0; i < answer->runs_count; i++)
		answer->runs[i].restore_us = restore_us(session, answer, &answer->runs[i],
							answer->runs[i].bytes);
	answer->worth_tokens = answer->usable_tokens;
	if (cost.a == 0 && cost.b == 0 && cost.c == 0)
		return;
	steps_make(session, lookup, answer, steps);
	answer->worth_tokens = worth_tokens(&cost, steps, answer->runs_count,
					    answer->usable_tokens);
}

bool lease_is_left(const struct daemon *daemon, const struct tenant *tenant)
{
	return cache_leases_count(daemon->cache, tenant->handle) <
	       daemon->settings.leases_max / daemon->tenants_count;
}

static bool is_wanted(const struct lookup *lookup, const struct lookup_section *section,
		      uint32_t key, uint64_t keys_end)
{
	return lookup->entries[section->first + key] != ENTRY_NONE &&
	       section->first_position + (uint64_t)key < keys_end;
}

/* Blocks of the section's group that begin before the token `tokens_end`. */
static uint64_t blocks_before(const struct engine *engine, const struct lookup_section *section,
			      uint64_t tokens_end)
{
	uint64_t tokens_per_block = engine->groups[section->group].tokens_per_block;

	return (tokens_end + tokens_per_block - 1) / tokens_per_block;
}

/* The keys before the token `tokens_end` that were found; how many. */
static uint32_t wanted_fill(const struct engine *engine, const struct lookup *lookup,
			    uint32_t tokens_end)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < lookup->sections_count; i++) {
		const struct lookup_section *section = &lookup->sections[i];
		uint64_t end = blocks_before(engine, section, tokens_end);

		for (uint32_t key = 0; key < section->count; key++)
			if (is_wanted(lookup, section, key, end))
				wanted[count++] = lookup->entries[section->first + key];
	}
	return count;
}

/* The keys of the first `granted` wanted entries, and what comes without a lease. */
static void leased_fill(const struct session *session, const struct lookup *lookup,
			const struct remote_lookup *remote, uint32_t tokens_end, unsigned granted)
{
	memset(leased, 0, lookup->keys_count);
	for (uint32_t i = 0; i < lookup->sections_count; i++) {
		const struct lookup_section *section = &lookup->sections[i];
		uint64_t end = blocks_before(session->engine, section, tokens_end);

		for (uint32_t key = 0; key < section->count; key++) {
			uint32_t number = section->first + key;
			bool is_leased = granted > 0 && is_wanted(lookup, section, key, end);
			bool is_coming = remote != NULL && remote->coming[number] &&
					 lookup->entries[number] == ENTRY_NONE;

			leased[number] = is_leased || is_coming;
			granted -= is_leased;
		}
	}
}

/* Only the first `granted` of the wanted keys were leased: makes less usable. False: as groups are
 * leased one behind the other, one was left with little or nothing, and a lease on half of the
 * request does better. Ends, as each round asks for half at most. */
static bool clipped_suffices(const struct session *session, const struct lookup *lookup,
			     unsigned granted, struct answer *answer)
{
	uint32_t tokens_max = answer->usable_tokens;
	uint32_t own = usable_of(session, lookup, nothing, tokens_max);
	uint32_t middle = own + (tokens_max - own) / 2;

	leased_fill(session, lookup, answer->remote, tokens_max, granted);
	answer->promised = leased;
	answer->usable_tokens = usable_of(session, lookup, leased, tokens_max);
	if (answer->usable_tokens > own && answer->usable_tokens >= middle)
		return true;
	/* Granted as a whole, the next one promises all that is there. */
	answer->promised = presence;
	uint32_t half = usable_of(session, lookup, presence, middle);
	if (half > answer->usable_tokens)
		answer->usable_tokens = half;
	if (answer->usable_tokens <= own)
		answer->usable_tokens = 0;
	return false;
}

static void lease_refused(struct daemon *daemon, struct answer *answer)
{
	daemon->counters.leases_refused++;
	answer->usable_tokens = 0;
}

void answer_lease(struct session *session, const struct lookup *lookup, uint64_t lease_us,
		  struct answer *answer)
{
	struct daemon *daemon = session->daemon;
	uint32_t count = wanted_fill(session->engine, lookup, answer->usable_tokens);
	unsigned granted = 0;

	if (count == 0)
		return;
	if (lease_us > daemon->settings.lease_us_max)
		lease_us = daemon->settings.lease_us_max;
	if (!lease_is_left(daemon, session->tenant)) {
		lease_refused(daemon, answer);
		return;
	}
	while (cache_lease_grant(daemon->cache, session->tenant->handle, wanted, count,
				 daemon->now_us + lease_us, &answer->lease, &granted) == 0) {
		if (granted == count || clipped_suffices(session, lookup, granted, answer)) {
			answer->lease_us = lease_us;
			cache_lease_own(daemon->cache, answer->lease, &session->leases);
			(void)failpoint(lease_granted);
			return;
		}
		cache_lease_release(daemon->cache, answer->lease);
		answer->lease = LEASE_NONE;
		count = wanted_fill(session->engine, lookup, answer->usable_tokens);
		if (answer->usable_tokens == 0 || count == 0)
			break;
	}
	lease_refused(daemon, answer);
}
