/* tests/tiers/test_nvme.c: devices over real files: open, tables, faults, fences. The test steps
 * the device itself. */
#include "tiers/nvme/block_io_fault.h"
#include "tiers/nvme/extent_table.h"
#include "tiers/nvme/nvme.h"

#include "base/random.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define UNIT_BYTES (UINT64_C(1) << 20)
#define UNITS 8u
#define DEVICE_BYTES (SLOTS_OFFSET + UNITS * UNIT_BYTES)
#define SLOT_BYTES_TEST 69632u /* 64 KiB and a header */
#define OPS_MAX 64u
#define STEPS_MAX 100000u /* of a test that waits for real I/O */
#define WAIT_US 1000u

struct rig {
	char folder[64];
	char path[128];
	struct clock clock;
	struct block_io_fault fault;
	struct nvme_config config;
	struct nvme_device *device;
	struct tier *tier;
	struct tier_op ops[OPS_MAX];
	uint8_t *memory; /* OPS_MAX slots */
	unsigned done;
	struct error error;
};

static struct rig *the_rig; /* done() has no owner */

static void op_done(struct tier_op *op)
{
	assert_true(op >= the_rig->ops && op < the_rig->ops + OPS_MAX);
	the_rig->done++;
}

static void rig_init_at(struct rig *rig, const char *base)
{
	memset(rig, 0, sizeof(*rig));
	the_rig = rig;
	snprintf(rig->folder, sizeof(rig->folder), "%s/kvtier-nvme-XXXXXX", base);
	assert_non_null(mkdtemp(rig->folder));
	snprintf(rig->path, sizeof(rig->path), "%s/device", rig->folder);
	clock_virtual_init(&rig->clock, 1000000);
	block_io_fault_init(&rig->fault, block_io_list[0]);
	rig->config = (struct nvme_config){
		.path = rig->path,
		.bytes = DEVICE_BYTES,
		.unit_bytes = UNIT_BYTES,
		.queue_depth = 8,
		.ops_max = OPS_MAX,
		.io = "auto",
		.io_ops = &rig->fault.ops,
		.clock = &rig->clock,
	};
	rig->memory = aligned_alloc(4096, OPS_MAX * SLOT_BYTES_TEST);
	assert_non_null(rig->memory);
}

static void rig_init(struct rig *rig)
{
	const char *base = getenv("TMPDIR");

	rig_init_at(rig, base != NULL ? base : "/tmp");
}

static int rig_open(struct rig *rig)
{
	int result = nvme_device_open(&rig->device, &rig->config, &rig->error);

	if (result < 0)
		return result;
	assert_int_equal(nvme_tier_create(&rig->tier, &rig->device, 1, &rig->error), 0);
	return 0;
}

static void rig_close(struct rig *rig)
{
	if (rig->device == NULL)
		return;
	tier_close(rig->tier);
	nvme_device_close(rig->device);
	rig->device = NULL;
	rig->tier = NULL;
}

static void rig_finish(struct rig *rig)
{
	char command[128];

	rig_close(rig);
	free(rig->memory);
	snprintf(command, sizeof(command), "rm -rf '%s'", rig->folder);
	assert_int_equal(system(command), 0);
}

static struct tier_op *rig_op(struct rig *rig, unsigned n, enum tier_verb verb)
{
	struct tier_op *op = &rig->ops[n];

	memset(op, 0, sizeof(*op));
	op->verb = verb;
	op->offset = (uint64_t)n * SLOT_BYTES_TEST;
	op->memory = rig->memory + (size_t)n * SLOT_BYTES_TEST;
	op->memory_bytes = SLOT_BYTES_TEST;
	op->done = op_done;
	return op;
}

/* Steps until `count` ops more are done. */
static void rig_run(struct rig *rig, unsigned count)
{
	unsigned until = rig->done + count;

	for (unsigned i = 0; i < STEPS_MAX && rig->done < until; i++) {
		if (!nvme_device_step(rig->device, clock_now_us(&rig->clock)))
			nvme_device_wait(rig->device, WAIT_US);
		tier_poll(rig->tier, OPS_MAX);
	}
	assert_int_equal(rig->done, until);
}

