/*
 * transfer/calibrate.h: measures what copies cost on an open device, and keeps the result.
 * Runs on: the device's thread, once, between opening the device and its first use.
 */
#ifndef KVTIER_TRANSFER_CALIBRATE_H
#define KVTIER_TRANSFER_CALIBRATE_H

#include "base/clock.h"
#include "base/error.h"
#include "transfer/cost.h"
#include "transfer/device.h"

#include <stdint.h>

#define CALIBRATE_BUDGET_US UINT64_C(300000)
/* How late the last copy may be, on a machine where all is busy, before the device is said to
 * hang. */
#define CALIBRATE_LATE_US UINT64_C(1000000)
/* On our side; on the device's as much, and a page a run. Longer runs are fewer, to fit in it. */
#define CALIBRATE_SCRATCH_BYTES (UINT64_C(16) << 20)

struct calibrate_config {
	uint8_t *scratch;       /* pinned in one piece, at a page's start; keeps its bytes */
	uint64_t scratch_bytes; /* >= CALIBRATE_SCRATCH_BYTES */
	struct clock *clock;
	uint64_t budget_us; /* CALIBRATE_BUDGET_US, unless somebody knows better */
	unsigned paths;     /* allowed: bits 1 << enum copy_path */
};

/*
 * Blocks for at most the budget, and what the driver takes for one call and for its memory. Each
 * length of cost_lengths is copied by each path that is there and allowed, and by COPY_LOOP, which
 * is what others fall back to; in both directions; again and again, and the medians count. What
 * matters most comes first. Where time runs out, cost_fill() says what follows from what was
 * measured; a path of which nothing was stays without costs, so it is not chosen. No copy begins
 * that may not end in time, as far as those before it tell; one that does not is waited for.
 *
 * 0: all was measured at least once; 1: not all, so that it is worth measuring again next time.
 * -ETIME: a copy did not end in CALIBRATE_LATE_US more, as on a device that hangs. -EIO: the device
 * is lost. After both, copies may be under way for all we know: the memory on either side is not to
 * be touched any more, and the process is to end. Other errors leave nothing behind.
 */
must_check int calibrate(struct device *device, const struct calibrate_config *config,
			 struct cost_table *out_table, struct error *error);

#define CALIBRATE_NAME_BYTES 200u
/* What the costs are true of: the device and its place, the driver, the paths. */
void calibrate_name(const struct device *device, unsigned paths, char name[CALIBRATE_NAME_BYTES]);

/* What calibrate_store() has kept in the file. -ENOENT: nothing, or that of something else.
 * -EINVAL: it is damaged. In each case, and any other, measuring again is right. */
must_check int calibrate_load(const char *file, const struct device *device, unsigned paths,
			      struct cost_table *out_table, struct error *error);
/* The file has the whole table, or what it had before. Writes beside it, to a name with ".new". */
must_check int calibrate_store(const char *file, const struct device *device, unsigned paths,
			       const struct cost_table *table, struct error *error);

/* Of the allowed paths, those that are measured. */
unsigned calibrate_paths(const struct device *device, unsigned allowed);

#endif
