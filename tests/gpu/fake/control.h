/*
 * tests/gpu/fake/control.h: the page through which a test steers the fake GPU driver, and reads
 * what it did. It lies in a folder on tmpfs, named by KVTIER_FAKE_GPU, with the device's memory:
 * one folder is one machine with its GPUs, for all processes that name it.
 */
#ifndef KVTIER_TESTS_GPU_FAKE_CONTROL_H
#define KVTIER_TESTS_GPU_FAKE_CONTROL_H

#include <stdatomic.h>
#include <stdint.h>

#define FAKE_ENVIRONMENT "KVTIER_FAKE_GPU"
#define FAKE_CONTROL_FILE "control"
#define FAKE_PROCESSES_FILE "processes" /* who lives holds a lock on the byte of its number */
#define FAKE_DEVICES 2
#define FAKE_BUS_ID_0 "0000:17:00.0"
#define FAKE_BUS_ID_1 "0000:65:00.0"
#define FAKE_ALLOCATIONS_MAX 512u
#define FAKE_USERS_MAX 4u /* processes that use one allocation */
#define FAKE_CONTEXT_BYTES (UINT64_C(300) << 20)
#define FAKE_MEMORY_BYTES (UINT64_C(8) << 30)
#define FAKE_PITCH_MAX 2147483647

/* Every call; the last two are no calls: a copy, and a launch, when its turn has come. */
#define FAKE_CALLS(call) \
	call(cuInit) call(cuDriverGetVersion) call(cuDeviceGetCount) call(cuDeviceGet) \
	call(cuDeviceGetName) call(cuDeviceGetPCIBusId) call(cuDeviceGetByPCIBusId) \
	call(cuDeviceGetUuid_v2) call(cuDeviceGetAttribute) call(cuDevicePrimaryCtxRetain) \
	call(cuDevicePrimaryCtxRelease_v2) call(cuCtxSetCurrent) \
	call(cuCtxGetStreamPriorityRange) call(cuMemGetInfo_v2) call(cuMemAlloc_v2) \
	call(cuMemFree_v2) call(cuMemGetAddressRange_v2) call(cuMemHostRegister_v2) \
	call(cuMemHostUnregister) call(cuMemHostGetDevicePointer_v2) \
	call(cuStreamCreateWithPriority) call(cuStreamDestroy_v2) call(cuStreamQuery) \
	call(cuEventCreate) call(cuEventDestroy_v2) call(cuEventRecord) call(cuEventQuery) \
	call(cuMemcpyHtoDAsync_v2) call(cuMemcpyDtoHAsync_v2) call(cuMemcpy2DAsync_v2) \
	call(cuMemcpyBatchAsync_v2) call(cuMemcpyBatchAsync) call(cuIpcGetMemHandle) \
	call(cuIpcOpenMemHandle_v2) call(cuIpcCloseMemHandle) call(cuStreamWriteValue64_v2) \
	call(cuStreamWaitValue64_v2) call(cuModuleLoadData) call(cuModuleUnload) \
	call(cuModuleGetFunction) call(cuLaunchKernel) call(cuMemCreate) \
	call(cuMemExportToShareableHandle) call(cuMemImportFromShareableHandle) \
	call(cuMemAddressReserve) call(cuMemMap) call(cuMemSetAccess) call(cuMemUnmap) \
	call(cuMemRelease) call(cuMemAddressFree) call(cuPointerGetAttribute) \
	call(fake_copy) call(fake_launch)

enum fake_call {
#define FAKE_ENUM(name) FAKE_##name,
	FAKE_CALLS(FAKE_ENUM)
#undef FAKE_ENUM
	FAKE_CALL_COUNT
};
#define FAKE_ANY_CALL FAKE_CALL_COUNT /* to fail: of the real ones */

struct fake_allocation {
	uint64_t id; /* 0: free */
	uint64_t bytes;
	int32_t users[FAKE_USERS_MAX]; /* process ids; 0: none. One counts once for all its holds */
	uint32_t holds[FAKE_USERS_MAX];
};

struct fake_control {
	/* Set by tests. */
	_Atomic uint64_t bytes_second[2]; /* of COPY_STORE, COPY_LOAD; 0: as fast as it goes */
	_Atomic uint32_t is_stalled;      /* no copy or launch begins while this is not 0 */
	_Atomic uint32_t fail_call;       /* enum fake_call, or FAKE_ANY_CALL */
	_Atomic uint32_t fail_nth;        /* the nth pass from here fails; counts down; 0: none */
	_Atomic int32_t fail_error;
	_Atomic int32_t fail_process;     /* 0: whichever */
	_Atomic uint32_t was_failed;      /* 1 + the call that was made to fail; 0: none */
	_Atomic uint32_t lacks_words;     /* waits and writes of words: not supported */
	_Atomic uint32_t lacks_batch;
	/* The nth copy or launch of COPY_STORE, COPY_LOAD from here brings a wrong byte; counts
	 * down; 0: none. Those with shorter runs are not counted. */
	_Atomic uint32_t corrupt_nth[2];
	_Atomic uint64_t corrupt_bytes_min;
	_Atomic int32_t version; /* of the driver; 0: CUDA 13. ROCm's have 8 digits */
	/* Read by tests. */
	_Atomic uint64_t calls[FAKE_CALL_COUNT];
	_Atomic uint64_t bytes[2];
	_Atomic uint64_t synchronous;  /* copies from or to memory that is not pinned */
	_Atomic uint64_t misuses;      /* memory unmapped or unpinned under a copy, and the like */
	_Atomic uint64_t left_behind;  /* objects that a context still had at its end */
	_Atomic uint64_t contexts;     /* that live now */
	/* The driver's own. */
	_Atomic uint64_t next_id;
	_Atomic uint64_t engine_free_ns[2];
	_Atomic uint32_t lock;
	struct fake_allocation allocations[FAKE_ALLOCATIONS_MAX];
};

#endif
