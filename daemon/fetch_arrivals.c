/* daemon/fetch_arrivals.c: blocks on their way here: a FILLING slot each, checked before it is
 * READY. */
#include "daemon/fetch_parts.h"

#include "daemon/purge.h"

#include "base/failpoint.h"
#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#define BLOCKS_UNDER_WAY_MIN 2u

static_assert(offsetof(struct slot_identity, segment_crcs) + sizeof(uint32_t) ==
			      PEER_IDENTITY_BYTES_MIN &&
		      sizeof(struct slot_identity) == PEER_IDENTITY_BYTES_MAX,
	      "BLOCK carries what slots have");
#define SOURCES_SAID 8u

unsigned fetches_arrivals_count(const struct peers *peers)
{
	return (unsigned)peers->fetches->arrivals.count;
}

struct arrival *fetch_arrival_find(struct peers *peers, const struct peer *peer, uint64_t tag)
{
	struct list *arrivals = &peers->fetches->arrivals;

	for (struct list_node *node = list_first(arrivals); node != NULL;
	     node = list_after(arrivals, node)) {
		struct arrival *arrival = list_item(node, struct arrival, link);

		if (arrival->tag == tag && arrival->fetch->peer == peer)
			return arrival;
	}
	return NULL;
}

/* ---- the end ---- */

static void arrival_give(struct arrival *arrival)
{
	struct fetches *fetches = arrival->peers->fetches;
	struct fetch *fetch = arrival->fetch;

	list_remove(&fetches->arrivals, &arrival->link);
	arrival->state = ARRIVAL_FREE;
	list_append(&fetches->arrivals_free, &arrival->link);
	assert(fetch->arrivals_count > 0);
	fetch->arrivals_count--;
	fetch->arriving_bytes -= arrival->slot_bytes;
}

static void arrival_count(const struct arrival *arrival, int result)
{
	const struct fetch *fetch = arrival->fetch;
	struct daemon *daemon = arrival->peers->daemon;
	struct peer *peer = fetch->peer;
	uint64_t bytes = fetch->groups[fetch->keys[arrival->key].group].payload_bytes;

	if (result == 0) {
		daemon->counters.fetched_blocks++;
		daemon->counters.fetched_bytes += bytes;
	} else {
		daemon->counters.fetch_failures++;
	}
	if (peer == NULL)
		return;
	peer->fetched_blocks += result == 0;
	peer->fetched_bytes += result == 0 ? bytes : 0;
	peer->failed_blocks += result != 0;
}

/* Nothing touches its slot any more. */
static void arrival_end(struct arrival *arrival, int result)
{
	struct peers *peers = arrival->peers;
	struct daemon *daemon = peers->daemon;
	struct fetch *fetch = arrival->fetch;
	uint32_t key = arrival->key, entry = arrival->entry, shard = arrival->shard;

	if (result == 0 && !cache_slot_ready(daemon->cache, TIER_CPU, arrival->slot)) {
		/* dropped or forgotten meanwhile; the slot is free again */
		purge_unfilled(daemon, arrival->memory, arrival->slot_bytes);
		result = -ECANCELED;
	} else if (result < 0 && cache_slot_is_current(daemon->cache, TIER_CPU, arrival->slot,
						       arrival->generation)) {
		cache_slot_drop(daemon->cache, TIER_CPU, arrival->slot);
	}
	arrival_count(arrival, result);
	store_shard_ended(daemon, entry, shard, result == 0 ? 0 : -EAGAIN);
	arrival_give(arrival);
	if (result < 0)
		fetch->keys[key].is_spoilt = true;
	if (--fetch->keys[key].shards_left == 0)
		fetch_key_end(peers, fetch, key, !fetch->keys[key].is_spoilt);
}

/* ---- the check ---- */

/* On a mill. As a store: the header is written last. */
static void check_work(struct mill_op *op)
{
	struct arrival *arrival = list_item(op, struct arrival, mill);
	struct slot_identity *identity = &arrival->identity;
	uint8_t *payload = (uint8_t *)(arrival->memory + 1);
	struct slot_payload sums = { 0 };

	slot_payload_more(&sums, identity, payload, identity->payload_bytes);
	if (memcmp(sums.crcs, identity->segment_crcs,
		   identity->segments_count * sizeof(uint32_t)) != 0) {
		op->result = -EBADMSG;
		return;
	}
	memset(payload + identity->payload_bytes, 0,
	       arrival->slot_bytes - SLOT_HEADER_BYTES - identity->payload_bytes);
	atomic_thread_fence(memory_order_seq_cst);
	arrival->memory->address[TIER_CPU] = arrival->address;
	arrival->memory->identity = *identity;
	slot_identity_seal(arrival->memory);
	op->result = 0;
}

