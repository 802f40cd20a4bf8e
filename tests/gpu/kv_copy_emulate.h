/*
 * tests/gpu/kv_copy_emulate.h: the copy kernel, run by the CPU from the source that the images for
 * GPUs are made of. Addresses are those of this process.
 */
#ifndef KVTIER_TESTS_GPU_KV_COPY_EMULATE_H
#define KVTIER_TESTS_GPU_KV_COPY_EMULATE_H

#include "transfer/kernels/kv_copy.h"

/*
 * A launch of so many blocks of so many threads. What a GPU would not survive, or would answer with
 * other bytes, aborts: a grid other than `copy` says, an address or length that is not aligned,
 * running sums that are not those of the fragments. Returns how many times 16 bytes were written.
 */
uint64_t kv_copy_emulate(const struct kv_copy *copy, uint32_t blocks, uint32_t threads);

#endif
