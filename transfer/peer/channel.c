/* transfer/peer/channel.c: the handshake, and frames in and out. */
#include "transfer/peer/channel_parts.h"

#include "base/crypto.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define READS_A_STEP 16u
#define LEAVE_US UINT64_C(200000) /* for the last frame to go */

/* ---- a plain socket ---- */

static ssize_t plain_read(struct channel *channel, void *target, size_t bytes)
{
	ssize_t result = recv(channel->fd, target, bytes, MSG_DONTWAIT);

	return result < 0 ? (errno == EINTR ? -EAGAIN : -errno) : result;
}

static ssize_t plain_write(struct channel *channel, const void *source, size_t bytes)
{
	ssize_t result = send(channel->fd, source, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);

	return result < 0 ? (errno == EINTR ? -EAGAIN : -errno) : result;
}

static int plain_handshake(struct channel *channel, struct error *error)
{
	(void)channel;
	(void)error;
	return 1;
}

static void plain_exporter(const struct channel *channel, uint8_t out_bytes[CHANNEL_EXPORTER_BYTES])
{
	(void)channel;
	memset(out_bytes, 0, CHANNEL_EXPORTER_BYTES);
}

static void plain_destroy(struct channel *channel)
{
	(void)channel;
}

const struct channel_io channel_io_plain = {
	.read = plain_read,
	.write = plain_write,
	.handshake = plain_handshake,
	.exporter = plain_exporter,
	.destroy = plain_destroy,
};

/* ---- the end ---- */

static void leave(struct channel *channel, int result, const char *reason)
{
	if (channel->state >= CHANNEL_LEAVING)
		return;
	channel->state = CHANNEL_LEAVING;
	channel->result = result;
	snprintf(channel->reason, sizeof(channel->reason), "%s", reason);
	channel->began_us = clock_now_us(channel->config.clock);
	channel->out_begin = channel->out_end = 0;
}

/* The connection is broken: nothing more can be said. */
static void broken(struct channel *channel, int result, const char *what)
{
	char reason[CHANNEL_REASON_BYTES];

	snprintf(reason, sizeof(reason), "%s: %s", what,
		 channel->fault[0] != 0 ? channel->fault : strerror(-result));
	leave(channel, result, reason);
}

/* ---- bytes ---- */

static uint32_t out_room(const struct channel *channel)
{
	return CHANNEL_OUT_BYTES - channel->out_end;
}

bool channel_put(struct channel *channel, const void *frame)
{
	const struct peer_frame_header *header = frame;

	if (header->bytes > out_room(channel) && channel->out_begin > 0) {
		memmove(channel->out, channel->out + channel->out_begin,
			channel->out_end - channel->out_begin);
		channel->out_end -= channel->out_begin;
		channel->out_begin = 0;
	}
	if (header->bytes > out_room(channel))
		return false;
	memcpy(channel->out + channel->out_end, frame, header->bytes);
	channel->out_end += header->bytes;
	return true;
}

static bool out_step(struct channel *channel)
{
	bool did_work = false;

	channel->is_hungry = false;
	while (channel->out_begin < channel->out_end) {
		ssize_t written = channel->io->write(channel, channel->out + channel->out_begin,
						     channel->out_end - channel->out_begin);

		if (written == -EAGAIN)
			return did_work;
		if (written <= 0) {
			channel->out_begin = channel->out_end;
			broken(channel, written < 0 ? (int)written : -EPIPE, "writing");
			return true;
		}
		channel->out_begin += (uint32_t)written;
		did_work = true;
	}
	channel->out_begin = channel->out_end = 0;
	return did_work;
}

/* The reason goes as the last frame, in front of nothing else. */
void channel_refuse(struct channel *channel, int result, const char *reason)
{
	struct {
		struct peer_refused refused;
		char text[CHANNEL_REASON_BYTES];
	} out;
	size_t bytes = strnlen(reason, sizeof(out.text));
	bool may_speak = channel->state >= CHANNEL_GREETING && channel->state <= CHANNEL_UP;
	/* A frame that is half written cannot be taken back. */
	bool is_between = channel->out_begin == 0;

	if (channel->state >= CHANNEL_LEAVING)
		return;
	peer_frame_start(&out.refused.header, PEER_REFUSED,
			 (uint32_t)(sizeof(out.refused) + bytes), 0);
	out.refused.header.result = result;
	memcpy(out.text, reason, bytes);
	leave(channel, result, reason);
	if (may_speak && is_between)
		(void)channel_put(channel, &out);
}

