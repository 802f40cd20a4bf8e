/* client/kvtier_copier.c: the copier's loop: keeps the data connection, takes jobs, hears the
 * daemon. */
#include "client/client.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

void (*_Atomic copier_block_hook)(void);

int copier_send(struct copier *copier)
{
	const struct frame_header *header = (const struct frame_header *)copier->link.outgoing;
	int result = link_try_send(&copier->link, header);

	copier->outgoing_bytes = result == -EAGAIN ? header->bytes : 0;
	return result == -EAGAIN ? 0 : result;
}

/* ---- batches ---- */

void batch_begin(struct kvtier_client *client, struct job *job, enum batch_state state,
		 uint32_t *out_handle)
{
	struct copier *copier = &client->copier;
	struct batch *batch = &job->batch;
	uint32_t left = job->count - (batch->first + batch->count);

	assert(batch->state == BATCH_NONE && copier->batches_count < copier->batches_max);
	assert(left > 0);
	batch->state = state;
	batch->is_cancelled = false;
	batch->first += batch->count;
	batch->count = left < FRAME_KEYS_MAX ? left : FRAME_KEYS_MAX;
	batch->left = batch->count;
	batch->next = 0;
	batch->copied_count = 0;
	batch->releases_count = 0;
	batch->number = ++copier->batches_opened * CLIENT_JOBS_MAX + (uint64_t)(job - client->jobs);
	memset(batch->items, ITEM_ASKED, batch->count);
	copier->batches_count++;
	pthread_mutex_lock(&client->lock);
	*out_handle = client->spaces[job->space].handle;
	memcpy(batch->fingerprint, client->spaces[job->space].fingerprint,
	       sizeof(batch->fingerprint));
	pthread_mutex_unlock(&client->lock);
}

void batch_item_over(struct job *job, uint32_t index)
{
	assert(index < job->batch.count && job->batch.left > 0);
	assert(job->batch.items[index] != ITEM_OVER);
	job->batch.items[index] = ITEM_OVER;
	job->batch.left--;
}

void batch_give_up(struct job *job)
{
	for (uint32_t i = 0; i < job->batch.count; i++)
		if (job->batch.items[i] != ITEM_OVER)
			batch_item_over(job, i);
}

void batch_end(struct copier *copier, struct job *job)
{
	assert(job->batch.state != BATCH_NONE && copier->batches_count > 0);
	job->batch.state = BATCH_NONE;
	copier->batches_count--;
}

int batch_cancel(struct copier *copier, struct job *job)
{
	struct frame_cancel *frame = (struct frame_cancel *)copier->link.outgoing;

	assert(!job->batch.is_cancelled);
	frame_start(&frame->header, FRAME_CANCEL, sizeof(*frame), 0, copier->link.boot_id);
	frame->batch = job->batch.number;
	job->batch.is_cancelled = true;
	return copier_send(copier);
}

/* ---- jobs ---- */

/* All blocks have their results, or the job has ended: nothing is open at the daemon. */
static void copier_finish_job(struct kvtier_client *client, struct job *job)
{
	assert(job->batch.state == BATCH_NONE);
	list_remove(&client->copier.jobs, &job->link);
	pthread_mutex_lock(&client->lock);
	if (job->state == JOB_OPEN)
		job_end(client, job, KVTIER_DONE, -ECANCELED);
	job_let_go(client, job);
	pthread_mutex_unlock(&client->lock);
}

static int copier_step_job(struct kvtier_client *client, struct job *job)
{
	struct copier *copier = &client->copier;
	bool is_open = job_is_open(client, job);

	if (job->batch.state == BATCH_NONE) {
		if (!is_open || job->batch.first + job->batch.count == job->count) {
			copier_finish_job(client, job);
			return 1;
		}
		if (copier->batches_count == copier->batches_max)
			return 0;
	}
	return job->is_store ? store_step(client, job, is_open) : load_step(client, job, is_open);
}

