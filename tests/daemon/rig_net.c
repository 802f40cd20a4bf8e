/* tests/daemon/rig_net.c: see rig_net.h. */
#include "tests/daemon/rig_net.h"

#include "daemon/peer_files.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void rig_net_init(struct rig_net *net)
{
	memset(net, 0, sizeof(*net));
	for (unsigned i = 0; i < RIG_NET_NODES; i++)
		net->nodes[i].net = net;
	net->frames = calloc(RIG_NET_FRAMES, sizeof(*net->frames));
	assert(net->frames != NULL);
}

void rig_net_finish(struct rig_net *net)
{
	for (unsigned i = 0; i < RIG_NET_NODES; i++)
		for (unsigned k = 0; k < RIG_NET_TRANSFERS; k++)
			assert(net->nodes[i].moves[k].transfer == NULL);
	free(net->frames);
}

void *rig_net_room(struct rig *rig)
{
	if (rig->config.net == NULL)
		return NULL;
	struct rig_net_node *node = &rig->config.net->nodes[rig->config.net_node];
	node->rig = rig;
	return node;
}

static void node_id(unsigned node, uint8_t out_id[PEER_NODE_BYTES])
{
	memset(out_id, (int)node + 1, PEER_NODE_BYTES);
}

void rig_net_introduce(struct rig *rig)
{
	static const struct peer_secrets secrets = { .count = 1, .keys = { { 7, 7, 7 } } };

	if (rig->config.net == NULL)
		return;
	struct peer_self *self = &rig->daemon->peers->self;
	node_id(rig->config.net_node, self->node);
	snprintf(self->address, sizeof(self->address), "node-%u:1", rig->config.net_node);
	self->secrets = &secrets;
}

static unsigned number_of(const struct rig_net_node *node)
{
	return (unsigned)(node - node->net->nodes);
}

static struct rig_net_line *line_of(struct rig_net *net, unsigned a, unsigned b)
{
	return a < b ? &net->lines[a][b] : &net->lines[b][a];
}

/* ---- ops ---- */

static int net_connect(void *room, const char *address, uint32_t *out_session)
{
	struct rig_net_node *node = room;
	unsigned to;

	if (sscanf(address, "node-%u:1", &to) != 1 || to >= RIG_NET_NODES)
		return -EINVAL;
	node->asked[to] = true;
	*out_session = to;
	return 0;
}

static void net_forget(void *room, uint32_t session)
{
	struct rig_net_node *node = room;

	node->asked[session] = false;
}

static int net_say(void *room, uint32_t session, uint32_t life, const void *frame)
{
	struct rig_net_node *node = room;
	struct rig_net *net = node->net;
	const struct peer_frame_header *header = frame;
	struct rig_net_line *line = line_of(net, number_of(node), session);

	assert(header->magic == PEER_FRAME_MAGIC && header->bytes <= PEER_FRAME_BYTES_MAX);
	if (!line->is_up || line->life != life)
		return -ENOTCONN;
	if (net->frames_refused > 0) {
		net->frames_refused--;
		return -EAGAIN;
	}
	if (net->frames_count == RIG_NET_FRAMES)
		return -EAGAIN;
	struct rig_net_frame *kept = &net->frames[net->frames_count++];
	kept->from = number_of(node);
	kept->to = session;
	kept->life = life;
	memcpy(kept->bytes, frame, header->bytes);
	net->frames_ever++;
	return 0;
}

static int net_transfer(void *room, struct peer_transfer *transfer)
{
	struct rig_net_node *node = room;
	struct rig_net_line *line = line_of(node->net, number_of(node), transfer->session);

	if (!line->is_up || line->life != transfer->life)
		return -ENOTCONN;
	for (unsigned i = 0; i < RIG_NET_TRANSFERS; i++) {
		if (node->moves[i].transfer != NULL)
			continue;
		node->moves[i] = (struct rig_net_move){ .transfer = transfer };
		transfer->number = i;
		return 0;
	}
	return -EAGAIN;
}

static void net_stop(void *room, struct peer_transfer *transfer)
{
	struct rig_net_node *node = room;

	assert(node->moves[transfer->number].transfer == transfer);
	node->moves[transfer->number].is_stopped = true;
}

