/* daemon/worker_side.c: the worker's end of the frame: inherited descriptors, beats, waiting. */
#include "daemon/worker.h"

#include "daemon/worker_shared.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Positions in `arguments`; worker.c makes them in this order. */
enum {
	ARGUMENT_FLAG = 1,
	ARGUMENT_NAME,
	ARGUMENT_TEXT,
	ARGUMENT_PARENT,
	ARGUMENT_MESSAGE_BYTES,
	ARGUMENT_MESSAGES_MAX,
	ARGUMENTS
};

bool worker_side_is(int arguments_count, char **arguments, const char *name)
{
	return arguments_count == ARGUMENTS && strcmp(arguments[ARGUMENT_FLAG], "--worker") == 0 &&
	       strcmp(arguments[ARGUMENT_NAME], name) == 0;
}

static int number_parse(const char *text, unsigned long max, unsigned long *out_number,
			struct error *error)
{
	char *end;

	errno = 0;
	unsigned long number = strtoul(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0' || number == 0 || number > max)
		return error_set(error, -EINVAL,
				 "a worker's argument \"%s\" is not a number from 1 to %lu", text,
				 max);
	*out_number = number;
	return 0;
}

static int arguments_parse(struct worker_side *side, int count, char **arguments,
			   struct error *error)
{
	unsigned long parent, message_bytes, messages_max;

	if (count != ARGUMENTS)
		return error_set(error, -EINVAL,
				 "--worker is for kvtierd's own use: it takes %d words, not %d",
				 ARGUMENTS - 1, count - 1);
	int result = number_parse(arguments[ARGUMENT_PARENT], INT_MAX, &parent, error);
	if (result == 0)
		result = number_parse(arguments[ARGUMENT_MESSAGE_BYTES], WORKER_MESSAGE_BYTES_MAX,
				      &message_bytes, error);
	if (result == 0)
		result = number_parse(arguments[ARGUMENT_MESSAGES_MAX], WORKER_MESSAGES_MAX,
				      &messages_max, error);
	if (result < 0)
		return result;
	if ((messages_max & (messages_max - 1)) != 0)
		return error_set(error, -EINVAL, "a ring of %lu messages: not a power of two",
				 messages_max);
	side->argument = arguments[ARGUMENT_TEXT];
	side->parent = (pid_t)parent;
	side->message_bytes = (uint32_t)message_bytes;
	side->messages_max = (uint32_t)messages_max;
	return 0;
}

/* A terminal's or a service manager's signal is for the parent, who ends us when its last batch is
 * written. */
static int die_with_parent(const struct worker_side *side, struct error *error)
{
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		return error_set(error, -errno, "a worker cannot ask to die with its parent: %s",
				 strerror(errno));
	/* A parent that ended before the call above sends no signal any more. */
	if (worker_side_is_orphan(side))
		return error_set(error, -ESRCH, "the parent %d of this worker has ended",
				 (int)side->parent);
	return 0;
}

int worker_side_open(struct worker_side *side, int arguments_count, char **arguments,
		     struct error *error)
{
	struct stat status;

	*side = (struct worker_side){ .clock = clock_real() };
	int result = arguments_parse(side, arguments_count, arguments, error);
	if (result < 0)
		return result;
	/* Whatever the parent forgot to close on exec is not ours to keep open. */
	if (close_range(WORKER_FD_END, ~0U, 0) < 0 && errno != ENOSYS)
		return error_set(error, -errno, "a worker cannot close its parent's files: %s",
				 strerror(errno));
	result = die_with_parent(side, error);
	if (result < 0)
		return result;
	uint64_t bytes = worker_memory_bytes(side->message_bytes, side->messages_max);
	if (fstat(WORKER_FD_MEMORY, &status) < 0 || (uint64_t)status.st_size != bytes)
		return error_set(error, -EINVAL,
				 "descriptor %d is not the %llu bytes of a worker's mailbox",
				 WORKER_FD_MEMORY, (unsigned long long)bytes);
	side->shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, WORKER_FD_MEMORY, 0);
	if (side->shared == MAP_FAILED)
		return error_set(error, -errno, "a worker cannot map its mailbox: %s",
				 strerror(errno));
	side->down_fd = WORKER_FD_DOWN;
	side->channel_fd = fcntl(WORKER_FD_CHANNEL, F_GETFD) < 0 ? -1 : WORKER_FD_CHANNEL;
	ring_attach_consumer(&side->down, worker_ring_down(side->shared), side->message_bytes,
			     side->messages_max, WORKER_FD_DOWN);
	ring_attach_producer(&side->up,
			     worker_ring_up(side->shared, side->message_bytes, side->messages_max),
			     side->message_bytes, side->messages_max, WORKER_FD_UP);
	return 0;
}

bool worker_side_beat(struct worker_side *side)
{
	struct worker_shared *shared = side->shared;
	uint64_t now_us = clock_now_us(side->clock);

	atomic_store_explicit(&shared->worker_beat_us, now_us, memory_order_relaxed);
	uint64_t beat_us = atomic_load_explicit(&shared->parent_beat_us, memory_order_relaxed);
	return now_us < beat_us || now_us - beat_us < WORKER_SILENCE_US_MAX;
}

void worker_side_wait(struct worker_side *side, uint64_t wait_us_max)
{
	worker_side_wait_also(side, -1, wait_us_max);
}

void worker_side_wait_also(struct worker_side *side, int fd, uint64_t wait_us_max)
{
	uint64_t wait_us = wait_us_max < WORKER_BEAT_US ? wait_us_max : WORKER_BEAT_US;
	struct pollfd waiting[] = { { .fd = side->down_fd, .events = POLLIN },
				    { .fd = fd, .events = POLLIN } };

	if (!ring_sleep(&side->down))
		return;
	/* Rounded up, so that a wait of a few microseconds does not become a spin. */
	(void)poll(waiting, 2, (int)((wait_us + 999) / 1000));
	ring_awake(&side->down);
}

bool worker_side_is_orphan(const struct worker_side *side)
{
	return getppid() != side->parent;
}
