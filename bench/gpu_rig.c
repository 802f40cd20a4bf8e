/* bench/gpu_rig.c: which device, opening it, and the memory that copies go between. */
#include "bench/gpu_bench.h"

#include "bench/payload.h"
#include "transfer/device_gpu_list.h"
#include "transfer/gpu_images.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define SMALL_BYTES (GPU_SMALL_SLOTS * GPU_SMALL_BYTES)
#define IDENTITY_LARGE 1u
#define IDENTITY_SMALL 2u

static const struct {
	const char *name;
	const struct device_ops *ops;
	enum gpu_vendor vendor; /* of GPUs */
} vendors[] = {
	{ "cuda", &device_cuda_ops, GPU_CUDA },
	{ "rocm", &device_rocm_ops, GPU_HIP },
	{ "host", &device_host_ops, GPU_VENDORS },
};
#define VENDORS_COUNT (sizeof(vendors) / sizeof(vendors[0]))

/* The first that a vendor's driver shows. */
static int first_find(struct gpu_bench *bench, enum gpu_vendor vendor, struct error *error)
{
	struct gpu_bus_id first;
	int count = gpu_bus_ids(vendor, bench->library, &first, 1, error);

	if (count <= 0)
		return count < 0 ? count : error_set(error, -ENODEV, "the driver shows no GPU");
	snprintf(bench->bus_id, sizeof(bench->bus_id), "%s", first.text);
	return 0;
}

/* A driver that is there and fails is no machine without a GPU. */
static int any_find(struct gpu_bench *bench, struct error *error)
{
	struct error errors[VENDORS_COUNT];
	int result;

	for (unsigned n = 0; vendors[n].vendor != GPU_VENDORS; n++) {
		bench->ops = vendors[n].ops;
		result = first_find(bench, vendors[n].vendor, &errors[n]);
		if (result == 0)
			return 0;
		if (result != -ENOENT && result != -ENODEV)
			return error_set(error, result, "%s", errors[n].text);
	}
	return error_set(error, -ENODEV, "no GPU here (cuda: %.80s; rocm: %.80s)", errors[0].text,
			 errors[1].text);
}

int gpu_bench_choose(struct gpu_bench *bench, const char *vendor, const char *bus_id,
		     struct error *error)
{
	unsigned n = 0;

	if (vendor == NULL && bus_id == NULL && bench->library == NULL)
		return any_find(bench, error);
	if (vendor == NULL)
		return error_set(error, -EINVAL,
				 "--device and --library need --vendor: cuda, rocm or host");
	while (n < VENDORS_COUNT && strcmp(vendors[n].name, vendor) != 0)
		n++;
	if (n == VENDORS_COUNT)
		return error_set(error, -EINVAL,
				 "--vendor is \"%.20s\", expected cuda, rocm or host", vendor);
	bench->ops = vendors[n].ops;
	if (vendors[n].vendor == GPU_VENDORS)
		return 0;
	if (bus_id == NULL)
		return first_find(bench, vendors[n].vendor, error);
	snprintf(bench->bus_id, sizeof(bench->bus_id), "%s", bus_id);
	return 0;
}

/* With the first of the vendor's kernels that is for the device, or without: then COPY_KERNEL is
 * not there. */
static int device_try(struct gpu_bench *bench, uint32_t kernel_blocks, struct error *error)
{
	struct device_config config = {
		.bus_id = bench->bus_id,
		.library = bench->library,
		.kernel_blocks = kernel_blocks,
		.without_words = true,
	};
	enum gpu_vendor vendor = bench->ops == &device_rocm_ops ? GPU_HIP : GPU_CUDA;
	struct gpu_image image;
	int result = -ENOEXEC;

	for (unsigned n = 0; result == -ENOEXEC && gpu_image_get(n, &image); n++) {
		if (image.vendor != vendor)
			continue;
		config.kernel_image = image.bytes;
		result = device_open(&bench->device, bench->ops, &config, error);
	}
	config.kernel_image = NULL;
	return result == -ENOEXEC ? device_open(&bench->device, bench->ops, &config, error)
				  : result;
}

static uint64_t host_bytes(const struct gpu_bench *bench)
{
	return 2 * bench->bytes + SMALL_BYTES;
}

static int sources_fill(struct gpu_bench *bench, struct error *error)
{
	payload_fill(bench->host + bench->bytes, bench->bytes, IDENTITY_LARGE, 0, 0);
	payload_fill(gpu_host_small(bench), SMALL_BYTES, IDENTITY_SMALL, 0, 0);
	return gpu_copy_plain(bench, DEVICE_LOAD_BULK, gpu_device_source(bench),
			      gpu_host_source(bench), bench->bytes, error);
}

int gpu_bench_open(struct gpu_bench *bench, uint32_t kernel_blocks, struct error *error)
{
	int result = device_try(bench, kernel_blocks, error);

	if (result < 0)
		return result;
	bench->is_open = true;
	bench->host = mmap(NULL, host_bytes(bench), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (bench->host == MAP_FAILED) {
		bench->host = NULL;
		result = error_set(error, -ENOMEM, "no memory for %llu MiB; less: --mib",
				   (unsigned long long)(host_bytes(bench) >> 20));
		goto close;
	}
	(void)madvise(bench->host, host_bytes(bench), MADV_HUGEPAGE); /* as the cpu tier's */
	memset(bench->host, 0, host_bytes(bench));
	result = device_pin(&bench->device, bench->host, host_bytes(bench), error);
	if (result == 0)
		result = device_memory_open(&bench->device, host_bytes(bench), &bench->memory,
					    error);
	if (result == 0)
		result = sources_fill(bench, error);
	if (result == 0)
		return 0;
close:
	gpu_bench_close(bench);
	return result;
}

void gpu_bench_close(struct gpu_bench *bench)
{
	if (!bench->is_open || bench->is_stuck)
		return;
	device_close(&bench->device);
	if (bench->host != NULL)
		munmap(bench->host, host_bytes(bench));
	bench->host = NULL;
	bench->memory = (struct device_memory){ 0 };
	bench->is_open = false;
}

uint64_t gpu_device_source(const struct gpu_bench *bench)
{
	return bench->memory.address;
}

uint64_t gpu_device_target(const struct gpu_bench *bench)
{
	return bench->memory.address + bench->bytes;
}

uint64_t gpu_device_small(const struct gpu_bench *bench)
{
	return bench->memory.address + 2 * bench->bytes;
}

uint8_t *gpu_host_target(const struct gpu_bench *bench)
{
	return bench->host;
}

const uint8_t *gpu_host_source(const struct gpu_bench *bench)
{
	return bench->host + bench->bytes;
}

uint8_t *gpu_host_small(const struct gpu_bench *bench)
{
	return bench->host + 2 * bench->bytes;
}
