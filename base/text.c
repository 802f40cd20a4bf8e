/* base/text.c: a text that grows up to a bound. */
#include "base/text.h"

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROOM_FIRST 1024u

void text_init(struct text *text, size_t bytes_max)
{
	assert(bytes_max > 0 && bytes_max < SIZE_MAX / 2);
	memset(text, 0, sizeof(*text));
	text->bytes_max = bytes_max;
}

void text_finish(struct text *text)
{
	if (text == NULL)
		return;
	free(text->bytes);
	memset(text, 0, sizeof(*text));
}

void text_clear(struct text *text)
{
	text->length = 0;
	text->is_cut = false;
	if (text->bytes != NULL)
		text->bytes[0] = '\0';
}

/* Room for `count` more bytes and the NUL. */
static bool room_make(struct text *text, size_t count)
{
	size_t room = text->room == 0 ? ROOM_FIRST : text->room;
	char *bytes;

	assert(text->length <= text->bytes_max);
	if (count > text->bytes_max - text->length) {
		text->is_cut = true;
		return false;
	}
	while (room < text->length + count + 1)
		room *= 2;
	if (room == text->room)
		return true;
	bytes = realloc(text->bytes, room);
	if (bytes == NULL) {
		text->is_cut = true;
		return false;
	}
	text->bytes = bytes;
	text->room = room;
	return true;
}

void text_append(struct text *text, const void *bytes, size_t count)
{
	if (!room_make(text, count))
		return;
	if (count > 0)
		memcpy(text->bytes + text->length, bytes, count);
	text->length += count;
	text->bytes[text->length] = '\0';
}

void text_add(struct text *text, const char *words)
{
	text_append(text, words, strlen(words));
}

void text_printf(struct text *text, const char *format, ...)
{
	va_list arguments, again;
	int count;

	va_start(arguments, format);
	va_copy(again, arguments);
	count = vsnprintf(NULL, 0, format, arguments);
	assert(count >= 0);
	if (room_make(text, (size_t)count)) {
		vsnprintf(text->bytes + text->length, (size_t)count + 1, format, again);
		text->length += (size_t)count;
	}
	va_end(again);
	va_end(arguments);
}
