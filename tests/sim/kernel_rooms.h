/* tests/sim/kernel_rooms.h: whole pages, for what is big and for shared memory. They stay with the
 * simulation and are handed out again, as new ones cost a page fault each. */
#ifndef KVTIER_TESTS_SIM_KERNEL_ROOMS_H
#define KVTIER_TESTS_SIM_KERNEL_ROOMS_H

#include "base/list.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ROOM_PAGE_BYTES UINT64_C(4096)

#define ROOM_END_BYTES 16u

/* In the page before its own ones; the last ROOM_END_BYTES of that page are its user's. */
struct room {
	struct list_node link; /* the owner's, or of free ones */
	uint64_t pages;
	const void *user;
};

/* Its pages are zeroed, as a new mapping's. `user`: any address that tells apart who asks. It gets
 * what it had before: then little was touched that it does not touch again. */
struct room *room_take(uint64_t bytes, const void *user);
void room_give(struct room *room);
uint8_t *room_bytes(struct room *room);
struct room *room_of(const void *first_byte);
bool is_in_rooms(const void *memory);

#endif
