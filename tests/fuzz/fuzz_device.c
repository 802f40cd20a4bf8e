/* tests/fuzz/fuzz_device.c: any bytes as superblocks and extent tables of a device: refused with
 * words, or opened with rows that can be true. */
#include "tiers/look.h"
#include "tiers/nvme/block_io_simulated.h"
#include "tiers/nvme/extent_table.h"

#include "base/checksum.h"

#include <assert.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define UNITS 200u /* a table of two pages */
#define UNIT_BYTES UINT64_C(8192)
#define DEVICE_BYTES (SLOTS_OFFSET + UNITS * UNIT_BYTES)

/* The first byte of the input: what is mended, as no input would get past the checksums by chance.
 */
enum {
	MEND_SUPERBLOCKS = 1, /* magic, version, checksum */
	MEND_LAYOUT = 2,      /* sizes are those of the settings */
	MEND_TABLES = 4,      /* magic, version, device, checksum */
	MEND_ROWS_COUNT = 8   /* as many as came */
};

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes);

struct pieces {
	const uint8_t *at;
	size_t left;
};

/* Fills `target` with what comes next; the rest is zero. */
static size_t piece_take(struct pieces *pieces, void *target, size_t wanted, size_t target_bytes)
{
	size_t bytes = wanted < pieces->left ? wanted : pieces->left;

	memset(target, 0, target_bytes);
	memcpy(target, pieces->at, bytes);
	pieces->at += bytes;
	pieces->left -= bytes;
	return bytes;
}

static void superblock_mend(struct superblock *superblock, unsigned mode)
{
	if (mode & MEND_LAYOUT) {
		superblock->device_bytes = DEVICE_BYTES;
		superblock->unit_bytes = UNIT_BYTES;
		superblock->slots_offset = SLOTS_OFFSET;
		superblock->units_count = UNITS;
		memset(superblock->device, 1, DEVICE_ID_BYTES);
	}
	if (mode & MEND_SUPERBLOCKS)
		superblock_seal(superblock);
}

static void table_mend(uint8_t *image, size_t image_bytes, size_t bytes, unsigned mode)
{
	struct extent_table_header *header = (struct extent_table_header *)image;
	size_t rows_max = (image_bytes - sizeof(*header)) / sizeof(struct extent_row);

	if (mode & MEND_ROWS_COUNT)
		header->rows_count = bytes < sizeof(*header)
					     ? 0
					     : (uint32_t)((bytes - sizeof(*header)) /
							  sizeof(struct extent_row));
	if (!(mode & MEND_TABLES) || header->rows_count > rows_max)
		return;
	header->magic = EXTENT_TABLE_MAGIC;
	header->version = EXTENT_TABLE_VERSION;
	memset(header->device, 1, DEVICE_ID_BYTES);
	header->crc = 0;
	header->crc = crc32c(image,
			     sizeof(*header) + header->rows_count * sizeof(struct extent_row));
}

static void disk_fill(struct block_io_simulated *disk, const uint8_t *input, size_t bytes)
{
	struct pieces pieces = { .at = input + 1, .left = bytes - 1 };
	size_t table_bytes = extent_table_bytes(UNITS), half;

	for (unsigned i = 0; i < 2; i++) {
		uint8_t *at = disk->current + i * SUPERBLOCK_STRIDE_BYTES;

		piece_take(&pieces, at, offsetof(struct superblock, padding), SUPERBLOCK_BYTES);
		superblock_mend((struct superblock *)at, input[0]);
	}
	half = pieces.left / 2;
	for (unsigned i = 0; i < 2; i++) {
		uint8_t *at = disk->current + TABLES_OFFSET + i * TABLE_STRIDE_BYTES;
		size_t wanted = i == 0 ? half : pieces.left;

		if (wanted > table_bytes)
			wanted = table_bytes;
		table_mend(at, table_bytes, piece_take(&pieces, at, wanted, table_bytes), input[0]);
	}
}

static void rows_can_be_true(const struct nvme_extent *extents, unsigned count)
{
	bool is_taken[UNITS] = { false };

	assert(count <= UNITS);
	for (unsigned i = 0; i < count; i++) {
		assert(extents[i].units_count >= 1 && extents[i].units_count <= UNITS);
		assert(extents[i].first_unit <= UNITS - extents[i].units_count);
		assert(extents[i].slot_bytes > SLOT_HEADER_BYTES);
		assert(extents[i].slot_bytes % SLOT_ALIGN_BYTES == 0);
		for (uint32_t n = 0; n < extents[i].units_count; n++) {
			assert(!is_taken[extents[i].first_unit + n]);
			is_taken[extents[i].first_unit + n] = true;
		}
	}
}

/* As verify does: whatever sizes the superblock claims. */
static void look_at(const struct block_io_simulated *disk)
{
	struct error error = { 0 };
	struct look look;

	if (look_open(&look, TIER_NVME, "simulated", &disk->ops, &error) < 0) {
		assert(error.code < 0 && error.text[0] != '\0');
		return;
	}
	assert(look.units_count >= 1 && look.units_count <= NVME_EXTENTS_MAX);
	for (unsigned i = 0; i < look.extents_count; i++) {
		assert(look.extents[i].units_count <= look.units_count);
		assert(look.extents[i].first_unit <=
		       look.units_count - look.extents[i].units_count);
		assert(look.extents[i].slot_bytes > SLOT_HEADER_BYTES);
	}
	look_close(&look);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes)
{
	static struct nvme_extent extents[NVME_EXTENTS_MAX];
	static struct block_io_simulated disk;
	static struct clock clock;
	struct nvme_config config = { .path = "simulated",
				      .unit_bytes = UNIT_BYTES,
				      .queue_depth = 1,
				      .ops_max = 1,
				      .clock = &clock,
				      .io_ops = &disk.ops };
	struct nvme_device *device;
	struct error error = { 0 };

	if (bytes == 0)
		return 0;
	if (disk.current == NULL) {
		clock_virtual_init(&clock, 1000);
		if (block_io_simulated_init(&disk, DEVICE_BYTES, &clock, 1, &error) < 0)
			return 0;
	}
	disk_fill(&disk, input, bytes);
	look_at(&disk);
	if (nvme_device_open(&device, &config, &error) < 0) {
		assert(error.code < 0 && error.text[0] != '\0');
		return 0;
	}
	assert(!nvme_device_is_new(device) && nvme_device_units(device) == UNITS);
	rows_can_be_true(extents, nvme_device_extents(device, extents));
	nvme_device_close(device);
	return 0;
}
