/*
 * tiers/nvme/nvme_format.c: what is on a device: lock, superblock, extent table; makes the file
 * where there is none.
 *
 * A new file is made as PATH.new and renamed when it is whole, so that a kill in the middle never
 * leaves a file that looks like a broken device of ours; what is in the way is renamed aside only
 * then.
 */
#include "tiers/nvme/nvme_device.h"

#include "base/random.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define LOCK_STEP_US 2000u
#define OPEN_TRIES_MAX 4u
#define ASIDE_MAX 1000u
#define ZERO_BYTES (UINT64_C(8) << 20)

/* Which of two copies counts. */
static int copy_choose(const bool is_valid[2], const uint64_t sequence[2])
{
	if (is_valid[0] && is_valid[1])
		return sequence[1] > sequence[0];
	if (!is_valid[0] && !is_valid[1])
		return -1;
	return is_valid[1];
}

/* How many units a device has. More than the table has rows for is refused, with the unit that
 * would do. */
static int units_of(const struct nvme_config *config, uint64_t bytes, uint32_t *out_units,
		    struct error *error)
{
	uint64_t units = bytes > SLOTS_OFFSET ? (bytes - SLOTS_OFFSET) / config->unit_bytes : 0;

	if (units == 0)
		return error_set(error, -EINVAL,
				 "%s: %llu bytes do not hold one extent unit of %llu bytes",
				 config->path, (unsigned long long)bytes,
				 (unsigned long long)config->unit_bytes);
	if (units > NVME_EXTENTS_MAX)
		return error_set(
			error, -EINVAL,
			"%s: %llu extent units; at most %u: set extent_bytes to %llu MiB or more",
			config->path, (unsigned long long)units, NVME_EXTENTS_MAX,
			(unsigned long long)((bytes / NVME_EXTENTS_MAX + MIB) / MIB));
	*out_units = (uint32_t)units;
	return 0;
}

/* The one place that sleeps: an earlier daemon's I/O may need some time to end. */
static int lock_wait(const struct block_io_ops *ops, struct block_disk *disk,
		     const struct nvme_config *config, struct error *error)
{
	const struct timespec step = { .tv_nsec = LOCK_STEP_US * 1000 };
	uint64_t waited_us = 0;
	int result;

	for (;;) {
		result = ops->disk_lock(ops, disk);
		if (result != -EBUSY)
			break;
		if (waited_us >= config->lock_wait_us_max)
			return error_set(
				error, -EBUSY,
				"%s is in use: another kvtierd has it, or the I/O of a killed one has "
				"not ended (waited %llu ms): stop it, or set another path",
				config->path, (unsigned long long)(waited_us / 1000));
		nanosleep(&step, NULL);
		waited_us += LOCK_STEP_US;
	}
	if (result < 0)
		return error_set(error, result, "%s: lock: %s", config->path, strerror(-result));
	return 0;
}

/* Opens and locks what `path` names; another daemon may have replaced it while we waited. */
static int disk_open_locked(const struct block_io_ops *ops, struct block_disk *out_disk,
			    const char *path, unsigned flags, const struct nvme_config *config,
			    struct error *error)
{
	for (unsigned tries = 0; tries < OPEN_TRIES_MAX; tries++) {
		int result = ops->disk_open(ops, out_disk, path, flags, error);

		if (result < 0)
			return result;
		result = lock_wait(ops, out_disk, config, error);
		if (result == 0) {
			result = ops->disk_is_at(ops, out_disk, path);
			if (result == 1)
				return 0;
			if (result < 0)
				error_set(error, result, "%s: stat: %s", path, strerror(-result));
		}
		ops->disk_close(ops, out_disk);
		if (result < 0)
			return result;
	}
	return error_set(error, -EBUSY, "%s is replaced again and again by others", path);
}

/* The newer valid superblock; -EUCLEAN with the reason when there is none; other codes are the
 * disk's. */
static int superblock_read(struct nvme_device *device, const struct nvme_config *config, void *page,
			   struct error *error)
{
	struct superblock copies[2];
	bool is_valid[2] = { false, false };
	uint64_t sequence[2] = { 0, 0 };
	int chosen, failed = 0;

