/* daemon/fetch_second.c: what the first peer of a fetch does not give is asked of the second. */
#include "daemon/fetch_parts.h"

#include <assert.h>

bool fetch_has_second(const struct peers *peers, const struct fetch *fetch)
{
	return fetch->second != NULL && fetch->state != FETCH_OVER &&
	       peers->daemon->now_us < fetch->deadline_us;
}

void fetch_second_ask(struct peers *peers, struct fetch *fetch)
{
	assert(fetch->open_count == 0 && fetch->second_count > 0);
	fetch_release_say(peers, fetch);
	fetch->peer = fetch->second;
	fetch->second = NULL;
	fetch->number = ++peers->fetches->ids;
	fetch->is_released = fetch->is_answered = fetch->is_eager = false;
	fetch->ticket_bytes = 0;
	fetch->asked_count = fetch->asked_sent = fetch->next = 0;
	fetch->lease_us = 0;
	fetch->state = FETCH_CONNECTING;
	for (uint32_t i = 0; i < fetch->count; i++) {
		struct peer_key *key = &fetch->keys[i];

		if (key->state != FETCH_KEY_SECOND)
			continue;
		key->state = FETCH_KEY_ASKED;
		key->item = fetch->asked_count;
		fetch->asked[fetch->asked_count++] = i;
		fetch->open_count++;
	}
	fetch->second_count = 0;
	if (fetch->peer->is_up)
		fetch_open(peers, fetch);
	else
		fetch_peer_await(peers, fetch);
}

void fetch_second_take(struct peers *peers, struct fetch *fetch)
{
	fetch->state = FETCH_SWITCHING;
	for (uint32_t i = 0; i < fetch->count; i++) {
		struct peer_key *key = &fetch->keys[i];

		if (key->state != FETCH_KEY_ASKED && key->state != FETCH_KEY_GRANTED)
			continue;
		key->state = FETCH_KEY_SECOND;
		fetch->second_count++;
		fetch->open_count--;
	}
	fetch_arrivals_stop(peers, fetch);
	if (fetch->state == FETCH_SWITCHING && fetch->open_count == 0)
		fetch_second_ask(peers, fetch);
}
