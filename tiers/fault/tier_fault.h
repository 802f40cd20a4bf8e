/*
 * tiers/fault/tier_fault.h: a tier whose nth op fails: wraps any other tier, a full back end
 * itself. Runs on: the loop thread. Owns: its wrappers; the inner tier stays the caller's.
 */
#ifndef KVTIER_TIERS_FAULT_TIER_FAULT_H
#define KVTIER_TIERS_FAULT_TIER_FAULT_H

#include "tiers/tier.h"

enum tier_fault_place {
	TIER_FAULT_AT_SUBMIT, /* submit answers the errno: the op never was under way */
	TIER_FAULT_BEFORE,    /* accepted, not done; ends with the errno */
	TIER_FAULT_AFTER      /* accepted and done; ends with the errno all the same */
};

struct tier_fault_op;

struct tier_fault {
	struct tier tier; /* what users are given */
	struct tier *inner;
	struct tier_fault_op *wrappers;
	uint32_t ops_max;
	struct list idle, failed; /* wrappers */
	enum tier_fault_place place;
	uint64_t nth; /* 0: not armed */
	uint64_t count;
	uint64_t seen, hits;
	int errno_value;
	unsigned finished; /* in the poll that runs now */
};

/* `ops_max`: how many ops may be under way at once; beyond it -EAGAIN. */
must_check int tier_fault_open(struct tier_fault *fault, struct tier *inner, uint32_t ops_max,
			       struct error *error);
/* The nth op from now on ends with `errno_value` (negative). Replaces what was armed. */
void tier_fault_arm(struct tier_fault *fault, uint64_t nth, int errno_value);
/* The same, with a choice of place, and for `count` ops in a row. */
void tier_fault_arm_at(struct tier_fault *fault, enum tier_fault_place place, uint64_t nth,
		       uint64_t count, int errno_value);
bool tier_fault_was_hit(const struct tier_fault *fault);

#endif
