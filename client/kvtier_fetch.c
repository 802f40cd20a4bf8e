/* client/kvtier_fetch.c: blocks of another node: asked for, waited for, given up; and promised to
 * one. */
#include "client/client.h"

#include "proto/frames_peers.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static_assert(KVTIER_TICKET_BYTES == FRAME_TICKET_BYTES_MAX, "its text, with a NUL");

#define LOOK_US_MAX UINT64_C(20000) /* a bound of 0 looks; the daemon answers at once */

static int source_check(const struct kvtier_source *source)
{
	if ((source->peer == NULL) == (source->ticket == NULL) ||
	    (unsigned)source->mode > KVTIER_STREAM)
		return -EINVAL;
	if (source->ticket != NULL && (source->ticket[0] == '\0' ||
				       strlen(source->ticket) > FRAME_TICKET_BYTES_MAX))
		return -EBADMSG;
	if ((source->peer != NULL && strlen(source->peer) >= FRAME_PEER_BYTES) ||
	    (source->second != NULL && strlen(source->second) >= FRAME_PEER_BYTES))
		return -EINVAL;
	return 0;
}

/* With the turn. Its keys follow, and the answer to them. */
static int list_say(struct kvtier_client *client, struct frame_header *frame,
		    enum frame_type type, size_t bytes, uint64_t deadline_us)
{
	struct link *link = &client->control;

	frame_start(frame, type, (uint32_t)bytes, ++link->request, link->boot_id);
	int result = link_send(link, frame, deadline_us);
	return result < 0 && link->is_broken ? -ENOTCONN : result;
}

static int fetch_say(struct kvtier_client *client, const struct kvtier_source *source,
		     uint64_t keep_us, uint64_t deadline_us)
{
	union {
		struct frame_fetch frame;
		uint8_t bytes[sizeof(struct frame_fetch) + FRAME_TICKET_BYTES_MAX];
	} out;
	size_t ticket_bytes = source->ticket != NULL ? strlen(source->ticket) : 0;

	memset(&out.frame, 0, sizeof(out.frame));
	if (source->peer != NULL)
		strcpy(out.frame.peer, source->peer);
	if (source->second != NULL)
		strcpy(out.frame.second, source->second);
	out.frame.wait_us = keep_us;
	out.frame.mode = source->mode == KVTIER_STREAM ? FRAME_FETCH_STREAM : FRAME_FETCH_PRESENT;
	out.frame.ticket_bytes = (uint32_t)ticket_bytes;
	memcpy(&out.frame + 1, source->ticket != NULL ? source->ticket : "", ticket_bytes);
	return list_say(client, &out.frame.header, FRAME_FETCH, sizeof(out.frame) + ticket_bytes,
			deadline_us);
}

/* Takes the turn, if this daemon can do it. */
static int peers_enter(struct kvtier_client *client, uint64_t deadline_us)
{
	int result = control_enter(client, CONTROL_ASK, deadline_us);

	if (result < 0)
		return result;
	if ((client->control.features & FRAME_FEATURE_PEERS) == 0)
		result = -ENOTSUP;
	else if (!client_can_load(client))
		result = -ENOTCONN;
	if (result < 0)
		control_leave(client);
	return result;
}

int kvtier_fetch(struct kvtier_client *client, const struct kvtier_lookup *lookup,
		 const struct kvtier_source *source, uint64_t keep_us, uint64_t wait_us_max,
		 struct kvtier_fetch *out_fetch)
{
	uint64_t deadline_us = client_deadline_us(wait_us_max);
	uint32_t keys_count;
	int result = client_lookup_check(client, lookup, FRAME_FETCH_KEYS_MAX, &keys_count);

	*out_fetch = (struct kvtier_fetch){ 0 };
	if (result == 0)
		result = source_check(source);
	if (result == 0)
		result = peers_enter(client, deadline_us);
	if (result < 0)
		return result;
	result = fetch_say(client, source, keep_us, deadline_us);
	if (result == 0)
		result = client_lookup_ask(client, lookup, keys_count, FRAME_REMOTE, FRAME_FETCHING,
					   deadline_us);
	if (result == 0) {
		const struct frame_fetching *reply =
			(const struct frame_fetching *)client->control.incoming;

		out_fetch->number = reply->fetch;
		out_fetch->keys_count = keys_count;
	}
	control_leave(client);
	return result;
}

int kvtier_fetch_wait(struct kvtier_client *client, const struct kvtier_fetch *fetch,
		      uint64_t wait_us_max, struct kvtier_found *out_found)
{
	uint64_t bound_us = wait_us_max > LOOK_US_MAX ? wait_us_max : LOOK_US_MAX;
	uint64_t deadline_us = client_deadline_us(bound_us);
	struct frame_fetch_wait frame = { .fetch = fetch->number };
	int result = control_enter(client, CONTROL_ASK, deadline_us);

	*out_found = (struct kvtier_found){ .present = out_found->present,
					    .present_max = out_found->present_max };
	if (out_found->present != NULL)
		memset(out_found->present, 0, out_found->present_max);
	if (result < 0)
		return result;
	/* The daemon's answer is to come within our own bound. */
	frame.wait_us = wait_us_max > LOOK_US_MAX ? wait_us_max - wait_us_max / 8 : 0;
	frame_start(&frame.header, FRAME_FETCH_WAIT, sizeof(frame), 0, 0);
	result = control_ask(client, &frame, FRAME_FOUND, deadline_us);
	if (result == 0)
		result = client_found_take((const struct frame_found *)client->control.incoming,
					   fetch->keys_count, out_found);
	if (result == -EPROTO)
		client->control.is_broken = true;
	control_leave(client);
	return result;
}

int kvtier_fetch_end(struct kvtier_client *client, const struct kvtier_fetch *fetch)
{
	struct frame_fetch_end frame = { .fetch = fetch->number };
	int result;

	if (fetch->number == 0)
		return 0;
	result = control_enter_to_tell(client, client_deadline_us(CLIENT_RETRY_US_MIN));
	if (result < 0)
		return result;
	frame_start(&frame.header, FRAME_FETCH_END, sizeof(frame), ++client->control.request,
		    client->control.boot_id);
	/* A daemon that does not read ends it by itself at its deadline. */
	result = link_try_send(&client->control, &frame);
	control_leave(client);
	return result;
}

int kvtier_ticket(struct kvtier_client *client, const struct kvtier_lookup *lookup,
		  uint64_t keep_us, uint64_t wait_us_max, char out_ticket[KVTIER_TICKET_BYTES])
{
	uint64_t deadline_us = client_deadline_us(wait_us_max);
	struct frame_ticket frame = { .keep_us = keep_us };
	uint32_t keys_count;
	int result = client_lookup_check(client, lookup, FRAME_FETCH_KEYS_MAX, &keys_count);

	out_ticket[0] = '\0';
	if (result == 0)
		result = peers_enter(client, deadline_us);
	if (result < 0)
		return result;
	result = list_say(client, &frame.header, FRAME_TICKET, sizeof(frame), deadline_us);
	if (result == 0)
		result = client_lookup_ask(client, lookup, keys_count, FRAME_REMOTE,
					   FRAME_TICKETED, deadline_us);
	if (result == 0) {
		const struct frame_ticketed *reply =
			(const struct frame_ticketed *)client->control.incoming;

		memcpy(out_ticket, reply->text, sizeof(reply->text));
	}
	control_leave(client);
	return result;
}
