/* tests/base/test_ring.c: the ring: order, bounds, wake-ups, and a side that lies. */
#include "base/ring.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SMALL_MAX   8u
#define WAIT_MS_MAX 20000

struct text {
	uint64_t number;
	uint8_t fill[40];
};

struct rig {
	uint32_t *memory;
	struct ring producer, consumer;
	int wake_fd;
};

/* Where the layout puts the words that a hostile side would write. */
#define TAIL(rig) ((rig)->memory[0])
#define HEAD(rig) ((rig)->memory[16])

static void rig_init(struct rig *rig, uint32_t messages_max)
{
	uint64_t bytes = ring_memory_bytes(sizeof(struct text), messages_max);

	rig->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(rig->memory, MAP_FAILED);
	rig->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	assert_true(rig->wake_fd >= 0);
	ring_format(rig->memory, sizeof(struct text), messages_max);
	ring_attach_producer(&rig->producer, rig->memory, sizeof(struct text), messages_max,
			     rig->wake_fd);
	ring_attach_consumer(&rig->consumer, rig->memory, sizeof(struct text), messages_max,
			     rig->wake_fd);
}

static void rig_finish(struct rig *rig)
{
	close(rig->wake_fd);
	munmap(rig->memory, ring_memory_bytes(sizeof(struct text), rig->producer.mask + 1));
}

static struct text text_of(uint64_t number)
{
	struct text text = { .number = number };

	memset(text.fill, (int)(number & 0xff), sizeof(text.fill));
	return text;
}

static void expect_text(const struct text *text, uint64_t number)
{
	struct text expected = text_of(number);

	assert_memory_equal(text, &expected, sizeof(expected));
}

static void messages_come_out_once_and_in_order_across_many_wraps(void **unused)
{
	struct rig rig;
	struct text text;
	uint64_t sent = 0, taken = 0;

	(void)unused;
	rig_init(&rig, SMALL_MAX);
	for (unsigned round = 0; round < 100; round++) {
		for (unsigned n = 0; n < 1 + round % SMALL_MAX; n++) {
			text = text_of(sent++);
			assert_int_equal(ring_send(&rig.producer, &text), 0);
		}
		while (ring_take(&rig.consumer, &text) == 1)
			expect_text(&text, taken++);
	}
	assert_int_equal(taken, sent);
	rig_finish(&rig);
}

static void a_full_ring_refuses_and_loses_nothing(void **unused)
{
	struct rig rig;
	struct text text;

	(void)unused;
	rig_init(&rig, SMALL_MAX);
	for (unsigned n = 0; n < SMALL_MAX; n++) {
		assert_int_equal(ring_room(&rig.producer), SMALL_MAX - n);
		text = text_of(n);
		assert_int_equal(ring_send(&rig.producer, &text), 0);
	}
	assert_int_equal(ring_room(&rig.producer), 0);
	text = text_of(99);
	assert_int_equal(ring_send(&rig.producer, &text), -EAGAIN);
	for (unsigned n = 0; n < SMALL_MAX; n++) {
		assert_int_equal(ring_take(&rig.consumer, &text), 1);
		expect_text(&text, n);
	}
	assert_int_equal(ring_take(&rig.consumer, &text), 0);
	rig_finish(&rig);
}

static void indices_go_on_past_two_to_the_32(void **unused)
{
	struct rig rig;
	struct text text;

	(void)unused;
	rig_init(&rig, SMALL_MAX);
	rig.producer.mine = rig.consumer.mine = TAIL(&rig) = HEAD(&rig) = UINT32_MAX - 3;
	for (uint64_t n = 0; n < SMALL_MAX; n++) {
		text = text_of(n);
		assert_int_equal(ring_send(&rig.producer, &text), 0);
	}
	assert_int_equal(ring_send(&rig.producer, &text), -EAGAIN);
	for (uint64_t n = 0; n < SMALL_MAX; n++) {
		assert_int_equal(ring_take(&rig.consumer, &text), 1);
		expect_text(&text, n);
	}
	rig_finish(&rig);
}

static void an_impossible_tail_is_refused_by_the_consumer(void **unused)
{
	static const uint32_t lies[] = { SMALL_MAX + 1, UINT32_MAX, 0x80000000u, SMALL_MAX * 2 };

	(void)unused;
	for (unsigned n = 0; n < sizeof(lies) / sizeof(lies[0]); n++) {
		struct rig rig;
		struct text text = text_of(7), before = text;

		rig_init(&rig, SMALL_MAX);
		TAIL(&rig) = lies[n];
		assert_int_equal(ring_take(&rig.consumer, &text), -EPROTO);
		assert_memory_equal(&text, &before, sizeof(text));
		assert_false(ring_sleep(&rig.consumer)); /* it must be noticed, not slept over */
		rig_finish(&rig);
	}
}

