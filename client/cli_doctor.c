/* client/cli_doctor.c: what kvtier needs of the machine, and what to do where it is missing. */
#include "client/cli_doctor.h"

#include "base/checksum.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#define TMPFS_MAGIC_NUMBER 0x01021994
#define FOUND_BYTES 400
/* Before it, memory that a ring has registered counted against the memlock limit. */
#define KERNEL_MAJOR 5
#define KERNEL_MINOR 12

static const char *const level_names[] = { "ok", "warn", "fail" };

void finding_add(struct doctor *doctor, const char *check, enum finding_level level,
		 const char *advice, const char *format, ...)
{
	char found[FOUND_BYTES];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(found, sizeof(found), format, arguments);
	va_end(arguments);
	json_array_append_new(doctor->findings,
			      json_pack("{s:s, s:s, s:s, s:s?}", "check", check, "level",
					level_names[level], "found", found, "advice",
					level == FINDING_OK ? NULL : advice));
	doctor->has_failed = doctor->has_failed || level == FINDING_FAIL;
}

bool doctor_read(const char *path, char *text, size_t bytes)
{
	FILE *file = fopen(path, "re");
	bool is_read = file != NULL && fgets(text, (int)bytes, file) != NULL;

	if (file != NULL)
		fclose(file);
	if (is_read)
		text[strcspn(text, "\n")] = 0;
	return is_read;
}

void doctor_proc_path(const struct doctor *doctor, const char *name, char *path, size_t bytes)
{
	snprintf(path, bytes, "/proc/%d/%s", (int)doctor->daemon, name);
	if (doctor->daemon == 0 || access(path, R_OK) != 0)
		snprintf(path, bytes, "/proc/self/%s", name);
}

