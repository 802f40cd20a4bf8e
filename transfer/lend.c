/* transfer/lend.c: see lend.h. */
#include "transfer/lend.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

static_assert(sizeof(struct lend) % 8 == 0 && sizeof(struct lend_region) % 8 == 0 &&
		      sizeof(struct lend_group) % 8 == 0 && sizeof(struct lend_plane) % 8 == 0,
	      "the parts of a packet are aligned");

size_t lend_bytes(const struct lend *head)
{
	return sizeof(*head) + head->regions_count * sizeof(struct lend_region) +
	       head->fds_count * sizeof(uint64_t) +
	       head->groups_count * sizeof(struct lend_group) +
	       head->planes_count * sizeof(struct lend_plane);
}

static int counts_check(const struct lend *head, size_t bytes, struct error *error)
{
	if (head->regions_count == 0 || head->regions_count > LAYOUT_REGIONS_MAX)
		return error_set(error, -EINVAL, "%u regions of lent memory; 1 to %u may be",
				 head->regions_count, LAYOUT_REGIONS_MAX);
	if (head->fds_count > LEND_FDS_MAX)
		return error_set(error, -EINVAL, "%u descriptors of lent memory; at most %u may be",
				 head->fds_count, LEND_FDS_MAX);
	if (head->groups_count == 0 || head->groups_count > LAYOUT_GROUPS_MAX)
		return error_set(error, -EINVAL, "%u groups of lent blocks; 1 to %u may be",
				 head->groups_count, LAYOUT_GROUPS_MAX);
	if (head->planes_count == 0 || head->planes_count > LEND_PLANES_MAX)
		return error_set(error, -EINVAL, "%u planes of lent blocks; 1 to %u may be",
				 head->planes_count, LEND_PLANES_MAX);
	if (lend_bytes(head) != bytes)
		return error_set(error, -EINVAL, "lent memory is described in %zu bytes, not %zu",
				 bytes, lend_bytes(head));
	if (memchr(head->device, '\0', sizeof(head->device)) == NULL || head->device[0] == '\0')
		return error_set(error, -EINVAL, "lent memory names no device");
	return 0;
}

static int regions_check(const struct lend_view *view, struct error *error)
{
	uint32_t fds = 0, planes = 0;

	for (uint32_t n = 0; n < view->head->regions_count; n++) {
		const struct lend_region *region = &view->regions[n];
		bool is_handle = region->kind == LEND_HANDLE;

		if ((!is_handle && region->kind != LEND_FDS) ||
		    is_handle == (region->fds_count > 0))
			return error_set(error, -EINVAL,
					 "region %u is neither one handle nor some descriptors", n);
		if (region->fds_count > view->head->fds_count - fds)
			return error_set(error, -EINVAL, "region %u has more descriptors than came",
					 n);
		if (region->bytes == 0 || region->bytes > LAYOUT_REGION_BYTES_MAX ||
		    region->offset > LAYOUT_REGION_BYTES_MAX || (!is_handle && region->offset != 0))
			return error_set(error, -EINVAL, "region %u has no possible place", n);
		fds += region->fds_count;
	}
	for (uint32_t n = 0; n < view->head->groups_count; n++) {
		if (view->groups[n].planes_count > view->head->planes_count - planes)
			return error_set(error, -EINVAL, "group %u has more planes than came", n);
		planes += view->groups[n].planes_count;
	}
	if (fds != view->head->fds_count || planes != view->head->planes_count)
		return error_set(error, -EINVAL, "descriptors or planes that are nobody's");
	return 0;
}

/* A region of descriptors has the bytes of all of them. */
static int fds_check(const struct lend_view *view, struct error *error)
{
	const uint64_t *bytes = view->fd_bytes;

	for (uint32_t n = 0; n < view->head->regions_count; n++) {
		const struct lend_region *region = &view->regions[n];
		uint64_t total = 0;

		for (uint32_t i = 0; i < region->fds_count; i++, bytes++)
			if (*bytes == 0 || *bytes > LAYOUT_REGION_BYTES_MAX ||
			    __builtin_add_overflow(total, *bytes, &total))
				return error_set(error, -EINVAL,
						 "descriptor %u of region %u has no possible size",
						 i, n);
		if (region->kind == LEND_FDS && total != region->bytes)
			return error_set(error, -EINVAL,
					 "region %u has %llu bytes, its descriptors %llu", n,
					 (unsigned long long)region->bytes,
					 (unsigned long long)total);
	}
	return 0;
}

static int word_check(const struct lend_view *view, struct error *error)
{
	const struct lend *head = view->head;

	if (head->word_region == LEND_NO_WORD)
		return 0;
	if (head->word_region >= head->regions_count || head->word_offset % sizeof(uint64_t) != 0 ||
	    view->regions[head->word_region].bytes < sizeof(uint64_t) ||
	    head->word_offset > view->regions[head->word_region].bytes - sizeof(uint64_t))
		return error_set(error, -EINVAL, "the word of the engine's steps lies in no region");
	return 0;
}

int lend_read(const void *packet, size_t bytes, struct lend_view *out_view, struct error *error)
{
	const struct lend *head = packet;
	struct lend_view view = { .head = head };
	int result;

	assert((uintptr_t)packet % 8 == 0);
	if (bytes < sizeof(*head) || bytes > LEND_BYTES_MAX)
		return error_set(error, -EINVAL, "lent memory is described in %zu bytes", bytes);
	result = counts_check(head, bytes, error);
	if (result < 0)
		return result;
	view.regions = (const struct lend_region *)(head + 1);
	view.fd_bytes = (const uint64_t *)(view.regions + head->regions_count);
	view.groups = (const struct lend_group *)(view.fd_bytes + head->fds_count);
	view.planes = (const struct lend_plane *)(view.groups + head->groups_count);
	result = regions_check(&view, error);
	if (result == 0)
		result = fds_check(&view, error);
	if (result == 0)
		result = word_check(&view, error);
	if (result == 0)
		*out_view = view;
	return result;
}

int lend_layout(const struct lend_view *view, struct layout *out_layout, struct error *error)
{
	uint64_t region_bytes[LAYOUT_REGIONS_MAX];
	struct layout_plane planes[LEND_PLANES_MAX];
	struct layout_group_source groups[LAYOUT_GROUPS_MAX];
	uint32_t first = 0;

	for (uint32_t n = 0; n < view->head->regions_count; n++)
		region_bytes[n] = view->regions[n].bytes;
	for (uint32_t n = 0; n < view->head->planes_count; n++)
		planes[n] = (struct layout_plane){ .region = view->planes[n].region,
						   .offset = view->planes[n].offset,
						   .stride = view->planes[n].stride,
						   .bytes = view->planes[n].bytes };
	for (uint32_t n = 0; n < view->head->groups_count; n++) {
		groups[n] = (struct layout_group_source){
			.blocks_count = view->groups[n].blocks_count,
			.planes_count = view->groups[n].planes_count,
			.planes = planes + first,
		};
		first += view->groups[n].planes_count;
	}
	return layout_init(out_layout,
			   &(struct layout_source){ .regions_count = view->head->regions_count,
						    .groups_count = view->head->groups_count,
						    .region_bytes = region_bytes,
						    .groups = groups },
			   error);
}
