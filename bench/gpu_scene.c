/* bench/gpu_scene.c: layouts, blocks in any order, and moving them all through the engine. */
#include "bench/gpu_scene.h"

#include "base/random.h"
#include "bench/micro.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES (2 * GPU_MIB)

/* ---- a layout, blocks in any order, an engine ---- */

/* Fragment by fragment, all blocks of each: what layers, and K and V of each, are in an engine. */
static int layout_make(struct gpu_scene *scene, struct error *error)
{
	const uint64_t bytes = BLOCK_BYTES / scene->fragments;
	struct layout_plane planes[GPU_FRAGMENTS_MAX];

	for (uint32_t n = 0; n < scene->fragments; n++)
		planes[n] = (struct layout_plane){ .offset = n * scene->blocks_count * bytes,
						   .stride = bytes,
						   .bytes = bytes };
	const struct layout_group_source group = { .blocks_count = scene->blocks_count,
						   .planes_count = scene->fragments,
						   .planes = planes };
	const struct layout_source source = { .regions_count = 1,
					      .groups_count = 1,
					      .region_bytes = &scene->bench->bytes,
					      .groups = &group };

	return layout_init(&scene->layout, &source, error);
}

static void moved(struct transfer *transfer, uint32_t blocks_done)
{
	(void)transfer;
	(void)blocks_done;
}

static void done(struct transfer *transfer, int result)
{
	struct gpu_flow *flow = (struct gpu_flow *)transfer;

	flow->is_under_way = false;
	flow->ends++;
	if (flow->result == 0 && result != -ECANCELED)
		flow->result = result;
}

static int flow_make(struct gpu_scene *scene, enum copy_direction direction, struct error *error)
{
	struct gpu_flow *flow = &scene->flows[direction];
	const struct gpu_bench *bench = scene->bench;
	bool is_store = direction == COPY_STORE;
	uint8_t *host = is_store ? gpu_host_target(bench)
				 : (uint8_t *)(uintptr_t)gpu_host_source(bench);
	struct random random;

	flow->blocks = calloc(scene->blocks_count, sizeof(*flow->blocks));
	if (flow->blocks == NULL)
		return error_set(error, -ENOMEM, "no memory for a list of blocks");
	random_init(&random, 1 + direction);
	for (uint32_t n = 0; n < scene->blocks_count; n++) {
		uint32_t other = (uint32_t)random_below(&random, n + 1);

		flow->blocks[n].host = host + n * BLOCK_BYTES;
		flow->blocks[n].number = flow->blocks[other].number;
		flow->blocks[other].number = n;
	}
	scene->bases[direction][0] = is_store ? gpu_device_source(bench) : gpu_device_target(bench);
	flow->transfer = (struct transfer){ .direction = direction,
					    .group = &scene->layout.groups[0],
					    .region_bases = scene->bases[direction],
					    .blocks = flow->blocks,
					    .blocks_count = scene->blocks_count,
					    .deadline_us = UINT64_MAX,
					    .moved = moved,
					    .done = done };
	return 0;
}

int gpu_engine_open(struct gpu_scene *scene, const struct cost_table *costs, uint64_t chunk_bytes,
		    struct error *error)
{
	const struct transfer_config config = { .device = &scene->bench->device,
						.costs = costs,
						.paths = (1u << COPY_PATHS) - 1,
						.chunk_bytes = chunk_bytes,
						.transfers_max = { 1, 1 } };

	return transfer_engine_create(&scene->engine, &config, error);
}

void gpu_engine_close(struct gpu_scene *scene)
{
	if (scene->bench->is_stuck)
		return; /* its transfers have not ended, and never will */
	transfer_engine_destroy(scene->engine);
	scene->engine = NULL;
}

void gpu_scene_finish(struct gpu_scene *scene)
{
	gpu_engine_close(scene);
	for (unsigned n = 0; n < COPY_DIRECTIONS; n++)
		free(scene->flows[n].blocks);
	layout_finish(&scene->layout);
}

int gpu_scene_init(struct gpu_scene *scene, struct gpu_bench *bench, uint32_t fragments,
		   struct error *error)
{
	int result;

	assert(fragments <= GPU_FRAGMENTS_MAX);
	*scene = (struct gpu_scene){ .bench = bench,
				     .fragments = fragments,
				     .blocks_count = (uint32_t)(bench->bytes / BLOCK_BYTES) };
	result = layout_make(scene, error);
	for (unsigned n = 0; result == 0 && n < COPY_DIRECTIONS; n++)
		result = flow_make(scene, (enum copy_direction)n, error);
	if (result < 0)
		gpu_scene_finish(scene);
	return result;
}

/* ---- moving all blocks ---- */

int gpu_flow_submit(struct gpu_scene *scene, enum copy_direction direction, struct error *error)
{
	struct gpu_flow *flow = &scene->flows[direction];
	int result = transfer_submit(scene->engine, &flow->transfer, error);

	flow->is_under_way = result == 0;
	return result;
}

