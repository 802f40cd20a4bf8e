/* tests/daemon/test_daemon_spaces.c: spaces come and go through a small table: what is in use
 * stays, and nothing that went is ever served. */
#include "tests/daemon/rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#define SPACES_MAX 16u
#define REGISTRATIONS 5000u
#define BLOCKS 4u
#define SMALL_BYTES 4096u  /* the payload of a small block */
#define FREED_A_PASS 256u  /* of one sweep; daemon/forget.c */

struct model {
	char name[32];
	struct rig_engine engine;
};

/* An engine of its own for each number, with small blocks. */
static const struct rig_engine *model_of(struct model *model, unsigned tenant, unsigned number)
{
	snprintf(model->name, sizeof(model->name), "model-%u", number);
	model->engine = (struct rig_engine){
		.name = model->name,
		.model = model->name,
		.tenant = tenant,
		.groups_count = 1,
		.groups = { { .kind = FRAME_GROUP_FULL,
			      .tokens_per_block = RIG_TOKENS,
			      .payload_bytes = SMALL_BYTES,
			      .segments_count = 2 } },
	};
	return &model->engine;
}

static struct rig_client *register_model(struct rig *rig, struct model *model, unsigned tenant,
					 unsigned number)
{
	return rig_register(rig, model_of(model, tenant, number));
}

/* Registers on a control connection alone; what the daemon said. */
static int register_only(struct rig *rig, const struct rig_engine *engine,
			 struct rig_client **out_client)
{
	*out_client = rig_client_open(rig, engine);
	int result = rig_client_connect(*out_client, FRAME_CONTROL);

	assert_int_equal(result, 0);
	return rig_client_say_register(*out_client);
}

static void leave(struct rig *rig, struct rig_client *client)
{
	rig_client_close(client);
	rig_settle(rig);
}

static struct rig_blocks blocks_of(uint64_t version)
{
	return (struct rig_blocks){ .first = 1, .count = BLOCKS, .version = version };
}

/* All blocks are proven to be what was stored under `version`. */
static void assert_serves(struct rig_client *client, uint64_t version)
{
	struct rig_blocks blocks = blocks_of(0);

	assert_int_equal(rig_usable(client, 1, BLOCKS), BLOCKS);
	assert_int_equal(rig_load(client, &blocks), BLOCKS);
	for (unsigned i = 0; i < BLOCKS; i++)
		assert_int_equal(rig_last.versions[i], version);
	assert_int_equal(client->detected, 0);
}

static void assert_serves_nothing(struct rig_client *client)
{
	struct rig_blocks blocks = blocks_of(0);

	assert_int_equal(rig_usable(client, 1, BLOCKS), 0);
	assert_int_equal(rig_load(client, &blocks), 0);
	assert_int_equal(client->detected, 0);
}

/* A model that comes, stores, loads and goes. */
static void visit(struct rig *rig, unsigned tenant, unsigned number)
{
	struct model model;
	struct rig_client *client = register_model(rig, &model, tenant, number);
	struct rig_blocks blocks = blocks_of(number + 1);

	assert_serves_nothing(client);
	assert_int_equal(rig_store(client, &blocks), BLOCKS);
	assert_serves(client, number + 1);
	leave(rig, client);
}

/* What is in use while thousands of spaces come and go. */
struct residents {
	struct model models[4];
	struct rig_client *engine, *loader, *neighbour;
	struct rig_batch *kept;
	uint64_t lease;
};

enum { RESIDENT = 900001, LOADER, LEASED, NEIGHBOUR };

static void residents_move_in(struct rig *rig, struct residents *residents)
{
	struct rig_blocks blocks = blocks_of(RESIDENT);

	residents->engine = register_model(rig, &residents->models[0], 0, RESIDENT);
	assert_int_equal(rig_store(residents->engine, &blocks), BLOCKS);
	blocks = blocks_of(NEIGHBOUR);
	residents->neighbour = register_model(rig, &residents->models[1], 1, NEIGHBOUR);
	assert_int_equal(rig_store(residents->neighbour, &blocks), BLOCKS);
	blocks = blocks_of(LOADER);
	residents->loader = register_model(rig, &residents->models[2], 0, LOADER);
	assert_int_equal(rig_store(residents->loader, &blocks), BLOCKS);
	residents->kept = rig_load_begin(residents->loader, &blocks);
	residents->kept->is_kept = true;
	rig_batch_await(rig, residents->kept);
	/* An engine that left, but what it retained is leased. */
	struct rig_client *leased = register_model(rig, &residents->models[3], 0, LEASED);
	blocks = blocks_of(LEASED);
	assert_int_equal(rig_store(leased, &blocks), BLOCKS);
	struct frame_hint_reply retained =
		rig_hint(leased, FRAME_HINT_RETAIN, &blocks, 50 * RIG_SECOND);
	assert_int_equal(retained.outcome, FRAME_HINT_ACCEPTED);
	residents->lease = retained.lease;
	leave(rig, leased);
}

