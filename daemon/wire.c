/* daemon/wire.c: Unix SOCK_SEQPACKET sockets. */
#include "daemon/wire.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LISTEN_BACKLOG 64
#define SENT_FDS_MAX 4
#define SEND_BUFFER_BYTES (1 << 20)

void wire_fds_close(struct wire_fds *fds)
{
	for (unsigned i = 0; i < fds->count; i++)
		close(fds->fds[i]);
	fds->count = 0;
}

static void fds_take(struct msghdr *message, struct wire_fds *out_fds)
{
	for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL;
	     header = CMSG_NXTHDR(message, header)) {
		size_t bytes = header->cmsg_len - CMSG_LEN(0);

		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		assert(bytes / sizeof(int) <= WIRE_FDS_MAX - out_fds->count);
		memcpy(out_fds->fds + out_fds->count, CMSG_DATA(header), bytes);
		out_fds->count += (unsigned)(bytes / sizeof(int));
	}
}

static ssize_t packet_receive(struct wire *wire, struct msghdr *message)
{
	ssize_t bytes;

	do {
		bytes = recvmsg(wire->fd, message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	} while (bytes < 0 && errno == EINTR);
	if (bytes < 0)
		return -errno;
	return message->msg_flags & MSG_TRUNC ? -EMSGSIZE : bytes;
}

static ssize_t unix_receive(struct wire *wire, void *target, size_t bytes_max,
			    struct wire_fds *out_fds)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(WIRE_FDS_MAX * sizeof(int))];
	struct iovec vector = { .iov_base = target, .iov_len = bytes_max };
	struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };
	ssize_t bytes;

	/* Without room for control data what a client sends is closed by the kernel. */
	if (out_fds == NULL)
		return packet_receive(wire, &message);
	out_fds->count = 0;
	message.msg_control = control;
	/* Not what the alignment leaves as well: the kernel would fill that, too. */
	message.msg_controllen = CMSG_LEN(WIRE_FDS_MAX * sizeof(int));
	bytes = packet_receive(wire, &message);
	if (bytes < 0 && bytes != -EMSGSIZE)
		return bytes;
	fds_take(&message, out_fds);
	if (bytes > 0 && (message.msg_flags & MSG_CTRUNC))
		bytes = -EMFILE;
	if (bytes <= 0)
		wire_fds_close(out_fds);
	return bytes;
}

static int unix_send(struct wire *wire, const void *packet, size_t bytes, const int *fds,
		     unsigned fds_count)
{
	struct iovec vector = { .iov_base = (void *)packet, .iov_len = bytes };
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(SENT_FDS_MAX * sizeof(int))];
	} control;
	struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };
	ssize_t sent;

	assert(fds_count <= SENT_FDS_MAX);
	if (fds_count > 0) {
		memset(&control, 0, sizeof(control));
		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(fds_count * sizeof(int));
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(fds_count * sizeof(int));
		memcpy(CMSG_DATA(header), fds, fds_count * sizeof(int));
	}
	do {
		sent = sendmsg(wire->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	if (sent < 0)
		return -errno;
	return (size_t)sent == bytes ? 0 : -EIO;
}

static void unix_close(struct wire *wire)
{
	if (wire->fd >= 0)
		close(wire->fd);
	wire->fd = -1;
}

const struct wire_ops wire_unix = {
	.name = "unix", .receive = unix_receive, .send = unix_send, .close = unix_close,
};

static int path_make_free(const char *path, struct error *error)
{
	struct stat status;

	if (lstat(path, &status) < 0)
		return errno == ENOENT ? 0 : error_set(error, -errno, "%s: %s", path, strerror(errno));
	if (!S_ISSOCK(status.st_mode))
		return error_set(error, -EEXIST, "%s is there and is no socket; remove it or set another "
				 "run_directory", path);
	if (unlink(path) < 0)
		return error_set(error, -errno, "cannot remove the old socket %s: %s%s", path,
				 strerror(errno), error_advice(-errno));
	return 0;
}

int wire_listen(const char *path, unsigned mode, struct error *error)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int result;

	if (strlen(path) >= sizeof(address.sun_path))
		return error_set(error, -ENAMETOOLONG, "%s is too long for a socket (at most %zu bytes): set a "
				 "shorter run_directory", path, sizeof(address.sun_path) - 1);
	strcpy(address.sun_path, path);
	result = path_make_free(path, error);
	if (result < 0)
		return result;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_set(error, -errno, "cannot make a socket: %s%s", strerror(errno), error_advice(-errno));
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || chmod(path, mode) < 0 ||
	    listen(fd, LISTEN_BACKLOG) < 0) {
		result = error_set(error, -errno, "cannot listen at %s: %s%s", path, strerror(errno),
				   error_advice(-errno));
		close(fd);
		return result;
	}
	return fd;
}

int wire_accept(int listen_fd, struct ucred *out_peer)
{
	struct ucred peer = { 0 };
	socklen_t peer_bytes = sizeof(peer);
	int buffer_bytes = SEND_BUFFER_BYTES;
	int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	/* Only for the log; who may reach the socket is who may use it. */
	(void)getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_bytes);
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof(buffer_bytes));
	*out_peer = peer;
	return fd;
}
