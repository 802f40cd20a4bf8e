/* bench/measures.c: medians, spreads, and their JSON. */
#include "bench/measures.h"

#include <assert.h>
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void measures_init(struct measures *measures, const char *benchmark)
{
	memset(measures, 0, sizeof(*measures));
	measures->benchmark = benchmark;
}

struct measure *measures_add(struct measures *measures, const char *name, double value,
			     const char *unit, enum measure_better better)
{
	assert(measures->count < MEASURES_MAX);
	assert(strlen(name) < MEASURE_NAME_BYTES && strlen(unit) < MEASURE_UNIT_BYTES);
	struct measure *measure = &measures->items[measures->count++];
	strcpy(measure->name, name);
	strcpy(measure->unit, unit);
	measure->value = value;
	measure->better = better;
	measure->samples = 1;
	measure->ceiling = measure->ratio = measure->goal = NAN;
	measure->spread_low = measure->spread_high = NAN;
	return measure;
}

static int by_size(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;

	return left < right ? -1 : left > right;
}

double measure_quantile(double *sorted, unsigned count, double share)
{
	assert(count > 0 && share >= 0 && share <= 1);
	double at = share * (count - 1);
	unsigned below = (unsigned)at;
	unsigned above = below + 1 < count ? below + 1 : below;

	return sorted[below] + (sorted[above] - sorted[below]) * (at - below);
}

double measure_median(double *samples, unsigned count)
{
	assert(count > 0);
	qsort(samples, count, sizeof(*samples), by_size);
	return measure_quantile(samples, count, 0.5);
}

void measure_pairs_add(struct measure_pairs *pairs, double ours, double ceiling)
{
	assert(pairs->count < MEASURE_PAIRS_MAX);
	assert(ceiling > 0);
	pairs->ours[pairs->count] = ours;
	pairs->ceiling[pairs->count++] = ceiling;
}

struct measure *measures_add_pairs(struct measures *measures, const char *name,
				   const struct measure_pairs *pairs, const char *unit,
				   enum measure_better better)
{
	double samples[MEASURE_PAIRS_MAX];
	unsigned count = pairs->count;

	assert(count >= MEASURE_PAIRS_MIN && count <= MEASURE_PAIRS_MAX);
	memcpy(samples, pairs->ours, count * sizeof(*samples));
	struct measure *measure = measures_add(measures, name, measure_median(samples, count), unit,
					       better);
	memcpy(samples, pairs->ceiling, count * sizeof(*samples));
	measure->ceiling = measure_median(samples, count);
	for (unsigned i = 0; i < count; i++)
		samples[i] = pairs->ours[i] / pairs->ceiling[i];
	measure->ratio = measure_median(samples, count);
	measure->spread_low = measure_quantile(samples, count, 0.25);
	measure->spread_high = measure_quantile(samples, count, 0.75);
	measure->samples = count;
	return measure;
}

static json_t *number_or_null(double number)
{
	return isfinite(number) ? json_real(number) : json_null();
}

static json_t *measure_json(const struct measure *measure)
{
	json_t *spread = isfinite(measure->spread_low)
				 ? json_pack("[f,f]", measure->spread_low, measure->spread_high)
				 : json_null();

	return json_pack("{s:s,s:o,s:s,s:o,s:o,s:o,s:s,s:i,s:o}", "name", measure->name, "value",
			 number_or_null(measure->value), "unit", measure->unit, "ceiling",
			 number_or_null(measure->ceiling), "ratio", number_or_null(measure->ratio),
			 "goal", number_or_null(measure->goal), "better",
			 measure->better == MEASURE_HIGHER ? "more" : "less", "samples",
			 (int)measure->samples, "spread", spread);
}

json_t *measures_json(const struct measures *measures)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < measures->count; i++)
		json_array_append_new(list, measure_json(&measures->items[i]));
	return json_pack("{s:s,s:s,s:o}", "benchmark", measures->benchmark, "version",
			 KVTIER_VERSION, "measures", list);
}

int measures_write(const struct measures *measures, const char *path, struct error *error)
{
	json_t *root = measures_json(measures);

	if (root == NULL)
		return error_set(error, -ENOMEM, "no memory to write %s", path);
	int result = json_dump_file(root, path, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
	json_decref(root);
	if (result < 0)
		return error_set(error, -EIO, "cannot write %s", path);
	return 0;
}

void measures_print(const struct measures *measures, FILE *file)
{
	for (unsigned i = 0; i < measures->count; i++) {
		const struct measure *measure = &measures->items[i];
		fprintf(file, "%-32s %12.4g %-8s", measure->name, measure->value, measure->unit);
		if (isfinite(measure->ratio))
			fprintf(file, " %6.3f of %.4g", measure->ratio, measure->ceiling);
		if (isfinite(measure->spread_low))
			fprintf(file, " (%.4g..%.4g, %u samples)", measure->spread_low,
				measure->spread_high, measure->samples);
		if (isfinite(measure->goal))
			fprintf(file, " goal %.4g", measure->goal);
		fputc('\n', file);
	}
}
