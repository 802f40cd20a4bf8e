/* tests/sim/disk.c: raw disks in memory. */
#include "tests/sim/disk.h"
#include "tests/sim/kernel_wraps.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define SECTOR_BYTES 512u
#define SLOW_US_MAX (UINT64_C(200) * 1000)
#define HANG_US_MAX (UINT64_C(40) * SECOND_US)
#define MISDIRECTED_PAGES_MAX 64u

struct disk_io {
	struct block_io io; /* first */
	struct disk *disk;
};

static struct disk disks[DISKS_MAX];
static struct disk_io queues[DISKS_MAX];

void disks_start(void)
{
	for (unsigned i = 0; i < DISKS_MAX; i++) {
		struct disk *disk = &disks[i];

		for (uint64_t page = 0; disk->is_there && page < disk->bytes / DISK_PAGE_BYTES;
		     page++) {
			if (disk->was_touched[page])
				memset(disk->now + page * DISK_PAGE_BYTES, 0, DISK_PAGE_BYTES);
			disk->was_touched[page] = disk->is_dirty[page] = false;
		}
		for (unsigned n = 0; n < disk->orphans_count; n++)
			memory_release(disk->orphans[n].held);
		disk->is_there = false;
	}
}

struct disk *disk_create(const char *path, uint64_t bytes)
{
	unsigned place = 0;

