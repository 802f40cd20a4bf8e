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
		if (session != 0 && client->failure.code == 0)
			error_set(&client->failure, -ENOTCONN, "the daemon at %s went away",
				  client->socket);
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
	client->refused = client->failure = (struct error){ .code = 0 };
	breaker_close(&client->breaker);
	client->session = ++client->sessions_count;
	pthread_cond_broadcast(&client->changed);
	pthread_mutex_unlock(&client->lock);
	return 0;
}

/* What the daemon refuses until something changes: trying again would only fill its log. */
static bool refusal_is_final(int result)
{
	return result == -EPERM || result == -EINVAL;
}

int session_open(struct kvtier_client *client, uint64_t deadline_us, struct error *error)
{
	struct link *link = &client->control;
	uint64_t began_us = client_now_us();
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
		if (result == -ETIMEDOUT)
			error_set(error, result,
				  "the daemon at %s did not answer a registration within %llu ms",
				  client->socket,
				  (unsigned long long)(client_now_us() - began_us) / 1000);
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

/* The answer to a call that may not ask now, or 0. `out_is_alone`: the breaker lets one ask. */
static int control_check(struct kvtier_client *client, enum control_way way,
			 bool *out_is_registered, bool *out_is_alone)
{
	struct breaker breaker;
	int refused;

	pthread_mutex_lock(&client->lock);
	*out_is_registered = client->session != 0;
	refused = client->refused.code;
	breaker = client->breaker;
	pthread_mutex_unlock(&client->lock);
	*out_is_alone = way == CONTROL_ASK && breaker.pause_us != 0;
	if (refused != 0)
		return refused;
	return *out_is_alone && breaker_holds(&breaker, client_now_us()) ? -EAGAIN : 0;
}

/* With the turn, at its end: an answer closes the breaker, silence opens it. */
static void control_judge(struct kvtier_client *client)
{
	enum link_heard heard = client->control.heard;
	uint64_t now_us;

	if (heard == LINK_NOT_ASKED || (heard == LINK_ANSWERED && client->breaker.pause_us == 0))
		return;
	now_us = client_now_us();
	pthread_mutex_lock(&client->lock);
	if (heard == LINK_SILENT)
		breaker_trip(&client->breaker, now_us - client->turn_since_us, now_us);
	else
		breaker_close(&client->breaker);
	pthread_mutex_unlock(&client->lock);
}

/* With the turn. 0 when registered. What whoever had the turn before has found out counts. */
static int control_ensure_session(struct kvtier_client *client, enum control_way way,
				  uint64_t deadline_us)
{
	struct error error;
	bool is_registered, is_alone;
	int result = control_check(client, way, &is_registered, &is_alone);

	if (result < 0 || is_registered)
		return result;
	if (client->turn_since_us < client->call_retry_at_us)
		return -ENOTCONN;
	/* From the attempt's end on: one that hangs must not make every caller wait in turn. */
	result = session_open(client, deadline_us, &error);
	if (result == 0)
		return 0;
	if (!refusal_is_final(result))
		client->call_retry_at_us = client_now_us() + CLIENT_CALL_RETRY_US;
	return -ENOTCONN;
}

int control_enter(struct kvtier_client *client, enum control_way way, uint64_t deadline_us)
{
	bool is_registered, is_alone;
	int result;

	if (atomic_load_explicit(&client->is_child, memory_order_relaxed))
		return -ECHILD;
	result = control_check(client, way, &is_registered, &is_alone);
	if (result < 0)
		return result;
	/* Somebody else connects, or asks a daemon that did not answer lately: a miss at once. */
	result = turn_take(client, is_registered && !is_alone ? deadline_us : 0);
	if (result < 0)
		return !is_registered ? -ENOTCONN : is_alone ? -EAGAIN : result;
	client->turn_since_us = client_now_us();
	client->control.heard = LINK_NOT_ASKED;
	result = control_ensure_session(client, way, deadline_us);
	if (result < 0) {
		control_judge(client);
		turn_give(client);
	}
	return result;
}

int control_enter_to_tell(struct kvtier_client *client, uint64_t deadline_us)
{
	bool is_registered;
	int refused, result;

	if (atomic_load_explicit(&client->is_child, memory_order_relaxed))
		return -ECHILD;
	result = turn_take(client, deadline_us);
	if (result < 0)
		return result;
	pthread_mutex_lock(&client->lock);
	is_registered = client->session != 0;
	refused = client->refused.code;
	pthread_mutex_unlock(&client->lock);
	client->control.heard = LINK_NOT_ASKED;
	if (is_registered)
		return 0;
	turn_give(client);
	return refused != 0 ? refused : -ENOTCONN;
}

void control_leave(struct kvtier_client *client)
{
	control_judge(client);
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

int control_check_ready(struct kvtier_client *client, enum control_way way, uint64_t deadline_us)
{
	struct frame_lookup frame;
	int result = control_enter(client, way, deadline_us);

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
