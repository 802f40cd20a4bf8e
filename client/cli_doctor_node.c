/* client/cli_doctor_node.c: what the running daemon is allowed and has, against what it uses. */
#include "client/cli_doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define NOFILE_MIN 4096.0
#define NPROC_MIN 256.0
/* Beside its tiers and its index, of what it may have. */
#define MEMORY_SPARE 1.1
#define DISK_FREE_SHARE_MIN 0.05

void check_versions(struct doctor *doctor)
{
	const char *daemon = cli_string(doctor->stats, "version");

	if (doctor->stats == NULL)
		finding_add(doctor, "versions", FINDING_OK, NULL, "kvtier %s", kvtier_version());
	else
		finding_add(doctor, "versions",
			    strcmp(daemon, kvtier_version()) == 0 ? FINDING_OK : FINDING_WARN,
			    "they understand each other; update the older one when it suits",
			    "kvtier %s, kvtierd %s", kvtier_version(), daemon);
}

/* ---- limits ---- */

/* A row of /proc/PID/limits: the soft limit. False: not there. -1: unlimited. */
static bool limit_read(const char *path, const char *name, double *out_limit)
{
	FILE *file = fopen(path, "re");
	char line[256];
	bool is_found = false;

	while (file != NULL && !is_found && fgets(line, sizeof(line), file) != NULL) {
		const char *value = line + strlen(name);

		is_found = strncmp(line, name, strlen(name)) == 0;
		value += is_found ? strspn(value, " ") : 0;
		if (is_found)
			*out_limit = strncmp(value, "unlimited", 9) == 0 ? -1 : strtod(value, NULL);
	}
	if (file != NULL)
		fclose(file);
	return is_found;
}

/* root is not bound by it. */
static bool is_root(const struct doctor *doctor)
{
	char path[64];
	struct stat status;

	snprintf(path, sizeof(path), "/proc/%d", (int)doctor->daemon);
	return doctor->daemon == 0 || stat(path, &status) < 0 ? geteuid() == 0
							      : status.st_uid == 0;
}

static void limit_check(struct doctor *doctor, const char *check, const char *row, double least,
			const char *advice)
{
	char path[64], words[CLI_UNIT_BYTES];
	double limit;

	doctor_proc_path(doctor, "limits", path, sizeof(path));
	if (!limit_read(path, row, &limit))
		return;
	if (limit < 0)
		finding_add(doctor, check, FINDING_OK, NULL, "%s: not limited", row);
	else
		finding_add(doctor, check,
			    least > 0 && limit >= least ? FINDING_OK : FINDING_WARN, advice,
			    "%s: %s", row, cli_count(limit, words));
}

static void check_memlock(struct doctor *doctor)
{
	char path[64], words[CLI_UNIT_BYTES];
	double limit;

	doctor_proc_path(doctor, "limits", path, sizeof(path));
	if (!limit_read(path, "Max locked memory", &limit))
		return;
	if (limit < 0)
		finding_add(doctor, "memlock", FINDING_OK, NULL, "locked memory is not limited");
	else
		finding_add(doctor, "memlock", is_root(doctor) ? FINDING_OK : FINDING_WARN,
			    "registered buffers, and what some GPU drivers pin, need locked memory: ulimit -l "
			    "unlimited, LimitMEMLOCK=infinity, or CAP_IPC_LOCK as uid 0",
			    "locked memory is limited to %s%s", cli_bytes(limit, words),
			    is_root(doctor) ? " (uid 0 is not bound by it)" : "");
}

void check_limits(struct doctor *doctor)
{
	check_memlock(doctor);
	limit_check(doctor, "nofile", "Max open files", NOFILE_MIN,
		    "each engine takes a few descriptors: LimitNOFILE=65536");
	limit_check(doctor, "nproc", "Max processes", NPROC_MIN,
		    "threads count, too: LimitNPROC=infinity");
	limit_check(doctor, "as", "Max address space", 0,
		    "arenas are mapped whole: ulimit -v unlimited, LimitAS=infinity");
}

/* ---- memory ---- */

/* What the daemon's cgroup, or the nearest above it, may have; 0: no limit is known. */
static double cgroup_limit(const struct doctor *doctor)
{
	char path[64], group[256], file[400], value[64];
	double least = 0;
	char *folder;

	doctor_proc_path(doctor, "cgroup", path, sizeof(path));
	if (!doctor_read(path, group, sizeof(group)) || strncmp(group, "0::", 3) != 0)
		return 0;
	folder = group + 3;
	while (folder[0] != 0) {
		char *slash = strrchr(folder, '/');

		snprintf(file, sizeof(file), "/sys/fs/cgroup%s/memory.max", folder);
		if (doctor_read(file, value, sizeof(value)) && value[0] != 'm') {
			double limit = strtod(value, NULL);

			least = least == 0 || limit < least ? limit : least;
		}
		if (slash == NULL)
			break;
		*slash = 0;
	}
	return least;
}

