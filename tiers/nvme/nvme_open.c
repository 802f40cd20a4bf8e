/* tiers/nvme/nvme_open.c: opens and closes a device: its contents (nvme_format.c), its queue, its
 * mailboxes. */
#include "tiers/nvme/nvme_device.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)

static int config_check(const struct nvme_config *config, struct error *error)
{
	uint64_t units;

	if (strlen(config->path) == 0 || strlen(config->path) + 32 > NVME_PATH_BYTES)
		return error_set(error, -EINVAL,
				 "the path of an nvme device has 1 to %u characters",
				 NVME_PATH_BYTES - 32);
	if (config->unit_bytes == 0 || config->unit_bytes % SLOT_ALIGN_BYTES != 0)
		return error_set(error, -EINVAL,
				 "%s: the extent unit is %llu bytes; it must be a multiple of %u",
				 config->path, (unsigned long long)config->unit_bytes,
				 SLOT_ALIGN_BYTES);
	if (config->queue_depth < 1 || config->queue_depth > BLOCK_QUEUE_DEPTH_MAX)
		return error_set(error, -EINVAL, "%s: queue depth %u is not within 1 to %u",
				 config->path, config->queue_depth, BLOCK_QUEUE_DEPTH_MAX);
	if (config->ops_max < 1 || config->ops_max > (1u << 20))
		return error_set(error, -EINVAL, "%s: %u ops at once are not within 1 to %u",
				 config->path, config->ops_max, 1u << 20);
	if (config->bytes == 0)
		return 0;
	if (config->bytes % SLOT_ALIGN_BYTES != 0)
		return error_set(error, -EINVAL, "%s: %llu bytes are not a multiple of %u",
				 config->path, (unsigned long long)config->bytes, SLOT_ALIGN_BYTES);
	units = config->bytes > SLOTS_OFFSET ? (config->bytes - SLOTS_OFFSET) / config->unit_bytes
					     : 0;
	if (units == 0)
		return error_set(
			error, -EINVAL, "%s: %llu MiB are too small; %llu MiB hold one extent unit",
			config->path, (unsigned long long)(config->bytes / MIB),
			(unsigned long long)((SLOTS_OFFSET + config->unit_bytes + MIB - 1) / MIB));
	return 0;
}

/* Takes the first back end that the kernel lets us have. */
static int queue_open(struct nvme_device *device, const struct nvme_config *config,
		      bool may_fall_back, struct error *error)
{
	const struct block_io_config io_config = { .disk = &device->disk,
						   .queue_depth = config->queue_depth,
						   .clock = config->clock };
	int result = device->io_ops->open(device->io_ops, &device->io, &io_config, error);

	if (result == 0 || !may_fall_back || device->io_ops == &block_io_psync_ops)
		return result;
	snprintf(device->io_refused, sizeof(device->io_refused), " (%s refused: %s)",
		 device->io_ops->name, strerrorname_np(-result));
	device->io_ops = &block_io_psync_ops;
	return device->io_ops->open(device->io_ops, &device->io, &io_config, error);
}

static void io_name_make(struct nvme_device *device)
{
	char queue[BLOCK_NAME_BYTES / 2];

	device->io_ops->describe(device->io, queue, sizeof(queue));
	snprintf(device->io_name, sizeof(device->io_name), "%s, %s%s", queue,
		 device->disk.is_direct ? "O_DIRECT" : "buffered (O_DIRECT refused)",
		 device->io_refused);
}

static uint32_t power_of_two(uint32_t count)
{
	uint32_t power = 1;

	while (power < count)
		power *= 2;
	return power;
}

static int worker_open(struct nvme_device *device, struct error *error)
{
	uint32_t capacity = power_of_two(device->ops_max);
	int result;

	list_init(&device->worker.reads);
	list_init(&device->worker.writes);
	list_init(&device->worker.tables);
	list_init(&device->worker.idle);
	device->worker.requests = calloc(device->queue_depth, sizeof(*device->worker.requests));
	if (device->worker.requests == NULL)
		return error_set(error, -ENOMEM, "no memory for a queue of %u",
				 device->queue_depth);
	for (uint32_t i = 0; i < device->queue_depth; i++)
		list_append(&device->worker.idle, &device->worker.requests[i].link);
	result = mailbox_open(&device->down, capacity, error);
	if (result < 0)
		goto free_requests;
	result = mailbox_open(&device->up, capacity, error);
	if (result < 0)
		goto close_down;
	return 0;
close_down:
	mailbox_close(&device->down);
free_requests:
	free(device->worker.requests);
	device->worker.requests = NULL;
	return result;
}

