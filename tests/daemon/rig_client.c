/* tests/daemon/rig_client.c: a client's connections: hello, registration, attaching, frames. */
#include "tests/daemon/rig.h"

#include "base/checksum.h"
#include "daemon/server.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define SOCKET_BYTES (1 << 20)

void rig_batch_reply(struct rig_client *client, const struct frame_store_reply *reply);
void rig_batch_event(struct rig_client *client, const struct frame_header *frame);

static void engine_default(struct rig_engine *engine)
{
	if (engine->name == NULL)
		engine->name = "engine";
	if (engine->model == NULL)
		engine->model = "model";
	if (engine->world == 0)
		engine->world = 1;
	if (engine->roles == 0)
		engine->roles = FRAME_ROLE_SCHEDULER | FRAME_ROLE_WORKER;
	if (engine->groups_count > 0)
		return;
	engine->groups_count = 1;
	engine->groups[0] = (struct frame_group){
		.kind = FRAME_GROUP_FULL,
		.tokens_per_block = RIG_TOKENS,
		.payload_bytes = RIG_PAYLOAD_BYTES,
		.segments_count = RIG_SEGMENTS,
	};
}

struct rig_client *rig_client_open(struct rig *rig, const struct rig_engine *engine)
{
	struct rig_client *client = calloc(1, sizeof(*client));
	unsigned place = 0;

	assert(client != NULL);
	client->rig = rig;
	if (engine != NULL)
		client->engine = *engine;
	engine_default(&client->engine);
	client->fds[FRAME_CONTROL] = client->fds[FRAME_DATA] = -1;
	while (place < RIG_CLIENTS_MAX && rig->clients[place] != NULL)
		place++;
	assert(place < RIG_CLIENTS_MAX);
	rig->clients[place] = client;
	return client;
}

void rig_client_hang_up(struct rig_client *client, enum frame_connection connection)
{
	if (client->fds[connection] >= 0)
		close(client->fds[connection]);
	client->fds[connection] = -1;
	client->sessions[connection] = NULL;
}

void rig_client_close(struct rig_client *client)
{
	if (client == NULL)
		return;
	rig_client_hang_up(client, FRAME_CONTROL);
	rig_client_hang_up(client, FRAME_DATA);
	if (client->arena != NULL)
		munmap(client->arena, client->arena_bytes);
	free(client->device);
	if (client->window != NULL)
		munmap(client->window, client->window_bytes);
	for (unsigned i = 0; i < RIG_CLIENTS_MAX; i++)
		if (client->rig->clients[i] == client)
			client->rig->clients[i] = NULL;
	free(client);
}

void *rig_frame(struct rig_client *client, enum frame_type type, size_t bytes)
{
	struct frame_header *header = (struct frame_header *)client->out;

	assert(bytes <= sizeof(client->out));
	memset(client->out, 0, bytes);
	frame_start(header, type, (uint32_t)bytes, ++client->requests, client->boot_id);
	return client->out;
}

void rig_send(struct rig_client *client, enum frame_connection connection)
{
	const struct frame_header *header = (const struct frame_header *)client->out;
	struct error error = { 0 };

	assert(frame_check(client->out, header->bytes, false, &error) == 0);
	if (client->fds[connection] < 0)
		return;
	(void)!send(client->fds[connection], client->out, header->bytes, MSG_NOSIGNAL);
}

/* Maps what came with ATTACHED, as libkvtier does. */
static void mappings_take(struct rig_client *client, const int fds[2])
{
	const struct frame_attached *attached = (const struct frame_attached *)client->incoming;

	assert(fds[0] >= 0 && fds[1] >= 0);
	assert(mmap(NULL, attached->arena_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0) ==
	       MAP_FAILED);
	client->arena = mmap(NULL, attached->arena_bytes, PROT_READ, MAP_SHARED, fds[0], 0);
	client->window = mmap(NULL, attached->window_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
			      fds[1], 0);
	assert(client->arena != MAP_FAILED && client->window != MAP_FAILED);
	client->arena_bytes = attached->arena_bytes;
	client->units_offset = attached->arena_units_offset;
	client->window_bytes = attached->window_bytes;
	assert(crc32c(client->arena + attached->canary_offset, 64) == attached->canary_crc);
}

