/* bench/replay_fetch.c: what the daemon has not is fetched from the nodes that --from names, in
 * turn, as a router's hint would have it. */
#include "bench/replay_parts.h"

#include <errno.h>
#include <string.h>

#define FETCH_KEYS_MAX 16384u

/* The next of a list with commas; false at its end. */
static bool peer_next(const char **list, char *out_peer, size_t bytes)
{
	size_t length = strcspn(*list, ",");

	if (**list == '\0' || length == 0 || length >= bytes)
		return false;
	memcpy(out_peer, *list, length);
	out_peer[length] = '\0';
	*list += length + ((*list)[length] == ',');
	return true;
}

/* Begins it, and waits for what that node promises. 0, and it is to be ended; else nothing is. */
static int fetch_begin(struct engine *engine, uint32_t count, const char *peer,
		       struct kvtier_fetch *out_fetch, struct kvtier_found *out_found)
{
	const struct kvtier_source source = { .peer = peer, .mode = KVTIER_PRESENT };
	uint64_t deadline_us = engine->options->deadline_us;
	struct kvtier_keys keys = { .count = count < FETCH_KEYS_MAX ? count : FETCH_KEYS_MAX,
				    .hashes = (const uint8_t(*)[KVTIER_HASH_BYTES])engine->hashes };
	struct kvtier_lookup lookup = { .sections_count = 1,
					.sections = &keys,
					.tag = engine->tag,
					.lease_us = deadline_us };
	uint64_t started_us = now_us();
	int result = kvtier_fetch(engine->clients[0], &lookup, &source, deadline_us, deadline_us,
				  out_fetch);

	if (result == 0) {
		result = kvtier_fetch_wait(engine->clients[0], out_fetch, deadline_us, out_found);
		if (result < 0)
			(void)kvtier_fetch_end(engine->clients[0], out_fetch);
	}
	if (now_us() - started_us > 2 * deadline_us + REPLAY_LATE_US)
		engine->figures->late_calls++;
	return result;
}

bool engine_fetch(struct engine *engine, uint32_t count, struct kvtier_found *found,
		  struct kvtier_fetch *out_fetch)
{
	const char *list = engine->options->from;
	uint32_t tokens_max = count * engine->trace->block_tokens;
	char peer[128];

	while (list != NULL && found->usable_tokens < tokens_max &&
	       peer_next(&list, peer, sizeof(peer))) {
		struct kvtier_found more = { 0 };

		if (fetch_begin(engine, count, peer, out_fetch, &more) < 0) {
			engine->figures->failed_fetches++;
			continue;
		}
		if (more.usable_tokens > found->usable_tokens) {
			(void)kvtier_lease_release(engine->clients[0], found->lease);
			*found = more;
			return true;
		}
		(void)kvtier_lease_release(engine->clients[0], more.lease);
		(void)kvtier_fetch_end(engine->clients[0], out_fetch);
	}
	return false;
}
