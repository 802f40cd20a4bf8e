/* tests/transfer/test_slot_cipher.c: what was enciphered comes back, and nothing else does. */
#include "transfer/slot_cipher.h"

#include "base/random.h"
#include "tests/transfer/slot_make.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PAGE 4096u
#define FLIPS 3000u

struct rig {
	struct slot_cipher *cipher;
	struct slot_key key, other_key;
	struct slot_address address;
	uint8_t life[SLOT_LIFE_BYTES];
	uint64_t slot_bytes;
	uint8_t *clear, *enciphered, *scratch;
};

static struct slot_header *header_of(uint8_t *slot)
{
	return (struct slot_header *)slot;
}

static void rig_init(struct rig *rig)
{
	uint8_t device[DEVICE_ID_BYTES];
	struct slot_nonce nonce;
	struct error error;

	memset(rig, 0, sizeof(*rig));
	memset(device, 0xd1, sizeof(device));
	memset(rig->life, 0x11, sizeof(rig->life));
	memset(rig->key.bytes, 0x22, sizeof(rig->key.bytes));
	memset(rig->other_key.bytes, 0x23, sizeof(rig->other_key.bytes));
	slot_key_identify(&rig->key);
	slot_key_identify(&rig->other_key);
	rig->slot_bytes = slot_bytes_for(PAYLOAD_BYTES);
	rig->clear = aligned_alloc(PAGE, rig->slot_bytes);
	rig->enciphered = aligned_alloc(PAGE, rig->slot_bytes);
	rig->scratch = aligned_alloc(PAGE, rig->slot_bytes);
	assert_true(rig->clear != NULL && rig->enciphered != NULL && rig->scratch != NULL);
	assert_int_equal(slot_cipher_create(&rig->cipher, &error), 0);
	slot_make(rig->clear, 1, device, 4 * PAGE);
	rig->address = header_of(rig->clear)->address[TIER_NVME];
	nonce = slot_nonce_make(rig->life, 41);
	slot_encipher(rig->cipher, &rig->key, &nonce, &rig->address, header_of(rig->clear),
		      header_of(rig->enciphered));
}

static void rig_finish(struct rig *rig)
{
	slot_cipher_destroy(rig->cipher);
	free(rig->clear);
	free(rig->enciphered);
	free(rig->scratch);
}

/* What a reader says who expects it where it was written. */
static enum slot_verdict read_back(struct rig *rig)
{
	struct slot_header *slot = header_of(rig->scratch);
	struct slot_expectation expected = {
		.device = rig->address.device, .offset = rig->address.offset,
		.slot_bytes = rig->slot_bytes,
	};
	enum slot_verdict verdict = slot_header_check(slot, TIER_NVME, &expected);

	if (verdict == SLOT_GOOD && slot->identity.key_id != rig->key.id)
		return SLOT_KEYLESS;
	if (verdict == SLOT_GOOD)
		verdict = slot_decipher(rig->cipher, &rig->key, slot);
	return verdict == SLOT_GOOD ? slot_payload_check(slot) : verdict;
}

static void reset(struct rig *rig)
{
	memcpy(rig->scratch, rig->enciphered, rig->slot_bytes);
}

static void what_was_enciphered_comes_back_byte_for_byte(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	for (unsigned round = 0; round < 3; round++) {
		reset(&rig);
		assert_int_equal(read_back(&rig), SLOT_GOOD);
		assert_memory_equal(rig.scratch, rig.clear, rig.slot_bytes);
	}
	rig_finish(&rig);
}

static void nothing_of_payload_and_its_checksums_is_left_to_see(void **unused)
{
	struct rig rig;
	unsigned equal = 0;

	(void)unused;
	rig_init(&rig);
	for (uint64_t at = SLOT_HEADER_BYTES; at < rig.slot_bytes; at++)
		equal += rig.clear[at] == rig.enciphered[at];
	assert_true(equal < 3 * rig.slot_bytes / 256);
	for (unsigned i = 0; i < SEGMENTS; i++)
		assert_int_not_equal(header_of(rig.clear)->identity.segment_crcs[i],
				     header_of(rig.enciphered)->identity.segment_crcs[i]);
	/* Nobody takes it for a clear one. */
	assert_int_equal(slot_payload_check(header_of(rig.enciphered)), SLOT_DAMAGED);
	rig_finish(&rig);
}

static void equal_blocks_are_enciphered_differently(void **unused)
{
	struct rig rig;
	struct slot_nonce nonce;

	(void)unused;
	rig_init(&rig);
	nonce = slot_nonce_make(rig.life, 42);
	slot_encipher(rig.cipher, &rig.key, &nonce, &rig.address, header_of(rig.clear),
		      header_of(rig.scratch));
	assert_memory_not_equal(rig.scratch + SLOT_HEADER_BYTES,
				rig.enciphered + SLOT_HEADER_BYTES, 64);
	rig.life[3] ^= 1;
	nonce = slot_nonce_make(rig.life, 41);
	slot_encipher(rig.cipher, &rig.key, &nonce, &rig.address, header_of(rig.clear),
		      header_of(rig.scratch));
	assert_memory_not_equal(rig.scratch + SLOT_HEADER_BYTES,
				rig.enciphered + SLOT_HEADER_BYTES, 64);
	rig_finish(&rig);
}

