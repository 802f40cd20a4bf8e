/*
 * tests/transfer/transport_rig.h: two transports of one back end in one thread, under a virtual
 * clock, joined by a link; every message has a number in its head.
 */
#ifndef KVTIER_TESTS_TRANSFER_TRANSPORT_RIG_H
#define KVTIER_TESTS_TRANSFER_TRANSPORT_RIG_H

#include "transfer/peer/transport.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define MESSAGES_MAX 4096u
#define SECOND UINT64_C(1000000)
#define IDLE_US (3 * SECOND)
#define PASSES_MAX 2000000u

/* One side of a link: what it sends, and the places of what comes, by the number in a head. */
struct side {
	struct transport *transport;
	struct transport_link *link; /* NULL: gone */
	bool is_up, is_down;
	int result;
	char reason[TRANSPORT_REASON_BYTES];
	uint8_t *places[MESSAGES_MAX]; /* NULL: nobody wants it */
	uint32_t bytes[MESSAGES_MAX];  /* expected */
	unsigned arrivals[MESSAGES_MAX];
	int arrived[MESSAGES_MAX];
	unsigned arriving, arrived_count, sends_under_way;
	bool closes_when_it_arrives;
	struct transport_send sends[MESSAGES_MAX];
	int sent[MESSAGES_MAX];
	unsigned sent_times[MESSAGES_MAX];
};

struct pair {
	const struct transport_ops *ops;
	struct clock clock;
	struct side sides[2];
	uint8_t token[TRANSPORT_TOKEN_BYTES];
};

extern struct pair pair;
/* The back end under test. */
extern const struct transport_ops *tested;
extern const struct transport_events rig_events;

/* Waits for a socket when there is nothing to do; a bound that only what is broken reaches. */
#define UNTIL(condition)                                                                           \
	do {                                                                                       \
		for (unsigned pass = 0; !(condition); pass++) {                                \
			assert_true(pass < PASSES_MAX);                                            \
			if (!rig_step()) \
				rig_wait_a_little();                                               \
		}                                                                                  \
	} while (0)

void rig_wait_a_little(void);
/* One pass of both; whether anything was done. */
bool rig_step(void);
/* Nothing is open yet. Skips where this back end cannot be, and says why. */
void pair_begin(void);
void pair_open_side(unsigned side);
/* Both. */
void pair_open(void);
/* The second side expects, the first connects. */
void pair_connect(void);
/* Both, until the link is up. */
void pair_join(void);
void pair_finish(void);
void rig_send_begin(unsigned from, uint32_t number, const void *payload, uint32_t bytes);
/* Bytes that follow from the seed. */
void rig_pattern(uint8_t *bytes, uint32_t count, uint64_t seed);

#endif
