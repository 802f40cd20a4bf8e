/* tests/daemon/rig_pair.c: see rig_pair.h. */
#include "tests/daemon/rig_pair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

struct rig_net net;
struct rig rigs[2];
struct rig_client *giver, *taker;

void pair_start_apart(const struct rig_engine *engine, const struct rig_config *config)
{
	rig_net_init(&net);
	for (unsigned i = 0; i < 2; i++) {
		struct rig_config own = config != NULL ? *config : (struct rig_config){ 0 };

		own.net = &net;
		own.net_node = i;
		own.seed = i + 1;
		rig_init(&rigs[i], &own);
	}
	giver = rig_register(&rigs[0], engine);
	taker = rig_register(&rigs[1], engine);
	rig_settle(&rigs[1]);
}

void pair_start(const struct rig_engine *engine, const struct rig_config *config)
{
	pair_start_apart(engine, config);
	rig_net_join(&net, 1, 0);
	rig_settle(&rigs[1]);
}

void pair_pass_time(uint64_t us)
{
	rig_settle(&rigs[1]);
	clock_advance(&rigs[1].clock, us);
	rig_settle(&rigs[1]);
}

void pair_finish(void)
{
	pair_pass_time(WAIT_US + RIG_SECOND);
	rig_assert_idle(&rigs[0]);
	rig_assert_idle(&rigs[1]);
	rig_stop(&rigs[1]);
	rig_stop(&rigs[0]);
	rig_finish(&rigs[1]);
	rig_finish(&rigs[0]);
	rig_net_finish(&net);
}

void pair_give(uint64_t first, unsigned count)
{
	const struct rig_blocks blocks = { .parent = first > 1 ? first - 1 : 0, .first = first,
					   .count = count, .version = 7 };

	assert_int_equal(rig_store(giver, &blocks), count);
	rig_settle(&rigs[0]);
}

struct rig_fetch pair_fetch(unsigned count, enum frame_fetch_mode mode)
{
	const struct rig_keys keys = { .first = 1, .count = count };

	return rig_fetch(taker, 0, &keys, 1, mode, WAIT_US);
}

struct rig_batch *pair_load_begin(unsigned count)
{
	const struct rig_blocks blocks = { .first = 1, .count = count, .deadline_us = WAIT_US };

	return rig_load_begin(taker, &blocks);
}

/* All of it: until each load has ended; how many were proven. */
unsigned pair_load(unsigned count)
{
	const struct rig_blocks blocks = { .first = 1, .count = count, .deadline_us = WAIT_US };

	return rig_load(taker, &blocks);
}
