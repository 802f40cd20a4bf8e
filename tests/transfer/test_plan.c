/* tests/transfer/test_plan.c: what a plan joins, where it cuts, and when it calls blocks done;
 * which bytes it names is shown by test_layout_eras.c. */
#include "transfer/plan.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BASE UINT64_C(0x7f0000000000)
#define BLOCKS_MAX 1000u

/* Blocks of 3 layers of 100 bytes; layers 2^40 bytes apart. */
static const struct layout_box layers = {
	.rows = 3,
	.bytes = 100,
	.offset = 4,
	.stride = 112,
	.pitch = UINT64_C(1) << 40,
	.payload_pitch = 100,
};
/* Blocks of one piece, one behind the other. */
static const struct layout_box whole = {
	.rows = 1,
	.bytes = 300,
	.stride = 300,
	.pitch = 300,
	.payload_pitch = 300,
};

struct rig {
	struct layout_box box;
	struct layout_group group;
	uint64_t region_base;
	struct plan_block blocks[BLOCKS_MAX];
	uint8_t memory[BLOCKS_MAX * 320];
	struct plan plan;
	struct copy_rectangle rectangles[8];
	uint32_t blocks_done;
};

/* Blocks 0, 1, ... whose payloads lie `distance` bytes apart. */
static struct rig *rig_begin(const struct layout_box *box, uint32_t blocks_count, uint64_t distance,
			     uint64_t chunk_bytes_max)
{
	static struct rig rig;

	memset(&rig, 0, sizeof(rig));
	rig.box = *box;
	rig.group = (struct layout_group){
		.blocks_count = UINT32_MAX,
		.boxes_count = 1,
		.rows_count = box->rows,
		.payload_bytes = 300,
		.boxes = &rig.box,
	};
	rig.region_base = BASE;
	for (uint32_t i = 0; i < blocks_count; i++)
		rig.blocks[i] = (struct plan_block){ i, rig.memory + i * distance };
	plan_init(&rig.plan, &(struct plan_source){
				     .group = &rig.group,
				     .region_bases = &rig.region_base,
				     .blocks = rig.blocks,
				     .blocks_count = blocks_count,
				     .chunk_bytes_max = chunk_bytes_max,
			     });
	return &rig;
}

static uint32_t next(struct rig *rig, uint32_t rectangles_max)
{
	return plan_next(&rig->plan, rig->rectangles, rectangles_max, &rig->blocks_done);
}

static void a_block_that_the_group_has_not_is_refused(void **unused)
{
	struct rig *rig = rig_begin(&whole, 3, 300, 4096);
	struct error error = { 0 };

	(void)unused;
	rig->group.blocks_count = 3;
	assert_int_equal(plan_check(&rig->group, rig->blocks, 3, &error), 0);
	rig->blocks[1].number = 3;
	assert_int_equal(plan_check(&rig->group, rig->blocks, 3, &error), -EINVAL);
	assert_string_equal(error.text,
			    "block 1 of the job is the engine's block 3; the group has 3 (0 to 2)");
	rig->blocks[1].number = UINT32_MAX;
	assert_int_equal(plan_check(&rig->group, rig->blocks, 3, NULL), -EINVAL);
}

static void no_blocks_are_no_chunk(void **unused)
{
	struct rig *rig = rig_begin(&whole, 0, 300, 4096);

	(void)unused;
	assert_int_equal(next(rig, 8), 0);
	assert_int_equal(rig->blocks_done, 0);
}

static void addresses_are_of_64_bits(void **unused)
{
	struct rig *rig = rig_begin(&layers, 1, 300, 4096);

	(void)unused;
	rig->box.stride = UINT64_C(1) << 31;
	rig->box.offset = UINT64_C(1) << 33;
	rig->blocks[0].number = UINT32_MAX - 1;
	assert_int_equal(next(rig, 8), 1);
	assert_int_equal(rig->rectangles[0].device,
			 BASE + (UINT64_C(1) << 33) +
				 (UINT32_MAX - UINT64_C(1)) * (UINT64_C(1) << 31));
	assert_int_equal(rig->rectangles[0].device_pitch, UINT64_C(1) << 40);
}

static void blocks_that_follow_each_other_are_one_row(void **unused)
{
	struct rig *rig = rig_begin(&whole, BLOCKS_MAX, 300, UINT64_C(64) << 20);

	(void)unused;
	assert_int_equal(next(rig, 8), 1);
	assert_int_equal(rig->rectangles[0].bytes, 300 * BLOCKS_MAX);
	assert_int_equal(rig->rectangles[0].rows, 1);
	assert_int_equal(rig->blocks_done, BLOCKS_MAX);
	assert_int_equal(next(rig, 8), 0);
	assert_int_equal(rig->blocks_done, BLOCKS_MAX);
}