	while (disks[place].is_there)
		place++;
	assert(place < DISKS_MAX && bytes <= DISK_BYTES_MAX);
	struct disk *disk = &disks[place];
	if (disk->now == NULL) {
		disk->now = __real_mmap(NULL, 2 * DISK_BYTES_MAX, PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		assert(disk->now != MAP_FAILED);
		disk->durable = disk->now + DISK_BYTES_MAX;
	}
	snprintf(disk->path, sizeof(disk->path), "%s", path);
	disk->bytes = bytes;
	disk->is_there = true;
	disk->is_locked = false;
	disk->latency_us = 100;
	disk->hangs_until_us = 0;
	disk->orphans_count = 0;
	list_init(&disk->pending);
	memset(disk->permille, 0, sizeof(disk->permille));
	memset(disk->hits, 0, sizeof(disk->hits));
	return disk;
}

void disk_heal(struct disk *disk)
{
	memset(disk->permille, 0, sizeof(disk->permille));
	disk->hangs_until_us = 0;
	kernel.changes++;
}

/* ---- bytes ---- */

static bool is_inside(const struct disk *disk, uint64_t offset, uint64_t bytes)
{
	return offset <= disk->bytes && bytes <= disk->bytes - offset;
}

static void page_dirty(struct disk *disk, uint64_t page)
{
	uint64_t at = page * DISK_PAGE_BYTES;

	if (!disk->is_dirty[page])
		memcpy(disk->durable + at, disk->now + at, DISK_PAGE_BYTES);
	disk->is_dirty[page] = disk->was_touched[page] = true;
}

static int bytes_write(struct disk *disk, const void *memory, uint64_t bytes, uint64_t offset)
{
	if (!is_inside(disk, offset, bytes))
		return -EIO;
	assert(offset % SECTOR_BYTES == 0 && bytes % SECTOR_BYTES == 0);
	for (uint64_t at = offset / DISK_PAGE_BYTES;
	     at < (offset + bytes + DISK_PAGE_BYTES - 1) / DISK_PAGE_BYTES; at++)
		page_dirty(disk, at);
	memcpy(disk->now + offset, memory, bytes);
	return 0;
}

static int bytes_read(const struct disk *disk, void *memory, uint64_t bytes, uint64_t offset)
{
	if (!is_inside(disk, offset, bytes))
		return -EIO;
	memcpy(memory, disk->now + offset, bytes);
	return 0;
}

static void bytes_sync(struct disk *disk)
{
	memset(disk->is_dirty, 0, disk->bytes / DISK_PAGE_BYTES);
}

static void bit_flip(struct disk *disk, uint64_t offset)
{
	disk->was_touched[offset / DISK_PAGE_BYTES] = true;
	disk->now[offset] ^= (uint8_t)(1u << kernel_below(8));
}

void disk_damage(struct disk *disk)
{
	uint64_t page, tries = 64;

	do {
		page = kernel_below(disk->bytes / DISK_PAGE_BYTES);
	} while (!disk->was_touched[page] && --tries > 0);
	bit_flip(disk, page * DISK_PAGE_BYTES + kernel_below(DISK_PAGE_BYTES));
}

void disk_power_cut(struct disk *disk)
{
	for (uint64_t page = 0; page < disk->bytes / DISK_PAGE_BYTES; page++) {
		for (uint64_t at = page * DISK_PAGE_BYTES;
		     disk->is_dirty[page] && at < (page + 1) * DISK_PAGE_BYTES; at += SECTOR_BYTES)
			if (kernel_below(2) == 0)
				memcpy(disk->now + at, disk->durable + at, SECTOR_BYTES);
		disk->is_dirty[page] = false;
	}
	for (unsigned n = 0; n < disk->orphans_count; n++)
		memory_release(disk->orphans[n].held);
	disk->orphans_count = 0;
}

/* ---- what a killed daemon had under way ---- */

void disk_kill(struct disk *disk)
{
	struct list_node *node;

	while ((node = list_take_first(&disk->pending)) != NULL) {
		const struct block_request *request = list_item(node, struct block_request, link);
		struct memory *held = memory_hold(request->memory);

		if (request->verb == BLOCK_SYNC || disk->orphans_count == DISK_PENDING_MAX)
			continue;
		/* Memory that goes with the process: some of it had been fetched. */
		if (held == NULL && request->verb == BLOCK_WRITE)
			(void)!bytes_write(disk, request->memory,
					   kernel_below(request->bytes / SECTOR_BYTES + 1) *
						   SECTOR_BYTES,
					   request->offset);
		if (held == NULL)
			continue;
		disk->orphans[disk->orphans_count++] = (struct orphan){
			.held = held,
			.memory = request->memory,
			.offset = request->offset,
			.bytes = request->bytes,
			.due_us = request->moved_bytes,
			.is_write = request->verb == BLOCK_WRITE,
		};
	}
	disk->is_locked = false;
}

static void orphans_step(struct disk *disk)
{
	for (unsigned n = 0; n < disk->orphans_count; n++) {
		struct orphan *orphan = &disk->orphans[n];

		if (orphan->due_us > kernel.now_us || disk->hangs_until_us > kernel.now_us)
			continue;
		if (orphan->is_write)
			(void)!bytes_write(disk, orphan->memory, orphan->bytes, orphan->offset);
		else
			(void)!bytes_read(disk, orphan->memory, orphan->bytes, orphan->offset);
		memory_release(orphan->held);
		disk->orphans[n--] = disk->orphans[--disk->orphans_count];
	}
}

/* ---- the first half of the table ---- */

static int disk_open(const struct block_io_ops *ops, struct block_disk *out_disk, const char *path,
		     unsigned flags, struct error *error)
{
	(void)ops;
	(void)flags;
	for (unsigned i = 0; i < DISKS_MAX; i++) {
		if (!disks[i].is_there || strcmp(disks[i].path, path) != 0)
			continue;
		*out_disk = (struct block_disk){ .fd = -1,
						 .is_open = true,
						 .is_raw = true,
						 .is_direct = true,
						 .align_bytes = SECTOR_BYTES,
						 .bytes = disks[i].bytes,
						 .owner = &disks[i] };
		return 0;
	}
	return error_set(error, -ENOENT, "%s: open: no such disk", path);
}

static int disk_lock(const struct block_io_ops *ops, struct block_disk *opened)
{
	struct disk *disk = opened->owner;

	(void)ops;
	orphans_step(disk);
	if (disk->is_locked || disk->orphans_count > 0)
		return -EBUSY;
	disk->is_locked = true;
	return 0;
}

static int disk_is_at(const struct block_io_ops *ops, struct block_disk *disk, const char *path)
{
	(void)ops;
	(void)disk;
	(void)path;
	return 1;
}

static int disk_allocate(const struct block_io_ops *ops, struct block_disk *disk, uint64_t bytes)
{
	(void)ops;
	(void)disk;
	(void)bytes;
	return -ENOTSUP;
}

static bool fault_hits(struct disk *disk, enum disk_fault fault)
{
	bool is_hit = kernel_chance(disk->permille[fault]);

	disk->hits[fault] += is_hit;
	return is_hit;
}

static int disk_read(const struct block_io_ops *ops, struct block_disk *opened, void *memory,
		     uint64_t bytes, uint64_t offset)
{
	struct disk *disk = opened->owner;

	(void)ops;
	task_preempt();
	return fault_hits(disk, DISK_ERROR) ? -EIO : bytes_read(disk, memory, bytes, offset);
}

static int disk_write(const struct block_io_ops *ops, struct block_disk *opened, const void *memory,
		      uint64_t bytes, uint64_t offset)
{
	struct disk *disk = opened->owner;

	(void)ops;
	task_preempt();
	return fault_hits(disk, DISK_ERROR) ? -EIO : bytes_write(disk, memory, bytes, offset);
}

static int disk_sync(const struct block_io_ops *ops, struct block_disk *opened)
{
	(void)ops;
	task_preempt();
	bytes_sync(opened->owner);
	return 0;
}

static int disk_rename(const struct block_io_ops *ops, const char *from, const char *to)
{
	(void)ops;
	(void)from;
	(void)to;
	return -ENOTSUP;
}

static int disk_remove(const struct block_io_ops *ops, const char *path)
{
	return disk_rename(ops, path, path);
}

static void disk_close(const struct block_io_ops *ops, struct block_disk *opened)
{
	(void)ops;
	if (opened == NULL || !opened->is_open)
		return;
	((struct disk *)opened->owner)->is_locked = false;
	opened->is_open = false;
}

/* ---- the queue ---- */

static int queue_open(const struct block_io_ops *ops, struct block_io **out_io,
		      const struct block_io_config *config, struct error *error)
{
	struct disk *disk = config->disk->owner;
	struct disk_io *queue = &queues[disk - disks];

	(void)error;
	queue->io.ops = ops;
	queue->disk = disk;
	disk->depth = config->queue_depth;
	list_init(&disk->pending);
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

static struct disk *disk_of(struct block_io *io)
{
	return ((struct disk_io *)io)->disk;
}

static int queue_submit(struct block_io *io, struct block_request *request)
{
	struct disk *disk = disk_of(io);

	if (disk->pending.count == disk->depth)
		return -EAGAIN;
	if (fault_hits(disk, DISK_HANG))
		disk->hangs_until_us = kernel.now_us + kernel_below(HANG_US_MAX);
	/* When it is due. */
	request->moved_bytes = kernel.now_us + 1 + kernel_below(disk->latency_us + 1) +
			       (fault_hits(disk, DISK_SLOW) ? kernel_below(SLOW_US_MAX) : 0);
	list_append(&disk->pending, &request->link);
	kernel.changes++;
	return 0;
}

static void queue_flush(struct block_io *io)
{
	(void)io; /* what was submitted is under way */
}

static uint64_t elsewhere(const struct disk *disk, uint64_t offset, uint64_t bytes)
{
	uint64_t by = (1 + kernel_below(MISDIRECTED_PAGES_MAX)) * DISK_PAGE_BYTES;

	if (kernel_below(2) == 0 && offset >= by)
		return offset - by;
	return is_inside(disk, offset + by, bytes) ? offset + by : offset;
}

static int request_write(struct disk *disk, const struct block_request *request)
{
	uint64_t offset = request->offset, bytes = request->bytes;

	if (fault_hits(disk, DISK_FULL))
		return -ENOSPC;
	if (fault_hits(disk, DISK_LOST))
		return 0;
	if (fault_hits(disk, DISK_TORN))
		bytes = kernel_below(bytes / SECTOR_BYTES) * SECTOR_BYTES;
	if (fault_hits(disk, DISK_MISDIRECTED_WRITE))
		offset = elsewhere(disk, offset, bytes);
	return bytes_write(disk, request->memory, bytes, offset);
}

static int request_read(struct disk *disk, const struct block_request *request)
{
	uint64_t offset = request->offset;

	if (fault_hits(disk, DISK_ROT) && is_inside(disk, offset, request->bytes))
		bit_flip(disk, offset + kernel_below(request->bytes));
	if (fault_hits(disk, DISK_MISDIRECTED_READ))
		offset = elsewhere(disk, offset, request->bytes);
	return bytes_read(disk, request->memory, request->bytes, offset);
}

static int request_run(struct disk *disk, const struct block_request *request)
{
	if (fault_hits(disk, DISK_ERROR))
		return -EIO;
	if (request->verb == BLOCK_READ)
		return request_read(disk, request);
	if (request->verb == BLOCK_WRITE)
		return request_write(disk, request);
	bytes_sync(disk);
	return 0;
}

/* One that is due, any of them. */
static struct block_request *request_due(struct disk *disk)
{
	struct block_request *found = NULL;
	unsigned seen = 0;

	for (struct list_node *node = list_first(&disk->pending);
	     node != NULL && disk->hangs_until_us <= kernel.now_us;
	     node = list_after(&disk->pending, node)) {
		struct block_request *request = list_item(node, struct block_request, link);

		if (request->moved_bytes <= kernel.now_us && kernel_below(++seen) == 0)
			found = request;
	}
	return found;
}

static unsigned queue_reap(struct block_io *io, struct block_request **out_requests, unsigned limit)
{
	struct disk *disk = disk_of(io);
	struct block_request *request;
	unsigned count = 0;

	while (count < limit && (request = request_due(disk)) != NULL) {
		list_remove(&disk->pending, &request->link);
		request->result = request_run(disk, request);
		out_requests[count++] = request;
	}
	return count;
}

struct queue_wait {
	struct disk *disk;
	int wake_fd;
};

static uint64_t disk_next_us(struct disk *disk)
{
	uint64_t next_us = NEVER;

	for (struct list_node *node = list_first(&disk->pending); node != NULL;
	     node = list_after(&disk->pending, node)) {
		uint64_t due_us = list_item(node, struct block_request, link)->moved_bytes;

		next_us = due_us < next_us ? due_us : next_us;
	}
	if (next_us != NEVER && next_us < disk->hangs_until_us)
		return disk->hangs_until_us;
	return next_us;
}

static bool queue_is_due(void *owner)
{
	struct queue_wait *wait = owner;

	return (fd_events(wait->wake_fd) & POLLIN) != 0 ||
	       disk_next_us(wait->disk) <= kernel.now_us;
}

static void queue_wait(struct block_io *io, int wake_fd, uint64_t wait_us_max)
{
	struct queue_wait wait = { disk_of(io), wake_fd };
	uint64_t until_us = kernel.now_us + wait_us_max, next_us = disk_next_us(wait.disk);

	(void)task_wait(queue_is_due, &wait, next_us < until_us ? next_us : until_us);
}

static void queue_describe(const struct block_io *io, char *text, size_t text_bytes)
{
	(void)io;
	snprintf(text, text_bytes, "simulated");
}

static void queue_close(struct block_io *io)
{
	assert(io == NULL || list_is_empty(&disk_of(io)->pending));
}

const struct block_io_ops disk_ops = {
	.name = "simulated",
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
