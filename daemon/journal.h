/*
 * daemon/journal.h: the epochs' file: floors of spaces and tenants, raised by FORGET, purge and
 * tenant removal, durable before the caller is told. Small; appended records with CRC, rewritten
 * (new file, fsync, rename, fsync of the folder) when it has grown to 4x its live records. Epochs
 * come from one counter of the node; the counter after a restart is above every number in the file.
 * An unreadable journal raises the floor of everything: what was stored is a miss for ever, and the
 * file is kept aside (PATH.unreadable; the last one only). The counter then goes on from above any
 * number that an earlier one can have had, by the wall clock; so a reader of stored epochs believes
 * only floor <= epoch <= counter.
 *
 * A tail shorter than a record is torn: it was never answered, and is dropped. Any other damage,
 * also of the last record alone, may be of one that was answered, and makes the journal unreadable:
 * too much is forgotten, never too little. (Not noticed: a disk that loses whole records from the
 * end after it confirmed them.) Limit: JOURNAL_LIVE_MAX floors; beyond it, the lower half of the
 * tenant with the most spaces is replaced by one floor of that tenant that covers it.
 *
 * Runs on: open, close: main. journal_write blocks (write, fdatasync) and runs on a mill thread;
 * only one call at a time.
 */
#ifndef KVTIER_DAEMON_JOURNAL_H
#define KVTIER_DAEMON_JOURNAL_H

#include "base/error.h"
#include "transfer/slot_header.h"

#include <stdbool.h>
#include <stdint.h>

#define JOURNAL_LIVE_MAX 4096u
#define JOURNAL_RECORD_BYTES 96u
#define JOURNAL_FLOOR_MAX (UINT32_MAX / 2 - 2)

/* A life says here how many epochs it may use before it uses them, and the next one begins above
 * them: no number is used twice even where a FORGET could not be written. */
#define JOURNAL_RESERVE 256u
/* RESERVED is no floor: epochs up to it may have been used. */
enum journal_kind {
	JOURNAL_SPACE,
	JOURNAL_TENANT,
	JOURNAL_ALL,
	JOURNAL_RESERVED,
	JOURNAL_KINDS
};

struct journal_record {
	enum journal_kind kind;
	uint8_t tenant[16];            /* digest of the tenant's name; SPACE and TENANT */
	uint8_t space[SPACE_ID_BYTES]; /* SPACE only */
	uint64_t floor;                /* epochs below it are forgotten; RESERVED: see above */
};

struct journal;

/* How a journal was found: for a log line and the metrics. */
enum journal_finding { JOURNAL_FINE, JOURNAL_NEW, JOURNAL_TORN_TAIL, JOURNAL_UNREADABLE };
enum journal_finding journal_finding(const struct journal *journal);

/* Calls `record` for each live record (the highest floor of each space and tenant, what is
 * reserved). *out_epoch: the counter to go on from (at least 1). A missing file is an empty journal
 * only if `is_first_start`; else it is unreadable. */
must_check int journal_open(struct journal **out_journal, const char *path, bool is_first_start,
			    void (*record)(void *owner, const struct journal_record *record),
			    void *owner, uint64_t *out_epoch, struct error *error);
/* Durable when it returns 0. After a failure (-EIO) the next call writes all floors, also that of
 * the call that failed, into a new file: a failed fsync is never retried. */
/* The floor is from 1 to JOURNAL_FLOOR_MAX. */
must_check int journal_write(struct journal *journal, const struct journal_record *record,
			     struct error *error);
void journal_close(struct journal *journal);

struct journal_floors;
/* Reads the floors and changes nothing, whoever has the file open. -ENOENT: no such file. Runs on:
 * any thread. */
must_check int journal_inspect(const char *path, struct journal_floors *out_floors,
			       enum journal_finding *out_finding, struct error *error);

#endif
