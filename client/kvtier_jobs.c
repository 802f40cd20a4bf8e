/*
 * client/kvtier_jobs.c: jobs as callers see them: they begin, they end exactly once, and they are
 * reported. A job ends for the caller whatever the copier and the daemon are doing; it is reported
 * as quiescent as soon as neither the copier nor (pull) the daemon's process is inside one of its
 * blocks.
 */
#include "client/client.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

static const bool legal_move[JOB_STATES][JOB_STATES] = {
	[JOB_FREE] = { [JOB_OPEN] = true },
	[JOB_OPEN] = { [JOB_LEAVING] = true },
	[JOB_LEAVING] = { [JOB_ENDED] = true },
	[JOB_ENDED] = { [JOB_FREE] = true },
};

static void job_become(struct job *job, enum job_state next)
{
	assert(legal_move[job->state][next]);
	assert(next != JOB_ENDED || (!job->is_busy && job->lent == NULL));
	job->state = next;
}

int jobs_init(struct kvtier_client *client)
{
	list_init(&client->free_jobs);
	list_init(&client->queued_jobs);
	list_init(&client->ready_jobs);
	list_init(&client->reported_jobs);
	client->jobs = calloc(CLIENT_JOBS_MAX, sizeof(*client->jobs));
	if (client->jobs == NULL)
		return -ENOMEM;
	for (unsigned i = 0; i < CLIENT_JOBS_MAX; i++)
		list_append(&client->free_jobs, &client->jobs[i].link);
	return 0;
}

void jobs_finish(struct kvtier_client *client)
{
	for (unsigned i = 0; client->jobs != NULL && i < CLIENT_JOBS_MAX; i++) {
		free(client->jobs[i].blocks);
		free(client->jobs[i].results);
		lent_release(client->jobs[i].lent);
	}
#ifndef KVTIER_PLANT_LEAKED
	free(client->jobs);
#endif
	client->jobs = NULL;
}

/* Neither the caller nor the copier needs it any more. */
static void job_recycle(struct kvtier_client *client, struct job *job)
{
	if (!job->is_caller_done || !job->is_copier_done)
		return;
	assert(!job->is_ready);
	assert(client->blocks_count >= job->count);
	client->blocks_count -= job->count;
	free(job->blocks);
	free(job->results);
	job->blocks = NULL;
	job->results = NULL;
	job_become(job, JOB_FREE);
	list_append(&client->free_jobs, &job->link);
}

void job_let_go(struct kvtier_client *client, struct job *job)
{
	assert(!job->is_copier_done && !job->is_busy);
	assert(job->state == JOB_LEAVING || job->state == JOB_ENDED);
	job->is_copier_done = true;
	job_recycle(client, job);
}

/* Puts it among what kvtier_poll() gives out, unless it waits there already. */
static void job_report(struct kvtier_client *client, struct job *job)
{
	uint64_t one = 1;

	if (job->is_ready)
		return;
	job->is_ready = true;
	list_append(&client->ready_jobs, &job->ready_link);
	if (!client->is_signalled)
		client->is_signalled = write(client->ready_fd, &one, sizeof(one)) == sizeof(one);
}

/* alarm_fd wakes whoever waits on kvtier_fd() when jobs are to be looked at, however stuck the
 * copier is. */
