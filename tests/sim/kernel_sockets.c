/* tests/sim/kernel_sockets.c: sockets between processes; SOCK_SEQPACKET, with descriptors in
 * packets. */
#include "tests/sim/kernel_fds.h"
#include "tests/sim/kernel_wraps.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#define PACKET_FDS_MAX 4u
#define SPARE_RINGS_MAX 64u

/* In the ring, before its bytes. */
struct packet {
	uint32_t bytes, fds_count;
	struct object *objects[PACKET_FDS_MAX];
};

/* What listens, by path. */
#define LISTENERS_MAX 64u
static struct sock *listeners[LISTENERS_MAX];
static uint8_t *spare_rings[SPARE_RINGS_MAX];
static unsigned spare_rings_count;

static struct sock *sock_create(void)
{
	struct sock *sock = __real_calloc(1, sizeof(*sock));

	assert(sock != NULL);
	sock->is_open = true;
	sock->refs = 1;
	return sock;
}

static void sock_release(struct sock *sock)
{
	if (--sock->refs > 0)
		return;
	if (sock->ring != NULL && spare_rings_count < SPARE_RINGS_MAX)
		spare_rings[spare_rings_count++] = sock->ring;
	else
		__real_free(sock->ring);
	__real_free(sock);
}

static void ring_open(struct sock *sock)
{
	sock->ring = spare_rings_count > 0 ? spare_rings[--spare_rings_count]
					   : __real_malloc(RING_BYTES);
	assert(sock->ring != NULL);
}

void sock_put(struct sock *sock, const void *source, size_t bytes)
{
	uint32_t at = (sock->head + sock->used) % RING_BYTES;
	size_t first = RING_BYTES - at < bytes ? RING_BYTES - at : bytes;

	memcpy(sock->ring + at, source, first);
	memcpy(sock->ring, (const uint8_t *)source + first, bytes - first);
	sock->used += (uint32_t)bytes;
}

void sock_take(struct sock *sock, void *target, size_t bytes)
{
	size_t first = RING_BYTES - sock->head < bytes ? RING_BYTES - sock->head : bytes;

	if (target != NULL) {
		memcpy(target, sock->ring + sock->head, first);
		memcpy((uint8_t *)target + first, sock->ring, bytes - first);
	}
	sock->head = (sock->head + (uint32_t)bytes) % RING_BYTES;
	sock->used -= (uint32_t)bytes;
	if (sock->used == 0)
		sock->head = 0;
}

static unsigned room_bytes(void)
{
	return kernel.socket_bytes < RING_BYTES ? kernel.socket_bytes : RING_BYTES;
}

static bool sock_has_room(const struct sock *sock, size_t bytes)
{
	size_t needed = sizeof(struct packet) + bytes;

	return sock->used == 0 || sock->used + needed <= room_bytes();
}

short sock_events(const struct sock *sock)
{
	short events = 0;

	if (sock->is_listening)
		return sock->waiting_count > 0 ? POLLIN : 0;
	if (sock->used > 0 || sock->has_ended)
		events |= POLLIN;
	if (sock->peer == NULL)
		return (short)(events | POLLIN | POLLOUT | POLLHUP);
	if (sock->peer->used * 4 <= room_bytes())
		events |= POLLOUT;
	return events;
}

/* Descriptors that nobody took are closed. */
static void packets_drop(struct sock *sock)
{
	if (sock->is_stream)
		sock->used = sock->head = 0;
	while (sock->used > 0) {
		struct packet packet;

		sock_take(sock, &packet, sizeof(packet));
		sock_take(sock, NULL, packet.bytes);
		for (unsigned i = 0; i < packet.fds_count; i++)
			object_release(packet.objects[i]);
	}
}

void sock_close(struct sock *sock)
{
	sock->is_open = false;
	for (unsigned i = 0; i < LISTENERS_MAX; i++)
		if (listeners[i] == sock)
			listeners[i] = NULL;
	for (unsigned i = 0; i < sock->waiting_count; i++)
		sock_close(sock->waiting[i]);
	sock->waiting_count = 0;
	if (sock->peer != NULL) {
		sock->peer->was_reset = sock->used > 0;
		sock->peer->peer = NULL;
		sock->peer = NULL;
	}
	packets_drop(sock);
	kernel.changes++;
	sock_release(sock);
}

static struct sock *sock_of(int fd)
{
	struct object *object = object_of(fd, OBJECT_SOCKET);

	return object == NULL ? NULL : object->sock;
}

static int sock_fd(struct sock *sock)
{
	struct object *object = object_create(OBJECT_SOCKET);

	object->sock = sock;
	return fd_open(object);
}

int __wrap_socket(int domain, int type, int protocol)
{
	struct sock *sock;

	if (kernel.process == NULL)
		return __real_socket(domain, type, protocol);
	sock = sock_create();
	sock->is_stream = (type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) == SOCK_STREAM;
	sock->is_nonblocking = (type & SOCK_NONBLOCK) != 0;
	return sock_fd(sock);
}

