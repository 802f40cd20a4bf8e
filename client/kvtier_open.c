/* client/kvtier_open.c: opens, connects and closes a client. */
#include "client/client.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

/* Appends a field to the REGISTER frame that is being built; empty ones are left out. */
static int register_add_field(struct frame_register *frame, enum frame_field_id id,
			      const char *value, struct error *error)
{
	size_t bytes = value == NULL ? 0 : strlen(value);
	uint8_t *end = (uint8_t *)frame + frame->header.bytes;
	uint16_t head[2] = { (uint16_t)id, (uint16_t)bytes };

	if (bytes == 0)
		return 0;
	if (bytes > FRAME_FIELD_BYTES_MAX)
		return error_set(error, -EINVAL,
				 "field %u of the identity has %zu bytes, at most %u are right", id,
				 bytes, FRAME_FIELD_BYTES_MAX);
	memcpy(end, head, sizeof(head));
	memcpy(end + sizeof(head), value, bytes);
	frame->header.bytes += (uint32_t)(sizeof(head) + bytes);
	frame->fields_bytes += (uint32_t)(sizeof(head) + bytes);
	frame->fields_count++;
	return 0;
}

/* The frame that registers this client, again and again: what it says never changes. */
static int register_build(struct kvtier_client *client, const struct kvtier_options *options,
			  struct error *error)
{
	const struct kvtier_identity *identity = &options->identity;
	const char *const values[FRAME_FIELD_IDS] = {
		[FRAME_FIELD_MODEL_CONTENT] = identity->model_content,
		[FRAME_FIELD_DTYPE] = identity->dtype,
		[FRAME_FIELD_QUANTISATION] = identity->quantisation,
		[FRAME_FIELD_LAYOUT] = identity->layout,
		[FRAME_FIELD_SPLIT] = identity->split,
		[FRAME_FIELD_SPECULATION] = identity->speculation,
		[FRAME_FIELD_HASH_ALGORITHM] = identity->hash_algorithm,
		[FRAME_FIELD_HASH_SEED] = identity->hash_seed,
		[FRAME_FIELD_WEIGHTS_VERSION] = identity->weights_version,
	};
	struct frame_register *frame = calloc(1, FRAME_BYTES_MAX);
	struct frame_group *groups;

	client->register_frame = (uint8_t *)frame;
	if (frame == NULL)
		return error_set(error, -ENOMEM, "no memory for the registration");
	groups = (struct frame_group *)(frame + 1);
	frame_start(&frame->header, FRAME_REGISTER,
		    (uint32_t)(sizeof(*frame) + client->groups_count * sizeof(*groups)), 0, 0);
	strcpy(frame->engine, options->engine);
	frame->roles = options->roles;
	frame->shard = (uint16_t)options->shard;
	frame->world = (uint16_t)(options->world == 0 ? 1 : options->world);
	frame->groups_count = (uint16_t)client->groups_count;
	for (unsigned i = 0; i < client->groups_count; i++)
		groups[i] = client->groups[i].frame;
	for (unsigned id = 1; id < FRAME_FIELD_IDS; id++) {
		int result = register_add_field(frame, id, values[id], error);

		if (result < 0)
			return result;
	}
	client->register_bytes = frame->header.bytes;
	return frame_check(frame, frame->header.bytes, false, error) < 0 ? -EINVAL : 0;
}

static int options_check(const struct kvtier_options *options, struct error *error)
{
	unsigned world = options->world == 0 ? 1 : options->world;

	if (options->engine == NULL || options->engine[0] == 0 ||
	    strlen(options->engine) >= FRAME_NAME_BYTES)
		return error_set(error, -EINVAL, "engine: a name of 1 to %u bytes is required",
				 FRAME_NAME_BYTES - 1);
	if (options->roles == 0 ||
	    (options->roles & ~(unsigned)(KVTIER_SCHEDULER | KVTIER_WORKER)) != 0)
		return error_set(error, -EINVAL,
				 "roles is %u; KVTIER_SCHEDULER, KVTIER_WORKER or both are right",
				 options->roles);
	if (world > 64 || options->shard >= world)
		return error_set(error, -EINVAL, "shard %u of %u; world is at most 64",
				 options->shard, world);
	if (options->groups_count == 0 || options->groups_count > FRAME_GROUPS_MAX ||
	    options->groups == NULL)
		return error_set(error, -EINVAL, "groups_count is %u; 1 to %u are right",
				 options->groups_count, FRAME_GROUPS_MAX);
	if (options->identity.model_content == NULL || options->identity.model_content[0] == 0)
		return error_set(
			error, -EINVAL,
			"identity.model_content is required: a digest of the model's content");
	return 0;
}

static int options_take(struct kvtier_client *client, const struct kvtier_options *options,
			struct error *error)
{
	const char *path = options->socket;
	int result = options_check(options, error);

