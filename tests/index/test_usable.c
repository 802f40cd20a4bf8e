/* tests/index/test_usable.c: usable tokens of groups whose blocks differ in size: every group can
 * go on from there, and nobody needs to round. */
#include "index/usable.h"

#include "base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include <cmocka.h>

#define GROUPS_MAX 4u
#define BLOCKS_MAX 24u
#define ROUNDS 20000u

/* A request: for each group the blocks from `base` on, in two runs; those before are the
 * engine's. */
struct request {
	unsigned groups_count;
	struct usable_group groups[GROUPS_MAX];
	uint32_t base[GROUPS_MAX], count[GROUPS_MAX];
	uint8_t present[GROUPS_MAX][BLOCKS_MAX];
	struct usable_run runs[2 * GROUPS_MAX];
};

static void request_make(struct request *request, struct random *random)
{
	uint32_t holes_in = 1 + (uint32_t)(random_next(random) % 8);

	request->groups_count = 1 + (unsigned)(random_next(random) % GROUPS_MAX);
	for (unsigned g = 0; g < request->groups_count; g++) {
		uint32_t base = random_next(random) % 4 == 0 ? random_next(random) % 6 : 0;
		uint32_t count = 1 + (uint32_t)(random_next(random) % BLOCKS_MAX);
		uint32_t first = (uint32_t)(random_next(random) % (count + 1));

		request->groups[g] = (struct usable_group){
			.kind = (enum usable_kind)(random_next(random) % USABLE_KINDS),
			.tokens_per_block = 1 + (uint32_t)(random_next(random) % 6),
			.window_tokens = (uint32_t)(random_next(random) % 30),
		};
		request->base[g] = base;
		request->count[g] = count;
		for (unsigned block = 0; block < count; block++)
			request->present[g][block] = random_next(random) % holes_in != 1;
		request->runs[2 * g] = (struct usable_run){ g, base + first, count - first,
							    request->present[g] + first };
		request->runs[2 * g + 1] = (struct usable_run){ g, base, first,
								request->present[g] };
	}
}

static bool block_is_there(const struct request *request, unsigned g, uint32_t block)
{
	uint32_t base = request->base[g];

	return block < base ||
	       (block - base < request->count[g] && request->present[g][block - base] != 0);
}

/* Said in words, and slowly: every block that holds a token which the group still looks at. */
static bool is_usable(const struct request *request, uint32_t tokens)
{
	for (unsigned g = 0; g < request->groups_count; g++) {
		const struct usable_group *group = &request->groups[g];
		uint32_t size = group->tokens_per_block;

		if (tokens % size != 0 || tokens / size > request->base[g] + request->count[g])
			return false;
		for (uint32_t token = 0; token < tokens; token++) {
			bool is_looked_at = group->kind == USABLE_FULL ||
					    (group->kind == USABLE_WINDOW &&
					     token + group->window_tokens >= tokens) ||
					    (group->kind == USABLE_STATE &&
					     token / size == tokens / size - 1);

			if (is_looked_at && !block_is_there(request, g, token / size))
				return false;
		}
	}
	return true;
}

static void of_any_sizes_the_most_that_every_group_can_go_on_from_is_found(void **unused)
{
	struct random random;
	unsigned found = 0;

	(void)unused;
	random_init(&random, 20);
	for (unsigned round = 0; round < ROUNDS; round++) {
		struct request request;
		uint32_t best = 0, best_within = 0, limit, said;

		request_make(&request, &random);
		limit = (uint32_t)(random_next(&random) % 180);
		for (uint32_t tokens = 0; tokens <= 6 * (BLOCKS_MAX + 6); tokens++) {
			if (!is_usable(&request, tokens))
				continue;
			best = tokens;
			best_within = tokens <= limit ? tokens : best_within;
		}
		said = usable_tokens(request.groups, request.groups_count, request.runs,
				     2 * request.groups_count);
		assert_int_equal(said, best);
		for (unsigned g = 0; g < request.groups_count; g++)
			assert_int_equal(said % request.groups[g].tokens_per_block, 0);
		assert_int_equal(usable_tokens_within(request.groups, request.groups_count,
						      request.runs, 2 * request.groups_count,
						      limit),
				 best_within);
		found += best_within > 0 && best_within < best;
	}
	assert_true(found > ROUNDS / 100);   /* the limit was of some use */
}

static void a_smaller_multiple_may_have_no_window(void **unused)
{
	const uint8_t full[] = { 1, 1, 1, 1, 1, 1 }, window[] = { 0, 1, 0, 0, 1, 1 };
	const struct usable_group groups[] = { { USABLE_FULL, 16, 0 }, { USABLE_WINDOW, 16, 16 } };
	const struct usable_run runs[] = { { 0, 0, 6, full }, { 1, 0, 6, window } };

	(void)unused;
	assert_int_equal(usable_tokens(groups, 2, runs, 2), 96);
	assert_int_equal(usable_tokens_within(groups, 2, runs, 2, 95), 80);
	assert_int_equal(usable_tokens_within(groups, 2, runs, 2, 64), 32);
	assert_int_equal(usable_tokens_within(groups, 2, runs, 2, 31), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(of_any_sizes_the_most_that_every_group_can_go_on_from_is_found),
		cmocka_unit_test(a_smaller_multiple_may_have_no_window),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