static void refused_take(struct channel *channel, const struct peer_frame_header *header)
{
	char reason[CHANNEL_REASON_BYTES];
	size_t bytes;
	const char *text = peer_frame_text(header, &bytes);

	/* Their words are for people: no control characters. */
	snprintf(reason, sizeof(reason), "refused by the other node: %.*s", (int)bytes, text);
	for (char *letter = reason; *letter != 0; letter++)
		if ((unsigned char)*letter < ' ' || (unsigned char)*letter > '~')
			*letter = '?';
	leave(channel, header->result, reason);
}

/* ---- frames ---- */

static void pong_take(struct channel *channel, const struct peer_frame_header *header)
{
	if (header->number == channel->pings && channel->pings > 0)
		channel->round_trip_us = clock_now_us(channel->config.clock) - channel->pinged_us;
}

static void pong_say(struct channel *channel, const struct peer_frame_header *ping)
{
	struct peer_frame_header pong;

	peer_frame_start(&pong, PEER_PONG, sizeof(pong), ping->number);
	(void)channel_put(channel, &pong);   /* full: they hear that in our other frames */
}

static void frame_take(struct channel *channel, const struct peer_frame_header *header)
{
	if (header->type == PEER_REFUSED) {
		refused_take(channel, header);
	} else if (channel->state == CHANNEL_GREETING && header->type == PEER_HELLO) {
		channel_hello_take(channel, (const struct peer_hello *)header);
	} else if (channel->state == CHANNEL_PROVING && header->type == PEER_PROOF) {
		channel_proof_take(channel, (const struct peer_proof *)header);
	} else if (channel->state != CHANNEL_UP || header->type == PEER_HELLO ||
		   header->type == PEER_PROOF) {
		channel_refuse(channel, -EPROTO, "a frame that does not belong there");
	} else if (header->type == PEER_PING) {
		pong_say(channel, header);
	} else if (header->type == PEER_PONG) {
		pong_take(channel, header);
	} else {
		channel->config.frame(channel->config.owner, header);
	}
}

/* All whole frames that have come. */
static void frames_take(struct channel *channel)
{
	uint8_t frame[PEER_FRAME_BYTES_MAX] __attribute__((aligned(8)));
	uint32_t at = 0;
	struct error error;

	while (channel->state < CHANNEL_LEAVING && at < channel->in_bytes) {
		uint32_t left = channel->in_bytes - at;

		/* Frames of any length follow each other: each is read where it is aligned. */
		memcpy(frame, channel->in + at, left < sizeof(frame) ? left : sizeof(frame));
		int bytes = peer_frame_check(frame, left < sizeof(frame) ? left : sizeof(frame),
					     &error);
		if (bytes < 0)
			channel_refuse(channel, -EPROTO, error.text);
		if (bytes <= 0)
			break;
		frame_take(channel, (const struct peer_frame_header *)frame);
		at += (uint32_t)bytes;
	}
	memmove(channel->in, channel->in + at, channel->in_bytes - at);
	channel->in_bytes -= at;
}

static bool in_step(struct channel *channel)
{
	for (unsigned i = 0; i < READS_A_STEP; i++) {
		if (channel->state < CHANNEL_GREETING || channel->state > CHANNEL_UP)
			return true;
		ssize_t bytes = channel->io->read(channel, channel->in + channel->in_bytes,
						  sizeof(channel->in) - channel->in_bytes);
		if (bytes == -EAGAIN)
			return i > 0;
		if (bytes <= 0) {
			broken(channel, bytes == 0 ? -ECONNRESET : (int)bytes, "reading");
			return true;
		}
		channel->in_bytes += (uint32_t)bytes;
		channel->heard_us = clock_now_us(channel->config.clock);
		frames_take(channel);
	}
	return true;
}

/* ---- life ---- */

