/* tests/base/test_checksum.c: every way of CRC32C against known values, a slow one, and each other.
 */
#include "base/checksum.h"
#include "base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#if defined(__has_include)
#if __has_include(<isa-l/crc.h>) && defined(KVTIER_TEST_ISAL)
#include <isa-l/crc.h>
#define HAVE_ISAL 1
#endif
#endif
#ifndef HAVE_ISAL
#define HAVE_ISAL 0
#endif

#define SHORT_BYTES_MAX 300
#define LONG_BYTES (4u << 20)

static const char *const way_names[] = { "avx512-vpclmulqdq", "sse4.2-3way", "arm64-crc", "table" };

/* Runs `check` once for each way that this CPU has. */
static void for_each_way(void (*check)(void))
{
	const char *before = crc32c_way();
	unsigned ways_count = 0;

	for (size_t i = 0; i < sizeof(way_names) / sizeof(way_names[0]); i++) {
		if (!crc32c_way_set(way_names[i]))
			continue;
		assert_string_equal(crc32c_way(), way_names[i]);
		check();
		ways_count++;
	}
	assert_true(ways_count >= 1);
	assert_true(crc32c_way_set(before));
}

/* From the definition: bit by bit. */
static uint32_t crc_by_bits(const uint8_t *memory, size_t bytes)
{
	uint32_t crc = ~0u;

	while (bytes-- > 0) {
		crc ^= *memory++;
		for (unsigned bit = 0; bit < 8; bit++)
			crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78u : 0);
	}
	return ~crc;
}

static uint8_t *random_memory(size_t bytes, uint64_t seed)
{
	uint8_t *memory = malloc(bytes);
	struct random random;

	assert_non_null(memory);
	random_init(&random, seed);
	for (size_t i = 0; i < bytes; i++)
		memory[i] = (uint8_t)random_next(&random);
	return memory;
}

static void check_known(void)
{
	uint8_t memory[32];

	assert_int_equal(crc32c("123456789", 9), 0xE3069283u);
	assert_int_equal(crc32c("", 0), 0);
	assert_int_equal(crc32c(NULL, 0), 0);
	assert_int_equal(crc32c("a", 1), 0xC1D04330u);
	memset(memory, 0, sizeof(memory));
	assert_int_equal(crc32c(memory, 32), 0x8A9136AAu);
	memset(memory, 0xff, sizeof(memory));
	assert_int_equal(crc32c(memory, 32), 0x62A8AB43u);
	for (uint8_t i = 0; i < 32; i++)
		memory[i] = i;
	assert_int_equal(crc32c(memory, 32), 0x46DD794Eu);
	for (uint8_t i = 0; i < 32; i++)
		memory[i] = (uint8_t)(31 - i);
	assert_int_equal(crc32c(memory, 32), 0x113FDB5Cu);
}

static void known_values_come_out(void **unused)
{
	(void)unused;
	for_each_way(check_known);
}

static void check_short(void)
{
	uint8_t *memory = random_memory(SHORT_BYTES_MAX + 64, 1);

	for (size_t start = 0; start < 64; start++) {
		for (size_t bytes = 0; bytes <= SHORT_BYTES_MAX; bytes++)
			assert_int_equal(crc32c(memory + start, bytes),
					 crc_by_bits(memory + start, bytes));
	}
	free(memory);
}

static void every_short_length_at_every_alignment_is_right(void **unused)
{
	(void)unused;
	for_each_way(check_short);
}

static void check_long(void)
{
	uint8_t *memory = random_memory(LONG_BYTES + 64, 2);
	struct random random;

	random_init(&random, 3);
	assert_int_equal(crc32c(memory, LONG_BYTES), crc_by_bits(memory, LONG_BYTES));
	for (unsigned i = 0; i < 200; i++) {
		size_t start = random_below(&random, 64);
		size_t bytes = random_below(&random, 1u << (4 + i % 14));

		assert_int_equal(crc32c(memory + start, bytes), crc_by_bits(memory + start, bytes));
	}
	free(memory);
}

static void long_random_bytes_are_right(void **unused)
{
	(void)unused;
	for_each_way(check_long);
}

