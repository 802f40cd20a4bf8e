/* client/kvtier_session.c: who uses the control connection, and how a client registers. */
#include "client/client.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static struct timespec timespec_of_us(uint64_t us)
{
	return (struct timespec){ .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000 };
}

int turn_take(struct kvtier_client *client, uint64_t deadline_us)
{
	struct timespec until = timespec_of_us(deadline_us);
	int result = 0;

	pthread_mutex_lock(&client->turn_lock);
	while (client->turn_is_taken && result == 0)
		result = pthread_cond_timedwait(&client->turn_given, &client->turn_lock, &until);
	if (!client->turn_is_taken) {
		client->turn_is_taken = true;
		result = 0;
	}
	pthread_mutex_unlock(&client->turn_lock);
	return result == 0 ? 0 : -ETIMEDOUT;
}

void turn_give(struct kvtier_client *client)
{
	pthread_mutex_lock(&client->turn_lock);
	assert(client->turn_is_taken);
	client->turn_is_taken = false;
	pthread_cond_signal(&client->turn_given);
	pthread_mutex_unlock(&client->turn_lock);
}

void client_wake_copier(struct kvtier_client *client)
{
	uint64_t one = 1;

	if (client->copier.wake_fd >= 0)
		(void)!write(client->copier.wake_fd, &one, sizeof(one));
}

void session_lose(struct kvtier_client *client, uint64_t session)
{
	pthread_mutex_lock(&client->lock);
	if (client->session == session) {
		client->session = 0;
		client->is_attached = false;
		pthread_cond_broadcast(&client->changed);
	}
	pthread_mutex_unlock(&client->lock);
	client_wake_copier(client);
}

void session_close(struct kvtier_client *client)
{
	uint64_t session;

	link_close(&client->control);
	pthread_mutex_lock(&client->lock);
	session = client->session;
	pthread_mutex_unlock(&client->lock);
	session_lose(client, session);
}

/* The daemon's handles of the adapters' spaces; those of an earlier session mean nothing to it. */
static int session_open_spaces(struct kvtier_client *client, uint32_t base, uint64_t deadline_us,
			       struct error *error)
{
	struct link *link = &client->control;
	const struct frame_space_reply *reply = (const struct frame_space_reply *)link->incoming;

	/* Spaces are added by whoever has the turn, which is us. */
	for (uint32_t i = 1; i < client->spaces_count; i++) {
		struct frame_space frame;
		int result;

		memset(&frame, 0, sizeof(frame));
		frame_start(&frame.header, FRAME_SPACE, sizeof(frame), 0, 0);
		frame.space = base;
		memcpy(frame.adapter, client->spaces[i].adapter, sizeof(frame.adapter));
		result = link_ask(link, &frame, FRAME_SPACE_REPLY, deadline_us, error);
		if (result < 0)
			return result;
		pthread_mutex_lock(&client->lock);
		client->spaces[i].handle = reply->space;
		memcpy(client->spaces[i].fingerprint, reply->fingerprint,
		       sizeof(reply->fingerprint));
		pthread_mutex_unlock(&client->lock);
	}
	return 0;
}

static int session_register(struct kvtier_client *client, uint64_t deadline_us, struct error *error)
{
	struct link *link = &client->control;
	struct frame_registered registered;
	int result;

	memcpy(link->outgoing, client->register_frame, client->register_bytes);
	result = link_ask(link, link->outgoing, FRAME_REGISTERED, deadline_us, error);
	if (result < 0)
		return result;
	memcpy(&registered, link->incoming, sizeof(registered));
	result = session_open_spaces(client, registered.space, deadline_us, error);
	if (result < 0)
		return result;
	pthread_mutex_lock(&client->lock);
	client->spaces[0].handle = registered.space;
	memcpy(client->spaces[0].fingerprint, registered.fingerprint,
	       sizeof(registered.fingerprint));
	if (client->spaces_count == 0)
		client->spaces_count = 1;
	client->engine_token = registered.engine_token;
	client->boot_id = link->boot_id;
	client->ranks_are_missing = registered.ranks_missing > 0;
	client->is_attached = false;
	client->session = ++client->sessions_count;
	pthread_cond_broadcast(&client->changed);
	pthread_mutex_unlock(&client->lock);
	return 0;
}

