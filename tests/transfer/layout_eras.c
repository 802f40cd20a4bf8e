/* tests/transfer/layout_eras.c: vLLM's layouts of KV blocks. */
#include "layout_eras.h"

/* A tensor of elements of `size` bytes; its block dimension, and rows of that in a block. */
#define TENSOR(size, block, rows, ...)                                                             \
	{                                                                                          \
		.element_bytes = (size), .block_dimension = (block), .block_rows = (rows),         \
		__VA_ARGS__                                                                        \
	}
#define SHAPE3(a, b, c) .dimensions_count = 3, .shape = { a, b, c }
#define SHAPE4(a, b, c, d) .dimensions_count = 4, .shape = { a, b, c, d }
#define SHAPE5(a, b, c, d, e) .dimensions_count = 5, .shape = { a, b, c, d, e }
#define STRIDES(...) .strides = { __VA_ARGS__ }
/* A layer is an allocation of its own, or one behind the other in one. */
#define OWN(...) .parts = { { .region_step = 1, .tensor = __VA_ARGS__ } }, .parts_count = 1
#define BEHIND(step, ...)                                                                          \
	.parts = { { .offset_step = (step), .tensor = __VA_ARGS__ } }, .parts_count = 1

/* clang-format off */
#define EXPECT(planes, count, rows, bytes, both_rectangles, both_rows) \
	.planes_count = (planes), .boxes = { { count, rows, bytes } }, \
	.tight = { both_rectangles, both_rows }, .spaced = { both_rectangles, both_rows }
#define EXPECT_TIGHTER(planes, count, rows, bytes, tight_rectangles, tight_rows, \
		       spaced_rectangles, spaced_rows) \
	.planes_count = (planes), .boxes = { { count, rows, bytes } }, \
	.tight = { tight_rectangles, tight_rows }, .spaced = { spaced_rectangles, spaced_rows }

