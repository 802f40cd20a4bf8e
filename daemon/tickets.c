/* daemon/tickets.c: see tickets.h. */
#include "daemon/tickets.h"

#include "base/log.h"
#include "daemon/gathering.h"
#include "daemon/peer_files.h"
#include "daemon/server.h"
#include "index/cache.h"
#include "transfer/slot_header.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define CHUNK_NONE UINT32_MAX
#define EXPIRED_LOOKS 16u /* at the oldest, each time that a place is wanted */
#define PLACES (2 * PEER_ITEMS_MAX)

static_assert(TICKET_TEXT_BYTES <= PEER_TICKET_BYTES_MAX &&
		      TICKET_TEXT_BYTES <= FRAME_TICKET_BYTES_MAX,
	      "a ticket fits into the frames that carry it");
static_assert(TICKET_SECRET_BYTES == PEER_SECRET_BYTES, "the cluster's secret");

/* Of each key eight bytes of its hash, which the index holds whole: they only choose among blocks
 * that are there. */
struct chunk {
	uint32_t next;
	uint32_t reserved;
	uint64_t spent; /* a bit a key */
	uint64_t keys[TICKET_CHUNK_KEYS];
};

enum promise_state { PROMISE_FREE, PROMISE_NAMING, PROMISE_OPEN };

struct promise {
	struct list_node link; /* free, or open in the order of issue */
	enum promise_state state;
	uint64_t number;       /* grows; its place in the table is number % TICKETS_MAX */
	uint64_t expires_us;
	unsigned tenant;
	uint32_t count, spent_count;
	uint32_t first_chunk, last_chunk;
	bool is_bound;
	uint8_t redeemer[PEER_NODE_BYTES];
	uint64_t redeemer_boot;
};

struct tickets {
	struct list free, open;
	unsigned chunks_used, chunk_free; /* a list by `next` */
	unsigned of_tenant[SETTINGS_TENANTS_MAX];
	uint64_t lives; /* of places: the number's upper part */
	struct promise promises[TICKETS_MAX];
	struct chunk chunks[TICKET_CHUNKS_MAX];
};

