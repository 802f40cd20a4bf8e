/* bench/scan.c: a pull scanner of JSON, see scan.h. */
#include "bench/scan.h"

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

static void scan_start(struct scan *scan, const char *name, struct error *error)
{
	scan->name = name;
	scan->gzip = NULL;
	scan->memory = NULL;
	scan->memory_bytes = 0;
	scan->error = error;
	scan->line = 1;
	scan->depth = 0;
	scan->at = 0;
	scan->filled = 0;
	memset(scan->has_items, 0, sizeof(scan->has_items));
}

int scan_open(struct scan *scan, const char *path, struct error *error)
{
	scan_start(scan, path, error);
	errno = 0;
	scan->gzip = gzopen(path, "rbe"); /* zlib reads plain files too */
	if (scan->gzip == NULL)
		return error_set(error, errno != 0 ? -errno : -ENOMEM, "cannot open %s: %s", path,
				 strerror(errno != 0 ? errno : ENOMEM));
	gzbuffer(scan->gzip, 128u << 10);
	return 0;
}

void scan_open_memory(struct scan *scan, const void *memory, size_t bytes, const char *name,
		      struct error *error)
{
	scan_start(scan, name, error);
	scan->memory = memory;
	scan->memory_bytes = bytes;
}

void scan_close(struct scan *scan)
{
	if (scan->gzip != NULL)
		gzclose(scan->gzip);
	scan->gzip = NULL;
	scan->memory = NULL;
	scan->memory_bytes = 0;
}

int scan_refuse(struct scan *scan, const char *format, ...)
{
	char text[200];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	return error_set(scan->error, -EINVAL, "%s:%llu: %s", scan->name,
			 (unsigned long long)scan->line, text);
}

/* Refills the buffer: bytes, 0 at the end, BROKEN (worded). */
static int scan_fill(struct scan *scan)
{
	int bytes = 0, code = Z_OK;

	assert(scan->at == scan->filled);
	if (scan->gzip != NULL) {
		bytes = gzread(scan->gzip, scan->buffer, SCAN_BUFFER_BYTES);
		const char *text = gzerror(scan->gzip, &code);
		if (bytes < 0 || code == Z_BUF_ERROR || code == Z_DATA_ERROR) {
			scan_refuse(scan, "the file cannot be read on: %s (cut short or damaged?)",
				    text);
			return BROKEN;
		}
	} else if (scan->memory != NULL) {
		bytes = scan->memory_bytes < SCAN_BUFFER_BYTES ? (int)scan->memory_bytes
							       : SCAN_BUFFER_BYTES;
		memcpy(scan->buffer, scan->memory, (size_t)bytes);
		scan->memory += bytes;
		scan->memory_bytes -= (size_t)bytes;
	}
	scan->at = 0;
	scan->filled = (size_t)bytes;
	return bytes;
}

/* The next byte without taking it, END_OF_INPUT or BROKEN. */
static inline int scan_look(struct scan *scan)
{
	if (scan->at == scan->filled) {
		int result = scan_fill(scan);
		if (result <= 0)
			return result == 0 ? END_OF_INPUT : BROKEN;
	}
	return scan->buffer[scan->at];
}

static inline void scan_pass(struct scan *scan)
{
	if (scan->buffer[scan->at++] == '\n')
		scan->line++;
}

/* The next byte that is not white space, not taken. */
static int scan_look_past_space(struct scan *scan)
{
	for (;;) {
		int byte = scan_look(scan);
		if (byte != ' ' && byte != '\t' && byte != '\n' && byte != '\r')
			return byte;
		scan_pass(scan);
	}
}

/* "expected WHAT, found 'x'". */
static int scan_unexpected(struct scan *scan, int byte, const char *expected)
{
	if (byte == BROKEN)
		return -EINVAL; /* worded by scan_fill() */
	if (byte == END_OF_INPUT)
		return scan_refuse(scan, "expected %s, found the end of the file", expected);
	if (byte >= 0x20 && byte < 0x7f)
		return scan_refuse(scan, "expected %s, found '%c'", expected, byte);
	return scan_refuse(scan, "expected %s, found byte 0x%02x", expected, (unsigned)byte);
}

int scan_more(struct scan *scan)
{
	assert(scan->depth == 0);
	int byte = scan_look_past_space(scan);
	if (byte == BROKEN)
		return -EINVAL;
	return byte != END_OF_INPUT;
}

int scan_peek(struct scan *scan, const char *what)
{
	int byte = scan_look_past_space(scan);

	if (byte == '-' || (byte >= '0' && byte <= '9'))
		return '0';
	if (byte > 0 && strchr("{[\"tfn", byte) != NULL)
		return byte;
	return scan_unexpected(scan, byte, what);
}

