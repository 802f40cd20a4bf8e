/*
 * tests/sim/gpu.h: the machine's GPU: memory that engines allocate and export, and the process that
 * copies between it and the daemon's arenas, as `kvtierd --worker gpu` does, below daemon/pull.h.
 *
 * Copies end in any order, fail, are late, and wait for an engine's word. The process outlives its
 * daemon until what is under way has ended, and holds its lock so long; what it imported lives on
 * after the engine. Runs on: one thread.
 */
#ifndef KVTIER_TESTS_SIM_GPU_H
#define KVTIER_TESTS_SIM_GPU_H

#include "daemon/pull.h"
#include "tests/sim/kernel.h"
#include "transfer/job_words.h"
#include "transfer/lend.h"

#define GPU_SIM_LENTS 16u
#define GPU_SIM_COPIES 1024u
#define GPU_SIM_EXPORTS 64u
#define GPU_SIM_GROUPS 4u
#define GPU_SIM_PLANES 4u

struct memory;
struct object;

/* What differs between seeds. */
struct gpu_shape {
	bool is_there, has_words;
	unsigned fail_permille;   /* of copies */
	unsigned refuse_permille; /* of imports */
	uint64_t latency_us;      /* a copy takes up to twice as much; each plane a part of it */
	uint64_t import_us;       /* an import, the same */
};

struct gpu_sim {
	struct gpu_shape shape;
	struct process *process; /* NULL: none */
	struct daemon *parent;   /* the daemon that it is of; NULL: that has gone */
	struct object *exit;     /* what its pidfds stand for */
	struct object *lock;     /* of the daemon's state directory */
	struct object *bell;     /* wakes the daemon; NULL: it has gone */
	int exit_fd, bell_fd;    /* the daemon's */
	bool has_news;           /* for the process, which looks when to go on */
	bool must_die, has_died; /* has_died: the daemon has not seen it yet */
	uint64_t again_us;       /* when the next one starts */
	uint64_t lives, copies_ever, cancelled, late;
	struct gpu_sim_export {
		struct memory *memory; /* NULL: free */
		uint64_t number;
	} exports[GPU_SIM_EXPORTS];
	uint64_t exports_ever;
	struct gpu_sim_lent {
		struct lent_memory *daemons; /* NULL: free, or its daemon has gone */
		bool is_used, is_imported, is_answered, is_returning;
		uint64_t import_us;
		int import_result;
		struct memory *device, *words_memory;
		uint8_t *region;
		uint64_t region_bytes;
		struct job_words *words;
		_Atomic uint64_t *word; /* NULL: none */
		uint32_t groups_count;
		struct gpu_sim_group {
			uint32_t blocks_count, planes_count;
			struct lend_plane planes[GPU_SIM_PLANES];
		} groups[GPU_SIM_GROUPS];
	} lents[GPU_SIM_LENTS];
	struct gpu_sim_copy {
		bool is_used, is_cancelled, is_ended;
		int result;
		struct gpu_copy *daemons; /* NULL: its daemon has gone */
		struct gpu_sim_lent *lent;
		enum copy_direction direction;
		uint32_t group, block, place;
		uint64_t job, gate, due_us, deadline_us;
		uint8_t *payload;
		struct memory *arena;
	} copies[GPU_SIM_COPIES];
	unsigned copies_count;
	struct pull_speed speeds[COPY_DIRECTIONS];
};

extern const struct pull_ops gpu_sim_ops;

/* By the task of a daemon that begins: its process starts. Nothing where there is no GPU. */
void gpu_sim_attach(struct gpu_sim *gpu, struct daemon *daemon);
/* By the same, in every turn: ends of copies, answers. */
bool gpu_sim_step(struct gpu_sim *gpu);
/* By the same, before its memory goes: the process is killed, and all of it comes back. */
void gpu_sim_detach(struct gpu_sim *gpu);
/* From outside, when its daemon has gone in any other way, and has not been released yet. */
void gpu_sim_orphan(struct gpu_sim *gpu);
/* From outside, often: what has ended is gone, what hangs is killed. */
void gpu_sim_look(struct gpu_sim *gpu);
/* kill -9; also with the power. */
void gpu_sim_kill(struct gpu_sim *gpu);
/* How many memories are lent, and copies under way. */
unsigned gpu_sim_lents(const struct gpu_sim *gpu);

/* ---- between gpu.c, the process, and gpu_daemon.c, its parent's end ---- */

void gpu_sim_begin(struct gpu_sim *gpu);
void gpu_sim_lent_end(struct gpu_sim_lent *lent);
struct memory *gpu_sim_import(const struct gpu_sim *gpu, const struct gpu_ipc_handle *handle);

/* ---- an engine's allocations ---- */

/* Bytes, which stay while the engine or who imported them holds them, and their handle. */
struct memory *gpu_sim_allocate(struct gpu_sim *gpu, uint64_t bytes, uint8_t **out_bytes,
				struct gpu_ipc_handle *out_handle);
void gpu_sim_free(struct gpu_sim *gpu, struct memory *memory);

#endif
