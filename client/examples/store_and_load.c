/*
 * store_and_load.c: stores the KV blocks of a request, wipes them, and loads them again.
 * Usage: store_and_load SOCKET
 */
#include "client/kvtier.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCKS 4
#define PLANE_BYTES 4096

/* Waits for a job's last completion: only then may its engine blocks be used for something else. */
static int finish(struct kvtier_client *client, uint64_t job, const char *what)
{
	struct kvtier_completion completion;

	for (;;) {
		if (kvtier_wait(client, 10000000) != 1)
			return 1;
		if (kvtier_poll(client, &completion, 1) != 1 || completion.job != job)
			continue;
		if (completion.quiesced)
			break;
	}
	printf("%s: %u of %u blocks\n", what, completion.good_count, completion.count);
	return completion.good_count == completion.count ? 0 : 1;
}

int main(int arguments_count, char **arguments)
{
	/* The engine's KV memory: keys and values of one layer, block after block. */
	uint8_t *kv = malloc(2 * BLOCKS * PLANE_BYTES);
	const struct kvtier_plane planes[2] = {
		{ .base = kv, .stride = PLANE_BYTES, .bytes = PLANE_BYTES },
		{ .base = kv + BLOCKS * PLANE_BYTES, .stride = PLANE_BYTES, .bytes = PLANE_BYTES },
	};
	const struct kvtier_group group = { .kind = KVTIER_FULL,
					    .tokens_per_block = 16,
					    .segments_count = 2,
					    .blocks_count = BLOCKS,
					    .planes_count = 2,
					    .planes = planes };
	const struct kvtier_options options = {
		.socket = arguments_count > 1 ? arguments[1] : NULL,
		.engine = "example",
		.roles = KVTIER_SCHEDULER | KVTIER_WORKER,
		.identity = { .model_content = "example-model-digest", .dtype = "bf16" },
		.groups_count = 1,
		.groups = &group,
	};
	struct kvtier_block blocks[BLOCKS];
	const struct kvtier_transfer transfer = { .count = BLOCKS,
						  .blocks = blocks,
						  .deadline_us = 5000000 };
	struct kvtier_client *client;
	uint64_t route_key = group.tokens_per_block, job;
	uint32_t tokens[16] = { 0 };
	char text[256];
	int result = kvtier_open(&client, &options, text, sizeof(text));

	if (result == 0)
		result = kvtier_connect(client, 5000000, text, sizeof(text));
	if (result < 0) {
		fprintf(stderr, "cannot connect: %s\n", text);
		return 1;
	}
	for (uint32_t i = 0; i < BLOCKS; i++) {
		tokens[0] = i;
		route_key = kvtier_route_key(route_key, tokens, 16, NULL, 0);
		/* An engine gives its own chained block hash here. */
		memset(blocks[i].hash, (int)i + 1, sizeof(blocks[i].hash));
		blocks[i].route_key = route_key;
		blocks[i].engine_block = i;
	}
	memset(kv, 7, 2 * BLOCKS * PLANE_BYTES);
	result = kvtier_store(client, &transfer, &job) == 0 ? finish(client, job, "stored") : 1;
	memset(kv, 0, 2 * BLOCKS * PLANE_BYTES);
	if (result == 0)
		result = kvtier_load(client, &transfer, &job) == 0 ? finish(client, job, "loaded")
								   : 1;
	for (int i = 0; i < 2 * BLOCKS * PLANE_BYTES && result == 0; i++)
		result = kv[i] == 7 ? 0 : 1;
	printf("%s\n", result == 0 ? "the bytes are the same" : "not the same");
	kvtier_close(client);
	free(kv);
	return result;
}
