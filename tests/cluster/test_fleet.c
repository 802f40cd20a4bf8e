/* tests/cluster/test_fleet.c: where requests go, and what is kept of those that were placed. */
#include "cluster/fleet.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define PODS 4u
#define BLOCK 16u
#define SECOND_US UINT64_C(1000000)
#define BLOCKS_MAX 2048u

static struct route_index *routes;
static struct fleet *fleet;
static uint32_t pods[PODS];
static uint16_t engines[PODS], nodes[PODS];
static uint64_t now_us;
static uint64_t keys[BLOCKS_MAX];

static const struct fleet_settings usual = {
	.router_id = 1, .near = 0.02, .sticky_seconds = 0.02, .work_price = 0.5,
	.placed_us_max = 600 * SECOND_US,
};

static struct fleet_pod_facts facts_of(unsigned pod)
{
	return (struct fleet_pod_facts){
		.node = pod,
		.route = { { engines[pod], nodes[pod] } },
		.cost = { .a = 0.005, .b = 1e-4, .c = 2e-9 },
		.token_bytes = 131072,
		.cpu = { .latency_us = 200, .bytes_us = 20000 },
		.nvme = { .latency_us = 1000, .bytes_us = 5000 },
		.token_seconds = 0.02,
	};
}

static void begin_with(const struct fleet_settings *settings)
{
	struct error error;

	now_us = SECOND_US;
	assert_int_equal(route_index_create(&routes, 1u << 24, 3, &error), 0);
	assert_int_equal(fleet_create(&fleet, routes, settings, &error), 0);
	for (unsigned i = 0; i < PODS; i++) {
		assert_int_equal(route_source_open(routes, &engines[i]), 0);
		assert_int_equal(route_source_open(routes, &nodes[i]), 0);
		const struct fleet_pod_facts facts = facts_of(i);
		assert_int_equal(fleet_join(fleet, &facts, &pods[i]), 0);
	}
}

static void begin(void)
{
	begin_with(&usual);
}

static void end(void)
{
	fleet_destroy(fleet);
	route_index_destroy(routes);
}

/* A prompt of `blocks` blocks of chain `chain` and a token more. */
static struct fleet_request request_make(unsigned chain, uint32_t blocks)
{
	static uint64_t hashes;

	for (uint32_t i = 0; i < blocks; i++)
		keys[i] = (uint64_t)chain << 32 | i;
	return (struct fleet_request){ .keys = keys, .keys_count = blocks,
				       .tokens = blocks * BLOCK + 1, .block_tokens = BLOCK,
				       .output_tokens = 100, .hash = ++hashes * 7919,
				       .home = FLEET_NONE };
}

static void has(uint16_t source, unsigned chain, uint32_t blocks, enum route_tier tier)
{
	for (uint32_t i = 0; i < blocks; i++)
		assert_true(route_index_change(routes, source, (uint64_t)chain << 32 | i,
					       ROUTE_BIT(tier), 0) > 0);
}

static struct fleet_choice choice_of(const struct fleet_request *request)
{
	struct fleet_choice choice;

	assert_int_equal(fleet_choose(fleet, request, now_us, &choice, NULL, NULL), 0);
	return choice;
}

static uint64_t place(const struct fleet_request *request, uint32_t *out_pod)
{
	const struct fleet_choice choice = choice_of(request);

	if (out_pod != NULL)
		*out_pod = choice.best.pod;
	return fleet_place(fleet, request, &choice.best, now_us);
}

static void it_goes_where_its_prefix_is(void **unused)
{
	(void)unused;
	begin();
	has(engines[2], 1, 100, ROUTE_HBM);
	has(nodes[1], 1, 100, ROUTE_CPU);
	struct fleet_request request = request_make(1, 100);
	struct fleet_choice choice = choice_of(&request);
	assert_int_equal(choice.best.pod, pods[2]);
	assert_int_equal(choice.next.pod, pods[1]);
	assert_int_equal(choice.best.plan.tokens[PLAN_HBM], 1600);
	end();
}

static void a_queue_counts_against_a_prefix(void **unused)
{
	uint32_t pod;

	(void)unused;
	begin();
	has(engines[2], 1, 10, ROUTE_HBM);
	fleet_drain(fleet, pods[0], true);
	fleet_drain(fleet, pods[1], true);
	fleet_drain(fleet, pods[3], true);
	struct fleet_request other = request_make(2, 1000);
	(void)place(&other, &pod);
	assert_int_equal(pod, pods[2]);
	for (unsigned i = 0; i < PODS; i++)
		fleet_drain(fleet, pods[i], false);
	assert_true(fleet_queue_seconds(fleet, pods[2], now_us) > 1);
	struct fleet_request request = request_make(1, 12);
	assert_int_not_equal(choice_of(&request).best.pod, pods[2]);
	/* As it goes on, less and less. */
	now_us += SECOND_US;
	assert_true(fleet_queue_seconds(fleet, pods[2], now_us) < 1.2);
	end();
}

