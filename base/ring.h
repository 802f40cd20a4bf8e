/*
 * base/ring.h: a single-producer single-consumer ring of fixed-size messages in memory shared
 * between two processes. Neither side trusts the other: indices are copied once, checked against
 * the capacity, and a peer that breaks them gets -EPROTO, not our memory. Made anew for each life
 * of a worker. wake_fd is a non-blocking eventfd. Runs on: one thread on each side.
 */
#ifndef KVTIER_BASE_RING_H
#define KVTIER_BASE_RING_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

struct ring_shared; /* lies in the shared memory */

struct ring {
	struct ring_shared *shared;
	uint8_t *messages;
	uint32_t message_bytes;
	uint32_t mask;
	uint32_t mine; /* our own index; the shared one is only published */
	int wake_fd;   /* eventfd of the consumer */
};

uint64_t ring_memory_bytes(uint32_t message_bytes, uint32_t messages_max);
/* Lays a ring of `messages_max` (a power of two) messages into `memory`; both sides attach to it
 * afterwards. */
void ring_format(void *memory, uint32_t message_bytes, uint32_t messages_max);
/* The sizes come from our own knowledge, never from the shared memory. */
void ring_attach_producer(struct ring *ring, void *memory, uint32_t message_bytes,
			  uint32_t messages_max, int wake_fd);
void ring_attach_consumer(struct ring *ring, void *memory, uint32_t message_bytes,
			  uint32_t messages_max, int wake_fd);

/* 0; -EAGAIN: full; -EPROTO: the other side's index is impossible. Copies the message in. */
must_check int ring_send(struct ring *ring, const void *message);
/* How many messages fit now (0 also when the peer's index is impossible). */
uint32_t ring_room(const struct ring *ring);
/* 1: copied one message out; 0: empty; -EPROTO as above. */
must_check int ring_take(struct ring *ring, void *out_message);
/* Consumer: false: something is there, do not wait on wake_fd. */
bool ring_sleep(struct ring *ring);
void ring_awake(struct ring *ring);

#endif
