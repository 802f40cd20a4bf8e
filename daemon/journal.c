/* daemon/journal.c: reads, appends and rewrites the epochs' file. */
#include "daemon/journal.h"

#include "base/clock.h"
#include "base/failpoint.h"
#include "base/random.h"
#include "base/trusted_path.h"
#include "daemon/journal_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define REWRITE_RATIO 4u
#define REWRITE_MIN 64u /* records; a smaller file is not worth a rewrite */
#define FILE_BYTES_MAX                                                                             \
	((uint64_t)JOURNAL_RECORD_BYTES *                                                          \
	 (REWRITE_RATIO * (JOURNAL_LIVE_MAX + 2) + REWRITE_MIN + 2))
/* Added to what could be salvaged, or to the seconds since 2020 where these are more: a node raises
 * fewer than one epoch a second, so its lost counter was below. Microseconds would not fit: the
 * index keeps epochs in 31 bits. */
#define EPOCH_LEAP (UINT64_C(1) << 16)
#define ASIDE_BYTES (NAME_MAX + 16)
#define SECONDS_2020 UINT64_C(1577836800)

struct journal {
	int fd;
	int folder_fd;
	bool is_broken;
	enum journal_finding finding;
	uint8_t id[8];
	uint64_t records_count; /* in the file, without its head */
	struct journal_floors floors;
	char name[NAME_MAX + 1], path[PATH_MAX];
};

/* ---- writing ---- */

static int write_all(int fd, const void *memory, size_t bytes, uint64_t offset)
{
	ssize_t written = pwrite(fd, memory, bytes, (off_t)offset);

	if (written < 0)
		return -errno;
	return (size_t)written == bytes ? 0 : -EIO;
}

/* The head and all live floors, into a new file. */
static int floors_write(struct journal *journal, int fd, const uint8_t id[8])
{
	uint8_t bytes[JOURNAL_RECORD_BYTES];
	const struct journal_record wide[] = {
		{ .kind = JOURNAL_ALL, .floor = journal->floors.all },
		{ .kind = JOURNAL_RESERVED, .floor = journal->floors.reserved },
	};
	uint64_t number = 0;

	journal_head_pack(bytes, id);
	int result = write_all(fd, bytes, sizeof(bytes), 0);
	for (unsigned n = 0; result == 0 && n < 2; n++) {
		if (wide[n].floor == 0)
			continue;
		journal_record_pack(bytes, id, ++number, &wide[n]);
		result = write_all(fd, bytes, sizeof(bytes), number * sizeof(bytes));
	}
	for (uint32_t n = 0; result == 0 && n < journal->floors.count; n++) {
		journal_record_pack(bytes, id, ++number, &journal->floors.records[n]);
		result = write_all(fd, bytes, sizeof(bytes), number * sizeof(bytes));
	}
	if (result == 0)
		journal->records_count = number;
	return result;
}

/* Order matters: the file is on the disk before it has the name, and the name before the caller is
 * told. */
