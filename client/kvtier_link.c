/* client/kvtier_link.c: one connection to the daemon: frames out, frames in, within a deadline. */
#include "base/clock.h"
#include "client/client.h"
#include "proto/frames_peers.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define RECEIVE_SLACK_US 1000u
#define RECEIVE_EARLY_US 20000u   /* two ticks of the slowest usual kernel */

uint64_t client_now_us(void)
{
	return clock_now_us(clock_real());
}

uint64_t client_deadline_us(uint64_t wait_us)
{
	return client_now_us() + (wait_us < CLIENT_WAIT_US_MAX ? wait_us : CLIENT_WAIT_US_MAX);
}

int link_init(struct link *link, int stop_fd)
{
	atomic_init(&link->fd, -1);
	link->stop_fd = stop_fd;
	link->incoming = aligned_alloc(64, FRAME_BYTES_MAX);
	link->outgoing = aligned_alloc(64, FRAME_BYTES_MAX);
	return link->incoming != NULL && link->outgoing != NULL ? 0 : -ENOMEM;
}

void link_finish(struct link *link)
{
	if (link->incoming != NULL)
		link_close(link);
	free(link->incoming);
	free(link->outgoing);
	link->incoming = link->outgoing = NULL;
}

void link_close(struct link *link)
{
	/* First out of sight, then closed: a forked child must never close a number that was given
	 * out again. */
	int fd = atomic_exchange(&link->fd, -1);

	if (fd >= 0)
		close(fd);
	link->is_broken = true;
	link->receive_us = 0;
	link->boot_id = 0;
}

static int link_break(struct link *link, struct error *error, int code, const char *what)
{
	link->is_broken = true;
	return error_set(error, code, "the connection to the daemon: %s (%s)", what,
			 strerror(-code));
}

/* 0: `events` are there; -ETIMEDOUT; -ECANCELED: the client is being closed. */
static int link_wait(struct link *link, short events, uint64_t deadline_us)
{
	struct pollfd fds[2] = {
		{ .fd = atomic_load(&link->fd), .events = events },
		{ .fd = link->stop_fd, .events = POLLIN },
	};

	for (;;) {
		uint64_t now_us = client_now_us();
		uint64_t left_us = deadline_us > now_us ? deadline_us - now_us : 0;
		struct timespec left = { .tv_sec = left_us / 1000000,
					 .tv_nsec = left_us % 1000000 * 1000 };
		int count = ppoll(fds, link->stop_fd >= 0 ? 2 : 1, &left, NULL);

		if (count < 0 && errno != EINTR)
			return -errno;
		if (count > 0 && fds[1].revents != 0)
			return -ECANCELED;
		if (count > 0)
			return 0;
#ifndef KVTIER_PLANT_DEADLINE
		if (count == 0 && left_us == 0)
			return -ETIMEDOUT;
#endif
	}
}

/*
 * The same for POLLIN where nobody can ask us to stop: the wait is the receive's own, which saves
 * a system call of every lookup. The kernel rounds a socket's time-out up to its ticks, so it ends
 * RECEIVE_EARLY_US before the deadline and poll, which is exact, waits for the rest. It is set anew
 * only when it is off by more than RECEIVE_SLACK_US, as callers use the same bound again and again.
 */
static int link_wait_in_receive(struct link *link, uint64_t deadline_us)
{
	uint64_t now_us = client_now_us();
	uint64_t left_us = deadline_us > now_us ? deadline_us - now_us : 0;

	if (left_us < 2 * RECEIVE_EARLY_US)
		return link_wait(link, POLLIN, deadline_us);
	left_us -= RECEIVE_EARLY_US;
	if (link->receive_us == 0 || link->receive_us > left_us + RECEIVE_SLACK_US ||
	    link->receive_us + RECEIVE_SLACK_US < left_us) {
		struct timeval timeout = { .tv_sec = (time_t)(left_us / 1000000),
					   .tv_usec = (suseconds_t)(left_us % 1000000) };

		if (setsockopt(atomic_load(&link->fd), SOL_SOCKET, SO_RCVTIMEO, &timeout,
			       sizeof(timeout)) < 0)
			return link_wait(link, POLLIN, deadline_us);
		link->receive_us = left_us;
	}
	link->is_blocking = true;
	return 0;
}

