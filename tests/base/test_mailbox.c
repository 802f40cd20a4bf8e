/* tests/base/test_mailbox.c: pointers between two threads, none lost, none twice, no sleep missed.
 */
#include "base/mailbox.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define POLL_MS_MAX 20000   /* a missed wake-up fails the test instead of hanging it */

struct item {
	uint64_t number;
};

struct pair {
	struct mailbox forth;
	struct mailbox back;
	_Atomic bool stop;
	uint64_t received;
	bool slept_for_ever;
	bool out_of_order;
};

static void a_full_mailbox_refuses_and_keeps_the_order(void **unused)
{
	struct mailbox mailbox;
	int items[6];

	(void)unused;
	assert_int_equal(mailbox_open(&mailbox, 4, NULL), 0);
	for (unsigned lap = 0; lap < 3; lap++) {
		for (unsigned i = 0; i < 4; i++)
			assert_true(mailbox_send(&mailbox, &items[i]));
		assert_false(mailbox_send(&mailbox, &items[4]));
		assert_ptr_equal(mailbox_take(&mailbox), &items[0]);
		assert_true(mailbox_send(&mailbox, &items[5]));
		assert_false(mailbox_send(&mailbox, &items[4]));
		for (unsigned i = 1; i < 4; i++)
			assert_ptr_equal(mailbox_take(&mailbox), &items[i]);
		assert_ptr_equal(mailbox_take(&mailbox), &items[5]);
		assert_null(mailbox_take(&mailbox));
	}
	mailbox_close(&mailbox);
	mailbox_close(&mailbox);
}

static void indices_may_wrap_round(void **unused)
{
	struct mailbox mailbox;
	int items[3];

	(void)unused;
	assert_int_equal(mailbox_open(&mailbox, 2, NULL), 0);
	atomic_store(&mailbox.tail, UINT32_MAX);
	atomic_store(&mailbox.head, UINT32_MAX);
	mailbox.head_seen = UINT32_MAX;
	mailbox.tail_seen = UINT32_MAX;
	assert_true(mailbox_send(&mailbox, &items[0]));
	assert_true(mailbox_send(&mailbox, &items[1]));
	assert_false(mailbox_send(&mailbox, &items[2]));
	assert_ptr_equal(mailbox_take(&mailbox), &items[0]);
	assert_ptr_equal(mailbox_take(&mailbox), &items[1]);
	assert_null(mailbox_take(&mailbox));
	mailbox_close(&mailbox);
}

static int readable(const struct mailbox *mailbox, int wait_ms)
{
	struct pollfd wait = { .fd = mailbox_fd(mailbox), .events = POLLIN };

	return poll(&wait, 1, wait_ms);
}

static void a_send_wakes_a_sleeper_once_and_nobody_else(void **unused)
{
	struct mailbox mailbox;
	int item;

	(void)unused;
	assert_int_equal(mailbox_open(&mailbox, 4, NULL), 0);
	assert_true(mailbox_send(&mailbox, &item));
	assert_int_equal(readable(&mailbox, 0), 0); /* an awake receiver costs no system call */
	assert_false(mailbox_sleep(&mailbox));           /* there is something */
	assert_ptr_equal(mailbox_take(&mailbox), &item);
	assert_true(mailbox_sleep(&mailbox));
	assert_true(mailbox_send(&mailbox, &item));
	assert_int_equal(readable(&mailbox, 0), 1);
	mailbox_awake(&mailbox);
	assert_int_equal(readable(&mailbox, 0), 0);
	assert_ptr_equal(mailbox_take(&mailbox), &item);
	mailbox_close(&mailbox);
}

static void a_poke_before_the_sleep_is_not_lost(void **unused)
{
	struct mailbox mailbox;

	(void)unused;
	assert_int_equal(mailbox_open(&mailbox, 4, NULL), 0);
	mailbox_poke(&mailbox);
	mailbox_poke(&mailbox);
	assert_true(mailbox_sleep(&mailbox));
	assert_int_equal(readable(&mailbox, 0), 1);
	mailbox_awake(&mailbox);
	assert_int_equal(readable(&mailbox, 0), 0);
	mailbox_close(&mailbox);
}

