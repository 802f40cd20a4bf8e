/* tests/sim/engine.c: lives of an engine, and what comes of its jobs. */
#include "tests/sim/engine_parts.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POLL_US (UINT64_C(100) * 1000)
#define OPEN_US (UINT64_C(200) * 1000)
#define COMPLETIONS_MAX 8u
/* The copy thread may be in the middle of connecting. */
#define CLOSE_US (UINT64_C(1100) * 1000)
/* And the daemon's copies may not be over. */
#define CLOSE_LENT_US (CLOSE_US + 2 * SECOND_US)

void call_begin(struct caller *caller, const char *name, uint64_t wait_us)
{
	assert(caller->call == NULL);
	caller->call = name;
	caller->call_until_us = kernel.now_us + wait_us;
}

static void call_check(const struct caller *caller)
{
	struct engine *engine = caller->engine;
	uint64_t late_us;

	if (caller->call == NULL || kernel.now_us <= caller->call_until_us)
		return;
	if (engine->stalled_us != 0 && engine->stalled_us + CALL_SLACK_US > kernel.now_us)
		return;
	late_us = kernel.now_us - caller->call_until_us;
	if (engine->late_us_max < late_us)
		engine->late_us_max = late_us;
	if (late_us > CALL_SLACK_US)
		sim_fail("%s: %s() has not returned %llu us after its deadline",
			 engine->shape.name, caller->call, (unsigned long long)late_us);
}

void call_end(struct caller *caller, long long result)
{
	call_check(caller);
	caller->call = NULL;
	kernel_note((uint64_t)result, (uint64_t)(uintptr_t)caller->engine->shape.tenant);
	sim_tell("%s: result %lld", caller->engine->shape.name, result);
}

struct identity engine_identity(const struct engine *engine, unsigned adapter)
{
	return (struct identity){ .tenant = engine->shape.tenant,
				  .model = engine->shape.model,
				  .adapter = (uint16_t)adapter };
}

/* ---- jobs ---- */

struct engine_job *job_take(struct engine *engine, const struct stretch *at)
{
	struct engine_job *job = engine->jobs;
	unsigned count = 0;

	while (job < engine->jobs + ENGINE_JOBS_MAX && job->is_used)
		job++;
	if (job == engine->jobs + ENGINE_JOBS_MAX)
		return NULL;
	for (unsigned i = 0; i < ENGINE_BLOCKS && count < at->count; i++)
		if (!engine->block_is_used[at->group][i])
			job->blocks[count++] = (uint16_t)i;
	if (count < at->count)
		return NULL;
	for (unsigned i = 0; i < count; i++) {
		engine->block_is_used[at->group][job->blocks[i]] = true;
		engine_block_check(engine, at->group, job->blocks[i]);
	}
	job->is_used = true;
	job->is_over = false;
	job->engine = engine;
	job->at = *at;
	job->version = 0;
	job->is_filling = job->is_quiet = false;
	job->id = job->lease = 0;
	return job;
}

void job_give(struct engine_job *job)
{
	struct engine *engine = job->engine;

	for (unsigned i = 0; i < job->at.count; i++) {
		engine_block_quiet(engine, job->at.group, job->blocks[i]);
		engine->block_is_used[job->at.group][job->blocks[i]] = false;
	}
	job->is_used = false;
}

/* ---- completions ---- */

/* A hit is proven, and is one of what may be returned. */
static void block_check_loaded(struct engine_job *job, unsigned index)
{
	static uint8_t payload[PAYLOAD_BYTES_MAX], expected[PAYLOAD_BYTES_MAX];
	struct engine *engine = job->engine;
	uint64_t bytes = engine->shape.groups[job->at.group].payload_bytes;
	struct stretch at = job->at;
	uint32_t version;
	const char *reason;

	at.first = (uint16_t)(at.first + index);
	engine_gather(engine, at.group, job->blocks[index], payload);
	version = model_version_of(payload);
	reason = model_refuses(version, &job->identity, &at, job->began);
	if (reason == NULL) {
		model_payload(version, at.first, expected, bytes);
		if (memcmp(payload, expected, bytes) != 0)
			reason = "some of them are not what was stored";
	}
	if (reason != NULL)
		sim_fail("%s: WRONG BYTES were delivered for block %u of chain %u, group %u: %s",
			 engine->shape.name, at.first, at.chain, at.group, reason);
	model.served++;
}

