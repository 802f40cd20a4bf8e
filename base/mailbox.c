/* base/mailbox.c: a lock-free ring of pointers for one sender and one receiver. */
#include "base/mailbox.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

int mailbox_open(struct mailbox *mailbox, uint32_t capacity, struct error *error)
{
	int result;

	assert(capacity > 0 && (capacity & (capacity - 1)) == 0);
	assert(capacity <= MAILBOX_CAPACITY_MAX);
	memset(mailbox, 0, sizeof(*mailbox));
	mailbox->wake_fd = -1;
	mailbox->items = calloc(capacity, sizeof(*mailbox->items));
	if (mailbox->items == NULL)
		return error_set(error, -ENOMEM, "no memory for a mailbox of %u items", capacity);
	mailbox->mask = capacity - 1;
	mailbox->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (mailbox->wake_fd < 0) {
		result = error_set(error, -errno, "no eventfd for a mailbox: %s%s", strerror(errno),
				   error_advice(-errno));
		goto free_items;
	}
	return 0;
free_items:
	free(mailbox->items);
	mailbox->items = NULL;
	return result;
}

void mailbox_close(struct mailbox *mailbox)
{
	/* A zeroed mailbox says wake_fd 0, which is not ours. */
	if (mailbox == NULL || mailbox->items == NULL)
		return;
	close(mailbox->wake_fd);
	free(mailbox->items);
	mailbox->items = NULL;
	mailbox->wake_fd = -1;
}

bool mailbox_send(struct mailbox *mailbox, void *item)
{
	uint32_t tail = atomic_load_explicit(&mailbox->tail, memory_order_relaxed);

	assert(item != NULL);   /* NULL means "empty" to the receiver */
	if (tail - mailbox->head_seen > mailbox->mask) {
		/* Acquire: the receiver has read the place before we write to it again. */
		mailbox->head_seen = atomic_load_explicit(&mailbox->head, memory_order_acquire);
		assert(tail - mailbox->head_seen <= mailbox->mask + 1);
		if (tail - mailbox->head_seen > mailbox->mask)
			return false;
	}
	mailbox->items[tail & mailbox->mask] = item;
	/*
	 * Either we see `sleeping`, or the receiver, which stores `sleeping` and then looks at
	 * `tail`, sees the item: all four accesses are sequentially consistent. With release and
	 * acquire alone both could look before the other's store arrived, and the receiver would
	 * sleep on a full mailbox.
	 */
	atomic_store_explicit(&mailbox->tail, tail + 1, memory_order_seq_cst);
	if (atomic_load_explicit(&mailbox->sleeping, memory_order_seq_cst) != 0 &&
	    atomic_exchange_explicit(&mailbox->sleeping, 0, memory_order_seq_cst) != 0)
		mailbox_poke(mailbox);
	return true;
}

void *mailbox_take(struct mailbox *mailbox)
{
	uint32_t head = atomic_load_explicit(&mailbox->head, memory_order_relaxed);
	void *item;

	if (head == mailbox->tail_seen) {
		/* Acquire: what the sender wrote into the item before it sent it is there. */
		mailbox->tail_seen = atomic_load_explicit(&mailbox->tail, memory_order_acquire);
		assert(mailbox->tail_seen - head <= mailbox->mask + 1);
		if (head == mailbox->tail_seen)
			return NULL;
	}
	item = mailbox->items[head & mailbox->mask];
	atomic_store_explicit(&mailbox->head, head + 1, memory_order_release);
	assert(item != NULL);
	return item;
}

bool mailbox_sleep(struct mailbox *mailbox)
{
	uint32_t head = atomic_load_explicit(&mailbox->head, memory_order_relaxed);

	/* The other half of the order explained in mailbox_send(). */
	atomic_store_explicit(&mailbox->sleeping, 1, memory_order_seq_cst);
	if (atomic_load_explicit(&mailbox->tail, memory_order_seq_cst) == head)
		return true;
	atomic_store_explicit(&mailbox->sleeping, 0, memory_order_seq_cst);
	return false;
}

void mailbox_awake(struct mailbox *mailbox)
{
	uint64_t wakes;
	ssize_t got;

	atomic_store_explicit(&mailbox->sleeping, 0, memory_order_seq_cst);
	do {
		got = read(mailbox->wake_fd, &wakes, sizeof(wakes));
	} while (got < 0 && errno == EINTR);
	assert(got == sizeof(wakes) || errno == EAGAIN);
}

int mailbox_fd(const struct mailbox *mailbox)
{
	return mailbox->wake_fd;
}

void mailbox_poke(struct mailbox *mailbox)
{
	const uint64_t one = 1;
	ssize_t put;

	do {
		put = write(mailbox->wake_fd, &one, sizeof(one));
	} while (put < 0 && errno == EINTR);
	/* EAGAIN: the counter is at its top, so the receiver is woken anyway. */
	assert(put == sizeof(one) || errno == EAGAIN);
}
