/*
 * transfer/device_gpu.h: what the parts of the GPU back end share: device_gpu.c (opening,
 * marks, words), device_gpu_probe.c (what it can do), device_gpu_memory.c (pins, imports),
 * device_gpu_copy.c (copies).
 */
#ifndef KVTIER_TRANSFER_DEVICE_GPU_H
#define KVTIER_TRANSFER_DEVICE_GPU_H

#include "transfer/device.h"
#include "transfer/gpu_driver.h"
#include "transfer/kernels/kv_copy.h"

#define GPU_ROWS_MAX 4096u /* of one batch or launch */
#define GPU_LISTS 8u       /* of fragments, that launches may read at the same time */

/* Host memory that the driver knows, and what kernels call it. */
struct gpu_pin {
	uint8_t *host;
	uint64_t bytes;
	gpu_address address;
};

enum gpu_memory_kind { GPU_MEMORY_FREE, GPU_MEMORY_OWN, GPU_MEMORY_HANDLE, GPU_MEMORY_RANGE };
struct gpu_memory_place {
	enum gpu_memory_kind kind;
	gpu_address address; /* as device_memory has it */
	gpu_address base;    /* as the driver has it */
	uint64_t bytes;      /* of a range: all of it */
	uint32_t segments_count;
	uint64_t *segments_bytes; /* of a range */
};

enum gpu_list_state {
	GPU_LIST_FREE,
	GPU_LIST_LAUNCHED, /* a launch may read it, until its event is done */
	GPU_LIST_LOST      /* a launch may read it, and there is no event */
};
struct gpu_list {
	struct kv_fragment *fragments; /* GPU_ROWS_MAX */
	gpu_address address;
	gpu_event event; /* behind the launch that reads it */
	enum gpu_list_state state;
};

struct device_gpu {
	struct gpu_driver driver;
	gpu_device device;
	bool has_context;
	gpu_stream streams[DEVICE_QUEUES];
	gpu_event marks[DEVICE_MARKS_MAX];
	uint64_t pitch_max;
	struct gpu_pin pins[DEVICE_PINS_MAX]; /* by address */
	uint32_t pins_count;
	struct gpu_memory_place places[DEVICE_MEMORIES_MAX];
	/* Of copy_start() alone. */
	gpu_address targets[GPU_ROWS_MAX], sources[GPU_ROWS_MAX];
	size_t bytes[GPU_ROWS_MAX];
	/* Of the kernel. */
	gpu_module module;
	gpu_function function;
	uint32_t kernel_blocks;
	struct kv_fragment *lists_memory;
	struct gpu_list lists[GPU_LISTS];
};

/* ---- device_gpu_memory.c ---- */

int gpu_pin(struct device *device, void *host, uint64_t bytes, struct error *error);
int gpu_unpin(struct device *device, void *host, uint64_t bytes, struct error *error);
/* What a kernel calls pinned memory; false: it is not pinned, or not in one piece. */
bool gpu_pinned_address(const struct device_gpu *gpu, const uint8_t *host, uint64_t bytes,
			gpu_address *out_address);
/* How many of `bytes` from here lie in one pin, or in none: a driver may refuse one copy of two. */
uint64_t gpu_pin_run(const struct device_gpu *gpu, const uint8_t *host, uint64_t bytes);
int gpu_import_handle(struct device *device, const struct gpu_ipc_handle *handle, uint64_t offset,
		      struct device_memory *memory, struct error *error);
int gpu_import_fds(struct device *device, const int *fds, const uint64_t *bytes, uint32_t count,
		   struct device_memory *out_memory, struct error *error);
int gpu_memory_open(struct device *device, uint64_t bytes, struct device_memory *out_memory,
		    struct error *error);
int gpu_memory_close(struct device *device, const struct device_memory *memory,
		     struct error *error);
void gpu_memory_close_all(struct device_gpu *gpu);

/* ---- device_gpu_copy.c ---- */

must_check int gpu_kernel_open(struct device_gpu *gpu, const struct device_config *config,
			       struct error *error);
void gpu_kernel_close(struct device_gpu *gpu);
int gpu_copy_start(struct device *device, enum device_queue queue, const struct device_copy *copy,
		   struct error *error);

/* ---- device_gpu_probe.c ---- */

/* Finds out what this device can do, by doing it: fills about.has_words and about.has_path. */
must_check int gpu_probe(struct device *device, const struct device_config *config,
			 struct error *error);

/* ---- device_gpu.c ---- */

int gpu_word_wait_in(struct device *device, enum device_queue queue, uint64_t address,
		     uint64_t value, struct error *error);
int gpu_word_write(struct device *device, enum device_queue queue, uint64_t address,
		   uint64_t value, struct error *error);
int gpu_is_idle(struct device *device, enum device_queue queue, struct error *error);

#endif
