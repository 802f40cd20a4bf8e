/*
 * bench/peer_node.h: two daemons of the benchmark's own on loopback, an engine of each: what a
 * block of the other costs, from asking for it until it is in the engine.
 * Runs on: one thread; starts processes.
 */
#ifndef KVTIER_BENCH_PEER_NODE_H
#define KVTIER_BENCH_PEER_NODE_H

#include "bench/micro.h"

struct peer_nodes {
	struct micro micros[2];
	struct micro_node nodes[2];
	struct micro_engine engines[2]; /* the first stores, the second fetches */
	char settings[2][512], address[2][32];
	uint64_t next;                  /* blocks stored and not fetched: from here */
	uint64_t stored;
};

/* `transport`: the setting peer_transport. Blocks of `block_bytes`, `count` of them stored. */
must_check int peer_nodes_start(struct peer_nodes *nodes, const struct micro *micro,
				const char *transport, uint64_t block_bytes, uint32_t count,
				struct error *error);
void peer_nodes_stop(struct peer_nodes *nodes);
/* Fetches and loads the next `count` blocks; how many seconds that took. A block that is not right
 * is an error. */
must_check int peer_nodes_fetch(struct peer_nodes *nodes, uint32_t count, double *out_seconds,
				struct error *error);
/* A small request and `bytes` back, over plain sockets: microseconds, the median of many. */
must_check int peer_raw_round_trip(uint32_t bytes, double *out_us, struct error *error);

#endif
