/*
 * base/mailbox.h: a bounded queue of pointers from one thread to one other, with an eventfd to wait
 * on.
 * Runs on:  one sender thread, one receiver thread.
 * Owns:     the ring and the eventfd; what the pointers mean is ownership passed from sender to
 *           receiver.
 * Limit:    `capacity` items; the ops that travel come from pools, so a mailbox sized to the pool
 *           is never full.
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
	/* Gaps, not alignment, keep the sides off each other's cache lines: malloc() may give the
	 * memory. */
	uint8_t gap_sender[64];
	_Atomic uint32_t tail; /* the sender's */
	uint32_t head_seen;    /* the sender's last look at head */
	uint8_t gap_receiver[64];
	_Atomic uint32_t head; /* the receiver's */
	uint32_t tail_seen;    /* the receiver's last look at tail */
	uint8_t gap_sleeping[64];
	_Atomic uint32_t sleeping; /* 1 while the receiver waits on wake_fd */
	uint8_t gap_end[64];
};

#define MAILBOX_CAPACITY_MAX (1u << 20)

/* `capacity` is a power of two, at most MAILBOX_CAPACITY_MAX. */
must_check int mailbox_open(struct mailbox *mailbox, uint32_t capacity, struct error *error);
/* Both sides have stopped. Accepts NULL, zeroed and closed ones. What is still inside is not freed.
 */
void mailbox_close(struct mailbox *mailbox);

/* Sender. False: full, and the item is still the sender's. Wakes a sleeping receiver. */
must_check bool mailbox_send(struct mailbox *mailbox, void *item);
/* Receiver. The oldest item, or NULL. */
void *mailbox_take(struct mailbox *mailbox);
/* Receiver: "I am about to wait on mailbox_fd()". False: something came meanwhile, do not wait. */
must_check bool mailbox_sleep(struct mailbox *mailbox);
/* Receiver: awake again; drains the eventfd. Look at the items and at stop requests after it, not
 * before. */
void mailbox_awake(struct mailbox *mailbox);
int mailbox_fd(const struct mailbox *mailbox);
/* Wakes the receiver without an item, also one that will only sleep later (stop requests: set
 * first, then poke). Any thread. */
void mailbox_poke(struct mailbox *mailbox);

#endif
