/*
 * daemon/gpu_link.h: the daemon's end of a GPU's process: what it is to pin and to import, copies
 * of blocks, and what its death means.
 *
 * A copy ends exactly once, when nothing of it is under way any more: by the process's answer, or
 * by its exit, which is awaited (-EIO). With it everything that was lent is gone; arenas are sent
 * to the next life by the link itself. A process that beats, but whose device does not bring a copy
 * back within GPU_LINK_LATE_US_MAX of its deadline, is killed.
 * Runs on: the loop thread; nothing here waits.
 * Limits: GPU_COPIES_MAX copies, GPU_LENTS_MAX lent memories, GPU_ARENAS_MAX arenas.
 */
#ifndef KVTIER_DAEMON_GPU_LINK_H
#define KVTIER_DAEMON_GPU_LINK_H

#include "base/clock.h"
#include "base/error.h"
#include "daemon/worker.h"
#include "tiers/gpu/gpu_messages.h"

#include <stdbool.h>
#include <stdint.h>

#define GPU_LINK_STALL_US_MAX (UINT64_C(2) * 1000000)
#define GPU_LINK_LATE_US_MAX (UINT64_C(2) * 1000000)

/* One block, one way. The caller's, until done(). */
struct gpu_copy {
	uint32_t lent, arena;
	uint32_t group, block;
	enum copy_direction direction;
	bool is_urgent;
	uint64_t offset;      /* of the payload in the arena */
	uint64_t gate_value;  /* 0: none */
	uint64_t deadline_us; /* of the link's clock, which is CLOCK_MONOTONIC */
	uint64_t job;         /* see transfer/job_words.h */
	uint32_t job_place;
	void (*done)(struct gpu_copy *copy, int result);
	uint32_t number;      /* the link's */
};

struct gpu_link_config {
	const char *vendor;  /* "cuda", "rocm" */
	const char *bus_id;
	const char *library; /* the driver's path; NULL: the vendor's usual name */
	const char *folder;  /* the process may do in it what it likes: its driver's home */
	const char *program; /* NULL: ourselves */
	struct clock *clock;
	int lock_fd;         /* see worker_config */
	/* An import that was asked for: 0, or why not. */
	void (*lent)(void *owner, uint32_t number, int result, const char *text);
	/* Memory that was asked back is not mapped any more, or it went with the process. The
	 * number may be used again. */
	void (*returned)(void *owner, uint32_t number);
	/* A copy has ended; before its done(). */
	void (*copied)(void *owner, const struct gpu_copy *copy, int result);
	void *owner;
};

struct gpu_link_status {
	enum worker_state state;
	bool is_ready;       /* the device is open */
	bool is_pinning;     /* more of the arenas is to come */
	char device[96];     /* its name, once it was open */
	char uuid[48];       /* "": not known, or the vendor's do not tell devices apart */
	char reason[WORKER_REASON_BYTES]; /* why it is not ready, or last ended; "" */
	uint64_t pinned_bytes, arenas_bytes;
	uint32_t lents, copies;
	uint32_t restarts;
	pid_t pid;           /* 0: none */
	struct cost_speed speeds[COPY_DIRECTIONS]; /* as measured; bytes_us 0: not */
};

struct gpu_link;

must_check int gpu_link_create(struct gpu_link **out_link, const struct gpu_link_config *config,
			       struct error *error);
/* Kills the process; every copy is given back. Accepts NULL. */
void gpu_link_destroy(struct gpu_link *link);
bool gpu_link_step(struct gpu_link *link, uint64_t now_us);
/* For the loop's wait: see worker_fd() and the two below it. */
struct worker *gpu_link_worker(struct gpu_link *link);

/* Its memory is pinned in every life from now on. `fd` is borrowed until destroy. */
void gpu_link_arena(struct gpu_link *link, uint32_t number, int fd, uint64_t bytes);
/* How much of it, from its start, can be copied now. */
uint64_t gpu_link_pinned(const struct gpu_link *link, uint32_t number);
/* `packet`: one that lend_read() took; `fds`: the job words' first; stay the caller's. 0: lent()
 * follows, unless returned() does, as the process died. -EAGAIN: no number is free, or the channel
 * is full; -ENODEV: the device is not open now. */
must_check int gpu_link_lend(struct gpu_link *link, const void *packet, size_t bytes,
			     const int *fds, unsigned fds_count, uint32_t *out_number);
/* Its copies are cancelled; returned() follows. */
void gpu_link_return(struct gpu_link *link, uint32_t number);
/* 0: done() follows. -EAGAIN: too many are under way; -ENODEV: this memory is not lent (any
 * more). */
must_check int gpu_link_copy(struct gpu_link *link, struct gpu_copy *copy);
/* All copies of the job end soon. False: try again. */
must_check bool gpu_link_cancel(struct gpu_link *link, uint32_t lent, uint64_t job);
void gpu_link_status(const struct gpu_link *link, struct gpu_link_status *out_status);
/* Another number when what there is to say in the log has changed: it opened, it failed. */
uint32_t gpu_link_changes(const struct gpu_link *link);

/* ---- the process ---- */

/* main() of `kvtierd --worker gpu "VENDOR BUS_ID LIBRARY FOLDER"`, tabs between; "-": the usual
 * library. */
int gpu_worker_main(int arguments_count, char **arguments);

#endif
