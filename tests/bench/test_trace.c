/* tests/bench/test_trace.c: traces in memory: names of blocks, re-blocking, order, outputs,
 * refusals. */
#include "bench/trace.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static int read_text(struct trace *trace, const char *text, uint32_t block_tokens,
		     struct error *error)
{
	struct trace_options options;

	trace_options_default(&options);
	options.block_tokens = block_tokens;
	return trace_read_memory(trace, text, strlen(text), "t", &options, error);
}

static void read_good(struct trace *trace, const char *text, uint32_t block_tokens)
{
	struct error error = { 0 };

	if (read_text(trace, text, block_tokens, &error) < 0)
		fail_msg("%s", error.text);
}

static void assert_blocks(const struct trace *trace, uint32_t request, uint32_t count,
			  const uint32_t *expected)
{
	assert_int_equal(trace->requests[request].blocks_count, count);
	assert_memory_equal(trace_blocks(trace, &trace->requests[request]), expected,
			    count * sizeof(*expected));
}

#define CHAT(ids, tokens)                                                                          \
	"{\"timestamp\": 0, \"input_length\": " #tokens                                            \
	", \"output_length\": 6, \"hash_ids\": " ids ", \"chat_id\": 5}\n"

static void equal_ids_under_different_parents_are_different_blocks(void **unused)
{
	struct trace trace;

	(void)unused;
	read_good(&trace, CHAT("[1, 2]", 8) CHAT("[3, 2]", 8) CHAT("[1, 2]", 8), 4);
	assert_blocks(&trace, 0, 2, (uint32_t[]){ 0, 1 });
	assert_blocks(&trace, 1, 2, (uint32_t[]){ 2, 3 });
	assert_blocks(&trace, 2, 2, (uint32_t[]){ 0, 1 });
	assert_int_equal(trace.unique_blocks, 4);
	assert_true(trace.identities[1] != trace.identities[3]);
	trace_finish(&trace);
}

static void one_id_all_the_way_down_is_a_block_at_each_depth(void **unused)
{
	enum { DEPTH = 5000 };
	static char text[DEPTH * 3 + 200];
	struct trace trace;

	(void)unused;
	int end = snprintf(text, sizeof(text),
			   "{\"timestamp\": 0, \"input_length\": %d, \"hash_ids\": [0", DEPTH * 4);
	for (int i = 1; i < DEPTH; i++, end += 2)
		memcpy(text + end, ",0", 3);
	memcpy(text + end, "]}", 3);
	read_good(&trace, text, 4);
	assert_int_equal(trace.unique_blocks, DEPTH);
	trace_finish(&trace);
}

static void identities_do_not_depend_on_the_rest_of_the_trace(void **unused)
{
	struct trace one, other;

	(void)unused;
	read_good(&one, CHAT("[1, 2]", 8), 4);
	read_good(&other, CHAT("[9, 9, 9]", 12) CHAT("[1, 2]", 8), 4);
	assert_int_equal(one.identities[1], other.identities[4]);
	trace_finish(&one);
	trace_finish(&other);
}

static void the_block_of_a_trace_is_found_from_its_lengths(void **unused)
{
	struct trace trace;

	(void)unused;
	read_good(&trace, CHAT("[1, 2, 3]", 1100) CHAT("[1]", 512), 0);
	assert_int_equal(trace.block_tokens, 512);
	trace_finish(&trace);
}

static void reblocking_names_whole_prefixes_and_drops_a_remainder(void **unused)
{
	struct trace trace;

	(void)unused;
	read_good(&trace, CHAT("[1, 2, 3, 4]", 16) CHAT("[1, 9, 3, 4, 5]", 20) CHAT("[1, 2]", 8),
		  8);
	assert_int_equal(trace.source_block_tokens, 4);
	assert_blocks(&trace, 0, 2, (uint32_t[]){ 0, 1 });
	assert_blocks(&trace, 1, 2, (uint32_t[]){ 2, 3 });
	assert_blocks(&trace, 2, 1, (uint32_t[]){ 0 });
	trace_finish(&trace);
}

