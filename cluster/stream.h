/*
 * cluster/stream.h: messages that have numbers, over a wire that loses, repeats and reorders them:
 * each is given out once, in order; what is missing is known.
 *
 * Runs on: one thread. Owns: a copy of each message that waits for one before it, within bounds:
 * what is beyond them is as if it had been lost.
 */
#ifndef KVTIER_CLUSTER_STREAM_H
#define KVTIER_CLUSTER_STREAM_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STREAM_MESSAGES_MAX 8192u              /* numbers ahead of the next one */
#define STREAM_BYTES_MAX (UINT64_C(32) << 20)  /* of messages that wait */

struct stream;

must_check int stream_create(struct stream **out_stream, struct error *error);
void stream_destroy(struct stream *stream);
/* All that waits is dropped; the next in order is `next`. */
void stream_begin(struct stream *stream, uint64_t next);
/* Copied. 0; -EALREADY: it was there before, or has been passed; -ENOSPC, -ENOMEM: lost. */
int stream_put(struct stream *stream, uint64_t number, const void *message, size_t bytes);
/* The next in order, until the next put, pass or begin; NULL: it has not come. */
const void *stream_peek(const struct stream *stream, size_t *out_bytes);
/* That one is done with. */
void stream_pass(struct stream *stream);
/* What is below `next` is not wanted any more; what waits behind it stays. */
void stream_skip(struct stream *stream, uint64_t next);
/* The number of the next in order. */
uint64_t stream_next(const struct stream *stream);
/* The first number that is missing before one that has come, or was lost here. False: none is. */
bool stream_gap(const struct stream *stream, uint64_t *out_first);

#endif
