/*
 * tiers/gpu/gpu_parts.h: what gpu_server.c (copies) and gpu_lent.c (memory) share. For those two.
 */
#ifndef KVTIER_TIERS_GPU_GPU_PARTS_H
#define KVTIER_TIERS_GPU_GPU_PARTS_H

#include "base/list.h"
#include "tiers/gpu/gpu_server.h"
#include "transfer/job_words.h"

#define COPIES_BLOCKS_MAX 256u /* of one transfer */
#define COPIES_A_LANE 24u      /* transfers of a direction that wait or move */

enum lent_state { LENT_FREE, LENT_USABLE, LENT_RETURNING, LENT_STATES };

/* What one engine has lent. */
struct lent {
	enum lent_state state;
	uint32_t number;
	struct layout layout;
	uint32_t regions_count;
	struct device_memory *regions; /* [regions_count] */
	uint64_t *bases;               /* the device's address of each */
	struct job_words *words;       /* shared with the engine's process */
	bool has_gate, is_released; /* the gate: nobody waits there any more */
	struct gate gate;
	uint32_t copies_count; /* transfers that use it */
};

struct arena_pinned {
	uint8_t *memory; /* NULL: none */
	uint64_t bytes, pinned;
	bool has_failed; /* to pin: no more of it is tried */
};

/* Some copies of one job, as one transfer. */
struct copies {
	struct transfer transfer;
	struct gpu_server *server;
	struct list_node link; /* of `free`, or `ready` */
	struct lent *lent;
	uint32_t count, answered; /* blocks; of them, from the first */
	uint64_t job;
	uint32_t job_place;
	bool is_submitted;
	uint32_t numbers[COPIES_BLOCKS_MAX];
	struct plan_block blocks[COPIES_BLOCKS_MAX];
};

struct gpu_server {
	struct gpu_server_config config;
	struct device *device;
	struct transfer_engine *engine;
	bool is_deaf; /* an answer was not taken */
	bool is_lost; /* the device */
	struct list free;  /* copies */
	struct list ready; /* collected, not yet submitted; only the last may grow */
	struct lent lents[GPU_LENTS_MAX];
	struct arena_pinned arenas[GPU_ARENAS_MAX];
	struct copies copies[2 * COPIES_A_LANE];
};

void gpu_answer(struct gpu_server *server, const struct gpu_message *message);
/* Each answers. */
void gpu_arena_take(struct gpu_server *server, const struct gpu_packet *packet, int fd);
void gpu_lent_take(struct gpu_server *server, uint32_t number, const struct lend_view *view,
		   const int *fds);
/* The engine has gone, or wants its memory back: gpu_lents_step() answers when it is unmapped. */
void gpu_lent_return(struct gpu_server *server, struct lent *lent);
bool gpu_lents_step(struct gpu_server *server);
/* Pins the next piece, if there is one. */
bool gpu_arenas_step(struct gpu_server *server);
void gpu_lents_close(struct gpu_server *server);
/* The copies of a job end soon; `job` 0: of all jobs. */
void gpu_copies_cancel(struct gpu_server *server, struct lent *lent, uint64_t job);

#endif
