/* transfer/transfer.c: whose turn it is, what is under way, and how it ends. */
#include "transfer/transfer.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RATE_WINDOW_US UINT64_C(1000) /* busy time that one rate is taken of */
#define RATE_SHARE 8u                 /* the newest rate counts 1 / RATE_SHARE */
#define BURST_US UINT64_C(2000)       /* a capped direction may save up so much of its rate */

#define KERNEL_ROWS_MAX 4096u /* of a chunk: as many as a device's list takes */
#define MARK_NONE UINT32_MAX

enum urgency { URGENT, BULK, URGENCIES };

/* One in the device's hands. They end in the order of their queue. */
struct chunk {
	struct transfer *transfer;
	uint32_t mark; /* MARK_NONE: without one; over when the queue is idle */
	uint64_t bytes;
	uint32_t blocks_done; /* of the transfer, with this chunk */
};

/* One direction. */
struct lane {
	enum device_queue queue;
	struct list waiting[URGENCIES]; /* QUEUED and MOVING: have chunks to submit */
	struct list ending;             /* ENDING */
	uint32_t transfers_count, transfers_max;
	struct chunk chunks[TRANSFER_CHUNKS_MAX]; /* a ring */
	uint32_t first, count;
	uint64_t polled_us;
	uint64_t window_bytes, window_us; /* ended, and busy, since the rate was last taken */
	uint64_t bytes_second_max;
	int64_t credit_bytes; /* of a capped direction; a chunk may overdraw it */
	uint64_t credit_us;   /* when it was last filled */
	struct transfer_measures measures;
};

struct transfer_engine {
	struct device *device;
	const struct cost_table *costs;
	unsigned paths;
	uint64_t chunk_bytes;
	bool is_lost;
	struct error error; /* why */
	struct lane lanes[COPY_DIRECTIONS];
	struct copy_rectangle rectangles[TRANSFER_RECTANGLES_MAX];
};

static struct transfer *transfer_of(struct list_node *node)
{
	return list_item(node, struct transfer, link);
}

static uint64_t transfer_bytes(const struct transfer *transfer)
{
	return transfer->blocks_count * transfer->group->payload_bytes;
}

static struct lane *lane_of(struct transfer_engine *engine, const struct transfer *transfer)
{
	return &engine->lanes[transfer->direction];
}

static const bool legal_move[TRANSFER_STATES][TRANSFER_STATES] = {
	[TRANSFER_IDLE] = { [TRANSFER_QUEUED] = true },
	[TRANSFER_QUEUED] = { [TRANSFER_MOVING] = true, [TRANSFER_ENDING] = true },
	[TRANSFER_MOVING] = { [TRANSFER_MOVING] = true, [TRANSFER_ENDING] = true },
	[TRANSFER_ENDING] = { [TRANSFER_IDLE] = true },
};

/* Writes the state, and puts the transfer at the end of its list: MOVING again is the next turn. */
static void transfer_become(struct transfer_engine *engine, struct transfer *transfer,
			    enum transfer_state next)
{
	struct lane *lane = lane_of(engine, transfer);
	struct list *waiting = &lane->waiting[transfer->is_urgent ? URGENT : BULK];

	assert(legal_move[transfer->state][next]);
	if (transfer->state == TRANSFER_QUEUED || transfer->state == TRANSFER_MOVING)
		list_remove(waiting, &transfer->link);
	else if (transfer->state == TRANSFER_ENDING)
		list_remove(&lane->ending, &transfer->link);
	if (next == TRANSFER_QUEUED || next == TRANSFER_MOVING)
		list_append(waiting, &transfer->link);
	else if (next == TRANSFER_ENDING)
		list_append(&lane->ending, &transfer->link);
	transfer->state = next;
}

/* ---- the end ---- */

/* No further chunks of it; `result` unless it has one already. */
static void transfer_stop(struct transfer_engine *engine, struct transfer *transfer, int result)
{
	struct lane *lane = lane_of(engine, transfer);
	uint64_t bytes = transfer_bytes(transfer);

	lane->measures.bytes_waiting -= bytes - transfer->bytes_submitted;
	lane->measures.expired += result == -ETIME;
	lane->measures.cancelled += result == -ECANCELED;
	lane->measures.failed += result < 0 && result != -ETIME && result != -ECANCELED;
	transfer->result = result;
	transfer_become(engine, transfer, TRANSFER_ENDING);
}

