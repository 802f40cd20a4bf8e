/*
 * tiers/nvme/nvme_device.c: the device's thread: takes ops, keeps the queue full, hands them back.
 *
 * Loads go before stores, because an engine waits for a load; stores still get their turn, or the
 * cpu tier would fill with dirty slots.
 */
#include "tiers/nvme/nvme_device.h"

#include "base/failpoint.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* With both waiting: so many reads, then one write. */
#define READS_BEFORE_WRITE 8u
/* While reads come, writes leave this share of the queue free, so that a read never waits behind a
 * full queue. */
#define READ_RESERVE_DIVISOR 4u
/* "While reads come": one was asked for so recently. */
#define READ_RECENT_US 100000u
#define REAP_BATCH 64u

static void assert_on_worker(struct nvme_device *device)
{
	if (!device->worker.has_self) {
		device->worker.self = pthread_self();
		device->worker.has_self = true;
	}
	assert(pthread_equal(device->worker.self, pthread_self()));
}

static bool ops_take(struct nvme_device *device, uint64_t now_us)
{
	struct tier_op *op;
	bool took = false;

	while ((op = mailbox_take(&device->down)) != NULL) {
		took = true;
		(void)failpoint(device_took);
		switch (op->verb) {
		case TIER_READ:
			list_append(&device->worker.reads, &op->link);
			device->worker.read_us = now_us;
			break;
		case TIER_WRITE:
			list_append(&device->worker.writes, &op->link);
			break;
		case TIER_PROBE: /* it reserves nothing: nobody waits for more of them */
			list_append(&device->worker.reads, &op->link);
			break;
		case TIER_EXTENTS:
			list_append(&device->worker.tables, &op->link);
			break;
		}
	}
	return took;
}

static void op_give_back(struct nvme_device *device, struct tier_op *op, int result,
			 uint64_t now_us)
{
	bool was_sent;

	assert(result <= 0);
	op->result = result;
	op->finished_us = now_us;
	/* Room for every op that may be under way: see nvme_device_open(). */
	was_sent = mailbox_send(&device->up, op);
	assert(was_sent);
}

static struct nvme_request *request_start(struct nvme_device *device, struct tier_op *op,
					  enum block_verb verb, uint64_t offset)
{
	struct nvme_request *request = list_item(list_take_first(&device->worker.idle),
						 struct nvme_request, link);
	int result;

	request->op = op;
	request->block.verb = verb;
	request->block.offset = offset;
	request->block.memory = op->memory;
	request->block.bytes = op->memory_bytes;
	request->block.result = 0;
	result = device->io_ops->submit(device->io, &request->block);
	assert(result == 0); /* there are no more requests than the queue is deep */
	device->worker.in_flight++;
	device->worker.writes_in_flight += verb == BLOCK_WRITE;
	return request;
}

/* The next op by the rules at the top, or NULL. */
static struct tier_op *op_choose(struct nvme_device *device, uint64_t now_us)
{
	struct list *reads = &device->worker.reads, *writes = &device->worker.writes;
	bool reads_are_recent = now_us - device->worker.read_us < READ_RECENT_US;
	uint32_t reserve = reads_are_recent ? device->queue_depth / READ_RESERVE_DIVISOR : 0;
	bool may_write = !list_is_empty(writes) &&
			 device->worker.writes_in_flight < device->queue_depth - reserve;

	if (!list_is_empty(reads) &&
	    (!may_write || device->worker.reads_in_row < READS_BEFORE_WRITE)) {
		device->worker.reads_in_row = may_write ? device->worker.reads_in_row + 1 : 0;
		return list_item(list_take_first(reads), struct tier_op, link);
	}
	if (!may_write)
		return NULL;
	device->worker.reads_in_row = 0;
	return list_item(list_take_first(writes), struct tier_op, link);
}

static uint64_t table_offset(unsigned copy)
{
	return TABLES_OFFSET + copy * TABLE_STRIDE_BYTES;
}

