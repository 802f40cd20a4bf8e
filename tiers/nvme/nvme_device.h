/*
 * tiers/nvme/nvme_device.h: inside of a device; only the nvme_*.c files include it. The members
 * stand by the thread that may touch them while the device's thread runs.
 */
#ifndef KVTIER_TIERS_NVME_NVME_DEVICE_H
#define KVTIER_TIERS_NVME_NVME_DEVICE_H

#include "base/list.h"
#include "base/mailbox.h"
#include "tiers/nvme/block_io.h"
#include "tiers/nvme/extent_table.h"
#include "tiers/nvme/nvme.h"

#include <pthread.h>

#define NVME_PATH_BYTES 1024u

/* A place in the device's queue. */
struct nvme_request {
	struct block_request block;
	struct tier_op *op;
	struct list_node link; /* of the idle ones */
};

struct nvme_device {
	/* Written before the threads start, read by all. */
	const struct block_io_ops *io_ops;
	struct block_io *io;
	struct block_disk disk;
	struct clock *clock;
	char path[NVME_PATH_BYTES];
	char io_name[2 * BLOCK_NAME_BYTES];
	char io_refused[64]; /* why the preferred back end is not used; "" */
	char note[2 * NVME_PATH_BYTES + 128];
	struct superblock superblock;
	uint32_t queue_depth;
	uint32_t ops_max;
	uint64_t table_bytes;
	bool is_new;
	struct nvme_extent *extents; /* as read at open */
	unsigned extents_count;

	struct mailbox down; /* loop -> device: struct tier_op */
	struct mailbox up;   /* device -> loop */

	/* The device's thread. */
	struct {
		pthread_t self;
		bool has_self;
		struct list reads, writes,
			tables;                /* taken from the mailbox, not yet in the queue */
		struct list idle;              /* struct nvme_request */
		struct nvme_request *requests; /* queue_depth of them */
		uint32_t in_flight;            /* requests in the queue */
		uint32_t writes_in_flight;
		uint32_t reads_in_row;      /* started while a write waited */
		uint64_t read_us;           /* when a read was last asked for */
		struct nvme_request *table; /* the one table write under way */
		unsigned table_copy;        /* where the newest valid table is: 0 or 1 */
	} worker;

	/* The loop thread. */
	struct {
		struct nvme_figures figures;
		uint32_t errors_run;
		uint32_t errors_window;
		uint64_t window_us;   /* when the window began */
		uint64_t progress_us; /* when an op ended, or the first of an idle device began */
		uint64_t table_sequence;
		bool is_asleep;
	} loop;
};

/* Loop thread, for nvme_tier.c. */
void nvme_device_began(struct nvme_device *device, uint64_t now_us);
void nvme_device_ended(struct nvme_device *device, const struct tier_op *op);
void nvme_device_check_stall(struct nvme_device *device, uint64_t now_us);

/* nvme_format.c: opens and locks the disk, reads or makes superblock and tables; fills disk,
 * superblock, extents. On failure leaves nothing behind. */
must_check int nvme_contents_open(struct nvme_device *device, const struct nvme_config *config,
				  struct error *error);

#endif
