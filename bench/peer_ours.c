/* bench/peer_ours.c: the same messages by our transports, each checked when it is there. */
#include "bench/peer_flow.h"

#include "base/checksum.h"
#include "base/random.h"
#include "bench/micro.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

struct ours {
	struct flow_end *end;
	struct transport *transport;
	struct transport_link *link;
	bool is_up, is_down;
	uint32_t begun, done, failed;
	uint32_t checksums; /* so that nobody leaves them out */
	struct transport_send sends[FLOW_UNDER_WAY];
};

static void *on_arriving(void *owner, const uint8_t head[TRANSPORT_HEAD_BYTES], uint32_t bytes)
{
	struct ours *ours = owner;
	uint64_t number;

	memcpy(&number, head, sizeof(number));
	return bytes == ours->end->bytes ? flow_slot(ours->end, number) : NULL;
}

static void on_arrived(void *owner, const uint8_t head[TRANSPORT_HEAD_BYTES], uint32_t bytes,
		       void *memory, int result)
{
	struct ours *ours = owner;

	(void)head;
	ours->failed += result < 0 || memory == NULL;
	if (memory != NULL)
		ours->checksums ^= crc32c(memory, bytes);
	ours->done++;
}

static void on_up(void *owner)
{
	((struct ours *)owner)->is_up = true;
}

static void on_down(void *owner, int result, const char *reason)
{
	struct ours *ours = owner;

	ours->is_down = true;
	if (result < 0)
		(void)error_set(&ours->end->error, result, "%s", reason);
}

static const struct transport_events events = { .arriving = on_arriving, .arrived = on_arrived,
						.up = on_up, .down = on_down };

static void ours_step(struct ours *ours)
{
	const struct transport_ops *ops = ours->end->transport;
	struct pollfd fd = { .events = POLLIN };

	if (ops->step(ours->transport, clock_now_us(clock_real())) || !ops->arm(ours->transport))
		return;
	fd.fd = ops->fd(ours->transport);
	(void)poll(&fd, 1, 10);
}

static int ours_open(struct ours *ours, struct flow_end *end, bool is_taker)
{
	const struct transport_config config = { .host = is_taker ? end->host : NULL,
						 .idle_us_max = UINT64_C(10000000),
						 .clock = clock_real() };

	ours->end = end;
	(void)setenv("UCX_TLS", "^sm", 0);
	int result = end->transport->create(&ours->transport, &config, &end->error);
	if (result == 0)
		result = end->transport->region(ours->transport, end->memory,
						(uint64_t)FLOW_SLOTS * end->bytes, &end->error);
	return result;
}

/* How the taker is reached. */
struct way {
	uint8_t token[TRANSPORT_TOKEN_BYTES], address[TRANSPORT_ADDRESS_BYTES_MAX];
	uint32_t address_bytes;
};

static int ours_take(struct flow_end *end)
{
	static struct ours ours;
	static struct way way;
	int result = ours_open(&ours, end, true);

	if (result < 0)
		return result;
	random_system(way.token, sizeof(way.token));
	way.address_bytes = end->transport->address(ours.transport, end->host, way.address);
	result = end->transport->expect(ours.transport, way.token, &events, &ours, &ours.link,
					&end->error);
	if (result < 0 || flow_say(end, &way, sizeof(way)) < 0)
		return result < 0 ? result : -EPIPE;
	while (!ours.is_up && !ours.is_down)
		ours_step(&ours);
	if (ours.is_down)
		return -ENOTCONN;
	flow_begin(end);
	double began = micro_now();
	while (ours.done < end->count && !ours.is_down)
		ours_step(&ours);
	end->result.seconds = micro_now() - began;
	end->result.bytes = (double)end->bytes * end->count;
	(void)!flow_say(end, "e", 1);
	return ours.is_down || ours.failed > 0 ? -EIO : 0;
}

/* An end is a process. */
static struct ours giver;

static void send_next(struct transport_send *send);

static void on_sent(struct transport_send *send, int result)
{
	giver.failed += result < 0;
	giver.done++;
	if (result == 0)
		send_next(send);
}

static void send_next(struct transport_send *send)
{
	uint64_t number = giver.begun;

	if (number == giver.end->count)
		return;
	giver.begun++;
	*send = (struct transport_send){ .to = giver.link,
					 .payload = flow_slot(giver.end, number),
					 .bytes = giver.end->bytes,
					 .done = on_sent };
	memcpy(send->head, &number, sizeof(number));
	giver.end->transport->send(giver.link, send);
}

static int ours_give(struct flow_end *end)
{
	static struct way way;
	char word;
	int result = ours_open(&giver, end, false);

	if (result < 0)
		return result;
	if (flow_hear(end, &way, sizeof(way)) < 0)
		return -EPIPE;
	result = end->transport->connect(giver.transport, way.address, way.address_bytes, way.token,
					 &events, &giver, &giver.link, &end->error);
	while (result == 0 && !giver.is_up && !giver.is_down)
		ours_step(&giver);
	if (result < 0 || giver.is_down)
		return result < 0 ? result : -ENOTCONN;
	flow_begin(end);
	double began = flow_cpu_seconds();
	for (unsigned i = 0; i < FLOW_UNDER_WAY; i++)
		send_next(&giver.sends[i]);
	while (giver.done < end->count && !giver.is_down && giver.failed == 0)
		ours_step(&giver);
	end->result.sender_cpu_seconds = flow_cpu_seconds() - began;
	(void)!flow_hear(end, &word, 1);
	return giver.is_down || giver.failed > 0 ? -EIO : 0;
}

const struct flow flow_our_tcp = { .name = "kvtier by sockets", .give = ours_give,
				   .take = ours_take, .transport = &transport_tcp };
const struct flow flow_our_ucx = { .name = "kvtier by UCX", .give = ours_give,
				   .take = ours_take, .transport = &transport_ucx };
