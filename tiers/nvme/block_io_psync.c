/*
 * tiers/nvme/block_io_psync.c: block I/O with pread, pwrite and fdatasync on a few helper threads,
 * for kernels and containers that refuse io_uring. Each helper has one request at a time and a
 * mailbox each way, so nothing is shared.
 *
 * The helpers hold the process's descriptors: a killed process lets go of the lock only when their
 * calls have ended.
 */
#include "tiers/nvme/block_io.h"

#include "base/mailbox.h"
#include "base/privilege.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PSYNC_HELPERS_MAX 16u
/* One request and the stop mark. */
#define HELPER_MAILBOX_ITEMS 2u
#define WAIT_FOREVER_MS (-1)

struct psync_io;

struct psync_helper {
	struct psync_io *psync;
	pthread_t thread;
	struct mailbox down;
	struct mailbox up;
	bool is_busy; /* the device thread's knowledge */
};

struct psync_io {
	struct block_io io;
	struct block_disk *disk;
	uint32_t queue_depth;
	uint32_t in_flight;
	struct list waiting; /* submitted, and no helper was free */
	unsigned helpers_count;
	struct psync_helper helpers[PSYNC_HELPERS_MAX];
};

static char stop_mark;

static void request_run(struct psync_io *psync, struct block_request *request)
{
	const struct block_io_ops *ops = psync->io.ops;

	switch (request->verb) {
	case BLOCK_READ:
		request->result = block_disk_read(ops, psync->disk, request->memory, request->bytes,
						  request->offset);
		break;
	case BLOCK_WRITE:
		request->result = block_disk_write(ops, psync->disk, request->memory,
						   request->bytes, request->offset);
		break;
	case BLOCK_SYNC:
		request->result = block_disk_sync(ops, psync->disk);
		break;
	}
}

static void *helper_main(void *argument)
{
	struct psync_helper *helper = argument;
	/* A ring would have needed them; a kernel that refuses keeps no more than we had. */
	int kept = privilege_keep(PRIVILEGE_NONE, NULL);

	(void)kept;
	for (;;) {
		void *item = mailbox_take(&helper->down);

		if (item == NULL) {
			if (mailbox_sleep(&helper->down)) {
				struct pollfd wake = { .fd = mailbox_fd(&helper->down),
						       .events = POLLIN };

				poll(&wake, 1, WAIT_FOREVER_MS);
			}
			mailbox_awake(&helper->down);
			continue;
		}
		if (item == &stop_mark)
			return NULL;
		request_run(helper->psync, item);
		bool was_sent = mailbox_send(&helper->up, item);
		assert(was_sent);
	}
}