static void what_is_on_its_way_draws_the_same_prefix(void **unused)
{
	uint32_t first, next;
	uint64_t placed;

	(void)unused;
	begin();
	struct fleet_request request = request_make(5, 1000);
	placed = place(&request, &first);
	for (unsigned i = 0; i < 3; i++) {
		now_us += 1000;
		struct fleet_request same = request_make(5, 1000);
		uint64_t number = place(&same, &next);
		assert_int_equal(next, first);
		fleet_done(fleet, number, now_us);
	}
	/* Never computed: it arrives nowhere. */
	fleet_done(fleet, placed, now_us);
	assert_int_equal(route_index_get(routes, engines[first], keys[0]), 0);
	assert_int_equal(fleet_placed_count(fleet, first), 0);
	end();
}

static void arriving_ends_once_the_engine_has_told(void **unused)
{
	uint32_t pod;

	(void)unused;
	begin();
	struct fleet_request request = request_make(5, 50);
	uint64_t placed = place(&request, &pod);
	now_us += SECOND_US;
	fleet_first(fleet, placed, UINT32_MAX, now_us);
	fleet_done(fleet, placed, now_us);
	assert_int_equal(route_index_get(routes, engines[pod], keys[7]), ROUTE_BIT(ROUTE_ARRIVING));
	has(engines[pod], 5, 50, ROUTE_HBM);
	now_us += SECOND_US;
	fleet_step(fleet, now_us);
	assert_int_equal(route_index_get(routes, engines[pod], keys[7]),
			 ROUTE_BIT(ROUTE_HBM) | ROUTE_BIT(ROUTE_ARRIVING));
	now_us += 2 * SECOND_US;
	fleet_step(fleet, now_us);
	assert_int_equal(route_index_get(routes, engines[pod], keys[7]), ROUTE_BIT(ROUTE_HBM));
	end();
}

static void a_cache_that_is_full_is_waited_for(void **unused)
{
	(void)unused;
	begin();
	for (unsigned i = 0; i < PODS; i++) {
		struct fleet_pod_facts facts = facts_of(i);

		facts.kv_tokens = 20000;
		fleet_tell(fleet, pods[i], &facts);
	}
	for (unsigned i = 1; i < PODS; i++)
		fleet_drain(fleet, pods[i], true);
	for (unsigned i = 0; i < 2; i++) {
		struct fleet_request long_one = request_make(10 + i, 500);
		uint64_t placed = place(&long_one, NULL);

		now_us += 2 * SECOND_US;
		fleet_first(fleet, placed, UINT32_MAX, now_us);
	}
	fleet_drain(fleet, pods[1], false);
	/* pods[1] has a queue, of about half a second, and room; pods[0] has no queue, and none. */
	fleet_drain(fleet, pods[0], true);
	struct fleet_request other = request_make(20, 300);
	(void)place(&other, NULL);
	fleet_drain(fleet, pods[0], false);
	struct fleet_request request = request_make(30, 500);
	struct fleet_choice choice = choice_of(&request);
	assert_int_equal(choice.best.pod, pods[1]);
	assert_true(choice.next.kv_wait > 0.5);
	end();
}

static void what_is_done_gives_its_room_back(void **unused)
{
	uint64_t placed[3];

	(void)unused;
	begin();
	struct fleet_pod_facts facts = facts_of(0);
	facts.kv_tokens = 20000;
	fleet_tell(fleet, pods[0], &facts);
	for (unsigned i = 1; i < PODS; i++)
		fleet_drain(fleet, pods[i], true);
	for (unsigned i = 0; i < 3; i++) {
		struct fleet_request request = request_make(10 + i, 500);
		placed[i] = place(&request, NULL);
	}
	double all = fleet_queue_seconds(fleet, pods[0], now_us);
	fleet_done(fleet, placed[1], now_us);
	double two = fleet_queue_seconds(fleet, pods[0], now_us);
	assert_true(fabs(two - all * 2 / 3) < 0.01 * all);
	struct fleet_request request = request_make(20, 500);
	assert_true(choice_of(&request).best.kv_wait > 0);
	fleet_done(fleet, placed[0], now_us);
	assert_true(choice_of(&request).best.kv_wait == 0);
	end();
}

