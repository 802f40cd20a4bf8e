/*
 * daemon/worker.h: the frame of a worker process: start, mailbox (two shared rings), heartbeat,
 * kill, restart with back-off. Whatever can abort, hang or poison its process (RocksDB now; GPU and
 * UCX later) lives in one.
 *
 * The parent writes a heartbeat each step; a worker submits nothing once it is 1 s old, and dies
 * with its parent (PR_SET_PDEATHSIG and the heartbeat). A worker that dies, or does not beat for
 * `stall_us_max`, is killed and started again after a back-off (100 ms doubling to 30 s; reset
 * after 60 s of health). Its messages are lost; the owner is told by on_start, once for each life,
 * and sends again what matters. A new life begins only after the exit of the old one was seen.
 * After more than WORKER_DEATHS_MAX deaths within ten minutes it rests for ten minutes. Runs on:
 * worker_*: the loop thread. worker_main: the worker's process, single-threaded: the child is a
 * fresh exec of our own binary (`kvtierd --worker NAME`), so it shares nothing but the descriptors
 * it is handed.
 */
#ifndef KVTIER_DAEMON_WORKER_H
#define KVTIER_DAEMON_WORKER_H

#include "base/clock.h"
#include "base/error.h"
#include "base/ring.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define WORKER_DEATHS_MAX 8u /* within the window below; one more and it rests */
#define WORKER_DEATHS_US (UINT64_C(600) * 1000000)
#define WORKER_REST_US (UINT64_C(600) * 1000000)
#define WORKER_BACKOFF_US_MIN (UINT64_C(100) * 1000)
#define WORKER_BACKOFF_US_MAX (UINT64_C(30) * 1000000)
#define WORKER_HEALTHY_US (UINT64_C(60) * 1000000) /* a life so long resets the back-off */
#define WORKER_START_US_MAX                                                                        \
	(UINT64_C(30) * 1000000) /* from the start to the first beat: opening may take long */
#define WORKER_SILENCE_US_MAX                                                                      \
	(UINT64_C(1) * 1000000)               /* of the parent: the worker submits nothing */
#define WORKER_BEAT_US (UINT64_C(250) * 1000) /* the loop steps a worker at least so often */
#define WORKER_REASON_BYTES 160
#define WORKER_PACKET_BYTES_MAX (96u << 10)
#define WORKER_PACKET_FDS_MAX 253u            /* as the kernel has it */

struct worker_config {
	const char *name;       /* "catalog" */
	const char *argument;   /* one string for the worker, e.g. the database's path */
	uint32_t message_bytes; /* of both directions */
	uint32_t messages_max;  /* of each ring; a power of two */
	uint64_t stall_us_max;  /* without a heartbeat: killed */
	struct clock *clock;
	const char *program; /* NULL: /proc/self/exe */
	/* A life has begun (also the first): send what must be sent. */
	void (*on_start)(void *owner);
	/* Handed each message of the worker once. */
	void (*on_message)(void *owner, const void *message);
	/* The life has ended, for `reason`; what was under way is lost. Also, without on_start,
	 * when none could begin. */
	void (*on_end)(void *owner, const char *reason);
	void *owner;
	/* Above 2: the worker holds this descriptor for as long as it lives, so that a lock on its
	 * file description proves that the worker is gone. Borrowed. */
	int lock_fd;
	/* Packets with descriptors go down too: worker_send_packet(). */
	bool has_channel;
};

enum worker_state {
	WORKER_STOPPED,  /* no life yet */
	WORKER_STARTING, /* no beat yet; messages may be sent already */
	WORKER_RUNNING,
	WORKER_ENDING, /* killed, its exit not yet seen */
	WORKER_WAITING /* for the back-off, or at rest */
};

struct worker;

/* Heap, at startup. Starts nothing: the first worker_step() does. */
must_check int worker_create(struct worker **out_worker, const struct worker_config *config,
			     struct error *error);
/* Kills and reaps the process. */
void worker_destroy(struct worker *worker);
/* One pass: heartbeat, messages, death, stall, restart. Never blocks. Returns whether it did
 * anything. */
bool worker_step(struct worker *worker, uint64_t now_us);
/* 0; -EAGAIN: the ring is full; -ENOTCONN: not running now. A worker that broke its mailbox is
 * killed: -ENOTCONN. */
must_check int worker_send(struct worker *worker, const void *message);
uint32_t worker_room(const struct worker *worker);
/* Of at most WORKER_PACKET_BYTES_MAX bytes and WORKER_PACKET_FDS_MAX descriptors, which stay the
 * caller's. Order is kept among packets, not between packets and messages; the worker is woken.
 * 0; -EAGAIN: the channel is full; -ENOTCONN: not running now. */
must_check int worker_send_packet(struct worker *worker, const void *packet, size_t bytes,
				  const int *fds, unsigned fds_count);
/* Of this life; readable once the process has ended. -1: none. Borrowed. */
int worker_pid_fd(const struct worker *worker);
/* Readable when the worker sent something, or ended. The same from create to destroy. */
int worker_fd(const struct worker *worker);
/* False: something is there already. */
bool worker_sleep(struct worker *worker);
void worker_awake(struct worker *worker);
enum worker_state worker_state(const struct worker *worker);
uint32_t worker_restarts(const struct worker *worker);
/* 0: none. */
pid_t worker_pid(const struct worker *worker);
/* It died too often and rests. */
bool worker_is_resting(const struct worker *worker);
/* When the next step is due at the latest, for the loop's timeout. */
uint64_t worker_next_us(const struct worker *worker, uint64_t now_us);
/* Ends this life, for `reason` (as if it had died): the owner saw nonsense, or no progress. */
void worker_kill(struct worker *worker, const char *reason);

/* ---- the worker's side ---- */

struct worker_side {
	struct ring down; /* we consume */
	struct ring up;   /* we produce */
	const char *argument;
	struct clock *clock;
	void *shared; /* heartbeats */
	int down_fd;  /* eventfd to wait on */
	int channel_fd; /* -1: none */
	uint32_t message_bytes, messages_max;
	pid_t parent;
};

/* Attaches to the descriptors inherited from the parent (fixed numbers, named in worker_side.c).
 * `arguments` are those of the process: --worker NAME ARGUMENT PARENT MESSAGE_BYTES MESSAGES_MAX
 * from [1] on. Does not beat: the first beat says that the worker is ready, so do what takes long
 * before it. */
must_check int worker_side_open(struct worker_side *side, int arguments_count, char **arguments,
				struct error *error);
/* Whether `arguments` are those of a worker called `name`. */
bool worker_side_is(int arguments_count, char **arguments, const char *name);
/* Beats, and says whether the parent's beat is younger than 1 s. False: submit nothing; exit if the
 * parent is gone. */
bool worker_side_beat(struct worker_side *side);
/* Waits for messages, at most `wait_us_max`. */
void worker_side_wait(struct worker_side *side, uint64_t wait_us_max);
/* The same, or until `fd` is readable; -1: none. */
void worker_side_wait_also(struct worker_side *side, int fd, uint64_t wait_us_max);
/* The next packet: 1, or 0 for none. `packet` has room for WORKER_PACKET_BYTES_MAX, `fds` for
 * WORKER_PACKET_FDS_MAX, which are the caller's to close. -EPROTO: not a whole packet. */
must_check int worker_side_receive(struct worker_side *side, void *packet, size_t *out_bytes,
				   int *fds, unsigned *out_fds_count);
/* The parent has ended (the kernel is about to kill us for it, or could not). */
bool worker_side_is_orphan(const struct worker_side *side);

#endif
