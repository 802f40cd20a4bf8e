/*
 * transfer/slot_header.h: the first 4 KiB of a slot, the same in every tier (docs/DESIGN.md,
 * "A slot").
 *
 * The identity part says what the payload is and proves it; the address part of a tier says where
 * this very copy lies. Integers are little-endian. Each part ends with its own CRC32C, taken with
 * that field as zero. Pure functions over memory the caller owns; any thread.
 */
#ifndef KVTIER_TRANSFER_SLOT_HEADER_H
#define KVTIER_TRANSFER_SLOT_HEADER_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SLOT_HEADER_BYTES 4096u
#define SLOT_ALIGN_BYTES 4096u
#define SLOT_MAGIC UINT64_C(0x31544f4c5354564b) /* "KVTSLOT1" */
#define SLOT_FORMAT_VERSION 1u
#define SLOT_SEGMENTS_MAX 256u
#define BLOCK_HASH_BYTES 32u
#define SPACE_ID_BYTES 16u
#define DEVICE_ID_BYTES 16u

enum tier_id { TIER_CPU, TIER_NVME, TIERS };

/* What names the bytes: two slots with equal identities hold equal bytes. */
struct slot_identity {
	uint64_t magic;
	uint32_t format_version;
	uint32_t crc; /* of this struct, with crc = 0 */
	uint8_t space[SPACE_ID_BYTES];
	uint64_t epoch;
	uint16_t group;
	uint16_t shard;
	uint32_t tokens; /* that the block stands for */
	uint8_t hash[BLOCK_HASH_BYTES];
	uint8_t parent[BLOCK_HASH_BYTES]; /* all zero: the first block of a prefix */
	uint64_t route_key;
	uint64_t payload_bytes;
	uint64_t stored_at_us;   /* since 1970, for people */
	uint32_t segments_count; /* 1..SLOT_SEGMENTS_MAX */
	uint32_t key_id;         /* 0: in the clear */
	uint8_t nonce[16];       /* zero in the clear, as is the tag */
	uint8_t tag[16];
	uint32_t first_position;                  /* index of the block in its group's chain */
	uint16_t shards_count;                    /* of the key: how many shards make it whole */
	uint16_t reserved;                        /* zero */
	uint32_t segment_crcs[SLOT_SEGMENTS_MAX]; /* of the plaintext, enciphered with it; unused
						     ones are zero */
};

/* Where this copy lies. */
struct slot_address {
	uint8_t device[DEVICE_ID_BYTES];
	uint64_t offset; /* bytes from the start of the arena or device */
	uint32_t extent_generation;
	uint32_t slot_generation;
	uint32_t reserved[7]; /* zero */
	uint32_t crc;         /* of this struct, with crc = 0 */
};

struct slot_header {
	struct slot_identity identity;
	uint8_t identity_padding[2048 - sizeof(struct slot_identity)];
	struct slot_address address[TIERS];
	uint8_t padding[SLOT_HEADER_BYTES - 2048 - TIERS * sizeof(struct slot_address)];
};
_Static_assert(sizeof(struct slot_header) == SLOT_HEADER_BYTES, "a header is one page");
_Static_assert(sizeof(struct slot_address) == 64, "an address part is one cache line");

/* Header and padded payload: what a slot of a block takes in a tier. */
static inline uint64_t slot_bytes_for(uint64_t payload_bytes)
{
	return SLOT_HEADER_BYTES +
	       (payload_bytes + SLOT_ALIGN_BYTES - 1) / SLOT_ALIGN_BYTES * SLOT_ALIGN_BYTES;
}

/* All segments but the last have this many bytes: ceil(payload / segments). */
static inline uint64_t slot_segment_bytes(uint64_t payload_bytes, uint32_t segments_count)
{
	return (payload_bytes + segments_count - 1) / segments_count;
}

/* Completes magic, version, padding and the part's CRC. The header's other parts are left as they
 * are. */
void slot_identity_seal(struct slot_header *header);
void slot_address_seal(struct slot_address *address);
/* Makes a header that nothing accepts (before its payload is overwritten). */
void slot_header_clear(struct slot_header *header);

/* What a reader expects; fields it cannot know are left out by the flags. */
struct slot_expectation {
	const uint8_t *space; /* NULL: any */
	const uint8_t *hash;  /* NULL: any */
	const uint8_t *device;
	uint64_t offset;
	uint64_t slot_bytes; /* payload must fit */
	uint64_t epoch_min;
	uint32_t group, shard;      /* used when hash is given */
	uint32_t slot_generation;   /* 0: any */
	uint32_t extent_generation; /* 0: any */
};

enum slot_verdict {
	SLOT_GOOD,
	SLOT_STALE, /* a valid header of another key, generation, place or epoch: drop the entry */
	SLOT_DAMAGED, /* a part's or the payload's checksum is wrong: quarantine the slot */
	SLOT_EMPTY,   /* no magic: never written or cleared */
	/* of a reader that deciphers */
	SLOT_KEYLESS,  /* by a key that is not here: drop the entry */
	SLOT_IN_CLEAR, /* and that is not believed: drop the entry */
	SLOT_WRONG_TAG /* not what was enciphered: quarantine the slot */
};

/* Checks identity and the address part of `tier`; not the payload. */
enum slot_verdict slot_header_check(const struct slot_header *header, enum tier_id tier,
				    const struct slot_expectation *expected);
/* Checks the payload that follows the header against its segment checksums (SLOT_GOOD or
 * SLOT_DAMAGED). */
enum slot_verdict slot_payload_check(const struct slot_header *header);

/* The same in pieces that come one behind the other. Zeroed: none has come yet. */
struct slot_payload {
	uint64_t bytes;  /* that have come, padding included */
	bool is_dirty;   /* the padding is not zero */
	uint32_t crcs[SLOT_SEGMENTS_MAX];
};

/* The next piece, in the clear, of a payload whose header was checked: no more than its rest. */
void slot_payload_more(struct slot_payload *payload, const struct slot_identity *identity,
		       const void *piece, size_t bytes);
/* All of it has come; `identity` is in the clear. */
enum slot_verdict slot_payload_end(const struct slot_payload *payload,
				   const struct slot_identity *identity);
const char *slot_verdict_name(enum slot_verdict verdict);

#endif
