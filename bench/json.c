/* bench/json.c: a pull scanner of JSON, see json.h. */
#include "bench/json.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define NUMBER_BYTES 64
#define END_OF_INPUT (-1)
#define BROKEN (-2)

static void json_start(struct json *json, const char *name, struct error *error)
{
	json->name = name;
	json->gzip = NULL;
	json->memory = NULL;
	json->memory_bytes = 0;
	json->error = error;
	json->line = 1;
	json->depth = 0;
	json->at = 0;
	json->filled = 0;
	memset(json->has_items, 0, sizeof(json->has_items));
}

int json_open(struct json *json, const char *path, struct error *error)
{
	json_start(json, path, error);
	errno = 0;
	json->gzip = gzopen(path, "rbe"); /* zlib reads plain files too */
	if (json->gzip == NULL)
		return error_set(error, errno != 0 ? -errno : -ENOMEM, "cannot open %s: %s", path,
				 strerror(errno != 0 ? errno : ENOMEM));
	gzbuffer(json->gzip, 128u << 10);
	return 0;
}

void json_open_memory(struct json *json, const void *memory, size_t bytes, const char *name,
		      struct error *error)
{
	json_start(json, name, error);
	json->memory = memory;
	json->memory_bytes = bytes;
}

void json_close(struct json *json)
{
	if (json->gzip != NULL)
		gzclose(json->gzip);
	json->gzip = NULL;
	json->memory = NULL;
	json->memory_bytes = 0;
}

int json_refuse(struct json *json, const char *format, ...)
{
	char text[200];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	return error_set(json->error, -EINVAL, "%s:%llu: %s", json->name,
			 (unsigned long long)json->line, text);
}

/* Refills the buffer: bytes, 0 at the end, BROKEN (worded). */
static int json_fill(struct json *json)
{
	int bytes = 0, code = Z_OK;

	assert(json->at == json->filled);
	if (json->gzip != NULL) {
		bytes = gzread(json->gzip, json->buffer, JSON_BUFFER_BYTES);
		const char *text = gzerror(json->gzip, &code);
		if (bytes < 0 || code == Z_BUF_ERROR || code == Z_DATA_ERROR) {
			json_refuse(json, "the file cannot be read on: %s (cut short or damaged?)",
				    text);
			return BROKEN;
		}
	} else if (json->memory != NULL) {
		bytes = json->memory_bytes < JSON_BUFFER_BYTES ? (int)json->memory_bytes
							       : JSON_BUFFER_BYTES;
		memcpy(json->buffer, json->memory, (size_t)bytes);
		json->memory += bytes;
		json->memory_bytes -= (size_t)bytes;
	}
	json->at = 0;
	json->filled = (size_t)bytes;
	return bytes;
}

/* The next byte without taking it, END_OF_INPUT or BROKEN. */
static inline int json_look(struct json *json)
{
	if (json->at == json->filled) {
		int result = json_fill(json);
		if (result <= 0)
			return result == 0 ? END_OF_INPUT : BROKEN;
	}
	return json->buffer[json->at];
}

static inline void json_pass(struct json *json)
{
	if (json->buffer[json->at++] == '\n')
		json->line++;
}

/* The next byte that is not white space, not taken. */
static int json_look_past_space(struct json *json)
{
	for (;;) {
		int byte = json_look(json);
		if (byte != ' ' && byte != '\t' && byte != '\n' && byte != '\r')
			return byte;
		json_pass(json);
	}
}

/* "expected WHAT, found 'x'". */
static int json_unexpected(struct json *json, int byte, const char *expected)
{
	if (byte == BROKEN)
		return -EINVAL; /* worded by json_fill() */
	if (byte == END_OF_INPUT)
		return json_refuse(json, "expected %s, found the end of the file", expected);
	if (byte >= 0x20 && byte < 0x7f)
		return json_refuse(json, "expected %s, found '%c'", expected, byte);
	return json_refuse(json, "expected %s, found byte 0x%02x", expected, (unsigned)byte);
}

int json_more(struct json *json)
{
	assert(json->depth == 0);
	int byte = json_look_past_space(json);
	if (byte == BROKEN)
		return -EINVAL;
	return byte != END_OF_INPUT;
}

int json_peek(struct json *json, const char *what)
{
	int byte = json_look_past_space(json);

	if (byte == '-' || (byte >= '0' && byte <= '9'))
		return '0';
	if (byte > 0 && strchr("{[\"tfn", byte) != NULL)
		return byte;
	return json_unexpected(json, byte, what);
}

