/* tests/transfer/test_nth_layout.c: memory fails while a layout is made. */
#include "transfer/layout.h"

#include "tests/nth/nth.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void a_layout_without_memory_is_refused_and_leaves_nothing(void **unused)
{
	static const struct layout_plane planes[] = { { 0, 0, 64, 8 }, { 0, 16, 64, 8 } };
	static const struct layout_group_source groups[] = { { 4, 2, planes }, { 4, 1, planes } };
	static const uint64_t region_bytes = 4096;
	const struct layout_source source = { 1, 2, &region_bytes, groups };
	struct nth_plan plan = { .classes = NTH_ALLOCATION, .errno_value = ENOMEM, .count = 1 };
	struct nth_books before = nth_books();
	uint64_t hits = 1, refused = 0;

	(void)unused;
	for (plan.nth = 1; hits > 0; plan.nth++) {
		struct error error = { 0 };
		struct layout layout;

		nth_arm(&plan);
		int result = layout_init(&layout, &source, &error);

		hits = nth_hits();
		/* boxes that cannot be made smaller stay as large as they are */
		if (hits > 0 && strcmp(nth_failed_call(), "realloc") != 0) {
			assert_int_equal(result, -ENOMEM);
			assert_non_null(strstr(error.text, "no memory"));
			refused++;
		} else {
			assert_int_equal(result, 0);
			assert_int_equal(layout.groups[1].boxes_count, 1);
		}
		layout_finish(&layout);
		nth_disarm();
		nth_assert_nothing_is_left(&before);
	}
	assert_true(refused >= 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_layout_without_memory_is_refused_and_leaves_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