int gpu_scene_step(struct gpu_scene *scene, double began, struct error *error)
{
	transfer_engine_step(scene->engine, (uint64_t)(micro_now() * 1e6), true);
	for (unsigned n = 0; n < COPY_DIRECTIONS; n++)
		if (scene->flows[n].ends > 0 && scene->flows[n].seconds == 0)
			scene->flows[n].seconds = micro_now() - began;
	if (transfer_engine_is_lost(scene->engine)) {
		scene->bench->is_stuck = true;
		return error_set(error, -EIO, "the device is lost");
	}
	if (micro_now() - began < scene->bench->part_seconds + GPU_END_SECONDS_MAX)
		return 0;
	scene->bench->is_stuck = true;
	return error_set(error, -ETIMEDOUT, "a transfer has not ended within %.0f s",
			 GPU_END_SECONDS_MAX);
}

int gpu_scene_drain(struct gpu_scene *scene, struct error *error)
{
	double began = micro_now();
	int result = 0;

	while (result == 0 &&
	       (scene->flows[COPY_STORE].is_under_way || scene->flows[COPY_LOAD].is_under_way))
		result = gpu_scene_step(scene, began, error);
	return result;
}

static bool is_over(const struct gpu_scene *scene, enum gpu_mode mode)
{
	for (unsigned n = 0; n < COPY_DIRECTIONS; n++)
		if (gpu_mode_has(mode, (enum copy_direction)n) && scene->flows[n].ends == 0)
			return false;
	return true;
}

/* Of the transfers so far. */
static int flows_result(const struct gpu_scene *scene, struct error *error)
{
	for (unsigned n = 0; n < COPY_DIRECTIONS; n++)
		if (scene->flows[n].result < 0)
			return error_set(error, scene->flows[n].result, "a transfer failed: %s",
					 strerror(-scene->flows[n].result));
	return 0;
}

/* All blocks of each direction once; who is done first begins anew, so that nobody is alone. */
static int scene_move(struct gpu_scene *scene, enum gpu_mode mode, struct error *error)
{
	double began = micro_now();
	int result = 0;

	for (unsigned n = 0; n < COPY_DIRECTIONS; n++) {
		scene->flows[n].ends = 0;
		scene->flows[n].seconds = 0;
	}
	while (result == 0 && !is_over(scene, mode)) {
		for (unsigned n = 0; result == 0 && n < COPY_DIRECTIONS; n++)
			if (gpu_mode_has(mode, (enum copy_direction)n) &&
			    !scene->flows[n].is_under_way)
				result = gpu_flow_submit(scene, (enum copy_direction)n, error);
		if (result == 0)
			result = gpu_scene_step(scene, began, error);
	}
	for (unsigned n = 0; n < COPY_DIRECTIONS; n++)
		if (!scene->bench->is_stuck && scene->flows[n].is_under_way)
			transfer_cancel(scene->engine, &scene->flows[n].transfer);
	return result < 0 ? result : gpu_scene_drain(scene, error);
}

/* Every fragment of every block: payloads beside an image of the device's memory. */
static int blocks_check(const struct gpu_scene *scene, enum copy_direction direction,
			struct error *error)
{
	const struct gpu_bench *bench = scene->bench;
	const uint64_t bytes = BLOCK_BYTES / scene->fragments;
	int result = 0;

	for (uint64_t n = 0; result == 0 && n < scene->blocks_count; n++) {
		uint64_t number = scene->flows[direction].blocks[n].number;

		for (uint64_t part = 0; result == 0 && part < scene->fragments; part++) {
			uint64_t packed = n * BLOCK_BYTES + part * bytes;
			uint64_t spread = (part * scene->blocks_count + number) * bytes;
			bool is_store = direction == COPY_STORE;

			result = gpu_compare(gpu_host_target(bench) + (is_store ? packed : spread),
					     gpu_host_source(bench) + (is_store ? spread : packed),
					     bytes, error);
		}
	}
	return result;
}

int gpu_scene_check(struct gpu_scene *scene, enum gpu_mode mode, struct error *error)
{
	int result = flows_result(scene, error);

	if (result == 0 && gpu_mode_has(mode, COPY_STORE))
		result = blocks_check(scene, COPY_STORE, error);
	if (result == 0 && gpu_mode_has(mode, COPY_LOAD)) {
		result = gpu_read_back(scene->bench, scene->bench->bytes, error);
		if (result == 0)
			result = blocks_check(scene, COPY_LOAD, error);
	}
	return result;
}

int gpu_scene_rate(struct gpu_scene *scene, enum gpu_mode mode, double *out_rate,
		   struct error *error)
{
	struct gpu_bench *bench = scene->bench;
	int result = gpu_clear(bench, mode, bench->bytes, error);

	if (result == 0)
		result = scene_move(scene, mode, error);
	if (result == 0)
		result = gpu_scene_check(scene, mode, error);
	if (result < 0)
		return result;
	*out_rate = 0;
	for (unsigned n = 0; n < COPY_DIRECTIONS; n++)
		if (gpu_mode_has(mode, (enum copy_direction)n))
			*out_rate += (double)(scene->blocks_count * BLOCK_BYTES) /
				     scene->flows[n].seconds / 1e9;
	return 0;
}
