/* daemon/worker_process.c: starts the process of a worker with its descriptors at fixed numbers. */
#include "daemon/worker_shared.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
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
