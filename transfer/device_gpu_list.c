/* transfer/device_gpu_list.c: see device_gpu_list.h. */
#include "transfer/device_gpu_list.h"

#include <stddef.h>

int gpu_bus_ids(enum gpu_vendor vendor, const char *library, struct gpu_bus_id *out_bus_ids,
		int max, struct error *error)
{
	struct gpu_driver driver;
	gpu_device device;
	int count = 0, result = gpu_driver_open(&driver, vendor, library, error);

	if (result < 0)
		return result;
	result = gpu_call(&driver, error, device_count, &count);
	if (count > max)
		count = max;
	for (int n = 0; result == 0 && n < count; n++) {
		result = gpu_call(&driver, error, device_get, &device, n);
		if (result == 0)
			result = gpu_call(&driver, error, device_bus_id, out_bus_ids[n].text,
					  sizeof(out_bus_ids[n].text), device);
	}
	gpu_driver_close(&driver);
	return result < 0 ? result : count;
}
