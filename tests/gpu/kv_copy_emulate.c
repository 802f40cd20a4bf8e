/* tests/gpu/kv_copy_emulate.c: the kernel's source as C, every thread of the grid in turn. */
#include "tests/gpu/kv_copy_emulate.h"

#define KV_COPY_EMULATED
#include "transfer/kernels/kv_copy.gpu"

#include <assert.h>

static _Thread_local uint64_t units_written;

static struct kv_unit unit_read(uint64_t address)
{
	return *(const struct kv_unit *)address;
}

static void unit_write(uint64_t address, struct kv_unit unit)
{
	*(struct kv_unit *)address = unit;
	units_written++;
}

static void check(const struct kv_copy *copy)
{
	const struct kv_fragment *fragments = (const struct kv_fragment *)copy->fragments;
	uint64_t steps = 0;

	assert(copy->fragments % sizeof(struct kv_unit) == 0);
	for (uint32_t i = 0; i < copy->count; i++) {
		assert(fragments[i].device % KV_COPY_ALIGN == 0);
		assert(fragments[i].host % KV_COPY_ALIGN == 0);
		assert(fragments[i].bytes % KV_COPY_ALIGN == 0);
		assert(fragments[i].first == steps);
		steps += kv_copy_steps(fragments[i].bytes);
	}
	assert(copy->steps == steps);
}

uint64_t kv_copy_emulate(const struct kv_copy *copy, uint32_t blocks, uint32_t threads)
{
	assert(blocks > 0 && blocks == copy->blocks);
	assert(threads == copy->threads && threads % KV_COPY_TEAM == 0);
	assert(threads > 0 && threads <= KV_COPY_THREADS_MAX);
	check(copy);
	units_written = 0;
	for (uint32_t block = 0; block < blocks; block++) {
		for (uint32_t thread = 0; thread < threads; thread++)
			thread_copy(copy, block, thread);
	}
	return units_written;
}
