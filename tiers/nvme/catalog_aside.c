/* tiers/nvme/catalog_aside.c: sets an unreadable database aside. */
#include "tiers/nvme/catalog_aside.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define PATH_BYTES 4096
#define ASIDE_MARK ".unreadable-"
#define CATALOG_ROOM_BYTES_MIN (8u << 20)

/* The folder of `path`, opened; *out_name: its last part, within `path`. */
static int folder_open(const char *path, const char **out_name, struct error *error)
{
	char folder[PATH_BYTES];
	const char *slash = strrchr(path, '/');

	if (strlen(path) >= sizeof(folder))
		return error_set(error, -ENAMETOOLONG,
				 "the path of a database is too long: %.100s...", path);
	if (slash == NULL)
		snprintf(folder, sizeof(folder), ".");
	else
		snprintf(folder, sizeof(folder), "%.*s", slash == path ? 1 : (int)(slash - path),
			 path);
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return error_set(error, -errno, "cannot open folder %s: %s", folder,
				 strerror(errno));
	*out_name = slash == NULL ? path : slash + 1;
	return fd;
}

/* Removes a file, or a folder of files. A database has no folders inside. */
static void remove_at(int folder_fd, const char *name)
{
	if (unlinkat(folder_fd, name, 0) == 0)
		return;
	int fd = openat(folder_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *folder = fd < 0 ? NULL : fdopendir(fd);
	if (folder == NULL) {
		if (fd >= 0)
			close(fd);
		return;
	}
	for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
		(void)unlinkat(fd, entry->d_name, 0);
	closedir(folder);
	(void)unlinkat(folder_fd, name, AT_REMOVEDIR);
}

/* 0: `entry` is not NAME.unreadable-N. */
static unsigned long aside_number(const char *entry, const char *name)
{
	size_t name_bytes = strlen(name);

	if (strncmp(entry, name, name_bytes) != 0 ||
	    strncmp(entry + name_bytes, ASIDE_MARK, strlen(ASIDE_MARK)) != 0)
		return 0;
	return strtoul(entry + name_bytes + strlen(ASIDE_MARK), NULL, 10);
}

/* Removes those that are there; returns the highest number. */
static unsigned long asides_remove(int folder_fd, const char *name)
{
	int fd = openat(folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *folder = fd < 0 ? NULL : fdopendir(fd);
	unsigned long highest = 0;

	if (folder == NULL) {
		if (fd >= 0)
			close(fd);
		return 0;
	}
	for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
		unsigned long number = aside_number(entry->d_name, name);
		if (number == 0)
			continue;
		highest = number > highest ? number : highest;
		remove_at(folder_fd, entry->d_name);
	}
	closedir(folder);
	return highest;
}

int catalog_set_aside(const char *path, struct error *error)
{
	char aside[NAME_MAX + 64];
	const char *name;
	int result = 0;
	int fd = folder_open(path, &name, error);

	if (fd < 0)
		return fd;
	unsigned long number = asides_remove(fd, name) + 1;
	snprintf(aside, sizeof(aside), "%s" ASIDE_MARK "%lu", name, number);
	if (renameat(fd, name, fd, aside) < 0 && errno != ENOENT)
		result = error_set(error, -errno, "cannot set %s aside as %s: %s", path, aside,
				   strerror(errno));
	close(fd);
	return result;
}

static int attempts_open(const char *path, int flags)
{
	char name[PATH_BYTES + 16];

	snprintf(name, sizeof(name), "%s.opening", path);
	return open(name, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | flags, 0600);
}

/* RocksDB aborts on a full disk and does not say why. */
static int room_check(const char *path, int fd, struct error *error)
{
	struct statvfs room;

	if (fstatvfs(fd, &room) < 0 ||
	    (uint64_t)room.f_bavail * room.f_frsize >= CATALOG_ROOM_BYTES_MIN)
		return 0;
	return error_set(error, -ENOSPC, "%s needs %u MiB of room%s", path, CATALOG_ROOM_BYTES_MIN >> 20,
			 error_advice(-ENOSPC));
}

int catalog_attempt_begin(const char *path, bool *out_hopeless, struct error *error)
{
	struct stat status;
	int fd = attempts_open(path, O_APPEND);
	int result = fd < 0 ? 0 : room_check(path, fd, error);

	if (result < 0) {
		close(fd);
		return result;
	}
	if (fd < 0 || fstat(fd, &status) < 0 || write(fd, "o", 1) != 1) {
		result = error_set(error, errno != 0 ? -errno : -EIO,
				   "cannot write %s.opening: %s%s", path, strerror(errno),
				   error_advice(-errno));
		if (fd >= 0)
			close(fd);
		return result;
	}
	*out_hopeless = status.st_size >= CATALOG_ATTEMPTS_MAX;
	close(fd);
	return 0;
}

void catalog_attempt_succeeded(const char *path)
{
	char name[PATH_BYTES + 16];

	snprintf(name, sizeof(name), "%s.opening", path);
	(void)unlink(name);
}

void catalog_attempt_is_hopeless(const char *path)
{
	static const char attempts[CATALOG_ATTEMPTS_MAX] = { 0 };
	int fd = attempts_open(path, O_APPEND);

	if (fd < 0)
		return;
	/* A failure here only means more attempts before it is set aside. */
	if (write(fd, attempts, sizeof(attempts)) < 0)
		errno = 0;
	close(fd);
}
