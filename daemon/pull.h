/*
 * daemon/pull.h: the seam between sessions and mover, and whatever copies between device memory
 * that an engine lent and an arena: the processes that have the GPUs, or a test's own.
 * Runs on: the loop thread; nothing here waits.
 */
#ifndef KVTIER_DAEMON_PULL_H
#define KVTIER_DAEMON_PULL_H

#include "daemon/daemon.h"
#include "daemon/gpu_link.h"
#include "daemon/pull_speed.h"

struct gpu;

/* What a data connection lent. The caller's, from lend() until it was refused or returned(). */
struct lent_memory {
	/* It is imported (0), or cannot be, and is not lent: once, unless returned() is first. */
	void (*answered)(struct lent_memory *lent, int result, const char *text);
	/* After give_back(), or as the process died: nothing of it is mapped any more. Once. */
	void (*returned)(struct lent_memory *lent);
	bool has_word;   /* once answered: copies may wait for a gate value */
	/* of its device, by direction; set by lend(), there as long as the ops are */
	struct pull_speed *speeds;
	/* the ops' own */
	struct gpu *gpu;
	uint32_t number;
};

struct pull_ops {
	const char *name;
	/* packet: looked at by lend_read(); fds stay the caller's. 0: answered() follows, unless
	 * returned() does. -EAGAIN: not ready; others: refused; with the reason. */
	int (*lend)(struct daemon *daemon, struct lent_memory *lent, const void *packet,
		    size_t bytes, const int *fds, unsigned fds_count, struct error *error);
	/* Its copies are cancelled; returned() follows, maybe at once. */
	void (*give_back)(struct daemon *daemon, struct lent_memory *lent);
	/* copy->offset counts from the start of the tenant's arena (arena.start); lent and arena
	 * are filled in. 0: copy->done() follows, exactly once. -EAGAIN: too many under way;
	 * -ENODEV: not lent (any more). */
	int (*copy)(struct daemon *daemon, struct lent_memory *lent, struct tenant *tenant,
		    struct gpu_copy *copy);
	/* All copies of the job end soon. False: try again. */
	bool (*cancel)(struct daemon *daemon, struct lent_memory *lent, uint64_t job);
	/* pidfd of the process that copies, borrowed; -1: none. */
	int (*process_fd)(struct daemon *daemon, const struct lent_memory *lent);
};

#endif
