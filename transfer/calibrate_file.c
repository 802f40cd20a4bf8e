/* transfer/calibrate_file.c: measured costs in a file, under the name of what they are true of. */
#include "transfer/calibrate.h"

#include "base/trusted_path.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PATHS_TEXT_BYTES 32u

static void paths_write(char text[PATHS_TEXT_BYTES], unsigned paths)
{
	size_t used = 0;

	text[0] = '\0';
	for (unsigned path = 0; path < COPY_PATHS; path++)
		if ((paths & 1u << path) != 0)
			used += (size_t)snprintf(text + used, PATHS_TEXT_BYTES - used, "%s%s",
						 used > 0 ? "+" : "",
						 cost_path_name((enum copy_path)path));
}

/* Vendors that do not tell devices apart, and our own memory, have no UUID. */
void calibrate_name(const struct device *device, unsigned paths, char name[CALIBRATE_NAME_BYTES])
{
	const struct device_about *about = &device->about;
	char words[PATHS_TEXT_BYTES];

	paths_write(words, calibrate_paths(device, paths));
	snprintf(name, CALIBRATE_NAME_BYTES, "%s %.60s %s %s, driver %d, %s", device->ops->name,
		 about->name, about->bus_id, about->uuid, about->driver_version, words);
}

/* A whole row of the file may be missing. */
static int rows_check(const struct cost_table *table, unsigned paths, struct error *error)
{
	for (unsigned direction = 0; direction < COPY_DIRECTIONS; direction++)
		for (unsigned path = 0; path < COPY_PATHS; path++) {
			struct cost_shape shape = { (enum copy_direction)direction, 1, 1, 1 };

			if ((paths & 1u << path) != 0 &&
			    isinf(cost_estimate(table, (enum copy_path)path, &shape)))
				return error_set(error, -EINVAL, "the copy costs lack those of %s",
						 cost_path_name((enum copy_path)path));
		}
	return 0;
}

/* As a text. */
static int file_read(const char *file, char text[COST_TEXT_BYTES + 1], struct error *error)
{
	/* A FIFO would have us wait for whoever writes to it. */
	int fd = open(file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	ssize_t bytes;
	int result;

	if (fd < 0)
		return error_set(error, -errno, "cannot open %.120s: %s", file, strerror(errno));
	result = trusted_file(fd, file, error);
	if (result < 0)
		goto close_file;
	bytes = read(fd, text, COST_TEXT_BYTES + 1);
	if (bytes < 0)
		result = error_set(error, -errno, "cannot read %.120s: %s", file, strerror(errno));
	else if (bytes > (ssize_t)COST_TEXT_BYTES)
		result = error_set(error, -EINVAL, "%.120s is too long for copy costs", file);
	else
		text[bytes] = '\0';
close_file:
	close(fd);
	return result;
}

int calibrate_load(const char *file, const struct device *device, unsigned paths,
		   struct cost_table *out_table, struct error *error)
{
	char name[CALIBRATE_NAME_BYTES], text[COST_TEXT_BYTES + 1];
	struct cost_table table;
	int result = file_read(file, text, error);

	calibrate_name(device, paths, name);
	if (result == 0)
		result = cost_read(text, name, &table, error);
	if (result == 0)
		result = rows_check(&table, calibrate_paths(device, paths), error);
	if (result == 0)
		*out_table = table;
	return result;
}

/* All of it, on the disk. */
static int text_write(int fd, const char *text, size_t bytes)
{
	ssize_t written = write(fd, text, bytes);

	if (written < 0)
		return -errno;
	if ((size_t)written < bytes)
		return -ENOSPC;
	return fsync(fd) < 0 ? -errno : 0;
}

int calibrate_store(const char *file, const struct device *device, unsigned paths,
		    const struct cost_table *table, struct error *error)
{
	char name[CALIBRATE_NAME_BYTES], text[COST_TEXT_BYTES], fresh[PATH_MAX];
	int fd, result;

	if (snprintf(fresh, sizeof(fresh), "%s.new", file) >= (int)sizeof(fresh))
		return error_set(error, -ENAMETOOLONG, "%.120s... is too long a path", file);
	calibrate_name(device, paths, name);
	size_t bytes = cost_print(table, name, text);
	/* What an earlier start left, or somebody put there, is never written to. */
	(void)unlink(fresh);
	fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_set(error, -errno, "cannot make %.120s: %s", fresh, strerror(errno));
	result = text_write(fd, text, bytes);
	close(fd);
	if (result == 0 && rename(fresh, file) < 0)
		result = -errno;
	if (result < 0) {
		(void)unlink(fresh);
		return error_set(error, result, "cannot write %.120s: %s", file, strerror(-result));
	}
	return 0;
}
