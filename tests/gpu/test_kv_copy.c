/*
 * tests/gpu/test_kv_copy.c: the copy kernel moves every byte that it was given, once, and no other,
 * whatever the fragments and the grid. Its source is run as C.
 */
#include "kv_copy_emulate.h"

#include "base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define FRAGMENTS_MAX 600
#define SIDE_BYTES (9u << 20)
#define ENTRIES_BYTES 65536u
#define FENCE_BYTES 48 /* between fragments, so that one more step or unit is seen */
#define FENCE 0xEE
#define RANDOM_ROUNDS 300

static const struct {
	uint32_t blocks, threads;
} grids[] = { { 1, 32 },  { 1, 1024 }, { 2, 64 },   { 3, 96 },	{ 4, 512 },
	      { 7, 128 }, { 8, 256 },  { 12, 512 }, { 16, 1024 }, { 32, 32 },
	      { 31, 160 }, { 32, 1024 } };
#define GRIDS (sizeof(grids) / sizeof(grids[0]))

struct sides {
	uint8_t *device, *host; /* SIDE_BYTES each */
	uint64_t device_bytes, host_bytes;
	struct kv_fragment *fragments;
	uint8_t *entries; /* ENTRIES_BYTES of memory, and then none */
	uint32_t count;
	uint64_t steps;
};

static struct sides sides;

