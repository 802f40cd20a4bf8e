/* tests/daemon/test_daemon_enciphering.c: blocks on their way down through a mill and a buffer:
 * each buffer and each hold comes back, whatever happens to block and disk. */
#include "daemon/server.h"
#include "tests/daemon/encryption_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* Room for one block at a time, on a slow disk: the others wait on their line. */
static void with_one_buffer_all_blocks_go_down_one_after_the_other(void **unused)
{
	struct bench bench;

	(void)unused;
	rig_init(&bench.rig, &(struct rig_config){ .cpu_units = 4, .encryption = "ephemeral",
						   .encryption_buffer_bytes = RIG_SLOT_BYTES });
	bench.rig.disk.latency_us = 1000;
	bench.client = rig_register(&bench.rig, NULL);
	assert_int_equal(rig_store(bench.client, &bench_blocks), BLOCKS);
	for (unsigned i = 0; i < 100; i++) {
		rig_pass_time(&bench.rig, 500);
		assert_true(bench.rig.daemon->encryption->bounces.count <= 1);
	}
	assert_int_equal(rig_figures(&bench.rig, 0, TIER_NVME).copies_whole, BLOCKS);
	bench_finish(&bench);
}

static void a_block_larger_than_the_buffers_stays_in_memory(void **unused)
{
	struct bench bench;

	(void)unused;
	rig_init(&bench.rig, &(struct rig_config){ .cpu_units = 4, .encryption = "ephemeral",
						   .encryption_buffer_bytes =
							   RIG_SLOT_BYTES - 4096 });
	bench.client = rig_register(&bench.rig, NULL);
	assert_int_equal(rig_store(bench.client, &bench_blocks), BLOCKS);
	rig_settle(&bench.rig);
	assert_int_equal(rig_figures(&bench.rig, 0, TIER_NVME).copies_whole, 0);
	assert_int_equal(bench.rig.daemon->counters.down_unwanted, BLOCKS);
	assert_int_equal(bench_load(&bench, 1, BLOCKS), BLOCKS);
	bench_finish(&bench);
}

/* A disk that takes four requests at once, and a second for each. */
static void disk_slow(struct bench *bench)
{
	rig_stop(&bench->rig);
	bench->rig.settings.queue_depth = 1;
	rig_start(&bench->rig);
	bench->rig.disk.latency_us = RIG_SECOND;
	bench->client = rig_register(&bench->rig, NULL);
}

static struct rig_batch *committed(struct bench *bench, const struct rig_blocks *blocks)
{
	struct rig_batch *batch = rig_store_begin(bench->client, blocks);

	for (unsigned i = 0; !batch->is_replied && i < 100; i++)
		(void)rig_step(&bench->rig);
	rig_store_commit(bench->client, batch);
	return batch;
}

/* Forgotten, or found damaged in memory. */
static void blocks_end(struct bench *bench, const struct rig_blocks *blocks, bool is_damaged)
{
	struct cache *cache = bench->rig.daemon->cache;

	for (uint64_t key = blocks->first; key < blocks->first + blocks->count; key++) {
		uint32_t entry = rig_entry(bench->client, 0, key);
		uint32_t slot = rig_slot(bench->client, TIER_CPU, 0, key);

		if (is_damaged && slot != SLOT_NONE)
			cache_slot_quarantine(cache, TIER_CPU, slot);
		else if (entry != ENTRY_NONE)
			cache_entry_drop(cache, entry);
	}
}

/* Everything but the mills. */
static void step_without_mills(struct bench *bench)
{
	struct daemon *daemon = bench->rig.daemon;

	for (unsigned i = 0; i < 10; i++) {
		(void)server_step(daemon, 0);
		(void)daemon_step(daemon);
	}
}

