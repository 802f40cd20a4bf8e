/*
 * base/random.h: random numbers from one seed (xoshiro256**, seeded by splitmix64; Blackman and
 * Vigna, prng.di.unimi.it). Not for keys or nonces: those come from random_system().
 */
#ifndef KVTIER_BASE_RANDOM_H
#define KVTIER_BASE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

struct random {
	uint64_t state[4];
};

void random_init(struct random *random, uint64_t seed);
uint64_t random_next(struct random *random);
/* Uniform in [0, limit); limit > 0. */
uint64_t random_below(struct random *random, uint64_t limit);
/* Fills `bytes` bytes from the kernel's generator (getrandom). Never fails: a kernel that cannot
 * aborts us. */
void random_system(void *memory, size_t bytes);

#endif
