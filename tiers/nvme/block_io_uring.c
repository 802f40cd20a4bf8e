/*
 * tiers/nvme/block_io_uring.c: block I/O through io_uring. The only file that speaks to liburing.
 *
 * The file is registered, so that the lock on its description lasts as long as the ring: the kernel
 * finishes reads into our memory after a kill -9, and who gets the lock knows that they have ended.
 */
#include "tiers/nvme/block_io.h"

#include <liburing.h>

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REGISTERED_FILE 0
#define REGIONS_MAX 1024u /* pieces of 1 GiB */
#define URING_ENTER_TRIES_MAX 8u

/* Newer than some headers; the kernel refuses what it does not know, and we try without. */
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif

struct uring_region {
	uintptr_t start;
	uint64_t bytes;
};

struct uring_io {
	struct block_io io;
	struct io_uring ring;
	struct block_disk *disk;
	uint32_t queue_depth;
	uint32_t in_flight;
	uint32_t unsubmitted;   /* entries that the kernel has not seen */
	bool is_disabled;       /* until the thread that will submit enables it */
	bool is_watching;       /* a poll of the wake descriptor is in the ring */
	unsigned regions_count; /* 0: nothing is registered */
	struct uring_region *regions;
};

/* The address of it marks the completion of the wake poll. */
static char wake_mark;

static const unsigned ring_flags[] = {
	/* Completions are handled when we ask, on the thread that asks: no interruptions, fewest
	   switches. */
	IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
		IORING_SETUP_TASKRUN_FLAG,
	IORING_SETUP_R_DISABLED | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
	IORING_SETUP_R_DISABLED,
};

static int ring_open(struct uring_io *uring)
{
	/* One request each, and the wake poll. */
	unsigned entries = uring->queue_depth + 1;
	int result = -ENOSYS;

	for (unsigned i = 0; i < sizeof(ring_flags) / sizeof(ring_flags[0]); i++) {
		struct io_uring_params params = { .flags = ring_flags[i] };

		result = io_uring_queue_init_params(entries, &uring->ring, &params);
		/* Only "I do not know this flag" is worth another try. */
		if (result != -EINVAL)
			break;
	}
	return result;
}

static int uring_open(const struct block_io_ops *ops, struct block_io **out_io,
		      const struct block_io_config *config, struct error *error)
{
	struct uring_io *uring;
	int result;

	assert(config->queue_depth > 0 && config->queue_depth <= BLOCK_QUEUE_DEPTH_MAX);
	assert(config->disk->is_open);
	uring = calloc(1, sizeof(*uring));
	if (uring == NULL)
		return error_set(error, -ENOMEM, "no memory for an io_uring queue");
	uring->io.ops = ops;
	uring->disk = config->disk;
	uring->queue_depth = config->queue_depth;
	uring->is_disabled = true;
	result = ring_open(uring);
	if (result < 0) {
		error_set(error, result, "io: the kernel refuses io_uring (%s): allow its system calls (seccomp "
			  "profile, kernel.io_uring_disabled), or set io: psync", strerror(-result));
		free(uring);
		return result;
	}
	/* Without the registration the lock could be free while the kernel still writes: then we
	 * must not run so. */
	result = io_uring_register_files(&uring->ring, &config->disk->fd, 1);
	if (result < 0) {
		error_set(error, result, "io_uring does not register the file: %s",
			  strerror(-result));
		io_uring_queue_exit(&uring->ring);
		free(uring);
		return result;
	}
	*out_io = &uring->io;
	return 0;
}

static unsigned pieces_of(const struct nvme_memory *memory, unsigned count)
{
	unsigned pieces = 0;

	for (unsigned i = 0; i < count; i++)
		pieces += (unsigned)((memory[i].bytes + BLOCK_PIECE_BYTES_MAX - 1) /
				     BLOCK_PIECE_BYTES_MAX);
	return pieces;
}

static void pieces_fill(struct iovec *pieces, const struct nvme_memory *memory, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		for (uint64_t at = 0; at < memory[i].bytes; at += BLOCK_PIECE_BYTES_MAX, pieces++) {
			uint64_t rest = memory[i].bytes - at;

			pieces->iov_base = (uint8_t *)memory[i].start + at;
			pieces->iov_len = rest < BLOCK_PIECE_BYTES_MAX ? rest
								       : BLOCK_PIECE_BYTES_MAX;
		}
	}
}

