/* daemon/catalog_link.c: records on their way to the catalogue: pending, sent, synced; and sent
 * again. */
#include "daemon/catalog_link_parts.h"

#include "base/failpoint.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEND_STEP_MAX 2048u /* records sent in one step */

/* ---- the back end: a worker, or here ---- */

static void worker_started(void *owner)
{
	struct catalog_link *link = owner;

	assert(link->life == LIFE_NONE);
	link->life = LIFE_OPENING;
}

static void worker_ended(void *owner, const char *reason)
{
	catalog_link_life_ended(owner, reason);
}

static bool answer_arrived(void *owner, const struct catalog_message *message)
{
	catalog_link_message_arrived(owner, message);
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
		catalog_link_life_kill(link, "failpoint catalog_batch_sent");
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
		if (!send_message(link, catalog_link_pending_at(link, position)))
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
	catalog_link_content_become(link, CONTENT_CLEARING);
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
		catalog_link_give_up_records(link);
		link->counters.dropped++;
		return;
	}
	*catalog_link_pending_at(link, link->tail++) = *message;
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
		catalog_link_content_become(link, CONTENT_GOOD);
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
		catalog_link_life_kill(link, "did not answer a batch in time");
}

static void scan_deadline_check(struct catalog_link *link)
{
	if (link->scan == SCAN_NONE)
		return;
	if (link->scan_until_us == 0)
		link->scan_until_us = link->now_us + link->config.scan_us_max;
	if (link->now_us >= link->scan_until_us)
		catalog_link_scan_give_up(link, -ETIMEDOUT);
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

bool catalog_link_ping(struct catalog_link *link)
{
	/* What the answer says has long been written, so it moves nothing. */
	struct catalog_message message = { .verb = CATALOG_SYNC, .batch = link->first };

	return is_sendable(link) && link->scan == SCAN_NONE && room(link) > 0 &&
	       send_message(link, &message);
}

void catalog_link_flush(struct catalog_link *link)
{
	link->is_flush_wanted = true;
}

/* ---- open and close ---- */

static int worker_open(struct catalog_link *link, struct error *error)
{
	struct worker_config config = {
		.name = "catalog",
		.argument = link->config.path,
		.program = link->config.program,
		.message_bytes = sizeof(struct catalog_message),
		.messages_max = CATALOG_MAILBOX_MESSAGES,
		.stall_us_max = link->config.stall_us_max,
		.clock = link->config.clock,
		.on_start = worker_started,
		.on_message = catalog_link_message_arrived,
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
	link->config.path = link->path = strdup(config->path);
	link->batch_records = pending_max / 4 < CATALOG_BATCH_RECORDS ? pending_max / 4
								      : CATALOG_BATCH_RECORDS;
	if (link->config.scan_us_max == 0)
		link->config.scan_us_max = CATALOG_SCAN_US_MAX;
	link->pending = calloc(pending_max, sizeof(link->pending[0]));
	if (link->pending == NULL || link->path == NULL)
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
	free(link->path);
	free(link);
}
