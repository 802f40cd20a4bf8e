/*
 * daemon/worker_shared.h: what lies in the memory between a worker and its parent, and the numbers
 * of the descriptors that it inherits. For worker*.c only.
 */
#ifndef KVTIER_DAEMON_WORKER_SHARED_H
#define KVTIER_DAEMON_WORKER_SHARED_H

#include "base/ring.h"
#include "daemon/worker.h"

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

enum worker_descriptor {
	WORKER_FD_MEMORY = 3, /* memfd: struct worker_shared, then the rings down and up */
	WORKER_FD_DOWN,       /* eventfd that wakes the worker */
	WORKER_FD_UP,         /* eventfd that wakes the parent */
	WORKER_FD_LOCK,       /* see worker_config.lock_fd */
	WORKER_FD_CHANNEL,    /* of a worker that has one: packets with descriptors */
	WORKER_FD_END         /* everything from here on is closed */
};

/* Beats are microseconds of CLOCK_MONOTONIC, which both processes share. */
struct worker_shared {
	_Alignas(64) _Atomic uint64_t parent_beat_us;
	_Alignas(64) _Atomic uint64_t
		worker_beat_us; /* the parent looks only at whether it changes */
};

#define WORKER_MESSAGE_BYTES_MAX 4352u
#define WORKER_MESSAGES_MAX 65536u

static inline uint64_t worker_memory_bytes(uint32_t message_bytes, uint32_t messages_max)
{
	return sizeof(struct worker_shared) + 2 * ring_memory_bytes(message_bytes, messages_max);
}

static inline void *worker_ring_down(struct worker_shared *shared)
{
	return shared + 1;
}

static inline void *worker_ring_up(struct worker_shared *shared, uint32_t message_bytes,
				   uint32_t messages_max)
{
	return (uint8_t *)(shared + 1) + ring_memory_bytes(message_bytes, messages_max);
}

/* Takes `fd`, and gives it a number above those of enum worker_descriptor, so that no dup2 of the
 * child overwrites the source of a later one. Negative: errno says why. */
must_check int worker_fd_high(int fd);

/* daemon/worker_channel.c: a pair of sockets that keep packets whole; ours does not block. */
must_check int worker_channel_make(int *out_ours, int *out_theirs, struct error *error);
/* 0; -EAGAIN: full; -ENOTCONN: the other end is closed. */
must_check int worker_channel_send(int fd, const void *packet, size_t bytes, const int *fds,
				   unsigned fds_count);

/* Everything borrowed. The descriptors have numbers above WORKER_FD_END. */
struct worker_process {
	const char *program, *name, *argument;
	uint32_t message_bytes, messages_max;
	int memory_fd, down_fd, up_fd;
	int lock_fd; /* above 2, or none */
	int channel_fd; /* or -1 */
};

/*
 * The one call of a worker's frame that waits: posix_spawn is a vfork, so it copies no page table
 * of a process with a large arena, and returns when the child has called exec (below a millisecond;
 * only at the start of a life, at most every 100 ms). A program that cannot be run is a failure of
 * this call.
 */
must_check int worker_process_spawn(const struct worker_process *process, pid_t *out_pid);

struct worker {
	struct worker_config config;
	char *name, *argument, *program;
	enum worker_state state;
	bool in_step;
	int wake_fd;        /* epoll: up_fd and the process's pidfd */
	int down_fd, up_fd; /* eventfds, for all lives: a stray wake-up of an old one is harmless */
	/* Of this life. */
	int memory_fd;
	struct worker_shared *shared;
	struct ring down, up;
	pid_t pid;
	int pid_fd;
	int channel_fd; /* our end; -1: none */
	uint64_t started_us;
	uint64_t beat, beat_seen_us; /* the last beat, and when we saw it change */
	uint64_t looked_us;
	bool is_garbled;           /* its mailbox lies: nothing in it is believed any more */
	char reason[WORKER_REASON_BYTES]; /* why it ends */
	/* Across lives. */
	uint32_t restarts;
	uint64_t lives;
	uint64_t backoff_us, wait_until_us;
	bool is_resting;
	uint64_t deaths_us[WORKER_DEATHS_MAX];
	uint32_t deaths_count; /* of deaths_us, oldest first */
};

/* Mailbox, channel and process of a new life. On failure worker_life_close() is still due. */
must_check int worker_life_open(struct worker *worker, uint64_t now_us, struct error *error);
/* The process has been reaped, or there is none. */
void worker_life_close(struct worker *worker);
/* Accepts -1, and leaves it. */
void worker_fd_close(int *fd);

#endif
