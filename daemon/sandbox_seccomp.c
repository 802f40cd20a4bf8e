/* daemon/sandbox_seccomp.c: the system calls that are left, as a filter made by libseccomp. */
#include "daemon/sandbox_parts.h"

#include <errno.h>
#include <seccomp.h>
#include <stddef.h>
#include <string.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* Threads, memory, time, open files: the daemon's and the worker's. */
static const char *const common[] = {
	/* the C library and threads */
	"brk", "mmap", "munmap", "mremap", "mprotect", "madvise", "futex", "clone", "clone3",
	"set_robust_list", "rseq", "exit", "exit_group", "sched_yield", "sched_getaffinity",
	"sched_setaffinity", "set_tid_address", "arch_prctl", "membarrier", "getrandom",
	"restart_syscall", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigtimedwait",
	"sigaltstack", "tgkill", "gettid", "getpid", "getppid", "getuid", "geteuid", "getgid",
	"getegid", "getgroups", "prlimit64", "getrlimit", "getrusage", "sysinfo", "uname", "getcpu",
	/* time */
	"clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time",
	/* files */
	"openat", "open", "close", "close_range", "read", "write", "readv", "writev", "pread64",
	"pwrite64", "preadv", "pwritev", "lseek", "fstat", "stat", "lstat", "newfstatat", "statx",
	"statfs", "fstatfs", "access", "faccessat", "faccessat2", "fcntl", "flock", "ftruncate",
	"fallocate", "fsync", "fdatasync", "sync_file_range", "rename", "renameat", "renameat2",
	"unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "readlink", "readlinkat", "getdents64",
	"chmod", "fchmod", "fchmodat", "dup", "dup2", "dup3", "pipe2", "getcwd", "fadvise64",
	"readahead", "poll", "ppoll",
	/* what a sandbox of its own needs */
	"seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",
	"capget", "capset",
	/* RocksDB lowers the priority of its compactions */
	"getpriority", "setpriority", "ioprio_get", "ioprio_set", "sched_setscheduler",
};

static const char *const daemon_only[] = {
	"accept4", "recvmsg", "recvfrom", "sendmsg", "sendto", "shutdown", "getsockname",
	"getpeername", "getsockopt", "setsockopt", "epoll_wait", "epoll_pwait", "epoll_ctl",
	"epoll_create1", "eventfd2", "timerfd_create", "timerfd_settime", "signalfd4",
	"memfd_create", "msync", "mlock", "munlock",
	/* the worker: execve is for our own binary alone, which Landlock sees to */
	"vfork", "execve", "setpgid", "wait4", "waitid", "kill", "pidfd_open", "pidfd_send_signal",
};

/* A GPU's driver: where its memory lies, its threads, what it tells processes of its own; and the
 * channel that its process is told by. */
static const char *const gpus[] = {
	"recvmsg", "sendmsg", "recvfrom", "sendto", "getsockname", "getpeername", "getsockopt",
	"setsockopt", "shutdown", "epoll_wait", "epoll_pwait", "epoll_ctl", "epoll_create1",
	"eventfd2", "memfd_create", "mlock", "munlock",
	"get_mempolicy", "set_mempolicy", "mbind", "mincore", "mlock2", "sched_getscheduler",
	"sched_getparam", "sched_get_priority_max", "sched_get_priority_min", "get_robust_list",
	"timer_create", "timer_settime", "timer_delete", "eventfd", "pipe", "socketpair",
	"connect", "select", "pselect6", "epoll_create",
};
/* By the type in the middle byte: NVIDIA's, KFD's, DRM's; none: NVIDIA's unified memory. On whose
 * devices, Landlock says; terminals, whose type is 'T', are not among them. */
static const unsigned long gpu_ioctl_types[] = { 'F', 'K', 'd', 0 };

/* Other nodes, and routers: sockets, names, a transport's rings and RDMA's devices; and the channel
 * that its process is told by. */
static const char *const peers[] = {
	"bind", "listen", "connect", "accept", "accept4", "getsockname", "getpeername",
	"getsockopt", "setsockopt", "shutdown", "socketpair", "sendmsg", "sendmmsg", "sendto",
	"recvmsg", "recvmmsg", "recvfrom", "select", "pselect6", "epoll_wait", "epoll_pwait",
	"epoll_ctl", "epoll_create", "epoll_create1", "eventfd", "eventfd2", "pipe",
	"timerfd_create", "timerfd_settime", "memfd_create", "mlock", "mlock2", "munlock",
	"mincore", "get_mempolicy", "io_uring_setup", "io_uring_enter", "io_uring_register",
	/* ZeroMQ's threads look at their priority */
	"sched_getscheduler", "sched_getparam",
};
static const int peer_families[] = { AF_UNIX, AF_INET, AF_INET6, AF_NETLINK };
/* How much a socket has, its interfaces; by the type in the middle byte: RDMA's verbs. */
static const unsigned long peer_ioctls[] = { FIONREAD, FIONBIO, SIOCGIFCONF, SIOCGIFNAME,
					     SIOCGIFFLAGS, SIOCGIFADDR, SIOCGIFNETMASK,
					     SIOCGIFMTU, SIOCGIFINDEX, SIOCGIFHWADDR,
					     SIOCETHTOOL };
