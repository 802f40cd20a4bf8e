/* tests/daemon/test_daemon_encryption.c: blocks on nvme enciphered: found again with their key,
 * misses that say why without it, and nothing in between. */
#include "tests/daemon/encryption_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define FLIPS 2000u
#define OTHER_KEY "second:2222222222222222222222222222222222222222222222222222222222222222\n"
/* Another key under the name of RIG_KEY. */
#define FORGED_KEY "first:3333333333333333333333333333333333333333333333333333333333333333\n"

/* Whether some 64 bytes of the block's payload lie anywhere on the disk. */
static bool is_seen(struct bench *bench, uint64_t key)
{
	struct rig_file *file = rig_disk_file(&bench->rig.disk, "disk-0");
	uint8_t payload[RIG_PAYLOAD_BYTES];

	rig_payload(bench->client, 0, key, 3, payload);
	return memmem(file->now, file->bytes, payload + 5000, 64) != NULL;
}

static void what_is_stored_is_seen_on_the_disk_only_without_encryption(void **unused)
{
	static const char *const modes[] = { "off", "ephemeral", "key_file" };

	(void)unused;
	for (unsigned mode = 0; mode < 3; mode++) {
		struct bench bench;

		bench_init(&bench, modes[mode]);
		for (uint64_t key = 1; key <= BLOCKS; key++) {
			assert_int_equal(is_seen(&bench, key), mode == 0);
			uint32_t key_id = bench_on_disk(&bench, key)->identity.key_id;

			assert_int_equal(key_id != 0, mode != 0);
		}
		rig_drop_cpu(bench.client, 0, 1, BLOCKS);
		assert_int_equal(bench_load(&bench, 1, BLOCKS), BLOCKS);
		assert_int_equal(rig_last.items[0].tier, TIER_NVME);
		/* And what came up is clear, and served from memory. */
		assert_int_equal(bench_load(&bench, 1, BLOCKS), BLOCKS);
		assert_int_equal(rig_last.items[0].tier, TIER_CPU);
		bench_finish(&bench);
	}
}

static void no_two_slots_on_the_disk_have_one_nonce(void **unused)
{
	struct bench bench;
	uint8_t nonces[2 * BLOCKS][16];

	(void)unused;
	bench_init(&bench, "key_file");
	for (unsigned i = 0; i < BLOCKS; i++)
		memcpy(nonces[i], bench_on_disk(&bench, 1 + i)->identity.nonce, 16);
	bench_again(&bench, true, false);
	assert_int_equal(rig_store(bench.client,
				   &(struct rig_blocks){ .first = 101, .count = BLOCKS,
							 .version = 3 }),
			 BLOCKS);
	rig_settle(&bench.rig);
	for (unsigned i = 0; i < BLOCKS; i++)
		memcpy(nonces[BLOCKS + i], bench_on_disk(&bench, 101 + i)->identity.nonce, 16);
	for (unsigned i = 0; i < 2 * BLOCKS; i++)
		for (unsigned j = 0; j < i; j++)
			assert_memory_not_equal(nonces[i], nonces[j], 16);
	bench_finish(&bench);
}

static void with_the_same_key_a_restart_finds_everything(void **unused)
{
	(void)unused;
	for (unsigned round = 0; round < 4; round++) {
		struct bench bench;

		bench_init(&bench, "key_file");
		bench_again(&bench, round & 1, round & 2);
		assert_int_equal(bench.rig.daemon->counters.restored[TIER_NVME], BLOCKS);
		assert_int_equal(key_missing(&bench), 0);
		assert_int_equal(bench_load(&bench, 1, BLOCKS), BLOCKS);
		assert_int_equal(rig_last.items[0].tier, TIER_NVME);
		bench_finish(&bench);
	}
}

/* Misses that say why; no slot is quarantined, and the places are used again. */
static void assert_all_keyless(struct bench *bench, enum frame_reason reason)
{
	struct tenant *tenant = &bench->rig.daemon->tenants[0];

	assert_int_equal(bench->rig.daemon->counters.restored[TIER_NVME], 0);
	assert_int_equal(reason == FRAME_REASON_IN_CLEAR ? tenant->in_clear_blocks
							 : tenant->key_missing_blocks,
			 BLOCKS);
	assert_int_equal(rig_usable(bench->client, 1, BLOCKS), 0);
	assert_int_equal(bench_load(bench, 1, BLOCKS), 0);
	for (uint64_t key = 1; key <= BLOCKS; key++)
		assert_int_equal(rig_explain(bench->client, 0, key).reason, reason);
	assert_int_equal(rig_figures(&bench->rig, 0, TIER_NVME).slots[SLOT_BAD], 0);
	assert_int_equal(rig_store(bench->client, &bench_blocks), BLOCKS);
	rig_settle(&bench->rig);
	rig_drop_cpu(bench->client, 0, 1, BLOCKS);
	assert_int_equal(bench_load(bench, 1, BLOCKS), BLOCKS);
}

