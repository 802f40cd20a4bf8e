/*
 * index/budget.h: how many bytes a day may be written, as a token bucket: flash wears. Pure, the
 * time is passed in. Runs on: one thread at a time.
 */
#ifndef KVTIER_INDEX_BUDGET_H
#define KVTIER_INDEX_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

struct budget {
	uint64_t bytes_day_max; /* 0: no limit */
	int64_t credit_bytes; /* at most an hour's worth; below 0: a large write is still being paid
				 for */
	uint64_t rest; /* of the division by a day's microseconds, so that nothing is lost in small
			  steps */
	uint64_t refilled_us;
};

/* Starts with an hour's worth of credit. A limit above INT64_MAX is taken as that. */
void budget_init(struct budget *budget, uint64_t bytes_day_max, uint64_t now_us);
/* Another limit from now on. Only where there was none, it brings an hour's worth of credit. */
void budget_limit_set(struct budget *budget, uint64_t bytes_day_max, uint64_t now_us);
/* Whether `bytes` may be written now: there is credit for them, or, if they are more than an hour's
 * worth, the bucket is full. */
bool budget_allows(struct budget *budget, uint64_t now_us, uint64_t bytes);
/* They are being written. May overdraw; the debt delays what comes next. */
void budget_spend(struct budget *budget, uint64_t now_us, uint64_t bytes);

#endif
