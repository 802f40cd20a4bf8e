/* bench/replay_engine.c: opens an engine made of one client a shard, with real memory and no model.
 */
#include "bench/replay_parts.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MEMORY_BYTES_WANTED (UINT64_C(256) << 20) /* of one process, all shards */
#define CHUNK_BLOCKS_MAX 256u
#define SETTLE_US_MAX UINT64_C(30000000)
#define SETTLE_PAUSE_NS 100000L
#define BOOT_CHECK_EACH_US 100000u

static uint32_t chunk_blocks_choose(const struct replay_options *options)
{
	uint64_t blocks = options->engine_blocks;

	if (blocks == 0)
		blocks = MEMORY_BYTES_WANTED / (options->block_bytes * options->shards);
	if (blocks > CHUNK_BLOCKS_MAX)
		blocks = CHUNK_BLOCKS_MAX;
	return blocks == 0 ? 1 : (uint32_t)blocks;
}

static int engine_memory_take(struct engine *engine, struct error *error)
{
	const struct trace *trace = engine->trace;
	size_t bytes = engine->chunk_blocks * engine->options->block_bytes;

	for (uint32_t i = 0; i < trace->requests_count; i++) {
		const struct trace_request *request = &trace->requests[i];
		uint32_t blocks = request->blocks_count + request->output_blocks_count;
		if (blocks > engine->keys_max)
			engine->keys_max = blocks;
	}
	engine->hashes = malloc((engine->keys_max + 1ull) * sizeof(*engine->hashes));
	engine->blocks = malloc(engine->chunk_blocks * sizeof(*engine->blocks));
	engine->results = malloc(engine->chunk_blocks * sizeof(*engine->results));
	if (engine->hashes == NULL || engine->blocks == NULL || engine->results == NULL)
		return error_set(error, -ENOMEM, "no memory for an engine of %u blocks",
				 engine->chunk_blocks);
	for (unsigned shard = 0; shard < engine->options->shards; shard++) {
		void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		if (memory == MAP_FAILED)
			return error_set(error, -ENOMEM,
					 "no memory for %u engine blocks of %llu bytes",
					 engine->chunk_blocks,
					 (unsigned long long)engine->options->block_bytes);
		engine->memory[shard] = memory;
	}
	return 0;
}

static int client_open(struct engine *engine, unsigned process, unsigned shard, struct error *error)
{
	const struct replay_options *options = engine->options;
	char name[64], content[64], layout[64], split[32], text[160] = "";
	struct kvtier_plane plane = { engine->memory[shard], options->block_bytes,
				      options->block_bytes };
	struct kvtier_group group = { .kind = KVTIER_FULL,
				      .tokens_per_block = engine->trace->block_tokens,
				      .segments_count = options->segments,
				      .blocks_count = engine->chunk_blocks,
				      .planes_count = 1,
				      .planes = &plane };

	snprintf(name, sizeof(name), "bench-%ld-%u", (long)getppid(), process);
	snprintf(content, sizeof(content), "kvtier-bench payload 1 seed %llu",
		 (unsigned long long)options->seed);
	snprintf(layout, sizeof(layout), "bytes=%llu,segments=%u",
		 (unsigned long long)options->block_bytes, options->segments);
	snprintf(split, sizeof(split), "tp=%u", options->shards);
	struct kvtier_options client = {
		.socket = options->socket,
		.engine = name,
		.roles = shard == 0 ? KVTIER_SCHEDULER | KVTIER_WORKER : KVTIER_WORKER,
		.shard = shard,
		.world = options->shards,
		.identity = { .model_content = content,
			      .layout = layout,
			      .split = split,
			      .hash_algorithm = "kvtier-bench" },
		.groups_count = 1,
		.groups = &group,
		.connect_us_max = options->connect_us_max,
	};
	int result = kvtier_open(&engine->clients[shard], &client, text, sizeof(text));
	if (result < 0)
		return error_set(error, result, "cannot open a client on %s: %s", options->socket,
				 text[0] != '\0' ? text : kvtier_strerror(result));
	return 0;
}

/* All ranks have to be open before any of them can be connected. */
static int clients_connect(struct engine *engine, struct error *error)
{
	char text[160] = "";

	for (unsigned shard = 0; shard < engine->options->shards; shard++) {
		int result = kvtier_connect(engine->clients[shard], engine->options->connect_us_max,
					    text, sizeof(text));
		if (result < 0)
			return error_set(error, result, "no daemon at %s within %llu ms: %s",
					 engine->options->socket,
					 (unsigned long long)engine->options->connect_us_max / 1000,
					 text[0] != '\0' ? text : kvtier_strerror(result));
	}
	return 0;
}

int engine_open(struct engine **out_engine, const struct trace *trace,
		const struct replay_options *options, unsigned process,
		struct replay_figures *figures, struct error *error)
{
	struct engine *engine = calloc(1, sizeof(*engine));

	if (engine == NULL)
		return error_set(error, -ENOMEM, "no memory for an engine");
	engine->trace = trace;
	engine->options = options;
	engine->figures = figures;
	engine->chunk_blocks = chunk_blocks_choose(options);
	int result = engine_memory_take(engine, error);
	for (unsigned shard = 0; result == 0 && shard < options->shards; shard++)
		result = client_open(engine, process, shard, error);
	if (result == 0)
		result = clients_connect(engine, error);
	if (result < 0) {
		engine_close(engine);
		return result;
	}
	engine_warm(engine);
	*out_engine = engine;
	return 0;
}

void engine_close(struct engine *engine)
{
	if (engine == NULL)
		return;
	for (unsigned shard = 0; shard < engine->options->shards; shard++) {
		kvtier_close(engine->clients[shard]); /* before the memory that it copies to */
		if (engine->memory[shard] != NULL)
			munmap(engine->memory[shard],
			       engine->chunk_blocks * engine->options->block_bytes);
	}
	free(engine->hashes);
	free(engine->blocks);
	free(engine->results);
	free(engine);
}

/* The daemon's status, ours to give back; NULL: it is away. */
static json_t *engine_stats(struct engine *engine)
{
	if (kvtier_stats(engine->clients[0], engine->stats, sizeof(engine->stats),
			 engine->options->deadline_us) < 0)
		return NULL;
	return json_loads(engine->stats, 0, NULL);
}

void engine_boot_check(struct engine *engine)
{
	uint64_t at_us = now_us();

	if (at_us < engine->boot_check_us)
		return;
	engine->boot_check_us = at_us + BOOT_CHECK_EACH_US;
	json_t *stats = engine_stats(engine);
	const char *boot = json_string_value(json_object_get(stats, "boot_id"));
	if (boot != NULL && strcmp(boot, engine->boot) != 0) {
		if (engine->boot[0] != '\0') {
			engine->has_returned = true;
			engine->figures->returns++;
		}
		snprintf(engine->boot, sizeof(engine->boot), "%s", boot);
	}
	json_decref(stats);
}

bool engine_settle(struct engine *engine)
{
	uint64_t until_us = now_us() + SETTLE_US_MAX;

	while (now_us() < until_us) {
		json_t *stats = engine_stats(engine);
		const json_t *pending = json_object_get(stats, "pending_down");
		bool is_known = json_is_integer(pending),
		     is_done = json_integer_value(pending) == 0;
		json_decref(stats);
		if (!is_known || is_done)
			return is_known;
		struct timespec pause = { .tv_nsec = SETTLE_PAUSE_NS };
		nanosleep(&pause, NULL);
	}
	return false;
}