static void closing_a_zeroed_mailbox_closes_nothing(void **unused)
{
	struct mailbox zeroed;
	int fd = dup(0);

	(void)unused;
	memset(&zeroed, 0, sizeof(zeroed));
	mailbox_close(&zeroed);
	mailbox_close(NULL);
	if (fd >= 0) {
		int again = dup(0);

		assert_true(again >= 0);
		close(again);
		close(fd);
	}
}

/* Waits for the next item; NULL after a stop, or when no wake-up came for very long. */
static struct item *wait_for_item(struct pair *pair, struct mailbox *mailbox)
{
	struct item *item = mailbox_take(mailbox);

	while (item == NULL) {
		if (mailbox_sleep(mailbox)) {
			if (readable(mailbox, POLL_MS_MAX) == 0) {
				pair->slept_for_ever = true;
				return NULL;
			}
			mailbox_awake(mailbox);
		}
		item = mailbox_take(mailbox);
		if (item == NULL && atomic_load(&pair->stop))
			return NULL;
	}
	return item;
}

static void *receive(void *argument)
{
	struct pair *pair = argument;
	struct item *item;

	while ((item = wait_for_item(pair, &pair->forth)) != NULL) {
		if (item->number != pair->received)
			pair->out_of_order = true;
		pair->received++;
		item->number =
			UINT64_MAX; /* ours now: a race shows as a wrong number, or in TSan */
		while (!mailbox_send(&pair->back, item))
			;
	}
	return NULL;
}

/* Sends numbered items through mailboxes as large as their pool, which the receiver sends back. */
static void exchange(uint64_t items_count, uint32_t pool_count)
{
	struct pair *pair = calloc(1, sizeof(*pair));
	struct item *pool = calloc(pool_count, sizeof(*pool));
	uint64_t sent = 0;
	pthread_t receiver;

	assert_non_null(pair);
	assert_non_null(pool);
	assert_int_equal(mailbox_open(&pair->forth, pool_count, NULL), 0);
	assert_int_equal(mailbox_open(&pair->back, pool_count, NULL), 0);
	assert_int_equal(pthread_create(&receiver, NULL, receive, pair), 0);
	while (sent < items_count) {
		struct item *item = sent < pool_count ? &pool[sent]
						      : wait_for_item(pair, &pair->back);

		if (item == NULL)
			break;
		item->number = sent++;
		assert_true(mailbox_send(&pair->forth, item));   /* sized to the pool: never full */
	}
	for (uint64_t i = 0; i < pool_count && !pair->slept_for_ever; i++)
		assert_non_null(wait_for_item(pair, &pair->back));
	atomic_store(&pair->stop, true);
	mailbox_poke(&pair->forth);
	assert_int_equal(pthread_join(receiver, NULL), 0);
	assert_false(pair->slept_for_ever);
	assert_false(pair->out_of_order);
	assert_int_equal(pair->received, items_count);
	mailbox_close(&pair->forth);
	mailbox_close(&pair->back);
	free(pool);
	free(pair);
}

static void a_million_items_arrive_once_and_in_order(void **unused)
{
	(void)unused;
	exchange(1000000, 256);
}

static void a_receiver_that_sleeps_before_each_item_misses_none(void **unused)
{
	(void)unused;
	exchange(20000, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_full_mailbox_refuses_and_keeps_the_order),
		cmocka_unit_test(indices_may_wrap_round),
		cmocka_unit_test(a_send_wakes_a_sleeper_once_and_nobody_else),
		cmocka_unit_test(a_poke_before_the_sleep_is_not_lost),
		cmocka_unit_test(closing_a_zeroed_mailbox_closes_nothing),
		cmocka_unit_test(a_million_items_arrive_once_and_in_order),
		cmocka_unit_test(a_receiver_that_sleeps_before_each_item_misses_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