static int rig_one(struct rig *rig, unsigned n, enum tier_verb verb)
{
	struct tier_op *op = rig_op(rig, n, verb);
	int result = tier_submit(rig->tier, op);

	if (result < 0)
		return result;
	rig_run(rig, 1);
	return op->result;
}

static void slot_fill(struct rig *rig, unsigned n, uint8_t value)
{
	memset(rig->memory + (size_t)n * SLOT_BYTES_TEST, value, SLOT_BYTES_TEST);
}

static bool slot_is(const struct rig *rig, unsigned n, uint8_t value)
{
	const uint8_t *slot = rig->memory + (size_t)n * SLOT_BYTES_TEST;

	return slot[0] == value && memcmp(slot, slot + 1, SLOT_BYTES_TEST - 1) == 0;
}

static int table_write(struct rig *rig, uint32_t generation)
{
	struct nvme_extent extent = { .tenant = { 7 },
				      .first_unit = 2,
				      .units_count = 3,
				      .slot_bytes = SLOT_BYTES_TEST,
				      .generation = generation };
	struct tier_op *op = rig_op(rig, 0, TIER_EXTENTS);
	int result;

	op->memory_bytes = nvme_extents_image_bytes(rig->device);
	assert_true(op->memory_bytes <= SLOT_BYTES_TEST);
	nvme_extents_image(rig->device, &extent, 1, op->memory);
	result = tier_submit(rig->tier, op);
	if (result < 0)
		return result;
	rig_run(rig, 1);
	return op->result;
}

/* The generation in the table as an open reads it; 0: no rows. */
static uint32_t table_generation(struct rig *rig)
{
	struct nvme_extent extents[UNITS];
	unsigned count = nvme_device_extents(rig->device, extents);

	assert_true(count <= 1);
	if (count == 0)
		return 0;
	assert_int_equal(extents[0].tenant[0], 7);
	assert_int_equal(extents[0].first_unit, 2);
	assert_int_equal(extents[0].units_count, 3);
	assert_int_equal(extents[0].slot_bytes, SLOT_BYTES_TEST);
	return extents[0].generation;
}

static bool exists(const struct rig *rig, const char *suffix)
{
	char path[160];

	snprintf(path, sizeof(path), "%s%s", rig->path, suffix);
	return access(path, F_OK) == 0;
}

static void file_poke(const struct rig *rig, uint64_t offset, uint64_t bytes)
{
	static const uint8_t junk[4096] = { [0 ... 4095] = 0xa5 };
	int fd = open(rig->path, O_WRONLY);

	assert_true(fd >= 0);
	for (uint64_t at = 0; at < bytes; at += sizeof(junk))
		assert_int_equal(pwrite(fd, junk, sizeof(junk), (off_t)(offset + at)),
				 sizeof(junk));
	close(fd);
}

static void a_new_file_is_made_whole_and_found_again(void **unused)
{
	struct rig rig;
	struct stat status;
	uint8_t id[DEVICE_ID_BYTES];

	(void)unused;
	rig_init(&rig);
	assert_int_equal(rig_open(&rig), 0);
	assert_true(nvme_device_is_new(rig.device));
	assert_int_equal(nvme_device_units(rig.device), UNITS);
	assert_int_equal(stat(rig.path, &status), 0);
	assert_int_equal(status.st_size, DEVICE_BYTES);
	assert_int_equal(status.st_mode & 0777, 0600);
	assert_true((uint64_t)status.st_blocks * 512 >= DEVICE_BYTES);
	assert_false(exists(&rig, ".new"));
	memcpy(id, nvme_device_id(rig.device), sizeof(id));
	rig_close(&rig);
	assert_int_equal(rig_open(&rig), 0);
	assert_false(nvme_device_is_new(rig.device));
	assert_memory_equal(id, nvme_device_id(rig.device), sizeof(id));
	assert_string_equal(nvme_device_note(rig.device), "");
	rig_finish(&rig);
}

