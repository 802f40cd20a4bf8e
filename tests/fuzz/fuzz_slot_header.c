/* tests/fuzz/fuzz_slot_header.c: any bytes as a slot of 8 KiB: what is called good is what was
 * expected, and proving its payload reads nothing behind the slot. */
#include "transfer/slot_header.h"

#include "base/checksum.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define SLOT_BYTES (2 * SLOT_HEADER_BYTES)

/* The first byte of the input: which parts are completed, as no input would get past the checksums
 * by chance. */
enum {
	SEAL_IDENTITY = 1,
	SEAL_ADDRESS = 2,
	SEAL_PAYLOAD = 4,
	EXPECT_ANY = 8,       /* of the key and the generations */
	EXPECT_AS_IT_IS = 16, /* of place and key */
	IN_NVME = 32,
	PATCHED = 64 /* the rest of the input changes bytes of a good slot: u16 where, u8 what */
};

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes);

/* Unlike slot_identity_seal(): mends the checksum and nothing else. */
static uint32_t crc_of(void *part, size_t bytes, uint32_t *crc)
{
	*crc = 0;
	return crc32c(part, bytes);
}

static void payload_seal(struct slot_header *header)
{
	struct slot_identity *identity = &header->identity;
	const uint8_t *payload = (const uint8_t *)header + SLOT_HEADER_BYTES;
	uint64_t offset = 0, segment_bytes;

	if (identity->segments_count < 1 || identity->segments_count > SLOT_SEGMENTS_MAX)
		return;
	if (identity->payload_bytes < 1 || identity->payload_bytes > SLOT_BYTES - SLOT_HEADER_BYTES)
		return;
	segment_bytes = slot_segment_bytes(identity->payload_bytes, identity->segments_count);
	for (uint32_t i = 0; i < identity->segments_count; i++) {
		uint64_t rest = identity->payload_bytes - offset;
		uint64_t segment = rest < segment_bytes ? rest : segment_bytes;

		identity->segment_crcs[i] = crc32c(payload + offset, segment);
		offset += segment;
	}
}

static void parts_seal(struct slot_header *header, enum tier_id tier, unsigned mode)
{
	struct slot_identity *identity = &header->identity;
	struct slot_address *address = &header->address[tier];

	if (mode & SEAL_PAYLOAD)
		payload_seal(header);
	if (mode & SEAL_IDENTITY) {
		identity->magic = SLOT_MAGIC;
		identity->crc = crc_of(identity, sizeof(*identity), &identity->crc);
	}
	if (mode & SEAL_ADDRESS)
		address->crc = crc_of(address, sizeof(*address), &address->crc);
}

/* A slot that is good as expected. */
static void slot_make(struct slot_header *header, const struct slot_expectation *expected)
{
	struct slot_identity *identity = &header->identity;

	memcpy(identity->space, expected->space, SPACE_ID_BYTES);
	memcpy(identity->hash, expected->hash, BLOCK_HASH_BYTES);
	identity->epoch = expected->epoch_min;
	identity->group = (uint16_t)expected->group;
	identity->shard = (uint16_t)expected->shard;
	identity->payload_bytes = SLOT_HEADER_BYTES - 10;
	identity->segments_count = 3;
	payload_seal(header);
	slot_identity_seal(header);
	for (unsigned tier = 0; tier < TIERS; tier++) {
		struct slot_address *address = &header->address[tier];

		memcpy(address->device, expected->device, DEVICE_ID_BYTES);
		address->offset = expected->offset;
		address->slot_generation = expected->slot_generation;
		address->extent_generation = expected->extent_generation;
		slot_address_seal(address);
	}
}

static void slot_patch(uint8_t *slot, const uint8_t *input, size_t bytes)
{
	for (size_t at = 0; at + 3 <= bytes; at += 3)
		slot[(input[at] | input[at + 1] << 8) % SLOT_BYTES] = input[at + 2];
}

static void good_is_as_expected(const struct slot_header *header, enum tier_id tier,
				const struct slot_expectation *expected)
{
	const struct slot_identity *identity = &header->identity;
	const struct slot_address *address = &header->address[tier];

	assert(identity->magic == SLOT_MAGIC && identity->format_version == SLOT_FORMAT_VERSION);
	assert(identity->epoch >= expected->epoch_min);
	assert(identity->payload_bytes > 0);
	assert(slot_bytes_for(identity->payload_bytes) <= SLOT_BYTES);
	assert(memcmp(address->device, expected->device, DEVICE_ID_BYTES) == 0);
	assert(address->offset == expected->offset);
	if (expected->hash == NULL)
		return;
	assert(memcmp(identity->hash, expected->hash, BLOCK_HASH_BYTES) == 0);
	assert(memcmp(identity->space, expected->space, SPACE_ID_BYTES) == 0);
	assert(identity->group == expected->group && identity->shard == expected->shard);
	assert(address->slot_generation == expected->slot_generation);
	assert(address->extent_generation == expected->extent_generation);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes)
{
	static const uint8_t name[32] = { [0 ... 31] = 7 };
	unsigned mode = bytes > 0 ? input[0] : 0;
	enum tier_id tier = mode & IN_NVME ? TIER_NVME : TIER_CPU;
	struct slot_header *header = aligned_alloc(SLOT_ALIGN_BYTES, SLOT_BYTES);
	struct slot_expectation expected = { .space = name,
					     .hash = name,
					     .device = name,
					     .offset = 4096,
					     .slot_bytes = SLOT_BYTES,
					     .epoch_min = 3,
					     .group = 1,
					     .shard = 1,
					     .slot_generation = 5,
					     .extent_generation = 6 };

	if (header == NULL)
		return 0;
	memset(header, 0, SLOT_BYTES);
	if (mode & PATCHED) {
		slot_make(header, &expected);
		assert(slot_header_check(header, tier, &expected) == SLOT_GOOD);
		assert(slot_payload_check(header) == SLOT_GOOD);
		slot_patch((uint8_t *)header, input + 1, bytes - 1);
	} else if (bytes > 1) {
		memcpy(header, input + 1, bytes - 1 < SLOT_BYTES ? bytes - 1 : SLOT_BYTES);
	}
	parts_seal(header, tier, mode);
	if (mode & EXPECT_ANY) {
		expected.space = expected.hash = NULL;
		expected.slot_generation = expected.extent_generation = 0;
	}
	if (mode & EXPECT_AS_IT_IS) {
		expected.device = header->address[tier].device;
		expected.offset = header->address[tier].offset;
		expected.epoch_min = 0;
	}
	if (slot_header_check(header, tier, &expected) == SLOT_GOOD) {
		good_is_as_expected(header, tier, &expected);
		(void)slot_payload_check(header);
	}
	free(header);
	return 0;
}
