/* tests/tiers/test_nvme_simulated.c: crashes, kills, hangs of a simulated disk, from seeds. */
#include "tiers/nvme/block_io_simulated.h"
#include "tiers/nvme/extent_table.h"
#include "tiers/nvme/nvme_device.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define UNIT_BYTES (UINT64_C(64) << 10)
#define UNITS 256u
#define DEVICE_BYTES (SLOTS_OFFSET + UNITS * UNIT_BYTES)
#define SEEDS 200u
#define OPS 8u

struct rig {
	struct clock clock;
	struct block_io_simulated disk;
	struct nvme_config config;
	struct nvme_device *device;
	struct tier *tier;
	struct tier_op op[OPS];
	uint8_t *memory;
	uint64_t slot_bytes;
	struct error error;
};

static unsigned done_count;

static void op_done(struct tier_op *op)
{
	(void)op;
	done_count++;
}

static void rig_open(struct rig *rig)
{
	assert_int_equal(nvme_device_open(&rig->device, &rig->config, &rig->error), 0);
	assert_int_equal(nvme_tier_create(&rig->tier, &rig->device, 1, &rig->error), 0);
}

static void rig_init(struct rig *rig, uint64_t seed)
{
	memset(rig, 0, sizeof(*rig));
	clock_virtual_init(&rig->clock, 1000);
	assert_int_equal(
		block_io_simulated_init(&rig->disk, DEVICE_BYTES, &rig->clock, seed, &rig->error),
		0);
	rig->config = (struct nvme_config){
		.path = "simulated",
		.unit_bytes = UNIT_BYTES,
		.queue_depth = 4,
		.ops_max = OPS,
		.clock = &rig->clock,
		.io_ops = &rig->disk.ops,
		.raw_initialise = true,
	};
	rig->slot_bytes = UNIT_BYTES;
	rig->memory = aligned_alloc(4096, OPS * rig->slot_bytes);
	assert_non_null(rig->memory);
	done_count = 0;
	rig_open(rig);
	rig->config.raw_initialise = false;
}

static void rig_close(struct rig *rig)
{
	tier_close(rig->tier);
	nvme_device_close(rig->device);
}

/* What a dead process leaves: nothing is drained. */
static void rig_abandon(struct rig *rig)
{
	rig->tier->in_flight = 0;
	tier_close(rig->tier);
	free(rig->device->worker.requests);
	free(rig->device->io);
	free(rig->device->extents);
	mailbox_close(&rig->device->up);
	mailbox_close(&rig->device->down);
	free(rig->device);
}

static void rig_finish(struct rig *rig)
{
	rig_close(rig);
	block_io_simulated_finish(&rig->disk);
	free(rig->memory);
}

static void rig_submit(struct rig *rig, unsigned n, enum tier_verb verb, uint64_t bytes)
{
	rig->op[n] = (struct tier_op){ .verb = verb,
				       .offset = n * rig->slot_bytes,
				       .memory = rig->memory + n * rig->slot_bytes,
				       .memory_bytes = bytes,
				       .done = op_done };
	assert_int_equal(tier_submit(rig->tier, &rig->op[n]), 0);
}

static void rig_step(struct rig *rig)
{
	uint64_t next_us;

	nvme_device_step(rig->device, clock_now_us(&rig->clock));
	tier_poll(rig->tier, OPS);
	next_us = block_io_simulated_next_us(&rig->disk);
	if (next_us != UINT64_MAX && next_us > clock_now_us(&rig->clock))
		clock_advance(&rig->clock, next_us - clock_now_us(&rig->clock));
}

static void rig_run(struct rig *rig, unsigned count)
{
	unsigned until = done_count + count;

	for (unsigned i = 0; i < 1000 && done_count < until; i++)
		rig_step(rig);
	assert_int_equal(done_count, until);
}

static void table_submit(struct rig *rig, uint32_t generation)
{
	struct nvme_extent extents[UNITS];

	/* Two pages and more of rows, all changed, so that a crash can tear it. */
	for (unsigned i = 0; i < UNITS; i++)
		extents[i] = (struct nvme_extent){ .first_unit = i,
						   .units_count = 1,
						   .slot_bytes = 8192,
						   .generation = generation };
	nvme_extents_image(rig->device, extents, UNITS, rig->memory);
	rig_submit(rig, 0, TIER_EXTENTS, nvme_extents_image_bytes(rig->device));
}

