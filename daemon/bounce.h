/*
 * daemon/bounce.h: buffers that a device writes from: enciphered copies on their way down. A ring
 * of memory that is taken in order and given back in any.
 *
 * Runs on: the loop thread; what was taken is the taker's until it is given back.
 * Limit: the memory, and BOUNCES_MAX at once; NULL is an ordinary answer.
 */
#ifndef KVTIER_DAEMON_BOUNCE_H
#define KVTIER_DAEMON_BOUNCE_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define BOUNCES_MAX 1024u

struct bounce {
	void *memory;      /* 4 KiB aligned */
	uint64_t end;      /* the pool's begin once this one and all before it are back */
	bool is_taken;
};

struct bounce_pool {
	uint8_t *memory;
	uint64_t bytes;
	uint64_t begin, end;            /* of what is taken; counted on, never wound back */
	struct bounce bounces[BOUNCES_MAX];
	uint32_t first, count;          /* a ring: those not yet passed by `begin` */
};

/* `bytes` is a multiple of 4 KiB. */
must_check int bounce_pool_open(struct bounce_pool *pool, uint64_t bytes, struct error *error);
/* Everything was given back. Accepts a zeroed one. */
void bounce_pool_close(struct bounce_pool *pool);
/* `bytes`: a multiple of 4 KiB, at most the pool's. NULL: not now. */
struct bounce *bounce_take(struct bounce_pool *pool, uint64_t bytes);
void bounce_give(struct bounce_pool *pool, struct bounce *bounce);

#endif
