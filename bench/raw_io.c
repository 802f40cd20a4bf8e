/* bench/raw_io.c: the ceiling of a disk, with the kernel's own interface to io_uring. */
#include "bench/raw_io.h"

#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE_BYTES 4096u
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif

#define HUGE_BYTES (2u << 20)

struct raw_ring {
	int fd;
	int file;
	uint8_t *rings; /* submission and completion ring: one mapping */
	size_t rings_bytes;
	struct io_uring_sqe *sqes;
	size_t sqes_bytes;
	uint32_t *sq_tail, *sq_mask, *sq_array;
	uint32_t *cq_head, *cq_tail, *cq_mask;
	struct io_uring_cqe *cqes;
	uint8_t *memory;
	size_t memory_bytes;
};

static int ring_setup(struct raw_ring *ring, uint32_t entries, struct io_uring_params *params)
{
	memset(params, 0, sizeof(*params));
	params->flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
	ring->fd = (int)syscall(__NR_io_uring_setup, entries, params);
	if (ring->fd < 0 && errno == EINVAL) {
		memset(params, 0, sizeof(*params));
		ring->fd = (int)syscall(__NR_io_uring_setup, entries, params);
	}
	if (ring->fd < 0)
		return -errno;
	return params->features & IORING_FEAT_SINGLE_MMAP ? 0 : -ENOSYS;
}

static int ring_map(struct raw_ring *ring, const struct io_uring_params *params)
{
	size_t sq_bytes = params->sq_off.array + params->sq_entries * sizeof(uint32_t);
	size_t cq_bytes = params->cq_off.cqes + params->cq_entries * sizeof(struct io_uring_cqe);

	ring->rings_bytes = sq_bytes > cq_bytes ? sq_bytes : cq_bytes;
	ring->sqes_bytes = params->sq_entries * sizeof(struct io_uring_sqe);
	ring->rings = mmap(NULL, ring->rings_bytes, PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQ_RING);
	ring->sqes = mmap(NULL, ring->sqes_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
			  ring->fd, IORING_OFF_SQES);
	if (ring->rings == MAP_FAILED || ring->sqes == MAP_FAILED)
		return -errno;
	ring->sq_tail = (uint32_t *)(ring->rings + params->sq_off.tail);
	ring->sq_mask = (uint32_t *)(ring->rings + params->sq_off.ring_mask);
	ring->sq_array = (uint32_t *)(ring->rings + params->sq_off.array);
	ring->cq_head = (uint32_t *)(ring->rings + params->cq_off.head);
	ring->cq_tail = (uint32_t *)(ring->rings + params->cq_off.tail);
	ring->cq_mask = (uint32_t *)(ring->rings + params->cq_off.ring_mask);
	ring->cqes = (struct io_uring_cqe *)(ring->rings + params->cq_off.cqes);
	return 0;
}

static int ring_register(struct raw_ring *ring)
{
	struct iovec memory = { .iov_base = ring->memory, .iov_len = ring->memory_bytes };

	if (syscall(__NR_io_uring_register, ring->fd, IORING_REGISTER_BUFFERS, &memory, 1) < 0)
		return -errno;
	return syscall(__NR_io_uring_register, ring->fd, IORING_REGISTER_FILES, &ring->file, 1) < 0
		       ? -errno
		       : 0;
}

static void ring_close(struct raw_ring *ring)
{
	if (ring->sqes != NULL && ring->sqes != MAP_FAILED)
		munmap(ring->sqes, ring->sqes_bytes);
	if (ring->rings != NULL && ring->rings != MAP_FAILED)
		munmap(ring->rings, ring->rings_bytes);
	if (ring->fd >= 0)
		close(ring->fd);
	if (ring->file >= 0)
		close(ring->file);
	if (ring->memory != NULL && ring->memory != MAP_FAILED)
		munmap(ring->memory, ring->memory_bytes);
}