	for (unsigned i = 0; i < 2; i++) {
		int result;

		if ((i + 1) * SUPERBLOCK_STRIDE_BYTES > device->disk.bytes)
			break;
		result = device->io_ops->disk_read(device->io_ops, &device->disk, page,
						   SUPERBLOCK_BYTES, i * SUPERBLOCK_STRIDE_BYTES);
		if (result < 0) {
			failed = result;
			continue;
		}
		memcpy(&copies[i], page, sizeof(copies[i]));
		is_valid[i] = superblock_is_valid(&copies[i]);
		sequence[i] = copies[i].sequence;
	}
	chosen = copy_choose(is_valid, sequence);
	/* What a sick disk does not give must not be made anew: the disk may come back. */
	if (chosen < 0 && failed < 0)
		return error_set(error, failed, "%s cannot be read: %s", config->path, strerror(-failed));
	if (chosen < 0)
		return error_set(error, -EUCLEAN, "%s has no readable superblock", config->path);
	device->superblock = copies[chosen];
	return 0;
}

/* Whether what the superblock says is what the settings want. */
static int superblock_fits(const struct nvme_device *device, const struct nvme_config *config,
			   uint32_t units, uint64_t wanted_bytes, struct error *error)
{
	const struct superblock *superblock = &device->superblock;

	if (superblock->device_bytes != wanted_bytes || device->disk.bytes < wanted_bytes)
		return error_set(
			error, -EUCLEAN, "%s was made for %llu bytes, has %llu, and is set to %llu",
			config->path, (unsigned long long)superblock->device_bytes,
			(unsigned long long)device->disk.bytes, (unsigned long long)wanted_bytes);
	if (superblock->unit_bytes != config->unit_bytes)
		return error_set(error, -EUCLEAN,
				 "%s has extent units of %llu bytes, and %llu are set",
				 config->path, (unsigned long long)superblock->unit_bytes,
				 (unsigned long long)config->unit_bytes);
	if (superblock->slots_offset != SLOTS_OFFSET || superblock->units_count != units)
		return error_set(error, -EUCLEAN, "%s has another layout", config->path);
	return 0;
}

/* Reads both tables. None of them true: an empty one; every slot is then a miss, which a cache may
 * do. What a sick disk does not give is not taken for empty: the table that it may give the next
 * time would be newer than all that are written meanwhile. */
static int tables_read(struct nvme_device *device, struct error *error)
{
	uint64_t bytes = device->table_bytes;
	bool is_valid[2] = { false, false };
	uint64_t sequence[2] = { 0, 0 };
	uint8_t *images;
	int chosen, rows, failed = 0;

	images = aligned_alloc(SLOT_ALIGN_BYTES, 2 * bytes);
	if (images == NULL)
		return error_set(error, -ENOMEM, "no memory for two extent tables of %llu bytes",
				 (unsigned long long)bytes);
	for (unsigned i = 0; i < 2; i++) {
		int result = device->io_ops->disk_read(device->io_ops, &device->disk,
						       images + i * bytes, bytes,
						       TABLES_OFFSET + i * TABLE_STRIDE_BYTES);

		if (result < 0) {
			failed = result;
			continue;
		}
		is_valid[i] = extent_table_is_valid(images + i * bytes, bytes,
						    device->superblock.device);
		sequence[i] = is_valid[i] ? extent_table_sequence(images + i * bytes) : 0;
	}
	chosen = copy_choose(is_valid, sequence);
	if (chosen < 0 && failed < 0) {
		free(images);
		return error_set(error, failed, "%s: its extent tables cannot be read: %s",
				 device->path, strerror(-failed));
	}
	rows = chosen < 0 ? -EUCLEAN
			  : extent_table_decode(images + chosen * bytes,
						device->superblock.units_count, device->extents,
						device->superblock.units_count);
	device->extents_count = rows < 0 ? 0 : (unsigned)rows;
	device->worker.table_copy = chosen == 1;
	device->loop.table_sequence = sequence[0] > sequence[1] ? sequence[0] : sequence[1];
	if (rows < 0)
		snprintf(device->note, sizeof(device->note),
			 "%s: no extent table is readable; it starts empty", device->path);
	free(images);
	return 0;
}

/* Written extents take half the time of unwritten ones later, so the whole file is written once. */
static int zeros_write(const struct block_io_ops *ops, struct block_disk *disk, uint64_t bytes)
{
	uint8_t *zeros = aligned_alloc(SLOT_ALIGN_BYTES, ZERO_BYTES);
	int result = zeros != NULL ? 0 : -ENOMEM;

	if (zeros != NULL)
		memset(zeros, 0, ZERO_BYTES);
	for (uint64_t at = 0; result == 0 && at < bytes; at += ZERO_BYTES) {
		uint64_t piece = bytes - at < ZERO_BYTES ? bytes - at : ZERO_BYTES;

		result = ops->disk_write(ops, disk, zeros, piece, at);
	}
	free(zeros);
	return result;
}

