/* bench/micro_host.c: the transfer engine where the device's memory is this machine's, beside
 * memcpy looped over the same fragments by one thread. */
#include "bench/micro.h"

#include "base/clock.h"
#include "base/random.h"
#include "transfer/slot_header.h"
#include "transfer/transfer.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Of either side: far more than the CPU's caches hold. */
#define SAMPLE_BYTES (UINT64_C(512) << 20)
#define CHUNK_BYTES (UINT64_C(2) << 20)
#define MOVES 8u /* transfers that take turns, with a share of the blocks each */
#define FRAGMENTS_MAX 64u
#define WARM_UP_PAIRS 1u

struct shape {
	const char *name;
	uint64_t fragment_bytes;
	uint32_t fragments; /* of a block; each has a region of its own, as layers have */
	double goal;        /* 0: none */
};

static const struct shape shapes[] = {
	{ "1m", UINT64_C(16) << 10, FRAGMENTS_MAX, 0.90 },
	{ "64k", UINT64_C(64) << 10, 1, 0 },
};

struct scene;

struct move {
	struct transfer transfer;
	struct scene *scene;
};

struct scene {
	const struct shape *shape;
	uint32_t blocks_count;
	struct device device; /* open while device.back_end != NULL */
	struct device_memory lent;
	uint8_t *slots; /* payloads behind room for a header, as in the cpu tier */
	uint64_t slots_bytes;
	struct layout layout;
	uint64_t region_bases[FRAGMENTS_MAX];
	struct plan_block *blocks;
	struct transfer_engine *engine;
	struct move moves[MOVES];
	unsigned moves_under_way;
	int result; /* of the first that failed */
};

/* ---- both memories ---- */

/* Huge pages where there are any, as in the cpu tier; a refusal slows both of a pair. Afterwards
 * the pages are there, with bytes that no other place has. */
static void memory_prepare(uint8_t *memory, uint64_t bytes, uint64_t seed)
{
	struct random random;

	(void)madvise(memory, bytes, MADV_HUGEPAGE);
	random_init(&random, seed);
	for (uint64_t done = 0; done < bytes; done += sizeof(uint64_t)) {
		uint64_t word = random_next(&random);

		memcpy(memory + done, &word, sizeof(word));
	}
}

