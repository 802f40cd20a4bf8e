/*
 * tests/sim/node.h: a machine with kvtierd: its lives, its disks, its catalogue. There could be
 * several; nothing here is of one only but by its pointer. Runs on: one thread.
 */
#ifndef KVTIER_TESTS_SIM_NODE_H
#define KVTIER_TESTS_SIM_NODE_H

#include "base/failpoint.h"
#include "daemon/daemon.h"
#include "daemon/threads.h"
#include "tests/sim/disk.h"
#include "tests/sim/gpu.h"
#include "tests/sim/model.h"
#include "tests/sim/settings_file.h"

#define NODE_HTTP_PORT 9469u
#define NODE_KEYS_MAX 3u
#define NODE_KEY_LINE_BYTES 96u
#define NODE_DRAIN_US (UINT64_C(10) * SECOND_US)

enum node_state { NODE_DOWN, NODE_STARTING, NODE_SERVING, NODE_STOPPING };

enum node_encryption {
	ENCRYPTION_OFF,
	ENCRYPTION_EPHEMERAL,
	ENCRYPTION_KEY_FILE,
	ENCRYPTIONS
};

/* What differs between seeds. */
struct node_shape {
	unsigned tenants, devices, mills, cpu_units, nvme_units, nvme_units_tenant;
	uint64_t unit_bytes, window_bytes, lease_us_max, restart_wait_us, write_bytes_day_max;
	unsigned batches_max, load_window_blocks, leases_max, spaces_max, connections_max;
	unsigned queue_depth;
	bool has_cpu_file;
	enum node_encryption encryption;
	/* How likely a life has another one, and a tenant other keys. */
	unsigned encryption_change_percent, key_change_percent;
	uint64_t encryption_buffer_bytes;
	uint64_t scrub_bytes_second, scrub_interval_us;
	unsigned readback_every;
	unsigned failpoint_percent; /* of the lives: one is armed */
	struct gpu_shape gpu;
};

struct node {
	struct node_shape shape;
	struct settings settings; /* of a start, without what its file says */
	char settings_path[48];
	struct settings_sources sources;
	struct settings_model file;
	enum node_state state;
	struct process *process;
	struct daemon *daemon; /* while it is SERVING or STOPPING */
	struct threads threads;
	struct disk *disks[NVME_DEVICES_MAX];
	struct gpu_sim gpu;
	char folder[32], catalog_path[64];
	bool must_stop, must_reload;
	bool was_in_clear; /* in some life */
	struct node_keys {
		unsigned count, made;
		char lines[NODE_KEYS_MAX][NODE_KEY_LINE_BYTES];
	} keys[TENANTS_MAX];
	char refused[256]; /* why the last start failed; "" */
	uint64_t lives, kills, power_cuts, stops, starts_failed, pages;
	uint64_t failpoint_hits[FAILPOINTS][2]; /* error, kill */
	unsigned fds_at_start;                  /* of the life, before any client */
	struct counters counted;                /* what the daemon had when it was looked at last */
	uint64_t steady_us;                     /* since when it goes, and its clock */
	uint64_t given_before, taken_before;    /* blocks, by earlier lives */
};

void node_create(struct node *node, const struct node_shape *shape, const char *folder);
/* Starts a life; it serves a while later, or fails to. */
void node_start(struct node *node);
/* Asks for a clean stop. */
void node_stop(struct node *node);
/* SIGHUP. */
void node_hang_up(struct node *node);
/* Here and now, whatever it is doing; it may be DOWN. */
void node_kill(struct node *node, bool is_power_cut);
/* The same, from one of its tasks. */
_Noreturn void node_die(struct node *node);
const char *node_socket(const struct node *node, unsigned tenant);
/* Looks at what its tasks did: whether it has come up, or gone. */
void node_look(struct node *node);
/* Nothing is held and nothing is under way; NULL, or what is not so. */
const char *node_unrest(struct node *node);

/* ---- invariants.c ---- */

/* Whatever always holds; fails where it does not. */
void node_check(struct node *node);
/* Just before its memory goes. */
void node_life_is_over(struct node *node);
/* What a process has open when it has closed all. */
void process_check_empty(const struct process *process);
/* With all clients gone: NULL, or what is held for one that is no more. */
const char *node_is_held(const struct node *node);

/* ---- damage.c ---- */

/* NULL, or what is wrong with a slot that is offered. Nothing may be under way. */
const char *node_damage(struct node *node);

/* ---- failpoints.c: what a life has is drawn anew ---- */

void node_failpoint_arm(struct node *node);
void node_failpoint_disarm(void);

/* ---- keys.c: encryption at rest ---- */

/* Before a life: what it enciphers with. */
void node_keys_set(struct node *node);
/* Other keys in the files of the life that runs, which reads them with its settings. */
void node_keys_change(struct node *node);
/* Whether a block of an engine can be read on a disk, though no life wrote in the clear. */
bool node_is_in_clear(const struct node *node);

/* ---- catalog.c: the simulated catalogue, which fails and is lost ---- */

extern const struct catalog_ops node_catalog_ops;

void catalogs_start(void);
/* Its daemon was killed; with the power, what was not settled is gone. */
void catalog_kill(const char *path, bool is_power_cut);
void catalog_replace(const char *path);
/* Of the calls, in 1/1000. */
void catalogs_set_fault(unsigned permille);

#endif
