/* tests/base/test_list.c: order, counts and ends of linked lists. */
#include "base/list.h"
#include "base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define ITEMS_COUNT 50

struct item {
	unsigned number;
	struct list_node link;   /* not first, so that list_item() has something to do */
};

static struct item items[ITEMS_COUNT];

static int items_number(void **unused)
{
	(void)unused;
	memset(items, 0, sizeof(items));
	for (unsigned i = 0; i < ITEMS_COUNT; i++)
		items[i].number = i;
	return 0;
}

/* The list holds these numbers in this order, seen from both ends. */
static void assert_holds(struct list *list, const unsigned *numbers, unsigned count)
{
	struct list_node *node = list_first(list);
	struct list_node *last = &list->head;

	assert_int_equal(list->count, count);
	assert_int_equal(list_is_empty(list), count == 0);
	for (unsigned i = 0; i < count; i++) {
		assert_non_null(node);
		assert_int_equal(list_item(node, struct item, link)->number, numbers[i]);
		node = list_after(list, node);
	}
	assert_null(node);
	for (unsigned i = count; i > 0; i--) {
		last = last->previous;
		assert_int_equal(list_item(last, struct item, link)->number, numbers[i - 1]);
	}
	assert_ptr_equal(last->previous, &list->head);
}

static void an_empty_list_has_no_first(void **unused)
{
	struct list list;

	(void)unused;
	list_init(&list);
	assert_true(list_is_empty(&list));
	assert_null(list_first(&list));
	assert_null(list_take_first(&list));
	assert_int_equal(list.count, 0);
}

static void appended_items_come_out_in_order_and_prepended_ones_before_them(void **unused)
{
	struct list list;

	(void)unused;
	list_init(&list);
	list_append(&list, &items[1].link);
	list_append(&list, &items[2].link);
	list_prepend(&list, &items[0].link);
	assert_holds(&list, (const unsigned[]) { 0, 1, 2 }, 3);
	for (unsigned i = 0; i < 3; i++)
		assert_ptr_equal(list_take_first(&list), &items[i].link);
	assert_null(list_take_first(&list));
}

static void any_item_can_be_removed_and_linked_again(void **unused)
{
	(void)unused;
	for (unsigned removed = 0; removed < 3; removed++) {
		struct list list;
		unsigned left[3];
		unsigned count = 0;

		items_number(NULL);
		list_init(&list);
		for (unsigned i = 0; i < 3; i++) {
			list_append(&list, &items[i].link);
			if (i != removed)
				left[count++] = i;
		}
		list_remove(&list, &items[removed].link);
		assert_null(items[removed].link.next);
		assert_null(items[removed].link.previous);
		assert_holds(&list, left, 2);
		list_append(&list, &items[removed].link);
		left[2] = removed;
		assert_holds(&list, left, 3);
	}
}

static void a_node_can_go_between_two_others(void **unused)
{
	struct list list;

	(void)unused;
	list_init(&list);
	list_append(&list, &items[0].link);
	list_append(&list, &items[2].link);
	list_insert_between(&list, &items[1].link, &items[0].link, &items[2].link);
	assert_holds(&list, (const unsigned[]) { 0, 1, 2 }, 3);
}

static void a_long_random_life_keeps_the_order_of_a_plain_array(void **unused)
{
	unsigned model[ITEMS_COUNT];
	unsigned count = 0;
	struct random random;
	struct list list;

	(void)unused;
	random_init(&random, 1);
	list_init(&list);
	for (unsigned step = 0; step < 5000; step++) {
		unsigned number = (unsigned)random_below(&random, ITEMS_COUNT);
		unsigned place = 0;

		while (place < count && model[place] != number)
			place++;
		if (place < count) {
			list_remove(&list, &items[number].link);
			memmove(&model[place], &model[place + 1],
				(--count - place) * sizeof(model[0]));
		} else if (random_below(&random, 2) == 0) {
			list_append(&list, &items[number].link);
			model[count++] = number;
		} else {
			list_prepend(&list, &items[number].link);
			memmove(&model[1], &model[0], count++ * sizeof(model[0]));
			model[0] = number;
		}
		assert_holds(&list, model, count);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(an_empty_list_has_no_first, items_number),
		cmocka_unit_test_setup(
			appended_items_come_out_in_order_and_prepended_ones_before_them,
			items_number),
		cmocka_unit_test_setup(any_item_can_be_removed_and_linked_again, items_number),
		cmocka_unit_test_setup(a_node_can_go_between_two_others, items_number),
		cmocka_unit_test_setup(a_long_random_life_keeps_the_order_of_a_plain_array,
				       items_number),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
