/* daemon/catalog_link.c: records on their way to the catalogue: pending, sent, synced; and sent
 * again. */
#include "daemon/catalog_link.h"

#include "base/failpoint.h"
#include "daemon/worker.h"
#include "tiers/nvme/catalog_server.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAILBOX_MESSAGES 4096u
#define SEND_STEP_MAX 2048u /* records sent in one step */
#define REOPEN_US WORKER_BACKOFF_US_MIN

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

static const bool legal_content[4][4] = {
	[CONTENT_GOOD] = { [CONTENT_DIRTY] = true },
	[CONTENT_DIRTY] = { [CONTENT_CLEARING] = true },
	[CONTENT_CLEARING] = { [CONTENT_DIRTY] = true, [CONTENT_RESENDING] = true },
	[CONTENT_RESENDING] = { [CONTENT_DIRTY] = true, [CONTENT_GOOD] = true },
};

struct catalog_link {
	struct catalog_link_config config;
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
	int failed_code; /* the last word of this life, or 0 */
	char reason[256];
};

static void content_become(struct catalog_link *link, enum content next)
{
	assert(legal_content[link->content][next]);
	link->content = next;
}

static struct catalog_message *pending_at(const struct catalog_link *link, uint64_t position)
{
	return &link->pending[position & (link->config.pending_max - 1)];
}

/* ---- giving up, and the end of a life ---- */

static void pending_drop(struct catalog_link *link)
{
	link->counters.dropped += link->tail - link->first;
	link->first = link->synced_at = link->sent = link->tail;
}

static void give_up_records(struct catalog_link *link)
{
	pending_drop(link);
	if (link->content == CONTENT_DIRTY)
		return;
	/* A CLEAR under way is answered before anything is sent again, so it would clear in vain
	 * only. */
	content_become(link, CONTENT_DIRTY);
	link->counters.rebuilds++;
}

static void life_ended(struct catalog_link *link, const char *reason)
{
	if (link->failed_code != 0)
		snprintf(link->reason, sizeof(link->reason), "%.200s (%s)", reason,
			 strerror(-link->failed_code));
	else
		snprintf(link->reason, sizeof(link->reason), "%.200s", reason);
	link->failed_code = 0;
	link->counters.deaths++;
	link->life = LIFE_NONE;
	/* All that is not known to be written is sent again. */
	link->sent = link->synced_at = link->first;
	if (link->content == CONTENT_CLEARING)
		content_become(link, CONTENT_DIRTY);
	if (link->scan == SCAN_RUNNING)
		link->scan = SCAN_WANTED;
	assert(link->first <= link->tail);
}

/* Ends this life because of what it did. */
static void life_kill(struct catalog_link *link, const char *reason)
{
	if (link->worker != NULL) {
		worker_kill(link->worker, reason);
		return;
	}
	catalog_server_close(&link->server);
	link->reopen_us = link->now_us + REOPEN_US;
	life_ended(link, reason);
}

/* ---- what the back end says ---- */

static void scan_finish(struct catalog_link *link, struct catalog_scan_end *end)
{
	void (*done)(void *owner, const struct catalog_scan_end *) = link->done;

	assert(link->scan != SCAN_NONE && done != NULL);
	link->scan = SCAN_NONE;
	link->done = NULL;
	end->rows = link->counters.rows;
	end->skipped = link->counters.rows_skipped;
	done(link->config.owner, end);
}

static void scan_give_up(struct catalog_link *link, int result)
{
	struct catalog_scan_end end = { .result = result };

	if (link->scan != SCAN_NONE)
		scan_finish(link, &end);
}

/* After a worker's death the scan begins anew; rows that were handed over are left out. */
static void row_arrived(struct catalog_link *link, const struct catalog_record *record)
{
	if (link->scan != SCAN_RUNNING)
		return; /* given up: it was too late */
	if (link->has_last_row) {
		int order = memcmp(record->device, link->last_device, DEVICE_ID_BYTES);
		if (order < 0 || (order == 0 && record->offset <= link->last_offset))
			return;
	}
	link->has_last_row = true;
	memcpy(link->last_device, record->device, DEVICE_ID_BYTES);
	link->last_offset = record->offset;
	link->counters.rows++;
	link->row(link->config.owner, record);
}

