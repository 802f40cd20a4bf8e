/*
 * transfer/gpu_calls.h: the driver calls we make, one row each, for CUDA and HIP: the one place
 * where their names and arguments stand. gpu_driver.c makes of it what is looked up and called;
 * tests/gpu/abi_cuda.c and abi_hip.c hold each row against the vendors' own headers.
 */
#ifndef KVTIER_TRANSFER_GPU_CALLS_H
#define KVTIER_TRANSFER_GPU_CALLS_H

/* kind(name, ours, CUDA's, HIP's): what an argument is. Equal in size, alignment and register. */
#define GPU_KINDS(kind) \
	kind(gpu_result,   int,                    CUresult,                     hipError_t) \
	kind(gpu_device,   int,                    CUdevice,                     hipDevice_t) \
	kind(gpu_address,  uint64_t,               CUdeviceptr,                  hipDeviceptr_t) \
	kind(gpu_source,   const void *,           const void *,                 void *) \
	kind(gpu_context,  void *,                 CUcontext,                    hipCtx_t) \
	kind(gpu_stream,   void *,                 CUstream,                     hipStream_t) \
	kind(gpu_event,    void *,                 CUevent,                      hipEvent_t) \
	kind(gpu_module,   void *,                 CUmodule,                     hipModule_t) \
	kind(gpu_function, void *,                 CUfunction,                   hipFunction_t) \
	kind(gpu_uuid,     struct gpu_uuid_bytes,  CUuuid,                       hipUUID) \
	kind(gpu_ipc,      struct gpu_ipc_handle,  CUipcMemHandle,               hipIpcMemHandle_t) \
	kind(gpu_memory,   uint64_t,               CUmemGenericAllocationHandle, hipMemGenericAllocationHandle_t) \
	kind(gpu_share,    unsigned,               CUmemAllocationHandleType,    hipMemAllocationHandleType) \
	kind(gpu_access,   struct gpu_access_rule, CUmemAccessDesc,              hipMemAccessDesc)
/* kind(name, ours, CUDA's): of calls that are only made on CUDA. */
#define CUDA_KINDS(kind) \
	kind(cuda_attribute, unsigned,                    CUdevice_attribute) \
	kind(cuda_copy_2d,   struct gpu_copy_2d,          CUDA_MEMCPY2D) \
	kind(cuda_batch,     struct gpu_batch_attributes, CUmemcpyAttributes)

/*
 * both(name, need, CUDA's symbol, HIP's symbol, arguments); cuda(name, need, symbol, arguments) and
 * hip() where one vendor alone has the call, or its arguments differ. A driver without a REQUIRED
 * one is refused. Versioned names are meant as they stand: cuMemFree is a 32-bit ABI of old.
 */
