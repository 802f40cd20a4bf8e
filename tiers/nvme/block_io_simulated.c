/* tiers/nvme/block_io_simulated.c: a raw disk in memory, under a virtual clock. */
#include "tiers/nvme/block_io_simulated.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct simulated_io {
	struct block_io io;
	struct block_io_simulated *disk;
	uint32_t queue_depth;
	uint32_t submitted;
};

static struct block_io_simulated *disk_of(const struct block_io_ops *ops)
{
	return (struct block_io_simulated *)(uintptr_t)ops;
}

static bool is_inside(const struct block_io_simulated *disk, uint64_t offset, uint64_t bytes)
{
	return offset <= disk->bytes && bytes <= disk->bytes - offset;
}

static void bytes_write(struct block_io_simulated *disk, uint64_t offset, const void *memory,
			uint64_t bytes)
{
	disk->writes_ended++;
	memcpy(disk->current + offset, memory, bytes);
	for (uint64_t at = offset; at < offset + bytes; at += SIMULATED_SECTOR_BYTES)
		disk->dirtied[at / SIMULATED_SECTOR_BYTES] = disk->writes_ended;
}

static void sector_settle(struct block_io_simulated *disk, uint64_t sector, bool is_kept)
{
	uint64_t at = sector * SIMULATED_SECTOR_BYTES;

	if (is_kept)
		memcpy(disk->durable + at, disk->current + at, SIMULATED_SECTOR_BYTES);
	else
		memcpy(disk->current + at, disk->durable + at, SIMULATED_SECTOR_BYTES);
	disk->dirtied[sector] = 0;
}

/* Makes durable what writes up to number `until` changed and no later one did. */
static void bytes_sync(struct block_io_simulated *disk, uint64_t until)
{
	for (uint64_t sector = 0; sector < disk->bytes / SIMULATED_SECTOR_BYTES; sector++) {
		if (disk->dirtied[sector] != 0 && disk->dirtied[sector] <= until)
			sector_settle(disk, sector, true);
	}
}

/* The effect of a transfer that has come due. */
static int op_take_effect(struct block_io_simulated *disk, const struct simulated_op *op)
{
	uint64_t offset = op->offset;

	if (disk->sick_errno < 0)
		return disk->sick_errno;
	if (op->verb == BLOCK_SYNC) {
		bytes_sync(disk, op->dirtied);
		return 0;
	}
	if (op->verb == BLOCK_WRITE && disk->misdirect_next_bytes != 0) {
		offset = (uint64_t)((int64_t)offset + disk->misdirect_next_bytes);
		disk->misdirect_next_bytes = 0;
	}
	if (!is_inside(disk, offset, op->bytes))
		return -EIO;
	if (op->verb == BLOCK_READ)
		memcpy(op->memory, disk->current + offset, op->bytes);
	else
		bytes_write(disk, offset, op->memory, op->bytes);
	return 0;
}

/* Takes the transfer that came due first out of the disk; only those of the dead, or only those of
 * the living. */
static bool op_take_due(struct block_io_simulated *disk, bool is_orphan,
			struct simulated_op *out_op)
{
	uint64_t now_us = clock_now_us(disk->clock);
	uint32_t best = SIMULATED_OPS_MAX;

	for (uint32_t i = 0; i < disk->in_flight_count && !disk->is_hanging; i++) {
		const struct simulated_op *op = &disk->in_flight[i];

		if ((op->request == NULL) != is_orphan || op->due_us > now_us)
			continue;
		if (best == SIMULATED_OPS_MAX || op->due_us < disk->in_flight[best].due_us)
			best = i;
	}
	if (best == SIMULATED_OPS_MAX)
		return false;
	*out_op = disk->in_flight[best];
	disk->in_flight[best] = disk->in_flight[--disk->in_flight_count];
	return true;
}

static bool has_orphans(const struct block_io_simulated *disk)
{
	for (uint32_t i = 0; i < disk->in_flight_count; i++) {
		if (disk->in_flight[i].request == NULL)
			return true;
	}
	return false;
}

void block_io_simulated_step(struct block_io_simulated *disk)
{
	struct simulated_op op;

	while (op_take_due(disk, true, &op))
		op_take_effect(disk, &op);
}

static int simulated_disk_open(const struct block_io_ops *ops, struct block_disk *out_disk,
			       const char *path, unsigned flags, struct error *error)
{
	struct block_io_simulated *disk = disk_of(ops);

	(void)path;
	(void)flags;
	(void)error;
	*out_disk = (struct block_disk){ .fd = -1,
					 .is_open = true,
					 .is_raw = true,
					 .is_direct = true,
					 .align_bytes = SIMULATED_SECTOR_BYTES,
					 .bytes = disk->bytes };
	return 0;
}