static void what_is_written_is_read_back(void **unused)
{
	for (unsigned i = 0; block_io_list[i] != NULL; i++) {
		struct rig rig;

		(void)unused;
		rig_init(&rig);
		rig.config.io_ops = NULL;
		rig.config.io = block_io_list[i]->name;
		assert_int_equal(rig_open(&rig), 0);
		assert_non_null(strstr(nvme_device_io_name(rig.device), block_io_list[i]->name));
		for (unsigned n = 0; n < OPS_MAX; n++) {
			slot_fill(&rig, n, (uint8_t)(n + 1));
			assert_int_equal(tier_submit(rig.tier, rig_op(&rig, n, TIER_WRITE)), 0);
		}
		assert_int_equal(rig.done, 0);
		rig_run(&rig, OPS_MAX);
		memset(rig.memory, 0, OPS_MAX * SLOT_BYTES_TEST);
		for (unsigned n = 0; n < OPS_MAX; n++)
			assert_int_equal(tier_submit(rig.tier, rig_op(&rig, n, TIER_READ)), 0);
		rig_run(&rig, OPS_MAX);
		for (unsigned n = 0; n < OPS_MAX; n++)
			assert_true(rig.ops[n].result == 0 && slot_is(&rig, n, (uint8_t)(n + 1)));
		assert_int_equal(rig.tier->bytes_read, OPS_MAX * SLOT_BYTES_TEST);
		assert_int_equal(rig.tier->in_flight, 0);
		rig_finish(&rig);
	}
}

static void registered_memory_gives_the_same_bytes(void **unused)
{
	struct rig rig;
	struct nvme_memory memory;

	(void)unused;
	rig_init(&rig);
	assert_int_equal(rig_open(&rig), 0);
	/* Registered in part: slot 1 straddles the end of what is. */
	memory = (struct nvme_memory){ .start = rig.memory, .bytes = SLOT_BYTES_TEST + 8192 };
	assert_int_equal(nvme_device_register(rig.device, &memory, 1, &rig.error), 0);
	for (unsigned n = 0; n < 3; n++) {
		slot_fill(&rig, n, (uint8_t)(n + 9));
		assert_int_equal(rig_one(&rig, n, TIER_WRITE), 0);
		slot_fill(&rig, n, 0);
		assert_int_equal(rig_one(&rig, n, TIER_READ), 0);
		assert_true(slot_is(&rig, n, (uint8_t)(n + 9)));
	}
	rig_finish(&rig);
}

static void memory_that_cannot_be_registered_is_used_as_it_is(void **unused)
{
	struct rig rig;
	struct nvme_memory memory;

	(void)unused;
	rig_init(&rig);
	rig.fault.refuse_registration = true;
	assert_int_equal(rig_open(&rig), 0);
	memory = (struct nvme_memory){ .start = rig.memory, .bytes = OPS_MAX * SLOT_BYTES_TEST };
	assert_int_equal(nvme_device_register(rig.device, &memory, 1, &rig.error), 0);
	assert_null(strstr(nvme_device_io_name(rig.device), "registered buffers"));
	assert_int_equal(rig_one(&rig, 0, TIER_WRITE), 0);
	rig_finish(&rig);
}

static void the_slots_of_a_device_survive_a_restart(void **unused)
{
	struct rig rig;
	uint8_t header[SLOT_HEADER_BYTES];

	(void)unused;
	rig_init(&rig);
	assert_int_equal(rig_open(&rig), 0);
	slot_fill(&rig, 5, 0x77);
	assert_int_equal(rig_one(&rig, 5, TIER_WRITE), 0);
	assert_int_equal(table_write(&rig, 3), 0);
	rig_close(&rig);
	assert_int_equal(rig_open(&rig), 0);
	assert_int_equal(table_generation(&rig), 3);
	assert_int_equal(nvme_device_read_header(rig.device, 5 * SLOT_BYTES_TEST, header), 0);
	assert_int_equal(header[0], 0x77);
	slot_fill(&rig, 5, 0);
	assert_int_equal(rig_one(&rig, 5, TIER_READ), 0);
	assert_true(slot_is(&rig, 5, 0x77));
	rig_finish(&rig);
}

