/* bench/micro_blocks.c: blocks a second to and from each tier, beside the raw disk and the fastest
 * copy. */
#include "bench/micro.h"

#include "base/copy.h"
#include "bench/raw_io.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define SAMPLE_BYTES (UINT64_C(512) << 20)
#define CPU_BYTES (UINT64_C(128) << 20) /* small, so that next to nothing is loaded from there */
#define RING_SAMPLES 5u                 /* loads go round all that nvme holds, as raw reads do */
#define NVME_BYTES (UINT64_C(6) << 30)
#define QUEUE_DEPTH 32u                      /* the daemon's default */
#define NVME_META_BYTES (UINT64_C(32) << 20) /* more than a device's superblock and tables take */
#define WARM_UP_PAIRS 1u

static int raw_run(const struct micro_node *node, bool is_write, uint64_t sample,
		   double *out_blocks, struct error *error)
{
	struct raw_io raw = {
		/* Reads the very bytes that ours reads, and writes beside them. */
		.path = node->device,
		.offset = is_write ? NVME_BYTES / 2 : NVME_META_BYTES,
		.range_bytes = is_write ? NVME_BYTES / 4 : NVME_BYTES / 2 - 2 * NVME_META_BYTES,
		.block_bytes = (uint32_t)(node->block_bytes + 4096),
		.queue_depth = QUEUE_DEPTH,
		.is_write = is_write,
		.blocks_count = SAMPLE_BYTES / node->block_bytes,
		.first_block = sample * (SAMPLE_BYTES / node->block_bytes),
	};

	return raw_io_run(&raw, out_blocks, error);
}

static int store_sample(struct micro_engine *engine, double *out_blocks, struct error *error)
{
	uint64_t count = SAMPLE_BYTES / engine->block_bytes;
	double began = micro_now();
	int64_t good = micro_engine_move(engine, true, engine->next_identity, count);
	int result;

	engine->next_identity += count;
	if (good != (int64_t)count)
		return error_set(error, -EIO, "%lld of %llu blocks were stored", (long long)good,
				 (unsigned long long)count);
	result = micro_engine_settle(engine, error);
	*out_blocks = (double)count / (micro_now() - began);
	return result;
}

/* `from_nvme`: only blocks that came from there count, what the cpu tier had is time lost. */
static int load_sample(struct micro_engine *engine, bool from_nvme, uint64_t identity,
		       double *out_blocks, struct error *error)
{
	uint64_t count = SAMPLE_BYTES / engine->block_bytes;
	uint64_t before = from_nvme ? micro_engine_count(engine, "hit_blocks_nvme") : 0;
	double began = micro_now();
	int64_t good = micro_engine_move(engine, false, identity, count);
	double took = micro_now() - began;
	uint64_t counted = from_nvme ? micro_engine_count(engine, "hit_blocks_nvme") - before
				     : count;

	*out_blocks = (double)counted / took;
	if (good != (int64_t)count)
		return error_set(error, -EIO, "%lld of %llu blocks were loaded", (long long)good,
				 (unsigned long long)count);
	return 0;
}

static void add(struct micro *micro, const char *name, const struct measure_pairs *pairs,
		double goal)
{
	measures_add_pairs(&micro->measures, name, pairs, "blocks/s", MEASURE_HIGHER)->goal = goal;
}

static int nvme_pairs(struct micro *micro, struct micro_node *node, struct micro_engine *engine,
		      const char *size_name, double goal, struct error *error)
{
	uint64_t sample_blocks = SAMPLE_BYTES / engine->block_bytes;
	struct measure_pairs stores = { 0 }, loads = { 0 };
	char name[MEASURE_NAME_BYTES];
	double ours, ceiling;
	int result = 0;

	for (uint64_t i = 0; result == 0 && i < micro->pairs + WARM_UP_PAIRS; i++) {
		result = raw_run(node, true, i, &ceiling, error);
		if (result == 0)
			result = store_sample(engine, &ours, error);
		if (result == 0 && i >= WARM_UP_PAIRS)
			measure_pairs_add(&stores, ours, ceiling);
	}
	uint64_t first = engine->next_identity - RING_SAMPLES * sample_blocks;
	for (uint64_t i = 0; result == 0 && i < micro->pairs + WARM_UP_PAIRS; i++) {
		result = raw_run(node, false, i, &ceiling, error);
		if (result == 0)
			result = load_sample(engine, true, first + i % RING_SAMPLES * sample_blocks,
					     &ours, error);
		if (result == 0 && i >= WARM_UP_PAIRS)
			measure_pairs_add(&loads, ours, ceiling);
	}
	if (result < 0)
		return result;
	snprintf(name, sizeof(name), "nvme_load_%s", size_name);
	add(micro, name, &loads, goal);
	snprintf(name, sizeof(name), "nvme_store_%s", size_name);
	add(micro, name, &stores, goal);
	return 0;
}

