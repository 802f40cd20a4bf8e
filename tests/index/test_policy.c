/* tests/index/test_policy.c: tables for usable tokens, tokens worth loading, and the write budget.
 */
#include "index/budget.h"
#include "index/usable.h"
#include "index/worth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <string.h>

/* ---- usable tokens ---- */

struct usable_row {
	const char *what;
	struct usable_group groups[2];
	unsigned groups_count;
	const char *present[2]; /* '1' there, '0' missing; '|' begins another run */
	uint32_t first[2];
	uint32_t tokens;
};

static const struct usable_row usable_rows[] = {
	{ "nothing is there", { { USABLE_FULL, 16, 0 } }, 1, { "000" }, { 0 }, 0 },
	{ "everything is there", { { USABLE_FULL, 16, 0 } }, 1, { "111" }, { 0 }, 48 },
	{ "a hole ends a full group", { { USABLE_FULL, 16, 0 } }, 1, { "1101" }, { 0 }, 32 },
	{ "runs continue each other", { { USABLE_FULL, 16, 0 } }, 1, { "11|11|01" }, { 0 }, 64 },
	{ "the engine's own blocks count", { { USABLE_FULL, 16, 0 } }, 1, { "110" }, { 5 }, 112 },
	{ "a window needs its tail alone",
	  { { USABLE_WINDOW, 16, 32 } },
	  1,
	  { "0010011" },
	  { 0 },
	  112 },
	{ "a window reaches into a block",
	  { { USABLE_WINDOW, 16, 33 } },
	  1,
	  { "1110011" },
	  { 0 },
	  48 },
	{ "a window that begins at the start",
	  { { USABLE_WINDOW, 16, 64 } },
	  1,
	  { "1100" },
	  { 0 },
	  32 },
	{ "a window below the first run",
	  { { USABLE_WINDOW, 16, 64 } },
	  1,
	  { "1000" },
	  { 9 },
	  160 },
	{ "a state is one block", { { USABLE_STATE, 16, 0 } }, 1, { "0001000" }, { 0 }, 64 },
	{ "no state", { { USABLE_STATE, 16, 0 } }, 1, { "0000" }, { 0 }, 0 },
	{ "full and state",
	  { { USABLE_FULL, 16, 0 }, { USABLE_STATE, 16, 0 } },
	  2,
	  { "111110", "100101" },
	  { 0 },
	  64 },
	{ "the full group ends before the state",
	  { { USABLE_FULL, 16, 0 }, { USABLE_STATE, 16, 0 } },
	  2,
	  { "110", "001" },
	  { 0 },
	  0 },
	{ "full and window",
	  { { USABLE_FULL, 16, 0 }, { USABLE_WINDOW, 16, 32 } },
	  2,
	  { "111111", "001101" },
	  { 0 },
	  64 },
	{ "different block sizes",
	  { { USABLE_FULL, 16, 0 }, { USABLE_FULL, 48, 0 } },
	  2,
	  { "11111", "11" },
	  { 0 },
	  48 },
	{ "sizes that meet rarely",
	  { { USABLE_FULL, 16, 0 }, { USABLE_FULL, 24, 0 } },
	  2,
	  { "11111", "111" },
	  { 0 },
	  48 },
	{ "a group without runs",
	  { { USABLE_FULL, 16, 0 }, { USABLE_FULL, 16, 0 } },
	  2,
	  { "11", "" },
	  { 0 },
	  0 },
	{ "a block of no tokens", { { USABLE_FULL, 0, 0 } }, 1, { "11" }, { 0 }, 0 },
};

static void usable_tokens_are_what_every_group_can_go_on_from(void **unused)
{
	(void)unused;
	for (unsigned row = 0; row < sizeof(usable_rows) / sizeof(usable_rows[0]); row++) {
		const struct usable_row *given = &usable_rows[row];
		struct usable_run runs[16];
		uint8_t present[2][64];
		unsigned runs_count = 0;
		for (unsigned group = 0; group < given->groups_count; group++) {
			uint32_t position = given->first[group];
			unsigned used = 0;
			for (const char *next = given->present[group]; *next != '\0';
			     next += *next == '|') {
				struct usable_run *run = &runs[runs_count++];
				*run = (struct usable_run){ .group = group,
							    .first_position = position,
							    .present = &present[group][used] };
				for (; *next == '0' || *next == '1'; next++, run->count++)
					present[group][used++] = *next == '1';
				position += run->count;
			}
		}
		uint32_t tokens = usable_tokens(given->groups, given->groups_count, runs,
						runs_count);
		if (tokens != given->tokens)
			print_error("%s: %u, not %u\n", given->what, tokens, given->tokens);
		assert_int_equal(tokens, given->tokens);
	}
}

