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
/* Of a life that begins, all quiet. */
void engine_memory_make(struct engine *engine);
/* Nobody touches a block that no job has. */
void engine_block_check(const struct engine *engine, unsigned group, unsigned block);
void engine_block_quiet(const struct engine *engine, unsigned group, unsigned block);
/* A block's payload, out of its planes and into them. */
void engine_gather(const struct engine *engine, unsigned group, unsigned block, uint8_t *payload);
void engine_scatter(const struct engine *engine, unsigned group, unsigned block,
		    const uint8_t *payload);
/* The word of a lender: its stream has done all before what a caller computes now. */
void engine_word_set(struct engine *engine);
/* One order, by the caller's own thread. */
void order_carry_out(struct caller *caller);

#endif
