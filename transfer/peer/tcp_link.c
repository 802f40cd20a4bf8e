/* transfer/peer/tcp_link.c: prefaces, heads and payloads of one connection. */
#include "transfer/peer/tcp_parts.h"

#include "base/crypto.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* Of one link and direction in a pass, so that none starves the others. */
#define STEP_BYTES_MAX (8u << 20)
#define SCRATCH_BYTES (64u << 10)

/* Where what nobody wants is read to. */
static uint8_t scratch[SCRATCH_BYTES];

void tcp_socket_prepare(int fd, uint64_t idle_us)
{
	unsigned timeout_ms = (unsigned)(idle_us / 1000);
	int on = 1;

	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms));
}

void tcp_link_fail(struct transport_link *link, int result, const char *reason)
{
	if (link->state == LINK_CLOSING)
		return;
	link->state = LINK_CLOSING;
	link->result = result;
	snprintf(link->reason, sizeof(link->reason), "%s", reason);
	link->transport->has_dirty = true;
}

static void fail_errno(struct transport_link *link, int result, const char *what)
{
	char reason[TRANSPORT_REASON_BYTES];

	snprintf(reason, sizeof(reason), "%s: %s", what, strerror(-result));
	tcp_link_fail(link, result, reason);
}

void tcp_link_give_back(struct transport_link *link)
{
	struct list_node *node;

	if (link->is_receiving) {
		link->is_receiving = false;
		link->events->arrived(link->owner, link->in_head.head, link->in_head.bytes,
				      link->in_memory, link->result);
	}
	while ((node = list_take_first(&link->sends)) != NULL) {
		struct transport_send *send = list_item(node, struct transport_send, link);

		send->done(send, link->result);
	}
}

bool tcp_link_is_busy(const struct transport_link *link)
{
	return link->state != LINK_JOINED || !list_is_empty(&link->sends) || link->is_receiving ||
	       link->in_head_read > 0;
}

/* ---- prefaces ---- */

static bool preface_write(struct transport_link *link)
{
	const uint8_t *bytes = (const uint8_t *)&link->preface;
	ssize_t sent = send(link->fd, bytes + link->preface_sent,
			    sizeof(link->preface) - link->preface_sent,
			    MSG_DONTWAIT | MSG_NOSIGNAL);

	if (sent < 0 && errno != EAGAIN && errno != EINTR)
		fail_errno(link, -errno, "connecting");
	if (sent <= 0)
		return false;
	link->preface_sent += (uint32_t)sent;
	return true;
}

static bool preface_read(struct transport_link *link)
{
	uint8_t *bytes = (uint8_t *)&link->theirs;
	ssize_t got = recv(link->fd, bytes + link->preface_read,
			   sizeof(link->theirs) - link->preface_read, MSG_DONTWAIT);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (got <= 0) {
		fail_errno(link, got == 0 ? -ECONNRESET : -errno,
			   "the other node does not take the data connection");
		return true;
	}
	link->preface_read += (uint32_t)got;
	if (link->preface_read < sizeof(link->theirs))
		return true;
	if (link->theirs.magic != TCP_MAGIC ||
	    !crypto_equal(link->theirs.token, link->preface.token, TRANSPORT_TOKEN_BYTES))
		tcp_link_fail(link, -EPROTO, "the other node answered with another token");
	return true;
}

static bool joining_step(struct transport_link *link)
{
	bool did_work = false;

	if (link->preface_sent < sizeof(link->preface))
		did_work = preface_write(link);
	if (link->state == LINK_NAMING && link->preface_read < sizeof(link->theirs))
		did_work = preface_read(link) || did_work;
	if (link->state != LINK_CLOSING && link->preface_sent == sizeof(link->preface) &&
	    link->preface_read == sizeof(link->theirs)) {
		link->state = LINK_JOINED;
		link->events->up(link->owner);
		return true;
	}
	return did_work;
}

/* ---- out ---- */

static void head_fill(struct transport_link *link, const struct transport_send *send)
{
	memcpy(link->out_head.head, send->head, TRANSPORT_HEAD_BYTES);
	link->out_head.magic = TCP_MESSAGE_MAGIC;
	link->out_head.bytes = send->bytes;
}

