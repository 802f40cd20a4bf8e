/*
 * base/text.h: a text that grows up to a bound. What does not fit is left out piece by piece and
 * said by `is_cut`, so that writers need no check after each piece, and readers one at the end.
 * Runs on: one thread at a time.
 */
#ifndef KVTIER_BASE_TEXT_H
#define KVTIER_BASE_TEXT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

struct text {
	char *bytes;   /* NUL-terminated once something was added; NULL before */
	size_t length; /* without the NUL */
	size_t room;
	size_t bytes_max; /* of length */
	bool is_cut;      /* a piece did not fit, or there was no memory for it */
};

void text_init(struct text *text, size_t bytes_max);
void text_finish(struct text *text);
/* Empty again; keeps its memory. */
void text_clear(struct text *text);

/* Each adds all of a piece, or none of it. */
void text_append(struct text *text, const void *bytes, size_t count);
void text_add(struct text *text, const char *words);
__attribute__((format(printf, 2, 3))) void text_printf(struct text *text, const char *format, ...);

/* Never NULL. Borrowed until the next call. */
static inline const char *text_words(const struct text *text)
{
	return text->bytes == NULL ? "" : text->bytes;
}

#endif