static int simulated_disk_lock(const struct block_io_ops *ops, struct block_disk *opened)
{
	struct block_io_simulated *disk = disk_of(ops);

	block_io_simulated_step(disk);
	if (disk->is_locked || has_orphans(disk))
		return -EBUSY;
	disk->is_locked = true;
	opened->owner = disk; /* who closes gives up the lock that it has */
	return 0;
}

static int simulated_disk_is_at(const struct block_io_ops *ops, struct block_disk *disk,
				const char *path)
{
	(void)ops;
	(void)disk;
	(void)path;
	return 1;
}

static int simulated_disk_allocate(const struct block_io_ops *ops, struct block_disk *disk,
				   uint64_t bytes)
{
	(void)ops;
	(void)disk;
	(void)bytes;
	return -ENOTSUP;
}

static int simulated_disk_read(const struct block_io_ops *ops, struct block_disk *opened,
			       void *memory, uint64_t bytes, uint64_t offset)
{
	struct block_io_simulated *disk = disk_of(ops);

	(void)opened;
	if (disk->sick_errno < 0)
		return disk->sick_errno;
	if (!is_inside(disk, offset, bytes))
		return -EIO;
	memcpy(memory, disk->current + offset, bytes);
	return 0;
}

static int simulated_disk_write(const struct block_io_ops *ops, struct block_disk *opened,
				const void *memory, uint64_t bytes, uint64_t offset)
{
	struct block_io_simulated *disk = disk_of(ops);

	(void)opened;
	if (disk->sick_errno < 0)
		return disk->sick_errno;
	if (!is_inside(disk, offset, bytes))
		return -EIO;
	bytes_write(disk, offset, memory, bytes);
	return 0;
}

static int simulated_disk_sync(const struct block_io_ops *ops, struct block_disk *opened)
{
	struct block_io_simulated *disk = disk_of(ops);

	(void)opened;
	if (disk->sick_errno < 0)
		return disk->sick_errno;
	bytes_sync(disk, disk->writes_ended);
	return 0;
}

static int simulated_disk_rename(const struct block_io_ops *ops, const char *from, const char *to)
{
	(void)ops;
	(void)from;
	(void)to;
	return -ENOTSUP;
}

static int simulated_disk_remove(const struct block_io_ops *ops, const char *path)
{
	(void)ops;
	(void)path;
	return -ENOTSUP;
}

static void simulated_disk_close(const struct block_io_ops *ops, struct block_disk *opened)
{
	if (opened == NULL || !opened->is_open)
		return;
	if (opened->owner != NULL)
		disk_of(ops)->is_locked = false;
	opened->owner = NULL;
	opened->is_open = false;
}

static int simulated_open(const struct block_io_ops *ops, struct block_io **out_io,
			  const struct block_io_config *config, struct error *error)
{
	struct simulated_io *io = calloc(1, sizeof(*io));

	if (io == NULL)
		return error_set(error, -ENOMEM, "no memory for a simulated queue");
	io->io.ops = ops;
	io->disk = disk_of(ops);
	io->queue_depth = config->queue_depth;
	*out_io = &io->io;
	return 0;
}

static int simulated_register_memory(struct block_io *io, const struct nvme_memory *memory,
				     unsigned count, struct error *error)
{
	(void)io;
	(void)memory;
	(void)count;
	return error_set(error, -ENOTSUP, "a simulated disk registers no memory");
}

static int simulated_submit(struct block_io *io, struct block_request *request)
{
	struct simulated_io *simulated = (struct simulated_io *)io;
	struct block_io_simulated *disk = simulated->disk;
	uint64_t spread_us = disk->latency_us_max - disk->latency_us_min;

	if (simulated->submitted == simulated->queue_depth ||
	    disk->in_flight_count == SIMULATED_OPS_MAX)
		return -EAGAIN;
	simulated->submitted++;
	disk->in_flight[disk->in_flight_count++] = (struct simulated_op){
		.request = request,
		.verb = request->verb,
		.offset = request->offset,
		.bytes = request->bytes,
		.memory = request->memory,
		.dirtied = disk->writes_ended,
		.due_us = clock_now_us(disk->clock) + disk->latency_us_min +
			  random_below(&disk->random, spread_us + 1),
	};
	return 0;
}

static void simulated_flush(struct block_io *io)
{
	(void)io;
}

static unsigned simulated_reap(struct block_io *io, struct block_request **out_requests,
			       unsigned limit)
{
	struct simulated_io *simulated = (struct simulated_io *)io;
	struct simulated_op op;
	unsigned count = 0;

	while (count < limit && op_take_due(simulated->disk, false, &op)) {
		assert(simulated->submitted > 0);
		simulated->submitted--;
		op.request->result = op_take_effect(simulated->disk, &op);
		out_requests[count++] = op.request;
	}
	return count;
}

