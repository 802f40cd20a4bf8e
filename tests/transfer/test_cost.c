/* tests/transfer/test_cost.c: the path chosen is the cheapest of the device that was measured. */
#include "transfer/cost.h"

#include "base/random.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SHAPES 2000u
#define OF "GPU-0 driver 13.0"

/* A device as gpu.md 6.2 writes costs: a submission of a run, or the link's time for its bytes. */
struct model {
	double call_ns, submit_ns, gap_ns, bytes_ns;
};

static const struct model h100[COPY_PATHS] = {
	[COPY_LOOP] = { 0, 2300, 300, 1 / 55.0 },
	[COPY_2D] = { 4000, 0, 60, 1 / 55.0 },
	[COPY_BATCH] = { 3000, 500, 300, 1 / 55.0 },
	[COPY_KERNEL] = { 9000, 0, 40, 1 / 48.0 },
};

static double model_ns(const struct model *model, double calls, double runs, double bytes)
{
	return calls * model->call_ns +
	       runs * fmax(model->submit_ns, model->gap_ns + bytes * model->bytes_ns);
}

static struct cost_time time_of(const struct model *model, uint32_t runs, double bytes)
{
	return (struct cost_time){ runs, model_ns(model, 1, runs, bytes) };
}

static void measure(const struct model models[COPY_PATHS], struct cost_table *table)
{
	memset(table, 0, sizeof(*table));
	for (unsigned direction = 0; direction < COPY_DIRECTIONS; direction++)
		for (unsigned path = 0; path < COPY_PATHS; path++)
			for (unsigned n = 0; n < COST_LENGTHS; n++) {
				double bytes = (double)cost_lengths[n];

				table->lines[direction][path][n] = cost_line_of(
					time_of(&models[path], COST_FEW, bytes),
					time_of(&models[path], COST_MANY, bytes));
			}
}

static double truth(enum copy_path path, const struct cost_shape *shape)
{
	return model_ns(&h100[path], path == COPY_2D ? (double)shape->rectangles : 1,
			(double)shape->runs, (double)shape->run_bytes);
}

static void the_choice_costs_hardly_more_than_the_best_one(void **unused)
{
	struct cost_table table;
	struct random random;
	unsigned chosen[COPY_PATHS] = { 0 };

	(void)unused;
	random_init(&random, 7);
	measure(h100, &table);
	for (unsigned n = 0; n < SHAPES; n++) {
		struct cost_shape shape = {
			.direction = (enum copy_direction)random_below(&random, COPY_DIRECTIONS),
			.rectangles = 1 + random_below(&random, 64),
			.run_bytes = 512 +
				     random_below(&random, 1u << (10 + random_below(&random, 12))),
		};
		shape.runs = shape.rectangles * (1 + random_below(&random, 64));
		enum copy_path choice = cost_choose(&table, (1u << COPY_PATHS) - 1, &shape);
		double best = INFINITY;
		for (unsigned path = 0; path < COPY_PATHS; path++)
			best = fmin(best, truth((enum copy_path)path, &shape));
		assert_true(truth(choice, &shape) <= 1.25 * best);
		chosen[choice]++;
	}
	for (unsigned path = 0; path < COPY_PATHS; path++) /* none is there in vain */
		assert_true(chosen[path] > 0);
}

static void at_a_measured_length_the_estimate_is_what_was_measured(void **unused)
{
	struct cost_table table;

	(void)unused;
	measure(h100, &table);
	for (unsigned n = 0; n < COST_LENGTHS; n++) {
		struct cost_shape shape = { COPY_LOAD, 1, 100, cost_lengths[n] };
		double ns = cost_estimate(&table, COPY_BATCH, &shape);

		assert_true(fabs(ns / truth(COPY_BATCH, &shape) - 1) < 0.01);
	}
	struct cost_shape longer = { COPY_LOAD, 1, 10, 64 << 20 };
	assert_true(fabs(cost_estimate(&table, COPY_LOOP, &longer) / truth(COPY_LOOP, &longer) -
			 1) < 0.02);
}

