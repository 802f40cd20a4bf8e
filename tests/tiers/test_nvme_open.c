/* tests/tiers/test_nvme_open.c: what an open finds, makes, refuses and survives; the extent table.
 */
#include "tests/tiers/nvme_rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static void a_new_file_is_made_whole_and_found_again(void **unused)
{
	struct nvme_rig rig;
	struct stat status;
	uint8_t id[DEVICE_ID_BYTES];

	(void)unused;
	nvme_rig_init(&rig);
	assert_int_equal(nvme_rig_open(&rig), 0);
	assert_true(nvme_device_is_new(rig.device));
	assert_int_equal(nvme_device_units(rig.device), NVME_RIG_UNITS);
	assert_int_equal(stat(rig.path, &status), 0);
	assert_int_equal(status.st_size, NVME_RIG_BYTES);
	assert_int_equal(status.st_mode & 0777, 0600);
	assert_true((uint64_t)status.st_blocks * 512 >= NVME_RIG_BYTES);
	assert_false(nvme_rig_has_file(&rig, ".new"));
	memcpy(id, nvme_device_id(rig.device), sizeof(id));
	nvme_rig_close(&rig);
	assert_int_equal(nvme_rig_open(&rig), 0);
	assert_false(nvme_device_is_new(rig.device));
	assert_memory_equal(id, nvme_device_id(rig.device), sizeof(id));
	assert_string_equal(nvme_device_note(rig.device), "");
	nvme_rig_finish(&rig);
}

static void the_slots_of_a_device_survive_a_restart(void **unused)
{
	struct nvme_rig rig;
	uint8_t header[SLOT_HEADER_BYTES];

	(void)unused;
	nvme_rig_init(&rig);
	assert_int_equal(nvme_rig_open(&rig), 0);
	nvme_rig_fill(&rig, 5, 0x77);
	assert_int_equal(nvme_rig_one(&rig, 5, TIER_WRITE), 0);
	assert_int_equal(nvme_rig_write_table(&rig, 3), 0);
	nvme_rig_close(&rig);
	assert_int_equal(nvme_rig_open(&rig), 0);
	assert_int_equal(nvme_rig_table_generation(&rig), 3);
	assert_int_equal(nvme_device_read_header(rig.device, 5 * NVME_RIG_SLOT_BYTES, header), 0);
	assert_int_equal(header[0], 0x77);
	nvme_rig_fill(&rig, 5, 0);
	assert_int_equal(nvme_rig_one(&rig, 5, TIER_READ), 0);
	assert_true(nvme_rig_holds(&rig, 5, 0x77));
	nvme_rig_finish(&rig);
}

static void a_file_without_a_superblock_is_moved_aside(void **unused)
{
	struct nvme_rig rig;

	(void)unused;
	nvme_rig_init(&rig);
	for (unsigned n = 1; n <= 2; n++) {
		char suffix[32];

		assert_int_equal(nvme_rig_open(&rig), 0);
		nvme_rig_close(&rig);
		nvme_rig_poke(&rig, 0, 4096);
		/* One copy is enough. */
		assert_int_equal(nvme_rig_open(&rig), 0);
		assert_false(nvme_device_is_new(rig.device));
		nvme_rig_close(&rig);
		nvme_rig_poke(&rig, SUPERBLOCK_STRIDE_BYTES, 4096);
		assert_int_equal(nvme_rig_open(&rig), 0);
		assert_true(nvme_device_is_new(rig.device));
		snprintf(suffix, sizeof(suffix), ".unreadable-%u", n);
		assert_true(nvme_rig_has_file(&rig, suffix));
		assert_non_null(strstr(nvme_device_note(rig.device), suffix));
		nvme_rig_close(&rig);
	}
	nvme_rig_finish(&rig);
}

