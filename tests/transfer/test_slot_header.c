/* tests/transfer/test_slot_header.c: no changed bit of a slot passes. */
#include "tests/transfer/slot_make.h"

#include "base/checksum.h"
#include "base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FLIPS 10000u
#define PAGE 4096u

struct rig {
	uint8_t *slot;
	uint64_t slot_bytes;
	uint8_t device[DEVICE_ID_BYTES];
	struct slot_expectation expected;
};

static struct slot_header *header_of(struct rig *rig)
{
	return (struct slot_header *)rig->slot;
}

static void rig_init(struct rig *rig)
{
	memset(rig, 0, sizeof(*rig));
	memset(rig->device, 0xd1, sizeof(rig->device));
	rig->slot_bytes = slot_bytes_for(PAYLOAD_BYTES);
	rig->slot = aligned_alloc(PAGE, rig->slot_bytes);
	assert_non_null(rig->slot);
	slot_make(rig->slot, 1, rig->device, 4 * PAGE);
	rig->expected = (struct slot_expectation){
		.space = header_of(rig)->identity.space,
		.hash = header_of(rig)->identity.hash,
		.device = rig->device,
		.offset = 4 * PAGE,
		.slot_bytes = rig->slot_bytes,
		.epoch_min = 7,
		.group = 3,
		.shard = 1,
		.slot_generation = 9,
		.extent_generation = 5,
	};
}

static void rig_finish(struct rig *rig)
{
	free(rig->slot);
}

/* The verdict of a reader who knows nothing but the place: what the checksums alone find. */
static enum slot_verdict check(struct rig *rig)
{
	struct slot_expectation expected = rig->expected;
	enum slot_verdict verdict;

	expected.space = NULL;
	expected.hash = NULL;
	verdict = slot_header_check(header_of(rig), TIER_NVME, &expected);
	return verdict == SLOT_GOOD ? slot_payload_check(header_of(rig)) : verdict;
}

static void flip(uint8_t *memory, size_t bit)
{
	memory[bit / 8] ^= (uint8_t)(1u << (bit % 8));
}

static void a_slot_as_it_was_written_is_good(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	assert_int_equal(slot_header_check(header_of(&rig), TIER_NVME, &rig.expected), SLOT_GOOD);
	assert_int_equal(slot_payload_check(header_of(&rig)), SLOT_GOOD);
	rig_finish(&rig);
}

static void each_changed_bit_of_identity_padding_and_own_address_is_found(void **unused)
{
	struct rig rig;
	size_t own = offsetof(struct slot_header, address) +
		     TIER_NVME * sizeof(struct slot_address);

	(void)unused;
	rig_init(&rig);
	for (size_t bit = 0; bit < 2048 * 8; bit++) {
		flip(rig.slot, bit);
		assert_int_not_equal(check(&rig), SLOT_GOOD);
		flip(rig.slot, bit);
	}
	for (size_t bit = own * 8; bit < (own + sizeof(struct slot_address)) * 8; bit++) {
		flip(rig.slot, bit);
		assert_int_equal(check(&rig), SLOT_DAMAGED);
		flip(rig.slot, bit);
	}
	assert_int_equal(check(&rig), SLOT_GOOD);
	rig_finish(&rig);
}

static void a_change_of_another_tiers_address_does_not_matter(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	memset(&header_of(&rig)->address[TIER_CPU], 0xff, sizeof(struct slot_address));
	assert_int_equal(check(&rig), SLOT_GOOD);
	rig_finish(&rig);
}

