/*
 * transfer/cost.h: what copies cost by each path, measured, and which path is cheapest.
 *
 * For each direction, path and length of a run there are two numbers, a line through the times of
 * few and of many runs: the start of a copy, and each of its runs. Between the lengths that were
 * measured the cost of a run is interpolated; beyond the longest it grows with the bytes. Both
 * effects that matter are in the numbers: the submission of a run costs the same however short it
 * is (0.5 us for a batch on an H100), and bytes cost the link's time.
 *
 * The numbers are a device's, with a driver, so they may be kept under both names as text.
 * Pure functions; any thread.
 */
#ifndef KVTIER_TRANSFER_COST_H
#define KVTIER_TRANSFER_COST_H

#include "base/error.h"
#include "transfer/copy.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COST_LENGTHS 7u
/* Bytes of a run that are measured; ascending. */
extern const uint64_t cost_lengths[COST_LENGTHS];
/* Runs of a copy that are measured. */
#define COST_FEW 16u
#define COST_MANY 256u

struct cost_line {
	float start_ns, run_ns; /* run_ns 0: not measured, the path is not there */
};

struct cost_table {
	struct cost_line lines[COPY_DIRECTIONS][COPY_PATHS][COST_LENGTHS];
};

/* What a copy of so many runs took. */
struct cost_time {
	uint32_t runs;
	double ns;
};

/* What two measured times of runs of one length say, COST_FEW and COST_MANY where memory allows;
 * noise that would make many runs cheaper than few, or a start that costs less than nothing, is
 * taken out. */
struct cost_line cost_line_of(struct cost_time few, struct cost_time many);

/* Gives the lengths that were not measured what follows from those that were, for each path of
 * which any was: between two and beyond the longest as above; below the shortest, its costs. As a
 * run costs its submission or its bytes' time, whichever is more, costs over bytes bend upwards
 * only: what is filled in is never too low, so no path is chosen for what nobody has measured. */
void cost_fill(struct cost_table *table);

/* A copy, as far as its cost depends on it. */
struct cost_shape {
	enum copy_direction direction;
	uint64_t rectangles, runs; /* runs: rows of all */
	uint64_t run_bytes;        /* of a row, on average */
};

/* In nanoseconds; infinite for a path that was not measured. */
double cost_estimate(const struct cost_table *table, enum copy_path path,
		     const struct cost_shape *shape);

/* The cheapest of the paths in `allowed` (bits 1 << enum copy_path), the first of equal ones;
 * COPY_LOOP where none was measured. */
enum copy_path cost_choose(const struct cost_table *table, unsigned allowed,
			   const struct cost_shape *shape);

/* What a direction gives by the cheapest of the paths in `allowed`. */
struct cost_speed {
	double latency_us; /* of a lone run, without the time of its bytes */
	double bytes_us;   /* 0: nothing was measured */
};

#define COST_SPEED_RUN_BYTES (UINT64_C(64) << 10)

struct cost_speed cost_speed(const struct cost_table *table, unsigned allowed,
			     enum copy_direction direction);

/* "batch", ...: a word for people and files. */
const char *cost_path_name(enum copy_path path);

#define COST_TEXT_BYTES 4096u
/* As text, with what it is true of (device, driver, ...) in its first line; returns its length. */
size_t cost_print(const struct cost_table *table, const char *of, char text[COST_TEXT_BYTES]);
/* -EINVAL: not such a text; -ENOENT: it is of something else. */
must_check int cost_read(const char *text, const char *of, struct cost_table *out_table,
			 struct error *error);

#endif
