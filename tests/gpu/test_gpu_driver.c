/* tests/gpu/test_gpu_driver.c: a driver library that is absent, or is none, is named as such. */
#include "transfer/gpu_driver.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <string.h>

#include <cmocka.h>

static void a_library_that_is_not_there_is_named(void **unused)
{
	struct gpu_driver driver;
	struct error error;

	(void)unused;
	assert_int_equal(gpu_driver_open(&driver, GPU_CUDA, "/nowhere/libcuda.so.1", &error), -ENOENT);
	assert_non_null(strstr(error.text, "/nowhere/libcuda.so.1"));
	gpu_driver_close(&driver);
}

static void a_library_that_is_no_driver_is_refused_with_the_calls_it_lacks(void **unused)
{
	struct gpu_driver driver;
	struct error error;

	(void)unused;
	assert_int_equal(gpu_driver_open(&driver, GPU_CUDA, "libm.so.6", &error), -ENOSYS);
	assert_non_null(strstr(error.text, " cuInit cuDriverGetVersion "));
	assert_int_equal(gpu_driver_open(&driver, GPU_HIP, "libm.so.6", &error), -ENOSYS);
	assert_non_null(strstr(error.text, " hipInit hipDriverGetVersion "));
	gpu_driver_close(&driver);
	gpu_driver_close(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_library_that_is_not_there_is_named),
		cmocka_unit_test(a_library_that_is_no_driver_is_refused_with_the_calls_it_lacks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