static void with_another_key_everything_is_a_miss_that_says_why(void **unused)
{
	static const char *const others[] = { OTHER_KEY, FORGED_KEY };

	(void)unused;
	for (unsigned round = 0; round < 4; round++) {
		struct bench bench;

		bench_init(&bench, "key_file");
		rig_keys(&bench.rig, 0, others[round & 1]);
		bench_again(&bench, true, round & 2);
		assert_all_keyless(&bench, FRAME_REASON_KEY_MISSING);
		bench_finish(&bench);
	}
}

static void an_ephemeral_key_ends_with_its_life(void **unused)
{
	(void)unused;
	for (unsigned round = 0; round < 4; round++) {
		struct bench bench;

		bench_init(&bench, "ephemeral");
		bench_again(&bench, round & 1, round & 2);
		assert_all_keyless(&bench, FRAME_REASON_KEY_MISSING);
		bench_finish(&bench);
	}
}

static void turned_on_what_lies_in_the_clear_is_refused(void **unused)
{
	(void)unused;
	for (unsigned lost = 0; lost < 2; lost++) {
		struct bench bench;

		bench_init(&bench, "off");
		strcpy(bench.rig.settings.encryption, "ephemeral");
		bench_again(&bench, false, lost);
		assert_all_keyless(&bench, FRAME_REASON_IN_CLEAR);
		bench_finish(&bench);
	}
}

static void turned_off_what_is_enciphered_is_a_miss(void **unused)
{
	(void)unused;
	for (unsigned lost = 0; lost < 2; lost++) {
		struct bench bench;

		bench_init(&bench, "key_file");
		strcpy(bench.rig.settings.encryption, "off");
		bench_again(&bench, false, lost);
		assert_all_keyless(&bench, FRAME_REASON_KEY_MISSING);
		bench_finish(&bench);
	}
}

static void keys_rotate_and_the_old_ones_blocks_stay_until_it_goes(void **unused)
{
	static const struct rig_blocks new = { .first = 101, .count = BLOCKS, .version = 3 };
	struct bench bench;
	uint32_t first;

	(void)unused;
	bench_init(&bench, "key_file");
	first = bench_on_disk(&bench, 1)->identity.key_id;
	rig_keys(&bench.rig, 0, OTHER_KEY RIG_KEY);
	bench_again(&bench, false, false);
	assert_string_equal(encryption_key_name(&bench.rig.daemon->tenants[0]), "second");
	assert_int_equal(bench_load(&bench, 1, BLOCKS), BLOCKS);
	assert_int_equal(rig_store(bench.client, &new), BLOCKS);
	rig_settle(&bench.rig);
	assert_int_equal(bench_on_disk(&bench, 1)->identity.key_id, first);
	assert_int_not_equal(bench_on_disk(&bench, 101)->identity.key_id, first);
	rig_drop_cpu(bench.client, 0, 101, BLOCKS);
	assert_int_equal(bench_load(&bench, 101, BLOCKS), BLOCKS);
	rig_keys(&bench.rig, 0, OTHER_KEY);
	bench_again(&bench, false, false);
	assert_int_equal(key_missing(&bench), BLOCKS);
	assert_int_equal(bench_load(&bench, 101, BLOCKS), BLOCKS);
	assert_int_equal(bench_load(&bench, 1, BLOCKS), 0);
	assert_int_equal(rig_explain(bench.client, 0, 1).reason, FRAME_REASON_KEY_MISSING);
	bench_finish(&bench);
}

/* The catalogue said that it can be read. */
static void a_slot_of_another_key_that_a_read_finds_goes_with_the_reason(void **unused)
{
	static const struct {
		const char *encryption;
		uint32_t key_id;
		enum frame_reason reason;
	} cases[] = { { "key_file", 77, FRAME_REASON_KEY_MISSING },
		      { "off", 77, FRAME_REASON_KEY_MISSING },
		      { "key_file", 0, FRAME_REASON_IN_CLEAR } };

	(void)unused;
	for (unsigned i = 0; i < 3; i++) {
		struct bench bench;
		uint32_t slot;

		bench_init(&bench, cases[i].encryption);
		slot = rig_slot(bench.client, TIER_NVME, 0, 5);
		struct slot_header *header = bench_on_disk(&bench, 5);
		header->identity.key_id = cases[i].key_id;
		slot_identity_seal(header);
		rig_drop_cpu(bench.client, 0, 5, 1);
		assert_int_equal(bench_load(&bench, 5, 1), 0);
		assert_int_equal(rig_explain(bench.client, 0, 5).reason, cases[i].reason);
		assert_int_not_equal(cache_slot(bench.rig.daemon->cache, TIER_NVME, slot)->state,
				     SLOT_BAD);
		assert_int_equal(bench.rig.daemon->counters.damaged[TIER_NVME], 0);
		assert_int_equal(key_missing(&bench), i < 2);
		bench_finish(&bench);
	}
}

