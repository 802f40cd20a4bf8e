/* tiers/cpu/arena_file.c: an arena in a file on tmpfs or hugetlbfs, which outlives us. */
#include "tiers/cpu/arena_parts.h"

#include "base/trusted_path.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define LOCK_STEP_US 2000u
#define OPEN_TRIES_MAX 4u

static int file_lock(int fd, const struct arena_config *config, struct error *error)
{
	const struct timespec step = { .tv_nsec = LOCK_STEP_US * 1000 };
	uint64_t waited_us = 0;

	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return error_set(error, -errno, "%s: lock: %s", config->file,
					 strerror(errno));
		if (waited_us >= config->lock_wait_us_max)
			return error_set(error, -EBUSY,
					 "cpu_file: %s is in use by another kvtierd (waited %llu ms): stop it, or set another",
					 config->file, (unsigned long long)(waited_us / 1000));
		nanosleep(&step, NULL);
		waited_us += LOCK_STEP_US;
	}
	return 0;
}

/* 1: the path still names what we opened. */
static int file_is_at(int fd, const char *path)
{
	struct stat ours, named;

	if (fstat(fd, &ours) < 0)
		return -errno;
	if (lstat(path, &named) < 0)
		return errno == ENOENT ? 0 : -errno;
	return ours.st_ino == named.st_ino && ours.st_dev == named.st_dev;
}

/* Opens and locks the file that the path names when we have the lock. */
static int file_open_locked(struct arena *arena, const struct arena_config *config,
			    struct error *error)
{
	for (unsigned tries = 0; tries < OPEN_TRIES_MAX; tries++) {
		int result;

		arena->fd = open(config->file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (arena->fd < 0 && errno == ELOOP)
			return error_set(error, -ELOOP, "%s is a link: set cpu_file to the file that is meant",
					 config->file);
		if (arena->fd < 0)
			return error_set(error, -errno, "cpu_file: %s cannot be opened: %s%s", config->file,
					 strerror(errno), error_advice(-errno));
		result = file_lock(arena->fd, config, error);
		if (result == 0) {
			result = file_is_at(arena->fd, config->file);
			if (result == 1)
				return 0;
			if (result < 0)
				error_set(error, result, "%s: stat: %s", config->file,
					  strerror(-result));
		}
		close(arena->fd);
		arena->fd = -1;
		if (result < 0)
			return result;
	}
	return error_set(error, -EBUSY, "%s is replaced again and again by others", config->file);
}

/* Memory only: on a disk the page cache would be written back all the time. */
static int file_check(struct arena *arena, const struct arena_config *config,
		      const char **out_pages, struct error *error)
{
	struct statfs filesystem;
	struct stat status;

	*out_pages = NULL;
	if (fstatfs(arena->fd, &filesystem) < 0 || fstat(arena->fd, &status) < 0)
		return error_set(error, -errno, "%s: stat: %s", config->file, strerror(errno));
	int result = trusted_file(arena->fd, config->file, error);
	if (result < 0)
		return result;
	if (filesystem.f_type == HUGETLBFS_MAGIC) {
		if (arena_mapping_bytes(arena) % (uint64_t)filesystem.f_bsize != 0)
			return error_set(
				error, -EINVAL,
				"%s: %llu bytes are not a multiple of its huge page of %llu",
				config->file, (unsigned long long)arena_mapping_bytes(arena),
				(unsigned long long)filesystem.f_bsize);
		*out_pages = "huge pages (hugetlbfs file)";
	} else if (filesystem.f_type != TMPFS_MAGIC) {
		return error_set(
			error, -EINVAL,
			"cpu_file: %s is on a disk: set a path on tmpfs (such as /dev/shm) or hugetlbfs",
			config->file);
	}
	if (fchmod(arena->fd, 0600) < 0)
		return error_set(error, -errno, "%s: chmod: %s", config->file, strerror(errno));
	return 0;
}

static const char is_foreign[] = "it is not an arena (kept as .unreadable)";

/* NULL: the file holds an arena as we want it; "": it is empty; else why not. Reads through the
 * descriptor: nothing is mapped yet. */
static const char *file_unfit(struct arena *arena, const struct arena_config *config)
{
	struct arena_superblock superblock = { 0 };
	struct stat status;

	if (fstat(arena->fd, &status) < 0 || status.st_size == 0)
		return "";
	/* A short or failed read leaves zeros, which are refused as well. */
	if (pread(arena->fd, &superblock, sizeof(superblock), 0) < 0 || superblock.magic == 0)
		return "it was not finished";
	if (superblock.magic != ARENA_MAGIC)
		return is_foreign;
	if (superblock.crc != arena_superblock_crc(&superblock))
		return "its superblock is damaged";
	if (superblock.version != ARENA_VERSION)
		return "it has another version";
	if (superblock.bytes != arena->bytes || superblock.unit_bytes != arena->unit_bytes ||
	    (uint64_t)status.st_size != arena_mapping_bytes(arena))
		return "it has another size or unit";
	if (memcmp(superblock.tenant, config->tenant_digest, sizeof(superblock.tenant)) != 0)
		return "it is another tenant's";
	memcpy(arena->id, superblock.id, sizeof(arena->id));
	return NULL;
}

static int too_large(const struct arena *arena, const struct arena_config *config,
		     struct error *error)
{
	return error_set(error, -errno, "cpu_file: %s cannot have %llu MiB: %s%s", config->file,
			 (unsigned long long)(arena_mapping_bytes(arena) >> 20), strerror(errno),
			 error_advice(-errno));
}

/* Unlinks an unfit file and makes a new one in its place. What was never ours is kept, once: a
 * mistyped path. */
static int file_renew(struct arena *arena, const struct arena_config *config, const char *reason,
		      struct error *error)
{
	char aside[PATH_MAX];
	int result;

