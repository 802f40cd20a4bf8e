/* daemon/grant_send.c: blocks of a grant on their way to who asked: raised, held, sent. */
#include "daemon/grant_parts.h"

#include "daemon/tickets.h"

#include "base/failpoint.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

unsigned grants_sends_count(const struct peers *peers)
{
	return peers->grants->sends_used;
}

static bool tag_fail(struct peers *peers, const struct peer *peer, uint32_t life, uint64_t number,
		     uint64_t tag, int result)
{
	struct peer_failed frame = { .header = { .magic = PEER_FRAME_MAGIC,
						 .type = PEER_FAILED,
						 .bytes = sizeof(frame),
						 .result = result,
						 .number = number },
				     .tag = tag };

	return grant_say(peers, peer, life, &frame);
}

static void send_give(struct send *send)
{
	struct grant *grant = send->grant;
	struct grants *grants = send->peers->grants;

	assert(send->waiter.list == NULL);
	list_remove(&grant->sends, &send->link);
	list_append(&grants->sends_free, &send->link);
	grants->sends_used--;
	grant->sends_count--;
}

/* The slot is held, or was; nothing reads it any more. */
static void send_release(struct send *send)
{
	cache_slot_release(send->peers->daemon->cache, TIER_CPU, send->cpu_slot);
}

/* Without its block. If the peer cannot be told now it is later; a grant that is over tells
 * nobody. */
static void send_fail(struct send *send, int result)
{
	struct grant *grant = send->grant;

	send->result = result;
	send->state = SEND_UNSAID;
	if (grant->is_over || tag_fail(send->peers, grant->peer, grant->life, grant->number,
				       send->tag, result))
		send_give(send);
}

/* All shards of a block were sent: it need not be held any more. */
static void key_was_sent(struct send *send)
{
	struct grant *grant = send->grant;
	struct peer_key *key = &grant->keys[send->item];
	struct daemon *daemon = send->peers->daemon;

	if (grant->is_over || key->state != GRANT_KEY_HELD || --key->shards_left > 0)
		return;
	key->state = GRANT_KEY_SENT;
	for (unsigned i = 0; i < grant->leases_count; i++)
		if (cache_lease_release_entry(daemon->cache, grant->leases[i],
					      grant->entries[send->item]))
			return;
}

static void sent(struct peer_transfer *transfer, int result)
{
	struct send *send = list_item(transfer, struct send, transfer);
	struct peers *peers = send->peers;
	struct grant *grant = send->grant;
	struct peer *peer = grant->peer;

	assert(send->state == SEND_SENDING);
	assert(peer->sends_count > 0);
	peer->sends_count--;
	if (result == 0 && failpoint(grant_sent))
		result = -EIO;
	send_release(send);
	if (result == 0) {
		peer->sent_blocks++;
		peer->sent_bytes += send->payload_bytes;
		peers->sent_blocks++;
		peers->sent_bytes += send->payload_bytes;
		key_was_sent(send);
		send_give(send);
	} else {
		send_fail(send, result);
	}
	if (grant->is_over && grant->sends_count == 0)
		grant_end(peers, grant);
}

/* What the slot says that it holds: the sender's own look at it. */
static const struct slot_identity *send_identity(const struct send *send, uint64_t *out_offset)
{
	const struct grant *grant = send->grant;
	struct daemon *daemon = send->peers->daemon;
	struct slot_place place;

	cache_slot_place(daemon->cache, TIER_CPU, send->cpu_slot, &place);
	const struct slot_header *header = arena_slot(&grant->tenant->arena, place.offset);
	const struct slot_identity *identity = &header->identity;
	if (identity->magic != SLOT_MAGIC || identity->key_id != 0 ||
	    identity->segments_count < 1 || identity->segments_count > SLOT_SEGMENTS_MAX ||
	    slot_bytes_for(identity->payload_bytes) > place.slot_bytes ||
	    memcmp(identity->hash, grant->keys[send->item].hash, BLOCK_HASH_BYTES) != 0 ||
	    identity->shard != send->shard)
		return NULL;
	*out_offset = (uint64_t)((const uint8_t *)(header + 1) -
				 (const uint8_t *)grant->tenant->arena.start);
	return identity;
}

