/* proto/msgpack.c: see msgpack.h. */
#include "proto/msgpack.h"

#include <msgpuck.h>
#include <string.h>

static size_t left(const struct msgpack_reader *reader)
{
	return (size_t)(reader->end - reader->at);
}

/* Of an item's head, with the whole of a number; by the first byte. */
static size_t head_bytes(uint8_t first)
{
	static const uint8_t bytes[0xe0 - 0xc0] = {
		[0x04] = 2, [0x05] = 3, [0x06] = 5,             /* bin */
		[0x0a] = 5, [0x0b] = 9,                         /* float, double */
		[0x0c] = 2, [0x0d] = 3, [0x0e] = 5, [0x0f] = 9, /* uint */
		[0x10] = 2, [0x11] = 3, [0x12] = 5, [0x13] = 9, /* int */
		[0x19] = 2, [0x1a] = 3, [0x1b] = 5,             /* str */
		[0x1c] = 3, [0x1d] = 5, [0x1e] = 3, [0x1f] = 5, /* array, map */
	};
	size_t listed = first >= 0xc0 && first < 0xe0 ? bytes[first - 0xc0] : 0;

	return listed > 0 ? listed : 1;
}

/* Whether the next item is of this type, and its head is all there. */
static bool is_head(const struct msgpack_reader *reader, enum msgpack_type type)
{
	return msgpack_type(reader) == type && left(reader) >= head_bytes((uint8_t)*reader->at);
}

enum msgpack_type msgpack_type(const struct msgpack_reader *reader)
{
	if (reader->at >= reader->end)
		return MSGPACK_END;
	switch (mp_typeof(*reader->at)) {
	case MP_NIL:
		return MSGPACK_NIL;
	case MP_BOOL:
		return MSGPACK_BOOL;
	case MP_UINT:
		return MSGPACK_UNSIGNED;
	case MP_INT:
		return MSGPACK_NEGATIVE;
	case MP_FLOAT:
	case MP_DOUBLE:
		return MSGPACK_FLOAT;
	case MP_STR:
		return MSGPACK_TEXT;
	case MP_BIN:
		return MSGPACK_BYTES;
	case MP_ARRAY:
		return MSGPACK_ARRAY;
	case MP_MAP:
		return MSGPACK_MAP;
	default:
		return MSGPACK_OTHER;
	}
}

bool msgpack_array(struct msgpack_reader *reader, uint32_t *out_count)
{
	const char *at = reader->at;

	if (!is_head(reader, MSGPACK_ARRAY))
		return false;
	*out_count = mp_decode_array(&at);
	if (*out_count > (size_t)(reader->end - at))
		return false;
	reader->at = at;
	return true;
}

bool msgpack_map(struct msgpack_reader *reader, uint32_t *out_count)
{
	const char *at = reader->at;

	if (!is_head(reader, MSGPACK_MAP))
		return false;
	*out_count = mp_decode_map(&at);
	if (*out_count > (size_t)(reader->end - at) / 2)
		return false;
	reader->at = at;
	return true;
}

bool msgpack_unsigned(struct msgpack_reader *reader, uint64_t *out_value)
{
	if (!is_head(reader, MSGPACK_UNSIGNED))
		return false;
	*out_value = mp_decode_uint(&reader->at);
	return true;
}

bool msgpack_number(struct msgpack_reader *reader, double *out_value)
{
	if (is_head(reader, MSGPACK_UNSIGNED))
		*out_value = (double)mp_decode_uint(&reader->at);
	else if (is_head(reader, MSGPACK_NEGATIVE))
		*out_value = (double)mp_decode_int(&reader->at);
	else if (!is_head(reader, MSGPACK_FLOAT))
		return false;
	else if (mp_typeof(*reader->at) == MP_FLOAT)
		*out_value = (double)mp_decode_float(&reader->at);
	else
		*out_value = mp_decode_double(&reader->at);
	return true;
}

bool msgpack_bytes(struct msgpack_reader *reader, const char **out_start, uint32_t *out_bytes)
{
	const char *at = reader->at;

	if (is_head(reader, MSGPACK_TEXT))
		*out_bytes = mp_decode_strl(&at);
	else if (is_head(reader, MSGPACK_BYTES))
		*out_bytes = mp_decode_binl(&at);
	else
		return false;
	if (*out_bytes > (size_t)(reader->end - at))
		return false;
	*out_start = at;
	reader->at = at + *out_bytes;
	return true;
}

bool msgpack_nil(struct msgpack_reader *reader)
{
	if (msgpack_type(reader) != MSGPACK_NIL)
		return false;
	reader->at++;
	return true;
}

/* Extensions: a length of so many bytes, the type, the content. */
static bool other_skip(struct msgpack_reader *reader)
{
	const uint8_t *at = (const uint8_t *)reader->at;
	size_t bytes, length_bytes;
	uint64_t content = 0;

	switch (at[0]) {
	case 0xc7:
	case 0xc8:
	case 0xc9:
		length_bytes = (size_t)1 << (at[0] - 0xc7);
		break;
	case 0xd4:
	case 0xd5:
	case 0xd6:
	case 0xd7:
	case 0xd8:
		length_bytes = 0;
		content = UINT64_C(1) << (at[0] - 0xd4);
		break;
	default:
		return false; /* 0xc1 is nothing */
	}
	bytes = 1 + length_bytes + 1;
	if (left(reader) < bytes)
		return false;
	for (size_t i = 0; i < length_bytes; i++)
		content = content << 8 | at[1 + i];
	if (content > left(reader) - bytes)
		return false;
	reader->at += bytes + content;
	return true;
}

/* One item; *out_items: that follow as its own. */
static bool item_skip(struct msgpack_reader *reader, uint64_t *out_items)
{
	const char *start;
	uint32_t count;
	double number;

	*out_items = 0;
	switch (msgpack_type(reader)) {
	case MSGPACK_END:
		return false;
	case MSGPACK_NIL:
	case MSGPACK_BOOL:
		reader->at++;
		return true;
	case MSGPACK_UNSIGNED:
	case MSGPACK_NEGATIVE:
	case MSGPACK_FLOAT:
		return msgpack_number(reader, &number);
	case MSGPACK_TEXT:
	case MSGPACK_BYTES:
		return msgpack_bytes(reader, &start, &count);
	case MSGPACK_ARRAY:
		if (!msgpack_array(reader, &count))
			return false;
		*out_items = count;
		return true;
	case MSGPACK_MAP:
		if (!msgpack_map(reader, &count))
			return false;
		*out_items = (uint64_t)count * 2;
		return true;
	default:
		return other_skip(reader);
	}
}

bool msgpack_skip(struct msgpack_reader *reader)
{
	struct msgpack_reader going = *reader;
	uint64_t items = 1, inner;

	/* An item has at least one byte: what promises more than is left ends here. */
	while (items > 0) {
		if (items > left(&going) || !item_skip(&going, &inner))
			return false;
		items += inner - 1;
	}
	*reader = going;
	return true;
}

bool msgpack_is(const char *start, uint32_t bytes, const char *word)
{
	return bytes == strlen(word) && memcmp(start, word, bytes) == 0;
}
