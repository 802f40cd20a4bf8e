/* daemon/drain.c: takes no new blocks, and writes down what is in memory only. */
#include "daemon/drain.h"

#include "base/log.h"
#include "daemon/batch.h"
#include "daemon/daemon.h"
#include "daemon/mover.h"
#include "daemon/server.h"

#include <assert.h>

#define COUNTS_A_STEP 65536u /* cpu slots looked at in one pass */

static void drain_become(struct drain *drain, enum drain_state next)
{
	assert(next == DRAIN_OFF || next == drain->state + 1);
	drain->state = next;
	drain->next = 0;
}

const char *drain_state_name(enum drain_state state)
{
	static const char *const names[DRAIN_STATES] = { "off", "writing", "writing", "counting",
							  "done" };

	assert(state < DRAIN_STATES);
	return names[state];
}

void drain_begin(struct daemon *daemon)
{
	struct drain *drain = &daemon->drain;

	if (drain_is_on(drain))
		return;
	*drain = (struct drain){ .began_us = daemon->now_us,
				 .written_before = daemon->counters.down_blocks };
	drain_become(drain, DRAIN_LOWERING);
	log_line(LOG_INFO, "drain", "state=on");
}

void drain_end(struct daemon *daemon)
{
	if (!drain_is_on(&daemon->drain))
		return;
	drain_become(&daemon->drain, DRAIN_OFF);
	log_line(LOG_INFO, "drain", "state=off");
}

bool drain_stores_are_running(const struct daemon *daemon, const struct tenant *tenant)
{
	struct session *session = NULL;

	while ((session = server_session_after(daemon, session)) != NULL)
		for (struct list_node *node = list_first(&session->batches); node != NULL;
		     node = list_after(&session->batches, node))
			if (list_item(node, struct batch, link)->is_store &&
			    (tenant == NULL || session->tenant == tenant))
				return true;
	return false;
}

static bool is_above_only(const struct daemon *daemon, uint32_t number)
{
	const struct slot *slot = cache_slot(daemon->cache, TIER_CPU, number);

	return (slot->state == SLOT_READY || slot->state == SLOT_LEAVING) &&
	       slot->entry != ENTRY_NONE && slot->sibling != SLOT_NONE &&
	       cache_copy_slot(daemon->cache, slot->entry, TIER_NVME, slot->shard) == SLOT_NONE;
}

static void count_some(struct daemon *daemon)
{
	struct drain *drain = &daemon->drain;

	if (drain->next == 0)
		drain->above_blocks = 0;
	for (unsigned i = 0; i < COUNTS_A_STEP && drain->next < daemon->cpu_slots_max; i++)
		drain->above_blocks += is_above_only(daemon, drain->next++);
	if (drain->next < daemon->cpu_slots_max)
		return;
	drain_become(drain, DRAIN_DONE);
	log_line(LOG_INFO, "drained", "written=%llu above_only=%llu",
		 (unsigned long long)(daemon->counters.down_blocks - drain->written_before),
		 (unsigned long long)drain->above_blocks);
}

bool drain_step(struct daemon *daemon)
{
	struct drain *drain = &daemon->drain;

	if (daemon->phase != DAEMON_SERVING)
		return false;
	switch (drain->state) {
	case DRAIN_LOWERING:
		if (daemon->nvme != NULL && !mover_lower_from(daemon, &drain->next))
			return false;
		if (daemon->nvme == NULL || drain->next >= daemon->cpu_slots_max)
			drain_become(drain, DRAIN_WRITING);
		return true;
	case DRAIN_WRITING:
		if (mover_pending_down(daemon) > 0 || drain_stores_are_running(daemon, NULL))
			return false;
		drain_become(drain, DRAIN_COUNTING);
		return true;
	case DRAIN_COUNTING:
		count_some(daemon);
		return true;
	default:
		return false;
	}
}
