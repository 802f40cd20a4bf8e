/*
 * bench/options.h: the options of a command, from one table that also makes its --help.
 * Runs on: main, before anything else.
 */
#ifndef KVTIER_BENCH_OPTIONS_H
#define KVTIER_BENCH_OPTIONS_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OPTIONS_MAX 48

enum option_kind {
	OPTION_FLAG,   /* bool: --name */
	OPTION_COUNT,  /* uint64_t: a whole number */
	OPTION_BYTES,  /* uint64_t: with KiB, MiB, GiB, TiB, or none for bytes */
	OPTION_NUMBER, /* double */
	OPTION_TEXT    /* const char *: borrowed from the arguments */
};

struct option_row {
	const char *name; /* without dashes */
	enum option_kind kind;
	const char *metavar; /* "FILE", "N"; NULL for flags */
	const char *help;
	size_t offset;    /* of the value in what options_parse() fills; written when given */
	double low, high; /* of numbers; high 0: no bound */
	bool required;
};

struct options {
	const char *command; /* "replay" */
	const char *summary;
	const struct option_row *rows;
	unsigned count;
};

/* 0; 1: --help was printed; negative: refused, worded with the nearest option. --name VALUE or
 * --name=VALUE. */
must_check int options_parse(const struct options *options, void *target, int argc, char **argv,
			     struct error *error);

/* "64KiB" to 65536. */
must_check int options_parse_bytes(const char *text, uint64_t *out_bytes);

#endif