static void a_path_that_is_not_there_or_not_allowed_is_not_chosen(void **unused)
{
	struct cost_table table;
	struct cost_shape small = { COPY_LOAD, 1, 1000, 1024 };

	(void)unused;
	measure(h100, &table);
	assert_int_equal(cost_choose(&table, (1u << COPY_KERNEL) - 1, &small), COPY_2D);
	small.rectangles = small.runs;
	assert_int_equal(cost_choose(&table, (1u << COPY_PATHS) - 1, &small), COPY_KERNEL);
	assert_int_equal(cost_choose(&table, 1u << COPY_LOOP | 1u << COPY_BATCH, &small),
			 COPY_BATCH);
	memset(table.lines[COPY_LOAD][COPY_BATCH], 0, sizeof(table.lines[0][0]));
	assert_int_equal(cost_choose(&table, 1u << COPY_LOOP | 1u << COPY_BATCH, &small),
			 COPY_LOOP);
	assert_true(isinf(cost_estimate(&table, COPY_BATCH, &small)));
	memset(&table, 0, sizeof(table));
	assert_int_equal(cost_choose(&table, (1u << COPY_PATHS) - 1, &small), COPY_LOOP);
}

static void noise_makes_no_line_that_falls(void **unused)
{
	struct cost_line line = cost_line_of((struct cost_time){ 16, 9000 },
					     (struct cost_time){ 256, 8000 });

	(void)unused;
	assert_true(line.run_ns > 0 && line.start_ns >= 0);
	line = cost_line_of((struct cost_time){ 16, 100 }, (struct cost_time){ 256, 1e6 });
	assert_true(line.start_ns == 0);
}

static void however_many_runs_were_measured_the_line_is_the_same(void **unused)
{
	(void)unused;
	for (uint32_t many = 3; many <= COST_MANY; many++) {
		struct cost_line line = cost_line_of(time_of(&h100[COPY_KERNEL], 2, 1 << 20),
						     time_of(&h100[COPY_KERNEL], many, 1 << 20));

		assert_true(fabsf(line.start_ns - 9000) < 9);
		assert_true(fabs(line.run_ns / model_ns(&h100[COPY_KERNEL], 0, 1, 1 << 20) - 1) <
			    0.001);
	}
}

/* For whichever lengths were measured. */
static void what_is_filled_in_is_never_less_than_the_truth(void **unused)
{
	struct cost_table all, table;

	(void)unused;
	measure(h100, &all);
	for (unsigned set = 1; set < 1u << COST_LENGTHS; set++) {
		table = all;
		for (unsigned n = 0; n < COST_LENGTHS; n++)
			if ((set & 1u << n) == 0)
				for (unsigned path = 0; path < COPY_PATHS; path++)
					table.lines[COPY_LOAD][path][n] = (struct cost_line){ 0 };
		memset(table.lines[COPY_STORE][COPY_2D], 0, sizeof(table.lines[0][0]));
		cost_fill(&table);
		for (uint64_t bytes = 512; bytes <= 16 << 20; bytes += bytes / 2) {
			struct cost_shape shape = { COPY_LOAD, 1, 64, bytes };

			for (unsigned path = 0; path < COPY_PATHS; path++)
				assert_true(cost_estimate(&table, (enum copy_path)path, &shape) >=
					    0.999 * truth((enum copy_path)path, &shape));
		}
		for (unsigned n = 0; n < COST_LENGTHS; n++)
			if ((set & 1u << n) != 0)
				assert_memory_equal(&table.lines[COPY_LOAD][COPY_LOOP][n],
						    &all.lines[COPY_LOAD][COPY_LOOP][n],
						    sizeof(struct cost_line));
		struct cost_shape nobody = { COPY_STORE, 1, 64, 65536 };
		assert_true(isinf(cost_estimate(&table, COPY_2D, &nobody)));
	}
}

