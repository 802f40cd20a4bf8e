/* tests/client/fake_daemon.c: see fake_daemon.h. One thread, one poll loop; its lock is held while
 * a frame is served. */
#include "tests/client/fake_daemon.h"

#include "base/checksum.h"
#include "base/random.h"
#include "transfer/slot_header.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define ARENA_BYTES (8u << 20)
#define UNITS_OFFSET 4096u
#define CANARY_OFFSET 64u

static _Alignas(64) uint8_t incoming[FRAME_BYTES_MAX];
static _Alignas(64) uint8_t outgoing[FRAME_BYTES_MAX];

static struct slot_header *fake_slot(struct fake_daemon *fake, unsigned slot)
{
	return (struct slot_header *)(fake->arena + UNITS_OFFSET + slot * fake->slot_bytes);
}

static int fake_find(struct fake_daemon *fake, const uint8_t *hash)
{
	for (int i = 0; i < FAKE_SLOTS; i++)
		if (fake->slots[i].is_used &&
		    memcmp(fake->slots[i].hash, hash, FRAME_HASH_BYTES) == 0)
			return i;
	return -1;
}

static void connection_close(struct fake_connection *connection, uint64_t window_bytes)
{
	if (connection->fd >= 0)
		close(connection->fd);
	if (connection->window != NULL)
		munmap(connection->window, window_bytes);
	memset(connection, 0, sizeof(*connection));
	connection->fd = -1;
}

static void frame_send(struct fake_daemon *fake, struct fake_connection *connection,
		       enum fake_way way, void *frame)
{
	struct frame_header *header = frame;

	header->boot_id = fake->boot_id + (way == FAKE_WRONG_BOOT);
	if (way == FAKE_GARBAGE)
		header->magic ^= 1;
	if (way == FAKE_STRANGER)
		header->request += 1000;
	if (way == FAKE_LATE) {
		memcpy(connection->late, frame, header->bytes);
		connection->late_bytes = header->bytes;
		return;
	}
	(void)!send(connection->fd, frame, header->bytes, MSG_NOSIGNAL);
}

static void reply_done(struct fake_daemon *fake, struct fake_connection *connection,
		       enum fake_way way, enum frame_type type, size_t bytes,
		       const struct frame_header *request)
{
	frame_start((struct frame_header *)outgoing, type, (uint32_t)bytes, request->request, 0);
	frame_send(fake, connection, way, outgoing);
}

static void serve_hello(struct fake_daemon *fake, struct fake_connection *connection,
			enum fake_way way)
{
	const struct frame_hello *frame = (const struct frame_hello *)incoming;
	struct frame_hello_reply *reply = (struct frame_hello_reply *)outgoing;

	connection->is_data = frame->connection == FRAME_DATA;
	memset(reply, 0, sizeof(*reply));
	reply->version = 1;
	reply->keys_max = FRAME_LOOKUP_KEYS_MAX;
	reply->window_bytes = fake->window_bytes;
	reply->batches_max = 4;
	reply->load_window_blocks = 64;
	strcpy(reply->tenant, "default");
	reply_done(fake, connection, way, FRAME_HELLO_REPLY, sizeof(*reply), &frame->header);
}

static void serve_register(struct fake_daemon *fake, struct fake_connection *connection,
			   enum fake_way way)
{
	const struct frame_register *frame = (const struct frame_register *)incoming;
	struct frame_registered *reply = (struct frame_registered *)outgoing;

	fake->group = frame_register_groups(frame)[0];
	fake->slot_bytes = slot_bytes_for(fake->group.payload_bytes);
	memset(reply, 0, sizeof(*reply));
	memcpy(reply->fingerprint, fake->fingerprint, sizeof(reply->fingerprint));
	reply->engine_token = 77;
	reply->space = 5;
	reply->ranks_missing = fake->ranks_missing;
	reply_done(fake, connection, way, FRAME_REGISTERED, sizeof(*reply), &frame->header);
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

static void serve_attach(struct fake_daemon *fake, struct fake_connection *connection,
			 enum fake_way way)
{
	const struct frame_attach *frame = (const struct frame_attach *)incoming;
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
	reply.arena_units_offset = UNITS_OFFSET;
	reply.canary_offset = CANARY_OFFSET;
	reply.canary_crc = crc32c(fake->arena + CANARY_OFFSET, 64) + (way == FAKE_WRONG_CANARY);
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

static void serve_canary(struct fake_daemon *fake, struct fake_connection *connection,
			 enum fake_way way)
{
	const struct frame_canary *frame = (const struct frame_canary *)incoming;
	struct frame_header *reply = (struct frame_header *)outgoing;

