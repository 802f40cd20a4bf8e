/* tests/daemon/encryption_rig.c: see encryption_rig.h. */
#include "tests/daemon/encryption_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

const struct rig_blocks bench_blocks = { .first = 1, .count = BLOCKS, .version = 3 };

static void stored(struct bench *bench)
{
	bench->client = rig_register(&bench->rig, NULL);
	assert_int_equal(rig_store(bench->client, &bench_blocks), BLOCKS);
	rig_settle(&bench->rig);
	assert_int_equal(rig_figures(&bench->rig, 0, TIER_NVME).copies_whole, BLOCKS);
}

void bench_init(struct bench *bench, const char *encryption)
{
	rig_init(&bench->rig, &(struct rig_config){ .cpu_units = 4, .encryption = encryption });
	stored(bench);
}

void bench_again(struct bench *bench, bool is_killed, bool is_catalog_lost)
{
	if (is_killed)
		rig_crash(&bench->rig, RIG_KILL);
	else
		rig_stop(&bench->rig);
	if (is_catalog_lost)
		catalog_simulated_replace(rig_catalog_path(&bench->rig));
	rig_start(&bench->rig);
	for (unsigned i = 0; i < 100; i++)
		rig_pass_time(&bench->rig, 100000);
	bench->client = rig_register(&bench->rig, NULL);
}

void bench_finish(struct bench *bench)
{
	rig_settle(&bench->rig);
	rig_assert_idle(&bench->rig);
	rig_finish(&bench->rig);
}

struct slot_header *bench_on_disk(struct bench *bench, uint64_t key)
{
	return (struct slot_header *)rig_slot_bytes(
		&bench->rig, TIER_NVME, rig_slot(bench->client, TIER_NVME, 0, key));
}

unsigned bench_load(struct bench *bench, uint64_t first, unsigned count)
{
	unsigned served = rig_load(bench->client,
				   &(struct rig_blocks){ .first = first, .count = count });

	rig_settle(&bench->rig);
	return served;
}

uint64_t key_missing(struct bench *bench)
{
	return bench->rig.daemon->tenants[0].key_missing_blocks;
}
