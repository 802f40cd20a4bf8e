/*
 * bench/payload.h: names and bytes of benchmark blocks, all functions of the block's identity, so
 * that any process can tell whether what it was given is right: the byte at every place differs
 * between blocks, shards and places. Runs on: any thread.
 */
#ifndef KVTIER_BENCH_PAYLOAD_H
#define KVTIER_BENCH_PAYLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAYLOAD_HASH_BYTES 32

/* The engine's hash of the block with this identity. */
void payload_hash(uint64_t identity, uint8_t out_hash[PAYLOAD_HASH_BYTES]);
/* Writes `bytes` of the payload from `offset` on; both multiples of 64. */
void payload_fill(void *memory, size_t bytes, uint64_t identity, unsigned shard, uint64_t offset);
/* Whether they are that payload, every byte. */
bool payload_is_right(const void *memory, size_t bytes, uint64_t identity, unsigned shard,
		      uint64_t offset);

#endif
