/* client/kvtier_lookup.c: the calls that a caller makes itself on the control connection. */
#include "client/client.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

int client_lookup_check(const struct kvtier_client *client, const struct kvtier_lookup *lookup,
			uint32_t keys_max, uint32_t *out_keys_count)
{
	uint64_t count = 0;

	if (lookup->sections_count > FRAME_GROUPS_MAX ||
	    (lookup->sections_count > 0 && lookup->sections == NULL))
		return -EINVAL;
	for (uint32_t i = 0; i < lookup->sections_count; i++) {
		const struct kvtier_keys *keys = &lookup->sections[i];

		if (keys->group >= client->groups_count ||
		    (keys->count > 0 && keys->hashes == NULL) ||
		    keys->first_position > UINT32_MAX - keys->count)
			return -EINVAL;
		count += keys->count;
	}
	if (count > keys_max)
		return -EINVAL;
	*out_keys_count = (uint32_t)count;
	return 0;
}

/* Where the frames of a lookup have got to. */
struct lookup_cursor {
	uint32_t section;
	uint32_t key;       /* of the section */
	uint32_t keys_left; /* over all sections */
};

static void lookup_fill_frame(const struct kvtier_lookup *lookup, uint32_t handle,
			      struct lookup_cursor *cursor, struct frame_lookup *frame)
{
	uint8_t *end = (uint8_t *)(frame + 1);
	uint32_t room = FRAME_KEYS_MAX;

	memset(frame, 0, sizeof(*frame));
	if (lookup->tag != NULL)
		memcpy(frame->tag, lookup->tag, sizeof(frame->tag));
	frame->space = handle;
	frame->lease_us = lookup->lease_us;
	frame->cost_a = lookup->cost_a;
	frame->cost_b = lookup->cost_b;
	frame->cost_c = lookup->cost_c;
	while (room > 0 && cursor->section < lookup->sections_count) {
		const struct kvtier_keys *from = &lookup->sections[cursor->section];
		uint32_t left = from->count - cursor->key;
		uint32_t count = left < room ? left : room;
		struct frame_keys *keys = (struct frame_keys *)end;

		if (count > 0) {
			*keys = (struct frame_keys){ .first_position = from->first_position +
								       cursor->key,
						     .group = (uint16_t)from->group,
						     .count = (uint16_t)count };
			memcpy(keys + 1, from->hashes + cursor->key,
			       (size_t)count * FRAME_HASH_BYTES);
			end += sizeof(*keys) + (size_t)count * FRAME_HASH_BYTES;
			frame->sections_count++;
		}
		cursor->key += count;
		cursor->keys_left -= count;
		room -= count;
		if (cursor->key < from->count)
			break;
		cursor->section++;
		cursor->key = 0;
	}
	frame_start(&frame->header, FRAME_LOOKUP, (uint32_t)(end - (uint8_t *)frame), 0, 0);
}

/* Sends all frames back to back and waits for the one answer. */
int client_lookup_ask(struct kvtier_client *client, const struct kvtier_lookup *lookup,
		      uint32_t keys_count, unsigned flags, enum frame_type type,
		      uint64_t deadline_us)
{
	struct link *link = &client->control;
	struct frame_lookup *frame = (struct frame_lookup *)link->outgoing;
	struct lookup_cursor cursor = { .keys_left = keys_count };
	uint64_t request = link->request + 1;
	uint32_t handle;
	int result = client_space_handle(client, lookup->space, &handle);

	if (result < 0)
		return result;
	for (;;) {
		lookup_fill_frame(lookup, handle, &cursor, frame);
		if (cursor.keys_left == 0)
			break;
		frame->header.request = link->request = request;
		frame->header.boot_id = link->boot_id;
		frame->header.flags = (uint16_t)flags;
		result = link_send(link, frame, deadline_us);
		if (result < 0)
			return link->is_broken ? -ENOTCONN : result;
	}
	frame->header.flags = (uint16_t)(flags | FRAME_LAST);
	link->request = request - 1; /* control_ask() counts it itself */
	return control_ask(client, frame, type, deadline_us);
}

/* Tokens and time of the runs, as far as they are usable and worth it. */
static void found_count_runs(const struct frame_found *frame, struct kvtier_found *out_found)
{
	const struct frame_run *runs = (const struct frame_run *)(frame + 1);
	uint64_t tokens = 0, restore_us = 0;

	for (uint32_t i = 0; i < frame->runs_count; i++) {
		uint64_t usable = tokens < frame->usable_tokens ? frame->usable_tokens - tokens : 0;
		uint64_t worth = tokens < frame->worth_tokens ? frame->worth_tokens - tokens : 0;
		uint64_t here = runs[i].tokens;

		if (runs[i].tier < KVTIER_TIERS)
			out_found->tier_tokens[runs[i].tier] += (uint32_t)(here < usable ? here
											 : usable);
		if (here > 0)
			restore_us += here <= worth ? runs[i].restore_us
						    : runs[i].restore_us * worth / here;
		tokens += here;
	}
	out_found->restore_us = restore_us < UINT32_MAX ? (uint32_t)restore_us : UINT32_MAX;
}

