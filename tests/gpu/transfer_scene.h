/*
 * tests/gpu/transfer_scene.h: a transfer engine over the fake driver, an inference engine's blocks,
 * and a few transfers that note what became of them.
 */
#ifndef KVTIER_TESTS_GPU_TRANSFER_SCENE_H
#define KVTIER_TESTS_GPU_TRANSFER_SCENE_H

#include "tests/gpu/device_rig.h"
#include "transfer/transfer.h"

#define BLOCKS 64u
#define LAYERS 4u
#define ROW_BYTES UINT64_C(4096)
#define PAYLOAD_BYTES (2 * LAYERS * ROW_BYTES) /* K and V */
#define SLOT_BYTES (PAYLOAD_BYTES + 4096)
#define CHUNK_BYTES (UINT64_C(64) << 10) /* two blocks */
#define STEPS_MAX 400000u
#define ORDER_MAX 1024u
#define HELD_MAX 4u

/* A test's: the blocks, and what became of them. */
struct move {
	struct transfer transfer;
	struct plan_block blocks[BLOCKS];
	unsigned number, ends, moves;
	int result;
};

struct scene {
	struct rig rig;
	struct layout layout;
	struct cost_table costs;
	struct transfer_engine *engine;
	uint64_t now_us;
	uint64_t bases[1];
	struct move moves[HELD_MAX];
	unsigned order[ORDER_MAX], order_count; /* numbers of moves, as their blocks came */
};

extern struct scene scene;

/* NULL: small chunks, no caps, three transfers a direction. */
void scene_open(const struct transfer_config *with, enum copy_path path);
void scene_close(void);
/* `count` engine blocks, shuffled; the slots of one move do not meet those of another. */
struct move *move_make(unsigned number, enum copy_direction direction, uint32_t count);
void move_submit(struct move *move);
/* A microsecond of its time. */
void scene_step(void);
/* Steps until the move has ended; the fake device's threads need their time. */
void move_finish(struct move *move);
void scene_stall(bool is_stalled);
/* Slots and engine agree in every byte of the move. */
void assert_copied(const struct move *move);
/* All blocks. */
void fill_engine(uint64_t seed);

#endif
