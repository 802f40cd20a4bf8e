/*
 * tests/sim/plan.h: what happens in one seed. Everything is drawn before anything happens, each
 * operation from a seed of its own: leaving one out changes no other.
 */
#ifndef KVTIER_TESTS_SIM_PLAN_H
#define KVTIER_TESTS_SIM_PLAN_H

#include "tests/sim/engine.h"

#define OPERATIONS_MAX 2000u
#define OPERATIONS_DEFAULT 300u
#define ENGINES_MAX 6u
#define CHAINS 6u

enum operation_kind {
	OP_STORE,
	OP_LOAD,
	OP_LOOKUP,
	OP_FETCH,
	OP_RELEASE,
	OP_FORGET,
	OP_HINT,
	OP_CANCEL,
	OP_STATS,
	OP_CONNECT,
	OP_WAIT,
	OP_ENGINE_CLOSE,
	OP_ENGINE_KILL,
	OP_ENGINE_STALL,
	OP_LIAR,
	OP_BYPASS, /* from here on as operator_task */
	OP_DRAIN,
	OP_PURGE,
	OP_PIN,
	OP_LOOK,
	OP_RELOAD,
	OP_SIGHUP,
	OP_VISIT,
	OP_NODE_KILL,
	OP_POWER_CUT,
	OP_NODE_STOP,
	OP_NODE_STALL,
	OP_CLOCK_JUMP,
	OP_DISK_FAULT,
	OP_DISK_ROT,
	OP_MEMORY_ROT,
	OP_FILE_FAULT,
	OP_JOURNAL_DAMAGE, /* while the daemon is down */
	OP_CATALOG_FAULT,
	OP_CATALOG_LOSS,
	OP_GPU_KILL, /* of machines with one */
	OP_GPU_STALL,
	OPERATIONS
};

extern const char *const operation_names[OPERATIONS];

struct operation {
	enum operation_kind kind;
	uint64_t seed;   /* of what the machine decides from here on */
	uint64_t gap_us; /* until the next one */
	unsigned engine;
	struct order order;
	uint64_t choice, amount; /* what they mean differs */
};

struct plan {
	struct node_shape node;
	unsigned engines_count;
	struct engine_shape engines[ENGINES_MAX];
	struct kvtier_plane planes[ENGINES_MAX][GROUPS_MAX][2];
	unsigned preemption_percent, speed_us, socket_bytes;
	uint64_t latency_us;
	unsigned operations_count;
	struct operation operations[OPERATIONS_MAX];
};

extern struct plan plan;

void plan_make(uint64_t seed, unsigned operations_count);
/* One line, for people. */
void operation_describe(const struct operation *operation, char *text, size_t text_bytes);

#endif
