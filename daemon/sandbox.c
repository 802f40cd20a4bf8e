/* daemon/sandbox.c: which files and calls are left to the daemon and to its worker. */
#include "daemon/sandbox.h"

#include "base/log.h"
#include "base/privilege.h"
#include "base/trusted_path.h"
#include "daemon/fingerprint.h"
#include "daemon/sandbox_parts.h"
#include "transfer/gpu_names.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* What a sanitizer does (ptrace at the end, symbolizers, shadow memory) is what a sandbox forbids.
 */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define HAS_SANITIZER 1
#endif
#endif
#ifndef HAS_SANITIZER
#define HAS_SANITIZER 0
#endif

#define MODE_VARIABLE "KVTIER_WORKER_SANDBOX"
#define CORE_VARIABLE "KVTIER_WORKER_CORE_DUMPS"

static bool mode_is(const char *mode, const char *word)
{
	return mode != NULL && strcmp(mode, word) == 0;
}

/* Something cannot be had: noted; with `enforce` it ends the start. */
static int lack(struct sandbox *sandbox, const struct error *reason, struct error *error)
{
	size_t used = strlen(sandbox->missing);

	if (sandbox->is_enforced)
		return error_set(error, -ENOTSUP, "sandbox: enforce, but not to be had: %.150s; set sandbox: auto to go "
				 "on without", reason->text);
	snprintf(sandbox->missing + used, sizeof(sandbox->missing) - used, "%s%s", used > 0 ? "; " : "", reason->text);
	return 0;
}

/* ---- files ---- */

/* "/a/b/c" becomes "/a/b". */
static void parent_of(const char *path, char *out_folder, size_t bytes)
{
	const char *slash = strrchr(path, '/');

	if (slash == NULL)
		snprintf(out_folder, bytes, ".");
	else
		snprintf(out_folder, bytes, "%.*s", slash == path ? 1 : (int)(slash - path), path);
}

/* The folder, as files are made beside it and renamed; a device is itself. */
static int grant_storage(struct landlock *landlock, const char *path, struct error *error)
{
	char folder[PATH_MAX];
	struct stat status;

	if (path[0] == '\0')
		return 0;
	if (stat(path, &status) == 0 && !S_ISREG(status.st_mode))
		return landlock_grant(landlock, path, LANDLOCK_WRITE, error);
	parent_of(path, folder, sizeof(folder));
	return landlock_grant(landlock, folder, LANDLOCK_MANAGE, error);
}

/* Unless it is everybody's. */
static int grant_folder(struct landlock *landlock, const char *folder, struct error *error)
{
	char real[PATH_MAX];

	if (realpath(folder, real) == NULL || strcmp(real, "/") == 0 || strcmp(real, "/etc") == 0 ||
	    strcmp(real, "/tmp") == 0)
		return 0;
	return landlock_grant(landlock, real, LANDLOCK_READ, error);
}

/* A volume of Kubernetes: its links lead through "..data" into a folder that the kubelet changes for
 * another. */
static bool is_volume(const char *folder)
{
	char link[PATH_MAX + 8];
	struct stat status;

	snprintf(link, sizeof(link), "%s/..data", folder);
	return lstat(link, &status) == 0 && S_ISLNK(status.st_mode);
}

/* Read again for a reload, when another file may have its name: with the folder of that name, which
 * may be a link; and with the volume that it lies in, however deep. */
static int grant_config(struct landlock *landlock, const char *path, struct error *error)
{
	char real[PATH_MAX], folder[PATH_MAX];
	int result;

	if (path == NULL || realpath(path, real) == NULL)
		return 0;
	result = landlock_grant(landlock, real, LANDLOCK_READ, error);
	parent_of(path, folder, sizeof(folder));
	if (result == 0)
		result = grant_folder(landlock, folder, error);
	while (result == 0 && strchr(folder, '/') != NULL && strcmp(folder, "/") != 0) {
		if (is_volume(folder))
			result = grant_folder(landlock, folder, error);
		*strrchr(folder, '/') = '\0';
	}
	return result;
}

/* Our own binary, the loader that executes it, and the libraries that are mapped now: what a worker
 * is started with. */
