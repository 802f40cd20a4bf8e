/* tests/proto/test_json_text.c: what is written can be read back, and nothing is written beyond the
 * buffer. */
#include "proto/json_text.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void write_sample(struct json_text *json)
{
	const uint8_t id[2] = { 0x0a, 0xff };

	json_text_object_begin(json, NULL);
	json_text_string(json, "text", "a \"b\" \\ \n \x01 \xc3\xa4 \xff\xed\xa0\x80 end");
	json_text_string(json, "nothing", NULL);
	json_text_array_begin(json, "numbers");
	json_text_unsigned(json, NULL, UINT64_MAX / 2);
	json_text_signed(json, NULL, -5);
	json_text_double(json, NULL, 0.5);
	json_text_double(json, NULL, NAN);
	json_text_array_end(json);
	json_text_object_begin(json, "empty");
	json_text_object_end(json);
	json_text_hex(json, "id", id, sizeof(id));
	json_text_bool(json, "yes", true);
	json_text_object_end(json);
}

static void what_is_written_can_be_read_back(void **unused)
{
	char text[512];
	struct json_text json;
	json_error_t error;
	json_t *root;

	(void)unused;
	json_text_init(&json, text, sizeof(text));
	write_sample(&json);
	assert_true(json_text_ok(&json));
	assert_int_equal(strlen(text), json.bytes);
	root = json_loads(text, 0, &error);
	assert_non_null(root);
	assert_string_equal(json_string_value(json_object_get(root, "id")), "0aff");
	assert_non_null(strstr(json_string_value(json_object_get(root, "text")),
			       "a \"b\" \\ \n \x01 \xc3\xa4 "));
	assert_int_equal(json_integer_value(json_array_get(json_object_get(root, "numbers"), 1)),
			 -5);
	assert_true(json_is_null(json_array_get(json_object_get(root, "numbers"), 3)));
	assert_true(json_is_true(json_object_get(root, "yes")));
	json_decref(root);
}

static void a_buffer_too_short_by_any_amount_is_noticed(void **unused)
{
	char whole[512];
	struct json_text json;
	size_t needed;

	(void)unused;
	json_text_init(&json, whole, sizeof(whole));
	write_sample(&json);
	needed = json.bytes + 1;
	for (size_t bytes = 1; bytes <= needed; bytes++) {
		char *text = malloc(bytes);

		json_text_init(&json, text, bytes);
		write_sample(&json);
		assert_int_equal(json_text_ok(&json), bytes == needed);
		assert_true(strlen(text) < bytes);
		free(text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_can_be_read_back),
		cmocka_unit_test(a_buffer_too_short_by_any_amount_is_noticed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
