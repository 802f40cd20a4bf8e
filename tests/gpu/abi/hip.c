/*
 * tests/gpu/abi/hip.c: transfer/gpu_calls.h and gpu_types.h against HIP's own header. It is only
 * compiled: a row whose symbol, arguments or their order are not the header's does not build.
 */
#include "transfer/gpu_calls.h"
#include "transfer/gpu_types.h"

#define __HIP_PLATFORM_AMD__ 1
#include <hip/hip_runtime_api.h>

/* What came later than this header; it is looked up, and may be absent. */
#if HIP_VERSION_MAJOR < 7
#define hipMemcpyBatchAsync 0
#endif

#define SAME(ours, theirs) \
	_Static_assert(sizeof(ours) == sizeof(theirs) && _Alignof(ours) == _Alignof(theirs), \
		       #ours " is not " #theirs);
#define KIND(name, ours, cuda, hip) SAME(ours, hip) typedef hip name;
GPU_KINDS(KIND)

#define CHECK(name, need, cuda, hip, arguments) \
	__attribute__((unused)) static gpu_result (*const check_##name) arguments = hip;
#define CHECK_CUDA(name, need, cuda, arguments)
#define CHECK_HIP(name, need, hip, arguments) CHECK(name, need, , hip, arguments)
GPU_CALLS(CHECK, CHECK_CUDA, CHECK_HIP)
#define CHECK_ANSWERS(name, need, symbol, answer, arguments) \
	__attribute__((unused)) static answer (*const check_##name) arguments = symbol;
HIP_ANSWERS(CHECK_ANSWERS)

#define FIELD(ours, our_field, theirs, their_field) \
	_Static_assert(offsetof(ours, our_field) == offsetof(theirs, their_field), #our_field);
FIELD(struct gpu_access_rule, location_type, hipMemAccessDesc, location.type)
FIELD(struct gpu_access_rule, location, hipMemAccessDesc, location.id)
FIELD(struct gpu_access_rule, flags, hipMemAccessDesc, flags)

#define VALUE(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #ours " is not " #theirs);
VALUE(GPU_STREAM_NON_BLOCKING, hipStreamNonBlocking)
VALUE(GPU_EVENT_NO_TIMING, hipEventDisableTiming)
VALUE(GPU_HOST_PORTABLE, hipHostRegisterPortable)
VALUE(GPU_HOST_MAPPED, hipHostRegisterMapped)
VALUE(GPU_WAIT_GEQ, hipStreamWaitValueGte)
VALUE(GPU_SHARE_POSIX_FD, hipMemHandleTypePosixFileDescriptor)
VALUE(GPU_LOCATION_DEVICE, hipMemLocationTypeDevice)
VALUE(GPU_ACCESS_READ_WRITE, hipMemAccessFlagsProtReadWrite)
VALUE(HIP_VERSION_MAJOR < 6 ? 0 : 1, hipIpcMemLazyEnablePeerAccess) /* gpu_ipc_flags() */
VALUE(GPU_SUCCESS, hipSuccess)
VALUE(GPU_INVALID_VALUE, hipErrorInvalidValue)
VALUE(GPU_OUT_OF_MEMORY, hipErrorOutOfMemory)
VALUE(GPU_NOT_INITIALIZED, hipErrorNotInitialized)
VALUE(GPU_DEINITIALIZED, hipErrorDeinitialized)
VALUE(GPU_NO_DEVICE, hipErrorNoDevice)
VALUE(GPU_INVALID_DEVICE, hipErrorInvalidDevice)
VALUE(GPU_INVALID_IMAGE, hipErrorInvalidImage)
VALUE(GPU_INVALID_CONTEXT, hipErrorInvalidContext)
VALUE(GPU_MAP_FAILED, hipErrorMapFailed)
VALUE(GPU_NO_BINARY_FOR_GPU, hipErrorNoBinaryForGpu)
VALUE(GPU_ECC_UNCORRECTABLE, hipErrorECCNotCorrectable)
VALUE(GPU_OPERATING_SYSTEM, hipErrorOperatingSystem)
VALUE(GPU_INVALID_HANDLE, hipErrorInvalidHandle)
VALUE(GPU_NOT_FOUND, hipErrorNotFound)
VALUE(GPU_NOT_READY, hipErrorNotReady)
VALUE(GPU_ILLEGAL_ADDRESS, hipErrorIllegalAddress)
VALUE(GPU_LAUNCH_TIMEOUT, hipErrorLaunchTimeOut)
VALUE(GPU_CONTEXT_IS_DESTROYED, hipErrorContextIsDestroyed)
VALUE(GPU_ASSERT, hipErrorAssert)
VALUE(GPU_HOST_ALREADY_REGISTERED, hipErrorHostMemoryAlreadyRegistered)
VALUE(GPU_HOST_NOT_REGISTERED, hipErrorHostMemoryNotRegistered)
VALUE(GPU_LAUNCH_FAILED, hipErrorLaunchFailure)
VALUE(GPU_NOT_SUPPORTED, hipErrorNotSupported)
VALUE(GPU_UNKNOWN, hipErrorUnknown)