static bool block_say(struct send *send, const struct slot_identity *identity)
{
	union {
		struct peer_block block;
		uint8_t bytes[sizeof(struct peer_block) + sizeof(struct slot_identity)];
	} out;
	uint32_t bytes = (uint32_t)(offsetof(struct slot_identity, segment_crcs) +
				    identity->segments_count * sizeof(uint32_t));

	out.block = (struct peer_block){ .header = { .magic = PEER_FRAME_MAGIC,
						     .type = PEER_BLOCK,
						     .bytes = (uint32_t)sizeof(out.block) + bytes,
						     .number = send->grant->number },
					 .tag = send->tag,
					 .identity_bytes = bytes };
	memcpy(&out.block + 1, identity, bytes);
	return grant_say(send->peers, send->grant->peer, send->grant->life, &out);
}

/* The slot is held. False: the network is full, later. */
static bool send_begin(struct send *send)
{
	struct grant *grant = send->grant;
	struct peer *peer = grant->peer;
	struct peers *peers = send->peers;
	uint64_t offset = 0;
	const struct slot_identity *identity = send_identity(send, &offset);

	assert(send->state == SEND_HELD);
	if (identity == NULL) {
		mover_prove(peers->daemon, grant->tenant, send->cpu_slot,
			    cache_slot(peers->daemon->cache, TIER_CPU, send->cpu_slot)->generation);
		send_release(send);
		send_fail(send, -EBADMSG);
		return true;
	}
	if (peer->sends_count >= SENDS_UNDER_WAY_MAX)
		return false;
	if (!send->is_said && !block_say(send, identity))
		return false;
	send->is_said = true;
	send->payload_bytes = identity->payload_bytes;
	send->transfer = (struct peer_transfer){
		.session = peer->session,
		.life = grant->life,
		.tag = send->tag,
		.arena = (uint32_t)(grant->tenant - peers->daemon->tenants),
		.offset = offset,
		.bytes = identity->payload_bytes,
		.deadline_us = grant->deadline_us,
		.done = sent,
	};
	int result = failpoint(grant_said) ? -EIO
					   : peers->ops->transfer(peers->room, &send->transfer);
	if (result == -EAGAIN)
		return false;
	if (result < 0) {
		send_release(send);
		send_fail(send, result);
		return true;
	}
	send->state = SEND_SENDING;
	peer->sends_count++;
	return true;
}

static void send_hold(struct send *send, uint32_t cpu_slot)
{
	cache_slot_hold(send->peers->daemon->cache, TIER_CPU, cpu_slot);
	send->cpu_slot = cpu_slot;
	send->state = SEND_HELD;
}

static void raised(struct waiter *waiter, int result, uint32_t cpu_slot)
{
	struct send *send = list_item(waiter, struct send, waiter);

	assert(send->state == SEND_RAISING);
	if (result == 0)
		send_hold(send, cpu_slot);
	else
		send_fail(send, result == -ETIME ? -ETIME : -ENOENT);
}

/* False: no move is free, later. */
static bool send_raise(struct send *send)
{
	struct grant *grant = send->grant;
	struct daemon *daemon = send->peers->daemon;
	uint32_t entry = grant->entries[send->item];
	int result = -ENOENT;

	assert(send->state == SEND_WANTED);
	/* As long as it is HELD the entry is that of the key. */
	if (grant->keys[send->item].state == GRANT_KEY_HELD &&
	    !cache_entry_is_forgotten(daemon->cache, entry))
		result = mover_raise(daemon, grant->tenant, entry, send->shard, grant->deadline_us,
				     &send->waiter);
	if (result == -EAGAIN)
		return false;
	if (result == 0)
		send->state = SEND_RAISING;
	else if (result == -EALREADY)
		send_hold(send, cache_copy_slot(daemon->cache, entry, TIER_CPU, send->shard));
	else
		send_fail(send, result);
	return true;
}

