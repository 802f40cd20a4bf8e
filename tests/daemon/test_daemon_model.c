/*
 * tests/daemon/test_daemon_model.c: random clients, faults, clocks and crashes against a model that
 * knows, for each key, what may be served. KVTIER_TEST_SEED=n replays one seed; KVTIER_TEST_SEEDS=n
 * runs so many.
 */
#include "tests/daemon/rig.h"

#include <assert.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SEEDS_DEFAULT 40u
#define OPERATIONS 400u
#define STORES_MAX 4096u
#define ENGINES 6u
#define CHAINS 6u
#define CHAIN_BLOCKS 30u
#define BATCH_MAX 10u
#define LATELY 30u

/* A STORE that was sent: what it may have left behind. */
struct store {
	unsigned engine;
	uint64_t first;
	unsigned count;
	bool is_replied;   /* its STORE_REPLY had come, so its epoch is set */
	bool is_forgotten; /* a FORGET that was sent after that has been answered */
};

struct model {
	struct rig rig;
	struct random random;
	struct store stores[STORES_MAX];
	uint64_t stores_count; /* the version of a store is its number + 1 */
	struct rig_client *clients[ENGINES];
	uint64_t leases[ENGINES];
	/* Loads: how many stores had been forgotten when it began, as a copy of the marks. */
	bool marks[ENGINES][RIG_BATCHES_MAX][STORES_MAX];
	unsigned progress[ENGINES][CHAINS]; /* by space */
	uint64_t served, stored, missed, detected;
};

static struct model model;
static char replay_line[160];

/* Engines: two of one space, one of another model, one of another tenant, two ranks of one. */
static const struct rig_engine engines[ENGINES] = {
	{ .name = "one" },
	{ .name = "two" },
	{ .name = "three",
	  .model = "larger",
	  .groups_count = 1,
	  .groups = { { .tokens_per_block = 16, .payload_bytes = 70001, .segments_count = 7 } } },
	{ .name = "four", .tenant = 1 },
	{ .name = "ranks", .model = "split", .world = 2, .shard = 0 },
	{ .name = "ranks", .model = "split", .world = 2, .shard = 1 },
};
static const unsigned space_of[ENGINES] = { 0, 0, 1, 2, 3, 3 };

static uint64_t below(uint64_t limit)
{
	return random_below(&model.random, limit);
}

static void on_abort(int number)
{
	(void)!write(STDERR_FILENO, replay_line, strlen(replay_line));
	signal(number, SIG_DFL);
	raise(number);
}

static unsigned place_of(const struct rig_client *client, const struct rig_batch *batch)
{
	return (unsigned)(batch - client->batches);
}

/* May the block that was loaded have been this store's? */
static void check_version(unsigned engine, const struct rig_batch *batch, unsigned index)
{
	uint64_t version = batch->versions[index], key = batch->keys[index];
	unsigned place = place_of(model.clients[engine], batch);

	assert(version >= 1 && version <= model.stores_count);
	const struct store *store = &model.stores[version - 1];
	assert(space_of[store->engine] == space_of[engine]);
	assert(engines[store->engine].shard == engines[engine].shard);
	assert(key >= store->first && key < store->first + store->count);
	assert(!model.marks[engine][place][version - 1]);
	model.served++;
}

static void check_result(const struct rig_batch *batch, int result)
{
	if (batch->is_store)
		assert(result == 0 || result == 1 || result == -ENOSPC || result == -ETIME ||
		       result == -ECANCELED || result == -EAGAIN || result == -EBADMSG ||
		       result == -EIO || result == -ENOENT);
	else
		assert(result == 0 || result == -ENOENT || result == -ETIME ||
		       result == -ECANCELED || result == -EBADMSG);
}

/* What has ended since the last look. */
static void batches_look(unsigned engine)
{
	struct rig_client *client = model.clients[engine];

	for (unsigned i = 0; i < RIG_BATCHES_MAX; i++) {
		struct rig_batch *batch = &client->batches[i];

		if (!batch->is_used)
			continue;
		if (batch->is_store && batch->is_replied)
			model.stores[batch->version - 1].is_replied = true;
		if (batch->ended < batch->count)
			continue;
		for (unsigned block = 0; block < batch->count; block++) {
			check_result(batch, batch->results[block]);
			if (!batch->is_store && batch->results[block] == 0)
				check_version(engine, batch, block);
			model.stored += batch->is_store && batch->results[block] == 0;
			model.missed += !batch->is_store && batch->results[block] != 0;
		}
		rig_batch_give(batch);
	}
}

