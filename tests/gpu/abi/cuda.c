/*
 * tests/gpu/abi/cuda.c: transfer/gpu_calls.h and gpu_types.h against CUDA's own header. It is only
 * compiled: a row whose symbol, arguments or their order are not the header's does not build.
 */
#include "transfer/gpu_calls.h"
#include "transfer/gpu_types.h"

#include <cuda.h>

/* Of the two forms of the batch a header declares its own. */
#if CUDA_VERSION >= 13000
#undef cuMemcpyBatchAsync
#define cuMemcpyBatchAsync 0
#else
#define cuMemcpyBatchAsync_v2 0
#endif
#if CUDA_VERSION < 12080
#error "batches of copies came with CUDA 12.8: a newer header is needed to check them"
#endif

#define SAME(ours, theirs) \
	_Static_assert(sizeof(ours) == sizeof(theirs) && _Alignof(ours) == _Alignof(theirs), \
		       #ours " is not " #theirs);
#define KIND(name, ours, cuda, hip) SAME(ours, cuda) typedef cuda name;
#define KIND_CUDA(name, ours, cuda) SAME(ours, cuda) typedef cuda name;
GPU_KINDS(KIND)
CUDA_KINDS(KIND_CUDA)

#define CHECK(name, need, cuda, hip, arguments) \
	__attribute__((unused)) static gpu_result (*const check_##name) arguments = cuda;
#define CHECK_CUDA(name, need, cuda, arguments) CHECK(name, need, cuda, , arguments)
#define CHECK_HIP(name, need, hip, arguments)
GPU_CALLS(CHECK, CHECK_CUDA, CHECK_HIP)

#define FIELD(ours, our_field, theirs, their_field) \
	_Static_assert(offsetof(ours, our_field) == offsetof(theirs, their_field), #our_field); \
	_Static_assert(sizeof(((ours *)0)->our_field) == sizeof(((theirs *)0)->their_field), \
		       #our_field);
FIELD(struct gpu_access_rule, location_type, CUmemAccessDesc, location.type)
FIELD(struct gpu_access_rule, location, CUmemAccessDesc, location.id)
FIELD(struct gpu_access_rule, flags, CUmemAccessDesc, flags)
FIELD(struct gpu_copy_2d, source_x_bytes, CUDA_MEMCPY2D, srcXInBytes)
FIELD(struct gpu_copy_2d, source_y, CUDA_MEMCPY2D, srcY)
FIELD(struct gpu_copy_2d, source_type, CUDA_MEMCPY2D, srcMemoryType)
FIELD(struct gpu_copy_2d, source_host, CUDA_MEMCPY2D, srcHost)
FIELD(struct gpu_copy_2d, source_device, CUDA_MEMCPY2D, srcDevice)
FIELD(struct gpu_copy_2d, source_array, CUDA_MEMCPY2D, srcArray)
FIELD(struct gpu_copy_2d, source_pitch, CUDA_MEMCPY2D, srcPitch)
FIELD(struct gpu_copy_2d, target_x_bytes, CUDA_MEMCPY2D, dstXInBytes)
FIELD(struct gpu_copy_2d, target_y, CUDA_MEMCPY2D, dstY)
FIELD(struct gpu_copy_2d, target_type, CUDA_MEMCPY2D, dstMemoryType)
FIELD(struct gpu_copy_2d, target_host, CUDA_MEMCPY2D, dstHost)
FIELD(struct gpu_copy_2d, target_device, CUDA_MEMCPY2D, dstDevice)
FIELD(struct gpu_copy_2d, target_array, CUDA_MEMCPY2D, dstArray)
FIELD(struct gpu_copy_2d, target_pitch, CUDA_MEMCPY2D, dstPitch)
FIELD(struct gpu_copy_2d, width_bytes, CUDA_MEMCPY2D, WidthInBytes)
FIELD(struct gpu_copy_2d, height, CUDA_MEMCPY2D, Height)
FIELD(struct gpu_batch_attributes, source_order, CUmemcpyAttributes, srcAccessOrder)
FIELD(struct gpu_batch_attributes, source_location, CUmemcpyAttributes, srcLocHint)
FIELD(struct gpu_batch_attributes, target_location, CUmemcpyAttributes, dstLocHint)
FIELD(struct gpu_batch_attributes, flags, CUmemcpyAttributes, flags)

#define VALUE(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #ours " is not " #theirs);
VALUE(GPU_STREAM_NON_BLOCKING, CU_STREAM_NON_BLOCKING)
VALUE(GPU_EVENT_NO_TIMING, CU_EVENT_DISABLE_TIMING)
VALUE(GPU_HOST_PORTABLE, CU_MEMHOSTREGISTER_PORTABLE)
VALUE(GPU_HOST_MAPPED, CU_MEMHOSTREGISTER_DEVICEMAP)
VALUE(GPU_WAIT_GEQ, CU_STREAM_WAIT_VALUE_GEQ)
VALUE(GPU_SHARE_POSIX_FD, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
VALUE(GPU_LOCATION_DEVICE, CU_MEM_LOCATION_TYPE_DEVICE)
VALUE(GPU_ACCESS_READ_WRITE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
VALUE(1, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS) /* gpu_ipc_flags() */
VALUE(CUDA_MEMORY_HOST, CU_MEMORYTYPE_HOST)
VALUE(CUDA_MEMORY_DEVICE, CU_MEMORYTYPE_DEVICE)
VALUE(CUDA_ATTRIBUTE_PITCH_MAX, CU_DEVICE_ATTRIBUTE_MAX_PITCH)
VALUE(CUDA_BATCH_ORDER_STREAM, CU_MEMCPY_SRC_ACCESS_ORDER_STREAM)
VALUE(GPU_SUCCESS, CUDA_SUCCESS)
VALUE(GPU_INVALID_VALUE, CUDA_ERROR_INVALID_VALUE)
VALUE(GPU_OUT_OF_MEMORY, CUDA_ERROR_OUT_OF_MEMORY)
VALUE(GPU_NOT_INITIALIZED, CUDA_ERROR_NOT_INITIALIZED)
VALUE(GPU_DEINITIALIZED, CUDA_ERROR_DEINITIALIZED)
VALUE(GPU_NO_DEVICE, CUDA_ERROR_NO_DEVICE)
VALUE(GPU_INVALID_DEVICE, CUDA_ERROR_INVALID_DEVICE)
VALUE(GPU_INVALID_IMAGE, CUDA_ERROR_INVALID_IMAGE)
VALUE(GPU_INVALID_CONTEXT, CUDA_ERROR_INVALID_CONTEXT)
VALUE(GPU_MAP_FAILED, CUDA_ERROR_MAP_FAILED)
VALUE(GPU_NO_BINARY_FOR_GPU, CUDA_ERROR_NO_BINARY_FOR_GPU)
VALUE(GPU_ECC_UNCORRECTABLE, CUDA_ERROR_ECC_UNCORRECTABLE)
VALUE(GPU_OPERATING_SYSTEM, CUDA_ERROR_OPERATING_SYSTEM)
VALUE(GPU_INVALID_HANDLE, CUDA_ERROR_INVALID_HANDLE)
VALUE(GPU_NOT_FOUND, CUDA_ERROR_NOT_FOUND)
VALUE(GPU_NOT_READY, CUDA_ERROR_NOT_READY)
VALUE(GPU_ILLEGAL_ADDRESS, CUDA_ERROR_ILLEGAL_ADDRESS)
VALUE(GPU_LAUNCH_TIMEOUT, CUDA_ERROR_LAUNCH_TIMEOUT)
VALUE(GPU_CONTEXT_IS_DESTROYED, CUDA_ERROR_CONTEXT_IS_DESTROYED)
VALUE(GPU_ASSERT, CUDA_ERROR_ASSERT)
VALUE(GPU_HOST_ALREADY_REGISTERED, CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED)
VALUE(GPU_HOST_NOT_REGISTERED, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED)
VALUE(GPU_LAUNCH_FAILED, CUDA_ERROR_LAUNCH_FAILED)
VALUE(GPU_NOT_SUPPORTED, CUDA_ERROR_NOT_SUPPORTED)
VALUE(GPU_UNKNOWN, CUDA_ERROR_UNKNOWN)
VALUE(CUDA_STUB_LIBRARY, CUDA_ERROR_STUB_LIBRARY)
VALUE(CUDA_DEVICE_UNAVAILABLE, CUDA_ERROR_DEVICE_UNAVAILABLE)
VALUE(CUDA_UNSUPPORTED_PTX_VERSION, CUDA_ERROR_UNSUPPORTED_PTX_VERSION)
VALUE(CUDA_INVALID_PTX, CUDA_ERROR_INVALID_PTX)
VALUE(CUDA_HARDWARE_STACK, CUDA_ERROR_HARDWARE_STACK_ERROR)
VALUE(CUDA_ILLEGAL_INSTRUCTION, CUDA_ERROR_ILLEGAL_INSTRUCTION)
VALUE(CUDA_MISALIGNED_ADDRESS, CUDA_ERROR_MISALIGNED_ADDRESS)
VALUE(CUDA_INVALID_ADDRESS_SPACE, CUDA_ERROR_INVALID_ADDRESS_SPACE)
VALUE(CUDA_INVALID_PC, CUDA_ERROR_INVALID_PC)
VALUE(CUDA_NOT_PERMITTED, CUDA_ERROR_NOT_PERMITTED)
VALUE(CUDA_SYSTEM_NOT_READY, CUDA_ERROR_SYSTEM_NOT_READY)
VALUE(CUDA_DRIVER_MISMATCH, CUDA_ERROR_SYSTEM_DRIVER_MISMATCH)
