/*
 * transfer/kernels/kv_copy.h: what the copy kernel is given. Host, device, tests share it.
 * The kernel moves fragments between a device's memory and pinned, mapped host memory, each to a
 * place of its own, without a buffer between. Work is counted in steps, of at most
 * KV_COPY_STEP_BYTES of one fragment each; a team of KV_COPY_TEAM threads does one step at a time,
 * and the steps are shared out evenly among the teams of the grid, whatever the fragments' lengths.
 * So any grid is right, and its blocks are the number of multiprocessors that are taken at most.
 */
#ifndef KVTIER_TRANSFER_KERNELS_KV_COPY_H
#define KVTIER_TRANSFER_KERNELS_KV_COPY_H

#include <stdint.h>

/* What cuModuleGetFunction and hipModuleGetFunction are asked for. */
#define KV_COPY_FUNCTION "kv_copy_fragments"

#define KV_COPY_ALIGN 16u /* of addresses and lengths; what is not so aligned is no work for it */
#define KV_COPY_TEAM 32u
#define KV_COPY_STEP_BYTES 2048u
#define KV_COPY_THREADS_MAX 1024u /* of a block; each has 64 bytes under way */

/* Fragments do not overlap on the side written to. */
struct __attribute__((aligned(16))) kv_fragment {
	uint64_t device;   /* as kernels address it */
	uint64_t host;     /* the same: what cuMemHostGetDevicePointer said of pinned memory */
	uint64_t bytes;    /* may be 0 */
	uint32_t first;    /* the sum of kv_copy_steps() of all fragments before this one */
	uint32_t reserved; /* 0 */
};

/* The kernel's only argument, by value. */
struct kv_copy {
	uint64_t fragments; /* address of an array of struct kv_fragment, of which it reads all */
	uint32_t count;     /* of fragments; >= 1 where steps > 0 */
	uint32_t steps;     /* the sum of kv_copy_steps() of all; 0: nothing is read or written */
	uint32_t is_load;   /* 0: device to host; else host to device */
	uint32_t threads;   /* of a block: a multiple of KV_COPY_TEAM */
	uint32_t blocks;    /* both as launched: on AMD they would be more arguments to ask for */
	uint32_t reserved;  /* 0 */
};

#if defined(__CUDACC__) || defined(__HIP__) || defined(__CUDA__)
#define KV_COPY_BOTH static inline __attribute__((host, device))
#else
#define KV_COPY_BOTH static inline
#endif

KV_COPY_BOTH uint64_t kv_copy_steps(uint64_t bytes)
{
	return bytes / KV_COPY_STEP_BYTES + (bytes % KV_COPY_STEP_BYTES != 0);
}

#endif