static void costs_survive_as_text(void **unused)
{
	struct cost_table table, again;
	char text[COST_TEXT_BYTES];
	struct error error;

	(void)unused;
	measure(h100, &table);
	memset(table.lines[COPY_STORE][COPY_KERNEL], 0, sizeof(table.lines[0][0]));
	size_t bytes = cost_print(&table, OF, text);
	assert_int_equal(bytes, strlen(text));
	assert_int_equal(cost_read(text, OF, &again, &error), 0);
	for (unsigned direction = 0; direction < COPY_DIRECTIONS; direction++)
		for (unsigned path = 0; path < COPY_PATHS; path++)
			for (unsigned n = 0; n < COST_LENGTHS; n++) {
				struct cost_line *one = &table.lines[direction][path][n];
				struct cost_line *other = &again.lines[direction][path][n];

				assert_true(fabsf(one->run_ns - other->run_ns) <=
					    1e-4f * one->run_ns);
				assert_true(fabsf(one->start_ns - other->start_ns) <=
					    1e-4f * one->start_ns);
			}
}

static void text_of_another_device_or_damaged_text_is_refused(void **unused)
{
	struct cost_table table, again;
	char text[COST_TEXT_BYTES], cut[COST_TEXT_BYTES];
	struct error error;

	(void)unused;
	measure(h100, &table);
	size_t bytes = cost_print(&table, OF, text);
	assert_int_equal(cost_read(text, "GPU-0 driver 13.1", &again, &error), -ENOENT);
	assert_string_equal(error.text, "the copy costs are those of \"" OF "\"");
	for (size_t length = 0; length < bytes; length++) {
		memcpy(cut, text, length);
		cut[length] = '\0';
		/* whole lines are a table with fewer paths; loop's are in the first half */
		if (length == 0 || text[length - 1] != '\n' || length < bytes / 2)
			assert_int_equal(cost_read(cut, OF, &again, &error), -EINVAL);
	}
	for (const char *bad = "x-\n+ "; *bad != '\0'; bad++) {
		memcpy(cut, text, bytes + 1);
		cut[bytes / 2] = *bad;
		if (cut[bytes / 2] != text[bytes / 2] && (*bad == 'x' || *bad == '-'))
			assert_int_equal(cost_read(cut, OF, &again, &error), -EINVAL);
	}
	assert_int_equal(cost_read("", OF, &again, &error), -EINVAL);
}

static void a_direction_is_as_fast_as_its_cheapest_paths(void **unused)
{
	struct cost_table table;
	const unsigned all = (1u << COPY_PATHS) - 1;

	(void)unused;
	measure(h100, &table);
	struct cost_speed speed = cost_speed(&table, all, COPY_LOAD);
	/* 2D for many, whose rows cost the link's time and a gap of 60 ns; a call for one. */
	assert_in_range((uint64_t)speed.bytes_us, 51000, 53000);
	assert_true(speed.latency_us > 0.5 && speed.latency_us < 2);
	speed = cost_speed(&table, 1u << COPY_KERNEL, COPY_STORE);
	assert_in_range((uint64_t)speed.bytes_us, 46000, 48000);
	assert_true(speed.latency_us > 8.5 && speed.latency_us < 9.5);
	memset(&table, 0, sizeof(table));
	assert_true(cost_speed(&table, all, COPY_LOAD).bytes_us == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_choice_costs_hardly_more_than_the_best_one),
		cmocka_unit_test(at_a_measured_length_the_estimate_is_what_was_measured),
		cmocka_unit_test(a_path_that_is_not_there_or_not_allowed_is_not_chosen),
		cmocka_unit_test(noise_makes_no_line_that_falls),
		cmocka_unit_test(however_many_runs_were_measured_the_line_is_the_same),
		cmocka_unit_test(what_is_filled_in_is_never_less_than_the_truth),
		cmocka_unit_test(a_direction_is_as_fast_as_its_cheapest_paths),
		cmocka_unit_test(costs_survive_as_text),
		cmocka_unit_test(text_of_another_device_or_damaged_text_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