/* Empty tables first, then the superblocks that make them count, with a sync between. */
static int layout_write(struct nvme_device *device, struct block_disk *disk)
{
	const struct block_io_ops *ops = device->io_ops;
	uint8_t *image = aligned_alloc(SLOT_ALIGN_BYTES, device->table_bytes);
	int result = image != NULL ? 0 : -ENOMEM;

	assert(device->table_bytes >= SUPERBLOCK_BYTES);
	for (unsigned i = 0; result == 0 && i < 2; i++) {
		extent_table_encode(image, device->table_bytes, device->superblock.device, 1 + i,
				    NULL, 0);
		result = ops->disk_write(ops, disk, image, device->table_bytes,
					 TABLES_OFFSET + i * TABLE_STRIDE_BYTES);
	}
	if (result == 0)
		result = ops->disk_sync(ops, disk);
	for (unsigned i = 0; result == 0 && i < 2; i++) {
		device->superblock.sequence = 1 + i;
		superblock_seal(&device->superblock);
		memcpy(image, &device->superblock, SUPERBLOCK_BYTES);
		result = ops->disk_write(ops, disk, image, SUPERBLOCK_BYTES,
					 i * SUPERBLOCK_STRIDE_BYTES);
	}
	if (result == 0)
		result = ops->disk_sync(ops, disk);
	free(image);
	return result;
}

static void superblock_make(struct nvme_device *device, const struct nvme_config *config,
			    uint64_t bytes, uint32_t units)
{
	struct superblock *superblock = &device->superblock;

	memset(superblock, 0, sizeof(*superblock));
	random_system(superblock->device, sizeof(superblock->device));
	superblock->device_bytes = bytes;
	superblock->unit_bytes = config->unit_bytes;
	superblock->slots_offset = SLOTS_OFFSET;
	superblock->units_count = units;
	superblock->made_at_us = clock_wall_us(config->clock);
}

static int file_fill(struct nvme_device *device, struct block_disk *disk, const char *path,
		     struct error *error)
{
	const struct block_io_ops *ops = device->io_ops;
	uint64_t bytes = device->superblock.device_bytes;
	int result = ops->disk_allocate(ops, disk, bytes);

	if (result == 0)
		result = zeros_write(ops, disk, bytes);
	if (result == 0)
		result = layout_write(device, disk);
	if (result < 0)
		error_set(error, result, "%s: cannot be made with %llu MiB: %s%s", path,
			  (unsigned long long)(bytes / MIB), strerror(-result),
			  error_advice(result));
	return result;
}

/* A name that nothing has yet. */
static int aside_name(struct nvme_device *device, char *name, size_t name_bytes)
{
	for (unsigned n = 1; n <= ASIDE_MAX; n++) {
		snprintf(name, name_bytes, "%s.unreadable-%u", device->path, n);
		if (access(name, F_OK) < 0)
			return 0;
	}
	return -EEXIST;
}

/*
 * Makes the file anew and leaves it open in device->disk. The old file, if there is one, is open
 * and locked there while that happens; it is renamed aside only when the new one is whole, so a
 * full disk changes nothing.
 */
static int file_make(struct nvme_device *device, const struct nvme_config *config, uint32_t units,
		     const char *reason, struct error *error)
{
	const struct block_io_ops *ops = device->io_ops;
	struct block_disk made = { .fd = -1 };
	char new_path[NVME_PATH_BYTES + 8], aside[NVME_PATH_BYTES + 32];
	int result;

	snprintf(new_path, sizeof(new_path), "%s.new", device->path);
	result = disk_open_locked(ops, &made, new_path, DISK_CREATE, config, error);
	if (result < 0)
		return result;
	superblock_make(device, config, config->bytes, units);
	result = file_fill(device, &made, new_path, error);
	if (result < 0)
		goto remove_new;
	if (device->disk.is_open) {
		result = aside_name(device, aside, sizeof(aside));
		if (result == 0)
			result = ops->disk_rename(ops, device->path, aside);
		if (result < 0) {
			error_set(error, result, "%s: cannot be moved aside: %s", device->path,
				  strerror(-result));
			goto remove_new;
		}
		snprintf(device->note, sizeof(device->note),
			 "%s; it was moved to %s, and a new one made", reason, aside);
	}
	result = ops->disk_rename(ops, new_path, device->path);
	if (result < 0) {
		error_set(error, result, "%s: rename to %s: %s", new_path, device->path,
			  strerror(-result));
		goto remove_new;
	}
	ops->disk_close(ops, &device->disk);
	device->disk = made;
	device->is_new = true;
	return 0;
remove_new:
	if (ops->disk_remove(ops, new_path) < 0) {
		/* It is found and overwritten by the next start. */
	}
	ops->disk_close(ops, &made);
	return result;
}