/* Also learns who the daemon is. */
static void check_socket(struct doctor *doctor)
{
	struct cli *cli = doctor->cli;
	struct error error = { .code = 0 };
	struct link link = { .fd = -1 };
	struct ucred peer = { .pid = 0 };
	socklen_t bytes = sizeof(peer);

	if (link_init(&link, -1) < 0 ||
	    link_open(&link, cli->path, FRAME_CONTROL, client_deadline_us(cli->timeout_us),
		      &error) < 0) {
		finding_add(doctor, "socket", FINDING_FAIL,
			    "start kvtierd, or name its socket with --socket or KVTIER_SOCKET; check who may use it",
			    "%s", error.text);
	} else {
		if (getsockopt(link.fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0)
			doctor->daemon = peer.pid;
		finding_add(doctor, "socket", FINDING_OK, NULL, "%s answers", cli->path);
	}
	link_finish(&link);
	if (!doctor->has_failed)
		(void)cli_stats(cli, &doctor->stats);
}

static void check_kernel(struct doctor *doctor)
{
	struct utsname name;
	unsigned major = 0, minor = 0;

	if (uname(&name) < 0 || sscanf(name.release, "%u.%u", &major, &minor) != 2)
		return;
	finding_add(doctor, "kernel",
		    major > KERNEL_MAJOR || (major == KERNEL_MAJOR && minor >= KERNEL_MINOR)
			    ? FINDING_OK
			    : FINDING_WARN,
		    "it works, but 5.12 and newer count registered memory as they should, and are faster",
		    "%s %s", name.sysname, name.release);
}

static void check_io_uring(struct doctor *doctor)
{
	long fd;
	enum finding_level level = FINDING_OK;

#ifdef SYS_io_uring_setup
	/* A wrong argument: allowed kernels say EFAULT or EINVAL, others ENOSYS or EPERM. */
	fd = syscall(SYS_io_uring_setup, 1, NULL);
#else
	fd = -1;
	errno = ENOSYS;
#endif
	if (fd >= 0)
		close((int)fd);
	if (fd < 0 && (errno == ENOSYS || errno == EPERM || errno == EACCES))
		level = FINDING_WARN;
	finding_add(doctor, "io_uring", level,
		    "nvme will use slower threads; allow io_uring_setup, io_uring_enter and io_uring_register "
		    "in the container's seccomp profile, and set kernel.io_uring_disabled=0",
		    "io_uring is %s", level == FINDING_OK ? "allowed" : strerror(errno));
}

static void check_huge_pages(struct doctor *doctor)
{
	char reserved[32] = "0", shmem[128] = "", anonymous[128] = "";
	const char *folder = "/sys/kernel/mm/transparent_hugepage";
	char path[96];

	(void)doctor_read("/proc/sys/vm/nr_hugepages", reserved, sizeof(reserved));
	snprintf(path, sizeof(path), "%s/shmem_enabled", folder);
	(void)doctor_read(path, shmem, sizeof(shmem));
	finding_add(doctor, "huge-pages",
		    strcmp(reserved, "0") == 0 &&
				    (shmem[0] == 0 || strstr(shmem, "[never]") != NULL)
			    ? FINDING_WARN
			    : FINDING_OK,
		    "reserve some (vm.nr_hugepages), or allow them for shared memory: echo advise > "
		    "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
		    "%s reserved; for shared memory: %s", reserved,
		    shmem[0] != 0 ? shmem : "not known");
	snprintf(path, sizeof(path), "%s/enabled", folder);
	if (doctor_read(path, anonymous, sizeof(anonymous)))
		finding_add(doctor, "thp",
			    strstr(anonymous, "[never]") != NULL ? FINDING_WARN : FINDING_OK,
			    "the index is slower without: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
			    "transparent huge pages: %s", anonymous);
}

static void check_checksum(struct doctor *doctor)
{
	finding_add(doctor, "checksum",
		    strcmp(crc32c_way(), "table") == 0 ? FINDING_WARN : FINDING_OK,
		    "this CPU has no instruction for CRC32C: checksums will take most of the time",
		    "CRC32C by %s", crc32c_way());
}

static void check_shared_memory(struct doctor *doctor)
{
	struct statfs status;
	char free_bytes[CLI_UNIT_BYTES];
	int fd = memfd_create("kvtier-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0) {
		finding_add(doctor, "shared-memory", FINDING_FAIL,
			    "the kernel must allow memfd_create with sealing", "memfd_create: %s",
			    strerror(errno));
		return;
	}
	close(fd);
	if (statfs("/dev/shm", &status) < 0 || (long)status.f_type != TMPFS_MAGIC_NUMBER)
		finding_add(doctor, "shared-memory", FINDING_WARN,
			    "an arena that survives restarts (cpu_file) needs a tmpfs that is large enough; without one "
			    "it starts empty",
			    "memfd works; /dev/shm is no tmpfs");
	else
		finding_add(doctor, "shared-memory", FINDING_OK, NULL,
			    "memfd works; /dev/shm has %s free",
			    cli_bytes((double)status.f_bavail * (double)status.f_bsize,
				      free_bytes));
}

static void check_clock(struct doctor *doctor)
{
	static const char *const slow[] = { "hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit" };
	enum finding_level level = FINDING_OK;
	char source[64] = "not known";

	(void)doctor_read("/sys/devices/system/clocksource/clocksource0/current_clocksource", source,
			  sizeof(source));
	for (unsigned i = 0; i < sizeof(slow) / sizeof(slow[0]); i++)
		if (strcmp(source, slow[i]) == 0)
			level = FINDING_WARN;
	finding_add(doctor, "clock", level,
		    "each look at this clock is a slow call: look in dmesg why tsc was not trusted",
		    "clock source: %s", source);
}

static void (*const checks[])(struct doctor *doctor) = {
	check_socket, check_parts,	check_versions, check_kernel,	check_io_uring,
	check_limits, check_memory,	check_huge_pages, check_disks,	check_encryption,
	check_sandbox, check_seccomp,	check_numa, check_clock,	check_checksum,
	check_shared_memory, check_gpus,
};

static void doctor_print(struct cli *cli, const json_t *findings)
{
	static const char indent[] = "                     ";
	static const enum cli_colour colours[] = { CLI_GREEN, CLI_YELLOW, CLI_RED };
	size_t i;
	json_t *finding;

	json_array_foreach(findings, i, finding)
	{
		const char *level = cli_string(finding, "level");
		char first[24];
		unsigned number = 0;

		while (number + 1 < 3 && strcmp(level_names[number], level) != 0)
			number++;
		snprintf(first, sizeof(first), "%-5.5s %-14.14s ", level,
			 cli_string(finding, "check"));
		cli_words_behind(cli, colours[number], first, indent, cli_string(finding, "found"));
		if (cli_string(finding, "advice")[0] != 0)
			cli_words(cli, CLI_PLAIN, indent, cli_string(finding, "advice"));
	}
}

enum cli_exit cli_doctor(struct cli *cli)
{
	struct doctor doctor = { .cli = cli, .findings = json_array() };
	enum cli_exit result;

	for (unsigned i = 0; i < sizeof(checks) / sizeof(checks[0]); i++)
		checks[i](&doctor);
	json_decref(doctor.stats);
	result = cli_show(cli, doctor.findings, doctor_print);
	return result == CLI_DONE && doctor.has_failed ? CLI_REFUSED : result;
}
