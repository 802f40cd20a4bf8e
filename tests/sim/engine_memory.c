/* tests/sim/engine_memory.c: the blocks of an engine, in its own memory or in that of the GPU. */
#include "tests/sim/engine_parts.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define QUIET 0x5a
#define QUIET_BYTES 16u
#define WORD_BYTES 4096u /* before a lender's blocks: how far its stream has come */

static uint8_t *block_at(const struct engine *engine, unsigned group, unsigned block,
			 unsigned plane)
{
	return engine->memory[group][plane] +
	       block * engine->shape.groups[group].planes[plane].stride;
}

static void block_move(const struct engine *engine, unsigned group, unsigned block,
		       uint8_t *payload, bool is_out)
{
	for (unsigned plane = 0; plane < engine->shape.groups[group].planes_count; plane++) {
		uint8_t *at = block_at(engine, group, block, plane);
		uint64_t bytes = engine->shape.plane_bytes[group][plane];

		memcpy(is_out ? payload : at, is_out ? at : payload, bytes);
		payload += bytes;
	}
}

void engine_gather(const struct engine *engine, unsigned group, unsigned block, uint8_t *payload)
{
	unsigned preemption = kernel.preemption_percent;
	uint64_t bytes = engine->shape.groups[group].payload_bytes;

	if (engine->shape.is_lender) {
		block_move(engine, group, block, payload, true);
		return;
	}
	/* The callers' buffers are one for all: nobody else runs meanwhile. */
	kernel.preemption_percent = 0;
	if (kvtier_block_read(engine->client, group, block, payload, bytes) < 0)
		sim_fail("kvtier_block_read() failed");
	kernel.preemption_percent = preemption;
}

void engine_scatter(const struct engine *engine, unsigned group, unsigned block,
		    const uint8_t *payload)
{
	unsigned preemption = kernel.preemption_percent;
	uint64_t bytes = engine->shape.groups[group].payload_bytes;

	if (engine->shape.is_lender) {
		block_move(engine, group, block, (uint8_t *)(uintptr_t)payload, false);
		return;
	}
	kernel.preemption_percent = 0;
	if (kvtier_block_write(engine->client, group, block, payload, bytes) < 0)
		sim_fail("kvtier_block_write() failed");
	kernel.preemption_percent = preemption;
}

void engine_word_set(struct engine *engine)
{
	_Atomic uint64_t *word = (_Atomic uint64_t *)(void *)engine->region;
	uint64_t value = engine->gates;

	for (unsigned i = 0; i < CALLERS; i++)
		if (engine->callers[i].gate != 0 && engine->callers[i].gate <= value)
			value = engine->callers[i].gate - 1;
	atomic_store(word, value);
	kernel.changes++;
}

void engine_block_check(const struct engine *engine, unsigned group, unsigned block)
{
	for (unsigned plane = 0; plane < engine->shape.groups[group].planes_count; plane++) {
		const uint8_t *at = block_at(engine, group, block, plane);
		uint64_t bytes = engine->shape.plane_bytes[group][plane];

		for (unsigned i = 0; i < QUIET_BYTES; i++)
			if (at[i] != QUIET || at[bytes - 1 - i] != QUIET)
				sim_fail("%s: a block was touched after its job was quiescent",
					 engine->shape.name);
	}
}

void engine_block_quiet(const struct engine *engine, unsigned group, unsigned block)
{
	for (unsigned plane = 0; plane < engine->shape.groups[group].planes_count; plane++) {
		uint8_t *at = block_at(engine, group, block, plane);

		memset(at, QUIET, QUIET_BYTES);
		memset(at + engine->shape.plane_bytes[group][plane] - QUIET_BYTES, QUIET,
		       QUIET_BYTES);
	}
}

static void device_make(struct engine *engine)
{
	engine->region_bytes = WORD_BYTES;
	for (unsigned group = 0; group < engine->shape.groups_count; group++)
		for (unsigned plane = 0; plane < engine->shape.groups[group].planes_count; plane++)
			engine->region_bytes += ENGINE_BLOCKS *
						engine->shape.groups[group].planes[plane].stride;
	engine->device = gpu_sim_allocate(&engine->node->gpu, engine->region_bytes, &engine->region,
					  &engine->handle);
}

void engine_memory_make(struct engine *engine)
{
	uint64_t used_bytes = WORD_BYTES;

	if (engine->shape.is_lender)
		device_make(engine);
	for (unsigned group = 0; group < engine->shape.groups_count; group++) {
		struct kvtier_group *shape = &engine->shape.groups[group];

		for (unsigned plane = 0; plane < shape->planes_count; plane++) {
			struct kvtier_plane *planes = (struct kvtier_plane *)(uintptr_t)
							      shape->planes;

			if (engine->shape.is_lender)
				engine->memory[group][plane] = engine->region + used_bytes;
			else
				engine->memory[group][plane] = malloc(ENGINE_BLOCKS *
								      planes[plane].stride);
			used_bytes += ENGINE_BLOCKS * planes[plane].stride;
			planes[plane].base = engine->memory[group][plane];
		}
		for (unsigned block = 0; block < ENGINE_BLOCKS; block++)
			engine_block_quiet(engine, group, block);
	}
}