	frame_start(reply, FRAME_DONE, sizeof(*reply), frame->header.request, 0);
	if (crc32c(connection->window, 64) != frame->crc)
		reply->result = -EPERM;
	frame_send(fake, connection, way, reply);
}

static void serve_lookup(struct fake_daemon *fake, struct fake_connection *connection,
			 enum fake_way way)
{
	const struct frame_lookup *frame = (const struct frame_lookup *)incoming;
	struct frame_found *reply = (struct frame_found *)outgoing;
	const uint8_t(*hashes)[FRAME_HASH_BYTES];
	const struct frame_keys *keys;
	size_t position = 0;
	uint32_t leading = 0;

	if (connection->lookup_request != frame->header.request) {
		connection->lookup_request = frame->header.request;
		connection->keys_count = 0;
		memset(connection->present, 0, sizeof(connection->present));
	}
	while ((keys = frame_lookup_next(frame, &position, &hashes)) != NULL) {
		for (unsigned i = 0; i < keys->count; i++, connection->keys_count++)
			if (fake_find(fake, hashes[i]) >= 0)
				connection->present[connection->keys_count / 8] |=
					(uint8_t)(1 << connection->keys_count % 8);
	}
	if ((frame->header.flags & FRAME_LAST) == 0)
		return;
	fake->lookup_keys = connection->keys_count;
	memset(reply, 0, sizeof(*reply));
	while (leading < connection->keys_count &&
	       (connection->present[leading / 8] >> leading % 8 & 1) != 0)
		leading++;
	reply->keys_count = connection->keys_count;
	reply->usable_tokens = reply->worth_tokens = leading * fake->group.tokens_per_block;
	reply->lease = frame->lease_us > 0 && leading > 0 ? 9 : 0;
	reply->runs_count = 1;
	*(struct frame_run *)(reply + 1) = (struct frame_run){ .tokens = reply->usable_tokens,
							       .restore_us = 100 };
	memcpy((uint8_t *)(reply + 1) + sizeof(struct frame_run), connection->present,
	       (reply->keys_count + 7) / 8);
	frame_start(
		&reply->header, FRAME_FOUND,
		(uint32_t)(sizeof(*reply) + sizeof(struct frame_run) + (reply->keys_count + 7) / 8),
		frame->header.request, 0);
	if (fake->ranks_missing > 0) {
		memset(reply + 1, 0, sizeof(struct frame_run));
		reply->usable_tokens = reply->worth_tokens = reply->keys_count = reply->runs_count =
			0;
		reply->header.bytes = sizeof(*reply);
		reply->header.result = -EAGAIN;
	}
	frame_send(fake, connection, way, reply);
}

static struct fake_batch *batch_open(struct fake_connection *connection, uint64_t number,
				     uint32_t count)
{
	struct fake_batch *batch = &connection->batches[connection->batches_count++ % 16];

	batch->number = number;
	batch->count = count;
	return batch;
}

static struct fake_batch *batch_find(struct fake_connection *connection, uint64_t number)
{
	for (unsigned i = 0; i < 16; i++)
		if (connection->batches[i].number == number)
			return &connection->batches[i];
	return NULL;
}

static void serve_store(struct fake_daemon *fake, struct fake_connection *connection,
			enum fake_way way)
{
	const struct frame_store *frame = (const struct frame_store *)incoming;
	const struct frame_store_item *items = (const struct frame_store_item *)(frame + 1);
	struct frame_store_reply *reply = (struct frame_store_reply *)outgoing;
	struct fake_batch *batch = batch_open(connection, frame->batch, frame->count);
	uint8_t *admissions = (uint8_t *)(reply + 1);

