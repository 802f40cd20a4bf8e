/*
 * tests/sim/raw.h: processes that speak the protocol by hand: clients that lie (raw.c), and the
 * operator (operator.c).
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

/* What an operator does, by the admin socket. */
enum operator_task {
	OPERATOR_BYPASS, /* of a tenant, for a while */
	OPERATOR_DRAIN,  /* for a while */
	OPERATOR_PURGE,  /* all, a tenant or a space; and looks on */
	OPERATOR_PIN,    /* a space or some blocks of it, and perhaps no longer */
	OPERATOR_LOOK,   /* lists, a block, the settings, requests */
	OPERATOR_RELOAD  /* other settings, by the verb and by SIGHUP */
};

struct operator {
	struct process *process;
	struct node *node;
	enum operator_task task;
	unsigned tenant;
	uint64_t for_us, request;
	struct random random;
	int fd;
	bool was_answered;
	uint8_t space[16]; /* of those that were listed */
	uint8_t frame[FRAME_BYTES_MAX + 1] __attribute__((aligned(8)));
};

/* One at a time: while it is there, nothing happens. */
void operator_start(struct operator *operator, struct node *node, enum operator_task task,
		    uint64_t seed);
void operator_kill(struct operator *operator);

/* -1: nobody answers. */
int raw_connect(const char *path);

#endif
