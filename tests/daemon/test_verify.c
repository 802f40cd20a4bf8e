/* tests/daemon/test_verify.c: verify finds what is damaged, all of it and nothing else, and changes
 * nothing. */
#include "tests/daemon/rig.h"

#include "daemon/verify.h"
#include "tiers/nvme/extent_table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCKS 40u

static const struct rig_blocks all = { .first = 1, .count = BLOCKS, .version = 3 };

static const struct rig_config warm = { .cpu_units = 4, .has_cpu_file = true };

struct bench {
	struct rig rig;
	struct rig_client *client;
	struct verify_result result;
	char *out;                        /* what it said */
	size_t out_bytes;
	void (*paused)(struct bench *bench);
	unsigned pauses;
	uint8_t *place, byte;             /* for `paused` */
};

static void bench_init(struct bench *bench, const struct rig_config *config)
{
	memset(bench, 0, sizeof(*bench));
	rig_init(&bench->rig, config);
	bench->client = rig_register(&bench->rig, NULL);
	assert_int_equal(rig_store(bench->client, &all), BLOCKS);
	rig_settle(&bench->rig);
}

static void bench_finish(struct bench *bench)
{
	free(bench->out);
	rig_finish(&bench->rig);
}

static void on_pause(void *owner, uint64_t us)
{
	struct bench *bench = owner;

	(void)us;
	bench->pauses++;
	if (bench->paused != NULL)
		bench->paused(bench);
}

/* Its exit status. */
static int verify(struct bench *bench)
{
	struct verify_options options = {
		.settings = &bench->rig.settings,
		.has_tier = { true, true },
		.is_json = true,
		.io_ops = &bench->rig.disk.ops,
		.pause = on_pause,
		.owner = bench,
	};

	free(bench->out);
	bench->out = NULL;
	options.out = options.progress = open_memstream(&bench->out, &bench->out_bytes);
	assert_non_null(options.out);
	assert_int_equal(verify_run(&options, &bench->result), 0);
	fclose(options.out);
	return verify_status(&bench->result);
}

static uint64_t counted(const struct bench *bench, enum verify_kind kind)
{
	return bench->result.counts.slots[kind];
}

static struct rig_file *device_file(struct bench *bench)
{
	struct rig_file *file = rig_disk_file(&bench->rig.disk,
					      bench->rig.settings.devices[0].path);

	assert_non_null(file);
	return file;
}

/* Where a slot is in its file, as verify says it. */
static uint64_t place_of(struct bench *bench, enum tier_id tier, uint32_t slot)
{
	uint8_t *bytes = rig_slot_bytes(&bench->rig, tier, slot);

	return (uint64_t)(bytes - (tier == TIER_NVME ? device_file(bench)->now
						     : bench->rig.daemon->tenants[0].arena.start));
}

static bool is_listed(const struct bench *bench, enum tier_id tier, uint64_t place)
{
	char wanted[96];

	snprintf(wanted, sizeof(wanted), "\"offset\":%llu,", (unsigned long long)place);
	for (const char *line = bench->out; (line = strstr(line, "\"event\":\"damaged\"")) != NULL;
	     line++) {
		const char *end = strchr(line, '\n');
		const char *found = strstr(line, wanted);
		const char *name = strstr(line, tier == TIER_NVME ? "\"nvme\"" : "\"cpu\"");

		if (found != NULL && found < end && name != NULL && name < end)
			return true;
	}
	return false;
}

static void all_of_a_stopped_node_is_good(void **unused)
{
	struct bench bench;

	(void)unused;
	bench_init(&bench, &warm);
	rig_stop(&bench.rig);
	assert_int_equal(verify(&bench), 0);
	assert_int_equal(counted(&bench, VERIFY_GOOD), 2 * BLOCKS);
	assert_int_equal(counted(&bench, VERIFY_DAMAGED), 0);
	assert_false(bench.result.is_running);
	bench_finish(&bench);
}

static void no_byte_is_changed(void **unused)
{
	struct bench bench;

	(void)unused;
	bench_init(&bench, &warm);
	rig_stop(&bench.rig);
	struct rig_file *file = device_file(&bench);
	uint8_t *before = malloc(file->bytes);
	assert_non_null(before);
	memcpy(before, file->now, file->bytes);
	uint64_t writes = bench.rig.disk.writes, syncs = bench.rig.disk.syncs;
	assert_int_equal(verify(&bench), 0);
	assert_memory_equal(before, file->now, file->bytes);
	assert_int_equal(bench.rig.disk.writes, writes);
	assert_int_equal(bench.rig.disk.syncs, syncs);
	free(before);
	rig_start(&bench.rig);
	bench.client = rig_register(&bench.rig, NULL);
	assert_int_equal(rig_load(bench.client, &all), BLOCKS);
	bench_finish(&bench);
}