int link_try_send(struct link *link, const void *frame)
{
	const struct frame_header *header = frame;
	ssize_t sent;

	if (link->is_broken)
		return -ENOTCONN;
	do {
		sent = send(atomic_load(&link->fd), frame, header->bytes,
			    MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	if (sent == (ssize_t)header->bytes)
		return 0;
	if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS))
		return -EAGAIN;
	link->is_broken = true;
	return sent < 0 ? -errno : -EPROTO;
}

int link_send_fds(struct link *link, const void *frame, const int *fds, unsigned fds_count)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE((1 + LEND_FDS_MAX) * sizeof(int))];
	} control = { .bytes = { 0 } };
	const struct frame_header *header = frame;
	struct iovec iovec = { (void *)(uintptr_t)frame, header->bytes };
	struct msghdr message = { .msg_iov = &iovec,
				  .msg_iovlen = 1,
				  .msg_control = control.bytes,
				  .msg_controllen = CMSG_SPACE(fds_count * sizeof(int)) };
	ssize_t sent;

	assert(fds_count > 0 && fds_count <= 1 + LEND_FDS_MAX);
	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(fds_count * sizeof(int));
	memcpy(CMSG_DATA(&control.header), fds, fds_count * sizeof(int));
	do {
		sent = sendmsg(atomic_load(&link->fd), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	if (sent == (ssize_t)header->bytes)
		return 0;
	link->is_broken = true;
	return sent < 0 ? -errno : -EPROTO;
}

int link_send(struct link *link, const void *frame, uint64_t deadline_us)
{
	for (;;) {
		int result = link_try_send(link, frame);

		if (result != -EAGAIN)
			return result;
		result = link_wait(link, POLLOUT, deadline_us);
		if (result == -ETIMEDOUT)
			link->heard = LINK_SILENT;
		if (result < 0)
			return result;
	}
}

/* Takes the descriptors of a message; what is too many is closed. */
static void link_take_fds(struct msghdr *message, int out_fds[2])
{
	unsigned count = 0;

	for (struct cmsghdr *control = CMSG_FIRSTHDR(message); control != NULL;
	     control = CMSG_NXTHDR(message, control)) {
		size_t fds_count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < fds_count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(control) + i * sizeof(int), sizeof(int));
			if (count < 2)
				out_fds[count++] = fd;
			else
				close(fd);
		}
	}
}

static ssize_t link_receive_packet(struct link *link, int out_fds[2])
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(4 * sizeof(int))];
	} control;
	struct iovec iovec = { link->incoming, FRAME_BYTES_MAX };
	struct msghdr message = { .msg_iov = &iovec, .msg_iovlen = 1 };
	int flags = (link->is_blocking ? 0 : MSG_DONTWAIT) | MSG_TRUNC | MSG_CMSG_CLOEXEC;
	ssize_t bytes;

	/* Without room for descriptors the kernel drops those that come. */
	if (out_fds == NULL)
		return recv(atomic_load(&link->fd), link->incoming, FRAME_BYTES_MAX, flags);
	message.msg_control = control.bytes;
	message.msg_controllen = sizeof(control.bytes);
	bytes = recvmsg(atomic_load(&link->fd), &message, flags);
	if (bytes >= 0)
		link_take_fds(&message, out_fds);
	return bytes;
}

