/* bench/index_bench.h: what a lookup costs in an index of a given size, and how much memory a block
 * takes there. */
#ifndef KVTIER_BENCH_INDEX_BENCH_H
#define KVTIER_BENCH_INDEX_BENCH_H

#include <stdint.h>

/*
 * Fills an index with `entries` blocks of one shard in one tier and looks up and touches batches of
 * `keys` of them, all hits: once chosen at random, once as chains that were stored together.
 * *out_ns_key is the mean of the dearer kind, *out_bytes_block the memory of the whole index a
 * block. 0, or a negative errno: -EINVAL, -ENOMEM. Needs about 140 bytes of memory an entry. Runs
 * on: any thread, alone.
 */
int index_bench(uint64_t entries, unsigned keys, double *out_ns_key, double *out_bytes_block);

#endif