static void wrong_say(const struct arrival *arrival, const char *what)
{
	struct peers *peers = arrival->peers;
	const struct peer *peer = arrival->fetch->peer;

	peers->wrong_blocks++;
	if (peers->wrong_blocks <= SOURCES_SAID || peers->wrong_blocks % 1024 == 0)
		log_line(LOG_ERROR, "peer_wrong_block", "peer=%s what=\"%s\" total=%llu",
			 peer != NULL ? peer->address : "gone", what,
			 (unsigned long long)peers->wrong_blocks);
}

static void check_done(struct mill_op *op)
{
	struct arrival *arrival = list_item(op, struct arrival, mill);

	assert(arrival->state == ARRIVAL_CHECKED);
	if (op->result == -EBADMSG)
		wrong_say(arrival, "its bytes are not those of its checksums");
	if (op->result == 0 && failpoint(fetch_checked))
		op->result = -EIO;
	arrival_end(arrival, op->result);
}

static void check_begin(struct arrival *arrival)
{
	arrival->state = ARRIVAL_CHECKED;
	arrival->mill.work = check_work;
	arrival->mill.done = check_done;
	bool was_taken = mills_submit(&arrival->peers->daemon->mills, &arrival->mill);
	assert(was_taken);
}

/* ---- what comes ---- */

static void placed(struct peer_transfer *transfer, int result)
{
	struct arrival *arrival = list_item(transfer, struct arrival, transfer);
	struct daemon *daemon = arrival->peers->daemon;
	struct peer *peer = arrival->fetch->peer;

	assert(arrival->state == ARRIVAL_COMING);
	if (arrival->result < 0)
		result = arrival->result;
	if (result == 0 && failpoint(fetch_arrived))
		result = -EIO;
	if (result < 0) {
		arrival_end(arrival, result);
		return;
	}
	if (peer != NULL)
		peer_speed_learn(peer, arrival->slot_bytes, daemon->now_us - arrival->began_us,
				 arrival->fetch->arrivals_count - 1);
	arrival->state = ARRIVAL_HERE;
	if (arrival->has_block)
		check_begin(arrival);
}

static void arrival_stop(struct arrival *arrival, int result)
{
	struct peers *peers = arrival->peers;

	if (arrival->result == 0)
		arrival->result = result;
	if (arrival->state == ARRIVAL_HERE) {
		arrival_end(arrival, arrival->result);
	} else if (arrival->state == ARRIVAL_COMING && !arrival->is_stopped) {
		arrival->is_stopped = true;
		peers->ops->stop(peers->room, &arrival->transfer);
	}
}

void fetch_arrivals_stop(struct peers *peers, struct fetch *fetch)
{
	struct list_node *node = list_first(&peers->fetches->arrivals);

	while (node != NULL) {
		struct arrival *arrival = list_item(node, struct arrival, link);

		node = list_after(&peers->fetches->arrivals, node);
		if (arrival->fetch == fetch)
			arrival_stop(arrival, fetch->result < 0 ? fetch->result : -ECANCELED);
	}
}

/* What the sender says of the block must be what was asked for, in our own geometry. */
static const char *identity_fault(const struct arrival *arrival, const struct peer_block *block)
{
	const struct slot_identity *theirs = (const struct slot_identity *)(block + 1);
	const struct fetch *fetch = arrival->fetch;
	const struct peer_key *key = &fetch->keys[arrival->key];
	const struct fetch_group *group = &fetch->groups[key->group];

	if (theirs->segments_count != group->segments_count ||
	    block->identity_bytes != offsetof(struct slot_identity, segment_crcs) +
					     theirs->segments_count * sizeof(uint32_t))
		return "another number of segments";
	if (memcmp(theirs->space, fetch->fingerprint, SPACE_ID_BYTES) != 0)
		return "a block of another space";
	if (memcmp(theirs->hash, key->hash, BLOCK_HASH_BYTES) != 0 ||
	    theirs->group != key->group || theirs->shard != arrival->shard)
		return "another block";
	if (theirs->payload_bytes != group->payload_bytes ||
	    theirs->tokens != group->tokens_per_block || theirs->shards_count != fetch->world)
		return "a block of another size";
	if (theirs->key_id != 0)
		return "an enciphered block";
	return NULL;
}

/* What our own copy's header says: everything that we know ourselves, and the sender's checksums.
 * */
