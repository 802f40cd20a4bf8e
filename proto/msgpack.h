/*
 * proto/msgpack.h: msgpack of strangers, item by item, without memory. Everything is held against
 * the end before it is read, here: of msgpuck's own checks (1.0.3), that of a whole message counts
 * items in an int, which a count of 2^32 - 1 makes small again, and those of a head assert that
 * there is more than its first byte.
 *
 * Every function: true, and the reader stands behind the item; false, and it stands where it was:
 * there is no such item, or not all of it. Results point into what is read.
 */
#ifndef KVTIER_PROTO_MSGPACK_H
#define KVTIER_PROTO_MSGPACK_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct msgpack_reader {
	const char *at, *end;
};

enum msgpack_type {
	MSGPACK_END, /* nothing is left */
	MSGPACK_NIL,
	MSGPACK_BOOL,
	MSGPACK_UNSIGNED,
	MSGPACK_NEGATIVE,
	MSGPACK_FLOAT,
	MSGPACK_TEXT,
	MSGPACK_BYTES,
	MSGPACK_ARRAY,
	MSGPACK_MAP,
	MSGPACK_OTHER
};

static inline struct msgpack_reader msgpack_open(const void *start, size_t bytes)
{
	return (struct msgpack_reader){ start, (const char *)start + bytes };
}

/* Of the next item; it may be cut short all the same. */
enum msgpack_type msgpack_type(const struct msgpack_reader *reader);
/* Its items follow, of a map key and value in turn; they may be cut short, but there are at least
 * as many bytes left. */
must_check bool msgpack_array(struct msgpack_reader *reader, uint32_t *out_count);
must_check bool msgpack_map(struct msgpack_reader *reader, uint32_t *out_count);
must_check bool msgpack_unsigned(struct msgpack_reader *reader, uint64_t *out_value);
/* A float, or a whole number. */
must_check bool msgpack_number(struct msgpack_reader *reader, double *out_value);
/* Text or bytes: who writes them does not always tell them apart. */
must_check bool msgpack_bytes(struct msgpack_reader *reader, const char **out_start,
			      uint32_t *out_bytes);
must_check bool msgpack_nil(struct msgpack_reader *reader);
/* One item with all that is in it, whatever it is. */
must_check bool msgpack_skip(struct msgpack_reader *reader);
/* Whether `bytes` of text are just `word`. */
bool msgpack_is(const char *start, uint32_t bytes, const char *word);

#endif
