/*
 * base/cpu.h: which instructions of this CPU may be used.
 *
 * KVTIER_CPU=baseline|sse4.2|avx512 in the environment is an upper bound: tests reach the ways that
 * this machine would not choose, and emulators that lack AVX-512 can run us. Anything else bounds
 * nothing.
 * Runs on: any thread, as long as nobody changes the environment.
 */
#ifndef KVTIER_BASE_CPU_H
#define KVTIER_BASE_CPU_H

#include <stdlib.h>
#include <string.h>

enum cpu_level { CPU_BASELINE, CPU_SSE42, CPU_AVX512 };

static inline enum cpu_level cpu_level_bound(void)
{
	const char *bound = getenv("KVTIER_CPU");

	if (bound != NULL && strcmp(bound, "baseline") == 0)
		return CPU_BASELINE;
	if (bound != NULL && strcmp(bound, "sse4.2") == 0)
		return CPU_SSE42;
	return CPU_AVX512;
}

#endif
