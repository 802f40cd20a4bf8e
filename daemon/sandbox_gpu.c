/* daemon/sandbox_gpu.c: the files that a GPU's driver reads, and its devices. */
#include "daemon/sandbox_parts.h"

#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

static const struct {
	const char *pattern;
	enum landlock_rights rights;
} grants[] = {
	/* libraries, where distributions, containers and the vendors' installers put them */
	{ "/usr/lib/x86_64-linux-gnu", LANDLOCK_READ },
	{ "/usr/lib/aarch64-linux-gnu", LANDLOCK_READ },
	{ "/usr/lib64", LANDLOCK_READ },
	{ "/usr/local/nvidia", LANDLOCK_READ },
	{ "/usr/local/cuda*", LANDLOCK_READ },
	{ "/run/nvidia", LANDLOCK_READ },
	{ "/opt/rocm*", LANDLOCK_READ },
	{ "/opt/amdgpu", LANDLOCK_READ },
	{ "/etc/ld.so.cache", LANDLOCK_READ },
	{ "/etc/nvidia", LANDLOCK_READ },
	{ "/usr/share/libdrm", LANDLOCK_READ },
	/* devices; their folders are listed, too */
	{ "/dev/null", LANDLOCK_WRITE },
	{ "/dev/nvidia*", LANDLOCK_WRITE },
	{ "/dev/kfd", LANDLOCK_WRITE },
	{ "/dev/dri", LANDLOCK_WRITE },
	{ "/dev/dri", LANDLOCK_READ },
	/* what the machine is */
	{ "/sys", LANDLOCK_READ },
};

/* The daemon cannot name the folder of a process that is not there yet. */
static const char *const proc_of_daemon[] = { "/proc", NULL };
static const char *const proc_of_worker[] = { "/proc/self",    "/proc/driver", "/proc/devices",
					      "/proc/modules", "/proc/cpuinfo", "/proc/meminfo",
					      "/proc/version", "/proc/sys",     NULL };

static int pattern_grant(struct landlock *landlock, const char *pattern,
			 enum landlock_rights rights, struct error *error)
{
	glob_t paths;
	int result = 0;

	/* What is not there needs no rule. */
	if (glob(pattern, 0, NULL, &paths) != 0)
		return 0;
	for (size_t n = 0; result == 0 && n < paths.gl_pathc; n++)
		result = landlock_grant(landlock, paths.gl_pathv[n], rights, error);
	globfree(&paths);
	return result;
}

int sandbox_grant_gpus(struct landlock *landlock, const char *library, bool is_worker,
		       struct error *error)
{
	const char *const *proc = is_worker ? proc_of_worker : proc_of_daemon;
	const char *slash = strrchr(library, '/');
	char folder[PATH_MAX];
	int result = 0;

	for (size_t n = 0; result == 0 && n < sizeof(grants) / sizeof(grants[0]); n++)
		result = pattern_grant(landlock, grants[n].pattern, grants[n].rights, error);
	for (; result == 0 && *proc != NULL; proc++)
		result = landlock_grant(landlock, *proc, LANDLOCK_READ, error);
	if (result < 0 || slash == NULL || slash == library)
		return result;
	/* With what it links beside it. */
	snprintf(folder, sizeof(folder), "%.*s", (int)(slash - library), library);
	return landlock_grant(landlock, folder, LANDLOCK_READ, error);
}