/* False: nothing behind it gets on either. */
static bool send_step(struct send *send, bool *did_work)
{
	struct grant *grant = send->grant;
	bool may_go_on = true;

	switch (send->state) {
	case SEND_WANTED:
		may_go_on = send_raise(send) &&
			    (send->state != SEND_HELD || send_begin(send));
		break;
	case SEND_HELD:
		may_go_on = send_begin(send);
		break;
	case SEND_UNSAID:
		may_go_on = tag_fail(send->peers, grant->peer, grant->life, grant->number,
				     send->tag, send->result);
		if (may_go_on)
			send_give(send);
		break;
	default:
		return true;
	}
	*did_work = *did_work || may_go_on;
	return may_go_on;
}

/* Of a ticket each shard is given once: by this grant or by another of the same ticket. */
static bool may_ask(struct peers *peers, struct grant *grant, const struct peer_fetch_item *item)
{
	struct peer_key *key = &grant->keys[item->item];
	uint64_t bit = UINT64_C(1) << item->shard;

	if (grant->promise == NULL)
		return true;
	if (key->state == GRANT_KEY_REFUSED || (key->shards_asked & bit) != 0 ||
	    (key->shards_asked == 0 &&
	     !ticket_spend(peers, grant->promise, grant->promise_number, key->item)))
		return false;
	key->shards_asked |= bit;
	return true;
}

void grant_send_add(struct peers *peers, struct peer *peer, struct grant *grant,
		    const struct peer_fetch_item *item)
{
	struct grants *grants = peers->grants;
	struct list_node *node = NULL;
	bool did_work = false;
	int result = -ENOENT;

	if (grant != NULL && grant->is_open && item->item < grant->count &&
	    item->shard < grant->shards_count)
		result = list_is_empty(&grants->sends_free)   ? -EAGAIN
			 : may_ask(peers, grant, item) ? 0
							: -EALREADY;
	if (result == 0 && failpoint(grant_asked))
		result = -EIO;
	if (result == 0)
		node = list_take_first(&grants->sends_free);
	if (node == NULL) {
		/* A peer that does not read is not told; its own deadline ends the wait. */
		(void)tag_fail(peers, peer, peer->life, grant != NULL ? grant->number : 0,
			       item->tag, result);
		return;
	}
	struct send *send = list_item(node, struct send, link);
	memset(&send->waiter, 0, sizeof(send->waiter));
	send->waiter.done = raised;
	send->peers = peers;
	send->grant = grant;
	send->state = SEND_WANTED;
	send->tag = item->tag;
	send->item = item->item;
	send->shard = item->shard;
	send->is_said = false;
	list_append(&grant->sends, &send->link);
	grants->sends_used++;
	grant->sends_count++;
	(void)send_step(send, &did_work);
}

bool grant_sends_step(struct peers *peers, struct grant *grant)
{
	struct list_node *node = list_first(&grant->sends);
	bool did_work = false;

	(void)peers;
	while (node != NULL) {
		struct send *send = list_item(node, struct send, link);

		node = list_after(&grant->sends, node);
		if (!send_step(send, &did_work))
			break;
	}
	return did_work;
}

void grant_sends_stop(struct peers *peers, struct grant *grant)
{
	struct list_node *node = list_first(&grant->sends);

	while (node != NULL) {
		struct send *send = list_item(node, struct send, link);

		node = list_after(&grant->sends, node);
		switch (send->state) {
		case SEND_SENDING:
			peers->ops->stop(peers->room, &send->transfer);
			break;
		case SEND_RAISING:
			mover_forget_waiter(&send->waiter);
			send_give(send);
			break;
		case SEND_HELD:
			send_release(send);
			send_give(send);
			break;
		default:
			send_give(send);
		}
	}
}
