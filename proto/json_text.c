/* proto/json_text.c: see json_text.h. */
#include "proto/json_text.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static void put(struct json_text *json, const char *bytes, size_t count)
{
	if (json->is_cut || count >= json->bytes_max - json->bytes) {
		json->is_cut = true;
		return;
	}
	memcpy(json->text + json->bytes, bytes, count);
	json->bytes += count;
	json->text[json->bytes] = 0;
}

/* Length of the UTF-8 character at `text`, or 0 where there is none. */
static size_t character_bytes(const uint8_t *text)
{
	size_t count = text[0] < 0x80   ? 1
		       : text[0] < 0xc2 ? 0
		       : text[0] < 0xe0 ? 2
		       : text[0] < 0xf0 ? 3
		       : text[0] < 0xf5 ? 4
					: 0;

	for (size_t i = 1; i < count; i++)
		if ((text[i] & 0xc0) != 0x80)
			return 0;
	/* Overlong forms, surrogates, and what lies beyond U+10FFFF. */
	if ((text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xed && text[1] > 0x9f) ||
	    (text[0] == 0xf0 && text[1] < 0x90) || (text[0] == 0xf4 && text[1] > 0x8f))
		return 0;
	return count;
}

static void put_quoted(struct json_text *json, const char *value)
{
	put(json, "\"", 1);
	while (*value != 0) {
		size_t count = character_bytes((const uint8_t *)value);
		char escaped[8];

		if (count == 0) {
			put(json, "\xef\xbf\xbd", 3);
			count = 1;
		} else if (*value == '"' || *value == '\\') {
			put(json, (char[]){ '\\', *value }, 2);
		} else if ((uint8_t)*value < 0x20 || *value == 0x7f) {
			snprintf(escaped, sizeof(escaped), "\\u%04x", (unsigned)(uint8_t)*value);
			put(json, escaped, 6);
		} else {
			put(json, value, count);
		}
		value += count;
	}
	put(json, "\"", 1);
}

static void begin_value(struct json_text *json, const char *name)
{
	assert((name != NULL) == (json->depth > 0 && json->closers[json->depth - 1] == '}'));
	if (json->needs_comma)
		put(json, ",", 1);
	json->needs_comma = true;
	if (name == NULL)
		return;
	put_quoted(json, name);
	put(json, ":", 1);
}

static void begin_nested(struct json_text *json, const char *name, const char *opener, char closer)
{
	begin_value(json, name);
	assert(json->depth < JSON_TEXT_DEPTH_MAX);
	json->closers[json->depth++] = closer;
	put(json, opener, 1);
	json->needs_comma = false;
}

static void end_nested(struct json_text *json, char closer)
{
	assert(json->depth > 0);
	assert(json->closers[json->depth - 1] == closer);
	json->depth--;
	put(json, &closer, 1);
	json->needs_comma = true;
}

void json_text_init(struct json_text *json, char *text, size_t bytes_max)
{
	assert(bytes_max > 0);
	*json = (struct json_text){ .text = text, .bytes_max = bytes_max };
	text[0] = 0;
}

void json_text_object_begin(struct json_text *json, const char *name)
{
	begin_nested(json, name, "{", '}');
}

void json_text_object_end(struct json_text *json)
{
	end_nested(json, '}');
}

void json_text_array_begin(struct json_text *json, const char *name)
{
	begin_nested(json, name, "[", ']');
}

void json_text_array_end(struct json_text *json)
{
	end_nested(json, ']');
}

void json_text_string(struct json_text *json, const char *name, const char *value)
{
	begin_value(json, name);
	if (value == NULL)
		put(json, "null", 4);
	else
		put_quoted(json, value);
}

void json_text_hex(struct json_text *json, const char *name, const uint8_t *value, size_t bytes)
{
	static const char digits[] = "0123456789abcdef";

	begin_value(json, name);
	put(json, "\"", 1);
	for (size_t i = 0; i < bytes; i++)
		put(json, (char[]){ digits[value[i] >> 4], digits[value[i] & 15] }, 2);
	put(json, "\"", 1);
}

void json_text_unsigned(struct json_text *json, const char *name, uint64_t value)
{
	char text[24];

	begin_value(json, name);
	put(json, text, (size_t)snprintf(text, sizeof(text), "%" PRIu64, value));
}

void json_text_signed(struct json_text *json, const char *name, int64_t value)
{
	char text[24];

	begin_value(json, name);
	put(json, text, (size_t)snprintf(text, sizeof(text), "%" PRId64, value));
}

void json_text_double(struct json_text *json, const char *name, double value)
{
	char text[32];

	begin_value(json, name);
	if (isfinite(value))
		put(json, text, (size_t)snprintf(text, sizeof(text), "%.9g", value));
	else
		put(json, "null", 4);
}

void json_text_bool(struct json_text *json, const char *name, bool value)
{
	begin_value(json, name);
	put(json, value ? "true" : "false", value ? 4 : 5);
}

bool json_text_ok(const struct json_text *json)
{
	return !json->is_cut && json->depth == 0;
}
