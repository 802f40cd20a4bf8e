/* tests/sim/sim_parts.h: the one seed that runs; shared by sim.c and end.c. */
#ifndef KVTIER_TESTS_SIM_SIM_PARTS_H
#define KVTIER_TESTS_SIM_SIM_PARTS_H

#include "tests/sim/engine_parts.h"
#include "tests/sim/raw.h"
#include "tests/sim/sim.h"
#include "tests/sim/visitor.h"

#define LOOK_US 2000u
#define REST_STEP_US (UINT64_C(200) * 1000)

extern struct sim {
	const struct sim_options *options;
	struct node node;
	struct engine engines[ENGINES_MAX];
	struct liar liars[LIARS_MAX];
	struct operator operator;
	struct visitor visitors[VISITORS_MAX];
	uint64_t start_at_us; /* of a node that is down */
	bool is_ending, is_leaving;
} sim;

void sim_run_for(uint64_t for_us);
/* Without faults nothing may be held or under way soon, and every engine stores and loads again. */
void sim_end_well(void);
/* What the disks have when all is over. */
void sim_disks_check(void);

#endif