static void check_parts(void)
{
	uint8_t *memory = random_memory(LONG_BYTES, 4);
	uint32_t whole = crc32c(memory, LONG_BYTES);
	struct random random;

	random_init(&random, 5);
	for (unsigned i = 0; i < 100; i++) {
		size_t done = 0;
		uint32_t crc = 0;

		while (done < LONG_BYTES) {
			size_t bytes = random_below(&random, LONG_BYTES / 4);

			bytes = bytes < LONG_BYTES - done ? bytes : LONG_BYTES - done;
			crc = crc32c_more(crc, memory + done, bytes);
			done += bytes;
		}
		assert_int_equal(crc, whole);
	}
	for (size_t cut = 0; cut <= 600; cut++)
		assert_int_equal(crc32c_more(crc32c(memory, cut), memory + cut, 600 - cut),
				 crc32c(memory, 600));
	free(memory);
}

static void parts_add_up_to_the_whole_wherever_it_is_cut(void **unused)
{
	(void)unused;
	for_each_way(check_parts);
}

static void check_one_bit(void)
{
	uint8_t *memory = random_memory(3000, 6);
	uint32_t right = crc32c(memory, 3000);

	for (size_t bit = 0; bit < 3000 * 8; bit++) {
		memory[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		assert_int_not_equal(crc32c(memory, 3000), right);
		memory[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
	free(memory);
}

static void every_flipped_bit_shows(void **unused)
{
	(void)unused;
	for_each_way(check_one_bit);
}

static uint8_t *fenced;
static size_t page_bytes;

static void check_fences(void)
{
	for (size_t bytes = 0; bytes <= page_bytes; bytes++) {
		assert_int_equal(crc32c(fenced + page_bytes - bytes, bytes),
				 crc32c_more(0, fenced + page_bytes - bytes, bytes));
		(void)crc32c(fenced, bytes);
	}
}

static void nothing_outside_the_memory_is_read(void **unused)
{
	uint8_t *pages;

	(void)unused;
	page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	pages = mmap(NULL, 3 * page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(pages, MAP_FAILED);
	fenced = pages + page_bytes;
	assert_int_equal(mprotect(fenced, page_bytes, PROT_READ | PROT_WRITE), 0);
	memset(fenced, 0x5a, page_bytes);
	for_each_way(check_fences);
	munmap(pages, 3 * page_bytes);
}

#if HAVE_ISAL
static void check_isal(void)
{
	uint8_t *memory = random_memory(LONG_BYTES, 7);

	for (size_t bytes = 1; bytes < LONG_BYTES; bytes += bytes / 7 + 1)
		assert_int_equal(crc32c(memory, bytes), ~crc32_iscsi(memory, (int)bytes, ~0u));
	free(memory);
}
#endif

static void isal_gives_the_same(void **unused)
{
	(void)unused;
#if HAVE_ISAL
	for_each_way(check_isal);
#else
	print_message("built without -DKVTIER_TEST_ISAL: not compared with isa-l\n");
	skip();
#endif
}

/* The environment is read by the first call, so this runs this program again. */
static void assert_bound_chooses(const char *bound, const char *way_name)
{
	int status;
	pid_t child = fork();

	assert_true(child >= 0);
	if (child == 0) {
		setenv("KVTIER_CPU", bound, 1);
		execl("/proc/self/exe", "test_checksum", "--print-way", way_name, (char *)NULL);
		_exit(99);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

static void the_environment_bounds_the_choice(void **unused)
{
	const char *before = crc32c_way();

	(void)unused;
	assert_false(crc32c_way_set("no-such-way"));
	assert_bound_chooses("baseline", "table");
	if (crc32c_way_set("sse4.2-3way"))
		assert_bound_chooses("sse4.2", "sse4.2-3way");
	if (crc32c_way_set("avx512-vpclmulqdq"))
		assert_bound_chooses("avx512", "avx512-vpclmulqdq");
	assert_true(crc32c_way_set(before));
}

int main(int arguments_count, char **arguments)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(known_values_come_out),
		cmocka_unit_test(every_short_length_at_every_alignment_is_right),
		cmocka_unit_test(long_random_bytes_are_right),
		cmocka_unit_test(parts_add_up_to_the_whole_wherever_it_is_cut),
		cmocka_unit_test(every_flipped_bit_shows),
		cmocka_unit_test(nothing_outside_the_memory_is_read),
		cmocka_unit_test(isal_gives_the_same),
		cmocka_unit_test(the_environment_bounds_the_choice),
	};

	if (arguments_count == 3 && strcmp(arguments[1], "--print-way") == 0)
		return strcmp(crc32c_way(), arguments[2]) == 0 ? 0 : 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
