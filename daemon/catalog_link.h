/*
 * daemon/catalog_link.h: the loop's view of the catalogue: records are noted, sent to its worker in
 * batches, kept until they are written, and sent again, in order, after the worker's death. Nothing
 * here blocks.
 *
 * When more is pending than fits, the link gives up the records: the catalogue is cleared, and the
 * owner puts all it knows again, in steps (`resend`). The same happens when the database turns out
 * to be another one than before. Runs on: the loop thread.
 */
#ifndef KVTIER_DAEMON_CATALOG_LINK_H
#define KVTIER_DAEMON_CATALOG_LINK_H

#include "base/clock.h"
#include "base/error.h"
#include "tiers/nvme/catalog.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define CATALOG_BATCH_RECORDS 1024u
#define CATALOG_BATCH_US (UINT64_C(100) * 1000)
#define CATALOG_SYNC_US_MAX                                                                        \
	(UINT64_C(30) * 1000000) /* a batch not answered by then: the worker is killed */
#define CATALOG_SCAN_US_MAX (UINT64_C(30) * 1000000) /* the default */
#define CATALOG_PENDING_MAX 65536u                   /* the default */
#define CATALOG_RESEND_STEP_MAX 256u                 /* records that `resend` may put in one step */

struct catalog_link;

struct catalog_link_config {
	const char *path;    /* of the database; its folder exists */
	const char *program; /* NULL: our own binary */
	const struct catalog_ops
		*ops; /* not NULL: this back end, within this process and thread (tests) */
	struct clock *clock;
	uint64_t stall_us_max;
	uint64_t scan_us_max; /* 0: CATALOG_SCAN_US_MAX; from the first step after
				 catalog_link_scan() */
	uint32_t pending_max; /* a power of two; 0: CATALOG_PENDING_MAX */
	int lock_fd;          /* see worker_config */
	/*
	 * Put (by catalog_link_put) at most `limit` more of all records there are, going on from
	 * *cursor, which is 0 in the beginning and the owner's to count. True: that was all. What
	 * changes behind the cursor meanwhile is put and deleted as always; a record may be put
	 * twice.
	 */
	bool (*resend)(void *owner, uint64_t *cursor, unsigned limit);
	void *owner;
};

enum catalog_link_state {
	CATALOG_LINK_OK,
	CATALOG_LINK_BEHIND,     /* the worker is away, or more than half of what fits is pending */
	CATALOG_LINK_REBUILDING, /* cleared, not everything is there again */
	CATALOG_LINK_ABSENT /* no RocksDB in this build, or the worker died too often and rests */
};

struct catalog_link_counters {
	uint64_t puts, deletes;
	uint64_t dropped; /* not noted, because everything is put again anyway, or there is no
			     catalogue */
	uint64_t batches_sent, batches_written;
	uint64_t deaths;
	uint64_t rebuilds;
	uint64_t rows, rows_skipped;
	uint32_t pending, pending_max;
};

struct catalog_scan_end {
	int result; /* 0; -ETIMEDOUT; -ENOTSUP: no catalogue */
	uint64_t rows, skipped;
	bool is_complete; /* catalog_link_mark_complete() was called for just this database, and
			     none was skipped */
};

/* Heap, at startup. Starts nothing: the first step does. */
must_check int catalog_link_open(struct catalog_link **out_link,
				 const struct catalog_link_config *config, struct error *error);
/* Kills the worker: what is not written is lost. catalog_link_flush() and steps until it is idle
 * come first. */
void catalog_link_close(struct catalog_link *link);
/* One pass. Returns whether it did anything. */
bool catalog_link_step(struct catalog_link *link, uint64_t now_us);

void catalog_link_put(struct catalog_link *link, const struct catalog_record *record);
void catalog_link_delete(struct catalog_link *link, const uint8_t device[DEVICE_ID_BYTES],
			 uint64_t offset);
/*
 * At start, once, before the first put: `row` for each record, each place at most once, in the
 * order of (device, offset); then `done`, once, at the latest after scan_us_max. Both from within
 * catalog_link_step().
 */
void catalog_link_scan(struct catalog_link *link,
		       void (*row)(void *owner, const struct catalog_record *record),
		       void (*done)(void *owner, const struct catalog_scan_end *end));
/* The owner has put all there is (after a scan that was complete, or when it has found everything
 * by the headers): the next start may believe that the catalogue is complete. */
void catalog_link_mark_complete(struct catalog_link *link);
/* Asks the worker for an answer, by a batch of nothing. False: it cannot be asked now. */
must_check bool catalog_link_ping(struct catalog_link *link);
/* Of batches, so far: a ping has been answered when there are more. */
uint64_t catalog_link_answers(const struct catalog_link *link);
/* Writes what is pending now, not only when the batch is full or old. */
void catalog_link_flush(struct catalog_link *link);
/* Everything put is written, and nothing is being rebuilt. */
bool catalog_link_is_idle(const struct catalog_link *link);

enum catalog_link_state catalog_link_state(const struct catalog_link *link);
/* "ok", "behind", "rebuilding", "absent". */
const char *catalog_link_state_name(enum catalog_link_state state);
/* Why the last life of the worker ended; "" if none did. */
const char *catalog_link_reason(const struct catalog_link *link);
void catalog_link_count(const struct catalog_link *link,
			struct catalog_link_counters *out_counters);
uint64_t catalog_link_memory_bytes(const struct catalog_link *link);
/* Readable when there is something to step for; -1 within this process. */
int catalog_link_fd(const struct catalog_link *link);
/* False: something is there already. */
bool catalog_link_sleep(struct catalog_link *link);
void catalog_link_awake(struct catalog_link *link);
/* When the next step is due at the latest. */
uint64_t catalog_link_next_us(const struct catalog_link *link, uint64_t now_us);
/* 0: none. */
pid_t catalog_link_pid(const struct catalog_link *link);

#endif
