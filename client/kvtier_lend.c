/* client/kvtier_lend.c: how the device memory that an engine lends is described to the daemon: made
 * by kvtier_open() from address ranges, and the same for every connection. */
#include "client/client.h"
#include "transfer/layout.h"
#include "transfer/lend.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Static_assert(LEND_BYTES_MAX <= FRAME_LEND_BYTES_MAX &&
		       sizeof(struct frame_lend) + LEND_BYTES_MAX <= FRAME_BYTES_MAX,
	       "a packet fits into its frame");

static int handle_check(const struct kvtier_region *region, unsigned index, struct error *error)
{
	if (region->handle == NULL || region->fds_count != 0)
		return error_set(error, -EINVAL,
				 "region %u: of this kind, a handle and no descriptors are right",
				 index);
	if (region->handle_offset > LAYOUT_REGION_BYTES_MAX)
		return error_set(error, -EINVAL, "region %u: handle_offset is %" PRIu64 ", too much",
				 index, region->handle_offset);
	return 0;
}

static int fds_check(const struct kvtier_region *region, unsigned index, struct error *error)
{
	uint64_t bytes = 0;

	if (region->fds_count == 0 || region->fds == NULL || region->fd_bytes == NULL)
		return error_set(error, -EINVAL,
				 "region %u: of this kind, fds and the fd_bytes of each are "
				 "required",
				 index);
	if (region->handle != NULL || region->handle_offset != 0)
		return error_set(error, -EINVAL,
				 "region %u: of this kind, no handle and no handle_offset are right",
				 index);
	if (region->fds_count > LEND_FDS_MAX)
		return error_set(error, -EINVAL, "region %u: fds_count is %u, at most %u are right",
				 index, region->fds_count, LEND_FDS_MAX);
	for (unsigned i = 0; i < region->fds_count; i++)
		if (region->fd_bytes[i] == 0 ||
		    __builtin_add_overflow(bytes, region->fd_bytes[i], &bytes))
			return error_set(error, -EINVAL, "region %u: fd_bytes[%u] is %" PRIu64, index,
					 i, region->fd_bytes[i]);
	if (bytes != region->bytes)
		return error_set(error, -EINVAL, "region %u: bytes is %" PRIu64 ", fd_bytes are %" PRIu64,
				 index, region->bytes, bytes);
	return 0;
}

static int region_check(const struct kvtier_device *device, unsigned index, struct error *error)
{
	const struct kvtier_region *region = &device->regions[index];
	uint64_t end;

	if (region->address == 0 || region->bytes == 0 ||
	    region->bytes > LAYOUT_REGION_BYTES_MAX ||
	    __builtin_add_overflow(region->address, region->bytes, &end))
		return error_set(error, -EINVAL, "region %u: %" PRIu64 " bytes at %#" PRIx64 " are no memory",
				 index, region->bytes, region->address);
	for (unsigned i = 0; i < index; i++) {
		const struct kvtier_region *other = &device->regions[i];

		if (other->address < end && region->address < other->address + other->bytes)
			return error_set(error, -EINVAL,
					 "region %u overlaps region %u: %#" PRIx64 " lies in both", index,
					 i,
					 region->address > other->address
						 ? region->address
						 : other->address);
	}
	if (region->kind == KVTIER_REGION_HANDLE)
		return handle_check(region, index, error);
	if (region->kind == KVTIER_REGION_FDS)
		return fds_check(region, index, error);
	return error_set(error, -EINVAL,
			 "region %u: kind is %d; KVTIER_REGION_HANDLE or KVTIER_REGION_FDS is "
			 "right",
			 index, (int)region->kind);
}

