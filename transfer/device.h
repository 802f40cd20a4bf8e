/*
 * transfer/device.h: what moves bytes between a device's memory and ours: the contract of every
 * back end ("cuda" and "rocm", one source over the driver table; "host", where the device's
 * memory is this machine's).
 * Runs on: one thread a device, the one that opened it. Nothing allocates after open and pin.
 */
#ifndef KVTIER_TRANSFER_DEVICE_H
#define KVTIER_TRANSFER_DEVICE_H

#include "base/error.h"
#include "transfer/copy.h"
#include "transfer/gpu_types.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DEVICE_MARKS_MAX 256u
#define DEVICE_WAITS_MAX 16u /* engines of one device that words come from */
#define DEVICE_MEMORIES_MAX 4096u
#define DEVICE_SEGMENTS_MAX 4096u /* of one memory that is imported by descriptors */
#define DEVICE_PIN_STEP_BYTES (UINT64_C(1) << 30)
#define DEVICE_PINS_MAX 4096u
#define DEVICE_KERNEL_BLOCKS_MAX 1024u

/* In a queue, one thing begins when the one before it is done; queues do not wait for one
 * another. */
enum device_queue {
	DEVICE_STORE_BULK,
	DEVICE_STORE_URGENT,
	DEVICE_LOAD_BULK,
	DEVICE_LOAD_URGENT,
	/* For words alone, so that no copy stands behind an engine: the first of as many, so
	 * that no engine stands behind another. */
	DEVICE_WAIT,
	DEVICE_QUEUES = DEVICE_WAIT + DEVICE_WAITS_MAX
};

struct device_config {
	const char *bus_id;       /* "0000:17:00.0"; NULL: by uuid. Ordinals differ between pods */
	const char *uuid;         /* "GPU-00010203-..." */
	const char *library;      /* the driver's path; NULL: the vendor's usual name */
	const void *kernel_image; /* of transfer/kernels, for this device; borrowed until close.
				   * NULL: COPY_KERNEL is not there */
	uint32_t kernel_blocks;   /* multiprocessors that it may take at most; >= 1 with an image */
	bool without_words;       /* do not try whether words work */
};

struct device_about {
	char name[96];
	char bus_id[32];
	char uuid[48];  /* "" where the vendor's do not tell devices apart */
	int driver_version;
	uint64_t memory_bytes;
	uint64_t memory_used_bytes; /* by all, when the device was opened */
	bool has_words;
	bool has_path[COPY_PATHS];
};

/* Device memory: another process's, or our own. */
struct device_memory {
	uint64_t address;
	uint64_t bytes;
};

struct device_copy {
	const struct copy_rectangle *rectangles; /* borrowed until device_copy_start() returns */
	uint32_t count;
	enum copy_path path;
};

struct device;