static int back_end_choose(struct nvme_device *device, const struct nvme_config *config,
			   bool *out_may_fall_back, struct error *error)
{
	bool is_auto = config->io == NULL || strcmp(config->io, "auto") == 0;

	*out_may_fall_back = config->io_ops == NULL && is_auto;
	if (config->io_ops != NULL)
		device->io_ops = config->io_ops;
	else
		device->io_ops = is_auto ? block_io_list[0] : block_io_find(config->io);
	if (device->io_ops == NULL)
		return error_set(error, -EINVAL,
				 "io: \"%s\" is not built in; \"auto\" always works", config->io);
	return 0;
}

int nvme_device_open(struct nvme_device **out_device, const struct nvme_config *config,
		     struct error *error)
{
	struct nvme_device *device;
	bool may_fall_back = false;
	int result = config_check(config, error);

	if (result < 0)
		return result;
	device = calloc(1, sizeof(*device));
	if (device == NULL)
		return error_set(error, -ENOMEM, "no memory for an nvme device");
	device->disk.fd = -1;
	device->clock = config->clock;
	device->queue_depth = config->queue_depth;
	device->ops_max = config->ops_max;
	snprintf(device->path, sizeof(device->path), "%s", config->path);
	result = back_end_choose(device, config, &may_fall_back, error);
	if (result < 0)
		goto free_device;
	result = nvme_contents_open(device, config, error);
	if (result < 0)
		goto free_device;
	result = queue_open(device, config, may_fall_back, error);
	if (result < 0)
		goto close_disk;
	result = worker_open(device, error);
	if (result < 0)
		goto close_queue;
	io_name_make(device);
	*out_device = device;
	return device->io_refused[0] != '\0';
close_queue:
	device->io_ops->close(device->io);
close_disk:
	device->io_ops->disk_close(device->io_ops, &device->disk);
	free(device->extents);
free_device:
	free(device);
	return result;
}

int nvme_device_register(struct nvme_device *device, const struct nvme_memory *memory,
			 unsigned count, struct error *error)
{
	int result = device->io_ops->register_memory(device->io, memory, count, error);

	io_name_make(device);
	/* Slower, not broken. */
	if (result == -ENOMEM || result == -EPERM)
		return 1;
	return result == -ENOTSUP ? 0 : result;
}

void nvme_device_close(struct nvme_device *device)
{
	if (device == NULL)
		return;
	assert(nvme_device_is_idle(device));
	mailbox_close(&device->up);
	mailbox_close(&device->down);
	free(device->worker.requests);
	device->io_ops->close(device->io);
	device->io_ops->disk_close(device->io_ops, &device->disk);
	free(device->extents);
	free(device);
}

const uint8_t *nvme_device_id(const struct nvme_device *device)
{
	return device->superblock.device;
}

uint32_t nvme_device_units(const struct nvme_device *device)
{
	return device->superblock.units_count;
}

uint64_t nvme_device_slots_offset(const struct nvme_device *device)
{
	return device->superblock.slots_offset;
}

const char *nvme_device_path(const struct nvme_device *device)
{
	return device->path;
}

const char *nvme_device_io_name(const struct nvme_device *device)
{
	return device->io_name;
}

const char *nvme_device_note(const struct nvme_device *device)
{
	return device->note;
}

bool nvme_device_is_new(const struct nvme_device *device)
{
	return device->is_new;
}

unsigned nvme_device_extents(const struct nvme_device *device, struct nvme_extent *out_extents)
{
	memcpy(out_extents, device->extents, device->extents_count * sizeof(*out_extents));
	return device->extents_count;
}

int nvme_device_read_header(struct nvme_device *device, uint64_t offset, void *header)
{
	_Alignas(SLOT_ALIGN_BYTES) uint8_t page[SLOT_HEADER_BYTES];
	int result = device->io_ops->disk_read(device->io_ops, &device->disk, page, sizeof(page),
					       device->superblock.slots_offset + offset);

	if (result == 0)
		memcpy(header, page, sizeof(page));
	return result;
}
