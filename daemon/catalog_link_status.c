/* daemon/catalog_link_status.c: how the catalogue's link is, for the loop and for people. */
#include "daemon/catalog_link_parts.h"

#include <assert.h>

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

uint64_t catalog_link_answers(const struct catalog_link *link)
{
	return link->answers;
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
							   CATALOG_MAILBOX_MESSAGES);

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
