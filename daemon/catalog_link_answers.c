/* daemon/catalog_link_answers.c: what the catalogue's back end says, and the end of its life. */
#include "daemon/catalog_link_parts.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static const bool legal_content[4][4] = {
	[CONTENT_GOOD] = { [CONTENT_DIRTY] = true },
	[CONTENT_DIRTY] = { [CONTENT_CLEARING] = true },
	[CONTENT_CLEARING] = { [CONTENT_DIRTY] = true, [CONTENT_RESENDING] = true },
	[CONTENT_RESENDING] = { [CONTENT_DIRTY] = true, [CONTENT_GOOD] = true },
};

void catalog_link_content_become(struct catalog_link *link, enum content next)
{
	assert(legal_content[link->content][next]);
	link->content = next;
}

struct catalog_message *catalog_link_pending_at(const struct catalog_link *link, uint64_t position)
{
	return &link->pending[position & (link->config.pending_max - 1)];
}

/* ---- giving up, and the end of a life ---- */

static void pending_drop(struct catalog_link *link)
{
	link->counters.dropped += link->tail - link->first;
	link->first = link->synced_at = link->sent = link->tail;
}

void catalog_link_give_up_records(struct catalog_link *link)
{
	pending_drop(link);
	if (link->content == CONTENT_DIRTY)
		return;
	catalog_link_content_become(link, CONTENT_DIRTY);
	link->counters.rebuilds++;
}

void catalog_link_life_ended(struct catalog_link *link, const char *reason)
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
		catalog_link_content_become(link, CONTENT_DIRTY);
	if (link->scan == SCAN_RUNNING)
		link->scan = SCAN_WANTED;
	assert(link->first <= link->tail);
}

/* Ends this life because of what it did. */
void catalog_link_life_kill(struct catalog_link *link, const char *reason)
{
	if (link->worker != NULL) {
		worker_kill(link->worker, reason);
		return;
	}
	catalog_server_close(&link->server);
	link->reopen_us = link->now_us + CATALOG_REOPEN_US;
	catalog_link_life_ended(link, reason);
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

void catalog_link_scan_give_up(struct catalog_link *link, int result)
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
		catalog_link_give_up_records(link);
	memcpy(link->database_id, message->record.space, 16);
	link->is_database_known = true;
}

static void synced_arrived(struct catalog_link *link, uint64_t position)
{
	link->answers++;
	if (position > link->synced_at) {
		catalog_link_life_kill(link, "answered a batch that was not sent");
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
		catalog_link_content_become(link, CONTENT_RESENDING);
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
		catalog_link_scan_give_up(link, -ENOTSUP);
	} else if (link->worker == NULL) {
		catalog_link_life_kill(link, "the back end failed");
	} /* else its process ends by itself */
}

void catalog_link_message_arrived(void *owner, const void *memory)
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
		catalog_link_life_kill(link, "sent a message of an unknown verb");
	}
}
