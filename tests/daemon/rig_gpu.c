/* tests/daemon/rig_gpu.c: see rig_gpu.h. */
#include "tests/daemon/rig_gpu.h"

#include "daemon/server.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define FIRST_PLANE_BYTES 4096u /* of each block; the second has the rest */

static struct rig_gpu *the_gpu;

void rig_gpu_init(struct rig_gpu *gpu)
{
	memset(gpu, 0, sizeof(*gpu));
	for (unsigned way = 0; way < COPY_DIRECTIONS; way++)
		pull_speed_init(&gpu->speeds[way]);
	gpu->process_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert(gpu->process_fd >= 0);
}

void rig_gpu_finish(struct rig_gpu *gpu)
{
	assert(gpu->copies_count == 0);
	for (unsigned i = 0; i < RIG_GPU_LENTS; i++)
		assert(gpu->lents[i].memory == NULL);
	close(gpu->process_fd);
}

void rig_finish_with_gpu(struct rig *rig, struct rig_gpu *gpu)
{
	rig_finish_idle(rig);
	rig_gpu_finish(gpu);
}

/* ---- the device ---- */

static void pieces_copy(const struct rig_gpu_copy *job)
{
	const struct rig_gpu_lent *lent = job->lent;
	const struct gpu_copy *copy = job->copy;
	uint8_t *payload = job->payload;

	for (unsigned plane = 0; plane < 2; plane++) {
		uint64_t bytes = lent->plane_bytes[copy->group][plane];
		uint8_t *block = lent->base + lent->plane_offset[copy->group][plane] +
				 copy->block * bytes;

		assert(copy->block < RIG_GPU_BLOCKS);
		if (copy->direction == COPY_STORE)
			memcpy(payload, block, bytes);
		else
			memcpy(block, payload, bytes);
		payload += bytes;
	}
}

static void job_copy(struct rig_gpu *gpu, struct rig_gpu_copy *job)
{
	bool is_nth = gpu->fail_nth > 0 && --gpu->fail_nth == 0;

	job->was_copied = true;
	if (job->is_cancelled) {
		job->result = -ECANCELED;
	} else if (gpu->copy_result < 0 && (is_nth || gpu->fail_nth == 0)) {
		job->result = gpu->copy_result;
		if (is_nth)
			gpu->copy_result = 0;
	} else {
		if (gpu->before_copy != NULL)
			gpu->before_copy(gpu, job->payload);
		pieces_copy(job);
		if (gpu->after_copy != NULL)
			gpu->after_copy(gpu, job->payload);
	}
}

static void job_end(struct rig_gpu *gpu, struct rig_gpu_copy *job)
{
	struct gpu_copy *copy = job->copy;

	job->copy = NULL;
	gpu->copies_count--;
	copy->done(copy, job->result);
}

static bool lent_is_used(const struct rig_gpu *gpu, const struct rig_gpu_lent *lent)
{
	for (unsigned i = 0; i < RIG_GPU_COPIES; i++)
		if (gpu->copies[i].copy != NULL && gpu->copies[i].lent == lent)
			return true;
	return false;
}

static void lent_return(struct rig_gpu_lent *lent)
{
	struct lent_memory *memory = lent->memory;

	lent->memory = NULL;
	memory->returned(memory);
}

static bool lent_step(struct rig_gpu *gpu, struct rig_gpu_lent *lent)
{
	if (lent->memory == NULL)
		return false;
	if (lent->is_returning) {
		if (gpu->holds_returns || lent_is_used(gpu, lent))
			return false;
		lent_return(lent);
		return true;
	}
	if (lent->is_answered || gpu->holds_answers)
		return false;
	lent->is_answered = true;
	struct lent_memory *memory = lent->memory;
	if (gpu->answer_result < 0)
		lent->memory = NULL;
	memory->answered(memory, gpu->answer_result, "the fake says no");
	return true;
}

bool rig_gpu_step(struct rig_gpu *gpu)
{
	bool did_work = false;

	for (unsigned i = 0; gpu->copies_count > 0 && i < RIG_GPU_COPIES; i++) {
		struct rig_gpu_copy *job = &gpu->copies[i];

		if (job->copy == NULL)
			continue;
		if (!job->was_copied && (!gpu->holds_copies || job->is_cancelled)) {
			job_copy(gpu, job);
			did_work = true;
		}
		if (job->was_copied && !gpu->holds_ends) {
			job_end(gpu, job);
			did_work = true;
		}
	}
	for (unsigned i = 0; i < RIG_GPU_LENTS; i++)
		did_work = lent_step(gpu, &gpu->lents[i]) || did_work;
	return did_work;
}

void rig_gpu_die(struct rig_gpu *gpu)
{
	for (unsigned i = 0; i < RIG_GPU_COPIES; i++)
		if (gpu->copies[i].copy != NULL) {
			gpu->copies[i].result = -EIO;
			job_end(gpu, &gpu->copies[i]);
		}
	for (unsigned i = 0; i < RIG_GPU_LENTS; i++)
		if (gpu->lents[i].memory != NULL)
			lent_return(&gpu->lents[i]);
}