static bool naive_is_usable(const struct usable_group *group, const uint8_t *present,
			    uint32_t count, uint32_t tokens)
{
	uint32_t first = 0, end = tokens / group->tokens_per_block;

	if (tokens % group->tokens_per_block != 0 || end > count)
		return false;
	if (group->kind == USABLE_STATE && end > 0)
		first = end - 1;
	if (group->kind == USABLE_WINDOW && tokens > group->window_tokens)
		first = (tokens - group->window_tokens) / group->tokens_per_block;
	for (uint32_t block = first; block < end; block++)
		if (!present[block])
			return false;
	return true;
}

static void usable_tokens_agree_with_trying_every_length(void **unused)
{
	uint64_t random = 7;

	(void)unused;
	for (unsigned round = 0; round < 20000; round++) {
		struct usable_group groups[3];
		struct usable_run runs[3];
		uint8_t present[3][20];
		uint32_t best = 0;
		for (unsigned i = 0; i < 3; i++) {
			random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
			groups[i] = (struct usable_group){
				.kind = (enum usable_kind)((random >> 60) % USABLE_KINDS),
				.tokens_per_block = 2u << (random >> 50) % 3,
				.window_tokens = 1 + (random >> 40) % 40
			};
			for (unsigned block = 0; block < 20; block++)
				present[i][block] = (random >> (block + 10) & 3) != 0 ||
						    round % 3 == 0;
			runs[i] = (struct usable_run){ .group = i,
						       .count = 1 + (random >> 33) % 20,
						       .present = present[i] };
		}
		for (uint32_t tokens = 0; tokens <= 160; tokens++) {
			bool is_usable = true;
			for (unsigned i = 0; i < 3; i++)
				is_usable = is_usable && naive_is_usable(&groups[i], present[i],
									 runs[i].count, tokens);
			if (is_usable)
				best = tokens;
		}
		assert_int_equal(usable_tokens(groups, 3, runs, 3), best);
	}
}

/* ---- worth ---- */

struct worth_row {
	const char *what;
	struct worth_cost cost;
	struct worth_run runs[3];
	unsigned runs_count;
	uint32_t usable, tokens;
};

/* Prices: b = 100 us a token; c = 0.1 us a token and token before it. */
static const struct worth_row worth_rows[] = {
	{ "costs not known", { 0, 0, 0 }, { { 0, 100, 0, 4000000000u } }, 1, 100, 100 },
	{ "nothing there", { 0.1, 1e-4, 0 }, { { 0 } }, 0, 0, 0 },
	{ "a fast tier", { 0, 1e-4, 0 }, { { 0, 1000, 0, 9000 } }, 1, 1000, 1000 },
	{ "a slow tier", { 0, 1e-4, 0 }, { { 1, 1000, 0, 101000 } }, 1, 1000, 0 },
	{ "a break-even is not begun", { 0, 0.5, 0 }, { { 1, 2, 0, 1000000 } }, 1, 2, 0 },
	{ "a fixed cost changes nothing", { 5, 1e-4, 0 }, { { 1, 1000, 0, 101000 } }, 1, 1000, 0 },
	{ "fast, then slow",
	  { 0, 1e-4, 0 },
	  { { 0, 1000, 0, 9000 }, { 1, 1000, 0, 150000 } },
	  2,
	  2000,
	  1000 },
	{ "slow, then fast, together worth it",
	  { 0, 1e-4, 0 },
	  { { 1, 1000, 0, 150000 }, { 0, 1000, 0, 9000 } },
	  2,
	  2000,
	  2000 },
	{ "late tokens are the dear ones",
	  { 0, 0, 1e-7 },
	  { { 1, 1000, 0, 60000 }, { 1, 1000, 0, 60000 } },
	  2,
	  2000,
	  2000 },
	{ "what the engine has makes the rest dearer",
	  { 0, 0, 1e-7 },
	  { { 1, 1000, 0, 60000 } },
	  1,
	  3000,
	  3000 },
	{ "without that it is not worth it",
	  { 0, 0, 1e-7 },
	  { { 1, 1000, 0, 60000 } },
	  1,
	  1000,
	  0 },
	{ "not worth it keeps what the engine has",
	  { 0, 1e-6, 0 },
	  { { 1, 1000, 0, 60000 } },
	  1,
	  3000,
	  2000 },
	{ "a fit gone wrong", { 0, -1e-4, 0 }, { { 0, 1000, 0, 1 } }, 1, 1000, 0 },
};

static void only_what_loads_quicker_than_it_computes_is_worth_it(void **unused)
{
	(void)unused;
	for (unsigned row = 0; row < sizeof(worth_rows) / sizeof(worth_rows[0]); row++) {
		const struct worth_row *given = &worth_rows[row];
		uint32_t tokens = worth_tokens(&given->cost, given->runs, given->runs_count,
					       given->usable);
		if (tokens != given->tokens)
			print_error("%s: %u, not %u\n", given->what, tokens, given->tokens);
		assert_int_equal(tokens, given->tokens);
	}
}

