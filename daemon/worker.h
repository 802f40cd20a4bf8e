/*
 * daemon/worker.h: the frame of a worker process: start, mailbox (two shared rings), heartbeat, kill, restart with
 * back-off. Whatever can abort, hang or poison its process (RocksDB now; GPU and UCX later) lives in one.
 *
 * The parent writes a heartbeat each step; a worker submits nothing once it is 1 s old, and dies with its parent
 * (PR_SET_PDEATHSIG and the heartbeat). A worker that dies, or does not beat for `stall_us_max`, is killed and started
 * again after a back-off (100 ms doubling to 30 s; reset after 60 s of health). Its messages are lost; the owner is
 * told by on_start, once for each life, and sends again what matters.
 * Runs on: worker_*: the loop thread. worker_main: the worker's process, single-threaded: the child is a fresh exec of
 * our own binary (`kvtierd --worker NAME`), so it shares nothing but the descriptors it is handed.
 */
#ifndef KVTIER_DAEMON_WORKER_H
#define KVTIER_DAEMON_WORKER_H

#include "base/clock.h"
#include "base/error.h"
#include "base/ring.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct worker_config {
	const char *name;                   /* "catalog" */
	const char *argument;               /* one string for the worker, e.g. the database's path */
	uint32_t message_bytes;             /* of both directions */
	uint32_t messages_max;              /* of each ring; a power of two */
	uint64_t stall_us_max;              /* without a heartbeat: killed */
	struct clock *clock;
	const char *program;                /* NULL: /proc/self/exe */
	/* A life has begun (also the first): send what must be sent. */
	void (*on_start)(void *owner);
	/* Handed each message of the worker once. */
	void (*on_message)(void *owner, const void *message);
	/* The life has ended, for `reason`; what was under way is lost. */
	void (*on_end)(void *owner, const char *reason);
	void *owner;
};

enum worker_state { WORKER_STOPPED, WORKER_STARTING, WORKER_RUNNING, WORKER_WAITING /* for the back-off */ };

struct worker;

/* Heap, at startup. Starts nothing: the first worker_step() does. */
must_check int worker_create(struct worker **out_worker, const struct worker_config *config, struct error *error);
/* Kills and reaps the process. */
void worker_destroy(struct worker *worker);
/* One pass: heartbeat, messages, death, stall, restart. Never blocks. Returns whether it did anything. */
bool worker_step(struct worker *worker, uint64_t now_us);
/* 0; -EAGAIN: the ring is full; -ENOTCONN: not running now. */
must_check int worker_send(struct worker *worker, const void *message);
uint32_t worker_room(const struct worker *worker);
/* Readable when the worker sent something. -1 while there is none: ask again after on_start. */
int worker_fd(const struct worker *worker);
/* False: something is there already. */
bool worker_sleep(struct worker *worker);
void worker_awake(struct worker *worker);
enum worker_state worker_state(const struct worker *worker);
uint32_t worker_restarts(const struct worker *worker);
pid_t worker_pid(const struct worker *worker);

/* ---- the worker's side ---- */

struct worker_side {
	struct ring down;      /* we consume */
	struct ring up;        /* we produce */
	const char *argument;
	struct clock *clock;
	void *shared;          /* heartbeats */
	int down_fd;           /* eventfd to wait on */
};

/* Attaches to the descriptors inherited from the parent (fixed numbers, named in worker.c). */
must_check int worker_side_open(struct worker_side *side, int arguments_count, char **arguments, struct error *error);
/* Beats, and says whether the parent's beat is younger than 1 s. False: submit nothing; exit if the parent is gone. */
bool worker_side_beat(struct worker_side *side);
/* Waits for messages, at most `wait_us_max`. */
void worker_side_wait(struct worker_side *side, uint64_t wait_us_max);

#endif