const struct era eras[] = {
	/* up to 0.22; a token of a head has 16 bytes, a block's K or V 128 */
	{ "0.22 FlashAttention, K first, NHD",
	  OWN(TENSOR(2, 1, 1, SHAPE5(2, 8, 4, 2, 8), STRIDES(512, 64, 16, 8, 1))),
	  EXPECT(6, 3, 2, 128, 6, 24) },
	{ "0.22 FlashAttention, K first, HND",
	  OWN(TENSOR(2, 1, 1, SHAPE5(2, 8, 4, 2, 8), STRIDES(512, 64, 8, 32, 1))),
	  EXPECT(6, 3, 2, 128, 6, 24) },
	{ "0.22 Triton and FlashInfer, blocks first, NHD",
	  OWN(TENSOR(2, 0, 1, SHAPE5(8, 2, 4, 2, 8), STRIDES(128, 64, 16, 8, 1))),
	  EXPECT(3, 3, 1, 256, 3, 12) },
	{ "0.22 FlashInfer, blocks first, HND",
	  OWN(TENSOR(2, 0, 1, SHAPE5(8, 2, 4, 2, 8), STRIDES(128, 64, 8, 32, 1))),
	  EXPECT(3, 3, 1, 256, 3, 12) },
	{ "0.22 CPU, K first",
	  OWN(TENSOR(2, 1, 1, SHAPE5(2, 8, 2, 4, 8), STRIDES(512, 64, 32, 8, 1))),
	  EXPECT(6, 3, 2, 128, 6, 24) },
	{ "0.22 FlashAttention, K first, 4 kernel blocks in a block",
	  OWN(TENSOR(2, 1, 4, SHAPE5(2, 32, 4, 2, 8), STRIDES(2048, 64, 16, 8, 1))),
	  EXPECT(6, 3, 2, 512, 6, 24) },
	/* 0.23 to 0.25 */
	{ "0.25 FlashAttention, blocks first, NHD",
	  OWN(TENSOR(2, 0, 1, SHAPE5(8, 2, 4, 2, 8), STRIDES(128, 64, 16, 8, 1))),
	  EXPECT(3, 3, 1, 256, 3, 12) },
	{ "0.25 FlashAttention, blocks first, all layers in one allocation",
	  BEHIND(2048, TENSOR(2, 0, 1, SHAPE5(8, 2, 4, 2, 8), STRIDES(128, 64, 16, 8, 1))),
	  EXPECT(3, 1, 3, 256, 3, 12) },
	/* from 0.26: (B, H, N, C), C is K then V */
	{ "0.26 NHD",
	  OWN(TENSOR(2, 0, 1, SHAPE4(8, 2, 4, 16), STRIDES(128, 16, 32, 1))),
	  EXPECT(3, 3, 1, 256, 3, 12) },
	{ "0.26 HND",
	  OWN(TENSOR(2, 0, 1, SHAPE4(8, 2, 4, 16), STRIDES(128, 64, 16, 1))),
	  EXPECT(3, 3, 1, 256, 3, 12) },
	{ "0.26 DiffKV, K of 8 and V of 4 elements",
	  OWN(TENSOR(2, 0, 1, SHAPE4(8, 2, 4, 12), STRIDES(96, 12, 24, 1))),
	  EXPECT(3, 3, 1, 192, 3, 12) },
	{ "0.26 ROCM_ATTN, K first",
	  OWN(TENSOR(2, 1, 1, SHAPE5(2, 8, 4, 2, 8), STRIDES(512, 64, 16, 8, 1))),
	  EXPECT(6, 3, 2, 128, 6, 24) },
	/* MLA: 64 tokens a block */
	{ "MLA, 576 elements of 2 bytes",
	  OWN(TENSOR(2, 0, 1, SHAPE3(8, 64, 576), STRIDES(36864, 576, 1))),
	  EXPECT(3, 3, 1, 73728, 3, 12) },
	{ "MLA, fp8_ds_mla of 656 bytes",
	  OWN(TENSOR(1, 0, 1, SHAPE3(8, 64, 656), STRIDES(41984, 656, 1))),
	  EXPECT(3, 3, 1, 41984, 3, 12) },
	{ "MLA, sliding window of 584 bytes",
	  OWN(TENSOR(1, 0, 1, SHAPE3(8, 64, 584), STRIDES(37376, 584, 1))),
	  EXPECT(3, 3, 1, 37376, 3, 12) },
	{ "MLA with DSA's indexer layers, an allocation each",
	  .parts = { { .region_step = 2,
			.tensor = TENSOR(1, 0, 1, SHAPE3(8, 64, 656),
				STRIDES(41984, 656, 1)) },
		     { .region_step = 2,
			.tensor = TENSOR(1, 0, 1, .region = 1, SHAPE3(8, 64, 132),
				STRIDES(8448, 132, 1)) } },
	  .parts_count = 2, .planes_count = 6, .boxes = { { 3, 1, 41984 }, { 3, 1, 8448 } },
	  .tight = { 6, 24 }, .spaced = { 6, 24 } },
	{ "MLA with DSA's indexer layers, alternating in one allocation",
	  .parts = { { .offset_step = 403456,
			.tensor = TENSOR(1, 0, 1, SHAPE3(8, 64, 656),
				STRIDES(41984, 656, 1)) },
		     { .offset_step = 403456,
			.tensor = TENSOR(1, 0, 1, .offset = 335872, SHAPE3(8, 64, 132),
				STRIDES(8448, 132, 1)) } },
	  .parts_count = 2, .planes_count = 6, .boxes = { { 1, 3, 41984 }, { 1, 3, 8448 } },
	  .tight = { 6, 24 }, .spaced = { 6, 24 } },
	/* Mamba */
	{ "Mamba, a page of 1000 bytes",
	  OWN(TENSOR(1, 0, 1, SHAPE4(8, 1, 1, 1000), STRIDES(1000, 1000, 1000, 1))),
	  EXPECT(3, 3, 1, 1000, 3, 12) },
	{ "Mamba, two tensors in a padded page of 1024 bytes",
	  .parts = { { .region_step = 1,
			.tensor = TENSOR(2, 0, 1, SHAPE3(8, 3, 16),
				STRIDES(512, 16, 1)) },
		     { .region_step = 1,
			.tensor = TENSOR(4, 0, 1, .offset = 96, SHAPE4(8, 2, 5, 7),
				STRIDES(256, 35, 7, 1)) } },
	  .parts_count = 2, .planes_count = 6, .boxes = { { 3, 1, 376 } },
	  .tight = { 3, 12 }, .spaced = { 3, 12 } },
	/* from 0.28: one allocation, six orders of Layer, Block, Head, N (token), Content */
	{ "LBHNC",
	  BEHIND(2048, TENSOR(2, 0, 1, SHAPE4(8, 2, 4, 16), STRIDES(128, 64, 16, 1))),
	  EXPECT(3, 1, 3, 256, 3, 12) },
	{ "LBNHC",
	  BEHIND(2048, TENSOR(2, 0, 1, SHAPE4(8, 2, 4, 16), STRIDES(128, 16, 32, 1))),
	  EXPECT(3, 1, 3, 256, 3, 12) },
	{ "LHBNC",
	  BEHIND(2048, TENSOR(2, 0, 1, SHAPE4(8, 2, 4, 16), STRIDES(64, 512, 16, 1))),
	  EXPECT(6, 1, 6, 128, 4, 24) },
	{ "BLHNC",
	  BEHIND(256, TENSOR(2, 0, 1, SHAPE4(8, 2, 4, 16), STRIDES(384, 64, 16, 1))),
	  EXPECT_TIGHTER(3, 1, 1, 768, 1, 1, 1, 4) },
	{ "BLNHC",
	  BEHIND(256, TENSOR(2, 0, 1, SHAPE4(8, 2, 4, 16), STRIDES(384, 16, 32, 1))),
	  EXPECT_TIGHTER(3, 1, 1, 768, 1, 1, 1, 4) },
	{ "BHLNC",
	  BEHIND(128, TENSOR(2, 0, 1, SHAPE4(8, 2, 4, 16), STRIDES(384, 192, 16, 1))),
	  EXPECT(6, 2, 3, 128, 6, 24) },
	{ "LBHNC, pages padded from 256 to 320 bytes",
	  BEHIND(2560, TENSOR(2, 0, 1, SHAPE4(8, 2, 4, 16), STRIDES(160, 64, 16, 1))),
	  EXPECT(3, 1, 3, 256, 3, 12) },
	{ "BLHNC, pages padded from 256 to 320 bytes",
	  BEHIND(320, TENSOR(2, 0, 1, SHAPE4(8, 2, 4, 16), STRIDES(480, 64, 16, 1))),
	  EXPECT_TIGHTER(3, 1, 3, 256, 1, 12, 3, 12) },
	{ "LBHNC, 4 kernel blocks in a block",
	  BEHIND(8192, TENSOR(2, 0, 4, SHAPE4(32, 2, 4, 16), STRIDES(128, 64, 16, 1))),
	  EXPECT(3, 1, 3, 1024, 3, 12) },
	{ "LHBNC, 4 kernel blocks in a block",
	  BEHIND(8192, TENSOR(2, 0, 4, SHAPE4(32, 2, 4, 16), STRIDES(64, 2048, 16, 1))),
	  EXPECT(6, 1, 6, 512, 4, 24) },
	{ "BHLNC, 4 kernel blocks in a block",
	  BEHIND(128, TENSOR(2, 0, 4, SHAPE4(32, 2, 4, 16), STRIDES(384, 192, 16, 1))),
	  EXPECT(24, 3, 8, 128, 12, 96) },
	/* one tensor for all layers */
	{ "0.22 cross-layer, NHD", .layers_count = 1,
	  OWN(TENSOR(2, 0, 1, SHAPE5(8, 3, 4, 2, 16), STRIDES(384, 128, 32, 16, 1))),
	  EXPECT_TIGHTER(1, 1, 1, 768, 1, 1, 1, 4) },
	{ "0.22 cross-layer, HND", .layers_count = 1,
	  OWN(TENSOR(2, 0, 1, SHAPE5(8, 2, 3, 4, 16), STRIDES(384, 192, 64, 16, 1))),
	  EXPECT_TIGHTER(1, 1, 1, 768, 1, 1, 1, 4) },
};
const unsigned eras_count = sizeof(eras) / sizeof(*eras);