/* While a mill enciphers them, or while their copies wait for a disk that reads. */
static void blocks_that_end_on_their_way_down_give_everything_back(void **unused)
{
	static const struct rig_blocks more = { .first = 101, .count = BLOCKS, .version = 3 };

	(void)unused;
	for (unsigned round = 0; round < 4; round++) {
		bool is_late = round & 1;
		struct bench bench;
		struct rig_batch *load, *store;

		bench_init(&bench, "key_file");
		disk_slow(&bench);
		store = committed(&bench, &more);
		for (unsigned i = 0; bench.rig.daemon->encryption->enciphering == 0; i++) {
			assert_true(i < 100);
			step_without_mills(&bench);
			if (bench.rig.daemon->encryption->enciphering == 0)
				(void)rig_step(&bench.rig);
		}
		load = rig_load_begin(bench.client, &bench_blocks);
		step_without_mills(&bench);
		assert_int_equal(bench.rig.daemon->nvme->in_flight, 4);
		for (unsigned i = 0; is_late && i < 2; i++)
			(void)rig_step(&bench.rig);
		assert_int_equal(bench.rig.daemon->encryption->enciphering > 0, !is_late);
		assert_true(bench.rig.daemon->encryption->bounces.count > 0);
		blocks_end(&bench, &more, round & 2);
		bench.rig.disk.latency_us = 0;
		for (unsigned i = 0; i < 30; i++)
			rig_pass_time(&bench.rig, RIG_SECOND);
		rig_batch_give(load);
		rig_batch_give(store);
		assert_int_equal(bench.rig.daemon->encryption->enciphering, 0);
		assert_int_equal(bench.rig.daemon->encryption->bounces.count, 0);
		assert_int_equal(bench_load(&bench, 1, BLOCKS), BLOCKS);
		bench_finish(&bench);
	}
}

static void a_failing_disk_gives_every_buffer_back(void **unused)
{
	struct bench bench;

	(void)unused;
	bench_init(&bench, "key_file");
	block_io_fault_arm(&bench.rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_QUEUE, 1, 2);
	assert_int_equal(rig_store(bench.client,
				   &(struct rig_blocks){ .first = 101, .count = BLOCKS,
							 .version = 3 }),
			 BLOCKS);
	rig_settle(&bench.rig);
	assert_true(bench.rig.daemon->counters.down_failures > 0);
	assert_int_equal(bench.rig.daemon->encryption->bounces.count, 0);
	assert_int_equal(bench_load(&bench, 101, BLOCKS), BLOCKS);
	bench_finish(&bench);
}

static void a_damaged_header_in_memory_is_not_enciphered(void **unused)
{
	struct bench bench;
	struct rig_batch *batch;
	unsigned damaged = 0;

	(void)unused;
	rig_init(&bench.rig, &(struct rig_config){ .cpu_units = 4, .encryption = "ephemeral" });
	disk_slow(&bench);
	batch = committed(&bench, &bench_blocks);
	for (unsigned i = 0; i < 1000 && damaged == 0; i++) {
		(void)rig_step(&bench.rig);
		for (uint64_t key = 1; key <= BLOCKS; key++) {
			uint32_t slot = rig_slot(bench.client, TIER_CPU, 0, key);
			uint8_t *bytes;

			if (slot == SLOT_NONE || rig_entry(bench.client, 0, key) == ENTRY_NONE)
				continue;
			bytes = rig_slot_bytes(&bench.rig, TIER_CPU, slot);
			bytes[offsetof(struct slot_identity, payload_bytes) + 3] ^= 0x40;
			damaged++;
		}
	}
	assert_true(damaged > 0);
	bench.rig.disk.latency_us = 0;
	for (unsigned i = 0; i < 30; i++)
		rig_pass_time(&bench.rig, 1000000);
	rig_batch_give(batch);
	assert_true(bench.rig.daemon->counters.down_failures > 0);
	bench_finish(&bench);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(with_one_buffer_all_blocks_go_down_one_after_the_other),
		cmocka_unit_test(a_block_larger_than_the_buffers_stays_in_memory),
		cmocka_unit_test(blocks_that_end_on_their_way_down_give_everything_back),
		cmocka_unit_test(a_failing_disk_gives_every_buffer_back),
		cmocka_unit_test(a_damaged_header_in_memory_is_not_enciphered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
