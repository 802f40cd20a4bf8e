/*
 * proto/frames_parts.h: what the files that check frames share. For those alone.
 */
#ifndef KVTIER_PROTO_FRAMES_PARTS_H
#define KVTIER_PROTO_FRAMES_PARTS_H

#include "proto/frames.h"

/* A frame under examination: its fixed part is known to be inside. */
struct frame_inspection {
	const void *frame;
	size_t bytes;
	size_t fixed_bytes;
	struct error *error;
};

/* All of these: 0, or -EPROTO with the reason. */
int frame_refuse(const struct frame_inspection *in, const char *what, uint64_t is, uint64_t limit);
/* What follows the fixed part must be exactly `wanted` bytes. */
int frame_check_tail(const struct frame_inspection *in, uint64_t wanted);
int frame_check_count(const struct frame_inspection *in, const char *what, uint64_t count,
		      uint64_t count_max, uint64_t item_bytes);
int frame_check_group(const struct frame_inspection *in, unsigned group);

/* frames_blocks.c */
int frame_check_lend(const struct frame_inspection *in);
int frame_check_store(const struct frame_inspection *in);
int frame_check_store_reply(const struct frame_inspection *in);
int frame_check_commit(const struct frame_inspection *in);
int frame_check_copied(const struct frame_inspection *in);
int frame_check_committed(const struct frame_inspection *in);
int frame_check_load(const struct frame_inspection *in);
int frame_check_loaded(const struct frame_inspection *in);
int frame_check_release(const struct frame_inspection *in);

/* frames_peers.c */
int frame_check_fetch(const struct frame_inspection *in);
int frame_check_ticketed(const struct frame_inspection *in);

#endif