	snprintf(arena->note, sizeof(arena->note), "%.100s was started anew: %s", config->file,
		 reason);
	if (reason == is_foreign) {
		if ((size_t)snprintf(aside, sizeof(aside), "%s.unreadable", config->file) >=
		    sizeof(aside))
			return error_set(error, -ENAMETOOLONG, "%s is too long a path",
					 config->file);
		result = rename(config->file, aside);
	} else {
		result = unlink(config->file);
	}
	if (result < 0)
		return error_set(error, -errno, "%s: cannot be put away: %s", config->file,
				 strerror(errno));
	close(arena->fd);
	arena->fd = -1;
	return file_open_locked(arena, config, error);
}

/* Space, mapping, pages. */
static int file_fill(struct arena *arena, const struct arena_config *config, const char *pages,
		     struct error *error)
{
	int result;

	if (ftruncate(arena->fd, (off_t)arena_mapping_bytes(arena)) < 0)
		return too_large(arena, config, error);
	/* Mapped first, as that is when nodes are chosen. */
	result = arena_map(arena, config, error);
	if (result < 0)
		return result;
	/* Takes the space before anything is touched: a full tmpfs is an error here, and SIGBUS
	 * there. Of a warm file too: it may have holes that only a fault would fill. */
	if (fallocate(arena->fd, 0, 0, (off_t)arena_mapping_bytes(arena)) < 0)
		result = too_large(arena, config, error);
	else
		result = arena_touch(arena, config->huge_pages, pages, error);
	if (result < 0)
		arena_unmap(arena);
	return result;
}

static int file_map(struct arena *arena, const struct arena_config *config, struct error *error)
{
	const char *pages, *unfit;
	int result = file_check(arena, config, &pages, error);

	/* Nothing is changed or removed before it is known to be a regular file in memory. */
	if (result < 0)
		return result;
	unfit = file_unfit(arena, config);
	if (unfit != NULL && unfit[0] != '\0')
		result = file_renew(arena, config, unfit, error);
	if (result < 0)
		return result;
	result = file_fill(arena, config, pages, error);
	if (result < 0) {
		/* Made by us just now, or empty before: of no use to the next start, and it may
		 * hold memory. */
		if (unfit != NULL)
			unlink(config->file);
		return result;
	}
	arena->is_warm = unfit == NULL;
	if (!arena->is_warm)
		arena_superblock_write(arena, config->tenant_digest);
	return 0;
}

int arena_file_open(struct arena *arena, const struct arena_config *config, struct error *error)
{
	int result = trusted_parents(config->file, error);

	if (result == 0)
		result = file_open_locked(arena, config, error);
	if (result < 0)
		return result;
	result = file_map(arena, config, error);
	if (result < 0 && arena->fd >= 0) {
		close(arena->fd);
		arena->fd = -1;
	}
	return result;
}
