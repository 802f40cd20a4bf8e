/* tests/tiers/nvme_rig.c: a device over a real file, stepped by the test. */
#include "tests/tiers/nvme_rig.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static struct nvme_rig *the_rig; /* done() has no owner */

static void op_done(struct tier_op *op)
{
	assert_true(op >= the_rig->ops && op < the_rig->ops + NVME_RIG_OPS_MAX);
	the_rig->done++;
}

void nvme_rig_init_at(struct nvme_rig *rig, const char *base)
{
	memset(rig, 0, sizeof(*rig));
	the_rig = rig;
	snprintf(rig->folder, sizeof(rig->folder), "%s/kvtier-nvme-XXXXXX", base);
	assert_non_null(mkdtemp(rig->folder));
	snprintf(rig->path, sizeof(rig->path), "%s/device", rig->folder);
	clock_virtual_init(&rig->clock, 1000000);
	block_io_fault_init(&rig->fault, block_io_list[0]);
	rig->config = (struct nvme_config){
		.path = rig->path,
		.bytes = NVME_RIG_BYTES,
		.unit_bytes = NVME_RIG_UNIT_BYTES,
		.queue_depth = 8,
		.ops_max = NVME_RIG_OPS_MAX,
		.io = "auto",
		.io_ops = &rig->fault.ops,
		.clock = &rig->clock,
	};
	rig->memory = aligned_alloc(4096, NVME_RIG_OPS_MAX * NVME_RIG_SLOT_BYTES);
	assert_non_null(rig->memory);
}

void nvme_rig_init(struct nvme_rig *rig)
{
	const char *base = getenv("TMPDIR");

	nvme_rig_init_at(rig, base != NULL ? base : "/tmp");
}

int nvme_rig_open(struct nvme_rig *rig)
{
	int result = nvme_device_open(&rig->device, &rig->config, &rig->error);

	if (result < 0)
		return result;
	assert_int_equal(nvme_tier_create(&rig->tier, &rig->device, 1, &rig->error), 0);
	return 0;
}

void nvme_rig_close(struct nvme_rig *rig)
{
	if (rig->device == NULL)
		return;
	tier_close(rig->tier);
	nvme_device_close(rig->device);
	rig->device = NULL;
	rig->tier = NULL;
}

void nvme_rig_finish(struct nvme_rig *rig)
{
	char command[128];

	nvme_rig_close(rig);
	free(rig->memory);
	snprintf(command, sizeof(command), "rm -rf '%s'", rig->folder);
	assert_int_equal(system(command), 0);
}

struct tier_op *nvme_rig_op(struct nvme_rig *rig, unsigned n, enum tier_verb verb)
{
	struct tier_op *op = &rig->ops[n];

	memset(op, 0, sizeof(*op));
	op->verb = verb;
	op->offset = (uint64_t)n * NVME_RIG_SLOT_BYTES;
	op->memory = rig->memory + (size_t)n * NVME_RIG_SLOT_BYTES;
	op->memory_bytes = NVME_RIG_SLOT_BYTES;
	op->done = op_done;
	return op;
}

void nvme_rig_run(struct nvme_rig *rig, unsigned count)
{
	unsigned until = rig->done + count;

	for (unsigned i = 0; i < NVME_RIG_STEPS_MAX && rig->done < until; i++) {
		if (!nvme_device_step(rig->device, clock_now_us(&rig->clock)))
			nvme_device_wait(rig->device, NVME_RIG_WAIT_US);
		tier_poll(rig->tier, NVME_RIG_OPS_MAX);
	}
	assert_int_equal(rig->done, until);
}

int nvme_rig_one(struct nvme_rig *rig, unsigned n, enum tier_verb verb)
{
	struct tier_op *op = nvme_rig_op(rig, n, verb);
	int result = tier_submit(rig->tier, op);

	if (result < 0)
		return result;
	nvme_rig_run(rig, 1);
	return op->result;
}

void nvme_rig_fill(struct nvme_rig *rig, unsigned n, uint8_t value)
{
	memset(rig->memory + (size_t)n * NVME_RIG_SLOT_BYTES, value, NVME_RIG_SLOT_BYTES);
}

bool nvme_rig_holds(const struct nvme_rig *rig, unsigned n, uint8_t value)
{
	const uint8_t *slot = rig->memory + (size_t)n * NVME_RIG_SLOT_BYTES;

	return slot[0] == value && memcmp(slot, slot + 1, NVME_RIG_SLOT_BYTES - 1) == 0;
}

int nvme_rig_write_table(struct nvme_rig *rig, uint32_t generation)
{
	struct nvme_extent extent = { .tenant = { 7 },
				      .first_unit = 2,
				      .units_count = 3,
				      .slot_bytes = NVME_RIG_SLOT_BYTES,
				      .generation = generation };
	struct tier_op *op = nvme_rig_op(rig, 0, TIER_EXTENTS);
	int result;

	op->memory_bytes = nvme_extents_image_bytes(rig->device);
	assert_true(op->memory_bytes <= NVME_RIG_SLOT_BYTES);
	nvme_extents_image(rig->device, &extent, 1, op->memory);
	result = tier_submit(rig->tier, op);
	if (result < 0)
		return result;
	nvme_rig_run(rig, 1);
	return op->result;
}

uint32_t nvme_rig_table_generation(struct nvme_rig *rig)
{
	struct nvme_extent extents[NVME_RIG_UNITS];
	unsigned count = nvme_device_extents(rig->device, extents);

	assert_true(count <= 1);
	if (count == 0)
		return 0;
	assert_int_equal(extents[0].tenant[0], 7);
	assert_int_equal(extents[0].first_unit, 2);
	assert_int_equal(extents[0].units_count, 3);
	assert_int_equal(extents[0].slot_bytes, NVME_RIG_SLOT_BYTES);
	return extents[0].generation;
}

bool nvme_rig_has_file(const struct nvme_rig *rig, const char *suffix)
{
	char path[160];

	snprintf(path, sizeof(path), "%s%s", rig->path, suffix);
	return access(path, F_OK) == 0;
}

void nvme_rig_poke(const struct nvme_rig *rig, uint64_t offset, uint64_t bytes)
{
	static const uint8_t junk[4096] = { [0 ... 4095] = 0xa5 };
	int fd = open(rig->path, O_WRONLY);

	assert_true(fd >= 0);
	for (uint64_t at = 0; at < bytes; at += sizeof(junk))
		assert_int_equal(pwrite(fd, junk, sizeof(junk), (off_t)(offset + at)),
				 sizeof(junk));
	close(fd);
}
