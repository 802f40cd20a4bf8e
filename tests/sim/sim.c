/* tests/sim/sim.c: one seed: boot, operations, and the end in which everything works again. */
#include "tests/sim/sim.h"

#include "tests/sim/engine_parts.h"
#include "tests/sim/raw.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_US 2000u
#define DOWN_US_MAX (UINT64_C(300) * 1000)
/* All deadlines and leases are shorter; a device that hangs is fenced after 30 s. */
#define REST_US (UINT64_C(60) * SECOND_US)
#define REST_STEP_US (UINT64_C(200) * 1000)
#define RECOVERY_US (UINT64_C(90) * SECOND_US)
#define RESUMES_MAX UINT64_C(20000000)
#define DAMAGE_WALL_US (UINT64_C(3600) * SECOND_US)
#define FRESH_CHAIN 100u
#define FRESH_BLOCKS 3u
#define FRESH_TRIES_MAX 20u

static struct sim {
	const struct sim_options *options;
	struct node node;
	struct engine engines[ENGINES_MAX];
	struct liar liars[LIARS_MAX];
	struct operator operator;
	uint64_t start_at_us; /* of a node that is down */
	bool is_ending;
} sim;

void sim_tell(const char *format, ...)
{
	va_list rest;

	if (!kernel_is_verbose)
		return;
	printf("%12.6f     ", (double)kernel.now_us / 1e6);
	va_start(rest, format);
	vprintf(format, rest);
	va_end(rest);
	printf("\n");
}

void sim_fail(const char *format, ...)
{
	va_list rest;

	fflush(stdout);
	fprintf(stderr, "sim: at %.6f s: ", (double)kernel.now_us / 1e6);
	va_start(rest, format);
	vfprintf(stderr, format, rest);
	va_end(rest);
	fprintf(stderr, "\n");
	abort();
}

/* ---- what goes on by itself ---- */

static void node_keep_up(void)
{
	node_look(&sim.node);
	if (sim.node.state != NODE_DOWN) {
		sim.start_at_us = 0;
		return;
	}
	memset(model.bypassed, 0, sizeof(model.bypassed));
	if (sim.start_at_us == 0)
		sim.start_at_us = kernel.now_us + 1000 + kernel_below(DOWN_US_MAX);
	if (sim.node.refused[0] != '\0' && sim.is_ending)
		sim_tell("the daemon does not start: %s", sim.node.refused);
	if (kernel.now_us >= sim.start_at_us) {
		node_start(&sim.node);
		sim.start_at_us = 0;
	}
}

static void all_look(void)
{
	node_keep_up();
	for (unsigned i = 0; i < plan.engines_count; i++) {
		engine_look(&sim.engines[i]);
		if (sim.engines[i].process == NULL)
			engine_start(&sim.engines[i]);
	}
	if (kernel.resumes > RESUMES_MAX)
		sim_fail("it does not come to rest");
}

static void run_for(uint64_t for_us)
{
	uint64_t until_us = kernel.now_us + for_us;

	while (kernel.now_us < until_us) {
		uint64_t step_us = until_us - kernel.now_us;

		kernel_run_until(kernel.now_us + (step_us < LOOK_US || for_us > 50 * LOOK_US
							  ? step_us < REST_STEP_US ? step_us
										   : REST_STEP_US
							  : LOOK_US));
		all_look();
	}
}

/* ---- operations ---- */

static void disk_fault_set(const struct operation *operation)
{
	static const unsigned rates[] = { 0, 5, 50, 300 };
	struct disk *disk;

	if (sim.node.shape.devices == 0)
		return;
	disk = sim.node.disks[operation->choice % sim.node.shape.devices];
	if (operation->amount % 4 == 0) {
		disk_heal(disk);
		return;
	}
	unsigned fault = (unsigned)(operation->choice / 8 % DISK_FAULTS);
	disk->permille[fault] = rates[operation->amount / 4 % 4];
	if (fault == DISK_HANG)
		disk->permille[fault] /= 5;
}

static void memory_rot(const struct operation *operation)
{
	struct daemon *daemon = sim.node.daemon;
	struct arena *arena;

	if (daemon == NULL)
		return;
	arena = &daemon->tenants[operation->choice % daemon->tenants_count].arena;
	arena->units[operation->amount % arena->bytes] ^= (uint8_t)(1u << operation->choice % 8);
}

