/*
 * daemon/catalog_link_parts.h: the inside of the catalogue's link, for catalog_link*.c only:
 * catalog_link.c sends, catalog_link_answers.c takes what comes back, catalog_link_status.c tells.
 */
#ifndef KVTIER_DAEMON_CATALOG_LINK_PARTS_H
#define KVTIER_DAEMON_CATALOG_LINK_PARTS_H

#include "daemon/catalog_link.h"
#include "daemon/worker.h"
#include "tiers/nvme/catalog_server.h"

#define CATALOG_MAILBOX_MESSAGES 4096u
#define CATALOG_REOPEN_US WORKER_BACKOFF_US_MIN

/* The life of the back end. */
enum life { LIFE_NONE, LIFE_OPENING, LIFE_OPEN };

/* What the database holds, against what it should. */
enum content {
	CONTENT_GOOD,  /* it has, or will have by what is pending, all that was put */
	CONTENT_DIRTY, /* records were given up: it must be cleared; nothing is noted meanwhile */
	CONTENT_CLEARING, /* CLEAR was sent in this life */
	CONTENT_RESENDING /* cleared: the owner puts all again, beside what changes */
};

enum scan { SCAN_NONE, SCAN_WANTED, SCAN_RUNNING };

struct catalog_link {
	struct catalog_link_config config;
	char *path;                   /* config.path, our own */
	struct worker *worker;        /* NULL: within this process */
	struct catalog_server server; /* then this; its ops are NULL while it is closed */
	uint64_t reopen_us;
	uint64_t now_us;
	enum life life;
	enum content content;
	enum scan scan;
	bool is_unsupported;
	bool is_flush_wanted;
	bool is_mark_wanted; /* the owner says that it has put all; said again after each CLEAR */
	bool is_database_known;
	uint8_t database_id[16];
	/*
	 * Pending messages have positions, which only grow; that of n lies at n modulo pending_max.
	 * first <= synced_at <= sent <= tail: up to first it is written, up to synced_at a SYNC was
	 * sent for it, up to sent it was sent. A SYNC carries the position that it is for, so a
	 * batch may be sent twice.
	 */
	struct catalog_message *pending;
	uint32_t batch_records; /* a quarter of what fits, at most CATALOG_BATCH_RECORDS */
	uint64_t first, synced_at, sent, tail;
	uint64_t batch_began_us; /* when the first record after synced_at was sent */
	uint64_t sync_sent_us;   /* of the oldest SYNC that is not answered */
	uint64_t resend_cursor;
	/* The scan at start. */
	void (*row)(void *owner, const struct catalog_record *record);
	void (*done)(void *owner, const struct catalog_scan_end *end);
	uint64_t scan_until_us; /* 0: its first step is still to come */
	bool has_last_row;
	uint8_t last_device[DEVICE_ID_BYTES];
	uint64_t last_offset;
	bool was_complete; /* said OPENED */
	struct catalog_link_counters counters;
	uint64_t answers; /* of batches, pings among them */
	int failed_code; /* the last word of this life, or 0 */
	char reason[256];
};

struct catalog_message *catalog_link_pending_at(const struct catalog_link *link, uint64_t position);
/* The only writer of link->content. */
void catalog_link_content_become(struct catalog_link *link, enum content next);
/* All records are dropped; the database is to be cleared and filled again. */
void catalog_link_give_up_records(struct catalog_link *link);
void catalog_link_scan_give_up(struct catalog_link *link, int result);
/* A life has ended: what is not known to be written is sent again in the next. */
void catalog_link_life_ended(struct catalog_link *link, const char *reason);
/* Ends this life because of what it did. */
void catalog_link_life_kill(struct catalog_link *link, const char *reason);
/* `owner` is the link, `message` a struct catalog_message of the back end. */
void catalog_link_message_arrived(void *owner, const void *message);

#endif
