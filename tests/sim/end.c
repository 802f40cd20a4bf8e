/* tests/sim/end.c: the faults stop, and then everything must work again. */
#include "tests/sim/sim_parts.h"

#include "daemon/scrub.h"

/* All deadlines and leases are shorter; a device that hangs is fenced after 30 s. */
#define REST_US (UINT64_C(60) * SECOND_US)
#define RECOVERY_US (UINT64_C(90) * SECOND_US)
#define FRESH_CHAIN 100u
#define FRESH_BLOCKS 3u
#define FRESH_TRIES_MAX 20u
#define HANGS_EVERY 8u
#define HANG_US (UINT64_C(10) * SECOND_US)

static void faults_end(void)
{
	kernel.file_error_permille = kernel.file_full_permille = 0;
	catalogs_set_fault(0);
	for (unsigned i = 0; i < sim.node.shape.devices; i++)
		disk_heal(sim.node.disks[i]);
	for (unsigned i = 0; i < LIARS_MAX; i++)
		liar_kill(&sim.liars[i]);
	operator_kill(&sim.operator);
	for (unsigned i = 0; i < VISITORS_MAX; i++)
		visitor_kill(&sim.visitors[i]);
	settings_file_mend(&sim.node);
	sim.node.shape.failpoint_percent = 0;
	sim.node.gpu.shape.fail_permille = sim.node.gpu.shape.refuse_permille = 0;
	node_failpoint_disarm();
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
		sim_run_for(REST_STEP_US);
	}
	node_check(&sim.node);
}

/* A fenced device, a journal that failed and a bypass stay until the next start. */
static void node_renew(void)
{
	uint64_t lives, until_us;

	rest_await("at the end");
	/* What is on file must come into force. */
	node_hang_up(&sim.node);
	rest_await("after the last reload");
	lives = sim.node.lives;
	node_stop(&sim.node);
	/* What is still on its way down may keep the old life for longer than a step. */
	until_us = kernel.now_us + REST_US;
	while (sim.node.lives == lives || sim.node.state != NODE_SERVING) {
		if (kernel.now_us > until_us)
			sim_fail("no clean restart within %u s: %s", (unsigned)(REST_US / SECOND_US),
				 sim.node.refused);
		sim_run_for(REST_STEP_US);
	}
	rest_await("after a clean restart");
}

static void fresh_one(struct engine *engine, enum order_kind kind)
{
	struct order order = {
		.kind = kind,
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
		sim_run_for(LOOK_US);
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
		sim_run_for(LOOK_US);
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
			sim_run_for(REST_STEP_US);
		}
}

/* Whether every one of them has stored, or loaded, a whole fresh chain. */
static bool fresh_round(unsigned first, unsigned count, bool is_store)
{
	bool is_good = true;

	for (unsigned i = first; i < first + count; i++) {
		struct engine *engine = &sim.engines[i];

		/* As engines do. It is also what tells new from old: time is counted in lookups,
		 * so without one a new chain is no younger than what a restart has brought back,
		 * and where it fills its class, its last blocks are refused. */
		fresh_one(engine, ORDER_LOOKUP);
		engines_await("fresh lookups");
		fresh_one(engine, is_store ? ORDER_STORE : ORDER_LOAD);
		engines_await(is_store ? "fresh stores" : "fresh loads");
		is_good = is_good && (is_store ? engine->last_stored : engine->last_loaded) ==
					     FRESH_BLOCKS;
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
		sim_run_for(REST_STEP_US);
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

/* Once the scrubber has been everywhere, what is offered is whole. */
static void scrub_await(void)
{
	struct daemon *daemon = sim.node.daemon;
	uint64_t passes = scrub_figures(daemon).passes + 2;
	uint64_t until_us = kernel.now_us + 2 * daemon->settings.scrub_interval_us + RECOVERY_US;
	const char *damage;

	if (daemon->settings.scrub_bytes_second == 0)
		return;
	while (scrub_figures(daemon).passes < passes) {
		if (kernel.now_us > until_us)
			sim_fail("the scrubber does not come round");
		sim_run_for(REST_STEP_US);
	}
	rest_await("after the scrubber");
	damage = node_damage(&sim.node);
	if (damage != NULL)
		sim_fail("the scrubber has been round, and a slot that is offered is %s", damage);
}

/* Every page is there, and the node is ready. */
static void pages_await(void)
{
	uint64_t until_us = kernel.now_us + REST_US;

	visitor_expect(&sim.visitors[0], &sim.node);
	while (!sim.visitors[0].has_ended_well) {
		if (kernel.now_us > until_us)
			sim_fail("the pages are not answered");
		sim_run_for(LOOK_US);
	}
}

/* Now and then a device hangs once more, not for so long that it is fenced: it is named, and then
 * all is well again. */
static void hang_watch(void)
{
	struct disk *disk;

	if (sim.node.shape.devices == 0 || kernel_below(HANGS_EVERY) != 0)
		return;
	disk = sim.node.disks[kernel_below(sim.node.shape.devices)];
	disk->hangs_until_us = kernel.now_us + HANG_US;
	visitor_watch(&sim.visitors[1], &sim.node, kernel_below(UINT64_MAX));
	sim_run_for(HANG_US);
	visitor_kill(&sim.visitors[1]);
	disk_heal(disk);
	pages_await();
}

/* When all have gone, nothing is held for any of them. */
static void all_leave(void)
{
	uint64_t until_us = kernel.now_us + REST_US;
	const char *held;

	sim.is_leaving = true;
	for (unsigned i = 0; i < plan.engines_count; i++)
		kernel_below(2) == 0 ? engine_kill(&sim.engines[i]) : engine_close(&sim.engines[i]);
	rest_await("after the engines have gone");
	while ((held = node_is_held(&sim.node)) != NULL) {
		if (kernel.now_us > until_us)
			sim_fail("all have gone, and %s", held);
		sim_run_for(REST_STEP_US);
	}
	node_stop(&sim.node);
	while (sim.node.state != NODE_DOWN) {
		if (kernel.now_us > until_us)
			sim_fail("an idle daemon does not stop");
		sim_run_for(REST_STEP_US);
	}
}

/* What the disks have when all is over. */
void sim_disks_check(void)
{
	if (node_is_in_clear(&sim.node))
		sim_fail("a block can be read on a disk, though all lives enciphered");
}

void sim_end_well(void)
{
	sim.is_ending = true;
	faults_end();
	sim_run_for(REST_STEP_US);
	node_renew();
	connections_await();
	engines_await("at the end");
	fresh_life();
	scrub_await();
	pages_await();
	hang_watch();
	all_leave();
}
