/* base/trusted_path.c: owners, modes and links of folders and files. */
#include "base/trusted_path.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_trusted(uid_t owner)
{
	struct stat root;

	return owner == 0 || owner == geteuid() || (stat("/", &root) == 0 && owner == root.st_uid);
}

static int refuse_owner(const char *path, const struct stat *status, struct error *error)
{
	return error_set(error, -EPERM, "%.90s belongs to user %u, not to us (%u) or root: remove it or chown it", path,
			 (unsigned)status->st_uid, (unsigned)geteuid());
}

/* One folder, or link to one, on the way. */
static int component_check(const char *path, struct error *error)
{
	struct stat status;

	if (lstat(path, &status) < 0)
		return error_set(error, -errno, "%.120s: %s", path, strerror(errno));
	if (!is_trusted(status.st_uid))
		return refuse_owner(path, &status, error);
	/* In a sticky folder nobody can rename or remove what is not his. */
	if (S_ISDIR(status.st_mode) && (status.st_mode & S_IWOTH) && !(status.st_mode & S_ISVTX))
		return error_set(error, -EPERM, "everybody may write in %.90s: chmod o-w it, or set another path", path);
	return 0;
}

/* Each of "/", "/a", "/a/b" of "/a/b". */
static int components_check(const char *path, struct error *error)
{
	char part[PATH_MAX];
	int result = component_check(path[0] == '/' ? "/" : ".", error);

	for (size_t n = 1; result == 0 && path[n - 1] != '\0'; n++) {
		if ((path[n] != '/' && path[n] != '\0') || path[n - 1] == '/')
			continue;
		memcpy(part, path, n);
		part[n] = '\0';
		result = component_check(part, error);
	}
	return result;
}

int trusted_parents(const char *path, struct error *error)
{
	char folder[PATH_MAX], real[PATH_MAX];
	size_t bytes = strlen(path);

	while (bytes > 1 && path[bytes - 1] == '/')
		bytes--;
	while (bytes > 0 && path[bytes - 1] != '/')
		bytes--;
	if (bytes >= sizeof(folder))
		return error_set(error, -ENAMETOOLONG, "%.100s... is too long a path", path);
	while (bytes > 1 && path[bytes - 1] == '/')
		bytes--;
	snprintf(folder, sizeof(folder), "%.*s", bytes == 0 ? 1 : (int)bytes, bytes == 0 ? "." : path);
	if (realpath(folder, real) == NULL)
		return error_set(error, -errno, "%.120s: %s%s", folder, strerror(errno), error_advice(-errno));
	/* The way as it was written, for its links, and where they lead. */
	int result = components_check(folder, error);
	return result < 0 ? result : components_check(real, error);
}

/* Whatever the umask is: engines must find their way to a socket. */
static int folder_make(const char *path, mode_t mode, struct error *error)
{
	if (mkdir(path, mode) < 0)
		return errno == EEXIST ? 0 : error_set(error, -errno, "cannot make %.90s: %s%s", path, strerror(errno),
						       error_advice(-errno));
	if (chmod(path, mode) < 0)
		return error_set(error, -errno, "cannot set the mode of %.90s: %s", path, strerror(errno));
	return 0;
}

static int folder_check(const char *path, struct error *error)
{
	struct stat status;

	if (lstat(path, &status) < 0)
		return error_set(error, -errno, "%.120s: %s", path, strerror(errno));
	if (!S_ISDIR(status.st_mode))
		return error_set(error, -ENOTDIR, "%.90s must be a folder, not a %s: remove it or set another path",
				 path, S_ISLNK(status.st_mode) ? "link" : "file");
	if (!is_trusted(status.st_uid))
		return refuse_owner(path, &status, error);
	if (status.st_mode & S_IWOTH)
		return error_set(error, -EPERM, "everybody may write in %.90s: chmod o-w it, or set another path", path);
	return 0;
}

int trusted_folder_make(const char *path, mode_t mode, const char *key, struct error *error)
{
	struct error reason;
	int result = trusted_parents(path, &reason);

	if (result == 0)
		result = folder_make(path, mode, &reason);
	if (result == 0)
		result = folder_check(path, &reason);
	return result < 0 ? error_set(error, result, "%s: %.200s", key, reason.text) : 0;
}

int trusted_file(int fd, const char *path, struct error *error)
{
	struct stat status;

	if (fstat(fd, &status) < 0)
		return error_set(error, -errno, "%.120s: %s", path, strerror(errno));
	if (!S_ISREG(status.st_mode))
		return error_set(error, -EINVAL, "%.100s is not a regular file: remove it or set another path", path);
	if (!is_trusted(status.st_uid))
		return refuse_owner(path, &status, error);
	if (status.st_nlink > 1)
		return error_set(error, -EMLINK, "%.90s has another name as well (a hard link): remove it or set another "
				 "path", path);
	if (status.st_mode & S_IWOTH)
		return error_set(error, -EPERM, "everybody may write to %.90s: look at who did, chmod o-w it or remove it",
				 path);
	if (status.st_uid == geteuid() && (status.st_mode & S_IRWXO) &&
	    fchmod(fd, status.st_mode & 0770) < 0)
		return error_set(error, -errno, "cannot set the mode of %.120s: %s", path, strerror(errno));
	return 0;
}
