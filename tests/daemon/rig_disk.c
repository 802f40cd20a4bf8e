/* tests/daemon/rig_disk.c: disks in memory. */
#include "tests/daemon/rig_disk.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct rig_queue {
	struct block_io io; /* first */
	struct rig_disk *disk;
	struct rig_file *file;
	struct list pending;
	struct list_node link;
	uint32_t depth;
};

static struct rig_disk *disk_of(const struct block_io_ops *ops)
{
	return (struct rig_disk *)(uintptr_t)ops;
}

static void *must_allocate(size_t bytes)
{
	void *memory = calloc(1, bytes);

	assert(memory != NULL);
	return memory;
}

struct rig_file *rig_disk_file(struct rig_disk *disk, const char *path)
{
	for (unsigned i = 0; i < RIG_FILES_MAX; i++)
		if (strcmp(disk->files[i].path, path) == 0)
			return &disk->files[i];
	return NULL;
}

static void file_free(struct rig_file *file)
{
	free(file->now);
	free(file->durable);
	free(file->is_dirty);
	memset(file, 0, sizeof(*file));
}

static int file_resize(struct rig_file *file, uint64_t bytes)
{
	free(file->now);
	free(file->durable);
	free(file->is_dirty);
	file->now = must_allocate(bytes);
	file->durable = must_allocate(bytes);
	file->is_dirty = must_allocate(bytes / RIG_PAGE_BYTES);
	file->bytes = bytes;
	return 0;
}

static int disk_open(const struct block_io_ops *ops, struct block_disk *out_disk, const char *path,
		     unsigned flags, struct error *error)
{
	struct rig_disk *disk = disk_of(ops);
	struct rig_file *file = rig_disk_file(disk, path);

	if (file == NULL && !(flags & DISK_CREATE))
		return error_set(error, -ENOENT, "%s: open: no such file", path);
	if (file == NULL) {
		file = rig_disk_file(disk, "");
		assert(file != NULL && strlen(path) < sizeof(file->path));
		strcpy(file->path, path);
	}
	*out_disk = (struct block_disk){ .fd = -1,
					 .is_open = true,
					 .is_direct = true,
					 .align_bytes = RIG_PAGE_BYTES,
					 .bytes = file->bytes,
					 .owner = file };
	return 0;
}

static int disk_lock(const struct block_io_ops *ops, struct block_disk *disk)
{
	struct rig_file *file = disk->owner;

	(void)ops;
	if (file->is_locked)
		return -EBUSY;
	file->is_locked = true;
	return 0;
}

static int disk_is_at(const struct block_io_ops *ops, struct block_disk *disk, const char *path)
{
	(void)ops;
	return strcmp(((struct rig_file *)disk->owner)->path, path) == 0;
}

static int disk_allocate(const struct block_io_ops *ops, struct block_disk *disk, uint64_t bytes)
{
	(void)ops;
	disk->bytes = bytes;
	return file_resize(disk->owner, bytes);
}

static int file_read(struct rig_disk *disk, struct rig_file *file, void *memory, uint64_t bytes,
		     uint64_t offset)
{
	disk->reads++;
	if (offset > file->bytes || bytes > file->bytes - offset)
		return -EIO;
	memcpy(memory, file->now + offset, bytes);
	return 0;
}

static int file_write(struct rig_disk *disk, struct rig_file *file, const void *memory,
		      uint64_t bytes, uint64_t offset)
{
	disk->writes++;
	if (offset > file->bytes || bytes > file->bytes - offset)
		return -ENOSPC;
	assert(offset % RIG_PAGE_BYTES == 0 && bytes % RIG_PAGE_BYTES == 0);
	if (disk->is_frozen)
		return 0;
	memcpy(file->now + offset, memory, bytes);
	memset(file->is_dirty + offset / RIG_PAGE_BYTES, true, bytes / RIG_PAGE_BYTES);
	return 0;
}

static int file_sync(struct rig_disk *disk, struct rig_file *file)
{
	disk->syncs++;
	if (disk->is_frozen)
		return 0;
	for (uint64_t page = 0; page < file->bytes / RIG_PAGE_BYTES; page++) {
		if (!file->is_dirty[page])
			continue;
		memcpy(file->durable + page * RIG_PAGE_BYTES, file->now + page * RIG_PAGE_BYTES,
		       RIG_PAGE_BYTES);
		file->is_dirty[page] = false;
	}
	return 0;
}