static void a_file_without_a_superblock_is_moved_aside(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	for (unsigned n = 1; n <= 2; n++) {
		char suffix[32];

		assert_int_equal(rig_open(&rig), 0);
		rig_close(&rig);
		file_poke(&rig, 0, 4096);
		/* One copy is enough. */
		assert_int_equal(rig_open(&rig), 0);
		assert_false(nvme_device_is_new(rig.device));
		rig_close(&rig);
		file_poke(&rig, SUPERBLOCK_STRIDE_BYTES, 4096);
		assert_int_equal(rig_open(&rig), 0);
		assert_true(nvme_device_is_new(rig.device));
		snprintf(suffix, sizeof(suffix), ".unreadable-%u", n);
		assert_true(exists(&rig, suffix));
		assert_non_null(strstr(nvme_device_note(rig.device), suffix));
		rig_close(&rig);
	}
	rig_finish(&rig);
}

static void another_size_or_unit_starts_anew_and_says_so(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	assert_int_equal(rig_open(&rig), 0);
	rig_close(&rig);
	rig.config.bytes += UNIT_BYTES;
	assert_int_equal(rig_open(&rig), 0);
	assert_true(nvme_device_is_new(rig.device));
	assert_int_equal(nvme_device_units(rig.device), UNITS + 1);
	assert_non_null(strstr(nvme_device_note(rig.device), "was made for"));
	rig_close(&rig);
	rig.config.unit_bytes *= 2;
	assert_int_equal(rig_open(&rig), 0);
	assert_true(nvme_device_is_new(rig.device));
	rig_close(&rig);
	/* A file that somebody cut short. */
	assert_int_equal(truncate(rig.path, (off_t)(DEVICE_BYTES / 2)), 0);
	assert_int_equal(rig_open(&rig), 0);
	assert_true(nvme_device_is_new(rig.device));
	rig_finish(&rig);
}

static void settings_that_cannot_be_are_refused_with_words(void **unused)
{
	struct rig rig;
	struct nvme_config good;

	(void)unused;
	rig_init(&rig);
	good = rig.config;
	rig.config.bytes = SLOTS_OFFSET;
	assert_int_equal(rig_open(&rig), -EINVAL);
	assert_non_null(strstr(rig.error.text, "too small"));
	rig.config = good;
	rig.config.bytes = 0;
	assert_int_equal(rig_open(&rig), -EINVAL);
	assert_non_null(strstr(rig.error.text, "size must be set"));
	rig.config = good;
	rig.config.unit_bytes = 4096;
	rig.config.bytes = SLOTS_OFFSET + (NVME_EXTENTS_MAX + 1) * UINT64_C(4096);
	assert_int_equal(rig_open(&rig), -EINVAL);
	assert_non_null(strstr(rig.error.text, "extent_bytes"));
	rig.config = good;
	rig.config.queue_depth = 0;
	assert_int_equal(rig_open(&rig), -EINVAL);
	rig.config = good;
	rig.config.path = rig.folder;
	assert_true(rig_open(&rig) < 0);
	assert_false(exists(&rig, ""));
	rig_finish(&rig);
}

static void a_failed_open_leaves_nothing_and_the_next_one_works(void **unused)
{
	bool fault_was_hit = true;

	(void)unused;
	/* With no file, with a whole one, and with one that must be moved aside. */
	for (unsigned start = 0; start < 3; start++) {
		fault_was_hit = true;
		for (unsigned nth = 1; fault_was_hit; nth++) {
			struct rig rig;
			int result;

			rig_init(&rig);
			if (start > 0) {
				assert_int_equal(rig_open(&rig), 0);
				rig_close(&rig);
			}
			if (start == 2)
				rig.config.bytes += UNIT_BYTES;
			block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_ALL, nth, 1);
			result = rig_open(&rig);
			fault_was_hit = block_io_fault_was_hit(&rig.fault);
			if (!fault_was_hit)
				assert_int_equal(result, 0);
			else if (result < 0)
				assert_true(strlen(rig.error.text) > 0);
			if (start == 1 && result == 0)
				/* A failed read of one copy is covered by the other. */
				assert_false(nvme_device_is_new(rig.device));
			rig_close(&rig);
			rig.fault.fault = BLOCK_FAULT_NONE;
			assert_int_equal(rig_open(&rig), 0);
			assert_false(exists(&rig, ".new"));
			rig_finish(&rig);
			assert_true(nth < 100);
		}
	}
}

