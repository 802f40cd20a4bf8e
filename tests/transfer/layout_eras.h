/*
 * tests/transfer/layout_eras.h: the layouts in which vLLM's versions have laid out KV blocks:
 * shapes and strides as registered, and, written by hand, what a block is as pieces and rectangles.
 * Small where sizes do not matter: 3 layers, 2 heads of 8 elements of 2 bytes, 4 tokens, 8 blocks.
 */
#ifndef KVTIER_TESTS_TRANSFER_LAYOUT_ERAS_H
#define KVTIER_TESTS_TRANSFER_LAYOUT_ERAS_H

#include "tensor.h"

#include <stdio.h>

#define ERA_LAYERS 3u
#define ERA_BLOCKS 8u
#define ERA_TENSORS_MAX (2 * ERA_LAYERS)

/* A layer's tensor, and how far those of the next layers are from it. */
struct era_part {
	struct tensor tensor;
	uint32_t region_step;
	uint64_t offset_step; /* bytes */
};

struct era_boxes { /* of a block */
	uint32_t count, rows;
	uint64_t bytes;
};

struct era_pieces { /* of 4 blocks with consecutive numbers */
	uint64_t rectangles, rows;
};

struct era {
	const char *name;
	struct era_part parts[2]; /* of each layer, in the order of the payload */
	unsigned parts_count;
	unsigned layers_count; /* 0: ERA_LAYERS */
	/* Expected. */
	unsigned planes_count;
	struct era_boxes boxes[2]; /* the second may be empty */
	struct era_pieces tight;   /* payloads follow each other in host memory */
	struct era_pieces spaced;  /* they lie at a constant distance */
};

extern const struct era eras[];
extern const unsigned eras_count;

/* Groups that overlay each other in one region. */
struct era_overlay {
	const char *name;
	struct era groups[2];
};

extern const struct era_overlay era_overlays[];
extern const unsigned era_overlays_count;

/* The tensors of all layers; returns how many. */
unsigned era_tensors(const struct era *era, struct tensor out_tensors[ERA_TENSORS_MAX]);
/* Each layout as a line of JSON: its name, and of each group the planes [region, offset, stride,
 * bytes] and the runs [region, offset, bytes] of each block. Overlays come last. */
void eras_print(FILE *file);

#endif
