/* base/ring.c: one producer, one consumer, memory that both can write, and no trust. */
#include "base/ring.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

/* Each word has a cache line of its own: the two sides write different ones. */
struct ring_shared {
	_Alignas(64) _Atomic uint32_t tail; /* the producer's: messages ever sent, modulo 2^32 */
	_Alignas(64) _Atomic uint32_t head; /* the consumer's: messages ever taken */
	_Alignas(64) _Atomic uint32_t sleeping; /* 1 while the consumer waits on wake_fd */
};

_Static_assert(ATOMIC_INT_LOCK_FREE == 2, "a lock between processes could die with one of them");

static bool is_power_of_two(uint32_t number)
{
	return number != 0 && (number & (number - 1)) == 0;
}

uint64_t ring_memory_bytes(uint32_t message_bytes, uint32_t messages_max)
{
	uint64_t bytes = sizeof(struct ring_shared) + (uint64_t)message_bytes * messages_max;

	return (bytes + 63) / 64 * 64;
}

void ring_format(void *memory, uint32_t message_bytes, uint32_t messages_max)
{
	assert(((uintptr_t)memory & 63) == 0);
	assert(is_power_of_two(messages_max) && messages_max <= UINT32_C(1) << 30);
	memset(memory, 0, ring_memory_bytes(message_bytes, messages_max));
}

static void ring_attach(struct ring *ring, void *memory, uint32_t message_bytes,
			uint32_t messages_max, int wake_fd)
{
	assert(((uintptr_t)memory & 63) == 0);
	assert(is_power_of_two(messages_max) && messages_max <= UINT32_C(1) << 30);
	*ring = (struct ring){
		.shared = memory,
		.messages = (uint8_t *)memory + sizeof(struct ring_shared),
		.message_bytes = message_bytes,
		.mask = messages_max - 1,
		/* Attached to once on each side, so we start at zero, whatever is published. */
		.mine = 0,
		.wake_fd = wake_fd,
	};
}

void ring_attach_producer(struct ring *ring, void *memory, uint32_t message_bytes,
			  uint32_t messages_max, int wake_fd)
{
	ring_attach(ring, memory, message_bytes, messages_max, wake_fd);
}

void ring_attach_consumer(struct ring *ring, void *memory, uint32_t message_bytes,
			  uint32_t messages_max, int wake_fd)
{
	ring_attach(ring, memory, message_bytes, messages_max, wake_fd);
}

static uint8_t *message_at(const struct ring *ring, uint32_t index)
{
	return ring->messages + (uint64_t)(index & ring->mask) * ring->message_bytes;
}

/* Messages on their way, for the producer: above the capacity when the consumer's index lies. */
static uint32_t sent_not_taken(const struct ring *ring)
{
	return ring->mine - atomic_load_explicit(&ring->shared->head, memory_order_acquire);
}

/* The same as the consumer sees it. */
static uint32_t waiting_for_us(const struct ring *ring, memory_order order)
{
	return atomic_load_explicit(&ring->shared->tail, order) - ring->mine;
}

static void wake(const struct ring *ring)
{
	uint64_t one = 1;

	/* -EAGAIN means that the counter is at its top: then the consumer has its wake-up already.
	 */
	if (write(ring->wake_fd, &one, sizeof(one)) < 0)
		return;
}

int ring_send(struct ring *ring, const void *message)
{
	uint32_t used = sent_not_taken(ring);

	if (used > ring->mask + 1)
		return -EPROTO;
	if (used == ring->mask + 1)
		return -EAGAIN;
	memcpy(message_at(ring, ring->mine), message, ring->message_bytes);
	ring->mine++;
	/* Sequentially consistent, as is the pair in ring_sleep(): either we see that the consumer
	 * sleeps, or it sees this message before it does. Weaker orders allow neither, and the
	 * wake-up would be lost. */
	atomic_store_explicit(&ring->shared->tail, ring->mine, memory_order_seq_cst);
	if (atomic_load_explicit(&ring->shared->sleeping, memory_order_seq_cst) != 0 &&
	    atomic_exchange_explicit(&ring->shared->sleeping, 0, memory_order_seq_cst) != 0)
		wake(ring);
	return 0;
}

uint32_t ring_room(const struct ring *ring)
{
	uint32_t used = sent_not_taken(ring);

	return used > ring->mask + 1 ? 0 : ring->mask + 1 - used;
}

int ring_take(struct ring *ring, void *out_message)
{
	uint32_t used = waiting_for_us(ring, memory_order_acquire);

	if (used > ring->mask + 1)
		return -EPROTO;
	if (used == 0)
		return 0;
	/* Copied before anybody looks at it: the producer could change it between a check and its
	 * use. */
	memcpy(out_message, message_at(ring, ring->mine), ring->message_bytes);
	ring->mine++;
	atomic_store_explicit(&ring->shared->head, ring->mine, memory_order_release);
	return 1;
}

bool ring_sleep(struct ring *ring)
{
	atomic_store_explicit(&ring->shared->sleeping, 1, memory_order_seq_cst);
	if (waiting_for_us(ring, memory_order_seq_cst) == 0)
		return true;
	atomic_store_explicit(&ring->shared->sleeping, 0, memory_order_seq_cst);
	return false;
}

void ring_awake(struct ring *ring)
{
	uint64_t wakes;

	atomic_store_explicit(&ring->shared->sleeping, 0, memory_order_seq_cst);
	/* -EAGAIN: woken by something else. */
	if (read(ring->wake_fd, &wakes, sizeof(wakes)) < 0)
		return;
}