/* Gives back what is quiescent. done() may submit anew, so the list is looked at from its start. */
static bool lane_end(struct transfer_engine *engine, struct lane *lane)
{
	bool did = false, found = true;

	while (found) {
		struct list_node *node = list_first(&lane->ending);

		while (node != NULL && transfer_of(node)->chunks > 0)
			node = list_after(&lane->ending, node);
		found = node != NULL;
		if (!found)
			continue;
		struct transfer *transfer = transfer_of(node);
		transfer_become(engine, transfer, TRANSFER_IDLE);
		lane->transfers_count--;
		did = true;
		transfer->done(transfer, transfer->result);
	}
	return did;
}

/* A transfer that its owner need not wait for any more: late, or behind a gate too long. */
static bool lane_expire(struct transfer_engine *engine, struct lane *lane, uint64_t now_us)
{
	bool did = false;

	for (unsigned urgency = 0; urgency < URGENCIES; urgency++) {
		struct list_node *node = list_first(&lane->waiting[urgency]), *after;

		for (; node != NULL; node = after) {
			after = list_after(&lane->waiting[urgency], node);
			if (now_us < transfer_of(node)->deadline_us)
				continue;
			transfer_stop(engine, transfer_of(node), -ETIME);
			did = true;
		}
	}
	return did;
}

/* ---- what has ended ---- */

static void lane_measure(struct lane *lane, uint64_t now_us)
{
	struct transfer_measures *measures = &lane->measures;

	if (lane->count > 0) {
		measures->busy_us += now_us - lane->polled_us;
		lane->window_us += now_us - lane->polled_us;
	}
	lane->polled_us = now_us;
	if (lane->window_us < RATE_WINDOW_US)
		return;
	uint64_t rate = lane->window_bytes * 1000000 / lane->window_us;
	measures->bytes_second = measures->bytes_second == 0
					 ? rate
					 : (measures->bytes_second * (RATE_SHARE - 1) + rate) /
						   RATE_SHARE;
	lane->window_bytes = lane->window_us = 0;
}

static void chunk_end(struct lane *lane)
{
	struct chunk chunk = lane->chunks[lane->first];
	struct transfer *transfer = chunk.transfer;

	lane->first = (lane->first + 1) % TRANSFER_CHUNKS_MAX;
	lane->count--;
	lane->window_bytes += chunk.bytes;
	lane->measures.bytes += chunk.bytes;
	lane->measures.chunks++;
	transfer->chunks--;
	if (chunk.blocks_done > transfer->blocks_done) {
		transfer->blocks_done = chunk.blocks_done;
		transfer->moved(transfer, chunk.blocks_done);
	}
}

/* 1: the chunk is over; 0: not yet; or a negative errno. */
static int chunk_check(struct transfer_engine *engine, const struct lane *lane)
{
	const struct chunk *chunk = &lane->chunks[lane->first];

	return chunk->mark == MARK_NONE
		       ? device_is_idle(engine->device, lane->queue, &engine->error)
		       : device_mark_check(engine->device, chunk->mark, &engine->error);
}

/* Chunks of a lane end in their order. */
static bool lane_poll(struct transfer_engine *engine, struct lane *lane, uint64_t now_us)
{
	bool did = false;

	lane_measure(lane, now_us);
	while (lane->count > 0) {
		int result = chunk_check(engine, lane);

		if (result == 0)
			break;
		if (result < 0) {
			engine->is_lost = true;
			return true;
		}
		chunk_end(lane);
		did = true;
	}
	return did;
}

/* ---- what is next ---- */

/* Whether a chunk may go now; a capped direction saves up a little while it has nothing to do. */
static bool lane_has_credit(struct lane *lane, uint64_t now_us)
{
	int64_t most = (int64_t)(lane->bytes_second_max * BURST_US / 1000000);

	if (lane->bytes_second_max == 0)
		return true;
	lane->credit_bytes += (int64_t)((now_us - lane->credit_us) * lane->bytes_second_max /
					1000000);
	lane->credit_us = now_us;
	if (lane->credit_bytes > most)
		lane->credit_bytes = most;
	return lane->credit_bytes > 0;
}

/* The first whose gate is open, urgent ones before others; NULL: none. */
static struct transfer *lane_next(struct lane *lane)
{
	for (unsigned urgency = 0; urgency < URGENCIES; urgency++) {
		struct list_node *node = list_first(&lane->waiting[urgency]);

		for (; node != NULL; node = list_after(&lane->waiting[urgency], node)) {
			struct transfer *transfer = transfer_of(node);

			if (transfer->gate == NULL ||
			    gate_is_open(transfer->gate, transfer->gate_value))
				return transfer;
		}
	}
	return NULL;
}

