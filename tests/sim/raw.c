/* tests/sim/raw.c: clients that lie. */
#include "tests/sim/raw.h"

#include "base/checksum.h"
#include "base/map.h"
#include "proto/frames_blocks.h"
#include "tests/sim/engine_parts.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LIAR_PAYLOAD_BYTES 5000u
#define LIAR_KEYS_MAX 4u
#define LIAR_MODEL "liar"
#define FOREIGN_BATCH UINT64_C(0xf0000000)
#define REPLY_US (UINT64_C(300) * 1000)

int raw_connect(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timeval wait = { .tv_usec = REPLY_US };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	close(fd);
	return -1;
}

static uint64_t below(struct liar *liar, uint64_t limit)
{
	return random_below(&liar->random, limit);
}

static void *frame_make(struct liar *liar, enum frame_type type, size_t bytes)
{
	memset(liar->frame, 0, bytes);
	frame_start((struct frame_header *)liar->frame, type, (uint32_t)bytes, ++liar->request,
		    liar->boot_id);
	return liar->frame;
}

/* What was delivered of a space that is not the liar's. */
static void heard_check(struct liar *liar)
{
	const struct frame_loaded *loaded = (const struct frame_loaded *)liar->incoming;
	const struct frame_loaded_item *items = (const struct frame_loaded_item *)(loaded + 1);

	if (loaded->header.type != FRAME_LOADED || loaded->batch < FOREIGN_BATCH)
		return;
	for (uint32_t i = 0; i < loaded->count; i++)
		if (items[i].result == 0)
			sim_fail("a client was given a block of a space that is not its own");
}

static ssize_t hear(struct liar *liar, int fd, int flags, int out_fds[2])
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(2 * sizeof(int))];
	} control;
	struct iovec vector = { liar->incoming, sizeof(liar->incoming) };
	struct msghdr message = { .msg_iov = &vector,
				  .msg_iovlen = 1,
				  .msg_control = control.bytes,
				  .msg_controllen = sizeof(control.bytes) };
	ssize_t bytes = recvmsg(fd, &message, flags);
	struct cmsghdr *header = bytes > 0 ? CMSG_FIRSTHDR(&message) : NULL;

	if (header != NULL && out_fds != NULL)
		memcpy(out_fds, CMSG_DATA(header), header->cmsg_len - CMSG_LEN(0));
	if (bytes > 0)
		heard_check(liar);
	return bytes;
}

