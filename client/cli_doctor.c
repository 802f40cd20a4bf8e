/* client/cli_doctor.c: what kvtier needs of the machine, and what to do where it is missing. */
#include "client/cli.h"

#include "base/checksum.h"
#include "proto/json_text.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#define TMPFS_MAGIC_NUMBER 0x01021994
#define DOCTOR_JSON_BYTES (16u << 10)

enum finding_level { FINDING_OK, FINDING_WARN, FINDING_FAIL };

struct finding {
	enum finding_level level;
	char found[240];
	const char *advice; /* where it is not ok */
};

static void check_socket(struct cli *cli, struct finding *finding)
{
	struct error error = { .code = 0 };
	struct link link = { .fd = -1 };

	finding->advice =
		"start kvtierd, or name its socket with --socket or KVTIER_SOCKET; check who may use it";
	if (link_init(&link, -1) == 0 &&
	    link_open(&link, cli->socket, FRAME_CONTROL, client_deadline_us(cli->timeout_us),
		      &error) == 0) {
		snprintf(finding->found, sizeof(finding->found), "%.200s answers", cli->socket);
	} else {
		finding->level = FINDING_FAIL;
		snprintf(finding->found, sizeof(finding->found), "%s", error.text);
	}
	link_finish(&link);
}

static void check_io_uring(struct cli *cli, struct finding *finding)
{
	long fd;

	(void)cli;
	finding->advice =
		"nvme will use slower threads; allow io_uring_setup, io_uring_enter and io_uring_register "
		"in the container's seccomp profile, and set kernel.io_uring_disabled=0";
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
		finding->level = FINDING_WARN;
	snprintf(finding->found, sizeof(finding->found), "io_uring is %s",
		 finding->level == FINDING_OK ? "allowed" : strerror(errno));
}

static void check_memlock(struct cli *cli, struct finding *finding)
{
	struct rlimit limit = { 0, 0 };

	(void)cli;
	finding->advice =
		"registered buffers need locked memory: ulimit -l unlimited, LimitMEMLOCK=infinity, or "
		"CAP_IPC_LOCK as uid 0";
	if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY) {
		snprintf(finding->found, sizeof(finding->found), "locked memory is not limited");
		return;
	}
	if (geteuid() != 0)
		finding->level = FINDING_WARN;
	snprintf(finding->found, sizeof(finding->found),
		 "locked memory is limited to %" PRIu64 " KiB%s", (uint64_t)limit.rlim_cur >> 10,
		 geteuid() == 0 ? " (uid 0 is not bound by it)" : "");
}

static bool read_line(const char *path, char *text, size_t bytes)
{
	FILE *file = fopen(path, "re");
	bool is_read = file != NULL && fgets(text, (int)bytes, file) != NULL;

	if (file != NULL)
		fclose(file);
	if (is_read)
		text[strcspn(text, "\n")] = 0;
	return is_read;
}

static void check_huge_pages(struct cli *cli, struct finding *finding)
{
	char reserved[32] = "0", shmem[128] = "";

	(void)cli;
	finding->advice =
		"reserve some (vm.nr_hugepages), or allow them for shared memory: echo advise > "
		"/sys/kernel/mm/transparent_hugepage/shmem_enabled";
	(void)read_line("/proc/sys/vm/nr_hugepages", reserved, sizeof(reserved));
	(void)read_line("/sys/kernel/mm/transparent_hugepage/shmem_enabled", shmem, sizeof(shmem));
	if (strcmp(reserved, "0") == 0 && (shmem[0] == 0 || strstr(shmem, "[never]") != NULL))
		finding->level = FINDING_WARN;
	snprintf(finding->found, sizeof(finding->found), "%s reserved; for shared memory: %s",
		 reserved, shmem[0] != 0 ? shmem : "not known");
}

static void check_checksum(struct cli *cli, struct finding *finding)
{
	(void)cli;
	finding->advice =
		"this CPU has no instruction for CRC32C: checksums will take most of the time";
	if (strcmp(crc32c_way(), "table") == 0)
		finding->level = FINDING_WARN;
	snprintf(finding->found, sizeof(finding->found), "CRC32C by %s", crc32c_way());
}

static void check_shared_memory(struct cli *cli, struct finding *finding)
{
	struct statfs status;
	int fd = memfd_create("kvtier-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	(void)cli;
	finding->advice =
		"an arena that survives restarts (cpu_file) needs a tmpfs that is large enough; without one "
		"it starts empty";
	if (fd < 0) {
		finding->level = FINDING_FAIL;
		finding->advice = "the kernel must allow memfd_create with sealing";
		snprintf(finding->found, sizeof(finding->found), "memfd_create: %s",
			 strerror(errno));
		return;
	}
	close(fd);
	if (statfs("/dev/shm", &status) < 0 || (long)status.f_type != TMPFS_MAGIC_NUMBER) {
		finding->level = FINDING_WARN;
		snprintf(finding->found, sizeof(finding->found),
			 "memfd works; /dev/shm is no tmpfs");
		return;
	}
	snprintf(finding->found, sizeof(finding->found),
		 "memfd works; /dev/shm has %" PRIu64 " MiB free",
		 (uint64_t)status.f_bavail * (uint64_t)status.f_bsize >> 20);
}

static const struct {
	const char *name;
	void (*check)(struct cli *cli, struct finding *finding);
} checks[] = {
	{ "socket", check_socket },     { "io_uring", check_io_uring },
	{ "memlock", check_memlock },   { "huge-pages", check_huge_pages },
	{ "checksum", check_checksum }, { "shared-memory", check_shared_memory },
};

static const char *const level_names[] = { "ok", "warn", "fail" };

static void finding_print(struct cli *cli, struct json_text *json, const char *name,
			  const struct finding *finding)
{
	if (!cli->is_json) {
		fprintf(cli->out, "%-5s %-14s %s\n", level_names[finding->level], name,
			finding->found);
		if (finding->level != FINDING_OK)
			fprintf(cli->out, "%21s%s\n", "", finding->advice);
		return;
	}
	json_text_object_begin(json, NULL);
	json_text_string(json, "check", name);
	json_text_string(json, "level", level_names[finding->level]);
	json_text_string(json, "found", finding->found);
	json_text_string(json, "advice", finding->level == FINDING_OK ? NULL : finding->advice);
	json_text_object_end(json);
}

enum cli_exit cli_doctor(struct cli *cli)
{
	static char text[DOCTOR_JSON_BYTES];
	struct json_text json;
	enum cli_exit result = CLI_DONE;

	json_text_init(&json, text, sizeof(text));
	json_text_array_begin(&json, NULL);
	for (unsigned i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
		struct finding finding = { .level = FINDING_OK };

		checks[i].check(cli, &finding);
		finding_print(cli, &json, checks[i].name, &finding);
		if (finding.level == FINDING_FAIL)
			result = CLI_REFUSED;
	}
	json_text_array_end(&json);
	if (cli->is_json)
		fprintf(cli->out, "%s\n", text);
	return result;
}