static void socket_prepare(int fd, uint64_t silence_us)
{
	unsigned timeout_ms = (unsigned)(silence_us / 1000);
	int on = 1;

	/* Not a TCP socket in some tests: then there is nothing to prepare. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms));
}

int channel_create(struct channel **out_channel, int fd, const struct channel_config *config,
		   struct error *error)
{
	struct channel *channel = calloc(1, sizeof(*channel));
	int result = 0;

	assert(config->secrets_count >= 1 && config->secrets_count <= CHANNEL_SECRETS_MAX);
	if (channel == NULL) {
		close(fd);
		return error_set(error, -ENOMEM, "no memory for a connection to a peer");
	}
	channel->config = *config;
	channel->ours = *config->hello;
	channel->config.hello = NULL;
	memcpy(channel->secrets, config->secrets, config->secrets_count * CHANNEL_SECRET_BYTES);
	channel->config.secrets = NULL;
	channel->fd = fd;
	channel->io = config->tls != NULL ? &channel_io_tls : &channel_io_plain;
	channel->began_us = channel->heard_us = clock_now_us(config->clock);
	socket_prepare(fd, config->silence_us);
	if (config->tls != NULL)
		result = channel_tls_begin(channel, error);
	if (result < 0) {
		channel_destroy(channel);
		return result;
	}
	*out_channel = channel;
	return 0;
}

void channel_destroy(struct channel *channel)
{
	if (channel == NULL)
		return;
	channel->io->destroy(channel);
	close(channel->fd);
	crypto_wipe(channel, sizeof(*channel));
	free(channel);
}

int channel_fd(const struct channel *channel)
{
	return channel->fd;
}

short channel_events(const struct channel *channel)
{
	bool wants_out = channel->out_begin < channel->out_end || channel->is_hungry ||
			 (channel->state == CHANNEL_CONNECTING && channel->config.is_connecting);

	return (short)(POLLIN | (wants_out ? POLLOUT : 0));
}

/* TCP is there, TLS too where it is wanted: HELLO. */
static bool connecting_step(struct channel *channel)
{
	struct pollfd poll_fd = { .fd = channel->fd, .events = POLLOUT };
	int code = 0;
	socklen_t bytes = sizeof(code);
	struct error error;

	if (poll(&poll_fd, 1, 0) <= 0)
		return false;
	if (getsockopt(channel->fd, SOL_SOCKET, SO_ERROR, &code, &bytes) < 0)
		code = errno;
	if (code != 0) {
		broken(channel, -code, "connecting");
		return true;
	}
	int result = channel->io->handshake(channel, &error);
	if (result < 0)
		leave(channel, result, error.text);
	else if (result > 0)
		channel_hello_say(channel);
	return result != 0;
}

static bool ping_step(struct channel *channel, uint64_t now_us)
{
	struct peer_frame_header ping;

	if (channel->state != CHANNEL_UP || now_us < channel->pinged_us + channel->config.ping_us)
		return false;
	peer_frame_start(&ping, PEER_PING, sizeof(ping), channel->pings + 1);
	channel->pinged_us = now_us;
	if (channel_put(channel, &ping))
		channel->pings++;
	return true;
}

static void times_check(struct channel *channel, uint64_t now_us)
{
	if (channel->state < CHANNEL_UP &&
	    now_us >= channel->began_us + channel->config.handshake_us)
		channel_refuse(channel, -ETIMEDOUT, channel->state == CHANNEL_CONNECTING
						    ? "no connection within the time for it"
						    : "the handshake was not done in time");
	else if (channel->state == CHANNEL_UP &&
		 now_us >= channel->heard_us + channel->config.silence_us)
		channel_refuse(channel, -ETIMEDOUT, "nothing was heard of the other node any more");
}

bool channel_step(struct channel *channel, uint64_t now_us)
{
	bool did_work = false;

	if (channel->state == CHANNEL_DOWN)
		return false;
	if (channel->state == CHANNEL_CONNECTING)
		did_work = connecting_step(channel);
	if (channel->state >= CHANNEL_GREETING && channel->state <= CHANNEL_UP)
		did_work = in_step(channel) || did_work;
	times_check(channel, now_us);
	did_work = ping_step(channel, now_us) || did_work;
	did_work = out_step(channel) || did_work;
	if (channel->state == CHANNEL_LEAVING &&
	    (channel->out_begin == channel->out_end || now_us >= channel->began_us + LEAVE_US)) {
		channel->state = CHANNEL_DOWN;
		channel->config.down(channel->config.owner, channel->result, channel->reason);
		return true;
	}
	return did_work;
}

uint64_t channel_next_us(const struct channel *channel)
{
	uint64_t silent_us = channel->heard_us + channel->config.silence_us;
	uint64_t ping_us = channel->pinged_us + channel->config.ping_us;

	if (channel->state == CHANNEL_DOWN)
		return UINT64_MAX;
	if (channel->state == CHANNEL_LEAVING)
		return channel->began_us + LEAVE_US;
	if (channel->state < CHANNEL_UP)
		return channel->began_us + channel->config.handshake_us;
	return silent_us < ping_us ? silent_us : ping_us;
}

int channel_send(struct channel *channel, const void *frame)
{
	if (channel->state != CHANNEL_UP)
		return -ENOTCONN;
	return channel_put(channel, frame) ? 0 : -EAGAIN;
}

void channel_end(struct channel *channel, int result, const char *reason)
{
	channel_refuse(channel, result, reason);
}

uint64_t channel_round_trip_us(const struct channel *channel)
{
	return channel->round_trip_us;
}

void channel_data_key(const struct channel *channel, bool is_sending,
		      uint8_t out_key[CHANNEL_KEY_BYTES])
{
	assert(channel->state == CHANNEL_UP);
	channel_derive(channel, channel->secret, CHANNEL_DATA_LABEL,
	       is_sending == channel->config.is_connecting, out_key);
}