static void file_fault_set(const struct operation *operation)
{
	static const unsigned rates[] = { 0, 0, 20, 200 };

	kernel.file_error_permille = rates[operation->choice % 4];
	kernel.file_full_permille = rates[operation->amount % 4];
}

/* Of the machine, with all that runs on it. */
static void power_cut(void)
{
	for (unsigned i = 0; i < plan.engines_count; i++)
		engine_kill(&sim.engines[i]);
	for (unsigned i = 0; i < LIARS_MAX; i++)
		liar_kill(&sim.liars[i]);
	operator_kill(&sim.operator);
	node_kill(&sim.node, true);
}

static void journal_damage(const struct operation *operation)
{
	char path[SETTINGS_PATH_BYTES + 32];

	if (sim.node.state != NODE_DOWN)
		power_cut();
	snprintf(path, sizeof(path), "%s/journal", sim.node.settings.state_directory);
	if (operation->amount % 8 == 0)
		(void)file_remove(path);
	else
		(void)file_damage(path, operation->amount % 2 == 0);
	/* What a lost journal counted is made up for by the time of day, at an epoch a second. */
	kernel.wall_us += DAMAGE_WALL_US;
}

static void clock_jump(const struct operation *operation)
{
	uint64_t by_us = operation->amount % (20 * SECOND_US);

	/* Nobody had a turn meanwhile: what is late now is not late by its own fault. */
	for (unsigned i = 0; i < plan.engines_count; i++)
		if (sim.engines[i].stalled_us < kernel.now_us + by_us)
			sim.engines[i].stalled_us = kernel.now_us + by_us;
	kernel.now_us += by_us;
}

static void liar_send(const struct operation *operation)
{
	liar_start(&sim.liars[operation->choice % LIARS_MAX], &sim.node,
		   (unsigned)(operation->amount % sim.node.shape.tenants), operation->seed);
}

static void node_stall(const struct operation *operation)
{
	if (sim.node.process != NULL && sim.node.process->is_alive)
		sim.node.process->stalled_until_us = kernel.now_us +
						     operation->amount % (2 * SECOND_US);
}

static void operation_on_node(const struct operation *operation)
{
	switch (operation->kind) {
	case OP_NODE_KILL:
		node_kill(&sim.node, false);
		break;
	case OP_POWER_CUT:
		power_cut();
		break;
	case OP_NODE_STOP:
		node_stop(&sim.node);
		break;
	case OP_NODE_STALL:
		node_stall(operation);
		break;
	case OP_DISK_FAULT:
		disk_fault_set(operation);
		break;
	case OP_DISK_ROT:
		if (sim.node.shape.devices > 0)
			disk_damage(sim.node.disks[operation->choice % sim.node.shape.devices]);
		break;
	case OP_MEMORY_ROT:
		memory_rot(operation);
		break;
	case OP_FILE_FAULT:
		file_fault_set(operation);
		break;
	case OP_JOURNAL_DAMAGE:
		journal_damage(operation);
		break;
	case OP_CATALOG_FAULT:
		catalogs_set_fault(operation->choice % 2 == 0 ? 0 : 200);
		break;
	default:
		assert(operation->kind == OP_CATALOG_LOSS);
		if (sim.node.state != NODE_DOWN)
			node_kill(&sim.node, false);
		catalog_replace(sim.node.catalog_path);
		break;
	}
}

static void operation_do(const struct operation *operation)
{
	struct engine *engine = &sim.engines[operation->engine];

	if (operation->kind < OP_WAIT) {
		(void)engine_order(engine, &operation->order);
		return;
	}
	switch (operation->kind) {
	case OP_WAIT:
		break;
	case OP_ENGINE_CLOSE:
		engine_close(engine);
		break;
	case OP_ENGINE_KILL:
		engine_kill(engine);
		break;
	case OP_ENGINE_STALL:
		engine_stall(engine, operation->amount % (3 * SECOND_US));
		break;
	case OP_LIAR:
		liar_send(operation);
		break;
	case OP_BYPASS:
		operator_bypass(&sim.operator, &sim.node,
				(unsigned)(operation->choice % sim.node.shape.tenants),
				operation->amount % (3 * SECOND_US));
		break;
	case OP_CLOCK_JUMP:
		clock_jump(operation);
		break;
	default:
		operation_on_node(operation);
	}
}