/* Who was not first in line did not take the time since the last one. */
static void who_overtakes_says_nothing_of_the_cost(void **unused)
{
	uint64_t placed[2];

	(void)unused;
	begin();
	for (unsigned i = 1; i < PODS; i++)
		fleet_drain(fleet, pods[i], true);
	for (unsigned i = 0; i < 2; i++) {
		struct fleet_request request = request_make(10 + i, 500);
		placed[i] = place(&request, NULL);
	}
	const struct worth_cost before = *fleet_cost(fleet, pods[0]);
	now_us += 10;
	fleet_first(fleet, placed[1], 0, now_us);
	assert_memory_equal(fleet_cost(fleet, pods[0]), &before, sizeof(before));
	now_us += SECOND_US;
	fleet_first(fleet, placed[0], 0, now_us);
	assert_memory_not_equal(fleet_cost(fleet, pods[0]), &before, sizeof(before));
	end();
}

static void near_ties_are_spread_and_by_each_router_otherwise(void **unused)
{
	unsigned count[2][PODS] = { { 0 } }, same = 0;
	uint32_t chosen[400];

	(void)unused;
	for (unsigned router = 0; router < 2; router++) {
		struct fleet_settings settings = usual;

		settings.router_id = 100 + router;
		begin_with(&settings);
		for (unsigned i = 0; i < 400; i++) {
			struct fleet_request request = request_make(1000 + i, 20);

			request.hash = i;
			struct fleet_choice choice = choice_of(&request);
			assert_true(choice.was_near);
			count[router][choice.best.pod]++;
			same += router == 1 && chosen[i] == choice.best.pod;
			chosen[i] = choice.best.pod;
		}
		end();
		for (unsigned i = 0; i < PODS; i++)
			assert_in_range(count[router][i], 60, 140);
	}
	assert_in_range(same, 60, 140);
}

static void a_session_stays_until_it_gains_by_leaving(void **unused)
{
	(void)unused;
	begin();
	struct fleet_request request = request_make(1, 10);
	for (unsigned i = 0; i < PODS; i++) {
		request.home = pods[i];
		struct fleet_choice choice = choice_of(&request);
		assert_int_equal(choice.best.pod, pods[i]);
		assert_true(choice.is_home);
	}
	has(engines[0], 1, 300, ROUTE_HBM);
	request = request_make(1, 300);
	request.home = pods[3];
	struct fleet_choice choice = choice_of(&request);
	assert_int_equal(choice.best.pod, pods[0]);
	assert_false(choice.is_home);
	/* Home has gone. */
	fleet_leave(fleet, pods[3]);
	request = request_make(9, 10);
	request.home = pods[3];
	assert_int_not_equal(choice_of(&request).best.pod, pods[3]);
	end();
}

static void nobody_takes_requests(void **unused)
{
	struct fleet_choice choice;

	(void)unused;
	begin();
	for (unsigned i = 0; i < PODS; i++)
		i % 2 == 0 ? fleet_drain(fleet, pods[i], true) : fleet_leave(fleet, pods[i]);
	struct fleet_request request = request_make(1, 10);
	assert_int_equal(fleet_choose(fleet, &request, now_us, &choice, NULL, NULL), -ENOENT);
	end();
}

static void what_is_never_answered_is_let_go_of(void **unused)
{
	uint32_t pod;

	(void)unused;
	begin();
	struct fleet_request request = request_make(1, 100);
	uint64_t placed = place(&request, &pod);
	now_us += usual.placed_us_max - 1;
	fleet_step(fleet, now_us);
	assert_int_equal(fleet_placed_count(fleet, pod), 1);
	now_us++;
	fleet_step(fleet, now_us);
	assert_int_equal(fleet_placed_count(fleet, pod), 0);
	assert_true(fleet_queue_seconds(fleet, pod, now_us) == 0);
	assert_int_equal(route_index_get(routes, engines[pod], keys[0]), 0);
	/* Its number is of nothing any more, also when its place is another's. */
	for (unsigned i = 0; i < FLEET_PLACED_MAX; i++) {
		struct fleet_request other = request_make(2, 0);
		struct fleet_choice choice = choice_of(&other);
		assert_int_not_equal(fleet_place(fleet, &other, &choice.best, now_us), FLEET_NONE);
		if (i == 0)
			pod = choice.best.pod;
	}
	struct fleet_request more = request_make(2, 0);
	struct fleet_choice choice = choice_of(&more);
	assert_int_equal(fleet_place(fleet, &more, &choice.best, now_us), FLEET_NONE);
	uint32_t count = 0, after = 0;
	for (unsigned i = 0; i < PODS; i++)
		count += fleet_placed_count(fleet, pods[i]);
	fleet_first(fleet, placed, 0, now_us);
	fleet_done(fleet, placed, now_us);
	for (unsigned i = 0; i < PODS; i++)
		after += fleet_placed_count(fleet, pods[i]);
	assert_int_equal(count, FLEET_PLACED_MAX);
	assert_int_equal(after, count);
	end();
}

