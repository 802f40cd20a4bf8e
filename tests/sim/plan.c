/* tests/sim/plan.c: draws what a seed is: its machine, its engines, what happens to them. */
#include "tests/sim/plan.h"

#include "tests/sim/disk.h"

#include <stdio.h>
#include <string.h>

#define MODELS 3u
#define BLOCKS_A_JOB_MAX 8u
#define KIB UINT64_C(1024)

struct plan plan;
static struct random dice;
static unsigned weights[OPERATIONS];
static unsigned progress[ENGINES_MAX][ADAPTERS_MAX][CHAINS];

const char *const operation_names[OPERATIONS] = {
	[OP_STORE] = "store",
	[OP_LOAD] = "load",
	[OP_LOOKUP] = "lookup",
	[OP_FETCH] = "fetch",
	[OP_RELEASE] = "release",
	[OP_FORGET] = "forget",
	[OP_HINT] = "hint",
	[OP_CANCEL] = "cancel",
	[OP_STATS] = "stats",
	[OP_CONNECT] = "connect",
	[OP_WAIT] = "wait",
	[OP_ENGINE_CLOSE] = "engine-close",
	[OP_ENGINE_KILL] = "engine-kill",
	[OP_ENGINE_STALL] = "engine-stall",
	[OP_LIAR] = "liar",
	[OP_BYPASS] = "bypass",
	[OP_DRAIN] = "drain",
	[OP_PURGE] = "purge",
	[OP_PIN] = "pin",
	[OP_LOOK] = "look",
	[OP_RELOAD] = "reload",
	[OP_SIGHUP] = "sighup",
	[OP_VISIT] = "visit",
	[OP_NODE_KILL] = "kill",
	[OP_POWER_CUT] = "power-cut",
	[OP_NODE_STOP] = "stop",
	[OP_NODE_STALL] = "stall",
	[OP_CLOCK_JUMP] = "clock-jump",
	[OP_DISK_FAULT] = "disk-fault",
	[OP_DISK_ROT] = "disk-rot",
	[OP_MEMORY_ROT] = "memory-rot",
	[OP_FILE_FAULT] = "file-fault",
	[OP_JOURNAL_DAMAGE] = "journal-damage",
	[OP_CATALOG_FAULT] = "catalog-fault",
	[OP_CATALOG_LOSS] = "catalog-loss",
	[OP_GPU_KILL] = "gpu-kill",
	[OP_GPU_STALL] = "gpu-stall",
};

/* How often, where a seed has them at all. */
static const unsigned weights_usual[OPERATIONS] = {
	[OP_STORE] = 60,      [OP_LOAD] = 35,	     [OP_LOOKUP] = 20,	     [OP_FETCH] = 45,
	[OP_RELEASE] = 6,     [OP_FORGET] = 6,	     [OP_HINT] = 10,	     [OP_CANCEL] = 6,
	[OP_STATS] = 2,	      [OP_CONNECT] = 2,	     [OP_WAIT] = 12,	     [OP_ENGINE_CLOSE] = 2,
	[OP_ENGINE_KILL] = 3, [OP_ENGINE_STALL] = 3, [OP_LIAR] = 4,	     [OP_BYPASS] = 2,
	[OP_NODE_KILL] = 3,   [OP_POWER_CUT] = 3,    [OP_NODE_STOP] = 2,     [OP_NODE_STALL] = 2,
	[OP_CLOCK_JUMP] = 2,  [OP_DISK_FAULT] = 6,   [OP_DISK_ROT] = 6,	     [OP_MEMORY_ROT] = 5,
	[OP_FILE_FAULT] = 2,  [OP_CATALOG_FAULT] = 2, [OP_CATALOG_LOSS] = 1,
	[OP_JOURNAL_DAMAGE] = 1, [OP_DRAIN] = 2,     [OP_PURGE] = 3,	     [OP_PIN] = 3,
	[OP_LOOK] = 3,	      [OP_RELOAD] = 3,	     [OP_SIGHUP] = 2,	     [OP_VISIT] = 3,
	[OP_GPU_KILL] = 3,    [OP_GPU_STALL] = 2,
};