static int disk_read(const struct block_io_ops *ops, struct block_disk *disk, void *memory,
		     uint64_t bytes, uint64_t offset)
{
	return file_read(disk_of(ops), disk->owner, memory, bytes, offset);
}

static int disk_write(const struct block_io_ops *ops, struct block_disk *disk, const void *memory,
		      uint64_t bytes, uint64_t offset)
{
	return file_write(disk_of(ops), disk->owner, memory, bytes, offset);
}

static int disk_sync(const struct block_io_ops *ops, struct block_disk *disk)
{
	return file_sync(disk_of(ops), disk->owner);
}

static int disk_rename(const struct block_io_ops *ops, const char *from, const char *to)
{
	struct rig_file *file = rig_disk_file(disk_of(ops), from);

	if (file == NULL)
		return -ENOENT;
	if (rig_disk_file(disk_of(ops), to) != NULL)
		return -EEXIST;
	assert(strlen(to) < sizeof(file->path));
	strcpy(file->path, to);
	return 0;
}

static int disk_remove(const struct block_io_ops *ops, const char *path)
{
	struct rig_file *file = rig_disk_file(disk_of(ops), path);

	if (file == NULL)
		return -ENOENT;
	file_free(file);
	return 0;
}

static void disk_close(const struct block_io_ops *ops, struct block_disk *disk)
{
	(void)ops;
	if (disk == NULL || !disk->is_open)
		return;
	((struct rig_file *)disk->owner)->is_locked = false;
	disk->is_open = false;
}

static struct rig_queue *queue_of(struct block_io *io)
{
	return (struct rig_queue *)io;
}

static int queue_open(const struct block_io_ops *ops, struct block_io **out_io,
		      const struct block_io_config *config, struct error *error)
{
	struct rig_queue *queue = must_allocate(sizeof(*queue));

	(void)error;
	queue->io.ops = ops;
	queue->disk = disk_of(ops);
	queue->file = config->disk->owner;
	queue->depth = config->queue_depth;
	list_init(&queue->pending);
	list_append(&queue->disk->queues, &queue->link);
	*out_io = &queue->io;
	return 0;
}

static int queue_register(struct block_io *io, const struct nvme_memory *memory, unsigned count,
			  struct error *error)
{
	(void)io;
	(void)memory;
	(void)count;
	return error_set(error, -ENOTSUP, "disks in memory register nothing");
}

static int queue_submit(struct block_io *io, struct block_request *request)
{
	struct rig_queue *queue = queue_of(io);

	if (queue->pending.count == queue->depth)
		return -EAGAIN;
	/* When it is due. */
	request->moved_bytes = clock_now_us(queue->disk->clock) + queue->disk->latency_us;
	list_append(&queue->pending, &request->link);
	return 0;
}

static void queue_flush(struct block_io *io)
{
	(void)io;
}

static void request_run(struct rig_queue *queue, struct block_request *request)
{
	switch (request->verb) {
	case BLOCK_READ:
		request->result = file_read(queue->disk, queue->file, request->memory,
					    request->bytes, request->offset);
		break;
	case BLOCK_WRITE:
		request->result = file_write(queue->disk, queue->file, request->memory,
					     request->bytes, request->offset);
		break;
	case BLOCK_SYNC:
		request->result = file_sync(queue->disk, queue->file);
		break;
	}
}

/* One that is due: the first, or any. */
static struct block_request *request_due(struct rig_queue *queue)
{
	struct rig_disk *disk = queue->disk;
	struct block_request *found = NULL;
	unsigned seen = 0;

	for (struct list_node *node = list_first(&queue->pending); node != NULL;
	     node = list_after(&queue->pending, node)) {
		struct block_request *request = list_item(node, struct block_request, link);

		if (request->moved_bytes > clock_now_us(disk->clock) && !disk->is_frozen)
			continue;
		if (!disk->is_shuffled)
			return request;
		if (random_below(&disk->random, ++seen) == 0)
			found = request;
	}
	return found;
}

