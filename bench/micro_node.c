/* bench/micro_node.c: a daemon and an engine of the benchmark's own. */
#include "bench/micro.h"

#include "bench/payload.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define START_US_MAX UINT64_C(120000000)
#define MOVE_US_MAX UINT64_C(60000000)
#define JOB_BLOCKS_MAX 1024u
#define STATS_BYTES (64u << 10)
#define POLL_NS 500000L

extern char **environ;

double micro_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void pause_shortly(void)
{
	struct timespec pause = { .tv_nsec = POLL_NS };

	nanosleep(&pause, NULL);
}

static int config_write(const struct micro_node *node, struct error *error)
{
	FILE *file = fopen(node->config, "w");
	uint64_t extent = UINT64_C(16) << 20;

	if (file == NULL)
		return error_set(error, -errno, "cannot write %s: %s", node->config,
				 strerror(errno));
	fprintf(file, "run_directory: %s/run\nstate_directory: %s/state\nhttp_listen: \"\"\n",
		node->micro->directory, node->micro->directory);
	if (node->micro->encryption != NULL)
		fprintf(file, "encryption: %s\n", node->micro->encryption);
	if (node->micro->settings != NULL)
		fputs(node->micro->settings, file);
	fprintf(file,
		"extent_bytes: %" PRIu64 "\nblock_bytes_min: %" PRIu64
		"\ntenants:\n  - name: default\n"
		"    cpu_bytes: %" PRIu64 "\n",
		extent, node->block_bytes < (64u << 10) ? node->block_bytes : UINT64_C(65536),
		node->cpu_bytes);
	if (node->nvme_bytes > 0)
		fprintf(file,
			"    nvme_bytes: %" PRIu64 "\nnvme:\n  - path: %s\n    bytes: %" PRIu64
			"\n",
			node->nvme_bytes / 2 / extent * extent, node->device, node->nvme_bytes);
	return fclose(file) == 0 ? 0 : error_set(error, -EIO, "cannot write %s", node->config);
}

int micro_node_again(struct micro_node *node, struct error *error)
{
	char *arguments[] = { (char *)node->micro->kvtierd,
			      "--config",
			      node->config,
			      "--set",
			      "log_level=error",
			      NULL };
	int result = posix_spawn(&node->pid, node->micro->kvtierd, NULL, NULL, arguments, environ);

	return result == 0 ? 0
			   : error_set(error, -result, "cannot start %s: %s", node->micro->kvtierd,
				       strerror(result));
}

int micro_node_start(struct micro_node *node, struct micro *micro, uint64_t cpu_bytes,
		     uint64_t nvme_bytes, uint64_t block_bytes, struct error *error)
{
	int result;

	memset(node, 0, sizeof(*node));
	node->micro = micro;
	node->cpu_bytes = cpu_bytes;
	node->nvme_bytes = nvme_bytes;
	node->block_bytes = block_bytes;
	snprintf(node->config, sizeof(node->config), "%s/kvtierd.yaml", micro->directory);
	snprintf(node->socket, sizeof(node->socket), "%s/run/t/default/kv.sock", micro->directory);
	snprintf(node->device, sizeof(node->device), "%s/nvme0", micro->directory);
	result = config_write(node, error);
	return result < 0 ? result : micro_node_again(node, error);
}

void micro_node_kill(struct micro_node *node)
{
	if (node->pid <= 0)
		return;
	kill(node->pid, SIGKILL);
	waitpid(node->pid, NULL, 0);
	node->pid = 0;
}

void micro_node_stop(struct micro_node *node)
{
	char path[300];

	if (node->pid > 0) {
		kill(node->pid, SIGTERM);
		waitpid(node->pid, NULL, 0);
	}
	node->pid = 0;
	/* The next measure's daemon starts with nothing. */
	if (node->device[0] != '\0')
		unlink(node->device);
	if (node->micro == NULL)
		return;
	snprintf(path, sizeof(path), "rm -rf '%s/state'", node->micro->directory);
	if (system(path) != 0)
		fprintf(stderr, "cannot remove %s/state\n", node->micro->directory);
}

static int serving_wait(struct micro_engine *engine, struct error *error)
{
	double until = micro_now() + START_US_MAX / 1e6;
	static char text[STATS_BYTES];

	while (micro_now() < until) {
		if (kvtier_connect(engine->client, 100000, NULL, 0) == 0 &&
		    kvtier_is_connected(engine->client) &&
		    kvtier_stats(engine->client, text, sizeof(text), 1000000) == 0 &&
		    strstr(text, "\"state\":\"serving\"") != NULL)
			return 0;
		pause_shortly();
	}
	return error_set(error, -ETIMEDOUT, "the daemon does not serve");
}