static int rewrite(struct journal *journal, struct error *error)
{
	char fresh[NAME_MAX + 8];
	uint8_t id[8];

	snprintf(fresh, sizeof(fresh), "%s.new", journal->name);
	random_system(id, sizeof(id));
	/* What an earlier start left, or somebody put there, is never written to. */
	(void)unlinkat(journal->folder_fd, fresh, 0);
	int fd = openat(journal->folder_fd, fresh,
			O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_set(error, -errno, "cannot make %s.new: %s", journal->path,
				 strerror(errno));
	int result = floors_write(journal, fd, id);
	if (result == 0 && failpoint(journal_appended))
		result = -EIO;
	if (result == 0 && fsync(fd) < 0)
		result = -errno;
	if (result == 0 &&
	    renameat(journal->folder_fd, fresh, journal->folder_fd, journal->name) < 0)
		result = -errno;
	if (result == 0 && fsync(journal->folder_fd) < 0)
		result = -errno;
	if (result < 0) {
		close(fd);
		return error_set(error, result, "cannot rewrite the journal %s: %s", journal->path,
				 strerror(-result));
	}
	if (journal->fd >= 0)
		close(journal->fd);
	journal->fd = fd;
	memcpy(journal->id, id, sizeof(id));
	return 0;
}

static int append(struct journal *journal, const struct journal_record *record)
{
	uint8_t bytes[JOURNAL_RECORD_BYTES];
	uint64_t number = journal->records_count + 1;

	journal_record_pack(bytes, journal->id, number, record);
	int result = write_all(journal->fd, bytes, sizeof(bytes), number * sizeof(bytes));
	if (result < 0)
		return result;
	if (failpoint(journal_appended))
		return -EIO;
	if (fdatasync(journal->fd) < 0)
		return -errno;
	journal->records_count = number;
	return 0;
}

static bool has_grown(const struct journal *journal)
{
	uint64_t live = journal->floors.count + (journal->floors.all > 0) +
			(journal->floors.reserved > 0);

	return journal->records_count + 1 > REWRITE_MIN &&
	       journal->records_count + 1 > REWRITE_RATIO * live;
}

int journal_write(struct journal *journal, const struct journal_record *record, struct error *error)
{
	int result;

	assert(record->floor > 0 && record->floor <= JOURNAL_FLOOR_MAX);
	assert(record->kind < JOURNAL_KINDS);
	journal_floors_raise(&journal->floors, record);
	if (journal->is_broken || has_grown(journal)) {
		result = rewrite(journal, error);
	} else {
		result = append(journal, record);
		if (result < 0)
			(void)error_set(error, result, "cannot write to the journal %s: %s",
					journal->path, strerror(-result));
	}
	if (result == 0 && failpoint(journal_synced))
		result = error_set(error, -EIO, "failpoint journal_synced");
	/* What the kernel kept of a failed write or sync is unknown, and a second sync would say
	 * that all is well: the next record goes into a file that is written anew, as a whole. */
	journal->is_broken = result < 0;
	return result < 0 ? -EIO : 0;
}

/* ---- reading ---- */

/* 0, or why the bytes are not a journal. */
static const char *records_read(struct journal *journal, const uint8_t *bytes, uint64_t bytes_count)
{
	uint64_t count = bytes_count / JOURNAL_RECORD_BYTES;
	struct journal_record record;

	if (count == 0 || !journal_head_unpack(bytes, journal->id))
		return "its head is damaged";
	for (uint64_t n = 1; n < count; n++) {
		/* Also the last one: a whole record that is damaged may have been answered. Its
		 * sectors reached the disk in some order, so 'torn' and 'rotten' look the same
		 * here; only a short tail proves that its write never ended. */
		if (!journal_record_unpack(bytes + n * JOURNAL_RECORD_BYTES, journal->id, n,
					   &record))
			return "a record is damaged";
		journal_floors_raise(&journal->floors, &record);
	}
	journal->records_count = count - 1;
	if (bytes_count % JOURNAL_RECORD_BYTES != 0)
		journal->finding = JOURNAL_TORN_TAIL;
	return NULL;
}

/* The highest floor of any record that is whole, wherever it stands. */
static uint64_t salvage(const uint8_t *bytes, uint64_t bytes_count)
{
	struct journal_record record;
	uint64_t highest = 0;

	for (uint64_t at = 0; at + JOURNAL_RECORD_BYTES <= bytes_count; at += JOURNAL_RECORD_BYTES)
		if (journal_record_unpack(bytes + at, NULL, 0, &record) && record.floor > highest)
			highest = record.floor;
	return highest;
}

static void aside_name(const struct journal *journal, char out[ASIDE_BYTES])
{
	snprintf(out, ASIDE_BYTES, "%s.unreadable", journal->name);
}

/* A start that died between keeping the file aside and the rename over it left both names on one
 * file; a file with another name is not trusted, so ours goes. */
static void second_name_drop(const struct journal *journal)
{
	char aside[ASIDE_BYTES];
	struct stat ours, other;

	aside_name(journal, aside);
	if (fstat(journal->fd, &ours) == 0 && ours.st_nlink > 1 &&
	    fstatat(journal->folder_fd, aside, &other, AT_SYMLINK_NOFOLLOW) == 0 &&
	    other.st_dev == ours.st_dev && other.st_ino == ours.st_ino)
		(void)unlinkat(journal->folder_fd, aside, 0);
}

/* Keeps the file under another name as well (the old name goes with the rename over it, so that it
 * is never missing), and begins a journal in which everything is forgotten. */
static int begin_anew(struct journal *journal, uint64_t salvaged, struct error *error)
{
	char aside[ASIDE_BYTES];
	uint64_t wall_s = clock_wall_us(clock_real()) / 1000000;
	uint64_t seconds = wall_s > SECONDS_2020 ? wall_s - SECONDS_2020 : 0;

	aside_name(journal, aside);
	(void)unlinkat(journal->folder_fd, aside, 0);
	(void)linkat(journal->folder_fd, journal->name, journal->folder_fd, aside, 0);
	memset(&journal->floors, 0, sizeof(journal->floors));
	journal->floors.all = (salvaged > seconds ? salvaged : seconds) + EPOCH_LEAP;
	if (journal->floors.all > JOURNAL_FLOOR_MAX)
		journal->floors.all = JOURNAL_FLOOR_MAX;
	journal->finding = JOURNAL_UNREADABLE;
	return rewrite(journal, error);
}

/* The whole file; *out_bytes is to be freed. A file that cannot be read is empty, and so
 * unreadable. */
static int file_read(int fd, uint8_t **out_bytes, uint64_t *out_count)
{
	struct stat status;
	uint64_t count = 0;

	if (fstat(fd, &status) < 0)
		return -errno;
	if (!S_ISREG(status.st_mode))
		return -EINVAL;
	/* A larger one was not written by us; what fits is read for the salvage. */
	uint64_t wanted = (uint64_t)status.st_size;
	if (wanted > FILE_BYTES_MAX)
		wanted = FILE_BYTES_MAX;
	uint8_t *bytes = malloc(wanted + 1);
	if (bytes == NULL)
		return -ENOMEM;
	while (count < wanted) {
		ssize_t got = pread(fd, bytes + count, wanted - count, (off_t)count);
		if (got <= 0)
			break;
		count += (uint64_t)got;
	}
	*out_bytes = bytes;
	*out_count = count < wanted || (uint64_t)status.st_size > FILE_BYTES_MAX ? 0 : count;
	return 0;
}

static int read_or_begin(struct journal *journal, struct error *error)
{
	uint8_t *bytes = NULL;
	uint64_t count = 0;
	int result = file_read(journal->fd, &bytes, &count);

	if (result < 0)
		return error_set(error, result, "cannot read the journal %s: %s", journal->path,
				 strerror(-result));
	const char *damage = records_read(journal, bytes, count);
	if (damage != NULL)
		result = begin_anew(journal, salvage(bytes, count), error);
	else if (journal->finding == JOURNAL_TORN_TAIL)
		/* Anew rather than cut off: one way of writing less that has to be right. */
		result = rewrite(journal, error);
	free(bytes);
	return result;
}

static int file_open(struct journal *journal, bool is_first_start, struct error *error)
{
	journal->fd = openat(journal->folder_fd, journal->name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (journal->fd >= 0) {
		second_name_drop(journal);
		int result = trusted_file(journal->fd, journal->path, error);

		return result < 0 ? result : read_or_begin(journal, error);
	}
	if (errno != ENOENT)
		return error_set(error, -errno, "cannot open the journal %s: %s", journal->path,
				 strerror(errno));
	if (!is_first_start)
		return begin_anew(journal, 0, error);
	journal->finding = JOURNAL_NEW;
	return rewrite(journal, error);
}

static int folder_open(struct journal *journal, const char *path, struct error *error)
{
	char folder[PATH_MAX];
	const char *slash = strrchr(path, '/');
	const char *name = slash == NULL ? path : slash + 1;

	if (strlen(path) >= sizeof(folder) || strlen(name) > NAME_MAX - 16 || *name == '\0')
		return error_set(error, -EINVAL, "\"%.100s\" is not the path of a journal", path);
	strcpy(journal->path, path);
	strcpy(journal->name, name);
	snprintf(folder, sizeof(folder), "%.*s",
		 slash == NULL   ? 1
		 : slash == path ? 1
				 : (int)(slash - path),
		 slash == NULL ? "." : path);
	journal->folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (journal->folder_fd < 0)
		return error_set(error, -errno, "cannot open the journal's folder %.100s: %s",
				 folder, strerror(errno));
	return 0;
}

static void floors_tell(const struct journal *journal,
			void (*tell)(void *owner, const struct journal_record *record), void *owner)
{
	struct journal_record all = { .kind = JOURNAL_ALL, .floor = journal->floors.all };

	struct journal_record reserved = { .kind = JOURNAL_RESERVED,
					   .floor = journal->floors.reserved };

	if (all.floor > 0)
		tell(owner, &all);
	if (reserved.floor > 0)
		tell(owner, &reserved);
	for (uint32_t n = 0; n < journal->floors.count; n++)
		tell(owner, &journal->floors.records[n]);
}

int journal_open(struct journal **out_journal, const char *path, bool is_first_start,
		 void (*record)(void *owner, const struct journal_record *record), void *owner,
		 uint64_t *out_epoch, struct error *error)
{
	struct journal *journal = calloc(1, sizeof(*journal));

	if (journal == NULL)
		return error_set(error, -ENOMEM, "no memory for the journal %s", path);
	journal->fd = journal->folder_fd = -1;
	int result = folder_open(journal, path, error);
	if (result == 0)
		result = file_open(journal, is_first_start, error);
	if (result < 0) {
		journal_close(journal);
		return result;
	}
	floors_tell(journal, record, owner);
	*out_epoch = journal_floors_highest(&journal->floors) + 1;
	*out_journal = journal;
	return 0;
}

enum journal_finding journal_finding(const struct journal *journal)
{
	return journal->finding;
}

void journal_close(struct journal *journal)
{
	if (journal == NULL)
		return;
	if (journal->fd >= 0)
		close(journal->fd);
	if (journal->folder_fd >= 0)
		close(journal->folder_fd);
	free(journal);
}

int journal_inspect(const char *path, struct journal_floors *out_floors,
		    enum journal_finding *out_finding, struct error *error)
{
	struct journal *journal = calloc(1, sizeof(*journal));
	uint8_t *bytes = NULL;
	uint64_t count = 0;
	int result;

	if (journal == NULL)
		return error_set(error, -ENOMEM, "no memory for the journal %s", path);
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	result = fd < 0 ? -errno : file_read(fd, &bytes, &count);
	if (result == 0) {
		if (records_read(journal, bytes, count) != NULL)
			journal->finding = JOURNAL_UNREADABLE;
		*out_floors = journal->floors;
		*out_finding = journal->finding;
	} else {
		error_set(error, result, "cannot read the journal %s: %s", path, strerror(-result));
	}
	if (fd >= 0)
		close(fd);
	free(bytes);
	free(journal);
	return result;
}
