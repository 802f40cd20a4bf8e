/*
 * base/copy.h: copies of host memory, with the checksum of what arrived. Which way is the fastest
 * differs between CPUs, so copy_calibrate() measures at start (memcpy or non-temporal; checksum per
 * chunk or after). A checksum is always read from the target: a source that changes meanwhile
 * cannot pass.
 * Runs on: any thread, after copy_calibrate() (without it: memcpy in chunks that stay in cache).
 */
#ifndef KVTIER_BASE_COPY_H
#define KVTIER_BASE_COPY_H

#include <stddef.h>
#include <stdint.h>

enum copy_way { COPY_MEMCPY, COPY_NON_TEMPORAL, COPY_WAYS };
enum checksum_way { CHECKSUM_PER_CHUNK, CHECKSUM_AFTER, CHECKSUM_WAYS };

#define COPY_CHUNK_BYTES_MIN 4096u
#define COPY_CHUNK_BYTES_MAX (64u << 20)

struct copy_choice {
	enum copy_way copy;           /* of copy_bytes() */
	enum checksum_way checksum;
	uint32_t chunk_bytes;         /* a copied chunk is checksummed while it is in cache */
	enum copy_way checked_copy;   /* of copies whose target is then read for a checksum */
};

/*
 * Measures for blocks of `block_bytes` within about 30 ms, in 64 MiB that it gives back, and keeps
 * the choice for the process. Without that memory the choice stays as it was.
 */
void copy_calibrate(size_t block_bytes);
struct copy_choice copy_choice_get(void);
/* For tests and benchmarks; chunk_bytes lies between COPY_CHUNK_BYTES_MIN and _MAX. */
void copy_choice_set(struct copy_choice choice);

/* Copies; source and target do not overlap. */
void copy_bytes(void *target, const void *source, size_t bytes);

/*
 * Copies `bytes` and writes one CRC32C for each segment of `segment_bytes` (the last may be
 * shorter), taken over the *target* after the copy, so a source that changes meanwhile cannot pass.
 * `out_crcs` has room for ceil(bytes / segment_bytes).
 */
void copy_with_checksums(void *target, const void *source, size_t bytes, size_t segment_bytes,
			 uint32_t *out_crcs);

/*
 * The same for a target that nobody reads soon: piece by piece into a small buffer of the thread's
 * own, checksummed there, and streamed out past the caches. The checksums are of the very bytes
 * that were written, whatever becomes of the source meanwhile.
 */
void copy_away_with_checksums(void *target, const void *source, size_t bytes, size_t segment_bytes,
			      uint32_t *out_crcs);

/* Copies one piece of something that lies scattered, and goes on from the CRC32C of the pieces
 * before it (0 before the first), over the target as above. */
uint32_t copy_with_checksum_more(uint32_t crc, void *target, const void *source, size_t bytes);

const char *copy_way_name(enum copy_way way);

#endif