int micro_engine_open(struct micro_engine *engine, const struct micro_node *node, uint32_t blocks,
		      struct error *error)
{
	static unsigned engines;
	char id[64];
	struct kvtier_plane plane = { .stride = node->block_bytes, .bytes = node->block_bytes };
	struct kvtier_group group = { .kind = KVTIER_FULL,
				      .tokens_per_block = 16,
				      .segments_count = 1,
				      .blocks_count = blocks,
				      .planes_count = 1,
				      .planes = &plane };
	struct kvtier_options options = { .socket = node->socket,
					  .engine = id,
					  .roles = KVTIER_SCHEDULER | KVTIER_WORKER,
					  .world = 1,
					  .identity = { .model_content = "micro" },
					  .groups_count = 1,
					  .groups = &group,
					  .connect_us_max = 100000 };
	uint64_t bytes = blocks * node->block_bytes;
	int result;

	memset(engine, 0, sizeof(*engine));
	snprintf(id, sizeof(id), "micro-%d-%u", (int)getpid(), engines++);
	engine->block_bytes = node->block_bytes;
	engine->blocks = blocks;
	engine->next_identity = 1;
	engine->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			      0);
	if (engine->memory == MAP_FAILED)
		return error_set(error, -ENOMEM, "no memory for %u engine blocks", blocks);
	madvise(engine->memory, bytes, MADV_HUGEPAGE);
	payload_fill(engine->memory, bytes, 1, 0, 0);
	plane.base = engine->memory;
	result = kvtier_open(&engine->client, &options, error->text, sizeof(error->text));
	return result < 0 ? result : serving_wait(engine, error);
}

void micro_engine_close(struct micro_engine *engine)
{
	kvtier_close(engine->client);
	if (engine->memory != NULL && engine->memory != MAP_FAILED)
		munmap(engine->memory, engine->blocks * engine->block_bytes);
	memset(engine, 0, sizeof(*engine));
}

/* Hands the next part of a run to the library; 0: it has as many jobs as it takes. */
static int part_begin(struct micro_engine *engine, bool is_store, uint64_t identity, uint64_t done,
		      unsigned count)
{
	static struct kvtier_block blocks[JOB_BLOCKS_MAX];
	uint8_t parent[KVTIER_HASH_BYTES];
	struct kvtier_transfer transfer = { .count = count,
					    .blocks = blocks,
					    .deadline_us = MOVE_US_MAX,
					    .first_position = (uint32_t)done };
	uint64_t job;
	int result;

	for (unsigned i = 0; i < count; i++) {
		payload_hash(identity + done + i, blocks[i].hash);
		blocks[i].engine_block = (uint32_t)((identity + done + i) % engine->blocks);
		blocks[i].route_key = identity + done + i;
	}
	if (done > 0) {
		payload_hash(identity + done - 1, parent);
		transfer.parent = parent;
	}
	result = is_store ? kvtier_store(engine->client, &transfer, &job)
			  : kvtier_load(engine->client, &transfer, &job);
	return result == 0 ? 1 : result == -EAGAIN ? 0 : result;
}

int64_t micro_engine_move(struct micro_engine *engine, bool is_store, uint64_t identity,
			  uint64_t count)
{
	struct kvtier_completion completions[16];
	uint64_t begun = 0, jobs = 0, good = 0;
	double until = micro_now() + MOVE_US_MAX / 1e6;

	while ((begun < count || jobs > 0) && micro_now() < until) {
		unsigned part = count - begun < JOB_BLOCKS_MAX ? (unsigned)(count - begun)
							       : JOB_BLOCKS_MAX;
		int result = part > 0 && jobs < 8
				     ? part_begin(engine, is_store, identity, begun, part)
				     : 0;

		if (result < 0)
			return result;
		if (result > 0) {
			begun += part;
			jobs++;
			continue;
		}
		if (kvtier_wait(engine->client, 1000000) <= 0)
			continue;
		result = kvtier_poll(engine->client, completions, 16);
		for (int i = 0; i < result; i++) {
			good += completions[i].good_count;
			jobs -= completions[i].quiesced != 0;
		}
	}
	return jobs > 0 ? -ETIMEDOUT : (int64_t)good;
}

uint64_t micro_engine_count(struct micro_engine *engine, const char *name)
{
	static char text[STATS_BYTES];
	char key[80];
	const char *found;

	snprintf(key, sizeof(key), "\"%s\":", name);
	if (kvtier_stats(engine->client, text, sizeof(text), 1000000) < 0)
		return 0;
	found = strstr(text, key);
	return found == NULL ? 0 : strtoull(found + strlen(key), NULL, 10);
}

int micro_engine_settle(struct micro_engine *engine, struct error *error)
{
	double until = micro_now() + MOVE_US_MAX / 1e6;
	static char text[STATS_BYTES];

	while (micro_now() < until) {
		int result = kvtier_stats(engine->client, text, sizeof(text), 1000000);

		if (result < 0)
			return error_set(error, result, "no statistics: %s",
					 kvtier_strerror(result));
		bool has_catalog = strstr(text, "\"catalog_pending\":") != NULL;

		if (strstr(text, "\"pending_down\":0,") != NULL &&
		    strstr(text, "\"moves\":0,") != NULL &&
		    (!has_catalog || strstr(text, "\"catalog_pending\":0,") != NULL))
			return 0;
		pause_shortly();
	}
	return error_set(error, -ETIMEDOUT, "blocks are still being written down");
}
