/*
 * tiers/fault/tier_fake.h: a tier in memory, a full back end, for tests of what stands above the
 * tiers. Runs on: one thread. Owns: the devices' memory.
 */
#ifndef KVTIER_TIERS_FAULT_TIER_FAKE_H
#define KVTIER_TIERS_FAULT_TIER_FAKE_H

#include "tiers/tier.h"

#define TIER_FAKE_DEVICES_MAX 8u

struct tier_fake {
	struct tier tier; /* what users are given */
	uint8_t *memory[TIER_FAKE_DEVICES_MAX];
	uint64_t device_bytes;
	unsigned devices_count;
	uint32_t queue_max; /* ops submitted and not done; beyond it -EAGAIN */
	bool is_fenced[TIER_FAKE_DEVICES_MAX];
	uint64_t tables_written;
	struct list queue; /* in order of arrival */
	bool is_holding;
	uint64_t released; /* while holding: how many may end */
};

must_check int tier_fake_open(struct tier_fake *fake, unsigned devices_count, uint64_t device_bytes,
			      uint32_t queue_max, struct clock *clock, struct error *error);
/* Ops wait until released. Bytes move when an op ends, so a read sees what was written meanwhile.
 */
void tier_fake_hold(struct tier_fake *fake);
void tier_fake_release(struct tier_fake *fake, uint64_t count);
/* Releases all and holds no more. */
void tier_fake_flow(struct tier_fake *fake);
/* The bytes of a device: to look at, and to spoil. */
uint8_t *tier_fake_memory(struct tier_fake *fake, uint32_t device);

#endif