static void identity_make(struct arrival *arrival, const struct slot_identity *theirs)
{
	const struct fetch *fetch = arrival->fetch;
	const struct peer_key *key = &fetch->keys[arrival->key];
	struct daemon *daemon = arrival->peers->daemon;
	struct slot_identity *identity = &arrival->identity;

	memset(identity, 0, sizeof(*identity));
	memcpy(identity->space, fetch->fingerprint, SPACE_ID_BYTES);
	identity->epoch = cache_entry(daemon->cache, arrival->entry)->epoch;
	identity->group = key->group;
	identity->shard = (uint16_t)arrival->shard;
	identity->tokens = theirs->tokens;
	memcpy(identity->hash, key->hash, BLOCK_HASH_BYTES);
	memcpy(identity->parent, theirs->parent, BLOCK_HASH_BYTES);
	identity->route_key = theirs->route_key;
	identity->payload_bytes = theirs->payload_bytes;
	identity->stored_at_us = theirs->stored_at_us;
	identity->segments_count = theirs->segments_count;
	identity->first_position = key->position;
	identity->shards_count = theirs->shards_count;
	memcpy(identity->segment_crcs, theirs->segment_crcs,
	       theirs->segments_count * sizeof(uint32_t));
}

void fetch_block(struct peers *peers, struct peer *peer, const struct peer_block *block)
{
	struct arrival *arrival = fetch_arrival_find(peers, peer, block->tag);

	if (arrival == NULL || arrival->result < 0)
		return;   /* given up meanwhile */
	const char *fault = arrival->has_block ? "a block twice" : identity_fault(arrival, block);
	if (fault != NULL) {
		wrong_say(arrival, fault);
		arrival_stop(arrival, -EBADMSG);
		return;
	}
	identity_make(arrival, (const struct slot_identity *)(block + 1));
	arrival->has_block = true;
	if (arrival->state == ARRIVAL_HERE)
		check_begin(arrival);
}

void fetch_failed(struct peers *peers, struct peer *peer, const struct peer_failed *failed)
{
	struct arrival *arrival = fetch_arrival_find(peers, peer, failed->tag);

	if (arrival != NULL && arrival->state != ARRIVAL_CHECKED)
		arrival_stop(arrival, failed->header.result < 0 ? failed->header.result : -ENOENT);
}

/* ---- the beginning ---- */

static enum cache_admission key_admit(struct peers *peers, const struct fetch *fetch,
				      uint32_t number, unsigned shard, uint32_t *out_entry)
{
	const struct peer_key *key = &fetch->keys[number];
	const struct fetch_group *group = &fetch->groups[key->group];
	bool has_parent = number > 0 && fetch->keys[number - 1].group == key->group &&
			  fetch->keys[number - 1].position + 1 == key->position;
	/* The first key's parent may be the engine's own. */
	struct cache_new block = {
		.space = fetch->space,
		.group = key->group,
		.shards_count = (uint8_t)fetch->world,
		.parent_required = group->is_full && has_parent,
		.hash = key->hash,
		.parent = has_parent ? fetch->keys[number - 1].hash : NULL,
		.tokens = group->tokens_per_block,
		.epoch = (uint32_t)peers->daemon->epoch,
		.slot_bytes = (uint32_t)slot_bytes_for(group->payload_bytes),
		.shard = (uint8_t)shard,
		.lower_wanted = false, /* it stays in cpu: the peer has it, too */
	};

	return cache_admit(peers->daemon->cache, &block, out_entry);
}

static bool fetch_item_say(struct peers *peers, const struct arrival *arrival)
{
	const struct fetch *fetch = arrival->fetch;
	struct {
		struct peer_fetch fetch;
		struct peer_fetch_item item;
	} out = { .fetch = { .header = { .magic = PEER_FRAME_MAGIC,
					 .type = PEER_FETCH,
					 .bytes = sizeof(out),
					 .number = fetch->number },
			     .count = 1 },
		  .item = { .tag = arrival->tag,
			    .item = fetch->keys[arrival->key].item,
			    .shard = arrival->shard } };

	return peers->ops->say(peers->room, fetch->peer->session, fetch->life, &out) == 0;
}

static void arrival_prepare(struct peers *peers, struct fetch *fetch, struct arrival *arrival)
{
	struct daemon *daemon = peers->daemon;
	struct slot_place place;

	cache_slot_place(daemon->cache, TIER_CPU, arrival->slot, &place);
	arrival->generation = place.slot_generation;
	arrival->slot_bytes = place.slot_bytes;
	arrival->memory = arena_slot(&fetch->tenant->arena, place.offset);
	memset(&arrival->address, 0, sizeof(arrival->address));
	memcpy(arrival->address.device, fetch->tenant->arena.id, DEVICE_ID_BYTES);
	arrival->address.offset = place.offset;
	arrival->address.extent_generation = place.extent_generation;
	arrival->address.slot_generation = place.slot_generation;
	slot_address_seal(&arrival->address);
	slot_header_clear(arrival->memory);
	atomic_thread_fence(memory_order_seq_cst);
	arrival->transfer = (struct peer_transfer){
		.session = fetch->peer->session,
		.life = fetch->life,
		.tag = arrival->tag,
		.arena = (uint32_t)(fetch->tenant - daemon->tenants),
		.offset = (uint64_t)((uint8_t *)(arrival->memory + 1) -
				     (uint8_t *)fetch->tenant->arena.start),
		.bytes = fetch->groups[fetch->keys[arrival->key].group].payload_bytes,
		.deadline_us = fetch->deadline_us,
		.is_place = true,
		.done = placed,
	};
}

