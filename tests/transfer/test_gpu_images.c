/* tests/transfer/test_gpu_images.c: what a GPU is given is for it, and is the copy kernel. */
#include "transfer/gpu_images.h"
#include "transfer/kernels/kv_copy.h"

#include <elf.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void every_nvidia_gpu_since_a100_gets_the_text(void **unused)
{
	static const char *const devices[] = { "sm_80", "sm_86", "sm_89", "sm_90", "sm_100",
					       "sm_103", "sm_120", "sm_999" };

	(void)unused;
	for (unsigned i = 0; i < sizeof(devices) / sizeof(devices[0]); i++) {
		struct gpu_image image;

		assert_int_equal(gpu_image_find(GPU_CUDA, devices[i], &image), 0);
		assert_int_equal(image.vendor, GPU_CUDA);
		assert_int_equal(strlen(image.bytes), image.size); /* ended by a NUL */
		assert_non_null(strstr(image.bytes, ".visible .entry " KV_COPY_FUNCTION "("));
		assert_non_null(strstr(image.bytes, "\n.target sm_80\n"));
		assert_non_null(strstr(image.bytes, "\n.version 7.0\n"));
	}
}

static void a_gpu_that_there_is_no_image_for_gets_none(void **unused)
{
	static const struct {
		enum gpu_vendor vendor;
		const char *device;
	} strangers[] = {
		{ GPU_CUDA, "sm_75" }, { GPU_CUDA, "gfx942" }, { GPU_CUDA, "" },
		{ GPU_CUDA, "sm_" },   { GPU_HIP, "sm_90" },   { GPU_HIP, "" },
		{ GPU_HIP, "gfx94" },  { GPU_HIP, "gfx9421" }, { GPU_HIP, "gfx803" },
		{ GPU_HIP, ":sramecc+" },
	};

	(void)unused;
	for (unsigned i = 0; i < sizeof(strangers) / sizeof(strangers[0]); i++) {
		struct gpu_image image = { .size = 7 };

		assert_int_equal(gpu_image_find(strangers[i].vendor, strangers[i].device, &image),
				 -ENOENT);
		assert_int_equal(image.size, 7); /* not written */
	}
}

static void each_code_object_is_found_by_the_name_that_hip_says(void **unused)
{
	struct gpu_image image, found;
	char device[64];
	unsigned objects = 0;

	(void)unused;
	for (unsigned i = 0; gpu_image_get(i, &image); i++) {
		const Elf64_Ehdr *header = image.bytes;

		if (image.vendor != GPU_HIP)
			continue;
		objects++;
		snprintf(device, sizeof(device), "%s:sramecc+:xnack-", image.architecture);
		assert_int_equal(gpu_image_find(GPU_HIP, device, &found), 0);
		assert_ptr_equal(found.bytes, image.bytes);
		assert_int_equal(gpu_image_find(GPU_HIP, image.architecture, &found), 0);
		assert_string_equal(found.architecture, image.architecture);
		assert_int_equal((uintptr_t)image.bytes % 4096, 0);
		assert_memory_equal(header->e_ident, ELFMAG, SELFMAG);
		assert_int_equal(header->e_machine, 224); /* EM_AMDGPU */
		assert_true(header->e_shoff + (uint64_t)header->e_shnum * header->e_shentsize <=
			    image.size);
		assert_non_null(memmem(image.bytes, image.size, KV_COPY_FUNCTION ".kd",
				       sizeof(KV_COPY_FUNCTION ".kd")));
	}
	if (objects == 0) {
		printf("SKIP %s: built without a clang that links for AMD; .ci/deps gpu installs one\n",
		       __func__);
		skip();
	}
}

static void the_description_names_all_and_is_cut_at_its_end(void **unused)
{
	char whole[512], part[8];
	struct gpu_image image;

	(void)unused;
	gpu_images_describe(whole, sizeof(whole));
	for (unsigned i = 0; gpu_image_get(i, &image); i++)
		assert_non_null(strstr(whole, image.architecture));
	gpu_images_describe(part, sizeof(part));
	assert_memory_equal(part, whole, strlen(part));
	gpu_images_describe(part, 1);
	assert_string_equal(part, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_nvidia_gpu_since_a100_gets_the_text),
		cmocka_unit_test(a_gpu_that_there_is_no_image_for_gets_none),
		cmocka_unit_test(each_code_object_is_found_by_the_name_that_hip_says),
		cmocka_unit_test(the_description_names_all_and_is_cut_at_its_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
