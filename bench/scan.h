/*
 * bench/scan.h: reads JSON values one behind the other from a file (plain or gzip) or from memory,
 * in bounded memory: nothing is kept but a buffer and one bit a level. Strict (RFC 8259); every
 * refusal says file:line, what was found and what would be right. Runs on: one thread.
 */
#ifndef KVTIER_BENCH_SCAN_H
#define KVTIER_BENCH_SCAN_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SCAN_DEPTH_MAX 32
#define SCAN_STRING_MAX (1u << 20) /* bytes of one string */
#define SCAN_KEY_BYTES 64          /* longer keys are cut: none that we know is */
#define SCAN_BUFFER_BYTES 65536

struct scan {
	const char *name; /* stands in messages */
	void *gzip;       /* gzFile, or NULL: `memory` */
	const uint8_t *memory;
	size_t memory_bytes;
	struct error *error;
	uint64_t line;
	unsigned depth;
	bool has_items[SCAN_DEPTH_MAX + 1]; /* of the open object or array of each level */
	size_t at, filled;
	uint8_t buffer[SCAN_BUFFER_BYTES];
};

/* All functions below return 0 (or what they say) or a negative errno with the words in `error`. */
must_check int scan_open(struct scan *scan, const char *path, struct error *error);
/* `memory` is borrowed until scan_close(). */
void scan_open_memory(struct scan *scan, const void *memory, size_t bytes, const char *name,
		      struct error *error);
void scan_close(struct scan *scan);

/* Words a refusal at the present line. */
__attribute__((format(printf, 2, 3))) int scan_refuse(struct scan *scan, const char *format, ...);

/* 1: another value follows, 0: the end of the input. For values one behind the other (a line each,
 * or not). */
must_check int scan_more(struct scan *scan);
/* The first character of the next value ('{', '[', '"', '0' for any number, 't', 'f', 'n'). */
must_check int scan_peek(struct scan *scan, const char *what);

must_check int scan_object_begin(struct scan *scan, const char *what);
/* 1: a member follows and its key is in `key`; 0: the object ended. */
must_check int scan_object_next(struct scan *scan, char key[SCAN_KEY_BYTES]);
must_check int scan_array_begin(struct scan *scan, const char *what);
/* 1: an element follows; 0: the array ended. */
must_check int scan_array_next(struct scan *scan);

/* A whole number in 0..limit. */
must_check int scan_count(struct scan *scan, const char *what, uint64_t limit, uint64_t *out_count);
/* Any finite number in 0..limit. */
must_check int scan_number(struct scan *scan, const char *what, double limit, double *out_number);
/* The text, NUL-terminated and cut to the room. */
must_check int scan_string(struct scan *scan, const char *what, char *text, size_t text_bytes);
must_check int scan_skip(struct scan *scan);

/* One line of text (CSV): 1, or 0 at the end. A longer line is refused. */
must_check int scan_text_line(struct scan *scan, char *text, size_t text_bytes);

#endif
