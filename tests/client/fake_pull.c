/*
 * tests/client/fake_pull.c: the fake daemon pulls: it maps the descriptors that are lent and copies
 * between them and its slots, and shares the words of jobs, as the process of a GPU does.
 */
#include "tests/client/fake_parts.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void lent_forget(struct fake_pull *pull)
{
	for (unsigned i = 0; i < FAKE_REGIONS_MAX; i++)
		if (pull->regions[i] != NULL)
			munmap(pull->regions[i], pull->region_bytes[i]);
	memset(pull->regions, 0, sizeof(pull->regions));
	free(pull->packet);
	pull->packet = NULL;
	if (pull->words != NULL && pull->words != pull->held_words)
		munmap(pull->words, sizeof(*pull->words));
	pull->words = NULL;
}

static void *lent_map(int fd, uint64_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	assert(memory != MAP_FAILED);
	return memory;
}

/* Each region of one descriptor. */
static void lent_take(struct fake_pull *pull, const struct frame_lend *frame)
{
	size_t bytes = frame->header.bytes - sizeof(*frame);
	struct error error;
	struct lend_view view;
	int result;

	lent_forget(pull);
	pull->packet = malloc(bytes);
	memcpy(pull->packet, frame + 1, bytes);
	result = lend_read(pull->packet, bytes, &view, &error);
	assert(result == 0 && view.head->regions_count <= FAKE_REGIONS_MAX);
	assert(fake_fds_count == 1 + view.head->fds_count);
	pull->words = lent_map(fake_fds[0], sizeof(*pull->words));
	for (unsigned i = 0; i < view.head->fds_count; i++) {
		pull->region_bytes[i] = view.fd_bytes[i];
		pull->regions[i] = lent_map(fake_fds[1 + i], view.fd_bytes[i]);
	}
}

void fake_serve_lend(struct fake_daemon *fake, struct fake_connection *connection,
		     enum fake_way way)
{
	const struct frame_lend *frame = (const struct frame_lend *)fake_incoming;
	struct frame_lent reply = { .has_word = fake->pull.has_word };
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { .bytes = { 0 } };
	struct iovec iovec = { &reply, sizeof(reply) };
	struct msghdr message = { .msg_iov = &iovec, .msg_iovlen = 1 };

	lent_take(&fake->pull, frame);
	frame_start(&reply.header, FRAME_LENT, sizeof(reply), frame->header.request,
		    fake->boot_id);
	if (way != FAKE_NO_FDS) {
		message.msg_control = control.bytes;
		message.msg_controllen = sizeof(control.bytes);
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.header),
		       way == FAKE_WRONG_FD ? &fake->wake_fd : &fake->pull.process_fd, sizeof(int));
	}
	(void)!sendmsg(connection->fd, &message, MSG_NOSIGNAL);
}

static void block_copy(const struct fake_pull *pull, uint32_t block, uint8_t *slot, bool is_store)
{
	struct lend_view view;
	int result = lend_read(pull->packet, lend_bytes(pull->packet), &view, NULL);

	assert(result == 0 && block < view.groups[0].blocks_count);
	for (uint32_t i = 0; i < view.groups[0].planes_count; i++) {
		const struct lend_plane *plane = &view.planes[i];
		uint8_t *part = pull->regions[plane->region] + plane->offset +
				block * plane->stride;

		if (is_store)
			memcpy(slot, part, plane->bytes);
		else
			memcpy(part, slot, plane->bytes);
		slot += plane->bytes;
	}
}

/* Before anybody is told, as the process of a GPU does it. */
static void word_leave(struct fake_pull *pull)
{
	job_word_leave(pull->ending);
	pull->ending = NULL;
}

static void store_end(struct fake_daemon *fake, struct fake_connection *connection,
		      enum fake_way way, const struct frame_store *frame)
{
	const struct frame_store_item *items = (const struct frame_store_item *)(frame + 1);
	struct fake_batch *batch = fake_batch_find(connection, frame->batch);
	struct frame_copied *event = (struct frame_copied *)fake_outgoing;
	struct frame_result *results = (struct frame_result *)(event + 1);