static void scanned_arrived(struct catalog_link *link, uint64_t skipped)
{
	struct catalog_scan_end end = { .is_complete = link->was_complete && skipped == 0 };

	if (link->scan != SCAN_RUNNING)
		return;
	link->counters.rows_skipped = skipped;
	link->is_mark_wanted = link->is_mark_wanted || link->was_complete;
	scan_finish(link, &end);
}

static void opened_arrived(struct catalog_link *link, const struct catalog_message *message)
{
	if (link->life != LIFE_OPENING)
		return;
	link->life = LIFE_OPEN;
	link->was_complete = message->result == 1;
	/* Another database than the one that our records went to: they are gone. */
	if (link->is_database_known && memcmp(link->database_id, message->record.space, 16) != 0)
		give_up_records(link);
	memcpy(link->database_id, message->record.space, 16);
	link->is_database_known = true;
}

static void synced_arrived(struct catalog_link *link, uint64_t position)
{
	if (position > link->synced_at) {
		life_kill(link, "answered a batch that was not sent");
		return;
	}
	if (position <= link->first)
		return; /* of records that were given up since */
	link->counters.batches_written++;
	link->first = position;
	link->sync_sent_us = link->now_us;
}

static void cleared_arrived(struct catalog_link *link, const struct catalog_message *message)
{
	if (link->content == CONTENT_CLEARING) {
		content_become(link, CONTENT_RESENDING);
		link->resend_cursor = 0;
	}
	memcpy(link->database_id, message->record.space, 16);
}

static void failed_arrived(struct catalog_link *link, int code)
{
	link->failed_code = code;
	if (code == -ENOTSUP) {
		link->is_unsupported = true;
		pending_drop(link);
		scan_give_up(link, -ENOTSUP);
	} else if (link->worker == NULL) {
		life_kill(link, "the back end failed");
	} /* else its process ends by itself */
}

static void message_arrived(void *owner, const void *memory)
{
	struct catalog_link *link = owner;
	const struct catalog_message *message = memory;

	switch (message->verb) {
	case CATALOG_OPENED:
		opened_arrived(link, message);
		break;
	case CATALOG_ROW:
		row_arrived(link, &message->record);
		break;
	case CATALOG_SCANNED:
		scanned_arrived(link, message->skipped);
		break;
	case CATALOG_SYNCED:
		synced_arrived(link, message->batch);
		break;
	case CATALOG_CLEARED:
		cleared_arrived(link, message);
		break;
	case CATALOG_FAILED:
		failed_arrived(link, message->result);
		break;
	default:
		life_kill(link, "sent a message of an unknown verb");
	}
}

/* ---- the back end: a worker, or here ---- */

static void worker_started(void *owner)
{
	struct catalog_link *link = owner;

	assert(link->life == LIFE_NONE);
	link->life = LIFE_OPENING;
}

static void worker_ended(void *owner, const char *reason)
{
	life_ended(owner, reason);
}

static bool answer_arrived(void *owner, const struct catalog_message *message)
{
	message_arrived(owner, message);
	return true;
}

static bool server_step(struct catalog_link *link)
{
	struct error error;

	if (link->life != LIFE_NONE || link->now_us < link->reopen_us)
		return false;
	link->life = LIFE_OPENING;
	/* A failure has been answered, and has ended this life, before this returns. */
	int result = catalog_server_open(&link->server, link->config.ops, link->config.path,
					 answer_arrived, link, &error);
	if (result < 0)
		snprintf(link->reason, sizeof(link->reason), "%s", error.text);
	return true;
}

static uint32_t room(const struct catalog_link *link)
{
	return link->worker != NULL ? worker_room(link->worker) : SEND_STEP_MAX;
}

static bool is_sendable(const struct catalog_link *link)
{
	return link->life == LIFE_OPEN && !link->is_unsupported;
}