void check_memory(struct doctor *doctor)
{
	double total = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
	double group = cgroup_limit(doctor), limit = group > 0 && group < total ? group : total;
	double needed = cli_tier_sum(doctor->stats, "cpu", "capacity_bytes") +
			cli_number(doctor->stats, "index_bytes");
	const char *whose = limit < total ? "its cgroup's limit" : "this machine's memory";
	char a[CLI_UNIT_BYTES], b[CLI_UNIT_BYTES];

	if (doctor->stats == NULL)
		finding_add(doctor, "memory", FINDING_OK, NULL, "%s is %s", whose,
			    cli_bytes(limit, a));
	else
		finding_add(doctor, "memory",
			    needed > limit		   ? FINDING_FAIL
			    : needed * MEMORY_SPARE > limit ? FINDING_WARN
							   : FINDING_OK,
			    "lower cpu_bytes, or raise the limit: beyond it the kernel kills kvtierd",
			    "tiers and index take %s; %s is %s", cli_bytes(needed, a), whose,
			    cli_bytes(limit, b));
}

/* ---- disks ---- */

/* -1: not known. A partition's queue is its disk's. */
static int is_rotational(const struct stat *status)
{
	dev_t device = S_ISBLK(status->st_mode) ? status->st_rdev : status->st_dev;
	char path[128], value[8];

	for (unsigned i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%squeue/rotational",
			 major(device), minor(device), i == 0 ? "" : "../");
		if (doctor_read(path, value, sizeof(value)))
			return value[0] == '1';
	}
	return -1;
}

static void disk_check(struct doctor *doctor, const json_t *device)
{
	const char *path = cli_string(device, "path"), *io = cli_string(device, "io");
	struct stat status;
	struct statvfs room;

	if (cli_string(device, "fenced")[0] != 0) {
		finding_add(doctor, "disk", FINDING_FAIL,
			    "check it (dmesg, smartctl -a), then restart kvtierd",
			    "%s is out of use: %s", path, cli_string(device, "fenced"));
		return;
	}
	finding_add(doctor, "disk", strncmp(io, "io_uring", 8) == 0 ? FINDING_OK : FINDING_WARN,
		    "slower than io_uring; see io_uring above, and the setting io", "%s: %s", path,
		    io);
	if (strstr(io, "O_DIRECT") == NULL)
		finding_add(doctor, "disk", FINDING_WARN,
			    "its bytes go through the page cache, too: use ext4, xfs or a raw device",
			    "%s is not written with O_DIRECT", path);
	if (stat(path, &status) < 0)
		return; /* the daemon may see what this user does not */
	if (is_rotational(&status) == 1)
		finding_add(doctor, "disk", FINDING_WARN,
			    "reads will mostly be slower than computing again: use flash",
			    "%s is on a disk that says it turns (virtual ones often do)", path);
	if (S_ISREG(status.st_mode) && statvfs(path, &room) == 0 && room.f_blocks > 0 &&
	    (double)room.f_bavail / (double)room.f_blocks < DISK_FREE_SHARE_MIN)
		finding_add(doctor, "disk", FINDING_WARN,
			    "the tier's file is safe, but catalogue, journal and logs need room: free some",
			    "the file system of %s is %.0f %% full", path,
			    100 - 100 * (double)room.f_bavail / (double)room.f_blocks);
}

void check_disks(struct doctor *doctor)
{
	size_t i;
	json_t *device;

	if (doctor->stats != NULL && json_array_size(cli_get(doctor->stats, "nvme")) == 0)
		finding_add(doctor, "disk", FINDING_OK, NULL, "no nvme tier is set");
	json_array_foreach(cli_get(doctor->stats, "nvme"), i, device)
	{
		disk_check(doctor, device);
	}
}

/* ---- seccomp ---- */

void check_seccomp(struct doctor *doctor)
{
	char path[64], line[128];
	FILE *file;
	int mode = -1;

	doctor_proc_path(doctor, "status", path, sizeof(path));
	file = fopen(path, "re");
	while (file != NULL && mode < 0 && fgets(line, sizeof(line), file) != NULL)
		if (sscanf(line, "Seccomp: %d", &mode) != 1)
			mode = -1;
	if (file != NULL)
		fclose(file);
	if (mode >= 0)
		finding_add(doctor, "seccomp", FINDING_OK, NULL, "%s is %s",
			    doctor->daemon != 0 ? "kvtierd" : "this process",
			    mode == 2 ? "filtered" : "not filtered");
}
