/* tests/base/test_nearest.c: what a mistyped word meant. */
#include "base/nearest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const char *const words[] = { "cpu_bytes", "nvme_bytes", "socket_folder", "lease_ms_max" };

static const char *nearest(const char *word)
{
	return nearest_word(word, words, 4);
}

static void a_word_is_nearest_to_itself(void **unused)
{
	(void)unused;
	for (unsigned i = 0; i < 4; i++)
		assert_ptr_equal(nearest(words[i]), words[i]);
}

static void one_mistake_of_each_kind_is_recognised(void **unused)
{
	(void)unused;
	assert_string_equal(nearest("socket_foldr"), "socket_folder");
	assert_string_equal(nearest("socket_foolder"), "socket_folder");
	assert_string_equal(nearest("sockat_folder"), "socket_folder");
	assert_string_equal(nearest("sokcet_folder"), "socket_folder");
	assert_string_equal(nearest("Socket-Folder"), "socket_folder");
}

static void a_swap_is_one_mistake_not_two(void **unused)
{
	static const char *const pair[] = { "abxy", "ba" };

	(void)unused;
	assert_string_equal(nearest_word("ab", pair, 1), "abxy");
	assert_string_equal(nearest_word("ab", pair, 2), "ba");
}

static void a_word_like_none_has_no_nearest(void **unused)
{
	(void)unused;
	assert_null(nearest("zzzz"));
	assert_null(nearest("q"));
	assert_null(nearest_word("cpu_bytes", words, 0));
}

static void words_longer_than_the_limit_are_compared_by_their_beginning(void **unused)
{
	char longer[300];
	const char *const one[] = { longer };

	(void)unused;
	memset(longer, 'a', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	assert_ptr_equal(nearest_word(longer + 50, one, 1), longer);
	assert_null(nearest(longer));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_word_is_nearest_to_itself),
		cmocka_unit_test(one_mistake_of_each_kind_is_recognised),
		cmocka_unit_test(a_swap_is_one_mistake_not_two),
		cmocka_unit_test(a_word_like_none_has_no_nearest),
		cmocka_unit_test(words_longer_than_the_limit_are_compared_by_their_beginning),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
