/* daemon/sandbox_parts.h: the two mechanisms behind daemon/sandbox.h. For sandbox*.c only. */
#ifndef KVTIER_DAEMON_SANDBOX_PARTS_H
#define KVTIER_DAEMON_SANDBOX_PARTS_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

/* ---- Landlock ---- */

enum landlock_rights {
	LANDLOCK_READ,    /* a file, or all files in a folder and below */
	LANDLOCK_EXECUTE, /* and read */
	LANDLOCK_WRITE,   /* and read; a device also ioctl */
	LANDLOCK_MANAGE   /* a folder: and make, rename and remove files, folders and sockets */
};

struct landlock {
	unsigned version; /* 0: the kernel has none */
	int fd;           /* -1: none; the rules so far */
	uint64_t handled; /* kinds of access that are denied unless a rule grants them */
	bool has_network; /* ports are not among them */
};

unsigned landlock_version(void);
/* `has_abstract`: abstract sockets of others may be reached (the service manager's).
 * `has_network`: any port, from here and there; else only those that are granted. */
must_check int landlock_open(struct landlock *landlock, bool has_abstract, bool has_network,
			     struct error *error);
/* What is not there needs no rule. */
must_check int landlock_grant(struct landlock *landlock, const char *path,
			      enum landlock_rights rights, struct error *error);
must_check int landlock_grant_port(struct landlock *landlock, uint16_t port, struct error *error);
/* Confines this thread and those that it starts, for good; closes the rules. */
must_check int landlock_enforce(struct landlock *landlock, struct error *error);
void landlock_close(struct landlock *landlock);
/* What the drivers of GPUs need; `library`: the driver's, or "". `is_worker`: the process that
 * has the driver; else the daemon, for those that it will start. */
must_check int sandbox_grant_gpus(struct landlock *landlock, const char *library, bool is_worker,
				  struct error *error);
/* The same for the process that speaks to other nodes; `has_ucx`: it may do so by UCX. */
must_check int sandbox_grant_peers(struct landlock *landlock, bool has_ucx, bool is_worker,
				   struct error *error);

/* ---- seccomp; only where HAVE_SECCOMP ---- */

/* A worker, or the daemon with what it and its workers need. */
struct seccomp_program {
	bool is_worker, has_io_uring, has_gpus, has_peers;
};

must_check int seccomp_enforce(const struct seccomp_program *program, struct error *error);

#endif
