/*
 * bench/gpu_bench.h: the measures of `kvtier-bench gpu`: what the transfer engine makes of one
 * device, beside what the device gives for large plain copies, in one process.
 *
 * There are two areas on either side. Stores go from the device's source to the host's target,
 * loads from the host's source to the device's target; both sources hold the same bytes. A target
 * is cleared before what is measured and looked at after it, so every number is one of bytes that
 * arrived. (Of copies that are made again and again in between, the last is looked at.)
 * Runs on: one thread, on a machine that does nothing else.
 */
#ifndef KVTIER_BENCH_GPU_BENCH_H
#define KVTIER_BENCH_GPU_BENCH_H

#include "bench/measures.h"
#include "transfer/cost.h"
#include "transfer/device.h"

#include <stdbool.h>
#include <stdint.h>

#define GPU_MIB (UINT64_C(1) << 20)
#define GPU_PIECE_BYTES (64 * GPU_MIB) /* of a plain copy, which 100 % is made of */
#define GPU_CHUNK_BYTES (2 * GPU_MIB)  /* of the transfer engine */
#define GPU_KERNEL_BLOCKS 8u           /* unless these are what is measured */
#define GPU_SMALL_BYTES 4096u          /* a copy of an engine's own */
#define GPU_SMALL_SLOTS 64u
#define GPU_CELLS_MAX 144u
#define GPU_PARTS_MAX 8u
#define GPU_STATE_BYTES 260u
#define GPU_END_SECONDS_MAX 30.0 /* until a copy must be done */

enum gpu_mode { GPU_STORE, GPU_LOAD, GPU_BOTH, GPU_MODES };

/* One of the sweep: `runs` runs of `run_bytes`. */
struct gpu_cell {
	enum copy_direction direction;
	enum copy_path path;
	uint64_t run_bytes;
	uint32_t runs;
	unsigned samples;
	double rate, rate_low, rate_high; /* GB/s: median and quartiles */
	double submit_us;                 /* a run; median */
};

/* What became of a part. */
struct gpu_outcome {
	const char *name;
	char state[GPU_STATE_BYTES]; /* "measured", "not here: why", "failed: why" */
	double seconds;
};

struct gpu_bench {
	const struct device_ops *ops;
	const char *library, *commit; /* NULL: the usual one; unknown */
	char bus_id[32];
	uint64_t bytes;      /* of each of the four areas; a multiple of 4 MiB */
	double part_seconds; /* of the part that runs */
	struct device device;
	bool is_open;
	bool is_stuck; /* a copy does not end: its memory is left to the end of the process */
	struct device_memory memory;
	uint8_t *host;
	struct measures measures;
	struct gpu_cell cells[GPU_CELLS_MAX];
	unsigned cells_count;
	struct gpu_outcome outcomes[GPU_PARTS_MAX];
	unsigned outcomes_count;
};

/* ---- gpu_rig.c: the device, and its areas ---- */

/* NULL: by trying. -ENODEV: there is no GPU that can be opened. */
must_check int gpu_bench_choose(struct gpu_bench *bench, const char *vendor, const char *bus_id,
				struct error *error);
/* Opens the device, and fills both sources. */
must_check int gpu_bench_open(struct gpu_bench *bench, uint32_t kernel_blocks, struct error *error);
void gpu_bench_close(struct gpu_bench *bench);
uint64_t gpu_device_source(const struct gpu_bench *bench);
uint64_t gpu_device_target(const struct gpu_bench *bench);
uint64_t gpu_device_small(const struct gpu_bench *bench);
uint8_t *gpu_host_target(const struct gpu_bench *bench);
const uint8_t *gpu_host_source(const struct gpu_bench *bench);
uint8_t *gpu_host_small(const struct gpu_bench *bench);

/* ---- gpu_move.c: plain copies, and whether bytes arrived ---- */

/* One copy, until it is done; how long its submission took, and all of it. */
must_check int gpu_copy(struct gpu_bench *bench, enum device_queue queue,
			const struct device_copy *copy, double out_seconds[2], struct error *error);
/* bytes in one row, by COPY_LOOP. */
must_check int gpu_copy_plain(struct gpu_bench *bench, enum device_queue queue, uint64_t device,
			      const uint8_t *host, uint64_t bytes, struct error *error);
/* Zeroes in the first `bytes` of the mode's targets. */
must_check int gpu_clear(struct gpu_bench *bench, enum gpu_mode mode, uint64_t bytes,
			 struct error *error);
/* The device's target, into the host's. */
must_check int gpu_read_back(struct gpu_bench *bench, uint64_t bytes, struct error *error);
/* -EILSEQ, worded, where they differ. */
must_check int gpu_compare(const uint8_t *found, const uint8_t *wanted, uint64_t bytes,
			   struct error *error);
/* All bytes by copies of GPU_PIECE_BYTES, cleared before and checked after: GB/s; of both
 * directions the sum of their rates, neither of which is ever alone. */
must_check int gpu_plain(struct gpu_bench *bench, enum gpu_mode mode, double *out_rate,
			 struct error *error);
bool gpu_mode_has(enum gpu_mode mode, enum copy_direction direction);
const char *gpu_mode_name(enum gpu_mode mode);

/* ---- gpu_sweep.c ---- */

/* What paths cost here, for the engine's choice. */
must_check int gpu_costs(struct gpu_bench *bench, struct cost_table *out_costs,
			 struct error *error);

/* ---- the parts: each adds its measures once all are there. 0; 1: the device lacks what they are
 * of, worded; or a negative errno ---- */

int gpu_peak(struct gpu_bench *bench, struct error *error);
int gpu_pin_speed(struct gpu_bench *bench, struct error *error);
int gpu_sweep(struct gpu_bench *bench, struct error *error);
int gpu_kernel_blocks(struct gpu_bench *bench, struct error *error);
int gpu_engine(struct gpu_bench *bench, struct error *error);
int gpu_small_copy(struct gpu_bench *bench, struct error *error);

/* ---- gpu_report.c ---- */

const char *gpu_path_name(enum copy_path path);
void gpu_report_print(const struct gpu_bench *bench, FILE *file);
must_check int gpu_report_write(const struct gpu_bench *bench, const char *path,
				struct error *error);

#endif
