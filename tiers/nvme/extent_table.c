/* tiers/nvme/extent_table.c: the extent table and the superblock as bytes. */
#include "tiers/nvme/extent_table.h"

#include "base/checksum.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tables are read and written in place");

/* The CRC32C of `bytes` bytes with the four at `crc_offset` taken as zero. */
static uint32_t crc_without(const void *part, size_t bytes, size_t crc_offset)
{
	static const uint8_t zero[sizeof(uint32_t)];
	const uint8_t *start = part;
	size_t behind = crc_offset + sizeof(zero);
	uint32_t crc = crc32c_more(crc32c(start, crc_offset), zero, sizeof(zero));

	return crc32c_more(crc, start + behind, bytes - behind);
}

static uint32_t table_crc(const struct extent_table_header *header)
{
	return crc_without(header, sizeof(*header) + header->rows_count * sizeof(struct extent_row),
			   offsetof(struct extent_table_header, crc));
}

void extent_table_encode(void *image, uint64_t image_bytes, const uint8_t device[DEVICE_ID_BYTES],
			 uint64_t sequence, const struct nvme_extent *extents, unsigned count)
{
	struct extent_table_header header = { .magic = EXTENT_TABLE_MAGIC,
					      .version = EXTENT_TABLE_VERSION,
					      .sequence = sequence };
	struct extent_row *rows = (struct extent_row *)((uint8_t *)image + sizeof(header));

	assert(sizeof(header) + (uint64_t)count * sizeof(*rows) <= image_bytes);
	assert((uintptr_t)image % _Alignof(struct extent_table_header) == 0);
	memset(image, 0, image_bytes);
	memcpy(header.device, device, DEVICE_ID_BYTES);
	for (unsigned i = 0; i < count; i++) {
		struct extent_row *row = &rows[header.rows_count];

		if (extents[i].units_count == 0)
			continue;
		memcpy(row->tenant, extents[i].tenant, sizeof(row->tenant));
		row->first_unit = extents[i].first_unit;
		row->units_count = extents[i].units_count;
		row->slot_bytes = extents[i].slot_bytes;
		row->generation = extents[i].generation;
		header.rows_count++;
	}
	memcpy(image, &header, sizeof(header));
	((struct extent_table_header *)image)->crc = table_crc(image);
}

bool extent_table_is_valid(const void *image, uint64_t image_bytes,
			   const uint8_t device[DEVICE_ID_BYTES])
{
	const struct extent_table_header *header = image;

	if (header->magic != EXTENT_TABLE_MAGIC || header->version != EXTENT_TABLE_VERSION)
		return false;
	if (header->rows_count > (image_bytes - sizeof(*header)) / sizeof(struct extent_row))
		return false;
	return header->crc == table_crc(header) &&
	       memcmp(header->device, device, DEVICE_ID_BYTES) == 0;
}

/* Marks the units of a row; false: outside, or taken by another row. */
static bool units_claim(uint8_t *taken, uint32_t units_count, const struct extent_row *row)
{
	if (row->units_count == 0 || row->first_unit >= units_count)
		return false;
	if (row->units_count > units_count - row->first_unit)
		return false;
	for (uint32_t unit = row->first_unit; unit < row->first_unit + row->units_count; unit++) {
		if (taken[unit / 8] & (1u << (unit % 8)))
			return false;
		taken[unit / 8] |= (uint8_t)(1u << (unit % 8));
	}
	return true;
}

int extent_table_decode(const void *image, uint32_t units_count, struct nvme_extent *out_extents,
			unsigned extents_max)
{
	const struct extent_table_header *header = image;
	const struct extent_row *rows = (const struct extent_row *)(header + 1);
	uint8_t taken[NVME_EXTENTS_MAX / 8] = { 0 };

	assert(units_count <= NVME_EXTENTS_MAX);
	if (header->rows_count > extents_max)
		return -EUCLEAN;
	for (uint32_t i = 0; i < header->rows_count; i++) {
		if (!units_claim(taken, units_count, &rows[i]))
			return -EUCLEAN;
		if (rows[i].slot_bytes <= SLOT_HEADER_BYTES ||
		    rows[i].slot_bytes % SLOT_ALIGN_BYTES != 0)
			return -EUCLEAN;
	}
	for (uint32_t i = 0; i < header->rows_count; i++) {
		memcpy(out_extents[i].tenant, rows[i].tenant, sizeof(rows[i].tenant));
		out_extents[i].first_unit = rows[i].first_unit;
		out_extents[i].units_count = rows[i].units_count;
		out_extents[i].slot_bytes = rows[i].slot_bytes;
		out_extents[i].generation = rows[i].generation;
	}
	return (int)header->rows_count;
}

uint64_t extent_table_sequence(const void *image)
{
	return ((const struct extent_table_header *)image)->sequence;
}

static uint32_t superblock_crc(const struct superblock *superblock)
{
	return crc_without(superblock, sizeof(*superblock), offsetof(struct superblock, crc));
}

void superblock_seal(struct superblock *superblock)
{
	superblock->magic = SUPERBLOCK_MAGIC;
	superblock->version = SUPERBLOCK_VERSION;
	superblock->crc = superblock_crc(superblock);
}

bool superblock_is_valid(const struct superblock *superblock)
{
	return superblock->magic == SUPERBLOCK_MAGIC && superblock->version == SUPERBLOCK_VERSION &&
	       superblock->crc == superblock_crc(superblock);
}
