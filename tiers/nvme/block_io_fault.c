/* tiers/nvme/block_io_fault.c: block I/O that fails on demand. */
#include "tiers/nvme/block_io_fault.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A wrapped queue. A request that is to be falsified travels as a shadow. */
struct fault_request {
	struct block_request shadow;
	struct block_request *original;
	int result_claimed; /* 1: the shadow's own */
};

struct fault_io {
	struct block_io io;
	struct block_io_fault *fault;
	struct block_io *inner;
	uint32_t queue_depth;
	uint32_t in_flight;
	struct list finished;          /* originals that have ended, held or not yet reaped */
	struct fault_request *shadows; /* queue_depth of them; free when original is NULL */
};

#define OWN_RESULT 1

static struct block_io_fault *fault_of(const struct block_io_ops *ops)
{
	return (struct block_io_fault *)(uintptr_t)ops;
}

/* Counts an operation; true: this one is to fail. */
static bool is_hit(struct block_io_fault *fault, bool is_queue)
{
	if (fault->fault == BLOCK_FAULT_NONE || (fault->scope == BLOCK_FAULT_QUEUE && !is_queue))
		return false;
	fault->seen++;
	if (fault->seen < fault->nth || fault->seen - fault->nth >= fault->count)
		return false;
	fault->hits++;
	return true;
}

static int fault_disk_open(const struct block_io_ops *ops, struct block_disk *out_disk,
			   const char *path, unsigned flags, struct error *error)
{
	struct block_io_fault *fault = fault_of(ops);

	if (is_hit(fault, false))
		return error_set(error, fault->errno_value, "%s: open: injected", path);
	return fault->inner->disk_open(fault->inner, out_disk, path,
				       flags | (fault->refuse_direct ? DISK_BUFFERED : 0), error);
}

static int fault_disk_lock(const struct block_io_ops *ops, struct block_disk *disk)
{
	struct block_io_fault *fault = fault_of(ops);

	return is_hit(fault, false) ? fault->errno_value
				    : fault->inner->disk_lock(fault->inner, disk);
}

static int fault_disk_is_at(const struct block_io_ops *ops, struct block_disk *disk,
			    const char *path)
{
	struct block_io_fault *fault = fault_of(ops);

	return is_hit(fault, false) ? fault->errno_value
				    : fault->inner->disk_is_at(fault->inner, disk, path);
}

static int fault_disk_allocate(const struct block_io_ops *ops, struct block_disk *disk,
			       uint64_t bytes)
{
	struct block_io_fault *fault = fault_of(ops);

	return is_hit(fault, false) ? fault->errno_value
				    : fault->inner->disk_allocate(fault->inner, disk, bytes);
}

static int fault_disk_read(const struct block_io_ops *ops, struct block_disk *disk, void *memory,
			   uint64_t bytes, uint64_t offset)
{
	struct block_io_fault *fault = fault_of(ops);

	if (is_hit(fault, false))
		return fault->errno_value;
	return fault->inner->disk_read(fault->inner, disk, memory, bytes, offset);
}

static int fault_disk_write(const struct block_io_ops *ops, struct block_disk *disk,
			    const void *memory, uint64_t bytes, uint64_t offset)
{
	struct block_io_fault *fault = fault_of(ops);

	if (is_hit(fault, false))
		return fault->errno_value;
	return fault->inner->disk_write(fault->inner, disk, memory, bytes, offset);
}

static int fault_disk_sync(const struct block_io_ops *ops, struct block_disk *disk)
{
	struct block_io_fault *fault = fault_of(ops);

	return is_hit(fault, false) ? fault->errno_value
				    : fault->inner->disk_sync(fault->inner, disk);
}

static int fault_disk_rename(const struct block_io_ops *ops, const char *from, const char *to)
{
	struct block_io_fault *fault = fault_of(ops);

	return is_hit(fault, false) ? fault->errno_value
				    : fault->inner->disk_rename(fault->inner, from, to);
}

static int fault_disk_remove(const struct block_io_ops *ops, const char *path)
{
	struct block_io_fault *fault = fault_of(ops);

	/* Clean-up is not counted: what runs after a failure must not hide it. */
	return fault->inner->disk_remove(fault->inner, path);
}

