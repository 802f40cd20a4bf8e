/*
 * daemon/pins.h: what an operator keeps: leases that belong to no connection, until their time is
 * over or they are given back. A pin of many blocks is several leases.
 * Runs on: the loop thread. Limit: PINS_MAX leases; one more is refused.
 */
#ifndef KVTIER_DAEMON_PINS_H
#define KVTIER_DAEMON_PINS_H

#include <stdint.h>

#define PINS_MAX 256u
#define PIN_BLOCKS_MAX 1024u /* of one lease */
#define PIN_US_MAX (UINT64_C(7) * 24 * 3600 * 1000000)

struct daemon;

struct pin {
	uint64_t lease;
	uint64_t until_us;
	uint32_t space;
	uint32_t blocks;
};

struct pins {
	struct pin pins[PINS_MAX];
	unsigned count;
};

/* Those whose time is over go; what is left stands in pins[0..count). */
void pins_tidy(struct daemon *daemon);
/* Blocks of the space that are kept, and until when at the latest; 0: none. */
uint64_t pins_of_space(struct daemon *daemon, uint32_t space, uint64_t *out_until_us);
/* Ends the pins of a space; returns how many blocks they kept. */
uint64_t pins_end(struct daemon *daemon, uint32_t space);

#endif
