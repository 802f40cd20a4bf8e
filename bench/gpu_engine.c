/* bench/gpu_engine.c: the transfer engine beside plain copies, in pairs. */
#include "bench/gpu_scene.h"

#include "bench/micro.h"

#include <stdio.h>

#define GOAL_ONE_WAY 0.97
#define GOAL_BOTH 0.95

static int engine_pairs(struct gpu_scene *scene, double seconds,
			struct measure_pairs pairs[GPU_MODES], struct error *error)
{
	double until = micro_now() + seconds, ours, plain;

	while (pairs[0].count < MEASURE_PAIRS_MIN ||
	       (micro_now() < until && pairs[0].count < MEASURE_PAIRS_MAX))
		for (unsigned mode = 0; mode < GPU_MODES; mode++) {
			int result = gpu_plain(scene->bench, (enum gpu_mode)mode, &plain, error);

			if (result == 0)
				result = gpu_scene_rate(scene, (enum gpu_mode)mode, &ours, error);
			if (result < 0)
				return result;
			measure_pairs_add(&pairs[mode], ours, plain);
		}
	return 0;
}

static const struct {
	const char *name;
	uint32_t fragments;
} shapes[] = { { "2m", 1 }, { "64k", 32 }, { "8b_split", 64 } };
#define SHAPES_COUNT (sizeof(shapes) / sizeof(shapes[0]))

static int shape_run(struct gpu_bench *bench, const struct cost_table *costs, uint32_t fragments,
		     struct measure_pairs pairs[GPU_MODES], struct error *error)
{
	struct gpu_scene scene;
	int result = gpu_scene_init(&scene, bench, fragments, error);

	if (result < 0)
		return result;
	result = gpu_engine_open(&scene, costs, GPU_CHUNK_BYTES, error);
	if (result == 0)
		result = engine_pairs(&scene, bench->part_seconds / SHAPES_COUNT, pairs, error);
	if (result < 0 && !bench->is_stuck)
		(void)gpu_scene_drain(&scene, NULL);
	gpu_scene_finish(&scene);
	return result;
}

int gpu_engine(struct gpu_bench *bench, struct error *error)
{
	static struct measure_pairs pairs[SHAPES_COUNT][GPU_MODES];
	struct cost_table costs;
	char name[MEASURE_NAME_BYTES];
	int result = gpu_costs(bench, &costs, error);

	for (unsigned n = 0; result == 0 && n < SHAPES_COUNT; n++)
		result = shape_run(bench, &costs, shapes[n].fragments, pairs[n], error);
	if (result < 0)
		return result;
	for (unsigned n = 0; n < SHAPES_COUNT; n++)
		for (unsigned mode = 0; mode < GPU_MODES; mode++) {
			snprintf(name, sizeof(name), "engine_%s_%s", shapes[n].name,
				 gpu_mode_name((enum gpu_mode)mode));
			measures_add_pairs(&bench->measures, name, &pairs[n][mode], "GB/s",
					   MEASURE_HIGHER)
				->goal = mode == GPU_BOTH ? GOAL_BOTH : GOAL_ONE_WAY;
		}
	return 0;
}
