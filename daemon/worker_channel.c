/* daemon/worker_channel.c: packets with descriptors, from the daemon down to a worker. */
#include "daemon/worker.h"

#include "daemon/worker_shared.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define SEND_BUFFER_BYTES (1 << 20) /* a few packets */

int worker_channel_make(int *out_ours, int *out_theirs, struct error *error)
{
	const int bytes = SEND_BUFFER_BYTES;
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
		return error_set(error, -errno, "no channel to a worker: %s%s", strerror(errno),
				 error_advice(-errno));
	(void)setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	*out_ours = worker_fd_high(fds[0]);
	*out_theirs = worker_fd_high(fds[1]);
	if (*out_ours < 0 || *out_theirs < 0)
		return error_set(error, -errno, "no channel to a worker: %s%s", strerror(errno),
				 error_advice(-errno));
	return 0;
}

int worker_channel_send(int fd, const void *packet, size_t bytes, const int *fds,
			unsigned fds_count)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(WORKER_PACKET_FDS_MAX * sizeof(int))] = {
		0
	};
	struct iovec part = { .iov_base = (void *)(uintptr_t)packet, .iov_len = bytes };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	assert(bytes <= WORKER_PACKET_BYTES_MAX && fds_count <= WORKER_PACKET_FDS_MAX);
	if (fds_count > 0) {
		message.msg_control = control;
		message.msg_controllen = CMSG_SPACE(fds_count * sizeof(int));
		struct cmsghdr *head = CMSG_FIRSTHDR(&message);
		head->cmsg_level = SOL_SOCKET;
		head->cmsg_type = SCM_RIGHTS;
		head->cmsg_len = CMSG_LEN(fds_count * sizeof(int));
		memcpy(CMSG_DATA(head), fds, fds_count * sizeof(int));
	}
	if (sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
		return 0;
	/* ETOOMANYREFS: descriptors of earlier packets are still on their way. */
	if (errno == EAGAIN || errno == ENOBUFS || errno == ETOOMANYREFS)
		return -EAGAIN;
	return errno == EPIPE || errno == ECONNRESET ? -ENOTCONN : -errno;
}

int worker_side_receive(struct worker_side *side, void *packet, size_t *out_bytes, int *fds,
			unsigned *out_fds_count)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(WORKER_PACKET_FDS_MAX * sizeof(int))];
	struct iovec part = { .iov_base = packet, .iov_len = WORKER_PACKET_BYTES_MAX };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof(control) };
	ssize_t bytes;

	*out_fds_count = 0;
	if (side->channel_fd < 0)
		return 0;
	bytes = recvmsg(side->channel_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (bytes < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head != NULL;
	     head = CMSG_NXTHDR(&message, head)) {
		unsigned count = (unsigned)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int));

		if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
			continue;
		memcpy(fds + *out_fds_count, CMSG_DATA(head), count * sizeof(int));
		*out_fds_count += count;
	}
	*out_bytes = (size_t)bytes;
	if (bytes > 0 && (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0)
		return 1;
	while (*out_fds_count > 0)
		close(fds[--*out_fds_count]);
	/* 0: the parent has closed it; its end is seen elsewhere. */
	return bytes == 0 ? 0 : -EPROTO;
}
