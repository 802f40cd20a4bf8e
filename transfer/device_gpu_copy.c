/* transfer/device_gpu_copy.c: copies of a GPU, by each path; the same bytes by all. */
#include "transfer/device_gpu.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define KERNEL_THREADS 512u
#define LIST_ALIGN 4096u

_Static_assert(KERNEL_THREADS % KV_COPY_TEAM == 0 && KERNEL_THREADS <= KV_COPY_THREADS_MAX,
	       "the kernel's teams");

static int run_start(struct device_gpu *gpu, enum device_queue queue, uint64_t device,
		     uint8_t *host, uint64_t bytes, struct error *error)
{
	if (device_queue_direction(queue) == COPY_STORE)
		return gpu_call(&gpu->driver, error, copy_store, host, device, bytes,
				gpu->streams[queue]);
	return gpu_call(&gpu->driver, error, copy_load, device, host, bytes, gpu->streams[queue]);
}

static int row_start(struct device_gpu *gpu, enum device_queue queue, uint64_t device,
		     uint8_t *host, uint64_t bytes, struct error *error)
{
	uint64_t done = 0, run;
	int result = 0;

	while (result == 0 && done < bytes) {
		run = gpu_pin_run(gpu, host + done, bytes - done);
		result = run_start(gpu, queue, device + done, host + done, run, error);
		done += run;
	}
	return result;
}

static int rows_start(struct device_gpu *gpu, enum device_queue queue,
		      const struct copy_rectangle *rectangle, struct error *error)
{
	int result = 0;

	for (uint64_t row = 0; result == 0 && row < rectangle->rows; row++)
		result = row_start(gpu, queue, rectangle->device + row * rectangle->device_pitch,
				   rectangle->host + row * rectangle->host_pitch, rectangle->bytes,
				   error);
	return result;
}

static int loop_start(struct device_gpu *gpu, enum device_queue queue,
		      const struct device_copy *copy, struct error *error)
{
	int result = 0;

	for (uint32_t n = 0; result == 0 && n < copy->count; n++)
		result = rows_start(gpu, queue, &copy->rectangles[n], error);
	return result;
}

static int rectangle_start(struct device_gpu *gpu, enum device_queue queue,
			   const struct copy_rectangle *rectangle, struct error *error)
{
	cuda_copy_2d copy = { .width_bytes = rectangle->bytes, .height = rectangle->rows };

	if (device_queue_direction(queue) == COPY_STORE) {
		copy.source_type = CUDA_MEMORY_DEVICE;
		copy.source_device = rectangle->device;
		copy.source_pitch = rectangle->device_pitch;
		copy.target_type = CUDA_MEMORY_HOST;
		copy.target_host = rectangle->host;
		copy.target_pitch = rectangle->host_pitch;
	} else {
		copy.source_type = CUDA_MEMORY_HOST;
		copy.source_host = rectangle->host;
		copy.source_pitch = rectangle->host_pitch;
		copy.target_type = CUDA_MEMORY_DEVICE;
		copy.target_device = rectangle->device;
		copy.target_pitch = rectangle->device_pitch;
	}
	return gpu_call(&gpu->driver, error, copy_2d, &copy, gpu->streams[queue]);
}

/* A rectangle may have a gap behind its last row, which no one reads. */
static bool is_in_one_pin(const struct device_gpu *gpu, const struct copy_rectangle *rectangle)
{
	uint64_t span = (rectangle->rows - 1) * rectangle->host_pitch + rectangle->bytes;

	return gpu_pin_run(gpu, rectangle->host, span) == span;
}

static bool is_pitch(const struct device_gpu *gpu, uint64_t pitch, uint64_t bytes)
{
	return pitch >= bytes && pitch <= gpu->pitch_max;
}

static int rectangles_start(struct device_gpu *gpu, enum device_queue queue,
			    const struct device_copy *copy, struct error *error)
{
	int result = 0;

	for (uint32_t n = 0; result == 0 && n < copy->count; n++) {
		const struct copy_rectangle *rectangle = &copy->rectangles[n];

		if (rectangle->rows > 1 &&
		    is_pitch(gpu, rectangle->device_pitch, rectangle->bytes) &&
		    is_pitch(gpu, rectangle->host_pitch, rectangle->bytes) &&
		    is_in_one_pin(gpu, rectangle))
			result = rectangle_start(gpu, queue, rectangle, error);
		else
			result = rows_start(gpu, queue, rectangle, error);
	}
	return result;
}

/* ---- batches: the rows of all rectangles, GPU_ROWS_MAX at a time ---- */