static void a_changed_bit_of_the_payload_or_its_padding_is_found(void **unused)
{
	struct rig rig;
	struct random random;
	uint64_t bits = 0;

	(void)unused;
	rig_init(&rig);
	random_init(&random, 2);
	bits = (rig.slot_bytes - SLOT_HEADER_BYTES) * 8;
	for (unsigned i = 0; i < FLIPS; i++) {
		size_t bit = SLOT_HEADER_BYTES * 8 + random_below(&random, bits);

		flip(rig.slot, bit);
		assert_int_equal(slot_payload_check(header_of(&rig)), SLOT_DAMAGED);
		flip(rig.slot, bit);
	}
	for (size_t bit = (SLOT_HEADER_BYTES + PAYLOAD_BYTES) * 8; bit < rig.slot_bytes * 8;
	     bit++) {
		flip(rig.slot, bit);
		assert_int_equal(slot_payload_check(header_of(&rig)), SLOT_DAMAGED);
		flip(rig.slot, bit);
	}
	assert_int_equal(slot_payload_check(header_of(&rig)), SLOT_GOOD);
	rig_finish(&rig);
}

static void a_write_torn_at_any_page_is_found(void **unused)
{
	struct rig rig;
	uint8_t *whole, *older;

	(void)unused;
	rig_init(&rig);
	whole = malloc(rig.slot_bytes);
	older = aligned_alloc(PAGE, rig.slot_bytes);
	assert_true(whole != NULL && older != NULL);
	memcpy(whole, rig.slot, rig.slot_bytes);
	slot_make(older, 2, rig.device, 4 * PAGE);
	for (uint64_t torn_at = PAGE; torn_at < rig.slot_bytes; torn_at += PAGE) {
		/* New in front, old behind; then the other way round. */
		memcpy(rig.slot, older, rig.slot_bytes);
		memcpy(rig.slot, whole, torn_at);
		assert_int_equal(check(&rig), SLOT_DAMAGED);
		memcpy(rig.slot, whole, rig.slot_bytes);
		memcpy(rig.slot, older, torn_at);
		assert_int_equal(check(&rig), SLOT_DAMAGED);
	}
	free(older);
	free(whole);
	rig_finish(&rig);
}

static void a_valid_header_of_something_else_is_stale(void **unused)
{
	static const uint8_t other[32] = { 1 };
	struct rig rig;
	struct slot_expectation wrong[10];
	unsigned count = sizeof(wrong) / sizeof(wrong[0]);

	(void)unused;
	rig_init(&rig);
	for (unsigned i = 0; i < count; i++)
		wrong[i] = rig.expected;
	wrong[0].space = other;
	wrong[1].hash = other;
	wrong[2].device = other;
	wrong[3].offset += PAGE;
	wrong[4].slot_bytes -= PAGE;
	wrong[5].epoch_min++;
	wrong[6].group++;
	wrong[7].shard++;
	wrong[8].slot_generation++;
	wrong[9].extent_generation++;
	for (unsigned i = 0; i < count; i++)
		assert_int_equal(slot_header_check(header_of(&rig), TIER_NVME, &wrong[i]),
				 SLOT_STALE);
	rig_finish(&rig);
}

static void what_a_reader_does_not_know_is_not_compared(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	rig.expected.space = NULL;
	rig.expected.hash = NULL;
	rig.expected.group = 99;
	rig.expected.slot_generation = 0;
	rig.expected.extent_generation = 0;
	assert_int_equal(slot_header_check(header_of(&rig), TIER_NVME, &rig.expected), SLOT_GOOD);
	rig_finish(&rig);
}

static void swapped_slots_are_stale(void **unused)
{
	struct rig rig;
	uint8_t *other;

	(void)unused;
	rig_init(&rig);
	other = aligned_alloc(PAGE, rig.slot_bytes);
	assert_non_null(other);
	slot_make(other, 3, rig.device, 64 * PAGE);
	assert_int_equal(slot_header_check((struct slot_header *)other, TIER_NVME, &rig.expected),
			 SLOT_STALE);
	free(other);
	rig_finish(&rig);
}

static void a_cleared_header_is_empty(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	slot_header_clear(header_of(&rig));
	assert_int_equal(slot_header_check(header_of(&rig), TIER_NVME, &rig.expected), SLOT_EMPTY);
	rig_finish(&rig);
}

