/*
 * transfer/layout_overlap.c: overlaps among the planes of a group.
 *
 * Planes are looked at in the order of where they begin. Those whose spans (first byte of the first
 * block to last byte of the last) meet, directly or by way of others, are a cluster; planes of
 * two clusters share nothing. In a cluster of one stride, what counts is where a plane's bytes are
 * modulo the stride: an arc on a circle. As all have the same number of blocks, two planes whose
 * spans meet share bytes if and only if their arcs do. So a sorted list of arcs, from which those
 * go whose span is over, tells it in one pass. Clusters of several strides are rare and small:
 * there each pair is looked at.
 */
#include "transfer/layout_overlap.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Of a group with one block, whose strides mean nothing: beyond every place. */
#define ONE_BLOCK_STRIDE (LAYOUT_REGION_BYTES_MAX + 1)

struct span {
	uint32_t region, plane;
	uint64_t offset, end, stride, bytes;
};

struct arc {
	uint64_t start;
	const struct span *span;
};

enum verdict { APART, SHARE_BYTES, NOT_TOLD };

static int by_place(const void *left, const void *right)
{
	const struct span *a = left, *b = right;

	if (a->region != b->region)
		return a->region < b->region ? -1 : 1;
	if (a->offset != b->offset)
		return a->offset < b->offset ? -1 : 1;
	return a->plane < b->plane ? -1 : 1;
}

static int refuse(const struct span *a, const struct span *b, enum verdict verdict, unsigned index,
		  struct error *error)
{
	const struct span *low = a->plane < b->plane ? a : b;
	const struct span *high = low == a ? b : a;

	if (verdict == SHARE_BYTES)
		return error_set(
			error, -EINVAL,
			"group %u: planes %u and %u share bytes; each byte belongs to one plane of one block",
			index, low->plane, high->plane);
	return error_set(error, -EINVAL,
			 "group %u: planes %u and %u lie in one another at strides %" PRIu64
			 " and %" PRIu64
			 ", so they may share bytes; equal strides or multiples are right",
			 index, low->plane, high->plane, low->stride, high->stride);
}

/* ---- one stride ---- */

/* From one place on a circle to another, forward. */
static uint64_t way(uint64_t from, uint64_t to, uint64_t stride)
{
	return to >= from ? to - from : to + stride - from;
}

/* The first arc that does not start before; arcs_count if there is none. */
static unsigned arc_find(const struct arc *arcs, unsigned arcs_count, uint64_t start)
{
	unsigned first = 0, end = arcs_count;

	while (first < end) {
		unsigned middle = (first + end) / 2;

		if (arcs[middle].start < start)
			first = middle + 1;
		else
			end = middle;
	}
	return first;
}

/* Which arc the span's meets, arcs_count if none. The arcs do not meet each other, so if any does,
 * one of its neighbours does. */
static unsigned arc_meeting(const struct arc *arcs, unsigned arcs_count, const struct span *span)
{
	uint64_t start = span->offset % span->stride;
	unsigned after, before;

	if (arcs_count == 0)
		return 0;
	after = arc_find(arcs, arcs_count, start) % arcs_count;
	before = (after + arcs_count - 1) % arcs_count;
	if (way(start, arcs[after].start, span->stride) < span->bytes)
		return after;
	if (way(arcs[before].start, start, span->stride) < arcs[before].span->bytes)
		return before;
	return arcs_count;
}

static int check_one_stride(const struct span *spans, unsigned spans_count, struct arc *arcs,
			    unsigned index, struct error *error)
{
	unsigned arcs_count = 0;

	for (unsigned i = 0; i < spans_count; i++) {
		const struct span *span = &spans[i];
		unsigned n;

		while ((n = arc_meeting(arcs, arcs_count, span)) < arcs_count) {
			if (arcs[n].span->end > span->offset)
				return refuse(arcs[n].span, span, SHARE_BYTES, index, error);
			arcs_count--; /* over before this one begins, and all that follow */
			memmove(&arcs[n], &arcs[n + 1], (arcs_count - n) * sizeof(*arcs));
		}
		n = arc_find(arcs, arcs_count, span->offset % span->stride);
		memmove(&arcs[n + 1], &arcs[n], (arcs_count - n) * sizeof(*arcs));
		arcs[n] = (struct arc){ .start = span->offset % span->stride, .span = span };
		arcs_count++;
	}
	return 0;
}

/* ---- several strides ---- */

static __int128 divide_down(__int128 value, __int128 by)
{
	return value >= 0 ? value / by : -((-value + by - 1) / by);
}

static __int128 divide_up(__int128 value, __int128 by)
{
	return -divide_down(-value, by);
}