static bool client_has_room(unsigned engine)
{
	const struct rig_client *client = model.clients[engine];
	unsigned used = 0;

	for (unsigned i = 0; i < RIG_BATCHES_MAX; i++)
		used += client->batches[i].is_used;
	return used < RIG_BATCHES_MAX && client->fds[FRAME_DATA] >= 0;
}

/* Within what the engine's space may have of a chain, or just behind it. */
static struct rig_blocks blocks_any(unsigned engine)
{
	uint64_t chain = below(CHAINS);
	unsigned *progress = &model.progress[space_of[engine]][chain];
	uint64_t depth = below(2) == 0 ? 0 : below(*progress + 1);
	struct rig_blocks blocks = {
		.first = 1 + chain * 1000 + depth,
		.count = 1 + (unsigned)below(BATCH_MAX),
		.deadline_us = below(4) == 0 ? 1000 + below(RIG_SECOND) : RIG_DEADLINE_US,
	};

	if (depth > 0)
		blocks.parent = blocks.first - 1;
	if (depth + blocks.count > *progress && depth + blocks.count < CHAIN_BLOCKS)
		*progress = (unsigned)depth + blocks.count;
	return blocks;
}

/* Mostly what was stored lately. */
static struct rig_blocks blocks_stored(unsigned engine)
{
	struct rig_blocks blocks = blocks_any(engine);

	for (uint64_t back = 1; back <= LATELY && back <= model.stores_count; back++) {
		const struct store *store = &model.stores[model.stores_count - back];

		if (space_of[store->engine] != space_of[engine] || below(3) == 0)
			continue;
		blocks.first = store->first;
		blocks.count = store->count;
		break;
	}
	return blocks;
}

static void do_store(unsigned engine)
{
	struct rig_blocks blocks = blocks_any(engine);

	if (!client_has_room(engine) || model.stores_count == STORES_MAX)
		return;
	model.stores[model.stores_count++] = (struct store){
		.engine = engine,
		.first = blocks.first,
		.count = blocks.count,
	};
	blocks.version = model.stores_count;
	(void)rig_store_begin(model.clients[engine], &blocks);
}

/* Most stores are committed sooner or later; a few by a client that changes its mind about the
 * bytes. */
static void do_commit(unsigned engine)
{
	struct rig_client *client = model.clients[engine];

	for (unsigned i = 0; i < RIG_BATCHES_MAX; i++) {
		struct rig_batch *batch = &client->batches[i];

		/* is_kept: committed already. */
		if (!batch->is_used || !batch->is_store || !batch->is_replied || batch->is_kept)
			continue;
		batch->is_kept = true;
		if (below(12) == 0)
			continue;
		uint64_t at = client->window_at;
		rig_store_commit(client, batch);
		if (below(20) == 0 && client->window_at > at)
			client->window[at + below(client->window_at - at)] ^= 1;
	}
}

static void do_load(unsigned engine)
{
	struct rig_blocks blocks = blocks_stored(engine);
	struct rig_client *client = model.clients[engine];

	if (!client_has_room(engine))
		return;
	blocks.lease = below(2) == 0 ? model.leases[engine] : 0;
	struct rig_batch *batch = rig_load_begin(client, &blocks);
	batch->is_kept = below(6) == 0;
	batch->is_lying = below(10) == 0;
	for (uint64_t i = 0; i < model.stores_count; i++)
		model.marks[engine][place_of(client, batch)][i] = model.stores[i].is_forgotten;
	memset(model.marks[engine][place_of(client, batch)] + model.stores_count, 0,
	       STORES_MAX - model.stores_count);
}

static void do_lookup(unsigned engine)
{
	struct rig_keys keys = { .first = 1 + below(CHAINS) * 1000,
				 .count = 1 + (unsigned)below(CHAIN_BLOCKS) };
	struct rig_found found = rig_lookup(model.clients[engine], &keys, 1,
					    below(2) * (1 + below(5 * RIG_SECOND)));

	assert(found.result == 0 || found.result == -EAGAIN);
	if (found.lease != 0)
		model.leases[engine] = found.lease;
}

static void do_forget(unsigned engine)
{
	bool is_tenant = below(3) == 0;
	bool is_meant[STORES_MAX];

	for (uint64_t i = 0; i < model.stores_count; i++) {
		const struct store *store = &model.stores[i];

		is_meant[i] = store->is_replied &&
			      (is_tenant ? engines[store->engine].tenant == engines[engine].tenant
					 : space_of[store->engine] == space_of[engine]);
	}
	uint64_t count = model.stores_count;
	int result = rig_forget(model.clients[engine],
				is_tenant ? UINT32_MAX : model.clients[engine]->space);
	assert(result == 0);
	for (uint64_t i = 0; i < count; i++)
		model.stores[i].is_forgotten = model.stores[i].is_forgotten || is_meant[i];
}