static void a_crash_at_any_moment_keeps_a_whole_table(void **unused)
{
	unsigned kept_old = 0, kept_new = 0;

	(void)unused;
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct nvme_extent extents[UNITS];
		struct rig rig;
		unsigned written = 1 + (unsigned)(seed % 3), steps = (unsigned)(seed % 5);
		bool was_done;

		rig_init(&rig, seed);
		for (uint32_t generation = 1; generation <= written; generation++) {
			table_submit(&rig, generation);
			rig_run(&rig, 1);
			assert_int_equal(rig.op[0].result, 0);
		}
		/* The first write after an open must spare the newest copy as any other does. */
		if (seed % 2 == 0) {
			rig_close(&rig);
			rig_open(&rig);
		}
		table_submit(&rig, written + 1);
		for (unsigned step = 0; step < steps; step++)
			rig_step(&rig);
		was_done = done_count > written;
		block_io_simulated_crash(&rig.disk);
		rig_abandon(&rig);
		rig_open(&rig);
		assert_int_equal(nvme_device_extents(rig.device, extents), UNITS);
		/* What was answered is there; what was not may be. */
		if (was_done)
			assert_int_equal(extents[0].generation, written + 1);
		for (unsigned i = 0; i < UNITS; i++)
			assert_int_equal(extents[i].generation, extents[0].generation);
		assert_in_range(extents[0].generation, written, written + 1);
		kept_old += extents[0].generation == written;
		kept_new += extents[0].generation == written + 1;
		rig_finish(&rig);
	}
	assert_true(kept_old > 0 && kept_new > 0);
}

static void a_crash_loses_or_tears_what_was_not_synced(void **unused)
{
	struct rig rig;
	unsigned sectors = 0, lost = 0;

	(void)unused;
	rig_init(&rig, 11);
	memset(rig.memory, 0xee, OPS * rig.slot_bytes);
	rig_submit(&rig, 1, TIER_WRITE, rig.slot_bytes);
	rig_run(&rig, 1);
	block_io_simulated_crash(&rig.disk);
	rig_abandon(&rig);
	rig_open(&rig);
	rig_submit(&rig, 1, TIER_READ, rig.slot_bytes);
	rig_run(&rig, 1);
	for (uint64_t at = 0; at < rig.slot_bytes; at += SIMULATED_SECTOR_BYTES, sectors++)
		lost += rig.memory[rig.slot_bytes + at] == 0;
	assert_in_range(lost, 1, sectors - 1);
	rig_finish(&rig);
}

static void the_reads_of_a_killed_daemon_hold_the_lock_until_they_end(void **unused)
{
	struct nvme_device *second;
	struct rig rig;

	(void)unused;
	rig_init(&rig, 12);
	memset(rig.memory, 0x11, OPS * rig.slot_bytes);
	for (unsigned n = 0; n < 4; n++)
		rig_submit(&rig, n, TIER_READ, rig.slot_bytes);
	nvme_device_step(rig.device, clock_now_us(&rig.clock));
	block_io_simulated_kill(&rig.disk);
	rig_abandon(&rig);
	assert_int_equal(nvme_device_open(&second, &rig.config, &rig.error), -EBUSY);
	assert_int_equal(rig.memory[0], 0x11);
	clock_advance(&rig.clock, 1000);
	rig_open(&rig);
	/* The kernel wrote on, into memory that nobody was asked about any more; now it has ended.
	 */
	assert_int_equal(rig.memory[0], 0);
	assert_int_equal(block_io_simulated_next_us(&rig.disk), UINT64_MAX);
	rig_finish(&rig);
}

static void a_disk_that_hangs_is_fenced(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig, 13);
	rig.disk.is_hanging = true;
	rig_submit(&rig, 0, TIER_READ, rig.slot_bytes);
	for (unsigned i = 0; i < 40; i++) {
		rig_step(&rig);
		clock_advance(&rig.clock, 1000000);
	}
	tier_poll(rig.tier, 1);
	assert_true(nvme_device_is_fenced(rig.device));
	rig.disk.is_hanging = false;
	rig_run(&rig, 1);
	rig_finish(&rig);
}

static void a_raw_device_without_a_superblock_is_left_alone(void **unused)
{
	struct nvme_device *second;
	struct rig rig;

	(void)unused;
	rig_init(&rig, 14);
	rig_close(&rig);
	memset(rig.disk.current, 0x99, DEVICE_BYTES);
	assert_int_equal(nvme_device_open(&second, &rig.config, &rig.error), -EUCLEAN);
	assert_non_null(strstr(rig.error.text, "raw_initialise"));
	assert_int_equal(rig.disk.current[0], 0x99);
	rig.config.raw_initialise = true;
	rig_open(&rig);
	assert_true(nvme_device_is_new(rig.device));
	rig_close(&rig);
	/* Asked for again, a good one is not wiped. */
	rig_open(&rig);
	assert_false(nvme_device_is_new(rig.device));
	rig_finish(&rig);
}

static void a_crash_right_after_the_initialisation_keeps_the_device(void **unused)
{
	(void)unused;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct rig rig;

		rig_init(&rig, seed);
		block_io_simulated_crash(&rig.disk);
		rig_abandon(&rig);
		rig_open(&rig);
		assert_false(nvme_device_is_new(rig.device));
		assert_string_equal(nvme_device_note(rig.device), "");
		rig_finish(&rig);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_crash_at_any_moment_keeps_a_whole_table),
		cmocka_unit_test(a_crash_loses_or_tears_what_was_not_synced),
		cmocka_unit_test(the_reads_of_a_killed_daemon_hold_the_lock_until_they_end),
		cmocka_unit_test(a_crash_right_after_the_initialisation_keeps_the_device),
		cmocka_unit_test(a_disk_that_hangs_is_fenced),
		cmocka_unit_test(a_raw_device_without_a_superblock_is_left_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
