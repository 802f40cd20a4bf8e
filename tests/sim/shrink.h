/* tests/sim/shrink.h: finds a shorter history that fails as well. */
#ifndef KVTIER_TESTS_SIM_SHRINK_H
#define KVTIER_TESTS_SIM_SHRINK_H

#include "tests/sim/sim.h"

/* Each try runs in a child of its own. Prints what is left, a line an operation, and how to replay
 * it. */
void shrink(const struct sim_options *options, const char *program);
void shrink_print_replay(const struct sim_options *options, const char *program);

#endif
