/*
 * proto/json_text.h: writes JSON into a bounded buffer. Commas and quoting are its own affair; what
 * does not fit is left out and remembered, so only the end has to be checked. Pure; any thread. The
 * buffer is the caller's.
 */
#ifndef KVTIER_PROTO_JSON_TEXT_H
#define KVTIER_PROTO_JSON_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JSON_TEXT_DEPTH_MAX 16

struct json_text {
	char *text;
	size_t bytes_max;
	size_t bytes; /* written, without the NUL */
	unsigned depth;
	char closers[JSON_TEXT_DEPTH_MAX];
	bool needs_comma;
	bool is_cut;
};

/* `bytes_max` > 0; the text ends in a NUL at any time. */
void json_text_init(struct json_text *json, char *text, size_t bytes_max);

/* `name` is NULL inside arrays and for the outermost value. */
void json_text_object_begin(struct json_text *json, const char *name);
void json_text_object_end(struct json_text *json);
void json_text_array_begin(struct json_text *json, const char *name);
void json_text_array_end(struct json_text *json);
/* Bytes that are not UTF-8 become U+FFFD. NULL is null. */
void json_text_string(struct json_text *json, const char *name, const char *value);
void json_text_hex(struct json_text *json, const char *name, const uint8_t *value, size_t bytes);
void json_text_unsigned(struct json_text *json, const char *name, uint64_t value);
void json_text_signed(struct json_text *json, const char *name, int64_t value);
/* What is not finite is null. */
void json_text_double(struct json_text *json, const char *name, double value);
void json_text_bool(struct json_text *json, const char *name, bool value);

/* All of it fitted, and all that was begun was ended. */
bool json_text_ok(const struct json_text *json);

#endif