int __wrap_bind(int fd, const struct sockaddr *address, socklen_t bytes)
{
	struct sock *sock;

	if (!fd_is_ours(fd))
		return __real_bind(fd, address, bytes);
	sock = sock_of(fd);
	if (sock == NULL)
		return -1;
	address_name(address, sock->path);
	return 0;
}

int __wrap_listen(int fd, int backlog)
{
	struct sock *sock;
	unsigned place = 0;

	if (!fd_is_ours(fd))
		return __real_listen(fd, backlog);
	sock = sock_of(fd);
	if (sock == NULL)
		return -1;
	sock->is_listening = true;
	sock->backlog = (unsigned)backlog < BACKLOG_MAX ? (unsigned)backlog : BACKLOG_MAX;
	while (place < LISTENERS_MAX && listeners[place] != NULL)
		place++;
	assert(place < LISTENERS_MAX);
	listeners[place] = sock;
	return 0;
}

int __wrap_accept4(int fd, struct sockaddr *out_address, socklen_t *bytes, int flags)
{
	struct sock *sock, *taken;

	if (!fd_is_ours(fd))
		return __real_accept4(fd, out_address, bytes, flags);
	sock = sock_of(fd);
	if (sock == NULL)
		return -1;
	if (sock->waiting_count == 0)
		return fail(EAGAIN);
	taken = sock->waiting[0];
	sock->waiting_count--;
	memmove(sock->waiting, sock->waiting + 1, sock->waiting_count * sizeof(struct sock *));
	taken->is_nonblocking = (flags & SOCK_NONBLOCK) != 0;
	if (sock->is_stream)
		stream_accepted(sock, taken, out_address, bytes);
	kernel.changes++;
	return sock_fd(taken);
}

static struct sock *listener_at(const char *path)
{
	for (unsigned i = 0; i < LISTENERS_MAX; i++)
		if (listeners[i] != NULL &&
		    strncmp(listeners[i]->path, path, SOCKET_PATH_BYTES) == 0)
			return listeners[i];
	return NULL;
}

static bool may_connect(void *owner)
{
	const struct sock *listener = listener_at(owner);

	return listener == NULL || listener->waiting_count < listener->backlog;
}

int __wrap_connect(int fd, const struct sockaddr *address, socklen_t bytes)
{
	char path[SOCKET_PATH_BYTES];
	struct sock *sock, *listener, *other;

	if (!fd_is_ours(fd))
		return __real_connect(fd, address, bytes);
	address_name(address, path);
	sock = sock_of(fd);
	if (sock == NULL)
		return -1;
	if (!task_wait(may_connect, path, sock->send_us == 0 ? NEVER
							     : kernel.now_us + sock->send_us))
		return fail(EAGAIN);
	listener = listener_at(path);
	if (listener == NULL || listener->is_stream != sock->is_stream)
		return fail(ECONNREFUSED);
	other = sock_create();
	other->is_stream = sock->is_stream;
	stream_connected(other);
	ring_open(sock);
	ring_open(other);
	sock->peer = other;
	other->peer = sock;
	listener->waiting[listener->waiting_count++] = other;
	kernel.changes++;
	return 0;
}

int __wrap_setsockopt(int fd, int level, int option, const void *value, socklen_t bytes)
{
	const struct timeval *time = value;
	struct sock *sock;

	if (!fd_is_ours(fd))
		return __real_setsockopt(fd, level, option, value, bytes);
	sock = sock_of(fd);
	if (sock == NULL)
		return -1;
	if (option == SO_RCVTIMEO)
		sock->receive_us = (uint64_t)time->tv_sec * SECOND_US + (uint64_t)time->tv_usec;
	if (option == SO_SNDTIMEO)
		sock->send_us = (uint64_t)time->tv_sec * SECOND_US + (uint64_t)time->tv_usec;
	return 0;
}

int __wrap_getsockopt(int fd, int level, int option, void *out_value, socklen_t *bytes)
{
	if (!fd_is_ours(fd))
		return __real_getsockopt(fd, level, option, out_value, bytes);
	memset(out_value, 0, *bytes);
	return 0;
}

static ssize_t packet_send(int fd, const struct iovec *source, const int *sent_fds,
			   unsigned fds_count)
{
	struct packet packet = { .bytes = (uint32_t)source->iov_len, .fds_count = fds_count };
	struct sock *sock = sock_of(fd);

	if (sock == NULL)
		return -1;
	if (sock->peer == NULL)
		return fail(EPIPE);
	if (sizeof(packet) + source->iov_len > RING_BYTES)
		return fail(EMSGSIZE);
	if (!sock_has_room(sock->peer, source->iov_len))
		return fail(EAGAIN);
	for (unsigned i = 0; i < fds_count; i++) {
		packet.objects[i] = object_at(sent_fds[i]);
		if (packet.objects[i] == NULL)
			return -1;
		packet.objects[i]->refs++;
	}
	sock_put(sock->peer, &packet, sizeof(packet));
	sock_put(sock->peer, source->iov_base, source->iov_len);
	kernel.changes++;
	return (ssize_t)source->iov_len;
}

