/*
 * bench/raw_io.h: the ceiling of a disk: io_uring with O_DIRECT, registered buffers and file, and
 * nothing around it. Speaks to the kernel itself, so that it measures nothing of ours, and needs no
 * library.
 */
#ifndef KVTIER_BENCH_RAW_IO_H
#define KVTIER_BENCH_RAW_IO_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define RAW_IO_DEPTH_MAX 256u

struct raw_io {
	const char *path;     /* exists and is written: unwritten extents are slower */
	uint64_t offset;      /* of the range; 4 KiB aligned */
	uint64_t range_bytes; /* a whole number of blocks is used */
	uint32_t block_bytes; /* multiple of 4 KiB */
	uint32_t queue_depth;
	bool is_write;         /* overwrites the range */
	uint64_t blocks_count; /* how many to move, one behind the other as a chain lies on disk */
	uint64_t first_block;  /* where to begin in the range; goes round */
};

/* Blocks. -ENOSYS, -EPERM: no io_uring here. */
must_check int raw_io_run(const struct raw_io *raw, double *out_blocks_second, struct error *error);

#endif