static void a_restore_takes_latency_queue_and_bytes(void **unused)
{
	(void)unused;
	assert_int_equal(worth_restore_us(1000000, 80, 1000, 0), 1080);
	assert_int_equal(worth_restore_us(1000000, 80, 1000, 500000), 1580);
	assert_int_equal(worth_restore_us(1, 0, 0, 0), UINT32_MAX);
	assert_int_equal(worth_restore_us(0, 0, 0, 0), UINT32_MAX);
	assert_int_equal(worth_restore_us(UINT64_MAX, 0, 1, 0), UINT32_MAX);
}

/* ---- budget ---- */

#define HOUR_US (UINT64_C(3600) * 1000000)

static void a_budget_allows_an_hours_worth_at_once_and_no_more(void **unused)
{
	struct budget budget;

	(void)unused;
	budget_init(&budget, 2400, 1000);
	assert_true(budget_allows(&budget, 1000, 100));
	budget_spend(&budget, 1000, 100);
	assert_false(budget_allows(&budget, 1000, 1));
	assert_true(budget_allows(&budget, 1000 + HOUR_US / 2, 50));
	assert_false(budget_allows(&budget, 1000 + HOUR_US / 2, 51));
	/* A week of rest saves up no more than an hour's worth. */
	assert_true(budget_allows(&budget, 1000 + 168 * HOUR_US, 100));
	budget_spend(&budget, 1000 + 168 * HOUR_US, 100);
	assert_false(budget_allows(&budget, 1000 + 168 * HOUR_US, 1));
	/* Time that goes back changes nothing. */
	assert_false(budget_allows(&budget, 5, 1));
}

static void a_write_above_an_hours_worth_is_paid_for_afterwards(void **unused)
{
	struct budget budget;

	(void)unused;
	budget_init(&budget, 2400, 0);
	assert_true(budget_allows(&budget, 0, 1000));
	budget_spend(&budget, 0, 1000);
	assert_false(budget_allows(&budget, 9 * HOUR_US, 1));
	assert_true(budget_allows(&budget, 10 * HOUR_US, 100));
}

static void small_steps_lose_nothing(void **unused)
{
	struct budget budget;
	uint64_t spent = 0;

	(void)unused;
	budget_init(&budget, 86400, 0);
	for (uint64_t now_us = 0; now_us < 86400ull * 1000000; now_us += 700001)
		if (budget_allows(&budget, now_us, 1)) {
			budget_spend(&budget, now_us, 1);
			spent++;
		}
	assert_in_range(spent, 86398, 86400 + 3600);
}

static void no_limit_and_huge_numbers_hold(void **unused)
{
	struct budget budget;

	(void)unused;
	budget_init(&budget, 0, 0);
	budget_spend(&budget, 0, UINT64_MAX);
	assert_true(budget_allows(&budget, 0, UINT64_MAX));
	budget_init(&budget, UINT64_MAX, 0);
	for (unsigned i = 0; i < 9; i++)
		budget_spend(&budget, i, UINT64_MAX);
	assert_false(budget_allows(&budget, 9, 1));
	assert_true(budget_allows(&budget, UINT64_MAX, 1));
}

static void a_new_limit_brings_no_new_credit(void **unused)
{
	struct budget budget;

	(void)unused;
	budget_init(&budget, 2400, 0); /* 100 at once */
	budget_spend(&budget, 0, 90);
	budget_limit_set(&budget, 24000, 0);
	assert_false(budget_allows(&budget, 0, 11));
	assert_true(budget_allows(&budget, 0, 10));
	budget_limit_set(&budget, 24, 0); /* 1 at once: what was left is cut */
	assert_true(budget_allows(&budget, 0, 1));
	budget_spend(&budget, 0, 1);
	assert_false(budget_allows(&budget, 0, 1));
	budget_limit_set(&budget, 0, 0);
	assert_true(budget_allows(&budget, 0, 1000000));
	budget_limit_set(&budget, 2400, 0); /* there was no limit: as at a start */
	assert_true(budget_allows(&budget, 0, 100));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(usable_tokens_are_what_every_group_can_go_on_from),
		cmocka_unit_test(usable_tokens_agree_with_trying_every_length),
		cmocka_unit_test(only_what_loads_quicker_than_it_computes_is_worth_it),
		cmocka_unit_test(a_restore_takes_latency_queue_and_bytes),
		cmocka_unit_test(a_budget_allows_an_hours_worth_at_once_and_no_more),
		cmocka_unit_test(a_write_above_an_hours_worth_is_paid_for_afterwards),
		cmocka_unit_test(small_steps_lose_nothing),
		cmocka_unit_test(no_limit_and_huge_numbers_hold),
		cmocka_unit_test(a_new_limit_brings_no_new_credit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