int link_try_receive(struct link *link, int out_fds[2], struct error *error)
{
	const struct frame_header *header = (const struct frame_header *)link->incoming;
	ssize_t bytes;

	if (out_fds != NULL)
		out_fds[0] = out_fds[1] = -1;
	if (link->is_broken)
		return error_set(error, -ENOTCONN, "not connected");
	do {
		bytes = link_receive_packet(link, out_fds);
	} while (bytes < 0 && errno == EINTR);
	if (bytes < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return -EAGAIN;
	if (bytes < 0)
		return link_break(link, error, -errno, "receive failed");
	if (bytes == 0)
		return link_break(link, error, -ECONNRESET, "the daemon closed it");
	if (frame_check(link->incoming, (size_t)bytes, true, error) < 0) {
		link->is_broken = true;
		return -EPROTO;
	}
	if (link->boot_id != 0 && header->boot_id != link->boot_id)
		return link_break(link, error, -ECONNRESET, "the daemon was restarted");
	return 0;
}

/* What a FRAME_ERROR says. */
static int link_error(struct link *link, struct error *error)
{
	const struct frame_header *header = (const struct frame_header *)link->incoming;
	int code = header->result < 0 && header->result > -4096 ? header->result : -EPROTO;

	if (header->request == 0)
		link->is_broken = true;
	return error_set(error, code, "%.*s", (int)(header->bytes - sizeof(*header)),
			 (const char *)(header + 1));
}

/* A late answer: its asker has given up, so nobody else gives back what it granted. Where there is
 * no room now, the daemon takes the lease back at its deadline. */
static void link_drop(struct link *link, int out_fds[2])
{
	const struct frame_header *header = (const struct frame_header *)link->incoming;
	struct frame_lease_release frame = { .lease = 0 };

	if (header->type == FRAME_FOUND)
		frame.lease = ((const struct frame_found *)header)->lease;
	if (header->type == FRAME_HINT_REPLY)
		frame.lease = ((const struct frame_hint_reply *)header)->lease;
	if (frame.lease != 0 && header->result >= 0) {
		frame_start(&frame.header, FRAME_LEASE_RELEASE, sizeof(frame), header->request,
			    link->boot_id);
		(void)!link_try_send(link, &frame);
	}
	if (header->type == FRAME_FETCHING && header->result >= 0) {
		struct frame_fetch_end end = {
			.fetch = ((const struct frame_fetching *)header)->fetch,
		};

		frame_start(&end.header, FRAME_FETCH_END, sizeof(end), header->request,
			    link->boot_id);
		(void)!link_try_send(link, &end);
	}
	for (unsigned i = 0; out_fds != NULL && i < 2; i++) {
		if (out_fds[i] >= 0)
			close(out_fds[i]);
		out_fds[i] = -1;
	}
}

int link_await(struct link *link, enum frame_type type, uint64_t deadline_us, int out_fds[2],
	       struct error *error)
{
	const struct frame_header *header = (const struct frame_header *)link->incoming;

	for (;;) {
		int result = link->stop_fd < 0 ? link_wait_in_receive(link, deadline_us)
					       : link_wait(link, POLLIN, deadline_us);

		if (result == -ETIMEDOUT) {
			link->heard = LINK_SILENT;
			return error_set(error, result, "the daemon did not answer in time");
		}
		if (result < 0)
			return link_break(link, error, result, "waiting for an answer");
		result = link_try_receive(link, out_fds, error);
		link->is_blocking = false;
		if (result == -EAGAIN)
			continue;
		if (result < 0)
			return result;
		if (header->request >= link->request || header->request == 0)
			link->heard = LINK_ANSWERED;
		if (header->type == FRAME_ERROR &&
		    (header->request == 0 || header->request == link->request))
			return link_error(link, error);
		if (header->request == link->request && header->type == type)
			return header->result >= 0
				       ? 0
				       : error_set(error,
						   header->result > -4096 ? header->result
									  : -EPROTO,
						   "the daemon answered %s",
						   strerror(-header->result));
		if (header->request >= link->request)
			return link_break(link, error, -EPROTO, "an answer that nobody asked for");
		link_drop(link, out_fds);
	}
}

int link_ask_fds(struct link *link, void *frame, enum frame_type type, uint64_t deadline_us,
		 int out_fds[2], struct error *error)
{
	struct frame_header *header = frame;
	int result;

	header->request = ++link->request;
	header->boot_id = link->boot_id;
	result = link_send(link, frame, deadline_us);
	if (result == -ETIMEDOUT)
		return error_set(error, result, "the daemon does not read its connection");
	if (result < 0)
		return link_break(link, error, result, "sending");
	return link_await(link, type, deadline_us, out_fds, error);
}

int link_ask(struct link *link, void *frame, enum frame_type type, uint64_t deadline_us,
	     struct error *error)
{
	return link_ask_fds(link, frame, type, deadline_us, NULL, error);
}

/* Why connect() failed. EAGAIN: the backlog stayed full until the deadline. */
static int connect_error(const char *path, int code, uint64_t left_us, struct error *error)
{
	switch (code) {
	case ENOENT:
		return error_set(error, -code, "there is no socket at %s", path);
	case ECONNREFUSED:
		return error_set(error, -code, "nobody listens at %s", path);
	case EACCES:
		return error_set(error, -code, "this user may not connect to %s", path);
	case EPROTOTYPE:
		return error_set(error, -code, "%s is another program's socket", path);
	case EAGAIN:
		return error_set(error, -ETIMEDOUT, "%s took no connection within %llu ms", path,
				 (unsigned long long)left_us / 1000);
	default:
		return error_set(error, -code, "cannot connect to %s: %s", path, strerror(code));
	}
}

static int link_connect(struct link *link, const char *path, uint64_t deadline_us,
			struct error *error)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	uint64_t now_us = client_now_us();
	uint64_t left_us = deadline_us > now_us ? deadline_us - now_us : 1;
	struct timeval left = { .tv_sec = left_us / 1000000, .tv_usec = left_us % 1000000 };
	int fd, result;

	if (strlen(path) >= sizeof(address.sun_path))
		return error_set(error, -EINVAL, "the socket's path is longer than %zu bytes: %s",
				 sizeof(address.sun_path) - 1, path);
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_set(error, -errno, "socket: %s", strerror(errno));
	/* Bounds connect() where the daemon's backlog is full; everything later uses MSG_DONTWAIT.
	 */
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &left, sizeof(left));
	do {
		result = connect(fd, (struct sockaddr *)&address, sizeof(address));
	} while (result < 0 && errno == EINTR && client_now_us() < deadline_us);
	if (result < 0) {
		if (errno == EAGAIN)
			link->heard = LINK_SILENT;
		result = connect_error(path, errno, left_us, error);
		close(fd);
		return result;
	}
	link->is_broken = false;
	link->boot_id = 0;
	atomic_store(&link->fd, fd);
	return 0;
}

