/* tests/daemon/test_journal_damage.c: no damage to the journal's file ever lowers a floor. */
#include "tests/daemon/journal_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void any_flipped_bit_of_a_record_is_noticed(void **unused)
{
	struct journal_rig *rig = journal_rig_create();
	struct journal_record record;
	struct journal_image image;
	uint8_t id[8], other_id[8];

	(void)unused;
	journal_rig_fill(rig);
	journal_image_read(rig, &image);
	assert_int_equal(image.count, 11 * JOURNAL_RECORD_BYTES);
	assert_true(journal_head_unpack(image.bytes, id));
	for (size_t bit = 0; bit < image.count * 8; bit++) {
		uint64_t number = bit / 8 / JOURNAL_RECORD_BYTES;
		uint8_t *bytes = image.bytes + number * JOURNAL_RECORD_BYTES;
		bool is_head = number == 0;

		image.bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		assert_false(is_head ? journal_head_unpack(bytes, other_id)
				     : journal_record_unpack(bytes, id, number, &record));
		image.bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		assert_true(is_head ? journal_head_unpack(bytes, other_id)
				    : journal_record_unpack(bytes, id, number, &record));
	}
	journal_rig_destroy(rig);
}

static void a_damaged_byte_anywhere_forgets_everything_and_never_less(void **unused)
{
	struct journal_rig *rig = journal_rig_create();
	struct journal_image image, flipped;

	(void)unused;
	assert_int_equal(journal_rig_write(rig, JOURNAL_SPACE, 0, 1, 21), 0);
	assert_int_equal(journal_rig_write(rig, JOURNAL_TENANT, 1, 0, 22), 0);
	journal_image_read(rig, &image);
	for (size_t byte = 0; byte < image.count; byte += 7) {
		flipped = image;
		flipped.bytes[byte] ^= (uint8_t)(1u << (byte % 8));
		journal_rig_close(rig);
		journal_image_write(rig->path, &flipped, flipped.count);
		assert_int_equal(journal_rig_open(rig, false), 0);
		journal_rig_expect_all_forgotten(rig);
		if (byte % 91 != 0)
			continue;
		uint64_t all = rig->told.all;
		journal_rig_reopen(rig); /* and it stays forgotten */
		assert_int_equal(journal_finding(rig->journal), JOURNAL_FINE);
		assert_int_equal(rig->told.all, all);
	}
	journal_rig_destroy(rig);
}

static void a_torn_tail_is_dropped_and_nothing_else(void **unused)
{
	struct journal_rig *rig = journal_rig_create();
	struct journal_image image, torn;

	(void)unused;
	journal_rig_fill(rig);
	journal_image_read(rig, &image);
	assert_int_equal(journal_rig_write(rig, JOURNAL_SPACE, 0, 0, 50), 0);
	journal_image_read(rig, &torn);
	for (size_t count = image.count; count < torn.count; count += 11) {
		journal_rig_close(rig);
		journal_image_write(rig->path, &torn, count);
		assert_int_equal(journal_rig_open(rig, false), 0);
		assert_int_equal(journal_finding(rig->journal),
				 count == image.count ? JOURNAL_FINE : JOURNAL_TORN_TAIL);
		journal_rig_expect_filled(rig);
		assert_int_equal(journal_rig_write(rig, JOURNAL_SPACE, 0, 3, 60), 0);
		journal_rig_reopen(rig);
		assert_int_equal(journal_finding(rig->journal), JOURNAL_FINE);
		assert_int_equal(journal_rig_floor(&rig->told, 0, 3), 60);
		assert_int_equal(journal_rig_floor(&rig->told, 0, 1), 21);
	}
	journal_rig_destroy(rig);
}

static void a_whole_last_record_that_is_damaged_forgets_everything(void **unused)
{
	struct journal_rig *rig = journal_rig_create();
	struct journal_image image;

	(void)unused;
	journal_rig_fill(rig);
	journal_image_read(rig, &image);
	memset(image.bytes + image.count - JOURNAL_RECORD_BYTES, 0, JOURNAL_RECORD_BYTES);
	journal_rig_close(rig);
	journal_image_write(rig->path, &image, image.count);
	assert_int_equal(journal_rig_open(rig, false), 0);
	journal_rig_expect_all_forgotten(rig);
	journal_rig_destroy(rig);
}

static void a_missing_doubled_or_foreign_record_forgets_everything(void **unused)
{
	struct journal_rig *rig = journal_rig_create(), *other = journal_rig_create();
	struct journal_image image, foreign, changed;

	(void)unused;
	journal_rig_fill(rig);
	journal_rig_fill(other);
	journal_image_read(rig, &image);
	journal_image_read(other, &foreign);
	for (unsigned way = 0; way < 3; way++) {
		uint8_t *third = changed.bytes + 3 * JOURNAL_RECORD_BYTES;
		changed = image;
		if (way == 0)
			memmove(third, third + JOURNAL_RECORD_BYTES,
				image.count - 4 * JOURNAL_RECORD_BYTES);
		else if (way == 1)
			memcpy(third + JOURNAL_RECORD_BYTES, third, JOURNAL_RECORD_BYTES);
		else
			memcpy(third, foreign.bytes + 3 * JOURNAL_RECORD_BYTES,
			       JOURNAL_RECORD_BYTES);
		journal_rig_close(rig);
		journal_image_write(rig->path, &changed,
				    image.count - (way == 0 ? JOURNAL_RECORD_BYTES : 0));
		assert_int_equal(journal_rig_open(rig, false), 0);
		journal_rig_expect_all_forgotten(rig);
	}
	journal_rig_destroy(other);
	journal_rig_destroy(rig);
}

