/* transfer/device_gpu.c: a GPU of either vendor: opening it, its queues, marks and words. */
#include "transfer/device_gpu.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

static void uuid_write(char *text, size_t bytes, const gpu_uuid *uuid)
{
	const unsigned char *b = uuid->bytes;

	snprintf(text, bytes,
		 "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0],
		 b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13],
		 b[14], b[15]);
}

static int find_by_uuid(struct device_gpu *gpu, const char *uuid, struct error *error)
{
	struct gpu_driver *driver = &gpu->driver;
	char text[48];
	gpu_uuid bytes;
	int count;
	int result = gpu_call(driver, error, device_count, &count);

	for (int n = 0; result == 0 && n < count; n++) {
		result = gpu_call(driver, error, device_get, &gpu->device, n);
		if (result == 0)
			result = gpu_call(driver, error, device_uuid, &bytes, gpu->device);
		if (result < 0)
			return result;
		uuid_write(text, sizeof(text), &bytes);
		if (strcasecmp(text, uuid) == 0)
			return 0;
	}
	return result < 0 ? result : error_set(error, -ENODEV, "no GPU has the UUID %s", uuid);
}

static int find(struct device_gpu *gpu, const struct device_config *config, struct error *error)
{
	struct error words;
	int result;

	if (config->bus_id == NULL && config->uuid == NULL)
		return error_set(error, -EINVAL, "a GPU is named by its PCI bus id or its UUID");
	if (config->bus_id == NULL)
		return find_by_uuid(gpu, config->uuid, error);
	result = gpu_call(&gpu->driver, &words, device_by_bus_id, &gpu->device, config->bus_id);
	if (result < 0)
		return error_set(error, result, "no GPU at PCI bus id %s: %s", config->bus_id,
				 words.text);
	return 0;
}

static int describe(struct device *device, struct device_gpu *gpu, struct error *error)
{
	struct gpu_driver *driver = &gpu->driver;
	struct device_about *about = &device->about;
	size_t free_bytes, bytes;
	gpu_uuid uuid;
	int pitch_max = 0;
	int result = gpu_call(driver, error, device_name, about->name, sizeof(about->name),
			      gpu->device);

	if (result == 0)
		result = gpu_call(driver, error, device_bus_id, about->bus_id,
				  sizeof(about->bus_id), gpu->device);
	/* AMD's are the same for devices of a kind. */
	if (result == 0 && driver->vendor == GPU_CUDA && gpu_has(driver, device_uuid)) {
		result = gpu_call(driver, error, device_uuid, &uuid, gpu->device);
		if (result == 0)
			uuid_write(about->uuid, sizeof(about->uuid), &uuid);
	}
	if (result == 0 && driver->vendor == GPU_CUDA)
		result = gpu_call(driver, error, device_attribute, &pitch_max,
				  CUDA_ATTRIBUTE_PITCH_MAX, gpu->device);
	if (result == 0)
		result = gpu_call(driver, error, memory_info, &free_bytes, &bytes);
	if (result < 0)
		return result;
	gpu->pitch_max = (uint64_t)pitch_max;
	about->driver_version = driver->version;
	about->memory_bytes = bytes;
	about->memory_used_bytes = bytes - free_bytes;
	return 0;
}

static int context_open(struct device_gpu *gpu, struct error *error)
{
	gpu_context context;
	/* The primary one: one process may open handles of an exporter in one context alone. */
	int result = gpu_call(&gpu->driver, error, context_retain, &context, gpu->device);

	if (result < 0)
		return result;
	gpu->has_context = true;
	return gpu_call(&gpu->driver, error, context_set, context);
}

static int queues_open(struct device_gpu *gpu, struct error *error)
{
	int least, most, priority;
	int result = gpu_call(&gpu->driver, error, priorities, &least, &most);

	for (unsigned queue = 0; result == 0 && queue < DEVICE_QUEUES; queue++) {
		/* An engine waits for loads; stores are in nobody's way. */
		priority = queue == DEVICE_STORE_BULK ? least :
			   queue == DEVICE_LOAD_URGENT || queue == DEVICE_WAIT ? most :
			   (least + most) / 2;
		result = gpu_call(&gpu->driver, error, stream_create, &gpu->streams[queue],
				  GPU_STREAM_NON_BLOCKING, priority);
	}
	for (unsigned mark = 0; result == 0 && mark < DEVICE_MARKS_MAX; mark++)
		result = gpu_call(&gpu->driver, error, event_create, &gpu->marks[mark],
				  GPU_EVENT_NO_TIMING);
	return result;
}

