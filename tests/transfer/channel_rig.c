/* tests/transfer/channel_rig.c: see channel_rig.h. */
#include "tests/transfer/channel_rig.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void on_up(void *owner, const struct peer_hello *theirs)
{
	struct channel_end *end = owner;

	assert(!end->is_up && !end->is_down);
	end->is_up = true;
	end->theirs = *theirs;
}

static void on_frame(void *owner, const void *frame)
{
	struct channel_end *end = owner;
	const struct peer_frame_header *header = frame;

	assert(end->is_up && !end->is_down);
	if (end->frames < RIG_FRAMES)
		end->numbers[end->frames] = header->number;
	end->frames++;
}

static void on_down(void *owner, int result, const char *reason)
{
	struct channel_end *end = owner;

	assert(!end->is_down && result < 0);
	end->is_down = true;
	end->result = result;
	snprintf(end->reason, sizeof(end->reason), "%s", reason);
}

void channel_rig_init(struct channel_rig *rig)
{
	memset(rig, 0, sizeof(*rig));
	clock_virtual_init(&rig->clock, 1000 * 1000 * 1000);
	for (unsigned i = 0; i < 2; i++) {
		struct channel_end *end = &rig->ends[i];

		end->fd = -1;
		end->hello.boot_id = 100 + i;
		memset(end->hello.node, (int)(7 + i), sizeof(end->hello.node));
		snprintf(end->hello.name, sizeof(end->hello.name), "node-%u", i);
		snprintf(end->hello.release, sizeof(end->hello.release), "0.1.0");
		memset(end->secrets[0], 0x5a, CHANNEL_SECRET_BYTES);
		end->secrets_count = 1;
	}
}

void channel_rig_join(struct channel_rig *rig, int raw)
{
	int pair[2];
	int result = socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair);

	assert(result == 0);
	for (int i = 0; i < 2; i++) {
		struct channel_end *end = &rig->ends[i];
		const struct channel_config config = {
			.is_connecting = i == 0,
			.hello = &end->hello,
			.secrets = (const uint8_t(*)[CHANNEL_SECRET_BYTES])end->secrets,
			.secrets_count = end->secrets_count,
			.tls = end->tls,
			.tls_name = end->tls_name,
			.handshake_us = 2000 * RIG_MS,
			.ping_us = 500 * RIG_MS,
			.silence_us = 2000 * RIG_MS,
			.clock = &rig->clock,
			.up = on_up,
			.frame = on_frame,
			.down = on_down,
			.owner = end,
		};
		struct error error;

		end->is_up = end->is_down = false;
		end->frames = 0;
		end->fd = pair[i];
		if (i == raw)
			continue;
		result = channel_create(&end->channel, pair[i], &config, &error);
		assert(result == 0);
	}
}

void channel_rig_finish(struct channel_rig *rig)
{
	for (unsigned i = 0; i < 2; i++) {
		struct channel_end *end = &rig->ends[i];

		if (end->channel != NULL)
			channel_destroy(end->channel);
		else if (end->fd >= 0)
			close(end->fd);
		end->channel = NULL;
		end->fd = -1;
	}
}

bool channel_rig_step(struct channel_rig *rig)
{
	bool did_work = false;

	for (unsigned i = 0; i < 2; i++)
		if (rig->ends[i].channel != NULL)
			did_work = channel_step(rig->ends[i].channel, clock_now_us(&rig->clock)) ||
				   did_work;
	return did_work;
}

void channel_rig_settle(struct channel_rig *rig)
{
	unsigned idle = 0;

	/* TLS answers within a pass that found nothing to do itself. */
	for (unsigned i = 0; idle < 3; i++) {
		assert(i < 100000);
		idle = channel_rig_step(rig) ? 0 : idle + 1;
	}
}
