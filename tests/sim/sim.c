/* tests/sim/sim.c: one seed: boot, operations, and the end in which everything works again. */
#include "tests/sim/sim.h"

#include "daemon/mover.h"
#include "tests/sim/sim_parts.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DOWN_US_MAX (UINT64_C(300) * 1000)
#define RESUMES_MAX UINT64_C(20000000)
#define DAMAGE_WALL_US (UINT64_C(3600) * SECOND_US)

struct sim sim;

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
	model.drained = 0;
	if (sim.start_at_us == 0)
		sim.start_at_us = kernel.now_us + 1000 + kernel_below(DOWN_US_MAX);
	if (sim.node.refused[0] != '\0' && sim.is_ending)
		sim_tell("the daemon does not start: %s", sim.node.refused);
	if (kernel.now_us >= sim.start_at_us && !sim.is_leaving) {
		/* A file that refuses the start is put right, and any other now and then. */
		if (!settings_file_is_right(&sim.node) || kernel_below(2) == 0)
			settings_file_mend(&sim.node);
		node_start(&sim.node);
		sim.start_at_us = 0;
	}
}

static void all_look(void)
{
	node_keep_up();
	for (unsigned i = 0; i < plan.engines_count; i++) {
		engine_look(&sim.engines[i]);
		if (sim.engines[i].process == NULL && !sim.is_leaving)
			engine_start(&sim.engines[i]);
	}
	if (kernel.resumes > RESUMES_MAX)
		sim_fail("it does not come to rest");
}

void sim_run_for(uint64_t for_us)
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

	/* What came from a GPU has its checksum from when it was there: until then nobody could
	 * tell. */
	if (daemon == NULL || (sim.node.gpu.shape.is_there && mover_moves_count(daemon) > 0))
		return;
	arena = &daemon->tenants[operation->choice % daemon->tenants_count].arena;
	arena->units[operation->amount % arena->bytes] ^= (uint8_t)(1u << operation->choice % 8);
}

static void file_fault_set(const struct operation *operation)
{
	static const unsigned rates[] = { 0, 0, 20, 200 };

	kernel.file_error_permille = rates[operation->choice % 4];
	/* Also where they end before anybody looks: a reading may be under way. */
	if (kernel.file_error_permille > 0)
		sim.node.file.may_fail = true;
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
	for (unsigned i = 0; i < VISITORS_MAX; i++)
		visitor_kill(&sim.visitors[i]);
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
	sim.node.steady_us = kernel.now_us;
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
	sim.node.steady_us = kernel.now_us + 2 * SECOND_US;
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
	case OP_SIGHUP:
		node_hang_up(&sim.node);
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
	case OP_GPU_KILL:
		sim.node.gpu.must_die = sim.node.gpu.process != NULL;
		break;
	case OP_GPU_STALL:
		if (sim.node.gpu.process != NULL)
			sim.node.gpu.process->stalled_until_us =
				kernel.now_us + operation->amount % (8 * SECOND_US);
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
	case OP_DRAIN:
	case OP_PURGE:
	case OP_PIN:
	case OP_LOOK:
	case OP_RELOAD:
		operator_start(&sim.operator, &sim.node,
			       operation->kind - OP_BYPASS + OPERATOR_BYPASS, operation->seed);
		break;
	case OP_VISIT:
		visitor_start(&sim.visitors[operation->choice % VISITORS_MAX], &sim.node,
			      operation->seed);
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
			if (kernel_is_verbose) {
				operation_describe(operation, text, sizeof(text));
				printf("%12.6f %4u %s\n", (double)kernel.now_us / 1e6, i, text);
			}
			operation_do(operation);
		}
		sim_run_for(operation->gap_us);
	}
	*out_at = plan.operations_count;
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
	for (unsigned i = 0; i < FAILPOINTS; i++)
		for (unsigned is_kill = 0; is_kill < 2; is_kill++)
			figures->failpoint_hits[i][is_kill] +=
				sim.node.failpoint_hits[i][is_kill];
	figures->gpu_copies += sim.node.gpu.copies_ever;
	figures->gpu_lives += sim.node.gpu.lives;
	figures->reloads += sim.node.file.reloads;
	figures->pages += sim.node.pages;
	figures->resumes += kernel.resumes;
	figures->virtual_us += kernel.now_us - began_us;
	figures->digest = kernel.digest;
	figures->histories += kernel.digest;
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
	sim_run_for(LOOK_US);
	operations_run(out_at);
	if (options->mode != SIM_SAFETY)
		sim_end_well();
	sim_disks_check();
	figures_add(figures, began_us);
}