	memset(reply, 0, sizeof(*reply));
	frame_start(&reply->header, FRAME_STORE_REPLY, (uint32_t)(sizeof(*reply) + frame->count),
		    frame->header.request, 0);
	reply->batch = frame->batch;
	reply->count = frame->count;
	for (unsigned i = 0; i < frame->count; i++) {
		memcpy(batch->hashes[i], items[i].hash, FRAME_HASH_BYTES);
		admissions[i] = fake_find(fake, items[i].hash) >= 0 ? FRAME_PRESENT
								    : FRAME_ADMITTED;
		reply->wanted_count += admissions[i] == FRAME_ADMITTED;
	}
	frame_send(fake, connection, way, reply);
}

/* Copies a committed block into a slot, as a mill does. */
static int block_keep(struct fake_daemon *fake, struct fake_connection *connection,
		      const uint8_t *hash, const struct frame_commit_item *item,
		      const uint32_t *crcs)
{
	uint64_t segment_bytes = slot_segment_bytes(fake->group.payload_bytes,
						    item->segments_count);
	struct slot_header *header;
	int slot = 0;

	while (slot < FAKE_SLOTS && fake->slots[slot].is_used)
		slot++;
	if (slot == FAKE_SLOTS)
		return -ENOSPC;
	if (item->window_offset % 64 != 0 ||
	    item->window_offset + fake->group.payload_bytes > fake->window_bytes)
		return -EPROTO;
	header = fake_slot(fake, (unsigned)slot);
	memset(header, 0, sizeof(*header));
	memcpy(header + 1, connection->window + item->window_offset, fake->group.payload_bytes);
	for (uint32_t i = 0; i < item->segments_count; i++) {
		uint64_t left = fake->group.payload_bytes - i * segment_bytes;

		header->identity.segment_crcs[i] = crc32c(
			(uint8_t *)(header + 1) + i * segment_bytes,
			left < segment_bytes ? left : segment_bytes);
		if (header->identity.segment_crcs[i] != crcs[i])
			return -EBADMSG;
	}
	memcpy(header->identity.space, fake->fingerprint, SPACE_ID_BYTES);
	memcpy(header->identity.hash, hash, BLOCK_HASH_BYTES);
	header->identity.payload_bytes = fake->group.payload_bytes;
	header->identity.segments_count = item->segments_count;
	header->identity.shards_count = 1;
	slot_identity_seal(header);
	header->address[TIER_CPU].offset = (uint64_t)slot * fake->slot_bytes;
	header->address[TIER_CPU].slot_generation = ++fake->slots[slot].generation;
	slot_address_seal(&header->address[TIER_CPU]);
	fake->slots[slot].is_used = true;
	memcpy(fake->slots[slot].hash, hash, FRAME_HASH_BYTES);
	return 0;
}

static void serve_commit(struct fake_daemon *fake, struct fake_connection *connection,
			 enum fake_way way)
{
	const struct frame_commit *frame = (const struct frame_commit *)incoming;
	struct frame_committed *event = (struct frame_committed *)outgoing;
	struct frame_result *results = (struct frame_result *)(event + 1);
	struct fake_batch *batch = batch_find(connection, frame->batch);
	const struct frame_commit_item *item;
	const uint32_t *crcs;
	size_t position = 0;

	memset(event, 0, sizeof(*event));
	while (batch != NULL && (item = frame_commit_next(frame, &position, &crcs)) != NULL) {
		results[event->count].index = item->index;
		results[event->count++].result = block_keep(fake, connection,
							    batch->hashes[item->index], item, crcs);
	}
	event->batch = frame->batch;
	frame_start(&event->header, FRAME_COMMITTED,
		    (uint32_t)(sizeof(*event) + event->count * sizeof(*results)), 0, 0);
	frame_send(fake, connection, way, event);
	if (way == FAKE_TWICE)
		frame_send(fake, connection, way, event);
}

static void serve_load(struct fake_daemon *fake, struct fake_connection *connection,
		       enum fake_way way)
{
	const struct frame_load *frame = (const struct frame_load *)incoming;
	const uint8_t(*hashes)[FRAME_HASH_BYTES] = (const uint8_t(*)[FRAME_HASH_BYTES])(frame + 1);
	struct frame_loaded *event = (struct frame_loaded *)outgoing;
	struct frame_loaded_item *items = (struct frame_loaded_item *)(event + 1);