/* 1: some job went on; 0: all wait; or why the link is broken. */
static int copier_step_jobs(struct kvtier_client *client)
{
	struct copier *copier = &client->copier;
	struct list_node *node = list_first(&copier->jobs);
	int went_on = 0;

	while (node != NULL) {
		struct list_node *next = list_after(&copier->jobs, node);
		int result = copier_step_job(client, list_item(node, struct job, link));

		if (result < 0)
			return result;
		went_on |= result;
		node = next;
	}
	return went_on;
}

static struct job *copier_find_batch(struct kvtier_client *client, uint64_t number)
{
	struct job *job = &client->jobs[number % CLIENT_JOBS_MAX];

	return job->batch.state != BATCH_NONE && job->batch.number == number ? job : NULL;
}

/* An ERROR about one STORE or LOAD: all its blocks have that result. */
static int copier_take_error(struct kvtier_client *client, const struct frame_header *header)
{
	struct job *job = copier_find_batch(client, header->request);

	if (header->request == 0 || header->result >= 0)
		return -EPROTO;
	if (job == NULL)
		return 0;
	for (uint32_t i = 0; i < job->batch.count; i++) {
		if (job->batch.items[i] == ITEM_OVER)
			continue;
		if (job->batch.items[i] == ITEM_COMMITTED && !client_is_pulled(client))
			window_give(&client->copier.window, job->batch.places[i]);
		job_set_result(client, job, job->batch.first + i,
			       job->is_store ? header->result : -ENOENT);
		batch_item_over(job, i);
	}
	job->batch.state = BATCH_MOVING;
	return 0;
}

static int copier_take_frame(struct kvtier_client *client)
{
	const void *frame = client->copier.link.incoming;
	const struct frame_header *header = frame;
	const struct frame_committed *batched = frame; /* `batch` follows the header in all */
	struct job *job;

	if (header->type == FRAME_ERROR)
		return copier_take_error(client, header);
	if (header->type != FRAME_STORE_REPLY && header->type != FRAME_COMMITTED &&
	    header->type != FRAME_LOADED &&
	    (header->type != FRAME_COPIED || !client_is_pulled(client)))
		return -EPROTO;
	_Static_assert(offsetof(struct frame_store_reply, batch) ==
				       offsetof(struct frame_committed, batch) &&
			       offsetof(struct frame_loaded, batch) ==
				       offsetof(struct frame_committed, batch) &&
			       offsetof(struct frame_copied, batch) ==
				       offsetof(struct frame_committed, batch),
		       "one place of `batch`");
	job = copier_find_batch(client, batched->batch);
	if (job == NULL)
		return 0; /* of a batch that we gave up */
	if (job->is_store == (header->type == FRAME_LOADED))
		return -EPROTO;
	if (header->type == FRAME_STORE_REPLY)
		return store_replied(client, job, frame);
	if (header->type == FRAME_COPIED)
		return store_copied(client, job, frame);
	return job->is_store ? store_committed(client, job, frame)
			     : load_loaded(client, job, frame);
}

/* 1: something came; 0: nothing; or why the link is broken. */
static int copier_receive(struct kvtier_client *client)
{
	for (unsigned i = 0; i < CLIENT_FRAMES_PASS; i++) {
		int result = link_try_receive(&client->copier.link, NULL, NULL);

		if (result == -EAGAIN)
			return i > 0;
		if (result == 0)
			result = copier_take_frame(client);
		if (result < 0)
			return result;
	}
	return 1;
}

/* ---- the connection ---- */

static void copier_adopt_jobs(struct kvtier_client *client)
{
	struct list_node *node;

	while ((node = list_take_first(&client->queued_jobs)) != NULL) {
		struct batch *batch = &list_item(node, struct job, link)->batch;

		batch->state = BATCH_NONE;
		batch->first = batch->count = 0;
		list_append(&client->copier.jobs, node);
	}
}

/* The session is over: every job ends, and no byte of the mappings is used again. What the daemon
 * still moves of them is seen by the words. */