static void residents_look(struct rig *rig, struct residents *residents)
{
	cache_check(rig->daemon->cache);
	assert_serves(residents->engine, RESIDENT);
	assert_serves(residents->neighbour, NEIGHBOUR);
	assert_int_equal(rig_batch_count(residents->kept, 0), BLOCKS);
	assert_true(cache_lease_is_live(rig->daemon->cache, residents->lease));
	struct rig_client *leased = register_model(rig, &residents->models[3], 0, LEASED);
	assert_serves(leased, LEASED);
	leave(rig, leased);
}

static void thousands_of_spaces_pass_through_a_small_table(void **unused)
{
	struct residents residents;
	struct model model;
	struct rig rig;

	(void)unused;
	/* Eight spaces a tenant, of which three are in use. */
	rig_init(&rig, &(struct rig_config){ .tenants = 2, .spaces_max = SPACES_MAX });
	residents_move_in(&rig, &residents);
	for (unsigned number = 0; number < REGISTRATIONS; number++) {
		visit(&rig, 0, number);
		assert_true(cache_spaces_count(rig.daemon->cache, 0) <= SPACES_MAX / 2);
		if (number % 250 == 249) {
			struct rig_client *client = register_model(&rig, &model, 0, number - 2);

			assert_serves(client, number - 1);
			leave(&rig, client);
			client = register_model(&rig, &model, 0, number - 40);
			assert_serves_nothing(client);
			leave(&rig, client);
			residents_look(&rig, &residents);
		}
	}
	assert_int_equal(rig.daemon->counters.protocol_errors, 0);
	assert_true(rig.daemon->counters.spaces_given_back > REGISTRATIONS - SPACES_MAX);
	assert_int_equal(cache_spaces_count(rig.daemon->cache, 1), 1);
	rig_client_close(residents.loader);
	rig_pass_time(&rig, 60 * RIG_SECOND);
	rig_assert_idle(&rig);
	/* Nobody uses them any more: they may go, too. */
	for (unsigned number = REGISTRATIONS; number < REGISTRATIONS + SPACES_MAX; number++)
		visit(&rig, 0, number);
	struct rig_client *client = register_model(&rig, &model, 0, LEASED);
	assert_serves_nothing(client);
	assert_serves(residents.engine, RESIDENT);
	rig_finish(&rig);
}

static void what_is_in_use_is_not_given_back(void **unused)
{
	struct model models[5];
	struct rig_client *clients[4], *another;
	struct rig rig;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .spaces_max = 4 });
	for (unsigned i = 0; i < 4; i++)
		clients[i] = register_model(&rig, &models[i], 0, i);
	assert_int_equal(register_only(&rig, model_of(&models[4], 0, 4), &another), -ENOSPC);
	leave(&rig, another);
	assert_int_equal(rig.daemon->counters.spaces_given_back, 0);
	leave(&rig, clients[2]);
	visit(&rig, 0, 4);
	assert_int_equal(rig.daemon->counters.spaces_given_back, 1);
	for (unsigned i = 0; i < 4; i++)
		if (i != 2)
			assert_int_equal(rig_store(clients[i], &(struct rig_blocks){
								       .first = 1,
								       .count = BLOCKS,
								       .version = i + 1 }),
					 BLOCKS);
	rig_finish_idle(&rig);
}

static void a_registration_that_is_refused_takes_no_space(void **unused)
{
	struct model models[4], other;
	struct rig_client *client, *imposter;
	struct rig rig;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .spaces_max = 2 });
	visit(&rig, 0, 0);
	client = register_model(&rig, &models[1], 0, 1);
	(void)model_of(&other, 0, 2);
	other.engine.name = models[1].name;
	assert_int_equal(register_only(&rig, &other.engine, &imposter), -EPERM);
	leave(&rig, imposter);
	assert_int_equal(rig.daemon->counters.spaces_given_back, 0);
	leave(&rig, client);
	client = register_model(&rig, &models[0], 0, 0);
	assert_serves(client, 1);
	rig_finish(&rig);
}

