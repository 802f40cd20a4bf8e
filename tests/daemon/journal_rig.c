/* tests/daemon/journal_rig.c: a journal, what its last open said, and its file as bytes. */
#include "tests/daemon/journal_rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

unsigned journal_rig_syncs, journal_rig_sync_that_fails;

static int sync_pretended(void)
{
	if (++journal_rig_syncs != journal_rig_sync_that_fails)
		return 0;
	errno = EIO;
	return -1;
}

int fsync(int fd)
{
	(void)fd;
	return sync_pretended();
}

int fdatasync(int fd)
{
	(void)fd;
	return sync_pretended();
}

static void note(void *owner, const struct journal_record *record)
{
	journal_floors_raise(&((struct journal_rig *)owner)->told, record);
}

int journal_rig_open(struct journal_rig *rig, bool is_first_start)
{
	struct error error;

	memset(&rig->told, 0, sizeof(rig->told));
	return journal_open(&rig->journal, rig->path, is_first_start, note, rig, &rig->epoch,
			    &error);
}

struct journal_rig *journal_rig_create(void)
{
	const char *temporary = getenv("TMPDIR");
	struct journal_rig *rig = calloc(1, sizeof(*rig));

	assert_non_null(rig);
	snprintf(rig->folder, sizeof(rig->folder), "%.40s/journal-XXXXXX",
		 temporary != NULL ? temporary : "/tmp");
	assert_non_null(mkdtemp(rig->folder));
	snprintf(rig->path, sizeof(rig->path), "%s/journal", rig->folder);
	assert_int_equal(journal_rig_open(rig, true), 0);
	return rig;
}

void journal_rig_close(struct journal_rig *rig)
{
	journal_close(rig->journal);
	rig->journal = NULL;
}

void journal_rig_reopen(struct journal_rig *rig)
{
	journal_rig_close(rig);
	assert_int_equal(journal_rig_open(rig, false), 0);
}

void journal_rig_destroy(struct journal_rig *rig)
{
	char command[128];

	journal_rig_close(rig);
	snprintf(command, sizeof(command), "rm -rf '%s'", rig->folder);
	assert_int_equal(system(command), 0);
	free(rig);
}

struct journal_record journal_rig_record(enum journal_kind kind, unsigned tenant, unsigned space,
					 uint64_t floor)
{
	struct journal_record record = { .kind = kind, .floor = floor };

	if (kind != JOURNAL_ALL)
		memset(record.tenant, (int)(1 + tenant), sizeof(record.tenant));
	if (kind == JOURNAL_SPACE) {
		memset(record.space, 0x55, sizeof(record.space));
		memcpy(record.space, &space, sizeof(space));
	}
	return record;
}

int journal_rig_write(struct journal_rig *rig, enum journal_kind kind, unsigned tenant,
		      unsigned space, uint64_t floor)
{
	struct journal_record record = journal_rig_record(kind, tenant, space, floor);
	struct error error;

	return journal_write(rig->journal, &record, &error);
}

uint64_t journal_rig_floor(const struct journal_floors *floors, unsigned tenant, unsigned space)
{
	struct journal_record wanted = journal_rig_record(JOURNAL_SPACE, tenant, space, 1);
	uint64_t floor = floors->all;

	for (uint32_t n = 0; n < floors->count; n++) {
		const struct journal_record *record = &floors->records[n];
		bool is_of_it = memcmp(record->tenant, wanted.tenant, sizeof(wanted.tenant)) == 0 &&
				(record->kind != JOURNAL_SPACE ||
				 memcmp(record->space, wanted.space, sizeof(wanted.space)) == 0);
		if (is_of_it && record->floor > floor)
			floor = record->floor;
	}
	assert_int_equal(floor, journal_floors_find(floors, wanted.tenant, wanted.space));
	return floor;
}

void journal_image_read(const struct journal_rig *rig, struct journal_image *image)
{
	FILE *file = fopen(rig->path, "r");

	assert_non_null(file);
	image->count = fread(image->bytes, 1, sizeof(image->bytes), file);
	assert_true(image->count < sizeof(image->bytes));
	fclose(file);
}

void journal_image_write(const char *path, const struct journal_image *image, size_t count)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	assert_int_equal(fwrite(image->bytes, 1, count, file), count);
	fclose(file);
}

void journal_rig_fill(struct journal_rig *rig)
{
	for (unsigned space = 0; space < JOURNAL_RIG_SPACES; space++)
		assert_int_equal(
			journal_rig_write(rig, JOURNAL_SPACE, space / 4, space, 10 + space), 0);
	assert_int_equal(journal_rig_write(rig, JOURNAL_TENANT, 1, 0, 20), 0);
	assert_int_equal(journal_rig_write(rig, JOURNAL_SPACE, 0, 1, 21), 0);
}

void journal_rig_expect_filled(const struct journal_rig *rig)
{
	assert_int_equal(journal_rig_floor(&rig->told, 0, 0), 10);
	assert_int_equal(journal_rig_floor(&rig->told, 0, 1), 21);
	assert_int_equal(journal_rig_floor(&rig->told, 0, 2), 12);
	for (unsigned space = 4; space < JOURNAL_RIG_SPACES; space++)
		assert_int_equal(journal_rig_floor(&rig->told, 1, space), 20);
	assert_int_equal(journal_rig_floor(&rig->told, 2, 99), 0);
	assert_int_equal(rig->epoch, 22);
}

void journal_rig_expect_all_forgotten(struct journal_rig *rig)
{
	assert_int_equal(journal_finding(rig->journal), JOURNAL_UNREADABLE);
	assert_true(rig->told.all > 22);
	assert_true(rig->epoch > rig->told.all);
}