static int uring_register_memory(struct block_io *io, const struct nvme_memory *memory,
				 unsigned count, struct error *error)
{
	struct uring_io *uring = (struct uring_io *)io;
	unsigned pieces_count = pieces_of(memory, count);
	struct iovec *pieces;
	int result;

	assert(uring->regions_count == 0 && uring->in_flight == 0);
	if (pieces_count == 0 || pieces_count > REGIONS_MAX)
		return error_set(error, -EINVAL,
				 "%u GiB pieces of memory to register; 1 to %u can be",
				 pieces_count, REGIONS_MAX);
	pieces = calloc(pieces_count, sizeof(*pieces));
	uring->regions = calloc(pieces_count, sizeof(*uring->regions));
	if (pieces == NULL || uring->regions == NULL) {
		result = error_set(error, -ENOMEM, "no memory to register %u pieces", pieces_count);
		goto free_pieces;
	}
	pieces_fill(pieces, memory, count);
	result = io_uring_register_buffers(&uring->ring, pieces, pieces_count);
	if (result < 0) {
		error_set(error, result,
			  "io_uring does not register the arenas (%s): raise the limit of locked "
			  "memory (LimitMEMLOCK= of the service, or ulimit -l)",
			  strerror(-result));
		goto free_pieces;
	}
	for (unsigned i = 0; i < pieces_count; i++) {
		uring->regions[i].start = (uintptr_t)pieces[i].iov_base;
		uring->regions[i].bytes = pieces[i].iov_len;
	}
	uring->regions_count = pieces_count;
free_pieces:
	free(pieces);
	if (result < 0) {
		free(uring->regions);
		uring->regions = NULL;
	}
	return result < 0 ? result : 0;
}

/* The registered piece that holds all of the memory, or -1: what straddles two goes unregistered.
 */
static int region_find(const struct uring_io *uring, const void *memory, uint64_t bytes)
{
	uintptr_t start = (uintptr_t)memory;

	for (unsigned i = 0; i < uring->regions_count; i++) {
		const struct uring_region *region = &uring->regions[i];

		if (start >= region->start && bytes <= region->bytes &&
		    start - region->start <= region->bytes - bytes)
			return (int)i;
	}
	return -1;
}

static void sqe_fill(struct uring_io *uring, struct io_uring_sqe *sqe,
		     struct block_request *request)
{
	uint8_t *memory = (uint8_t *)request->memory + request->moved_bytes;
	uint64_t rest = request->bytes - request->moved_bytes;
	unsigned piece = (unsigned)(rest < BLOCK_PIECE_BYTES_MAX ? rest : BLOCK_PIECE_BYTES_MAX);
	uint64_t offset = request->offset + request->moved_bytes;
	int region;

	if (request->verb == BLOCK_SYNC) {
		io_uring_prep_fsync(sqe, REGISTERED_FILE, IORING_FSYNC_DATASYNC);
	} else {
		region = region_find(uring, memory, piece);
		if (request->verb == BLOCK_READ && region >= 0)
			io_uring_prep_read_fixed(sqe, REGISTERED_FILE, memory, piece, offset,
						 region);
		else if (request->verb == BLOCK_READ)
			io_uring_prep_read(sqe, REGISTERED_FILE, memory, piece, offset);
		else if (region >= 0)
			io_uring_prep_write_fixed(sqe, REGISTERED_FILE, memory, piece, offset,
						  region);
		else
			io_uring_prep_write(sqe, REGISTERED_FILE, memory, piece, offset);
	}
	sqe->flags |= IOSQE_FIXED_FILE;
	io_uring_sqe_set_data(sqe, request);
}

/* Puts the request, or what is left of it, into the ring. It always fits: see ring_open(). */
static void request_start(struct uring_io *uring, struct block_request *request)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);

	assert(sqe != NULL);
	sqe_fill(uring, sqe, request);
	uring->unsubmitted++;
}

static int uring_submit(struct block_io *io, struct block_request *request)
{
	struct uring_io *uring = (struct uring_io *)io;

	if (uring->in_flight == uring->queue_depth)
		return -EAGAIN;
	assert(uring->in_flight < uring->queue_depth);
	assert(request->verb == BLOCK_SYNC || request->bytes > 0);
	request->moved_bytes = 0;
	request->continues = 0;
	request->result = 0;
	uring->in_flight++;
	request_start(uring, request);
	return 0;
}