#define GPU_CALLS(both, cuda, hip) \
	both(init, REQUIRED, cuInit, hipInit, (unsigned)) \
	both(driver_version, REQUIRED, cuDriverGetVersion, hipDriverGetVersion, (int *)) \
	both(device_count, REQUIRED, cuDeviceGetCount, hipGetDeviceCount, (int *)) \
	both(device_get, REQUIRED, cuDeviceGet, hipDeviceGet, (gpu_device *, int)) \
	both(device_name, REQUIRED, cuDeviceGetName, hipDeviceGetName, (char *, int, gpu_device)) \
	both(device_bus_id, REQUIRED, cuDeviceGetPCIBusId, hipDeviceGetPCIBusId, (char *, int, gpu_device)) \
	both(device_by_bus_id, REQUIRED, cuDeviceGetByPCIBusId, hipDeviceGetByPCIBusId, (gpu_device *, const char *)) \
	both(device_uuid, OPTIONAL, cuDeviceGetUuid_v2, hipDeviceGetUuid, (gpu_uuid *, gpu_device)) \
	cuda(device_attribute, REQUIRED, cuDeviceGetAttribute, (int *, cuda_attribute, gpu_device)) \
	both(context_retain, REQUIRED, cuDevicePrimaryCtxRetain, hipDevicePrimaryCtxRetain, (gpu_context *, gpu_device)) \
	both(context_release, REQUIRED, cuDevicePrimaryCtxRelease_v2, hipDevicePrimaryCtxRelease, (gpu_device)) \
	both(context_set, REQUIRED, cuCtxSetCurrent, hipCtxSetCurrent, (gpu_context)) \
	both(priorities, REQUIRED, cuCtxGetStreamPriorityRange, hipDeviceGetStreamPriorityRange, (int *, int *)) \
	both(memory_info, REQUIRED, cuMemGetInfo_v2, hipMemGetInfo, (size_t *, size_t *)) \
	both(memory_allocate, REQUIRED, cuMemAlloc_v2, hipMalloc, (gpu_address *, size_t)) \
	both(memory_free, REQUIRED, cuMemFree_v2, hipFree, (gpu_address)) \
	both(memory_range, REQUIRED, cuMemGetAddressRange_v2, hipMemGetAddressRange, (gpu_address *, size_t *, gpu_address)) \
	both(host_register, REQUIRED, cuMemHostRegister_v2, hipHostRegister, (void *, size_t, unsigned)) \
	both(host_unregister, REQUIRED, cuMemHostUnregister, hipHostUnregister, (void *)) \
	both(host_address, REQUIRED, cuMemHostGetDevicePointer_v2, hipHostGetDevicePointer, (gpu_address *, void *, unsigned)) \
	both(stream_create, REQUIRED, cuStreamCreateWithPriority, hipStreamCreateWithPriority, (gpu_stream *, unsigned, int)) \
	both(stream_destroy, REQUIRED, cuStreamDestroy_v2, hipStreamDestroy, (gpu_stream)) \
	both(stream_query, REQUIRED, cuStreamQuery, hipStreamQuery, (gpu_stream)) \
	both(event_create, REQUIRED, cuEventCreate, hipEventCreateWithFlags, (gpu_event *, unsigned)) \
	both(event_destroy, REQUIRED, cuEventDestroy_v2, hipEventDestroy, (gpu_event)) \
	both(event_record, REQUIRED, cuEventRecord, hipEventRecord, (gpu_event, gpu_stream)) \
	both(event_query, REQUIRED, cuEventQuery, hipEventQuery, (gpu_event)) \
	both(copy_load, REQUIRED, cuMemcpyHtoDAsync_v2, hipMemcpyHtoDAsync, (gpu_address, gpu_source, size_t, gpu_stream)) \
	both(copy_store, REQUIRED, cuMemcpyDtoHAsync_v2, hipMemcpyDtoHAsync, (void *, gpu_address, size_t, gpu_stream)) \
	cuda(copy_2d, OPTIONAL, cuMemcpy2DAsync_v2, (const cuda_copy_2d *, gpu_stream)) \
	cuda(copy_batch, OPTIONAL, cuMemcpyBatchAsync_v2, \
	     (gpu_address *, gpu_address *, size_t *, size_t, cuda_batch *, size_t *, size_t, gpu_stream)) \
	cuda(copy_batch_12, OPTIONAL, cuMemcpyBatchAsync, \
	     (gpu_address *, gpu_address *, size_t *, size_t, cuda_batch *, size_t *, size_t, size_t *, gpu_stream)) \
	hip(copy_batch_hip, OPTIONAL, hipMemcpyBatchAsync, \
	    (void **, void **, size_t *, size_t, void *, size_t *, size_t, size_t *, gpu_stream)) \
	both(ipc_open, REQUIRED, cuIpcOpenMemHandle_v2, hipIpcOpenMemHandle, (gpu_address *, gpu_ipc, unsigned)) \
	both(ipc_close, REQUIRED, cuIpcCloseMemHandle, hipIpcCloseMemHandle, (gpu_address)) \
	both(word_write, OPTIONAL, cuStreamWriteValue64_v2, hipStreamWriteValue64, (gpu_stream, gpu_address, uint64_t, unsigned)) \
	cuda(word_wait, OPTIONAL, cuStreamWaitValue64_v2, (gpu_stream, gpu_address, uint64_t, unsigned)) \
	hip(word_wait_hip, OPTIONAL, hipStreamWaitValue64, (gpu_stream, gpu_address, uint64_t, unsigned, uint64_t)) \
	both(module_load, REQUIRED, cuModuleLoadData, hipModuleLoadData, (gpu_module *, const void *)) \
	both(module_unload, REQUIRED, cuModuleUnload, hipModuleUnload, (gpu_module)) \
	both(module_function, REQUIRED, cuModuleGetFunction, hipModuleGetFunction, (gpu_function *, gpu_module, const char *)) \
	both(launch, REQUIRED, cuLaunchKernel, hipModuleLaunchKernel, \
	     (gpu_function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, \
	      gpu_stream, void **, void **)) \
	both(share_import, OPTIONAL, cuMemImportFromShareableHandle, hipMemImportFromShareableHandle, (gpu_memory *, void *, gpu_share)) \
	both(range_reserve, OPTIONAL, cuMemAddressReserve, hipMemAddressReserve, \
	     (gpu_address *, size_t, size_t, gpu_address, unsigned long long)) \
	both(range_map, OPTIONAL, cuMemMap, hipMemMap, (gpu_address, size_t, size_t, gpu_memory, unsigned long long)) \
	both(range_access, OPTIONAL, cuMemSetAccess, hipMemSetAccess, (gpu_address, size_t, const gpu_access *, size_t)) \
	both(range_unmap, OPTIONAL, cuMemUnmap, hipMemUnmap, (gpu_address, size_t)) \
	both(share_release, OPTIONAL, cuMemRelease, hipMemRelease, (gpu_memory)) \
	both(range_free, OPTIONAL, cuMemAddressFree, hipMemAddressFree, (gpu_address, size_t)) \
	cuda(error_name_cuda, REQUIRED, cuGetErrorName, (gpu_result, const char **))

/* Calls that answer otherwise than with an error: answers(name, need, HIP's symbol, answer, arguments). */
#define HIP_ANSWERS(answers) \
	answers(error_name_hip, REQUIRED, hipGetErrorName, const char *, (gpu_result)) \
	answers(error_clear_hip, REQUIRED, hipGetLastError, gpu_result, (void))

#endif