ssize_t __wrap_send(int fd, const void *source, size_t bytes, int flags)
{
	struct iovec vector = { (void *)(uintptr_t)source, bytes };
	struct sock *sock;
	ssize_t sent;

	if (!fd_is_ours(fd))
		return __real_send(fd, source, bytes, flags);
	sock = sock_of(fd);
	sent = sock != NULL && sock->is_stream ? stream_send(sock, source, bytes)
					       : packet_send(fd, &vector, NULL, 0);
	task_preempt();
	return sent;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
	const struct cmsghdr *control;
	int sent_fds[PACKET_FDS_MAX];
	unsigned count = 0;

	if (!fd_is_ours(fd))
		return __real_sendmsg(fd, message, flags);
	control = message->msg_controllen > 0 ? CMSG_FIRSTHDR(message) : NULL;
	if (control != NULL) {
		count = (unsigned)((control->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		assert(count <= PACKET_FDS_MAX && message->msg_iovlen == 1);
		memcpy(sent_fds, CMSG_DATA(control), count * sizeof(int));
	}
	return packet_send(fd, message->msg_iov, sent_fds, count);
}

static bool has_packet(void *owner)
{
	const struct sock *sock = owner;

	return sock->used > 0 || sock->peer == NULL;
}

/* > 0: the packet's bytes; 0: the peer has closed. */
static ssize_t packet_receive(int fd, struct iovec *target, struct packet *out_packet, int flags)
{
	struct sock *sock = sock_of(fd);
	size_t taken;

	if (sock == NULL)
		return -1;
	if (sock->used == 0 && sock->peer != NULL && (flags & MSG_DONTWAIT) == 0)
		(void)task_wait(has_packet, sock, sock->receive_us == 0
							  ? NEVER
							  : kernel.now_us + sock->receive_us);
	if (sock->used == 0 && sock->peer != NULL)
		return fail(EAGAIN);
	if (sock->used == 0 && sock->was_reset) {
		sock->was_reset = false;
		return fail(ECONNRESET);
	}
	if (sock->used == 0)
		return 0;
	sock_take(sock, out_packet, sizeof(*out_packet));
	taken = out_packet->bytes < target->iov_len ? out_packet->bytes : target->iov_len;
	sock_take(sock, target->iov_base, taken);
	sock_take(sock, NULL, out_packet->bytes - taken);
	kernel.changes++;
	return (ssize_t)out_packet->bytes;
}

ssize_t __wrap_recv(int fd, void *target, size_t bytes, int flags)
{
	struct packet packet = { .bytes = 0 };
	struct iovec vector = { target, bytes };
	struct sock *sock;
	ssize_t received;

	if (!fd_is_ours(fd))
		return __real_recv(fd, target, bytes, flags);
	sock = sock_of(fd);
	if (sock != NULL && sock->is_stream)
		return stream_receive(sock, target, bytes);
	received = packet_receive(fd, &vector, &packet, flags);
	for (unsigned i = 0; i < packet.fds_count; i++)
		object_release(packet.objects[i]);
	if (received > (ssize_t)bytes && (flags & MSG_TRUNC) == 0)
		received = (ssize_t)bytes;
	return received;
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags)
{
	struct packet packet = { .bytes = 0 };
	size_t room = message->msg_controllen;
	ssize_t received;

	if (!fd_is_ours(fd))
		return __real_recvmsg(fd, message, flags);
	received = packet_receive(fd, message->msg_iov, &packet, flags);
	message->msg_flags = 0;
	message->msg_controllen = 0;
	if (received > (ssize_t)message->msg_iov->iov_len)
		message->msg_flags |= MSG_TRUNC;
	if (packet.fds_count > 0 && room >= CMSG_SPACE(packet.fds_count * sizeof(int))) {
		message->msg_controllen = CMSG_SPACE(packet.fds_count * sizeof(int));
		struct cmsghdr *control = CMSG_FIRSTHDR(message);
		control->cmsg_level = SOL_SOCKET;
		control->cmsg_type = SCM_RIGHTS;
		control->cmsg_len = CMSG_LEN(packet.fds_count * sizeof(int));
		for (unsigned i = 0; i < packet.fds_count; i++) {
			int number = fd_open(packet.objects[i]);

			memcpy(CMSG_DATA(control) + i * sizeof(int), &number, sizeof(int));
		}
	} else {
		for (unsigned i = 0; i < packet.fds_count; i++)
			object_release(packet.objects[i]);
	}
	return received;
}