static int batch_send(struct device_gpu *gpu, enum device_queue queue, uint32_t rows,
		      struct error *error)
{
	return rows == 0 ? 0 : gpu_copy_batch(&gpu->driver, gpu->targets, gpu->sources, gpu->bytes,
					      rows, gpu->streams[queue], error);
}

/* One row, to *rows that are to be sent; sends what is full. */
static int batch_add(struct device_gpu *gpu, enum device_queue queue,
		     const struct copy_rectangle *row, uint32_t *rows, struct error *error)
{
	bool is_store = device_queue_direction(queue) == COPY_STORE;
	uint64_t done = 0, run;
	int result = 0;

	while (result == 0 && done < row->bytes) {
		run = gpu_pin_run(gpu, row->host + done, row->bytes - done);
		gpu->targets[*rows] = is_store ? (uint64_t)row->host + done : row->device + done;
		gpu->sources[*rows] = is_store ? row->device + done : (uint64_t)row->host + done;
		gpu->bytes[(*rows)++] = run;
		done += run;
		if (*rows == GPU_ROWS_MAX) {
			result = batch_send(gpu, queue, *rows, error);
			*rows = 0;
		}
	}
	return result;
}

static int batch_start(struct device_gpu *gpu, enum device_queue queue,
		       const struct device_copy *copy, struct error *error)
{
	uint32_t rows = 0;
	int result = 0;

	for (uint32_t n = 0; n < copy->count; n++) {
		struct copy_rectangle row = copy->rectangles[n];

		for (uint64_t left = row.rows; result == 0 && left > 0; left--) {
			result = batch_add(gpu, queue, &row, &rows, error);
			row.device += row.device_pitch;
			row.host += row.host_pitch;
		}
	}
	return result < 0 ? result : batch_send(gpu, queue, rows, error);
}

/* ---- the kernel: lists of fragments in pinned memory, which a launch reads when its turn comes
 * ---- */

int gpu_kernel_open(struct device_gpu *gpu, const struct device_config *config, struct error *error)
{
	struct gpu_driver *driver = &gpu->driver;
	const size_t list_bytes = GPU_ROWS_MAX * sizeof(struct kv_fragment);
	struct kv_fragment *memory;
	gpu_address address;
	int result;

	assert(config->kernel_blocks >= 1 && config->kernel_blocks <= DEVICE_KERNEL_BLOCKS_MAX);
	gpu->kernel_blocks = config->kernel_blocks;
	result = gpu_call(driver, error, module_load, &gpu->module, config->kernel_image);
	if (result == 0)
		result = gpu_call(driver, error, module_function, &gpu->function, gpu->module,
				  KV_COPY_FUNCTION);
	if (result < 0)
		return result;
	memory = aligned_alloc(LIST_ALIGN, GPU_LISTS * list_bytes);
	if (memory == NULL)
		return error_set(error, -ENOMEM, "no memory for lists of fragments");
	result = gpu_call(driver, error, host_register, memory, GPU_LISTS * list_bytes,
			  GPU_HOST_PORTABLE | GPU_HOST_MAPPED);
	if (result < 0) {
		free(memory);
		return result;
	}
	gpu->lists_memory = memory;
	result = gpu_call(driver, error, host_address, &address, memory, 0);
	for (unsigned n = 0; result == 0 && n < GPU_LISTS; n++) {
		gpu->lists[n].fragments = memory + n * GPU_ROWS_MAX;
		gpu->lists[n].address = address + n * list_bytes;
		result = gpu_call(driver, error, event_create, &gpu->lists[n].event,
				  GPU_EVENT_NO_TIMING);
	}
	return result;
}

void gpu_kernel_close(struct device_gpu *gpu)
{
	struct gpu_driver *driver = &gpu->driver;

	for (unsigned n = 0; n < GPU_LISTS; n++)
		if (gpu->lists[n].event != NULL)
			(void)gpu_call(driver, NULL, event_destroy, gpu->lists[n].event);
	if (gpu->lists_memory != NULL)
		(void)gpu_call(driver, NULL, host_unregister, gpu->lists_memory);
	free(gpu->lists_memory);
	if (gpu->module != NULL)
		(void)gpu_call(driver, NULL, module_unload, gpu->module);
}

static void list_become(struct gpu_list *list, enum gpu_list_state next)
{
	assert(list->state != GPU_LIST_LOST);
	list->state = next;
}

/* Lists that no launch reads any more; at most `wanted` are looked for. */
static int lists_find(struct device_gpu *gpu, uint64_t wanted, struct gpu_list **out_lists,
		      struct error *error)
{
	uint64_t found = 0;
	int result;

