/*
 * transfer/device_gpu_memory.c: host memory that the GPU may use, and memory of the GPU that we
 * may.
 */
#include "transfer/device_gpu.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* How many pins lie before this address. */
static uint32_t pins_before(const struct device_gpu *gpu, const uint8_t *host)
{
	uint32_t first = 0, behind = gpu->pins_count;

	while (first < behind) {
		uint32_t middle = first + (behind - first) / 2;

		if (gpu->pins[middle].host < host)
			first = middle + 1;
		else
			behind = middle;
	}
	return first;
}

bool gpu_pinned_address(const struct device_gpu *gpu, const uint8_t *host, uint64_t bytes,
			gpu_address *out_address)
{
	uint32_t n = pins_before(gpu, host + 1);
	uint64_t from;

	if (n == 0)
		return false;
	from = (uint64_t)(host - gpu->pins[n - 1].host);
	if (from >= gpu->pins[n - 1].bytes || bytes > gpu->pins[n - 1].bytes - from)
		return false;
	*out_address = gpu->pins[n - 1].address + from;
	return true;
}

uint64_t gpu_pin_run(const struct device_gpu *gpu, const uint8_t *host, uint64_t bytes)
{
	uint32_t n = pins_before(gpu, host + 1);
	uint64_t run = bytes;

	if (n > 0 && host < gpu->pins[n - 1].host + gpu->pins[n - 1].bytes)
		run = (uint64_t)(gpu->pins[n - 1].host + gpu->pins[n - 1].bytes - host);
	else if (n < gpu->pins_count)
		run = (uint64_t)(gpu->pins[n].host - host);
	return run < bytes ? run : bytes;
}

/* One step: at most DEVICE_PIN_STEP_BYTES, as drivers refuse hundreds of GiB at once. */
static int pin_step(struct device_gpu *gpu, uint8_t *host, uint64_t bytes, struct error *error)
{
	struct gpu_driver *driver = &gpu->driver;
	uint32_t place = pins_before(gpu, host);
	gpu_address address;
	int result = gpu_call(driver, error, host_register, host, bytes,
			      GPU_HOST_PORTABLE | GPU_HOST_MAPPED);

	if (result < 0)
		return result;
	result = gpu_call(driver, error, host_address, &address, host, 0);
	if (result < 0) {
		(void)gpu_call(driver, NULL, host_unregister, host);
		return result;
	}
	memmove(&gpu->pins[place + 1], &gpu->pins[place],
		(gpu->pins_count - place) * sizeof(gpu->pins[0]));
	gpu->pins[place] = (struct gpu_pin){ .host = host, .bytes = bytes, .address = address };
	gpu->pins_count++;
	return 0;
}

int gpu_unpin(struct device *device, void *host, uint64_t bytes, struct error *error)
{
	struct device_gpu *gpu = device->back_end;
	uint32_t first = pins_before(gpu, host), count = 0;
	int result = 0, one;

	while (first + count < gpu->pins_count &&
	       gpu->pins[first + count].host < (uint8_t *)host + bytes) {
		one = gpu_call(&gpu->driver, error, host_unregister,
			       gpu->pins[first + count].host);
		result = result < 0 ? result : one;
		count++;
	}
	memmove(&gpu->pins[first], &gpu->pins[first + count],
		(gpu->pins_count - first - count) * sizeof(gpu->pins[0]));
	gpu->pins_count -= count;
	return result;
}

int gpu_pin(struct device *device, void *host, uint64_t bytes, struct error *error)
{
	struct device_gpu *gpu = device->back_end;
	uint64_t steps = (bytes + DEVICE_PIN_STEP_BYTES - 1) / DEVICE_PIN_STEP_BYTES;
	uint64_t done = 0, step;
	int result = 0;

	if (steps > DEVICE_PINS_MAX - gpu->pins_count)
		return error_set(error, -ENOSPC, "%u pieces of memory are pinned; no more are kept",
				 gpu->pins_count);
	while (done < bytes && result == 0) {
		step = bytes - done < DEVICE_PIN_STEP_BYTES ? bytes - done : DEVICE_PIN_STEP_BYTES;
		result = pin_step(gpu, (uint8_t *)host + done, step, error);
		done += result == 0 ? step : 0;
	}
	if (result < 0 && done > 0)
		(void)gpu_unpin(device, host, done, NULL);
	return result;
}