static void a_partial_last_block_counts_its_own_tokens_only(void **unused)
{
	struct trace trace;

	(void)unused;
	read_good(&trace, CHAT("[1, 2, 3]", 10), 4);
	assert_int_equal(trace_hit_tokens(&trace, &trace.requests[0], 2), 8);
	assert_int_equal(trace_hit_tokens(&trace, &trace.requests[0], 3), 10);
	trace_finish(&trace);
}

static void outputs_are_the_next_turns_blocks_as_far_as_they_reach(void **unused)
{
	struct trace trace;
	struct error error;

	(void)unused;
	/* 9 + 6 tokens: blocks 0 and 1 are full, the third is reached by the output, the fourth is
	 * not. */
	read_good(&trace, CHAT("[1, 2, 7]", 9) CHAT("[1, 2, 3, 4]", 16), 4);
	assert_int_equal(trace_credit_output(&trace, &error), 0);
	const struct trace_request *first = &trace.requests[0];
	assert_int_equal(first->blocks_count, 2);
	assert_int_equal(first->output_blocks_count, 1);
	assert_int_equal(trace_blocks(&trace, first)[2],
			 trace_blocks(&trace, &trace.requests[1])[2]);
	/* Nobody goes on from the second: its output's block is one that nobody else has. */
	const struct trace_request *second = &trace.requests[1];
	assert_int_equal(second->output_blocks_count, 1);
	assert_int_equal(trace_blocks(&trace, second)[4], trace.unique_blocks - 1);
	trace_finish(&trace);
}

#define SESSION(requests) "{\"block_size\": 4, \"requests\": [" requests "]}\n"
#define TURN(t, runs) "{\"t\": " #t ", \"in\": 8, \"hash_runs\": " runs "}"
#define SUBAGENT(t, requests)                                                                      \
	"{\"type\": \"subagent\", \"t\": " #t ", \"requests\": [" requests "]}"

static void sub_agents_times_may_count_from_their_start_or_the_sessions(void **unused)
{
	struct trace trace;
	struct trace_options options;
	struct error error = { 0 };
	const char *texts[] = {
		SESSION(TURN(0, "[[1, 2]]") "," SUBAGENT(
			10, TURN(0, "[[7, 2]]") "," TURN(3, "[[7, 2]]"))),
		SESSION(TURN(0, "[[1, 2]]") "," SUBAGENT(
			10, TURN(10, "[[7, 2]]") "," TURN(13, "[[7, 2]]"))),
	};

	(void)unused;
	trace_options_default(&options);
	options.users = 1;
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(trace_read_memory(&trace, texts[i], strlen(texts[i]), "t",
						   &options, &error),
				 0);
		assert_int_equal(trace.requests_count, 3);
		assert_int_equal(trace.requests[1].arrival_us - trace.requests[0].arrival_us,
				 10000000);
		assert_int_equal(trace.requests[2].arrival_us - trace.requests[1].arrival_us,
				 3000000);
		trace_finish(&trace);
	}
}

static void sessions_lie_on_user_slots_with_capped_gaps(void **unused)
{
	struct trace trace;
	struct trace_options options;
	struct error error = { 0 };
	const char *text = SESSION(TURN(0, "[[1, 2]]") "," TURN(9000, "[[1, 2]]"))
		SESSION(TURN(5, "[[1, 2]]") "," TURN(6, "[[1, 2]]"));

	(void)unused;
	trace_options_default(&options);
	options.users = 1;
	assert_int_equal(trace_read_memory(&trace, text, strlen(text), "t", &options, &error), 0);
	uint64_t long_us = 0;
	for (uint32_t i = 1; i < 4; i++) {
		uint64_t gap_us = trace.requests[i].arrival_us - trace.requests[i - 1].arrival_us;
		long_us = gap_us > long_us ? gap_us : long_us;
	}
	assert_int_equal(long_us, options.gap_us_max);
	/* One user: the sessions do not overlap. */
	assert_int_equal(trace.requests[0].session, trace.requests[1].session);
	assert_int_equal(trace.requests[2].session, trace.requests[3].session);
	trace_finish(&trace);
}

