/*
 * transfer/slot_header.c: seals and checks the header of a slot.
 *
 * The order of the checks matters: checksums first, so that a field is compared only when it is
 * what was written; what differs after that is a true header of something else.
 */
#include "transfer/slot_header.h"

#include "base/checksum.h"

#include <assert.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "headers are read and written in place");
_Static_assert(sizeof(struct slot_identity) <= 2048, "the identity part fits into half a page");

/* The CRC32C of `bytes` bytes with the four at `crc_offset` taken as zero. */
static uint32_t crc_without(const void *part, size_t bytes, size_t crc_offset)
{
	static const uint8_t zero[sizeof(uint32_t)];
	const uint8_t *start = part;
	size_t behind = crc_offset + sizeof(zero);
	uint32_t crc = crc32c(start, crc_offset);

	crc = crc32c_more(crc, zero, sizeof(zero));
	return crc32c_more(crc, start + behind, bytes - behind);
}

static uint32_t identity_crc(const struct slot_identity *identity)
{
	return crc_without(identity, sizeof(*identity), offsetof(struct slot_identity, crc));
}

static uint32_t address_crc(const struct slot_address *address)
{
	return crc_without(address, sizeof(*address), offsetof(struct slot_address, crc));
}

static bool is_zero(const uint8_t *memory, size_t bytes)
{
	/* Every byte equals the one before it, and the first is zero: memcmp runs at vector speed.
	 */
	return bytes == 0 || (memory[0] == 0 && memcmp(memory, memory + 1, bytes - 1) == 0);
}

void slot_identity_seal(struct slot_header *header)
{
	struct slot_identity *identity = &header->identity;

	assert(identity->segments_count >= 1 && identity->segments_count <= SLOT_SEGMENTS_MAX);
	assert(identity->payload_bytes > 0);
	identity->magic = SLOT_MAGIC;
	identity->format_version = SLOT_FORMAT_VERSION;
	identity->reserved = 0;
	memset(&identity->segment_crcs[identity->segments_count], 0,
	       (SLOT_SEGMENTS_MAX - identity->segments_count) * sizeof(identity->segment_crcs[0]));
	memset(header->identity_padding, 0, sizeof(header->identity_padding));
	identity->crc = identity_crc(identity);
}

void slot_address_seal(struct slot_address *address)
{
	memset(address->reserved, 0, sizeof(address->reserved));
	address->crc = address_crc(address);
}

void slot_header_clear(struct slot_header *header)
{
	memset(header, 0, sizeof(*header));
}

/* Fields that our own writer never writes otherwise; a right checksum over wrong ones is not to be
 * trusted. */
static bool identity_is_sane(const struct slot_identity *identity)
{
	uint32_t segments_count = identity->segments_count;

	if (segments_count < 1 || segments_count > SLOT_SEGMENTS_MAX)
		return false;
	if (identity->payload_bytes == 0 || identity->payload_bytes > UINT32_MAX)
		return false;
	if (identity->reserved != 0)
		return false;
	return is_zero((const uint8_t *)&identity->segment_crcs[segments_count],
		       (SLOT_SEGMENTS_MAX - segments_count) * sizeof(identity->segment_crcs[0]));
}

static bool identity_is_expected(const struct slot_identity *identity,
				 const struct slot_expectation *expected)
{
	if (identity->epoch < expected->epoch_min)
		return false;
	if (slot_bytes_for(identity->payload_bytes) > expected->slot_bytes)
		return false;
	if (expected->space != NULL &&
	    memcmp(identity->space, expected->space, SPACE_ID_BYTES) != 0)
		return false;
	if (expected->hash == NULL)
		return true;
	return memcmp(identity->hash, expected->hash, BLOCK_HASH_BYTES) == 0 &&
	       identity->group == expected->group && identity->shard == expected->shard;
}

static bool address_is_expected(const struct slot_address *address,
				const struct slot_expectation *expected)
{
	if (memcmp(address->device, expected->device, DEVICE_ID_BYTES) != 0)
		return false;
	if (address->offset != expected->offset)
		return false;
	if (expected->slot_generation != 0 && address->slot_generation != expected->slot_generation)
		return false;
	return expected->extent_generation == 0 ||
	       address->extent_generation == expected->extent_generation;
}

