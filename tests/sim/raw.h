/*
 * tests/sim/raw.h: processes that speak the protocol by hand: clients that lie, and the operator.
 * Runs on: one thread.
 */
#ifndef KVTIER_TESTS_SIM_RAW_H
#define KVTIER_TESTS_SIM_RAW_H

#include "tests/sim/engine.h"

#define LIARS_MAX 3u

/* Registers as an engine of its own model, then says what no client should, and goes. */
struct liar {
	struct process *process;
	struct node *node;
	unsigned tenant, steps;
	uint64_t seed;
	struct random random;
	int control, data;
	uint32_t space;
	uint64_t token, boot_id, request;
	uint8_t *window;
	uint64_t window_bytes;
	uint64_t batch;
	uint8_t frame[FRAME_BYTES_MAX] __attribute__((aligned(8)));
	uint8_t incoming[FRAME_BYTES_MAX] __attribute__((aligned(8)));
};

void liar_start(struct liar *liar, struct node *node, unsigned tenant, uint64_t seed);
void liar_kill(struct liar *liar);

/* Turns a tenant's bypass on for a while, by the admin socket. */
struct operator {
	struct process *process;
	struct node *node;
	unsigned tenant;
	uint64_t for_us, request;
	uint8_t frame[FRAME_BYTES_MAX] __attribute__((aligned(8)));
};

void operator_bypass(struct operator *operator, struct node *node, unsigned tenant,
		     uint64_t for_us);
void operator_kill(struct operator *operator);

#endif
