/* tiers/nvme/nvme_tier.c: the loop's side of the devices: one tier over all, their figures, and
 * when one is fenced. */
#include "tiers/nvme/nvme_device.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

struct nvme_tier {
	struct tier tier;
	struct nvme_device *devices[NVME_DEVICES_MAX];
	unsigned devices_count;
	unsigned poll_first; /* whose turn it is to be polled first */
};

static struct nvme_tier *nvme_of(struct tier *tier)
{
	return list_item(tier, struct nvme_tier, tier);
}

void nvme_device_fence(struct nvme_device *device, const char *reason)
{
	assert(reason != NULL);
	if (device->loop.figures.fence_reason == NULL)
		device->loop.figures.fence_reason = reason;
}

bool nvme_device_is_fenced(const struct nvme_device *device)
{
	return device->loop.figures.fence_reason != NULL;
}

void nvme_device_figures(const struct nvme_device *device, struct nvme_figures *out_figures)
{
	*out_figures = device->loop.figures;
}

void nvme_device_began(struct nvme_device *device, uint64_t now_us)
{
	if (device->loop.figures.in_flight++ == 0)
		device->loop.progress_us = now_us;
}

static void error_count(struct nvme_device *device, const struct tier_op *op)
{
	struct nvme_figures *figures = &device->loop.figures;

	if (op->verb == TIER_READ || op->verb == TIER_PROBE)
		figures->read_errors++;
	else
		figures->write_errors++;
	figures->last_error = op->result;
	if (op->finished_us - device->loop.window_us >= NVME_ERROR_WINDOW_US) {
		device->loop.window_us = op->finished_us;
		device->loop.errors_window = 0;
	}
	device->loop.errors_window++;
	device->loop.errors_run++;
	if (device->loop.errors_run >= NVME_ERRORS_RUN_MAX)
		nvme_device_fence(device, "errors in a row");
	else if (device->loop.errors_window >= NVME_ERRORS_WINDOW_MAX)
		nvme_device_fence(device, "too many errors within a minute");
}

void nvme_device_ended(struct nvme_device *device, const struct tier_op *op)
{
	struct nvme_figures *figures = &device->loop.figures;
	uint64_t took_us = op->finished_us > op->submitted_us ? op->finished_us - op->submitted_us
							      : 0;

	assert(figures->in_flight > 0);
	figures->in_flight--;
	device->loop.progress_us = op->finished_us;
	if (op->result < 0) {
		error_count(device, op);
		return;
	}
	device->loop.errors_run = 0;
	switch (op->verb) {
	case TIER_READ:
		figures->reads++;
		figures->read_bytes += op->memory_bytes;
		figures->read_us += took_us;
		break;
	case TIER_WRITE:
		figures->writes++;
		figures->write_bytes += op->memory_bytes;
		figures->write_us += took_us;
		break;
	case TIER_EXTENTS:
		figures->table_writes++;
		break;
	case TIER_PROBE:
		break;
	}
}

void nvme_device_check_stall(struct nvme_device *device, uint64_t now_us)
{
	if (device->loop.figures.in_flight == 0 || now_us < device->loop.progress_us)
		return;
	if (now_us - device->loop.progress_us > NVME_STALL_US_MAX)
		nvme_device_fence(device, "it has work and ends none of it");
}

static int nvme_submit(struct tier *tier, struct tier_op *op)
{
	struct nvme_tier *nvme = nvme_of(tier);
	struct nvme_device *device;
	bool was_sent;

	assert(op->device < nvme->devices_count);
	device = nvme->devices[op->device];
	assert(op->verb == TIER_EXTENTS || op->verb == TIER_PROBE ||
	       op->offset + op->memory_bytes <=
		       (uint64_t)device->superblock.units_count * device->superblock.unit_bytes);
	nvme_device_check_stall(device, op->submitted_us);
	if (nvme_device_is_fenced(device))
		return -EIO;
	if (device->loop.figures.in_flight == device->ops_max)
		return -EAGAIN;
	nvme_device_began(device, op->submitted_us);
	was_sent = mailbox_send(&device->down, op);
	assert(was_sent);
	return 0;
}

static unsigned device_poll(struct tier *tier, struct nvme_device *device, unsigned limit)
{
	unsigned finished = 0;
	struct tier_op *op;

	if (device->loop.is_asleep) {
		mailbox_awake(&device->up);
		device->loop.is_asleep = false;
	}
	while (finished < limit && (op = mailbox_take(&device->up)) != NULL) {
		finished++;
		nvme_device_ended(device, op);
		tier_op_finish(tier, op);
	}
	return finished;
}

static unsigned nvme_poll(struct tier *tier, unsigned limit)
{
	struct nvme_tier *nvme = nvme_of(tier);
	uint64_t now_us = tier->clock != NULL ? clock_now_us(tier->clock) : 0;
	unsigned finished = 0;

	for (unsigned i = 0; i < nvme->devices_count; i++) {
		struct nvme_device
			*device = nvme->devices[(nvme->poll_first + i) % nvme->devices_count];

		finished += device_poll(tier, device, limit - finished);
		nvme_device_check_stall(device, now_us);
	}
	nvme->poll_first = (nvme->poll_first + 1) % nvme->devices_count;
	return finished;
}

static int nvme_fd(struct tier *tier, uint32_t device)
{
	struct nvme_tier *nvme = nvme_of(tier);

	return device < nvme->devices_count ? mailbox_fd(&nvme->devices[device]->up) : -1;
}

static bool nvme_sleep(struct tier *tier)
{
	struct nvme_tier *nvme = nvme_of(tier);

	for (unsigned i = 0; i < nvme->devices_count; i++) {
		/* Those before it stay asleep until the next poll: a wake too many, never one too
		 * few. */
		if (!mailbox_sleep(&nvme->devices[i]->up))
			return false;
		nvme->devices[i]->loop.is_asleep = true;
	}
	return true;
}

static void nvme_close(struct tier *tier)
{
	free(nvme_of(tier));
}

static const struct tier_ops nvme_tier_ops = {
	.name = "nvme",
	.submit = nvme_submit,
	.poll = nvme_poll,
	.fd = nvme_fd,
	.sleep = nvme_sleep,
	.close = nvme_close,
};

int nvme_tier_create(struct tier **out_tier, struct nvme_device **devices, unsigned count,
		     struct error *error)
{
	struct nvme_tier *nvme;

	if (count < 1 || count > NVME_DEVICES_MAX)
		return error_set(error, -EINVAL, "%u nvme devices; 1 to %u can be one tier", count,
				 NVME_DEVICES_MAX);
	nvme = calloc(1, sizeof(*nvme));
	if (nvme == NULL)
		return error_set(error, -ENOMEM, "no memory for an nvme tier");
	nvme->tier.ops = &nvme_tier_ops;
	nvme->tier.clock = devices[0]->clock;
	for (unsigned i = 0; i < count; i++)
		nvme->devices[i] = devices[i];
	nvme->devices_count = count;
	*out_tier = &nvme->tier;
	return 0;
}

uint64_t nvme_extents_image_bytes(const struct nvme_device *device)
{
	return device->table_bytes;
}

void nvme_extents_image(struct nvme_device *device, const struct nvme_extent *extents,
			unsigned count, void *image)
{
	assert(count <= device->superblock.units_count);
	device->loop.table_sequence++;
	extent_table_encode(image, device->table_bytes, device->superblock.device,
			    device->loop.table_sequence, extents, count);
}
