/*
 * tests/transfer/test_layout_eras.c: tensors of every layout, and random ones: their blocks are the
 * boxes that they should be, and a plan copies each byte of them from where it is.
 */
#include "layout_eras.h"
#include "plan_oracle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define REGIONS_MAX ERA_TENSORS_MAX
#define RANDOM_TENSORS 1500u
#define RANDOM_ELEMENTS_MAX 20000u

/* Tensors of a group, and the layout that is made of their planes. */
struct rig {
	struct tensor tensors[ERA_TENSORS_MAX];
	unsigned tensors_count;
	struct layout_plane planes[LAYOUT_PLANES_MAX];
	unsigned planes_count;
	uint64_t region_bytes[REGIONS_MAX], region_bases[REGIONS_MAX];
	struct layout layout;
};

/* Regions are as small as may be, so that a plane which is too long is noticed. */
static void rig_measure(struct rig *rig)
{
	memset(rig->region_bytes, 0, sizeof(rig->region_bytes));
	rig->planes_count = 0;
	for (unsigned i = 0; i < rig->tensors_count; i++) {
		const struct tensor *tensor = &rig->tensors[i];
		uint64_t end = tensor->offset + tensor_span_bytes(tensor);

		if (rig->region_bytes[tensor->region] < end)
			rig->region_bytes[tensor->region] = end;
		rig->planes_count += tensor_planes(tensor, &rig->planes[rig->planes_count]);
	}
	for (unsigned i = 0; i < REGIONS_MAX; i++) {
		if (rig->region_bytes[i] == 0)
			rig->region_bytes[i] = 1;
		rig->region_bases[i] = (UINT64_C(0x7f0000) + i * 16) << 24;
	}
}

static void rig_init(struct rig *rig, uint32_t blocks_count)
{
	struct error error = { 0 };
	struct layout_group_source group = { blocks_count, 0, rig->planes };

	rig_measure(rig);
	group.planes_count = rig->planes_count;
	if (layout_init(&rig->layout,
			&(struct layout_source){ REGIONS_MAX, 1, rig->region_bytes, &group },
			&error) != 0)
		fail_msg("%s", error.text);
}

static struct oracle oracle_of(const struct rig *rig, struct random *random)
{
	return (struct oracle){
		.tensors = rig->tensors,
		.tensors_count = rig->tensors_count,
		.region_bases = rig->region_bases,
		.group = &rig->layout.groups[0],
		.random = random,
		.rectangles_max = 64,
	};
}

/* Every kind of block numbers and host places; from a row (or less) to more than all blocks. */
static void walk_all(const struct rig *rig, struct random *random)
{
	const struct layout_group *group = &rig->layout.groups[0];
	const uint64_t chunks[] = {
		group->boxes[0].bytes,         group->boxes[group->boxes_count - 1].bytes + 1,
		group->boxes[0].bytes / 3 + 1, group->payload_bytes,
		group->payload_bytes * 3 + 7,  UINT64_C(64) << 20,
	};
	struct oracle oracle = oracle_of(rig, random);
	unsigned chunk = (unsigned)random_below(random, 6);

	for (unsigned numbers = 0; numbers < ORACLE_NUMBERS; numbers++)
		for (unsigned places = 0; places < ORACLE_PLACES; places++)
			for (unsigned n = 0; n < 6; n++) {
				/* a large one: each size with some of the others */
				if (group->payload_bytes > 16384 && n > 0)
					break;
				oracle.numbers = numbers;
				oracle.places = places;
				oracle.chunk_bytes_max = chunks[chunk++ % 6];
				oracle.rectangles_max = 1 + (uint32_t)random_below(random, 64);
				oracle_walk(&oracle);
			}
}

static void expect_boxes(const struct era *era, const struct rig *rig)
{
	const struct layout_group *group = &rig->layout.groups[0];
	uint32_t boxes_count = era->boxes[0].count + era->boxes[1].count, rows_count = 0;
	uint64_t payload_bytes = 0;

	assert_int_equal(rig->planes_count, era->planes_count);
	assert_int_equal(group->boxes_count, boxes_count);
	for (unsigned i = 0; i < 2; i++) {
		const struct era_boxes *expected = &era->boxes[i];
		uint32_t found = 0;

		for (uint32_t n = 0; n < group->boxes_count; n++)
			found += group->boxes[n].rows == expected->rows &&
				 group->boxes[n].bytes == expected->bytes;
		assert_int_equal(found, expected->count);
		rows_count += expected->count * expected->rows;
		payload_bytes += expected->count * expected->rows * expected->bytes;
	}
	assert_int_equal(group->rows_count, rows_count);
	assert_int_equal(group->payload_bytes, payload_bytes);
}