enum slot_verdict slot_header_check(const struct slot_header *header, enum tier_id tier,
				    const struct slot_expectation *expected)
{
	const struct slot_identity *identity = &header->identity;
	const struct slot_address *address;

	assert(tier >= TIER_CPU && tier < TIERS);
	assert(expected->device != NULL && expected->slot_bytes >= SLOT_HEADER_BYTES);
	address = &header->address[tier];
	if (identity->magic != SLOT_MAGIC)
		return SLOT_EMPTY;
	if (identity->crc != identity_crc(identity))
		return SLOT_DAMAGED;
	if (!is_zero(header->identity_padding, sizeof(header->identity_padding)))
		return SLOT_DAMAGED;
	if (address->crc != address_crc(address))
		return SLOT_DAMAGED;
	/* A right checksum over another version: written by another kvtier, whose fields we do not
	 * know. */
	if (identity->format_version != SLOT_FORMAT_VERSION)
		return SLOT_STALE;
	if (!identity_is_sane(identity))
		return SLOT_DAMAGED;
	if (!is_zero((const uint8_t *)address->reserved, sizeof(address->reserved)))
		return SLOT_DAMAGED;
	if (!identity_is_expected(identity, expected) || !address_is_expected(address, expected))
		return SLOT_STALE;
	return SLOT_GOOD;
}

void slot_payload_more(struct slot_payload *payload, const struct slot_identity *identity,
		       const void *piece, size_t bytes)
{
	uint64_t payload_bytes = identity->payload_bytes;
	uint64_t segment_bytes = slot_segment_bytes(payload_bytes, identity->segments_count);
	const uint8_t *at = piece;

	assert(payload->bytes + bytes <= slot_bytes_for(payload_bytes) - SLOT_HEADER_BYTES);
	while (bytes > 0 && payload->bytes < payload_bytes) {
		uint64_t segment = payload->bytes / segment_bytes;
		uint64_t end = (segment + 1) * segment_bytes;
		uint64_t part = (end < payload_bytes ? end : payload_bytes) - payload->bytes;

		if (part > bytes)
			part = bytes;
		payload->crcs[segment] = crc32c_more(payload->crcs[segment], at, part);
		payload->bytes += part;
		at += part;
		bytes -= part;
	}
	payload->is_dirty = payload->is_dirty || !is_zero(at, bytes);
	payload->bytes += bytes;
}

enum slot_verdict slot_payload_end(const struct slot_payload *payload,
				   const struct slot_identity *identity)
{
	assert(payload->bytes == slot_bytes_for(identity->payload_bytes) - SLOT_HEADER_BYTES);
	/* Rounding up may leave the last segments empty; the CRC32C of nothing is zero. */
	return !payload->is_dirty && memcmp(payload->crcs, identity->segment_crcs,
					    identity->segments_count * sizeof(uint32_t)) == 0
		       ? SLOT_GOOD
		       : SLOT_DAMAGED;
}

enum slot_verdict slot_payload_check(const struct slot_header *header)
{
	const struct slot_identity *identity = &header->identity;
	struct slot_payload payload = { 0 };

	/* Checksums are of the plaintext: what is enciphered cannot be proven here. */
	if (!identity_is_sane(identity) || identity->key_id != 0)
		return SLOT_DAMAGED;
	slot_payload_more(&payload, identity, header + 1,
			  slot_bytes_for(identity->payload_bytes) - SLOT_HEADER_BYTES);
	return slot_payload_end(&payload, identity);
}

const char *slot_verdict_name(enum slot_verdict verdict)
{
	switch (verdict) {
	case SLOT_GOOD:
		return "good";
	case SLOT_STALE:
		return "stale";
	case SLOT_DAMAGED:
		return "damaged";
	case SLOT_EMPTY:
		return "empty";
	case SLOT_KEYLESS:
		return "keyless";
	case SLOT_IN_CLEAR:
		return "in-clear";
	case SLOT_WRONG_TAG:
		return "wrong-tag";
	}
	return "unknown";
}
