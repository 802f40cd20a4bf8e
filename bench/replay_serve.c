/* bench/replay_serve.c: one request, from lookup to store, as an engine does it. */
#include "bench/replay_parts.h"

#include "base/random.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#define WARM_PAUSE_US 1000u
#define KEYS_MAX 65536u
#define LEASE_US UINT64_C(30000000)
#define POISON_EACH_BYTES 4096u
#define COMPLETIONS_MAX 8u

static void pause_us(uint64_t us)
{
	struct timespec pause = { .tv_sec = (time_t)(us / 1000000),
				  .tv_nsec = (long)(us % 1000000) * 1000 };

	nanosleep(&pause, NULL);
}

/* ---- one job on every shard ---- */

static void late_check(struct engine *engine, uint64_t started_us)
{
	if (now_us() - started_us > engine->options->deadline_us + REPLAY_LATE_US)
		engine->figures->late_calls++;
}

/* Notes a completion's results: a block is good only if it is good on every shard. */
static void results_join(struct engine *engine, const struct kvtier_completion *completion,
			 uint32_t count)
{
	for (uint32_t i = 0; i < count && i < completion->count; i++)
		if (completion->results[i] != 0 && engine->results[i] >= 0)
			engine->results[i] = completion->results[i];
	if (completion->state != KVTIER_DONE)
		engine->figures->failed_jobs++;
}

/* Waits for the job, and until its engine blocks are ours again. -ETIME: they are not. */
static int job_wait(struct engine *engine, struct kvtier_client *client, uint64_t job,
		    uint32_t count, uint64_t started_us)
{
	uint64_t until_us = started_us + engine->options->deadline_us + REPLAY_QUIET_US_MAX;
	struct kvtier_completion completions[COMPLETIONS_MAX];
	bool is_complete = false;

	for (uint64_t at_us = now_us(); at_us < until_us; at_us = now_us()) {
		(void)kvtier_wait(client, until_us - at_us);
		int taken = kvtier_poll(client, completions, COMPLETIONS_MAX);
		if (taken < 0)
			return taken;
		for (int i = 0; i < taken; i++) {
			if (completions[i].job != job)
				continue;
			if (!is_complete) {
				late_check(engine, started_us);
				results_join(engine, &completions[i], count);
			}
			is_complete = true;
			if (completions[i].quiesced)
				return 0;
		}
	}
	return -ETIME;
}

static void results_fail(struct engine *engine, uint32_t count, int result)
{
	for (uint32_t i = 0; i < count; i++)
		if (engine->results[i] >= 0)
			engine->results[i] = result;
}

/* Runs one transfer on every shard at once; engine->results says what became of each block. Takes
 * `*out_us`. */
static void transfer_run(struct engine *engine, const struct kvtier_transfer *transfer,
			 bool is_store, uint64_t *out_us)
{
	uint64_t jobs[REPLAY_SHARDS_MAX] = { 0 };
	uint64_t started_us = now_us();

	memset(engine->results, 0, transfer->count * sizeof(*engine->results));
	for (unsigned shard = 0; shard < engine->options->shards; shard++) {
		struct kvtier_client *client = engine->clients[shard];
		int result = is_store ? kvtier_store(client, transfer, &jobs[shard])
				      : kvtier_load(client, transfer, &jobs[shard]);
		if (result < 0) {
			jobs[shard] = 0;
			results_fail(engine, transfer->count, result);
			engine->figures->failed_jobs++;
		}
	}
	for (unsigned shard = 0; shard < engine->options->shards; shard++) {
		if (jobs[shard] == 0)
			continue;
		int result = job_wait(engine, engine->clients[shard], jobs[shard], transfer->count,
				      started_us);
		if (result < 0) {
			engine->figures->stuck_jobs++;
			results_fail(engine, transfer->count, result);
		}
	}
	for (uint32_t i = 0; i < transfer->count; i++)
		engine->is_away = engine->is_away || engine->results[i] == -ENOTCONN;
	*out_us = now_us() - started_us;
}

void engine_warm(struct engine *engine)
{
	uint64_t until_us = now_us() + engine->options->connect_us_max, us;
	struct kvtier_transfer transfer = { .count = 1,
					    .blocks = engine->blocks,
					    .deadline_us = engine->options->deadline_us };

	memset(engine->blocks, 0, sizeof(*engine->blocks)); /* a hash that no block has */
	do {
		engine->is_away = false;
		transfer_run(engine, &transfer, false, &us);
		if (engine->is_away)
			pause_us(WARM_PAUSE_US);
	} while (engine->is_away && now_us() < until_us);
	engine->figures->failed_jobs = 0;
	engine->figures->late_calls = 0;
}