	memset(event, 0, sizeof(*event));
	event->batch = frame->batch;
	event->count = frame->count;
	for (unsigned i = 0; i < frame->count; i++) {
		int slot = fake_find(fake, hashes[i]);

		items[i] = (struct frame_loaded_item){ .index = i,
						       .result = slot < 0 ? -ENOENT : 0 };
		if (slot < 0)
			continue;
		items[i].offset = (uint64_t)slot * fake->slot_bytes;
		items[i].slot_generation = fake->slots[slot].generation;
		if (way == FAKE_OUTSIDE)
			items[i].offset = fake->arena_bytes - 4096;
		if (way == FAKE_DAMAGED && i == 0)
			((uint8_t *)(fake_slot(fake, (unsigned)slot) + 1))[10] ^= 4;
		if (way == FAKE_REUSED && i == 0) {
			fake_slot(fake, (unsigned)slot)->identity.hash[0] ^= 1;
			slot_identity_seal(fake_slot(fake, (unsigned)slot));
		}
	}
	frame_start(&event->header, FRAME_LOADED,
		    (uint32_t)(sizeof(*event) + event->count * sizeof(*items)), 0, 0);
	frame_send(fake, connection, way, event);
	if (way == FAKE_TWICE)
		frame_send(fake, connection, way, event);
}

static void serve_release(struct fake_daemon *fake)
{
	const struct frame_release *frame = (const struct frame_release *)incoming;
	const struct frame_release_item *items = (const struct frame_release_item *)(frame + 1);

	for (unsigned i = 0; i < frame->count; i++) {
		fake->released_bad += items[i].bad;
		fake->released_good += !items[i].bad;
	}
}

static void serve_space(struct fake_daemon *fake, struct fake_connection *connection,
			enum fake_way way)
{
	const struct frame_space *frame = (const struct frame_space *)incoming;
	struct frame_space_reply *reply = (struct frame_space_reply *)outgoing;

	memset(reply, 0, sizeof(*reply));
	memcpy(reply->fingerprint, frame->adapter, sizeof(reply->fingerprint));
	reply->space = 10 + fake->spaces_opened++;
	reply_done(fake, connection, way, FRAME_SPACE_REPLY, sizeof(*reply), &frame->header);
}

static void serve_text(struct fake_daemon *fake, struct fake_connection *connection,
		       enum fake_way way)
{
	const char *text =
		"{\"version\":\"0.1.0\",\"catalog\":\"ok\",\"tiers\":{\"cpu\":{\"capacity_bytes\":1048576}}}";

	memcpy(outgoing + sizeof(struct frame_text), text, strlen(text));
	reply_done(fake, connection, way, FRAME_TEXT, sizeof(struct frame_text) + strlen(text),
		   (const struct frame_header *)incoming);
}

static void serve_explain(struct fake_daemon *fake, struct fake_connection *connection,
			  enum fake_way way)
{
	const struct frame_explain *frame = (const struct frame_explain *)incoming;
	struct frame_explained *reply = (struct frame_explained *)outgoing;
	struct frame_explained_item *items = (struct frame_explained_item *)(reply + 1);

	memset(reply, 0, sizeof(*reply));
	reply->count = frame->count;
	for (unsigned i = 0; i < frame->count; i++)
		items[i] = (struct frame_explained_item){ .reason = i % FRAME_REASONS,
							  .age_us = i * 1500000ull };
	reply_done(fake, connection, way, FRAME_EXPLAINED,
		   sizeof(*reply) + reply->count * sizeof(*items), &frame->header);
}

static void serve_refusal(struct fake_daemon *fake, struct fake_connection *connection)
{
	const char *text = "refused for the test";
	struct frame_text *reply = (struct frame_text *)outgoing;

	memcpy(reply + 1, text, strlen(text));
	frame_start(&reply->header, FRAME_ERROR, (uint32_t)(sizeof(*reply) + strlen(text)),
		    ((const struct frame_header *)incoming)->request, 0);
	reply->header.result = fake->refusal;
	frame_send(fake, connection, FAKE_RIGHT, reply);
}

static void serve_frame(struct fake_daemon *fake, struct fake_connection *connection,
			enum fake_way way)
{
	const struct frame_header *header = (const struct frame_header *)incoming;