/* The thread that submits is the only one the ring takes: it says so at its first call. */
static void ring_enable(struct uring_io *uring)
{
	int result;

	if (!uring->is_disabled)
		return;
	/* liburing 2.3 declares io_uring_enable_rings() and does not export it. */
	result = (int)syscall(__NR_io_uring_register, uring->ring.ring_fd,
			      IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	assert(result == 0);
	uring->is_disabled = false;
}

static void uring_flush(struct block_io *io)
{
	struct uring_io *uring = (struct uring_io *)io;

	ring_enable(uring);
	for (unsigned tries = 0; uring->unsubmitted > 0 && tries < URING_ENTER_TRIES_MAX; tries++) {
		int result = io_uring_submit_and_get_events(&uring->ring);

		/* EAGAIN, EBUSY, EINTR: the entries stay in the ring and go with the next flush. */
		if (result < 0)
			return;
		assert((uint32_t)result <= uring->unsubmitted);
		uring->unsubmitted -= (uint32_t)result;
	}
}

/* Takes the kernel's answer to a piece. True: the request has ended. */
static bool request_answered(struct uring_io *uring, struct block_request *request, int answer)
{
	if (answer == -EINTR || answer == -EAGAIN) {
		answer = 0;
	} else if (answer < 0 || request->verb == BLOCK_SYNC) {
		request->result = answer < 0 ? answer : 0;
		return true;
	} else if (answer == 0 ||
		   (uring->disk->is_direct && (uint32_t)answer % uring->disk->align_bytes != 0)) {
		/* The end of the file, or a remainder that O_DIRECT could not continue. */
		request->result = -EIO;
		return true;
	}
	request->moved_bytes += (uint64_t)answer;
	assert(request->moved_bytes <= request->bytes || request->verb == BLOCK_SYNC);
	if (request->verb != BLOCK_SYNC && request->moved_bytes == request->bytes) {
		request->result = 0;
		return true;
	}
	if (++request->continues > BLOCK_CONTINUES_MAX) {
		request->result = -EIO;
		return true;
	}
	request_start(uring, request);
	return false;
}

static unsigned uring_reap(struct block_io *io, struct block_request **out_requests, unsigned limit)
{
	struct uring_io *uring = (struct uring_io *)io;
	unsigned count = 0;

	if (uring->is_disabled)
		return 0;
	while (count < limit) {
		struct io_uring_cqe *cqe = NULL;

		if (io_uring_peek_cqe(&uring->ring, &cqe) != 0 || cqe == NULL)
			break;
		if (io_uring_cqe_get_data(cqe) == &wake_mark) {
			uring->is_watching = (cqe->flags & IORING_CQE_F_MORE) != 0;
		} else {
			struct block_request *request = io_uring_cqe_get_data(cqe);

			if (request_answered(uring, request, cqe->res)) {
				assert(uring->in_flight > 0);
				uring->in_flight--;
				out_requests[count++] = request;
			}
		}
		io_uring_cqe_seen(&uring->ring, cqe);
	}
	/* Continued pieces must not wait for the next submit. */
	if (uring->unsubmitted > 0)
		uring_flush(io);
	return count;
}

/* One poll stays in the ring for ever, so that a wake costs no system call of its own. */
static void watch_start(struct uring_io *uring, int wake_fd)
{
	struct io_uring_sqe *sqe;

	if (uring->is_watching)
		return;
	sqe = io_uring_get_sqe(&uring->ring);
	if (sqe == NULL)
		return; /* full of requests the kernel did not take; their end will wake us */
	io_uring_prep_poll_multishot(sqe, wake_fd, POLLIN);
	io_uring_sqe_set_data(sqe, &wake_mark);
	uring->unsubmitted++;
	uring->is_watching = true;
}

static void uring_wait(struct block_io *io, int wake_fd, uint64_t wait_us_max)
{
	struct uring_io *uring = (struct uring_io *)io;
	struct __kernel_timespec timeout = { .tv_sec = (int64_t)(wait_us_max / 1000000),
					     .tv_nsec = (int64_t)(wait_us_max % 1000000) * 1000 };
	struct io_uring_cqe *cqe = NULL;
	uint32_t pending;

	ring_enable(uring);
	watch_start(uring, wake_fd);
	io_uring_submit_and_wait_timeout(&uring->ring, &cqe, 1, &timeout, NULL);
	/* It says how many it took only when it did not time out; the ring itself always knows. */
	pending = io_uring_sq_ready(&uring->ring);
	assert(pending <= uring->unsubmitted);
	uring->unsubmitted = pending;
}

static void uring_describe(const struct block_io *io, char *text, size_t text_bytes)
{
	const struct uring_io *uring = (const struct uring_io *)io;

	if (uring->regions_count > 0)
		snprintf(text, text_bytes, "io_uring, registered buffers and files");
	else
		snprintf(text, text_bytes, "io_uring, registered files");
}

static void uring_close(struct block_io *io)
{
	struct uring_io *uring = (struct uring_io *)io;

	if (uring == NULL)
		return;
	assert(uring->in_flight == 0);
	io_uring_queue_exit(&uring->ring);
	free(uring->regions);
	free(uring);
}

const struct block_io_ops block_io_uring_ops = {
	.name = "io_uring",
	BLOCK_DISK_OPS,
	.open = uring_open,
	.register_memory = uring_register_memory,
	.submit = uring_submit,
	.flush = uring_flush,
	.reap = uring_reap,
	.wait = uring_wait,
	.describe = uring_describe,
	.close = uring_close,
};
