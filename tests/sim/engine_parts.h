/* tests/sim/engine_parts.h: shared by engine*.c. */
#ifndef KVTIER_TESTS_SIM_ENGINE_PARTS_H
#define KVTIER_TESTS_SIM_ENGINE_PARTS_H

#include "tests/sim/engine.h"

/* Around every call that has a bound. */
void call_begin(struct caller *caller, const char *name, uint64_t wait_us);
void call_end(struct caller *caller, long long result);
struct identity engine_identity(const struct engine *engine, unsigned adapter);
/* A job with blocks of the engine's memory, or NULL: too much is under way. */
struct engine_job *job_take(struct engine *engine, const struct stretch *at);
void job_give(struct engine_job *job);
/* One order, by the caller's own thread. */
void order_carry_out(struct caller *caller);

#endif