static enum copy_path path_of(const struct transfer_engine *engine, enum copy_direction direction,
			      uint32_t count, uint64_t *out_bytes)
{
	struct cost_shape shape = { .direction = direction, .rectangles = count };
	uint64_t bytes = 0;

	for (uint32_t n = 0; n < count; n++) {
		shape.runs += engine->rectangles[n].rows;
		bytes += engine->rectangles[n].rows * engine->rectangles[n].bytes;
	}
	shape.run_bytes = bytes / shape.runs;
	*out_bytes = bytes;
	return cost_choose(engine->costs,
			   shape.runs <= KERNEL_ROWS_MAX ? engine->paths
							 : engine->paths & ~(1u << COPY_KERNEL),
			   &shape);
}

/* Has the chunk copied. 0; -EAGAIN: nothing of it is under way; other errors: a part may be. */
static int chunk_start(struct transfer_engine *engine, struct lane *lane, struct chunk *chunk,
		       uint32_t count)
{
	struct device_copy copy = { .rectangles = engine->rectangles, .count = count };

	copy.path = path_of(engine, chunk->transfer->direction, count, &chunk->bytes);
	chunk->mark = MARK_NONE;
	int result = device_copy_start(engine->device, lane->queue, &copy, &engine->error);
	if (result < 0)
		return result;
	result = device_mark_set(engine->device, lane->queue, &chunk->mark, &engine->error);
	assert(result != -EAGAIN); /* we set a few of the device's many */
	lane->measures.chunks_by[copy.path] += result == 0;
	return result;
}

/* The next chunk of a transfer, which then stands behind the others. False: not now. */
static bool chunk_submit(struct transfer_engine *engine, struct lane *lane,
			 struct transfer *transfer)
{
	struct chunk *chunk = &lane->chunks[(lane->first + lane->count) % TRANSFER_CHUNKS_MAX];
	struct plan before = transfer->plan;
	uint32_t count;

	*chunk = (struct chunk){ .transfer = transfer };
	count = plan_next(&transfer->plan, engine->rectangles, TRANSFER_RECTANGLES_MAX,
			  &chunk->blocks_done);
	assert(count > 0);
	int result = chunk_start(engine, lane, chunk, count);
	if (result == -EAGAIN) {
		transfer->plan = before;
		return false;
	}
	if (result == -EIO) {
		engine->is_lost = true;
		return false;
	}
	if (result < 0)
		chunk->blocks_done = 0;
	lane->count++;
	lane->credit_bytes -= (int64_t)chunk->bytes;
	lane->measures.bytes_waiting -= chunk->bytes;
	transfer->chunks++;
	transfer->bytes_submitted += chunk->bytes;
	if (result < 0)
		transfer_stop(engine, transfer, result);
	else if (transfer->bytes_submitted == transfer_bytes(transfer))
		transfer_become(engine, transfer, TRANSFER_ENDING);
	else
		transfer_become(engine, transfer, TRANSFER_MOVING);
	return true;
}

/* Behind a chunk without a mark nothing is queued, or the queue would never be idle. */
static bool lane_is_blocked(const struct lane *lane)
{
	for (uint32_t n = 0; n < lane->count; n++)
		if (lane->chunks[(lane->first + n) % TRANSFER_CHUNKS_MAX].mark == MARK_NONE)
			return true;
	return lane->count == TRANSFER_CHUNKS_MAX;
}

static bool lane_submit(struct transfer_engine *engine, struct lane *lane, uint64_t now_us)
{
	bool did = false;

	while (!engine->is_lost && !lane_is_blocked(lane)) {
		struct transfer *transfer = lane_next(lane);

		if (transfer == NULL || !lane_has_credit(lane, now_us))
			break;
		if (!chunk_submit(engine, lane, transfer))
			break;
		did = true;
	}
	return did;
}

bool transfer_engine_step(struct transfer_engine *engine, uint64_t now_us, bool may_submit)
{
	bool did = false;

	for (unsigned n = 0; n < COPY_DIRECTIONS && !engine->is_lost; n++)
		did |= lane_poll(engine, &engine->lanes[n], now_us);
	for (unsigned n = 0; n < COPY_DIRECTIONS && !engine->is_lost; n++)
		did |= lane_expire(engine, &engine->lanes[n], now_us);
	/* Loads first: an inference engine waits for them. */
	if (may_submit && !engine->is_lost)
		did |= lane_submit(engine, &engine->lanes[COPY_LOAD], now_us);
	if (may_submit && !engine->is_lost)
		did |= lane_submit(engine, &engine->lanes[COPY_STORE], now_us);
	for (unsigned n = 0; n < COPY_DIRECTIONS && !engine->is_lost; n++)
		did |= lane_end(engine, &engine->lanes[n]);
	return did;
}

