/* daemon/slot_check.c: see slot_check.h. */
#include "daemon/slot_check.h"

#include "daemon/encryption.h"

#include <assert.h>
#include <string.h>

static const struct tenant *area_tenant(const struct daemon *daemon, uint32_t area)
{
	for (unsigned i = 0; i < daemon->tenants_count; i++)
		if (daemon->tenants[i].cpu_area == area)
			return &daemon->tenants[i];
	return NULL;
}

void slot_claim_make(struct daemon *daemon, enum tier_id tier, uint32_t slot,
		     struct slot_claim *out_claim)
{
	const struct slot *seen = cache_slot(daemon->cache, tier, slot);
	const struct entry *entry;
	const uint8_t *device;

	assert(seen->entry != ENTRY_NONE);
	entry = cache_entry(daemon->cache, seen->entry);
	*out_claim = (struct slot_claim){
		.tier = tier, .epoch = entry->epoch, .group = entry->group, .shard = seen->shard,
		.tenant = daemon_tenant(daemon, cache_space_tenant(daemon->cache, entry->space)),
	};
	memcpy(out_claim->space, cache_space_fingerprint(daemon->cache, entry->space),
	       SPACE_ID_BYTES);
	memcpy(out_claim->hash, entry->hash, BLOCK_HASH_BYTES);
	cache_slot_place(daemon->cache, tier, slot, &out_claim->place);
	device = tier == TIER_NVME
			 ? nvme_device_id(daemon->devices[out_claim->place.device].device)
			 : area_tenant(daemon, out_claim->place.area)->arena.id;
	memcpy(out_claim->device, device, DEVICE_ID_BYTES);
}

static enum slot_verdict header_check(const struct slot_claim *claim,
				      const struct slot_header *header)
{
	struct slot_expectation expected = {
		.space = claim->space,
		.hash = claim->hash,
		.device = claim->device,
		.offset = claim->place.offset,
		.slot_bytes = claim->place.slot_bytes,
		.epoch_min = claim->epoch,
		.group = claim->group,
		.shard = claim->shard,
		.slot_generation = claim->place.slot_generation,
		.extent_generation = claim->place.extent_generation,
	};
	enum slot_verdict verdict = slot_header_check(header, claim->tier, &expected);

	/* The entry's is the oldest of its shards' epochs. */
	if (verdict == SLOT_GOOD && header->identity.shards_count == 1 &&
	    header->identity.epoch != claim->epoch)
		return SLOT_STALE;
	return verdict;
}

enum slot_verdict slot_claim_check(const struct daemon *daemon, const struct slot_claim *claim,
				   unsigned mill, struct slot_header *header)
{
	enum slot_verdict verdict = header_check(claim, header);

	if (verdict == SLOT_GOOD && claim->tier == TIER_NVME)
		verdict = encryption_decipher(daemon, claim->tenant, mill, header);
	return verdict == SLOT_GOOD ? slot_payload_check(header) : verdict;
}

static enum slot_verdict stream_begin(const struct daemon *daemon, struct slot_stream *stream,
				      const void *piece)
{
	const struct slot_claim *claim = &stream->claim;
	enum slot_verdict verdict;

	memcpy(&stream->header, piece, SLOT_HEADER_BYTES);
	stream->opening.cipher = NULL;
	verdict = header_check(claim, &stream->header);
	if (verdict == SLOT_GOOD && claim->tier == TIER_NVME)
		return encryption_open_begin(daemon, claim->tenant, stream->cipher,
					     &stream->header, &stream->opening);
	/* Nothing is enciphered in memory, so nobody here could prove it. */
	if (verdict == SLOT_GOOD && stream->header.identity.key_id != 0)
		return SLOT_DAMAGED;
	return verdict;
}

static enum slot_verdict stream_end(struct slot_stream *stream)
{
	enum slot_verdict verdict = SLOT_GOOD;

	if (stream->opening.cipher != NULL)
		verdict = slot_open_end(&stream->opening, &stream->header);
	return verdict == SLOT_GOOD
		       ? slot_payload_end(&stream->payload, &stream->header.identity)
		       : verdict;
}

uint64_t slot_stream_rest(const struct slot_stream *stream)
{
	assert(!stream->is_ended);
	return (stream->bytes == 0 ? stream->claim.place.slot_bytes
				   : slot_bytes_for(stream->header.identity.payload_bytes)) -
	       stream->bytes;
}