static int memories_open(struct scene *scene, struct error *error)
{
	uint64_t payload_bytes = scene->shape->fragments * scene->shape->fragment_bytes;
	int result = device_memory_open(&scene->device, SAMPLE_BYTES, &scene->lent, error);

	if (result < 0)
		return result;
	scene->slots_bytes = scene->blocks_count * slot_bytes_for(payload_bytes);
	scene->slots = mmap(NULL, scene->slots_bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (scene->slots == MAP_FAILED) {
		scene->slots = NULL;
		return error_set(error, -errno, "no memory for slots: %s", strerror(errno));
	}
	memory_prepare((uint8_t *)scene->lent.address, SAMPLE_BYTES, 1);
	memory_prepare(scene->slots, scene->slots_bytes, 2);
	return 0;
}

/* Slot after slot gets an engine's block from anywhere. */
static int blocks_shuffle(struct scene *scene, struct error *error)
{
	uint64_t slot_bytes = scene->slots_bytes / scene->blocks_count;
	struct random random;

	scene->blocks = calloc(scene->blocks_count, sizeof(*scene->blocks));
	if (scene->blocks == NULL)
		return error_set(error, -ENOMEM, "no memory for a list of blocks");
	random_init(&random, 3);
	for (uint32_t n = 0; n < scene->blocks_count; n++) {
		uint32_t other = (uint32_t)random_below(&random, n + 1);

		scene->blocks[n].host = scene->slots + n * slot_bytes + SLOT_HEADER_BYTES;
		scene->blocks[n].number = scene->blocks[other].number;
		scene->blocks[other].number = n;
	}
	return 0;
}

/* ---- what is measured ---- */

static void moved(struct transfer *transfer, uint32_t blocks_done)
{
	assert(blocks_done <= transfer->blocks_count);
}

static void done(struct transfer *transfer, int result)
{
	struct scene *scene = ((struct move *)transfer)->scene;

	scene->moves_under_way--;
	if (scene->result == 0)
		scene->result = result;
}

static int moves_submit(struct scene *scene, enum copy_direction direction, struct error *error)
{
	uint32_t share = scene->blocks_count / MOVES;
	int result = 0;

	assert(scene->moves_under_way == 0 && scene->blocks_count % MOVES == 0);
	for (unsigned n = 0; result == 0 && n < MOVES; n++) {
		struct move *move = &scene->moves[n];

		*move = (struct move){
			.transfer = { .direction = direction,
				      .group = &scene->layout.groups[0],
				      .region_bases = scene->region_bases,
				      .blocks = scene->blocks + n * share,
				      .blocks_count = share,
				      .deadline_us = UINT64_MAX,
				      .moved = moved,
				      .done = done },
			.scene = scene,
		};
		result = transfer_submit(scene->engine, &move->transfer, error);
		scene->moves_under_way += result == 0;
	}
	return result;
}

/* All blocks by the transfer engine. A device that is lost ends no transfer. */
static int engine_run(struct scene *scene, enum copy_direction direction, double *out_rate,
		      struct error *error)
{
	double began = micro_now();
	int result = moves_submit(scene, direction, error);

	while (scene->moves_under_way > 0 && !transfer_engine_is_lost(scene->engine))
		transfer_engine_step(scene->engine, clock_now_us(clock_real()), true);
	*out_rate = (double)SAMPLE_BYTES / (micro_now() - began) / 1e9;
	if (result < 0)
		return result;
	if (scene->result < 0 || transfer_engine_is_lost(scene->engine))
		return error_set(error, -EIO, "a transfer failed");
	return 0;
}

static uint8_t *lent_fragment(const struct scene *scene, uint32_t number, uint32_t fragment)
{
	return (uint8_t *)scene->region_bases[fragment] + number * scene->shape->fragment_bytes;
}

/* The same blocks by memcpy alone. */
static double loop_run(const struct scene *scene, enum copy_direction direction)
{
	const uint64_t bytes = scene->shape->fragment_bytes;
	double began = micro_now();

	for (uint32_t n = 0; n < scene->blocks_count; n++)
		for (uint32_t fragment = 0; fragment < scene->shape->fragments; fragment++) {
			uint8_t *lent = lent_fragment(scene, scene->blocks[n].number, fragment);
			uint8_t *ours = scene->blocks[n].host + fragment * bytes;

			if (direction == COPY_STORE)
				memcpy(ours, lent, bytes);
			else
				memcpy(lent, ours, bytes);
		}
	return (double)SAMPLE_BYTES / (micro_now() - began) / 1e9;
}

/* ---- whether it is right ---- */

static bool is_equal(const struct scene *scene)
{
	const uint64_t bytes = scene->shape->fragment_bytes;

	for (uint32_t n = 0; n < scene->blocks_count; n++)
		for (uint32_t fragment = 0; fragment < scene->shape->fragments; fragment++)
			if (memcmp(lent_fragment(scene, scene->blocks[n].number, fragment),
				   scene->blocks[n].host + fragment * bytes, bytes) != 0)
				return false;
	return true;
}

/* Both sides hold other bytes before each copy. */
static int bytes_check(struct scene *scene, struct error *error)
{
	double rate;
	int result = engine_run(scene, COPY_STORE, &rate, error);

	if (result == 0 && !is_equal(scene))
		return error_set(error, -EIO, "a stored block is not the engine's");
	memory_prepare(scene->slots, scene->slots_bytes, 4);
	if (result == 0)
		result = engine_run(scene, COPY_LOAD, &rate, error);
	if (result == 0 && !is_equal(scene))
		return error_set(error, -EIO, "a loaded block is not the slot's");
	return result;
}

/* ---- all of it ---- */

static int layout_make(struct scene *scene, struct error *error)
{
	const struct shape *shape = scene->shape;
	uint64_t region_bytes[FRAGMENTS_MAX];
	struct layout_plane planes[FRAGMENTS_MAX];
	const struct layout_group_source group = { .blocks_count = scene->blocks_count,
						   .planes_count = shape->fragments,
						   .planes = planes };
	const struct layout_source source = { .regions_count = shape->fragments,
					      .groups_count = 1,
					      .region_bytes = region_bytes,
					      .groups = &group };

	for (uint32_t n = 0; n < shape->fragments; n++) {
		region_bytes[n] = scene->blocks_count * shape->fragment_bytes;
		scene->region_bases[n] = scene->lent.address + n * region_bytes[n];
		planes[n] = (struct layout_plane){ .region = n,
						   .stride = shape->fragment_bytes,
						   .bytes = shape->fragment_bytes };
	}
	return layout_init(&scene->layout, &source, error);
}

static int engine_make(struct scene *scene, struct error *error)
{
	static const struct cost_table costs; /* of nothing: there is one path */
	const struct transfer_config config = { .device = &scene->device,
						.costs = &costs,
						.paths = 1u << COPY_LOOP,
						.chunk_bytes = CHUNK_BYTES,
						.transfers_max = { MOVES, MOVES } };

	return transfer_engine_create(&scene->engine, &config, error);
}

static int scene_open(struct scene *scene, const struct shape *shape, struct error *error)
{
	*scene = (struct scene){ .shape = shape };
	scene->blocks_count = (uint32_t)(SAMPLE_BYTES / (shape->fragments * shape->fragment_bytes));
	int result = device_open(&scene->device, &device_host_ops, &(struct device_config){ 0 },
				 error);
	if (result == 0)
		result = memories_open(scene, error);
	if (result == 0)
		result = blocks_shuffle(scene, error);
	if (result == 0)
		result = layout_make(scene, error);
	return result == 0 ? engine_make(scene, error) : result;
}

static void scene_close(struct scene *scene)
{
	transfer_engine_destroy(scene->engine);
	layout_finish(&scene->layout);
	free(scene->blocks);
	if (scene->slots != NULL)
		munmap(scene->slots, scene->slots_bytes);
	device_close(&scene->device);
}

static int pairs_run(struct micro *micro, struct scene *scene, enum copy_direction direction,
		     struct error *error)
{
	struct measure_pairs pairs = { 0 };
	char name[MEASURE_NAME_BYTES];
	int result = 0;

	for (uint64_t i = 0; result == 0 && i < micro->pairs + WARM_UP_PAIRS; i++) {
		double ceiling = loop_run(scene, direction), ours;

		result = engine_run(scene, direction, &ours, error);
		if (result == 0 && i >= WARM_UP_PAIRS)
			measure_pairs_add(&pairs, ours, ceiling);
	}
	if (result < 0)
		return result;
	snprintf(name, sizeof(name), "host_%s_%s", direction == COPY_STORE ? "store" : "load",
		 scene->shape->name);
	struct measure *measure = measures_add_pairs(&micro->measures, name, &pairs, "GB/s",
						     MEASURE_HIGHER);
	if (scene->shape->goal > 0)
		measure->goal = scene->shape->goal;
	return 0;
}

int micro_host(struct micro *micro, struct error *error)
{
	static struct scene scene;
	int result = 0;

	for (unsigned n = 0; result == 0 && n < sizeof(shapes) / sizeof(shapes[0]); n++) {
		result = scene_open(&scene, &shapes[n], error);
		if (result == 0)
			result = bytes_check(&scene, error);
		if (result == 0)
			result = pairs_run(micro, &scene, COPY_LOAD, error);
		if (result == 0)
			result = pairs_run(micro, &scene, COPY_STORE, error);
		scene_close(&scene);
	}
	return result;
}
