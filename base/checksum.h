/*
 * base/checksum.h: CRC32C (RFC 3720 appendix B.4: polynomial 0x1EDC6F41 reflected, initial value
 * and final xor 0xFFFFFFFF). Our own, because libkvtier links nothing but libc and Debian has no
 * static isa-l; the way is chosen at run time for this CPU (base/cpu.h bounds it), and tests hold
 * it against isa-l.
 * Runs on: any thread.
 */
#ifndef KVTIER_BASE_CHECKSUM_H
#define KVTIER_BASE_CHECKSUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The CRC32C of `bytes` bytes; the check value of "123456789" is 0xE3069283. */
uint32_t crc32c(const void *memory, size_t bytes);
/* Goes on from an earlier result: crc32c_more(crc32c(a), b) is the CRC32C of a followed by b. */
uint32_t crc32c_more(uint32_t crc, const void *memory, size_t bytes);

/* What was chosen: "avx512-vpclmulqdq", "sse4.2-3way", "arm64-crc", "table". */
const char *crc32c_way(void);
/* Takes another way, for tests and benchmarks. False: there is none of this name, or not on this
 * CPU. */
bool crc32c_way_set(const char *way);

#endif
