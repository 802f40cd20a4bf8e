/*
 * tests/gpu/test_kv_copy_far.c: fragments as long as can be, which nobody has the memory for, and
 * how the fragment of a step is found. The kernel's source is run as C, with reads and writes that
 * only note their addresses.
 */
#define KV_COPY_EMULATED
#include "transfer/kernels/kv_copy.gpu"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define DEVICE (0x7f00ull << 32)
#define HOST 0xffff0000ull /* crosses 4 GiB at once */
#define UNIT sizeof(struct kv_unit)
#define COUNT_MAX 60

static struct {
	uint64_t units;
	uint64_t sum;          /* of the units' indices */
	uint64_t least, most;  /* offsets, in bytes */
	bool is_wrong;
} seen;

static struct kv_unit unit_read(uint64_t address)
{
	struct kv_unit unit = { { (uint32_t)address, (uint32_t)(address >> 32), 0, 0 } };

	return unit;
}

static void unit_write(uint64_t address, struct kv_unit unit)
{
	const uint64_t source = unit.words[0] | (uint64_t)unit.words[1] << 32;
	const uint64_t offset = address - HOST;

	seen.is_wrong |= source - DEVICE != offset;
	seen.units++;
	seen.sum += offset / UNIT;
	seen.least = offset < seen.least ? offset : seen.least;
	seen.most = offset > seen.most ? offset : seen.most;
}

static void seen_clear(void)
{
	seen.units = seen.sum = seen.most = 0;
	seen.least = UINT64_MAX;
	seen.is_wrong = false;
}

static struct kv_copy copy_of(const struct kv_fragment *fragment, uint32_t blocks, uint32_t threads)
{
	return (struct kv_copy){ .fragments = (uint64_t)fragment, .count = 1,
				 .steps = (uint32_t)kv_copy_steps(fragment->bytes),
				 .blocks = blocks, .threads = threads };
}

static void a_fragment_of_1_GiB_is_copied_whole(void **unused)
{
	const struct kv_fragment fragment = { .device = DEVICE, .host = HOST, .bytes = 1u << 30 };
	const struct kv_copy copy = copy_of(&fragment, 5, 96); /* 15 teams do not divide it */
	const uint64_t units = fragment.bytes / UNIT;

	(void)unused;
	seen_clear();
	for (uint32_t block = 0; block < copy.blocks; block++) {
		for (uint32_t thread = 0; thread < copy.threads; thread++)
			thread_copy(&copy, block, thread);
	}
	assert_false(seen.is_wrong);
	assert_int_equal(seen.units, units);
	assert_int_equal(seen.sum, units * (units - 1) / 2);
	assert_int_equal(seen.least, 0);
	assert_int_equal(seen.most, fragment.bytes - UNIT);
}

/* The longest there can be: 2^32 - 1 steps. Of its first and its last team, the outer threads. */
static void a_fragment_of_8_TiB_begins_and_ends_where_it_does(void **unused)
{
	const struct kv_fragment fragment = { .device = DEVICE, .host = HOST,
					      .bytes = ((1ull << 32) - 1) * KV_COPY_STEP_BYTES };
	const struct kv_copy copy = copy_of(&fragment, 65535, 1024);

	(void)unused;
	seen_clear();
	thread_copy(&copy, 0, 0);
	assert_int_equal(seen.least, 0);
	thread_copy(&copy, copy.blocks - 1, copy.threads - 1);
	assert_int_equal(seen.most, fragment.bytes - UNIT);
	assert_false(seen.is_wrong);
}

/* A look at any other entry leads astray, as all the others are wrong. */
static void of_equally_long_fragments_one_entry_is_looked_at(void **unused)
{
	static struct kv_fragment fragments[COUNT_MAX];

	(void)unused;
	for (uint32_t count = 2; count <= COUNT_MAX; count += 7) {
		for (uint32_t each = 1; each <= 32; each *= 2) {
			const struct kv_copy copy = { .fragments = (uint64_t)fragments,
						      .count = count, .steps = count * each };

			for (uint32_t step = 0; step < copy.steps; step++) {
				memset(fragments, 0xFF, sizeof(fragments));
				fragments[step / each].first = step / each * each;
				fragments[step / each].bytes = each * KV_COPY_STEP_BYTES - UNIT;
				assert_int_equal(fragment_find(&copy, step), step / each);
			}
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_fragment_of_1_GiB_is_copied_whole),
		cmocka_unit_test(a_fragment_of_8_TiB_begins_and_ends_where_it_does),
		cmocka_unit_test(of_equally_long_fragments_one_entry_is_looked_at),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