static void an_impossible_head_is_refused_by_the_producer(void **unused)
{
	static const uint32_t lies[] = { 1, UINT32_MAX - SMALL_MAX, 0x80000000u, 5000 };

	(void)unused;
	for (unsigned n = 0; n < sizeof(lies) / sizeof(lies[0]); n++) {
		struct rig rig;
		struct text text = text_of(7);

		rig_init(&rig, SMALL_MAX);
		HEAD(&rig) = lies[n];
		assert_int_equal(ring_send(&rig.producer, &text), -EPROTO);
		assert_int_equal(ring_room(&rig.producer), 0);
		rig_finish(&rig);
	}
}

static void the_other_sides_word_never_moves_our_own_index(void **unused)
{
	struct rig rig;
	struct text text = text_of(1);

	(void)unused;
	rig_init(&rig, SMALL_MAX);
	TAIL(&rig) = 3; /* written over by the peer: we publish ours, we never read it back */
	assert_int_equal(ring_send(&rig.producer, &text), 0);
	assert_int_equal(TAIL(&rig), 1);
	HEAD(&rig) = 7;
	assert_int_equal(ring_take(&rig.consumer, &text), 1);
	assert_int_equal(HEAD(&rig), 1);
	expect_text(&text, 1);
	rig_finish(&rig);
}

static void a_sleeper_is_woken_by_the_first_message_only(void **unused)
{
	struct rig rig;
	struct text text = text_of(1);
	uint64_t wakes = 0;

	(void)unused;
	rig_init(&rig, SMALL_MAX);
	assert_true(ring_sleep(&rig.consumer));
	assert_int_equal(ring_send(&rig.producer, &text), 0);
	assert_int_equal(ring_send(&rig.producer, &text), 0);
	assert_int_equal(read(rig.wake_fd, &wakes, sizeof(wakes)), sizeof(wakes));
	assert_int_equal(wakes, 1);
	assert_false(ring_sleep(&rig.consumer));
	assert_int_equal(ring_send(&rig.producer, &text), 0);
	assert_int_equal(read(rig.wake_fd, &wakes, sizeof(wakes)), -1);
	ring_awake(&rig.consumer);
	rig_finish(&rig);
}

#define CROWD 200000u

/* Sends CROWD messages; yields while the ring is full. */
static void send_crowd(struct ring *producer)
{
	for (uint64_t n = 0; n < CROWD;) {
		struct text text = text_of(n);
		int result = ring_send(producer, &text);

		if (result == 0)
			n++;
		else if (result == -EAGAIN)
			sched_yield();
		else
			abort();
	}
}

/* Takes CROWD messages, sleeping on the eventfd when there is none; a lost wake-up is a timed-out
 * poll. */
static void take_crowd(struct rig *rig)
{
	struct text text;

	for (uint64_t n = 0; n < CROWD;) {
		int result = ring_take(&rig->consumer, &text);

		if (result == 1) {
			expect_text(&text, n++);
			continue;
		}
		assert_int_equal(result, 0);
		if (!ring_sleep(&rig->consumer))
			continue;
		struct pollfd waiting = { .fd = rig->wake_fd, .events = POLLIN };
		assert_int_equal(poll(&waiting, 1, WAIT_MS_MAX), 1);
		ring_awake(&rig->consumer);
	}
}

static void *crowd_thread(void *argument)
{
	send_crowd(argument);
	return NULL;
}

static void two_threads_lose_no_message_and_no_wake_up(void **unused)
{
	struct rig rig;
	pthread_t thread;

	(void)unused;
	rig_init(&rig, 16);
	assert_int_equal(pthread_create(&thread, NULL, crowd_thread, &rig.producer), 0);
	take_crowd(&rig);
	pthread_join(thread, NULL);
	rig_finish(&rig);
}

static void two_processes_lose_no_message_and_no_wake_up(void **unused)
{
	struct rig rig;
	int status;

	(void)unused;
	rig_init(&rig, 16);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		send_crowd(&rig.producer);
		_exit(0);
	}
	take_crowd(&rig);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	rig_finish(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(messages_come_out_once_and_in_order_across_many_wraps),
		cmocka_unit_test(a_full_ring_refuses_and_loses_nothing),
		cmocka_unit_test(indices_go_on_past_two_to_the_32),
		cmocka_unit_test(an_impossible_tail_is_refused_by_the_consumer),
		cmocka_unit_test(an_impossible_head_is_refused_by_the_producer),
		cmocka_unit_test(the_other_sides_word_never_moves_our_own_index),
		cmocka_unit_test(a_sleeper_is_woken_by_the_first_message_only),
		cmocka_unit_test(two_threads_lose_no_message_and_no_wake_up),
		cmocka_unit_test(two_processes_lose_no_message_and_no_wake_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
