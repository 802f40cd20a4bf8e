/* tests/base/test_copy.c: every way of copying copies all, nothing else, and checks what arrived.
 */
#include "base/copy.h"
#include "base/checksum.h"
#include "base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MEMORY_BYTES (1u << 20)
#define FENCE_BYTES 128
#define FENCE 0xEE

static uint8_t *source;
static uint8_t *target;

static int memory_make(void **unused)
{
	struct random random;

	(void)unused;
	source = malloc(MEMORY_BYTES);
	target = malloc(MEMORY_BYTES);
	assert_non_null(source);
	assert_non_null(target);
	random_init(&random, 1);
	for (size_t i = 0; i < MEMORY_BYTES; i++)
		source[i] = (uint8_t)random_next(&random);
	return 0;
}

static int memory_free(void **unused)
{
	(void)unused;
	free(source);
	free(target);
	return 0;
}

/* Runs `check` under each choice, and puts back what was chosen before. */
static void for_each_choice(void (*check)(void))
{
	static const uint32_t chunks[] = { COPY_CHUNK_BYTES_MIN, 5000, 65536,
					   COPY_CHUNK_BYTES_MAX };
	struct copy_choice before = copy_choice_get();

	for (unsigned copy = 0; copy < COPY_WAYS; copy++) {
		for (unsigned checksum = 0; checksum < CHECKSUM_WAYS; checksum++) {
			for (unsigned i = 0; i < sizeof(chunks) / sizeof(chunks[0]); i++) {
				struct copy_choice choice = {
					.copy = (enum copy_way)copy,
					.checksum = (enum checksum_way)checksum,
					.chunk_bytes = chunks[i],
					.checked_copy = (enum copy_way)copy,
				};

				copy_choice_set(choice);
				choice = copy_choice_get();
				assert_int_equal(choice.copy, copy);
				assert_int_equal(choice.checksum, checksum);
				assert_int_equal(choice.checked_copy, copy);
				assert_int_equal(choice.chunk_bytes, chunks[i]);
				check();
			}
		}
	}
	copy_choice_set(before);
}

/* A random piece of the memory, with room for the fences. */
static size_t piece_draw(struct random *random, size_t *out_source_start, size_t *out_target_start)
{
	size_t bytes = random_below(random, random_below(random, 4) == 0 ? 600000 : 9000);

	*out_source_start = random_below(random, MEMORY_BYTES - bytes);
	*out_target_start = FENCE_BYTES +
			    random_below(random, MEMORY_BYTES - bytes - 2 * FENCE_BYTES);
	memset(target + *out_target_start - FENCE_BYTES, FENCE, bytes + 2 * FENCE_BYTES);
	return bytes;
}

static void assert_arrived(size_t source_start, size_t target_start, size_t bytes)
{
	assert_memory_equal(target + target_start, source + source_start, bytes);
	for (size_t i = 1; i <= FENCE_BYTES; i++) {
		assert_int_equal(target[target_start - i], FENCE);
		assert_int_equal(target[target_start + bytes + i - 1], FENCE);
	}
}

static void check_bytes(void)
{
	struct random random;

	random_init(&random, 2);
	for (unsigned i = 0; i < 100; i++) {
		size_t from, to;
		size_t bytes = piece_draw(&random, &from, &to);

		copy_bytes(target + to, source + from, bytes);
		assert_arrived(from, to, bytes);
	}
}

static void a_copy_copies_all_and_nothing_else(void **unused)
{
	(void)unused;
	for_each_choice(check_bytes);
}

typedef void checked_copy(void *target, const void *source, size_t bytes, size_t segment_bytes,
			  uint32_t *out_crcs);

