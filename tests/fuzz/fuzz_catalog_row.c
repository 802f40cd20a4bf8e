/* tests/fuzz/fuzz_catalog_row.c: any bytes as a row of the catalogue: refused and nothing touched,
 * or read as exactly what packs to these bytes. */
#include "tiers/nvme/catalog_row.h"

#include "base/checksum.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes);

/* As no input would get past the checksum by chance. */
static void value_mend(const uint8_t *key, uint8_t *value)
{
	uint32_t crc;

	value[0] = CATALOG_ROW_VERSION;
	crc = crc32c_more(crc32c(key, CATALOG_KEY_BYTES), value, CATALOG_VALUE_BYTES - 4);
	for (unsigned i = 0; i < 4; i++)
		value[CATALOG_VALUE_BYTES - 4 + i] = (uint8_t)(crc >> (8 * i));
}

/* The first byte: the key's length, and above 127 whether the checksum is mended. */
int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes)
{
	struct catalog_record record, untouched;
	size_t key_bytes, value_bytes;
	uint8_t *key, *value;

	if (bytes == 0)
		return 0;
	key_bytes = input[0] % 128 < bytes ? input[0] % 128 : bytes - 1;
	value_bytes = bytes - 1 - key_bytes;
	/* Each in memory of its own, so that a byte too far is noticed. */
	key = malloc(key_bytes + 1);
	value = malloc(value_bytes + 1);
	memset(&record, 0x5a, sizeof(record));
	untouched = record;
	if (key != NULL && value != NULL) {
		uint8_t key_again[CATALOG_KEY_BYTES], value_again[CATALOG_VALUE_BYTES];

		memcpy(key, input + 1, key_bytes);
		memcpy(value, input + 1 + key_bytes, value_bytes);
		if (input[0] >= 128 && key_bytes == CATALOG_KEY_BYTES &&
		    value_bytes == CATALOG_VALUE_BYTES)
			value_mend(key, value);
		if (catalog_row_unpack(key, key_bytes, value, value_bytes, &record)) {
			catalog_key_pack(key_again, record.device, record.offset);
			catalog_value_pack(value_again, key_again, &record);
			assert(memcmp(key, key_again, sizeof(key_again)) == 0);
			assert(memcmp(value, value_again, sizeof(value_again)) == 0);
		} else {
			assert(memcmp(&record, &untouched, sizeof(record)) == 0);
		}
	}
	free(key);
	free(value);
	return 0;
}