/* 1, 0 or a negative errno, of what a query said. */
static int answer(int result)
{
	return result == 0 ? 1 : result == -EAGAIN ? 0 : result;
}

int gpu_is_idle(struct device *device, enum device_queue queue, struct error *error)
{
	struct device_gpu *gpu = device->back_end;

	return answer(gpu_call(&gpu->driver, error, stream_query, gpu->streams[queue]));
}

int gpu_word_wait_in(struct device *device, enum device_queue queue, uint64_t address,
		     uint64_t value, struct error *error)
{
	struct device_gpu *gpu = device->back_end;

	return gpu_word_wait(&gpu->driver, gpu->streams[queue], address, value, error);
}

int gpu_word_write(struct device *device, enum device_queue queue, uint64_t address,
		   uint64_t value, struct error *error)
{
	struct device_gpu *gpu = device->back_end;

	return gpu_call(&gpu->driver, error, word_write, gpu->streams[queue], address, value, 0);
}

/* Gives back all that is there, in reverse; of what is lost, the driver's "no" is not looked at. */
static void gpu_finish(struct device *device, struct device_gpu *gpu)
{
	struct gpu_driver *driver = &gpu->driver;

	gpu_kernel_close(gpu);
	gpu_memory_close_all(gpu);
	for (unsigned mark = 0; mark < DEVICE_MARKS_MAX; mark++)
		if (gpu->marks[mark] != NULL)
			(void)gpu_call(driver, NULL, event_destroy, gpu->marks[mark]);
	for (unsigned queue = 0; queue < DEVICE_QUEUES; queue++)
		if (gpu->streams[queue] != NULL)
			(void)gpu_call(driver, NULL, stream_destroy, gpu->streams[queue]);
	if (gpu->has_context)
		(void)gpu_call(driver, NULL, context_release, gpu->device);
	gpu_driver_close(driver);
	free(gpu);
	device->back_end = NULL;
}

static int gpu_open(struct device *device, const struct device_config *config, struct error *error)
{
	enum gpu_vendor vendor = device->ops == &device_rocm_ops ? GPU_HIP : GPU_CUDA;
	struct device_gpu *gpu = calloc(1, sizeof(*gpu));
	int result;

	if (gpu == NULL)
		return error_set(error, -ENOMEM, "no memory for a GPU's queues");
	result = gpu_driver_open(&gpu->driver, vendor, config->library, error);
	if (result < 0) {
		free(gpu);
		return result;
	}
	device->back_end = gpu;
	result = find(gpu, config, error);
	if (result == 0)
		result = context_open(gpu, error);
	if (result == 0)
		result = describe(device, gpu, error);
	if (result == 0)
		result = queues_open(gpu, error);
	if (result == 0 && config->kernel_image != NULL)
		result = gpu_kernel_open(gpu, config, error);
	if (result == 0)
		result = gpu_probe(device, config, error);
	if (result < 0)
		gpu_finish(device, gpu);
	return result;
}

static void gpu_close(struct device *device)
{
	gpu_finish(device, device->back_end);
}

static int gpu_mark_set(struct device *device, enum device_queue queue, uint32_t mark,
			struct error *error)
{
	struct device_gpu *gpu = device->back_end;

	return gpu_call(&gpu->driver, error, event_record, gpu->marks[mark], gpu->streams[queue]);
}

static int gpu_mark_check(struct device *device, uint32_t mark, struct error *error)
{
	struct device_gpu *gpu = device->back_end;

	return answer(gpu_call(&gpu->driver, error, event_query, gpu->marks[mark]));
}

/* The vendors are twins. */
#define GPU_OPS(vendor_name) \
	{ \
		.name = vendor_name, .open = gpu_open, .pin = gpu_pin, .unpin = gpu_unpin, \
		.import_handle = gpu_import_handle, .import_fds = gpu_import_fds, \
		.memory_open = gpu_memory_open, .memory_close = gpu_memory_close, \
		.copy_start = gpu_copy_start, .mark_set = gpu_mark_set, \
		.mark_check = gpu_mark_check, .word_wait = gpu_word_wait_in, \
		.word_write = gpu_word_write, .is_idle = gpu_is_idle, .close = gpu_close, \
	}

const struct device_ops device_cuda_ops = GPU_OPS("cuda");
const struct device_ops device_rocm_ops = GPU_OPS("rocm");
