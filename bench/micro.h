/*
 * bench/micro.h: the measures of `kvtier-bench micro`: what each operation costs beside what the
 * machine gives for it, in interleaved pairs. Runs on: one thread, on a machine that does nothing
 * else.
 */
#ifndef KVTIER_BENCH_MICRO_H
#define KVTIER_BENCH_MICRO_H

#include "bench/measures.h"
#include "client/kvtier.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct micro {
	const char *kvtierd; /* the daemon's binary */
	char directory[200]; /* ours, made and removed by micro_command() */
	uint64_t pairs;
	uint64_t restart_blocks;
	uint64_t index_blocks; /* of the index that lookups are measured in */
	const char *encryption; /* of daemons that are started from now on; NULL: off */
	const char *settings;   /* more lines of their settings; NULL: none */
	struct measures measures;
};

/* A daemon of our own. */
struct micro_node {
	struct micro *micro;
	pid_t pid;
	char config[256], socket[256], device[256];
	uint64_t cpu_bytes, nvme_bytes; /* nvme: of the device; the cache may use the first half,
					   raw I/O the rest */
	uint64_t block_bytes;
};

/* Writes the config and starts it; waits until it serves. */
must_check int micro_node_start(struct micro_node *node, struct micro *micro, uint64_t cpu_bytes,
				uint64_t nvme_bytes, uint64_t block_bytes, struct error *error);
/* Starts it again with the same config; does not wait. */
must_check int micro_node_again(struct micro_node *node, struct error *error);
void micro_node_kill(struct micro_node *node);
void micro_node_stop(struct micro_node *node);

/* An engine of our own with `blocks` blocks of memory, filled with a pattern. */
struct micro_engine {
	struct kvtier_client *client;
	uint8_t *memory;
	uint64_t block_bytes;
	uint32_t blocks;
	uint64_t next_identity; /* of blocks not stored yet */
};

must_check int micro_engine_open(struct micro_engine *engine, const struct micro_node *node,
				 uint32_t blocks, struct error *error);
void micro_engine_close(struct micro_engine *engine);
/* Stores or loads `count` blocks with identities from `identity` on, engine block i % blocks each,
 * as one chain; waits. Returns how many were good, or a negative errno. */
int64_t micro_engine_move(struct micro_engine *engine, bool is_store, uint64_t identity,
			  uint64_t count);
/* A counter of the daemon's status by its name, or 0. */
uint64_t micro_engine_count(struct micro_engine *engine, const char *name);
/* Waits until nothing is left to be written down, the catalogue's records with it: a kill then
 * loses nothing. */
must_check int micro_engine_settle(struct micro_engine *engine, struct error *error);
/* Seconds since some point. */
double micro_now(void);

/* Each adds its measures; 0 or a negative errno. */
int micro_nvme(struct micro *micro, uint64_t block_bytes, const char *size_name,
	       struct error *error);
int micro_cpu(struct micro *micro, struct error *error);
int micro_cipher(struct micro *micro, struct error *error);
int micro_host(struct micro *micro, struct error *error);
int micro_call(struct micro *micro, struct error *error);
int micro_lookup(struct micro *micro, struct error *error);
int micro_restart(struct micro *micro, struct error *error);
int micro_simulate(struct micro *micro, struct error *error);
int micro_fair(struct micro *micro, struct error *error);
int micro_idle(struct micro *micro, struct error *error);

#endif
