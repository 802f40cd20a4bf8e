/* tests/cluster/test_plan.c: the quickest way to a first token, beside every way there is. */
#include "cluster/plan.h"

#include "base/random.h"

#include <math.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define BLOCK 16u

/* 8B parameters on one GPU, about. */
static struct plan_pod pod_make(void)
{
	return (struct plan_pod){
		.cost = { .a = 0.005, .b = 4e-5, .c = 2e-9 },
		.token_bytes = 131072,
		.cpu = { .latency_us = 200, .bytes_us = 20000 },
		.nvme = { .latency_us = 1000, .bytes_us = 5000 },
		.peer = { .latency_us = 2000, .bytes_us = 10000 },
	};
}

static struct route_match match_make(uint32_t hbm, uint32_t cpu, uint32_t nvme)
{
	return (struct route_match){ .blocks = hbm + cpu + nvme,
				     .tier_blocks = { hbm, cpu, nvme } };
}

static void assert_near(double found, double wanted)
{
	assert_true(fabs(found - wanted) <= 1e-9 + 1e-9 * fabs(wanted));
}

static void all_is_computed_where_nothing_is(void **unused)
{
	const struct plan_pod pod = pod_make();
	const struct plan_prompt prompt = { .tokens = 1000, .block_tokens = BLOCK };
	const struct route_match match = match_make(0, 0, 0);
	struct plan plan;

	(void)unused;
	plan_make(&pod, &prompt, &match, &plan);
	assert_int_equal(plan.tokens[PLAN_COMPUTE], 1000);
	assert_near(plan.first_token_seconds, 0.005 + 4e-5 * 1000 + 2e-9 * 1000 * 500);
	assert_near(plan.restore_seconds, 0);
}

static void one_token_is_always_computed(void **unused)
{
	const struct plan_pod pod = pod_make();
	const struct plan_prompt prompt = { .tokens = 1024, .block_tokens = BLOCK };
	struct route_match match = match_make(64, 0, 0);
	struct plan plan;

	(void)unused;
	plan_make(&pod, &prompt, &match, &plan);
	assert_int_equal(plan.tokens[PLAN_HBM], 1008);
	assert_int_equal(plan.tokens[PLAN_COMPUTE], 16);
	match = match_make(0, 64, 0);
	plan_make(&pod, &prompt, &match, &plan);
	assert_int_equal(plan.tokens[PLAN_CPU] + plan.tokens[PLAN_COMPUTE], 1024);
	assert_int_equal(plan.tokens[PLAN_COMPUTE], 16);
	const struct plan_prompt shortest = { .tokens = 1, .block_tokens = BLOCK,
					      .peer_blocks = 9 };
	plan_make(&pod, &shortest, &match, &plan);
	assert_int_equal(plan.tokens[PLAN_COMPUTE], 1);
}

static void what_is_slower_than_computing_is_computed(void **unused)
{
	struct plan_pod pod = pod_make();
	const struct plan_prompt prompt = { .tokens = 4000, .block_tokens = BLOCK };
	const struct route_match match = match_make(0, 100, 100);
	struct plan plan;

	(void)unused;
	pod.nvme.bytes_us = 1000;   /* 131 us a token, computing takes 40 to 48 */
	plan_make(&pod, &prompt, &match, &plan);
	assert_int_equal(plan.tokens[PLAN_CPU], 1600);
	assert_int_equal(plan.tokens[PLAN_NVME], 0);
	pod.cpu.queued_bytes = 1e10;
	plan_make(&pod, &prompt, &match, &plan);
	assert_int_equal(plan.tokens[PLAN_COMPUTE], 4000);
}

static void a_queue_hides_what_is_restored_meanwhile(void **unused)
{
	struct plan_pod pod = pod_make();
	const struct plan_prompt prompt = { .tokens = 4000, .block_tokens = BLOCK };
	const struct route_match match = match_make(0, 0, 200);
	struct plan plan;

	(void)unused;
	pod.nvme.bytes_us = 1000;
	pod.queue_seconds = 0.1;    /* 99 ms of it move 755 tokens: 47 blocks */
	plan_make(&pod, &prompt, &match, &plan);
	assert_int_equal(plan.tokens[PLAN_NVME], 47 * BLOCK);
	assert_true(plan.restore_seconds <= pod.queue_seconds);
	pod.queue_seconds = 10;
	plan_make(&pod, &prompt, &match, &plan);
	assert_int_equal(plan.tokens[PLAN_NVME], 3200);
	assert_near(plan.first_token_seconds, 10 + plan.compute_seconds);
}

static void another_node_sends_what_is_not_here(void **unused)
{
	struct plan_pod pod = pod_make();
	struct plan_prompt prompt = { .tokens = 4000, .block_tokens = BLOCK, .peer_blocks = 240 };
	const struct route_match match = match_make(10, 50, 0);
	struct plan plan;

	(void)unused;
	plan_make(&pod, &prompt, &match, &plan);
	assert_int_equal(plan.tokens[PLAN_HBM], 160);
	assert_int_equal(plan.tokens[PLAN_CPU], 800);
	assert_int_equal(plan.tokens[PLAN_PEER], 180 * BLOCK);
	pod.peer.bytes_us = 0;      /* no link */
	plan_make(&pod, &prompt, &match, &plan);
	assert_int_equal(plan.tokens[PLAN_PEER], 0);
	assert_int_equal(plan.tokens[PLAN_CPU], 800);
	pod.peer.bytes_us = 10000;
	prompt.peer_blocks = 40;    /* fewer than are here */
	plan_make(&pod, &prompt, &match, &plan);
	assert_int_equal(plan.tokens[PLAN_PEER], 0);
}

