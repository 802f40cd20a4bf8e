/*
 * daemon/worker_shared.h: what lies in the memory between a worker and its parent, and the numbers
 * of the descriptors that it inherits. For worker*.c only.
 */
#ifndef KVTIER_DAEMON_WORKER_SHARED_H
#define KVTIER_DAEMON_WORKER_SHARED_H

#include "base/ring.h"

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

enum worker_descriptor {
	WORKER_FD_MEMORY = 3, /* memfd: struct worker_shared, then the rings down and up */
	WORKER_FD_DOWN,       /* eventfd that wakes the worker */
	WORKER_FD_UP,         /* eventfd that wakes the parent */
	WORKER_FD_LOCK,       /* see worker_config.lock_fd */
	WORKER_FD_END         /* everything from here on is closed */
};

/* Beats are microseconds of CLOCK_MONOTONIC, which both processes share. */
struct worker_shared {
	_Alignas(64) _Atomic uint64_t parent_beat_us;
	_Alignas(64) _Atomic uint64_t
		worker_beat_us; /* the parent looks only at whether it changes */
};

#define WORKER_MESSAGE_BYTES_MAX 4096u
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

/* Everything borrowed. The descriptors have numbers above WORKER_FD_END. */
struct worker_process {
	const char *program, *name, *argument;
	uint32_t message_bytes, messages_max;
	int memory_fd, down_fd, up_fd;
	int lock_fd; /* above 2, or none */
};

/*
 * The one call of a worker's frame that waits: posix_spawn is a vfork, so it copies no page table
 * of a process with a large arena, and returns when the child has called exec (below a millisecond;
 * only at the start of a life, at most every 100 ms). A program that cannot be run is a failure of
 * this call.
 */
must_check int worker_process_spawn(const struct worker_process *process, pid_t *out_pid);

#endif
