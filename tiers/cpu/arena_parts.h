/*
 * tiers/cpu/arena_parts.h: what arena.c (memory, memfd, tables) and arena_file.c (a file that
 * outlives us) share; nobody else includes it.
 */
#ifndef KVTIER_TIERS_CPU_ARENA_PARTS_H
#define KVTIER_TIERS_CPU_ARENA_PARTS_H

#include "tiers/cpu/arena.h"

#define ARENA_MAGIC UINT64_C(0x31414e455241564b) /* "KVARENA1" */
#define ARENA_VERSION 1u
/* Where in the head the two copies of the extent table are. */
#define ARENA_TABLE_OFFSET (UINT64_C(64) << 10)
#define ARENA_TABLE_STRIDE (UINT64_C(1) << 20)
#define ARENA_TABLE_BYTES (ARENA_TABLE_STRIDE - ARENA_TABLE_OFFSET)

struct arena_superblock {
	uint64_t magic;
	uint32_t version;
	uint32_t crc; /* of this struct, with crc = 0 */
	uint64_t bytes;
	uint64_t unit_bytes;
	uint8_t tenant[16];
	uint8_t id[DEVICE_ID_BYTES];
};

static inline uint64_t arena_mapping_bytes(const struct arena *arena)
{
	return ARENA_HEAD_BYTES + arena->bytes;
}

uint32_t arena_superblock_crc(const struct arena_superblock *superblock);
/* A new id, and an empty head. */
void arena_superblock_write(struct arena *arena, const uint8_t *tenant_digest);

/* Nothing is touched yet; what will be lies on the nodes that are asked for. */
must_check int arena_map(struct arena *arena, const struct arena_config *config,
			 struct error *error);
void arena_unmap(struct arena *arena);
/* `pages`: what they are known to be, or NULL. */
must_check int arena_touch(struct arena *arena, const char *huge_pages, const char *pages,
			   struct error *error);

/* arena_file.c: opens, locks, checks and maps the file. On failure leaves nothing behind. */
must_check int arena_file_open(struct arena *arena, const struct arena_config *config,
			       struct error *error);

#endif
