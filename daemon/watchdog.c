/* daemon/watchdog.c: no food for a daemon that only looks alive. */
#include "daemon/watchdog.h"

#include "base/log.h"
#include "daemon/notify.h"
#include "daemon/probe.h"

#define WITHHELD_LOOK_US UINT64_C(100000)

void watchdog_init(struct watchdog *watchdog)
{
	*watchdog = (struct watchdog){ .every_us = notify_watchdog_us() };
}

/* While it starts or stops, both of which have bounds of their own, the loop speaks for all. */
static const char *reason_to_withhold(struct daemon *daemon)
{
	if (daemon->phase != DAEMON_SERVING)
		return NULL;
	probe_ask(daemon);
	return probe_unready_reason(daemon);
}

void watchdog_step(struct watchdog *watchdog, struct daemon *daemon)
{
	struct error error;
	const char *reason;

	if (watchdog->every_us == 0 || daemon->now_us < watchdog->next_us)
		return;
	reason = reason_to_withhold(daemon);
	if (reason != NULL && !watchdog->is_withheld)
		log_line(LOG_ERROR, "watchdog_withheld", "reason=\"%s\"", reason);
	watchdog->is_withheld = reason != NULL;
	watchdog->next_us = daemon->now_us +
			    (reason == NULL ? watchdog->every_us : WITHHELD_LOOK_US);
	if (reason == NULL && notify_send("WATCHDOG=1", &error) < 0)
		log_line(LOG_DEBUG, "notify_failed", "reason=\"%s\"", error.text);
}
