/*
 * transfer/gpu_images.h: the copy kernel (transfer/kernels/kv_copy.h) as it was built for each GPU.
 * NVIDIA's is PTX, a text that the driver translates, and is always there; AMD's are code objects,
 * and there are those that a clang was found for when this was built.
 */
#ifndef KVTIER_TRANSFER_GPU_IMAGES_H
#define KVTIER_TRANSFER_GPU_IMAGES_H

#include "transfer/gpu_driver.h"

#include <stdbool.h>
#include <stddef.h>

struct gpu_image {
	enum gpu_vendor vendor;
	const char *architecture; /* the oldest it is for: "sm_80"; the only one: "gfx942" */
	const void *bytes;        /* for cuModuleLoadData, hipModuleLoadData; a NUL follows */
	size_t size;              /* without the NUL */
};

/* All, counted from 0; false behind the last. */
bool gpu_image_get(unsigned index, struct gpu_image *out_image);

/*
 * The one for a device: 0, or -ENOENT. `architecture` is "sm_90" from NVIDIA's compute capability,
 * or gcnArchName as HIP says it, "gfx942:sramecc+:xnack-".
 */
must_check int gpu_image_find(enum gpu_vendor vendor, const char *architecture,
			      struct gpu_image *out_image);

/* "sm_80 gfx90a gfx942", cut where `bytes` end. */
void gpu_images_describe(char *text, size_t bytes);

#endif
