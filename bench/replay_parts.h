/*
 * bench/replay_parts.h: one engine: what replay_engine.c (opening, settling) and replay_serve.c
 * (requests) share. Private to them.
 */
#ifndef KVTIER_BENCH_REPLAY_PARTS_H
#define KVTIER_BENCH_REPLAY_PARTS_H

#include "base/clock.h"
#include "bench/payload.h"
#include "bench/replay.h"
#include "client/kvtier.h"

#define ENGINE_STATS_BYTES (64u << 10)

_Static_assert(PAYLOAD_HASH_BYTES == KVTIER_HASH_BYTES, "a payload's hash is an engine's hash");

struct engine {
	const struct trace *trace;
	const struct replay_options *options;
	struct replay_figures *figures;
	struct kvtier_client *clients[REPLAY_SHARDS_MAX];
	uint8_t *memory[REPLAY_SHARDS_MAX];
	uint32_t chunk_blocks;
	uint32_t keys_max; /* of the longest request */
	uint8_t (*hashes)[KVTIER_HASH_BYTES];
	struct kvtier_block *blocks; /* of one chunk */
	int *results;                /* of one chunk, over all shards */
	uint8_t tag[16];             /* of the request that is served */
	bool is_away, has_returned;
	char boot[32];          /* of the daemon that we know */
	uint64_t boot_check_us; /* when to look again */
	char stats[ENGINE_STATS_BYTES];
};

static inline uint64_t now_us(void)
{
	return clock_now_us(clock_real());
}

/* Looks, now and then, whether the daemon is still the same; a restart may be too quick to be
 * missed otherwise. */
void engine_boot_check(struct engine *engine);

/* Waits, at most as long as for the daemon, until loads are served: a client is connected before
 * they are. */
void engine_warm(struct engine *engine);

/* Asks the nodes of --from, one after the other, for a chain of which the daemon has less. True:
 * one has more:
 * found says how much, and out_fetch is to be ended once it was loaded. */
bool engine_fetch(struct engine *engine, uint32_t count, struct kvtier_found *found,
		  struct kvtier_fetch *out_fetch);

#endif
