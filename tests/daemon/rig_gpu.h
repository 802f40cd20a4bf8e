/*
 * tests/daemon/rig_gpu.h: a GPU of the rig: memory of this process that clients lend, and copies by
 * the processor, which end, fail and hang as the test says.
 *
 * A lent group has two planes of RIG_GPU_BLOCKS engine blocks each.
 */
#ifndef KVTIER_TESTS_DAEMON_RIG_GPU_H
#define KVTIER_TESTS_DAEMON_RIG_GPU_H

#include "daemon/pull.h"
#include "tests/daemon/rig.h"
#include "transfer/lend.h"

#define RIG_GPU_BLOCKS 64u
#define RIG_GPU_JOBS 256u
#define RIG_GPU_LENTS 8u
#define RIG_GPU_COPIES 4096u

struct rig_gpu {
	/* what the test says */
	bool holds_answers, holds_copies, holds_ends, holds_returns;
	int lend_result, answer_result, copy_refusal; /* 0, or of each call */
	int copy_result;                              /* 0, or of each copy: nothing is copied */
	unsigned fail_nth;                            /* the nth copy from now does */
	unsigned cancels_refused;                     /* before one is taken */
	void (*before_copy)(struct rig_gpu *gpu, uint8_t *payload); /* of the slot */
	void (*after_copy)(struct rig_gpu *gpu, uint8_t *payload);
	/* what came of it */
	unsigned lents_ever, cancels, copies_ever;
	bool is_gate_seen;
	/* its own */
	struct pull_speed speeds[COPY_DIRECTIONS];
	int process_fd;
	struct rig_gpu_lent {
		struct lent_memory *memory; /* NULL: free */
		bool is_answered, is_returning;
		uint8_t *base;
		uint32_t groups_count;
		uint64_t plane_offset[FRAME_GROUPS_MAX][2], plane_bytes[FRAME_GROUPS_MAX][2];
	} lents[RIG_GPU_LENTS];
	struct rig_gpu_copy {
		struct gpu_copy *copy; /* NULL: free */
		struct rig_gpu_lent *lent;
		uint8_t *payload;
		bool is_cancelled, was_copied;
		int result;
	} copies[RIG_GPU_COPIES];
	unsigned copies_count;
};

void rig_gpu_init(struct rig_gpu *gpu);
/* Nothing is lent, nothing is copied any more. */
void rig_gpu_finish(struct rig_gpu *gpu);
/* Of both, the rig first: rig_finish_idle(). */
void rig_finish_with_gpu(struct rig *rig, struct rig_gpu *gpu);
/* NULL gives NULL. From now on this is the rig's. */
const struct pull_ops *rig_gpu_ops(struct rig_gpu *gpu);
bool rig_gpu_step(struct rig_gpu *gpu);
/* Its process dies: every copy ends, everything lent is gone. */
void rig_gpu_die(struct rig_gpu *gpu);

/* LEND, and its answer. */
must_check int rig_lend(struct rig_client *client, bool has_word);
/* What LEND is to say, to be changed; then rig_lend_ask(). */
struct lend *rig_lend_write(struct rig_client *client, bool has_word);
must_check int rig_lend_ask(struct rig_client *client, unsigned fds_count);
/* A registered client that has lent. */
struct rig_client *rig_puller(struct rig *rig, const struct rig_engine *engine);
/* What the batch stores lies in the engine's blocks. */
void rig_gpu_fill(struct rig_client *client, const struct rig_batch *batch);
void rig_gpu_gather(const struct rig_client *client, unsigned group, unsigned block,
		    uint8_t *payload);

#endif