static int device_check(const struct kvtier_options *options, struct error *error)
{
	const struct kvtier_device *device = options->device;
	unsigned fds_count = 0;

	if ((options->roles & KVTIER_WORKER) == 0)
		return error_set(error, -EINVAL, "device: only a worker lends memory");
	if (device->name == NULL || device->name[0] == 0 ||
	    strlen(device->name) >= LEND_DEVICE_BYTES)
		return error_set(error, -EINVAL,
				 "device: a name of 1 to %u bytes is required: its PCI bus id or "
				 "uuid",
				 LEND_DEVICE_BYTES - 1);
	if (device->regions_count == 0 || device->regions_count > LAYOUT_REGIONS_MAX ||
	    device->regions == NULL)
		return error_set(error, -EINVAL, "device: regions_count is %u; 1 to %u are right",
				 device->regions_count, LAYOUT_REGIONS_MAX);
	for (unsigned i = 0; i < device->regions_count; i++) {
		int result = region_check(device, i, error);

		if (result < 0)
			return result;
		fds_count += device->regions[i].fds_count;
		if (fds_count > LEND_FDS_MAX)
			return error_set(error, -EINVAL,
					 "device: its regions have more than %u descriptors",
					 LEND_FDS_MAX);
	}
	return 0;
}

/* The region that holds this address, or regions_count. */
static unsigned region_find(const struct kvtier_device *device, uint64_t address)
{
	unsigned index = 0;

	while (index < device->regions_count &&
	       (address < device->regions[index].address ||
		address - device->regions[index].address >= device->regions[index].bytes))
		index++;
	return index;
}

static int plane_place(const struct kvtier_options *options, unsigned index, unsigned i,
		       struct lend_plane *out_plane, struct error *error)
{
	const struct kvtier_group *group = &options->groups[index];
	const struct kvtier_plane *plane = &group->planes[i];
	uint64_t address = (uint64_t)(uintptr_t)plane->base;
	/* No overflow: group_init() has looked at it. */
	uint64_t bytes = (group->blocks_count - 1) * plane->stride + plane->bytes;
	unsigned index_of = region_find(options->device, address);
	const struct kvtier_region *region = &options->device->regions[index_of];

	if (index_of == options->device->regions_count)
		return error_set(error, -EINVAL,
				 "group %u, plane %u: %#" PRIx64 " lies in no region of the device", index,
				 i, address);
	if (bytes > region->bytes - (address - region->address))
		return error_set(error, -EINVAL,
				 "group %u, plane %u: its %" PRIu64 " bytes go beyond the end of region "
				 "%u, at %#" PRIx64,
				 index, i, bytes, index_of,
				 region->address + region->bytes);
	*out_plane = (struct lend_plane){ .region = index_of,
					  .offset = address - region->address,
					  .stride = plane->stride,
					  .bytes = plane->bytes };
	return 0;
}

static int word_place(const struct kvtier_device *device, struct lend *head, struct error *error)
{
	uint64_t address = device->word_address;
	unsigned index = region_find(device, address);

	head->word_region = LEND_NO_WORD;
	if (address == 0)
		return 0;
	if (index == device->regions_count)
		return error_set(error, -EINVAL, "word_address: %#" PRIx64 " lies in no region",
				 address);
	head->word_region = index;
	head->word_offset = address - device->regions[index].address;
	if (address % sizeof(uint64_t) != 0 || head->word_offset % sizeof(uint64_t) != 0)
		return error_set(error, -EINVAL,
				 "word_address: %#" PRIx64 " is no multiple of 8 from its region's start",
				 address);
	if (head->word_offset + sizeof(uint64_t) > device->regions[index].bytes)
		return error_set(error, -EINVAL,
				 "word_address: the 8 bytes at %#" PRIx64 " go beyond the end of region %u",
				 address, index);
	return 0;
}

static int packet_create(struct lending *lending, const struct kvtier_options *options,
			 struct error *error)
{
	struct lend head = { .regions_count = options->device->regions_count,
			     .groups_count = options->groups_count };
	int result = word_place(options->device, &head, error);