static struct gpu_memory_place *place_find(struct device_gpu *gpu, gpu_address address)
{
	for (unsigned n = 0; n < DEVICE_MEMORIES_MAX; n++)
		if (gpu->places[n].kind != GPU_MEMORY_FREE && gpu->places[n].address == address)
			return &gpu->places[n];
	return NULL;
}

static struct gpu_memory_place *place_free(struct device_gpu *gpu, struct error *error)
{
	for (unsigned n = 0; n < DEVICE_MEMORIES_MAX; n++)
		if (gpu->places[n].kind == GPU_MEMORY_FREE)
			return &gpu->places[n];
	error_set(error, -EAGAIN, "%u memories of the device are open; no more are kept",
		  DEVICE_MEMORIES_MAX);
	return NULL;
}

int gpu_memory_open(struct device *device, uint64_t bytes, struct device_memory *out_memory,
		    struct error *error)
{
	struct device_gpu *gpu = device->back_end;
	struct gpu_memory_place *place = place_free(gpu, error);
	gpu_address address;
	int result;

	if (place == NULL)
		return -EAGAIN;
	result = gpu_call(&gpu->driver, error, memory_allocate, &address, bytes);
	if (result < 0)
		return result;
	*place = (struct gpu_memory_place){ .kind = GPU_MEMORY_OWN, .address = address,
					    .base = address, .bytes = bytes };
	*out_memory = (struct device_memory){ .address = address, .bytes = bytes };
	return 0;
}

/* Whether what the engine says of its memory is true: a wrong word must not reach beyond it. */
static int import_check(struct device_gpu *gpu, gpu_address base, uint64_t offset, uint64_t bytes,
			struct error *error)
{
	gpu_address start;
	size_t size;
	int result = gpu_call(&gpu->driver, error, memory_range, &start, &size, base);

	if (result < 0)
		return result;
	if (start != base || offset > size || bytes > size - offset || bytes == 0)
		return error_set(error, -ERANGE, "%llu bytes at %llu of memory that has %zu",
				 (unsigned long long)bytes, (unsigned long long)offset, size);
	return 0;
}

int gpu_import_handle(struct device *device, const struct gpu_ipc_handle *handle, uint64_t offset,
		      struct device_memory *memory, struct error *error)
{
	struct device_gpu *gpu = device->back_end;
	struct gpu_memory_place *place = place_free(gpu, error);
	struct error words = { 0 };
	gpu_address base;
	int result;

	if (place == NULL)
		return -EAGAIN;
	result = gpu_call(&gpu->driver, &words, ipc_open, &base, *handle,
			  gpu_ipc_flags(&gpu->driver));
	if (result == -EBADF)
		return error_set(error, -EEXIST,
				 "the memory's owner has our process id; start again for another: %s",
				 words.text);
	if (result < 0)
		return error_set(error, result, "%s", words.text);
	result = import_check(gpu, base, offset, memory->bytes, error);
	if (result < 0) {
		(void)gpu_call(&gpu->driver, NULL, ipc_close, base);
		return result;
	}
	*place = (struct gpu_memory_place){ .kind = GPU_MEMORY_HANDLE, .address = base + offset,
					    .base = base, .bytes = memory->bytes };
	memory->address = place->address;
	return 0;
}

/* ---- a range of addresses, over memory that came as descriptors ---- */

/* Takes the first `count` segments off the range, and the range back. */
static int range_close(struct device_gpu *gpu, const struct gpu_memory_place *place,
		       uint32_t count, struct error *error)
{
	gpu_address address = place->base;
	int result = 0, one;

	for (uint32_t n = 0; n < count; n++) {
		one = gpu_call(&gpu->driver, error, range_unmap, address, place->segments_bytes[n]);
		result = result < 0 ? result : one;
		address += place->segments_bytes[n];
	}
	one = gpu_call(&gpu->driver, error, range_free, place->base, place->bytes);
	free(place->segments_bytes);
	return result < 0 ? result : one;
}

static int segment_map(struct device_gpu *gpu, int fd, gpu_address address, uint64_t bytes,
		       struct error *error)
{
	gpu_memory memory;
	int released, result = gpu_share_import(&gpu->driver, fd, &memory, error);

