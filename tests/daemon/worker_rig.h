/*
 * tests/daemon/worker_rig.h: the two sides of a worker. The parent's runs under a virtual clock.
 * The worker is the test itself, started with `--worker test MODE`: it echoes, aborts, stops
 * itself, or lies. Waiting is always a bounded poll() on the worker's descriptor, never a sleep.
 */
#ifndef KVTIER_TESTS_DAEMON_WORKER_RIG_H
#define KVTIER_TESTS_DAEMON_WORKER_RIG_H

#include "daemon/worker.h"

#define WORKER_RIG_MESSAGES_MAX 16u
#define WORKER_RIG_STALL_US UINT64_C(5000000)
#define WORKER_RIG_WAIT_MS_MAX 20000

struct worker_text {
	uint64_t number;
	uint64_t twice;
};

struct worker_rig {
	struct worker *worker;
	struct clock clock;
	unsigned starts, ends, messages;
	uint64_t last_number, wrong;
	char reason[200];
};

/* The worker's main(): says hello with number 1, then does what its MODE names. */
int worker_rig_main(int arguments_count, char **arguments);

struct worker_rig_config {
	const char *mode;
	const char *program; /* NULL: the test itself */
	int lock_fd;         /* the worker holds it too; 0: none */
};

void worker_rig_init(struct worker_rig *rig, const char *mode);
/* The same with more to say; asserts nothing, so that a child may call it. */
int worker_rig_create(struct worker_rig *rig, const struct worker_rig_config *config);
void worker_rig_finish(struct worker_rig *rig);
void worker_rig_step(struct worker_rig *rig);
/* Steps until `*count` is at least `wanted`; each step is a millisecond of the virtual clock. */
void worker_rig_run_until(struct worker_rig *rig, const unsigned *count, unsigned wanted);

#endif
