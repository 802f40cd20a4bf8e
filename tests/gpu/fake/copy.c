/*
 * tests/gpu/fake/copy.c: what a stream does: copies, launches, words; and the calls that queue
 * it.
 */
#include "tests/gpu/fake/fake.h"
#include "tests/gpu/kv_copy_emulate.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define THREADS_MAX 1024u

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* One engine a direction, for all streams and processes: each copy takes the next piece of its
 * time. */
static void engine_use(enum copy_direction direction, uint64_t bytes)
{
	uint64_t rate = fake_control->bytes_second[direction];
	uint64_t took, from, until, free_at = fake_control->engine_free_ns[direction];

	fake_control->bytes[direction] += bytes;
	if (rate == 0)
		return;
	took = (uint64_t)((double)bytes * 1e9 / (double)rate);
	do {
		from = free_at > now_ns() ? free_at : now_ns();
		until = from + took;
	} while (!atomic_compare_exchange_weak(&fake_control->engine_free_ns[direction], &free_at,
					       until));
	while (now_ns() < until && !fake_is_leaving())
		fake_pause();
}

/* Whether the turn of a copy or launch came, or the process goes, or is lost. */
static bool may_begin(enum fake_call call)
{
	while (fake_control->is_stalled != 0 && !fake_is_leaving())
		fake_pause();
	return !fake_is_leaving() && fake_enter(call, false) == 0;
}

/* Whether this is the copy that a test wants wrong. */
static bool is_corrupted(enum copy_direction direction, uint64_t run_bytes)
{
	uint32_t left = fake_control->corrupt_nth[direction];

	if (run_bytes < fake_control->corrupt_bytes_min)
		return false;
	while (left > 0 && !atomic_compare_exchange_weak(&fake_control->corrupt_nth[direction],
							 &left, left - 1))
		;
	return left == 1;
}

static void copy_run(struct op *op)
{
	if (!may_begin(FAKE_fake_copy)) {
		fake_poison(GPU_LAUNCH_FAILED);
		return;
	}
	engine_use(op->direction, op->bytes * op->rows);
	for (uint64_t row = 0; row < op->rows; row++)
		memcpy(op->target + row * op->target_pitch, op->source + row * op->source_pitch,
		       op->bytes);
	if (is_corrupted(op->direction, op->bytes))
		op->target[op->bytes / 2] ^= 0x10;
}

/* Of a launch's first fragment. */
static void launch_corrupt(const struct kv_copy *copy)
{
	const struct kv_fragment *first = (const void *)copy->fragments;

	if (copy->count > 0 && is_corrupted(copy->is_load ? COPY_LOAD : COPY_STORE, first->bytes))
		((uint8_t *)(copy->is_load ? first->device : first->host))[first->bytes / 2] ^=
			0x10;
}

/* An address as a kernel uses it, as one of the CPU; NULL: the kernel must not. */
static void *kernel_memory(uint64_t address, uint64_t bytes)
{
	void *memory = (void *)(address & ~HOST_BIT);

	if ((address & HOST_BIT) == 0)
		return fake_device_memory(address, bytes);
	return fake_is_pinned(memory, bytes) ? memory : NULL;
}

static bool fragment_translate(struct kv_fragment *fragment)
{
	void *device = kernel_memory(fragment->device, fragment->bytes);
	void *host = kernel_memory(fragment->host, fragment->bytes);

	fragment->device = (uint64_t)device;
	fragment->host = (uint64_t)host;
	return device != NULL && host != NULL;
}

static void launch_run(struct op *op)
{
	struct kv_copy copy = op->launch;
	uint64_t list_bytes = copy.count * sizeof(struct kv_fragment), bytes = 0;
	struct kv_fragment *fragments = malloc(list_bytes + 1);
	const void *list;
	bool is_right;

	pthread_mutex_lock(&fake_mutex);
	list = kernel_memory(copy.fragments, list_bytes);
	is_right = list != NULL;
	if (is_right)
		memcpy(fragments, list, list_bytes);
	for (uint32_t n = 0; n < copy.count && is_right; n++) {
		is_right = fragment_translate(&fragments[n]);
		bytes += fragments[n].bytes;
	}
	pthread_mutex_unlock(&fake_mutex);
	copy.fragments = (uint64_t)fragments;
	if (!is_right)
		fake_poison(GPU_ILLEGAL_ADDRESS);
	else if (!may_begin(FAKE_fake_launch))
		fake_poison(GPU_LAUNCH_FAILED);
	else {
		engine_use(copy.is_load ? COPY_LOAD : COPY_STORE, bytes);
		kv_copy_emulate(&copy, copy.blocks, copy.threads);
		launch_corrupt(&copy);
	}
	free(fragments);
}