static int sides_make(void **unused)
{
	(void)unused;
	sides.device = aligned_alloc(64, SIDE_BYTES);
	sides.host = aligned_alloc(64, SIDE_BYTES);
	sides.fragments = aligned_alloc(64, FRAGMENTS_MAX * sizeof(struct kv_fragment));
	assert_non_null(sides.device);
	assert_non_null(sides.host);
	assert_non_null(sides.fragments);
	sides.entries = mmap(NULL, 2 * ENTRIES_BYTES, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(sides.entries != MAP_FAILED);
	assert_int_equal(mprotect(sides.entries + ENTRIES_BYTES, ENTRIES_BYTES, PROT_NONE), 0);
	return 0;
}

static int sides_free(void **unused)
{
	(void)unused;
	free(sides.device);
	free(sides.host);
	free(sides.fragments);
	munmap(sides.entries, 2 * ENTRIES_BYTES);
	return 0;
}

static void sides_clear(void)
{
	sides.device_bytes = sides.host_bytes = FENCE_BYTES;
	sides.count = 0;
	sides.steps = 0;
}

/* Another fragment behind the last one. The sides drift apart, as one has wider fences. */
static void fragment_add(uint64_t bytes)
{
	assert_true(sides.count < FRAGMENTS_MAX);
	sides.fragments[sides.count++] = (struct kv_fragment){
		.device = (uint64_t)(sides.device + sides.device_bytes),
		.host = (uint64_t)(sides.host + sides.host_bytes),
		.bytes = bytes,
		.first = (uint32_t)sides.steps,
	};
	sides.steps += kv_copy_steps(bytes);
	sides.device_bytes += bytes + FENCE_BYTES;
	sides.host_bytes += bytes + 2 * FENCE_BYTES;
	assert_true(sides.host_bytes <= SIDE_BYTES);
}

/* Engines' blocks are not in the order of ours: the host places are dealt anew. */
static void host_places_shuffle(struct random *random)
{
	for (uint32_t i = sides.count; i > 1; i--) {
		struct kv_fragment *one = &sides.fragments[i - 1];
		struct kv_fragment *other = &sides.fragments[random_below(random, i)];

		if (one->bytes == other->bytes) {
			uint64_t host = one->host;

			one->host = other->host;
			other->host = host;
		}
	}
}

static void memory_draw(uint8_t *memory, uint64_t bytes, uint64_t seed)
{
	struct random random;

	random_init(&random, seed);
	for (uint64_t i = 0; i < bytes; i += sizeof(uint64_t)) {
		uint64_t word = random_next(&random);

		memcpy(memory + i, &word, sizeof(word));
	}
}

/* Nothing can be read behind the last entry. */
static uint64_t entries_place(void)
{
	const size_t bytes = sides.count * sizeof(struct kv_fragment);

	return (uint64_t)memcpy(sides.entries + ENTRIES_BYTES - bytes, sides.fragments, bytes);
}

/* Launches, and holds the written side against what memcpy makes of it, fences and all. */
static void check_copy(bool is_load, uint32_t blocks, uint32_t threads)
{
	const struct kv_copy copy = {
		.fragments = entries_place(),
		.count = sides.count,
		.steps = (uint32_t)sides.steps,
		.is_load = is_load,
		.threads = threads,
		.blocks = blocks,
	};
	uint8_t *target = is_load ? sides.device : sides.host;
	const uint64_t target_bytes = is_load ? sides.device_bytes : sides.host_bytes;
	uint8_t *expected = malloc(target_bytes);
	uint64_t bytes = 0;

	assert_non_null(expected);
	memset(target, FENCE, target_bytes);
	memset(expected, FENCE, target_bytes);
	for (uint32_t i = 0; i < sides.count; i++) {
		const struct kv_fragment *fragment = &sides.fragments[i];
		const uint64_t to = is_load ? fragment->device : fragment->host;
		const uint64_t from = is_load ? fragment->host : fragment->device;

		memcpy(expected + (to - (uint64_t)target), (const void *)from, fragment->bytes);
		bytes += fragment->bytes;
	}
	assert_int_equal(kv_copy_emulate(&copy, blocks, threads), bytes / KV_COPY_ALIGN);
	assert_memory_equal(target, expected, target_bytes);
	free(expected);
}

static void check_both_directions(uint32_t blocks, uint32_t threads)
{
	memory_draw(sides.device, SIDE_BYTES, 1);
	check_copy(false, blocks, threads);
	memory_draw(sides.host, SIDE_BYTES, 2);
	check_copy(true, blocks, threads);
}

static void fragments_of_every_length_arrive_with_every_grid(void **unused)
{
	static const uint64_t lengths[] = {
		16,   32,   48,	  1008,	 1152,	2032,  2048,  2064,   4096,   5120,
		8192, 16400, 41984, 65536, 73728, 98304, 262144, 655360, 1048576, 2097136,
		2097152,
	};
	struct random random;

	(void)unused;
	random_init(&random, 3);
	for (unsigned i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		for (unsigned grid = 0; grid < GRIDS; grid++) {
			/* Not every grid with the long ones, which take long. */
			if (lengths[i] > 100000 && (grid + i) % 4 != 0)
				continue;
			sides_clear();
			for (unsigned count = 0; count < (lengths[i] > 100000 ? 3u : 37u); count++)
				fragment_add(lengths[i]);
			host_places_shuffle(&random);
			check_both_directions(grids[grid].blocks, grids[grid].threads);
		}
	}
}

static void fragments_of_all_lengths_together_arrive(void **unused)
{
	struct random random;

	(void)unused;
	for (unsigned round = 0; round < RANDOM_ROUNDS; round++) {
		random_init(&random, 100 + round);
		const uint64_t count = random_below(&random, round % 10 == 0 ? FRAGMENTS_MAX : 40);
		const unsigned grid = (unsigned)random_below(&random, GRIDS);

		sides_clear();
		for (uint64_t i = 0; i < count; i++) {
			const uint64_t digits = random_below(&random, round % 10 == 0 ? 8 : 14);

			fragment_add(random_below(&random, 1ull << digits) * KV_COPY_ALIGN);
		}
		host_places_shuffle(&random);
		check_copy(round % 2 == 0, grids[grid].blocks, grids[grid].threads);
	}
}

static void a_copy_of_nothing_writes_nothing(void **unused)
{
	struct kv_copy none = { .fragments = 0, .threads = 512, .blocks = 4 };

	(void)unused;
	assert_int_equal(kv_copy_emulate(&none, 4, 512), 0); /* would read at address 0 */
	sides_clear();
	for (unsigned i = 0; i < 50; i++)
		fragment_add(0);
	check_both_directions(3, 64);
	fragment_add(16); /* one unit behind, and before, many empty ones */
	for (unsigned i = 0; i < 50; i++)
		fragment_add(0);
	check_both_directions(3, 64);
}

static void one_long_fragment_among_short_ones_is_shared_out_among_all_teams(void **unused)
{
	(void)unused;
	for (unsigned at = 0; at < 3; at++) {
		sides_clear();
		for (unsigned i = 0; i < 201; i++)
			fragment_add(i == at * 100 ? 2u << 20 : 16 * (i % 3));
		check_both_directions(4, 1024);
		check_both_directions(1, 96);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fragments_of_every_length_arrive_with_every_grid),
		cmocka_unit_test(fragments_of_all_lengths_together_arrive),
		cmocka_unit_test(a_copy_of_nothing_writes_nothing),
		cmocka_unit_test(one_long_fragment_among_short_ones_is_shared_out_among_all_teams),
	};

	return cmocka_run_group_tests(tests, sides_make, sides_free);
}