static void blocks_at_a_distance_are_rows(void **unused)
{
	struct rig *rig = rig_begin(&whole, BLOCKS_MAX, 320, UINT64_C(64) << 20);

	(void)unused;
	rig->blocks[10].number = BLOCKS_MAX; /* ends one run; 11 begins another */
	assert_int_equal(next(rig, 8), 3);
	assert_int_equal(rig->rectangles[0].rows, 10);
	assert_int_equal(rig->rectangles[0].device_pitch, 300);
	assert_int_equal(rig->rectangles[0].host_pitch, 320);
	assert_int_equal(rig->rectangles[1].rows, 1);
	assert_int_equal(rig->rectangles[2].rows, BLOCKS_MAX - 11);
	assert_int_equal(rig->blocks_done, BLOCKS_MAX);
}

static void layers_or_blocks_are_the_rows_whichever_are_more(void **unused)
{
	struct rig *rig = rig_begin(&layers, 2, 320, UINT64_C(64) << 20);

	(void)unused;
	assert_int_equal(next(rig, 8), 2);
	assert_int_equal(rig->rectangles[1].rows, 3);
	assert_int_equal(rig->rectangles[1].device, BASE + 4 + 112);
	rig = rig_begin(&layers, 5, 320, UINT64_C(64) << 20);
	assert_int_equal(next(rig, 8), 3);
	assert_int_equal(rig->rectangles[1].rows, 5);
	assert_int_equal(rig->rectangles[1].device, BASE + 4 + (UINT64_C(1) << 40));
	assert_int_equal(rig->rectangles[1].device_pitch, 112);
	assert_ptr_equal(rig->rectangles[1].host, rig->memory + 100);
}

static void payloads_that_overlap_or_go_down_are_not_joined(void **unused)
{
	struct rig *rig = rig_begin(&whole, 2, 299, 4096);

	(void)unused;
	assert_int_equal(next(rig, 8), 2);
	rig = rig_begin(&whole, 2, 300, 4096);
	rig->blocks[0].host = rig->memory + 300;
	rig->blocks[1].host = rig->memory;
	assert_int_equal(next(rig, 8), 2);
}

static void rows_are_cut_only_where_they_are_longer_than_a_chunk(void **unused)
{
	struct rig *rig = rig_begin(&layers, 1, 300, 250);

	(void)unused;
	assert_int_equal(next(rig, 8), 1);
	assert_int_equal(rig->rectangles[0].rows, 2);
	assert_int_equal(rig->blocks_done, 0);
	assert_int_equal(next(rig, 8), 1);
	assert_int_equal(rig->rectangles[0].rows, 1);
	assert_int_equal(rig->rectangles[0].device, BASE + 4 + (UINT64_C(2) << 40));
	assert_ptr_equal(rig->rectangles[0].host, rig->memory + 200);
	assert_int_equal(rig->blocks_done, 1);

	rig = rig_begin(&layers, 1, 300, 60);
	for (unsigned chunk = 0; chunk < 5; chunk++) {
		static const struct {
			uint32_t count;
			uint64_t bytes[2];
		} expected[] = { { 1, { 60 } },
				 { 2, { 40, 20 } },
				 { 1, { 60 } },
				 { 2, { 20, 40 } },
				 { 1, { 60 } } };

		assert_int_equal(next(rig, 8), expected[chunk].count);
		for (uint32_t i = 0; i < expected[chunk].count; i++)
			assert_int_equal(rig->rectangles[i].bytes, expected[chunk].bytes[i]);
		assert_int_equal(rig->blocks_done, chunk == 4);
	}
}

static void blocks_that_go_together_are_done_when_the_last_rectangle_is(void **unused)
{
	struct rig *rig = rig_begin(&layers, 5, 320, 1500);

	(void)unused;
	assert_int_equal(next(rig, 2), 2);
	assert_int_equal(rig->blocks_done, 0);
	assert_int_equal(next(rig, 2), 1);
	assert_int_equal(rig->blocks_done, 5);
	assert_int_equal(next(rig, 2), 0);
}

static void only_as_many_blocks_go_together_as_fit_into_a_chunk(void **unused)
{
	struct rig *rig = rig_begin(&layers, 8, 320, 1500); /* of 5 blocks */

	(void)unused;
	assert_int_equal(next(rig, 8), 3);
	assert_int_equal(rig->blocks_done, 5);
	assert_int_equal(next(rig, 8), 3);
	assert_int_equal(rig->blocks_done, 8);
	assert_int_equal(rig->rectangles[0].rows, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_block_that_the_group_has_not_is_refused),
		cmocka_unit_test(no_blocks_are_no_chunk),
		cmocka_unit_test(addresses_are_of_64_bits),
		cmocka_unit_test(blocks_that_follow_each_other_are_one_row),
		cmocka_unit_test(blocks_at_a_distance_are_rows),
		cmocka_unit_test(layers_or_blocks_are_the_rows_whichever_are_more),
		cmocka_unit_test(payloads_that_overlap_or_go_down_are_not_joined),
		cmocka_unit_test(rows_are_cut_only_where_they_are_longer_than_a_chunk),
		cmocka_unit_test(blocks_that_go_together_are_done_when_the_last_rectangle_is),
		cmocka_unit_test(only_as_many_blocks_go_together_as_fit_into_a_chunk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
