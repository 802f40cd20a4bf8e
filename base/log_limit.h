/*
 * base/log_limit.h: how many lines of one event may be logged: LOG_LIMIT_BURST at once, then one a
 * second; the others are counted, so that they can be said. Pure, but for the table that it writes.
 * Runs on: whoever holds the lock over the table. Limit: LOG_LIMIT_EVENTS_MAX events; what more
 * there are have no limit.
 */
#ifndef KVTIER_BASE_LOG_LIMIT_H
#define KVTIER_BASE_LOG_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

#define LOG_LIMIT_EVENTS_MAX 128u
/* More than a start of all tenants and devices, or a reload of all settings, says of one event. */
#define LOG_LIMIT_BURST 64u
#define LOG_LIMIT_LINE_US UINT64_C(1000000) /* after the burst, one line in so long */

struct log_limit {
	struct log_limit_event {
		const char *name;    /* borrowed for ever: events are literals */
		uint64_t credit_us;  /* LOG_LIMIT_LINE_US a line */
		uint64_t refilled_us;
		uint64_t suppressed; /* and not said yet */
	} events[LOG_LIMIT_EVENTS_MAX];
	unsigned events_count;
	unsigned owed_count;         /* events with suppressed lines that were not said yet */
};

/* Whether a line may be logged. Then *out_suppressed is how many were not since the last one that
 * was, and they count as said. */
bool log_limit_allows(struct log_limit *limit, const char *event, uint64_t now_us,
		      uint64_t *out_suppressed);
/* An event with suppressed lines that count as said from now on; NULL: there is none. */
const char *log_limit_take_owed(struct log_limit *limit, uint64_t *out_suppressed);

#endif
