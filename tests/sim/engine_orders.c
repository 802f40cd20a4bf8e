/* tests/sim/engine_orders.c: what an engine's threads ask of libkvtier, and whether the answers may
 * be so. */
#include "tests/sim/engine_parts.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define KEYS_MAX CHAIN_BLOCKS

/* The client's number of the adapter's space; false: it is not known now. */
static bool space_find(struct caller *caller, unsigned adapter, uint32_t *out_space)
{
	struct engine *engine = caller->engine;
	uint8_t digest[32] = { 0 };
	int result;

	if (engine->spaces[adapter] == 0) {
		digest[0] = (uint8_t)adapter;
		call_begin(caller, "kvtier_space_open", caller->order.wait_us);
		result = kvtier_space_open(engine->client, digest, caller->order.wait_us,
					   out_space);
		call_end(caller, result);
		if (result < 0)
			return false;
		engine->spaces[adapter] = *out_space + 1;
	}
	*out_space = engine->spaces[adapter] - 1;
	return true;
}

static int job_start(struct caller *caller, struct engine_job *job, uint32_t space, uint64_t gate)
{
	struct engine *engine = caller->engine;
	struct kvtier_block blocks[KEYS_MAX];
	uint8_t parent[KVTIER_HASH_BYTES];
	struct kvtier_transfer transfer = {
		.space = space,
		.group = job->at.group,
		.first_position = job->at.first,
		.count = job->at.count,
		.blocks = blocks,
		.parent = job->at.first > 0 ? parent : NULL,
		.lease = job->lease,
		.deadline_us = caller->order.deadline_us,
		.user = job,
		.gate_value = gate,
	};
	int result;

	memset(blocks, 0, sizeof(blocks));
	for (unsigned i = 0; i < job->at.count; i++) {
		model_hash(job->at.chain, job->at.first + i, blocks[i].hash);
		blocks[i].engine_block = job->blocks[i];
	}
	if (job->at.first > 0)
		model_hash(job->at.chain, job->at.first - 1u, parent);
	job->until_us = kernel.now_us + caller->order.deadline_us;
	call_begin(caller, job->is_store ? "kvtier_store" : "kvtier_load", 0);
	result = job->is_store ? kvtier_store(engine->client, &transfer, &job->id)
			       : kvtier_load(engine->client, &transfer, &job->id);
	call_end(caller, result);
	/* Its GPU cannot wait for words. */
	if (result == -ENOTSUP && gate > 0)
		return result;
	if (result == 0)
		return 0;
	if (result != -EAGAIN && result != -ENOTCONN && result != -EINVAL && result != -EPERM)
		sim_fail("%s: a job was refused with %d", engine->shape.name, result);
	job_give(job);
	return result;
}

static void job_fill(struct engine *engine, const struct engine_job *job)
{
	static uint8_t payload[PAYLOAD_BYTES_MAX];
	uint64_t bytes = engine->shape.groups[job->at.group].payload_bytes;

	for (unsigned i = 0; i < job->at.count; i++) {
		model_payload(job->version, job->at.first + i, payload, bytes);
		engine_scatter(engine, job->at.group, job->blocks[i], payload);
	}
}

/* As vLLM does: the store is asked for first, and waits for the stream's word. */
static void store_late(struct caller *caller, struct engine_job *job, uint32_t space)
{
	struct engine *engine = caller->engine;
	int result;

	caller->gate = ++engine->gates;
	job->is_filling = true;
	result = job_start(caller, job, space, caller->gate);
	if (result == 0 || result == -ENOTSUP) {
		task_preempt();
		job_fill(engine, job);
	}
	job->is_filling = false;
	if (result == 0 && job->is_quiet)
		job_give(job);
	caller->gate = 0;
	engine_word_set(engine);
	if (result == -ENOTSUP)
		(void)job_start(caller, job, space, 0);
}

static void carry_out_store(struct caller *caller)
{
	struct engine *engine = caller->engine;
	const struct order *order = &caller->order;
	struct engine_job *job;
	uint32_t space;

	if (!space_find(caller, order->adapter, &space))
		return;
	job = job_take(engine, &order->at);
	if (job == NULL)
		return;
	job->is_store = true;
	job->identity = engine_identity(engine, order->adapter);
	job->began = model_now();
	job->version = model_store(&job->identity, &job->at);
	if (job->version == 0) {
		job_give(job);
		return;
	}
	if (engine->shape.is_lender && order->choice % 2 == 0) {
		store_late(caller, job, space);
		return;
	}
	job_fill(engine, job);
	(void)job_start(caller, job, space, 0);
}