static int grant_program(struct landlock *landlock, struct error *error)
{
	char line[PATH_MAX + 128];
	unsigned long loader = getauxval(AT_BASE);
	FILE *maps = fopen("/proc/self/maps", "re");
	int result = landlock_grant(landlock, "/proc/self/exe", LANDLOCK_EXECUTE, error);

	if (maps == NULL)
		return error_set(error, -errno, "/proc/self/maps: %s", strerror(errno));
	while (result == 0 && fgets(line, sizeof(line), maps) != NULL) {
		char *path = strchr(line, '/');
		unsigned long start = strtoul(line, NULL, 16);

		if (path == NULL)
			continue;
		path[strcspn(path, "\n")] = '\0';
		result = landlock_grant(landlock, path,
					start == loader ? LANDLOCK_EXECUTE : LANDLOCK_READ, error);
	}
	fclose(maps);
	return result;
}

static int grant_system(struct landlock *landlock, struct error *error)
{
	static const struct {
		const char *path;
		enum landlock_rights rights;
	} grants[] = {
		{ "/dev/null", LANDLOCK_WRITE },
		{ "/etc/ld.so.cache", LANDLOCK_READ },
		{ "/etc/localtime", LANDLOCK_READ },
		{ "/proc/sys/kernel/random/uuid", LANDLOCK_READ },
		{ "/sys/devices/system/cpu", LANDLOCK_READ },
		/* A worker's OpenSSL reads them again. */
		{ "/etc/ssl/openssl.cnf", LANDLOCK_READ },
		{ "/etc/pki/tls/openssl.cnf", LANDLOCK_READ },
	};
	int result = 0;

	for (size_t i = 0; result == 0 && i < sizeof(grants) / sizeof(grants[0]); i++)
		result = landlock_grant(landlock, grants[i].path, grants[i].rights, error);
	return result;
}

static bool has_gpus(const struct settings *settings)
{
	struct gpu_name names[GPUS_MAX];

	return gpu_names_read(settings->gpus, GPU_PCI_FOLDER, names) > 0;
}

/* Its process inherits what binds us, and speaks to any port of other nodes. */
static bool has_peers(const struct settings *settings)
{
	return settings->peer_listen[0] != '\0';
}

static int grant_peer_files(struct landlock *landlock, const struct settings *settings,
			    struct error *error)
{
	const char *const files[] = { settings->peers_file, settings->peer_secret_file,
				      settings->peer_tls_certificate, settings->peer_tls_key,
				      settings->peer_tls_ca };
	int result = 0;

	for (size_t i = 0; result == 0 && i < sizeof(files) / sizeof(files[0]); i++)
		if (files[i][0] != '\0')
			result = grant_config(landlock, files[i], error);
	return result;
}

/* Of the daemon, and of the process that tells its inventory. */
static int grant_ports(struct landlock *landlock, const struct settings *settings,
		       struct error *error)
{
	const char *const addresses[] = { settings->http_listen, settings->inventory_listen,
					  settings->inventory_ask_listen };
	int result = 0;

	for (size_t i = 0; result == 0 && i < sizeof(addresses) / sizeof(addresses[0]); i++) {
		const char *colon = strrchr(addresses[i], ':');

		if (colon != NULL)
			result = landlock_grant_port(landlock, (uint16_t)atoi(colon + 1), error);
	}
	return result;
}

static int grants_make(struct landlock *landlock, const struct settings *settings,
		       const char *config_path, struct error *error)
{
	int result = landlock_grant(landlock, settings->run_directory, LANDLOCK_MANAGE, error);

	if (result == 0)
		result = landlock_grant(landlock, settings->state_directory, LANDLOCK_MANAGE,
					error);
	for (unsigned i = 0; result == 0 && i < settings->tenants_count; i++)
		result = grant_storage(landlock, settings->tenants[i].cpu_file, error);
	for (unsigned i = 0; result == 0 && i < settings->devices_count; i++)
		result = grant_storage(landlock, settings->devices[i].path, error);
	if (result == 0)
		result = grant_config(landlock, config_path, error);
	for (unsigned i = 0; result == 0 && i < settings->tenants_count; i++)
		if (settings->tenants[i].key_file[0] != '\0')
			result = grant_config(landlock, settings->tenants[i].key_file, error);
	if (result == 0)
		result = grant_program(landlock, error);
	if (result == 0)
		result = grant_system(landlock, error);
	if (result == 0 && has_gpus(settings))
		result = sandbox_grant_gpus(landlock, settings->gpu_library, false, error);
	if (result == 0 && has_peers(settings))
		result = grant_peer_files(landlock, settings, error);
	if (result == 0 && has_peers(settings))
		result = sandbox_grant_peers(landlock,
					     !mode_is(settings->peer_transport, "tcp"), false,
					     error);
	return result == 0 ? grant_ports(landlock, settings, error) : result;
}

