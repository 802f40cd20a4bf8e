/*
 * lookup.c: asks the daemon how much of a prompt is cached, and says what a caller does with each
 * answer. Usage: lookup SOCKET
 */
#include "client/kvtier.h"

#include <stdio.h>
#include <string.h>

int main(int arguments_count, char **arguments)
{
	const struct kvtier_group group = { .kind = KVTIER_FULL,
					    .tokens_per_block = 16,
					    .segments_count = 2,
					    .payload_bytes = 8192 };
	const struct kvtier_options options = {
		.socket = arguments_count > 1 ? arguments[1] : NULL,
		.engine = "example",
		.roles = KVTIER_SCHEDULER,
		.identity = { .model_content = "example-model-digest", .dtype = "bf16" },
		.groups_count = 1,
		.groups = &group,
	};
	uint8_t hashes[4][KVTIER_HASH_BYTES];
	const struct kvtier_keys keys = { .count = 4,
					  .hashes = (const uint8_t(*)[KVTIER_HASH_BYTES])hashes };
	const struct kvtier_lookup lookup = { .sections_count = 1, .sections = &keys };
	struct kvtier_found found = { .present = NULL };
	struct kvtier_client *client;
	char text[256];
	int result = kvtier_open(&client, &options, text, sizeof(text));

	if (result < 0) {
		fprintf(stderr, "cannot open: %s\n", text);
		return 1;
	}
	/* An engine gives its own chained block hashes here. */
	for (int i = 0; i < 4; i++)
		memset(hashes[i], i + 1, sizeof(hashes[i]));
	result = kvtier_lookup(client, &lookup, 20000, &found);
	if (result < 0)
		printf("a miss: %s; compute all tokens\n", kvtier_strerror(result));
	else
		printf("%u of 64 tokens are cached; loading %u is worth it and takes about %u us\n",
		       found.usable_tokens, found.worth_tokens, found.restore_us);
	kvtier_lease_release(client, found.lease);
	kvtier_close(client);
	return 0;
}