struct device_ops {
	const char *name;
	/* May block, for seconds. Fills device->about. On failure leaves nothing behind. */
	int (*open)(struct device *device, const struct device_config *config, struct error *error);
	/* May block. Makes host memory such that copies of it are asynchronous; the host's pages
	 * are there. All or nothing. Slow: 1 GiB may take a second. */
	int (*pin)(struct device *device, void *host, uint64_t bytes, struct error *error);
	/* Takes back what a pin of exactly this memory did; no copy of it is under way. */
	int (*unpin)(struct device *device, void *host, uint64_t bytes, struct error *error);
	/* May block. `bytes` from `offset` of what the handle names. -EEXIST: its owner's process
	 * id is ours, which drivers refuse. -EAGAIN: DEVICE_MEMORIES_MAX are open. */
	int (*import_handle)(struct device *device, const struct gpu_ipc_handle *handle,
			     uint64_t offset, struct device_memory *memory, struct error *error);
	/* May block. The descriptors' memory, one behind the other; they stay the caller's. */
	int (*import_fds)(struct device *device, const int *fds, const uint64_t *bytes,
			  uint32_t count, struct device_memory *out_memory, struct error *error);
	/* May block. Memory of our own. */
	int (*memory_open)(struct device *device, uint64_t bytes, struct device_memory *out_memory,
			   struct error *error);
	/* Gives any of the three back; no copy of it is under way. May block. An error is for the
	 * log: the memory has gone, or the device is lost. */
	int (*memory_close)(struct device *device, const struct device_memory *memory,
			    struct error *error);
	/* Never blocks, except on memory that is not pinned. -EAGAIN: nothing was queued, as what a
	 * path needs is taken; other errors: a part may be, and is done when is_idle() says so. */
	int (*copy_start)(struct device *device, enum device_queue queue,
			  const struct device_copy *copy, struct error *error);
	/* Never blocks. Sets mark number `mark` behind what is in the queue. */
	int (*mark_set)(struct device *device, enum device_queue queue, uint32_t mark,
			struct error *error);
	/* 1: all before the mark is done; 0: not yet; or a negative errno. */
	int (*mark_check)(struct device *device, uint32_t mark, struct error *error);
	/* Never blocks. What is queued later begins when the word at `address` is >= value, as
	 * signed difference. -ENOTSUP: there are no words here. */
	int (*word_wait)(struct device *device, enum device_queue queue, uint64_t address,
			 uint64_t value, struct error *error);
	int (*word_write)(struct device *device, enum device_queue queue, uint64_t address,
			  uint64_t value, struct error *error);
	/* 1: nothing is queued there or under way; 0: something is; or a negative errno. */
	int (*is_idle)(struct device *device, enum device_queue queue, struct error *error);
	/* Every queue is idle, or the device lost. Gives all memory and pins back. Accepts a closed
	 * one. May block. */
	void (*close)(struct device *device);
};

extern const struct device_ops device_cuda_ops, device_rocm_ops, device_host_ops;

struct device {
	const struct device_ops *ops;
	void *back_end;   /* NULL: closed */
	pthread_t thread; /* that opened it: a driver's context is a thread's */
	struct device_about about;
	uint32_t marks_free[DEVICE_MARKS_MAX];
	uint32_t marks_free_count;
	uint64_t copies_started, copies_failed, rectangles_started;
	uint64_t bytes_started[COPY_DIRECTIONS];
};

/* The wrappers that users call; they assert and count. As the ops of these names, but: */
must_check int device_open(struct device *device, const struct device_ops *ops,
			   const struct device_config *config, struct error *error);
void device_close(struct device *device);
must_check int device_pin(struct device *device, void *host, uint64_t bytes, struct error *error);
int device_unpin(struct device *device, void *host, uint64_t bytes, struct error *error);
must_check int device_import_handle(struct device *device, const struct gpu_ipc_handle *handle,
				    uint64_t offset, uint64_t bytes,
				    struct device_memory *out_memory, struct error *error);
must_check int device_import_fds(struct device *device, const int *fds, const uint64_t *bytes,
				 uint32_t count, struct device_memory *out_memory,
				 struct error *error);
must_check int device_memory_open(struct device *device, uint64_t bytes,
				  struct device_memory *out_memory, struct error *error);
int device_memory_close(struct device *device, struct device_memory *memory, struct error *error);
/* -ENOTSUP: about.has_path says that this path is not here. */
must_check int device_copy_start(struct device *device, enum device_queue queue,
				 const struct device_copy *copy, struct error *error);
/* -EAGAIN: DEVICE_MARKS_MAX are set. */
must_check int device_mark_set(struct device *device, enum device_queue queue, uint32_t *out_mark,
			       struct error *error);
/* With an answer other than 0 the mark is the device's again. */
must_check int device_mark_check(struct device *device, uint32_t mark, struct error *error);
must_check int device_word_wait(struct device *device, enum device_queue queue, uint64_t address,
				uint64_t value, struct error *error);
must_check int device_word_write(struct device *device, enum device_queue queue, uint64_t address,
				 uint64_t value, struct error *error);
must_check int device_is_idle(struct device *device, enum device_queue queue, struct error *error);

/* Of a queue's copies. Not of DEVICE_WAIT. */
enum copy_direction device_queue_direction(enum device_queue queue);

#endif