static void frame_take(struct rig_client *client, const int fds[2])
{
	const struct frame_header *header = (const struct frame_header *)client->incoming;

	switch (header->type) {
	case FRAME_STORE_REPLY:
		rig_batch_reply(client, (const struct frame_store_reply *)header);
		break;
	case FRAME_COPIED:
	case FRAME_COMMITTED:
	case FRAME_LOADED:
		rig_batch_event(client, header);
		break;
	case FRAME_ERROR:
		client->refused = header->result;
		memcpy(client->reply, client->incoming, header->bytes);
		client->reply_request = header->request;
		break;
	default:
		if (header->type == FRAME_ATTACHED && header->result == 0)
			mappings_take(client, fds);
		memcpy(client->reply, client->incoming, header->bytes);
		client->reply_request = header->request;
	}
}

static ssize_t packet_take(int fd, void *target, int out_fds[2])
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(2 * sizeof(int))];
	} control;
	struct iovec vector = { .iov_base = target, .iov_len = FRAME_BYTES_MAX };
	struct msghdr message = { .msg_iov = &vector,
				  .msg_iovlen = 1,
				  .msg_control = control.bytes,
				  .msg_controllen = sizeof(control.bytes) };
	ssize_t bytes = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *header = bytes > 0 ? CMSG_FIRSTHDR(&message) : NULL;

	out_fds[0] = out_fds[1] = -1;
	if (header != NULL)
		memcpy(out_fds, CMSG_DATA(header), header->cmsg_len - CMSG_LEN(0));
	return bytes < 0 ? -errno : bytes;
}

static bool connection_read(struct rig_client *client, enum frame_connection connection)
{
	bool did_work = false;

	while (client->fds[connection] >= 0) {
		struct error error = { 0 };
		int fds[2];
		ssize_t bytes = packet_take(client->fds[connection], client->incoming, fds);

		if (bytes == -EAGAIN)
			return did_work;
		did_work = true;
		if (bytes <= 0) {
			rig_client_hang_up(client, connection);
			return true;
		}
		assert(frame_check(client->incoming, (size_t)bytes, true, &error) == 0);
		const struct frame_header *header = (const struct frame_header *)client->incoming;
		assert(client->boot_id == 0 || header->boot_id == client->boot_id);
		frame_take(client, fds);
		for (unsigned i = 0; i < 2; i++)
			if (fds[i] >= 0)
				close(fds[i]);
	}
	return did_work;
}

bool rig_client_read(struct rig_client *client)
{
	bool did_work = connection_read(client, FRAME_CONTROL);

	return connection_read(client, FRAME_DATA) || did_work;
}

int rig_ask(struct rig_client *client, enum frame_connection connection, enum frame_type type)
{
	uint64_t request = ((const struct frame_header *)client->out)->request;
	const struct frame_header *reply = (const struct frame_header *)client->reply;

	client->reply_request = 0;
	rig_send(client, connection);
	for (unsigned i = 0; client->fds[connection] >= 0; i++) {
		if (!rig_waits_on(client->rig, i))
			break;
		if (client->reply_request != request)
			continue;
		assert(reply->type == type || (reply->type == FRAME_ERROR && reply->result < 0));
		return reply->result;
	}
	return client->refused < 0 ? client->refused : -ECONNRESET;
}

int rig_client_connect(struct rig_client *client, enum frame_connection connection)
{
	struct daemon *daemon = client->rig->daemon;
	struct tenant *tenant = &daemon->tenants[client->engine.tenant];
	struct frame_hello *hello;
	int pair[2], bytes = SOCKET_BYTES;
	int result = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair);

	assert(result == 0);
	(void)setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	(void)setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	struct wire wire = { .ops = &wire_unix, .fd = pair[1] };
	struct session *session = server_adopt(daemon, &wire, tenant, false);
	if (session == NULL) {
		close(pair[0]);
		close(pair[1]);
		return -EBUSY;
	}
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = session };
	result = epoll_ctl(server_epoll_fd(daemon->server), EPOLL_CTL_ADD, pair[1], &event);
	assert(result == 0);
	client->fds[connection] = pair[0];
	client->sessions[connection] = session;
	hello = rig_frame(client, FRAME_HELLO, sizeof(*hello));
	hello->version_min = FRAME_VERSION_MIN;
	hello->version_max = FRAME_VERSION_MAX;
	hello->connection = connection;
	result = rig_ask(client, connection, FRAME_HELLO_REPLY);
	if (result == 0)
		client->boot_id = daemon->boot_id;
	return result;
}

