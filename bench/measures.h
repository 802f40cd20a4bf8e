/*
 * bench/measures.h: what a benchmark found, in one schema:
 *   {"benchmark": ..., "version": ..., "measures": [{"name", "value", "unit", "ceiling", "ratio",
 * "goal", "better", "samples", "spread": [low, high]}]} `ceiling` is what the machine gives without
 * us, measured in the same run; `ratio` is value / ceiling, from pairs measured one beside the
 * other (interleaved), so that a machine that grows slower meanwhile does not change it. What does
 * not apply is null. Runs on: one thread.
 */
#ifndef KVTIER_BENCH_MEASURES_H
#define KVTIER_BENCH_MEASURES_H

#include "base/error.h"

#include <stdio.h>

#define MEASURES_MAX 64
#define MEASURE_PAIRS_MIN 11
#define MEASURE_PAIRS_MAX 201
#define MEASURE_NAME_BYTES 48
#define MEASURE_UNIT_BYTES 16

enum measure_better { MEASURE_HIGHER, MEASURE_LOWER };

struct measure {
	char name[MEASURE_NAME_BYTES];
	char unit[MEASURE_UNIT_BYTES];
	double value;
	double ceiling, ratio, goal; /* NAN: none */
	enum measure_better better;
	unsigned samples;
	double spread_low,
		spread_high; /* of the ratio if there is one, else of the value; NAN: one sample */
};

struct measures {
	const char *benchmark;
	unsigned count;
	struct measure items[MEASURES_MAX];
};

void measures_init(struct measures *measures, const char *benchmark);
/* Appends one measure with a single value; the caller may fill in the rest. Borrowed until measures
 * end. */
struct measure *measures_add(struct measures *measures, const char *name, double value,
			     const char *unit, enum measure_better better);

/*
 * Interleaved pairs: ours and the ceiling are measured in turn, MEASURE_PAIRS_MIN times at least.
 */
struct measure_pairs {
	unsigned count;
	double ours[MEASURE_PAIRS_MAX];
	double ceiling[MEASURE_PAIRS_MAX];
};

void measure_pairs_add(struct measure_pairs *pairs, double ours, double ceiling);
/* value and ceiling: medians; ratio: the median of the pairs' ratios; spread: their quartiles. */
struct measure *measures_add_pairs(struct measures *measures, const char *name,
				   const struct measure_pairs *pairs, const char *unit,
				   enum measure_better better);
/* The median and quartiles of samples; they are sorted in place. */
double measure_median(double *samples, unsigned count);
double measure_quantile(double *sorted, unsigned count, double share);

struct json_t;

/* Everything as JSON, the caller's; NULL: no memory. */
struct json_t *measures_json(const struct measures *measures);
/* That, into a file. */
must_check int measures_write(const struct measures *measures, const char *path,
			      struct error *error);
/* One line a measure, for a person. */
void measures_print(const struct measures *measures, FILE *file);

#endif
