/* daemon/fetch_client.c: the engine's side of a fetch: what it names, what it is answered, and
 * the loads that wait for blocks on their way. */
#include "daemon/fetch_parts.h"

#include "daemon/gathering.h"
#include "daemon/lookup_parts.h"
#include "daemon/server.h"
#include "daemon/tickets.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CONNECT_US_MAX (UINT64_C(2) * 1000000)
#define FETCHES_A_SESSION_MAX (FETCHES_MAX / 2)

/* ---- what it names ---- */

void fetch_drop(struct fetch *fetch)
{
	fetch->session = NULL;
	fetch->is_released = true;
	fetch->state = FETCH_OVER;
}

static struct fetch *fetch_take(struct session *session, const struct frame_fetch *frame)
{
	struct daemon *daemon = session->daemon;
	struct fetches *fetches = daemon->peers->fetches;
	struct list_node *node = fetches->live.count < FETCHES_MAX / daemon->tenants_count ||
						 daemon->tenants_count == 1
					 ? list_take_first(&fetches->free)
					 : NULL;
	uint64_t wait_us = frame->wait_us;

	if (node == NULL)
		return NULL;
	struct fetch *fetch = list_item(node, struct fetch, link);
	memset(fetch, 0, offsetof(struct fetch, asked));
	memset(fetch->places, 0, sizeof(fetch->places));
	list_append(&fetches->live, &fetch->link);
	list_init(&fetch->parked);
	if (wait_us > daemon->settings.lease_us_max)
		wait_us = daemon->settings.lease_us_max;
	fetch->id = ++fetches->ids;
	fetch->number = fetch->id;
	fetch->state = FETCH_GATHERING;
	fetch->session = session;
	fetch->tenant = session->tenant;
	fetch->world = session->engine->world;
	fetch->groups_count = session->engine->groups_count;
	fetch->is_stream = frame->mode == FRAME_FETCH_STREAM;
	fetch->deadline_us = daemon->now_us + wait_us;
	fetch->space = UINT32_MAX;
	for (unsigned i = 0; i < fetch->groups_count; i++) {
		const struct frame_group *group = &session->engine->groups[i];

		fetch->groups[i] = (struct fetch_group){
			.payload_bytes = group->payload_bytes,
			.segments_count = group->segments_count,
			.tokens_per_block = group->tokens_per_block,
			.is_full = group->kind == FRAME_GROUP_FULL,
		};
	}
	return fetch;
}

/* Who has it: the peer that is named, or the issuer of the ticket. NULL without a refusal: that is
 * we ourselves, and nobody is asked. */
static struct peer *fetch_source(struct session *session, struct fetch *fetch,
				 const struct frame_fetch *frame)
{
	struct peers *peers = session->daemon->peers;
	const char *text = (const char *)(frame + 1), *reason;
	struct peer *peer;
	struct ticket ticket;

	if (frame->ticket_bytes == 0) {
		peer = peers_find(session->daemon, frame->peer);
		if (peer == NULL)
			gathering_refuse(session, -ENOENT, "no peer of this node has that address");
		return peer;
	}
	int result = ticket_check(peers, text, frame->ticket_bytes, &ticket, &reason);
	if (result == 0 && strcmp(ticket.tenant, session->tenant->name) != 0) {
		result = -EPERM;
		reason = "the ticket is for another tenant";
	}
	if (result < 0) {
		gathering_refuse(session, result, reason);
		return NULL;
	}
	fetch->ticket_bytes = frame->ticket_bytes;
	memcpy(fetch->ticket, text, frame->ticket_bytes);
	memcpy(fetch->fingerprint, ticket.fingerprint, sizeof(fetch->fingerprint));
	if (memcmp(ticket.node, peers->self.node, sizeof(ticket.node)) == 0)
		return NULL;
	peer = peers_want(session->daemon, ticket.address, PEER_BY_TICKET);
	if (peer == NULL)
		gathering_refuse(session, -EHOSTUNREACH, "the ticket's node cannot be connected to");
	return peer;
}

void fetch_frame(struct session *session, const struct frame_fetch *frame)
{
	struct gathering *gathering = &session->gathering;

	if (!gathering_begin(session, frame->header.request, "FETCH"))
		return;
	gathering->fetch = fetch_take(session, frame);
	if (gathering->fetch == NULL) {
		gathering_refuse(session, -EBUSY, "too many fetches are under way");
		return;
	}
	gathering->fetch->peer = fetch_source(session, gathering->fetch, frame);
	if (frame->second[0] == '\0')
		return;
	gathering->fetch->second = peers_find(session->daemon, frame->second);
	if (gathering->fetch->second == NULL)
		gathering_refuse(session, -ENOENT, "no peer of this node has the second address");
	/* Where the ticket is our own nobody is asked first. */
	if (gathering->fetch->peer == NULL || gathering->fetch->second == gathering->fetch->peer)
		gathering->fetch->second = NULL;
}