static void hostile_sizes_with_a_right_checksum_are_refused(void **unused)
{
	static const uint64_t sizes[] = { 0, UINT64_MAX, UINT64_MAX - 4095, UINT64_C(1) << 40,
					  UINT32_MAX };
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct slot_identity *identity = &header_of(&rig)->identity;

		identity->payload_bytes = sizes[i];
		identity->crc = 0;
		identity->crc = crc32c(identity, sizeof(*identity));
		assert_int_not_equal(check(&rig), SLOT_GOOD);
	}
	slot_make(rig.slot, 1, rig.device, 4 * PAGE);
	header_of(&rig)->identity.segments_count = 0;
	header_of(&rig)->identity.crc = 0;
	header_of(&rig)->identity.crc = crc32c(rig.slot, sizeof(struct slot_identity));
	assert_int_equal(check(&rig), SLOT_DAMAGED);
	assert_int_equal(slot_payload_check(header_of(&rig)), SLOT_DAMAGED);
	rig_finish(&rig);
}

static void every_number_of_segments_can_be_checked(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	for (uint32_t segments = 1; segments <= SLOT_SEGMENTS_MAX; segments++) {
		/* 300 bytes over up to 256 segments: the last ones are empty. */
		header_of(&rig)->identity.payload_bytes = 300;
		memset(rig.slot + SLOT_HEADER_BYTES + 300, 0,
		       rig.slot_bytes - SLOT_HEADER_BYTES - 300);
		header_of(&rig)->identity.segments_count = segments;
		segments_seal(header_of(&rig));
		slot_identity_seal(header_of(&rig));
		assert_int_equal(check(&rig), SLOT_GOOD);
		flip(rig.slot, (SLOT_HEADER_BYTES + 299) * 8);
		assert_int_equal(check(&rig), SLOT_DAMAGED);
		flip(rig.slot, (SLOT_HEADER_BYTES + 299) * 8);
	}
	rig_finish(&rig);
}

static void a_payload_that_comes_in_pieces_is_judged_as_a_whole_one(void **unused)
{
	struct random random;
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	random_init(&random, 11);
	for (unsigned round = 0; round < 1000; round++) {
		struct slot_payload payload = { 0 };
		uint64_t padded_bytes = rig.slot_bytes - SLOT_HEADER_BYTES;
		size_t bit = SLOT_HEADER_BYTES * 8 + random_below(&random, padded_bytes * 8);

		if (round % 2 == 1)
			flip(rig.slot, bit);
		for (uint64_t at = 0; at < padded_bytes;) {
			uint64_t bytes = random_below(&random, padded_bytes - at) + 1;

			slot_payload_more(&payload, &header_of(&rig)->identity,
					  rig.slot + SLOT_HEADER_BYTES + at, bytes);
			at += bytes;
		}
		assert_int_equal(slot_payload_end(&payload, &header_of(&rig)->identity),
				 round % 2 == 1 ? SLOT_DAMAGED : SLOT_GOOD);
		if (round % 2 == 1)
			flip(rig.slot, bit);
	}
	rig_finish(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_slot_as_it_was_written_is_good),
		cmocka_unit_test(a_payload_that_comes_in_pieces_is_judged_as_a_whole_one),
		cmocka_unit_test(each_changed_bit_of_identity_padding_and_own_address_is_found),
		cmocka_unit_test(a_change_of_another_tiers_address_does_not_matter),
		cmocka_unit_test(a_changed_bit_of_the_payload_or_its_padding_is_found),
		cmocka_unit_test(a_write_torn_at_any_page_is_found),
		cmocka_unit_test(a_valid_header_of_something_else_is_stale),
		cmocka_unit_test(what_a_reader_does_not_know_is_not_compared),
		cmocka_unit_test(swapped_slots_are_stale),
		cmocka_unit_test(a_cleared_header_is_empty),
		cmocka_unit_test(hostile_sizes_with_a_right_checksum_are_refused),
		cmocka_unit_test(every_number_of_segments_can_be_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
