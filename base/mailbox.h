/*
 * base/mailbox.h: a bounded queue of pointers from one thread to one other, with an eventfd to wait on.
 * Runs on:  one sender thread, one receiver thread.
 * Owns:     the ring and the eventfd; what the pointers mean is ownership passed from sender to receiver.
 * Limit:    `capacity` items; the ops that travel come from pools, so a mailbox sized to the pool is never full.
 */
#ifndef KVTIER_BASE_MAILBOX_H
#define KVTIER_BASE_MAILBOX_H

#include "base/error.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct mailbox {
	void **items;
	uint32_t mask;
	int wake_fd;
	_Alignas(64) _Atomic uint32_t tail;       /* the sender's */
	_Alignas(64) _Atomic uint32_t head;       /* the receiver's */
	_Alignas(64) _Atomic uint32_t sleeping;   /* 1 while the receiver waits on wake_fd */
};

/* `capacity` is a power of two. */
must_check int mailbox_open(struct mailbox *mailbox, uint32_t capacity, struct error *error);
void mailbox_close(struct mailbox *mailbox);

/* Sender. False: full, and the item is still the sender's. Wakes a sleeping receiver. */
must_check bool mailbox_send(struct mailbox *mailbox, void *item);
/* Receiver. The oldest item, or NULL. */
void *mailbox_take(struct mailbox *mailbox);
/* Receiver: "I am about to wait on mailbox_fd()". False: something came meanwhile, do not wait. */
bool mailbox_sleep(struct mailbox *mailbox);
/* Receiver: awake again; drains the eventfd. */
void mailbox_awake(struct mailbox *mailbox);
int mailbox_fd(const struct mailbox *mailbox);
/* Wakes the receiver without an item (stop requests). Any thread. */
void mailbox_poke(struct mailbox *mailbox);

#endif