static void a_failed_read_of_both_superblocks_moves_nothing_aside_without_room(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	assert_int_equal(rig_open(&rig), 0);
	rig_close(&rig);
	rig.config.bytes += UNIT_BYTES;
	rig.fault.errno_value = -ENOSPC;
	/* open, lock, is_at, two reads; open, lock, is_at of the new one; then the allocation. */
	block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_ALL, 9, 1);
	assert_int_equal(rig_open(&rig), -ENOSPC);
	assert_non_null(strstr(rig.error.text, "make room"));
	assert_true(exists(&rig, ""));
	assert_false(exists(&rig, ".new"));
	assert_false(exists(&rig, ".unreadable-1"));
	rig_finish(&rig);
}

static void a_torn_table_keeps_the_older_one(void **unused)
{
	(void)unused;
	for (uint32_t writes = 1; writes <= 3; writes++) {
		struct rig rig;

		rig_init(&rig);
		assert_int_equal(rig_open(&rig), 0);
		for (uint32_t generation = 1; generation <= writes; generation++)
			assert_int_equal(table_write(&rig, generation), 0);
		/* The write of the next one fails before anything reaches the disk, or tears it. */
		block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_QUEUE, 1, 1);
		assert_int_equal(table_write(&rig, writes + 1), -EIO);
		/* The first sector of it arrived, no more. */
		file_poke(&rig, TABLES_OFFSET + (writes % 2) * TABLE_STRIDE_BYTES, 4096);
		rig_close(&rig);
		assert_int_equal(rig_open(&rig), 0);
		assert_int_equal(table_generation(&rig), writes);
		rig_finish(&rig);
	}
}

static void a_failed_table_write_is_tried_again_at_the_same_place(void **unused)
{
	struct rig rig;

	(void)unused;
	/* The write fails, then its sync. */
	for (uint64_t nth = 1; nth <= 2; nth++) {
		rig_init(&rig);
		assert_int_equal(rig_open(&rig), 0);
		assert_int_equal(table_write(&rig, 1), 0);
		block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_QUEUE, nth, 1);
		assert_int_equal(table_write(&rig, 2), -EIO);
		assert_int_equal(table_write(&rig, 3), 0);
		/* It went where the failed one had gone, so without it the first one is still
		 * there. */
		rig_close(&rig);
		file_poke(&rig, TABLES_OFFSET + TABLE_STRIDE_BYTES, 4096);
		assert_int_equal(rig_open(&rig), 0);
		assert_int_equal(table_generation(&rig), 1);
		rig_finish(&rig);
	}
}