static uint64_t below(uint64_t limit)
{
	return random_below(&dice, limit);
}

static uint64_t between(uint64_t least, uint64_t most)
{
	return least + below(most - least + 1);
}

static void node_draw(struct node_shape *shape)
{
	*shape = (struct node_shape){
		.tenants = (unsigned)between(1, 2),
		.devices = below(8) == 0 ? 0 : (unsigned)between(1, 2),
		.mills = (unsigned)between(1, 3),
		.unit_bytes = (64 * KIB) << below(3),
		.nvme_units = (unsigned)between(2, 16),
		.window_bytes = (128 * KIB) << below(3),
		.lease_us_max = between(1, 5) * SECOND_US,
		.restart_wait_us = below(3) * 2 * SECOND_US,
		.batches_max = (unsigned)between(1, 16),
		.load_window_blocks = (unsigned)between(1, 16),
		.leases_max = (unsigned)between(4, 64),
		.connections_max = 64,
		.queue_depth = (unsigned)between(1, 16),
		.has_cpu_file = below(2) == 0,
	};
	/* One block of each engine fits at least, and there is something to evict. */
	shape->cpu_units = (unsigned)(between(256, 1024) * KIB / shape->unit_bytes);
	/* For every model and adapter of a tenant, and a liar's; few enough that some go. */
	shape->spaces_max = (unsigned)between(12, 20) * shape->tenants;
	/* No more is promised than there is. */
	if (below(4) == 0 && shape->devices > 0)
		shape->nvme_units_tenant = (unsigned)between(
			1, shape->nvme_units * shape->devices / shape->tenants);
	if (below(6) == 0)
		shape->write_bytes_day_max = between(1, 20) << 20;
}

static void encryption_draw(struct node_shape *shape)
{
	shape->encryption = below(2) == 0 ? ENCRYPTION_OFF
					  : (enum node_encryption)below(ENCRYPTIONS);
	shape->encryption_change_percent = below(3) == 0 ? (unsigned)between(10, 60) : 0;
	shape->key_change_percent = below(3) == 0 ? 0 : (unsigned)between(10, 60);
	/* For the largest block, and a few. */
	shape->encryption_buffer_bytes = (32 * KIB) << below(4);
}

static void scrub_draw(struct node_shape *shape)
{
	static const uint64_t rates[] = { 0, 0, 1 << 20, 16 << 20 };
	static const unsigned readbacks[] = { 0, 1, 4, 1024 };

	shape->scrub_bytes_second = rates[below(4)];
	shape->scrub_interval_us = between(1, 20) * SECOND_US;
	shape->readback_every = readbacks[below(4)];
}

static void failpoints_draw(struct node_shape *shape)
{
	shape->failpoint_percent = below(3) == 0 ? 0 : (unsigned)between(10, 70);
}

static void groups_draw(struct engine_shape *shape, unsigned engine)
{
	static const uint64_t payloads[] = { 4096, 5000, 8192, 12288, 20000 };

	/* Engines of one model and tenant must agree on their groups. */
	random_init(&dice, dice.state[0] ^ shape->model * UINT64_C(7919));
	shape->groups_count = (uint16_t)between(1, GROUPS_MAX);
	for (unsigned i = 0; i < shape->groups_count; i++) {
		struct kvtier_group *group = &shape->groups[i];
		uint64_t bytes = payloads[below(sizeof(payloads) / sizeof(payloads[0]))];

		*group = (struct kvtier_group){
			.kind = i == 0 ? KVTIER_FULL : below(2) ? KVTIER_WINDOW : KVTIER_STATE,
			.tokens_per_block = TOKENS_A_BLOCK,
			.segments_count = (uint32_t)between(1, 8),
			.blocks_count = ENGINE_BLOCKS,
			.planes_count = (uint32_t)between(1, 2),
			.planes = plan.planes[engine][i],
			.payload_bytes = bytes,
		};
		if (group->kind == KVTIER_WINDOW)
			group->window_tokens = (uint32_t)between(1, 3) * TOKENS_A_BLOCK;
		shape->plane_bytes[i][0] = group->planes_count == 1 ? bytes
								    : between(1, 3) * bytes / 4;
		shape->plane_bytes[i][1] = bytes - shape->plane_bytes[i][0];
		for (unsigned plane = 0; plane < group->planes_count; plane++)
			plan.planes[engine][i][plane] = (struct kvtier_plane){
				.stride = shape->plane_bytes[i][plane] + plane * 64,
				.bytes = shape->plane_bytes[i][plane],
			};
	}
}

