/* tests/transfer/plan_oracle.c: plans against tensors, byte by byte. */
#include "plan_oracle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SPACE_BYTES 48u /* between payloads that do not follow each other */
#define RECTANGLES_MAX 64u

struct walk {
	const struct oracle *oracle;
	struct plan_block blocks[ORACLE_BLOCKS_MAX];
	uint32_t blocks_count;
	uint8_t *arena;
	uint64_t arena_bytes;
	uint64_t *addresses; /* of each byte of the arena: what was copied there; 0: nothing */
	uint64_t *expected;  /* of a block */
	uint32_t blocks_done;
};

static void shuffle(struct random *random, uint32_t *values, uint32_t count)
{
	for (uint32_t i = count; i > 1; i--) {
		uint32_t other = (uint32_t)random_below(random, i), value = values[i - 1];

		values[i - 1] = values[other];
		values[other] = value;
	}
}

static void blocks_choose(struct walk *walk)
{
	const struct oracle *oracle = walk->oracle;
	uint32_t count = oracle->group->blocks_count;
	uint64_t distance = oracle->group->payload_bytes +
			    (oracle->places == PLACES_TIGHT ? 0 : SPACE_BYTES);
	uint32_t numbers[ORACLE_BLOCKS_MAX], places[ORACLE_BLOCKS_MAX];

	assert_true(count <= ORACLE_BLOCKS_MAX);
	for (uint32_t i = 0; i < count; i++) {
		numbers[i] = oracle->numbers == NUMBERS_DOWN ? count - 1 - i : i;
		places[i] = i;
	}
	if (oracle->numbers == NUMBERS_SHUFFLED)
		shuffle(oracle->random, numbers, count);
	if (oracle->places == PLACES_SHUFFLED)
		shuffle(oracle->random, places, count);
	walk->arena_bytes = count * distance;
	walk->arena = malloc(walk->arena_bytes);
	assert_non_null(walk->arena);
	for (uint32_t i = 0; i < count; i++) {
		if (oracle->numbers == NUMBERS_SOME && random_below(oracle->random, 4) == 0)
			continue;
		walk->blocks[walk->blocks_count++] = (struct plan_block){
			.number = numbers[i],
			.host = walk->arena + places[i] * distance,
		};
	}
}

static void row_note(struct walk *walk, uint64_t device, const uint8_t *host, uint64_t bytes)
{
	uint64_t first = (uint64_t)(host - walk->arena);

	assert_true(host >= walk->arena && first + bytes <= walk->arena_bytes);
	for (uint64_t i = 0; i < bytes; i++) {
		if (walk->addresses[first + i] != 0)
			fail_msg("byte %llu is copied twice", (unsigned long long)(first + i));
		walk->addresses[first + i] = device + i;
	}
}

static void block_check(const struct walk *walk, const struct plan_block *block)
{
	const struct oracle *oracle = walk->oracle;
	uint64_t bytes = 0;

	for (unsigned i = 0; i < oracle->tensors_count; i++) {
		const struct tensor *tensor = &oracle->tensors[i];

		tensor_addresses(tensor, oracle->region_bases[tensor->region], block->number,
				 walk->expected + bytes);
		bytes += tensor_block_bytes(tensor);
	}
	assert_int_equal(bytes, oracle->group->payload_bytes);
	assert_memory_equal(walk->addresses + (block->host - walk->arena), walk->expected,
			    bytes * sizeof(*walk->expected));
}

/* Upwards, and apart. */
static bool is_pitch(uint64_t pitch, const struct copy_rectangle *rectangle)
{
	return pitch >= rectangle->bytes && pitch < UINT64_C(1) << 63;
}

static void chunk_check(struct walk *walk, const struct copy_rectangle *rectangles, uint32_t count,
			uint32_t blocks_done, struct oracle_sum *sum)
{
	uint64_t bytes = 0;

	assert_true(count <= walk->oracle->rectangles_max);
	for (uint32_t i = 0; i < count; i++) {
		const struct copy_rectangle *rectangle = &rectangles[i];

		assert_true(rectangle->rows >= 1 && rectangle->bytes >= 1);
		assert_true(rectangle->rows == 1 || (is_pitch(rectangle->device_pitch, rectangle) &&
						     is_pitch(rectangle->host_pitch, rectangle)));
		for (uint64_t row = 0; row < rectangle->rows; row++)
			row_note(walk, rectangle->device + row * rectangle->device_pitch,
				 rectangle->host + row * rectangle->host_pitch, rectangle->bytes);
		bytes += rectangle->bytes * rectangle->rows;
		sum->rows += rectangle->rows;
	}
	assert_true(bytes <= walk->oracle->chunk_bytes_max);
	sum->chunks++;
	sum->rectangles += count;
	assert_true(blocks_done >= walk->blocks_done && blocks_done <= walk->blocks_count);
	while (walk->blocks_done < blocks_done)
		block_check(walk, &walk->blocks[walk->blocks_done++]);
}

struct oracle_sum oracle_walk(const struct oracle *oracle)
{
	struct walk walk = { .oracle = oracle };
	struct copy_rectangle rectangles[RECTANGLES_MAX];
	struct oracle_sum sum = { 0 };
	struct plan plan;
	uint32_t count, blocks_done;
	uint64_t copied = 0;

	assert_true(oracle->rectangles_max <= RECTANGLES_MAX);
	blocks_choose(&walk);
	walk.addresses = calloc(walk.arena_bytes, sizeof(*walk.addresses));
	walk.expected = calloc(oracle->group->payload_bytes, sizeof(*walk.expected));
	assert_true(walk.addresses != NULL && walk.expected != NULL);
	assert_int_equal(plan_check(oracle->group, walk.blocks, walk.blocks_count, NULL), 0);
	plan_init(&plan, &(struct plan_source){
				 .group = oracle->group,
				 .region_bases = oracle->region_bases,
				 .blocks = walk.blocks,
				 .blocks_count = walk.blocks_count,
				 .chunk_bytes_max = oracle->chunk_bytes_max,
			 });
	while ((count = plan_next(&plan, rectangles, oracle->rectangles_max, &blocks_done)) > 0)
		chunk_check(&walk, rectangles, count, blocks_done, &sum);
	assert_int_equal(walk.blocks_done, walk.blocks_count);
	for (uint64_t i = 0; i < walk.arena_bytes; i++)
		copied += walk.addresses[i] != 0;
	assert_int_equal(copied, walk.blocks_count * oracle->group->payload_bytes);
	free(walk.arena);
	free(walk.addresses);
	free(walk.expected);
	return sum;
}
