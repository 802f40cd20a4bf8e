/* daemon/fetch.c: fetches: what is asked of another node, and what it grants. */
#include "daemon/fetch_parts.h"

#include "daemon/lookup_parts.h"
#include "daemon/server.h"

#include "base/failpoint.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define EAGER_KEYS_MAX 4u
#define EAGER_BYTES_MAX (UINT64_C(1) << 20)

int fetches_create(struct peers *peers, struct error *error)
{
	struct fetches *fetches = mmap(NULL, sizeof(*fetches), PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (fetches == MAP_FAILED)
		return error_set(error, -ENOMEM, "no memory for %u fetches (%zu bytes)%s",
				 FETCHES_MAX, sizeof(*fetches), error_advice(-ENOMEM));
	list_init(&fetches->free);
	list_init(&fetches->live);
	list_init(&fetches->arrivals_free);
	list_init(&fetches->arrivals);
	for (unsigned i = 0; i < FETCHES_MAX; i++)
		list_append(&fetches->free, &fetches->fetches[i].link);
	for (unsigned i = 0; i < ARRIVALS_MAX; i++)
		list_append(&fetches->arrivals_free, &fetches->pool[i].link);
	peers->fetches = fetches;
	return 0;
}

void fetches_destroy(struct fetches *fetches)
{
	if (fetches != NULL)
		munmap(fetches, sizeof(*fetches));
}

unsigned fetches_count(const struct peers *peers)
{
	return (unsigned)peers->fetches->live.count;
}

bool fetch_has_peer(const struct peers *peers, const struct peer *peer)
{
	struct list *live = &peers->fetches->live;

	for (struct list_node *node = list_first(live); node != NULL;
	     node = list_after(live, node))
		if (list_item(node, struct fetch, link)->peer == peer ||
		    list_item(node, struct fetch, link)->second == peer)
			return true;
	return false;
}

/* ---- keys by their hash ---- */

static uint32_t place_of(uint16_t group, const uint8_t *hash)
{
	uint64_t word;

	memcpy(&word, hash, sizeof(word));
	return (uint32_t)((word + group) * UINT64_C(0x9e3779b97f4a7c15) >> 32) &
	       (2 * PEER_ITEMS_MAX - 1);
}

uint32_t fetch_key_find(const struct fetch *fetch, uint16_t group, const uint8_t *hash)
{
	uint32_t place = place_of(group, hash);

	for (; fetch->places[place] != 0; place = (place + 1) & (2 * PEER_ITEMS_MAX - 1)) {
		const struct peer_key *key = &fetch->keys[fetch->places[place] - 1];

		if (key->group == group && memcmp(key->hash, hash, BLOCK_HASH_BYTES) == 0)
			return fetch->places[place] - 1;
	}
	return UINT32_MAX;
}

void fetch_key_index(struct fetch *fetch, uint32_t key)
{
	uint32_t place = place_of(fetch->keys[key].group, fetch->keys[key].hash);

	while (fetch->places[place] != 0)
		place = (place + 1) & (2 * PEER_ITEMS_MAX - 1);
	fetch->places[place] = key + 1;
}

/* ---- asking ---- */

static bool fetch_say(struct peers *peers, const struct fetch *fetch, void *frame)
{
	return peers->ops->say(peers->room, fetch->peer->session, fetch->life, frame) != -EAGAIN;
}

/* The next frame of the query; the first has the ticket. False: later. */
static bool query_say(struct peers *peers, struct fetch *fetch)
{
	union {
		struct peer_query query;
		uint8_t bytes[PEER_FRAME_BYTES_MAX];
	} out;
	uint32_t ticket_bytes = fetch->asked_sent == 0 ? fetch->ticket_bytes : 0;
	uint32_t before = (uint32_t)sizeof(out.query) + (ticket_bytes + 7) / 8 * 8;
	struct peer_item *items = (struct peer_item *)(out.bytes + before);
	uint32_t left = fetch->asked_count - fetch->asked_sent;
	uint32_t count = (PEER_FRAME_BYTES_MAX - before) / sizeof(*items);
	uint64_t now_us = peers->daemon->now_us;

	if (count > left)
		count = left;
	memset(&out, 0, before);
	out.query.header = (struct peer_frame_header){
		.magic = PEER_FRAME_MAGIC,
		.type = PEER_QUERY,
		.flags = (uint16_t)((count == left ? PEER_QUERY_LAST : 0u) |
				    (fetch->is_stream ? PEER_QUERY_STREAM : 0u)),
		.bytes = (uint32_t)(before + count * sizeof(*items)),
		.number = fetch->number,
	};
	memcpy(out.query.tenant, fetch->tenant->name, sizeof(out.query.tenant));
	memcpy(out.query.fingerprint, fetch->fingerprint, sizeof(out.query.fingerprint));
	out.query.wait_us = fetch->deadline_us > now_us ? fetch->deadline_us - now_us : 0;
	out.query.ticket_bytes = (uint16_t)ticket_bytes;
	memcpy(&out.query + 1, fetch->ticket, ticket_bytes);
	out.query.items_count = (uint16_t)count;
	for (uint32_t i = 0; i < count; i++) {
		const struct peer_key *key = &fetch->keys[fetch->asked[fetch->asked_sent + i]];

		items[i] = (struct peer_item){ .position = key->position, .group = key->group };
		memcpy(items[i].hash, key->hash, sizeof(items[i].hash));
	}
	if (!fetch_say(peers, fetch, &out))
		return false;
	fetch->asked_sent += count;
	return true;
}

/* Little enough that a node without these blocks costs few slots: all of it is asked for at once,
 * before it is granted, which saves a question's way there and back. What is not granted fails. */
static void ask_for_all(struct fetch *fetch)
{
	uint64_t bytes = 0;

	if (fetch->is_stream || fetch->asked_count > EAGER_KEYS_MAX)
		return;
	for (uint32_t i = 0; i < fetch->asked_count; i++)
		bytes += fetch->world *
			 fetch->groups[fetch->keys[fetch->asked[i]].group].payload_bytes;
	if (bytes > EAGER_BYTES_MAX)
		return;
	fetch->is_eager = true;
	fetch->next = 0;
	for (uint32_t i = 0; i < fetch->asked_count; i++)
		fetch->keys[fetch->asked[i]].state = FETCH_KEY_GRANTED;
}

static bool fetch_ask(struct peers *peers, struct fetch *fetch)
{
	bool did_work = false;

	assert(fetch->state == FETCH_ASKING);
	while (fetch->asked_sent < fetch->asked_count) {
		if (!query_say(peers, fetch))
			return did_work;
		did_work = true;
	}
	fetch->state = FETCH_ASKED;
	(void)failpoint(fetch_asked);
	ask_for_all(fetch);
	(void)fetch_arrivals_begin(peers, fetch);
	return true;
}

void fetch_open(struct peers *peers, struct fetch *fetch)
{
	assert(fetch->state == FETCH_CONNECTING && fetch->peer->is_up);
	fetch->life = fetch->peer->life;
	fetch->state = FETCH_ASKING;
	(void)fetch_ask(peers, fetch);
}

/* ---- ends ---- */

void fetch_key_end(struct peers *peers, struct fetch *fetch, uint32_t key, bool is_here)
{
	struct peer_key *ended = &fetch->keys[key];

	assert(ended->state == FETCH_KEY_ASKED || ended->state == FETCH_KEY_GRANTED ||
	       ended->state == FETCH_KEY_ARRIVING);
	assert(fetch->open_count > 0);
	if (ended->state == FETCH_KEY_ASKED && key < fetch->next)
		fetch->next = key;   /* what came after it waits no longer */
	fetch->open_count--;
	if (!is_here && fetch_has_second(peers, fetch)) {
		ended->state = FETCH_KEY_SECOND;
		ended->is_spoilt = false;
		ended->shards_left = 0;
		fetch->second_count++;
	} else {
		ended->state = is_here ? FETCH_KEY_DONE : FETCH_KEY_LOST;
		fetch->came_count += is_here;
		fetch_wake(fetch, key);
	}
	if (fetch->open_count > 0)
		return;
	if (fetch->second_count > 0 && fetch_has_second(peers, fetch))
		fetch_second_ask(peers, fetch);
	else
		fetch_end(peers, fetch, 0);
}

void fetch_release_say(struct peers *peers, struct fetch *fetch)
{
	struct peer_frame_header frame = { .magic = PEER_FRAME_MAGIC,
					   .type = PEER_RELEASE,
					   .bytes = sizeof(frame),
					   .number = fetch->number };

	if (fetch->is_released || fetch->peer == NULL || fetch->asked_sent == 0)
		fetch->is_released = true;
	else
		fetch->is_released = fetch_say(peers, fetch, &frame);
}

static enum fetch_outcome outcome_of(const struct fetch *fetch, int result)
{
	if (fetch->came_count > 0)
		return FETCH_GIVEN;
	switch (result) {
	case 0:
	case -ENOENT:
		return FETCH_NOTHING;
	case -EHOSTUNREACH:
		return FETCH_UNREACHABLE;
	case -ETIME:
		return FETCH_LATE;
	case -ECANCELED:
		return FETCH_CANCELLED;
	default:
		return FETCH_REFUSED;
	}
}

void fetch_end(struct peers *peers, struct fetch *fetch, int result)
{
	if (fetch->state == FETCH_OVER)
		return;
	if (result != -ECANCELED && result != -ETIME && fetch_has_second(peers, fetch) &&
	    fetch->open_count + fetch->second_count > 0) {
		if (fetch->state != FETCH_SWITCHING)
			fetch_second_take(peers, fetch);
		return;
	}
	/* Where all was here nobody was asked. */
	if (fetch->asked_count > 0)
		peers->fetches_ended[outcome_of(fetch, result)]++;
	fetch->state = FETCH_OVER;
	fetch->is_answered = true;
	if (fetch->result == 0)
		fetch->result = result;
	for (uint32_t key = 0; key < fetch->count && fetch->open_count > 0; key++)
		if (fetch->keys[key].state == FETCH_KEY_ASKED ||
		    fetch->keys[key].state == FETCH_KEY_GRANTED)
			fetch_key_end(peers, fetch, key, false);
	fetch_arrivals_stop(peers, fetch);
	(void)failpoint(fetch_ended);
	fetch_release_say(peers, fetch);
}

static void fetch_give(struct peers *peers, struct fetch *fetch)
{
	assert(fetch->state == FETCH_OVER && fetch->arrivals_count == 0);
	assert(list_is_empty(&fetch->parked));
	if (fetch->holds_space)
		cache_space_release(peers->daemon->cache, fetch->space);
	fetch->state = FETCH_FREE;
	list_remove(&peers->fetches->live, &fetch->link);
	list_append(&peers->fetches->free, &fetch->link);
}

/* ---- what the peer says ---- */

static struct fetch *fetch_find(struct peers *peers, const struct peer *peer, uint64_t number)
{
	struct list *live = &peers->fetches->live;

	for (struct list_node *node = list_first(live); node != NULL;
	     node = list_after(live, node)) {
		struct fetch *fetch = list_item(node, struct fetch, link);

		if (fetch->peer == peer && fetch->number == number &&
		    (fetch->state == FETCH_ASKING || fetch->state == FETCH_ASKED))
			return fetch;
	}
	return NULL;
}

void fetch_granted(struct peers *peers, struct peer *peer, const struct peer_grant *grant)
{
	struct fetch *fetch = fetch_find(peers, peer, grant->header.number);
	uint32_t missing = 0;

	if (fetch == NULL)
		return;
	if (grant->header.result < 0 || fetch->state == FETCH_ASKING ||
	    grant->items_count != fetch->asked_count ||
	    (grant->shards_count != fetch->world && grant->shards_count != 0)) {
		peers->wrong_frames += grant->header.result == 0;
		fetch_end(peers, fetch, grant->header.result < 0 ? grant->header.result : -EPROTO);
		return;
	}
	fetch->lease_us = grant->lease_us;
	fetch->renew_us = peers->daemon->now_us + grant->lease_us / 2;
	/* Until it ends, or goes on to the second peer: then this was of the first. */
	for (uint32_t i = 0; i < fetch->asked_count && fetch->state == FETCH_ASKED &&
			     fetch->number == grant->header.number; i++) {
		struct peer_key *key = &fetch->keys[fetch->asked[i]];

		missing += !peer_grant_has(grant, i);
		/* Its FAILED comes; nobody is to be promised it until then. */
		if (fetch->is_eager && !peer_grant_has(grant, i))
			key->is_spoilt = true;
		if (key->state != FETCH_KEY_ASKED)
			continue;
		if (peer_grant_has(grant, i)) {
			key->state = FETCH_KEY_GRANTED;
			if (fetch->asked[i] < fetch->next)
				fetch->next = fetch->asked[i];
		} else if (!fetch->is_stream ||
			   (grant->header.flags & PEER_GRANT_FINAL) != 0) {
			fetch_key_end(peers, fetch, fetch->asked[i], false);
		}
	}
	(void)failpoint(fetch_granted);
	if (fetch->number != grant->header.number)
		return;
	/* What the second will give is known when it has said so; and what is on its way for
	 * nothing is to be asked for elsewhere by who hears of this, so it must have failed. */
	fetch->is_answered = fetch->is_answered || missing == 0 ||
			     (fetch->second == NULL && !fetch->is_eager);
	(void)fetch_arrivals_begin(peers, fetch);
}

void fetch_ended(struct peers *peers, struct peer *peer, const struct peer_frame_header *ended)
{
	struct fetch *fetch = fetch_find(peers, peer, ended->number);

	if (fetch != NULL)
		fetch_end(peers, fetch, ended->result < 0 ? ended->result : -ENOENT);
}

void fetch_peer_up(struct peer *peer, struct daemon *daemon)
{
	struct list *live = &daemon->peers->fetches->live;

	for (struct list_node *node = list_first(live); node != NULL;
	     node = list_after(live, node)) {
		struct fetch *fetch = list_item(node, struct fetch, link);

		if (fetch->peer == peer && fetch->state == FETCH_CONNECTING)
			fetch_open(daemon->peers, fetch);
	}
}

void fetch_peer_down(struct peer *peer, struct daemon *daemon)
{
	struct list *live = &daemon->peers->fetches->live;

	for (struct list_node *node = list_first(live); node != NULL;
	     node = list_after(live, node)) {
		struct fetch *fetch = list_item(node, struct fetch, link);

		if (fetch->peer != peer)
			continue;
		fetch->is_released = true;
		fetch_end(daemon->peers, fetch, -EHOSTUNREACH);
		/* Unless it has gone on to the second. */
		if (fetch->peer == peer)
			fetch->peer = NULL;
	}
}

/* ---- each pass ---- */

/* A grant that would end before us. */
static void renew_say(struct peers *peers, struct fetch *fetch)
{
	struct peer_frame_header frame = { .magic = PEER_FRAME_MAGIC,
					   .type = PEER_RENEW,
					   .bytes = sizeof(frame),
					   .number = fetch->number };
	uint64_t now_us = peers->daemon->now_us;

	if (fetch->lease_us == 0 || now_us < fetch->renew_us ||
	    fetch->deadline_us < fetch->renew_us + fetch->lease_us / 2)
		return;
	if (fetch_say(peers, fetch, &frame))
		fetch->renew_us = now_us + fetch->lease_us / 2;
}

static bool wait_step(struct daemon *daemon, struct fetch *fetch)
{
	if (fetch->wait_request == 0 ||
	    (!fetch->is_answered && daemon->now_us < fetch->wait_until_us))
		return false;
	fetch_answer(fetch);
	return true;
}

static bool fetch_step(struct peers *peers, struct fetch *fetch)
{
	struct daemon *daemon = peers->daemon;
	bool did_work = false;

	if (fetch->state == FETCH_GATHERING)
		return false;
	if (fetch->state != FETCH_OVER && daemon->now_us >= fetch->deadline_us) {
		fetch_end(peers, fetch, -ETIME);
		did_work = true;
	}
	if (fetch->state == FETCH_CONNECTING && daemon->now_us >= fetch->await_us)
		fetch_end(peers, fetch, -EHOSTUNREACH);
	if (fetch->state == FETCH_ASKING)
		did_work = fetch_ask(peers, fetch) || did_work;
	if (fetch->state == FETCH_ASKED) {
		renew_say(peers, fetch);
		did_work = fetch_arrivals_begin(peers, fetch) || did_work;
	}
	did_work = wait_step(daemon, fetch) || did_work;
	if (fetch->state == FETCH_OVER && !fetch->is_released)
		fetch_release_say(peers, fetch);
	if (fetch->state == FETCH_OVER && fetch->is_released && fetch->arrivals_count == 0 &&
	    (fetch->session == NULL || daemon->now_us >= fetch->deadline_us)) {
		if (fetch->session == NULL || fetch->wait_request == 0) {
			fetch_give(peers, fetch);
			did_work = true;
		}
	}
	return did_work;
}

bool fetches_step(struct peers *peers)
{
	struct list_node *node = list_first(&peers->fetches->live);
	bool did_work = false;

	while (node != NULL) {
		struct fetch *fetch = list_item(node, struct fetch, link);

		node = list_after(&peers->fetches->live, node);
		did_work = fetch_step(peers, fetch) || did_work;
	}
	return did_work;
}