/* Bits that any reader of the tier looks at, in header and payload alike. */
static uint64_t random_place(struct random *random, enum tier_id tier)
{
	uint64_t address = offsetof(struct slot_header, address) +
			   tier * sizeof(struct slot_address);

	switch (random_below(random, 3)) {
	case 0:
		return random_below(random, offsetof(struct slot_header, address));
	case 1:
		return address + random_below(random, sizeof(struct slot_address));
	default:
		return SLOT_HEADER_BYTES + random_below(random, RIG_PAYLOAD_BYTES);
	}
}

static void exactly_the_damaged_slots_are_found(void **unused)
{
	(void)unused;
	for (unsigned round = 0; round < 50; round++) {
		struct bench bench;
		struct rig_config config = warm;
		uint64_t places[TIERS][BLOCKS];
		bool is_damaged[TIERS][BLOCKS] = { { false } };
		unsigned damaged = 0;

		config.seed = 1 + round;
		bench_init(&bench, &config);
		for (enum tier_id tier = 0; tier < TIERS; tier++)
			for (unsigned i = 0; i < BLOCKS; i++) {
				uint32_t slot = rig_slot(bench.client, tier, 0, 1 + i);

				places[tier][i] = place_of(&bench, tier, slot);
				if (random_below(&bench.rig.random, 3) != 0)
					continue;
				uint64_t at = random_place(&bench.rig.random, tier);
				rig_slot_bytes(&bench.rig, tier, slot)[at] ^=
					(uint8_t)(1u << random_below(&bench.rig.random, 8));
				is_damaged[tier][i] = true;
				damaged++;
			}
		rig_stop(&bench.rig);
		assert_int_equal(verify(&bench), damaged > 0);
		assert_int_equal(counted(&bench, VERIFY_DAMAGED), damaged);
		assert_int_equal(counted(&bench, VERIFY_GOOD), 2 * BLOCKS - damaged);
		for (enum tier_id tier = 0; tier < TIERS; tier++)
			for (unsigned i = 0; i < BLOCKS; i++)
				assert_int_equal(is_listed(&bench, tier, places[tier][i]),
						 is_damaged[tier][i]);
		bench_finish(&bench);
	}
}

static void what_was_forgotten_is_stale(void **unused)
{
	struct bench bench;

	(void)unused;
	bench_init(&bench, &warm);
	assert_int_equal(rig_forget(bench.client, bench.client->space), 0);
	assert_int_equal(rig_store(bench.client, &(struct rig_blocks){ .first = 900, .count = 5 }),
			 5);
	rig_settle(&bench.rig);
	rig_stop(&bench.rig);
	assert_int_equal(verify(&bench), 0);
	assert_int_equal(counted(&bench, VERIFY_GOOD), 2 * 5);
	assert_true(counted(&bench, VERIFY_STALE) >= BLOCKS);
	bench_finish(&bench);
}

static void another_slots_bytes_are_stale(void **unused)
{
	struct bench bench;

	(void)unused;
	bench_init(&bench, &warm);
	memcpy(rig_slot_bytes(&bench.rig, TIER_NVME, rig_slot(bench.client, TIER_NVME, 0, 3)),
	       rig_slot_bytes(&bench.rig, TIER_NVME, rig_slot(bench.client, TIER_NVME, 0, 4)),
	       RIG_SLOT_BYTES);
	rig_stop(&bench.rig);
	assert_int_equal(verify(&bench), 0);
	assert_int_equal(counted(&bench, VERIFY_STALE), 1);
	assert_int_equal(counted(&bench, VERIFY_GOOD), 2 * BLOCKS - 1);
	bench_finish(&bench);
}

static void an_enciphered_slot_is_sealed_and_no_damage(void **unused)
{
	struct bench bench;

	(void)unused;
	bench_init(&bench, &warm);
	struct slot_header *header = (struct slot_header *)rig_slot_bytes(
		&bench.rig, TIER_NVME, rig_slot(bench.client, TIER_NVME, 0, 3));
	header->identity.key_id = 5;
	slot_identity_seal(header);
	rig_stop(&bench.rig);
	assert_int_equal(verify(&bench), 0);
	assert_int_equal(counted(&bench, VERIFY_SEALED), 1);
	assert_int_equal(counted(&bench, VERIFY_GOOD), 2 * BLOCKS - 1);
	bench_finish(&bench);
}

static void byte_put_back(struct bench *bench)
{
	*bench->place = bench->byte;
}

static void byte_changed_each_time(struct bench *bench)
{
	*bench->place = (uint8_t)(bench->byte + bench->pauses);
}

static void a_slot_that_changes_between_two_looks_is_in_flux(void **unused)
{
	static void (*const changes[])(struct bench *) = { byte_put_back, byte_changed_each_time };

	(void)unused;
	for (unsigned change = 0; change < 2; change++) {
		struct bench bench;

		bench_init(&bench, &warm);
		bench.place = rig_slot_bytes(&bench.rig, TIER_NVME,
					     rig_slot(bench.client, TIER_NVME, 0, 7)) +
			      SLOT_HEADER_BYTES + 50;
		bench.byte = *bench.place;
		*bench.place ^= 0x40;
		bench.paused = changes[change];
		rig_stop(&bench.rig);
		assert_int_equal(verify(&bench), 0);
		assert_int_equal(counted(&bench, VERIFY_IN_FLUX), 1);
		assert_int_equal(counted(&bench, VERIFY_GOOD), 2 * BLOCKS - 1);
		assert_int_equal(bench.pauses, change == 0 ? 1 : 10);
		bench_finish(&bench);
	}
}

