/* tests/gpu/fake/context.c: devices, the primary context, and the names of errors. */
#include "tests/gpu/fake/fake.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define CONTEXT_LEGACY_IPC_CAPABLE 10 /* CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE */

static const char *const bus_ids[FAKE_DEVICES] = { FAKE_BUS_ID_0, FAKE_BUS_ID_1 };
static unsigned retains[FAKE_DEVICES];
static char contexts[FAKE_DEVICES]; /* their addresses are the contexts */
static _Thread_local void *current;

bool fake_has_context(void)
{
	bool has = false;

	pthread_mutex_lock(&fake_mutex);
	for (unsigned n = 0; n < FAKE_DEVICES; n++)
		has |= current == &contexts[n] && retains[n] > 0;
	pthread_mutex_unlock(&fake_mutex);
	return has;
}

EXPORTED int cuInit(unsigned flags)
{
	int error = fake_control_open();

	if (error == 0)
		error = fake_enter(FAKE_cuInit, false);
	return error != 0 ? error : flags != 0 ? GPU_INVALID_VALUE : 0;
}

EXPORTED int cuDriverGetVersion(int *version)
{
	int error = fake_enter(FAKE_cuDriverGetVersion, false);

	if (error == 0)
		*version = fake_control->version != 0 ? fake_control->version : 13000;
	return error;
}

EXPORTED int cuDeviceGetCount(int *count)
{
	*count = FAKE_DEVICES;
	return fake_enter(FAKE_cuDeviceGetCount, false);
}

EXPORTED int cuDeviceGet(int *device, int ordinal)
{
	int error = fake_enter(FAKE_cuDeviceGet, false);

	if (error != 0 || ordinal < 0 || ordinal >= FAKE_DEVICES)
		return error != 0 ? error : GPU_INVALID_DEVICE;
	*device = ordinal;
	return 0;
}

EXPORTED int cuDeviceGetName(char *name, int bytes, int device)
{
	int error = fake_enter(FAKE_cuDeviceGetName, false);

	if (error == 0)
		snprintf(name, (size_t)bytes, "Fake GPU %d", device);
	return error;
}

EXPORTED int cuDeviceGetPCIBusId(char *name, int bytes, int device)
{
	int error = fake_enter(FAKE_cuDeviceGetPCIBusId, false);

	if (error == 0)
		snprintf(name, (size_t)bytes, "%s", bus_ids[device]);
	return error;
}

EXPORTED int cuDeviceGetByPCIBusId(int *device, const char *bus_id)
{
	int error = fake_enter(FAKE_cuDeviceGetByPCIBusId, false);

	for (int n = 0; error == 0 && n < FAKE_DEVICES; n++)
		if (strcasecmp(bus_id, bus_ids[n]) == 0) {
			*device = n;
			return 0;
		}
	return error != 0 ? error : GPU_INVALID_DEVICE;
}

EXPORTED int cuDeviceGetUuid_v2(gpu_uuid *uuid, int device)
{
	int error = fake_enter(FAKE_cuDeviceGetUuid_v2, false);

	if (error == 0)
		for (unsigned n = 0; n < sizeof(uuid->bytes); n++)
			uuid->bytes[n] = (unsigned char)(16 * (unsigned)device + n);
	return error;
}

EXPORTED int cuDeviceGetAttribute(int *value, unsigned attribute, int device)
{
	int error = fake_enter(FAKE_cuDeviceGetAttribute, false);

	if (error != 0)
		return error;
	if (attribute != CUDA_ATTRIBUTE_PITCH_MAX || device < 0 || device >= FAKE_DEVICES)
		return GPU_INVALID_VALUE;
	*value = FAKE_PITCH_MAX;
	return 0;
}

EXPORTED int cuDevicePrimaryCtxRetain(void **context, int device)
{
	int error = fake_enter(FAKE_cuDevicePrimaryCtxRetain, false);

	if (error != 0)
		return error;
	if (device < 0 || device >= FAKE_DEVICES)
		return GPU_INVALID_DEVICE;
	pthread_mutex_lock(&fake_mutex);
	if (retains[device]++ == 0)
		fake_control->contexts++;
	pthread_mutex_unlock(&fake_mutex);
	*context = &contexts[device];
	return 0;
}

/* What gives something back does so even where it is made to fail, as a driver may answer with the
 * error of something earlier. */
EXPORTED int cuDevicePrimaryCtxRelease_v2(int device)
{
	int error = fake_enter(FAKE_cuDevicePrimaryCtxRelease_v2, false);
	bool is_last;

	pthread_mutex_lock(&fake_mutex);
	if (retains[device] == 0) {
		pthread_mutex_unlock(&fake_mutex);
		return GPU_INVALID_CONTEXT;
	}
	is_last = --retains[device] == 0;
	pthread_mutex_unlock(&fake_mutex);
	if (is_last) {
		fake_control->left_behind += fake_streams_end() + fake_share_end() +
					     fake_memory_end();
		fake_control->contexts--;
	}
	return error;
}

EXPORTED int cuCtxSetCurrent(void *context)
{
	int error = fake_enter(FAKE_cuCtxSetCurrent, false);

	if (error == 0)
		current = context;
	return error;
}

EXPORTED int cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
	*least = 0;
	*greatest = -5;
	return fake_enter(FAKE_cuCtxGetStreamPriorityRange, true);
}

EXPORTED int cuMemGetInfo_v2(size_t *free, size_t *total)
{
	int error = fake_enter(FAKE_cuMemGetInfo_v2, true);

	if (error != 0)
		return error;
	*total = FAKE_MEMORY_BYTES;
	*free = FAKE_MEMORY_BYTES - fake_table_bytes() -
		fake_control->contexts * FAKE_CONTEXT_BYTES;
	return 0;
}

EXPORTED int cuPointerGetAttribute(void *value, int attribute, gpu_address address)
{
	int error = fake_enter(FAKE_cuPointerGetAttribute, true);
	struct mapping *mapping;

	if (error != 0)
		return error;
	if (attribute != CONTEXT_LEGACY_IPC_CAPABLE)
		return GPU_INVALID_VALUE;
	pthread_mutex_lock(&fake_mutex);
	mapping = fake_mapping_of((void *)(address & ~DEVICE_BIT), 1, false);
	pthread_mutex_unlock(&fake_mutex);
	if (mapping == NULL)
		return GPU_INVALID_VALUE;
	*(unsigned *)value = mapping->kind == MAPPING_OWN;
	return 0;
}

static const struct {
	int error;
	const char *name;
} names[] = {
	{ GPU_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE" },
	{ GPU_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY" },
	{ GPU_NO_DEVICE, "CUDA_ERROR_NO_DEVICE" },
	{ GPU_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT" },
	{ GPU_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED" },
	{ GPU_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED" },
};

EXPORTED int cuGetErrorName(int error, const char **name)
{
	for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++)
		if (names[n].error == error) {
			*name = names[n].name;
			return 0;
		}
	return GPU_INVALID_VALUE;
}