static void fault_disk_close(const struct block_io_ops *ops, struct block_disk *disk)
{
	struct block_io_fault *fault = fault_of(ops);

	fault->inner->disk_close(fault->inner, disk);
}

static int fault_open(const struct block_io_ops *ops, struct block_io **out_io,
		      const struct block_io_config *config, struct error *error)
{
	struct block_io_fault *fault = fault_of(ops);
	struct fault_io *io;
	int result;

	if (is_hit(fault, false))
		return error_set(error, fault->errno_value, "queue: injected");
	io = calloc(1, sizeof(*io));
	if (io == NULL)
		return error_set(error, -ENOMEM, "no memory for a faulty queue");
	io->shadows = calloc(config->queue_depth, sizeof(*io->shadows));
	if (io->shadows == NULL) {
		result = error_set(error, -ENOMEM, "no memory for a faulty queue");
		goto free_io;
	}
	io->io.ops = ops;
	io->fault = fault;
	io->queue_depth = config->queue_depth;
	list_init(&io->finished);
	result = fault->inner->open(fault->inner, &io->inner, config, error);
	if (result < 0)
		goto free_shadows;
	*out_io = &io->io;
	return 0;
free_shadows:
	free(io->shadows);
free_io:
	free(io);
	return result;
}

static int fault_register_memory(struct block_io *io, const struct nvme_memory *memory,
				 unsigned count, struct error *error)
{
	struct fault_io *faulty = (struct fault_io *)io;

	if (faulty->fault->refuse_registration)
		return error_set(error, -ENOMEM, "injected: the buffers are not registered");
	return faulty->inner->ops->register_memory(faulty->inner, memory, count, error);
}

static struct fault_request *shadow_take(struct fault_io *faulty)
{
	for (uint32_t i = 0; i < faulty->queue_depth; i++) {
		if (faulty->shadows[i].original == NULL)
			return &faulty->shadows[i];
	}
	return NULL;
}

static uint64_t half_of(uint64_t bytes)
{
	return bytes / 2 / SLOT_ALIGN_BYTES * SLOT_ALIGN_BYTES;
}

/* Starts the part of the request that a fault lets happen. False: none of it. */
static bool shadow_start(struct fault_io *faulty, struct block_request *request)
{
	struct block_io_fault *fault = faulty->fault;
	struct fault_request *shadow = shadow_take(faulty);
	int result;

	assert(shadow != NULL);
	shadow->shadow = *request;
	shadow->result_claimed = OWN_RESULT;
	if (fault->fault == BLOCK_FAULT_MISDIRECTED) {
		shadow->shadow.offset = (uint64_t)((int64_t)request->offset +
						   fault->misdirect_bytes);
	} else {
		shadow->shadow.bytes = half_of(request->bytes);
		shadow->result_claimed = fault->fault == BLOCK_FAULT_TORN ? 0 : -EIO;
	}
	if (shadow->shadow.bytes == 0)
		return false;
	shadow->original = request;
	result = faulty->inner->ops->submit(faulty->inner, &shadow->shadow);
	assert(result == 0);
	return true;
}

static int fault_submit(struct block_io *io, struct block_request *request)
{
	struct fault_io *faulty = (struct fault_io *)io;
	struct block_io_fault *fault = faulty->fault;
	int result;

	if (faulty->in_flight == faulty->queue_depth)
		return -EAGAIN;
	if (!is_hit(fault, true)) {
		result = faulty->inner->ops->submit(faulty->inner, request);
		faulty->in_flight += result == 0;
		return result;
	}
	faulty->in_flight++;
	switch (fault->fault) {
	case BLOCK_FAULT_ERROR:
		request->result = fault->errno_value;
		break;
	case BLOCK_FAULT_LOST:
		request->result = 0;
		break;
	default:
		if (request->verb != BLOCK_SYNC && shadow_start(faulty, request))
			return 0;
		request->result = fault->fault == BLOCK_FAULT_SHORT ? -EIO : 0;
	}
	list_append(&faulty->finished, &request->link);
	return 0;
}

static void fault_flush(struct block_io *io)
{
	struct fault_io *faulty = (struct fault_io *)io;

	faulty->inner->ops->flush(faulty->inner);
}