static void another_size_or_unit_starts_anew_and_says_so(void **unused)
{
	struct nvme_rig rig;

	(void)unused;
	nvme_rig_init(&rig);
	assert_int_equal(nvme_rig_open(&rig), 0);
	nvme_rig_close(&rig);
	rig.config.bytes += NVME_RIG_UNIT_BYTES;
	assert_int_equal(nvme_rig_open(&rig), 0);
	assert_true(nvme_device_is_new(rig.device));
	assert_int_equal(nvme_device_units(rig.device), NVME_RIG_UNITS + 1);
	assert_non_null(strstr(nvme_device_note(rig.device), "was made for"));
	nvme_rig_close(&rig);
	rig.config.unit_bytes *= 2;
	assert_int_equal(nvme_rig_open(&rig), 0);
	assert_true(nvme_device_is_new(rig.device));
	nvme_rig_close(&rig);
	/* A file that somebody cut short. */
	assert_int_equal(truncate(rig.path, (off_t)(NVME_RIG_BYTES / 2)), 0);
	assert_int_equal(nvme_rig_open(&rig), 0);
	assert_true(nvme_device_is_new(rig.device));
	nvme_rig_finish(&rig);
}

static void settings_that_cannot_be_are_refused_with_words(void **unused)
{
	struct nvme_rig rig;
	struct nvme_config good;

	(void)unused;
	nvme_rig_init(&rig);
	good = rig.config;
	rig.config.bytes = SLOTS_OFFSET;
	assert_int_equal(nvme_rig_open(&rig), -EINVAL);
	assert_non_null(strstr(rig.error.text, "too small"));
	rig.config = good;
	rig.config.bytes = 0;
	assert_int_equal(nvme_rig_open(&rig), -EINVAL);
	assert_non_null(strstr(rig.error.text, "size must be set"));
	rig.config = good;
	rig.config.unit_bytes = 4096;
	rig.config.bytes = SLOTS_OFFSET + (NVME_EXTENTS_MAX + 1) * UINT64_C(4096);
	assert_int_equal(nvme_rig_open(&rig), -EINVAL);
	assert_non_null(strstr(rig.error.text, "extent_bytes"));
	rig.config = good;
	rig.config.queue_depth = 0;
	assert_int_equal(nvme_rig_open(&rig), -EINVAL);
	rig.config = good;
	rig.config.path = rig.folder;
	assert_true(nvme_rig_open(&rig) < 0);
	assert_false(nvme_rig_has_file(&rig, ""));
	nvme_rig_finish(&rig);
}

static void a_failed_open_leaves_nothing_and_the_next_one_works(void **unused)
{
	bool fault_was_hit = true;

	(void)unused;
	/* With no file, with a whole one, and with one that must be moved aside. */
	for (unsigned start = 0; start < 3; start++) {
		fault_was_hit = true;
		for (unsigned nth = 1; fault_was_hit; nth++) {
			struct nvme_rig rig;
			int result;

			nvme_rig_init(&rig);
			if (start > 0) {
				assert_int_equal(nvme_rig_open(&rig), 0);
				nvme_rig_close(&rig);
			}
			if (start == 2)
				rig.config.bytes += NVME_RIG_UNIT_BYTES;
			block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_ALL, nth, 1);
			result = nvme_rig_open(&rig);
			fault_was_hit = block_io_fault_was_hit(&rig.fault);
			if (!fault_was_hit)
				assert_int_equal(result, 0);
			else if (result < 0)
				assert_true(strlen(rig.error.text) > 0);
			if (start == 1 && result == 0)
				/* A failed read of one copy is covered by the other. */
				assert_false(nvme_device_is_new(rig.device));
			nvme_rig_close(&rig);
			rig.fault.fault = BLOCK_FAULT_NONE;
			assert_int_equal(nvme_rig_open(&rig), 0);
			assert_false(nvme_rig_has_file(&rig, ".new"));
			nvme_rig_finish(&rig);
			assert_true(nth < 100);
		}
	}
}

static void a_failed_read_of_both_superblocks_moves_nothing_aside_without_room(void **unused)
{
	struct nvme_rig rig;

	(void)unused;
	nvme_rig_init(&rig);
	assert_int_equal(nvme_rig_open(&rig), 0);
	nvme_rig_close(&rig);
	rig.config.bytes += NVME_RIG_UNIT_BYTES;
	rig.fault.errno_value = -ENOSPC;
	/* open, lock, is_at, two reads; open, lock, is_at of the new one; then the allocation. */
	block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_ALL, 9, 1);
	assert_int_equal(nvme_rig_open(&rig), -ENOSPC);
	assert_non_null(strstr(rig.error.text, "make room"));
	assert_true(nvme_rig_has_file(&rig, ""));
	assert_false(nvme_rig_has_file(&rig, ".new"));
	assert_false(nvme_rig_has_file(&rig, ".unreadable-1"));
	nvme_rig_finish(&rig);
}