static unsigned queue_reap(struct block_io *io, struct block_request **out_requests, unsigned limit)
{
	struct rig_queue *queue = queue_of(io);
	struct block_request *request;
	unsigned count = 0;

	while (count < limit && (request = request_due(queue)) != NULL) {
		list_remove(&queue->pending, &request->link);
		request_run(queue, request);
		out_requests[count++] = request;
	}
	return count;
}

static void queue_wait(struct block_io *io, int wake_fd, uint64_t wait_us_max)
{
	(void)io;
	(void)wake_fd;
	(void)wait_us_max;
	assert(!"nobody waits under a virtual clock");
}

static void queue_describe(const struct block_io *io, char *text, size_t text_bytes)
{
	(void)io;
	snprintf(text, text_bytes, "memory");
}

static void queue_close(struct block_io *io)
{
	struct rig_queue *queue = queue_of(io);

	if (queue == NULL)
		return;
	assert(list_is_empty(&queue->pending));
	list_remove(&queue->disk->queues, &queue->link);
	free(queue);
}

void rig_disk_init(struct rig_disk *disk, struct clock *clock, uint64_t seed)
{
	memset(disk, 0, sizeof(*disk));
	disk->ops = (struct block_io_ops){
		.name = "memory",
		.disk_open = disk_open,
		.disk_lock = disk_lock,
		.disk_is_at = disk_is_at,
		.disk_allocate = disk_allocate,
		.disk_read = disk_read,
		.disk_write = disk_write,
		.disk_sync = disk_sync,
		.disk_rename = disk_rename,
		.disk_remove = disk_remove,
		.disk_close = disk_close,
		.open = queue_open,
		.register_memory = queue_register,
		.submit = queue_submit,
		.flush = queue_flush,
		.reap = queue_reap,
		.wait = queue_wait,
		.describe = queue_describe,
		.close = queue_close,
	};
	disk->clock = clock;
	list_init(&disk->queues);
	random_init(&disk->random, seed);
}

void rig_disk_finish(struct rig_disk *disk)
{
	assert(list_is_empty(&disk->queues));
	for (unsigned i = 0; i < RIG_FILES_MAX; i++)
		file_free(&disk->files[i]);
}

/* Some pages of a write that was under way. */
static void request_tear(struct rig_disk *disk, struct rig_file *file,
			 const struct block_request *request)
{
	const uint8_t *memory = request->memory;

	for (uint64_t at = 0; request->verb == BLOCK_WRITE && at < request->bytes;
	     at += RIG_PAGE_BYTES)
		if (random_below(&disk->random, 2) == 0)
			(void)!file_write(disk, file, memory + at, RIG_PAGE_BYTES,
					  request->offset + at);
}

static void file_lose(struct rig_disk *disk, struct rig_file *file)
{
	for (uint64_t page = 0; page < file->bytes / RIG_PAGE_BYTES; page++) {
		uint8_t *now = file->now + page * RIG_PAGE_BYTES,
			*durable = file->durable + page * RIG_PAGE_BYTES;

		if (file->is_dirty[page] && random_below(&disk->random, 2) == 0)
			memcpy(now, durable, RIG_PAGE_BYTES);
	}
}

void rig_disk_crash(struct rig_disk *disk, bool is_power_cut)
{
	assert(!disk->is_frozen);
	for (struct list_node *node = list_first(&disk->queues); node != NULL;
	     node = list_after(&disk->queues, node)) {
		struct rig_queue *queue = list_item(node, struct rig_queue, link);

		for (struct list_node *at = list_first(&queue->pending); at != NULL;
		     at = list_after(&queue->pending, at))
			request_tear(disk, queue->file, list_item(at, struct block_request, link));
	}
	for (unsigned i = 0; is_power_cut && i < RIG_FILES_MAX; i++)
		file_lose(disk, &disk->files[i]);
	for (unsigned i = 0; is_power_cut && i < RIG_FILES_MAX; i++)
		if (disk->files[i].path[0] != '\0')
			(void)file_sync(disk, &disk->files[i]);
	disk->is_frozen = true;
}

void rig_disk_thaw(struct rig_disk *disk)
{
	assert(disk->is_frozen);
	disk->is_frozen = false;
}