/* A block in the clear at the place of an enciphered one, with every checksum right. */
static void a_planted_block_is_not_believed(void **unused)
{
	struct bench bench;
	struct slot_header *target, *source;
	struct slot_address address;

	(void)unused;
	bench_init(&bench, "key_file");
	target = bench_on_disk(&bench, 7);
	source = (struct slot_header *)rig_slot_bytes(&bench.rig, TIER_CPU,
						      rig_slot(bench.client, TIER_CPU, 0, 7));
	address = target->address[TIER_NVME];
	memcpy(target, source, RIG_SLOT_BYTES);
	target->address[TIER_NVME] = address;
	rig_drop_cpu(bench.client, 0, 7, 1);
	assert_int_equal(bench_load(&bench, 7, 1), 0);
	assert_int_equal(bench.rig.daemon->tenants[0].in_clear_blocks, 1);
	bench_finish(&bench);
}

static void a_wrong_tag_is_a_miss_and_quarantines_the_slot(void **unused)
{
	struct bench bench;
	uint32_t slot;

	(void)unused;
	bench_init(&bench, "key_file");
	slot = rig_slot(bench.client, TIER_NVME, 0, 6);
	struct slot_header *header = bench_on_disk(&bench, 6);
	header->identity.tag[3] ^= 1;
	slot_identity_seal(header);
	rig_drop_cpu(bench.client, 0, 6, 1);
	assert_int_equal(bench_load(&bench, 6, 1), 0);
	assert_int_equal(cache_slot(bench.rig.daemon->cache, TIER_NVME, slot)->state, SLOT_BAD);
	assert_int_equal(bench.rig.daemon->counters.cipher_failures, 1);
	assert_int_equal(bench.rig.daemon->counters.damaged[TIER_NVME], 1);
	assert_int_equal(rig_explain(bench.client, 0, 6).reason, FRAME_REASON_DAMAGED);
	assert_int_equal(bench_load(&bench, 7, 1), 1);
	bench_finish(&bench);
}

/* Also where no CRC looks: an enciphered slot has only its tag. */
static void every_flipped_bit_of_an_enciphered_payload_is_detected(void **unused)
{
	struct bench bench;

	(void)unused;
	bench_init(&bench, "key_file");
	for (unsigned i = 0; i < FLIPS; i++) {
		struct rig_blocks one = { .first = 1000 + i, .count = 1, .version = 3 };
		uint64_t at = random_below(&bench.rig.random, RIG_SLOT_BYTES - SLOT_HEADER_BYTES);

		assert_int_equal(rig_store(bench.client, &one), 1);
		rig_settle(&bench.rig);
		uint8_t *payload = (uint8_t *)(bench_on_disk(&bench, one.first) + 1);
		payload[at] ^= (uint8_t)(1u << random_below(&bench.rig.random, 8));
		rig_drop_cpu(bench.client, 0, one.first, 1);
		assert_int_equal(bench_load(&bench, one.first, 1), 0);
		if (i % 100 == 99) {
			/* What is quarantined is given back whole. */
			bench_again(&bench, false, false);
			assert_int_equal(rig_forget(bench.client, bench.client->space), 0);
			rig_settle(&bench.rig);
		}
	}
	bench_finish(&bench);
}

static void what_was_forgotten_stays_forgotten_with_its_key_there(void **unused)
{
	(void)unused;
	for (unsigned lost = 0; lost < 2; lost++) {
		struct bench bench;

		bench_init(&bench, "key_file");
		assert_int_equal(rig_forget(bench.client, bench.client->space), 0);
		bench_again(&bench, true, lost);
		assert_int_equal(bench_load(&bench, 1, BLOCKS), 0);
		assert_int_equal(rig_figures(&bench.rig, 0, TIER_NVME).copies_whole, 0);
		bench_finish(&bench);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_stored_is_seen_on_the_disk_only_without_encryption),
		cmocka_unit_test(no_two_slots_on_the_disk_have_one_nonce),
		cmocka_unit_test(with_the_same_key_a_restart_finds_everything),
		cmocka_unit_test(with_another_key_everything_is_a_miss_that_says_why),
		cmocka_unit_test(an_ephemeral_key_ends_with_its_life),
		cmocka_unit_test(turned_on_what_lies_in_the_clear_is_refused),
		cmocka_unit_test(turned_off_what_is_enciphered_is_a_miss),
		cmocka_unit_test(keys_rotate_and_the_old_ones_blocks_stay_until_it_goes),
		cmocka_unit_test(a_slot_of_another_key_that_a_read_finds_goes_with_the_reason),
		cmocka_unit_test(a_planted_block_is_not_believed),
		cmocka_unit_test(a_wrong_tag_is_a_miss_and_quarantines_the_slot),
		cmocka_unit_test(every_flipped_bit_of_an_enciphered_payload_is_detected),
		cmocka_unit_test(what_was_forgotten_stays_forgotten_with_its_key_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