static void load_begin(struct caller *caller, const struct stretch *at, uint64_t lease)
{
	struct engine_job *job;
	uint32_t space;

	if (!space_find(caller, caller->order.adapter, &space))
		return;
	job = job_take(caller->engine, at);
	if (job == NULL)
		return;
	job->is_store = false;
	job->identity = engine_identity(caller->engine, caller->order.adapter);
	job->began = model_now();
	job->lease = lease;
	(void)job_start(caller, job, space, 0);
}

/* Every block that the usable tokens promise may be there, of every rank. */
static void usable_check(struct caller *caller, uint32_t tokens, uint64_t began)
{
	struct engine *engine = caller->engine;
	struct identity identity = engine_identity(engine, caller->order.adapter);
	uint32_t blocks = tokens / TOKENS_A_BLOCK;

	if (tokens % TOKENS_A_BLOCK != 0)
		sim_fail("%s: %u usable tokens are no whole blocks", engine->shape.name, tokens);
	for (uint16_t group = 0; group < engine->shape.groups_count; group++) {
		const struct kvtier_group *shape = &engine->shape.groups[group];
		uint32_t first = 0;

		if (shape->kind == KVTIER_WINDOW && tokens > shape->window_tokens)
			first = (tokens - shape->window_tokens) / TOKENS_A_BLOCK;
		if (shape->kind == KVTIER_STATE && blocks > 0)
			first = blocks - 1;
		for (uint32_t at = first; at < blocks * engine->shape.world; at++) {
			struct stretch key = { .chain = caller->order.at.chain,
					       .group = group,
					       .shard = (uint16_t)(at / blocks),
					       .first = (uint16_t)(at % blocks),
					       .count = 1 };

			if (key.first >= first && !model_may_have(&identity, &key, began))
				sim_fail("%s: block %u of chain %u is said to be usable, and was "
					 "forgotten or never stored",
					 engine->shape.name, key.first, key.chain);
		}
	}
}

static uint32_t lookup_ask(struct caller *caller, uint64_t *out_lease)
{
	struct engine *engine = caller->engine;
	const struct order *order = &caller->order;
	uint8_t hashes[KEYS_MAX][KVTIER_HASH_BYTES];
	struct kvtier_keys sections[GROUPS_MAX];
	struct kvtier_lookup lookup = { .sections_count = engine->shape.groups_count,
					.sections = sections,
					.lease_us = order->lease_us };
	struct kvtier_found found;
	uint64_t began;
	int result;

	*out_lease = 0;
	if (!space_find(caller, order->adapter, &lookup.space))
		return 0;
	for (unsigned i = 0; i < order->at.count; i++)
		model_hash(order->at.chain, i, hashes[i]);
	for (unsigned i = 0; i < engine->shape.groups_count; i++)
		sections[i] = (struct kvtier_keys){ .group = i,
						    .count = order->at.count,
						    .hashes = hashes };
	memset(&found, 0, sizeof(found));
	began = model_now();
	call_begin(caller, "kvtier_lookup", order->wait_us);
	result = kvtier_lookup(engine->client, &lookup, order->wait_us, &found);
	call_end(caller, result);
	if (result < 0 && (found.usable_tokens != 0 || found.lease != 0))
		sim_fail("%s: a lookup that failed says %u usable tokens", engine->shape.name,
			 found.usable_tokens);
	if (result < 0)
		return 0;
	kernel_note(found.usable_tokens, found.lease);
	if (found.worth_tokens > found.usable_tokens)
		sim_fail("%s: more tokens are worth it than usable", engine->shape.name);
	if (found.usable_tokens > order->at.count * TOKENS_A_BLOCK)
		sim_fail("%s: more tokens are usable than asked for", engine->shape.name);
	if (found.usable_tokens > 0 && model.bypassed[engine->shape.tenant] != 0 &&
	    model.bypassed[engine->shape.tenant] <= began)
		sim_fail("%s: %u tokens are usable while the tenant is bypassed",
			 engine->shape.name, found.usable_tokens);
	if (found.usable_tokens > 0 && model.bypassed_all != 0 && model.bypassed_all <= began)
		sim_fail("%s: %u tokens are usable while the settings bypass the node",
			 engine->shape.name, found.usable_tokens);
	usable_check(caller, found.usable_tokens, began);
	*out_lease = found.lease;
	return found.usable_tokens / TOKENS_A_BLOCK;
}