int tickets_create(struct peers *peers, struct error *error)
{
	struct tickets *tickets = mmap(NULL, sizeof(*tickets), PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (tickets == MAP_FAILED)
		return error_set(error, -ENOMEM, "no memory for %u tickets (%zu bytes)%s",
				 TICKETS_MAX, sizeof(*tickets), error_advice(-ENOMEM));
	list_init(&tickets->free);
	list_init(&tickets->open);
	for (unsigned i = 0; i < TICKETS_MAX; i++)
		list_append(&tickets->free, &tickets->promises[i].link);
	for (uint32_t i = 0; i < TICKET_CHUNKS_MAX; i++)
		tickets->chunks[i].next = i + 1 < TICKET_CHUNKS_MAX ? i + 1 : CHUNK_NONE;
	peers->tickets = tickets;
	return 0;
}

void tickets_destroy(struct tickets *tickets)
{
	if (tickets != NULL)
		munmap(tickets, sizeof(*tickets));
}

unsigned tickets_count(const struct peers *peers)
{
	return (unsigned)peers->tickets->open.count;
}

uint64_t promise_number(const struct promise *promise)
{
	return promise->number;
}

uint64_t promise_expires_us(const struct promise *promise)
{
	return promise->expires_us;
}

/* ---- places and keys ---- */

static uint64_t key_of(uint16_t group, const uint8_t *hash)
{
	uint64_t key;

	memcpy(&key, hash, sizeof(key));
	return key ^ (uint64_t)group * UINT64_C(0x9e3779b97f4a7c15);
}

static void promise_end(struct tickets *tickets, struct promise *promise)
{
	assert(promise->state != PROMISE_FREE);
	if (promise->first_chunk != CHUNK_NONE) {
		unsigned count = (promise->count + TICKET_CHUNK_KEYS - 1) / TICKET_CHUNK_KEYS;

		tickets->chunks[promise->last_chunk].next = tickets->chunk_free;
		tickets->chunk_free = promise->first_chunk;
		assert(tickets->chunks_used >= count);
		tickets->chunks_used -= count;
	}
	if (promise->state == PROMISE_OPEN)
		list_remove(&tickets->open, &promise->link);
	assert(tickets->of_tenant[promise->tenant] > 0);
	tickets->of_tenant[promise->tenant]--;
	promise->state = PROMISE_FREE;
	promise->number = 0;
	list_append(&tickets->free, &promise->link);
}

/* The oldest ones are those most likely to be over. */
static void expired_end(struct peers *peers)
{
	struct list *open = &peers->tickets->open;
	struct list_node *node = list_first(open);

	for (unsigned looks = 0; node != NULL && looks < EXPIRED_LOOKS; looks++) {
		struct promise *promise = list_item(node, struct promise, link);

		node = list_after(open, node);
		if (promise->expires_us <= peers->daemon->now_us)
			promise_end(peers->tickets, promise);
	}
}

static struct promise *promise_take(struct peers *peers, unsigned tenant)
{
	struct tickets *tickets = peers->tickets;
	unsigned share = TICKETS_MAX / peers->daemon->tenants_count;

	expired_end(peers);
	struct list_node *node = tickets->of_tenant[tenant] < share
					 ? list_take_first(&tickets->free)
					 : NULL;
	if (node == NULL)
		return NULL;
	struct promise *promise = list_item(node, struct promise, link);
	uint64_t place = (uint64_t)(promise - tickets->promises);
	*promise = (struct promise){
		.state = PROMISE_NAMING,
		.number = ++tickets->lives * TICKETS_MAX + place,
		.tenant = tenant,
		.first_chunk = CHUNK_NONE,
		.last_chunk = CHUNK_NONE,
	};
	tickets->of_tenant[tenant]++;
	return promise;
}

int ticket_key_add(struct peers *peers, struct promise *promise, uint16_t group,
		   const uint8_t *hash)
{
	struct tickets *tickets = peers->tickets;
	uint32_t at = promise->count % TICKET_CHUNK_KEYS;

	assert(promise->state == PROMISE_NAMING);
	if (promise->count == PEER_ITEMS_MAX)
		return -E2BIG;
	if (at == 0) {
		uint32_t chunk = tickets->chunk_free;

		if (chunk == CHUNK_NONE)
			return -E2BIG;
		tickets->chunk_free = tickets->chunks[chunk].next;
		tickets->chunks_used++;
		tickets->chunks[chunk].next = CHUNK_NONE;
		tickets->chunks[chunk].spent = 0;
		if (promise->first_chunk == CHUNK_NONE)
			promise->first_chunk = chunk;
		else
			tickets->chunks[promise->last_chunk].next = chunk;
		promise->last_chunk = chunk;
	}
	tickets->chunks[promise->last_chunk].keys[at] = key_of(group, hash);
	promise->count++;
	return 0;
}

void ticket_drop(struct peers *peers, struct promise *promise)
{
	assert(promise->state == PROMISE_NAMING);
	promise_end(peers->tickets, promise);
}

/* ---- the engine's side ---- */

void ticket_frame(struct session *session, const struct frame_ticket *frame)
{
	struct daemon *daemon = session->daemon;
	struct gathering *gathering = &session->gathering;
	uint64_t keep_us = frame->keep_us;

	if (!gathering_begin(session, frame->header.request, "TICKET"))
		return;
	if (daemon->peers->self.address[0] == '\0') {
		gathering_refuse(session, -EADDRNOTAVAIL,
				 "peer_listen has no address that others reach: set peer_address");
		return;
	}
	gathering->promise =
		promise_take(daemon->peers, (unsigned)(session->tenant - daemon->tenants));
	if (gathering->promise == NULL) {
		gathering_refuse(session, -EBUSY, "too many tickets are open");
		return;
	}
	if (keep_us > daemon->settings.lease_us_max)
		keep_us = daemon->settings.lease_us_max;
	gathering->promise->expires_us = daemon->now_us + keep_us;
}

void ticket_issue(struct session *session, struct promise *promise,
		  const struct frame_lookup *last)
{
	struct daemon *daemon = session->daemon;
	struct peers *peers = daemon->peers;
	struct frame_ticketed reply = { 0 };
	struct ticket ticket = {
		.boot_id = daemon->boot_id,
		.number = promise->number,
		.expires_us = promise->expires_us,
		.blocks_count = promise->count,
	};
	uint64_t block_bytes = 0;

	for (unsigned i = 0; i < session->engine->groups_count; i++)
		if (block_bytes < session->engine->groups[i].payload_bytes)
			block_bytes = session->engine->groups[i].payload_bytes;
	ticket.bytes = block_bytes * session->engine->world * promise->count;
	memcpy(ticket.node, peers->self.node, sizeof(ticket.node));
	memcpy(ticket.fingerprint, cache_space_fingerprint(daemon->cache, last->space),
	       sizeof(ticket.fingerprint));
	snprintf(ticket.tenant, sizeof(ticket.tenant), "%s", session->tenant->name);
	snprintf(ticket.address, sizeof(ticket.address), "%s", peers->self.address);
	int result = ticket_write(&ticket, peers->self.secrets->keys[0], reply.text);
	assert(result == 0);
	(void)result;
	promise->state = PROMISE_OPEN;
	list_append(&peers->tickets->open, &promise->link);
	peers->tickets_issued++;
	session_reply(session, &reply, sizeof(reply), FRAME_TICKETED, last->header.request, 0);
}

int ticket_check(const struct peers *peers, const char *text, size_t bytes,
		 struct ticket *out_ticket, const char **out_reason)
{
	const struct peer_secrets *secrets = peers->self.secrets;
	int result = secrets == NULL ? -EBADMSG
				     : ticket_read(text, bytes, secrets->keys, secrets->count,
						   out_ticket);

	*out_reason = result == -EPROTONOSUPPORT
			      ? "the ticket is of another version of kvtierd"
			      : "it is no ticket of a node of this cluster";
	return result;
}

/* ---- the other node's side ---- */

static struct promise *promise_find(struct tickets *tickets, uint64_t number)
{
	struct promise *promise = &tickets->promises[number % TICKETS_MAX];

	return promise->state == PROMISE_OPEN && promise->number == number ? promise : NULL;
}

static int redeem(struct peers *peers, const struct ticket_claim *claim,
		  struct promise **out_promise, const char **out_reason)
{
	const struct peer_hello *hello = &claim->peer->hello;
	struct ticket ticket;
	int result = ticket_check(peers, claim->text, claim->bytes, &ticket, out_reason);

	if (result < 0)
		return result;
	*out_reason = "the ticket is of another node";
	if (memcmp(ticket.node, peers->self.node, sizeof(ticket.node)) != 0)
		return -EPERM;
	*out_reason = "the ticket is over: by its time, because all was given, or by a restart";
	struct promise *promise = ticket.boot_id == peers->daemon->boot_id
					  ? promise_find(peers->tickets, ticket.number)
					  : NULL;
	if (promise == NULL || promise->expires_us <= peers->daemon->now_us)
		return -ESTALE;
	*out_reason = "the ticket is for another tenant, model, layout or version";
	if (strcmp(ticket.tenant, claim->query->tenant) != 0 ||
	    memcmp(ticket.fingerprint, claim->query->fingerprint, sizeof(ticket.fingerprint)) != 0)
		return -EPERM;
	*out_reason = "another node has used the ticket";
	if (promise->is_bound &&
	    (promise->redeemer_boot != hello->boot_id ||
	     memcmp(promise->redeemer, hello->node, PEER_NODE_BYTES) != 0))
		return -EPERM;
	promise->is_bound = true;
	promise->redeemer_boot = hello->boot_id;
	memcpy(promise->redeemer, hello->node, PEER_NODE_BYTES);
	*out_promise = promise;
	return 0;
}

int ticket_redeem(struct peers *peers, const struct ticket_claim *claim,
		  struct promise **out_promise, const char **out_reason)
{
	char quoted[PEER_REASON_BYTES + 8];
	int result = redeem(peers, claim, out_promise, out_reason);

	peers->tickets_redeemed += result == 0;
	peers->tickets_refused += result < 0;
	if (result < 0)
		log_line(LOG_WARNING, "ticket_refused", "peer=%s result=%d reason=%s",
			 claim->peer->address, result,
			 log_quote(quoted, sizeof(quoted), *out_reason));
	return result;
}

static uint32_t place_of(uint64_t key)
{
	return (uint32_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 40) & (PLACES - 1);
}

void ticket_match(struct peers *peers, const struct promise *promise, struct peer_key *keys,
		  unsigned count)
{
	static struct {
		uint64_t key;
		uint32_t item; /* + 1; 0: none */
		bool is_spent;
	} places[PLACES];
	const struct chunk *chunk = NULL;

	memset(places, 0, sizeof(places));
	for (uint32_t i = 0; i < promise->count; i++) {
		uint32_t at = i % TICKET_CHUNK_KEYS;

		if (at == 0)
			chunk = &peers->tickets->chunks[i == 0 ? promise->first_chunk
							       : chunk->next];
		uint32_t place = place_of(chunk->keys[at]);
		while (places[place].item != 0)
			place = (place + 1) & (PLACES - 1);
		places[place].key = chunk->keys[at];
		places[place].item = i + 1;
		places[place].is_spent = (chunk->spent >> at & 1) != 0;
	}
	for (unsigned i = 0; i < count; i++) {
		uint64_t key = key_of(keys[i].group, keys[i].hash);
		uint32_t place = place_of(key);

		while (places[place].item != 0 && places[place].key != key)
			place = (place + 1) & (PLACES - 1);
		keys[i].item = places[place].item != 0 && !places[place].is_spent
				       ? places[place].item - 1
				       : TICKET_KEY_NONE;
	}
}

bool ticket_spend(struct peers *peers, struct promise *promise, uint64_t number, uint32_t key)
{
	struct tickets *tickets = peers->tickets;

	if (promise->number != number || promise->state != PROMISE_OPEN)
		return false;
	assert(key < promise->count);
	struct chunk *chunk = &tickets->chunks[promise->first_chunk];
	for (uint32_t i = 0; i < key / TICKET_CHUNK_KEYS; i++)
		chunk = &tickets->chunks[chunk->next];
	uint64_t bit = UINT64_C(1) << key % TICKET_CHUNK_KEYS;
	if ((chunk->spent & bit) != 0)
		return false;
	chunk->spent |= bit;
	if (++promise->spent_count == promise->count)
		promise_end(tickets, promise);
	return true;
}
