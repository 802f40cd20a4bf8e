/* tests/gpu/rocm/rocm.c: the calls of the fake driver that HIP alone has, or has otherwise. */
#include "tests/gpu/fake/fake.h"

#define DECLARE_NOT(name, need, cuda, hip, arguments)
#define DECLARE_NOT_ONE(name, need, symbol, arguments)
#define DECLARE_HIP_ONE(name, need, symbol, arguments) EXPORTED int symbol arguments;
#define DECLARE_ANSWERS(name, need, symbol, answer, arguments) EXPORTED answer symbol arguments;
GPU_CALLS(DECLARE_NOT, DECLARE_NOT_ONE, DECLARE_HIP_ONE)
HIP_ANSWERS(DECLARE_ANSWERS)

EXPORTED const char *hipGetErrorName(gpu_result error)
{
	return error == GPU_OUT_OF_MEMORY ? "hipErrorOutOfMemory" : "hipErrorUnknown";
}

EXPORTED gpu_result hipGetLastError(void)
{
	return GPU_SUCCESS;
}

EXPORTED int hipStreamWaitValue64(gpu_stream stream, gpu_address address, uint64_t value,
				  unsigned flags, uint64_t mask)
{
	return mask != UINT64_MAX ? GPU_INVALID_VALUE :
	       cuStreamWaitValue64_v2(stream, address, value, flags);
}

/* Attributes came with 7.13. */
EXPORTED int hipMemcpyBatchAsync(void **targets, void **sources, size_t *bytes, size_t count,
				 void *attributes, size_t *firsts, size_t attributes_count,
				 size_t *out_failed, gpu_stream stream)
{
	if (attributes != NULL || firsts != NULL || attributes_count != 0)
		return GPU_NOT_SUPPORTED;
	*out_failed = SIZE_MAX;
	return fake_batch((gpu_address *)targets, (gpu_address *)sources, bytes, count, stream);
}