	if (result < 0)
		return result;
	if (path == NULL)
		path = getenv("KVTIER_SOCKET");
	if (path == NULL || path[0] == 0)
		path = CLIENT_SOCKET_DEFAULT;
	client->socket = strdup(path);
	client->groups = calloc(options->groups_count, sizeof(*client->groups));
	if (client->socket == NULL || client->groups == NULL)
		return error_set(error, -ENOMEM, "no memory for the client");
	client->roles = options->roles;
	client->shard = options->shard;
	client->groups_count = options->groups_count;
	for (unsigned i = 0; i < client->groups_count; i++) {
		result = group_init(&client->groups[i], &options->groups[i], i,
				    (options->roles & KVTIER_WORKER) != 0, error);
		if (result < 0)
			return result;
	}
	if (options->device != NULL) {
		result = lending_open(&client->lending, options, error);
		if (result < 0)
			return result;
	}
	return register_build(client, options, error);
}

static void locks_init(struct kvtier_client *client)
{
	pthread_condattr_t monotonic;

	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_mutex_init(&client->turn_lock, NULL);
	pthread_mutex_init(&client->lock, NULL);
	pthread_cond_init(&client->turn_given, &monotonic);
	pthread_cond_init(&client->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

/* kvtier_fd(): readable when something is ready to be polled, or the earliest deadline has come. */
static int descriptors_open(struct kvtier_client *client, struct error *error)
{
	struct epoll_event event = { .events = EPOLLIN };

	client->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	client->ready_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	client->copier.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	client->alarm_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	client->wait_fd = epoll_create1(EPOLL_CLOEXEC);
	if (client->stop_fd < 0 || client->ready_fd < 0 || client->copier.wake_fd < 0 ||
	    client->alarm_fd < 0 || client->wait_fd < 0 ||
	    epoll_ctl(client->wait_fd, EPOLL_CTL_ADD, client->ready_fd, &event) < 0 ||
	    epoll_ctl(client->wait_fd, EPOLL_CTL_ADD, client->alarm_fd, &event) < 0)
		return error_set(error, -errno, "no descriptors: %s", strerror(errno));
	if (link_init(&client->control, -1) < 0 ||
	    link_init(&client->copier.link, client->stop_fd) < 0 || jobs_init(client) < 0)
		return error_set(error, -ENOMEM, "no memory for the client");
	return 0;
}

static struct kvtier_client *client_create(void)
{
	struct kvtier_client *client = calloc(1, sizeof(*client));

	if (client == NULL)
		return NULL;
	client->stop_fd = client->ready_fd = client->alarm_fd = client->wait_fd =
		client->copier.wake_fd = -1;
	atomic_init(&client->control.fd, -1);
	atomic_init(&client->copier.link.fd, -1);
	locks_init(client);
	return client;
}

static void client_destroy(struct kvtier_client *client)
{
	const int fds[] = { client->stop_fd, client->ready_fd, client->alarm_fd, client->wait_fd,
			    client->copier.wake_fd };

	link_finish(&client->control);
	link_finish(&client->copier.link);
	jobs_finish(client);
	for (unsigned i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	for (unsigned i = 0; client->groups != NULL && i < client->groups_count; i++)
		group_finish(&client->groups[i]);
	free(client->groups);
	lending_close(&client->lending);
	free(client->register_frame);
	free(client->socket);
	pthread_cond_destroy(&client->changed);
	pthread_cond_destroy(&client->turn_given);
	pthread_mutex_destroy(&client->lock);
	pthread_mutex_destroy(&client->turn_lock);
	free(client);
}

/* Waits until the copier, where there is one, has attached or failed to, the registration was
 * refused, or the deadline has passed. */
static void client_wait_attached(struct kvtier_client *client, uint64_t deadline_us)
{
	struct timespec until = { .tv_sec = deadline_us / 1000000,
				  .tv_nsec = deadline_us % 1000000 * 1000 };
	uint64_t attempts_failed;
	int result = 0;

	if ((client->roles & KVTIER_WORKER) == 0)
		return;
	pthread_mutex_lock(&client->lock);
	attempts_failed = client->attempts_failed;
	while (result == 0 && client->session != 0 && !client->is_attached &&
	       client->refused.code == 0 && client->attempts_failed == attempts_failed)
		result = pthread_cond_timedwait(&client->changed, &client->lock, &until);
	pthread_mutex_unlock(&client->lock);
}

/* With the lock: what the last attempt met, or how far this one has come. */
static int client_away(const struct kvtier_client *client, struct error *error)
{
	if (client->failure.code != 0)
		*error = client->failure;
	else if (client->session != 0)
		error_set(error, -ENOTCONN, "registered at %s, its memory is not attached yet",
			  client->socket);
	else
		error_set(error, -ENOTCONN, "not connected to %s yet", client->socket);
	return -ENOTCONN;
}

/* 0: registered, and attached where that is wanted; else why not. Never waits. */
static int client_check(struct kvtier_client *client, struct error *error)
{
	int result = 0;

	pthread_mutex_lock(&client->lock);
	if (client->refused.code != 0) {
		*error = client->refused;
		result = client->refused.code;
	} else if (client->session == 0 ||
		   ((client->roles & KVTIER_WORKER) != 0 && !client->is_attached)) {
		result = client_away(client, error);
	} else if (client->ranks_are_missing) {
		result = error_set(error, -EAGAIN, "ranks of this engine are not registered yet");
	}
	pthread_mutex_unlock(&client->lock);
	return result;
}

static int text_give(const struct error *error, int result, char *text, size_t text_bytes)
{
	if (text != NULL && text_bytes > 0)
		snprintf(text, text_bytes, "%s", result < 0 ? error->text : "");
	return result;
}

int kvtier_open(struct kvtier_client **out_client, const struct kvtier_options *options, char *text,
		size_t text_bytes)
{
	uint64_t connect_us = options->connect_us_max == 0 ? CLIENT_CONNECT_US
							   : options->connect_us_max;
	uint64_t deadline_us = client_deadline_us(connect_us);
	struct kvtier_client *client = client_create();
	struct error error = { .code = 0 };
	int result;

	if (client == NULL) {
		result = error_set(&error, -ENOMEM, "no memory for the client");
		return text_give(&error, result, text, text_bytes);
	}
	result = options_take(client, options, &error);
	if (result == 0)
		result = descriptors_open(client, &error);
	if (result < 0) {
		client_destroy(client);
		return text_give(&error, result, text, text_bytes);
	}
	fork_watch(client);
	result = turn_take(client, deadline_us);
	assert(result == 0);
	if (session_open(client, deadline_us, &error) < 0)
		client->call_retry_at_us = client_now_us() + CLIENT_CALL_RETRY_US;
	turn_give(client);
	result = client_check(client, &error);
	if ((client->roles & KVTIER_WORKER) != 0 && (result == -ENOTCONN || result == -EAGAIN)) {
		result = copier_start(client, &error);
		if (result == 0) {
			client_wait_attached(client, deadline_us);
			result = client_check(client, &error);
		}
	}
	if (result < 0 && result != -ENOTCONN && result != -EAGAIN) {
		kvtier_close(client);
		return text_give(&error, result, text, text_bytes);
	}
	*out_client = client;
	return text_give(&error, 0, text, text_bytes);
}

void kvtier_close(struct kvtier_client *client)
{
	/* A child has neither the copier nor the mappings, and locks may be held by threads that it
	 * does not have. */
	if (client == NULL || atomic_load(&client->is_child))
		return;
	fork_unwatch(client);
	copier_stop(client);
	jobs_drain(client);
	client_destroy(client);
}

int kvtier_is_connected(struct kvtier_client *client)
{
	struct error error;

	return !atomic_load(&client->is_child) && client_check(client, &error) == 0;
}

/* Somebody asks for it, so a refused registration is tried again, once. */
static void client_forgive_refusal(struct kvtier_client *client)
{
	bool was_refused;

	pthread_mutex_lock(&client->lock);
	was_refused = client->refused.code != 0;
	client->refused.code = 0;
	pthread_mutex_unlock(&client->lock);
	if (was_refused)
		client_wake_copier(client);
}

int kvtier_connect(struct kvtier_client *client, uint64_t wait_us_max, char *text,
		   size_t text_bytes)
{
	uint64_t deadline_us = client_deadline_us(wait_us_max);
	struct error error = { .code = 0 };
	int result;

	if (atomic_load(&client->is_child))
		return -ECHILD;
	client_forgive_refusal(client);
	do {
		uint64_t pause_us = client_deadline_us(CLIENT_RETRY_US_MIN);
		struct timespec until;

		result = control_check_ready(client, CONTROL_INSIST, deadline_us);
		client_wait_attached(client, deadline_us);
		result = client_check(client, &error);
		if (result != -ENOTCONN && result != -EAGAIN)
			break;
		if (pause_us > deadline_us)
			pause_us = deadline_us;
		until = (struct timespec){ .tv_sec = pause_us / 1000000,
					   .tv_nsec = pause_us % 1000000 * 1000 };
		pthread_mutex_lock(&client->lock);
		(void)pthread_cond_timedwait(&client->changed, &client->lock, &until);
		pthread_mutex_unlock(&client->lock);
	} while (client_now_us() < deadline_us);
	return text_give(&error, result, text, text_bytes);
}

int kvtier_fingerprint(struct kvtier_client *client, uint8_t out_fingerprint[16])
{
	int result = -ENOTCONN;

	if (atomic_load(&client->is_child))
		return -ECHILD;
	pthread_mutex_lock(&client->lock);
	if (client->spaces_count > 0) {
		memcpy(out_fingerprint, client->spaces[0].fingerprint,
		       sizeof(client->spaces[0].fingerprint));
		result = 0;
	}
	pthread_mutex_unlock(&client->lock);
	return result;
}