/* ---- from outside ---- */

int transfer_submit(struct transfer_engine *engine, struct transfer *transfer, struct error *error)
{
	struct lane *lane = lane_of(engine, transfer);
	int result;

	assert(transfer->state == TRANSFER_IDLE);
	if (engine->is_lost)
		return error_set(error, -EIO, "the device is lost: %s", engine->error.text);
	if (transfer->blocks_count == 0)
		return error_set(error, -EINVAL, "a transfer of no blocks");
	result = plan_check(transfer->group, transfer->blocks, transfer->blocks_count, error);
	if (result < 0)
		return result;
	if (lane->transfers_count == lane->transfers_max)
		return error_set(error, -EAGAIN, "%u transfers wait already", lane->transfers_max);
	plan_init(&transfer->plan, &(struct plan_source){
					   .group = transfer->group,
					   .region_bases = transfer->region_bases,
					   .blocks = transfer->blocks,
					   .blocks_count = transfer->blocks_count,
					   .chunk_bytes_max = engine->chunk_bytes,
				   });
	transfer->result = 0;
	transfer->chunks = transfer->blocks_done = 0;
	transfer->bytes_submitted = 0;
	lane->transfers_count++;
	lane->measures.bytes_waiting += transfer_bytes(transfer);
	transfer_become(engine, transfer, TRANSFER_QUEUED);
	return 0;
}

void transfer_cancel(struct transfer_engine *engine, struct transfer *transfer)
{
	if (transfer->state == TRANSFER_QUEUED || transfer->state == TRANSFER_MOVING)
		transfer_stop(engine, transfer, -ECANCELED);
}

bool transfer_engine_is_quiet(const struct transfer_engine *engine)
{
	return engine->lanes[COPY_STORE].count == 0 && engine->lanes[COPY_LOAD].count == 0;
}

bool transfer_engine_is_lost(const struct transfer_engine *engine)
{
	return engine->is_lost;
}

const struct transfer_measures *transfer_engine_measures(const struct transfer_engine *engine,
							 enum copy_direction direction)
{
	return &engine->lanes[direction].measures;
}

static int config_check(const struct transfer_config *config, struct error *error)
{
	if (config->chunk_bytes < TRANSFER_CHUNK_BYTES_MIN ||
	    config->chunk_bytes > TRANSFER_CHUNK_BYTES_MAX)
		return error_set(error, -EINVAL,
				 "a chunk of %llu bytes: 64 KiB to 64 MiB are right",
				 (unsigned long long)config->chunk_bytes);
	if (config->paths == 0)
		return error_set(error, -EINVAL, "no copy path is allowed");
	for (unsigned n = 0; n < COPY_DIRECTIONS; n++)
		if (config->transfers_max[n] == 0)
			return error_set(error, -EINVAL, "transfers_max is 0");
	return 0;
}

int transfer_engine_create(struct transfer_engine **out_engine,
			   const struct transfer_config *config, struct error *error)
{
	int result = config_check(config, error);

	if (result < 0)
		return result;
	struct transfer_engine *engine = calloc(1, sizeof(*engine));
	if (engine == NULL)
		return error_set(error, -ENOMEM, "no memory for the transfer engine");
	engine->device = config->device;
	engine->costs = config->costs;
	for (unsigned path = 0; path < COPY_PATHS; path++)
		if (config->device->about.has_path[path])
			engine->paths |= config->paths & 1u << path;
	engine->chunk_bytes = config->chunk_bytes;
	for (unsigned n = 0; n < COPY_DIRECTIONS; n++) {
		struct lane *lane = &engine->lanes[n];

		lane->queue = n == COPY_STORE ? DEVICE_STORE_BULK : DEVICE_LOAD_URGENT;
		lane->bytes_second_max = config->bytes_second_max[n];
		lane->transfers_max = config->transfers_max[n];
		list_init(&lane->ending);
		for (unsigned urgency = 0; urgency < URGENCIES; urgency++)
			list_init(&lane->waiting[urgency]);
	}
	*out_engine = engine;
	return 0;
}

void transfer_engine_destroy(struct transfer_engine *engine)
{
	if (engine == NULL)
		return;
	for (unsigned n = 0; n < COPY_DIRECTIONS; n++)
		assert(engine->is_lost || engine->lanes[n].transfers_count == 0);
	free(engine);
}