	if (result < 0)
		return result;
	result = gpu_call(&gpu->driver, error, range_map, address, bytes, 0, memory, 0);
	/* What is mapped stays, without the handle. */
	released = gpu_call(&gpu->driver, result < 0 ? NULL : error, share_release, memory);
	if (result == 0 && released < 0)
		(void)gpu_call(&gpu->driver, NULL, range_unmap, address, bytes);
	return result < 0 ? result : released;
}

static int segments_map(struct device_gpu *gpu, const int *fds, struct gpu_memory_place *place,
			struct error *error)
{
	const gpu_access access = { .location_type = GPU_LOCATION_DEVICE, .location = gpu->device,
				    .flags = GPU_ACCESS_READ_WRITE };
	gpu_address address = place->base;
	uint32_t mapped = 0;
	int result = 0;

	while (mapped < place->segments_count && result == 0) {
		result = segment_map(gpu, fds[mapped], address, place->segments_bytes[mapped],
				     error);
		if (result < 0)
			break;
		address += place->segments_bytes[mapped++];
	}
	if (result == 0)
		result = gpu_call(&gpu->driver, error, range_access, place->base, place->bytes,
				  &access, 1);
	if (result < 0)
		(void)range_close(gpu, place, mapped, NULL);
	return result;
}

int gpu_import_fds(struct device *device, const int *fds, const uint64_t *bytes, uint32_t count,
		   struct device_memory *out_memory, struct error *error)
{
	struct device_gpu *gpu = device->back_end;
	struct gpu_memory_place *place = place_free(gpu, error);
	struct gpu_memory_place made = { .kind = GPU_MEMORY_RANGE, .segments_count = count };
	int result;

	if (place == NULL)
		return -EAGAIN;
	for (uint32_t n = 0; n < count; n++)
		if (bytes[n] == 0 || __builtin_add_overflow(made.bytes, bytes[n], &made.bytes))
			return error_set(error, -ERANGE, "descriptor %u has a wrong size", n);
	/* Imports are made before a job names them, so this is no allocation on the way of one. */
	made.segments_bytes = malloc(count * sizeof(*bytes));
	if (made.segments_bytes == NULL)
		return error_set(error, -ENOMEM, "no memory for %u sizes", count);
	memcpy(made.segments_bytes, bytes, count * sizeof(*bytes));
	result = gpu_call(&gpu->driver, error, range_reserve, &made.base, made.bytes, 0, 0, 0);
	if (result < 0) {
		free(made.segments_bytes);
		return result;
	}
	result = segments_map(gpu, fds, &made, error);
	if (result < 0)
		return result;
	made.address = made.base;
	*place = made;
	*out_memory = (struct device_memory){ .address = made.base, .bytes = made.bytes };
	return 0;
}

static int place_close(struct device_gpu *gpu, struct gpu_memory_place *place, struct error *error)
{
	int result = 0;

	switch (place->kind) {
	case GPU_MEMORY_OWN:
		result = gpu_call(&gpu->driver, error, memory_free, place->base);
		break;
	case GPU_MEMORY_HANDLE:
		result = gpu_call(&gpu->driver, error, ipc_close, place->base);
		break;
	case GPU_MEMORY_RANGE:
		result = range_close(gpu, place, place->segments_count, error);
		break;
	case GPU_MEMORY_FREE:
		break;
	}
	*place = (struct gpu_memory_place){ .kind = GPU_MEMORY_FREE };
	return result;
}

int gpu_memory_close(struct device *device, const struct device_memory *memory,
		     struct error *error)
{
	struct device_gpu *gpu = device->back_end;
	struct gpu_memory_place *place = place_find(gpu, memory->address);

	assert(place != NULL);
	return place_close(gpu, place, error);
}

void gpu_memory_close_all(struct device_gpu *gpu)
{
	for (unsigned n = 0; n < DEVICE_MEMORIES_MAX; n++)
		(void)place_close(gpu, &gpu->places[n], NULL);
	while (gpu->pins_count > 0) {
		gpu->pins_count--;
		(void)gpu_call(&gpu->driver, NULL, host_unregister,
			       gpu->pins[gpu->pins_count].host);
	}
}
