/* tests/sim/damage.c: whether what a daemon offers is whole, as a reader would check it. */
#include "daemon/slot_check.h"
#include "tests/sim/node.h"

#include <assert.h>
#include <string.h>

#define SLOT_BYTES_MAX (UINT64_C(64) << 10)

static const uint8_t *slot_bytes(struct node *node, const struct slot_claim *claim)
{
	struct daemon *daemon = node->daemon;

	if (claim->tier == TIER_NVME) {
		unsigned device = claim->place.device;

		return node->disks[device]->now +
		       nvme_device_slots_offset(daemon->devices[device].device) +
		       claim->place.offset;
	}
	for (unsigned i = 0; i < daemon->tenants_count; i++)
		if (daemon->tenants[i].cpu_area == claim->place.area)
			return (const uint8_t *)arena_slot(&daemon->tenants[i].arena,
							   claim->place.offset);
	assert(false);
}

/* The daemon's own check, of a copy: it deciphers in place. */
static enum slot_verdict slot_look(struct node *node, enum tier_id tier, uint32_t slot)
{
	static uint8_t copy[SLOT_BYTES_MAX] __attribute__((aligned(4096)));
	struct slot_claim claim;

	slot_claim_make(node->daemon, tier, slot, &claim);
	assert(claim.place.slot_bytes <= sizeof(copy));
	memcpy(copy, slot_bytes(node, &claim), claim.place.slot_bytes);
	return slot_claim_check(node->daemon, &claim, 0, (struct slot_header *)copy);
}

const char *node_damage(struct node *node)
{
	for (enum tier_id tier = 0; tier < TIERS; tier++) {
		uint32_t end = tier == TIER_CPU ? node->daemon->cpu_slots_max
						: node->daemon->nvme_slots_max;

		for (uint32_t i = 0; i < end; i++) {
			const struct slot *slot = cache_slot(node->daemon->cache, tier, i);
			enum slot_verdict verdict;

			/* An orphan (no ring) belongs to nobody any more. */
			if (slot->state != SLOT_READY || slot->entry == ENTRY_NONE ||
			    slot->sibling == SLOT_NONE)
				continue;
			verdict = slot_look(node, tier, i);
			if (verdict != SLOT_GOOD)
				return slot_verdict_name(verdict);
		}
	}
	return NULL;
}
