/* index/budget.c: see budget.h. */
#include "index/budget.h"

#include <assert.h>

#define DAY_US (UINT64_C(86400) * 1000000)
#define DAY_HOURS 24

static int64_t burst_bytes(const struct budget *budget)
{
	uint64_t bytes = budget->bytes_day_max / DAY_HOURS;

	return bytes > 0 ? (int64_t)bytes : 1;
}

void budget_init(struct budget *budget, uint64_t bytes_day_max, uint64_t now_us)
{
	*budget = (struct budget){
		.bytes_day_max = bytes_day_max > INT64_MAX ? INT64_MAX : bytes_day_max,
		.refilled_us = now_us,
	};
	budget->credit_bytes = burst_bytes(budget);
}

static void budget_refill(struct budget *budget, uint64_t now_us)
{
	int64_t burst = burst_bytes(budget);

	if (now_us <= budget->refilled_us)
		return;
	unsigned __int128 due = (unsigned __int128)budget->bytes_day_max *
					(now_us - budget->refilled_us) +
				budget->rest;
	unsigned __int128 bytes = due / DAY_US;
	budget->refilled_us = now_us;
	budget->rest = (uint64_t)(due % DAY_US);
	/* Without overflow: credit is at most burst, so what is missing is not negative. */
	unsigned __int128 missing = (unsigned __int128)((__int128)burst - budget->credit_bytes);
	budget->credit_bytes = bytes >= missing ? burst : budget->credit_bytes + (int64_t)bytes;
	assert(budget->credit_bytes <= burst);
}

void budget_limit_set(struct budget *budget, uint64_t bytes_day_max, uint64_t now_us)
{
	struct budget next;

	budget_init(&next, bytes_day_max, now_us);
	if (budget->bytes_day_max != 0) {
		budget_refill(budget, now_us);
		if (budget->credit_bytes < next.credit_bytes)
			next.credit_bytes = budget->credit_bytes;
	}
	*budget = next;
}

bool budget_allows(struct budget *budget, uint64_t now_us, uint64_t bytes)
{
	if (budget->bytes_day_max == 0)
		return true;
	budget_refill(budget, now_us);
	uint64_t burst = (uint64_t)burst_bytes(budget);
	uint64_t need = bytes < burst ? bytes : burst;
	return budget->credit_bytes >= (int64_t)need;
}

void budget_spend(struct budget *budget, uint64_t now_us, uint64_t bytes)
{
	if (budget->bytes_day_max == 0)
		return;
	budget_refill(budget, now_us);
	int64_t spent = bytes > INT64_MAX / 2 ? INT64_MAX / 2 : (int64_t)bytes;
	int64_t least = -(INT64_MAX / 2);
	budget->credit_bytes = budget->credit_bytes - spent < least ? least
								    : budget->credit_bytes - spent;
	assert(budget->credit_bytes <= burst_bytes(budget));
}
