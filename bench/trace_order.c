/* bench/trace_order.c: when the requests of recorded sessions come: from a file, or merged on user
 * slots. */
#include "base/random.h"
#include "bench/trace_builder.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ORDER_LINE_BYTES 128
#define START_SPREAD_US UINT64_C(60000000) /* users do not begin in the same second */

/* firsts[s]: the first request of session s; firsts[sessions_count]: the end. NULL: no memory. */
static uint32_t *sessions_firsts(const struct trace *trace)
{
	uint32_t *firsts = calloc(trace->sessions_count + 1ull, sizeof(*firsts));

	if (firsts == NULL)
		return NULL;
	for (uint32_t i = 0; i < trace->requests_count; i++)
		firsts[trace->requests[i].session + 1]++;
	for (uint32_t session = 0; session < trace->sessions_count; session++)
		firsts[session + 1] += firsts[session];
	return firsts;
}

struct order_row {
	double time_s;
	unsigned long session, request;
};

/* The line that was just taken is one behind scan's. */
static int order_row_read(struct scan *scan, const struct trace *trace, const uint32_t *firsts,
			  const char *text, struct order_row *row)
{
	int end = -1;
	int fields = sscanf(text, "%lf,%9lu,%9lu%n", &row->time_s, &row->session, &row->request,
			    &end);

	scan->line--;
	if (fields != 3 || end < 0 || text[end] != '\0' ||
	    !(row->time_s >= 0 && row->time_s <= 1e9))
		return scan_refuse(scan,
				   "\"%.60s\" is not time_s,session,request (such as 11.995,216,0)",
				   text);
	if (row->session >= trace->sessions_count)
		return scan_refuse(scan, "session %lu, expected 0 to %u: the trace has %u sessions",
				   row->session, trace->sessions_count - 1, trace->sessions_count);
	uint32_t count = firsts[row->session + 1] - firsts[row->session];
	if (row->request >= count)
		return scan_refuse(scan, "request %lu of session %lu, which has %u requests",
				   row->request, row->session, count);
	scan->line++;
	return 0;
}

static int order_rows_read(struct scan *scan, const struct trace *trace, const uint32_t *firsts,
			   bool *used, struct trace_request *ordered, uint32_t *out_count)
{
	char text[ORDER_LINE_BYTES];
	struct order_row row;
	uint32_t count = 0;
	uint64_t latest_us = 0;
	int result;

	while ((result = scan_text_line(scan, text, sizeof(text))) == 1) {
		if (text[0] == '\0')
			continue;
		result = order_row_read(scan, trace, firsts, text, &row);
		if (result < 0)
			return result;
		uint32_t i = firsts[row.session] + (uint32_t)row.request;
		if (used[i])
			return scan_refuse(scan,
					   "the line before names request %lu of session %lu again",
					   row.request, row.session);
		used[i] = true;
		assert(count < trace->requests_count);
		ordered[count] = trace->requests[i];
		ordered[count].arrival_us = (uint64_t)(row.time_s * 1e6);
		if (ordered[count].arrival_us < latest_us)
			ordered[count].arrival_us = latest_us;
		latest_us = ordered[count++].arrival_us;
	}
	*out_count = count;
	return result;
}

static void requests_replace(struct trace *trace, struct trace_request *requests, uint32_t count)
{
	free(trace->requests);
	trace->requests = requests;
	trace->requests_count = count;
	trace->requests_max = count;
	trace->input_tokens = 0;
	for (uint32_t i = 0; i < count; i++)
		trace->input_tokens += requests[i].input_tokens;
}