	memset(event, 0, sizeof(*event));
	for (uint32_t i = 0; i < frame->count; i++) {
		if (fake_find(fake, items[i].hash) >= 0)
			continue;
		batch->slots[i] = fake_slot_take(fake);
		assert(batch->slots[i] >= 0);
		block_copy(&fake->pull, items[i].engine_block,
			   (uint8_t *)(fake_slot(fake, (unsigned)batch->slots[i]) + 1), true);
		results[event->count++] = (struct frame_result){ .index = i };
	}
	word_leave(&fake->pull);
	if (event->count == 0)
		return;
	if (way == FAKE_WRONG_ITEM)
		results[0].index = frame->count;
	event->batch = frame->batch;
	frame_start(&event->header, FRAME_COPIED,
		    (uint32_t)(sizeof(*event) + event->count * sizeof(*results)), 0, 0);
	fake_send(fake, connection, FAKE_RIGHT, event);
	if (way == FAKE_TWICE)
		fake_send(fake, connection, FAKE_RIGHT, event);
}

static void load_end(struct fake_daemon *fake, struct fake_connection *connection,
		     enum fake_way way, const struct frame_load *frame)
{
	const uint8_t(*hashes)[FRAME_HASH_BYTES] = (const uint8_t(*)[FRAME_HASH_BYTES])(frame + 1);
	const uint32_t *engine_blocks = (const uint32_t *)(hashes + frame->count);
	struct frame_loaded *event = (struct frame_loaded *)fake_outgoing;
	struct frame_loaded_item *items = (struct frame_loaded_item *)(event + 1);

	memset(event, 0, sizeof(*event));
	event->batch = frame->batch;
	event->count = frame->count;
	for (uint32_t i = 0; i < frame->count; i++) {
		int slot = fake_find(fake, hashes[i]);

		items[i] = (struct frame_loaded_item){ .index = i,
						       .result = slot < 0 ? -ENOENT : 0 };
		if (slot >= 0)
			block_copy(&fake->pull, engine_blocks[i],
				   (uint8_t *)(fake_slot(fake, (unsigned)slot) + 1), false);
		if (way == FAKE_DAMAGED && i == 0)
			items[i].result = -EBADMSG;
	}
	word_leave(&fake->pull);
	frame_start(&event->header, FRAME_LOADED,
		    (uint32_t)(sizeof(*event) + event->count * sizeof(*items)), 0, 0);
	fake_send(fake, connection, FAKE_RIGHT, event);
	if (way == FAKE_TWICE)
		fake_send(fake, connection, FAKE_RIGHT, event);
}

static void request_end(struct fake_daemon *fake, struct fake_connection *connection,
			enum fake_way way, const struct frame_header *request)
{
	if (request->type == FRAME_STORE)
		store_end(fake, connection, way, (const struct frame_store *)request);
	else
		load_end(fake, connection, way, (const struct frame_load *)request);
}

void fake_pull_begin(struct fake_daemon *fake, struct fake_connection *connection,
		     enum fake_way way, const void *request)
{
	const struct frame_header *header = request;
	const struct frame_store *store = request;
	const struct frame_load *load = request;
	bool is_store = header->type == FRAME_STORE;
	struct fake_pull *pull = &fake->pull;
	struct job_word *word;

	pull->last = is_store ? store->pull : load->pull;
	word = &pull->words->words[pull->last.job_place];
	if (!job_word_enter(word, pull->last.job))
		return;
	if (!pull->must_hold) {
		pull->ending = word;
		request_end(fake, connection, way, header);
		return;
	}
	assert(!pull->is_held);
	memcpy(pull->held, request, header->bytes);
	pull->held_by = connection;
	pull->held_words = pull->words;
	pull->held_word = word;
	pull->must_hold = pull->is_cancelled = false;
	pull->is_held = true;
}

void fake_pull_commit(struct fake_daemon *fake, struct fake_connection *connection,
		      enum fake_way way)
{
	const struct frame_commit *frame = (const struct frame_commit *)fake_incoming;
	struct frame_committed *event = (struct frame_committed *)fake_outgoing;
	struct frame_result *results = (struct frame_result *)(event + 1);
	struct fake_batch *batch = fake_batch_find(connection, frame->batch);
	const struct frame_commit_item *item;
	const uint32_t *crcs;
	size_t position = 0;

	memset(event, 0, sizeof(*event));
	assert(batch != NULL);
	while ((item = frame_commit_next(frame, &position, &crcs)) != NULL) {
		assert(item->segments_count == 0 && item->window_offset == 0);
		assert(batch->slots[item->index] >= 0);
		fake_slot_seal(fake, batch->slots[item->index], batch->hashes[item->index]);
		results[event->count++] = (struct frame_result){ .index = item->index };
	}
	event->batch = frame->batch;
	frame_start(&event->header, FRAME_COMMITTED,
		    (uint32_t)(sizeof(*event) + event->count * sizeof(*results)), 0, 0);
	fake_send(fake, connection, way, event);
	if (way == FAKE_TWICE)
		fake_send(fake, connection, way, event);
}

