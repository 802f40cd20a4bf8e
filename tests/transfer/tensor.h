/*
 * tests/transfer/tensor.h: tensors of KV blocks as engines register them, by shape and strides:
 * their planes, and, computed apart from these, the address of each byte of a block.
 */
#ifndef KVTIER_TESTS_TRANSFER_TENSOR_H
#define KVTIER_TESTS_TRANSFER_TENSOR_H

#include "transfer/layout.h"

#define TENSOR_DIMENSIONS_MAX 5u

/* A block is block_rows rows of the block dimension; its bytes go in the order in which they lie in
 * memory. */
struct tensor {
	uint32_t region;
	uint32_t element_bytes;
	uint64_t offset; /* bytes */
	unsigned dimensions_count, block_dimension;
	uint32_t block_rows;
	uint32_t shape[TENSOR_DIMENSIONS_MAX];
	uint64_t strides[TENSOR_DIMENSIONS_MAX]; /* elements */
};

uint64_t tensor_block_bytes(const struct tensor *tensor);
/* From its first byte to behind its last one. */
uint64_t tensor_span_bytes(const struct tensor *tensor);
/* Writes a plane for each run of a block that is contiguous; returns how many. */
unsigned tensor_planes(const struct tensor *tensor, struct layout_plane *out_planes);
/* Writes the address of each byte of a block, element by element from shape and strides alone. */
void tensor_addresses(const struct tensor *tensor, uint64_t base, uint32_t block,
		      uint64_t *out_addresses);

#endif
