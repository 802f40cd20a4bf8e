/*
 * cluster/cost_fit.c: see cost_fit.h. Terms of a sample: 1, its tokens, and their attention (tokens
 * by the mean of what each looks back at), in thousands so that the sums are of one size. Each is
 * divided by the seconds that were expected: an error of a tenth weighs the same for short prompts
 * and long ones, and one that took longer no less than one that took shorter.
 */
#include "cluster/cost_fit.h"

#include "cluster/plan.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#define KEPT 0.97              /* of a sample's weight at the next one: about 33 count */
#define ASSUMED_SAMPLES 2.0    /* the weight of what was assumed at first, at each of its points */
#define ASSUMED_LEAST 0.01     /* and when it has got old; it counts where samples say nothing */
#define TIMES_MAX 4.0          /* what took longer than expected so many times, counts as that */
#define THOUSAND 1e3

/* Prompts for which what was assumed is held on to. */
static const struct { uint32_t first, tokens; } points[] = {
	{ 0, 128 }, { 0, 4096 }, { 0, 32768 }, { 30000, 32768 }
};

static void terms_of(uint32_t first, uint32_t tokens, double expected,
		     double out[COST_FIT_TERMS])
{
	double left = ((double)tokens - first) / THOUSAND;

	out[0] = 1 / expected;
	out[1] = left / expected;
	out[2] = left * (first / THOUSAND + left / 2) / expected;
}

static void sums_add(double products[COST_FIT_TERMS][COST_FIT_TERMS],
		     double targets[COST_FIT_TERMS], const double terms[COST_FIT_TERMS],
		     double target, double weight)
{
	for (unsigned i = 0; i < COST_FIT_TERMS; i++) {
		targets[i] += weight * terms[i] * target;
		for (unsigned n = 0; n < COST_FIT_TERMS; n++)
			products[i][n] += weight * terms[i] * terms[n];
	}
}

/* Of the terms in `used` (bits), by elimination with the largest pivot. False: they say nothing. */
static bool terms_solve(double products[COST_FIT_TERMS][COST_FIT_TERMS],
			const double targets[COST_FIT_TERMS], unsigned used,
			double out[COST_FIT_TERMS])
{
	double rows[COST_FIT_TERMS][COST_FIT_TERMS + 1];
	unsigned numbers[COST_FIT_TERMS] = { 0 }, count = 0;

	for (unsigned i = 0; i < COST_FIT_TERMS; i++)
		if ((used >> i & 1) != 0)
			numbers[count++] = i;
	for (unsigned i = 0; i < count; i++) {
		for (unsigned n = 0; n < count; n++)
			rows[i][n] = products[numbers[i]][numbers[n]];
		rows[i][count] = targets[numbers[i]];
	}
	for (unsigned i = 0; i < count; i++) {
		unsigned pivot = i;

		for (unsigned n = i + 1; n < count; n++)
			if (fabs(rows[n][i]) > fabs(rows[pivot][i]))
				pivot = n;
		if (!(fabs(rows[pivot][i]) > 1e-12))
			return false;
		for (unsigned n = i; n <= count; n++) {
			double kept = rows[i][n];

			rows[i][n] = rows[pivot][n];
			rows[pivot][n] = kept;
		}
		for (unsigned n = 0; n < count; n++) {
			double times = n != i ? rows[n][i] / rows[i][i] : 0;

			for (unsigned at = i; at <= count; at++)
				rows[n][at] -= times * rows[i][at];
		}
	}
	memset(out, 0, COST_FIT_TERMS * sizeof(*out));
	for (unsigned i = 0; i < count; i++)
		out[numbers[i]] = rows[i][count] / rows[i][i];
	return true;
}

/* The sum of squared errors, but for a constant. */
static double error_of(double products[COST_FIT_TERMS][COST_FIT_TERMS],
		       const double targets[COST_FIT_TERMS], const double terms[COST_FIT_TERMS])
{
	double sum = 0;

	for (unsigned i = 0; i < COST_FIT_TERMS; i++) {
		sum -= 2 * targets[i] * terms[i];
		for (unsigned n = 0; n < COST_FIT_TERMS; n++)
			sum += products[i][n] * terms[i] * terms[n];
	}
	return sum;
}

/* So few terms that each choice of those above 0 can be tried. */
static void cost_solve(struct cost_fit *fit)
{
	double products[COST_FIT_TERMS][COST_FIT_TERMS], targets[COST_FIT_TERMS];
	double found[COST_FIT_TERMS], terms[COST_FIT_TERMS], best = INFINITY;
	double weight = fmax(ASSUMED_SAMPLES * fit->assumed_kept, ASSUMED_LEAST);

	memcpy(products, fit->products, sizeof(products));
	memcpy(targets, fit->targets, sizeof(targets));
	for (unsigned i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		double seconds = plan_compute_seconds(&fit->assumed, points[i].first,
						      points[i].tokens);
		double expected = plan_compute_seconds(&fit->cost, points[i].first,
						       points[i].tokens);

		expected = fmax(expected, seconds);
		terms_of(points[i].first, points[i].tokens, expected, terms);
		sums_add(products, targets, terms, seconds / expected, weight);
	}
	for (unsigned used = 1; used < 1u << COST_FIT_TERMS; used++) {
		if (!terms_solve(products, targets, used, found) || found[0] < 0 || found[1] < 0 ||
		    found[2] < 0)
			continue;
		double error = error_of(products, targets, found);
		if (error >= best)
			continue;
		best = error;
		fit->cost = (struct worth_cost){ .a = found[0], .b = found[1] / THOUSAND,
						 .c = found[2] / THOUSAND / THOUSAND };
	}
}

void cost_fit_init(struct cost_fit *fit, const struct worth_cost *assumed)
{
	memset(fit, 0, sizeof(*fit));
	fit->assumed = fit->cost = *assumed;
	fit->assumed_kept = 1;
}

void cost_fit_add(struct cost_fit *fit, uint32_t first, uint32_t tokens, double seconds)
{
	double expected = plan_compute_seconds(&fit->cost, first, tokens);
	double terms[COST_FIT_TERMS];

	if (seconds > TIMES_MAX * expected)
		seconds = TIMES_MAX * expected;
	terms_of(first, tokens, expected, terms);
	for (unsigned i = 0; i < COST_FIT_TERMS; i++) {
		fit->targets[i] *= KEPT;
		for (unsigned n = 0; n < COST_FIT_TERMS; n++)
			fit->products[i][n] *= KEPT;
	}
	fit->assumed_kept *= KEPT;
	sums_add(fit->products, fit->targets, terms, seconds / expected, 1);
	cost_solve(fit);
}