static void a_missing_or_empty_file_later_than_the_first_start_forgets_everything(void **unused)
{
	struct journal_rig *rig = journal_rig_create();

	(void)unused;
	journal_rig_fill(rig);
	journal_rig_close(rig);
	assert_int_equal(unlink(rig->path), 0);
	assert_int_equal(journal_rig_open(rig, false), 0);
	journal_rig_expect_all_forgotten(rig);
	journal_rig_close(rig);
	assert_int_equal(truncate(rig->path, 0), 0);
	assert_int_equal(journal_rig_open(rig, false), 0);
	journal_rig_expect_all_forgotten(rig);
	journal_rig_close(rig);
	assert_int_equal(truncate(rig->path, 0), 0);
	assert_int_equal(journal_rig_open(rig, true),
			 0); /* it is there, so this is no first start */
	journal_rig_expect_all_forgotten(rig);
	journal_rig_destroy(rig);
}

static void an_unreadable_file_is_kept_aside(void **unused)
{
	struct journal_rig *rig = journal_rig_create();
	struct journal_image image, aside;
	char path[160];

	(void)unused;
	journal_rig_fill(rig);
	journal_image_read(rig, &image);
	image.bytes[200] ^= 1;
	journal_rig_close(rig);
	journal_image_write(rig->path, &image, image.count);
	assert_int_equal(journal_rig_open(rig, false), 0);
	snprintf(path, sizeof(path), "%s.unreadable", rig->path);
	FILE *file = fopen(path, "r");
	assert_non_null(file);
	aside.count = fread(aside.bytes, 1, sizeof(aside.bytes), file);
	fclose(file);
	assert_int_equal(aside.count, image.count);
	assert_memory_equal(aside.bytes, image.bytes, image.count);
	journal_rig_destroy(rig);
}

/* Killed between the second name and the new file, or the new file could not be written. */
static void a_start_that_died_while_keeping_a_file_aside_does_not_stop_the_next(void **unused)
{
	struct journal_rig *rig = journal_rig_create();
	char path[160];

	(void)unused;
	journal_rig_fill(rig);
	journal_rig_close(rig);
	snprintf(path, sizeof(path), "%s.unreadable", rig->path);
	assert_int_equal(link(rig->path, path), 0);
	assert_int_equal(journal_rig_open(rig, false), 0);
	journal_rig_expect_filled(rig);
	journal_rig_close(rig);
	/* Under a name that is not ours it is somebody's doing. */
	snprintf(path, sizeof(path), "%s.other", rig->path);
	assert_int_equal(link(rig->path, path), 0);
	assert_true(journal_rig_open(rig, false) < 0);
	assert_int_equal(unlink(path), 0);
	journal_rig_destroy(rig);
}

static void a_salvaged_floor_is_below_the_new_one_whatever_the_wall_clock_says(void **unused)
{
	struct journal_rig *rig = journal_rig_create();
	struct journal_image image;
	uint64_t high = UINT64_C(1) << 30; /* far above any wall clock */

	(void)unused;
	assert_int_equal(journal_rig_write(rig, JOURNAL_SPACE, 0, 0, 3), 0);
	assert_int_equal(journal_rig_write(rig, JOURNAL_SPACE, 0, 1, high), 0);
	journal_image_read(rig, &image);
	image.bytes[JOURNAL_RECORD_BYTES + 70] ^= 4;
	journal_rig_close(rig);
	journal_image_write(rig->path, &image, image.count);
	assert_int_equal(journal_rig_open(rig, false), 0);
	assert_true(rig->told.all > high);
	journal_rig_destroy(rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_flipped_bit_of_a_record_is_noticed),
		cmocka_unit_test(a_damaged_byte_anywhere_forgets_everything_and_never_less),
		cmocka_unit_test(a_torn_tail_is_dropped_and_nothing_else),
		cmocka_unit_test(a_whole_last_record_that_is_damaged_forgets_everything),
		cmocka_unit_test(a_missing_doubled_or_foreign_record_forgets_everything),
		cmocka_unit_test(
			a_missing_or_empty_file_later_than_the_first_start_forgets_everything),
		cmocka_unit_test(an_unreadable_file_is_kept_aside),
		cmocka_unit_test(
			a_start_that_died_while_keeping_a_file_aside_does_not_stop_the_next),
		cmocka_unit_test(
			a_salvaged_floor_is_below_the_new_one_whatever_the_wall_clock_says),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
