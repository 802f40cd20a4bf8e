/*
 * transfer/device_host.c: a device whose memory is this machine's: what an engine without a GPU
 * lends. A copy is done when copy_start() returns, so every mark is done and every queue idle;
 * there is nobody who would wait for a word.
 */
#include "base/copy.h"
#include "transfer/device.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct device_host {
	struct device_memory memories[DEVICE_MEMORIES_MAX]; /* bytes 0: free */
};

static int host_open(struct device *device, const struct device_config *config, struct error *error)
{
	(void)config;
	device->back_end = calloc(1, sizeof(struct device_host));
	if (device->back_end == NULL)
		return error_set(error, -ENOMEM, "no memory for a device");
	snprintf(device->about.name, sizeof(device->about.name), "this machine's memory");
	device->about.memory_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) *
				     (uint64_t)sysconf(_SC_PAGESIZE);
	device->about.has_path[COPY_LOOP] = true;
	return 0;
}

/* Nothing reads host memory behind the CPU's back. */
static int host_pin(struct device *device, void *host, uint64_t bytes, struct error *error)
{
	(void)device;
	(void)host;
	(void)bytes;
	(void)error;
	return 0;
}

static int host_import_handle(struct device *device, const struct gpu_ipc_handle *handle,
			      uint64_t offset, struct device_memory *memory, struct error *error)
{
	(void)handle;
	(void)offset;
	(void)memory;
	return error_set(error, -ENOTSUP, "%s is lent by descriptor, not by handle",
			 device->about.name);
}

static struct device_memory *place_free(struct device_host *host, struct error *error)
{
	for (unsigned n = 0; n < DEVICE_MEMORIES_MAX; n++)
		if (host->memories[n].bytes == 0)
			return &host->memories[n];
	error_set(error, -EAGAIN, "%u memories are open; no more are kept", DEVICE_MEMORIES_MAX);
	return NULL;
}

/* Addresses for all of it, which nothing lies under yet. */
static int range_reserve(uint64_t bytes, uint8_t **out_range, struct error *error)
{
	void *range = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
			   0);

	if (range == MAP_FAILED)
		return error_set(error, -errno, "no addresses for %llu bytes: %s",
				 (unsigned long long)bytes, strerror(errno));
	*out_range = range;
	return 0;
}

/* A descriptor that has fewer bytes than it is said to have would kill us when they are touched. */
static int segment_map(uint8_t *target, int fd, uint64_t bytes, struct error *error)
{
	struct stat status;

	if (fstat(fd, &status) < 0)
		return error_set(error, -errno, "lent memory: %s", strerror(errno));
	if (status.st_size < 0 || (uint64_t)status.st_size < bytes)
		return error_set(error, -ERANGE, "lent memory has %lld bytes, not %llu",
				 (long long)status.st_size, (unsigned long long)bytes);
	if (mmap(target, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) ==
	    MAP_FAILED)
		return error_set(error, -errno, "lent memory cannot be mapped: %s", strerror(errno));
	return 0;
}

static int host_import_fds(struct device *device, const int *fds, const uint64_t *bytes,
			   uint32_t count, struct device_memory *out_memory, struct error *error)
{
	struct device_memory *place = place_free(device->back_end, error);
	const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t total = 0, done = 0;
	uint8_t *range = NULL;
	int result;

	if (place == NULL)
		return -EAGAIN;
	for (uint32_t n = 0; n < count; n++)
		if (bytes[n] == 0 || bytes[n] % page != 0 ||
		    __builtin_add_overflow(total, bytes[n], &total))
			return error_set(error, -ERANGE, "descriptor %u is not of whole pages", n);
	result = range_reserve(total, &range, error);
	if (result < 0)
		return result;
	for (uint32_t n = 0; result == 0 && n < count; n++) {
		result = segment_map(range + done, fds[n], bytes[n], error);
		done += bytes[n];
	}
	if (result < 0) {
		munmap(range, total);
		return result;
	}
	*place = (struct device_memory){ .address = (uint64_t)range, .bytes = total };
	*out_memory = *place;
	return 0;
}

static int host_memory_open(struct device *device, uint64_t bytes, struct device_memory *out_memory,
			    struct error *error)
{
	struct device_memory *place = place_free(device->back_end, error);
	void *memory;

	if (place == NULL)
		return -EAGAIN;
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return error_set(error, -errno, "no memory for %llu bytes: %s",
				 (unsigned long long)bytes, strerror(errno));
	*place = (struct device_memory){ .address = (uint64_t)memory, .bytes = bytes };
	*out_memory = *place;
	return 0;
}

static int host_memory_close(struct device *device, const struct device_memory *memory,
			     struct error *error)
{
	struct device_host *host = device->back_end;

	(void)error;
	for (unsigned n = 0; n < DEVICE_MEMORIES_MAX; n++)
		if (host->memories[n].address == memory->address && host->memories[n].bytes > 0) {
			munmap((void *)memory->address, host->memories[n].bytes);
			host->memories[n] = (struct device_memory){ 0 };
			return 0;
		}
	assert(!"memory of this device");
	return -EINVAL;
}

static int host_copy_start(struct device *device, enum device_queue queue,
			   const struct device_copy *copy, struct error *error)
{
	bool is_store = device_queue_direction(queue) == COPY_STORE;

	(void)device;
	(void)error;
	for (uint32_t n = 0; n < copy->count; n++) {
		const struct copy_rectangle *rectangle = &copy->rectangles[n];

		for (uint64_t row = 0; row < rectangle->rows; row++) {
			uint8_t *lent = (uint8_t *)rectangle->device +
					row * rectangle->device_pitch;
			uint8_t *ours = rectangle->host + row * rectangle->host_pitch;

			copy_bytes(is_store ? ours : lent, is_store ? lent : ours,
				   rectangle->bytes);
		}
	}
	return 0;
}

static int host_mark_set(struct device *device, enum device_queue queue, uint32_t mark,
			 struct error *error)
{
	(void)device;
	(void)queue;
	(void)mark;
	(void)error;
	return 0;
}

static int host_mark_check(struct device *device, uint32_t mark, struct error *error)
{
	(void)device;
	(void)mark;
	(void)error;
	return 1;
}

static int host_word(struct device *device, enum device_queue queue, uint64_t address,
		     uint64_t value, struct error *error)
{
	(void)queue;
	(void)address;
	(void)value;
	return error_set(error, -ENOTSUP, "%s has no words", device->about.name);
}

static int host_is_idle(struct device *device, enum device_queue queue, struct error *error)
{
	(void)device;
	(void)queue;
	(void)error;
	return 1;
}

static void host_close(struct device *device)
{
	struct device_host *host = device->back_end;

	for (unsigned n = 0; n < DEVICE_MEMORIES_MAX; n++)
		if (host->memories[n].bytes > 0)
			munmap((void *)host->memories[n].address, host->memories[n].bytes);
	free(host);
}

const struct device_ops device_host_ops = {
	.name = "host", .open = host_open, .pin = host_pin, .unpin = host_pin,
	.import_handle = host_import_handle, .import_fds = host_import_fds,
	.memory_open = host_memory_open, .memory_close = host_memory_close,
	.copy_start = host_copy_start, .mark_set = host_mark_set, .mark_check = host_mark_check,
	.word_wait = host_word, .word_write = host_word, .is_idle = host_is_idle,
	.close = host_close,
};
