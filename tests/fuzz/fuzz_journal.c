/* tests/fuzz/fuzz_journal.c: any bytes as the journal's file: a whole one says what its records
 * say, any other one forgets everything, and nothing is ever lowered. */
#include "daemon/journal_file.h"

#include "base/checksum.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The first byte of the input: what is mended in each record, as no input would get past the
 * checksums by chance. */
enum { MEND_CRC = 1, MEND_FRAME = 2, MEND_FLOOR = 4 };

#define RECORDS_MAX 100u /* of an input: enough for a rewrite */

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes);

/* A fuzzer waits for no disk. */
int fsync(int fd)
{
	(void)fd;
	return 0;
}

int fdatasync(int fd)
{
	(void)fd;
	return 0;
}

static char folder[128], path[160];

static void file_remove(void)
{
	static const char *const endings[] = { "", ".new", ".unreadable" };

	for (unsigned i = 0; i < 3; i++) {
		char name[192];

		snprintf(name, sizeof(name), "%s%s", path, endings[i]);
		unlink(name);
	}
}

static void folder_remove(void)
{
	file_remove();
	rmdir(folder);
}

static bool folder_make(void)
{
	const char *base = getenv("TMPDIR");

	if (folder[0] != '\0')
		return true;
	snprintf(folder, sizeof(folder), "%.80s/fuzz-journal-XXXXXX", base != NULL ? base : "/tmp");
	if (mkdtemp(folder) == NULL)
		return false;
	snprintf(path, sizeof(path), "%s/journal", folder);
	atexit(folder_remove);
	return true;
}

static bool file_write(const uint8_t *bytes, size_t count)
{
	FILE *file = fopen(path, "w");
	bool is_written;

	if (file == NULL)
		return false;
	is_written = fwrite(bytes, 1, count, file) == count;
	return fclose(file) == 0 && is_written;
}

static void number_put(uint8_t *at, uint64_t number, unsigned bytes)
{
	for (unsigned n = 0; n < bytes; n++)
		at[n] = (uint8_t)(number >> (8 * n));
}

/* The places are those of journal_file.c; a record with MEND_FRAME keeps kind, names and floor. */
static void record_mend(uint8_t *record, uint64_t number, unsigned mode)
{
	uint8_t head[JOURNAL_RECORD_BYTES];

	if (mode & MEND_FRAME) {
		journal_head_pack(head, (const uint8_t *)"fuzzing!");
		memcpy(record, head, number == 0 ? 24 : 6);
		memcpy(record + 8, head + 8, 8);
		number_put(record + 16, number, 8);
	}
	if (mode & MEND_FLOOR)
		memset(record + 60, 0, 4);
	if (mode & MEND_CRC)
		number_put(record + JOURNAL_RECORD_BYTES - 4,
			   crc32c(record, JOURNAL_RECORD_BYTES - 4), 4);
}

static void note(void *owner, const struct journal_record *record)
{
	journal_floors_raise(owner, record);
}

/* Of an earlier input nothing may be left; the records themselves are many, and do not count. */
static void floors_clear(struct journal_floors *floors)
{
	floors->all = floors->reserved = floors->count = 0;
}

/* What the file says when it is whole; false: it is not. */
static bool floors_expected(const uint8_t *bytes, size_t count, struct journal_floors *floors)
{
	struct journal_record record;
	uint8_t id[8];

	floors_clear(floors);
	if (count < JOURNAL_RECORD_BYTES || !journal_head_unpack(bytes, id))
		return false;
	for (uint64_t n = 1; n < count / JOURNAL_RECORD_BYTES; n++) {
		if (!journal_record_unpack(bytes + n * JOURNAL_RECORD_BYTES, id, n, &record))
			return false;
		journal_floors_raise(floors, &record);
	}
	return true;
}

static bool floors_are_equal(const struct journal_floors *a, const struct journal_floors *b)
{
	if (a->all != b->all || a->count != b->count)
		return false;
	for (uint32_t i = 0; i < a->count; i++)
		if (a->records[i].kind != b->records[i].kind ||
		    a->records[i].floor != b->records[i].floor ||
		    memcmp(a->records[i].tenant, b->records[i].tenant, 16) != 0 ||
		    memcmp(a->records[i].space, b->records[i].space, SPACE_ID_BYTES) != 0)
			return false;
	return true;
}

static struct journal *open_and_ask(struct journal_floors *told, uint64_t *epoch)
{
	struct journal *journal = NULL;
	struct error error = { 0 };
	int result;

	floors_clear(told);
	result = journal_open(&journal, path, false, note, told, epoch, &error);
	assert(result == 0);
	assert(*epoch == journal_floors_highest(told) + 1);
	return journal;
}

static void journal_try(const uint8_t *bytes, size_t count)
{
	static struct journal_floors told, again, expected;
	bool is_whole = floors_expected(bytes, count, &expected);
	uint64_t epoch, epoch_again;
	struct journal *journal = open_and_ask(&told, &epoch);
	struct journal_record raise = { .kind = JOURNAL_TENANT, .tenant = { 9 } };
	struct error error = { 0 };
	int result;

	if (is_whole) {
		assert(journal_finding(journal) ==
		       (count % JOURNAL_RECORD_BYTES == 0 ? JOURNAL_FINE : JOURNAL_TORN_TAIL));
		assert(floors_are_equal(&told, &expected));
	} else {
		assert(journal_finding(journal) == JOURNAL_UNREADABLE);
		assert(told.count == 0 && told.all > 0);
		assert(told.all >= journal_floors_highest(&expected));
	}
	raise.floor = epoch < JOURNAL_FLOOR_MAX ? epoch : JOURNAL_FLOOR_MAX;
	result = journal_write(journal, &raise, &error);
	assert(result == 0);
	journal_close(journal);
	journal_floors_raise(&told, &raise);
	journal = open_and_ask(&again, &epoch_again);
	assert(journal_finding(journal) == JOURNAL_FINE);
	assert(again.all == told.all && again.count == told.count);
	assert(journal_floors_highest(&again) == journal_floors_highest(&told));
	journal_close(journal);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes)
{
	size_t count = bytes > 0 ? bytes - 1 : 0;
	uint8_t *copy;

	if (bytes == 0 || count > RECORDS_MAX * JOURNAL_RECORD_BYTES || !folder_make())
		return 0;
	copy = malloc(count + 1);
	if (copy == NULL)
		return 0;
	memcpy(copy, input + 1, count);
	for (uint64_t n = 0; n < count / JOURNAL_RECORD_BYTES; n++)
		record_mend(copy + n * JOURNAL_RECORD_BYTES, n, input[0]);
	if (file_write(copy, count))
		journal_try(copy, count);
	file_remove();
	free(copy);
	return 0;
}