/* A disk that comes back has its blocks, then. */
static void a_failed_read_of_both_superblocks_makes_nothing_anew(void **unused)
{
	struct nvme_rig rig;

	(void)unused;
	nvme_rig_init(&rig);
	assert_int_equal(nvme_rig_open(&rig), 0);
	nvme_rig_close(&rig);
	/* open, lock, is_at; then the two reads. */
	block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_ALL, 4, 2);
	assert_int_equal(nvme_rig_open(&rig), -EIO);
	assert_non_null(strstr(rig.error.text, "cannot be read"));
	assert_false(nvme_rig_has_file(&rig, ".unreadable-1"));
	rig.fault.fault = BLOCK_FAULT_NONE;
	assert_int_equal(nvme_rig_open(&rig), 0);
	assert_false(nvme_device_is_new(rig.device));
	nvme_rig_finish(&rig);
}

/* Taken for empty, it would get a table that is older than the one that nobody could read. */
static void tables_that_cannot_be_read_are_not_taken_for_empty(void **unused)
{
	struct nvme_rig rig;

	(void)unused;
	nvme_rig_init(&rig);
	assert_int_equal(nvme_rig_open(&rig), 0);
	assert_int_equal(nvme_rig_write_table(&rig, 3), 0);
	assert_int_equal(nvme_rig_write_table(&rig, 4), 0);
	nvme_rig_close(&rig);
	/* open, lock, is_at, two superblocks; then the two tables. */
	block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_ALL, 6, 2);
	assert_int_equal(nvme_rig_open(&rig), -EIO);
	assert_non_null(strstr(rig.error.text, "tables cannot be read"));
	rig.fault.fault = BLOCK_FAULT_NONE;
	assert_int_equal(nvme_rig_open(&rig), 0);
	assert_int_equal(nvme_rig_table_generation(&rig), 4);
	nvme_rig_finish(&rig);
}

static void a_device_in_use_is_refused_with_words(void **unused)
{
	struct nvme_rig rig;
	struct nvme_device *second = NULL;

	(void)unused;
	nvme_rig_init(&rig);
	assert_int_equal(nvme_rig_open(&rig), 0);
	rig.config.lock_wait_us_max = 4000;
	assert_int_equal(nvme_device_open(&second, &rig.config, &rig.error), -EBUSY);
	assert_non_null(strstr(rig.error.text, "in use"));
	nvme_rig_close(&rig);
	assert_int_equal(nvme_rig_open(&rig), 0);
	nvme_rig_finish(&rig);
}

static void a_torn_table_keeps_the_older_one(void **unused)
{
	(void)unused;
	for (uint32_t writes = 1; writes <= 3; writes++) {
		struct nvme_rig rig;

		nvme_rig_init(&rig);
		assert_int_equal(nvme_rig_open(&rig), 0);
		for (uint32_t generation = 1; generation <= writes; generation++)
			assert_int_equal(nvme_rig_write_table(&rig, generation), 0);
		/* The write of the next one fails before anything reaches the disk, or tears it. */
		block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_QUEUE, 1, 1);
		assert_int_equal(nvme_rig_write_table(&rig, writes + 1), -EIO);
		/* The first sector of it arrived, no more. */
		nvme_rig_poke(&rig, TABLES_OFFSET + (writes % 2) * TABLE_STRIDE_BYTES, 4096);
		nvme_rig_close(&rig);
		assert_int_equal(nvme_rig_open(&rig), 0);
		assert_int_equal(nvme_rig_table_generation(&rig), writes);
		nvme_rig_finish(&rig);
	}
}

