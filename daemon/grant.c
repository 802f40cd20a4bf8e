/* daemon/grant.c: grants: what another node asks for, what of it is here, and how long it stays. */
#include "daemon/grant_parts.h"

#include "base/failpoint.h"
#include "base/log.h"
#include "daemon/tickets.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define LOOKS_A_PASS 256u /* keys of a stream that are looked for again in each pass */
#define HASHES_AT_ONCE 256u

int grants_create(struct peers *peers, struct error *error)
{
	struct grants *grants = mmap(NULL, sizeof(*grants), PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (grants == MAP_FAILED)
		return error_set(error, -ENOMEM, "no memory for %u grants (%zu bytes)%s", GRANTS_MAX,
				 sizeof(*grants), error_advice(-ENOMEM));
	list_init(&grants->free);
	list_init(&grants->live);
	list_init(&grants->sends_free);
	for (unsigned i = 0; i < GRANTS_MAX; i++)
		list_append(&grants->free, &grants->grants[i].link);
	for (unsigned i = 0; i < SENDS_MAX; i++)
		list_append(&grants->sends_free, &grants->sends[i].link);
	peers->grants = grants;
	return 0;
}

void grants_destroy(struct grants *grants)
{
	if (grants != NULL)
		munmap(grants, sizeof(*grants));
}

unsigned grants_count(const struct peers *peers)
{
	return (unsigned)peers->grants->live.count;
}

static struct grant *grant_find(struct peers *peers, const struct peer *peer, uint64_t number)
{
	struct grants *grants = peers->grants;

	for (struct list_node *node = list_first(&grants->live); node != NULL;
	     node = list_after(&grants->live, node)) {
		struct grant *grant = list_item(node, struct grant, link);

		if (grant->peer == peer && grant->number == number && !grant->is_over)
			return grant;
	}
	return NULL;
}

static struct grant *grant_take(struct peers *peers, struct peer *peer,
				const struct peer_query *query)
{
	struct list_node *node = peer->grants_count < GRANTS_A_PEER_MAX
					 ? list_take_first(&peers->grants->free)
					 : NULL;

	if (node == NULL)
		return NULL;
	struct grant *grant = list_item(node, struct grant, link);
	grant->peer = peer;
	grant->life = peer->life;
	grant->number = query->header.number;
	grant->tenant = NULL;
	grant->count = grant->leases_count = grant->sends_count = 0;
	grant->settled_count = grant->looked = 0;
	grant->promise = NULL;
	grant->ticket_bytes = query->ticket_bytes;
	memcpy(grant->ticket, peer_query_ticket(query), query->ticket_bytes);
	grant->until_us = UINT64_MAX;
	grant->shards_count = 0;
	grant->is_stream = (query->header.flags & PEER_QUERY_STREAM) != 0;
	grant->is_open = grant->is_over = grant->is_said = false;
	grant->deadline_us = peers->daemon->now_us;
	list_init(&grant->sends);
	list_append(&peers->grants->live, &grant->link);
	peer->grants_count++;
	return grant;
}

static void grant_give(struct peers *peers, struct grant *grant)
{
	assert(grant->sends_count == 0 && grant->leases_count == 0);
	list_remove(&peers->grants->live, &grant->link);
	list_append(&peers->grants->free, &grant->link);
	assert(grant->peer->grants_count > 0);
	grant->peer->grants_count--;
}

static void leases_release(struct daemon *daemon, struct grant *grant)
{
	for (unsigned i = 0; i < grant->leases_count; i++)
		cache_lease_release(daemon->cache, grant->leases[i]);
	grant->leases_count = 0;
}

void grant_end(struct peers *peers, struct grant *grant)
{
	if (!grant->is_over) {
		grant->is_over = true;
		leases_release(peers->daemon, grant);
		if (grant->tenant != NULL)
			cache_space_release(peers->daemon->cache, grant->space);
		grant_sends_stop(peers, grant);
		(void)failpoint(grant_ended);
	}
	if (grant->sends_count == 0)
		grant_give(peers, grant);
}

/* ---- what of it is here ---- */

/* Of the keys from `first` on, as far as they are of one group; returns how many were looked at. */
static unsigned entries_find(struct daemon *daemon, struct grant *grant, unsigned first,
			     unsigned count_max)
{
	static uint8_t hashes[HASHES_AT_ONCE][BLOCK_HASH_BYTES];
	struct cache_query query = {
		.space = grant->space,
		.group = grant->keys[first].group,
		.hashes = (const uint8_t (*)[BLOCK_HASH_BYTES])hashes,
	};

	while (query.count < count_max && query.count < HASHES_AT_ONCE &&
	       first + query.count < grant->count &&
	       grant->keys[first + query.count].group == query.group) {
		memcpy(hashes[query.count], grant->keys[first + query.count].hash,
		       BLOCK_HASH_BYTES);
		query.count++;
	}
	cache_find(daemon->cache, &query, grant->entries + first);
	return query.count;
}

/* What of these keys is here, and can be held, is granted: the leading ones if not all can.
 * Returns how many. */
static unsigned keys_grant(struct peers *peers, struct grant *grant, unsigned first, unsigned end)
{
	static uint32_t wanted[PEER_ITEMS_MAX], keys[PEER_ITEMS_MAX];
	struct daemon *daemon = peers->daemon;
	unsigned count = 0, held = 0;
	uint64_t lease;

	for (unsigned i = first; i < end; i++) {
		if (grant->keys[i].state != GRANT_KEY_AWAITED || grant->entries[i] == ENTRY_NONE)
			continue;
		wanted[count] = grant->entries[i];
		keys[count++] = i;
	}
	if (count == 0 || grant->leases_count == GRANT_LEASES_MAX ||
	    cache_lease_grant(daemon->cache, grant->tenant->handle, wanted, count,
			      grant->deadline_us, &lease, &held) < 0)
		return 0;
	grant->leases[grant->leases_count++] = lease;
	for (unsigned i = 0; i < held; i++) {
		const struct entry *entry = cache_entry(daemon->cache, wanted[i]);

		grant->keys[keys[i]].state = GRANT_KEY_HELD;
		grant->keys[keys[i]].shards_left = entry->shards_count;
		grant->shards_count = entry->shards_count;
	}
	grant->settled_count += held;
	return held;
}

/* All keys, from the first on. */
static unsigned keys_look(struct peers *peers, struct grant *grant)
{
	for (unsigned i = 0; i < grant->count;)
		i += entries_find(peers->daemon, grant, i, HASHES_AT_ONCE);
	return keys_grant(peers, grant, 0, grant->count);
}

/* Of a stream: some that were not here. They come in their order, so those behind the first that
 * is missing are looked at first. */
static unsigned keys_look_again(struct peers *peers, struct grant *grant)
{
	unsigned looks = 0, first;

	while (grant->looked < grant->count &&
	       grant->keys[grant->looked].state != GRANT_KEY_AWAITED)
		grant->looked++;
	first = grant->looked;
	while (first + looks < grant->count && looks < LOOKS_A_PASS)
		looks += entries_find(peers->daemon, grant, first + looks, LOOKS_A_PASS - looks);
	return keys_grant(peers, grant, first, first + looks);
}

/* ---- what is said ---- */

/* Whether the peer was told, or will not hear anything any more. */
bool grant_say(struct peers *peers, const struct peer *peer, uint32_t life, void *frame)
{
	return peers->ops->say(peers->room, peer->session, life, frame) != -EAGAIN;
}

static bool grant_tell(struct peers *peers, struct grant *grant)
{
	union {
		struct peer_grant grant;
		uint8_t bytes[PEER_FRAME_BYTES_MAX];
	} out;
	uint8_t *bits = (uint8_t *)(&out.grant + 1);
	uint32_t bits_bytes = (grant->count + 7) / 8;

	memset(&out, 0, sizeof(out.grant) + bits_bytes);
	out.grant.header = (struct peer_frame_header){
		.magic = PEER_FRAME_MAGIC,
		.type = PEER_GRANT,
		.flags = !grant->is_stream || grant->settled_count == grant->count
				 ? PEER_GRANT_FINAL
				 : 0,
		.bytes = (uint32_t)sizeof(out.grant) + bits_bytes,
		.number = grant->number,
	};
	out.grant.lease_us = grant->deadline_us - peers->daemon->now_us;
	out.grant.items_count = grant->count;
	out.grant.shards_count = grant->shards_count;
	for (unsigned i = 0; i < grant->count; i++)
		if (grant->keys[i].state == GRANT_KEY_HELD ||
		    grant->keys[i].state == GRANT_KEY_SENT)
			bits[i / 8] |= (uint8_t)(1u << (i % 8));
	grant->is_said = grant_say(peers, grant->peer, grant->life, &out);
	return grant->is_said;
}

/* Refused: the sentence is for the other node's people. If its queue is full it waits to its
 * deadline. */
static void query_refuse(struct peers *peers, struct peer *peer, uint64_t number, int result,
			 const char *reason)
{
	union {
		struct peer_grant grant;
		uint8_t bytes[sizeof(struct peer_grant) + PEER_REASON_BYTES];
	} out = { .grant = { .header = { .magic = PEER_FRAME_MAGIC,
					 .type = PEER_GRANT,
					 .result = result,
					 .number = number } } };
	size_t bytes = strnlen(reason, PEER_REASON_BYTES);

	memcpy(&out.grant + 1, reason, bytes);
	out.grant.header.bytes = (uint32_t)(sizeof(out.grant) + bytes);
	(void)grant_say(peers, peer, peer->life, &out);
}

/* The asker need not wait for its deadline. Best effort. */
static void ended_say(struct peers *peers, struct grant *grant, int result)
{
	struct peer_frame_header frame = { .magic = PEER_FRAME_MAGIC,
					   .type = PEER_ENDED,
					   .bytes = sizeof(frame),
					   .result = result,
					   .number = grant->number };

	(void)grant_say(peers, grant->peer, grant->life, &frame);
}

/* ---- QUERY ---- */

static struct tenant *tenant_by_name(struct daemon *daemon, const char *name)
{
	for (unsigned i = 0; i < daemon->tenants_count; i++)
		if (strcmp(daemon->tenants[i].name, name) == 0)
			return &daemon->tenants[i];
	return NULL;
}

/* Which of the keys its ticket is for. 0, or why it is no good. */
static int ticket_take(struct peers *peers, struct grant *grant, const struct peer_query *query,
		       const char **out_reason)
{
	int result;

	if (grant->ticket_bytes == 0) {
		*out_reason = "this node gives blocks only to those who come with a ticket";
		return peers->self.gives_for_tickets_only ? -EACCES : 0;
	}
	const struct ticket_claim claim = { .peer = grant->peer, .query = query,
					    .text = grant->ticket, .bytes = grant->ticket_bytes };
	result = ticket_redeem(peers, &claim, &grant->promise, out_reason);
	if (result < 0)
		return result;
	grant->promise_number = promise_number(grant->promise);
	grant->until_us = promise_expires_us(grant->promise);
	ticket_match(peers, grant->promise, grant->keys, grant->count);
	for (unsigned i = 0; i < grant->count; i++) {
		grant->keys[i].shards_asked = 0;
		if (grant->keys[i].item != TICKET_KEY_NONE)
			continue;
		grant->keys[i].state = GRANT_KEY_REFUSED;
		grant->settled_count++;
	}
	return 0;
}

static uint64_t deadline_of(const struct daemon *daemon, const struct grant *grant)
{
	uint64_t deadline_us = daemon->now_us + grant->lease_us;

	return deadline_us < grant->until_us ? deadline_us : grant->until_us;
}

/* 0, or why nothing is granted. */
static int grant_open(struct peers *peers, struct grant *grant, const struct peer_query *query,
		      const char **out_reason)
{
	struct daemon *daemon = peers->daemon;
	struct tenant *tenant = tenant_by_name(daemon, query->tenant);
	uint64_t wait_us = query->wait_us;
	int result;

	*out_reason = "there is no such tenant here";
	if (tenant == NULL)
		return -ENOENT;
	*out_reason = "no engine here has stored blocks of this model, layout and version";
	if (cache_space_find(daemon->cache, tenant->handle, query->fingerprint, &grant->space) < 0)
		return -ENOENT;
	*out_reason = "this node is about to stop";
	if (daemon->phase == DAEMON_DRAINING)
		return -ESHUTDOWN;
	*out_reason = "its operator has turned the cache off";
	if (daemon_bypass_of(daemon, tenant, grant->space) != FRAME_BYPASS_OFF)
		return -ENOENT;
	result = ticket_take(peers, grant, query, out_reason);
	if (result < 0)
		return result;
	if (wait_us > daemon->settings.lease_us_max)
		wait_us = daemon->settings.lease_us_max;
	grant->tenant = tenant;
	grant->lease_us = wait_us;
	grant->deadline_us = deadline_of(daemon, grant);
	grant->is_open = true;
	cache_space_hold(daemon->cache, grant->space);
	return 0;
}

void grant_query(struct peers *peers, struct peer *peer, const struct peer_query *query)
{
	struct grant *grant = grant_find(peers, peer, query->header.number);
	const struct peer_item *items = peer_query_items(query);
	bool is_last = (query->header.flags & PEER_QUERY_LAST) != 0;
	const char *reason;

	if (grant == NULL)
		grant = grant_take(peers, peer, query);
	if (grant == NULL || grant->is_open ||
	    grant->count + query->items_count > PEER_ITEMS_MAX) {
		if (grant != NULL)
			grant_end(peers, grant);
		if (is_last || grant != NULL)
			query_refuse(peers, peer, query->header.number, -EBUSY,
				     "too much is asked for at once");
		return;
	}
	for (unsigned i = 0; i < query->items_count; i++) {
		struct peer_key *key = &grant->keys[grant->count];

		memcpy(key->hash, items[i].hash, sizeof(key->hash));
		key->position = items[i].position;
		key->group = items[i].group;
		key->state = GRANT_KEY_AWAITED;
		grant->entries[grant->count++] = ENTRY_NONE;
	}
	grant->deadline_us = peers->daemon->now_us + GATHERING_US_MAX;
	if (!is_last)
		return;
	int result = grant_open(peers, grant, query, &reason);
	if (result < 0) {
		query_refuse(peers, peer, grant->number, result, reason);
		grant_end(peers, grant);
		return;
	}
	(void)keys_look(peers, grant);
	(void)failpoint(grant_held);
	grant->changes = cache_changes(peers->daemon->cache);
	(void)grant_tell(peers, grant);
}

void grant_release(struct peers *peers, struct peer *peer, uint64_t number)
{
	struct grant *grant = grant_find(peers, peer, number);

	if (grant != NULL)
		grant_end(peers, grant);
}

void grant_renew(struct peers *peers, struct peer *peer, uint64_t number)
{
	struct daemon *daemon = peers->daemon;
	struct grant *grant = grant_find(peers, peer, number);

	if (grant == NULL || !grant->is_open)
		return;
	grant->deadline_us = deadline_of(daemon, grant);
	for (unsigned i = 0; i < grant->leases_count; i++)
		cache_lease_extend(daemon->cache, grant->leases[i], grant->deadline_us);
}

void grant_peer_down(struct peers *peers, struct peer *peer)
{
	struct list_node *node = list_first(&peers->grants->live);

	while (node != NULL) {
		struct grant *grant = list_item(node, struct grant, link);

		node = list_after(&peers->grants->live, node);
		if (grant->peer == peer)
			grant_end(peers, grant);
	}
}

void grant_fetch(struct peers *peers, struct peer *peer, const struct peer_fetch *fetch)
{
	const struct peer_fetch_item *items = peer_fetch_items(fetch);
	struct grant *grant = grant_find(peers, peer, fetch->header.number);

	for (unsigned i = 0; i < fetch->count; i++)
		grant_send_add(peers, peer, grant, &items[i]);
}

static bool grant_step(struct peers *peers, struct grant *grant)
{
	struct daemon *daemon = peers->daemon;
	bool did_work = false;

	if (daemon->now_us >= grant->deadline_us || grant->is_over) {
		did_work = !grant->is_over;
		grant_end(peers, grant);
		return did_work;
	}
	if (daemon->phase == DAEMON_DRAINING) {
		ended_say(peers, grant, -ESHUTDOWN);
		grant_end(peers, grant);
		return true;
	}
	if (!grant->is_open)
		return false;
	if (grant->is_stream && grant->settled_count < grant->count &&
	    grant->changes != cache_changes(daemon->cache)) {
		uint64_t changes = cache_changes(daemon->cache);

		if (keys_look_again(peers, grant) > 0)
			grant->is_said = false;
		else
			grant->changes = changes;
		did_work = true;
	}
	if (!grant->is_said)
		did_work = grant_tell(peers, grant) || did_work;
	return grant_sends_step(peers, grant) || did_work;
}

bool grants_step(struct peers *peers)
{
	struct list_node *node = list_first(&peers->grants->live);
	bool did_work = false;

	while (node != NULL) {
		struct grant *grant = list_item(node, struct grant, link);

		node = list_after(&peers->grants->live, node);
		did_work = grant_step(peers, grant) || did_work;
	}
	return did_work;
}