static void engines_draw(void)
{
	struct random before = dice;

	plan.engines_count = 0;
	while (plan.engines_count < 3 || (plan.engines_count < ENGINES_MAX - 1 && below(3) > 0)) {
		struct engine_shape *shape = &plan.engines[plan.engines_count];

		*shape = (struct engine_shape){
			.tenant = (uint16_t)below(plan.node.tenants),
			.model = (uint16_t)below(MODELS),
			.world = 1,
		};
		snprintf(shape->name, sizeof(shape->name), "engine-%u", plan.engines_count);
		/* A model of two ranks takes two engines, which go by one name. */
		if (shape->model == MODELS - 1) {
			shape->world = 2;
			plan.engines[plan.engines_count + 1] = *shape;
			plan.engines[plan.engines_count + 1].shard = 1;
			plan.engines_count++;
		}
		plan.engines_count++;
	}
	for (unsigned i = 0; i < plan.engines_count; i++) {
		dice = before;
		groups_draw(&plan.engines[i], i);
	}
}

/* Each kind of fault is there, or not, at a rate of its own. */
static void weights_draw(void)
{
	for (unsigned i = 0; i < OP_GPU_KILL; i++) {
		bool is_there = i <= OP_LOOKUP || i == OP_FETCH || i == OP_WAIT || below(2) == 0;

		weights[i] = is_there ? weights_usual[i] * (unsigned)between(1, 4) : 0;
	}
}

/* A machine with a GPU, and who lends its memory. */
static void gpu_draw(struct gpu_shape *shape)
{
	static const unsigned rates[] = { 0, 0, 5, 50 };

	*shape = (struct gpu_shape){ .is_there = below(3) == 0,
				     .has_words = below(4) != 0,
				     .fail_permille = rates[below(4)],
				     .refuse_permille = rates[below(4)] * 4,
				     .latency_us = below(3) == 0 ? between(1, 20)
								 : between(1, 3000),
				     .import_us = between(1, 2000) };
	for (unsigned i = 0; i < plan.engines_count; i++)
		plan.engines[i].is_lender = shape->is_there && below(3) != 0;
	for (unsigned i = OP_GPU_KILL; i < OPERATIONS; i++)
		weights[i] = shape->is_there && below(2) == 0
				     ? weights_usual[i] * (unsigned)between(1, 4)
				     : 0;
}

static enum operation_kind kind_draw(void)
{
	unsigned sum = 0, kind = 0;
	uint64_t at;

	for (unsigned i = 0; i < OPERATIONS; i++)
		sum += weights[i];
	at = below(sum);
	while (at >= weights[kind])
		at -= weights[kind++];
	return (enum operation_kind)kind;
}

/* Within what the space may have of a chain, or just behind it. */
static void stretch_draw(struct operation *operation, bool is_store)
{
	const struct engine_shape *shape = &plan.engines[operation->engine];
	struct order *order = &operation->order;
	uint64_t chain = below(CHAINS);
	unsigned *reached = &progress[operation->engine][order->adapter][chain];
	unsigned first = below(2) == 0 ? 0 : (unsigned)below(*reached + 1);

	order->at = (struct stretch){
		.chain = (uint16_t)chain,
		.group = (uint16_t)below(shape->groups_count),
		.shard = shape->shard,
		.first = (uint16_t)first,
		.count = (uint16_t)between(1, BLOCKS_A_JOB_MAX),
	};
	if (is_store && first + order->at.count > *reached &&
	    first + order->at.count < CHAIN_BLOCKS - BLOCKS_A_JOB_MAX)
		*reached = first + order->at.count;
	if (operation->kind == OP_LOOKUP || operation->kind == OP_FETCH) {
		order->at.first = 0;
		order->at.count = (uint16_t)between(1, CHAIN_BLOCKS);
	}
}