static void tables_that_cannot_be_true_start_empty(void **unused)
{
	struct rig rig;
	struct nvme_extent extents[2] = {
		{ .first_unit = 0,
		  .units_count = 3,
		  .slot_bytes = SLOT_BYTES_TEST,
		  .generation = 1 },
		{ .first_unit = 2,
		  .units_count = 1,
		  .slot_bytes = SLOT_BYTES_TEST,
		  .generation = 1 },
	};
	_Alignas(8) uint8_t image[4096];
	uint8_t id[DEVICE_ID_BYTES] = { 1 }, other[DEVICE_ID_BYTES] = { 2 };
	struct nvme_extent read_back[UNITS];

	(void)unused;
	extent_table_encode(image, sizeof(image), id, 4, extents, 1);
	assert_true(extent_table_is_valid(image, sizeof(image), id));
	assert_false(extent_table_is_valid(image, sizeof(image), other));
	assert_int_equal(extent_table_decode(image, UNITS, read_back, UNITS), 1);
	assert_int_equal(extent_table_decode(image, 2, read_back, UNITS), -EUCLEAN);
	extent_table_encode(image, sizeof(image), id, 4, extents, 2);
	assert_int_equal(extent_table_decode(image, UNITS, read_back, UNITS), -EUCLEAN);
	assert_int_equal(extent_table_decode(image, UNITS, read_back, 1), -EUCLEAN);
	extents[0].slot_bytes = 4095;
	extent_table_encode(image, sizeof(image), id, 4, extents, 1);
	assert_int_equal(extent_table_decode(image, UNITS, read_back, UNITS), -EUCLEAN);
	for (size_t bit = 0; bit < (64 + 32) * 8; bit++) {
		image[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_false(extent_table_is_valid(image, sizeof(image), id));
		image[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	rig_init(&rig);
	assert_int_equal(rig_open(&rig), 0);
	rig_close(&rig);
	file_poke(&rig, TABLES_OFFSET, 4096);
	file_poke(&rig, TABLES_OFFSET + TABLE_STRIDE_BYTES, 4096);
	assert_int_equal(rig_open(&rig), 0);
	assert_int_equal(table_generation(&rig), 0);
	assert_non_null(strstr(nvme_device_note(rig.device), "extent table"));
	rig_finish(&rig);
}

static void a_failed_op_says_so_and_the_next_one_works(void **unused)
{
	static const enum block_fault kinds[] = { BLOCK_FAULT_ERROR, BLOCK_FAULT_SHORT };
	struct rig rig;
	struct nvme_figures figures;

	(void)unused;
	rig_init(&rig);
	assert_int_equal(rig_open(&rig), 0);
	for (unsigned i = 0; i < 2; i++) {
		slot_fill(&rig, 1, 1);
		assert_int_equal(rig_one(&rig, 1, TIER_WRITE), 0);
		block_io_fault_arm(&rig.fault, kinds[i], BLOCK_FAULT_QUEUE, 1, 1);
		assert_int_equal(rig_one(&rig, 1, TIER_READ), -EIO);
		assert_int_equal(rig_one(&rig, 1, TIER_READ), 0);
		rig.fault.errno_value = -ENOSPC;
		block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_QUEUE, 1, 1);
		assert_int_equal(rig_one(&rig, 1, TIER_WRITE), -ENOSPC);
		assert_int_equal(rig_one(&rig, 1, TIER_WRITE), 0);
		rig.fault.errno_value = -EIO;
	}
	nvme_device_figures(rig.device, &figures);
	assert_int_equal(figures.read_errors, 2);
	assert_int_equal(figures.write_errors, 2);
	assert_int_equal(figures.last_error, -ENOSPC);
	assert_int_equal(figures.reads, 2);
	assert_int_equal(figures.in_flight, 0);
	assert_false(nvme_device_is_fenced(rig.device));
	rig_finish(&rig);
}

static void errors_in_a_row_fence_the_device(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	assert_int_equal(rig_open(&rig), 0);
	block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_QUEUE, 1,
			   NVME_ERRORS_RUN_MAX);
	for (unsigned i = 0; i < NVME_ERRORS_RUN_MAX; i++) {
		assert_false(nvme_device_is_fenced(rig.device));
		assert_int_equal(rig_one(&rig, i, TIER_READ), -EIO);
	}
	assert_true(nvme_device_is_fenced(rig.device));
	/* The disk is well again; the fence stays. */
	assert_int_equal(tier_submit(rig.tier, rig_op(&rig, 0, TIER_READ)), -EIO);
	assert_int_equal(tier_submit(rig.tier, rig_op(&rig, 0, TIER_WRITE)), -EIO);
	rig_finish(&rig);
}

static void scattered_errors_fence_only_within_the_window(void **unused)
{
	for (unsigned is_slow = 0; is_slow < 2; is_slow++) {
		struct rig rig;

		(void)unused;
		rig_init(&rig);
		assert_int_equal(rig_open(&rig), 0);
		for (unsigned i = 0; i < NVME_ERRORS_WINDOW_MAX; i++) {
			block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_QUEUE, 2, 1);
			assert_int_equal(rig_one(&rig, 0, TIER_READ), 0);
			assert_int_equal(rig_one(&rig, 0, TIER_READ), -EIO);
			clock_advance(&rig.clock, is_slow ? NVME_ERROR_WINDOW_US / 4 : 1);
		}
		assert_int_equal(nvme_device_is_fenced(rig.device), !is_slow);
		rig_finish(&rig);
	}
}

static void a_device_that_ends_nothing_is_fenced_and_one_that_waits_for_work_is_not(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	assert_int_equal(rig_open(&rig), 0);
	clock_advance(&rig.clock, 10 * NVME_STALL_US_MAX);
	block_io_fault_hold(&rig.fault);
	assert_int_equal(tier_submit(rig.tier, rig_op(&rig, 0, TIER_READ)), 0);
	clock_advance(&rig.clock, NVME_STALL_US_MAX);
	tier_poll(rig.tier, 1);
	assert_false(nvme_device_is_fenced(rig.device));
	clock_advance(&rig.clock, 1);
	tier_poll(rig.tier, 1);
	assert_true(nvme_device_is_fenced(rig.device));
	assert_int_equal(tier_submit(rig.tier, rig_op(&rig, 1, TIER_READ)), -EIO);
	block_io_fault_flow(&rig.fault);
	rig_run(&rig, 1);
	assert_int_equal(rig.ops[0].result, 0);
	rig_finish(&rig);
}