static int files_confine(struct sandbox *sandbox, const struct settings *settings,
			 const char *config_path, struct error *error)
{
	const char *manager = getenv("NOTIFY_SOCKET");
	struct landlock landlock;
	struct error reason;
	int result = landlock_open(&landlock, manager != NULL && manager[0] == '@',
				   has_peers(settings), &reason);

	if (result == 0)
		result = grants_make(&landlock, settings, config_path, &reason);
	if (result == 0)
		result = landlock_enforce(&landlock, &reason);
	landlock_close(&landlock);
	if (result < 0)
		return lack(sandbox, &reason, error);
	sandbox->landlock = landlock.version;
	return 0;
}

/* ---- privileges ---- */

static bool wants_io_uring(const struct settings *settings)
{
	return settings->devices_count > 0 && strcmp(settings->io, "psync") != 0;
}

/* The memory that rings register counts against RLIMIT_MEMLOCK unless we have CAP_IPC_LOCK while
 * they are made. */
static uint64_t privileges_needed(const struct settings *settings)
{
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };

	if (!wants_io_uring(settings) || !privilege_has(CAP_IPC_LOCK))
		return PRIVILEGE_NONE;
	if (setrlimit(RLIMIT_MEMLOCK, &limit) == 0)
		return PRIVILEGE_NONE;
	return UINT64_C(1) << CAP_IPC_LOCK;
}

static int privileges_drop(struct sandbox *sandbox, uint64_t kept, struct error *error)
{
	struct error reason;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
		error_set(&reason, -errno, "no_new_privs (%s)", strerror(errno));
		return lack(sandbox, &reason, error);
	}
	sandbox->no_new_privileges = true;
	if (privilege_keep(kept, &reason) < 0)
		return lack(sandbox, &reason, error);
	sandbox->no_capabilities = kept == PRIVILEGE_NONE;
	return 0;
}

int sandbox_enter(struct sandbox *sandbox, const struct settings *settings, const char *config_path,
		  struct error *error)
{
	struct error reason;
	uint8_t digest[16];
	int result;

	memset(sandbox, 0, sizeof(*sandbox));
	sandbox->is_wanted = !mode_is(settings->sandbox, "off");
	sandbox->is_enforced = mode_is(settings->sandbox, "enforce");
	setenv(MODE_VARIABLE, settings->sandbox, 1);
	if (!sandbox->is_wanted)
		return 0;
	if (HAS_SANITIZER) {
		error_set(&reason, -ENOTSUP, "anything (this is a sanitizer's build)");
		return lack(sandbox, &reason, error);
	}
	/* Landlock's rules are of what is there; and OpenSSL reads its settings at first use. */
	result = trusted_folder_make(settings->run_directory, 0755, "run_directory", error);
	if (result == 0)
		result = trusted_folder_make(settings->state_directory, 0700, "state_directory",
					     error);
	fingerprint_tenant("", digest);
	if (result == 0)
		result = privileges_drop(sandbox, privileges_needed(settings), error);
	if (result == 0 && sandbox->no_new_privileges)
		result = files_confine(sandbox, settings, config_path, error);
	return result;
}

/* ---- calls ---- */

static int calls_confine(struct sandbox *sandbox, const struct seccomp_program *program,
			 struct error *error)
{
	struct error reason;
	int result;

#if HAVE_SECCOMP
	result = seccomp_enforce(program, &reason);
#else
	(void)program;
	result = error_set(&reason, -ENOTSUP, "a seccomp filter (built without libseccomp)");
#endif
	if (result < 0)
		return lack(sandbox, &reason, error);
	sandbox->seccomp = true;
	return 0;
}

int sandbox_lock(struct sandbox *sandbox, const struct sandbox_parts_on *parts,
		 struct error *error)
{
	const struct seccomp_program program = { .has_io_uring = parts->has_io_uring,
						 .has_gpus = parts->has_gpus,
						 .has_peers = parts->has_peers };
	int result = 0;

	if (!sandbox->is_wanted || HAS_SANITIZER)
		return 0;
	if (sandbox->no_new_privileges && !sandbox->no_capabilities)
		result = privileges_drop(sandbox, PRIVILEGE_NONE, error);
	if (result == 0 && sandbox->no_new_privileges)
		result = calls_confine(sandbox, &program, error);
	return result;
}

/* ---- the worker ---- */

/* What a worker is left. */
struct worker_needs {
	const char *folder;  /* that it may change; NULL: none */
	const char *library; /* of a GPU's driver, or ""; NULL: it has none */
	bool has_sockets;    /* what the daemon may listen at */
	bool has_peers, has_ucx;
};

