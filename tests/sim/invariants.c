/* tests/sim/invariants.c: what always holds of a node, what a life must have given back when it
 * ends, and what nobody may hold any more when all have gone. */
#include "daemon/mover.h"
#include "daemon/server.h"
#include "tests/sim/index_holds.h"
#include "tests/sim/kernel_fds.h"
#include "tests/sim/node.h"

#include <string.h>

/* Node and tenants count the same things. */
static void tenants_check(const struct daemon *daemon)
{
	const struct counters *all = &daemon->counters;
	struct tenant_counters sum = { 0 };

	for (unsigned i = 0; i < daemon->tenants_count; i++) {
		const struct tenant_counters *own = &daemon->tenants[i].counters;

		sum.lookups += own->lookups;
		sum.lookup_hits += own->lookup_hits;
		sum.usable_tokens += own->usable_tokens;
		sum.hit_blocks += own->hit_blocks;
		sum.miss_blocks += own->miss_blocks;
		sum.stored_blocks += own->stored_blocks;
		sum.stored_bytes += own->stored_bytes;
	}
	if (sum.lookups != all->lookups || sum.lookup_hits != all->lookup_hits ||
	    sum.usable_tokens != all->usable_tokens ||
	    sum.hit_blocks != all->hit_blocks[TIER_CPU] + all->hit_blocks[TIER_NVME] ||
	    sum.miss_blocks != all->miss_blocks || sum.stored_blocks != all->stored_blocks ||
	    sum.stored_bytes != all->stored_bytes)
		sim_fail("the tenants' counters do not add up to the node's");
	if (all->worth_tokens > all->usable_tokens || all->usable_tokens > all->lookup_tokens)
		sim_fail("more tokens are worth it than usable, or usable than asked for");
}

/* No counter falls in a life. */
static void counters_check(struct node *node)
{
	const uint64_t *now = (const uint64_t *)&node->daemon->counters;
	const uint64_t *before = (const uint64_t *)&node->counted;

	for (unsigned i = 0; i < sizeof(node->counted) / sizeof(*now); i++)
		if (now[i] < before[i])
			sim_fail("counter %u fell from %llu to %llu", i,
				 (unsigned long long)before[i], (unsigned long long)now[i]);
	node->counted = node->daemon->counters;
}

/* What a client was given, the node gave. */
static void clients_check(const struct node *node)
{
	const struct counters *now = &node->counted;
	uint64_t given = node->given_before + now->hit_blocks[TIER_CPU] +
			 now->hit_blocks[TIER_NVME];
	uint64_t taken = node->taken_before + now->stored_blocks + now->present_blocks +
			 now->attached_blocks;

	if (given < model.served)
		sim_fail("%llu blocks were loaded, the node counts %llu hits",
			 (unsigned long long)model.served, (unsigned long long)given);
	if (taken < model.stored)
		sim_fail("%llu blocks are stored or were there, the node counts %llu",
			 (unsigned long long)model.stored, (unsigned long long)taken);
}

static void shares_check(const struct daemon *daemon)
{
	for (unsigned i = 0; i < daemon->tenants_count; i++)
		for (enum tier_id tier = 0; tier < TIERS; tier++) {
			struct cache_share_figures figures;
			uint64_t used;

			memset(&figures, 0, sizeof(figures));
			cache_share_figures(daemon->cache, daemon->tenants[i].handle, tier,
					    &figures);
			used = figures.slots[SLOT_FILLING] + figures.slots[SLOT_READY] +
			       figures.slots[SLOT_LEAVING] + figures.slots[SLOT_BAD];
			if (figures.units_used > figures.units_max)
				sim_fail("tenant %u has %llu units of %llu", i,
					 (unsigned long long)figures.units_used,
					 (unsigned long long)figures.units_max);
			if (figures.holds > used ||
			    figures.copies_whole > figures.slots[SLOT_READY] +
							   figures.slots[SLOT_LEAVING])
				sim_fail("tenant %u: more slots are held or whole than used", i);
		}
}

void node_check(struct node *node)
{
	const struct daemon *daemon = node->daemon;

	if (daemon == NULL)
		return;
	cache_check(daemon->cache);
	shares_check(daemon);
	counters_check(node);
	tenants_check(daemon);
	clients_check(node);
	if (index_holds_for_nobody(daemon->cache))
		sim_fail("a lease has no owner any more, and stays");
	if (daemon_leases_count(daemon) > daemon->settings.leases_max ||
	    server_sessions_count(daemon) > daemon->settings.connections_max)
		sim_fail("more leases or connections than there may be");
}

void node_life_is_over(struct node *node)
{
	const struct counters *counted = &node->counted;

	if (node->daemon != NULL)
		counters_check(node);
	node->given_before += counted->hit_blocks[TIER_CPU] + counted->hit_blocks[TIER_NVME];
	node->taken_before += counted->stored_blocks + counted->present_blocks +
			      counted->attached_blocks;
	memset(&node->counted, 0, sizeof(node->counted));
}

void process_check_empty(const struct process *process)
{
	unsigned fds = fds_count_of(process), mappings = mappings_count_of(process);

	if (fds > 0 || mappings > 0)
		sim_fail("%s has closed all, and %u descriptors and %u mappings are left",
			 process->name, fds, mappings);
	if (process->pieces != process->pieces_before)
		sim_fail("%s has closed all, and %d pieces of memory are left", process->name,
			 (int)(process->pieces - process->pieces_before));
}

const char *node_is_held(const struct node *node)
{
	const struct daemon *daemon = node->daemon;

	if (daemon == NULL)
		return "the daemon does not serve";
	if (server_sessions_count(daemon) != 0)
		return "a connection is left";
	if (fds_count_of(node->process) != node->fds_at_start)
		return "it has not as many descriptors as when it began";
	if (gpu_sim_lents(&node->gpu) != 0)
		return "memory of a GPU is still lent";
	if (index_holds_space(daemon->cache))
		return "a space is held";
	return NULL;
}