/* What the daemon refuses for good: trying again would only fill its log. */
static bool refusal_is_final(int result)
{
	return result == -EPERM || result == -EINVAL;
}

int session_open(struct kvtier_client *client, uint64_t deadline_us, struct error *error)
{
	struct link *link = &client->control;
	bool is_registering = false;
	int result;

	link_close(link);
	result = link_open(link, client->socket, FRAME_CONTROL, deadline_us, error);
	if (result == 0) {
		const struct frame_hello_reply *hello = (const struct frame_hello_reply *)
								link->incoming;

		is_registering = true;
		client->keys_max = hello->keys_max;
		result = session_register(client, deadline_us, error);
	}
	if (result == 0) {
		client_wake_copier(client);
		return 0;
	}
	link_close(link);
	pthread_mutex_lock(&client->lock);
	client->failure = *error;
	if (is_registering && refusal_is_final(result)) {
		client->refused = *error;
		pthread_cond_broadcast(&client->changed);
	}
	pthread_mutex_unlock(&client->lock);
	return result;
}

/* With the turn. 0 when registered. */
static int control_ensure_session(struct kvtier_client *client, uint64_t deadline_us)
{
	uint64_t now_us;
	struct error error;
	bool is_registered;
	int refused;

	pthread_mutex_lock(&client->lock);
	is_registered = client->session != 0;
	refused = client->refused.code;
	pthread_mutex_unlock(&client->lock);
	if (refused != 0)
		return refused;
	if (is_registered)
		return 0;
	now_us = client_now_us();
	if (now_us < client->call_retry_at_us)
		return -ENOTCONN;
	/* From the attempt's end on: one that hangs must not make every caller wait in turn. */
	if (session_open(client, deadline_us, &error) == 0)
		return 0;
	client->call_retry_at_us = client_now_us() + CLIENT_CALL_RETRY_US;
	return -ENOTCONN;
}

int control_enter(struct kvtier_client *client, uint64_t deadline_us)
{
	bool is_registered;
	int result, refused;

	if (atomic_load_explicit(&client->is_child, memory_order_relaxed))
		return -ECHILD;
	pthread_mutex_lock(&client->lock);
	is_registered = client->session != 0;
	refused = client->refused.code;
	pthread_mutex_unlock(&client->lock);
	if (refused != 0)
		return refused;
	/* Not registered, and somebody else is at it: a miss at once. */
	result = turn_take(client, is_registered ? deadline_us : 0);
	if (result < 0)
		return is_registered ? result : -ENOTCONN;
	result = control_ensure_session(client, deadline_us);
	if (result < 0)
		turn_give(client);
	return result;
}

void control_leave(struct kvtier_client *client)
{
	if (client->control.is_broken)
		session_close(client);
	turn_give(client);
}

int control_ask(struct kvtier_client *client, void *frame, enum frame_type type,
		uint64_t deadline_us)
{
	int result = link_ask(&client->control, frame, type, deadline_us, NULL);

	return result < 0 && client->control.is_broken ? -ENOTCONN : result;
}

int control_check_ready(struct kvtier_client *client, uint64_t deadline_us)
{
	struct frame_lookup frame;
	int result = control_enter(client, deadline_us);

	if (result < 0)
		return result;
	memset(&frame, 0, sizeof(frame));
	frame_start(&frame.header, FRAME_LOOKUP, sizeof(frame), 0, 0);
	frame.header.flags = FRAME_LAST;
	result = client_space_handle(client, 0, &frame.space);
	if (result == 0)
		result = control_ask(client, &frame, FRAME_FOUND, deadline_us);
	if (result == 0 || result == -EAGAIN) {
		pthread_mutex_lock(&client->lock);
		client->ranks_are_missing = result == -EAGAIN;
		pthread_cond_broadcast(&client->changed);
		pthread_mutex_unlock(&client->lock);
	}
	control_leave(client);
	return result;
}

int client_space_handle(struct kvtier_client *client, uint32_t space, uint32_t *out_handle)
{
	int result = -EINVAL;

	pthread_mutex_lock(&client->lock);
	if (space < client->spaces_count) {
		*out_handle = client->spaces[space].handle;
		result = 0;
	}
	pthread_mutex_unlock(&client->lock);
	return result;
}