static void carry_out_lookup(struct caller *caller)
{
	uint64_t lease;

	(void)lookup_ask(caller, &lease);
	if (lease != 0)
		caller->engine->lease = lease;
}

/* As vLLM's connector does. */
static void carry_out_fetch(struct caller *caller)
{
	uint64_t lease;
	uint32_t blocks = lookup_ask(caller, &lease);

	for (uint16_t group = 0; blocks > 0 && group < caller->engine->shape.groups_count;
	     group++) {
		struct stretch at = { .chain = caller->order.at.chain,
				      .group = group,
				      .shard = caller->engine->shape.shard,
				      .count = (uint16_t)blocks };

		if (at.count > ENGINE_BLOCKS / 2)
			at.count = ENGINE_BLOCKS / 2;
		load_begin(caller, &at, lease);
	}
}

static void carry_out_release(struct caller *caller)
{
	struct engine *engine = caller->engine;
	uint64_t lease = engine->lease;
	int result;

	engine->lease = 0;
	call_begin(caller, "kvtier_lease_release", CALL_SLACK_US);
	result = kvtier_lease_release(engine->client, lease);
	call_end(caller, result);
}

static void carry_out_forget(struct caller *caller)
{
	struct engine *engine = caller->engine;
	const struct order *order = &caller->order;
	struct identity identity = engine_identity(engine, order->adapter);
	uint32_t space = KVTIER_SPACE_NONE;
	uint64_t began;
	int result;

	if (!order->is_of_tenant && !space_find(caller, order->adapter, &space))
		return;
	began = model_now();
	call_begin(caller, "kvtier_forget", order->wait_us);
	result = kvtier_forget(engine->client, space, order->wait_us);
	call_end(caller, result);
	if (result == 0)
		model_forgot(&identity, order->is_of_tenant, began);
}

static void carry_out_hint(struct caller *caller)
{
	struct engine *engine = caller->engine;
	const struct order *order = &caller->order;
	uint8_t hashes[KEYS_MAX][KVTIER_HASH_BYTES];
	struct kvtier_keys keys = { .group = order->at.group,
				    .first_position = order->at.first,
				    .count = order->at.count,
				    .hashes = hashes };
	uint64_t lease = 0;
	uint32_t space;
	int result;

	if (!space_find(caller, order->adapter, &space))
		return;
	for (unsigned i = 0; i < order->at.count; i++)
		model_hash(order->at.chain, order->at.first + i, hashes[i]);
	call_begin(caller, "kvtier_hint", order->wait_us);
	result = kvtier_hint(engine->client, (enum kvtier_hint)(order->choice % 5), space, &keys,
			     order->lease_us, order->wait_us, &lease);
	call_end(caller, result);
	if (lease != 0)
		engine->lease = lease;
}

static void carry_out_cancel(struct caller *caller)
{
	struct engine *engine = caller->engine;
	const struct engine_job *job = &engine->jobs[caller->order.choice % ENGINE_JOBS_MAX];

	call_begin(caller, "kvtier_cancel", 0);
	kvtier_cancel(engine->client, job->is_used ? job->id : caller->order.choice);
	call_end(caller, 0);
}

static void carry_out_stats(struct caller *caller)
{
	char text[256];
	int result;

	call_begin(caller, "kvtier_stats", caller->order.wait_us);
	result = kvtier_stats(caller->engine->client, text, sizeof(text), caller->order.wait_us);
	call_end(caller, result < 0 ? result : 0);
}

static void carry_out_connect(struct caller *caller)
{
	int result;

	call_begin(caller, "kvtier_connect", caller->order.wait_us);
	result = kvtier_connect(caller->engine->client, caller->order.wait_us, NULL, 0);
	call_end(caller, result);
}

void order_carry_out(struct caller *caller)
{
	static void (*const ways[ORDERS])(struct caller *caller) = {
		[ORDER_STORE] = carry_out_store,	 [ORDER_LOOKUP] = carry_out_lookup,
		[ORDER_FETCH] = carry_out_fetch,	 [ORDER_RELEASE] = carry_out_release,
		[ORDER_FORGET] = carry_out_forget,	 [ORDER_HINT] = carry_out_hint,
		[ORDER_CANCEL] = carry_out_cancel,	 [ORDER_STATS] = carry_out_stats,
		[ORDER_CONNECT] = carry_out_connect,
	};

	if (caller->order.kind == ORDER_LOAD)
		load_begin(caller, &caller->order.at, caller->engine->lease);
	else
		ways[caller->order.kind](caller);
}