/* ---- the ops ---- */

static struct rig_gpu_lent *lent_of(const struct lent_memory *memory)
{
	for (unsigned i = 0; i < RIG_GPU_LENTS; i++)
		if (the_gpu->lents[i].memory == memory)
			return &the_gpu->lents[i];
	return NULL;
}

static int fake_lend(struct daemon *daemon, struct lent_memory *memory, const void *packet,
		     size_t bytes, const int *fds, unsigned fds_count, struct error *error)
{
	struct rig_gpu_lent *lent = lent_of(NULL);
	struct lend_view view;
	int result = lend_read(packet, bytes, &view, error);

	(void)daemon;
	assert(result == 0 && fds_count == 1 + view.head->fds_count);
	for (unsigned i = 0; i < fds_count; i++)
		assert((fcntl(fds[i], F_GETFD) & FD_CLOEXEC) != 0);
	if (the_gpu->lend_result < 0)
		return error_set(error, the_gpu->lend_result, "the fake does not lend");
	assert(lent != NULL);
	memset(lent, 0, sizeof(*lent));
	lent->memory = memory;
	memcpy(&lent->base, &view.regions[0].handle, sizeof(lent->base));
	lent->groups_count = view.head->groups_count;
	for (uint32_t i = 0; i < 2 * view.head->groups_count; i++) {
		lent->plane_offset[i / 2][i % 2] = view.planes[i].offset;
		lent->plane_bytes[i / 2][i % 2] = view.planes[i].bytes;
	}
	memory->speeds = the_gpu->speeds;
	memory->has_word = view.head->word_region != LEND_NO_WORD;
	the_gpu->lents_ever++;
	return 0;
}

static void fake_give_back(struct daemon *daemon, struct lent_memory *memory)
{
	struct rig_gpu_lent *lent = lent_of(memory);

	(void)daemon;
	assert(lent != NULL && !lent->is_returning);
	lent->is_returning = true;
	for (unsigned i = 0; i < RIG_GPU_COPIES; i++)
		if (the_gpu->copies[i].lent == lent)
			the_gpu->copies[i].is_cancelled = true;
}

static int fake_copy(struct daemon *daemon, struct lent_memory *memory, struct tenant *tenant,
		     struct gpu_copy *copy)
{
	struct rig_gpu_lent *lent = lent_of(memory);
	unsigned place = 0;

	(void)daemon;
	if (the_gpu->copy_refusal < 0)
		return the_gpu->copy_refusal;
	if (lent == NULL || lent->is_returning)
		return -ENODEV;
	while (place < RIG_GPU_COPIES && the_gpu->copies[place].copy != NULL)
		place++;
	assert(place < RIG_GPU_COPIES && copy->group < lent->groups_count);
	assert(copy->is_urgent == (copy->direction == COPY_LOAD));
	assert(copy->offset < ARENA_HEAD_BYTES + tenant->arena.bytes);
	the_gpu->copies[place] = (struct rig_gpu_copy){
		.copy = copy,
		.lent = lent,
		.payload = tenant->arena.start + copy->offset,
	};
	the_gpu->copies_count++;
	the_gpu->copies_ever++;
	the_gpu->is_gate_seen = the_gpu->is_gate_seen || copy->gate_value > 0;
	return 0;
}

static bool fake_cancel(struct daemon *daemon, struct lent_memory *memory, uint64_t job)
{
	(void)daemon;
	if (the_gpu->cancels_refused > 0) {
		the_gpu->cancels_refused--;
		return false;
	}
	the_gpu->cancels++;
	for (unsigned i = 0; i < RIG_GPU_COPIES; i++) {
		struct rig_gpu_copy *other = &the_gpu->copies[i];

		if (other->copy != NULL && other->lent->memory == memory && other->copy->job == job)
			other->is_cancelled = true;
	}
	return true;
}

static int fake_process_fd(struct daemon *daemon, const struct lent_memory *memory)
{
	(void)daemon;
	return lent_of(memory) == NULL ? -1 : the_gpu->process_fd;
}

const struct pull_ops *rig_gpu_ops(struct rig_gpu *gpu)
{
	static const struct pull_ops ops = {
		.name = "rig",
		.lend = fake_lend,
		.give_back = fake_give_back,
		.copy = fake_copy,
		.cancel = fake_cancel,
		.process_fd = fake_process_fd,
	};

	the_gpu = gpu;
	return gpu == NULL ? NULL : &ops;
}

/* ---- clients ---- */

static uint64_t group_offset(const struct rig_client *client, unsigned group)
{
	uint64_t offset = 4096; /* the word's page */

	for (unsigned i = 0; i < group; i++)
		offset += client->engine.groups[i].payload_bytes * RIG_GPU_BLOCKS;
	return offset;
}