/* Time is the test's: nothing is waited for. */
static void simulated_wait(struct block_io *io, int wake_fd, uint64_t wait_us_max)
{
	(void)io;
	(void)wake_fd;
	(void)wait_us_max;
}

static void simulated_describe(const struct block_io *io, char *text, size_t text_bytes)
{
	(void)io;
	snprintf(text, text_bytes, "simulated");
}

static void simulated_close(struct block_io *io)
{
	struct simulated_io *simulated = (struct simulated_io *)io;

	if (simulated == NULL)
		return;
	assert(simulated->submitted == 0);
	free(simulated);
}

static const struct block_io_ops simulated_ops = {
	.name = "simulated",
	.disk_open = simulated_disk_open,
	.disk_lock = simulated_disk_lock,
	.disk_is_at = simulated_disk_is_at,
	.disk_allocate = simulated_disk_allocate,
	.disk_read = simulated_disk_read,
	.disk_write = simulated_disk_write,
	.disk_sync = simulated_disk_sync,
	.disk_rename = simulated_disk_rename,
	.disk_remove = simulated_disk_remove,
	.disk_close = simulated_disk_close,
	.open = simulated_open,
	.register_memory = simulated_register_memory,
	.submit = simulated_submit,
	.flush = simulated_flush,
	.reap = simulated_reap,
	.wait = simulated_wait,
	.describe = simulated_describe,
	.close = simulated_close,
};

int block_io_simulated_init(struct block_io_simulated *disk, uint64_t bytes, struct clock *clock,
			    uint64_t seed, struct error *error)
{
	assert(bytes > 0 && bytes % SLOT_ALIGN_BYTES == 0);
	memset(disk, 0, sizeof(*disk));
	disk->ops = simulated_ops;
	disk->clock = clock;
	disk->bytes = bytes;
	disk->latency_us_min = 50;
	disk->latency_us_max = 500;
	disk->crash_keep_share = 0.5;
	random_init(&disk->random, seed);
	disk->current = calloc(1, bytes);
	disk->durable = calloc(1, bytes);
	disk->dirtied = calloc(bytes / SIMULATED_SECTOR_BYTES, sizeof(*disk->dirtied));
	if (disk->current != NULL && disk->durable != NULL && disk->dirtied != NULL)
		return 0;
	block_io_simulated_finish(disk);
	return error_set(error, -ENOMEM, "no memory for a simulated disk of %llu bytes",
			 (unsigned long long)bytes);
}

void block_io_simulated_finish(struct block_io_simulated *disk)
{
	free(disk->current);
	free(disk->durable);
	free(disk->dirtied);
	disk->current = NULL;
	disk->durable = NULL;
	disk->dirtied = NULL;
}

uint64_t block_io_simulated_next_us(const struct block_io_simulated *disk)
{
	uint64_t next_us = UINT64_MAX;

	for (uint32_t i = 0; i < disk->in_flight_count && !disk->is_hanging; i++) {
		if (disk->in_flight[i].due_us < next_us)
			next_us = disk->in_flight[i].due_us;
	}
	return next_us;
}

void block_io_simulated_kill(struct block_io_simulated *disk)
{
	for (uint32_t i = 0; i < disk->in_flight_count; i++)
		disk->in_flight[i].request = NULL;
	disk->is_locked = false; /* from now on the orphans hold it */
}

static bool is_kept(struct block_io_simulated *disk)
{
	return (double)random_below(&disk->random, 1000000) < disk->crash_keep_share * 1e6;
}

void block_io_simulated_crash(struct block_io_simulated *disk)
{
	/* Writes under way reach the cache, so that the same lot decides over their sectors. */
	for (uint32_t i = 0; i < disk->in_flight_count; i++) {
		const struct simulated_op *op = &disk->in_flight[i];

		if (op->verb == BLOCK_WRITE)
			op_take_effect(disk, op);
	}
	disk->in_flight_count = 0;
	disk->is_locked = false;
	for (uint64_t sector = 0; sector < disk->bytes / SIMULATED_SECTOR_BYTES; sector++) {
		if (disk->dirtied[sector] != 0)
			sector_settle(disk, sector, is_kept(disk));
	}
}

void block_io_simulated_rot(struct block_io_simulated *disk, uint64_t offset, unsigned bit)
{
	assert(offset < disk->bytes && bit < 8);
	disk->current[offset] ^= (uint8_t)(1u << bit);
	disk->durable[offset] = disk->current[offset];
}