static void done_runs_in_poll_only_and_a_full_device_says_again(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	rig.config.ops_max = 5;
	assert_int_equal(rig_open(&rig), 0);
	block_io_fault_hold(&rig.fault);
	for (unsigned n = 0; n < 5; n++)
		assert_int_equal(tier_submit(rig.tier, rig_op(&rig, n, TIER_READ)), 0);
	assert_int_equal(tier_submit(rig.tier, rig_op(&rig, 5, TIER_READ)), -EAGAIN);
	assert_int_equal(rig.tier->in_flight, 5);
	block_io_fault_release(&rig.fault, 2);
	for (unsigned i = 0; i < 1000 && rig.fault.released > 0; i++) {
		nvme_device_step(rig.device, clock_now_us(&rig.clock));
		nvme_device_wait(rig.device, WAIT_US);
	}
	assert_int_equal(rig.done, 0);
	assert_int_equal(tier_poll(rig.tier, 1), 1);
	assert_int_equal(rig.done, 1);
	assert_false(tier_sleep(rig.tier));
	assert_int_equal(tier_poll(rig.tier, 10), 1);
	assert_true(tier_sleep(rig.tier));
	block_io_fault_flow(&rig.fault);
	rig_run(&rig, 3);
	rig_finish(&rig);
}

static void the_loop_is_woken_through_the_descriptor(void **unused)
{
	struct rig rig;
	struct pollfd watched = { .events = POLLIN };

	(void)unused;
	rig_init(&rig);
	assert_int_equal(rig_open(&rig), 0);
	watched.fd = tier_fd(rig.tier, 0);
	assert_int_equal(tier_submit(rig.tier, rig_op(&rig, 0, TIER_READ)), 0);
	assert_true(tier_sleep(rig.tier));
	assert_int_equal(poll(&watched, 1, 0), 0);
	for (unsigned i = 0; i < 1000 && poll(&watched, 1, 0) == 0; i++) {
		nvme_device_step(rig.device, clock_now_us(&rig.clock));
		nvme_device_wait(rig.device, WAIT_US);
	}
	assert_int_equal(poll(&watched, 1, 0), 1);
	assert_int_equal(tier_poll(rig.tier, 1), 1);
	assert_int_equal(poll(&watched, 1, 0), 0);
	rig_finish(&rig);
}

static void reads_go_first_and_writes_still_get_their_turn(void **unused)
{
	struct rig rig;
	unsigned first_write = 0, first_read = OPS_MAX;

	(void)unused;
	rig_init(&rig);
	rig.config.queue_depth = 1;
	assert_int_equal(rig_open(&rig), 0);
	for (unsigned n = 0; n < 20; n++)
		assert_int_equal(tier_submit(rig.tier, rig_op(&rig, n, TIER_WRITE)), 0);
	for (unsigned n = 20; n < 40; n++)
		assert_int_equal(tier_submit(rig.tier, rig_op(&rig, n, TIER_READ)), 0);
	for (unsigned order = 0; order < 40; order++) {
		unsigned before = rig.done;

		for (unsigned i = 0; i < STEPS_MAX && rig.done == before; i++) {
			nvme_device_step(rig.device, clock_now_us(&rig.clock));
			tier_poll(rig.tier, 1);
			for (unsigned n = 0; n < 40 && rig.done > before; n++) {
				if (rig.ops[n].finished_us == 0 || rig.ops[n].offset == 1)
					continue;
				if (n < 20 && first_write == 0)
					first_write = order;
				if (n >= 20 && first_read == OPS_MAX)
					first_read = order;
				rig.ops[n].offset = 1;
			}
		}
	}
	assert_int_equal(first_read, 0);
	assert_in_range(first_write, 8, 9);
	rig_finish(&rig);
}