/* The blocks of a cancelled STORE or LOAD whose copies had begun. */
static void held_say_cancelled(struct fake_daemon *fake)
{
	const struct frame_header *request = (const struct frame_header *)fake->pull.held;
	const struct frame_store *store = (const struct frame_store *)request;
	struct frame_committed *event = (struct frame_committed *)fake_outgoing;
	struct frame_result *results = (struct frame_result *)(event + 1);

	if (request->type != FRAME_STORE)
		return; /* load_end() has said it */
	memset(event, 0, sizeof(*event));
	event->batch = store->batch;
	event->count = store->count;
	for (uint32_t i = 0; i < store->count; i++)
		results[i] = (struct frame_result){ .index = i, .result = -ECANCELED };
	frame_start(&event->header, FRAME_COMMITTED,
		    (uint32_t)(sizeof(*event) + event->count * sizeof(*results)), 0, 0);
	fake_send(fake, fake->pull.held_by, FAKE_RIGHT, event);
}

void fake_pull_cancel(struct fake_daemon *fake, const struct frame_cancel *frame)
{
	const struct frame_store *store = (const struct frame_store *)fake->pull.held;
	const struct frame_load *load = (const struct frame_load *)fake->pull.held;
	uint64_t batch = store->header.type == FRAME_STORE ? store->batch : load->batch;

	if (fake->pull.is_held && batch == frame->batch)
		fake->pull.is_cancelled = true;
}

void fake_pull_start(struct fake_daemon *fake)
{
	struct fake_pull *pull = &fake->pull;

	pull->process = fork();
	/* Not longer than the test, which may fail. */
	if (pull->process == 0 && prctl(PR_SET_PDEATHSIG, SIGKILL) == 0)
		for (;;)
			pause();
	pull->process_fd = (int)syscall(SYS_pidfd_open, pull->process, 0);
	assert(pull->process > 0 && pull->process_fd >= 0);
	pthread_mutex_lock(&fake->lock);
	pull->is_on = pull->has_word = true;
	pthread_mutex_unlock(&fake->lock);
}

void fake_pull_hold(struct fake_daemon *fake)
{
	pthread_mutex_lock(&fake->lock);
	fake->pull.must_hold = true;
	pthread_mutex_unlock(&fake->lock);
}

void fake_pull_wait_held(struct fake_daemon *fake)
{
	pthread_mutex_lock(&fake->lock);
	while (!fake->pull.is_held)
		pthread_cond_wait(&fake->changed, &fake->lock);
	pthread_mutex_unlock(&fake->lock);
}

void fake_pull_end(struct fake_daemon *fake)
{
	struct fake_pull *pull = &fake->pull;

	pthread_mutex_lock(&fake->lock);
	assert(pull->is_held);
	pull->ending = pull->held_word;
	if (pull->held_words == pull->words && pull->held_by->fd >= 0)
		request_end(fake, pull->held_by, FAKE_RIGHT,
			    (const struct frame_header *)pull->held);
	else
		word_leave(pull);
	if (pull->is_cancelled && pull->held_by->fd >= 0)
		held_say_cancelled(fake);
	pull->is_held = false;
	if (pull->held_words != pull->words)
		munmap(pull->held_words, sizeof(*pull->held_words));
	pull->held_words = NULL;
	pthread_mutex_unlock(&fake->lock);
}

void fake_pull_kill(struct fake_daemon *fake)
{
	struct fake_pull *pull = &fake->pull;

	kill(pull->process, SIGKILL);
	waitpid(pull->process, NULL, 0);
	pull->process = 0;
}

void fake_wait_detached(struct fake_daemon *fake)
{
	bool is_attached = true;

	pthread_mutex_lock(&fake->lock);
	while (is_attached) {
		is_attached = false;
		for (unsigned i = 0; i < FAKE_CONNECTIONS_MAX; i++)
			is_attached |= fake->connections[i].fd >= 0 &&
				       fake->connections[i].is_data;
		if (is_attached)
			pthread_cond_wait(&fake->changed, &fake->lock);
	}
	pthread_mutex_unlock(&fake->lock);
}

void fake_pull_stop(struct fake_daemon *fake)
{
	struct fake_pull *pull = &fake->pull;

	if (pull->held_words != NULL && pull->held_words != pull->words)
		munmap(pull->held_words, sizeof(*pull->held_words));
	pull->held_words = NULL;
	lent_forget(pull);
	if (!pull->is_on)
		return;
	if (pull->process != 0)
		fake_pull_kill(fake);
	close(pull->process_fd);
}