/* ---- loading ---- */

/* A load must write every block anew: what an earlier load left there must not pass for it. */
static void chunk_poison(struct engine *engine, uint32_t count)
{
	uint64_t bytes = count * engine->options->block_bytes;

	for (unsigned shard = 0; shard < engine->options->shards; shard++)
		for (uint64_t at = 0; at < bytes; at += POISON_EACH_BYTES)
			engine->memory[shard][at] ^= 0x5a;
}

static void block_check(struct engine *engine, uint64_t identity, uint32_t engine_block)
{
	uint64_t bytes = engine->options->block_bytes;

	for (unsigned shard = 0; shard < engine->options->shards; shard++) {
		const uint8_t *memory = engine->memory[shard] + engine_block * bytes;
		if (!payload_is_right(memory, bytes, identity, shard, 0)) {
			engine->figures->wrong_blocks++;
			return;
		}
	}
}

static void chunk_prepare(struct engine *engine, uint32_t first, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		memcpy(engine->blocks[i].hash, engine->hashes[first + i], KVTIER_HASH_BYTES);
		memcpy(&engine->blocks[i].route_key, engine->hashes[first + i],
		       sizeof(engine->blocks[i].route_key));
		engine->blocks[i].engine_block = i;
	}
}

/* Loads and checks blocks [first, first + count); returns how many leading ones were delivered. */
static uint32_t chunk_load(struct engine *engine, const uint32_t *blocks, uint32_t first,
			   uint32_t count, uint64_t lease)
{
	struct replay_figures *figures = engine->figures;
	uint32_t delivered = 0;
	uint64_t us;

	chunk_prepare(engine, first, count);
	chunk_poison(engine, count);
	struct kvtier_transfer transfer = { .count = count,
					    .blocks = engine->blocks,
					    .tag = engine->tag,
					    .lease = lease,
					    .deadline_us = engine->options->deadline_us };
	transfer_run(engine, &transfer, false, &us);
	histogram_add(&figures->load, us);
	figures->load_us += us;
	uint64_t check_us = now_us();
	for (uint32_t i = 0; i < count; i++) {
		if (engine->results[i] != 0) {
			figures->undelivered_blocks++;
			continue;
		}
		block_check(engine, engine->trace->identities[blocks[first + i]], i);
		figures->checked_blocks++;
		figures->loaded_bytes += engine->options->block_bytes * engine->options->shards;
		if (delivered == i)
			delivered++;
	}
	figures->check_us += now_us() - check_us;
	return delivered;
}

static void hits_count(struct engine *engine, const struct trace_request *request,
		       const struct kvtier_found *found, uint32_t delivered)
{
	struct replay_figures *figures = engine->figures;
	uint64_t tokens = trace_hit_tokens(engine->trace, request, delivered);
	uint64_t usable = (uint64_t)found->tier_tokens[0] + found->tier_tokens[1] +
			  found->tier_tokens[2];

	figures->hit_blocks += delivered;
	figures->hit_tokens += tokens;
	if (engine->has_returned)
		figures->hit_tokens_returned += tokens;
	/* The reply says how many tokens lie where; what was not delivered is taken off alike. */
	uint64_t nvme = usable == 0 ? 0 : tokens * found->tier_tokens[1] / usable;
	uint64_t peer = usable == 0 ? 0 : tokens * found->tier_tokens[2] / usable;
	figures->hit_tokens_nvme += nvme;
	figures->hit_tokens_peer += peer;
	figures->hit_tokens_cpu += tokens - nvme - peer;
}

static int chain_lookup(struct engine *engine, uint32_t count, struct kvtier_found *out_found)
{
	struct kvtier_keys keys = { .count = count < KEYS_MAX ? count : KEYS_MAX,
				    .hashes = (const uint8_t(*)[KVTIER_HASH_BYTES])engine->hashes };
	struct kvtier_lookup lookup = { .sections_count = 1,
					.sections = &keys,
					.tag = engine->tag,
					.lease_us = LEASE_US };
	uint64_t started_us = now_us();

	int result = kvtier_lookup(engine->clients[0], &lookup, engine->options->deadline_us,
				   out_found);
	histogram_add(&engine->figures->lookup, now_us() - started_us);
	late_check(engine, started_us);
	engine->is_away = result < 0;
	if (result < 0) {
		engine->figures->failed_lookups++;
		memset(out_found, 0, sizeof(*out_found));
	}
	return result;
}

