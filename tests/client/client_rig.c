/* tests/client/client_rig.c: see client_rig.h. */
#include "tests/client/client_rig.h"

#include "base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

const uint64_t rig_plane_bytes[RIG_PLANES] = { 3000, 5000 };
const uint64_t rig_plane_stride[RIG_PLANES] = { 3072, 5000 };

void rig_fill(struct rig *rig, uint64_t seed)
{
	struct random random;

	random_init(&random, seed);
	for (unsigned p = 0; p < RIG_PLANES; p++)
		for (uint64_t i = 0; i < RIG_BLOCKS * rig_plane_stride[p]; i++)
			rig->planes[p][i] = (uint8_t)random_next(&random);
}

uint64_t rig_device_address(unsigned plane)
{
	return UINT64_C(0x500000000000) + plane * UINT64_C(0x100000000);
}

/* The word is the last of the last region. */
static void regions_of(const struct rig *rig, struct kvtier_region *out_regions,
		       struct kvtier_device *out_device)
{
	unsigned last = RIG_PLANES - 1;

	for (unsigned p = 0; p < RIG_PLANES; p++)
		out_regions[p] = (struct kvtier_region){ .address = rig_device_address(p),
							 .bytes = rig->region_bytes[p],
							 .kind = KVTIER_REGION_FDS,
							 .fds_count = 1,
							 .fds = &rig->region_fds[p],
							 .fd_bytes = &rig->region_bytes[p] };
	*out_device = (struct kvtier_device){ .name = "0000:01:00.0",
					      .regions_count = RIG_PLANES,
					      .regions = out_regions };
	if (rig->has_word)
		out_device->word_address = rig_device_address(last) + rig->region_bytes[last] - 8;
}

int rig_open_client(struct rig *rig, unsigned roles)
{
	struct kvtier_plane planes[RIG_PLANES];
	struct kvtier_region regions[RIG_PLANES];
	struct kvtier_device device;
	struct kvtier_group group = { .kind = KVTIER_FULL,
				      .tokens_per_block = 16,
				      .segments_count = 4,
				      .blocks_count = RIG_BLOCKS,
				      .planes_count = RIG_PLANES,
				      .planes = planes };
	struct kvtier_options options = { .socket = rig->fake.path,
					  .engine = "engine-1",
					  .roles = roles,
					  .identity = { .model_content = "digest",
							.dtype = "bf16" },
					  .groups_count = 1,
					  .groups = &group,
					  .connect_us_max = rig->connect_us_max != 0
								    ? rig->connect_us_max
								    : RIG_WAIT_US };

	for (unsigned p = 0; p < RIG_PLANES; p++)
		planes[p] = (struct kvtier_plane){ rig->planes[p], rig_plane_stride[p],
						   rig_plane_bytes[p] };
	if (rig->is_pulled) {
		regions_of(rig, regions, &device);
		options.device = &device;
		for (unsigned p = 0; p < RIG_PLANES; p++)
			planes[p].base = (void *)(uintptr_t)rig_device_address(p);
	}
	return kvtier_open(&rig->client, &options, rig->text, sizeof(rig->text));
}

struct rig *rig_create_closed(uint64_t window_bytes)
{
	struct rig *rig = calloc(1, sizeof(*rig));

	assert_non_null(rig);
	atomic_store(&copier_block_hook, NULL);
	fake_start(&rig->fake, window_bytes);
	for (unsigned p = 0; p < RIG_PLANES; p++)
		rig->planes[p] = malloc(RIG_BLOCKS * rig_plane_stride[p]);
	rig_fill(rig, 1);
	for (unsigned i = 0; i < RIG_BLOCKS; i++) {
		memset(rig->blocks[i].hash, (int)i + 1, KVTIER_HASH_BYTES);
		memcpy(rig->hashes[i], rig->blocks[i].hash, KVTIER_HASH_BYTES);
		rig->blocks[i].route_key = i;
		rig->blocks[i].engine_block = i;
	}
	return rig;
}

struct rig *rig_create_pull_closed(void)
{
	struct rig *rig = rig_create_closed(RIG_WINDOW_BYTES);

