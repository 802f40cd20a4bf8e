/* daemon/sandbox_peer.c: the files that the process reads which speaks to other nodes. */
#include "daemon/sandbox_parts.h"

static const struct {
	const char *path;
	enum landlock_rights rights;
	bool is_ucx; /* of use to UCX alone */
} grants[] = {
	/* names: the C library's resolver, with what it loads for it */
	{ "/etc/resolv.conf", LANDLOCK_READ, false },
	{ "/etc/hosts", LANDLOCK_READ, false },
	{ "/etc/host.conf", LANDLOCK_READ, false },
	{ "/etc/nsswitch.conf", LANDLOCK_READ, false },
	{ "/etc/gai.conf", LANDLOCK_READ, false },
	{ "/etc/services", LANDLOCK_READ, false },
	{ "/etc/ld.so.cache", LANDLOCK_READ, false },
	{ "/run/systemd/resolve", LANDLOCK_READ, false },
	{ "/usr/lib/x86_64-linux-gnu", LANDLOCK_READ, false },
	{ "/usr/lib/aarch64-linux-gnu", LANDLOCK_READ, false },
	{ "/usr/lib64", LANDLOCK_READ, false },
	{ "/proc/sys/net", LANDLOCK_READ, false },
	/* UCX: its configuration, what the machine is, its devices */
	{ "/etc/ucx", LANDLOCK_READ, true },
	{ "/etc/libibverbs.d", LANDLOCK_READ, true },
	{ "/sys", LANDLOCK_READ, true },
	{ "/proc/self", LANDLOCK_READ, true },
	{ "/proc/cpuinfo", LANDLOCK_READ, true },
	{ "/proc/meminfo", LANDLOCK_READ, true },
	{ "/proc/modules", LANDLOCK_READ, true },
	{ "/proc/sys", LANDLOCK_READ, true },
	{ "/dev/infiniband", LANDLOCK_WRITE, true },
	{ "/dev/infiniband", LANDLOCK_READ, true },
	{ "/dev/null", LANDLOCK_WRITE, true },
};

int sandbox_grant_peers(struct landlock *landlock, bool has_ucx, bool is_worker,
			struct error *error)
{
	int result = 0;

	for (unsigned n = 0; result == 0 && n < sizeof(grants) / sizeof(grants[0]); n++)
		if (has_ucx || !grants[n].is_ucx)
			result = landlock_grant(landlock, grants[n].path, grants[n].rights, error);
	/* The daemon cannot name the folder of a process that is not there yet. */
	if (result == 0 && has_ucx && !is_worker)
		result = landlock_grant(landlock, "/proc", LANDLOCK_READ, error);
	return result;
}
