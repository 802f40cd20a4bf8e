/* tiers/nvme/catalog_row.c: packs and unpacks rows of the catalogue. */
#include "tiers/nvme/catalog_row.h"

#include "base/checksum.h"

#include <assert.h>
#include <string.h>

static uint8_t *put_bytes(uint8_t *at, const void *source, size_t bytes)
{
	memcpy(at, source, bytes);
	return at + bytes;
}

static uint8_t *put_number(uint8_t *at, uint64_t number, unsigned bytes)
{
	for (unsigned n = 0; n < bytes; n++)
		*at++ = (uint8_t)(number >> (8 * n));
	return at;
}

static const uint8_t *get_bytes(const uint8_t *at, void *target, size_t bytes)
{
	memcpy(target, at, bytes);
	return at + bytes;
}

static uint64_t get_number(const uint8_t **at, unsigned bytes)
{
	uint64_t number = 0;

	for (unsigned n = 0; n < bytes; n++)
		number |= (uint64_t) * (*at)++ << (8 * n);
	return number;
}

void catalog_key_pack(uint8_t key[CATALOG_KEY_BYTES], const uint8_t *device, uint64_t offset)
{
	memcpy(key, device, DEVICE_ID_BYTES);
	for (unsigned n = 0; n < 8; n++)
		key[DEVICE_ID_BYTES + n] = (uint8_t)(offset >> (56 - 8 * n));
}

static uint32_t row_crc(const uint8_t *key, const uint8_t *value)
{
	return crc32c_more(crc32c(key, CATALOG_KEY_BYTES), value, CATALOG_VALUE_BYTES - 4);
}

void catalog_value_pack(uint8_t value[CATALOG_VALUE_BYTES], const uint8_t key[CATALOG_KEY_BYTES],
			const struct catalog_record *record)
{
	uint8_t *at = value;

	*at++ = CATALOG_ROW_VERSION;
	at = put_bytes(at, record->space, sizeof(record->space));
	at = put_bytes(at, record->hash, sizeof(record->hash));
	at = put_bytes(at, record->parent, sizeof(record->parent));
	at = put_number(at, record->epoch, 8);
	at = put_number(at, record->route_key, 8);
	at = put_number(at, record->payload_bytes, 8);
	at = put_number(at, record->stored_at_us, 8);
	at = put_number(at, record->extent_generation, 4);
	at = put_number(at, record->slot_generation, 4);
	at = put_number(at, record->tokens, 4);
	at = put_number(at, record->first_position, 4);
	at = put_number(at, record->slot_bytes, 4);
	at = put_number(at, record->key_id, 4);
	at = put_number(at, record->group, 2);
	at = put_number(at, record->shard, 2);
	at = put_number(at, record->shards_count, 2);
	at = put_number(at, record->segments_count, 2);
	at = put_number(at, row_crc(key, value), 4);
	assert(at == value + CATALOG_VALUE_BYTES);
}

static void record_unpack(const uint8_t *key, const uint8_t *at, struct catalog_record *record)
{
	memset(record, 0, sizeof(*record));
	memcpy(record->device, key, DEVICE_ID_BYTES);
	for (unsigned n = 0; n < 8; n++)
		record->offset = record->offset << 8 | key[DEVICE_ID_BYTES + n];
	at = get_bytes(at, record->space, sizeof(record->space));
	at = get_bytes(at, record->hash, sizeof(record->hash));
	at = get_bytes(at, record->parent, sizeof(record->parent));
	record->epoch = get_number(&at, 8);
	record->route_key = get_number(&at, 8);
	record->payload_bytes = get_number(&at, 8);
	record->stored_at_us = get_number(&at, 8);
	record->extent_generation = (uint32_t)get_number(&at, 4);
	record->slot_generation = (uint32_t)get_number(&at, 4);
	record->tokens = (uint32_t)get_number(&at, 4);
	record->first_position = (uint32_t)get_number(&at, 4);
	record->slot_bytes = (uint32_t)get_number(&at, 4);
	record->key_id = (uint32_t)get_number(&at, 4);
	record->group = (uint16_t)get_number(&at, 2);
	record->shard = (uint16_t)get_number(&at, 2);
	record->shards_count = (uint16_t)get_number(&at, 2);
	record->segments_count = (uint16_t)get_number(&at, 2);
}

bool catalog_row_unpack(const void *key, size_t key_bytes, const void *value, size_t value_bytes,
			struct catalog_record *out_record)
{
	const uint8_t *bytes = value, *crc_at = bytes + CATALOG_VALUE_BYTES - 4;

	if (key_bytes != CATALOG_KEY_BYTES || value_bytes != CATALOG_VALUE_BYTES)
		return false;
	if (bytes[0] != CATALOG_ROW_VERSION || get_number(&crc_at, 4) != row_crc(key, value))
		return false;
	record_unpack(key, bytes + 1, out_record);
	return true;
}