void slot_stream_piece(const struct daemon *daemon, struct slot_stream *stream, void *piece,
		       uint64_t bytes)
{
	uint8_t *at = piece;

	assert(!stream->is_ended);
	if (stream->bytes == 0) {
		assert(bytes >= SLOT_HEADER_BYTES);
		stream->verdict = stream_begin(daemon, stream, piece);
		stream->is_ended = stream->verdict != SLOT_GOOD;
		if (stream->is_ended)
			return;
		stream->bytes = SLOT_HEADER_BYTES;
		at += SLOT_HEADER_BYTES;
		bytes -= SLOT_HEADER_BYTES;
	}
	/* A slot may be longer than its block needs. */
	if (bytes > slot_stream_rest(stream))
		bytes = slot_stream_rest(stream);
	if (stream->opening.cipher != NULL)
		slot_open_more(&stream->opening, at, bytes);
	slot_payload_more(&stream->payload, &stream->header.identity, at, bytes);
	stream->bytes += bytes;
	if (slot_stream_rest(stream) > 0)
		return;
	stream->is_ended = true;
	stream->verdict = stream_end(stream);
}

bool slot_is_readable(const struct daemon *daemon, enum tier_id tier, uint32_t slot,
		      uint32_t generation)
{
	if (!cache_slot_is_current(daemon->cache, tier, slot, generation))
		return false;
	enum slot_state state = cache_slot(daemon->cache, tier, slot)->state;
	return state == SLOT_READY || state == SLOT_LEAVING;
}

static void quarantine(struct daemon *daemon, enum tier_id tier, uint32_t slot)
{
	assert(daemon->gone_reason == FRAME_REASON_EVICTED);
	daemon->gone_reason = FRAME_REASON_DAMAGED;
	cache_slot_quarantine(daemon->cache, tier, slot);
	daemon->gone_reason = FRAME_REASON_EVICTED;
}

static void cpu_was_wrong(struct daemon *daemon, uint32_t slot)
{
	struct slot_place place;

	cache_slot_place(daemon->cache, TIER_CPU, slot, &place);
	quarantine(daemon, TIER_CPU, slot);
	/* Nor is it found again by its header, which may be whole, at the next start. */
	slot_header_clear(arena_slot(&area_tenant(daemon, place.area)->arena, place.offset));
}

/* The slot itself may be fine. */
static void keyless_drop(struct daemon *daemon, uint32_t slot, enum slot_verdict verdict)
{
	uint32_t number = cache_slot(daemon->cache, TIER_NVME, slot)->entry;

	assert(daemon->gone_reason == FRAME_REASON_EVICTED);
	if (number != ENTRY_NONE) {
		uint32_t space = cache_entry(daemon->cache, number)->space;
		uint32_t tenant = cache_space_tenant(daemon->cache, space);

		daemon->gone_reason = encryption_refused(daemon_tenant(daemon, tenant),
							 verdict == SLOT_IN_CLEAR);
	}
	cache_slot_drop(daemon->cache, TIER_NVME, slot);
	daemon->gone_reason = FRAME_REASON_EVICTED;
}

void slot_was_wrong(struct daemon *daemon, enum tier_id tier, uint32_t slot,
		    enum slot_verdict verdict)
{
	assert(verdict != SLOT_GOOD);
	if (verdict == SLOT_KEYLESS || verdict == SLOT_IN_CLEAR) {
		keyless_drop(daemon, slot, verdict);
		return;
	}
	daemon->counters.cipher_failures += verdict == SLOT_WRONG_TAG;
	if (tier == TIER_NVME && verdict != SLOT_DAMAGED && verdict != SLOT_WRONG_TAG) {
		daemon->counters.stale_entries++;
		cache_slot_drop(daemon->cache, TIER_NVME, slot);
		return;
	}
	daemon->counters.damaged[tier]++;
	if (tier == TIER_CPU)
		cpu_was_wrong(daemon, slot);
	else
		quarantine(daemon, TIER_NVME, slot);
}

void slot_was_unreadable(struct daemon *daemon, uint32_t nvme_slot)
{
	quarantine(daemon, TIER_NVME, nvme_slot);
}