	rig->is_pulled = rig->has_word = true;
	fake_pull_start(&rig->fake);
	for (unsigned p = 0; p < RIG_PLANES; p++) {
		free(rig->planes[p]);
		rig->region_bytes[p] = RIG_BLOCKS * rig_plane_stride[p] + 4096;
		rig->region_fds[p] = memfd_create("device", MFD_CLOEXEC);
		assert_int_equal(ftruncate(rig->region_fds[p], (off_t)rig->region_bytes[p]), 0);
		rig->planes[p] = mmap(NULL, rig->region_bytes[p], PROT_READ | PROT_WRITE,
				      MAP_SHARED, rig->region_fds[p], 0);
		assert_ptr_not_equal(rig->planes[p], MAP_FAILED);
	}
	rig_fill(rig, 1);
	return rig;
}

struct rig *rig_create_pull(void)
{
	struct rig *rig = rig_create_pull_closed();

	assert_int_equal(rig_open_client(rig, KVTIER_SCHEDULER | KVTIER_WORKER), 0);
	assert_true(kvtier_is_connected(rig->client));
	return rig;
}

struct rig *rig_create(void)
{
	struct rig *rig = rig_create_closed(RIG_WINDOW_BYTES);

	assert_int_equal(rig_open_client(rig, KVTIER_SCHEDULER | KVTIER_WORKER), 0);
	assert_true(kvtier_is_connected(rig->client));
	return rig;
}

void rig_destroy(struct rig *rig)
{
	kvtier_close(rig->client);
	fake_stop(&rig->fake);
	for (unsigned p = 0; p < RIG_PLANES; p++) {
		if (!rig->is_pulled) {
			free(rig->planes[p]);
			continue;
		}
		munmap(rig->planes[p], rig->region_bytes[p]);
		close(rig->region_fds[p]);
	}
	free(rig);
}

int rig_begin(struct rig *rig, bool is_store, unsigned count, uint64_t deadline_us,
	      uint64_t *out_job)
{
	struct kvtier_transfer transfer = {
		.count = count, .blocks = rig->blocks, .deadline_us = deadline_us, .user = rig
	};

	return is_store ? kvtier_store(rig->client, &transfer, out_job)
			: kvtier_load(rig->client, &transfer, out_job);
}

struct kvtier_completion rig_next(struct rig *rig)
{
	struct kvtier_completion completion = { .job = 0 };

	assert_int_equal(kvtier_wait(rig->client, RIG_WAIT_US), 1);
	assert_int_equal(kvtier_poll(rig->client, &completion, 1), 1);
	assert_ptr_equal(completion.user, rig);
	return completion;
}

struct kvtier_completion rig_run(struct rig *rig, bool is_store, unsigned count)
{
	struct kvtier_completion completion;
	uint64_t job = 0;

	assert_int_equal(rig_begin(rig, is_store, count, RIG_WAIT_US, &job), 0);
	assert_true(job != 0);
	completion = rig_next(rig);
	assert_true(completion.job == job);
	assert_int_equal(completion.count, count);
	assert_int_equal(completion.is_store, is_store);
	assert_int_equal(completion.quiesced, 1);
	return completion;
}

int rig_lookup(struct rig *rig, unsigned count, uint64_t wait_us, struct kvtier_found *out_found)
{
	struct kvtier_keys keys = { .count = count,
				    .hashes = (const uint8_t(*)[KVTIER_HASH_BYTES])rig->hashes };
	struct kvtier_lookup lookup = { .sections_count = 1,
					.sections = &keys,
					.lease_us = 1000000 };

	memset(out_found, 0, sizeof(*out_found));
	return kvtier_lookup(rig->client, &lookup, wait_us, out_found);
}

void rig_reconnect(struct rig *rig)
{
	assert_int_equal(kvtier_connect(rig->client, RIG_WAIT_US, rig->text, sizeof(rig->text)), 0);
	assert_true(kvtier_is_connected(rig->client));
}

void rig_set_pause_end(struct rig *rig, uint64_t until_us)
{
	pthread_mutex_lock(&rig->client->lock);
	assert_true(rig->client->breaker.pause_us > 0);
	rig->client->breaker.until_us = until_us;
	pthread_mutex_unlock(&rig->client->lock);
}
