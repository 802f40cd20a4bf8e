/*
 * tests/sim/engine.h: an inference engine: a process with libkvtier, two threads that call it, one
 * that polls, and memory whose blocks it fills and compares. It is honest: what it says is so.
 * Whatever it is answered is held against the model. Runs on: one thread.
 */
#ifndef KVTIER_TESTS_SIM_ENGINE_H
#define KVTIER_TESTS_SIM_ENGINE_H

#include "client/kvtier.h"
#include "tests/sim/kernel.h"
#include "tests/sim/model.h"
#include "tests/sim/node.h"

#define CALLERS 2u
#define ENGINE_BLOCKS 24u /* of each group */
#define ENGINE_JOBS_MAX 24u
#define GROUPS_MAX 2u
#define PAYLOAD_BYTES_MAX 32768u
#define ADAPTERS_MAX 3u /* 0: none */
#define TOKENS_A_BLOCK 16u
#define CHAIN_BLOCKS 30u
#define CALL_SLACK_US 20000u /* until a thread that could go on has had its turns */

enum order_kind {
	ORDER_STORE,
	ORDER_LOAD,
	ORDER_LOOKUP, /* a lease is kept */
	ORDER_FETCH,  /* lookup, load what is usable with its lease, give it back at the end */
	ORDER_RELEASE,
	ORDER_FORGET,
	ORDER_HINT,
	ORDER_CANCEL,
	ORDER_STATS,
	ORDER_CONNECT,
	ORDERS
};

struct order {
	enum order_kind kind;
	struct stretch at;
	uint16_t adapter;
	bool is_of_tenant; /* FORGET */
	uint64_t wait_us, deadline_us, lease_us;
	unsigned choice; /* HINT, CANCEL */
};

/* What an engine is, for all its lives. */
struct engine_shape {
	char name[16];
	uint16_t tenant, model, shard, world, groups_count;
	bool is_lender; /* its blocks lie on the GPU */
	struct kvtier_group groups[GROUPS_MAX];
	uint64_t plane_bytes[GROUPS_MAX][2];
};

struct engine_job {
	bool is_used, is_over, is_store;
	bool is_filling, is_quiet; /* is_filling: its blocks are still computed, and its own */
	struct engine *engine;
	uint32_t version;
	uint64_t id, began, lease;
	struct identity identity;
	struct stretch at;
	uint16_t blocks[CHAIN_BLOCKS]; /* the engine's */
	int results[CHAIN_BLOCKS];
	uint64_t until_us;
};

struct caller {
	struct engine *engine;
	bool is_busy; /* an order was given, and is not done */
	struct order order;
	uint64_t gate;    /* whose blocks it computes now; 0: none */
	const char *call; /* what it is inside of; NULL: nothing */
	uint64_t call_until_us;
};

struct engine {
	struct engine_shape shape;
	struct node *node;
	struct process *process; /* NULL: not there */
	struct kvtier_client *client;
	bool is_open, must_close;
	int open_result;
	struct caller callers[CALLERS + 1]; /* the last: the poller, and open and close */
	struct engine_job jobs[ENGINE_JOBS_MAX];
	uint8_t *memory[GROUPS_MAX][2];
	struct memory *device; /* of a lender: all of that, behind the word */
	struct gpu_ipc_handle handle;
	uint8_t *region;
	uint64_t region_bytes;
	uint64_t gates; /* how far it has counted; the word follows */
	bool block_is_used[GROUPS_MAX][ENGINE_BLOCKS];
	uint32_t spaces[ADAPTERS_MAX]; /* the client's number + 1; 0: not opened yet */
	uint64_t lease;
	uint64_t lives, late_us_max;
	uint64_t last_stored; /* blocks that the last store left in the cache */
	uint64_t last_loaded;
	uint64_t stalled_us;  /* its process was held up until then: calls may be late */
};

void engine_start(struct engine *engine);
/* False: both callers are busy, or it is not open. */
bool engine_order(struct engine *engine, const struct order *order);
/* It closes and goes. */
void engine_close(struct engine *engine);
void engine_kill(struct engine *engine);
void engine_stall(struct engine *engine, uint64_t for_us);
/* Whether it has gone by itself; and that no call of it is late. */
void engine_look(struct engine *engine);
bool engine_is_idle(const struct engine *engine);

#endif