int micro_nvme(struct micro *micro, uint64_t block_bytes, const char *size_name,
	       struct error *error)
{
	struct micro_node node;
	struct micro_engine engine = { 0 };
	int result = micro_node_start(&node, micro, CPU_BYTES, NVME_BYTES, block_bytes, error);

	if (result == 0)
		result = micro_engine_open(&engine, &node, (uint32_t)(SAMPLE_BYTES / block_bytes),
					   error);
	if (result == 0)
		result = nvme_pairs(micro, &node, &engine, size_name,
				    micro->encryption != NULL ? NAN
				    : block_bytes >= (1u << 20) ? 0.90
								: 0.85,
				    error);
	micro_engine_close(&engine);
	micro_node_stop(&node);
	return result;
}

/* One thread copies and checks the same bytes, block by block. */
static double copy_sample(uint8_t *target, const uint8_t *source, uint64_t block_bytes)
{
	double began = micro_now();
	uint32_t crc;

	for (uint64_t at = 0; at < SAMPLE_BYTES; at += block_bytes)
		copy_with_checksums(target + at, source + at, block_bytes, block_bytes, &crc);
	return (double)(SAMPLE_BYTES / block_bytes) / (micro_now() - began);
}

/* All ways: memcpy and non-temporal, the checksum fused per chunk of several sizes and apart. Keeps
 * the fastest. */
static struct copy_choice fastest_way(uint8_t *target, const uint8_t *source, uint64_t block_bytes)
{
	static const uint32_t chunks[] = { 8192, 16384, 32768, 65536, 262144 };
	struct copy_choice best = copy_choice_get();
	double best_rate = 0.0;

	for (unsigned copy = 0; copy < COPY_WAYS; copy++)
		for (unsigned chunk = 0; chunk <= sizeof(chunks) / sizeof(chunks[0]); chunk++) {
			bool is_apart = chunk == sizeof(chunks) / sizeof(chunks[0]);
			struct copy_choice choice = {
				.copy = copy,
				.checked_copy = copy,
				.checksum = is_apart ? CHECKSUM_AFTER : CHECKSUM_PER_CHUNK,
				.chunk_bytes = is_apart ? 65536 : chunks[chunk],
			};
			copy_choice_set(choice);
			double rate = copy_sample(target, source, block_bytes);
			if (rate > best_rate) {
				best_rate = rate;
				best = choice;
			}
		}
	return best;
}

static int cpu_pairs(struct micro *micro, struct micro_engine *engine, uint8_t *source,
		     struct error *error)
{
	uint8_t *target = source + SAMPLE_BYTES;
	uint64_t count = SAMPLE_BYTES / engine->block_bytes;
	struct copy_choice chosen = copy_choice_get();
	struct copy_choice fastest = fastest_way(target, source, engine->block_bytes);
	struct measure_pairs stores = { 0 }, loads = { 0 };
	int result = 0;

	for (uint64_t i = 0; result == 0 && i < micro->pairs + WARM_UP_PAIRS; i++) {
		double stored, loaded, copied;

		copy_choice_set(fastest);
		copied = copy_sample(target, source, engine->block_bytes);
		copy_choice_set(chosen);
		result = store_sample(engine, &stored, error);
		if (result == 0)
			result = load_sample(engine, false, engine->next_identity - count, &loaded,
					     error);
		if (result < 0 || i < WARM_UP_PAIRS)
			continue;
		measure_pairs_add(&stores, stored, copied);
		measure_pairs_add(&loads, loaded, copied);
	}
	copy_choice_set(chosen);
	if (result < 0)
		return result;
	add(micro, "cpu_load_1m", &loads, 0.90);
	add(micro, "cpu_store_1m", &stores, 0.50);
	return 0;
}

int micro_cpu(struct micro *micro, struct error *error)
{
	uint64_t block_bytes = UINT64_C(1) << 20;
	struct micro_node node;
	struct micro_engine engine = { 0 };
	int result = micro_node_start(&node, micro, 2 * SAMPLE_BYTES, 0, block_bytes, error);
	uint8_t *memory = mmap(NULL, 2 * SAMPLE_BYTES, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (result == 0 && memory == MAP_FAILED)
		result = error_set(error, -ENOMEM, "no memory for the copies");
	if (result == 0) {
		madvise(memory, 2 * SAMPLE_BYTES, MADV_HUGEPAGE);
		memset(memory, 1, 2 * SAMPLE_BYTES);
		result = micro_engine_open(&engine, &node, (uint32_t)(SAMPLE_BYTES / block_bytes),
					   error);
	}
	if (result == 0)
		result = cpu_pairs(micro, &engine, memory, error);
	micro_engine_close(&engine);
	micro_node_stop(&node);
	if (memory != MAP_FAILED)
		munmap(memory, 2 * SAMPLE_BYTES);
	return result;
}
