/* tests/tiers/test_catalog.c: rows as bytes, setting a database aside, and what each back end must
 * do. */
#include "tiers/nvme/catalog.h"

#include "tiers/nvme/catalog_aside.h"
#include "tiers/nvme/catalog_row.h"
#include "tiers/nvme/catalog_simulated.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct rig {
	char folder[64], path[128];
};

static void rig_init(struct rig *rig)
{
	const char *temporary = getenv("TMPDIR");

	snprintf(rig->folder, sizeof(rig->folder), "%.40s/catalog-XXXXXX",
		 temporary != NULL ? temporary : "/tmp");
	assert_non_null(mkdtemp(rig->folder));
	snprintf(rig->path, sizeof(rig->path), "%s/catalog", rig->folder);
}

static void rig_finish(struct rig *rig)
{
	char command[128];

	catalog_simulated_forget_all();
	snprintf(command, sizeof(command), "rm -rf '%s'", rig->folder);
	assert_int_equal(system(command), 0);
}

static bool is_there(const char *path, const char *suffix)
{
	char name[200];
	struct stat status;

	snprintf(name, sizeof(name), "%s%s", path, suffix);
	return stat(name, &status) == 0;
}

/* Every byte of every field differs from its neighbours', so that a swapped or forgotten one shows.
 */
static struct catalog_record record_of(uint64_t offset)
{
	struct catalog_record record;
	uint8_t *bytes = (uint8_t *)&record;

	memset(&record, 0, sizeof(record));
	for (size_t n = 0; n < offsetof(struct catalog_record, segments_count) + 2; n++)
		bytes[n] = (uint8_t)(n * 37 + 11);
	memset(record.device, 5, sizeof(record.device));
	record.offset = offset;
	return record;
}

static void a_row_comes_back_as_it_was(void **unused)
{
	struct catalog_record record = record_of(UINT64_C(0x0102030405060708)), back;
	uint8_t key[CATALOG_KEY_BYTES], value[CATALOG_VALUE_BYTES];

	(void)unused;
	catalog_key_pack(key, record.device, record.offset);
	catalog_value_pack(value, key, &record);
	assert_int_equal(key[16], 1); /* big-endian: rows sort by place */
	assert_true(catalog_row_unpack(key, sizeof(key), value, sizeof(value), &back));
	assert_memory_equal(&back, &record, sizeof(record));
}