const struct peer_ops rig_net_ops = {
	.name = "rig",
	.connect = net_connect,
	.forget = net_forget,
	.say = net_say,
	.transfer = net_transfer,
	.stop = net_stop,
};

/* ---- what goes on ---- */

static void move_end(struct rig_net_move *move, int result)
{
	struct peer_transfer *transfer = move->transfer;

	move->transfer = NULL;
	transfer->done(transfer, result);
}

static struct daemon *daemon_at(const struct rig_net *net, unsigned node)
{
	return net->nodes[node].rig != NULL ? net->nodes[node].rig->daemon : NULL;
}

static void line_down(struct rig_net *net, unsigned a, unsigned b, int result)
{
	struct rig_net_line *line = line_of(net, a, b);
	unsigned ends[2] = { a, b }, kept = 0;

	if (!line->is_up)
		return;
	line->is_up = false;
	for (unsigned i = 0; i < net->frames_count; i++)
		if (!((net->frames[i].from == a && net->frames[i].to == b) ||
		      (net->frames[i].from == b && net->frames[i].to == a)))
			net->frames[kept++] = net->frames[i];
	net->frames_count = kept;
	for (unsigned i = 0; i < 2; i++) {
		struct rig_net_node *node = &net->nodes[ends[i]];

		for (unsigned k = 0; k < RIG_NET_TRANSFERS; k++)
			if (node->moves[k].transfer != NULL &&
			    node->moves[k].transfer->session == ends[1 - i])
				move_end(&node->moves[k], result);
		if (daemon_at(net, ends[i]) != NULL)
			peer_events.down(daemon_at(net, ends[i]), ends[1 - i], line->life, result,
					 "the line is cut");
	}
}

static bool line_step(struct rig_net *net, unsigned a, unsigned b)
{
	struct rig_net_line *line = line_of(net, a, b);
	unsigned ends[2] = { a, b };

	if (line->is_up && (daemon_at(net, a) == NULL || daemon_at(net, b) == NULL)) {
		line_down(net, a, b, -ECONNRESET);
		return true;
	}
	if (line->is_up || line->is_cut || daemon_at(net, a) == NULL || daemon_at(net, b) == NULL ||
	    !(net->nodes[a].asked[b] || net->nodes[b].asked[a]))
		return false;
	line->is_up = true;
	line->life++;
	for (unsigned i = 0; i < 2; i++) {
		struct peer_hello hello = { .boot_id = daemon_at(net, ends[1 - i])->boot_id };
		char address[16];

		node_id(ends[1 - i], hello.node);
		snprintf(hello.name, sizeof(hello.name), "node-%u", ends[1 - i]);
		snprintf(address, sizeof(address), "node-%u:1", ends[1 - i]);
		peer_events.up(daemon_at(net, ends[i]), ends[1 - i], line->life, &hello, address,
			       net->nodes[ends[i]].asked[ends[1 - i]]);
	}
	return true;
}

static bool frames_step(struct rig_net *net)
{
	static struct rig_net_frame frame;
	bool did_work = false;

	for (unsigned left = net->frames_count; left > 0 && net->frames_count > 0; left--) {
		if (net->holds_frames)
			return did_work;
		frame = net->frames[0];
		memmove(net->frames, net->frames + 1,
			--net->frames_count * sizeof(*net->frames));
		did_work = true;
		if (net->before_frame != NULL &&
		    !net->before_frame(net, frame.from, frame.to, frame.bytes))
			continue;
		peer_events.frame(daemon_at(net, frame.to), frame.from, frame.life, frame.bytes);
	}
	return did_work;
}

static uint8_t *memory_of(const struct rig_net *net, unsigned node,
			  const struct peer_transfer *transfer)
{
	struct daemon *daemon = daemon_at(net, node);

	return (uint8_t *)daemon->tenants[transfer->arena].arena.start + transfer->offset;
}