	switch (header->type) {
	case FRAME_HELLO:
		serve_hello(fake, connection, way);
		break;
	case FRAME_REGISTER:
		serve_register(fake, connection, way);
		break;
	case FRAME_ATTACH:
		serve_attach(fake, connection, way);
		break;
	case FRAME_CANARY:
		serve_canary(fake, connection, way);
		break;
	case FRAME_SPACE:
		serve_space(fake, connection, way);
		break;
	case FRAME_LOOKUP:
		serve_lookup(fake, connection, way);
		break;
	case FRAME_STORE:
		serve_store(fake, connection, way);
		break;
	case FRAME_COMMIT:
		serve_commit(fake, connection, way);
		break;
	case FRAME_LOAD:
		serve_load(fake, connection, way);
		break;
	case FRAME_RELEASE:
		serve_release(fake);
		break;
	case FRAME_HINT:
		memset(outgoing, 0, sizeof(struct frame_hint_reply));
		reply_done(fake, connection, way, FRAME_HINT_REPLY, sizeof(struct frame_hint_reply),
			   header);
		break;
	case FRAME_FORGET:
	case FRAME_BYPASS:
		reply_done(fake, connection, way, FRAME_DONE, sizeof(struct frame_header), header);
		break;
	case FRAME_STATS:
		serve_text(fake, connection, way);
		break;
	case FRAME_EXPLAIN:
		serve_explain(fake, connection, way);
		break;
	default:
		break;
	}
}

static void serve_packet(struct fake_daemon *fake, struct fake_connection *connection, size_t bytes)
{
	const struct frame_header *header = (const struct frame_header *)incoming;
	struct error error = { .code = 0 };
	enum fake_way way;

	if (frame_check(incoming, bytes, false, &error) < 0) {
		fprintf(stderr, "fake daemon: a client sent a wrong frame: %s\n", error.text);
		abort();
	}
	if (connection->late_bytes > 0) {
		(void)!send(connection->fd, connection->late, connection->late_bytes, MSG_NOSIGNAL);
		connection->late_bytes = 0;
	}
	way = fake->ways[header->type];
	if (fake->ways_left[header->type] > 0 && --fake->ways_left[header->type] == 0)
		fake->ways[header->type] = FAKE_RIGHT;
	if (way == FAKE_CLOSE)
		connection_close(connection, fake->window_bytes);
	else if (way == FAKE_REFUSE)
		serve_refusal(fake, connection);
	else if (way != FAKE_SILENT)
		serve_frame(fake, connection, way);
	fake->seen[header->type]++;
	pthread_cond_broadcast(&fake->changed);
}

static void fake_accept(struct fake_daemon *fake)
{
	int fd = accept4(fake->listen_fd, NULL, NULL, SOCK_CLOEXEC);

	for (unsigned i = 0; fd >= 0 && i < FAKE_CONNECTIONS_MAX; i++) {
		if (fake->connections[i].fd < 0) {
			fake->connections[i].fd = fd;
			return;
		}
	}
	if (fd >= 0)
		close(fd);
}

static void fake_forget_all(struct fake_daemon *fake)
{
	for (unsigned i = 0; i < FAKE_CONNECTIONS_MAX; i++)
		connection_close(&fake->connections[i], fake->window_bytes);
	memset(fake->slots, 0, sizeof(fake->slots));
	fake->boot_id += 100;
	fake->must_restart = false;
	pthread_cond_broadcast(&fake->changed);
}

static void *fake_run(void *argument)
{
	struct fake_daemon *fake = argument;

	for (;;) {
		struct pollfd fds[2 + FAKE_CONNECTIONS_MAX] = {
			{ .fd = fake->listen_fd, .events = POLLIN },
			{ .fd = fake->wake_fd, .events = POLLIN },
		};
		uint64_t drained;

		pthread_mutex_lock(&fake->lock);
		for (unsigned i = 0; i < FAKE_CONNECTIONS_MAX; i++)
			fds[2 + i] = (struct pollfd){ .fd = fake->connections[i].fd,
						      .events = POLLIN };
		pthread_mutex_unlock(&fake->lock);
		poll(fds, 2 + FAKE_CONNECTIONS_MAX, -1);
		pthread_mutex_lock(&fake->lock);
		if (fds[1].revents != 0)
			(void)!read(fake->wake_fd, &drained, sizeof(drained));
		if (fake->is_stopping)
			break;
		for (unsigned i = 0; i < FAKE_CONNECTIONS_MAX; i++) {
			struct fake_connection *connection = &fake->connections[i];
			ssize_t bytes;

			if (fds[2 + i].revents == 0 || connection->fd != fds[2 + i].fd)
				continue;
			bytes = recv(connection->fd, incoming, sizeof(incoming), MSG_DONTWAIT);
			if (bytes > 0)
				serve_packet(fake, connection, (size_t)bytes);
			else if (bytes == 0 || errno != EAGAIN)
				connection_close(connection, fake->window_bytes);
		}
		if (fake->must_restart)
			fake_forget_all(fake);
		if (fds[0].revents != 0)
			fake_accept(fake);
		pthread_mutex_unlock(&fake->lock);
	}
	pthread_mutex_unlock(&fake->lock);
	return NULL;
}

static void arena_make(struct fake_daemon *fake)
{
	char path[64];

	fake->arena_fd = memfd_create("arena", MFD_CLOEXEC);
	fake->arena_bytes = ARENA_BYTES;
	if (ftruncate(fake->arena_fd, ARENA_BYTES) < 0)
		abort();
	fake->arena = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fake->arena_fd,
			   0);
	random_system(fake->arena + CANARY_OFFSET, 64);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fake->arena_fd);
	fake->arena_read_fd = open(path, O_RDONLY | O_CLOEXEC);
}