static void say(struct liar *liar, int fd)
{
	const struct frame_header *header = (const struct frame_header *)liar->frame;
	uint32_t bytes = header->bytes;

	if (fd >= 0)
		(void)!send(fd, liar->frame, bytes <= FRAME_BYTES_MAX ? bytes : FRAME_BYTES_MAX,
			    MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Whether a reply of this type came. */
static bool ask(struct liar *liar, int fd, enum frame_type type, int out_fds[2])
{
	const struct frame_header *header = (const struct frame_header *)liar->incoming;
	uint64_t request = liar->request;

	say(liar, fd);
	while (hear(liar, fd, 0, out_fds) > 0)
		if (header->request == request)
			return header->type == type && header->result == 0;
	return false;
}

static bool hello(struct liar *liar, int fd, enum frame_connection connection)
{
	struct frame_hello *frame = frame_make(liar, FRAME_HELLO, sizeof(*frame));

	frame->version_min = FRAME_VERSION_MIN;
	frame->version_max = FRAME_VERSION_MAX;
	frame->connection = connection;
	if (fd < 0 || !ask(liar, fd, FRAME_HELLO_REPLY, NULL))
		return false;
	liar->boot_id = ((const struct frame_header *)liar->incoming)->boot_id;
	return true;
}

static bool liar_register(struct liar *liar)
{
	uint16_t field[2] = { FRAME_FIELD_MODEL_CONTENT, sizeof(LIAR_MODEL) - 1 };
	struct frame_register *frame;
	struct frame_group group = { .tokens_per_block = TOKENS_A_BLOCK,
				     .payload_bytes = LIAR_PAYLOAD_BYTES,
				     .segments_count = 1 };
	const struct frame_registered *reply = (const struct frame_registered *)liar->incoming;
	size_t fields_bytes = sizeof(field) + sizeof(LIAR_MODEL) - 1;
	uint8_t *at;

	frame = frame_make(liar, FRAME_REGISTER, sizeof(*frame) + sizeof(group) + fields_bytes);
	snprintf(frame->engine, sizeof(frame->engine), "liar-%u", (unsigned)below(liar, 3));
	frame->roles = FRAME_ROLE_SCHEDULER | FRAME_ROLE_WORKER;
	frame->world = 1;
	frame->groups_count = 1;
	frame->fields_count = 1;
	frame->fields_bytes = (uint32_t)fields_bytes;
	at = (uint8_t *)(frame + 1);
	memcpy(at, &group, sizeof(group));
	memcpy(at + sizeof(group), field, sizeof(field));
	memcpy(at + sizeof(group) + sizeof(field), LIAR_MODEL, sizeof(LIAR_MODEL) - 1);
	if (!ask(liar, liar->control, FRAME_REGISTERED, NULL))
		return false;
	liar->token = reply->engine_token;
	liar->space = reply->space;
	return true;
}

static bool liar_attach(struct liar *liar)
{
	struct frame_attach *frame = frame_make(liar, FRAME_ATTACH, sizeof(*frame));
	struct frame_canary *canary;
	const struct frame_attached *reply = (const struct frame_attached *)liar->incoming;
	int fds[2] = { -1, -1 };

	frame->engine_token = liar->token;
	if (!ask(liar, liar->data, FRAME_ATTACHED, fds))
		return false;
	liar->window_bytes = reply->window_bytes;
	liar->window = map_shared_aligned(fds[1], liar->window_bytes, PROT_READ | PROT_WRITE);
	if (liar->window == MAP_FAILED)
		return false;
	canary = frame_make(liar, FRAME_CANARY, sizeof(*canary));
	canary->crc = crc32c(liar->window, 64);
	return ask(liar, liar->data, FRAME_DONE, NULL);
}

/* ---- what it says ---- */

static uint16_t keys_fill(struct liar *liar, uint8_t *target, size_t stride)
{
	uint16_t count = (uint16_t)(1 + below(liar, LIAR_KEYS_MAX));
	unsigned chain = (unsigned)below(liar, 6), first = (unsigned)below(liar, 6);

	for (unsigned i = 0; i < count; i++)
		model_hash(chain, first + i, target + i * stride);
	((struct frame_header *)liar->frame)->bytes += (uint32_t)(count * stride);
	return count;
}

static void say_store(struct liar *liar)
{
	struct frame_store *frame;

	memset(liar->frame, 0, 4096);
	frame = frame_make(liar, FRAME_STORE, sizeof(*frame));
	frame->batch = ++liar->batch;
	frame->deadline_us = below(liar, SECOND_US);
	frame->space = below(liar, 3) == 0 ? (uint32_t)below(liar, 8) : liar->space;
	frame->first_position = (uint32_t)below(liar, 3);
	frame->count = keys_fill(liar, (uint8_t *)(frame + 1), sizeof(struct frame_store_item));
}

/* Also of batches that are not there, with places outside of the window and wrong checksums. */
static void say_commit(struct liar *liar)
{
	size_t item_bytes = frame_commit_item_bytes(1);
	struct frame_commit *frame;
	struct frame_commit_item *item;
	uint32_t crc;

	memset(liar->frame, 0, 4096);
	frame = frame_make(liar, FRAME_COMMIT, sizeof(*frame) + item_bytes);
	item = (struct frame_commit_item *)(frame + 1);
	frame->batch = below(liar, liar->batch + 2);
	frame->count = 1;
	item->index = (uint32_t)below(liar, LIAR_KEYS_MAX);
	item->segments_count = 1;
	item->window_offset = below(liar, liar->window_bytes / 64 + 100) * 64;
	if (item->window_offset + LIAR_PAYLOAD_BYTES > liar->window_bytes)
		return;
	memset(liar->window + item->window_offset, (int)below(liar, 256), LIAR_PAYLOAD_BYTES);
	crc = crc32c(liar->window + item->window_offset, LIAR_PAYLOAD_BYTES);
	crc ^= below(liar, 3) == 0;
	memcpy(item + 1, &crc, sizeof(crc));
	if (below(liar, 4) == 0)
		liar->window[item->window_offset] ^= 1;
}

static void say_load(struct liar *liar)
{
	struct frame_load *frame;
	bool is_foreign = below(liar, 2) == 0;

	memset(liar->frame, 0, 4096);
	frame = frame_make(liar, FRAME_LOAD, sizeof(*frame));
	frame->batch = ++liar->batch + (is_foreign ? FOREIGN_BATCH : 0);
	frame->space = is_foreign ? (liar->space + 1 + (uint32_t)below(liar, 8)) % 16
				  : liar->space;
	if (frame->space == liar->space)
		frame->batch = liar->batch;
	frame->lease = below(liar, 3) == 0 ? below(liar, 64) : 0;
	frame->deadline_us = below(liar, SECOND_US);
	frame->count = keys_fill(liar, (uint8_t *)(frame + 1), FRAME_HASH_BYTES);
}

static void say_release(struct liar *liar)
{
	struct frame_release *frame;
	struct frame_release_item *items;

	memset(liar->frame, 0, 4096);
	frame = frame_make(liar, FRAME_RELEASE, sizeof(*frame) + 2 * sizeof(*items));
	items = (struct frame_release_item *)(frame + 1);
	frame->batch = below(liar, liar->batch + 2);
	frame->count = 2;
	for (unsigned i = 0; i < 2; i++)
		items[i] = (struct frame_release_item){
			.index = (uint32_t)below(liar, LIAR_KEYS_MAX + 1),
			.bad = below(liar, 2) == 0,
		};
}

static void say_control(struct liar *liar)
{
	unsigned kind = (unsigned)below(liar, 5);

	memset(liar->frame, 0, 4096);
	if (kind == 0) {
		struct frame_lease_release *frame = frame_make(liar, FRAME_LEASE_RELEASE,
							       sizeof(*frame));
		frame->lease = below(liar, 64);
	} else if (kind == 1) {
		struct frame_hint *frame = frame_make(liar, FRAME_HINT, sizeof(*frame));

		frame->space = (uint32_t)below(liar, 8);
		frame->kind = (uint32_t)below(liar, FRAME_HINTS);
		frame->retain_us = below(liar, SECOND_US);
		frame->count = keys_fill(liar, (uint8_t *)(frame + 1), FRAME_HASH_BYTES);
	} else if (kind == 2) {
		struct frame_forget *frame = frame_make(liar, FRAME_FORGET, sizeof(*frame));

		frame->space = liar->space;
	} else if (kind == 3) {
		struct frame_explain *frame = frame_make(liar, FRAME_EXPLAIN, sizeof(*frame));

		frame->space = (uint32_t)below(liar, 8);
		frame->count = keys_fill(liar, (uint8_t *)(frame + 1), FRAME_HASH_BYTES);
	} else {
		struct frame_header *frame = frame_make(liar, (enum frame_type)below(liar, 80),
							sizeof(struct frame_header) +
								below(liar, 200));

		for (uint32_t i = sizeof(*frame); i < frame->bytes; i++)
			liar->frame[i] = (uint8_t)below(liar, 256);
	}
}

static void liar_step(struct liar *liar)
{
	static void (*const ways[])(struct liar *liar) = { say_store,	say_store, say_commit,
							   say_commit,	say_load,  say_load,
							   say_release, say_control };
	unsigned way = (unsigned)below(liar, sizeof(ways) / sizeof(ways[0]));
	bool is_control = ways[way] == say_control || below(liar, 20) == 0;

	ways[way](liar);
	if (ways[way] != say_load && below(liar, 12) == 0)
		liar->frame[below(liar, ((const struct frame_header *)liar->frame)->bytes)] ^=
			(uint8_t)(1 + below(liar, 255));
	say(liar, is_control ? liar->control : liar->data);
	if (below(liar, 3) == 0) {
		while (hear(liar, liar->data, MSG_DONTWAIT, NULL) > 0)
			;
		while (hear(liar, liar->control, MSG_DONTWAIT, NULL) > 0)
			;
	}
}

static void *liar_live(void *argument)
{
	struct liar *liar = argument;

	liar->control = raw_connect(node_socket(liar->node, liar->tenant));
	if (!hello(liar, liar->control, FRAME_CONTROL) || !liar_register(liar))
		process_exit();
	liar->data = raw_connect(node_socket(liar->node, liar->tenant));
	if (!hello(liar, liar->data, FRAME_DATA) || !liar_attach(liar))
		process_exit();
	for (unsigned i = 0; i < liar->steps; i++) {
		struct timespec pause = { .tv_nsec = (long)below(liar, 2000000) };

		liar_step(liar);
		if (below(liar, 2) == 0)
			nanosleep(&pause, NULL);
	}
	process_exit();
}

void liar_start(struct liar *liar, struct node *node, unsigned tenant, uint64_t seed)
{
	liar_kill(liar);
	memset(liar, 0, offsetof(struct liar, frame));
	liar->node = node;
	liar->tenant = tenant;
	random_init(&liar->random, seed);
	liar->steps = 5 + (unsigned)below(liar, 40);
	liar->control = liar->data = -1;
	liar->process = process_start("liar", liar_live, liar);
}

void liar_kill(struct liar *liar)
{
	process_release(liar->process);
	liar->process = NULL;
}