static void check_segments_of(checked_copy *copy)
{
	struct random random;

	random_init(&random, 3);
	for (unsigned i = 0; i < 100; i++) {
		size_t from, to;
		size_t bytes = piece_draw(&random, &from, &to);
		size_t segment_bytes = 1 + random_below(&random, bytes + bytes / 8 + 1);
		size_t segments_count;
		uint32_t *crcs;

		if (bytes / segment_bytes > 256)
			segment_bytes = bytes / 256 + 1;
		segments_count = (bytes + segment_bytes - 1) / segment_bytes;
		crcs = malloc((segments_count + 1) *
			      sizeof(*crcs)); /* the sanitizer sees one too many */
		assert_non_null(crcs);
		crcs[segments_count] = 0xfeed;
		copy(target + to, source + from, bytes, segment_bytes, crcs);
		assert_arrived(from, to, bytes);
		for (size_t segment = 0; segment < segments_count; segment++) {
			size_t start = segment * segment_bytes;
			size_t left = bytes - start;

			assert_int_equal(crcs[segment],
					 crc32c(source + from + start,
						left < segment_bytes ? left : segment_bytes));
		}
		assert_int_equal(crcs[segments_count], 0xfeed);
		free(crcs);
	}
}

static void check_segments(void)
{
	check_segments_of(copy_with_checksums);
}

static void a_copy_through_staging_has_the_checksums_of_what_arrived(void **unused)
{
	(void)unused;
	check_segments_of(copy_away_with_checksums);
}

static void each_segment_has_its_own_checksum_whatever_the_chunks_are(void **unused)
{
	(void)unused;
	for_each_choice(check_segments);
}

static void check_pieces(void)
{
	struct random random;
	size_t done = 0;
	uint32_t crc = 0;

	random_init(&random, 4);
	memset(target, FENCE, MEMORY_BYTES);
	while (done < MEMORY_BYTES) {
		size_t bytes = random_below(&random, 200000);

		bytes = bytes < MEMORY_BYTES - done ? bytes : MEMORY_BYTES - done;
		crc = copy_with_checksum_more(crc, target + done, source + done, bytes);
		done += bytes;
	}
	assert_int_equal(crc, crc32c(source, MEMORY_BYTES));
	assert_memory_equal(target, source, MEMORY_BYTES);
}

static void pieces_have_one_running_checksum(void **unused)
{
	(void)unused;
	for_each_choice(check_pieces);
}

static void nothing_is_a_legal_amount(void **unused)
{
	uint32_t crc = 7;

	(void)unused;
	copy_bytes(NULL, NULL, 0);
	copy_with_checksums(target, source, 0, 4096, &crc);
	assert_int_equal(crc, 7);
	assert_int_equal(copy_with_checksum_more(7, target, source, 0), 7);
	copy_with_checksums(target, source, 100, SIZE_MAX, &crc);
	assert_int_equal(crc, crc32c(source, 100));
}

static void calibration_makes_a_choice_that_can_be_set_again(void **unused)
{
	static const size_t sizes[] = { 0, 1, 65536, 2u << 20, 3000000, SIZE_MAX };
	struct copy_choice before = copy_choice_get();

	(void)unused;
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct copy_choice choice;

		copy_calibrate(sizes[i]);
		choice = copy_choice_get();
		copy_choice_set(choice);   /* asserts its limits */
		/* Re-reading what was just sent past the cache, chunk by chunk, is never right. */
		assert_true(choice.checked_copy == COPY_MEMCPY ||
			    choice.checksum == CHECKSUM_AFTER);
		assert_non_null(copy_way_name(choice.copy));
	}
	copy_choice_set(before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_copy_through_staging_has_the_checksums_of_what_arrived),
		cmocka_unit_test(a_copy_copies_all_and_nothing_else),
		cmocka_unit_test(each_segment_has_its_own_checksum_whatever_the_chunks_are),
		cmocka_unit_test(pieces_have_one_running_checksum),
		cmocka_unit_test(nothing_is_a_legal_amount),
		cmocka_unit_test(calibration_makes_a_choice_that_can_be_set_again),
	};

	return cmocka_run_group_tests(tests, memory_make, memory_free);
}
