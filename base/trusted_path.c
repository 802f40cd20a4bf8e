/* base/trusted_path.c: owners, modes and links of folders and files. */
#include "base/trusted_path.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* as many as the kernel follows */
#define LINKS_MAX 40u
#define GROUPS_MAX 256

/* A path on its way from "/": link by link, so that each name it depends on is looked at. */
struct walk {
	char done[PATH_MAX];       /* "" or "/a/b": what was looked at; no links in it */
	char rest[PATH_MAX];       /* what is left */
	mode_t refused;            /* rights to write that no folder may give, but to its owner */
	unsigned links;
};

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

/* One folder, link or file on the way. */
static int component_check(const char *path, mode_t refused, struct stat *status,
			   struct error *error)
{
	if (lstat(path, status) < 0)
		return error_set(error, -errno, "%.120s: %s%s", path, strerror(errno), error_advice(-errno));
	if (!is_trusted(status->st_uid))
		return refuse_owner(path, status, error);
	/* In a sticky folder nobody can rename or remove what is not his. */
	if (!S_ISDIR(status->st_mode) || (status->st_mode & S_ISVTX))
		return 0;
	if (status->st_mode & refused & S_IWOTH)
		return error_set(error, -EPERM, "everybody may write in %.90s: chmod o-w it, or set another path", path);
	if (status->st_mode & refused)
		return error_set(error, -EPERM, "its group may write in %.90s: chmod g-w it, or set another path", path);
	return 0;
}

static int too_long(const char *path, struct error *error)
{
	return error_set(error, -ENAMETOOLONG, "%.100s... is too long a path", path);
}

/* The link that was just gone over is replaced by what it says. */
static int link_follow(struct walk *walk, struct error *error)
{
	char target[PATH_MAX], rest[PATH_MAX];
	ssize_t bytes = readlink(walk->done, target, sizeof(target) - 1);

	if (bytes < 0)
		return error_set(error, -errno, "%.120s: %s", walk->done, strerror(errno));
	if (walk->links++ == LINKS_MAX)
		return error_set(error, -ELOOP, "%.120s: %s", walk->done, strerror(ELOOP));
	target[bytes] = '\0';
	memcpy(rest, walk->rest, sizeof(rest));
	if ((size_t)snprintf(walk->rest, sizeof(walk->rest), "%s/%s", target, rest) >=
	    sizeof(walk->rest))
		return too_long(target, error);
	*(target[0] == '/' ? walk->done : strrchr(walk->done, '/')) = '\0';
	return 0;
}

/* 1: there was a next name, 0: that was all. */
static int walk_step(struct walk *walk, struct error *error)
{
	size_t slashes = strspn(walk->rest, "/"), used = strlen(walk->done);
	const char *name = walk->rest + slashes;
	size_t bytes = strcspn(name, "/");
	struct stat status;
	int result;

	if (bytes == 0)
		return 0;
	if (used + 1 + bytes >= sizeof(walk->done))
		return too_long(walk->done, error);
	if (bytes == 2 && memcmp(name, "..", 2) == 0)
		*(used == 0 ? walk->done : strrchr(walk->done, '/')) = '\0';
	else if (bytes != 1 || *name != '.')
		snprintf(walk->done + used, sizeof(walk->done) - used, "/%.*s", (int)bytes, name);
	memmove(walk->rest, name + bytes, strlen(name + bytes) + 1);
	result = component_check(walk->done[0] == '\0' ? "/" : walk->done, walk->refused, &status,
				 error);
	if (result == 0 && S_ISLNK(status.st_mode))
		result = link_follow(walk, error);
	return result < 0 ? result : 1;
}

/* All names that `path` depends on, itself too. */
static int way_check(const char *path, mode_t refused, struct error *error)
{
	struct walk walk = { .refused = refused };
	struct stat status;
	char here[PATH_MAX] = "";
	int result = component_check("/", refused, &status, error);

	if (result == 0 && path[0] != '/' && getcwd(here, sizeof(here)) == NULL)
		result = error_set(error, -errno, "the folder that we were started in: %s", strerror(errno));
	if (result == 0 && (size_t)snprintf(walk.rest, sizeof(walk.rest), "%s/%s", here, path) >=
				   sizeof(walk.rest))
		result = too_long(path, error);
	if (result < 0)
		return result;
	do {
		result = walk_step(&walk, error);
	} while (result > 0);
	/* Who set the path looks for it as he wrote it. */
	if (result == -ENOENT)
		return error_set(error, result, "%.120s: %s%s", path, strerror(ENOENT),
				 error_advice(result));
	return result;
}

int trusted_parents(const char *path, struct error *error)
{
	char folder[PATH_MAX];
	size_t bytes = strlen(path);

	while (bytes > 1 && path[bytes - 1] == '/')
		bytes--;
	while (bytes > 0 && path[bytes - 1] != '/')
		bytes--;
	if (bytes >= sizeof(folder))
		return too_long(path, error);
	snprintf(folder, sizeof(folder), "%.*s", bytes == 0 ? 1 : (int)bytes, bytes == 0 ? "." : path);
	return way_check(folder, S_IWOTH, error);
}

static bool is_our_group(gid_t group)
{
	gid_t groups[GROUPS_MAX];
	int count = getgroups(GROUPS_MAX, groups);

	for (int i = 0; i < count; i++)
		if (groups[i] == group)
			return true;
	return group == getegid();
}

int trusted_secret(int fd, const char *path, struct error *error)
{
	struct stat status;

	if (fstat(fd, &status) < 0)
		return error_set(error, -errno, "%.120s: %s", path, strerror(errno));
	if (!S_ISREG(status.st_mode))
		return error_set(error, -EINVAL, "%.120s: a key file is a regular file", path);
	if (!is_trusted(status.st_uid))
		return error_set(error, -EPERM, "%.120s: belongs to another user (%u): chown it",
				 path, (unsigned)status.st_uid);
	if (status.st_mode & (S_IRWXO | S_IWGRP | S_IXGRP))
		return error_set(error, -EACCES,
				 "%.100s: others than its owner may use this key file (mode %04o): chmod 600, or 440 with a group of ours",
				 path, (unsigned)status.st_mode & 07777);
	if ((status.st_mode & S_IRGRP) && !is_our_group(status.st_gid))
		return error_set(error, -EACCES,
				 "%.100s: group %u, none of ours, may read this key file: chmod 600, or run us in that group (fsGroup)",
				 path, (unsigned)status.st_gid);
	/* A group that may read it has members that are not us: they must not put another there. */
	return way_check(path, status.st_mode & S_IRGRP ? S_IWOTH | S_IWGRP : S_IWOTH, error);
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