static void a_slow_pod_is_found_out(void **unused)
{
	unsigned slow = 0;

	(void)unused;
	begin();
	for (unsigned i = 0; i < 400; i++) {
		struct fleet_request request = request_make(100 + i, 60);
		uint32_t pod;
		uint64_t placed = place(&request, &pod);
		double seconds = 0.1 * (pod == pods[0] ? 3 : 1);
		slow += i >= 300 && pod == pods[0];
		now_us += (uint64_t)(seconds * 1e6);
		fleet_first(fleet, placed, 0, now_us);
		fleet_done(fleet, placed, now_us);
	}
	assert_int_equal(slow, 0);
	assert_true(plan_compute_seconds(fleet_cost(fleet, pods[0]), 0, 961) > 0.12);
	end();
}

static void the_least_loaded_is_what_it_says(void **unused)
{
	(void)unused;
	begin();
	has(engines[2], 1, 100, ROUTE_HBM);
	for (unsigned i = 0; i < PODS; i++)
		fleet_drain(fleet, pods[i], i != 2);
	struct fleet_request some = request_make(7, 5);
	(void)place(&some, NULL);
	for (unsigned i = 0; i < PODS; i++)
		fleet_drain(fleet, pods[i], false);
	struct fleet_request request = request_make(1, 100);
	assert_int_equal(choice_of(&request).best.pod, pods[2]);
	request.mode = FLEET_LEAST_LOADED;
	assert_int_not_equal(choice_of(&request).best.pod, pods[2]);
	end();
}

static void another_node_sends_what_a_pod_lacks(void **unused)
{
	(void)unused;
	begin();
	has(nodes[0], 1, 1000, ROUTE_CPU);
	for (unsigned i = 1; i < PODS; i++) {
		struct fleet_pod_facts facts = facts_of(i);

		facts.peer = (struct plan_speed){ .latency_us = 1000, .bytes_us = 10000 };
		fleet_tell(fleet, pods[i], &facts);
	}
	struct fleet_estimate estimates[FLEET_PODS_MAX];
	struct fleet_choice choice;
	uint32_t count;
	struct fleet_request request = request_make(1, 1000);
	assert_int_equal(fleet_choose(fleet, &request, now_us, &choice, estimates, &count), 0);
	assert_int_equal(count, PODS);
	assert_int_equal(choice.best.pod, pods[0]);
	assert_int_equal(estimates[0].plan.tokens[PLAN_PEER], 0);
	assert_int_equal(estimates[1].plan.tokens[PLAN_PEER], 16000);
	end();
}

/* Its node's daemon is asked anyway. */
static void a_pod_of_the_same_node_is_no_peer(void **unused)
{
	(void)unused;
	begin();
	has(engines[0], 1, 1000, ROUTE_HBM);
	for (unsigned i = 0; i < PODS; i++) {
		struct fleet_pod_facts facts = facts_of(i);

		facts.peer = (struct plan_speed){ .latency_us = 1000, .bytes_us = 10000 };
		facts.node = i / 2;
		fleet_tell(fleet, pods[i], &facts);
	}
	struct fleet_estimate estimates[FLEET_PODS_MAX];
	struct fleet_choice choice;
	struct fleet_request request = request_make(1, 1000);
	assert_int_equal(fleet_choose(fleet, &request, now_us, &choice, estimates, NULL), 0);
	assert_int_equal(estimates[1].plan.tokens[PLAN_PEER], 0);
	assert_int_equal(estimates[2].plan.tokens[PLAN_PEER], 16000);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_goes_where_its_prefix_is),
		cmocka_unit_test(a_queue_counts_against_a_prefix),
		cmocka_unit_test(what_is_on_its_way_draws_the_same_prefix),
		cmocka_unit_test(arriving_ends_once_the_engine_has_told),
		cmocka_unit_test(a_cache_that_is_full_is_waited_for),
		cmocka_unit_test(what_is_done_gives_its_room_back),
		cmocka_unit_test(who_overtakes_says_nothing_of_the_cost),
		cmocka_unit_test(near_ties_are_spread_and_by_each_router_otherwise),
		cmocka_unit_test(a_session_stays_until_it_gains_by_leaving),
		cmocka_unit_test(nobody_takes_requests),
		cmocka_unit_test(what_is_never_answered_is_let_go_of),
		cmocka_unit_test(a_slow_pod_is_found_out),
		cmocka_unit_test(the_least_loaded_is_what_it_says),
		cmocka_unit_test(another_node_sends_what_a_pod_lacks),
		cmocka_unit_test(a_pod_of_the_same_node_is_no_peer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