/* All blocks in one chunk are two runs of four: the chunk is just as large as four. */
static void expect_pieces(const struct era_pieces *expected, enum oracle_places places,
			  const struct rig *rig, struct random *random)
{
	struct oracle oracle = oracle_of(rig, random);
	struct oracle_sum sum;

	oracle.places = places;
	oracle.chunk_bytes_max = 4 * rig->layout.groups[0].payload_bytes;
	sum = oracle_walk(&oracle);
	assert_int_equal(sum.chunks, ERA_BLOCKS / 4);
	assert_int_equal(sum.rectangles, ERA_BLOCKS / 4 * expected->rectangles);
	assert_int_equal(sum.rows, ERA_BLOCKS / 4 * expected->rows);
}

static void era_check(const struct era *era, struct random *random)
{
	static struct rig rig;

	printf("%s\n", era->name);
	memset(&rig, 0, sizeof(rig));
	rig.tensors_count = era_tensors(era, rig.tensors);
	rig_init(&rig, ERA_BLOCKS);
	expect_boxes(era, &rig);
	expect_pieces(&era->tight, PLACES_TIGHT, &rig, random);
	expect_pieces(&era->spaced, PLACES_SPACED, &rig, random);
	walk_all(&rig, random);
	layout_finish(&rig.layout);
}

static void every_layout_of_vllm_is_copied_in_as_few_pieces_as_it_has(void **unused)
{
	struct random random;

	(void)unused;
	random_init(&random, 6);
	for (unsigned i = 0; i < eras_count; i++)
		era_check(&eras[i], &random);
}

static void groups_over_the_same_bytes_are_copied_each_by_itself(void **unused)
{
	static struct rig rigs[2];
	struct random random;

	(void)unused;
	random_init(&random, 7);
	for (unsigned i = 0; i < era_overlays_count; i++) {
		const struct era_overlay *overlay = &era_overlays[i];
		struct layout_group_source groups[2];
		struct layout layout;

		printf("%s\n", overlay->name);
		for (unsigned n = 0; n < 2; n++) {
			rigs[n].tensors_count = era_tensors(&overlay->groups[n], rigs[n].tensors);
			rig_measure(&rigs[n]);
			groups[n] = (struct layout_group_source){ ERA_BLOCKS, rigs[n].planes_count,
								  rigs[n].planes };
			if (rigs[n].region_bytes[0] > rigs[0].region_bytes[0])
				rigs[0].region_bytes[0] = rigs[n].region_bytes[0];
			era_check(&overlay->groups[n], &random);
		}
		assert_int_equal(
			layout_init(&layout,
				    &(struct layout_source){ 1, 2, rigs[0].region_bytes, groups },
				    NULL),
			0);
		for (unsigned n = 0; n < 2; n++)
			assert_int_equal(layout.groups[n].payload_bytes,
					 overlay->groups[n].boxes[0].count *
						 overlay->groups[n].boxes[0].rows *
						 overlay->groups[n].boxes[0].bytes);
		layout_finish(&layout);
	}
}

/* ---- random ones ---- */

/* Dimensions of random sizes in a random order, now and then with a gap behind a row. */
static void tensor_random(struct random *random, struct tensor *tensor)
{
	unsigned order[TENSOR_DIMENSIONS_MAX];
	uint64_t stride = 1;

	tensor->element_bytes = 1u << random_below(random, 3);
	tensor->dimensions_count = 2 + (unsigned)random_below(random, TENSOR_DIMENSIONS_MAX - 1);
	tensor->block_dimension = (unsigned)random_below(random, tensor->dimensions_count);
	tensor->block_rows = 1 + (uint32_t)random_below(random, 2);
	for (unsigned i = 0; i < tensor->dimensions_count; i++) {
		unsigned other = (unsigned)random_below(random, i + 1);

		tensor->shape[i] = 1 + (uint32_t)random_below(random, 5);
		order[i] = order[other];
		order[other] = i;
	}
	tensor->shape[tensor->block_dimension] = ERA_BLOCKS * tensor->block_rows;
	for (unsigned i = 0; i < tensor->dimensions_count; i++) {
		tensor->strides[order[i]] = stride;
		stride *= tensor->shape[order[i]];
		if (random_below(random, 4) == 0)
			stride += random_below(random, 6);
	}
}

