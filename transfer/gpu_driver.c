/* transfer/gpu_driver.c: see gpu_driver.h. */
#include "transfer/gpu_driver.h"

#include <assert.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define LIBRARY_NAMES_MAX 4

/* Newest first: a node may have several. */
static const char *const library_names[GPU_VENDORS][LIBRARY_NAMES_MAX] = {
	[GPU_CUDA] = { "libcuda.so.1" },
	[GPU_HIP] = { "libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5" },
};

enum { OPTIONAL, REQUIRED };

static const struct row {
	const char *symbols[GPU_VENDORS]; /* NULL: not of this vendor */
	size_t offset;                    /* in struct gpu_calls */
	int need;
} rows[GPU_CALL_COUNT] = {
#define ROW(name, need, cuda, hip, arguments) \
	[GPU_CALL_##name] = { { #cuda, #hip }, offsetof(struct gpu_calls, name), need },
#define ROW_CUDA(name, need, symbol, arguments) \
	[GPU_CALL_##name] = { { #symbol, NULL }, offsetof(struct gpu_calls, name), need },
#define ROW_HIP(name, need, symbol, arguments) \
	[GPU_CALL_##name] = { { NULL, #symbol }, offsetof(struct gpu_calls, name), need },
#define ROW_ANSWERS(name, need, symbol, answer, arguments) ROW_HIP(name, need, symbol, arguments)
	GPU_CALLS(ROW, ROW_CUDA, ROW_HIP)
	HIP_ANSWERS(ROW_ANSWERS)
};

/* HIP's numbers: 10,000,000 a major version, 100,000 a minor one. */
#define HIP_VERSION_OF(major, minor) ((major) * 10000000 + (minor) * 100000)

static const struct meaning {
	int code;
	int result;
	bool is_lost;
	const char *words;
} meanings[] = {
	{ GPU_INVALID_VALUE, -EINVAL, false, "the driver refuses an argument" },
	{ GPU_OUT_OF_MEMORY, -ENOMEM, false, "out of memory" },
	{ GPU_NOT_INITIALIZED, -EINVAL, false, "the driver was not initialised" },
	{ GPU_DEINITIALIZED, -EIO, true, "the driver is shutting down" },
	{ CUDA_STUB_LIBRARY, -ENODEV, false, "this is a stub to link against, not a driver" },
	{ CUDA_DEVICE_UNAVAILABLE, -EBUSY, false, "the device is taken, or switched off" },
	{ GPU_NO_DEVICE, -ENODEV, false, "no GPU is visible to this process" },
	{ GPU_INVALID_DEVICE, -ENODEV, false, "no such GPU" },
	{ GPU_INVALID_IMAGE, -ENOEXEC, false, "the kernels are not for this GPU" },
	{ GPU_NO_BINARY_FOR_GPU, -ENOEXEC, false, "the kernels are not for this GPU" },
	{ CUDA_INVALID_PTX, -ENOEXEC, false, "the driver cannot compile the kernels" },
	{ CUDA_UNSUPPORTED_PTX_VERSION, -ENOEXEC, false, "the driver is too old for the kernels" },
	{ GPU_INVALID_CONTEXT, -EBADF, false, "not from this process or thread" },
	{ GPU_MAP_FAILED, -ENOMEM, false, "the memory cannot be mapped" },
	{ GPU_OPERATING_SYSTEM, -EREMOTEIO, false, "the operating system refused" },
	{ GPU_INVALID_HANDLE, -EINVAL, false, "the driver does not know what it was given" },
	{ GPU_NOT_FOUND, -ENOENT, false, "not found" },
	{ GPU_HOST_ALREADY_REGISTERED, -EEXIST, false, "this memory is pinned already" },
	{ GPU_HOST_NOT_REGISTERED, -ENOENT, false, "this memory is not pinned" },
	{ CUDA_NOT_PERMITTED, -EPERM, false, "not permitted" },
	{ GPU_NOT_SUPPORTED, -ENOTSUP, false, "this driver or GPU cannot do it" },
	{ CUDA_SYSTEM_NOT_READY, -EBUSY, false, "the GPU's services are not running yet" },
	{ CUDA_DRIVER_MISMATCH, -ENODEV, false, "the kernel's driver is of another version" },
	{ GPU_ECC_UNCORRECTABLE, -EIO, true, "device lost: a memory error" },
	{ GPU_ILLEGAL_ADDRESS, -EIO, true, "device lost: an access outside of its memory" },
	{ GPU_LAUNCH_TIMEOUT, -EIO, true, "device lost: a kernel ran for too long" },
	{ GPU_CONTEXT_IS_DESTROYED, -EIO, true, "device lost: our context has gone" },
	{ GPU_ASSERT, -EIO, true, "device lost: a kernel stopped" },
	{ CUDA_HARDWARE_STACK, -EIO, true, "device lost: a kernel failed" },
	{ CUDA_ILLEGAL_INSTRUCTION, -EIO, true, "device lost: a kernel failed" },
	{ CUDA_MISALIGNED_ADDRESS, -EIO, true, "device lost: a kernel failed" },
	{ CUDA_INVALID_ADDRESS_SPACE, -EIO, true, "device lost: a kernel failed" },
	{ CUDA_INVALID_PC, -EIO, true, "device lost: a kernel failed" },
	{ GPU_LAUNCH_FAILED, -EIO, true, "device lost: a kernel or copy failed" },
	{ GPU_UNKNOWN, -EIO, true, "device lost" },
};

const char *gpu_vendor_name(enum gpu_vendor vendor)
{
	return vendor == GPU_CUDA ? "CUDA" : "ROCm";
}

static void *library_open(enum gpu_vendor vendor, const char *path)
{
	/* RTLD_LOCAL: names of one vendor's driver must not answer for another library's. */
	if (path != NULL)
		return dlopen(path, RTLD_NOW | RTLD_LOCAL);
	for (unsigned n = 0; n < LIBRARY_NAMES_MAX && library_names[vendor][n] != NULL; n++) {
		void *library = dlopen(library_names[vendor][n], RTLD_NOW | RTLD_LOCAL);

		if (library != NULL)
			return library;
	}
	return NULL;
}

/* Looks all rows up; writes the names of required ones that are not there. True: all are. */
static bool calls_find(struct gpu_driver *driver, char *missing, size_t missing_bytes)
{
	size_t length = 0;

	missing[0] = '\0';
	for (unsigned call = 0; call < GPU_CALL_COUNT; call++) {
		const char *symbol = rows[call].symbols[driver->vendor];
		void *function = symbol == NULL ? NULL : dlsym(driver->library, symbol);

		/* A copy, as ISO C has no conversion from an object's to a function's address. */
		memcpy((char *)&driver->calls + rows[call].offset, &function, sizeof(function));
		if (symbol == NULL || function != NULL || rows[call].need == OPTIONAL)
			continue;
		if (length < missing_bytes)
			length += (size_t)snprintf(missing + length, missing_bytes - length, " %s",
						   symbol);
	}
	return length == 0;
}

int gpu_driver_open(struct gpu_driver *driver, enum gpu_vendor vendor, const char *path,
		    struct error *error)
{
	const char *name = path != NULL ? path : library_names[vendor][0];
	char missing[120];
	int result;

	assert(vendor < GPU_VENDORS);
	*driver = (struct gpu_driver){ .vendor = vendor };
	driver->library = library_open(vendor, path);
	if (driver->library == NULL)
		return error_set(error, -ENOENT, "the %s driver cannot be opened: %s",
				 gpu_vendor_name(vendor), dlerror());
	if (!calls_find(driver, missing, sizeof(missing))) {
		result = error_set(error, -ENOSYS, "%s lacks what we need of a %s driver:%s", name,
				   gpu_vendor_name(vendor), missing);
		goto close_library;
	}
	result = gpu_call(driver, error, init, 0);
	if (result < 0)
		goto close_library;
	return gpu_call(driver, error, driver_version, &driver->version);
close_library:
	dlclose(driver->library);
	driver->library = NULL;
	return result;
}

void gpu_driver_close(struct gpu_driver *driver)
{
	if (driver != NULL)
		*driver = (struct gpu_driver){ .vendor = driver->vendor };
}

static const char *error_name(struct gpu_driver *driver, int code)
{
	const char *name = NULL;

	if (driver->vendor == GPU_HIP)
		name = driver->calls.error_name_hip(code);
	else if (driver->calls.error_name_cuda(code, &name) != GPU_SUCCESS)
		name = NULL;
	return name != NULL ? name : "an error without a name";
}

static const struct meaning *meaning_of(int code)
{
	static const struct meaning unknown = { .result = -EIO, .words = "an unknown error" };

	for (size_t n = 0; n < sizeof(meanings) / sizeof(meanings[0]); n++)
		if (meanings[n].code == code)
			return &meanings[n];
	return &unknown;
}

int gpu_driver_result(struct gpu_driver *driver, enum gpu_call call, int code,
		      struct error *error)
{
	const struct meaning *meaning;

	if (code == GPU_SUCCESS)
		return 0;
	if (code == GPU_NOT_READY)
		return -EAGAIN; /* an answer, asked for again and again */
	meaning = meaning_of(code);
	driver->is_lost |= meaning->is_lost;
	/* HIP keeps a thread's last error for whoever asks next; this one has been heard. */
	if (driver->vendor == GPU_HIP)
		(void)driver->calls.error_clear_hip();
	if (error == NULL)
		return meaning->result;
	return error_set(error, meaning->result, "%s: %s (%s, %d)",
			 rows[call].symbols[driver->vendor], meaning->words,
			 error_name(driver, code), code);
}

int gpu_word_wait(struct gpu_driver *driver, gpu_stream stream, gpu_address address,
		  uint64_t value, struct error *error)
{
	if (driver->vendor == GPU_HIP)
		return gpu_call(driver, error, word_wait_hip, stream, address, value, GPU_WAIT_GEQ,
				UINT64_MAX);
	return gpu_call(driver, error, word_wait, stream, address, value, GPU_WAIT_GEQ);
}

bool gpu_has_batch(const struct gpu_driver *driver)
{
	return gpu_has(driver, copy_batch) || gpu_has(driver, copy_batch_12) ||
	       gpu_has(driver, copy_batch_hip);
}

/* Attributes are refused before ROCm 7.13, and nothing is lost without them. */
static int copy_batch_hip(struct gpu_driver *driver, gpu_address *targets, gpu_address *sources,
			  size_t *bytes, size_t count, gpu_stream stream, struct error *error)
{
	size_t failed;

	return gpu_call(driver, error, copy_batch_hip, (void **)targets, (void **)sources, bytes,
			count, NULL, NULL, 0, &failed, stream);
}

int gpu_copy_batch(struct gpu_driver *driver, gpu_address *targets, gpu_address *sources,
		   size_t *bytes, size_t count, gpu_stream stream, struct error *error)
{
	struct gpu_batch_attributes attributes = { .source_order = CUDA_BATCH_ORDER_STREAM };
	size_t first = 0, failed;

	if (driver->vendor == GPU_HIP)
		return copy_batch_hip(driver, targets, sources, bytes, count, stream, error);
	if (gpu_has(driver, copy_batch))
		return gpu_call(driver, error, copy_batch, targets, sources, bytes, count,
				&attributes, &first, 1, stream);
	return gpu_call(driver, error, copy_batch_12, targets, sources, bytes, count, &attributes,
			&first, 1, &failed, stream);
}

int gpu_share_import(struct gpu_driver *driver, int fd, gpu_memory *out_memory,
		     struct error *error)
{
	/* ROCm wanted the descriptor's address until 7.1. */
	bool by_address = driver->vendor == GPU_HIP && driver->version < HIP_VERSION_OF(7, 1);
	void *handle = by_address ? (void *)&fd : (void *)(intptr_t)fd;

	return gpu_call(driver, error, share_import, out_memory, handle, GPU_SHARE_POSIX_FD);
}

unsigned gpu_ipc_flags(const struct gpu_driver *driver)
{
	/* Lazy peer access: the one value that is allowed, which ROCm 5 called 0. */
	return driver->vendor == GPU_HIP && driver->version < HIP_VERSION_OF(6, 0) ? 0 : 1;
}
