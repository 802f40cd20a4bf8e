/* tests/gpu/transfer_scene.c: see transfer_scene.h. */
#include "tests/gpu/transfer_scene.h"

#include "base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static const uint64_t region_bytes[] = { RIG_DEVICE_BYTES };

struct scene scene;

/* Layer by layer, all K before all V, as engines of old keep it. */
static void layout_make(struct layout *layout)
{
	struct layout_plane planes[2 * LAYERS];
	struct error error;

	for (unsigned n = 0; n < 2 * LAYERS; n++)
		planes[n] = (struct layout_plane){ .offset = n * BLOCKS * ROW_BYTES,
						   .stride = ROW_BYTES,
						   .bytes = ROW_BYTES };
	const struct layout_group_source group = { .blocks_count = BLOCKS,
						   .planes_count = 2 * LAYERS,
						   .planes = planes };
	if (layout_init(layout,
			&(struct layout_source){ .regions_count = 1,
						 .groups_count = 1,
						 .region_bytes = region_bytes,
						 .groups = &group },
			&error) < 0)
		fail_msg("%s", error.text);
}

/* The path is the cheapest of all, so it is taken. */
static void costs_make(struct cost_table *costs, enum copy_path path)
{
	for (unsigned direction = 0; direction < COPY_DIRECTIONS; direction++)
		for (unsigned n = 0; n < COPY_PATHS; n++)
			for (unsigned length = 0; length < COST_LENGTHS; length++)
				costs->lines[direction][n][length] = (struct cost_line){
					.run_ns = n == (unsigned)path ? 1.0f : 1000.0f
				};
}

void scene_open(const struct transfer_config *with, enum copy_path path)
{
	struct transfer_config config = { .paths = (1u << COPY_PATHS) - 1,
					  .chunk_bytes = CHUNK_BYTES,
					  .transfers_max = { 3, 3 } };

	memset(&scene, 0, sizeof(scene));
	rig_init(&scene.rig, &device_cuda_ops);
	layout_make(&scene.layout);
	costs_make(&scene.costs, path);
	scene.bases[0] = scene.rig.memory.address;
	scene.now_us = 1000;
	if (with != NULL)
		config = *with;
	config.device = &scene.rig.device;
	config.costs = &scene.costs;
	if (transfer_engine_create(&scene.engine, &config, &scene.rig.error) < 0)
		fail_msg("%s", scene.rig.error.text);
}

void scene_close(void)
{
	transfer_engine_destroy(scene.engine);
	layout_finish(&scene.layout);
	rig_finish(&scene.rig);
}

static void moved(struct transfer *transfer, uint32_t blocks_done)
{
	struct move *move = (struct move *)transfer;

	assert_int_equal(move->ends, 0);
	assert_true(blocks_done <= transfer->blocks_count);
	assert_true(scene.order_count < ORDER_MAX);
	scene.order[scene.order_count++] = move->number;
	move->moves++;
}

static void done(struct transfer *transfer, int result)
{
	struct move *move = (struct move *)transfer;

	assert_true(result < 0 || transfer->blocks_done == transfer->blocks_count);
	move->ends++;
	move->result = result;
}

struct move *move_make(unsigned number, enum copy_direction direction, uint32_t count)
{
	struct move *move = &scene.moves[number];
	uint32_t ids[BLOCKS];
	struct random random;

	random_init(&random, number + 1);
	for (uint32_t n = 0; n < BLOCKS; n++)
		ids[n] = n;
	for (uint32_t n = 0; n < count; n++) {
		uint32_t other = n + (uint32_t)random_below(&random, BLOCKS - n), id = ids[n];

		ids[n] = ids[other];
		ids[other] = id;
		move->blocks[n] = (struct plan_block){
			.number = ids[n],
			.host = scene.rig.host + (number * (BLOCKS / HELD_MAX) + n) * SLOT_BYTES,
		};
	}
	move->number = number;
	move->transfer = (struct transfer){
		.direction = direction,
		.group = &scene.layout.groups[0],
		.region_bases = scene.bases,
		.blocks = move->blocks,
		.blocks_count = count,
		.deadline_us = UINT64_MAX,
		.moved = moved,
		.done = done,
	};
	return move;
}

void move_submit(struct move *move)
{
	if (transfer_submit(scene.engine, &move->transfer, &scene.rig.error) < 0)
		fail_msg("%s", scene.rig.error.text);
}

/* Where nothing is to be done the fake device's threads get their time. */
void scene_step(void)
{
	const struct timespec pause = { .tv_nsec = 20000 };

	scene.now_us++;
	if (!transfer_engine_step(scene.engine, scene.now_us, true))
		nanosleep(&pause, NULL);
}

void move_finish(struct move *move)
{
	for (unsigned n = 0; move->ends == 0 && n < STEPS_MAX; n++)
		scene_step();
	assert_int_equal(move->ends, 1);
}

void scene_stall(bool is_stalled)
{
	atomic_store(&rig_control->is_stalled, is_stalled);
}

static uint8_t *engine_row(uint32_t block, unsigned plane)
{
	return rig_peek(&scene.rig, (plane * BLOCKS + block) * ROW_BYTES);
}

/* Whether the slot has the engine's block. */
static bool block_is_equal(const struct plan_block *block)
{
	for (unsigned plane = 0; plane < 2 * LAYERS; plane++)
		if (memcmp(engine_row(block->number, plane), block->host + plane * ROW_BYTES,
			   ROW_BYTES) != 0)
			return false;
	return true;
}

void assert_copied(const struct move *move)
{
	for (uint32_t n = 0; n < move->transfer.blocks_count; n++)
		assert_true(block_is_equal(&move->blocks[n]));
}

void fill_engine(uint64_t seed)
{
	rig_fill(rig_peek(&scene.rig, 0), 2 * LAYERS * BLOCKS * ROW_BYTES, seed);
}
