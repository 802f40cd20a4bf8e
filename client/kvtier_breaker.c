/* client/kvtier_breaker.c: how often a daemon that does not answer is asked. Pure: times are the
 * caller's. */
#include "client/client.h"

bool breaker_holds(const struct breaker *breaker, uint64_t now_us)
{
	return breaker->pause_us != 0 && now_us < breaker->until_us;
}

void breaker_trip(struct breaker *breaker, uint64_t waited_us, uint64_t now_us)
{
	uint64_t pause_us = waited_us < BREAKER_PAUSE_US_MAX ? waited_us * BREAKER_TIMES
							     : BREAKER_PAUSE_US_MAX;

	if (pause_us < breaker->pause_us * 2)
		pause_us = breaker->pause_us * 2;
	if (pause_us < 1)
		pause_us = 1;
	breaker->pause_us = pause_us < BREAKER_PAUSE_US_MAX ? pause_us : BREAKER_PAUSE_US_MAX;
	breaker->until_us = now_us + breaker->pause_us;
}

void breaker_close(struct breaker *breaker)
{
	*breaker = (struct breaker){ .pause_us = 0 };
}
