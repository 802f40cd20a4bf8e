/*
 * tiers/nvme/catalog_row.h: a record of the catalogue as bytes: little-endian, no padding, a
 * version and a CRC32C of its own, which covers the key too, so that a value under a wrong key is
 * noticed. The key is (device, offset big-endian), so that rows sort by place. Pure functions; any
 * thread.
 */
#ifndef KVTIER_TIERS_NVME_CATALOG_ROW_H
#define KVTIER_TIERS_NVME_CATALOG_ROW_H

#include "tiers/nvme/catalog.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CATALOG_ROW_VERSION 2u
#define CATALOG_KEY_BYTES 24u
#define CATALOG_VALUE_BYTES 149u

void catalog_key_pack(uint8_t key[CATALOG_KEY_BYTES], const uint8_t *device, uint64_t offset);
void catalog_value_pack(uint8_t value[CATALOG_VALUE_BYTES], const uint8_t key[CATALOG_KEY_BYTES],
			const struct catalog_record *record);
/* False: another length or version, or a wrong checksum; *out_record is untouched then. */
must_check bool catalog_row_unpack(const void *key, size_t key_bytes, const void *value,
				   size_t value_bytes, struct catalog_record *out_record);

#endif
