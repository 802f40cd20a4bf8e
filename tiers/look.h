/*
 * tiers/look.h: a device or an arena's file, looked at without a lock and without changing a byte,
 * whoever else has it open: for `kvtierd --verify`. Runs on: one thread.
 */
#ifndef KVTIER_TIERS_LOOK_H
#define KVTIER_TIERS_LOOK_H

#include "tiers/nvme/block_io.h"
#include "transfer/slot_header.h"

struct look {
	enum tier_id tier;
	const struct block_io_ops *io_ops;
	struct block_disk disk;
	const char *path;                /* borrowed */
	uint8_t id[DEVICE_ID_BYTES];
	uint64_t unit_bytes;
	uint32_t units_count;
	uint64_t slots_offset;           /* in the file */
	/* Of each copy whether it is whole; an arena has one superblock. */
	unsigned superblocks_count;
	bool superblock_is_good[2], table_is_good[2];
	bool table_is_blank[2];          /* of an arena: never written */
	struct nvme_extent *extents;     /* of the newer good table; none: no extents */
	unsigned extents_count;
};

/* -ENOENT and the like from open; -EUCLEAN: no superblock of ours can be read. On failure leaves
 * nothing behind. */
must_check int look_open(struct look *look, enum tier_id tier, const char *path,
			 const struct block_io_ops *io_ops, struct error *error);
/* The tables as they are now. Without a readable one the extents are none. */
must_check int look_tables(struct look *look);
/* Bytes of the slots area; `memory` is aligned to 4 KiB, `offset` and `bytes` are multiples. */
must_check int look_read(struct look *look, uint64_t offset, void *memory, uint64_t bytes);
/* Accepts a zeroed one. */
void look_close(struct look *look);

#endif
