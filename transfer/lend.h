/*
 * transfer/lend.h: how an inference engine describes the device memory that it lends: one packet,
 * from the engine's process through the daemon to the process that imports it. All of it is
 * hostile until lend_read() has looked at it.
 *
 * The packet: struct lend, then regions, the bytes of each descriptor, groups, planes; all
 * little-endian, each part aligned to 8 bytes. The descriptors themselves travel beside it: the
 * job words' (transfer/job_words.h) first, then those of the regions in their order.
 *
 * Pure functions; any thread.
 */
#ifndef KVTIER_TRANSFER_LEND_H
#define KVTIER_TRANSFER_LEND_H

#include "base/error.h"
#include "transfer/gpu_types.h"
#include "transfer/layout.h"

#include <stddef.h>
#include <stdint.h>

#define LEND_BYTES_MAX (64u << 10)
#define LEND_FDS_MAX 250u /* of regions; the kernel carries 253 a message */
#define LEND_PLANES_MAX 1024u /* of all groups */
#define LEND_DEVICE_BYTES 48u
#define LEND_NO_WORD UINT32_MAX

enum lend_kind {
	LEND_HANDLE = 1, /* `bytes` from `offset` of the allocation that the handle names */
	LEND_FDS         /* the memory of so many descriptors, one behind the other */
};

struct lend {
	char device[LEND_DEVICE_BYTES]; /* bus id or uuid, NUL-terminated */
	uint32_t regions_count, fds_count, groups_count, planes_count;
	/* Where the engine's stream counts its steps; LEND_NO_WORD: it does not. */
	uint32_t word_region, reserved;
	uint64_t word_offset; /* in the region; a multiple of 8 */
};

struct lend_region {
	uint64_t offset, bytes;
	uint32_t kind, fds_count; /* fds_count: 0 for a handle */
	struct gpu_ipc_handle handle;
};

struct lend_group {
	uint32_t blocks_count, planes_count;
};

struct lend_plane {
	uint32_t region, reserved;
	uint64_t offset, stride, bytes;
};

/* A packet that was looked at: counts and sizes agree. Borrowed from the packet. */
struct lend_view {
	const struct lend *head;
	const struct lend_region *regions;
	const uint64_t *fd_bytes; /* [head->fds_count] */
	const struct lend_group *groups;
	const struct lend_plane *planes;
};

/* Of the packet whose counts are in `head`. */
size_t lend_bytes(const struct lend *head);
/* `packet` is aligned to 8 bytes. 0 or -EINVAL with the reason. */
must_check int lend_read(const void *packet, size_t bytes, struct lend_view *out_view,
			 struct error *error);
/* The layout that it describes, held against the regions' bytes. -EINVAL; -ENOMEM. */
must_check int lend_layout(const struct lend_view *view, struct layout *out_layout,
			   struct error *error);

#endif