static bool result_is_known(bool is_store, int result)
{
	switch (result) {
	case 0:
	case -ETIME:
	case -ECANCELED:
	case -ENOTCONN:
	case -ENOENT:
	case -EBADMSG:
		return true;
	case 1:
	case -ENOSPC:
	case -EAGAIN:
	case -EIO:
	case -EINVAL:
	case -ENODEV:
		return is_store;
	default:
		return false;
	}
}

static void job_is_over(struct engine_job *job, const struct kvtier_completion *completion)
{
	struct engine *engine = job->engine;
	unsigned good = 0;

	if (completion->count != job->at.count || completion->is_store != job->is_store)
		sim_fail("%s: a completion of another job", engine->shape.name);
	for (unsigned i = 0; i < completion->count; i++) {
		job->results[i] = completion->results[i];
		if (!result_is_known(job->is_store, job->results[i]))
			sim_fail("%s: a block of a %s ended with %d", engine->shape.name,
				 job->is_store ? "store" : "load", job->results[i]);
		good += job->results[i] >= 0;
		model.missed += !job->is_store && job->results[i] != 0;
		kernel_note((uint64_t)job->results[i], i);
	}
	if (good != completion->good_count)
		sim_fail("%s: good_count is %u, %u blocks are good", engine->shape.name,
			 completion->good_count, good);
	if (job->is_store) {
		model_stored(job->version);
		if (good > 0 && model.drained != 0 && model.drained <= job->began)
			sim_fail("%s: %u blocks were stored while the node is drained",
				 engine->shape.name, good);
		engine->last_stored = good;
		model.stored += good;
	} else {
		engine->last_loaded = good;
	}
}

static void completion_take(struct engine *engine, const struct kvtier_completion *completion)
{
	struct engine_job *job = completion->user;

	if (job < engine->jobs || job >= engine->jobs + ENGINE_JOBS_MAX || !job->is_used)
		sim_fail("%s: a completion of no job", engine->shape.name);
	sim_tell("%s: %s %llu ended: state %d, %u of %u good, quiesced %d", engine->shape.name,
		 job->is_store ? "store" : "load", (unsigned long long)completion->job,
		 completion->state, completion->good_count, completion->count,
		 completion->quiesced);
	if (!job->is_over)
		job_is_over(job, completion);
	job->is_over = true;
	if (!completion->quiesced)
		return;
	for (unsigned i = 0; i < job->at.count && !job->is_store; i++)
		if (job->results[i] == 0)
			block_check_loaded(job, i);
	/* Given back by whoever polls, as an engine's scheduler would: no answer is waited for. */
	if (job->lease != 0 && engine->lease == 0)
		engine->lease = job->lease;
	job->is_quiet = true;
	if (!job->is_filling)
		job_give(job);
}

static void jobs_check(struct engine *engine)
{
	for (unsigned i = 0; i < ENGINE_JOBS_MAX; i++) {
		const struct engine_job *job = &engine->jobs[i];

		if (job->is_used && !job->is_over && job->id != 0 &&
		    job->until_us + POLL_US + CALL_SLACK_US < kernel.now_us &&
		    engine->stalled_us + POLL_US + CALL_SLACK_US < kernel.now_us)
			sim_fail("%s: a job has not ended by its deadline", engine->shape.name);
	}
}

static void engine_poll(struct engine *engine, struct caller *poller)
{
	struct kvtier_completion completions[COMPLETIONS_MAX];
	int count;

	poller->call = "kvtier_wait";
	poller->call_until_us = kernel.now_us + POLL_US;
	(void)kvtier_wait(engine->client, POLL_US);
	call_check(poller);
	poller->call = NULL;
	count = kvtier_poll(engine->client, completions, COMPLETIONS_MAX);
	if (count < 0)
		sim_fail("%s: kvtier_poll() answered %d", engine->shape.name, count);
	for (int i = 0; i < count; i++)
		completion_take(engine, &completions[i]);
	jobs_check(engine);
}

/* ---- lives ---- */