static void no_two_counts_of_a_life_give_one_nonce(void **unused)
{
	static const uint8_t life[SLOT_LIFE_BYTES] = { 9 };
	static const uint64_t counts[] = { 0, 1, 255, 256, UINT32_MAX, UINT64_C(1) << 32,
					   SLOT_NONCES_MAX - 1 };
	unsigned count = sizeof(counts) / sizeof(counts[0]);

	(void)unused;
	for (unsigned i = 0; i < count; i++)
		for (unsigned j = 0; j < i; j++) {
			struct slot_nonce a = slot_nonce_make(life, counts[i]);
			struct slot_nonce b = slot_nonce_make(life, counts[j]);

			assert_memory_not_equal(a.bytes, b.bytes, sizeof(a.bytes));
		}
}

static void every_changed_bit_of_ciphertext_is_found_by_the_tag_alone(void **unused)
{
	struct rig rig;
	struct random random;

	(void)unused;
	rig_init(&rig);
	random_init(&random, 3);
	for (unsigned i = 0; i < FLIPS; i++) {
		uint64_t at = SLOT_HEADER_BYTES +
			      random_below(&random, rig.slot_bytes - SLOT_HEADER_BYTES);

		reset(&rig);
		rig.scratch[at] ^= (uint8_t)(1u << random_below(&random, 8));
		assert_int_equal(slot_decipher(rig.cipher, &rig.key, header_of(rig.scratch)),
				 SLOT_WRONG_TAG);
	}
	for (unsigned i = 0; i < 4 * SEGMENTS; i++) {
		reset(&rig);
		((uint8_t *)header_of(rig.scratch)->identity.segment_crcs)[i] ^= 1;
		assert_int_equal(slot_decipher(rig.cipher, &rig.key, header_of(rig.scratch)),
				 SLOT_WRONG_TAG);
	}
	rig_finish(&rig);
}

/* Who has the disk can give a changed header the right CRC. */
static void every_changed_header_field_is_found_though_its_crc_is_right(void **unused)
{
	struct rig rig;
	size_t end = offsetof(struct slot_identity, segment_crcs);
	unsigned tags = 0;

	(void)unused;
	rig_init(&rig);
	for (size_t at = 0; at < end; at++) {
		bool is_remade = at < offsetof(struct slot_identity, space) ||
				 at / 2 == offsetof(struct slot_identity, reserved) / 2;
		enum slot_verdict verdict;

		if (is_remade)   /* magic, version, crc, reserved: sealing makes them right again */
			continue;
		reset(&rig);
		rig.scratch[at] ^= 4;
		if (header_of(rig.scratch)->identity.segments_count > SLOT_SEGMENTS_MAX)
			continue;
		slot_identity_seal(header_of(rig.scratch));
		verdict = read_back(&rig);
		assert_int_not_equal(verdict, SLOT_GOOD);
		tags += verdict == SLOT_WRONG_TAG;
	}
	assert_true(tags > 100);
	rig_finish(&rig);
}

static void a_slot_moved_to_another_place_or_generation_is_found(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	for (size_t at = 0; at < offsetof(struct slot_address, reserved); at++) {
		reset(&rig);
		((uint8_t *)&header_of(rig.scratch)->address[TIER_NVME])[at] ^= 1;
		slot_address_seal(&header_of(rig.scratch)->address[TIER_NVME]);
		assert_int_equal(slot_decipher(rig.cipher, &rig.key, header_of(rig.scratch)),
				 SLOT_WRONG_TAG);
	}
	rig_finish(&rig);
}

static void another_key_has_another_id_and_opens_nothing(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	assert_int_not_equal(rig.key.id, rig.other_key.id);
	reset(&rig);
	header_of(rig.scratch)->identity.key_id = rig.other_key.id;
	assert_int_equal(slot_decipher(rig.cipher, &rig.other_key, header_of(rig.scratch)),
			 SLOT_WRONG_TAG);
	rig_finish(&rig);
}

static void blocks_of_more_lives_than_are_kept_come_back(void **unused)
{
	struct rig rig;

	(void)unused;
	rig_init(&rig);
	for (unsigned round = 0; round < 100; round++) {
		rig.life[0] = (uint8_t)(round * 7 % 40);
		struct slot_nonce nonce = slot_nonce_make(rig.life, round);

		slot_encipher(rig.cipher, &rig.key, &nonce, &rig.address, header_of(rig.clear),
			      header_of(rig.scratch));
		assert_int_equal(read_back(&rig), SLOT_GOOD);
		reset(&rig);
		assert_int_equal(read_back(&rig), SLOT_GOOD);
	}
	rig_finish(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_enciphered_comes_back_byte_for_byte),
		cmocka_unit_test(nothing_of_payload_and_its_checksums_is_left_to_see),
		cmocka_unit_test(equal_blocks_are_enciphered_differently),
		cmocka_unit_test(no_two_counts_of_a_life_give_one_nonce),
		cmocka_unit_test(every_changed_bit_of_ciphertext_is_found_by_the_tag_alone),
		cmocka_unit_test(every_changed_header_field_is_found_though_its_crc_is_right),
		cmocka_unit_test(a_slot_moved_to_another_place_or_generation_is_found),
		cmocka_unit_test(another_key_has_another_id_and_opens_nothing),
		cmocka_unit_test(blocks_of_more_lives_than_are_kept_come_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
