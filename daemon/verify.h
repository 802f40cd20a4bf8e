/*
 * daemon/verify.h: `kvtierd --verify`: what lies in the tiers of a stopped or running daemon is
 * checked, slot by slot, without taking a lock or changing a byte.
 *
 * A slot is judged by itself: header, place, extent, epoch and payload. What looks damaged is
 * looked at again after a while: if its bytes have changed, a daemon was writing it (in flux). What
 * stays as it was is damaged: a miss, never wrong bytes, as every reader checks the same.
 * Runs on: main, instead of the daemon; one thread. Blocks.
 * Limit:   VERIFY_SUSPECTS_MAX slots wait for their second look.
 */
#ifndef KVTIER_DAEMON_VERIFY_H
#define KVTIER_DAEMON_VERIFY_H

#include "base/clock.h"
#include "daemon/settings.h"
#include "tiers/look.h"

#include <stdio.h>

#define VERIFY_SUSPECTS_MAX 65536u

enum verify_kind {
	VERIFY_GOOD,
	VERIFY_STALE,       /* whole, but of an earlier extent or place, or forgotten */
	VERIFY_EMPTY,
	VERIFY_SEALED,      /* enciphered: the payload cannot be checked here */
	VERIFY_IN_FLUX,     /* changed while it was looked at */
	VERIFY_DAMAGED,
	VERIFY_UNREADABLE,  /* the device did not give the bytes */
	VERIFY_KINDS
};

struct verify_counts {
	uint64_t slots[VERIFY_KINDS];
	uint64_t bytes;                  /* read */
	uint64_t heads_damaged;          /* copies of superblocks and tables that are not whole */
};

struct verify_options {
	const struct settings *settings;
	bool has_tier[TIERS];
	bool is_json;                    /* lines of JSON on `out` */
	bool has_bar;                    /* `progress` is a terminal */
	FILE *out, *progress;
	/* Seams that tests replace; NULL: the real ones. */
	const struct block_io_ops *io_ops;
	void (*pause)(void *owner, uint64_t us);
	void *owner;
};

struct verify_result {
	struct verify_counts counts;
	unsigned failures;               /* parts that could not be looked at */
	bool is_running;                 /* a daemon has the state directory */
	bool journal_is_damaged;
};

const char *verify_kind_name(enum verify_kind kind);
/* Writes what it finds to `out`; `out_result` always. -ENOMEM alone is a failure. */
must_check int verify_run(const struct verify_options *options, struct verify_result *out_result);
/* 0 all good, 1 something is damaged, 3 something could not be read. */
int verify_status(const struct verify_result *result);

/* kvtierd with --verify among its arguments: its exit status. 2: wrong usage or settings. */
int verify_main(int count, char **arguments);

#endif