static void node_goes_on(struct bench *bench)
{
	rig_settle(&bench->rig);
}

/* At any step of a store that overruns the cpu tier, with writes under way. */
static void nothing_of_a_running_node_is_called_damaged(void **unused)
{
	struct bench bench;

	(void)unused;
	bench_init(&bench, &(struct rig_config){ .cpu_units = 2, .has_cpu_file = true });
	bench.paused = node_goes_on;
	for (unsigned round = 0; round < 300; round++) {
		struct rig_blocks some = { .first = 100 + 8 * round, .count = 8, .version = 1 };
		struct rig_batch *batch = rig_store_begin(bench.client, &some);

		for (unsigned i = 0; i < round % 12; i++)
			(void)rig_step(&bench.rig);
		bool is_committed = batch->is_replied;
		if (is_committed)
			rig_store_commit(bench.client, batch);
		for (unsigned i = 0; i < round % 7; i++)
			(void)rig_step(&bench.rig);
		assert_int_equal(verify(&bench), 0);
		assert_true(bench.result.is_running);
		rig_settle(&bench.rig);
		if (!is_committed)
			rig_store_commit(bench.client, batch);
		rig_batch_await(&bench.rig, batch);
		rig_batch_give(batch);
	}
	bench_finish(&bench);
}

static void one_damaged_superblock_is_told_and_two_cannot_be_looked_into(void **unused)
{
	struct bench bench;

	(void)unused;
	bench_init(&bench, &warm);
	rig_stop(&bench.rig);
	device_file(&bench)->now[100] ^= 1;
	assert_int_equal(verify(&bench), 1);
	assert_int_equal(bench.result.counts.heads_damaged, 1);
	assert_int_equal(counted(&bench, VERIFY_GOOD), 2 * BLOCKS);
	device_file(&bench)->now[SUPERBLOCK_STRIDE_BYTES + 100] ^= 1;
	assert_int_equal(verify(&bench), 3);
	assert_int_equal(bench.result.failures, 1);
	assert_non_null(strstr(bench.out, "no superblock of kvtier is readable"));
	assert_int_equal(counted(&bench, VERIFY_GOOD), BLOCKS);
	bench_finish(&bench);
}

static void without_an_extent_table_a_device_is_damaged(void **unused)
{
	struct bench bench;

	(void)unused;
	bench_init(&bench, &warm);
	rig_stop(&bench.rig);
	device_file(&bench)->now[TABLES_OFFSET + 30] ^= 1;
	assert_int_equal(verify(&bench), 0);
	device_file(&bench)->now[TABLES_OFFSET + TABLE_STRIDE_BYTES + 30] ^= 1;
	assert_int_equal(verify(&bench), 1);
	assert_int_equal(bench.result.counts.heads_damaged, 2);
	bench_finish(&bench);
}

static void what_is_not_there_is_named(void **unused)
{
	struct bench bench;
	char path[2 * SETTINGS_PATH_BYTES];

	(void)unused;
	bench_init(&bench, &warm);
	rig_stop(&bench.rig);
	strcpy(bench.rig.settings.devices[0].path, "no-such-disk");
	assert_int_equal(verify(&bench), 3);
	assert_non_null(strstr(bench.out, "no-such-disk"));
	strcpy(bench.rig.settings.devices[0].path, "disk-0");
	snprintf(path, sizeof(path), "%s/journal", bench.rig.settings.state_directory);
	assert_int_equal(truncate(path, 50), 0);
	assert_int_equal(verify(&bench), 1);
	assert_true(bench.result.journal_is_damaged);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(verify(&bench), 3);
	assert_non_null(strstr(bench.out, "journal"));
	bench_finish(&bench);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_of_a_stopped_node_is_good),
		cmocka_unit_test(no_byte_is_changed),
		cmocka_unit_test(exactly_the_damaged_slots_are_found),
		cmocka_unit_test(what_was_forgotten_is_stale),
		cmocka_unit_test(another_slots_bytes_are_stale),
		cmocka_unit_test(an_enciphered_slot_is_sealed_and_no_damage),
		cmocka_unit_test(a_slot_that_changes_between_two_looks_is_in_flux),
		cmocka_unit_test(nothing_of_a_running_node_is_called_damaged),
		cmocka_unit_test(one_damaged_superblock_is_told_and_two_cannot_be_looked_into),
		cmocka_unit_test(without_an_extent_table_a_device_is_damaged),
		cmocka_unit_test(what_is_not_there_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