	if (result < 0)
		return result;
	strcpy(head.device, options->device->name);
	for (unsigned i = 0; i < head.regions_count; i++)
		head.fds_count += options->device->regions[i].fds_count;
	for (unsigned i = 0; i < head.groups_count; i++)
		head.planes_count += options->groups[i].planes_count;
	if (lend_bytes(&head) > LEND_BYTES_MAX)
		return error_set(error, -EINVAL,
				 "device: %u regions and %u planes take %zu bytes to describe, at "
				 "most %u are right",
				 head.regions_count, head.planes_count, lend_bytes(&head),
				 LEND_BYTES_MAX);
	lending->packet_bytes = (uint32_t)lend_bytes(&head);
	lending->packet = calloc(1, lending->packet_bytes);
	lending->fds = calloc(head.fds_count + 1, sizeof(*lending->fds));
	if (lending->packet == NULL || lending->fds == NULL)
		return error_set(error, -ENOMEM, "no memory to describe what is lent");
	*lending->packet = head;
	lending->has_word = head.word_region != LEND_NO_WORD;
	return 0;
}

static int fds_take(struct lending *lending, const struct kvtier_region *region, unsigned index,
		    struct error *error)
{
	for (unsigned i = 0; i < region->fds_count; i++) {
		int fd = fcntl(region->fds[i], F_DUPFD_CLOEXEC, 0);

		if (fd < 0)
			return error_set(error, errno == EBADF ? -EINVAL : -errno,
					 "region %u: fds[%u] is %d: %s", index, i, region->fds[i],
					 strerror(errno));
		lending->fds[lending->fds_count++] = fd;
	}
	return 0;
}

static int packet_fill(struct lending *lending, const struct kvtier_options *options,
		       struct error *error)
{
	struct lend *head = lending->packet;
	struct lend_region *regions = (struct lend_region *)(head + 1);
	uint64_t *fd_bytes = (uint64_t *)(regions + head->regions_count);
	struct lend_group *groups = (struct lend_group *)(fd_bytes + head->fds_count);
	struct lend_plane *planes = (struct lend_plane *)(groups + head->groups_count);
	int result = 0;

	for (unsigned i = 0; i < head->regions_count && result == 0; i++) {
		const struct kvtier_region *region = &options->device->regions[i];

		regions[i] = (struct lend_region){ .offset = region->handle_offset,
						   .bytes = region->bytes,
						   .kind = region->kind,
						   .fds_count = region->fds_count };
		if (region->handle != NULL)
			memcpy(&regions[i].handle, region->handle, sizeof(regions[i].handle));
		for (unsigned n = 0; n < region->fds_count; n++)
			*fd_bytes++ = region->fd_bytes[n];
		result = fds_take(lending, region, i, error);
	}
	for (unsigned i = 0; i < head->groups_count; i++) {
		groups[i] = (struct lend_group){ options->groups[i].blocks_count,
						 options->groups[i].planes_count };
		for (unsigned n = 0; n < groups[i].planes_count && result == 0; n++)
			result = plane_place(options, i, n, planes++, error);
	}
	return result;
}

/* As the daemon will look at it: what it would refuse is refused here, at once. */
static int packet_check(const struct lending *lending, struct error *error)
{
	struct lend_view view;
	struct layout layout;
	int result = lend_read(lending->packet, lending->packet_bytes, &view, error);

	if (result == 0)
		result = lend_layout(&view, &layout, error);
	if (result == 0)
		layout_finish(&layout);
	return result;
}

_Static_assert((int)KVTIER_REGION_HANDLE == (int)LEND_HANDLE &&
		       (int)KVTIER_REGION_FDS == (int)LEND_FDS,
	       "kinds are passed on");

int lending_open(struct lending *lending, const struct kvtier_options *options,
		 struct error *error)
{
	int result = device_check(options, error);

	assert(lending->packet == NULL);
	if (result == 0)
		result = packet_create(lending, options, error);
	if (result == 0)
		result = packet_fill(lending, options, error);
	return result < 0 ? result : packet_check(lending, error);
}

void lending_close(struct lending *lending)
{
	lending_close_fds(lending);
	free(lending->fds);
	free(lending->packet);
	*lending = (struct lending){ .packet = NULL };
}

void lending_close_fds(struct lending *lending)
{
	while (lending->fds_count > 0)
		close(lending->fds[--lending->fds_count]);
}