static void any_flipped_bit_of_a_row_is_refused(void **unused)
{
	struct catalog_record record = record_of(4096), back;
	uint8_t row[CATALOG_KEY_BYTES + CATALOG_VALUE_BYTES];

	(void)unused;
	catalog_key_pack(row, record.device, record.offset);
	catalog_value_pack(row + CATALOG_KEY_BYTES, row, &record);
	for (size_t bit = 0; bit < sizeof(row) * 8; bit++) {
		row[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		assert_false(catalog_row_unpack(row, CATALOG_KEY_BYTES, row + CATALOG_KEY_BYTES,
						CATALOG_VALUE_BYTES, &back));
		row[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
	assert_false(catalog_row_unpack(row, CATALOG_KEY_BYTES, row + CATALOG_KEY_BYTES,
					CATALOG_VALUE_BYTES - 1, &back));
	assert_false(catalog_row_unpack(row, CATALOG_KEY_BYTES - 1, row + CATALOG_KEY_BYTES,
					CATALOG_VALUE_BYTES, &back));
}

static void at_most_one_unreadable_database_is_kept(void **unused)
{
	struct rig rig;
	struct error error;
	char name[200];

	(void)unused;
	rig_init(&rig);
	assert_int_equal(catalog_set_aside(rig.path, &error), 0); /* nothing there: no failure */
	for (unsigned n = 1; n <= 3; n++) {
		assert_int_equal(mkdir(rig.path, 0700), 0);
		snprintf(name, sizeof(name), "%s/000001.sst", rig.path);
		close(open(name, O_CREAT | O_WRONLY, 0600));
		assert_int_equal(catalog_set_aside(rig.path, &error), 0);
		assert_false(is_there(rig.path, ""));
	}
	assert_false(is_there(rig.path, ".unreadable-1"));
	assert_false(is_there(rig.path, ".unreadable-2"));
	assert_true(is_there(rig.path, ".unreadable-3/000001.sst"));
	rig_finish(&rig);
}

static void a_database_that_kills_its_process_again_and_again_is_hopeless(void **unused)
{
	struct rig rig;
	struct error error;
	bool hopeless;

	(void)unused;
	rig_init(&rig);
	for (unsigned n = 0; n < CATALOG_ATTEMPTS_MAX; n++) {
		assert_int_equal(catalog_attempt_begin(rig.path, &hopeless, &error), 0);
		assert_false(hopeless);
	}
	assert_int_equal(catalog_attempt_begin(rig.path, &hopeless, &error), 0);
	assert_true(hopeless);
	catalog_attempt_succeeded(rig.path);
	assert_int_equal(catalog_attempt_begin(rig.path, &hopeless, &error), 0);
	assert_false(hopeless);
	catalog_attempt_is_hopeless(rig.path);
	assert_int_equal(catalog_attempt_begin(rig.path, &hopeless, &error), 0);
	assert_true(hopeless);
	rig_finish(&rig);
}

/* ---- what each back end must do ---- */

struct seen {
	uint64_t offsets[64];
	unsigned count, stop_at;
};

static bool note_row(void *owner, const struct catalog_record *record)
{
	struct seen *seen = owner;
	struct catalog_record expected = record_of(record->offset);

	assert_true(seen->count < 64);
	expected.tokens = record->tokens;
	assert_memory_equal(record, &expected, sizeof(expected));
	seen->offsets[seen->count++] = record->offset;
	return seen->count != seen->stop_at;
}

static struct seen seen_in(const struct catalog_ops *ops, void *catalog, unsigned stop_at)
{
	struct seen seen = { .stop_at = stop_at };
	struct catalog_scan scan = { .row = note_row, .owner = &seen };
	struct error error;

	assert_int_equal(ops->scan(catalog, &scan, &error), 0);
	assert_int_equal(scan.skipped, 0);
	return seen;
}

static struct catalog_message message_of(enum catalog_verb verb, uint64_t offset)
{
	return (struct catalog_message){ .verb = verb, .record = record_of(offset) };
}

static void back_end_keeps_its_contract(const struct catalog_ops *ops)
{
	struct catalog_message batch[] = {
		message_of(CATALOG_PUT, 0x10000), message_of(CATALOG_PUT, 0xff),
		message_of(CATALOG_PUT, 0x200),   message_of(CATALOG_DELETE, 0x200),
		message_of(CATALOG_DELETE, 7),    message_of(CATALOG_PUT, 7),
		message_of(CATALOG_MARK, 0),
	};
	struct catalog_identity first, second;
	struct error error = { 0 };
	struct rig rig;
	void *catalog;

	rig_init(&rig);
	assert_int_equal(ops->open(&catalog, rig.path, &error), 0);
	ops->identify(catalog, &first);
	assert_false(first.is_complete);
	for (unsigned again = 0; again < 2; again++) /* a batch may be applied twice */
		assert_int_equal(ops->write(catalog, batch, 7, &error), 0);
	ops->close(catalog);
	assert_int_equal(ops->open(&catalog, rig.path, &error), 0);
	ops->identify(catalog, &second);
	assert_true(second.is_complete);
	assert_memory_equal(first.id, second.id, sizeof(first.id));
	struct seen seen = seen_in(ops, catalog, 0);
	assert_int_equal(seen.count, 3);
	assert_int_equal(seen.offsets[0], 7);
	assert_int_equal(seen.offsets[1], 0xff);
	assert_int_equal(seen.offsets[2], 0x10000);
	assert_int_equal(seen_in(ops, catalog, 2).count, 2);
	assert_int_equal(ops->clear(catalog, &error), 0);
	assert_int_equal(seen_in(ops, catalog, 0).count, 0);
	ops->identify(catalog, &second);
	assert_false(second.is_complete);
	assert_memory_not_equal(first.id, second.id, sizeof(first.id));
	ops->close(catalog);
	ops->close(NULL);
	rig_finish(&rig);
}

static void the_simulated_back_end_keeps_the_contract(void **unused)
{
	(void)unused;
	back_end_keeps_its_contract(&catalog_simulated_ops);
}

static void the_rocksdb_back_end_keeps_the_contract(void **unused)
{
	(void)unused;
#if HAVE_ROCKSDB
	back_end_keeps_its_contract(&catalog_rocksdb_ops);
#else
	print_message("skipped: built without RocksDB\n");
	skip();
#endif
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_row_comes_back_as_it_was),
		cmocka_unit_test(any_flipped_bit_of_a_row_is_refused),
		cmocka_unit_test(at_most_one_unreadable_database_is_kept),
		cmocka_unit_test(a_database_that_kills_its_process_again_and_again_is_hopeless),
		cmocka_unit_test(the_simulated_back_end_keeps_the_contract),
		cmocka_unit_test(the_rocksdb_back_end_keeps_the_contract),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