static void wait_run(const struct op *op)
{
	while ((int64_t)(__atomic_load_n(op->word, __ATOMIC_ACQUIRE) - op->value) < 0) {
		if (fake_is_leaving())
			return;
		fake_pause();
	}
}

void fake_op_run(struct op *op)
{
	switch (op->kind) {
	case OP_COPY: copy_run(op); return;
	case OP_LAUNCH: launch_run(op); return;
	case OP_WAIT: wait_run(op); return;
	case OP_WRITE: __atomic_store_n(op->word, op->value, __ATOMIC_RELEASE); return;
	case OP_RECORD: return;
	}
}

/* One rectangle. Host memory that is not pinned is copied before the call returns, and noted. */
static int queue_copy(gpu_stream stream, enum copy_direction direction, uint64_t device,
		      const void *host, const struct op *shape)
{
	uint64_t rows = shape->rows - 1;
	bool is_store = direction == COPY_STORE, is_pinned;
	uint64_t device_pitch = is_store ? shape->source_pitch : shape->target_pitch;
	uint64_t host_pitch = is_store ? shape->target_pitch : shape->source_pitch;
	uint64_t span = rows * host_pitch + shape->bytes;
	bool is_mixed;
	struct op op = *shape;
	uint8_t *memory;

	pthread_mutex_lock(&fake_mutex);
	memory = fake_device_memory(device, rows * device_pitch + shape->bytes);
	is_pinned = fake_mapping_of(host, span, true) != NULL;
	/* What is pinned in part, or in parts, is refused, as drivers do. */
	is_mixed = !is_pinned && (fake_is_pinned(host, 1) ||
				  fake_is_pinned((const char *)host + span - 1, 1));
	pthread_mutex_unlock(&fake_mutex);
	if (memory == NULL || is_mixed || ((uint64_t)host & (DEVICE_BIT | HOST_BIT)) != 0)
		return GPU_INVALID_VALUE;
	op.kind = OP_COPY;
	op.direction = direction;
	op.target = is_store ? (uint8_t *)(uintptr_t)host : memory;
	op.source = is_store ? memory : host;
	if (!is_pinned)
		fake_control->synchronous++;
	fake_queue(stream, &op, !is_pinned);
	return 0;
}

EXPORTED int cuMemcpyHtoDAsync_v2(gpu_address target, gpu_source source, size_t bytes,
				  gpu_stream stream)
{
	int error = fake_enter(FAKE_cuMemcpyHtoDAsync_v2, true);
	const struct op shape = { .bytes = bytes, .rows = 1 };

	return error != 0 ? error : queue_copy(stream, COPY_LOAD, target, source, &shape);
}

EXPORTED int cuMemcpyDtoHAsync_v2(void *target, gpu_address source, size_t bytes, gpu_stream stream)
{
	int error = fake_enter(FAKE_cuMemcpyDtoHAsync_v2, true);
	const struct op shape = { .bytes = bytes, .rows = 1 };

	return error != 0 ? error : queue_copy(stream, COPY_STORE, source, target, &shape);
}

EXPORTED int cuMemcpy2DAsync_v2(const cuda_copy_2d *copy, gpu_stream stream)
{
	int error = fake_enter(FAKE_cuMemcpy2DAsync_v2, true);
	bool is_store = copy->target_type == CUDA_MEMORY_HOST;
	const struct op shape = { .bytes = copy->width_bytes, .rows = copy->height,
				  .target_pitch = copy->target_pitch,
				  .source_pitch = copy->source_pitch };

	if (error != 0)
		return error;
	if (copy->source_pitch < copy->width_bytes || copy->target_pitch < copy->width_bytes ||
	    copy->source_pitch > FAKE_PITCH_MAX || copy->target_pitch > FAKE_PITCH_MAX ||
	    copy->source_type == copy->target_type || copy->source_x_bytes != 0 ||
	    copy->target_x_bytes != 0 || copy->source_y != 0 || copy->target_y != 0)
		return GPU_INVALID_VALUE;
	return queue_copy(stream, is_store ? COPY_STORE : COPY_LOAD,
			  is_store ? copy->source_device : copy->target_device,
			  is_store ? copy->target_host : copy->source_host, &shape);
}

int fake_batch(gpu_address *targets, gpu_address *sources, size_t *bytes, size_t count,
	       gpu_stream stream)
{
	int error = 0;

	if (fake_control->lacks_batch != 0)
		return GPU_NOT_SUPPORTED;
	for (size_t n = 0; n < count && error == 0; n++) {
		const struct op shape = { .bytes = bytes[n], .rows = 1 };
		bool is_store = (sources[n] & DEVICE_BIT) != 0;

		error = queue_copy(stream, is_store ? COPY_STORE : COPY_LOAD,
				   is_store ? sources[n] : targets[n],
				   (void *)(is_store ? targets[n] : sources[n]), &shape);
	}
	return error;
}