int fetch_keys_add(struct session *session, struct fetch *fetch, const struct frame_lookup *frame)
{
	const uint8_t (*hashes)[FRAME_HASH_BYTES];
	const struct frame_keys *keys;
	size_t position = 0;

	while ((keys = frame_lookup_next(frame, &position, &hashes)) != NULL) {
		if (keys->group >= session->engine->groups_count)
			return -EINVAL;
		if (fetch->sections_count == FETCH_SECTIONS_MAX ||
		    fetch->count + keys->count > PEER_ITEMS_MAX)
			return -E2BIG;
		fetch->sections[fetch->sections_count++] = (struct lookup_section){
			.group = keys->group,
			.count = keys->count,
			.first_position = keys->first_position,
			.first = fetch->count,
		};
		for (unsigned i = 0; i < keys->count; i++) {
			struct peer_key *key = &fetch->keys[fetch->count];

			memset(key, 0, sizeof(*key));
			memcpy(key->hash, hashes[i], BLOCK_HASH_BYTES);
			key->position = keys->first_position + i;
			key->group = keys->group;
			fetch_key_index(fetch, fetch->count++);
		}
	}
	return 0;
}

/* Which keys are here; the others are asked for. */
static void keys_look(struct daemon *daemon, struct fetch *fetch)
{
	for (uint32_t i = 0; i < fetch->count; i++) {
		struct peer_key *key = &fetch->keys[i];
		struct cache_query query = {
			.space = fetch->space, .group = key->group,
			.hashes = (const uint8_t (*)[BLOCK_HASH_BYTES])key->hash, .count = 1,
		};
		uint32_t entry;

		cache_find(daemon->cache, &query, &entry);
		key->state = entry != ENTRY_NONE ? FETCH_KEY_HERE : FETCH_KEY_ASKED;
		if (entry != ENTRY_NONE)
			continue;
		key->item = fetch->asked_count;
		fetch->asked[fetch->asked_count++] = i;
		fetch->open_count++;
	}
}

/* A peer that was up a moment ago, or is new, may be up in a moment; one that is down for longer
 * costs nobody any time. */
void fetch_peer_await(struct peers *peers, struct fetch *fetch)
{
	fetch->await_us = fetch->peer->since_us + CONNECT_US_MAX;
	if (fetch->await_us <= peers->daemon->now_us)
		fetch_end(peers, fetch, -EHOSTUNREACH);
}

void fetch_check(struct session *session, const struct fetch *fetch,
		 const struct frame_lookup *last)
{
	if (fetch->ticket_bytes > 0 &&
	    memcmp(fetch->fingerprint,
		   cache_space_fingerprint(session->daemon->cache, last->space),
		   SPACE_ID_BYTES) != 0)
		gathering_refuse(session, -EPERM,
				 "the ticket is for another model, layout or version");
}

void fetch_begin(struct session *session, struct fetch *fetch, const struct frame_lookup *last)
{
	struct daemon *daemon = session->daemon;
	struct frame_fetching reply = { .fetch = fetch->id };

	fetch->ask = *last;
	fetch->space = last->space;
	cache_space_hold(daemon->cache, fetch->space);
	fetch->holds_space = true;
	memcpy(fetch->fingerprint, cache_space_fingerprint(daemon->cache, fetch->space),
	       SPACE_ID_BYTES);
	keys_look(daemon, fetch);
	fetch->state = FETCH_CONNECTING;
	session_reply(session, &reply, sizeof(reply), FRAME_FETCHING, fetch->ask.header.request, 0);
	if (fetch->open_count == 0 || fetch->peer == NULL)
		fetch_end(daemon->peers, fetch, 0);
	else if (fetch->peer->is_up)
		fetch_peer_up(fetch->peer, daemon);
	else
		fetch_peer_await(daemon->peers, fetch);
}

/* ---- what it is answered ---- */

static struct fetch *fetch_of(struct session *session, uint64_t id)
{
	struct peers *peers = session->daemon->peers;

	if (peers == NULL)
		return NULL;
	struct list *live = &peers->fetches->live;
	for (struct list_node *node = list_first(live); node != NULL;
	     node = list_after(live, node)) {
		struct fetch *fetch = list_item(node, struct fetch, link);

		if (fetch->id == id && fetch->session == session &&
		    fetch->state != FETCH_GATHERING)
			return fetch;
	}
	return NULL;
}

static bool is_coming(const struct fetch *fetch, const struct peer_key *key)
{
	if (key->is_spoilt)
		return false;
	return key->state == FETCH_KEY_GRANTED || key->state == FETCH_KEY_ARRIVING ||
	       (key->state == FETCH_KEY_ASKED && fetch->is_stream);
}

