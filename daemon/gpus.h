/*
 * daemon/gpus.h: the node's GPUs, by the setting `gpus`: a process each, into which every tenant's
 * arena is pinned before engines come, and the pull_ops over them. One that cannot be opened is
 * named with the reason and tried again; it costs nothing else.
 * Runs on: the loop thread; create and destroy: main.
 */
#ifndef KVTIER_DAEMON_GPUS_H
#define KVTIER_DAEMON_GPUS_H

#include "daemon/daemon.h"
#include "daemon/pull.h"
#include "transfer/gpu_names.h"

enum gpu_state {
	GPU_OPENING,
	GPU_PINNING, /* open; engines are to wait until all arenas are pinned */
	GPU_OPEN,
	GPU_WAITING, /* for the next start of its process */
	GPU_STATES
};

/* What was copied since the start. */
struct gpu_counters {
	uint64_t done[COPY_DIRECTIONS], failed[COPY_DIRECTIONS], bytes[COPY_DIRECTIONS];
};

struct json_text;

struct gpu_figures {
	struct gpu_name name;
	int numa_node; /* -1: not known, or there is but one */
	struct gpu_link_status link;
	enum gpu_state state;
	struct gpu_counters counters;
	struct pull_speed speeds[COPY_DIRECTIONS];
};

extern const struct pull_ops pull_ops_gpus;

/* Those that the setting means, before arenas are opened: they are made so that another process
 * can map them. Without GPUs nothing is made. */
must_check int gpus_create(struct daemon *daemon, struct error *error);
/* The NUMA nodes of those, as far as they are known: a mask. */
uint64_t gpus_numa_nodes(const struct daemon *daemon);
/* Every tenant's arena goes to every GPU's process; the loop is woken by them. After the server. */
must_check int gpus_open(struct daemon *daemon, struct error *error);
/* Kills the processes, and sees their end: copies and lent memory come back. */
void gpus_destroy(struct daemon *daemon);
bool gpus_step(struct daemon *daemon);
/* For the loop's wait. */
bool gpus_sleep(struct daemon *daemon);
void gpus_awake(struct daemon *daemon);
unsigned gpus_count(const struct daemon *daemon);
void gpus_figures(const struct daemon *daemon, unsigned number, struct gpu_figures *out_figures);
/* The array `gpus` of the status. */
void gpus_write(const struct daemon *daemon, struct json_text *json);
const char *gpu_state_name(enum gpu_state state);
/* "store" (device to host), "load". */
const char *gpu_direction_name(enum copy_direction direction);

#endif
