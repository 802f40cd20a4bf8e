/*
 * transfer/gpu_driver.h: the driver library of a GPU's vendor, opened at run time, as one table of
 * calls, and its errors as ours. Only transfer/device_gpu*.c call through it.
 * Runs on: the device's thread. One driver a process: an error that poisons it, poisons all of it.
 */
#ifndef KVTIER_TRANSFER_GPU_DRIVER_H
#define KVTIER_TRANSFER_GPU_DRIVER_H

#include "base/error.h"
#include "transfer/gpu_calls.h"
#include "transfer/gpu_types.h"

#include <stdbool.h>

/* The kinds of gpu_calls.h, as we see them. */
#define GPU_KIND(name, ours, cuda, hip) typedef ours name;
#define CUDA_KIND(name, ours, cuda) typedef ours name;
GPU_KINDS(GPU_KIND)
CUDA_KINDS(CUDA_KIND)
#undef GPU_KIND
#undef CUDA_KIND

enum gpu_vendor { GPU_CUDA, GPU_HIP, GPU_VENDORS };

/* NULL: not in this driver; gpu_call() answers "not supported". */
struct gpu_calls {
#define GPU_FIELD(name, need, cuda, hip, arguments) gpu_result (*name) arguments;
#define GPU_FIELD_ONE(name, need, symbol, arguments) gpu_result (*name) arguments;
#define GPU_FIELD_ANSWERS(name, need, symbol, answer, arguments) answer (*name) arguments;
	GPU_CALLS(GPU_FIELD, GPU_FIELD_ONE, GPU_FIELD_ONE)
	HIP_ANSWERS(GPU_FIELD_ANSWERS)
#undef GPU_FIELD
#undef GPU_FIELD_ONE
#undef GPU_FIELD_ANSWERS
};

enum gpu_call {
#define GPU_ID(name, need, cuda, hip, arguments) GPU_CALL_##name,
#define GPU_ID_ONE(name, need, symbol, arguments) GPU_CALL_##name,
#define GPU_ID_ANSWERS(name, need, symbol, answer, arguments) GPU_CALL_##name,
	GPU_CALLS(GPU_ID, GPU_ID_ONE, GPU_ID_ONE)
	HIP_ANSWERS(GPU_ID_ANSWERS)
#undef GPU_ID
#undef GPU_ID_ONE
#undef GPU_ID_ANSWERS
	GPU_CALL_COUNT
};

struct gpu_driver {
	void *library;
	enum gpu_vendor vendor;
	int version;  /* the vendor's number */
	bool is_lost; /* after an error that every later call here gives, too */
	struct gpu_calls calls;
};

/*
 * Opens the vendor's driver, or the library at `path` where that is not NULL, and initialises it.
 * -ENOENT: no such library; -ENOSYS: it lacks calls, which the error names; -ENODEV: no GPU. What
 * was initialised stays in the process until its end: it has threads and exit handlers of its own.
 */
must_check int gpu_driver_open(struct gpu_driver *driver, enum gpu_vendor vendor, const char *path,
			       struct error *error);
void gpu_driver_close(struct gpu_driver *driver);

const char *gpu_vendor_name(enum gpu_vendor vendor);

/*
 * What a call's answer means for us: 0, or a negative errno and a sentence with the call, the
 * driver's own name and number of the error. -EAGAIN: not ready; -EIO: the device is lost to this
 * process, or an error we do not know.
 */
int gpu_driver_result(struct gpu_driver *driver, enum gpu_call call, int code,
		      struct error *error);

/* gpu_call(driver, error, memory_free, address): makes a call, and says what gpu_driver_result()
 * says of its answer. */
#define gpu_call(driver, error, name, ...) \
	gpu_driver_result((driver), GPU_CALL_##name, \
			  (driver)->calls.name == NULL ? GPU_NOT_SUPPORTED : \
			  (driver)->calls.name(__VA_ARGS__), (error))
#define gpu_has(driver, name) ((driver)->calls.name != NULL)

/* ---- where the vendors' calls differ ---- */

/* What queues behind it in `stream` starts when the word at `address` is >= value, cyclically. */
must_check int gpu_word_wait(struct gpu_driver *driver, gpu_stream stream, gpu_address address,
			     uint64_t value, struct error *error);
bool gpu_has_batch(const struct gpu_driver *driver);
/* Copies bytes[n] from sources[n] to targets[n], in one call, after which the arrays are the
 * caller's again. */
must_check int gpu_copy_batch(struct gpu_driver *driver, gpu_address *targets, gpu_address *sources,
			      size_t *bytes, size_t count, gpu_stream stream, struct error *error);
/* Memory that another process exported as a descriptor, which stays the caller's. */
must_check int gpu_share_import(struct gpu_driver *driver, int fd, gpu_memory *out_memory,
				struct error *error);
/* For ipc_open: map it now. */
unsigned gpu_ipc_flags(const struct gpu_driver *driver);

#endif
