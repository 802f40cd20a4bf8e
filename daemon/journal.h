/*
 * daemon/journal.h: the epochs' file: floors of spaces and tenants, raised by FORGET, purge and tenant removal, durable
 * before the caller is told. Small; appended records with CRC, rewritten (new file, fsync, rename, fsync of the folder)
 * when it has grown to 4x its live records.
 * Epochs come from one counter of the node; the counter after a restart is above every number in the file.
 * An unreadable journal raises the floor of everything: what was stored is a miss for ever, and the file is kept aside.
 *
 * Runs on: open, close: main. journal_write blocks (write, fdatasync) and runs on a mill thread; only one call at a time.
 */
#ifndef KVTIER_DAEMON_JOURNAL_H
#define KVTIER_DAEMON_JOURNAL_H

#include "base/error.h"
#include "transfer/slot_header.h"

#include <stdbool.h>
#include <stdint.h>

enum journal_kind { JOURNAL_SPACE, JOURNAL_TENANT, JOURNAL_ALL };

struct journal_record {
	enum journal_kind kind;
	uint8_t tenant[16];              /* digest of the tenant's name; not used by ALL */
	uint8_t space[SPACE_ID_BYTES];   /* SPACE only */
	uint64_t floor;                  /* epochs below it are forgotten */
};

struct journal;

/* Calls `record` for each live record (the highest floor of each space and tenant). *out_epoch: the counter to go on
 * from (at least 1). A missing file is an empty journal only if `is_first_start`; else it is unreadable. */
must_check int journal_open(struct journal **out_journal, const char *path, bool is_first_start,
			    void (*record)(void *owner, const struct journal_record *record), void *owner,
			    uint64_t *out_epoch, struct error *error);
/* Durable when it returns 0. After a failure the journal is broken: every later call fails with -EIO (fsync is never
 * retried), until the next start. */
must_check int journal_write(struct journal *journal, const struct journal_record *record, struct error *error);
void journal_close(struct journal *journal);

#endif
