/* daemon/scrub_asked.c: a round that an operator asked for, now and at a rate of its own. */
#include "daemon/scrub_parts.h"

#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

bool scrub_has_tier(const struct scrub *scrub, enum tier_id tier)
{
	return scrub->asked.state != SCRUB_ASKED || scrub->asked.has_tier[tier];
}

static uint64_t slots_of(const struct scrub *scrub, enum tier_id tier)
{
	return scrub->asked.has_tier[tier] ? scrub_slots_end(scrub->daemon, tier) : 0;
}

/* Of nvme, which comes first, then of cpu. */
static uint64_t looked_at(const struct scrub *scrub)
{
	uint64_t slots = scrub->asked.has_tier[scrub->next_tier] ? scrub->next_slot : 0;

	return scrub->next_tier == TIER_NVME ? slots : slots_of(scrub, TIER_NVME) + slots;
}

static void figures_take(struct scrub *scrub)
{
	const struct scrub_figures *before = &scrub->asked.before, *now = &scrub->figures;
	struct scrub_figures *since = &scrub->asked.figures;

	for (enum tier_id tier = 0; tier < TIERS; tier++) {
		since->slots[tier] = now->slots[tier] - before->slots[tier];
		since->bytes[tier] = now->bytes[tier] - before->bytes[tier];
		since->damaged[tier] = now->damaged[tier] - before->damaged[tier];
	}
	since->given_up = now->given_up - before->given_up;
	since->unreadable = now->unreadable - before->unreadable;
	since->rewritten = now->rewritten - before->rewritten;
	scrub->asked.looked_at = scrub->is_passing ? looked_at(scrub) : 0;
}

void scrub_asked_become(struct scrub *scrub, enum scrub_asked_state next)
{
	static const bool legal[SCRUB_ASKED_STATES][SCRUB_ASKED_STATES] = {
		[SCRUB_UNASKED] = { [SCRUB_ASKED] = true },
		[SCRUB_ASKED] = { [SCRUB_ASKED_DONE] = true, [SCRUB_ASKED_ENDED] = true },
		[SCRUB_ASKED_DONE] = { [SCRUB_ASKED] = true },
		[SCRUB_ASKED_ENDED] = { [SCRUB_ASKED] = true },
	};
	struct scrub_asked *asked = &scrub->asked;

	assert(legal[asked->state][next]);
	asked->state = next;
	if (next == SCRUB_ASKED)
		return;
	figures_take(scrub);
	if (next == SCRUB_ASKED_DONE)
		asked->looked_at = asked->slots;
	asked->ended_us = scrub->daemon->now_us;
	log_line(LOG_INFO, "verified", "is_whole=%d slots=%llu damaged=%llu",
		 next == SCRUB_ASKED_DONE,
		 (unsigned long long)(asked->figures.slots[TIER_CPU] +
				      asked->figures.slots[TIER_NVME]),
		 (unsigned long long)(asked->figures.damaged[TIER_CPU] +
				      asked->figures.damaged[TIER_NVME]));
}

/* What is under way ends by itself; a slot that is open is begun anew by the next round. */
static void round_leave(struct scrub *scrub)
{
	scrub->is_passing = false;
	scrub->due_us = scrub->late_us = 0;
	scrub->is_left = scrub->check == &scrub->round;
	if (scrub->round.is_open && !scrub->is_left)
		scrub_check_give_up(scrub, &scrub->round);
}

int scrub_ask(struct daemon *daemon, const bool has_tier[TIERS], uint64_t bytes_second)
{
	struct scrub *scrub = daemon->scrub;
	struct scrub_asked *asked = &scrub->asked;

	assert(bytes_second > 0);
	if (asked->state == SCRUB_ASKED)
		return -EBUSY;
	round_leave(scrub);
	scrub_asked_become(scrub, SCRUB_ASKED);
	memcpy(asked->has_tier, has_tier, sizeof(asked->has_tier));
	asked->bytes_second = bytes_second;
	asked->began_us = asked->asked_us = daemon->now_us;
	asked->slots = slots_of(scrub, TIER_NVME) + slots_of(scrub, TIER_CPU);
	asked->before = scrub->figures;
	return 0;
}

void scrub_ask_end(struct daemon *daemon)
{
	struct scrub *scrub = daemon->scrub;

	if (scrub->asked.state != SCRUB_ASKED)
		return;
	scrub_asked_become(scrub, SCRUB_ASKED_ENDED);
	round_leave(scrub);
}

struct scrub_asked scrub_ask_again(struct daemon *daemon)
{
	struct scrub *scrub = daemon->scrub;

	if (scrub->asked.state == SCRUB_ASKED) {
		scrub->asked.asked_us = daemon->now_us;
		figures_take(scrub);
	}
	return scrub->asked;
}
