/* tests/tiers/nvme_rig.h: a device over a real file that the test steps itself, a faulty layer
 * under it, and ops with memory of their own. One rig at a time. */
#ifndef KVTIER_TESTS_TIERS_NVME_RIG_H
#define KVTIER_TESTS_TIERS_NVME_RIG_H

#include "tiers/nvme/block_io_fault.h"
#include "tiers/nvme/extent_table.h"
#include "tiers/nvme/nvme.h"

#define NVME_RIG_UNIT_BYTES (UINT64_C(1) << 20)
#define NVME_RIG_UNITS 8u
#define NVME_RIG_BYTES (SLOTS_OFFSET + NVME_RIG_UNITS * NVME_RIG_UNIT_BYTES)
#define NVME_RIG_SLOT_BYTES 69632u /* 64 KiB and a header */
#define NVME_RIG_OPS_MAX 64u
#define NVME_RIG_STEPS_MAX 100000u /* of a test that waits for real I/O */
#define NVME_RIG_WAIT_US 1000u

struct nvme_rig {
	char folder[64];
	char path[128];
	struct clock clock;
	struct block_io_fault fault;
	struct nvme_config config; /* for the next open */
	struct nvme_device *device;
	struct tier *tier;
	struct tier_op ops[NVME_RIG_OPS_MAX];
	uint8_t *memory; /* NVME_RIG_OPS_MAX slots */
	unsigned done;
	struct error error;
};

void nvme_rig_init(struct nvme_rig *rig);
/* In a folder of its own below `base`. */
void nvme_rig_init_at(struct nvme_rig *rig, const char *base);
void nvme_rig_finish(struct nvme_rig *rig);
int nvme_rig_open(struct nvme_rig *rig);
void nvme_rig_close(struct nvme_rig *rig);
/* The n-th op over the n-th slot and its memory; the caller submits it. */
struct tier_op *nvme_rig_op(struct nvme_rig *rig, unsigned n, enum tier_verb verb);
/* Steps until `count` ops more are done. */
void nvme_rig_run(struct nvme_rig *rig, unsigned count);
/* One op from beginning to end; its result. */
int nvme_rig_one(struct nvme_rig *rig, unsigned n, enum tier_verb verb);
void nvme_rig_fill(struct nvme_rig *rig, unsigned n, uint8_t value);
bool nvme_rig_holds(const struct nvme_rig *rig, unsigned n, uint8_t value);
/* Writes a table of one extent with this generation. */
int nvme_rig_write_table(struct nvme_rig *rig, uint32_t generation);
/* The generation in the table as an open reads it; 0: no rows. */
uint32_t nvme_rig_table_generation(struct nvme_rig *rig);
/* Is the device's file there, with this behind its name? */
bool nvme_rig_has_file(const struct nvme_rig *rig, const char *suffix);
/* Overwrites a part of the device's file with junk. */
void nvme_rig_poke(const struct nvme_rig *rig, uint64_t offset, uint64_t bytes);

#endif