static int engine_open(struct engine *engine, struct caller *poller)
{
	char model_name[16], text[200];
	struct kvtier_options options = {
		.socket = node_socket(engine->node, engine->shape.tenant),
		.engine = engine->shape.name,
		.roles = KVTIER_SCHEDULER | KVTIER_WORKER,
		.shard = engine->shape.shard,
		.world = engine->shape.world,
		.identity = { .model_content = model_name, .dtype = "bf16" },
		.groups_count = engine->shape.groups_count,
		.groups = engine->shape.groups,
		.connect_us_max = OPEN_US,
	};
	struct kvtier_region region;
	struct kvtier_device device = { .name = "gpu", .regions_count = 1, .regions = &region };
	int result;

	snprintf(model_name, sizeof(model_name), "model-%u", engine->shape.model);
	engine_memory_make(engine);
	region = (struct kvtier_region){ .address = (uint64_t)(uintptr_t)engine->region,
					 .bytes = engine->region_bytes,
					 .kind = KVTIER_REGION_HANDLE,
					 .handle = &engine->handle };
	device.word_address = region.address;
	if (engine->shape.is_lender)
		options.device = &device;
	engine->process->pieces_before = engine->process->pieces;
	call_begin(poller, "kvtier_open", OPEN_US);
	result = kvtier_open(&engine->client, &options, text, sizeof(text));
	call_end(poller, result);
	if (result < 0 && result != -EPERM && result != -EINVAL)
		sim_fail("%s: kvtier_open() answered %d: %s", engine->shape.name, result, text);
	return result;
}

static bool order_is_there(void *owner)
{
	return ((struct caller *)owner)->is_busy;
}

static void *caller_live(void *argument)
{
	struct caller *caller = argument;

	for (;;) {
		(void)task_wait(order_is_there, caller, NEVER);
		order_carry_out(caller);
		caller->is_busy = false;
	}
	return NULL;
}

bool engine_is_idle(const struct engine *engine)
{
	for (unsigned i = 0; i < CALLERS; i++)
		if (engine->callers[i].is_busy)
			return false;
	for (unsigned i = 0; i < ENGINE_JOBS_MAX; i++)
		if (engine->jobs[i].is_used)
			return false;
	return true;
}

static bool callers_are_idle(void *owner)
{
	const struct engine *engine = owner;

	return !engine->callers[0].is_busy && !engine->callers[1].is_busy;
}

static void *engine_live(void *argument)
{
	struct engine *engine = argument;
	struct caller *poller = &engine->callers[CALLERS];

	engine->open_result = engine_open(engine, poller);
	if (engine->open_result < 0)
		process_exit();
	engine->is_open = true;
	for (unsigned i = 0; i < CALLERS; i++)
		(void)task_start(engine->process, caller_live, &engine->callers[i]);
	while (!engine->must_close)
		engine_poll(engine, poller);
	engine->is_open = false;
	(void)task_wait(callers_are_idle, engine, NEVER);
	call_begin(poller, "kvtier_close", engine->shape.is_lender ? CLOSE_LENT_US : CLOSE_US);
	kvtier_close(engine->client);
	call_end(poller, 0);
	process_check_empty(engine->process);
	process_exit();
}

void engine_start(struct engine *engine)
{
	assert(engine->process == NULL);
	for (unsigned i = 0; i <= CALLERS; i++)
		engine->callers[i] = (struct caller){ .engine = engine };
	memset(engine->jobs, 0, sizeof(engine->jobs));
	memset(engine->block_is_used, 0, sizeof(engine->block_is_used));
	memset(engine->spaces, 0, sizeof(engine->spaces));
	engine->spaces[0] = 1;
	engine->client = NULL;
	engine->is_open = engine->must_close = false;
	engine->lease = 0;
	engine->gates = 0;
	engine->lives++;
	engine->stalled_us = 0;
	engine->process = process_start(engine->shape.name, engine_live, engine);
}

bool engine_order(struct engine *engine, const struct order *order)
{
	if (engine->process == NULL || !engine->is_open || engine->must_close)
		return false;
	for (unsigned i = 0; i < CALLERS; i++) {
		struct caller *caller = &engine->callers[i];

		if (caller->is_busy)
			continue;
		caller->order = *order;
		caller->is_busy = true;
		kernel.changes++;
		return true;
	}
	return false;
}

void engine_close(struct engine *engine)
{
	engine->must_close = true;
}

void engine_kill(struct engine *engine)
{
	process_release(engine->process);
	engine->process = NULL;
	if (engine->device != NULL)
		gpu_sim_free(&engine->node->gpu, engine->device);
	engine->device = NULL;
	engine->is_open = false;
}

void engine_stall(struct engine *engine, uint64_t for_us)
{
	if (engine->process == NULL)
		return;
	engine->stalled_us = kernel.now_us + for_us;
	engine->process->stalled_until_us = engine->stalled_us;
}

void engine_look(struct engine *engine)
{
	if (engine->process == NULL)
		return;
	if (!engine->process->is_alive) {
		engine_kill(engine);
		return;
	}
	for (unsigned i = 0; i <= CALLERS; i++)
		call_check(&engine->callers[i]);
}