static struct rig_net_move *place_of(struct rig_net *net, unsigned node, unsigned from,
				     const struct peer_transfer *send)
{
	for (unsigned i = 0; i < RIG_NET_TRANSFERS; i++) {
		struct peer_transfer *place = net->nodes[node].moves[i].transfer;

		if (place != NULL && place->is_place && place->tag == send->tag &&
		    place->session == from)
			return &net->nodes[node].moves[i];
	}
	return NULL;
}

static void send_go(struct rig_net *net, unsigned from, struct rig_net_move *move)
{
	struct peer_transfer *send = move->transfer;
	unsigned to = send->session;
	struct rig_net_move *place = place_of(net, to, from, send);
	int result = net->blocks_lost > 0 ? -ECONNRESET : 0;

	net->blocks_ever++;
	if (net->blocks_lost > 0)
		net->blocks_lost--;
	if (place != NULL && !place->is_stopped) {
		uint8_t *target = memory_of(net, to, place->transfer);

		if (result == 0 && place->transfer->bytes != send->bytes)
			result = -EPROTO;
		if (result == 0) {
			memcpy(target, memory_of(net, from, send), send->bytes);
			if (net->after_block != NULL)
				net->after_block(net, target, send->bytes);
		}
		move_end(place, result);
	}
	move_end(move, result);
}

static bool moves_step(struct rig_net *net, unsigned number)
{
	struct rig_net_node *node = &net->nodes[number];
	bool did_work = false;

	for (unsigned i = 0; i < RIG_NET_TRANSFERS; i++) {
		struct rig_net_move *move = &node->moves[i];

		if (move->transfer == NULL)
			continue;
		if (move->is_stopped)
			move_end(move, -ECANCELED);
		else if (clock_now_us(&node->rig->clock) >= move->transfer->deadline_us)
			move_end(move, -ETIME);
		else if (!move->transfer->is_place && !net->holds_blocks)
			send_go(net, number, move);
		else
			continue;
		did_work = true;
	}
	return did_work;
}

static void clocks_join(struct rig_net *net)
{
	uint64_t latest_us = 0;

	for (unsigned i = 0; i < RIG_NET_NODES; i++)
		if (net->nodes[i].rig != NULL &&
		    clock_now_us(&net->nodes[i].rig->clock) > latest_us)
			latest_us = clock_now_us(&net->nodes[i].rig->clock);
	for (unsigned i = 0; i < RIG_NET_NODES; i++)
		if (net->nodes[i].rig != NULL)
			clock_advance(&net->nodes[i].rig->clock,
				      latest_us - clock_now_us(&net->nodes[i].rig->clock));
}

bool rig_net_step(struct rig_net *net, struct rig *from)
{
	bool did_work = false;

	if (net->is_stepping)
		return false;
	net->is_stepping = true;
	clocks_join(net);
	for (unsigned a = 0; a < RIG_NET_NODES; a++)
		for (unsigned b = a + 1; b < RIG_NET_NODES; b++)
			did_work = line_step(net, a, b) || did_work;
	did_work = frames_step(net) || did_work;
	for (unsigned i = 0; i < RIG_NET_NODES; i++)
		if (daemon_at(net, i) != NULL)
			did_work = moves_step(net, i) || did_work;
	for (unsigned i = 0; i < RIG_NET_NODES; i++)
		if (daemon_at(net, i) != NULL && net->nodes[i].rig != from)
			did_work = rig_step(net->nodes[i].rig) || did_work;
	net->is_stepping = false;
	return did_work;
}

void rig_net_join(struct rig_net *net, unsigned from, unsigned to)
{
	char address[16];

	snprintf(address, sizeof(address), "node-%u:1", to);
	struct peer *peer = peers_want(daemon_at(net, from), address, PEER_BY_SETTING);
	assert(peer != NULL);
}

void rig_net_cut(struct rig_net *net, unsigned a, unsigned b)
{
	line_of(net, a, b)->is_cut = true;
	line_down(net, a, b, -ECONNRESET);
}

void rig_net_mend(struct rig_net *net, unsigned a, unsigned b)
{
	line_of(net, a, b)->is_cut = false;
}