/* Needs room. False: the life has ended by it. */
static bool send_message(struct catalog_link *link, const struct catalog_message *message)
{
	struct error error;
	uint64_t deaths = link->counters.deaths;

	if (link->worker != NULL)
		return worker_send(link->worker, message) == 0;
	if (catalog_server_handle(&link->server, message, &error) < 0)
		snprintf(link->reason, sizeof(link->reason), "%s", error.text);
	return deaths == link->counters.deaths;
}

/* ---- the step ---- */

static bool send_sync(struct catalog_link *link)
{
	struct catalog_message message = { .verb = CATALOG_SYNC, .batch = link->sent };

	/* Before it is sent: within this process the answer comes at once. */
	if (link->synced_at == link->first)
		link->sync_sent_us = link->now_us;
	link->synced_at = link->sent;
	link->counters.batches_sent++;
	if (!send_message(link, &message))
		return false;
	if (failpoint(catalog_batch_sent))
		life_kill(link, "failpoint catalog_batch_sent");
	return true;
}

/* A batch ends by size, by age, or because all is wanted written. */
static void batch_end(struct catalog_link *link)
{
	if (link->sent == link->synced_at || room(link) == 0)
		return;
	if (link->sent - link->synced_at >= link->batch_records ||
	    link->now_us - link->batch_began_us >= CATALOG_BATCH_US ||
	    (link->is_flush_wanted && link->sent == link->tail))
		(void)send_sync(link);
}

static bool send_pending(struct catalog_link *link)
{
	unsigned count = 0;

	/* A scan sees what an earlier daemon left: nothing is written before it has ended. */
	if (link->scan != SCAN_NONE || link->content == CONTENT_DIRTY ||
	    link->content == CONTENT_CLEARING)
		return false;
	/* Room for one more: its SYNC. */
	while (is_sendable(link) && link->sent < link->tail && room(link) >= 2 &&
	       count < SEND_STEP_MAX) {
		if (link->sent == link->synced_at)
			link->batch_began_us = link->now_us;
		uint64_t position = link->sent++;
		if (!send_message(link, pending_at(link, position)))
			return true;
		count++;
		if (link->sent - link->synced_at >= link->batch_records)
			batch_end(link);
	}
	if (is_sendable(link))
		batch_end(link);
	if (link->first == link->tail)
		link->is_flush_wanted = false;
	return count > 0;
}

static bool send_scan(struct catalog_link *link)
{
	struct catalog_message message = { .verb = CATALOG_SCAN };

	if (link->scan != SCAN_WANTED || room(link) == 0)
		return false;
	link->scan = SCAN_RUNNING;
	(void)send_message(link, &message);
	return true;
}

static bool send_clear(struct catalog_link *link)
{
	struct catalog_message message = { .verb = CATALOG_CLEAR };

	if (link->content != CONTENT_DIRTY || link->scan != SCAN_NONE || room(link) == 0)
		return false;
	content_become(link, CONTENT_CLEARING);
	link->sync_sent_us = link->now_us;
	(void)send_message(link, &message);
	return true;
}

static void pending_add(struct catalog_link *link, const struct catalog_message *message)
{
	if (link->is_unsupported || link->content == CONTENT_DIRTY ||
	    link->content == CONTENT_CLEARING) {
		link->counters.dropped++;
		return;
	}
	if (link->tail - link->first == link->config.pending_max) {
		give_up_records(link);
		link->counters.dropped++;
		return;
	}
	*pending_at(link, link->tail++) = *message;
	assert(link->tail - link->first <= link->config.pending_max);
}

static void add_mark(struct catalog_link *link)
{
	struct catalog_message message = { .verb = CATALOG_MARK };

	pending_add(link, &message);
}