static void operations_run(volatile unsigned *out_at)
{
	for (unsigned i = 0; i < plan.operations_count; i++) {
		const struct operation *operation = &plan.operations[i];
		char text[160];

		*out_at = i;
		random_init(&kernel.random, operation->seed);
		if (!sim.options->is_left_out[operation->kind] && !sim.options->is_skipped[i]) {
			operation_describe(operation, text, sizeof(text));
			if (kernel_is_verbose)
				printf("%12.6f %4u %s\n", (double)kernel.now_us / 1e6, i, text);
			operation_do(operation);
		}
		run_for(operation->gap_us);
	}
	*out_at = plan.operations_count;
}

/* ---- the end ---- */

static void faults_end(void)
{
	kernel.file_error_permille = kernel.file_full_permille = 0;
	catalogs_set_fault(0);
	for (unsigned i = 0; i < sim.node.shape.devices; i++)
		disk_heal(sim.node.disks[i]);
	for (unsigned i = 0; i < LIARS_MAX; i++)
		liar_kill(&sim.liars[i]);
	operator_kill(&sim.operator);
	for (unsigned i = 0; i < PROCESSES_MAX; i++)
		kernel.processes[i].stalled_until_us = 0;
}

/* Until nothing is held and nothing is under way. */
static void rest_await(const char *when)
{
	uint64_t until_us = kernel.now_us + REST_US;
	const char *unrest;

	while ((unrest = node_unrest(&sim.node)) != NULL) {
		if (kernel.now_us > until_us)
			sim_fail("%s, %u s after the last fault: %s%s%s", when,
				 (unsigned)(REST_US / SECOND_US), unrest,
				 sim.node.refused[0] != '\0' ? ": " : "", sim.node.refused);
		run_for(REST_STEP_US);
	}
	cache_check(sim.node.daemon->cache);
}

/* A fenced device, a journal that failed and a bypass stay until the next start. */
static void node_renew(void)
{
	rest_await("at the end");
	node_stop(&sim.node);
	run_for(REST_STEP_US);
	rest_await("after a clean restart");
}

static void fresh_one(struct engine *engine, bool is_store)
{
	struct order order = {
		.kind = is_store ? ORDER_STORE : ORDER_LOAD,
		.at = { .chain = (uint16_t)(FRESH_CHAIN + engine->shape.model),
			.shard = engine->shape.shard,
			.count = FRESH_BLOCKS },
		.wait_us = SECOND_US,
		.deadline_us = 5 * SECOND_US,
	};
	uint64_t until_us = kernel.now_us + RECOVERY_US;

	while (!engine_order(engine, &order)) {
		if (kernel.now_us > until_us)
			sim_fail("%s is not open", engine->shape.name);
		run_for(LOOK_US);
	}
}

static bool all_are_idle(void)
{
	for (unsigned i = 0; i < plan.engines_count; i++)
		if (!engine_is_idle(&sim.engines[i]) || !sim.engines[i].is_open)
			return false;
	return true;
}

static void engines_await(const char *what)
{
	uint64_t until_us = kernel.now_us + RECOVERY_US;

	do {
		if (kernel.now_us > until_us)
			sim_fail("%s: jobs are left after %u s", what,
				 (unsigned)(RECOVERY_US / SECOND_US));
		run_for(LOOK_US);
	} while (!all_are_idle());
}

static void connections_await(void)
{
	uint64_t until_us = kernel.now_us + RECOVERY_US;

	for (unsigned i = 0; i < plan.engines_count; i++)
		while (!sim.engines[i].is_open ||
		       kvtier_is_connected(sim.engines[i].client) == 0) {
			if (kernel.now_us > until_us)
				sim_fail("%s has not connected %u s after the last fault",
					 sim.engines[i].shape.name,
					 (unsigned)(RECOVERY_US / SECOND_US));
			run_for(REST_STEP_US);
		}
}

