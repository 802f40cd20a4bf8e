/* bench/peer_uring.c: the pair of sockets of peer_raw.c, its messages given to io_uring, several at
 * once: what our transport over TCP, which calls the kernel itself, could gain by it. */
#include "bench/peer_flow.h"

#include <errno.h>

#if HAVE_IO_URING

#include "bench/micro.h"

#include <liburing.h>
#include <sys/socket.h>
#include <unistd.h>

/* Messages of a stream go one behind the other: each waits for the one before (IOSQE_IO_LINK). */
static void batch_prepare(struct io_uring *ring, struct flow_end *end, int fd, uint32_t first,
			  uint32_t count, bool is_giver)
{
	for (uint32_t i = 0; i < count; i++) {
		struct io_uring_sqe *entry = io_uring_get_sqe(ring);

		if (is_giver)
			io_uring_prep_send(entry, fd, flow_slot(end, first + i), end->bytes,
					   MSG_WAITALL | MSG_NOSIGNAL);
		else
			io_uring_prep_recv(entry, fd, flow_slot(end, first + i), end->bytes,
					   MSG_WAITALL);
		if (i + 1 < count)
			entry->flags |= IOSQE_IO_LINK;
	}
}

static int messages_move(struct flow_end *end, int fd, bool is_giver)
{
	struct io_uring ring;
	int result = io_uring_queue_init(FLOW_UNDER_WAY, &ring, 0);

	if (result < 0)
		return error_set(&end->error, -ENOSYS, "this kernel gives no io_uring");
	for (uint32_t first = 0; first < end->count && result == 0; first += FLOW_UNDER_WAY) {
		uint32_t left = end->count - first;
		uint32_t count = left < FLOW_UNDER_WAY ? left : FLOW_UNDER_WAY;
		struct io_uring_cqe *done;

		batch_prepare(&ring, end, fd, first, count, is_giver);
		if (io_uring_submit_and_wait(&ring, count) < 0)
			result = -EIO;
		for (uint32_t i = 0; i < count && result == 0; i++) {
			if (io_uring_wait_cqe(&ring, &done) < 0 || done->res != (int)end->bytes)
				result = -EPIPE;
			else
				io_uring_cqe_seen(&ring, done);
		}
	}
	io_uring_queue_exit(&ring);
	return result < 0 ? error_set(&end->error, result, "io_uring moved a message in part") : 0;
}

static int uring_give(struct flow_end *end)
{
	int fd = flow_tcp_connect(end);

	if (fd < 0)
		return fd;
	flow_begin(end);
	double began = flow_cpu_seconds();
	int result = messages_move(end, fd, true);
	end->result.sender_cpu_seconds = flow_cpu_seconds() - began;
	return result;
}

static int uring_take(struct flow_end *end)
{
	int fd = flow_tcp_accept(end);

	if (fd < 0)
		return fd;
	flow_begin(end);
	double began = micro_now();
	int result = messages_move(end, fd, false);
	end->result.seconds = micro_now() - began;
	end->result.bytes = (double)end->bytes * end->count;
	return result;
}

#else

static int uring_give(struct flow_end *end)
{
	return error_set(&end->error, -ENOSYS, "built without liburing");
}

static int uring_take(struct flow_end *end)
{
	return error_set(&end->error, -ENOSYS, "built without liburing");
}

#endif

const struct flow flow_uring_tcp = { .name = "a pair of sockets by io_uring", .give = uring_give,
				     .take = uring_take };