int trace_order_read(struct trace *trace, struct scan *scan)
{
	char text[ORDER_LINE_BYTES];
	uint32_t count = 0;

	int result = scan_text_line(scan, text, sizeof(text));
	if (result < 0)
		return result;
	if (result == 0 || strcmp(text, "time_s,session,request") != 0)
		return scan_refuse(scan, "expected the header time_s,session,request");
	uint32_t *firsts = sessions_firsts(trace);
	bool *used = calloc(trace->requests_count + 1ull, sizeof(*used));
	struct trace_request *ordered = malloc((trace->requests_count + 1ull) * sizeof(*ordered));
	if (firsts == NULL || used == NULL || ordered == NULL)
		result = error_set(scan->error, -ENOMEM, "no memory to order %u requests",
				   trace->requests_count);
	else
		result = order_rows_read(scan, trace, firsts, used, ordered, &count);
	free(firsts);
	free(used);
	if (result < 0) {
		free(ordered);
		return result;
	}
	requests_replace(trace, ordered, count);
	return 0;
}

/* ---- without a file: the next free user takes the next session ---- */

static int by_arrival(const void *a, const void *b)
{
	const struct trace_request *left = a, *right = b;

	if (left->arrival_us != right->arrival_us)
		return left->arrival_us < right->arrival_us ? -1 : 1;
	/* Requests of one session lie in their order in first_block; sessions too. */
	if (left->session != right->session)
		return left->session < right->session ? -1 : 1;
	return left->first_block < right->first_block ? -1 : left->first_block > right->first_block;
}

/* A heap of the times at which users are free: puts the changed first one where it belongs. */
static void users_sift(uint64_t *free_us, uint32_t users)
{
	uint32_t at = 0;

	for (;;) {
		uint32_t least = at, left = 2 * at + 1;
		for (uint32_t child = left; child < left + 2 && child < users; child++)
			if (free_us[child] < free_us[least])
				least = child;
		if (least == at)
			return;
		uint64_t moved = free_us[at];
		free_us[at] = free_us[least];
		free_us[least] = moved;
		at = least;
	}
}

static int by_number(const void *a, const void *b)
{
	uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

	return left < right ? -1 : left > right;
}

/* Lays one session from `start_us` on, pauses cut to `gap_us_max`; returns when its user is free.
 */
static uint64_t session_lay(struct trace_request *requests, uint32_t count, uint64_t start_us,
			    uint64_t gap_us_max)
{
	uint64_t now_us = start_us, before_us = count > 0 ? requests[0].arrival_us : 0;

	for (uint32_t i = 0; i < count; i++) {
		uint64_t gap_us = requests[i].arrival_us - before_us;
		before_us = requests[i].arrival_us;
		now_us += gap_us < gap_us_max ? gap_us : gap_us_max;
		requests[i].arrival_us = now_us;
	}
	return now_us + 1;
}

int trace_order_merge(struct trace *trace, const struct trace_options *options, struct error *error)
{
	uint32_t users = options->users;
	struct random random;

	assert(users > 0 && users <= TRACE_USERS_MAX);
	uint32_t *firsts = sessions_firsts(trace);
	uint32_t *order = malloc((trace->sessions_count + 1ull) * sizeof(*order));
	uint64_t *free_us = malloc(users * sizeof(*free_us));
	if (firsts == NULL || order == NULL || free_us == NULL) {
		free(firsts);
		free(order);
		free(free_us);
		return error_set(error, -ENOMEM, "no memory to merge %u sessions",
				 trace->sessions_count);
	}
	random_init(&random, options->seed);
	for (uint32_t i = 0; i < trace->sessions_count; i++) {
		uint32_t at = (uint32_t)random_below(&random, i + 1ull);
		order[i] = order[at];
		order[at] = i;
	}
	for (uint32_t user = 0; user < users; user++)
		free_us[user] = random_below(&random, START_SPREAD_US);
	qsort(free_us, users, sizeof(*free_us), by_number); /* a sorted array is a heap */
	for (uint32_t i = 0; i < trace->sessions_count; i++) {
		struct trace_request *requests = trace->requests + firsts[order[i]];
		uint32_t count = firsts[order[i] + 1] - firsts[order[i]];
		qsort(requests, count, sizeof(*requests), by_arrival);
		free_us[0] = session_lay(requests, count, free_us[0], options->gap_us_max);
		users_sift(free_us, users);
	}
	free(firsts);
	free(order);
	free(free_us);
	qsort(trace->requests, trace->requests_count, sizeof(*trace->requests), by_arrival);
	return 0;
}
