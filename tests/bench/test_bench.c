/* tests/bench/test_bench.c: payloads, options, measures. */
#include "bench/measures.h"
#include "bench/options.h"
#include "bench/payload.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#define BYTES 4096u

static void a_payload_is_right_at_its_own_place_only(void **unused)
{
	uint8_t memory[BYTES];

	(void)unused;
	payload_fill(memory, BYTES, 7, 1, 128);
	assert_true(payload_is_right(memory, BYTES, 7, 1, 128));
	assert_true(payload_is_right(memory + 64, BYTES - 64, 7, 1, 192));
	assert_false(payload_is_right(memory, BYTES, 8, 1, 128));
	assert_false(payload_is_right(memory, BYTES, 7, 0, 128));
	assert_false(payload_is_right(memory, BYTES, 7, 1, 0));
}

static void each_single_wrong_bit_is_seen(void **unused)
{
	uint8_t memory[BYTES];

	(void)unused;
	payload_fill(memory, BYTES, 7, 0, 0);
	for (unsigned bit = 0; bit < BYTES * 8; bit += 37) {
		memory[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_false(payload_is_right(memory, BYTES, 7, 0, 0));
		memory[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_true(payload_is_right(memory, BYTES, 7, 0, 0));
}

static void hashes_of_different_identities_differ(void **unused)
{
	uint8_t one[PAYLOAD_HASH_BYTES], other[PAYLOAD_HASH_BYTES];

	(void)unused;
	payload_hash(1, one);
	payload_hash(2, other);
	assert_memory_not_equal(one, other, sizeof(one));
	payload_hash(1, other);
	assert_memory_equal(one, other, sizeof(one));
}

struct sample {
	bool flag;
	uint64_t count, bytes;
	double number;
	const char *text;
};

static const struct option_row rows[] = {
	{ "flag", OPTION_FLAG, NULL, "a flag", offsetof(struct sample, flag), 0, 0, false },
	{ "count", OPTION_COUNT, "N", "a count", offsetof(struct sample, count), 1, 9, false },
	{ "block-bytes", OPTION_BYTES, "SIZE", "a size", offsetof(struct sample, bytes), 0, 0,
	  false },
	{ "number", OPTION_NUMBER, "X", "a number", offsetof(struct sample, number), 0, 0, false },
	{ "text", OPTION_TEXT, "TEXT", "a text", offsetof(struct sample, text), 0, 0, true },
};
static const struct options table = { "sample", "a sample", rows, 5 };

static int parse(struct sample *sample, struct error *error, int argc, ...)
{
	char *argv[8];
	va_list arguments;

	va_start(arguments, argc);
	for (int i = 0; i < argc; i++)
		argv[i] = va_arg(arguments, char *);
	va_end(arguments);
	memset(sample, 0, sizeof(*sample));
	return options_parse(&table, sample, argc, argv, error);
}

static void options_are_set_by_their_kind(void **unused)
{
	struct sample sample;
	struct error error;

	(void)unused;
	assert_int_equal(parse(&sample, &error, 7, "--flag", "--count", "9", "--block-bytes=1.5KiB",
			       "--number=0.5", "--text", "x"),
			 0);
	assert_true(sample.flag);
	assert_int_equal(sample.count, 9);
	assert_int_equal(sample.bytes, 1536);
	assert_true(sample.number == 0.5);
	assert_string_equal(sample.text, "x");
}

static void refused_options_say_what_would_be_right(void **unused)
{
	static const struct {
		const char *argument, *words;
	} cases[] = {
		{ "--cuont=3", "did you mean --count?" }, { "--count=10", "1 to 9" },
		{ "--count=x", "whole number" },          { "--count", "needs a value" },
		{ "--flag=1", "takes no value" },         { "--block-bytes=3KB", "2MiB" },
		{ "--number=nan", "a number" },           { "word", "options only" },
		{ "--flag", "needs --text TEXT" },
	};
	struct sample sample;
	struct error error;

	(void)unused;
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(parse(&sample, &error, 1, cases[i].argument), -EINVAL);
		if (strstr(error.text, cases[i].words) == NULL)
			fail_msg("\"%s\" lacks \"%s\"", error.text, cases[i].words);
	}
}

static void pairs_give_the_median_of_their_ratios(void **unused)
{
	struct measure_pairs pairs = { 0 };
	struct measures measures;

	(void)unused;
	/* The machine grows slower; each pair's ratio is 0.8 but for one outlier. */
	for (unsigned i = 0; i < MEASURE_PAIRS_MIN; i++)
		measure_pairs_add(&pairs, 80.0 / (i + 1), 100.0 / (i + 1));
	pairs.ours[3] = 1;
	measures_init(&measures, "sample");
	const struct measure *measure = measures_add_pairs(&measures, "copy", &pairs, "GB/s",
							   MEASURE_HIGHER);
	assert_true(fabs(measure->ratio - 0.8) < 1e-9);
	assert_true(fabs(measure->spread_low - 0.8) < 1e-9 &&
		    fabs(measure->spread_high - 0.8) < 1e-9);
	assert_int_equal(measure->samples, MEASURE_PAIRS_MIN);
	assert_true(isnan(measure->goal));
}

static void quantiles_lie_between_samples(void **unused)
{
	double samples[] = { 4, 1, 3, 2 };

	(void)unused;
	assert_true(measure_median(samples, 4) == 2.5);
	assert_true(measure_quantile(samples, 4, 0) == 1 && measure_quantile(samples, 4, 1) == 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_payload_is_right_at_its_own_place_only),
		cmocka_unit_test(each_single_wrong_bit_is_seen),
		cmocka_unit_test(hashes_of_different_identities_differ),
		cmocka_unit_test(options_are_set_by_their_kind),
		cmocka_unit_test(refused_options_say_what_would_be_right),
		cmocka_unit_test(pairs_give_the_median_of_their_ratios),
		cmocka_unit_test(quantiles_lie_between_samples),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
