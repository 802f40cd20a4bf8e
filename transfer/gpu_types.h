/*
 * transfer/gpu_types.h: the values that a GPU driver is given, under names and in forms of our own,
 * so that no vendor's header is needed to build. That they are the vendors' is checked against the
 * vendors' headers, where those are (tests/gpu/abi_cuda.c, abi_hip.c).
 */
#ifndef KVTIER_TRANSFER_GPU_TYPES_H
#define KVTIER_TRANSFER_GPU_TYPES_H

#include <stddef.h>
#include <stdint.h>

struct gpu_uuid_bytes {
	unsigned char bytes[16];
};

/* Of an allocation, for another process (cuIpcMemHandle). By value, so it has a size of its own. */
struct gpu_ipc_handle {
	char bytes[64];
};

/* CUmemAccessDesc: who may use mapped memory, and how. */
struct gpu_access_rule {
	int location_type;
	int location;
	int flags;
};

/* CUDA_MEMCPY2D. */
struct gpu_copy_2d {
	size_t source_x_bytes, source_y;
	int source_type;
	const void *source_host;
	uint64_t source_device;
	void *source_array;
	size_t source_pitch;
	size_t target_x_bytes, target_y;
	int target_type;
	void *target_host;
	uint64_t target_device;
	void *target_array;
	size_t target_pitch;
	size_t width_bytes, height;
};

/* CUmemcpyAttributes. */
struct gpu_batch_attributes {
	int source_order;
	int source_location[2], target_location[2]; /* hints, of managed memory alone */
	unsigned flags;
};

/* Equal for both vendors. */
enum {
	GPU_STREAM_NON_BLOCKING = 1,
	GPU_EVENT_NO_TIMING = 2,
	GPU_HOST_PORTABLE = 1,
	GPU_HOST_MAPPED = 2,
	GPU_WAIT_GEQ = 0, /* cyclic: as signed difference */
	GPU_SHARE_POSIX_FD = 1,
	GPU_LOCATION_DEVICE = 1,
	GPU_ACCESS_READ_WRITE = 3
};

/* CUDA's alone: the values of HIP's are others. */
enum {
	CUDA_MEMORY_HOST = 1,
	CUDA_MEMORY_DEVICE = 2,
	CUDA_ATTRIBUTE_PITCH_MAX = 11,
	CUDA_BATCH_ORDER_STREAM = 1
};

/* Errors; those of both vendors that we know have equal numbers. */
enum {
	GPU_SUCCESS = 0,
	GPU_INVALID_VALUE = 1,
	GPU_OUT_OF_MEMORY = 2,
	GPU_NOT_INITIALIZED = 3,
	GPU_DEINITIALIZED = 4,
	GPU_NO_DEVICE = 100,
	GPU_INVALID_DEVICE = 101,
	GPU_INVALID_IMAGE = 200,
	GPU_INVALID_CONTEXT = 201,
	GPU_MAP_FAILED = 205,
	GPU_NO_BINARY_FOR_GPU = 209,
	GPU_ECC_UNCORRECTABLE = 214,
	GPU_OPERATING_SYSTEM = 304,
	GPU_INVALID_HANDLE = 400,
	GPU_NOT_FOUND = 500,
	GPU_NOT_READY = 600,
	GPU_ILLEGAL_ADDRESS = 700,
	GPU_LAUNCH_TIMEOUT = 702,
	GPU_CONTEXT_IS_DESTROYED = 709,
	GPU_ASSERT = 710,
	GPU_HOST_ALREADY_REGISTERED = 712,
	GPU_HOST_NOT_REGISTERED = 713,
	GPU_LAUNCH_FAILED = 719,
	GPU_NOT_SUPPORTED = 801,
	GPU_UNKNOWN = 999,
	/* CUDA's alone, in ranges that HIP leaves free. */
	CUDA_STUB_LIBRARY = 34,
	CUDA_DEVICE_UNAVAILABLE = 46,
	CUDA_UNSUPPORTED_PTX_VERSION = 222,
	CUDA_INVALID_PTX = 218,
	CUDA_HARDWARE_STACK = 714,
	CUDA_ILLEGAL_INSTRUCTION = 715,
	CUDA_MISALIGNED_ADDRESS = 716,
	CUDA_INVALID_ADDRESS_SPACE = 717,
	CUDA_INVALID_PC = 718,
	CUDA_NOT_PERMITTED = 800,
	CUDA_SYSTEM_NOT_READY = 802,
	CUDA_DRIVER_MISMATCH = 803
};

#endif
