/* daemon/sandbox_landlock.c: Landlock by system calls, with the kernel's newest numbers: the
 * headers of a build machine are older than the kernels it runs on. */
#include "daemon/sandbox_parts.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule 445
#define SYS_landlock_restrict_self 446
#endif

#define CREATE_VERSION 1u
#define RULE_PATH 1
#define RULE_PORT 2

#define FS_EXECUTE (UINT64_C(1) << 0)
#define FS_WRITE_FILE (UINT64_C(1) << 1)
#define FS_READ_FILE (UINT64_C(1) << 2)
#define FS_READ_FOLDER (UINT64_C(1) << 3)
#define FS_REMOVE_FOLDER (UINT64_C(1) << 4)
#define FS_REMOVE_FILE (UINT64_C(1) << 5)
#define FS_MAKE_FOLDER (UINT64_C(1) << 7)
#define FS_MAKE_FILE (UINT64_C(1) << 8)
#define FS_MAKE_SOCKET (UINT64_C(1) << 9)
#define FS_TRUNCATE (UINT64_C(1) << 14)
#define FS_IOCTL (UINT64_C(1) << 15)
#define FS_OF_FILES (FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL)
#define NET_BIND (UINT64_C(1) << 0)
#define NET_CONNECT (UINT64_C(1) << 1)
#define SCOPE_ABSTRACT (UINT64_C(1) << 0)
#define SCOPE_SIGNAL (UINT64_C(1) << 1)

struct ruleset {
	uint64_t files, net, scoped;
};
struct rule_path {
	uint64_t allowed;
	int32_t folder;
} __attribute__((packed));
struct rule_port {
	uint64_t allowed, port;
};

/* How many kinds of file access each version knows; the newest of ours stands for newer ones. */
static const unsigned char file_bits[] = { 0, 13, 14, 15, 15, 16 };

unsigned landlock_version(void)
{
	long version = syscall(SYS_landlock_create_ruleset, NULL, 0, CREATE_VERSION);

	return version < 0 ? 0 : (unsigned)version;
}

int landlock_open(struct landlock *landlock, bool has_abstract, bool has_network,
		  struct error *error)
{
	struct ruleset ruleset = { 0 };
	size_t bytes = sizeof(ruleset.files);
	unsigned version = landlock_version();

	*landlock = (struct landlock){ .version = version, .fd = -1 };
	if (version == 0)
		return error_set(error, -ENOTSUP, "Landlock (a kernel with it among its lsm=)");
	ruleset.files = (UINT64_C(1) << file_bits[version < 5 ? version : 5]) - 1;
	if (version >= 4) {
		ruleset.net = has_network ? 0 : NET_BIND | NET_CONNECT;
		bytes = sizeof(ruleset.files) + sizeof(ruleset.net);
	}
	if (version >= 6) {
		ruleset.scoped = SCOPE_SIGNAL | (has_abstract ? 0 : SCOPE_ABSTRACT);
		bytes = sizeof(ruleset);
	}
	landlock->handled = ruleset.files;
	landlock->has_network = has_network;
	landlock->fd = (int)syscall(SYS_landlock_create_ruleset, &ruleset, bytes, 0);
	if (landlock->fd < 0)
		return error_set(error, -errno, "Landlock (%s)", strerror(errno));
	return 0;
}

static uint64_t kinds_of(enum landlock_rights rights)
{
	static const uint64_t kinds[] = {
		[LANDLOCK_READ] = FS_READ_FILE | FS_READ_FOLDER,
		[LANDLOCK_EXECUTE] = FS_READ_FILE | FS_EXECUTE,
		[LANDLOCK_WRITE] = FS_READ_FILE | FS_WRITE_FILE | FS_TRUNCATE | FS_IOCTL,
		[LANDLOCK_MANAGE] = FS_READ_FILE | FS_READ_FOLDER | FS_WRITE_FILE | FS_TRUNCATE |
				    FS_REMOVE_FOLDER | FS_REMOVE_FILE | FS_MAKE_FOLDER |
				    FS_MAKE_FILE | FS_MAKE_SOCKET,
	};

	return kinds[rights];
}

int landlock_grant(struct landlock *landlock, const char *path, enum landlock_rights rights,
		   struct error *error)
{
	struct rule_path rule = { .allowed = kinds_of(rights) & landlock->handled };
	struct stat status;
	int result = 0;

	assert(landlock->fd >= 0);
	rule.folder = open(path, O_PATH | O_CLOEXEC);
	if (rule.folder < 0)
		return errno == ENOENT ? 0 : error_set(error, -errno, "%.100s: %s", path, strerror(errno));
	if (fstat(rule.folder, &status) == 0 && !S_ISDIR(status.st_mode))
		rule.allowed &= FS_OF_FILES;
	if (syscall(SYS_landlock_add_rule, landlock->fd, RULE_PATH, &rule, 0) < 0)
		result = error_set(error, -errno, "Landlock: %.100s: %s", path, strerror(errno));
	close(rule.folder);
	return result;
}

int landlock_grant_port(struct landlock *landlock, uint16_t port, struct error *error)
{
	struct rule_port rule = { .allowed = NET_BIND, .port = port };

	if (landlock->version < 4 || landlock->has_network ||
	    syscall(SYS_landlock_add_rule, landlock->fd, RULE_PORT, &rule, 0) == 0)
		return 0;
	return error_set(error, -errno, "Landlock: port %u: %s", port, strerror(errno));
}

int landlock_enforce(struct landlock *landlock, struct error *error)
{
	int result = 0;

	if (syscall(SYS_landlock_restrict_self, landlock->fd, 0) < 0)
		result = error_set(error, -errno, "Landlock (%s)", strerror(errno));
	landlock_close(landlock);
	return result;
}

void landlock_close(struct landlock *landlock)
{
	if (landlock->fd >= 0)
		close(landlock->fd);
	landlock->fd = -1;
}