static int json_begin(struct json *json, int bracket, const char *what)
{
	int byte = json_look_past_space(json);
	char expected[JSON_KEY_BYTES + 32];

	if (byte != bracket) {
		snprintf(expected, sizeof(expected), "'%c' of %s", bracket, what);
		return json_unexpected(json, byte, expected);
	}
	if (json->depth == JSON_DEPTH_MAX)
		return json_refuse(json, "brackets nest deeper than %d", JSON_DEPTH_MAX);
	json_pass(json);
	json->has_items[++json->depth] = false;
	return 0;
}

/* Comma or closing bracket: 1 another item, 0 closed. */
static int json_next(struct json *json, int bracket)
{
	int byte = json_look_past_space(json);

	assert(json->depth > 0);
	if (byte == bracket) {
		json_pass(json);
		json->depth--;
		return 0;
	}
	if (json->has_items[json->depth]) {
		if (byte != ',')
			return json_unexpected(json, byte,
					       bracket == '}' ? "',' or '}'" : "',' or ']'");
		json_pass(json);
	}
	json->has_items[json->depth] = true;
	return 1;
}

int json_object_begin(struct json *json, const char *what)
{
	return json_begin(json, '{', what);
}

int json_array_begin(struct json *json, const char *what)
{
	return json_begin(json, '[', what);
}

int json_array_next(struct json *json)
{
	return json_next(json, ']');
}

int json_object_next(struct json *json, char key[JSON_KEY_BYTES])
{
	int result = json_next(json, '}');
	if (result <= 0)
		return result;
	result = json_string(json, "a key", key, JSON_KEY_BYTES);
	if (result < 0)
		return result;
	int byte = json_look_past_space(json);
	if (byte != ':')
		return json_unexpected(json, byte, "':' behind a key");
	json_pass(json);
	return 1;
}

/* Takes the characters of a number; the grammar is checked by json_number_is_right(). */
static int json_number_text(struct json *json, const char *what, char text[NUMBER_BYTES])
{
	unsigned length = 0;
	int byte = json_look_past_space(json);

	while (byte > 0 && strchr("+-.0123456789eE", byte) != NULL) {
		if (length == NUMBER_BYTES - 1)
			return json_refuse(json, "a number of more than %d characters for %s",
					   NUMBER_BYTES - 1, what);
		text[length++] = (char)byte;
		json_pass(json);
		byte = json_look(json);
	}
	text[length] = '\0';
	if (length == 0) {
		char expected[JSON_KEY_BYTES + 32];
		snprintf(expected, sizeof(expected), "a number for %s", what);
		return json_unexpected(json, byte, expected);
	}
	return byte == BROKEN ? -EINVAL : 0;
}

static const char *pass_digits(const char *text)
{
	while (*text >= '0' && *text <= '9')
		text++;
	return text;
}

/* -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)? */
static bool json_number_is_right(const char *text)
{
	const char *digits = text + (*text == '-');
	const char *end = pass_digits(digits);

	if (end == digits || (*digits == '0' && end > digits + 1))
		return false;
	if (*end == '.') {
		digits = end + 1;
		end = pass_digits(digits);
		if (end == digits)
			return false;
	}
	if (*end == 'e' || *end == 'E') {
		digits = end + 1;
		digits += *digits == '+' || *digits == '-';
		end = pass_digits(digits);
		if (end == digits)
			return false;
	}
	return *end == '\0';
}

int json_number(struct json *json, const char *what, double limit, double *out_number)
{
	char text[NUMBER_BYTES];
	int result = json_number_text(json, what, text);
	if (result < 0)
		return result;
	if (!json_number_is_right(text))
		return json_refuse(json, "%s for %s is not a JSON number", text, what);
	double number = strtod(text, NULL);
	if (!isfinite(number) || number < 0 || number > limit)
		return json_refuse(json, "%s is %s, expected 0 to %.15g", what, text, limit);
	*out_number = number;
	return 0;
}

int json_count(struct json *json, const char *what, uint64_t limit, uint64_t *out_count)
{
	char text[NUMBER_BYTES];
	int result = json_number_text(json, what, text);
	if (result < 0)
		return result;
	uint64_t count = 0;
	bool fits = json_number_is_right(text);
	for (const char *digit = text; *digit != '\0'; digit++) {
		if (*digit < '0' || *digit > '9' || count > (UINT64_MAX - 9) / 10) {
			fits = false;
			break;
		}
		count = count * 10 + (uint64_t)(*digit - '0');
	}
	if (!fits || count > limit)
		return json_refuse(json, "%s is %s, expected a whole number, 0 to %llu", what, text,
				   (unsigned long long)limit);
	*out_count = count;
	return 0;
}

