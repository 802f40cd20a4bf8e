/*
 * tests/sim/visitor.h: who asks for pages by TCP: orderly, in pieces, in half, too often, or
 * without reading; and holds what is answered against what the simulation knows.
 * Runs on: one thread.
 */
#ifndef KVTIER_TESTS_SIM_VISITOR_H
#define KVTIER_TESTS_SIM_VISITOR_H

#include "tests/sim/node.h"

#define VISITORS_MAX 2u
#define ANSWER_BYTES_MAX (256u << 10)
#define METRICS_BYTES_MAX (128u << 10)

struct visitor {
	struct process *process;
	struct node *node;
	struct random random;
	bool has_ended_well;
	/* Since when a device hangs, and is asked about, in this life. */
	uint64_t hangs_until_us[NVME_DEVICES_MAX], watched_us[NVME_DEVICES_MAX], life;
	int status;
	const char *body;
	size_t answer_bytes;
	char answer[ANSWER_BYTES_MAX + 1];
	/* The last it saw, of that life; kept between visits. */
	uint64_t metrics_life;
	char metrics[METRICS_BYTES_MAX];
};

/* While it is there, nothing happens. */
void visitor_start(struct visitor *visitor, struct node *node, uint64_t seed);
/* Asks for /readyz every while; a device that hangs must be named in time. */
void visitor_watch(struct visitor *visitor, struct node *node, uint64_t seed);
/* Asks until it has seen every page as it must be when all is well. */
void visitor_expect(struct visitor *visitor, struct node *node);
void visitor_kill(struct visitor *visitor);

#endif
