/* tests/client/fake_calls.c: the fake daemon's answers to what opens a session, and to an
 * operator. */
#include "tests/client/fake_parts.h"

#include "base/checksum.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

void fake_serve_hello(struct fake_daemon *fake, struct fake_connection *connection,
		      enum fake_way way)
{
	const struct frame_hello *frame = (const struct frame_hello *)fake_incoming;
	struct frame_hello_reply *reply = (struct frame_hello_reply *)fake_outgoing;

	connection->is_data = frame->connection == FRAME_DATA;
	memset(reply, 0, sizeof(*reply));
	reply->version = 1;
	reply->keys_max = FRAME_LOOKUP_KEYS_MAX;
	reply->window_bytes = fake->window_bytes;
	reply->batches_max = 4;
	reply->load_window_blocks = 64;
	reply->features = (fake->pull.is_on ? FRAME_FEATURE_PULL : 0) |
			  (fake->fetch.is_off ? 0 : FRAME_FEATURE_PEERS);
	strcpy(reply->tenant, "default");
	fake_reply(fake, connection, way, FRAME_HELLO_REPLY, sizeof(*reply), &frame->header);
}

void fake_serve_register(struct fake_daemon *fake, struct fake_connection *connection,
			 enum fake_way way)
{
	const struct frame_register *frame = (const struct frame_register *)fake_incoming;
	struct frame_registered *reply = (struct frame_registered *)fake_outgoing;

	fake->group = frame_register_groups(frame)[0];
	fake->slot_bytes = slot_bytes_for(fake->group.payload_bytes);
	memset(reply, 0, sizeof(*reply));
	memcpy(reply->fingerprint, fake->fingerprint, sizeof(reply->fingerprint));
	reply->engine_token = 77;
	reply->space = 5;
	reply->ranks_missing = fake->ranks_missing;
	fake_reply(fake, connection, way, FRAME_REGISTERED, sizeof(*reply), &frame->header);
}

static int window_open(struct fake_daemon *fake, struct fake_connection *connection, bool is_sealed)
{
	int fd = memfd_create("window", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (ftruncate(fd, (off_t)fake->window_bytes) < 0)
		abort();
	if (is_sealed && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		abort();
	connection->window = mmap(NULL, fake->window_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
				  0);
	return fd;
}

void fake_serve_attach(struct fake_daemon *fake, struct fake_connection *connection,
		       enum fake_way way)
{
	const struct frame_attach *frame = (const struct frame_attach *)fake_incoming;
	struct frame_attached reply;
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(2 * sizeof(int))];
	} control = { .bytes = { 0 } };
	struct iovec iovec = { &reply, sizeof(reply) };
	struct msghdr message = { .msg_iov = &iovec, .msg_iovlen = 1 };
	int fds[2] = { fake->arena_read_fd, window_open(fake, connection, way != FAKE_UNSEALED) };

	memset(&reply, 0, sizeof(reply));
	frame_start(&reply.header, FRAME_ATTACHED, sizeof(reply), frame->header.request,
		    fake->boot_id);
	reply.arena_bytes = way == FAKE_SHORT ? fake->arena_bytes * 2 : fake->arena_bytes;
	reply.arena_units_offset = FAKE_UNITS_OFFSET;
	reply.canary_offset = FAKE_CANARY_OFFSET;
	reply.canary_crc = crc32c(fake->arena + FAKE_CANARY_OFFSET, 64) +
			   (way == FAKE_WRONG_CANARY);
	reply.window_bytes = fake->window_bytes;
	if (way != FAKE_NO_FDS) {
		message.msg_control = control.bytes;
		message.msg_controllen = sizeof(control.bytes);
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(fds));
		memcpy(CMSG_DATA(&control.header), fds, sizeof(fds));
	}
	(void)!sendmsg(connection->fd, &message, MSG_NOSIGNAL);
	close(fds[1]);
}

void fake_serve_canary(struct fake_daemon *fake, struct fake_connection *connection,
		       enum fake_way way)
{
	const struct frame_canary *frame = (const struct frame_canary *)fake_incoming;
	struct frame_header *reply = (struct frame_header *)fake_outgoing;

	frame_start(reply, FRAME_DONE, sizeof(*reply), frame->header.request, 0);
	if (crc32c(connection->window, 64) != frame->crc)
		reply->result = -EPERM;
	fake_send(fake, connection, way, reply);
}

void fake_serve_hint(struct fake_daemon *fake, struct fake_connection *connection,
		     enum fake_way way)
{
	memset(fake_outgoing, 0, sizeof(struct frame_hint_reply));
	fake_reply(fake, connection, way, FRAME_HINT_REPLY, sizeof(struct frame_hint_reply),
		   (const struct frame_header *)fake_incoming);
}

void fake_serve_space(struct fake_daemon *fake, struct fake_connection *connection,
		      enum fake_way way)
{
	const struct frame_space *frame = (const struct frame_space *)fake_incoming;
	struct frame_space_reply *reply = (struct frame_space_reply *)fake_outgoing;

	memset(reply, 0, sizeof(*reply));
	memcpy(reply->fingerprint, frame->adapter, sizeof(reply->fingerprint));
	reply->space = 10 + fake->spaces_opened++;
	fake_reply(fake, connection, way, FRAME_SPACE_REPLY, sizeof(*reply), &frame->header);
}

void fake_serve_text(struct fake_daemon *fake, struct fake_connection *connection,
		     enum fake_way way)
{
	const char *text =
		"{\"version\":\"0.1.0\",\"catalog\":\"ok\",\"tiers\":{\"cpu\":{\"capacity_bytes\":1048576}}}";

	memcpy(fake_outgoing + sizeof(struct frame_text), text, strlen(text));
	fake_reply(fake, connection, way, FRAME_TEXT, sizeof(struct frame_text) + strlen(text),
		   (const struct frame_header *)fake_incoming);
}

void fake_serve_explain(struct fake_daemon *fake, struct fake_connection *connection,
			enum fake_way way)
{
	const struct frame_explain *frame = (const struct frame_explain *)fake_incoming;
	struct frame_explained *reply = (struct frame_explained *)fake_outgoing;
	struct frame_explained_item *items = (struct frame_explained_item *)(reply + 1);

	memset(reply, 0, sizeof(*reply));
	reply->count = frame->count;
	for (unsigned i = 0; i < frame->count; i++)
		items[i] = (struct frame_explained_item){ .reason = i % FRAME_REASONS,
							  .age_us = i * 1500000ull };
	fake_reply(fake, connection, way, FRAME_EXPLAINED,
		   sizeof(*reply) + reply->count * sizeof(*items), &frame->header);
}

void fake_serve_refusal(struct fake_daemon *fake, struct fake_connection *connection)
{
	const char *text = "refused for the test";
	struct frame_text *reply = (struct frame_text *)fake_outgoing;

	memcpy(reply + 1, text, strlen(text));
	frame_start(&reply->header, FRAME_ERROR, (uint32_t)(sizeof(*reply) + strlen(text)),
		    ((const struct frame_header *)fake_incoming)->request, 0);
	reply->header.result = fake->refusal;
	fake_send(fake, connection, FAKE_RIGHT, reply);
}