static void order_draw(struct operation *operation)
{
	static const uint64_t waits[] = { 300, 2000, 20000, 200000, 1000000 };
	struct order *order = &operation->order;

	order->adapter = below(4) == 0 ? (uint16_t)below(ADAPTERS_MAX) : 0;
	stretch_draw(operation, operation->kind == OP_STORE);
	order->wait_us = waits[below(5)];
	order->deadline_us = below(3) == 0 ? 200 + below(20000) : below(5 * SECOND_US);
	order->lease_us = below(3) == 0 ? 0 : below(5 * SECOND_US);
	order->is_of_tenant = below(4) == 0;
	order->choice = (unsigned)below(1000);
	order->kind = (enum order_kind)((unsigned)operation->kind - OP_STORE + ORDER_STORE);
}

static void operation_draw(struct operation *operation)
{
	static const uint64_t gaps[] = { 30, 300, 300, 1000, 3000, 20000 };

	operation->kind = kind_draw();
	operation->seed = random_next(&dice);
	operation->gap_us = 1 + below(gaps[below(6)]);
	operation->engine = (unsigned)below(plan.engines_count);
	order_draw(operation);
	operation->choice = random_next(&dice) >> 1;
	operation->amount = random_next(&dice) >> 1;
	if (operation->kind == OP_WAIT)
		operation->gap_us = below(6) == 0 ? below(10 * SECOND_US) : below(300000);
}

void plan_make(uint64_t seed, unsigned operations_count)
{
	memset(&plan, 0, offsetof(struct plan, operations));
	memset(progress, 0, sizeof(progress));
	random_init(&dice, seed);
	node_draw(&plan.node);
	engines_draw();
	random_init(&dice, seed ^ UINT64_C(0xc1f4e5));
	encryption_draw(&plan.node);
	scrub_draw(&plan.node);
	failpoints_draw(&plan.node);
	random_init(&dice, seed ^ UINT64_C(0x5eed));
	weights_draw();
	plan.preemption_percent = (unsigned)below(50);
	plan.speed_us = (unsigned)between(1, 8);
	plan.socket_bytes = below(2) == 0 ? 1u << 18 : 1u << between(13, 17);
	plan.latency_us = below(4) == 0 ? 0 : below(2000);
	random_init(&dice, seed ^ UINT64_C(0x69b));
	gpu_draw(&plan.node.gpu);
	plan.operations_count = operations_count;
	for (unsigned i = 0; i < operations_count; i++) {
		random_init(&dice, seed * UINT64_C(0x9e3779b97f4a7c15) + i);
		operation_draw(&plan.operations[i]);
	}
}

void operation_describe(const struct operation *operation, char *text, size_t text_bytes)
{
	const struct order *order = &operation->order;
	const struct stretch *at = &order->at;

	if (operation->kind <= OP_HINT)
		snprintf(text, text_bytes,
			 "%s by engine %u: chain %u, blocks %u..%u, group %u, adapter %u",
			 operation_names[operation->kind], operation->engine, at->chain, at->first,
			 at->first + at->count - 1, at->group, order->adapter);
	else if (operation->kind <= OP_ENGINE_STALL && operation->kind != OP_WAIT)
		snprintf(text, text_bytes, "%s: engine %u", operation_names[operation->kind],
			 operation->engine);
	else
		snprintf(text, text_bytes, "%s (%llu)", operation_names[operation->kind],
			 (unsigned long long)(operation->choice % 1000));
}
