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
	{ "/etc/ld.so.conf", LANDLOCK_READ },
	{ "/etc/ld.so.conf.d", LANDLOCK_READ },
	{ "/etc/nvidia", LANDLOCK_READ },
	{ "/usr/share/libdrm", LANDLOCK_READ },
	/* devices; their folders are listed, too */
	{ "/dev/nvidia*", LANDLOCK_WRITE },
	{ "/dev/kfd", LANDLOCK_WRITE },
	{ "/dev/dri", LANDLOCK_WRITE },
	{ "/dev/dri", LANDLOCK_READ },
	/* What the machine is. Of other processes Landlock leaves what anybody may read: a
	 * folder of our own is not there before the process is. */
	{ "/sys", LANDLOCK_READ },
	{ "/proc", LANDLOCK_READ },
};

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

int sandbox_grant_gpus(struct landlock *landlock, const char *library, struct error *error)
{
	const char *slash = strrchr(library, '/');
	char folder[PATH_MAX];
	int result = 0;

	for (size_t n = 0; result == 0 && n < sizeof(grants) / sizeof(grants[0]); n++)
		result = pattern_grant(landlock, grants[n].pattern, grants[n].rights, error);
	if (result < 0 || slash == NULL || slash == library)
		return result;
	/* With what it links beside it. */
	snprintf(folder, sizeof(folder), "%.*s", (int)(slash - library), library);
	return landlock_grant(landlock, folder, LANDLOCK_READ, error);
}