/* Exact: the coarse stride is a multiple of the fine one. Block x of the coarse plane meets blocks
 * low + x * times to high + x * times of the fine one, as far as there are any. */
static enum verdict nested(const struct span *coarse, const struct span *fine,
			   uint32_t blocks_count)
{
	__int128 gap = (__int128)coarse->offset - fine->offset, stride = fine->stride;
	__int128 low = divide_down(gap - fine->bytes, stride) + 1;
	__int128 high = divide_up(gap + coarse->bytes, stride) - 1;
	__int128 times = coarse->stride / fine->stride, last = (__int128)blocks_count - 1;
	__int128 first_block = divide_up(-high, times), last_block = divide_down(last - low, times);

	if (first_block < 0)
		first_block = 0;
	if (last_block > last)
		last_block = last;
	return low <= high && first_block <= last_block ? SHARE_BYTES : APART;
}

static enum verdict judge(const struct span *a, const struct span *b, uint32_t blocks_count)
{
	uint64_t divisor = a->stride, rest = b->stride;

	if (a->stride % b->stride == 0)
		return nested(a, b, blocks_count);
	if (b->stride % a->stride == 0)
		return nested(b, a, blocks_count);
	while (rest != 0) {
		uint64_t next = divisor % rest;

		divisor = rest;
		rest = next;
	}
	/* apart on the circle that both strides go round: apart everywhere */
	uint64_t gap = way(a->offset % divisor, b->offset % divisor, divisor);
	return gap >= a->bytes && divisor - gap >= b->bytes ? APART : NOT_TOLD;
}

static int check_strides(const struct span *spans, unsigned spans_count, uint32_t blocks_count,
			 unsigned index, struct error *error)
{
	if (spans_count > LAYOUT_MIXED_PLANES_MAX)
		return error_set(
			error, -EINVAL,
			"group %u: %u planes lie in one another at several strides, at most %u are right, or equal strides",
			index, spans_count, LAYOUT_MIXED_PLANES_MAX);
	for (unsigned i = 0; i < spans_count; i++)
		for (unsigned j = i + 1; j < spans_count && spans[j].offset < spans[i].end; j++) {
			enum verdict verdict = judge(&spans[i], &spans[j], blocks_count);

			if (verdict != APART)
				return refuse(&spans[i], &spans[j], verdict, index, error);
		}
	return 0;
}

/* ---- clusters ---- */

static unsigned cluster_count(const struct span *spans, unsigned spans_count,
			      bool *out_is_one_stride)
{
	uint64_t end = spans[0].end;
	unsigned count = 1;

	*out_is_one_stride = true;
	while (count < spans_count && spans[count].region == spans[0].region &&
	       spans[count].offset < end) {
		if (spans[count].end > end)
			end = spans[count].end;
		if (spans[count].stride != spans[0].stride)
			*out_is_one_stride = false;
		count++;
	}
	return count;
}

static int check_clusters(const struct layout_group_source *group, const struct span *spans,
			  struct arc *arcs, unsigned index, struct error *error)
{
	for (unsigned first = 0, count; first < group->planes_count; first += count) {
		bool is_one_stride;
		int result;

		count = cluster_count(spans + first, group->planes_count - first, &is_one_stride);
		if (is_one_stride)
			result = check_one_stride(spans + first, count, arcs, index, error);
		else
			result = check_strides(spans + first, count, group->blocks_count, index,
					       error);
		if (result < 0)
			return result;
	}
	return 0;
}

int layout_check_overlaps(const struct layout_group_source *group, unsigned index,
			  struct error *error)
{
	struct span *spans = calloc(group->planes_count, sizeof(*spans));
	struct arc *arcs = calloc(group->planes_count, sizeof(*arcs));
	int result;

	if (spans == NULL || arcs == NULL) {
		result = error_set(error, -ENOMEM, "no memory to check the planes of group %u",
				   index);
		goto free_both;
	}
	for (unsigned i = 0; i < group->planes_count; i++) {
		const struct layout_plane *plane = &group->planes[i];
		uint64_t stride = group->blocks_count > 1 ? plane->stride : ONE_BLOCK_STRIDE;

		spans[i] = (struct span){
			.region = plane->region,
			.plane = i,
			.offset = plane->offset,
			.stride = stride,
			.bytes = plane->bytes,
			.end = plane->offset + (group->blocks_count - 1) * stride + plane->bytes,
		};
	}
	qsort(spans, group->planes_count, sizeof(*spans), by_place);
	result = check_clusters(group, spans, arcs, index, error);
free_both:
	free(arcs);
	free(spans);
	return result;
}