/* Asks for more of everything, and leaves half of what fits for what changes meanwhile. */
static bool resend_some(struct catalog_link *link)
{
	uint64_t half = link->config.pending_max / 2, used = link->tail - link->first;

	if (link->content != CONTENT_RESENDING || used >= half)
		return false;
	uint64_t limit = half - used < CATALOG_RESEND_STEP_MAX ? half - used
							       : CATALOG_RESEND_STEP_MAX;
	bool is_all = link->config.resend(link->config.owner, &link->resend_cursor,
					  (unsigned)limit);
	assert(link->tail - link->first <= used + limit);
	if (is_all) {
		content_become(link, CONTENT_GOOD);
		if (link->is_mark_wanted)
			add_mark(link);
	}
	return true;
}

/* No answer for so long, although it beats: this life makes no progress. */
static void progress_check(struct catalog_link *link)
{
	if (!is_sendable(link) ||
	    (link->synced_at == link->first && link->content != CONTENT_CLEARING))
		return;
	if (link->now_us - link->sync_sent_us >= CATALOG_SYNC_US_MAX)
		life_kill(link, "did not answer a batch in time");
}

static void scan_deadline_check(struct catalog_link *link)
{
	if (link->scan == SCAN_NONE)
		return;
	if (link->scan_until_us == 0)
		link->scan_until_us = link->now_us + link->config.scan_us_max;
	if (link->now_us >= link->scan_until_us)
		scan_give_up(link, -ETIMEDOUT);
}

bool catalog_link_step(struct catalog_link *link, uint64_t now_us)
{
	bool did_something;

	link->now_us = now_us;
	did_something = link->worker != NULL ? worker_step(link->worker, now_us)
					     : server_step(link);
	scan_deadline_check(link);
	progress_check(link);
	if (is_sendable(link))
		did_something |= send_scan(link);
	if (is_sendable(link))
		did_something |= send_clear(link);
	if (is_sendable(link))
		did_something |= resend_some(link);
	if (is_sendable(link))
		did_something |= send_pending(link);
	return did_something;
}

/* ---- what the owner calls ---- */

void catalog_link_put(struct catalog_link *link, const struct catalog_record *record)
{
	struct catalog_message message = { .verb = CATALOG_PUT, .record = *record };

	link->counters.puts++;
	pending_add(link, &message);
}

void catalog_link_delete(struct catalog_link *link, const uint8_t device[DEVICE_ID_BYTES],
			 uint64_t offset)
{
	struct catalog_message message = { .verb = CATALOG_DELETE, .record = { .offset = offset } };

	memcpy(message.record.device, device, DEVICE_ID_BYTES);
	link->counters.deletes++;
	pending_add(link, &message);
}

void catalog_link_scan(struct catalog_link *link,
		       void (*row)(void *owner, const struct catalog_record *record),
		       void (*done)(void *owner, const struct catalog_scan_end *end))
{
	assert(link->scan == SCAN_NONE && link->done == NULL);
	assert(row != NULL && done != NULL);
	link->row = row;
	link->done = done;
	link->scan = SCAN_WANTED;
}

void catalog_link_mark_complete(struct catalog_link *link)
{
	link->is_mark_wanted = true;
	/* While it is cleared and filled again, the mark comes when all has been put. */
	if (link->content == CONTENT_GOOD)
		add_mark(link);
}

void catalog_link_flush(struct catalog_link *link)
{
	link->is_flush_wanted = true;
}

bool catalog_link_is_idle(const struct catalog_link *link)
{
	return link->is_unsupported || (link->first == link->tail &&
					link->content == CONTENT_GOOD && link->scan == SCAN_NONE);
}

enum catalog_link_state catalog_link_state(const struct catalog_link *link)
{
	if (link->is_unsupported || (link->worker != NULL && worker_is_resting(link->worker)))
		return CATALOG_LINK_ABSENT;
	if (link->content != CONTENT_GOOD)
		return CATALOG_LINK_REBUILDING;
	if (link->life != LIFE_OPEN || link->tail - link->first > link->config.pending_max / 2)
		return CATALOG_LINK_BEHIND;
	return CATALOG_LINK_OK;
}

const char *catalog_link_state_name(enum catalog_link_state state)
{
	static const char *const names[] = { "ok", "behind", "rebuilding", "absent" };

	assert(state <= CATALOG_LINK_ABSENT);
	return names[state];
}