static void adapters_count_and_are_held_by_their_engine(void **unused)
{
	struct model models[3];
	struct rig_client *client, *another;
	uint32_t adapters[4], space;
	struct rig rig;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .spaces_max = 4 });
	client = register_model(&rig, &models[0], 0, 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(rig_client_adapter(client, i, &adapters[i]), 0);
	assert_int_equal(rig_client_adapter(client, 1, &space), 0);
	assert_int_equal(space, adapters[1]);
	assert_int_equal(rig_client_adapter(client, 3, &adapters[3]), -ENOSPC);
	assert_int_equal(register_only(&rig, model_of(&models[1], 0, 1), &another), -ENOSPC);
	leave(&rig, another);
	assert_int_equal(rig_store(client, &(struct rig_blocks){ .first = 1, .count = BLOCKS,
								 .version = 7,
								 .space = adapters[1] }),
			 BLOCKS);
	leave(&rig, client);
	for (unsigned number = 1; number < 8; number++)
		visit(&rig, 0, number);
	/* The same adapter: a new space, and a number that is good until the engine leaves. */
	client = register_model(&rig, &models[0], 0, 0);
	assert_int_equal(rig_client_adapter(client, 1, &space), 0);
	assert_int_equal(rig_load(client, &(struct rig_blocks){ .first = 1, .count = BLOCKS,
								.space = space }),
			 0);
	rig_finish(&rig);
}

static void a_number_of_an_earlier_engine_opens_nothing(void **unused)
{
	struct model models[2];
	struct rig_client *client;
	uint32_t adapter;
	struct rig rig;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .spaces_max = 4 });
	client = register_model(&rig, &models[0], 0, 0);
	assert_int_equal(rig_client_adapter(client, 0, &adapter), 0);
	leave(&rig, client);
	assert_true(cache_space_is_known(rig.daemon->cache, adapter));
	client = register_model(&rig, &models[1], 0, 1);
	assert_int_not_equal(client->space, adapter);
	(void)rig_store_begin(client, &(struct rig_blocks){ .first = 1, .count = BLOCKS,
							    .version = 1, .space = adapter });
	rig_settle(&rig);
	assert_int_equal(client->refused, -EINVAL);
	rig_finish(&rig);
}

static void a_big_space_goes_in_steps_while_another_is_served(void **unused)
{
	const unsigned blocks_count = 900;
	struct model models[3];
	struct rig_client *client;
	struct cache_share_figures figures;
	struct rig rig;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .spaces_max = 2 });
	client = register_model(&rig, &models[0], 0, 0);
	for (unsigned first = 0; first < blocks_count; first += 100)
		assert_int_equal(rig_store(client, &(struct rig_blocks){ .parent = first,
									 .first = first + 1,
									 .count = 100,
									 .version = 1 }),
				 100);
	rig_settle(&rig);
	leave(&rig, client);
	visit(&rig, 0, 1);
	uint64_t copies[TIERS];
	for (unsigned tier = 0; tier < TIERS; tier++)
		copies[tier] = rig_figures(&rig, 0, tier).copies_whole;
	assert_true(copies[TIER_NVME] >= blocks_count);
	assert_int_equal(register_only(&rig, model_of(&models[2], 0, 2), &client), 0);
	for (unsigned passes = 0; rig_step(&rig); passes++) {
		for (unsigned tier = 0; tier < TIERS; tier++) {
			figures = rig_figures(&rig, 0, tier);
			assert_true(copies[tier] - figures.copies_whole <= FREED_A_PASS + 1);
			copies[tier] = figures.copies_whole;
		}
	}
	assert_int_equal(copies[TIER_NVME], BLOCKS);
	leave(&rig, client);
	client = register_model(&rig, &models[1], 0, 1);
	assert_serves(client, 2);
	rig_finish_idle(&rig);
}

/* ---- restarts ---- */

enum ending { ENDS_CLEANLY, ENDS_KILLED, ENDS_WITHOUT_CATALOG, ENDINGS };

static void life_ends_and_another_begins(struct rig *rig, enum ending ending)
{
	if (ending == ENDS_CLEANLY)
		rig_stop(rig);
	else
		rig_crash(rig, RIG_KILL);
	if (ending == ENDS_WITHOUT_CATALOG)
		catalog_simulated_replace(rig_catalog_path(rig));
	rig_start(rig);
	for (unsigned i = 0; i < 50; i++)
		rig_pass_time(rig, 100000);
	cache_check(rig->daemon->cache);
}

