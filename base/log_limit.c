/* base/log_limit.c: a bucket of time for each event. */
#include "base/log_limit.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#define CREDIT_US_MAX (LOG_LIMIT_BURST * LOG_LIMIT_LINE_US)

/* NULL: the table is full. */
static struct log_limit_event *event_find(struct log_limit *limit, const char *name,
					  uint64_t now_us)
{
	struct log_limit_event *event;

	for (unsigned i = 0; i < limit->events_count; i++)
		if (limit->events[i].name == name || strcmp(limit->events[i].name, name) == 0)
			return &limit->events[i];
	if (limit->events_count == LOG_LIMIT_EVENTS_MAX)
		return NULL;
	event = &limit->events[limit->events_count++];
	*event = (struct log_limit_event){ .name = name,
					   .credit_us = CREDIT_US_MAX,
					   .refilled_us = now_us };
	return event;
}

static void event_refill(struct log_limit_event *event, uint64_t now_us)
{
	uint64_t passed_us = now_us > event->refilled_us ? now_us - event->refilled_us : 0;

	event->credit_us = passed_us >= CREDIT_US_MAX - event->credit_us
				   ? CREDIT_US_MAX
				   : event->credit_us + passed_us;
	event->refilled_us += passed_us;
}

bool log_limit_allows(struct log_limit *limit, const char *name, uint64_t now_us,
		      uint64_t *out_suppressed)
{
	struct log_limit_event *event = event_find(limit, name, now_us);

	*out_suppressed = 0;
	if (event == NULL)
		return true;
	event_refill(event, now_us);
	if (event->credit_us < LOG_LIMIT_LINE_US) {
		limit->owed_count += event->suppressed++ == 0;
		return false;
	}
	event->credit_us -= LOG_LIMIT_LINE_US;
	*out_suppressed = event->suppressed;
	assert(event->suppressed == 0 || limit->owed_count > 0);
	limit->owed_count -= event->suppressed > 0;
	event->suppressed = 0;
	return true;
}

const char *log_limit_take_owed(struct log_limit *limit, uint64_t *out_suppressed)
{
	for (unsigned i = 0; i < limit->events_count; i++) {
		struct log_limit_event *event = &limit->events[i];

		if (event->suppressed == 0)
			continue;
		*out_suppressed = event->suppressed;
		event->suppressed = 0;
		assert(limit->owed_count > 0);
		limit->owed_count--;
		return event->name;
	}
	assert(limit->owed_count == 0);
	return NULL;
}
