/* bench/payload.c: a counter, mixed by shifts and adds only: these vectorise on every x86-64 and
 * arm64. */
#include "bench/payload.h"

#include "bench/trace_builder.h"

#include <assert.h>
#include <string.h>

#define STEP UINT64_C(0x9e3779b97f4a7c15) /* odd, so 2^64 words pass before one comes again */
#define WORDS 8                           /* 64 bytes at a time */

typedef uint64_t words __attribute__((vector_size(WORDS * sizeof(uint64_t)), aligned(8)));

void payload_hash(uint64_t identity, uint8_t out_hash[PAYLOAD_HASH_BYTES])
{
	uint64_t word[PAYLOAD_HASH_BYTES / sizeof(uint64_t)];

	word[0] = identity; /* so that two identities never share a hash */
	for (unsigned i = 1; i < sizeof(word) / sizeof(word[0]); i++)
		word[i] = trace_mix(identity + i * STEP);
	memcpy(out_hash, word, sizeof(word));
}

static void counter_init(words *counter, uint64_t identity, unsigned shard, uint64_t offset)
{
	uint64_t first = trace_mix(identity ^ trace_mix(shard + 1)) + offset / 8 * STEP;

	for (unsigned i = 0; i < WORDS; i++)
		(*counter)[i] = first + i * STEP;
}

/* A bijection: equal words come from equal counters only. */
#define MIXED(counter, value)                                                                      \
	do {                                                                                       \
		(value) = (counter) ^ ((counter) >> 29);                                           \
		(value) += (value) << 21;                                                          \
		(value) ^= (value) >> 32;                                                          \
	} while (0)

void payload_fill(void *memory, size_t bytes, uint64_t identity, unsigned shard, uint64_t offset)
{
	words counter, value;
	uint8_t *at = memory;

	assert(bytes % sizeof(words) == 0 && offset % sizeof(words) == 0);
	counter_init(&counter, identity, shard, offset);
	for (uint8_t *end = at + bytes; at < end; at += sizeof(words)) {
		MIXED(counter, value);
		memcpy(at, &value, sizeof(value));
		counter += WORDS * STEP;
	}
}

bool payload_is_right(const void *memory, size_t bytes, uint64_t identity, unsigned shard,
		      uint64_t offset)
{
	words counter, value, found, wrong = { 0 };
	const uint8_t *at = memory;
	uint64_t any = 0;

	assert(bytes % sizeof(words) == 0 && offset % sizeof(words) == 0);
	counter_init(&counter, identity, shard, offset);
	for (const uint8_t *end = at + bytes; at < end; at += sizeof(words)) {
		MIXED(counter, value);
		memcpy(&found, at, sizeof(found));
		wrong |= found ^ value;
		counter += WORDS * STEP;
	}
	for (unsigned i = 0; i < WORDS; i++)
		any |= wrong[i];
	return any == 0;
}