	if (wanted > GPU_LISTS)
		return error_set(error, -E2BIG, "a copy of more than %u rows by the kernel",
				 GPU_LISTS * GPU_ROWS_MAX);
	for (unsigned n = 0; n < GPU_LISTS && found < wanted; n++) {
		struct gpu_list *list = &gpu->lists[n];

		if (list->state == GPU_LIST_LAUNCHED) {
			result = gpu_call(&gpu->driver, error, event_query, list->event);
			if (result < 0 && result != -EAGAIN)
				return result;
			list_become(list, result == 0 ? GPU_LIST_FREE : GPU_LIST_LAUNCHED);
		}
		if (list->state == GPU_LIST_FREE)
			out_lists[found++] = list;
	}
	return found == wanted ? 0 : error_set(error, -EAGAIN, "all lists of fragments are in use");
}

static int list_launch(struct device_gpu *gpu, enum device_queue queue, struct gpu_list *list,
		       struct kv_copy *copy, struct error *error)
{
	void *arguments[] = { copy };
	int result;

	if (copy->steps == 0)
		return 0;
	copy->fragments = list->address;
	copy->is_load = device_queue_direction(queue) == COPY_LOAD;
	copy->threads = KERNEL_THREADS;
	copy->blocks = gpu->kernel_blocks;
	result = gpu_call(&gpu->driver, error, launch, gpu->function, copy->blocks, 1, 1,
			  copy->threads, 1, 1, 0, gpu->streams[queue], arguments, NULL);
	if (result < 0)
		return result;
	result = gpu_call(&gpu->driver, error, event_record, list->event, gpu->streams[queue]);
	/* Without the event it would never be known when it is free. */
	list_become(list, result < 0 ? GPU_LIST_LOST : GPU_LIST_LAUNCHED);
	return result;
}

/* True: the kernel takes it, and it stands in the list. */
static bool fragment_add(struct device_gpu *gpu, struct gpu_list *list, struct kv_copy *copy,
			 const struct kv_fragment *row)
{
	struct kv_fragment fragment = *row;
	uint64_t steps = kv_copy_steps(row->bytes);

	if ((row->device | row->host | row->bytes) % KV_COPY_ALIGN != 0 ||
	    steps > UINT32_MAX - copy->steps ||
	    !gpu_pinned_address(gpu, (const uint8_t *)row->host, row->bytes, &fragment.host) ||
	    fragment.host % KV_COPY_ALIGN != 0)
		return false;
	fragment.first = copy->steps;
	list->fragments[copy->count++] = fragment;
	copy->steps += (uint32_t)steps;
	return true;
}

static int kernel_start(struct device_gpu *gpu, enum device_queue queue,
			const struct device_copy *copy, struct error *error)
{
	struct gpu_list *lists[GPU_LISTS];
	struct kv_copy launch = { 0 };
	uint64_t rows = 0;
	unsigned used = 0;
	int result;

	for (uint32_t n = 0; n < copy->count; n++)
		rows += copy->rectangles[n].rows;
	result = lists_find(gpu, (rows + GPU_ROWS_MAX - 1) / GPU_ROWS_MAX, lists, error);
	for (uint32_t n = 0; result == 0 && n < copy->count; n++) {
		const struct copy_rectangle *rectangle = &copy->rectangles[n];

		for (uint64_t row = 0; result == 0 && row < rectangle->rows; row++) {
			uint8_t *host = rectangle->host + row * rectangle->host_pitch;
			const struct kv_fragment fragment = {
				.device = rectangle->device + row * rectangle->device_pitch,
				.host = (uint64_t)host, .bytes = rectangle->bytes };

			if (!fragment_add(gpu, lists[used], &launch, &fragment))
				result = row_start(gpu, queue, fragment.device, host,
						   rectangle->bytes, error);
			if (result == 0 && launch.count == GPU_ROWS_MAX) {
				result = list_launch(gpu, queue, lists[used++], &launch, error);
				launch = (struct kv_copy){ 0 };
			}
		}
	}
	return result < 0 || launch.count == 0 ? result :
	       list_launch(gpu, queue, lists[used], &launch, error);
}

int gpu_copy_start(struct device *device, enum device_queue queue, const struct device_copy *copy,
		   struct error *error)
{
	struct device_gpu *gpu = device->back_end;

	switch (copy->path) {
	case COPY_2D: return rectangles_start(gpu, queue, copy, error);
	case COPY_BATCH: return batch_start(gpu, queue, copy, error);
	case COPY_KERNEL: return kernel_start(gpu, queue, copy, error);
	default: return loop_start(gpu, queue, copy, error);
	}
}