/* A slot for one shard, and its place told to the network and to the peer. 0; -EAGAIN: later;
 * -EALREADY: this shard needs none; others: it cannot come. */
static int arrival_begin(struct peers *peers, struct fetch *fetch, uint32_t key, unsigned shard)
{
	struct fetches *fetches = peers->fetches;
	struct daemon *daemon = peers->daemon;
	struct list_node *node = list_first(&fetches->arrivals_free);
	uint32_t entry;

	if (node == NULL)
		return -EAGAIN;
	switch (key_admit(peers, fetch, key, shard, &entry)) {
	case CACHE_ADMITTED:
		break;
	case CACHE_PRESENT:
		return -EALREADY;
	default:
		return -ENOSPC;   /* also when an engine stores it right now: it will be here */
	}
	struct arrival *arrival = list_item(node, struct arrival, link);
	*arrival = (struct arrival){
		.link = arrival->link,
		.state = ARRIVAL_COMING,
		.fetch = fetch,
		.peers = peers,
		.tag = ++fetches->tags,
		.key = key,
		.shard = shard,
		.entry = entry,
		.slot = cache_copy_slot(daemon->cache, entry, TIER_CPU, shard),
		.began_us = daemon->now_us,
	};
	arrival_prepare(peers, fetch, arrival);
	int result = peers->ops->transfer(peers->room, &arrival->transfer);
	if (result < 0) {
		cache_slot_drop(daemon->cache, TIER_CPU, arrival->slot);
		arrival->state = ARRIVAL_FREE;
		return result;
	}
	(void)list_take_first(&fetches->arrivals_free);
	list_append(&fetches->arrivals, &arrival->link);
	fetch->arrivals_count++;
	fetch->arriving_bytes += arrival->slot_bytes;
	fetch->keys[key].shards_left++;
	/* A queue that is full fails this block: it is asked for no second time. */
	if (failpoint(fetch_placed) || !fetch_item_say(peers, arrival))
		arrival_stop(arrival, -EBUSY);
	return 0;
}

/* False: later. */
static bool key_begin(struct peers *peers, struct fetch *fetch, uint32_t key)
{
	struct peer_key *begun = &fetch->keys[key];

	assert(begun->state == FETCH_KEY_GRANTED && begun->shards_left == 0);
	if (peers->fetches->arrivals_free.count < fetch->world &&
	    fetches_arrivals_count(peers) > 0)
		return false;
	begun->state = FETCH_KEY_ARRIVING;
	begun->shards_left = 1;   /* ours, until all shards have begun */
	for (unsigned shard = 0; shard < fetch->world; shard++) {
		int result = arrival_begin(peers, fetch, key, shard);

		if (result == 0 || result == -EALREADY)
			continue;
		begun->is_spoilt = true;
		break;
	}
	if (--begun->shards_left == 0)
		fetch_key_end(peers, fetch, key, !begun->is_spoilt);
	return true;
}

static bool window_has_room(const struct fetch *fetch, uint32_t key)
{
	uint64_t bytes = fetch->world *
			 slot_bytes_for(fetch->groups[fetch->keys[key].group].payload_bytes);

	return fetch->arrivals_count < BLOCKS_UNDER_WAY_MIN * fetch->world ||
	       fetch->arriving_bytes + bytes <= FETCH_WINDOW_BYTES;
}

/* Blocks of a stream are there in any order, and are taken in theirs: no block without its parent
 * is admitted. */
static bool key_can_begin(const struct fetch *fetch, uint32_t key)
{
	const struct peer_key *keys = fetch->keys;

	return keys[key].state == FETCH_KEY_GRANTED &&
	       (key == 0 || keys[key - 1].group != keys[key].group ||
		(keys[key - 1].state != FETCH_KEY_ASKED &&
		 keys[key - 1].state != FETCH_KEY_GRANTED));
}

bool fetch_arrivals_begin(struct peers *peers, struct fetch *fetch)
{
	bool did_work = false;

	while (fetch->state == FETCH_ASKED && fetch->next < fetch->count) {
		if (!key_can_begin(fetch, fetch->next)) {
			fetch->next++;
			continue;
		}
		if (!window_has_room(fetch, fetch->next) ||
		    !key_begin(peers, fetch, fetch->next))
			return did_work;
		did_work = true;
	}
	return did_work;
}