static int worker_grants(struct landlock *landlock, const struct worker_needs *needs,
			 struct error *error)
{
	static const char *const reads[] = { "/proc/sys/kernel/random/uuid", "/etc/localtime",
					     "/sys/devices/system/cpu" };
	int result = 0;

	if (needs->folder != NULL)
		result = landlock_grant(landlock, needs->folder, LANDLOCK_MANAGE, error);
	/* It makes names of them, tells the hour, and counts its processors. */
	for (size_t i = 0; result == 0 && i < sizeof(reads) / sizeof(reads[0]); i++)
		result = landlock_grant(landlock, reads[i], LANDLOCK_READ, error);
	if (result == 0 && needs->library != NULL)
		result = sandbox_grant_gpus(landlock, needs->library, true, error);
	if (result == 0 && needs->has_peers)
		result = sandbox_grant_peers(landlock, needs->has_ucx, true, error);
	return result;
}

static int worker_files_confine(struct sandbox *sandbox, const struct worker_needs *needs,
				struct error *error)
{
	struct landlock landlock;
	struct error reason;
	int result = landlock_open(&landlock, false, needs->has_peers || needs->has_sockets,
				   &reason);

	if (result == 0)
		result = worker_grants(&landlock, needs, &reason);
	if (result == 0)
		result = landlock_enforce(&landlock, &reason);
	landlock_close(&landlock);
	if (result < 0)
		return lack(sandbox, &reason, error);
	sandbox->landlock = landlock.version;
	return 0;
}

static int worker_confine(const struct worker_needs *needs, struct error *error)
{
	const struct seccomp_program program = { .is_worker = true,
						 .has_gpus = needs->library != NULL,
						 .has_peers = needs->has_peers ||
							      needs->has_sockets };
	const char *mode = getenv(MODE_VARIABLE);
	struct sandbox sandbox = { .is_wanted = !mode_is(mode, "off"),
				   .is_enforced = mode_is(mode, "enforce") };
	int result;

	if (!sandbox.is_wanted || HAS_SANITIZER)
		return 0;
	result = privileges_drop(&sandbox, PRIVILEGE_NONE, error);
	if (result == 0 && sandbox.no_new_privileges)
		result = worker_files_confine(&sandbox, needs, error);
	if (result == 0 && sandbox.no_new_privileges)
		result = calls_confine(&sandbox, &program, error);
	return result;
}

void sandbox_worker_cores(void)
{
	core_policy_set(getenv(CORE_VARIABLE) != NULL && mode_is(getenv(CORE_VARIABLE), "true"));
}

int sandbox_worker(const char *path, struct error *error)
{
	char folder[PATH_MAX];

	sandbox_worker_cores();
	parent_of(path, folder, sizeof(folder));
	return worker_confine(&(struct worker_needs){ .folder = folder }, error);
}

int sandbox_gpu_worker(const char *library, const char *folder, struct error *error)
{
	const struct worker_needs needs = { .folder = folder,
					    .library = library == NULL ? "" : library };

	return worker_confine(&needs, error);
}

int sandbox_peer_worker(bool has_ucx, struct error *error)
{
	return worker_confine(&(struct worker_needs){ .has_peers = true, .has_ucx = has_ucx },
			      error);
}

int sandbox_inventory_worker(struct error *error)
{
	return worker_confine(&(struct worker_needs){ .has_sockets = true }, error);
}

/* ---- the rest ---- */

void sandbox_describe(char *text, size_t text_bytes)
{
	unsigned version = landlock_version();

	if (HAS_SANITIZER)
		snprintf(text, text_bytes, "none (a sanitizer's build)");
	else if (version == 0)
		snprintf(text, text_bytes, "seccomp %s, this kernel has no Landlock",
			 HAVE_SECCOMP ? "built in" : "not built in");
	else
		snprintf(text, text_bytes, "seccomp %s, this kernel has Landlock %u",
			 HAVE_SECCOMP ? "built in" : "not built in", version);
}

void core_policy_set(bool is_wanted)
{
	struct rlimit limit = { 0, 0 };

	setenv(CORE_VARIABLE, is_wanted ? "true" : "false", 1);
	if (is_wanted && getrlimit(RLIMIT_CORE, &limit) == 0)
		limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_CORE, &limit);
	/* A core that is piped to a program is written whatever the limit. */
	prctl(PR_SET_DUMPABLE, is_wanted ? 1 : 0);
}
