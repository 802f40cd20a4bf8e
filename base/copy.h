/*
 * base/copy.h: copies of host memory, with the checksum of what arrived. Which way is the fastest differs
 * between CPUs, so copy_calibrate() measures at start (memcpy or non-temporal; checksum per chunk or after).
 * Runs on: any thread, after copy_calibrate() (without it: memcpy in chunks that stay in cache).
 */
#ifndef KVTIER_BASE_COPY_H
#define KVTIER_BASE_COPY_H

#include <stddef.h>
#include <stdint.h>

enum copy_way { COPY_MEMCPY, COPY_NON_TEMPORAL, COPY_WAYS };
enum checksum_way { CHECKSUM_PER_CHUNK, CHECKSUM_AFTER, CHECKSUM_WAYS };

struct copy_choice {
	enum copy_way copy;
	enum checksum_way checksum;
	uint32_t chunk_bytes;     /* a copied chunk is checksummed while it is in cache */
};

/* Measures for blocks of `block_bytes` within about 30 ms and keeps the choice for the process. */
void copy_calibrate(size_t block_bytes);
struct copy_choice copy_choice_get(void);
void copy_choice_set(struct copy_choice choice);

/* Copies; source and target do not overlap. */
void copy_bytes(void *target, const void *source, size_t bytes);

/*
 * Copies `bytes` and writes one CRC32C for each segment of `segment_bytes` (the last may be shorter),
 * taken over the *target* after the copy, so a source that changes meanwhile cannot pass.
 * `out_crcs` has room for ceil(bytes / segment_bytes).
 */
void copy_with_checksums(void *target, const void *source, size_t bytes, size_t segment_bytes,
			 uint32_t *out_crcs);

const char *copy_way_name(enum copy_way way);

#endif