int link_open(struct link *link, const char *path, enum frame_connection connection,
	      uint64_t deadline_us, struct error *error)
{
	struct frame_hello hello;
	const struct frame_hello_reply *reply = (const struct frame_hello_reply *)link->incoming;
	uint64_t began_us = client_now_us();
	int result = link_connect(link, path, deadline_us, error);

	if (result < 0)
		return result;
	memset(&hello, 0, sizeof(hello));
	frame_start(&hello.header, FRAME_HELLO, sizeof(hello), 0, 0);
	hello.version_min = FRAME_VERSION_MIN;
	hello.version_max = FRAME_VERSION_MAX;
	hello.pid = (uint32_t)getpid();
	hello.connection = connection;
	result = link_ask(link, &hello, FRAME_HELLO_REPLY, deadline_us, error);
	if (result == -ETIMEDOUT)
		error_set(error, result, "the daemon at %s did not answer within %llu ms", path,
			  (unsigned long long)(client_now_us() - began_us) / 1000);
	if (result == 0 &&
	    (reply->version < FRAME_VERSION_MIN || reply->version > FRAME_VERSION_MAX))
		result = error_set(
			error, -EPROTO,
			"the daemon speaks version %u of the protocol, this library %u to %u",
			reply->version, FRAME_VERSION_MIN, FRAME_VERSION_MAX);
	if (result == 0 && reply->header.boot_id == 0)
		result = error_set(error, -EPROTO, "the daemon gave no boot id");
	if (result < 0) {
		link_close(link);
		return result;
	}
	link->boot_id = reply->header.boot_id;
	link->features = reply->features;
	return 0;
}