/* Whether every one of them has stored, or loaded, fresh blocks: the head of the chain at least, as
 * the smallest caches keep no more beside what is there. */
static bool fresh_round(unsigned first, unsigned count, bool is_store)
{
	bool is_good = true;

	for (unsigned i = first; i < first + count; i++) {
		struct engine *engine = &sim.engines[i];

		fresh_one(engine, is_store);
		engines_await(is_store ? "fresh stores" : "fresh loads");
		is_good = is_good && (is_store ? engine->last_stored : engine->last_loaded) > 0;
	}
	return is_good;
}

/* A block of several ranks, which stand together, is there when all have stored it. The smallest
 * caches may be full of what is still on its way down. */
static void fresh_ranks(unsigned first)
{
	unsigned count = sim.engines[first].shape.world;

	for (unsigned tries = 0; tries < FRESH_TRIES_MAX; tries++) {
		if (fresh_round(first, count, true) && fresh_round(first, count, false))
			return;
		run_for(REST_STEP_US);
	}
	sim_fail("%s: fresh blocks are not stored and loaded in %u tries: %llu and %llu of %u",
		 sim.engines[first].shape.name, FRESH_TRIES_MAX,
		 (unsigned long long)sim.engines[first].last_stored,
		 (unsigned long long)sim.engines[first].last_loaded, FRESH_BLOCKS);
}

/* Every engine stores and loads, and nvme takes what was stored. */
static void fresh_life(void)
{
	uint64_t down_blocks = sim.node.daemon->counters.down_blocks;

	for (unsigned i = 0; i < plan.engines_count; i += sim.engines[i].shape.world)
		fresh_ranks(i);
	rest_await("after fresh stores");
	if (sim.node.shape.devices > 0 && sim.node.shape.write_bytes_day_max == 0 &&
	    sim.node.daemon->counters.down_blocks == down_blocks)
		sim_fail("nvme took none of the fresh blocks");
}

static void end_well(void)
{
	sim.is_ending = true;
	faults_end();
	run_for(REST_STEP_US);
	node_renew();
	connections_await();
	engines_await("at the end");
	fresh_life();
}

static void figures_add(struct sim_figures *figures, uint64_t began_us)
{
	figures->seeds++;
	figures->operations += plan.operations_count;
	figures->stored += model.stored;
	figures->served += model.served;
	figures->missed += model.missed;
	figures->lives += sim.node.lives;
	figures->kills += sim.node.kills;
	figures->power_cuts += sim.node.power_cuts;
	figures->stops += sim.node.stops;
	figures->starts_failed += sim.node.starts_failed;
	for (unsigned i = 0; i < plan.engines_count; i++)
		figures->engine_lives += sim.engines[i].lives;
	for (unsigned i = 0; i < sim.node.shape.devices; i++)
		for (unsigned n = 0; n < DISK_FAULTS; n++)
			figures->faults += sim.node.disks[i]->hits[n];
	figures->resumes += kernel.resumes;
	figures->virtual_us += kernel.now_us - began_us;
	figures->digest = kernel.digest;
}

void sim_run(const struct sim_options *options, struct sim_figures *figures,
	     volatile unsigned *out_at)
{
	uint64_t began_us;

	memset(&sim, 0, sizeof(sim));
	sim.options = options;
	kernel_is_verbose = options->is_verbose;
	kernel_start(options->seed);
	disks_start();
	catalogs_start();
	model_start();
	plan_make(options->seed, options->operations_count);
	kernel.preemption_percent = plan.preemption_percent;
	kernel.speed_us = plan.speed_us;
	kernel.socket_bytes = plan.socket_bytes;
	began_us = kernel.now_us;
	node_create(&sim.node, &plan.node, "/node-0");
	for (unsigned i = 0; i < sim.node.shape.devices; i++)
		sim.node.disks[i]->latency_us = plan.latency_us;
	for (unsigned i = 0; i < plan.engines_count; i++) {
		sim.engines[i].shape = plan.engines[i];
		sim.engines[i].node = &sim.node;
	}
	node_start(&sim.node);
	run_for(LOOK_US);
	operations_run(out_at);
	if (options->mode != SIM_SAFETY)
		end_well();
	figures_add(figures, began_us);
}