/* The original of a shadow, with the result that is claimed; any other request as it is. */
static struct block_request *request_unveil(struct fault_io *faulty, struct block_request *request)
{
	for (uint32_t i = 0; i < faulty->queue_depth; i++) {
		struct fault_request *shadow = &faulty->shadows[i];
		struct block_request *original = shadow->original;

		if (&shadow->shadow != request)
			continue;
		assert(original != NULL);
		original->result = shadow->result_claimed == OWN_RESULT ? request->result
									: shadow->result_claimed;
		shadow->original = NULL;
		return original;
	}
	return request;
}

static unsigned fault_reap(struct block_io *io, struct block_request **out_requests, unsigned limit)
{
	struct fault_io *faulty = (struct fault_io *)io;
	struct block_io_fault *fault = faulty->fault;
	struct block_request *reaped;
	unsigned count = 0;

	while (faulty->inner->ops->reap(faulty->inner, &reaped, 1) == 1)
		list_append(&faulty->finished, &request_unveil(faulty, reaped)->link);
	while (count < limit && !list_is_empty(&faulty->finished) &&
	       (!fault->is_holding || fault->released > 0)) {
		fault->released -= fault->is_holding;
		faulty->in_flight--;
		out_requests[count++] = list_item(list_take_first(&faulty->finished),
						  struct block_request, link);
	}
	return count;
}

static void fault_wait(struct block_io *io, int wake_fd, uint64_t wait_us_max)
{
	struct fault_io *faulty = (struct fault_io *)io;

	/* What was failed here would not wake the inner queue. */
	if (!list_is_empty(&faulty->finished) && !faulty->fault->is_holding)
		return;
	faulty->inner->ops->wait(faulty->inner, wake_fd, wait_us_max);
}

static void fault_describe(const struct block_io *io, char *text, size_t text_bytes)
{
	const struct fault_io *faulty = (const struct fault_io *)io;

	faulty->inner->ops->describe(faulty->inner, text, text_bytes);
}

static void fault_close(struct block_io *io)
{
	struct fault_io *faulty = (struct fault_io *)io;

	if (faulty == NULL)
		return;
	assert(faulty->in_flight == 0);
	faulty->inner->ops->close(faulty->inner);
	free(faulty->shadows);
	free(faulty);
}

void block_io_fault_init(struct block_io_fault *fault, const struct block_io_ops *inner)
{
	const struct block_io_ops ops = {
		.name = "fault",
		.disk_open = fault_disk_open,
		.disk_lock = fault_disk_lock,
		.disk_is_at = fault_disk_is_at,
		.disk_allocate = fault_disk_allocate,
		.disk_read = fault_disk_read,
		.disk_write = fault_disk_write,
		.disk_sync = fault_disk_sync,
		.disk_rename = fault_disk_rename,
		.disk_remove = fault_disk_remove,
		.disk_close = fault_disk_close,
		.open = fault_open,
		.register_memory = fault_register_memory,
		.submit = fault_submit,
		.flush = fault_flush,
		.reap = fault_reap,
		.wait = fault_wait,
		.describe = fault_describe,
		.close = fault_close,
	};

	memset(fault, 0, sizeof(*fault));
	fault->ops = ops;
	fault->inner = inner;
	fault->errno_value = -EIO;
}

void block_io_fault_arm(struct block_io_fault *fault, enum block_fault kind,
			enum block_fault_scope scope, uint64_t nth, uint64_t count)
{
	assert(nth > 0 && count > 0);
	fault->fault = kind;
	fault->scope = scope;
	fault->nth = nth;
	fault->count = count;
	fault->seen = 0;
	fault->hits = 0;
}

bool block_io_fault_was_hit(const struct block_io_fault *fault)
{
	return fault->hits > 0;
}

void block_io_fault_hold(struct block_io_fault *fault)
{
	fault->is_holding = true;
	fault->released = 0;
}

void block_io_fault_release(struct block_io_fault *fault, uint64_t count)
{
	assert(fault->is_holding);
	fault->released += count;
}

void block_io_fault_flow(struct block_io_fault *fault)
{
	fault->is_holding = false;
	fault->released = 0;
}
