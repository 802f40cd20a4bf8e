/* tests/peer/fake_channel.c: channels that exchange their HELLOs and prove nothing, for what is
 * built on channels. See tests/peer/fake_channel.h. */
#include "tests/peer/fake_channel.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define OUT_BYTES (256u << 10)

struct channel {
	struct channel_config config;
	int fd;
	bool is_up, is_over;
	uint32_t in_bytes, out_bytes;
	_Alignas(8) uint8_t in[2 * PEER_FRAME_BYTES_MAX];
	uint8_t out[OUT_BYTES];
};

struct fake_channel_faults fake_channel_faults;

static void channel_over(struct channel *channel, int result, const char *reason)
{
	if (channel->is_over)
		return;
	channel->is_over = true;
	close(channel->fd);
	channel->fd = -1;
	channel->config.down(channel->config.owner, result, reason);
}

static void flush(struct channel *channel)
{
	while (channel->out_bytes > 0 && !channel->is_over) {
		ssize_t bytes = send(channel->fd, channel->out, channel->out_bytes,
				     MSG_DONTWAIT | MSG_NOSIGNAL);

		if (bytes < 0 && (errno == EAGAIN || errno == ENOTCONN))
			return;
		if (bytes < 0) {
			channel_over(channel, -errno, strerror(errno));
			return;
		}
		channel->out_bytes -= (uint32_t)bytes;
		memmove(channel->out, channel->out + bytes, channel->out_bytes);
	}
}

int channel_create(struct channel **out, int fd, const struct channel_config *config,
		   struct error *error)
{
	struct channel *channel = calloc(1, sizeof(*channel));
	struct peer_hello hello = *config->hello;

	(void)error;
	channel->config = *config;
	channel->fd = fd;
	hello.header = (struct peer_frame_header){ .magic = PEER_FRAME_MAGIC, .type = PEER_HELLO,
						   .bytes = sizeof(hello) };
	memcpy(channel->out, &hello, sizeof(hello));
	channel->out_bytes = sizeof(hello);
	*out = channel;
	return 0;
}

void channel_destroy(struct channel *channel)
{
	if (channel->fd >= 0)
		close(channel->fd);
	free(channel);
}

int channel_fd(const struct channel *channel)
{
	return channel->fd;
}

short channel_events(const struct channel *channel)
{
	return channel->out_bytes > 0 ? POLLIN | POLLOUT : POLLIN;
}

static void frame_take(struct channel *channel, const struct peer_frame_header *header)
{
	char text[200];

	if (header->type == PEER_REFUSED) {
		snprintf(text, sizeof(text), "%.*s", (int)(header->bytes - sizeof(*header)),
			 (const char *)(header + 1));
		channel_over(channel, header->result, text);
	} else if (!channel->is_up) {
		channel->is_up = true;
		channel->config.up(channel->config.owner, (const void *)header);
	} else {
		channel->config.frame(channel->config.owner, header);
	}
}

bool channel_step(struct channel *channel, uint64_t now_us)
{
	_Alignas(8) uint8_t frame[PEER_FRAME_BYTES_MAX];
	struct peer_frame_header header;
	ssize_t bytes;

	(void)now_us;
	if (channel->is_over)
		return false;
	flush(channel);
	if (channel->is_over || fake_channel_faults.is_deaf)
		return false;
	bytes = recv(channel->fd, channel->in + channel->in_bytes,
		     sizeof(channel->in) - channel->in_bytes, MSG_DONTWAIT);
	if (bytes == 0 || (bytes < 0 && errno != EAGAIN && errno != ENOTCONN)) {
		channel_over(channel, -ECONNRESET, bytes == 0 ? "closed" : strerror(errno));
		return true;
	}
	if (bytes < 0)
		return false;
	channel->in_bytes += (uint32_t)bytes;
	while (!channel->is_over && channel->in_bytes >= sizeof(header)) {
		memcpy(&header, channel->in, sizeof(header));
		assert(header.bytes >= sizeof(header) && header.bytes <= sizeof(frame));
		if (channel->in_bytes < header.bytes)
			break;
		memcpy(frame, channel->in, header.bytes);
		channel->in_bytes -= header.bytes;
		memmove(channel->in, channel->in + header.bytes, channel->in_bytes);
		frame_take(channel, (const void *)frame);
	}
	return true;
}

int channel_send(struct channel *channel, const void *frame)
{
	struct peer_frame_header header;

	memcpy(&header, frame, sizeof(header));
	if (channel->is_over || !channel->is_up)
		return -ENOTCONN;
	if (channel->out_bytes + header.bytes > OUT_BYTES)
		return -EAGAIN;
	memcpy(channel->out + channel->out_bytes, frame, header.bytes);
	channel->out_bytes += header.bytes;
	return 0;
}

uint64_t channel_round_trip_us(const struct channel *channel)
{
	return channel->is_up ? 42 : 0;
}

void channel_data_key(const struct channel *channel, bool is_sending, uint8_t out_key[32])
{
	memset(out_key, channel->config.is_connecting == is_sending ? 1 : 2, 32);
}

uint64_t channel_next_us(const struct channel *channel)
{
	(void)channel;
	return UINT64_MAX;
}

int channel_tls_create(struct channel_tls **out_tls, const char *ca, const char *certificate,
		       const char *key, struct error *error)
{
	(void)out_tls, (void)ca, (void)certificate, (void)key;
	return error_set(error, -ENOTSUP, "no TLS here");
}

void channel_tls_destroy(struct channel_tls *tls)
{
	assert(tls == NULL);
}

void channel_end(struct channel *channel, int result, const char *reason)
{
	struct {
		struct peer_frame_header header;
		char text[200];
	} frame = { .header = { .magic = PEER_FRAME_MAGIC, .type = PEER_REFUSED,
				.result = result } };

	if (channel->is_over)
		return;
	snprintf(frame.text, sizeof(frame.text), "%s", reason);
	frame.header.bytes = (uint32_t)(sizeof(frame.header) + strlen(frame.text));
	if (channel->out_bytes + frame.header.bytes <= OUT_BYTES) {
		memcpy(channel->out + channel->out_bytes, &frame, frame.header.bytes);
		channel->out_bytes += frame.header.bytes;
	}
	flush(channel);
	channel_over(channel, result, reason);
}