static void copier_detach(struct kvtier_client *client)
{
	struct copier *copier = &client->copier;
	struct list_node *node;

	session_lose(client, copier->session);
	pthread_mutex_lock(&client->lock);
	copier_adopt_jobs(client);
	while ((node = list_take_first(&copier->jobs)) != NULL) {
		struct job *job = list_item(node, struct job, link);

		job->batch.state = BATCH_NONE;
		if (job->state == JOB_OPEN)
			job_end(client, job, client->is_stopping ? KVTIER_CANCELLED : KVTIER_FAILED,
				client->is_stopping ? -ECANCELED : -ENOTCONN);
		job_let_go(client, job);
	}
	lent_release(client->lent);
	client->lent = NULL;
	pthread_mutex_unlock(&client->lock);
	link_close(&copier->link);
	copier_unmap(copier);
	copier->session = 0;
}

static int copier_register(struct kvtier_client *client, struct error *error)
{
	uint64_t deadline_us = client_deadline_us(CLIENT_CONNECT_US);
	bool is_registered;
	int refused, result = turn_take(client, deadline_us);

	if (result < 0)
		return error_set(error, result, "others use the control connection");
	pthread_mutex_lock(&client->lock);
	is_registered = client->session != 0;
	refused = client->refused.code;
	*error = client->refused;
	pthread_mutex_unlock(&client->lock);
	if (!is_registered)
		result = refused != 0 ? refused : session_open(client, deadline_us, error);
	turn_give(client);
	return result;
}

/* Registers if need be, and attaches. */
static void copier_connect(struct kvtier_client *client, uint64_t now_us)
{
	struct copier *copier = &client->copier;
	struct error error;
	bool is_attaching;
	uint64_t session;
	int result;

	if (now_us < copier->retry_at_us)
		return;
	result = copier_register(client, &error);
	is_attaching = result == 0;
	pthread_mutex_lock(&client->lock);
	session = client->session;
	pthread_mutex_unlock(&client->lock);
	if (is_attaching)
		result = copier_attach(client, &error);
	pthread_mutex_lock(&client->lock);
	if (result == 0 && client->session == copier->session) {
		client->is_attached = true;
	} else if (result < 0) {
		client->attempts_failed++;
		client->failure = error;
		if (is_attaching && (result == -EPERM || result == -EINVAL))
			client->refused = error;
	}
	pthread_cond_broadcast(&client->changed);
	pthread_mutex_unlock(&client->lock);
	if (result == 0) {
		copier->retry_us = CLIENT_RETRY_US_MIN;
		return;
	}
	/* -EAGAIN: it is not ready for what is lent; the registration is as good as before. */
	if (is_attaching && result != -EAGAIN)
		session_lose(client, session);
	copier->retry_us = copier->retry_us * 2 < CLIENT_RETRY_US_MAX ? copier->retry_us * 2
								      : CLIENT_RETRY_US_MAX;
	copier->retry_at_us = client_now_us() + copier->retry_us;
}

/* ---- the loop ---- */

/* Sleeps until something may have changed. */
static void copier_wait(struct kvtier_client *client, uint64_t until_us)
{
	struct copier *copier = &client->copier;
	struct pollfd fds[3] = {
		{ .fd = client->stop_fd, .events = POLLIN },
		{ .fd = copier->wake_fd, .events = POLLIN },
		{ .fd = atomic_load(&copier->link.fd),
		  .events = (short)(POLLIN | (copier_can_send(copier) ? 0 : POLLOUT)) },
	};
	uint64_t now_us = client_now_us();
	uint64_t left_us = until_us > now_us ? until_us - now_us : 0;
	struct timespec left = { .tv_sec = left_us / 1000000, .tv_nsec = left_us % 1000000 * 1000 };
	uint64_t drained;

	(void)ppoll(fds, 3, left_us < CLIENT_WAIT_US_MAX ? &left : NULL, NULL);
	if (fds[1].revents != 0)
		(void)!read(copier->wake_fd, &drained, sizeof(drained));
}