struct lend *rig_lend_write(struct rig_client *client, bool has_word)
{
	unsigned groups_count = client->engine.groups_count;
	struct lend head = {
		.device = "rig",
		.regions_count = 1,
		.groups_count = groups_count,
		.planes_count = 2 * groups_count,
		.word_region = has_word ? 0 : LEND_NO_WORD,
	};
	struct frame_lend *frame = rig_frame(client, FRAME_LEND,
					     sizeof(*frame) + lend_bytes(&head));
	struct lend_region *region = (struct lend_region *)((struct lend *)(frame + 1) + 1);
	struct lend_group *groups = (struct lend_group *)(region + 1);
	struct lend_plane *planes = (struct lend_plane *)(groups + groups_count);

	memcpy(frame + 1, &head, sizeof(head));
	region->kind = LEND_HANDLE;
	region->bytes = group_offset(client, groups_count);
	if (client->device == NULL)
		client->device = malloc(region->bytes);
	memcpy(&region->handle, &client->device, sizeof(client->device));
	for (unsigned i = 0; i < groups_count; i++) {
		uint64_t offset = group_offset(client, i);
		uint64_t rest = client->engine.groups[i].payload_bytes - FIRST_PLANE_BYTES;

		groups[i] = (struct lend_group){ .blocks_count = RIG_GPU_BLOCKS,
						 .planes_count = 2 };
		planes[2 * i] = (struct lend_plane){ .offset = offset,
						     .stride = FIRST_PLANE_BYTES,
						     .bytes = FIRST_PLANE_BYTES };
		planes[2 * i + 1] = (struct lend_plane){
			.offset = offset + FIRST_PLANE_BYTES * RIG_GPU_BLOCKS,
			.stride = rest,
			.bytes = rest,
		};
	}
	return (struct lend *)(frame + 1);
}

int rig_lend_ask(struct rig_client *client, unsigned fds_count)
{
	const struct frame_header *header = (const struct frame_header *)client->out;
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(253 * sizeof(int))] = { 0 };
	struct iovec part = { .iov_base = client->out, .iov_len = header->bytes };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	int fd = memfd_create("words", MFD_CLOEXEC);

	assert(fd >= 0 && fds_count <= 253);
	if (fds_count > 0) {
		message.msg_control = control;
		message.msg_controllen = CMSG_SPACE(fds_count * sizeof(int));
		struct cmsghdr *head = CMSG_FIRSTHDR(&message);
		head->cmsg_level = SOL_SOCKET;
		head->cmsg_type = SCM_RIGHTS;
		head->cmsg_len = CMSG_LEN(fds_count * sizeof(int));
		for (unsigned i = 0; i < fds_count; i++)
			memcpy(CMSG_DATA(head) + i * sizeof(int), &fd, sizeof(fd));
	}
	client->reply_request = 0;
	client->refused = 0;
	ssize_t sent = sendmsg(client->fds[FRAME_DATA], &message, MSG_NOSIGNAL);
	assert(sent == (ssize_t)header->bytes);
	close(fd);
	for (unsigned i = 0; client->fds[FRAME_DATA] >= 0 && client->refused == 0; i++) {
		if (client->reply_request == header->request)
			return ((const struct frame_header *)client->reply)->result;
		if (!rig_waits_on(client->rig, i))
			break;
	}
	return client->refused < 0 ? client->refused : -ECONNRESET;
}

int rig_lend(struct rig_client *client, bool has_word)
{
	(void)rig_lend_write(client, has_word);
	return rig_lend_ask(client, 1);
}

struct rig_client *rig_puller(struct rig *rig, const struct rig_engine *engine)
{
	struct rig_client *client = rig_register(rig, engine);
	int result = rig_lend(client, true);

	assert(result == 0);
	return client;
}

static void block_move(const struct rig_client *client, unsigned group, unsigned block,
		       uint8_t *payload, bool is_out)
{
	uint64_t rest = client->engine.groups[group].payload_bytes - FIRST_PLANE_BYTES;
	uint8_t *first = client->device + group_offset(client, group);
	uint8_t *second = first + FIRST_PLANE_BYTES * RIG_GPU_BLOCKS + block * rest;

	first += block * FIRST_PLANE_BYTES;
	memcpy(is_out ? payload : first, is_out ? first : payload, FIRST_PLANE_BYTES);
	payload += FIRST_PLANE_BYTES;
	memcpy(is_out ? payload : second, is_out ? second : payload, rest);
}

void rig_gpu_fill(struct rig_client *client, const struct rig_batch *batch)
{
	uint8_t *payload = malloc(client->engine.groups[batch->group].payload_bytes);

	assert(batch->count <= RIG_GPU_BLOCKS && payload != NULL);
	for (unsigned i = 0; i < batch->count; i++) {
		rig_payload(client, batch->group, batch->keys[i], batch->version, payload);
		block_move(client, batch->group, i, payload, false);
	}
	free(payload);
}

void rig_gpu_gather(const struct rig_client *client, unsigned group, unsigned block,
		    uint8_t *payload)
{
	block_move(client, group, block, payload, true);
}