/* A space that was forgotten and given back, and whose blocks lie on the disk still. */
static void a_floor_outlives_its_space(void **unused)
{
	struct model models[8];
	struct rig_client *client;
	struct rig rig;

	(void)unused;
	for (enum ending ending = 0; ending < ENDINGS; ending++) {
		rig_init(&rig, &(struct rig_config){ .spaces_max = 4, .has_cpu_file = true });
		visit(&rig, 0, 0);
		client = register_model(&rig, &models[0], 0, 0);
		assert_int_equal(rig_forget(client, client->space), 0);
		leave(&rig, client);
		/* Without blocks of their own, so that nothing is written over. */
		for (unsigned number = 1; number < 8; number++)
			leave(&rig, register_model(&rig, &models[number], 0, number));
		assert_true(rig.daemon->counters.spaces_given_back >= 4);
		life_ends_and_another_begins(&rig, ending);
		client = register_model(&rig, &models[0], 0, 0);
		assert_serves_nothing(client);
		assert_int_equal(rig_store(client, &(struct rig_blocks){ .first = 1,
									 .count = BLOCKS,
									 .version = 5 }),
				 BLOCKS);
		assert_serves(client, 5);
		rig_finish(&rig);
	}
}

/* What is found again of a space that was given back is its own, or nothing. */
static void after_a_restart_a_space_finds_its_own_blocks_or_none(void **unused)
{
	struct model model;
	struct rig_client *client;
	struct rig rig;

	(void)unused;
	for (enum ending ending = 0; ending < ENDINGS; ending++) {
		unsigned served = 0;

		rig_init(&rig, &(struct rig_config){ .spaces_max = 4,
						     .has_cpu_file = ending != ENDS_CLEANLY });
		for (unsigned number = 0; number < 12; number++)
			visit(&rig, 0, number);
		life_ends_and_another_begins(&rig, ending);
		assert_true(cache_spaces_count(rig.daemon->cache, 0) <= 4);
		for (unsigned number = 12; number-- > 0;) {
			client = register_model(&rig, &model, 0, number);
			assert_true(cache_spaces_count(rig.daemon->cache, 0) <= 4);
			unsigned count = rig_load(client, &(struct rig_blocks){ .first = 1,
										.count = BLOCKS });
			for (unsigned i = 0; i < BLOCKS; i++)
				assert_true(rig_last.results[i] != 0 ||
					    rig_last.versions[i] == number + 1);
			served += count > 0;
			leave(&rig, client);
		}
		assert_true(served > 0 && served <= 4);
		rig_finish(&rig);
	}
}

/* FORGETs of more spaces than there is room for, and of one that is not here. */
static void floors_of_many_spaces_cost_no_place(void **unused)
{
	struct model model;
	struct rig_client *client;
	struct rig rig;

	(void)unused;
	rig_init(&rig, &(struct rig_config){ .spaces_max = 4 });
	visit(&rig, 0, 0);
	client = register_model(&rig, &model, 0, 1);
	for (unsigned number = 0; number < 40; number++) {
		struct frame_forget *frame = rig_frame(client, FRAME_FORGET, sizeof(*frame));

		memset(frame->fingerprint, 0x77, sizeof(frame->fingerprint));
		frame->fingerprint[0] = (uint8_t)number;
		assert_int_equal(rig_ask(client, FRAME_CONTROL, FRAME_DONE), 0);
	}
	assert_int_equal(cache_spaces_count(rig.daemon->cache, 0), 2);
	leave(&rig, client);
	rig_settle(&rig);
	rig_stop(&rig);
	rig_start(&rig);
	assert_int_equal(rig.daemon->counters.restored[TIER_NVME], BLOCKS);
	assert_int_equal(cache_spaces_count(rig.daemon->cache, 0), 1);
	client = register_model(&rig, &model, 0, 0);
	assert_serves(client, 1);
	rig_finish(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(thousands_of_spaces_pass_through_a_small_table),
		cmocka_unit_test(what_is_in_use_is_not_given_back),
		cmocka_unit_test(a_registration_that_is_refused_takes_no_space),
		cmocka_unit_test(adapters_count_and_are_held_by_their_engine),
		cmocka_unit_test(a_number_of_an_earlier_engine_opens_nothing),
		cmocka_unit_test(a_big_space_goes_in_steps_while_another_is_served),
		cmocka_unit_test(a_floor_outlives_its_space),
		cmocka_unit_test(after_a_restart_a_space_finds_its_own_blocks_or_none),
		cmocka_unit_test(floors_of_many_spaces_cost_no_place),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