static int helper_open(struct psync_io *psync, struct psync_helper *helper, struct error *error)
{
	sigset_t all, before;
	int result;

	helper->psync = psync;
	result = mailbox_open(&helper->down, HELPER_MAILBOX_ITEMS, error);
	if (result < 0)
		return result;
	result = mailbox_open(&helper->up, HELPER_MAILBOX_ITEMS, error);
	if (result < 0)
		goto close_down;
	/* Signals are main's affair. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	result = -pthread_create(&helper->thread, NULL, helper_main, helper);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (result < 0) {
		error_set(error, result, "no thread for psync I/O: %s", strerror(-result));
		goto close_up;
	}
	return 0;
close_up:
	mailbox_close(&helper->up);
close_down:
	mailbox_close(&helper->down);
	return result;
}

static void helper_close(struct psync_helper *helper)
{
	bool was_sent;

	assert(!helper->is_busy);
	was_sent = mailbox_send(&helper->down, &stop_mark);
	assert(was_sent);
	pthread_join(helper->thread, NULL);
	mailbox_close(&helper->up);
	mailbox_close(&helper->down);
}

static void psync_close(struct block_io *io)
{
	struct psync_io *psync = (struct psync_io *)io;

	if (psync == NULL)
		return;
	assert(psync->in_flight == 0);
	while (psync->helpers_count > 0)
		helper_close(&psync->helpers[--psync->helpers_count]);
	free(psync);
}

static int psync_open(const struct block_io_ops *ops, struct block_io **out_io,
		      const struct block_io_config *config, struct error *error)
{
	struct psync_io *psync;
	unsigned wanted = config->queue_depth < PSYNC_HELPERS_MAX ? config->queue_depth
								  : PSYNC_HELPERS_MAX;

	assert(config->queue_depth > 0 && config->queue_depth <= BLOCK_QUEUE_DEPTH_MAX);
	assert(config->disk->is_open);
	psync = calloc(1, sizeof(*psync));
	if (psync == NULL)
		return error_set(error, -ENOMEM, "no memory for a psync queue");
	psync->io.ops = ops;
	psync->disk = config->disk;
	psync->queue_depth = config->queue_depth;
	list_init(&psync->waiting);
	for (; psync->helpers_count < wanted; psync->helpers_count++) {
		int result = helper_open(psync, &psync->helpers[psync->helpers_count], error);

		if (result < 0) {
			psync_close(&psync->io);
			return result;
		}
	}
	*out_io = &psync->io;
	return 0;
}

static int psync_register_memory(struct block_io *io, const struct nvme_memory *memory,
				 unsigned count, struct error *error)
{
	(void)io;
	(void)memory;
	(void)count;
	return error_set(error, -ENOTSUP, "psync registers no memory");
}

static int psync_submit(struct block_io *io, struct block_request *request)
{
	struct psync_io *psync = (struct psync_io *)io;

	if (psync->in_flight == psync->queue_depth)
		return -EAGAIN;
	assert(psync->in_flight < psync->queue_depth);
	assert(request->verb == BLOCK_SYNC || request->bytes > 0);
	psync->in_flight++;
	list_append(&psync->waiting, &request->link);
	return 0;
}

static void psync_flush(struct block_io *io)
{
	struct psync_io *psync = (struct psync_io *)io;

	for (unsigned i = 0; i < psync->helpers_count && !list_is_empty(&psync->waiting); i++) {
		struct psync_helper *helper = &psync->helpers[i];
		bool was_sent;

		if (helper->is_busy)
			continue;
		helper->is_busy = true;
		was_sent = mailbox_send(&helper->down, list_item(list_take_first(&psync->waiting),
								 struct block_request, link));
		assert(was_sent);
	}
}

static unsigned psync_reap(struct block_io *io, struct block_request **out_requests, unsigned limit)
{
	struct psync_io *psync = (struct psync_io *)io;
	unsigned count = 0;

	for (unsigned i = 0; i < psync->helpers_count && count < limit; i++) {
		struct psync_helper *helper = &psync->helpers[i];
		struct block_request *request = helper->is_busy ? mailbox_take(&helper->up) : NULL;

		if (request == NULL)
			continue;
		assert(psync->in_flight > 0);
		helper->is_busy = false;
		psync->in_flight--;
		out_requests[count++] = request;
	}
	if (count > 0)
		psync_flush(io);
	return count;
}

static void psync_wait(struct block_io *io, int wake_fd, uint64_t wait_us_max)
{
	struct psync_io *psync = (struct psync_io *)io;
	struct pollfd watched[PSYNC_HELPERS_MAX + 1] = { { .fd = wake_fd, .events = POLLIN } };
	struct psync_helper *asleep[PSYNC_HELPERS_MAX];
	struct timespec timeout = { .tv_sec = (time_t)(wait_us_max / 1000000),
				    .tv_nsec = (long)(wait_us_max % 1000000) * 1000 };
	unsigned asleep_count = 0;
	bool may_wait = true;

	for (unsigned i = 0; i < psync->helpers_count && may_wait; i++) {
		if (!psync->helpers[i].is_busy)
			continue;
		may_wait = mailbox_sleep(&psync->helpers[i].up);
		asleep[asleep_count] = &psync->helpers[i];
		watched[1 + asleep_count].fd = mailbox_fd(&psync->helpers[i].up);
		watched[1 + asleep_count].events = POLLIN;
		asleep_count++;
	}
	if (may_wait)
		ppoll(watched, 1 + asleep_count, &timeout, NULL);
	for (unsigned i = 0; i < asleep_count; i++)
		mailbox_awake(&asleep[i]->up);
}

static void psync_describe(const struct block_io *io, char *text, size_t text_bytes)
{
	const struct psync_io *psync = (const struct psync_io *)io;

	snprintf(text, text_bytes, "psync, %u threads", psync->helpers_count);
}

const struct block_io_ops block_io_psync_ops = {
	.name = "psync",
	BLOCK_DISK_OPS,
	.open = psync_open,
	.register_memory = psync_register_memory,
	.submit = psync_submit,
	.flush = psync_flush,
	.reap = psync_reap,
	.wait = psync_wait,
	.describe = psync_describe,
	.close = psync_close,
};