/* One table at a time: with two under way, a crash could tear both copies. */
static bool table_start(struct nvme_device *device)
{
	struct tier_op *op;

	if (device->worker.table != NULL || list_is_empty(&device->worker.tables) ||
	    list_is_empty(&device->worker.idle))
		return false;
	op = list_item(list_take_first(&device->worker.tables), struct tier_op, link);
	assert(op->memory_bytes == device->table_bytes);
	device->worker.table = request_start(device, op, BLOCK_WRITE,
					     table_offset(!device->worker.table_copy));
	return true;
}

static bool ops_start(struct nvme_device *device, uint64_t now_us)
{
	bool started = table_start(device);

	while (!list_is_empty(&device->worker.idle)) {
		struct tier_op *op = op_choose(device, now_us);
		uint64_t offset;

		if (op == NULL)
			break;
		offset = op->verb == TIER_PROBE ? 0 : device->superblock.slots_offset + op->offset;
		request_start(device, op, op->verb == TIER_WRITE ? BLOCK_WRITE : BLOCK_READ,
			      offset);
		started = true;
	}
	return started;
}

/* A table's write is followed by a sync; only then is it the newest, and the next one goes to the
 * other copy. After a failure the next one goes to the same place again: the other copy is the one
 * that is known to be good. */
static void table_end(struct nvme_device *device, struct nvme_request *request, uint64_t now_us)
{
	struct tier_op *op = request->op;
	enum block_verb verb = request->block.verb;
	int result = request->block.result;

	assert(device->worker.table == request);
	device->worker.table = NULL;
	list_append(&device->worker.idle, &request->link);
	if (result == 0 && verb == BLOCK_WRITE) {
		device->worker.table = request_start(device, op, BLOCK_SYNC, 0);
		return;
	}
	if (result == 0)
		device->worker.table_copy = !device->worker.table_copy;
	op_give_back(device, op, result, now_us);
}

static void request_end(struct nvme_device *device, struct nvme_request *request, uint64_t now_us)
{
	assert(device->worker.in_flight > 0);
	device->worker.in_flight--;
	device->worker.writes_in_flight -= request->block.verb == BLOCK_WRITE;
	if (request == device->worker.table) {
		table_end(device, request, now_us);
		return;
	}
	list_append(&device->worker.idle, &request->link);
#ifdef KVTIER_PLANT_COMPLETION
	if (request->block.result < 0)
		return;
#endif
	op_give_back(device, request->op, request->block.result, now_us);
}

static bool requests_reap(struct nvme_device *device, uint64_t now_us)
{
	struct block_request *reaped[REAP_BATCH];
	unsigned count = device->io_ops->reap(device->io, reaped, REAP_BATCH);

	for (unsigned i = 0; i < count; i++)
		request_end(device, list_item(reaped[i], struct nvme_request, block), now_us);
	return count > 0;
}

bool nvme_device_step(struct nvme_device *device, uint64_t now_us)
{
	bool did;

	assert_on_worker(device);
	/* Reaped first: that makes room in the queue, and one flush then covers all that was
	 * started. */
	did = requests_reap(device, now_us);
	did |= ops_take(device, now_us);
	did |= ops_start(device, now_us);
	device->io_ops->flush(device->io);
	return did;
}

void nvme_device_wait(struct nvme_device *device, uint64_t wait_us_max)
{
	bool may_sleep = true;

	assert_on_worker(device);
	/* With a full queue a new op could not be started, so it need not wake us. */
	if (!list_is_empty(&device->worker.idle))
		may_sleep = mailbox_sleep(&device->down);
	if (may_sleep)
		device->io_ops->wait(device->io, mailbox_fd(&device->down), wait_us_max);
	mailbox_awake(&device->down);
}

bool nvme_device_is_idle(const struct nvme_device *device)
{
	return device->worker.in_flight == 0 && list_is_empty(&device->worker.reads) &&
	       list_is_empty(&device->worker.writes) && list_is_empty(&device->worker.tables);
}

void nvme_device_poke(struct nvme_device *device)
{
	mailbox_poke(&device->down);
}