static void do_hint(unsigned engine)
{
	struct rig_blocks blocks = blocks_any(engine);

	(void)rig_hint(model.clients[engine], (enum frame_hint_kind)below(FRAME_HINTS), &blocks,
		       below(5 * RIG_SECOND));
	(void)rig_explain(model.clients[engine], 0, blocks.first);
}

static void client_renew(unsigned engine)
{
	rig_client_close(model.clients[engine]);
	model.leases[engine] = 0;
	rig_strangers(&model.rig, engines[engine].tenant, 1 + (unsigned)below(6));
	model.clients[engine] = rig_register(&model.rig, &engines[engine]);
}

static void clients_renew(void)
{
	for (unsigned i = 0; i < ENGINES; i++) {
		model.leases[i] = 0;
		model.clients[i] = rig_register(&model.rig, &engines[i]);
	}
}

static void do_crash(void)
{
	enum { STOP = 2 };
	unsigned kind = (unsigned)below(3);

	for (unsigned i = 0; i < ENGINES; i++)
		batches_look(i);
	if (kind == STOP)
		rig_stop(&model.rig);
	else
		rig_crash(&model.rig, kind == 0 ? RIG_KILL : RIG_POWER_CUT);
	if (below(3) == 0 && !model.rig.config.no_nvme)
		catalog_simulated_replace(rig_catalog_path(&model.rig));
	rig_start(&model.rig);
	clients_renew();
}

/* One bit of a slot that is READY, or its page from elsewhere. */
static void do_damage(void)
{
	enum tier_id tier = below(2) == 0 ? TIER_CPU : TIER_NVME;
	unsigned engine = (unsigned)below(ENGINES);
	uint32_t slot = rig_slot(model.clients[engine], tier, 0,
				 1 + below(CHAINS) * 1000 + below(CHAIN_BLOCKS));
	struct slot_place place;

	if (slot == SLOT_NONE ||
	    cache_slot(model.rig.daemon->cache, tier, slot)->state != SLOT_READY)
		return;
	cache_slot_place(model.rig.daemon->cache, tier, slot, &place);
	rig_slot_bytes(&model.rig, tier,
		       slot)[below(place.slot_bytes)] ^= (uint8_t)(1u << below(8));
}

static void do_fault(void)
{
	static const enum block_fault kinds[] = { BLOCK_FAULT_NONE,  BLOCK_FAULT_ERROR,
						  BLOCK_FAULT_SHORT, BLOCK_FAULT_TORN,
						  BLOCK_FAULT_LOST,  BLOCK_FAULT_MISDIRECTED };
	struct rig *rig = &model.rig;

	if (below(4) == 0 && !rig->config.no_nvme) {
		catalog_simulated_fail(rig_catalog_path(rig), below(CATALOG_SIMULATED_VERBS),
				       1 + (unsigned)below(3), -EIO);
		return;
	}
	if (below(3) == 0) {
		if (rig->fault.is_holding)
			block_io_fault_flow(&rig->fault);
		else
			block_io_fault_hold(&rig->fault);
		return;
	}
	rig->fault.misdirect_bytes = (int64_t)((1 + below(20)) * RIG_PAGE_BYTES);
	block_io_fault_arm(&rig->fault, kinds[below(6)], BLOCK_FAULT_QUEUE, 1 + below(10),
			   1 + below(2));
}

static void do_bypass(struct rig_client *client)
{
	unsigned is_of_space = (unsigned)below(2);

	(void)rig_bypass(client, "", is_of_space,
			 (enum frame_bypass_mode)below(FRAME_BYPASS_MODES));
	(void)rig_usable(client, 1, 5);
	if (below(10) > 0)
		(void)rig_bypass(client, "", is_of_space, FRAME_BYPASS_OFF);
}

static void do_one(void)
{
	unsigned engine = (unsigned)below(ENGINES), kind = (unsigned)below(100);
	struct rig_client *client = model.clients[engine];

	if (kind < 28)
		do_store(engine);
	else if (kind < 52)
		do_load(engine);
	else if (kind < 62 && !client->is_deaf)
		do_lookup(engine);
	else if (kind < 63 && !client->is_deaf)
		do_forget(engine);
	else if (kind < 70 && !client->is_deaf)
		do_hint(engine);
	else if (kind < 72)
		client_renew(engine);
	else if (kind < 74)
		client->is_deaf = !client->is_deaf;
	else if (kind < 82)
		clock_advance(&model.rig.clock,
			      below(10) == 0 ? below(20 * RIG_SECOND) : below(200000));
	else if (kind < 88)
		do_damage();
	else if (kind < 93)
		do_fault();
	else if (kind < 94)
		do_crash();
	else if (kind < 95 && !client->is_deaf)
		do_bypass(client);
	else if (kind < 98)
		rig_cancel(client, &client->batches[below(RIG_BATCHES_MAX)]);
	else
		rig_lease_release(client, model.leases[engine]);
}