const char *catalog_link_reason(const struct catalog_link *link)
{
	return link->reason;
}

void catalog_link_count(const struct catalog_link *link, struct catalog_link_counters *out_counters)
{
	*out_counters = link->counters;
	out_counters->pending = (uint32_t)(link->tail - link->first);
	out_counters->pending_max = link->config.pending_max;
}

uint64_t catalog_link_memory_bytes(const struct catalog_link *link)
{
	uint64_t mailbox = link->worker == NULL
				   ? 0
				   : 2 * ring_memory_bytes(sizeof(struct catalog_message),
							   MAILBOX_MESSAGES);

	return sizeof(*link) + (uint64_t)link->config.pending_max * sizeof(link->pending[0]) +
	       mailbox;
}

int catalog_link_fd(const struct catalog_link *link)
{
	return link->worker == NULL ? -1 : worker_fd(link->worker);
}

bool catalog_link_sleep(struct catalog_link *link)
{
	return link->worker == NULL || worker_sleep(link->worker);
}

void catalog_link_awake(struct catalog_link *link)
{
	if (link->worker != NULL)
		worker_awake(link->worker);
}

uint64_t catalog_link_next_us(const struct catalog_link *link, uint64_t now_us)
{
	uint64_t next_us = link->worker != NULL ? worker_next_us(link->worker, now_us)
						: now_us + WORKER_BEAT_US;

	if (link->life == LIFE_OPEN && link->sent != link->synced_at &&
	    link->batch_began_us + CATALOG_BATCH_US < next_us)
		next_us = link->batch_began_us + CATALOG_BATCH_US;
	if (link->worker == NULL && link->life == LIFE_NONE && link->reopen_us < next_us)
		next_us = link->reopen_us;
	return next_us > now_us ? next_us : now_us;
}

pid_t catalog_link_pid(const struct catalog_link *link)
{
	return link->worker == NULL ? 0 : worker_pid(link->worker);
}

/* ---- open and close ---- */

static int worker_open(struct catalog_link *link, struct error *error)
{
	struct worker_config config = {
		.name = "catalog",
		.argument = link->config.path,
		.program = link->config.program,
		.message_bytes = sizeof(struct catalog_message),
		.messages_max = MAILBOX_MESSAGES,
		.stall_us_max = link->config.stall_us_max,
		.clock = link->config.clock,
		.on_start = worker_started,
		.on_message = message_arrived,
		.on_end = worker_ended,
		.owner = link,
		.lock_fd = link->config.lock_fd,
	};

	return worker_create(&link->worker, &config, error);
}

int catalog_link_open(struct catalog_link **out_link, const struct catalog_link_config *config,
		      struct error *error)
{
	struct catalog_link *link = calloc(1, sizeof(*link));
	uint32_t pending_max = config->pending_max == 0 ? CATALOG_PENDING_MAX : config->pending_max;
	int result = 0;

	assert((pending_max & (pending_max - 1)) == 0 && pending_max >= 4);
	assert(config->resend != NULL && config->path != NULL);
	if (link == NULL)
		return error_set(error, -ENOMEM, "no memory for the catalogue's link");
	link->config = *config;
	link->config.pending_max = pending_max;
	link->batch_records = pending_max / 4 < CATALOG_BATCH_RECORDS ? pending_max / 4
								      : CATALOG_BATCH_RECORDS;
	if (link->config.scan_us_max == 0)
		link->config.scan_us_max = CATALOG_SCAN_US_MAX;
	link->pending = calloc(pending_max, sizeof(link->pending[0]));
	if (link->pending == NULL)
		result = error_set(error, -ENOMEM,
				   "no memory for %u pending records of the catalogue",
				   pending_max);
	if (result == 0 && config->ops == NULL)
		result = worker_open(link, error);
	if (result < 0) {
		catalog_link_close(link);
		return result;
	}
	*out_link = link;
	return 0;
}

void catalog_link_close(struct catalog_link *link)
{
	if (link == NULL)
		return;
	worker_destroy(link->worker);
	catalog_server_close(&link->server);
	free(link->pending);
	free(link);
}
