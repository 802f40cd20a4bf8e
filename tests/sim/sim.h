/* tests/sim/sim.h: one seed, from its boot to its end. */
#ifndef KVTIER_TESTS_SIM_SIM_H
#define KVTIER_TESTS_SIM_SIM_H

#include "base/failpoint.h"
#include "tests/sim/plan.h"

enum sim_mode { SIM_BOTH, SIM_SAFETY, SIM_LIVENESS };

struct sim_options {
	uint64_t seed;
	unsigned operations_count;
	enum sim_mode mode;
	bool is_verbose;
	bool is_left_out[OPERATIONS];        /* kinds */
	bool is_skipped[OPERATIONS_MAX + 1]; /* single operations */
};

struct sim_figures {
	uint64_t seeds, operations, stored, served, missed;
	uint64_t lives, kills, power_cuts, stops, starts_failed, engine_lives;
	uint64_t resumes, virtual_us, faults, reloads, pages;
	uint64_t gpu_copies, gpu_lives;
	uint64_t failpoint_hits[FAILPOINTS][2]; /* error, kill */
	uint64_t histories; /* the sum of their digests */
	uint64_t digest;    /* of the last history */
};

/* Adds to the figures. Ends the process (sim_fail, assert) where something is wrong; `*out_at` says
 * at which operation. */
void sim_run(const struct sim_options *options, struct sim_figures *figures,
	     volatile unsigned *out_at);

extern bool kernel_is_verbose;

#endif