static void a_failed_table_write_is_tried_again_at_the_same_place(void **unused)
{
	struct nvme_rig rig;

	(void)unused;
	/* The write fails, then its sync. */
	for (uint64_t nth = 1; nth <= 2; nth++) {
		nvme_rig_init(&rig);
		assert_int_equal(nvme_rig_open(&rig), 0);
		assert_int_equal(nvme_rig_write_table(&rig, 1), 0);
		block_io_fault_arm(&rig.fault, BLOCK_FAULT_ERROR, BLOCK_FAULT_QUEUE, nth, 1);
		assert_int_equal(nvme_rig_write_table(&rig, 2), -EIO);
		assert_int_equal(nvme_rig_write_table(&rig, 3), 0);
		/* It went where the failed one had gone, so without it the first one is still
		 * there. */
		nvme_rig_close(&rig);
		nvme_rig_poke(&rig, TABLES_OFFSET + TABLE_STRIDE_BYTES, 4096);
		assert_int_equal(nvme_rig_open(&rig), 0);
		assert_int_equal(nvme_rig_table_generation(&rig), 1);
		nvme_rig_finish(&rig);
	}
}

static void tables_that_cannot_be_true_start_empty(void **unused)
{
	struct nvme_rig rig;
	struct nvme_extent extents[2] = {
		{ .first_unit = 0,
		  .units_count = 3,
		  .slot_bytes = NVME_RIG_SLOT_BYTES,
		  .generation = 1 },
		{ .first_unit = 2,
		  .units_count = 1,
		  .slot_bytes = NVME_RIG_SLOT_BYTES,
		  .generation = 1 },
	};
	_Alignas(8) uint8_t image[4096];
	uint8_t id[DEVICE_ID_BYTES] = { 1 }, other[DEVICE_ID_BYTES] = { 2 };
	struct nvme_extent read_back[NVME_RIG_UNITS];

	(void)unused;
	extent_table_encode(image, sizeof(image), id, 4, extents, 1);
	assert_true(extent_table_is_valid(image, sizeof(image), id));
	assert_false(extent_table_is_valid(image, sizeof(image), other));
	assert_int_equal(extent_table_decode(image, NVME_RIG_UNITS, read_back, NVME_RIG_UNITS), 1);
	assert_int_equal(extent_table_decode(image, 2, read_back, NVME_RIG_UNITS), -EUCLEAN);
	extent_table_encode(image, sizeof(image), id, 4, extents, 2);
	assert_int_equal(extent_table_decode(image, NVME_RIG_UNITS, read_back, NVME_RIG_UNITS),
			 -EUCLEAN);
	assert_int_equal(extent_table_decode(image, NVME_RIG_UNITS, read_back, 1), -EUCLEAN);
	extents[0].slot_bytes = 4095;
	extent_table_encode(image, sizeof(image), id, 4, extents, 1);
	assert_int_equal(extent_table_decode(image, NVME_RIG_UNITS, read_back, NVME_RIG_UNITS),
			 -EUCLEAN);
	for (size_t bit = 0; bit < (64 + 32) * 8; bit++) {
		image[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_false(extent_table_is_valid(image, sizeof(image), id));
		image[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	nvme_rig_init(&rig);
	assert_int_equal(nvme_rig_open(&rig), 0);
	nvme_rig_close(&rig);
	nvme_rig_poke(&rig, TABLES_OFFSET, 4096);
	nvme_rig_poke(&rig, TABLES_OFFSET + TABLE_STRIDE_BYTES, 4096);
	assert_int_equal(nvme_rig_open(&rig), 0);
	assert_int_equal(nvme_rig_table_generation(&rig), 0);
	assert_non_null(strstr(nvme_device_note(rig.device), "extent table"));
	nvme_rig_finish(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_file_is_made_whole_and_found_again),
		cmocka_unit_test(the_slots_of_a_device_survive_a_restart),
		cmocka_unit_test(a_file_without_a_superblock_is_moved_aside),
		cmocka_unit_test(another_size_or_unit_starts_anew_and_says_so),
		cmocka_unit_test(settings_that_cannot_be_are_refused_with_words),
		cmocka_unit_test(a_failed_open_leaves_nothing_and_the_next_one_works),
		cmocka_unit_test(
			a_failed_read_of_both_superblocks_moves_nothing_aside_without_room),
		cmocka_unit_test(a_failed_read_of_both_superblocks_makes_nothing_anew),
		cmocka_unit_test(tables_that_cannot_be_read_are_not_taken_for_empty),
		cmocka_unit_test(a_device_in_use_is_refused_with_words),
		cmocka_unit_test(a_torn_table_keeps_the_older_one),
		cmocka_unit_test(a_failed_table_write_is_tried_again_at_the_same_place),
		cmocka_unit_test(tables_that_cannot_be_true_start_empty),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
