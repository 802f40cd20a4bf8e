/*
 * transfer/device_gpu_list.h: which GPUs a driver shows to this process.
 * Runs on: any thread, before a device is opened.
 */
#ifndef KVTIER_TRANSFER_DEVICE_GPU_LIST_H
#define KVTIER_TRANSFER_DEVICE_GPU_LIST_H

#include "transfer/gpu_driver.h"

struct gpu_bus_id {
	char text[32]; /* "0000:17:00.0" */
};

/* How many there are, at most `max`, in the driver's order; or what gpu_driver_open() says.
 * `library` as there. */
must_check int gpu_bus_ids(enum gpu_vendor vendor, const char *library,
			   struct gpu_bus_id *out_bus_ids, int max, struct error *error);

#endif