static int scan_begin(struct scan *scan, int bracket, const char *what)
{
	int byte = scan_look_past_space(scan);
	char expected[SCAN_KEY_BYTES + 32];

	if (byte != bracket) {
		snprintf(expected, sizeof(expected), "'%c' of %s", bracket, what);
		return scan_unexpected(scan, byte, expected);
	}
	if (scan->depth == SCAN_DEPTH_MAX)
		return scan_refuse(scan, "brackets nest deeper than %d", SCAN_DEPTH_MAX);
	scan_pass(scan);
	scan->has_items[++scan->depth] = false;
	return 0;
}

/* Comma or closing bracket: 1 another item, 0 closed. */
static int scan_next(struct scan *scan, int bracket)
{
	int byte = scan_look_past_space(scan);

	assert(scan->depth > 0);
	if (byte == bracket) {
		scan_pass(scan);
		scan->depth--;
		return 0;
	}
	if (scan->has_items[scan->depth]) {
		if (byte != ',')
			return scan_unexpected(scan, byte,
					       bracket == '}' ? "',' or '}'" : "',' or ']'");
		scan_pass(scan);
	}
	scan->has_items[scan->depth] = true;
	return 1;
}

int scan_object_begin(struct scan *scan, const char *what)
{
	return scan_begin(scan, '{', what);
}

int scan_array_begin(struct scan *scan, const char *what)
{
	return scan_begin(scan, '[', what);
}

int scan_array_next(struct scan *scan)
{
	return scan_next(scan, ']');
}

int scan_object_next(struct scan *scan, char key[SCAN_KEY_BYTES])
{
	int result = scan_next(scan, '}');
	if (result <= 0)
		return result;
	result = scan_string(scan, "a key", key, SCAN_KEY_BYTES);
	if (result < 0)
		return result;
	int byte = scan_look_past_space(scan);
	if (byte != ':')
		return scan_unexpected(scan, byte, "':' behind a key");
	scan_pass(scan);
	return 1;
}

