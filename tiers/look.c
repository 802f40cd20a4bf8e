/* tiers/look.c: superblocks and extent tables, read only. */
#include "tiers/look.h"

#include "tiers/cpu/arena_parts.h"
#include "tiers/nvme/extent_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define UNIT_BYTES_MAX (UINT64_C(1) << 40)

/* Which of two copies counts: the newer good one; -1: neither is. */
static int newer(const bool is_good[2], const uint64_t sequence[2])
{
	if (is_good[0] && is_good[1])
		return sequence[1] > sequence[0];
	return is_good[0] ? 0 : is_good[1] ? 1 : -1;
}

static bool is_blank(const uint8_t *memory, uint64_t bytes)
{
	return memory[0] == 0 && memcmp(memory, memory + 1, bytes - 1) == 0;
}

static int device_head(struct look *look, uint8_t *page)
{
	struct superblock copies[2];
	uint64_t sequence[2] = { 0, 0 };

	look->superblocks_count = 2;
	for (unsigned i = 0; i < 2; i++) {
		if (look->io_ops->disk_read(look->io_ops, &look->disk, page, SUPERBLOCK_BYTES,
					    i * SUPERBLOCK_STRIDE_BYTES) < 0)
			continue;
		memcpy(&copies[i], page, sizeof(copies[i]));
		look->superblock_is_good[i] = superblock_is_valid(&copies[i]);
		sequence[i] = copies[i].sequence;
	}
	int chosen = newer(look->superblock_is_good, sequence);
	if (chosen < 0)
		return -EUCLEAN;
	memcpy(look->id, copies[chosen].device, DEVICE_ID_BYTES);
	look->unit_bytes = copies[chosen].unit_bytes;
	look->units_count = copies[chosen].units_count;
	look->slots_offset = copies[chosen].slots_offset;
	return 0;
}

static int arena_head(struct look *look, uint8_t *page)
{
	struct arena_superblock superblock;
	int result = look->io_ops->disk_read(look->io_ops, &look->disk, page, SUPERBLOCK_BYTES, 0);

	look->superblocks_count = 1;
	if (result < 0)
		return -EUCLEAN;
	memcpy(&superblock, page, sizeof(superblock));
	if (superblock.magic != ARENA_MAGIC || superblock.version != ARENA_VERSION ||
	    superblock.crc != arena_superblock_crc(&superblock) || superblock.unit_bytes == 0)
		return -EUCLEAN;
	look->superblock_is_good[0] = true;
	memcpy(look->id, superblock.id, DEVICE_ID_BYTES);
	look->unit_bytes = superblock.unit_bytes;
	look->units_count = (uint32_t)(superblock.bytes / superblock.unit_bytes);
	look->slots_offset = ARENA_HEAD_BYTES;
	return 0;
}

/* Where a copy of the table is, and how many bytes. */
static uint64_t table_place(const struct look *look, unsigned copy, uint64_t *out_bytes)
{
	if (look->tier == TIER_CPU) {
		*out_bytes = ARENA_TABLE_BYTES;
		return ARENA_TABLE_OFFSET + copy * ARENA_TABLE_STRIDE;
	}
	*out_bytes = extent_table_bytes(look->units_count);
	return TABLES_OFFSET + copy * TABLE_STRIDE_BYTES;
}

int look_tables(struct look *look)
{
	uint64_t sequence[2] = { 0, 0 }, bytes;
	uint8_t *images;
	int chosen, rows = -EUCLEAN;

	(void)table_place(look, 0, &bytes);
	images = aligned_alloc(SLOT_ALIGN_BYTES, 2 * bytes);
	if (images == NULL)
		return -ENOMEM;
	for (unsigned i = 0; i < 2; i++) {
		uint8_t *image = images + i * bytes;
		uint64_t place = table_place(look, i, &bytes);

		if (look->io_ops->disk_read(look->io_ops, &look->disk, image, bytes, place) < 0)
			memset(image, 0xff, bytes);
		look->table_is_good[i] = extent_table_is_valid(image, bytes, look->id);
		look->table_is_blank[i] = look->tier == TIER_CPU && is_blank(image, bytes);
		if (look->table_is_good[i])
			sequence[i] = extent_table_sequence(image);
	}
	chosen = newer(look->table_is_good, sequence);
	if (chosen >= 0)
		rows = extent_table_decode(images + (uint64_t)chosen * bytes, look->units_count,
					   look->extents, look->units_count);
	/* A right checksum over rows that cannot be. */
	if (chosen >= 0 && rows < 0)
		look->table_is_good[chosen] = false;
	look->extents_count = rows < 0 ? 0 : (unsigned)rows;
	free(images);
	return 0;
}

int look_open(struct look *look, enum tier_id tier, const char *path,
	      const struct block_io_ops *io_ops, struct error *error)
{
	/* What the page cache knows of a device that is written around it may be old. */
	unsigned flags = DISK_READ_ONLY | (tier == TIER_CPU ? DISK_BUFFERED : 0);
	uint8_t *page = aligned_alloc(SLOT_ALIGN_BYTES, SUPERBLOCK_BYTES);
	int result;

	*look = (struct look){ .tier = tier, .io_ops = io_ops, .path = path };
	if (page == NULL)
		return error_set(error, -ENOMEM, "no memory");
	result = io_ops->disk_open(io_ops, &look->disk, path, flags, error);
	/* The advice of disk_open() is for who wants to write there. */
	if (result < 0)
		error_set(error, result, "%s cannot be read: %s", path, strerror(-result));
	if (result == 0) {
		/* Beyond these no settings go; sums of them must not overflow. */
		result = tier == TIER_CPU ? arena_head(look, page) : device_head(look, page);
		if (result == 0 &&
		    (look->units_count == 0 || look->units_count > NVME_EXTENTS_MAX ||
		     look->unit_bytes > UNIT_BYTES_MAX || look->slots_offset > UNIT_BYTES_MAX ||
		     (look->unit_bytes | look->slots_offset) % SLOT_ALIGN_BYTES != 0))
			result = -EUCLEAN;
		if (result < 0)
			error_set(error, result, "%s: no superblock of kvtier is readable", path);
	}
	free(page);
	if (result == 0) {
		look->extents = calloc(look->units_count, sizeof(*look->extents));
		result = look->extents == NULL ? -ENOMEM : look_tables(look);
		if (result < 0)
			error_set(error, result, "no memory for the extent tables of %s", path);
	}
	if (result < 0)
		look_close(look);
	return result;
}

int look_read(struct look *look, uint64_t offset, void *memory, uint64_t bytes)
{
	return look->io_ops->disk_read(look->io_ops, &look->disk, memory, bytes,
				       look->slots_offset + offset);
}

void look_close(struct look *look)
{
	if (look->disk.is_open)
		look->io_ops->disk_close(look->io_ops, &look->disk);
	free(look->extents);
	look->extents = NULL;
}
