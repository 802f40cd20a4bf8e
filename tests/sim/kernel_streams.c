/* tests/sim/kernel_streams.c: SOCK_STREAM between processes, by a path or by TCP: bytes, as many as
 * there is room for. */
#include "tests/sim/kernel_fds.h"
#include "tests/sim/kernel_wraps.h"

#include <arpa/inet.h>
#include <assert.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

void address_name(const struct sockaddr *address, char *name)
{
	const struct sockaddr_in *four = (const struct sockaddr_in *)address;

	if (address->sa_family == AF_UNIX)
		memcpy(name, ((const struct sockaddr_un *)address)->sun_path, SOCKET_PATH_BYTES);
	else
		snprintf(name, SOCKET_PATH_BYTES, "tcp:%u", ntohs(four->sin_port));
}

/* Each process has an address of its own; those of even number are this machine's. */
static in_addr_t address_of(const struct process *process)
{
	unsigned number = (unsigned)(process - kernel.processes);

	return htonl(number % 2 == 0 ? INADDR_LOOPBACK : (10u << 24) + number);
}

void stream_connected(struct sock *sock)
{
	sock->from = address_of(kernel.process);
}

void stream_accepted(const struct sock *listener, const struct sock *sock,
		     struct sockaddr *out_address, socklen_t *bytes)
{
	struct sockaddr_in four = { .sin_family = AF_INET, .sin_addr.s_addr = sock->from };

	if (out_address == NULL)
		return;
	if (strncmp(listener->path, "tcp:", 4) != 0)
		four = (struct sockaddr_in){ .sin_family = AF_UNIX };
	assert(*bytes >= sizeof(four));
	memcpy(out_address, &four, sizeof(four));
	*bytes = sizeof(four);
}

static size_t room_of(const struct sock *sock)
{
	size_t room = kernel.socket_bytes < RING_BYTES ? kernel.socket_bytes : RING_BYTES;

	return sock->used < room ? room - sock->used : 0;
}

static bool may_send(void *owner)
{
	const struct sock *sock = owner;

	return sock->peer == NULL || room_of(sock->peer) > 0;
}

ssize_t stream_send(struct sock *sock, const void *source, size_t bytes)
{
	size_t room;

	if (!sock->is_nonblocking)
		(void)task_wait(may_send, sock,
				sock->send_us == 0 ? NEVER : kernel.now_us + sock->send_us);
	if (sock->peer == NULL || sock->peer->has_ended)
		return fail(EPIPE);
	room = room_of(sock->peer);
	if (room == 0)
		return fail(EAGAIN);
	bytes = bytes < room ? bytes : room;
	sock_put(sock->peer, source, bytes);
	kernel.changes++;
	return (ssize_t)bytes;
}

static bool may_receive(void *owner)
{
	const struct sock *sock = owner;

	return sock->used > 0 || sock->peer == NULL || sock->has_ended;
}

ssize_t stream_receive(struct sock *sock, void *target, size_t bytes)
{
	if (!sock->is_nonblocking)
		(void)task_wait(may_receive, sock,
				sock->receive_us == 0 ? NEVER : kernel.now_us + sock->receive_us);
	if (!may_receive(sock))
		return fail(EAGAIN);
	if (sock->used == 0 && sock->was_reset) {
		sock->was_reset = false;
		return fail(ECONNRESET);
	}
	bytes = bytes < sock->used ? bytes : sock->used;
	sock_take(sock, target, bytes);
	kernel.changes++;
	return (ssize_t)bytes;
}

int __wrap_shutdown(int fd, int how)
{
	struct object *object;

	if (!fd_is_ours(fd))
		return __real_shutdown(fd, how);
	object = object_of(fd, OBJECT_SOCKET);
	if (object == NULL)
		return -1;
	assert(how == SHUT_WR);
	if (object->sock->peer == NULL)
		return fail(ENOTCONN);
	object->sock->peer->has_ended = true;
	kernel.changes++;
	return 0;
}

int __wrap_getsockname(int fd, struct sockaddr *out_address, socklen_t *bytes)
{
	struct sockaddr_in four = { .sin_family = AF_INET };
	struct object *object;
	unsigned port = 0;

	if (!fd_is_ours(fd))
		return __real_getsockname(fd, out_address, bytes);
	object = object_of(fd, OBJECT_SOCKET);
	if (object == NULL)
		return -1;
	(void)sscanf(object->sock->path, "tcp:%u", &port);
	four.sin_port = htons((uint16_t)port);
	assert(*bytes >= sizeof(four));
	memcpy(out_address, &four, sizeof(four));
	return 0;
}
