/* tests/transfer/slot_make.c: good slots, to be damaged. */
#include "tests/transfer/slot_make.h"

#include "base/checksum.h"
#include "base/random.h"

#include <string.h>

void segments_seal(struct slot_header *header)
{
	uint64_t bytes = header->identity.payload_bytes;
	uint64_t segment_bytes = slot_segment_bytes(bytes, header->identity.segments_count);
	const uint8_t *payload = (const uint8_t *)header + SLOT_HEADER_BYTES;

	for (uint32_t i = 0; i < header->identity.segments_count; i++) {
		uint64_t start = i * segment_bytes < bytes ? i * segment_bytes : bytes;
		uint64_t end = start + segment_bytes < bytes ? start + segment_bytes : bytes;

		header->identity.segment_crcs[i] = crc32c(payload + start, end - start);
	}
}

void slot_make(uint8_t *slot, uint64_t seed, const uint8_t *device, uint64_t offset)
{
	struct slot_header *header = (struct slot_header *)slot;
	struct random random;

	random_init(&random, seed);
	memset(slot, 0, slot_bytes_for(PAYLOAD_BYTES));
	for (uint32_t i = 0; i < PAYLOAD_BYTES; i++)
		slot[SLOT_HEADER_BYTES + i] = (uint8_t)random_next(&random);
	for (unsigned i = 0; i < BLOCK_HASH_BYTES; i++)
		header->identity.hash[i] = (uint8_t)random_next(&random);
	memset(header->identity.space, 0x51, SPACE_ID_BYTES);
	header->identity.epoch = 7;
	header->identity.group = 3;
	header->identity.shard = 1;
	header->identity.shards_count = 2;
	header->identity.tokens = 16;
	header->identity.payload_bytes = PAYLOAD_BYTES;
	header->identity.segments_count = SEGMENTS;
	segments_seal(header);
	slot_identity_seal(header);
	memcpy(header->address[TIER_NVME].device, device, DEVICE_ID_BYTES);
	header->address[TIER_NVME].offset = offset;
	header->address[TIER_NVME].extent_generation = 5;
	header->address[TIER_NVME].slot_generation = 9;
	slot_address_seal(&header->address[TIER_NVME]);
}