static void limits_are_refused_and_nothing_is_left(void **unused)
{
	struct trace trace;
	struct trace_options options;
	struct error error = { 0 };
	const char *text = CHAT("[1, 2, 3]", 12);

	(void)unused;
	trace_options_default(&options);
	options.accesses_max = 2;
	assert_int_equal(trace_read_memory(&trace, text, strlen(text), "t", &options, &error),
			 -EINVAL);
	assert_non_null(strstr(error.text, "t:1: more than 2 block accesses"));
	options.accesses_max = 0;
	options.nodes_max = 1;
	assert_int_equal(trace_read_memory(&trace, text, strlen(text), "t", &options, &error),
			 -EINVAL);
	assert_non_null(strstr(error.text, "more than 1 distinct blocks"));
}

static void a_refusal_says_the_line_and_what_would_be_right(void **unused)
{
	static const struct {
		const char *text, *words;
	} cases[] = {
		{ CHAT("[1]", 4) "{\"timestamp\": -1, \"input_length\": 4, \"hash_ids\": [1]}",
		  "t:2: " },
		{ "{\"timestamp\": 01, \"input_length\": 4, \"hash_ids\": [1]}",
		  "not a JSON number" },
		{ "{\"timestamp\": 1 \"input_length\": 4, \"hash_ids\": [1]}", "',' or '}'" },
		{ "{\"timestamp\": 1, \"input_length\": 4.5, \"hash_ids\": [1]}", "whole number" },
		{ "{\"timestamp\": 1, \"input_length\": 99999999, \"hash_ids\": [1]}",
		  "0 to 16777216" },
		{ "{\"hash_ids\": [1], \"hash_ids\": [1]}", "twice" },
		{ "{\"timestamp\": 1, \"input_length\": 4, \"hash_ids\": [1,]}", "number" },
		{ "{\"timestamp\": 1, \"input_length\": 4, \"hash_ids\": [1]", "',' or '}'" },
		{ "{\"a\": \"\\x\", \"hash_ids\": [1]}", "backslash" },
		{ "{\"a\": \"\n\", \"hash_ids\": [1]}", "end of a string" },
		{ "{\"a\": tru, \"hash_ids\": [1]}", "true" },
		{ SESSION("{\"in\": 8, \"hash_ids\": [1]}"), "without \"t\"" },
		{ SESSION("{\"t\": 8, \"hash_ids\": [1]}"), "without \"in\"" },
		{ SESSION("{\"t\": 8, \"in\": 4}"), "hash_runs" },
		{ SESSION(TURN(0, "[[1]]")), "[start, length]" },
		{ SESSION(TURN(0, "[[1, 2, 3]]")), "more than two" },
		{ SESSION(TURN(0, "[[1, 7]]")), "7 ids for 8 tokens" },
		{ "{\"requests\": []}", "block_size" },
		{ SESSION("") "{\"block_size\": 2, \"requests\": []}", "expected one size" },
	};
	struct trace trace;
	struct error error;

	(void)unused;
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (read_text(&trace, cases[i].text, 4, &error) == 0)
			fail_msg("taken: %s", cases[i].text);
		if (strstr(error.text, cases[i].words) == NULL)
			fail_msg("\"%s\" lacks \"%s\"", error.text, cases[i].words);
		assert_int_equal(strncmp(error.text, "t:", 2), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_ids_under_different_parents_are_different_blocks),
		cmocka_unit_test(one_id_all_the_way_down_is_a_block_at_each_depth),
		cmocka_unit_test(identities_do_not_depend_on_the_rest_of_the_trace),
		cmocka_unit_test(the_block_of_a_trace_is_found_from_its_lengths),
		cmocka_unit_test(reblocking_names_whole_prefixes_and_drops_a_remainder),
		cmocka_unit_test(a_partial_last_block_counts_its_own_tokens_only),
		cmocka_unit_test(outputs_are_the_next_turns_blocks_as_far_as_they_reach),
		cmocka_unit_test(sub_agents_times_may_count_from_their_start_or_the_sessions),
		cmocka_unit_test(sessions_lie_on_user_slots_with_capped_gaps),
		cmocka_unit_test(limits_are_refused_and_nothing_is_left),
		cmocka_unit_test(a_refusal_says_the_line_and_what_would_be_right),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
