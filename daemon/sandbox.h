/*
 * daemon/sandbox.h: what kvtierd and its worker take from themselves: new privileges, capabilities,
 * files that they do not need (Landlock), system calls that they do not make (seccomp).
 *
 * Two steps, as a start needs more than what comes after it: sandbox_enter() before the first
 * thread, as all but the seccomp filter is a thread's own; sandbox_lock() when everything is open.
 * Workers are exec'ed anew after each crash, so their own system calls are in our filter and the
 * right to execute is left for one file, our own binary; they take the rest from themselves. What
 * is not on the list of calls fails with EPERM, and the kernel's audit log names it.
 * Runs on: main, before the loop.
 */
#ifndef KVTIER_DAEMON_SANDBOX_H
#define KVTIER_DAEMON_SANDBOX_H

#include "base/error.h"
#include "daemon/settings.h"

#include <stdbool.h>

struct sandbox {
	bool is_wanted;       /* sandbox: auto or enforce */
	bool is_enforced;
	bool no_new_privileges;
	bool no_capabilities;
	unsigned landlock;    /* the version of its interface, or 0: not confined by it */
	bool seccomp;
	char missing[160];    /* what was wanted and cannot be had here, and why; "": nothing */
};

/* -ENOTSUP: `enforce`, and something cannot be had. `config_path` may be NULL. */
must_check int sandbox_enter(struct sandbox *sandbox, const struct settings *settings,
			     const char *config_path, struct error *error);
/* What is on, of which a process of its own will need more than the daemon. */
struct sandbox_parts_on {
	bool has_io_uring; /* a device speaks it */
	bool has_gpus, has_peers; /* has_peers: or an inventory */
};

/* Of all threads. */
must_check int sandbox_lock(struct sandbox *sandbox, const struct sandbox_parts_on *parts,
			    struct error *error);
/* The worker's: nothing but the folder of `path` and what is open; as the environment
 * says, where sandbox_enter() leaves word for it. */
must_check int sandbox_worker(const char *path, struct error *error);
/* Of the process that has a GPU: the driver's files and devices, and `folder`, which may be
 * written. `library` may be NULL. */
must_check int sandbox_gpu_worker(const char *library, const char *folder, struct error *error);
/* Of the process that speaks to other nodes; `has_ucx`: maybe by UCX. */
must_check int sandbox_peer_worker(bool has_ucx, struct error *error);
/* Of the process that says what the node has. */
must_check int sandbox_inventory_worker(struct error *error);
/* Its cores: once its driver is open, which may want to read of its own process what this hides. */
void sandbox_worker_cores(void);
/* What this build and this kernel have, for `kvtierd --version`. */
void sandbox_describe(char *text, size_t text_bytes);
/* No core of this process, or, where they are wanted, one: KV bytes are in neither. Inherited by
 * workers but for what sandbox_worker() repeats. */
void core_policy_set(bool is_wanted);

#endif