static int ring_open(struct raw_ring *ring, const struct raw_io *raw, struct error *error)
{
	struct io_uring_params params;
	int result;

	memset(ring, 0, sizeof(*ring));
	ring->fd = -1;
	ring->file = open(raw->path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (ring->file < 0)
		return error_set(error, -errno, "%s: %s", raw->path, strerror(errno));
	ring->memory_bytes = (size_t)raw->queue_depth * raw->block_bytes;
	/* Huge pages, as the arena has them: a disk with few segments a request is faster with
	 * them. */
	ring->memory_bytes = (ring->memory_bytes + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
	ring->memory = mmap(NULL, ring->memory_bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ring->memory != MAP_FAILED) {
		madvise(ring->memory, ring->memory_bytes, MADV_HUGEPAGE);
		memset(ring->memory, 1, ring->memory_bytes);
	}
	result = ring->memory == MAP_FAILED ? -ENOMEM : ring_setup(ring, raw->queue_depth, &params);
	if (result == 0)
		result = ring_map(ring, &params);
	if (result == 0)
		result = ring_register(ring);
	if (result < 0) {
		error_set(error, result, "raw io_uring: %s", strerror(-result));
		ring_close(ring);
	}
	return result;
}

/* Puts the transfer of one block through buffer `place` into the ring; the caller enters it. */
static void block_start(struct raw_ring *ring, const struct raw_io *raw, uint64_t block,
			uint32_t place)
{
	uint32_t tail = *ring->sq_tail;
	uint32_t index = tail & *ring->sq_mask;
	struct io_uring_sqe *sqe = &ring->sqes[index];
	uint64_t blocks = raw->range_bytes / raw->block_bytes;

	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = raw->is_write ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED;
	sqe->flags = IOSQE_FIXED_FILE;
	sqe->off = raw->offset + (raw->first_block + block) % blocks * raw->block_bytes;
	sqe->addr = (uint64_t)(uintptr_t)(ring->memory + (size_t)place * raw->block_bytes);
	sqe->len = raw->block_bytes;
	sqe->user_data = place;
	ring->sq_array[index] = index;
	__atomic_store_n(ring->sq_tail, tail + 1, __ATOMIC_RELEASE);
}

/* Moves all blocks with the queue always full. */
static int blocks_run(struct raw_ring *ring, const struct raw_io *raw)
{
	uint64_t started = 0, ended = 0;
	uint32_t entering = 0;

	for (; started < raw->queue_depth && started < raw->blocks_count; started++, entering++)
		block_start(ring, raw, started, (uint32_t)started);
	while (ended < raw->blocks_count) {
		int entered = (int)syscall(__NR_io_uring_enter, ring->fd, entering, 1,
					   IORING_ENTER_GETEVENTS, NULL, 0);
		uint32_t head = *ring->cq_head;

		if (entered < 0 && errno != EINTR)
			return -errno;
		entering -= entered > 0 ? (uint32_t)entered : 0;
		for (; head != __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE); head++, ended++) {
			const struct io_uring_cqe *cqe = &ring->cqes[head & *ring->cq_mask];

			if (cqe->res != (int)raw->block_bytes)
				return cqe->res < 0 ? cqe->res : -EIO;
			if (started == raw->blocks_count)
				continue;
			block_start(ring, raw, started, (uint32_t)cqe->user_data);
			started++;
			entering++;
		}
		__atomic_store_n(ring->cq_head, head, __ATOMIC_RELEASE);
	}
	return 0;
}

int raw_io_run(const struct raw_io *raw, double *out_blocks_second, struct error *error)
{
	struct raw_ring ring;
	uint64_t began_us, took_us;
	int result;

	if (raw->queue_depth < 1 || raw->queue_depth > RAW_IO_DEPTH_MAX ||
	    raw->block_bytes % PAGE_BYTES != 0 || raw->block_bytes == 0 ||
	    raw->range_bytes < raw->block_bytes || raw->offset % PAGE_BYTES != 0)
		return error_set(error, -EINVAL,
				 "raw I/O: depth 1 to %u, blocks of whole pages within the range",
				 RAW_IO_DEPTH_MAX);
	result = ring_open(&ring, raw, error);
	if (result < 0)
		return result;
	began_us = clock_now_us(clock_real());
	result = blocks_run(&ring, raw);
	took_us = clock_now_us(clock_real()) - began_us;
	ring_close(&ring);
	if (result < 0)
		return error_set(error, result, "%s: raw I/O: %s", raw->path, strerror(-result));
	*out_blocks_second = (double)raw->blocks_count * 1e6 / (double)(took_us > 0 ? took_us : 1);
	return 0;
}
