/*
 * tiers/nvme/extent_table.h: the extent table and the superblock as bytes: on a device, and in the
 * head of an arena. Two copies of each; CRC'd; the valid one with the higher sequence counts.
 * Little-endian. Pure functions over the caller's memory; any thread.
 */
#ifndef KVTIER_TIERS_NVME_EXTENT_TABLE_H
#define KVTIER_TIERS_NVME_EXTENT_TABLE_H

#include "tiers/nvme/nvme.h"

#include <stdbool.h>
#include <stdint.h>

#define EXTENT_TABLE_MAGIC UINT64_C(0x314c424154544b56) /* "VKTTABL1" */
#define EXTENT_TABLE_VERSION 1u

struct extent_table_header {
	uint64_t magic;
	uint32_t version;
	uint32_t crc; /* of header and rows, with crc = 0 */
	uint64_t sequence;
	uint32_t rows_count;
	uint32_t reserved; /* zero */
	uint8_t device[DEVICE_ID_BYTES];
	uint8_t padding[16]; /* zero */
};
_Static_assert(sizeof(struct extent_table_header) == 64, "a header is one cache line");

/* A row as it is stored. */
struct extent_row {
	uint8_t tenant[16];
	uint32_t first_unit;
	uint32_t units_count;
	uint32_t slot_bytes;
	uint32_t generation;
};
_Static_assert(sizeof(struct extent_row) == 32, "two rows are one cache line");

/* Bytes of a copy with room for `rows_max` rows, in whole pages. */
static inline uint64_t extent_table_bytes(uint32_t rows_max)
{
	uint64_t bytes = sizeof(struct extent_table_header) +
			 (uint64_t)rows_max * sizeof(struct extent_row);

	return (bytes + SLOT_ALIGN_BYTES - 1) / SLOT_ALIGN_BYTES * SLOT_ALIGN_BYTES;
}

/* Fills the whole of `image_bytes`; the rest behind the rows is zero. Free rows (units_count 0) are
 * left out. */
void extent_table_encode(void *image, uint64_t image_bytes, const uint8_t device[DEVICE_ID_BYTES],
			 uint64_t sequence, const struct nvme_extent *extents, unsigned count);
/* True: the copy is whole and belongs to `device`. */
bool extent_table_is_valid(const void *image, uint64_t image_bytes,
			   const uint8_t device[DEVICE_ID_BYTES]);
/* Of a valid copy. Rows that lie outside `units_count` units, overlap or have impossible sizes make
 * it -EUCLEAN; else how many there are. */
must_check int extent_table_decode(const void *image, uint32_t units_count,
				   struct nvme_extent *out_extents, unsigned extents_max);
uint64_t extent_table_sequence(const void *image);

/* A device: [superblock 0 | 64 KiB][superblock 1 | 64 KiB] ... [table 0 | 1 MiB][table 1 | 1 MiB]
 * ... [slots]. */
#define SUPERBLOCK_MAGIC UINT64_C(0x3156454456544b56) /* "VKTVDEV1" */
#define SUPERBLOCK_VERSION 1u
#define SUPERBLOCK_BYTES 4096u
#define SUPERBLOCK_STRIDE_BYTES (UINT64_C(64) << 10) /* no disk tears both with one write */
#define TABLES_OFFSET (UINT64_C(1) << 20)
#define TABLE_STRIDE_BYTES (UINT64_C(1) << 20)
#define SLOTS_OFFSET (UINT64_C(4) << 20)
_Static_assert(sizeof(struct extent_table_header) + NVME_EXTENTS_MAX * sizeof(struct extent_row) <=
		       TABLE_STRIDE_BYTES,
	       "a table copy fits into its place");

struct superblock {
	uint64_t magic;
	uint32_t version;
	uint32_t crc; /* of this struct, with crc = 0 */
	uint64_t sequence;
	uint8_t device[DEVICE_ID_BYTES];
	uint64_t device_bytes; /* size of the file or raw device it was made for */
	uint64_t unit_bytes;
	uint64_t slots_offset;
	uint32_t units_count;
	uint32_t reserved;   /* zero */
	uint64_t made_at_us; /* since 1970, for people */
	uint8_t padding[SUPERBLOCK_BYTES - 80];
};
_Static_assert(sizeof(struct superblock) == SUPERBLOCK_BYTES, "a superblock is one page");

void superblock_seal(struct superblock *superblock);
bool superblock_is_valid(const struct superblock *superblock);

#endif
