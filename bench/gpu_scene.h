/*
 * bench/gpu_scene.h: the transfer engine over a benchmark's device, with an inference engine's
 * blocks in one of its layouts: each is BLOCK_BYTES, in so many fragments.
 * Runs on: the device's thread.
 */
#ifndef KVTIER_BENCH_GPU_SCENE_H
#define KVTIER_BENCH_GPU_SCENE_H

#include "bench/gpu_bench.h"
#include "transfer/transfer.h"

#define GPU_FRAGMENTS_MAX 64u

/* One direction: all blocks, in an order of its own. */
struct gpu_flow {
	struct transfer transfer; /* first: transfers are flows */
	struct plan_block *blocks;
	bool is_under_way;
	unsigned ends;
	int result;     /* of the first that failed */
	double seconds; /* until the first end */
};

struct gpu_scene {
	struct gpu_bench *bench;
	struct layout layout;
	uint32_t fragments; /* of a block */
	uint32_t blocks_count;
	uint64_t bases[COPY_DIRECTIONS][1];
	struct gpu_flow flows[COPY_DIRECTIONS];
	struct transfer_engine *engine;
};

must_check int gpu_scene_init(struct gpu_scene *scene, struct gpu_bench *bench, uint32_t fragments,
			      struct error *error);
/* Nothing is under way, or the device is stuck. */
void gpu_scene_finish(struct gpu_scene *scene);
must_check int gpu_engine_open(struct gpu_scene *scene, const struct cost_table *costs,
			       uint64_t chunk_bytes, struct error *error);
void gpu_engine_close(struct gpu_scene *scene);
must_check int gpu_flow_submit(struct gpu_scene *scene, enum copy_direction direction,
			       struct error *error);
/* One pass of the engine, in what began then; negative: the device is stuck, or lost. */
must_check int gpu_scene_step(struct gpu_scene *scene, double began, struct error *error);
/* Until nothing is under way. */
int gpu_scene_drain(struct gpu_scene *scene, struct error *error);
/* All blocks, cleared before and checked after: GB/s, of both directions the sum of their rates. */
must_check int gpu_scene_rate(struct gpu_scene *scene, enum gpu_mode mode, double *out_rate,
			      struct error *error);
/* Every fragment of every block that was moved. */
must_check int gpu_scene_check(struct gpu_scene *scene, enum gpu_mode mode, struct error *error);

#endif
