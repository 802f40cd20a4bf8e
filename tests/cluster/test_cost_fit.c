/* tests/cluster/test_cost_fit.c: what computing costs, learned from samples with noise. */
#include "cluster/cost_fit.h"

#include "base/random.h"
#include "cluster/plan.h"

#include <math.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const struct worth_cost assumed = { .a = 0.01, .b = 1e-4, .c = 1e-9 };
static struct random numbers;

static double uniform(double least, double most)
{
	return least + (most - least) * (double)random_below(&numbers, 1u << 20) / (1u << 20);
}

/* Prompts of all lengths, a part of each cached; noise: of the time, at most. */
static void learn(struct cost_fit *fit, const struct worth_cost *true_cost, unsigned samples,
		  double noise)
{
	for (unsigned i = 0; i < samples; i++) {
		uint32_t tokens = (uint32_t)(16 * pow(2, uniform(0, 11)));
		uint32_t first = (uint32_t)(uniform(0, 0.9) * tokens);
		double seconds = plan_compute_seconds(true_cost, first, tokens);

		cost_fit_add(fit, first, tokens, seconds * uniform(1 - noise, 1 + noise));
	}
}

/* The worst error of a prediction, as a part of it. */
static double error_of(const struct cost_fit *fit, const struct worth_cost *true_cost)
{
	double worst = 0;

	for (uint32_t tokens = 64; tokens <= 32768; tokens *= 2)
		for (uint32_t part = 0; part < 4; part++) {
			uint32_t first = tokens / 4 * part;
			double wanted = plan_compute_seconds(true_cost, first, tokens);
			double found = plan_compute_seconds(&fit->cost, first, tokens);

			worst = fmax(worst, fabs(found / wanted - 1));
		}
	return worst;
}

static void without_samples_it_is_what_was_assumed(void **unused)
{
	struct cost_fit fit;

	(void)unused;
	cost_fit_init(&fit, &assumed);
	assert_true(error_of(&fit, &assumed) < 1e-9);
	/* And with those that say the same. */
	random_init(&numbers, 1);
	learn(&fit, &assumed, 100, 0);
	assert_true(error_of(&fit, &assumed) < 1e-6);
}

static void it_is_learned(void **unused)
{
	(void)unused;
	for (unsigned seed = 0; seed < 50; seed++) {
		struct cost_fit fit;

		random_init(&numbers, seed);
		const struct worth_cost cost = { .a = uniform(0.002, 0.05),
						 .b = uniform(1e-5, 5e-4),
						 .c = uniform(1e-10, 2e-8) };
		cost_fit_init(&fit, &assumed);
		learn(&fit, &cost, 300, 0.1);
		assert_true(error_of(&fit, &cost) < 0.15);
	}
}

static void an_assumption_may_be_far_off(void **unused)
{
	static const double times[] = { 0.01, 100 };

	(void)unused;
	for (unsigned i = 0; i < 2; i++) {
		const struct worth_cost cost = { .a = assumed.a * times[i],
						 .b = assumed.b * times[i],
						 .c = assumed.c * times[i] };
		struct cost_fit fit;

		random_init(&numbers, 6);
		cost_fit_init(&fit, &assumed);
		learn(&fit, &cost, 300, 0.1);
		assert_true(error_of(&fit, &cost) < 0.2);
	}
}

static void a_pod_that_gets_slower_is_noticed(void **unused)
{
	const struct worth_cost slow = { .a = 0.03, .b = 3e-4, .c = 3e-9 };
	struct cost_fit fit;

	(void)unused;
	random_init(&numbers, 3);
	cost_fit_init(&fit, &assumed);
	learn(&fit, &assumed, 300, 0.1);
	learn(&fit, &slow, 60, 0.1);
	double seconds = plan_compute_seconds(&fit.cost, 0, 4096);
	assert_true(seconds > 0.7 * plan_compute_seconds(&slow, 0, 4096));
	learn(&fit, &slow, 200, 0.1);
	assert_true(error_of(&fit, &slow) < 0.2);
}

static void nothing_costs_less_than_nothing(void **unused)
{
	struct cost_fit fit;

	(void)unused;
	random_init(&numbers, 4);
	cost_fit_init(&fit, &assumed);
	for (unsigned i = 0; i < 500; i++) {
		uint32_t tokens = 1 + (uint32_t)random_below(&numbers, 100000);

		cost_fit_add(&fit, (uint32_t)random_below(&numbers, tokens), tokens,
			     pow(10, uniform(-6, 3)));
		assert_true(fit.cost.a >= 0 && fit.cost.b >= 0 && fit.cost.c >= 0);
		assert_true(isfinite(fit.cost.a + fit.cost.b + fit.cost.c));
		assert_true(fit.cost.a + fit.cost.b + fit.cost.c > 0);
	}
}

static void one_that_waited_long_does_not_spoil_it(void **unused)
{
	struct cost_fit fit;

	(void)unused;
	random_init(&numbers, 5);
	cost_fit_init(&fit, &assumed);
	learn(&fit, &assumed, 100, 0.1);
	cost_fit_add(&fit, 0, 1000, 3600);
	assert_true(error_of(&fit, &assumed) < 0.3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_samples_it_is_what_was_assumed),
		cmocka_unit_test(it_is_learned),
		cmocka_unit_test(an_assumption_may_be_far_off),
		cmocka_unit_test(a_pod_that_gets_slower_is_noticed),
		cmocka_unit_test(nothing_costs_less_than_nothing),
		cmocka_unit_test(one_that_waited_long_does_not_spoil_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
