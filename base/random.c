/* base/random.c: xoshiro256** for tests and placement, the kernel's generator for secrets. */
#include "base/random.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static uint64_t rotate_left(uint64_t value, unsigned bits)
{
	return (value << bits) | (value >> (64 - bits));
}

/* splitmix64: spreads a small seed over the whole state, which must not be all zero. */
static uint64_t spread(uint64_t *seed)
{
	uint64_t value = (*seed += 0x9e3779b97f4a7c15u);

	value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
	value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
	return value ^ (value >> 31);
}

void random_init(struct random *random, uint64_t seed)
{
	for (unsigned i = 0; i < 4; i++)
		random->state[i] = spread(&seed);
}

uint64_t random_next(struct random *random)
{
	uint64_t *state = random->state;
	uint64_t result = rotate_left(state[1] * 5, 7) * 9;
	uint64_t shifted = state[1] << 17;

	assert((state[0] | state[1] | state[2] | state[3]) != 0); /* random_init() was forgotten */
	state[2] ^= state[0];
	state[3] ^= state[1];
	state[1] ^= state[2];
	state[0] ^= state[3];
	state[2] ^= shifted;
	state[3] = rotate_left(state[3], 45);
	return result;
}

uint64_t random_below(struct random *random, uint64_t limit)
{
	unsigned __int128 product;
	uint64_t uneven;

	assert(limit > 0);
	/* The upper half of a product is uniform once the lowest 2^64 mod limit products are drawn
	 * again. */
	uneven = -limit % limit;
	do {
		product = (unsigned __int128)random_next(random) * limit;
	} while ((uint64_t)product < uneven);
	return (uint64_t)(product >> 64);
}

void random_system(void *memory, size_t bytes)
{
	uint8_t *target = memory;

	while (bytes > 0) {
		ssize_t got = getrandom(target, bytes, 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0) {
			fprintf(stderr, "kvtier: getrandom failed: %s\n", strerror(errno));
			abort();
		}
		target += got;
		bytes -= (size_t)got;
	}
}