#define VERBS_IOCTL_TYPE 0x1bu

static const char *const io_uring[] = { "io_uring_enter", "io_uring_register" };

/* No prctl() but these. */
static const int prctls[] = { PR_SET_NAME, PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_GET_DUMPABLE,
			      PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS, PR_CAPBSET_DROP,
			      PR_CAP_AMBIENT, PR_SET_SECCOMP, PR_SET_VMA };
/* A stream asks whether it writes to a terminal; the size of a device. */
static const unsigned long ioctls[] = { 0x5401 /* TCGETS */, 0x80081272 /* BLKGETSIZE64 */ };

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static int allow(scmp_filter_ctx filter, const char *const *names, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		int number = seccomp_syscall_resolve_name(names[i]);
		int result = 0;

		/* A name that this processor does not have. */
		if (number >= 0)
			result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 0);
		if (result < 0)
			return result;
	}
	return 0;
}

static int allow_with(scmp_filter_ctx filter, const char *name, unsigned argument, uint64_t value)
{
	struct scmp_arg_cmp equal = { .arg = argument, .op = SCMP_CMP_EQ, .datum_a = value };

	return seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, seccomp_syscall_resolve_name(name), 1,
				      &equal);
}

static int gpus_allow(scmp_filter_ctx filter)
{
	int result = allow(filter, gpus, COUNT_OF(gpus));

	if (result == 0)
		result = allow_with(filter, "socket", 0, AF_UNIX);
	for (size_t i = 0; result == 0 && i < COUNT_OF(gpu_ioctl_types); i++) {
		struct scmp_arg_cmp type = { .arg = 1, .op = SCMP_CMP_MASKED_EQ,
					     .datum_a = 0xff00,
					     .datum_b = gpu_ioctl_types[i] << 8 };

		result = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, &type);
	}
	return result;
}

static int peers_allow(scmp_filter_ctx filter)
{
	const struct scmp_arg_cmp type = { .arg = 1, .op = SCMP_CMP_MASKED_EQ, .datum_a = 0xff00,
					   .datum_b = VERBS_IOCTL_TYPE << 8 };
	int result = allow(filter, peers, COUNT_OF(peers));

	for (size_t i = 0; result == 0 && i < COUNT_OF(peer_families); i++)
		result = allow_with(filter, "socket", 0, (uint64_t)peer_families[i]);
	for (size_t i = 0; result == 0 && i < COUNT_OF(peer_ioctls); i++)
		result = allow_with(filter, "ioctl", 1, peer_ioctls[i]);
	if (result == 0)
		result = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, &type);
	return result;
}

static int rules_add(scmp_filter_ctx filter, const struct seccomp_program *program)
{
	int result = allow(filter, common, COUNT_OF(common));

	for (size_t i = 0; result == 0 && i < COUNT_OF(prctls); i++)
		result = allow_with(filter, "prctl", 0, (uint64_t)prctls[i]);
	for (size_t i = 0; result == 0 && i < COUNT_OF(ioctls); i++)
		result = allow_with(filter, "ioctl", 1, ioctls[i]);
	if (result == 0 && program->has_gpus)
		result = gpus_allow(filter);
	if (result == 0 && program->has_peers)
		result = peers_allow(filter);
	/* A worker ends nobody but itself. */
	if (result == 0 && program->is_worker)
		return allow_with(filter, "kill", 0, (uint64_t)getpid());
	if (result < 0)
		return result;
	result = allow(filter, daemon_only, COUNT_OF(daemon_only));
	/* The service manager is told by a socket that is made each time. */
	if (result == 0 && !program->has_gpus && !program->has_peers)
		result = allow_with(filter, "socket", 0, AF_UNIX);
	if (result == 0 && program->has_io_uring)
		result = allow(filter, io_uring, COUNT_OF(io_uring));
	return result;
}

int seccomp_enforce(const struct seccomp_program *program, struct error *error)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int result;

	if (filter == NULL)
		return error_set(error, -ENOMEM, "a seccomp filter (no memory)");
	/* Threads run already. A refused call is named in the audit log, where the kernel can; a
	 * tree, as a list of 150 calls would cost each of ours its length. */
	result = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
	(void)seccomp_attr_set(filter, SCMP_FLTATR_CTL_LOG, 1);
	(void)seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	if (result == 0)
		result = rules_add(filter, program);
	if (result == 0)
		result = seccomp_load(filter);
	seccomp_release(filter);
	if (result < 0)
		return error_set(error, result, "a seccomp filter (%s)", strerror(-result));
	return 0;
}
