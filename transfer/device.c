/* transfer/device.c: the wrappers of device.h. */
#include "transfer/device.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static void assert_usable(const struct device *device)
{
	assert(device->back_end != NULL);
	assert(pthread_equal(device->thread, pthread_self()));
}

enum copy_direction device_queue_direction(enum device_queue queue)
{
	assert(queue < DEVICE_WAIT);
	return queue <= DEVICE_STORE_URGENT ? COPY_STORE : COPY_LOAD;
}

int device_open(struct device *device, const struct device_ops *ops,
		const struct device_config *config, struct error *error)
{
	int result;

	*device = (struct device){ .ops = ops, .thread = pthread_self() };
	while (device->marks_free_count < DEVICE_MARKS_MAX) {
		device->marks_free[device->marks_free_count] = device->marks_free_count;
		device->marks_free_count++;
	}
	result = ops->open(device, config, error);
	assert((result == 0) == (device->back_end != NULL));
	return result;
}

void device_close(struct device *device)
{
	if (device == NULL || device->back_end == NULL)
		return;
	assert_usable(device);
	device->ops->close(device);
	device->back_end = NULL;
}

int device_pin(struct device *device, void *host, uint64_t bytes, struct error *error)
{
	assert_usable(device);
	assert(bytes > 0);
	return device->ops->pin(device, host, bytes, error);
}

int device_unpin(struct device *device, void *host, uint64_t bytes, struct error *error)
{
	assert_usable(device);
	return device->ops->unpin(device, host, bytes, error);
}

int device_import_handle(struct device *device, const struct gpu_ipc_handle *handle,
			 uint64_t offset, uint64_t bytes, struct device_memory *out_memory,
			 struct error *error)
{
	struct device_memory memory = { .bytes = bytes };
	int result;

	assert_usable(device);
	result = device->ops->import_handle(device, handle, offset, &memory, error);
	if (result == 0)
		*out_memory = memory;
	return result;
}

int device_import_fds(struct device *device, const int *fds, const uint64_t *bytes,
		      uint32_t count, struct device_memory *out_memory, struct error *error)
{
	assert_usable(device);
	if (count == 0 || count > DEVICE_SEGMENTS_MAX)
		return error_set(error, -EINVAL, "memory of %u descriptors: from 1 to %u are right",
				 count, DEVICE_SEGMENTS_MAX);
	return device->ops->import_fds(device, fds, bytes, count, out_memory, error);
}

int device_memory_open(struct device *device, uint64_t bytes, struct device_memory *out_memory,
		       struct error *error)
{
	assert_usable(device);
	assert(bytes > 0);
	return device->ops->memory_open(device, bytes, out_memory, error);
}

int device_memory_close(struct device *device, struct device_memory *memory, struct error *error)
{
	int result;

	assert_usable(device);
	if (memory->bytes == 0)
		return 0;
	result = device->ops->memory_close(device, memory, error);
	*memory = (struct device_memory){ 0 };
	return result;
}

static uint64_t copy_bytes_of(const struct device_copy *copy)
{
	uint64_t bytes = 0;

	for (uint32_t n = 0; n < copy->count; n++) {
		assert(copy->rectangles[n].rows >= 1);
		assert(copy->rectangles[n].bytes >= 1);
		bytes += copy->rectangles[n].bytes * copy->rectangles[n].rows;
	}
	return bytes;
}

int device_copy_start(struct device *device, enum device_queue queue,
		      const struct device_copy *copy, struct error *error)
{
	enum copy_direction direction = device_queue_direction(queue);
	uint64_t bytes = copy_bytes_of(copy);
	int result;

	assert_usable(device);
	assert(copy->path < COPY_PATHS);
	if (!device->about.has_path[copy->path])
		return error_set(error, -ENOTSUP, "%s has no such way of copying",
				 device->about.name);
	result = device->ops->copy_start(device, queue, copy, error);
	if (result < 0) {
		device->copies_failed += result != -EAGAIN;
		return result;
	}
	device->copies_started++;
	device->rectangles_started += copy->count;
	device->bytes_started[direction] += bytes;
	return 0;
}

int device_mark_set(struct device *device, enum device_queue queue, uint32_t *out_mark,
		    struct error *error)
{
	uint32_t mark;
	int result;

	assert_usable(device);
	if (device->marks_free_count == 0)
		return error_set(error, -EAGAIN, "all %u marks are set", DEVICE_MARKS_MAX);
	mark = device->marks_free[device->marks_free_count - 1];
	result = device->ops->mark_set(device, queue, mark, error);
	if (result < 0)
		return result;
	device->marks_free_count--;
	*out_mark = mark;
	return 0;
}

int device_mark_check(struct device *device, uint32_t mark, struct error *error)
{
	int result;

	assert_usable(device);
	assert(mark < DEVICE_MARKS_MAX);
	result = device->ops->mark_check(device, mark, error);
	if (result != 0) {
		assert(device->marks_free_count < DEVICE_MARKS_MAX);
		device->marks_free[device->marks_free_count++] = mark;
	}
	return result;
}

int device_word_wait(struct device *device, enum device_queue queue, uint64_t address,
		     uint64_t value, struct error *error)
{
	assert_usable(device);
	assert(address % sizeof(uint64_t) == 0);
	assert(value <= INT64_MAX); /* the comparison is cyclic */
	if (!device->about.has_words)
		return error_set(error, -ENOTSUP, "%s has no words", device->about.name);
	return device->ops->word_wait(device, queue, address, value, error);
}

int device_word_write(struct device *device, enum device_queue queue, uint64_t address,
		      uint64_t value, struct error *error)
{
	assert_usable(device);
	assert(address % sizeof(uint64_t) == 0);
	if (!device->about.has_words)
		return error_set(error, -ENOTSUP, "%s has no words", device->about.name);
	return device->ops->word_write(device, queue, address, value, error);
}

int device_is_idle(struct device *device, enum device_queue queue, struct error *error)
{
	assert_usable(device);
	return device->ops->is_idle(device, queue, error);
}