void fetch_answer(struct fetch *fetch)
{
	static uint8_t coming[PEER_ITEMS_MAX];
	struct session *session = fetch->session;
	struct remote_lookup remote = {
		.space = fetch->space,
		.ask = &fetch->ask,
		.request = fetch->wait_request,
		.sections = fetch->sections,
		.sections_count = fetch->sections_count,
		.keys = fetch->keys,
		.keys_count = fetch->count,
		.coming = coming,
		.speed = fetch->peer != NULL ? &fetch->peer->speed : NULL,
		.queued_bytes = fetch->arriving_bytes,
	};

	assert(fetch->wait_request != 0);
	fetch->wait_request = 0;
	if (session == NULL)
		return;
	if (!fetch->is_answered) {
		struct frame_found reply = { 0 };

		session_reply(session, &reply, sizeof(reply), FRAME_FOUND, remote.request, -EAGAIN);
		return;
	}
	for (uint32_t i = 0; i < fetch->count; i++)
		coming[i] = fetch->state != FETCH_OVER && is_coming(fetch, &fetch->keys[i]);
	lookup_answer_remote(session, &remote);
}

void fetch_wait_frame(struct session *session, const struct frame_fetch_wait *frame)
{
	struct daemon *daemon = session->daemon;
	struct fetch *fetch = fetch_of(session, frame->fetch);
	uint64_t wait_us = frame->wait_us;

	if (fetch == NULL || fetch->wait_request != 0) {
		struct frame_found reply = { 0 };

		session_reply(session, &reply, sizeof(reply), FRAME_FOUND, frame->header.request,
			      fetch == NULL ? -ESTALE : -EBUSY);
		return;
	}
	if (wait_us > daemon->settings.lease_us_max)
		wait_us = daemon->settings.lease_us_max;
	fetch->wait_request = frame->header.request;
	fetch->wait_until_us = daemon->now_us + wait_us;
	if (fetch->is_answered || wait_us == 0)
		fetch_answer(fetch);
}

/* Its engine wants it no more. */
static void fetch_leave(struct daemon *daemon, struct fetch *fetch)
{
	fetch->session = NULL;
	fetch->wait_request = 0;
	fetch_end(daemon->peers, fetch, -ECANCELED);
}

void fetch_end_frame(struct session *session, const struct frame_fetch_end *frame)
{
	struct fetch *fetch = fetch_of(session, frame->fetch);

	if (fetch != NULL)
		fetch_leave(session->daemon, fetch);
}

void fetch_session_end(struct session *session)
{
	struct peers *peers = session->daemon->peers;

	if (peers == NULL)
		return;
	gathering_drop(session);
	for (struct list_node *node = list_first(&peers->fetches->live); node != NULL;
	     node = list_after(&peers->fetches->live, node)) {
		struct fetch *fetch = list_item(node, struct fetch, link);

		if (fetch->session == session)
			fetch_leave(session->daemon, fetch);
	}
}

/* ---- loads that wait ---- */

bool fetch_park(struct batch *batch, struct batch_item *item)
{
	struct session *session = batch->session;
	struct peers *peers = session->daemon->peers;

	if (peers == NULL || list_is_empty(&peers->fetches->live))
		return false;
	for (struct list_node *node = list_first(&peers->fetches->live); node != NULL;
	     node = list_after(&peers->fetches->live, node)) {
		struct fetch *fetch = list_item(node, struct fetch, link);

		if (fetch->tenant != session->tenant || fetch->space != batch->space ||
		    fetch->state == FETCH_GATHERING)
			continue;
		uint32_t key = fetch_key_find(fetch, batch->group, item->hash);
		if (key == UINT32_MAX || (!is_coming(fetch, &fetch->keys[key]) &&
					  fetch->keys[key].state != FETCH_KEY_ASKED))
			continue;
		item->state = ITEM_PARKED;
		item->slot = key;
		item->fetch = fetch;
		batch->moving++;
		list_append(&fetch->parked, &item->attached);
		return true;
	}
	return false;
}

void fetch_unpark(struct batch *batch, struct batch_item *item)
{
	assert(item->state == ITEM_PARKED);
	list_remove(&item->fetch->parked, &item->attached);
	item->fetch = NULL;
	item->slot = SLOT_NONE;
	item->state = ITEM_IDLE;
	assert(batch->moving > 0);
	batch->moving--;
}

void fetch_wake(struct fetch *fetch, uint32_t key)
{
	struct list_node *node = list_first(&fetch->parked);

	while (node != NULL) {
		struct batch_item *item = list_item(node, struct batch_item, attached);

		node = list_after(&fetch->parked, node);
		if (item->slot != key)
			continue;
		struct batch *batch = batch_of_item(item);
		fetch_unpark(batch, item);
		load_look_again(batch, item);
	}
}