int client_found_take(const struct frame_found *frame, uint32_t keys_count,
		      struct kvtier_found *out_found)
{
	const uint8_t *bits = (const uint8_t *)(frame + 1) +
			      frame->runs_count * sizeof(struct frame_run);

	if (frame->keys_count != keys_count)
		return -EPROTO;
	out_found->lease = frame->lease;
	out_found->usable_tokens = frame->usable_tokens;
	out_found->worth_tokens = frame->worth_tokens;
	found_count_runs(frame, out_found);
	for (uint32_t i = 0; i < keys_count; i++) {
		bool is_present = (bits[i / 8] >> (i % 8) & 1) != 0;

		out_found->present_count += is_present;
		if (out_found->present != NULL && i < out_found->present_max)
			out_found->present[i] = is_present;
	}
	return 0;
}

static void note_ready(struct kvtier_client *client, bool ranks_are_missing)
{
	pthread_mutex_lock(&client->lock);
	client->ranks_are_missing = ranks_are_missing;
	pthread_mutex_unlock(&client->lock);
}

bool client_can_load(struct kvtier_client *client)
{
	bool can_load;

	if ((client->roles & KVTIER_WORKER) == 0)
		return true;   /* the workers of a scheduler are other clients */
	pthread_mutex_lock(&client->lock);
	can_load = client->is_attached;
	pthread_mutex_unlock(&client->lock);
	return can_load;
}

int kvtier_lookup(struct kvtier_client *client, const struct kvtier_lookup *lookup,
		  uint64_t wait_us_max, struct kvtier_found *out_found)
{
	uint64_t deadline_us = client_deadline_us(wait_us_max);
	uint32_t keys_count;
	int result = client_lookup_check(client, lookup, FRAME_LOOKUP_KEYS_MAX, &keys_count);

	*out_found = (struct kvtier_found){ .present = out_found->present,
					    .present_max = out_found->present_max };
	if (out_found->present != NULL)
		memset(out_found->present, 0, out_found->present_max);
	if (result < 0)
		return result;
	result = control_enter(client, CONTROL_ASK, deadline_us);
	if (result < 0)
		return result;
	/* What could not be loaded is not promised: after a restart the copy thread attaches a
	 * moment later than the callers' own connection. */
	if (!client_can_load(client))
		result = -ENOTCONN;
	if (result == 0)
		result = client_lookup_ask(client, lookup, keys_count, 0, FRAME_FOUND,
					   deadline_us);
	if (result == 0)
		result = client_found_take((const struct frame_found *)client->control.incoming,
					   keys_count, out_found);
	if (result == -EPROTO)
		client->control.is_broken = true;
	if (result == 0 || result == -EAGAIN)
		note_ready(client, result == -EAGAIN);
	control_leave(client);
	return result;
}

int kvtier_lease_release(struct kvtier_client *client, uint64_t lease)
{
	struct frame_lease_release frame;
	int result;

	if (lease == 0)
		return 0;
	result = control_enter_to_tell(client, client_deadline_us(CLIENT_RETRY_US_MIN));
	if (result < 0)
		return result;
	frame_start(&frame.header, FRAME_LEASE_RELEASE, sizeof(frame), ++client->control.request,
		    client->control.boot_id);
	frame.lease = lease;
	/* A daemon that does not read takes the lease back by itself at its deadline. */
	result = link_try_send(&client->control, &frame);
	control_leave(client);
	return result;
}

static uint32_t space_find_adapter(struct kvtier_client *client, const uint8_t digest[32])
{
	for (uint32_t i = 1; i < client->spaces_count; i++)
		if (memcmp(client->spaces[i].adapter, digest, sizeof(client->spaces[i].adapter)) ==
		    0)
			return i;
	return KVTIER_SPACE_NONE;
}

