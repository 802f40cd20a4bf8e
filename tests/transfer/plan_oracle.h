/*
 * tests/transfer/plan_oracle.h: a walk through a plan, held against where each byte of each block
 * is.
 */
#ifndef KVTIER_TESTS_TRANSFER_PLAN_ORACLE_H
#define KVTIER_TESTS_TRANSFER_PLAN_ORACLE_H

#include "base/random.h"
#include "tensor.h"
#include "transfer/plan.h"

#define ORACLE_BLOCKS_MAX 16u

enum oracle_numbers { NUMBERS_UP, NUMBERS_DOWN, NUMBERS_SHUFFLED, NUMBERS_SOME, ORACLE_NUMBERS };
enum oracle_places { PLACES_TIGHT, PLACES_SPACED, PLACES_SHUFFLED, ORACLE_PLACES };

struct oracle {
	const struct tensor *tensors; /* of a group, in the order of the payload */
	unsigned tensors_count;
	const uint64_t *region_bases;
	const struct layout_group *group; /* what was made of them */
	struct random *random;
	enum oracle_numbers numbers;
	enum oracle_places places;
	uint64_t chunk_bytes_max;
	uint32_t rectangles_max;
};

struct oracle_sum {
	uint64_t chunks, rectangles, rows;
};

/* Fails the test where a byte is copied from elsewhere, twice or never, a chunk is too large, or
 * blocks are called done that are not. */
struct oracle_sum oracle_walk(const struct oracle *oracle);

#endif