/* Everything comes to rest, and the daemon is as good as new. */
static void end_well(void)
{
	struct rig *rig = &model.rig;

	block_io_fault_arm(&rig->fault, BLOCK_FAULT_NONE, BLOCK_FAULT_QUEUE, 1, 1);
	block_io_fault_flow(&rig->fault);
	rig->disk.latency_us = 0;
	for (unsigned i = 0; i < ENGINES; i++)
		model.clients[i]->is_deaf = false;
	rig_pass_time(rig, 2 * RIG_DEADLINE_US);
	rig_pass_time(rig, 100 * RIG_SECOND);
	for (unsigned i = 0; i < ENGINES; i++) {
		batches_look(i);
		assert(model.clients[i]->refused == 0);
		for (unsigned batch = 0; batch < RIG_BATCHES_MAX; batch++)
			assert(!model.clients[i]->batches[batch].is_used);
	}
	rig_assert_idle(rig);
	for (unsigned i = 0; i < 2; i++)
		(void)rig_bypass(model.clients[0], "", i > 0, FRAME_BYPASS_OFF);
	struct rig_blocks fresh = { .first = 900000, .count = 5, .version = UINT32_MAX };
	assert(rig_store(model.clients[0], &fresh) == 5);
	assert(rig_load(model.clients[0], &fresh) == 5);
	rig_settle(rig);
	rig_assert_idle(rig);
}

static void run_seed(uint64_t seed, const char *program)
{
	struct rig *rig = &model.rig;

	memset(&model, 0, sizeof(model));
	snprintf(replay_line, sizeof(replay_line), "\nreplay: KVTIER_TEST_SEED=%llu %s\n",
		 (unsigned long long)seed, program);
	random_init(&model.random, seed);
	struct rig_config config = {
		.seed = seed + 1,
		.cpu_units = 2 + (unsigned)below(3),
		.nvme_units = 2 + (unsigned)below(7),
		.devices = 1 + (unsigned)below(2),
		.tenants = 2,
		.spaces_max = 12,
		.mills = 1 + (unsigned)below(3),
		.no_nvme = below(8) == 0,
		.has_cpu_file = below(2) == 0,
		.load_window_blocks = 1 + (uint32_t)below(16),
		.lease_us_max = 5 * RIG_SECOND,
	};
	rig_init(rig, &config);
	rig->is_shuffled = true;
	rig->disk.is_shuffled = true;
	rig->disk.latency_us = below(2) * 200;
	rig->is_checked = true;
	clients_renew();
	for (unsigned i = 0; i < OPERATIONS; i++) {
		do_one();
		for (uint64_t steps = below(12); steps > 0; steps--) {
			if (!rig_step(rig))
				clock_advance(&rig->clock, below(500));
		}
		for (unsigned engine = 0; engine < ENGINES; engine++) {
			batches_look(engine);
			do_commit(engine);
		}
	}
	end_well();
	rig_finish(rig);
}

static const char *program_name;

static void random_lives_never_serve_wrong_bytes_and_always_come_to_rest(void **unused)
{
	const char *one = getenv("KVTIER_TEST_SEED"), *many = getenv("KVTIER_TEST_SEEDS");
	uint64_t first = one != NULL ? strtoull(one, NULL, 10) : 1;
	uint64_t count = one != NULL ? 1 : many != NULL ? strtoull(many, NULL, 10) : SEEDS_DEFAULT;
	uint64_t served = 0, stored = 0, missed = 0;

	(void)unused;
	for (uint64_t seed = first; seed < first + count; seed++) {
		run_seed(seed, program_name);
		served += model.served;
		stored += model.stored;
		missed += model.missed;
	}
	print_message("%llu seeds: %llu blocks stored, %llu loads proven, %llu missed\n",
		      (unsigned long long)count, (unsigned long long)stored,
		      (unsigned long long)served, (unsigned long long)missed);
	/* A run in which nothing happens proves nothing. */
	assert_true(stored > 50 * count && served > 50 * count);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_lives_never_serve_wrong_bytes_and_always_come_to_rest),
	};

	(void)argc;
	program_name = argv[0];
	signal(SIGABRT, on_abort);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