int rig_client_say_register(struct rig_client *client)
{
	const struct rig_engine *engine = &client->engine;
	size_t model_bytes = strlen(engine->model);
	size_t groups_bytes = engine->groups_count * sizeof(struct frame_group);
	uint16_t field[2] = { FRAME_FIELD_MODEL_CONTENT, (uint16_t)model_bytes };
	struct frame_register *frame = rig_frame(client, FRAME_REGISTER,
						 sizeof(*frame) + groups_bytes + sizeof(field) +
							 model_bytes);
	uint8_t *fields = (uint8_t *)(frame + 1) + groups_bytes;
	const struct frame_registered *reply = (const struct frame_registered *)client->reply;

	strcpy(frame->engine, engine->name);
	frame->roles = engine->roles;
	frame->shard = (uint16_t)engine->shard;
	frame->world = (uint16_t)engine->world;
	frame->groups_count = (uint16_t)engine->groups_count;
	frame->fields_count = 1;
	frame->fields_bytes = (uint32_t)(sizeof(field) + model_bytes);
	memcpy(frame + 1, engine->groups, groups_bytes);
	memcpy(fields, field, sizeof(field));
	memcpy(fields + sizeof(field), engine->model, model_bytes);
	int result = rig_ask(client, FRAME_CONTROL, FRAME_REGISTERED);
	if (result < 0)
		return result;
	client->token = reply->engine_token;
	client->space = reply->space;
	client->ranks_missing = reply->ranks_missing;
	memcpy(client->fingerprint, reply->fingerprint, SPACE_ID_BYTES);
	return 0;
}

int rig_client_attach(struct rig_client *client)
{
	struct frame_attach *attach = rig_frame(client, FRAME_ATTACH, sizeof(*attach));
	struct frame_canary *canary;
	int result;

	attach->engine_token = client->token;
	result = rig_ask(client, FRAME_DATA, FRAME_ATTACHED);
	if (result < 0)
		return result;
	for (unsigned i = 0; i < 64; i++)
		client->window[i] = (uint8_t)(i * 37 + client->token);
	canary = rig_frame(client, FRAME_CANARY, sizeof(*canary));
	canary->crc = crc32c(client->window, 64);
	return rig_ask(client, FRAME_DATA, FRAME_DONE);
}

int rig_client_adapter(struct rig_client *client, unsigned adapter, uint32_t *out_space)
{
	struct frame_space *frame = rig_frame(client, FRAME_SPACE, sizeof(*frame));
	const struct frame_space_reply *reply = (const struct frame_space_reply *)client->reply;

	frame->space = client->space;
	memset(frame->adapter, 0xad, sizeof(frame->adapter));
	memcpy(frame->adapter, &adapter, sizeof(adapter));
	int result = rig_ask(client, FRAME_CONTROL, FRAME_SPACE_REPLY);
	if (result == 0)
		*out_space = reply->space;
	return result;
}

struct rig_client *rig_register(struct rig *rig, const struct rig_engine *engine)
{
	struct rig_client *client = rig_client_open(rig, engine);
	int result = rig_client_connect(client, FRAME_CONTROL);

	if (result == 0)
		result = rig_client_say_register(client);
	if (result == 0 && (client->engine.roles & FRAME_ROLE_WORKER))
		result = rig_client_connect(client, FRAME_DATA);
	if (result == 0 && (client->engine.roles & FRAME_ROLE_WORKER))
		result = rig_client_attach(client);
	assert(result == 0);
	return client;
}