/* Layers: in allocations of their own, one behind the other, or one between the other's rows. */
static void rig_random(struct rig *rig, struct random *random)
{
	struct tensor first = { 0 };
	unsigned where = (unsigned)random_below(random, 3);
	uint64_t step;

	tensor_random(random, &first);
	step = tensor_span_bytes(&first) + random_below(random, 3) * first.element_bytes;
	rig->tensors_count = 1 + (unsigned)random_below(random, ERA_TENSORS_MAX);
	if (where == 2) {
		step = first.strides[first.block_dimension] * first.element_bytes;
		for (unsigned i = 0; i < first.dimensions_count; i++)
			if (i == first.block_dimension ||
			    first.strides[i] > first.strides[first.block_dimension])
				first.strides[i] *= rig->tensors_count;
		if (first.block_rows > 1 || step < 1)
			step = tensor_span_bytes(&first);
	}
	for (unsigned i = 0; i < rig->tensors_count; i++) {
		rig->tensors[i] = first;
		rig->tensors[i].region = where == 0 ? i : 0;
		rig->tensors[i].offset = where == 0 ? random_below(random, 100) : i * step;
	}
}

static void walk_some(const struct rig *rig, struct random *random)
{
	struct oracle oracle = oracle_of(rig, random);

	for (unsigned i = 0; i < 4; i++) {
		oracle.numbers = (enum oracle_numbers)random_below(random, ORACLE_NUMBERS);
		oracle.places = (enum oracle_places)random_below(random, ORACLE_PLACES);
		oracle.chunk_bytes_max = 1 + random_below(random, 5 * oracle.group->payload_bytes);
		oracle.rectangles_max = 1 + (uint32_t)random_below(random, 64);
		oracle_walk(&oracle);
	}
}

static void any_tensors_are_copied_byte_for_byte(void **unused)
{
	static struct rig rig;
	struct random random;
	unsigned boxes_of_rows = 0;

	(void)unused;
	for (unsigned seed = 0; seed < RANDOM_TENSORS; seed++) {
		random_init(&random, seed);
		memset(&rig, 0, sizeof(rig));
		do
			rig_random(&rig, &random);
		while (tensor_span_bytes(&rig.tensors[0]) > RANDOM_ELEMENTS_MAX);
		rig_init(&rig, ERA_BLOCKS);
		walk_some(&rig, &random);
		boxes_of_rows += rig.layout.groups[0].boxes[0].rows > 1;
		layout_finish(&rig.layout);
	}
	assert_true(boxes_of_rows > RANDOM_TENSORS / 8);
}

/* Planes of two sizes at one or two strides, with gaps of two sizes or none, in any order, in one
 * region or two: nearly boxes, but not quite. */
static void rig_random_planes(struct rig *rig, struct random *random)
{
	uint64_t sizes[2] = { 1 + random_below(random, 6), 1 + random_below(random, 6) };
	uint64_t offset = 0, strides[2];
	bool are_shuffled = random_below(random, 2) == 0;

	rig->tensors_count = 2 + (unsigned)random_below(random, ERA_TENSORS_MAX - 1);
	strides[0] = rig->tensors_count * 20;
	strides[1] = strides[0] * (1 + random_below(random, 2));
	for (unsigned i = 0; i < rig->tensors_count; i++) {
		unsigned at = are_shuffled ? (unsigned)random_below(random, i + 1) : i;

		rig->tensors[i] = rig->tensors[at];
		rig->tensors[at] = (struct tensor){
			.region = random_below(random, 6) == 0,
			.element_bytes = 1,
			.offset = offset,
			.dimensions_count = 2,
			.block_rows = 1,
			.shape = { ERA_BLOCKS, (uint32_t)sizes[random_below(random, 2)] },
			.strides = { strides[random_below(random, 2)], 1 },
		};
		offset += rig->tensors[at].shape[1] + random_below(random, 2) * sizes[0];
	}
}

static void any_planes_are_copied_byte_for_byte(void **unused)
{
	static struct rig rig;
	struct random random;

	(void)unused;
	for (unsigned seed = 0; seed < RANDOM_TENSORS; seed++) {
		random_init(&random, seed);
		memset(&rig, 0, sizeof(rig));
		rig_random_planes(&rig, &random);
		rig_init(&rig, ERA_BLOCKS);
		walk_some(&rig, &random);
		layout_finish(&rig.layout);
	}
}

int main(int arguments_count, char **arguments)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_layout_of_vllm_is_copied_in_as_few_pieces_as_it_has),
		cmocka_unit_test(groups_over_the_same_bytes_are_copied_each_by_itself),
		cmocka_unit_test(any_tensors_are_copied_byte_for_byte),
		cmocka_unit_test(any_planes_are_copied_byte_for_byte),
	};

	if (arguments_count == 2 && strcmp(arguments[1], "--print") == 0) {
		eras_print(stdout);
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