/* A raw device is never changed unless asked to: it may be somebody's disk. */
static int raw_make(struct nvme_device *device, const struct nvme_config *config, uint64_t bytes,
		    uint32_t units, const char *reason, struct error *error)
{
	int result;

	if (!config->raw_initialise)
		return error_set(
			error, -EUCLEAN,
			"%s; if all on it may be overwritten, start once with raw_initialise: true for it",
			reason);
	superblock_make(device, config, bytes, units);
	result = layout_write(device, &device->disk);
	if (result < 0)
		return error_set(error, result, "%s: writing the superblock: %s", config->path,
				 strerror(-result));
	snprintf(device->note, sizeof(device->note), "%s; it was initialised", reason);
	device->is_new = true;
	return 0;
}

/* With the disk open, or not there: reads what is on it, or makes it. */
static int contents_open(struct nvme_device *device, const struct nvme_config *config,
			 struct error *error)
{
	uint64_t wanted_bytes = config->bytes;
	struct error reason = { 0 };
	uint32_t units = 0;
	void *page;
	int result;

	if (device->disk.is_open && device->disk.is_raw && wanted_bytes == 0)
		wanted_bytes = device->disk.bytes / SLOT_ALIGN_BYTES * SLOT_ALIGN_BYTES;
	if (device->disk.is_open && device->disk.is_raw && device->disk.bytes == 0)
		return error_set(error, -ENOMEDIUM, "%s has no size", config->path);
	if (wanted_bytes == 0)
		return error_set(error, -EINVAL, "%s is a file: its size must be set",
				 config->path);
	if (device->disk.is_open && device->disk.is_raw && wanted_bytes > device->disk.bytes)
		return error_set(error, -EINVAL, "%s has %llu bytes; %llu are set", config->path,
				 (unsigned long long)device->disk.bytes,
				 (unsigned long long)wanted_bytes);
	result = units_of(config, wanted_bytes, &units, error);
	if (result < 0)
		return result;
	device->table_bytes = extent_table_bytes(units);
	if (!device->disk.is_open)
		return file_make(device, config, units, "", error);
	page = aligned_alloc(SLOT_ALIGN_BYTES, SUPERBLOCK_BYTES);
	if (page == NULL)
		return error_set(error, -ENOMEM, "no memory for a superblock");
	result = superblock_read(device, config, page, &reason);
	free(page);
	if (result == 0)
		result = superblock_fits(device, config, units, wanted_bytes, &reason);
	if (result != -EUCLEAN) {
		if (result < 0 && error != NULL)
			*error = reason;
		return result;
	}
	if (device->disk.is_raw)
		return raw_make(device, config, wanted_bytes, units, reason.text, error);
	return file_make(device, config, units, reason.text, error);
}

int nvme_contents_open(struct nvme_device *device, const struct nvme_config *config,
		       struct error *error)
{
	const struct block_io_ops *ops = device->io_ops;
	int result = disk_open_locked(ops, &device->disk, config->path, 0, config, error);

	/* No such file yet. */
	if (result < 0 && result != -ENOENT)
		return result;
	result = contents_open(device, config, error);
	if (result < 0)
		goto close_disk;
	device->extents = calloc(device->superblock.units_count, sizeof(*device->extents));
	if (device->extents == NULL) {
		result = error_set(error, -ENOMEM, "no memory for %u extents",
				   device->superblock.units_count);
		goto close_disk;
	}
	result = tables_read(device, error);
	if (result < 0)
		goto free_extents;
	return 0;
free_extents:
	free(device->extents);
	device->extents = NULL;
close_disk:
	ops->disk_close(ops, &device->disk);
	return result;
}