/* Behind a backslash. Puts '?' for \u escapes: no text that we compare holds one. */
static int json_escape(struct json *json, char *out_byte)
{
	int byte = json_look(json);
	const char *names = "\"\\/bfnrt", *values = "\"\\/\b\f\n\r\t";

	if (byte == 'u') {
		json_pass(json);
		for (int digit = 0; digit < 4; digit++) {
			byte = json_look(json);
			if (byte <= 0 || strchr("0123456789abcdefABCDEF", byte) == NULL)
				return json_unexpected(json, byte,
						       "four hexadecimal digits behind \\u");
			json_pass(json);
		}
		*out_byte = '?';
		return 0;
	}
	const char *name = byte > 0 ? strchr(names, byte) : NULL;
	if (name == NULL)
		return json_unexpected(json, byte, "one of \"\\/bfnrtu behind a backslash");
	json_pass(json);
	*out_byte = values[name - names];
	return 0;
}

int json_string(struct json *json, const char *what, char *text, size_t text_bytes)
{
	int byte = json_look_past_space(json);
	size_t length = 0;
	char expected[JSON_KEY_BYTES + 32];

	assert(text_bytes > 0);
	if (byte != '"') {
		snprintf(expected, sizeof(expected), "a string for %s", what);
		return json_unexpected(json, byte, expected);
	}
	json_pass(json);
	for (uint32_t passed = 0; passed < JSON_STRING_MAX; passed++) {
		char kept;
		byte = json_look(json);
		if (byte < 0x20)
			return json_unexpected(json, byte, "'\"' at the end of a string");
		json_pass(json);
		if (byte == '"') {
			text[length] = '\0';
			return 0;
		}
		kept = (char)byte;
		if (byte == '\\') {
			int result = json_escape(json, &kept);
			if (result < 0)
				return result;
		}
		if (length + 1 < text_bytes)
			text[length++] = kept;
	}
	return json_refuse(json, "a string of more than %u bytes for %s", JSON_STRING_MAX, what);
}

static int json_skip_word(struct json *json, const char *word)
{
	for (const char *letter = word; *letter != '\0'; letter++) {
		int byte = json_look(json);
		if (byte != *letter)
			return json_unexpected(json, byte, word);
		json_pass(json);
	}
	return 0;
}

static int json_skip_scalar(struct json *json, int kind)
{
	char text[NUMBER_BYTES];
	int result;

	switch (kind) {
	case '"':
		return json_string(json, "a value", text, sizeof(text));
	case 't':
		return json_skip_word(json, "true");
	case 'f':
		return json_skip_word(json, "false");
	case 'n':
		return json_skip_word(json, "null");
	}
	result = json_number_text(json, "a value", text);
	if (result == 0 && !json_number_is_right(text))
		result = json_refuse(json, "%s is not a JSON number", text);
	return result;
}

/* Not recursive: the open brackets are on our own small stack, so the depth is the bound. */
int json_skip(struct json *json)
{
	char key[JSON_KEY_BYTES], kinds[JSON_DEPTH_MAX + 1];
	unsigned floor = json->depth;

	for (;;) {
		int kind = json_peek(json, "a value");
		if (kind < 0)
			return kind;
		int result;
		if (kind == '{' || kind == '[') {
			result = json_begin(json, kind, "a value");
			if (result == 0)
				kinds[json->depth] = (char)kind;
		} else {
			result = json_skip_scalar(json, kind);
		}
		if (result < 0)
			return result;
		result = 0;
		while (json->depth > floor && result == 0) {
			result = kinds[json->depth] == '{' ? json_object_next(json, key)
							   : json_array_next(json);
			if (result < 0)
				return result;
		}
		if (json->depth == floor)
			return 0;
	}
}

int json_text_line(struct json *json, char *text, size_t text_bytes)
{
	size_t length = 0;
	int byte = json_look(json);

	if (byte == END_OF_INPUT)
		return 0;
	while (byte != '\n' && byte != END_OF_INPUT) {
		if (byte == BROKEN)
			return -EINVAL;
		if (length + 1 == text_bytes)
			return json_refuse(json, "a line of more than %zu characters",
					   text_bytes - 1);
		if (byte == 0)
			return json_refuse(json, "a NUL byte in a text line");
		text[length++] = (char)byte;
		json_pass(json);
		byte = json_look(json);
	}
	while (length > 0 && text[length - 1] == '\r')
		length--;
	text[length] = '\0';
	if (byte == '\n')
		json_pass(json);
	return 1;
}