static uint32_t chain_load(struct engine *engine, const struct trace_request *request,
			   const struct kvtier_found *found)
{
	const uint32_t *blocks = trace_blocks(engine->trace, request);
	uint32_t hits = found->usable_tokens / engine->trace->block_tokens;
	uint32_t delivered = 0;

	if (hits > request->blocks_count)
		hits = request->blocks_count;
	while (delivered < hits) {
		uint32_t count = hits - delivered;
		if (count > engine->chunk_blocks)
			count = engine->chunk_blocks;
		uint32_t loaded = chunk_load(engine, blocks, delivered, count, found->lease);
		delivered += loaded;
		if (loaded < count)
			break; /* an engine computes from here on */
	}
	if (found->lease != 0)
		(void)kvtier_lease_release(engine->clients[0], found->lease);
	hits_count(engine, request, found, delivered);
	return delivered;
}

/* ---- storing ---- */

static void chunk_fill(struct engine *engine, const uint32_t *blocks, uint32_t first,
		       uint32_t count)
{
	uint64_t bytes = engine->options->block_bytes;

	chunk_prepare(engine, first, count);
	for (unsigned shard = 0; shard < engine->options->shards; shard++)
		for (uint32_t i = 0; i < count; i++)
			payload_fill(engine->memory[shard] + i * bytes, bytes,
				     engine->trace->identities[blocks[first + i]], shard, 0);
}

/* Returns whether any block is in the cache now. */
static bool chunk_store(struct engine *engine, const uint32_t *blocks, uint32_t first,
			uint32_t count)
{
	struct replay_figures *figures = engine->figures;
	bool is_any_there = false;
	uint64_t us;

	chunk_fill(engine, blocks, first, count);
	struct kvtier_transfer transfer = { .first_position = first,
					    .count = count,
					    .blocks = engine->blocks,
					    .tag = engine->tag,
					    .parent = first > 0 ? engine->hashes[first - 1] : NULL,
					    .deadline_us = engine->options->deadline_us };
	transfer_run(engine, &transfer, true, &us);
	histogram_add(&figures->store, us);
	figures->store_us += us;
	for (uint32_t i = 0; i < count; i++) {
		is_any_there = is_any_there || engine->results[i] >= 0;
		if (engine->results[i] < 0) {
			figures->refused_blocks++;
		} else if (engine->results[i] > 0) {
			figures->present_blocks++;
		} else {
			figures->stored_blocks++;
			figures->stored_bytes += engine->options->block_bytes *
						 engine->options->shards;
		}
	}
	return is_any_there;
}

static void chain_store(struct engine *engine, const struct trace_request *request, uint32_t first)
{
	const uint32_t *blocks = trace_blocks(engine->trace, request);
	uint32_t end = request->blocks_count + request->output_blocks_count;

	while (first < end) {
		uint32_t count = end - first;
		if (count > engine->chunk_blocks)
			count = engine->chunk_blocks;
		/* When none of a chunk was taken its children will not be either. */
		if (!chunk_store(engine, blocks, first, count))
			return;
		first += count;
	}
}

uint32_t engine_serve(struct engine *engine, const struct trace_request *request)
{
	const uint32_t *blocks = trace_blocks(engine->trace, request);
	uint32_t count = request->blocks_count + request->output_blocks_count;
	struct replay_figures *figures = engine->figures;
	struct kvtier_found found = { 0 };
	struct kvtier_fetch fetch = { 0 };
	uint32_t delivered = 0;

	assert(count <= engine->keys_max);
	for (uint32_t i = 0; i < count; i++)
		payload_hash(engine->trace->identities[blocks[i]], engine->hashes[i]);
	figures->input_tokens += request->input_tokens;
	figures->input_blocks += request->blocks_count;
	/* As an engine would: `kvtier requests` tells them apart. */
	random_system(engine->tag, sizeof(engine->tag));
	engine_boot_check(engine);
	if (request->blocks_count > 0 && chain_lookup(engine, request->blocks_count, &found) == 0) {
		bool is_fetching = engine_fetch(engine, request->blocks_count, &found, &fetch);

		delivered = chain_load(engine, request, &found);
		if (is_fetching)
			(void)kvtier_fetch_end(engine->clients[0], &fetch);
	}
	if (!engine->is_away)
		chain_store(engine, request, delivered);
	if (engine->is_away) {
		figures->away_requests++;
		pause_us(engine->options->away_us); /* the model computes meanwhile */
	}
	atomic_fetch_add_explicit(&figures->requests, 1, memory_order_relaxed);
	return delivered;
}