const struct era_overlay era_overlays[] = {
	{ "packed groups of 3 pages of 256 and 2 of 320 bytes in slabs of 1024",
	  { { "attention",
	      BEHIND(256, TENSOR(2, 0, 1, SHAPE4(8, 2, 4, 16), STRIDES(512, 64, 16, 1))),
	      EXPECT(3, 1, 1, 768, 1, 4) },
	    { "window", .layers_count = 2,
	      BEHIND(320, TENSOR(2, 0, 1, SHAPE4(8, 2, 4, 20), STRIDES(512, 80, 20, 1))),
	      EXPECT(2, 1, 1, 640, 1, 4) } } },
	{ "tensors that a layer of each group shares",
	  { { "attention",
	      BEHIND(2048, TENSOR(2, 0, 1, SHAPE4(8, 2, 4, 16), STRIDES(128, 64, 16, 1))),
	      EXPECT(3, 1, 3, 256, 3, 12) },
	    { "window",
	      BEHIND(2048, TENSOR(2, 0, 1, SHAPE4(8, 2, 4, 16), STRIDES(128, 64, 16, 1))),
	      EXPECT(3, 1, 3, 256, 3, 12) } } },
	{ "attention, and Mamba's padded page over the same bytes",
	  { { "attention",
	      BEHIND(2048, TENSOR(2, 0, 1, SHAPE4(8, 2, 4, 16), STRIDES(128, 64, 16, 1))),
	      EXPECT(3, 1, 3, 256, 3, 12) },
	    { "Mamba",
	      BEHIND(2048, TENSOR(1, 0, 1, SHAPE4(8, 1, 1, 200), STRIDES(256, 256, 256, 1))),
	      EXPECT(3, 1, 3, 200, 3, 12) } } },
};
const unsigned era_overlays_count = sizeof(era_overlays) / sizeof(*era_overlays);
/* clang-format on */

unsigned era_tensors(const struct era *era, struct tensor out_tensors[ERA_TENSORS_MAX])
{
	unsigned layers_count = era->layers_count > 0 ? era->layers_count : ERA_LAYERS;
	unsigned count = 0;

	for (unsigned layer = 0; layer < layers_count; layer++)
		for (unsigned i = 0; i < era->parts_count; i++) {
			struct tensor *tensor = &out_tensors[count++];

			*tensor = era->parts[i].tensor;
			tensor->region += layer * era->parts[i].region_step;
			tensor->offset += layer * era->parts[i].offset_step;
		}
	return count;
}