/* With the turn. */
static int space_add(struct kvtier_client *client, const uint8_t digest[32], uint64_t deadline_us,
		     uint32_t *out_space)
{
	const struct frame_space_reply *reply = (const struct frame_space_reply *)
							client->control.incoming;
	struct frame_space frame;
	struct client_space *space;
	int result;

	if (client->spaces_count == CLIENT_SPACES_MAX)
		return -ENOSPC;
	memset(&frame, 0, sizeof(frame));
	frame_start(&frame.header, FRAME_SPACE, sizeof(frame), 0, 0);
	result = client_space_handle(client, 0, &frame.space);
	if (result < 0)
		return result;
	memcpy(frame.adapter, digest, sizeof(frame.adapter));
	result = control_ask(client, &frame, FRAME_SPACE_REPLY, deadline_us);
	if (result < 0)
		return result;
	pthread_mutex_lock(&client->lock);
	space = &client->spaces[client->spaces_count];
	memcpy(space->adapter, digest, sizeof(space->adapter));
	memcpy(space->fingerprint, reply->fingerprint, sizeof(space->fingerprint));
	space->handle = reply->space;
	*out_space = client->spaces_count++;
	pthread_mutex_unlock(&client->lock);
	return 0;
}

int kvtier_space_open(struct kvtier_client *client, const uint8_t adapter_digest[32],
		      uint64_t wait_us_max, uint32_t *out_space)
{
	uint64_t deadline_us = client_deadline_us(wait_us_max);
	uint32_t space;
	int result = control_enter(client, CONTROL_ASK, deadline_us);

	if (result < 0)
		return result;
	space = space_find_adapter(client, adapter_digest);
	if (space == KVTIER_SPACE_NONE)
		result = space_add(client, adapter_digest, deadline_us, &space);
	if (result == 0)
		*out_space = space;
	control_leave(client);
	return result;
}

int kvtier_forget(struct kvtier_client *client, uint32_t space, uint64_t wait_us_max)
{
	uint64_t deadline_us = client_deadline_us(wait_us_max);
	struct frame_forget frame;
	int result = control_enter(client, CONTROL_ASK, deadline_us);

	if (result < 0)
		return result;
	memset(&frame, 0, sizeof(frame));
	frame_start(&frame.header, FRAME_FORGET, sizeof(frame), 0, 0);
	frame.space = UINT32_MAX;
	if (space != KVTIER_SPACE_NONE)
		result = client_space_handle(client, space, &frame.space);
	if (result == 0)
		result = control_ask(client, &frame, FRAME_DONE, deadline_us);
	control_leave(client);
	return result;
}

int kvtier_hint(struct kvtier_client *client, enum kvtier_hint hint, uint32_t space,
		const struct kvtier_keys *keys, uint64_t retain_us, uint64_t wait_us_max,
		uint64_t *out_lease)
{
	uint64_t deadline_us = client_deadline_us(wait_us_max);
	struct frame_hint *frame;
	const struct frame_hint_reply *reply;
	int result;

	if ((unsigned)hint > KVTIER_HINT_TOUCH || (keys->count > 0 && keys->hashes == NULL) ||
	    keys->count > FRAME_KEYS_MAX || keys->group >= client->groups_count)
		return -EINVAL;
	result = control_enter(client, CONTROL_ASK, deadline_us);
	if (result < 0)
		return result;
	frame = (struct frame_hint *)client->control.outgoing;
	reply = (const struct frame_hint_reply *)client->control.incoming;
	memset(frame, 0, sizeof(*frame));
	frame_start(&frame->header, FRAME_HINT,
		    (uint32_t)(sizeof(*frame) + keys->count * FRAME_HASH_BYTES), 0, 0);
	frame->retain_us = retain_us;
	frame->kind = hint;
	frame->group = (uint16_t)keys->group;
	frame->count = (uint16_t)keys->count;
	if (keys->count > 0)
		memcpy(frame + 1, keys->hashes, (size_t)keys->count * FRAME_HASH_BYTES);
	result = client_space_handle(client, space, &frame->space);
	if (result == 0)
		result = control_ask(client, frame, FRAME_HINT_REPLY, deadline_us);
	if (result == 0) {
		if (out_lease != NULL)
			*out_lease = reply->lease;
		result = (int)reply->outcome;
	}
	control_leave(client);
	return result;
}

int kvtier_stats(struct kvtier_client *client, char *text, size_t text_bytes, uint64_t wait_us_max)
{
	uint64_t deadline_us = client_deadline_us(wait_us_max);
	const struct frame_text *reply = (const struct frame_text *)client->control.incoming;
	struct frame_header frame;
	size_t bytes;
	int result;

	if (text_bytes == 0)
		return -EINVAL;
	result = control_enter(client, CONTROL_ASK, deadline_us);
	if (result < 0)
		return result;
	frame_start(&frame, FRAME_STATS, sizeof(frame), 0, 0);
	result = control_ask(client, &frame, FRAME_TEXT, deadline_us);
	if (result == 0) {
		bytes = reply->header.bytes - sizeof(*reply);
		bytes = bytes < text_bytes - 1 ? bytes : text_bytes - 1;
		memcpy(text, reply + 1, bytes);
		text[bytes] = 0;
	}
	control_leave(client);
	return result;
}
