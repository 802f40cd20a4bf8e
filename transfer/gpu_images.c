/* transfer/gpu_images.c: takes the images that transfer/kernels/build.sh made into the program. */
#include "transfer/gpu_images.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The NUL ends the PTX; the others do not mind. Aligned as code objects are in hipcc's bundles. */
#define IMAGE(name, path)                                                     \
	__asm__(".section .rodata\n"                                          \
		".balign 4096\n"                                              \
		"image_" #name ":\n"                                          \
		".incbin \"" path "\"\n"                                      \
		"image_" #name "_end:\n"                                      \
		".byte 0\n"                                                   \
		".previous\n");                                               \
	extern const char image_##name[] __attribute__((visibility("hidden"))); \
	extern const char image_##name##_end[] __attribute__((visibility("hidden")));

IMAGE(sm_80, "transfer/kernels/kv_copy.ptx")
#define AMD_IMAGE(name) IMAGE(name, GPU_IMAGES_FOLDER "/kv_copy." #name ".co")
#include "transfer/kernels/amd_images.inc"
#undef AMD_IMAGE

static const struct {
	enum gpu_vendor vendor;
	const char *architecture;
	const char *bytes, *end;
} images[] = {
	{ GPU_CUDA, "sm_80", image_sm_80, image_sm_80_end },
#define AMD_IMAGE(name) { GPU_HIP, #name, image_##name, image_##name##_end },
#include "transfer/kernels/amd_images.inc"
#undef AMD_IMAGE
};
#define IMAGES_COUNT (sizeof(images) / sizeof(images[0]))

bool gpu_image_get(unsigned index, struct gpu_image *out_image)
{
	if (index >= IMAGES_COUNT)
		return false;
	*out_image = (struct gpu_image){
		.vendor = images[index].vendor,
		.architecture = images[index].architecture,
		.bytes = images[index].bytes,
		.size = (size_t)(images[index].end - images[index].bytes),
	};
	return true;
}

/* PTX is translated for its own generation and all later ones. */
static bool is_for_nvidia(const char *image, const char *device)
{
	const size_t prefix = strlen("sm_");

	return strncmp(device, "sm_", prefix) == 0 &&
	       strtoul(device + prefix, NULL, 10) >= strtoul(image + prefix, NULL, 10);
}

/* Ours are built for any setting of the features that stand behind a colon. */
static bool is_for_amd(const char *image, const char *device)
{
	const size_t name = strcspn(device, ":");

	return strlen(image) == name && memcmp(image, device, name) == 0;
}

int gpu_image_find(enum gpu_vendor vendor, const char *architecture, struct gpu_image *out_image)
{
	struct gpu_image image;

	assert(vendor < GPU_VENDORS && architecture != NULL);
	for (unsigned i = 0; gpu_image_get(i, &image); i++) {
		if (image.vendor != vendor)
			continue;
		if (vendor == GPU_CUDA ? is_for_nvidia(image.architecture, architecture) :
					   is_for_amd(image.architecture, architecture)) {
			*out_image = image;
			return 0;
		}
	}
	return -ENOENT;
}

void gpu_images_describe(char *text, size_t bytes)
{
	struct gpu_image image;
	size_t length = 0;

	assert(bytes > 0);
	text[0] = '\0';
	for (unsigned i = 0; length < bytes && gpu_image_get(i, &image); i++)
		length += (size_t)snprintf(text + length, bytes - length, "%s%s", i > 0 ? " " : "",
					   image.architecture);
}
