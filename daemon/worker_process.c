/* daemon/worker_process.c: one life of a worker: its mailbox, and its process with descriptors at
 * fixed numbers. */
#include "daemon/worker_shared.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern char **environ;

int worker_fd_high(int fd)
{
	int high = fcntl(fd, F_DUPFD_CLOEXEC, WORKER_FD_END + 8);
	int saved = errno;

	close(fd);
	errno = saved;
	return high;
}

static int actions_make(const struct worker_process *process, posix_spawn_file_actions_t *actions)
{
	int result = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY,
						      0);

	/* What a library prints must not end up in what kvtierd prints for programs. */
	if (result == 0)
		result = posix_spawn_file_actions_adddup2(actions, STDERR_FILENO, STDOUT_FILENO);
	if (result == 0)
		result = posix_spawn_file_actions_adddup2(actions, process->memory_fd,
							  WORKER_FD_MEMORY);
	if (result == 0)
		result = posix_spawn_file_actions_adddup2(actions, process->down_fd,
							  WORKER_FD_DOWN);
	if (result == 0)
		result = posix_spawn_file_actions_adddup2(actions, process->up_fd, WORKER_FD_UP);
	if (result == 0 && process->lock_fd > STDERR_FILENO)
		result = posix_spawn_file_actions_adddup2(actions, process->lock_fd,
							  WORKER_FD_LOCK);
	if (result == 0 && process->channel_fd >= 0)
		result = posix_spawn_file_actions_adddup2(actions, process->channel_fd,
							  WORKER_FD_CHANNEL);
	return -result;
}

/* Signals as in a fresh process, and a group of its own: a terminal's ^C is for the parent alone.
 */
static int attributes_make(posix_spawnattr_t *attributes)
{
	sigset_t none, all;

	sigemptyset(&none);
	sigfillset(&all);
	int result = posix_spawnattr_setsigmask(attributes, &none);
	if (result == 0)
		result = posix_spawnattr_setsigdefault(attributes, &all);
	if (result == 0)
		result = posix_spawnattr_setpgroup(attributes, 0);
	if (result == 0)
		result = posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK |
								      POSIX_SPAWN_SETSIGDEF |
								      POSIX_SPAWN_SETPGROUP);
	return -result;
}

int worker_process_spawn(const struct worker_process *process, pid_t *out_pid)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	char parent[16], message_bytes[16], messages_max[16], flag[] = "--worker";
	char *arguments[] = { (char *)process->program,
			      flag,
			      (char *)process->name,
			      (char *)process->argument,
			      parent,
			      message_bytes,
			      messages_max,
			      NULL };
	pid_t pid;

	snprintf(parent, sizeof(parent), "%d", (int)getpid());
	snprintf(message_bytes, sizeof(message_bytes), "%u", process->message_bytes);
	snprintf(messages_max, sizeof(messages_max), "%u", process->messages_max);
	int result = -posix_spawn_file_actions_init(&actions);
	if (result < 0)
		return result;
	result = -posix_spawnattr_init(&attributes);
	if (result < 0)
		goto destroy_actions;
	result = actions_make(process, &actions);
	if (result == 0)
		result = attributes_make(&attributes);
	if (result == 0)
		result = -posix_spawn(&pid, process->program, &actions, &attributes, arguments,
				      environ);
	if (result == 0)
		*out_pid = pid;
	posix_spawnattr_destroy(&attributes);
destroy_actions:
	posix_spawn_file_actions_destroy(&actions);
	return result;
}

/* ---- one life ---- */

void worker_fd_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void worker_life_close(struct worker *worker)
{
	if (worker->shared != NULL)
		munmap(worker->shared, worker_memory_bytes(worker->config.message_bytes,
							   worker->config.messages_max));
	worker->shared = NULL;
	worker_fd_close(&worker->memory_fd);
	worker_fd_close(&worker->channel_fd);
	/* Leaves the epoll by that: nobody else has this description. */
	worker_fd_close(&worker->pid_fd);
	worker->pid = 0;
}

static int mailbox_make(struct worker *worker, struct error *error)
{
	uint32_t message_bytes = worker->config.message_bytes,
		 messages_max = worker->config.messages_max;
	uint64_t bytes = worker_memory_bytes(message_bytes, messages_max);
	int fd = memfd_create(worker->name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	worker->memory_fd = fd < 0 ? -1 : worker_fd_high(fd);
	/* Sealed: a worker that shrank it would kill us with SIGBUS. */
	if (worker->memory_fd < 0 || ftruncate(worker->memory_fd, (off_t)bytes) < 0 ||
	    fcntl(worker->memory_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return error_set(error, -errno, "no shared memory for worker %s: %s", worker->name,
				 strerror(errno));
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, worker->memory_fd, 0);
	if (memory == MAP_FAILED)
		return error_set(error, -errno, "cannot map the mailbox of worker %s: %s",
				 worker->name, strerror(errno));
	worker->shared = memory;
	void *down = worker_ring_down(worker->shared);
	void *up = worker_ring_up(worker->shared, message_bytes, messages_max);
	ring_format(down, message_bytes, messages_max);
	ring_format(up, message_bytes, messages_max);
	ring_attach_producer(&worker->down, down, message_bytes, messages_max, worker->down_fd);
	ring_attach_consumer(&worker->up, up, message_bytes, messages_max, worker->up_fd);
	return 0;
}

int worker_life_open(struct worker *worker, uint64_t now_us, struct error *error)
{
	int channel_fd = -1; /* the worker's end */

	worker->pid_fd = worker->channel_fd = -1;
	worker->is_garbled = false;
	worker->reason[0] = '\0';
	worker->beat = 0;
	worker->started_us = worker->beat_seen_us = worker->looked_us = now_us;
	int result = mailbox_make(worker, error);
	if (result == 0 && worker->config.has_channel)
		result = worker_channel_make(&worker->channel_fd, &channel_fd, error);
	if (result < 0)
		return result;
	atomic_store_explicit(&worker->shared->parent_beat_us, clock_now_us(clock_real()),
			      memory_order_relaxed);
	struct worker_process process = {
		.program = worker->program,
		.name = worker->name,
		.argument = worker->argument,
		.message_bytes = worker->config.message_bytes,
		.messages_max = worker->config.messages_max,
		.memory_fd = worker->memory_fd,
		.down_fd = worker->down_fd,
		.up_fd = worker->up_fd,
		.lock_fd = worker->config.lock_fd,
		.channel_fd = channel_fd,
	};
	result = worker_process_spawn(&process, &worker->pid);
	worker_fd_close(&channel_fd);
	if (result < 0)
		return error_set(error, result, "cannot start %s as worker %s: %s", worker->program,
				 worker->name, strerror(-result));
	/* Without a pidfd (before Linux 5.3) a death is found by the next step, not by a wake-up.
	 */
	worker->pid_fd = (int)syscall(SYS_pidfd_open, worker->pid, 0);
	struct epoll_event event = { .events = EPOLLIN };
	if (worker->pid_fd >= 0 &&
	    epoll_ctl(worker->wake_fd, EPOLL_CTL_ADD, worker->pid_fd, &event) < 0)
		worker_fd_close(&worker->pid_fd);
	return 0;
}
