/*
 * transfer/copy.h: what is to be copied between a device's memory and ours, and by which means.
 * A rectangle of bytes: `rows` runs of `bytes` each, at a constant distance on either side. One
 * run is a rectangle of one row. Rectangles of one copy do not overlap on the side written to.
 */
#ifndef KVTIER_TRANSFER_COPY_H
#define KVTIER_TRANSFER_COPY_H

#include <stdint.h>

enum copy_direction {
	COPY_STORE, /* device to host */
	COPY_LOAD,  /* host to device */
	COPY_DIRECTIONS
};

/* The same bytes by each; what a device lacks, it says. */
enum copy_path {
	COPY_LOOP,   /* a call a row */
	COPY_2D,     /* a call a rectangle */
	COPY_BATCH,  /* one call for all rows */
	COPY_KERNEL, /* one launch for all rows; takes multiprocessors from the engine */
	COPY_PATHS
};

struct copy_rectangle {
	uint64_t device;       /* address of the first byte, as the device's driver names it */
	uint8_t *host;         /* address of the first byte, pinned */
	uint64_t bytes;        /* of a row */
	uint64_t rows;         /* >= 1 */
	uint64_t device_pitch; /* bytes from row to row; rows == 1: not looked at */
	uint64_t host_pitch;
};

#endif