static void alarm_set(struct kvtier_client *client, uint64_t at_us)
{
	struct itimerspec at = { .it_value = { .tv_sec = at_us / 1000000,
					       .tv_nsec = at_us % 1000000 * 1000 } };

	client->alarm_us = at_us;
	(void)timerfd_settime(client->alarm_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

static void alarm_set_earlier(struct kvtier_client *client, uint64_t at_us)
{
	if (client->alarm_us == 0 || at_us < client->alarm_us)
		alarm_set(client, at_us);
}

/* Of a job that has ended for the caller: quiescent, or looked at again soon. */
static void job_settle(struct kvtier_client *client, struct job *job)
{
	assert(job->state == JOB_LEAVING);
	if (job->is_busy)
		return; /* job_leave_block() comes here */
	if (job->lent != NULL &&
	    !lent_is_quiet(job->lent, (uint32_t)(job - client->jobs), job->id)) {
		alarm_set_earlier(client, client_now_us() + CLIENT_QUIET_LOOK_US);
		return;
	}
	lent_release(job->lent);
	job->lent = NULL;
	job_become(job, JOB_ENDED);
	job_report(client, job);
}

void job_end(struct kvtier_client *client, struct job *job, enum kvtier_state outcome, int result)
{
	assert(job->state == JOB_OPEN);
	assert(!job->is_ready);
	job->outcome = outcome;
	job->good_count = 0;
	for (uint32_t i = 0; i < job->count; i++) {
		if (job->results[i] == RESULT_OPEN)
			job->results[i] = result;
		job->good_count += job->results[i] >= 0;
	}
	job_become(job, JOB_LEAVING);
	job_report(client, job);
	job_settle(client, job);
}

bool job_enter_block(struct kvtier_client *client, struct job *job)
{
	bool is_open;

	pthread_mutex_lock(&client->lock);
	assert(!job->is_busy);
	is_open = job->state == JOB_OPEN;
	job->is_busy = is_open;
	pthread_mutex_unlock(&client->lock);
	return is_open;
}

void job_leave_block(struct kvtier_client *client, struct job *job)
{
	pthread_mutex_lock(&client->lock);
	assert(job->is_busy);
	job->is_busy = false;
	if (job->state == JOB_LEAVING)
		job_settle(client, job);
	pthread_mutex_unlock(&client->lock);
}

bool job_is_open(struct kvtier_client *client, struct job *job)
{
	bool is_open;

	pthread_mutex_lock(&client->lock);
	is_open = job->state == JOB_OPEN;
	pthread_mutex_unlock(&client->lock);
	return is_open;
}

void job_set_result(struct kvtier_client *client, struct job *job, uint32_t index, int result)
{
	pthread_mutex_lock(&client->lock);
	assert(index < job->count);
	/* The results of a job that has ended were given out already. */
	if (job->state == JOB_OPEN)
		job->results[index] = result;
	pthread_mutex_unlock(&client->lock);
}

uint64_t jobs_look_at_us(const struct kvtier_client *client)
{
	return client->alarm_us == 0 ? UINT64_MAX : client->alarm_us;
}

void jobs_look(struct kvtier_client *client, uint64_t now_us)
{
	if (client->alarm_us == 0 || now_us < client->alarm_us)
		return;
	/* 0 disarms it; either way it is not readable any more. Those that stay set it anew. */
	alarm_set(client, 0);
	for (unsigned i = 0; i < CLIENT_JOBS_MAX; i++) {
		struct job *job = &client->jobs[i];

		if (job->state == JOB_OPEN && job->deadline_us <= now_us)
			job_end(client, job, KVTIER_EXPIRED, -ETIME);
		else if (job->state == JOB_OPEN)
			alarm_set_earlier(client, job->deadline_us);
		else if (job->state == JOB_LEAVING)
			job_settle(client, job);
	}
}

static bool jobs_are_quiet(const struct kvtier_client *client)
{
	for (unsigned i = 0; i < CLIENT_JOBS_MAX; i++)
		if (client->jobs[i].state == JOB_LEAVING)
			return false;
	return true;
}

void jobs_drain(struct kvtier_client *client)
{
	uint64_t now_us = client_now_us();
	uint64_t deadline_us = now_us + CLIENT_QUIET_US_MAX;

	while (client->jobs != NULL && now_us < deadline_us) {
		bool is_quiet;

		pthread_mutex_lock(&client->lock);
		jobs_look(client, now_us);
		is_quiet = jobs_are_quiet(client);
		pthread_mutex_unlock(&client->lock);
		if (is_quiet)
			return;
		(void)poll(NULL, 0, CLIENT_QUIET_LOOK_US / 1000);
		now_us = client_now_us();
	}
}

static int transfer_check(struct kvtier_client *client, const struct kvtier_transfer *transfer)
{
	const struct group *group;

	if (transfer->group >= client->groups_count || transfer->count == 0 ||
	    transfer->blocks == NULL || transfer->count > CLIENT_BLOCKS_MAX ||
	    transfer->first_position > UINT32_MAX - transfer->count ||
	    (client->roles & KVTIER_WORKER) == 0 ||
	    (transfer->gate_value != 0 && !client->lending.has_word))
		return -EINVAL;
	group = &client->groups[transfer->group];
	for (uint32_t i = 0; i < transfer->count; i++)
		if (transfer->blocks[i].engine_block >= group->blocks_count)
			return -EINVAL;
	return 0;
}

static void job_fill(struct job *job, const struct kvtier_transfer *transfer, bool is_store,
		     uint64_t deadline_us)
{
	assert(job->state == JOB_FREE);
	job->user = transfer->user;
	job->is_store = is_store;
	job->space = transfer->space;
	job->group = transfer->group;
	job->first_position = transfer->first_position;
	job->count = transfer->count;
	job->lease = transfer->lease;
	job->gate_value = transfer->gate_value;
	job->deadline_us = deadline_us;
	job->has_parent = transfer->parent != NULL;
	memset(job->parent, 0, sizeof(job->parent));
	memset(job->tag, 0, sizeof(job->tag));
	if (transfer->parent != NULL)
		memcpy(job->parent, transfer->parent, sizeof(job->parent));
	if (transfer->tag != NULL)
		memcpy(job->tag, transfer->tag, sizeof(job->tag));
	job->is_busy = job->is_ready = job->is_caller_done = job->is_copier_done = false;
	job->good_count = 0;
}

/* Under the lock; takes `blocks` and `results` over when it returns 0. */
static int job_open(struct kvtier_client *client, const struct kvtier_transfer *transfer,
		    bool is_store, struct kvtier_block *blocks, int *results)
{
	uint64_t deadline_us = client_deadline_us(transfer->deadline_us);
	struct job *job;

	if (client->refused.code != 0)
		return client->refused.code;
	if (!client->is_attached || client->is_stopping)
		return -ENOTCONN;
	if (transfer->space >= client->spaces_count)
		return -EINVAL;
	if (transfer->gate_value != 0 && !client->lent->has_word)
		return -ENOTSUP;
	if (list_is_empty(&client->free_jobs) ||
	    client->blocks_count > CLIENT_BLOCKS_MAX - transfer->count)
		return -EAGAIN;
	job = list_item(list_take_first(&client->free_jobs), struct job, link);
	job_fill(job, transfer, is_store, deadline_us);
	job->blocks = blocks;
	job->results = results;
	job->id = ++client->jobs_opened * CLIENT_JOBS_MAX + (uint64_t)(job - client->jobs);
	client->blocks_count += job->count;
	job->lent = client->lent;
	if (job->lent != NULL)
		lent_hold(job->lent);
	job_become(job, JOB_OPEN);
	list_append(&client->queued_jobs, &job->link);
	alarm_set_earlier(client, deadline_us);
	return 0;
}

static int job_start(struct kvtier_client *client, const struct kvtier_transfer *transfer,
		     bool is_store, uint64_t *out_job)
{
	struct kvtier_block *blocks;
	int *results;
	int result;

	if (atomic_load_explicit(&client->is_child, memory_order_relaxed))
		return -ECHILD;
	result = transfer_check(client, transfer);
	if (result < 0)
		return result;
	blocks = malloc(transfer->count * sizeof(*blocks));
	results = malloc(transfer->count * sizeof(*results));
	if (blocks == NULL || results == NULL) {
		free(blocks);
		free(results);
		return -ENOMEM;
	}
	memcpy(blocks, transfer->blocks, transfer->count * sizeof(*blocks));
	for (uint32_t i = 0; i < transfer->count; i++)
		results[i] = RESULT_OPEN;
	pthread_mutex_lock(&client->lock);
	result = job_open(client, transfer, is_store, blocks, results);
	if (result == 0)
		*out_job = client->jobs_opened * CLIENT_JOBS_MAX +
			   (uint64_t)(list_item(client->queued_jobs.head.previous, struct job,
						link) -
				      client->jobs);
	pthread_mutex_unlock(&client->lock);
	if (result < 0) {
		free(blocks);
		free(results);
		return result;
	}
	client_wake_copier(client);
	return 0;
}

int kvtier_store(struct kvtier_client *client, const struct kvtier_transfer *transfer,
		 uint64_t *out_job)
{
	return job_start(client, transfer, true, out_job);
}

int kvtier_load(struct kvtier_client *client, const struct kvtier_transfer *transfer,
		uint64_t *out_job)
{
	return job_start(client, transfer, false, out_job);
}

void kvtier_cancel(struct kvtier_client *client, uint64_t id)
{
	struct job *job = &client->jobs[id % CLIENT_JOBS_MAX];

	if (atomic_load_explicit(&client->is_child, memory_order_relaxed))
		return;
	pthread_mutex_lock(&client->lock);
	if (job->state == JOB_OPEN && job->id == id)
		job_end(client, job, KVTIER_CANCELLED, -ECANCELED);
	pthread_mutex_unlock(&client->lock);
	client_wake_copier(client);
}

int kvtier_fd(struct kvtier_client *client)
{
	return client->wait_fd;
}

static void completion_take(struct kvtier_client *client, struct kvtier_completion *out)
{
	struct job *job = list_item(list_take_first(&client->ready_jobs), struct job, ready_link);

	assert(job->is_ready && job->state != JOB_OPEN);
	job->is_ready = false;
	*out = (struct kvtier_completion){
		.job = job->id,
		.user = job->user,
		.is_store = job->is_store,
		.state = job->outcome,
		.quiesced = job->state == JOB_ENDED,
		.count = job->count,
		.good_count = job->good_count,
		.results = job->results,
	};
	/* Its results stay until the next poll. */
	if (job->state == JOB_ENDED)
		list_append(&client->reported_jobs, &job->ready_link);
}

int kvtier_poll(struct kvtier_client *client, struct kvtier_completion *out_completions,
		unsigned completions_max)
{
	struct list_node *node;
	unsigned count = 0;
	uint64_t drained;

	if (atomic_load_explicit(&client->is_child, memory_order_relaxed))
		return -ECHILD;
	pthread_mutex_lock(&client->lock);
	while ((node = list_take_first(&client->reported_jobs)) != NULL) {
		struct job *job = list_item(node, struct job, ready_link);

		job->is_caller_done = true;
		job_recycle(client, job);
	}
	jobs_look(client, client_now_us());
	while (count < completions_max && !list_is_empty(&client->ready_jobs))
		completion_take(client, &out_completions[count++]);
	if (client->is_signalled && list_is_empty(&client->ready_jobs))
		client->is_signalled = read(client->ready_fd, &drained, sizeof(drained)) !=
				       sizeof(drained);
	pthread_mutex_unlock(&client->lock);
	return (int)count;
}

int kvtier_wait(struct kvtier_client *client, uint64_t wait_us_max)
{
	uint64_t deadline_us = client_deadline_us(wait_us_max);

	if (atomic_load_explicit(&client->is_child, memory_order_relaxed))
		return -ECHILD;
	for (;;) {
		struct pollfd fd = { .fd = client->wait_fd, .events = POLLIN };
		uint64_t now_us = client_now_us();
		uint64_t left_us = deadline_us > now_us ? deadline_us - now_us : 0;
		struct timespec left = { .tv_sec = left_us / 1000000,
					 .tv_nsec = left_us % 1000000 * 1000 };
		bool is_ready;

		pthread_mutex_lock(&client->lock);
		jobs_look(client, now_us);
		is_ready = !list_is_empty(&client->ready_jobs);
		pthread_mutex_unlock(&client->lock);
		if (is_ready || left_us == 0)
			return is_ready;
		if (ppoll(&fd, 1, &left, NULL) < 0 && errno != EINTR)
			return -errno;
	}
}