EXPORTED int cuMemcpyBatchAsync_v2(gpu_address *targets, gpu_address *sources, size_t *bytes,
				   size_t count, cuda_batch *attributes, size_t *firsts,
				   size_t attributes_count, gpu_stream stream)
{
	int error = fake_enter(FAKE_cuMemcpyBatchAsync_v2, true);

	if (error != 0 || attributes_count != 1 || firsts[0] != 0 || count == 0 ||
	    attributes->source_order != CUDA_BATCH_ORDER_STREAM)
		return error != 0 ? error : GPU_INVALID_VALUE;
	return fake_batch(targets, sources, bytes, count, stream);
}

EXPORTED int cuMemcpyBatchAsync(gpu_address *targets, gpu_address *sources, size_t *bytes,
				size_t count, cuda_batch *attributes, size_t *firsts,
				size_t attributes_count, size_t *out_failed, gpu_stream stream)
{
	int error = fake_enter(FAKE_cuMemcpyBatchAsync, true);

	if (error != 0 || attributes_count != 1 || firsts[0] != 0 || count == 0 ||
	    attributes->source_order != CUDA_BATCH_ORDER_STREAM)
		return error != 0 ? error : GPU_INVALID_VALUE;
	*out_failed = SIZE_MAX;
	return fake_batch(targets, sources, bytes, count, stream);
}

static int word(enum fake_call call, enum op_kind kind, gpu_stream stream, gpu_address address,
		uint64_t value)
{
	int error = fake_enter(call, true);
	struct op op = { .kind = kind, .value = value };

	if (error != 0 || fake_control->lacks_words != 0)
		return error != 0 ? error : GPU_NOT_SUPPORTED;
	pthread_mutex_lock(&fake_mutex);
	op.word = (uint64_t *)(void *)fake_device_memory(address, sizeof(uint64_t));
	pthread_mutex_unlock(&fake_mutex);
	if (op.word == NULL || address % sizeof(uint64_t) != 0)
		return GPU_INVALID_VALUE;
	fake_queue(stream, &op, false);
	return 0;
}

EXPORTED int cuStreamWriteValue64_v2(gpu_stream stream, gpu_address address, uint64_t value,
				     unsigned flags)
{
	(void)flags;
	return word(FAKE_cuStreamWriteValue64_v2, OP_WRITE, stream, address, value);
}

EXPORTED int cuStreamWaitValue64_v2(gpu_stream stream, gpu_address address, uint64_t value,
				    unsigned flags)
{
	if (flags != GPU_WAIT_GEQ)
		return GPU_INVALID_VALUE;
	return word(FAKE_cuStreamWaitValue64_v2, OP_WAIT, stream, address, value);
}

/* An image is anything; its one function is the copy kernel, which the CPU runs. */
EXPORTED int cuModuleLoadData(gpu_module *out_module, const void *image)
{
	int error = fake_enter(FAKE_cuModuleLoadData, true);

	if (error != 0 || image == NULL)
		return error != 0 ? error : GPU_INVALID_VALUE;
	*out_module = (void *)(uintptr_t)image;
	return 0;
}

EXPORTED int cuModuleUnload(gpu_module module)
{
	(void)module;
	return fake_enter(FAKE_cuModuleUnload, true);
}

EXPORTED int cuModuleGetFunction(gpu_function *out_function, gpu_module module, const char *name)
{
	int error = fake_enter(FAKE_cuModuleGetFunction, true);

	if (error != 0 || strcmp(name, KV_COPY_FUNCTION) != 0)
		return error != 0 ? error : GPU_NOT_FOUND;
	*out_function = module;
	return 0;
}

EXPORTED int cuLaunchKernel(gpu_function function, unsigned blocks, unsigned blocks_y,
			    unsigned blocks_z, unsigned threads, unsigned threads_y,
			    unsigned threads_z, unsigned shared_bytes, gpu_stream stream,
			    void **arguments, void **extra)
{
	int error = fake_enter(FAKE_cuLaunchKernel, true);
	struct op op = { .kind = OP_LAUNCH };

	if (error != 0)
		return error;
	memcpy(&op.launch, arguments[0], sizeof(op.launch));
	if (function == NULL || extra != NULL || shared_bytes != 0 || blocks == 0 ||
	    blocks_y * blocks_z * threads_y * threads_z != 1 || threads > THREADS_MAX ||
	    op.launch.blocks != blocks || op.launch.threads != threads)
		return GPU_INVALID_VALUE;
	fake_queue(stream, &op, false);
	return 0;
}