/* What is left of head and payload, in one call. */
static ssize_t message_write(struct transport_link *link, const struct transport_send *send)
{
	uint32_t head_bytes = sizeof(link->out_head);
	uint32_t of_payload = link->out_sent > head_bytes ? link->out_sent - head_bytes : 0;
	struct iovec parts[2];
	struct msghdr message = { .msg_iov = parts };

	if (link->out_sent < head_bytes)
		parts[message.msg_iovlen++] = (struct iovec){
			.iov_base = (uint8_t *)&link->out_head + link->out_sent,
			.iov_len = head_bytes - link->out_sent,
		};
	if (of_payload < send->bytes)
		parts[message.msg_iovlen++] = (struct iovec){
			.iov_base = (uint8_t *)(uintptr_t)send->payload + of_payload,
			.iov_len = send->bytes - of_payload,
		};
	return sendmsg(link->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static bool out_step(struct transport_link *link)
{
	uint64_t moved = 0;
	struct list_node *node;

	while (link->state == LINK_JOINED && moved < STEP_BYTES_MAX &&
	       (node = list_first(&link->sends)) != NULL) {
		struct transport_send *first = list_item(node, struct transport_send, link);

		if (link->out_sent == 0)
			head_fill(link, first);
		ssize_t written = message_write(link, first);
		if (written < 0) {
			if (errno != EAGAIN && errno != EINTR)
				fail_errno(link, -errno, "sending");
			break;
		}
		link->out_sent += (uint32_t)written;
		moved += (uint64_t)written;
		if (link->out_sent < sizeof(link->out_head) + first->bytes)
			continue;
		link->out_sent = 0;
		(void)list_take_first(&link->sends);
		first->done(first, 0);
	}
	if (moved >= STEP_BYTES_MAX)
		link->transport->has_dirty = true;
	return moved > 0;
}

/* ---- in ---- */

/* A head is whole. */
static void head_take(struct transport_link *link)
{
	const struct tcp_head *head = &link->in_head;

	link->in_head = link->next_head;
	link->in_head_read = 0;
	if (head->magic != TCP_MESSAGE_MAGIC || head->bytes > TRANSPORT_PAYLOAD_MAX) {
		tcp_link_fail(link, -EPROTO, "the other node sends what is no message");
		return;
	}
	link->in_read = 0;
	link->in_memory = link->events->arriving(link->owner, head->head, head->bytes);
	link->is_receiving = true;
}

static void payload_end(struct transport_link *link)
{
	struct tcp_head head = link->in_head;   /* the callback may close the link */

	if (!link->is_receiving || link->in_read < head.bytes)
		return;
	link->is_receiving = false;
	link->events->arrived(link->owner, head.head, head.bytes, link->in_memory, 0);
}

/* The rest of the payload, and the next head behind it, in one call. */
static ssize_t in_read(struct transport_link *link, uint32_t *out_payload)
{
	uint32_t left = link->is_receiving ? link->in_head.bytes - link->in_read : 0;
	struct iovec parts[2];
	struct msghdr message = { .msg_iov = parts };

	/* Into scratch memory goes no more than it holds, so no head may follow then. */
	if (link->in_memory == NULL && left > SCRATCH_BYTES)
		left = SCRATCH_BYTES;
	*out_payload = left;
	if (left > 0)
		parts[message.msg_iovlen++] = (struct iovec){
			.iov_base = link->in_memory != NULL ? link->in_memory + link->in_read
							    : scratch,
			.iov_len = left,
		};
	if (!link->is_receiving || link->in_memory != NULL)
		parts[message.msg_iovlen++] = (struct iovec){
			.iov_base = (uint8_t *)&link->next_head + link->in_head_read,
			.iov_len = sizeof(link->next_head) - link->in_head_read,
		};
	return recvmsg(link->fd, &message, MSG_DONTWAIT);
}

static bool in_step(struct transport_link *link)
{
	uint64_t moved = 0;

	while (link->state == LINK_JOINED && moved < STEP_BYTES_MAX) {
		uint32_t of_payload;
		ssize_t got = in_read(link, &of_payload);

		if (got < 0 && (errno == EAGAIN || errno == EINTR))
			return moved > 0;
		if (got <= 0) {
			fail_errno(link, got == 0 ? -ECONNRESET : -errno, "receiving");
			return true;
		}
		moved += (uint64_t)got;
		of_payload = (uint32_t)got < of_payload ? (uint32_t)got : of_payload;
		link->in_read += of_payload;
		link->in_head_read += (uint32_t)got - of_payload;
		payload_end(link);
		if (link->state == LINK_JOINED && link->in_head_read == sizeof(link->in_head))
			head_take(link);
		payload_end(link);   /* of an empty one */
	}
	if (link->state == LINK_JOINED)
		link->transport->has_dirty = true;
	return true;
}

bool tcp_link_step(struct transport_link *link, uint64_t now_us)
{
	bool was_busy = tcp_link_is_busy(link), did_work = false;

	if (link->state == LINK_NAMING || link->state == LINK_ANSWERING)
		did_work = joining_step(link);
	if (link->state == LINK_JOINED) {
		did_work = in_step(link) || did_work;
		did_work = out_step(link) || did_work;
	}
	if (did_work || !was_busy)
		link->moved_us = now_us;
	return did_work;
}