/* Takes the characters of a number; the grammar is checked by scan_number_is_right(). */
static int scan_number_text(struct scan *scan, const char *what, char text[NUMBER_BYTES])
{
	unsigned length = 0;
	int byte = scan_look_past_space(scan);

	while (byte > 0 && strchr("+-.0123456789eE", byte) != NULL) {
		if (length == NUMBER_BYTES - 1)
			return scan_refuse(scan, "a number of more than %d characters for %s",
					   NUMBER_BYTES - 1, what);
		text[length++] = (char)byte;
		scan_pass(scan);
		byte = scan_look(scan);
	}
	text[length] = '\0';
	if (length == 0) {
		char expected[SCAN_KEY_BYTES + 32];
		snprintf(expected, sizeof(expected), "a number for %s", what);
		return scan_unexpected(scan, byte, expected);
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
static bool scan_number_is_right(const char *text)
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

int scan_number(struct scan *scan, const char *what, double limit, double *out_number)
{
	char text[NUMBER_BYTES];
	int result = scan_number_text(scan, what, text);
	if (result < 0)
		return result;
	if (!scan_number_is_right(text))
		return scan_refuse(scan, "%s for %s is not a JSON number", text, what);
	double number = strtod(text, NULL);
	if (!isfinite(number) || number < 0 || number > limit)
		return scan_refuse(scan, "%s is %s, expected 0 to %.15g", what, text, limit);
	*out_number = number;
	return 0;
}

int scan_count(struct scan *scan, const char *what, uint64_t limit, uint64_t *out_count)
{
	char text[NUMBER_BYTES];
	int result = scan_number_text(scan, what, text);
	if (result < 0)
		return result;
	uint64_t count = 0;
	bool fits = scan_number_is_right(text);
	for (const char *digit = text; *digit != '\0'; digit++) {
		if (*digit < '0' || *digit > '9' || count > (UINT64_MAX - 9) / 10) {
			fits = false;
			break;
		}
		count = count * 10 + (uint64_t)(*digit - '0');
	}
	if (!fits || count > limit)
		return scan_refuse(scan, "%s is %s, expected a whole number, 0 to %llu", what, text,
				   (unsigned long long)limit);
	*out_count = count;
	return 0;
}

/* Behind a backslash. Puts '?' for \u escapes: no text that we compare holds one. */
static int scan_escape(struct scan *scan, char *out_byte)
{
	int byte = scan_look(scan);
	const char *names = "\"\\/bfnrt", *values = "\"\\/\b\f\n\r\t";

	if (byte == 'u') {
		scan_pass(scan);
		for (int digit = 0; digit < 4; digit++) {
			byte = scan_look(scan);
			if (byte <= 0 || strchr("0123456789abcdefABCDEF", byte) == NULL)
				return scan_unexpected(scan, byte,
						       "four hexadecimal digits behind \\u");
			scan_pass(scan);
		}
		*out_byte = '?';
		return 0;
	}
	const char *name = byte > 0 ? strchr(names, byte) : NULL;
	if (name == NULL)
		return scan_unexpected(scan, byte, "one of \"\\/bfnrtu behind a backslash");
	scan_pass(scan);
	*out_byte = values[name - names];
	return 0;
}

int scan_string(struct scan *scan, const char *what, char *text, size_t text_bytes)
{
	int byte = scan_look_past_space(scan);
	size_t length = 0;
	char expected[SCAN_KEY_BYTES + 32];

	assert(text_bytes > 0);
	if (byte != '"') {
		snprintf(expected, sizeof(expected), "a string for %s", what);
		return scan_unexpected(scan, byte, expected);
	}
	scan_pass(scan);
	for (uint32_t passed = 0; passed < SCAN_STRING_MAX; passed++) {
		char kept;
		byte = scan_look(scan);
		if (byte < 0x20)
			return scan_unexpected(scan, byte, "'\"' at the end of a string");
		scan_pass(scan);
		if (byte == '"') {
			text[length] = '\0';
			return 0;
		}
		kept = (char)byte;
		if (byte == '\\') {
			int result = scan_escape(scan, &kept);
			if (result < 0)
				return result;
		}
		if (length + 1 < text_bytes)
			text[length++] = kept;
	}
	return scan_refuse(scan, "a string of more than %u bytes for %s", SCAN_STRING_MAX, what);
}

static int scan_skip_word(struct scan *scan, const char *word)
{
	for (const char *letter = word; *letter != '\0'; letter++) {
		int byte = scan_look(scan);
		if (byte != *letter)
			return scan_unexpected(scan, byte, word);
		scan_pass(scan);
	}
	return 0;
}

static int scan_skip_scalar(struct scan *scan, int kind)
{
	char text[NUMBER_BYTES];
	int result;

	switch (kind) {
	case '"':
		return scan_string(scan, "a value", text, sizeof(text));
	case 't':
		return scan_skip_word(scan, "true");
	case 'f':
		return scan_skip_word(scan, "false");
	case 'n':
		return scan_skip_word(scan, "null");
	}
	result = scan_number_text(scan, "a value", text);
	if (result == 0 && !scan_number_is_right(text))
		result = scan_refuse(scan, "%s is not a JSON number", text);
	return result;
}

/* Not recursive: the open brackets are on our own small stack, so the depth is the bound. */
int scan_skip(struct scan *scan)
{
	char key[SCAN_KEY_BYTES], kinds[SCAN_DEPTH_MAX + 1];
	unsigned floor = scan->depth;

	for (;;) {
		int kind = scan_peek(scan, "a value");
		if (kind < 0)
			return kind;
		int result;
		if (kind == '{' || kind == '[') {
			result = scan_begin(scan, kind, "a value");
			if (result == 0)
				kinds[scan->depth] = (char)kind;
		} else {
			result = scan_skip_scalar(scan, kind);
		}
		if (result < 0)
			return result;
		result = 0;
		while (scan->depth > floor && result == 0) {
			result = kinds[scan->depth] == '{' ? scan_object_next(scan, key)
							   : scan_array_next(scan);
			if (result < 0)
				return result;
		}
		if (scan->depth == floor)
			return 0;
	}
}

int scan_text_line(struct scan *scan, char *text, size_t text_bytes)
{
	size_t length = 0;
	int byte = scan_look(scan);

	if (byte == END_OF_INPUT)
		return 0;
	while (byte != '\n' && byte != END_OF_INPUT) {
		if (byte == BROKEN)
			return -EINVAL;
		if (length + 1 == text_bytes)
			return scan_refuse(scan, "a line of more than %zu characters",
					   text_bytes - 1);
		if (byte == 0)
			return scan_refuse(scan, "a NUL byte in a text line");
		text[length++] = (char)byte;
		scan_pass(scan);
		byte = scan_look(scan);
	}
	while (length > 0 && text[length - 1] == '\r')
		length--;
	text[length] = '\0';
	if (byte == '\n')
		scan_pass(scan);
	return 1;
}