void fake_start(struct fake_daemon *fake, uint64_t window_bytes)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	memset(fake, 0, sizeof(*fake));
	fake->connections = calloc(FAKE_CONNECTIONS_MAX, sizeof(*fake->connections));
	for (unsigned i = 0; i < FAKE_CONNECTIONS_MAX; i++)
		fake->connections[i].fd = -1;
	fake->window_bytes = window_bytes;
	fake->boot_id = 1000;
	memset(fake->fingerprint, 0x5a, sizeof(fake->fingerprint));
	pthread_mutex_init(&fake->lock, NULL);
	pthread_cond_init(&fake->changed, NULL);
	arena_make(fake);
	strcpy(fake->directory, "/tmp/kvtier-fake-XXXXXX");
	if (mkdtemp(fake->directory) == NULL)
		abort();
	snprintf(fake->path, sizeof(fake->path), "%s/kv.sock", fake->directory);
	strcpy(address.sun_path, fake->path);
	fake->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	fake->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (bind(fake->listen_fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(fake->listen_fd, 8) < 0)
		abort();
	pthread_create(&fake->thread, NULL, fake_run, fake);
}

static void fake_wake(struct fake_daemon *fake)
{
	uint64_t one = 1;

	(void)!write(fake->wake_fd, &one, sizeof(one));
}

void fake_stop(struct fake_daemon *fake)
{
	pthread_mutex_lock(&fake->lock);
	fake->is_stopping = true;
	pthread_mutex_unlock(&fake->lock);
	fake_wake(fake);
	pthread_join(fake->thread, NULL);
	for (unsigned i = 0; i < FAKE_CONNECTIONS_MAX; i++)
		connection_close(&fake->connections[i], fake->window_bytes);
	free(fake->connections);
	munmap(fake->arena, ARENA_BYTES);
	close(fake->arena_fd);
	close(fake->arena_read_fd);
	close(fake->listen_fd);
	close(fake->wake_fd);
	unlink(fake->path);
	rmdir(fake->directory);
}

void fake_set(struct fake_daemon *fake, enum frame_type type, enum fake_way way, unsigned times)
{
	pthread_mutex_lock(&fake->lock);
	fake->ways[type] = way;
	fake->ways_left[type] = times;
	pthread_mutex_unlock(&fake->lock);
}

void fake_restart(struct fake_daemon *fake)
{
	pthread_mutex_lock(&fake->lock);
	fake->must_restart = true;
	fake_wake(fake);
	while (fake->must_restart)
		pthread_cond_wait(&fake->changed, &fake->lock);
	pthread_mutex_unlock(&fake->lock);
}

unsigned fake_seen(struct fake_daemon *fake, enum frame_type type)
{
	unsigned seen;

	pthread_mutex_lock(&fake->lock);
	seen = fake->seen[type];
	pthread_mutex_unlock(&fake->lock);
	return seen;
}

void fake_wait_seen(struct fake_daemon *fake, enum frame_type type, unsigned count)
{
	pthread_mutex_lock(&fake->lock);
	while (fake->seen[type] < count)
		pthread_cond_wait(&fake->changed, &fake->lock);
	pthread_mutex_unlock(&fake->lock);
}

void fake_reuse_slot(struct fake_daemon *fake, const uint8_t *hash)
{
	int slot;

	pthread_mutex_lock(&fake->lock);
	slot = fake_find(fake, hash);
	assert(slot >= 0);
	slot_header_clear(fake_slot(fake, (unsigned)slot));
	memset(fake_slot(fake, (unsigned)slot) + 1, 0xee, fake->group.payload_bytes);
	fake->slots[slot].generation++;
	fake->slots[slot].is_used = false;
	pthread_mutex_unlock(&fake->lock);
}