static void a_device_in_use_is_refused_with_words(void **unused)
{
	struct rig rig;
	struct nvme_device *second = NULL;

	(void)unused;
	rig_init(&rig);
	assert_int_equal(rig_open(&rig), 0);
	rig.config.lock_wait_us_max = 4000;
	assert_int_equal(nvme_device_open(&second, &rig.config, &rig.error), -EBUSY);
	assert_non_null(strstr(rig.error.text, "in use"));
	rig_close(&rig);
	assert_int_equal(rig_open(&rig), 0);
	rig_finish(&rig);
}

static void a_filesystem_without_o_direct_is_used_buffered(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init_at(&rig, "/dev/shm");
	rig.fault.refuse_direct = true;
	assert_int_equal(rig_open(&rig), 0);
	assert_non_null(strstr(nvme_device_io_name(rig.device), "buffered"));
	slot_fill(&rig, 0, 3);
	assert_int_equal(rig_one(&rig, 0, TIER_WRITE), 0);
	slot_fill(&rig, 0, 0);
	assert_int_equal(rig_one(&rig, 0, TIER_READ), 0);
	assert_true(slot_is(&rig, 0, 3));
	rig_close(&rig);
	/* And whatever tmpfs itself says to O_DIRECT. */
	rig.config.io_ops = NULL;
	assert_int_equal(rig_open(&rig), 0);
	slot_fill(&rig, 0, 0);
	assert_int_equal(rig_one(&rig, 0, TIER_READ), 0);
	assert_true(slot_is(&rig, 0, 3));
	rig_finish(&rig);
}

static void a_read_past_the_end_of_a_file_is_an_error_not_a_part(void **unused)
{
	for (unsigned i = 0; block_io_list[i] != NULL; i++) {
		struct rig rig;

		(void)unused;
		rig_init(&rig);
		rig.config.io_ops = NULL;
		rig.config.io = block_io_list[i]->name;
		assert_int_equal(rig_open(&rig), 0);
		assert_int_equal(truncate(rig.path, (off_t)(SLOTS_OFFSET + SLOT_BYTES_TEST + 8192)),
				 0);
		assert_int_equal(rig_one(&rig, 0, TIER_READ), 0);
		assert_int_equal(rig_one(&rig, 1, TIER_READ), -EIO);
		rig_finish(&rig);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_file_is_made_whole_and_found_again),
		cmocka_unit_test(what_is_written_is_read_back),
		cmocka_unit_test(registered_memory_gives_the_same_bytes),
		cmocka_unit_test(memory_that_cannot_be_registered_is_used_as_it_is),
		cmocka_unit_test(the_slots_of_a_device_survive_a_restart),
		cmocka_unit_test(a_file_without_a_superblock_is_moved_aside),
		cmocka_unit_test(another_size_or_unit_starts_anew_and_says_so),
		cmocka_unit_test(settings_that_cannot_be_are_refused_with_words),
		cmocka_unit_test(a_failed_open_leaves_nothing_and_the_next_one_works),
		cmocka_unit_test(
			a_failed_read_of_both_superblocks_moves_nothing_aside_without_room),
		cmocka_unit_test(a_torn_table_keeps_the_older_one),
		cmocka_unit_test(a_failed_table_write_is_tried_again_at_the_same_place),
		cmocka_unit_test(tables_that_cannot_be_true_start_empty),
		cmocka_unit_test(a_failed_op_says_so_and_the_next_one_works),
		cmocka_unit_test(errors_in_a_row_fence_the_device),
		cmocka_unit_test(scattered_errors_fence_only_within_the_window),
		cmocka_unit_test(
			a_device_that_ends_nothing_is_fenced_and_one_that_waits_for_work_is_not),
		cmocka_unit_test(done_runs_in_poll_only_and_a_full_device_says_again),
		cmocka_unit_test(the_loop_is_woken_through_the_descriptor),
		cmocka_unit_test(reads_go_first_and_writes_still_get_their_turn),
		cmocka_unit_test(a_device_in_use_is_refused_with_words),
		cmocka_unit_test(a_filesystem_without_o_direct_is_used_buffered),
		cmocka_unit_test(a_read_past_the_end_of_a_file_is_an_error_not_a_part),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
