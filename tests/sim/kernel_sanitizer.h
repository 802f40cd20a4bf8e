/*
 * tests/sim/kernel_sanitizer.h: what the address sanitizer must be told: which stack a task stands
 * on, and which memory is nobody's. Without it these do nothing.
 */
#ifndef KVTIER_TESTS_SIM_KERNEL_SANITIZER_H
#define KVTIER_TESTS_SIM_KERNEL_SANITIZER_H

#include <stdbool.h>
#include <stddef.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIM_SANITIZED 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define SIM_SANITIZED 1
#endif

#ifdef SIM_SANITIZED
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>

/* Frames are larger, and a call of printf() needs more. */
#define STACK_FACTOR 4u
#define IS_SANITIZED true
#else
#define ASAN_POISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#define STACK_FACTOR 1u
#define IS_SANITIZED false

static inline void __sanitizer_start_switch_fiber(void **out_fake, const void *stack, size_t bytes)
{
	(void)out_fake;
	(void)stack;
	(void)bytes;
}

static inline void __sanitizer_finish_switch_fiber(void *fake, const void **out_stack,
						   size_t *out_bytes)
{
	(void)fake;
	(void)out_stack;
	(void)out_bytes;
}
#endif

#endif