void rig_net_die(struct rig_net *net, unsigned node)
{
	for (unsigned i = 0; i < RIG_NET_NODES; i++)
		if (i != node)
			line_down(net, node, i, -ECONNRESET);
	memset(net->nodes[node].asked, 0, sizeof(net->nodes[node].asked));
}

/* ---- what clients ask ---- */

static struct rig_fetch fetch_ask(struct rig_client *client, const struct rig_keys *keys,
				  unsigned count)
{
	const struct frame_fetching *reply = (const struct frame_fetching *)client->reply;
	struct rig_fetch fetch = { 0 };

	rig_send(client, FRAME_CONTROL);
	rig_lookup_write(client, keys, count)->header.flags = FRAME_LAST | FRAME_REMOTE;
	((struct frame_lookup *)client->out)->lease_us = RIG_SECOND;
	fetch.result = rig_ask(client, FRAME_CONTROL, FRAME_FETCHING);
	if (fetch.result == 0)
		fetch.id = reply->fetch;
	return fetch;
}

struct rig_fetch rig_fetch(struct rig_client *client, unsigned node, const struct rig_keys *keys,
			   unsigned count, enum frame_fetch_mode mode, uint64_t wait_us)
{
	struct frame_fetch *frame = rig_frame(client, FRAME_FETCH, sizeof(*frame));

	snprintf(frame->peer, sizeof(frame->peer), "node-%u:1", node);
	frame->mode = mode;
	frame->wait_us = wait_us;
	return fetch_ask(client, keys, count);
}

struct rig_fetch rig_fetch_two(struct rig_client *client, const unsigned nodes[2],
			       const struct rig_keys *keys, enum frame_fetch_mode mode,
			       uint64_t wait_us)
{
	struct frame_fetch *frame = rig_frame(client, FRAME_FETCH, sizeof(*frame));

	snprintf(frame->peer, sizeof(frame->peer), "node-%u:1", nodes[0]);
	snprintf(frame->second, sizeof(frame->second), "node-%u:1", nodes[1]);
	frame->mode = mode;
	frame->wait_us = wait_us;
	return fetch_ask(client, keys, 1);
}

struct rig_fetch rig_fetch_by(struct rig_client *client, const char *ticket,
			      const struct rig_keys *keys, unsigned count,
			      enum frame_fetch_mode mode, uint64_t wait_us)
{
	size_t bytes = strlen(ticket);
	struct frame_fetch *frame =
		rig_frame(client, FRAME_FETCH, (uint32_t)(sizeof(*frame) + bytes));

	frame->ticket_bytes = (uint32_t)bytes;
	memcpy(frame + 1, ticket, bytes);
	frame->mode = mode;
	frame->wait_us = wait_us;
	return fetch_ask(client, keys, count);
}

int rig_ticket(struct rig_client *client, const struct rig_keys *keys, unsigned count,
	       uint64_t keep_us, char out_text[FRAME_TICKET_BYTES_MAX])
{
	const struct frame_ticketed *reply = (const struct frame_ticketed *)client->reply;
	struct frame_ticket *frame = rig_frame(client, FRAME_TICKET, sizeof(*frame));

	out_text[0] = '\0';
	frame->keep_us = keep_us;
	rig_send(client, FRAME_CONTROL);
	rig_lookup_write(client, keys, count)->header.flags = FRAME_LAST | FRAME_REMOTE;
	int result = rig_ask(client, FRAME_CONTROL, FRAME_TICKETED);
	if (result == 0)
		memcpy(out_text, reply->text, FRAME_TICKET_BYTES_MAX);
	return result;
}

struct rig_found rig_fetch_wait(struct rig_client *client, uint64_t fetch, uint64_t wait_us)
{
	struct frame_fetch_wait *frame = rig_frame(client, FRAME_FETCH_WAIT, sizeof(*frame));

	frame->fetch = fetch;
	frame->wait_us = wait_us;
	return rig_found_ask(client);
}

void rig_fetch_end(struct rig_client *client, uint64_t fetch)
{
	struct frame_fetch_end *frame = rig_frame(client, FRAME_FETCH_END, sizeof(*frame));

	frame->fetch = fetch;
	rig_send(client, FRAME_CONTROL);
	rig_settle(client->rig);
}
