/* tests/base/test_text.c: pieces are added whole or not at all. */
#include "base/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void pieces_are_put_together(void **unused)
{
	struct text text;

	(void)unused;
	text_init(&text, 100);
	assert_string_equal(text_words(&text), "");
	text_add(&text, "a");
	text_printf(&text, "%d-%s", 12, "b");
	text_append(&text, "c\0d", 3);
	assert_int_equal(text.length, 8);
	assert_memory_equal(text.bytes, "a12-bc\0d", 9);
	text_clear(&text);
	assert_string_equal(text_words(&text), "");
	text_finish(&text);
	text_finish(&text);
	text_finish(NULL);
}

static void a_piece_past_the_bound_is_left_out_whole(void **unused)
{
	struct text text;

	(void)unused;
	text_init(&text, 5);
	text_add(&text, "12345");
	assert_false(text.is_cut);
	text_add(&text, "");
	assert_false(text.is_cut);
	text_printf(&text, "%s", "6");
	assert_true(text.is_cut);
	assert_string_equal(text.bytes, "12345");
	text_clear(&text);
	assert_false(text.is_cut);
	text_add(&text, "123456");
	assert_true(text.is_cut);
	assert_int_equal(text.length, 0);
	text_finish(&text);
}

static void a_long_text_grows(void **unused)
{
	struct text text;

	(void)unused;
	text_init(&text, 100000);
	for (int i = 0; i < 10000; i++)
		text_printf(&text, "%010d", i);
	assert_false(text.is_cut);
	assert_int_equal(text.length, 100000);
	assert_memory_equal(text.bytes + 99990, "0000009999", 11);
	text_finish(&text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pieces_are_put_together),
		cmocka_unit_test(a_piece_past_the_bound_is_left_out_whole),
		cmocka_unit_test(a_long_text_grows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