static void what_lies_behind_a_gap_is_of_no_use(void **unused)
{
	struct plan_pod pod = pod_make();
	const struct plan_prompt prompt = { .tokens = 4000, .block_tokens = BLOCK,
					    .peer_blocks = 240 };
	const struct route_match match = match_make(10, 50, 20);
	struct plan plan;

	(void)unused;
	pod.cpu.bytes_us = 0;
	plan_make(&pod, &prompt, &match, &plan);
	assert_int_equal(plan.tokens[PLAN_HBM], 160);
	assert_int_equal(plan.tokens[PLAN_COMPUTE], 3840);
}

static void what_arrives_by_then_is_the_pods_own(void **unused)
{
	const struct plan_pod pod = pod_make();
	const struct plan_prompt prompt = { .tokens = 4000, .block_tokens = BLOCK };
	const struct route_match match = { .blocks = 100, .tier_blocks = { 20, 0, 0, 80 } };
	struct plan plan;

	(void)unused;
	plan_make(&pod, &prompt, &match, &plan);
	assert_int_equal(plan.tokens[PLAN_HBM], 1600);
	assert_near(plan.restore_seconds, 0);
}

/* ---- beside all plans ---- */

static double seconds_of(const struct plan_pod *pod, const struct plan_prompt *prompt,
			 const uint32_t *blocks_of, uint32_t blocks)
{
	const struct plan_speed *speeds[] = { NULL, &pod->cpu, &pod->nvme, &pod->peer };
	double restore = 0;
	uint32_t left = blocks;

	for (unsigned way = 0; way < PLAN_COMPUTE && left > 0; way++) {
		uint32_t used = left < blocks_of[way] ? left : blocks_of[way];

		left -= used;
		if (way > 0 && used > 0)
			restore += (speeds[way]->latency_us +
				    (speeds[way]->queued_bytes +
				     used * prompt->block_tokens * pod->token_bytes) /
					    speeds[way]->bytes_us) / 1e6;
	}
	return fmax(pod->queue_seconds, restore) +
	       plan_compute_seconds(&pod->cost, blocks * prompt->block_tokens, prompt->tokens);
}

static double speed_draw(struct random *random, double least, double most)
{
	return least * pow(most / least, (double)random_below(random, 1001) / 1000);
}

static void no_plan_is_quicker(void **unused)
{
	struct random random;

	(void)unused;
	random_init(&random, 5);
	for (unsigned round = 0; round < 20000; round++) {
		struct plan_pod pod = pod_make();
		uint32_t hbm = (uint32_t)random_below(&random, 40);
		uint32_t cpu = (uint32_t)random_below(&random, 40);
		uint32_t nvme = (uint32_t)random_below(&random, 40);
		const struct route_match match = match_make(hbm, cpu, nvme);
		const struct plan_prompt prompt = {
			.tokens = 1 + (uint32_t)random_below(&random, 2400), .block_tokens = BLOCK,
			.peer_blocks = (uint32_t)random_below(&random, 160)
		};
		uint32_t peer = prompt.peer_blocks > match.blocks
					? prompt.peer_blocks - match.blocks : 0;
		const uint32_t blocks_of[] = { hbm, cpu, nvme, peer };
		uint32_t most = (prompt.tokens - 1) / BLOCK;
		double best = INFINITY;
		struct plan plan;

		pod.cost.b = speed_draw(&random, 1e-6, 1e-3);
		pod.cost.c = speed_draw(&random, 1e-12, 1e-6);
		pod.cpu.bytes_us = speed_draw(&random, 100, 50000);
		pod.nvme.bytes_us = speed_draw(&random, 100, 50000);
		pod.peer.bytes_us = speed_draw(&random, 100, 50000);
		pod.queue_seconds = random_below(&random, 3) > 0 ? speed_draw(&random, 1e-3, 1) : 0;
		plan_make(&pod, &prompt, &match, &plan);
		if (most > hbm + cpu + nvme + peer)
			most = hbm + cpu + nvme + peer;
		for (uint32_t blocks = hbm < most ? hbm : most; blocks <= most; blocks++)
			best = fmin(best, seconds_of(&pod, &prompt, blocks_of, blocks));
		assert_near(plan.first_token_seconds, best);
		uint32_t sum = 0;
		for (unsigned way = 0; way < PLAN_WAYS; way++)
			sum += plan.tokens[way];
		assert_int_equal(sum, prompt.tokens);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_is_computed_where_nothing_is),
		cmocka_unit_test(one_token_is_always_computed),
		cmocka_unit_test(what_is_slower_than_computing_is_computed),
		cmocka_unit_test(a_queue_hides_what_is_restored_meanwhile),
		cmocka_unit_test(another_node_sends_what_is_not_here),
		cmocka_unit_test(what_lies_behind_a_gap_is_of_no_use),
		cmocka_unit_test(what_arrives_by_then_is_the_pods_own),
		cmocka_unit_test(no_plan_is_quicker),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