/* What callers changed, and until when the copier may sleep. */
struct surroundings {
	bool must_stop, must_detach, must_connect, must_check_ready;
	uint64_t until_us;
};

static struct surroundings copier_look_around(struct kvtier_client *client, uint64_t now_us)
{
	struct copier *copier = &client->copier;
	struct surroundings now = { .must_stop = false };

	pthread_mutex_lock(&client->lock);
	now.must_stop = client->is_stopping;
	now.must_detach = copier->session != 0 && copier->session != client->session;
	now.must_connect = (copier->session == 0 || now.must_detach) && client->refused.code == 0;
	now.must_check_ready = client->is_attached && client->ranks_are_missing &&
			       now_us >= copier->ready_check_at_us;
	if (copier->session != 0 && !now.must_detach)
		copier_adopt_jobs(client);
	jobs_look(client, now_us);
	now.until_us = jobs_look_at_us(client);
	if (now.must_connect && copier->retry_at_us < now.until_us)
		now.until_us = copier->retry_at_us;
	if (client->is_attached && client->ranks_are_missing &&
	    copier->ready_check_at_us < now.until_us)
		now.until_us = copier->ready_check_at_us;
	pthread_mutex_unlock(&client->lock);
	/* Ended loads wait for the daemon's events, but not for ever. */
	if (!list_is_empty(&copier->jobs) && now_us + CLIENT_GRACE_US < now.until_us)
		now.until_us = now_us + CLIENT_GRACE_US;
	return now;
}

/* 1: go on at once; 0: nothing to do; negative: the link is broken. */
static int copier_pass(struct kvtier_client *client)
{
	int received, stepped, result = 0;

	if (!copier_can_send(&client->copier))
		result = copier_send(&client->copier);
	if (result < 0)
		return result;
	received = copier_receive(client);
	if (received < 0)
		return received;
	stepped = copier_step_jobs(client);
	return stepped < 0 ? stepped : received | stepped;
}

static void *copier_run(void *argument)
{
	struct kvtier_client *client = argument;
	struct copier *copier = &client->copier;

	for (;;) {
		uint64_t now_us = client_now_us();
		struct surroundings now = copier_look_around(client, now_us);
		int result = 0;

		if (now.must_stop)
			break;
		if (now.must_detach)
			copier_detach(client);
		if (now.must_connect)
			copier_connect(client, now_us);
		if (copier->session != 0)
			result = copier_pass(client);
		if (result < 0)
			copier_detach(client);
		if (now.must_check_ready) {
			(void)!control_check_ready(client, CONTROL_ASK,
						    now_us + CLIENT_READY_WAIT_US);
			copier->ready_check_at_us = client_now_us() + CLIENT_READY_CHECK_US;
		}
		if (result == 0)
			copier_wait(client, now.until_us);
	}
	copier_detach(client);
	return NULL;
}

int copier_start(struct kvtier_client *client, struct error *error)
{
	struct copier *copier = &client->copier;
	int result;

	list_init(&copier->jobs);
	copier->retry_us = CLIENT_RETRY_US_MIN / 2;
	result = pthread_create(&copier->thread, NULL, copier_run, client);
	/* Not -EAGAIN: nobody tries it again. */
	if (result != 0)
		return error_set(error, -ENOMEM,
				 "cannot start the copy thread: %s: raise the limit of processes",
				 strerror(result));
	copier->is_started = true;
	return 0;
}

void copier_stop(struct kvtier_client *client)
{
	uint64_t one = 1;

	pthread_mutex_lock(&client->lock);
	client->is_stopping = true;
	pthread_cond_broadcast(&client->changed);
	pthread_mutex_unlock(&client->lock);
	if (!client->copier.is_started)
		return;
	(void)!write(client->stop_fd, &one, sizeof(one));
	pthread_join(client->copier.thread, NULL);
	client->copier.is_started = false;
}
