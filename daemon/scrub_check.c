/*
 * daemon/scrub_check.c: the check of one slot, piece by piece, and what becomes of a wrong one.
 *
 * The slot is held while a piece of it is under way, and not in between: a round is in no hurry,
 * and a slot that is evicted or forgotten meanwhile is another one by its generation, so nothing is
 * said about it.
 */
#include "daemon/scrub_parts.h"

#include "base/log.h"
#include "daemon/mover.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static void scrub_become(struct scrub *scrub, enum scrub_state next)
{
	static const bool legal[][3] = {
		[SCRUB_IDLE] = { [SCRUB_READING] = true, [SCRUB_MILLED] = true },
		[SCRUB_READING] = { [SCRUB_MILLED] = true, [SCRUB_IDLE] = true },
		[SCRUB_MILLED] = { [SCRUB_IDLE] = true },
	};

	assert(legal[scrub->state][next]);
	scrub->state = next;
}

/* ---- what was wrong ---- */

/* Writes a block down again whose copy below was wrong, from what lies above. */
static void rewrite(struct daemon *daemon, uint32_t entry, unsigned shards_count)
{
	for (unsigned shard = 0; shard < shards_count; shard++) {
		uint32_t cpu = cache_copy_slot(daemon->cache, entry, TIER_CPU, shard);

		if (cpu == SLOT_NONE)
			continue;
		mover_lower(daemon, cpu);
		daemon->scrub->figures.rewritten +=
			cache_copy_slot(daemon->cache, entry, TIER_NVME, shard) != SLOT_NONE;
	}
}

static void found_wrong(struct scrub *scrub, const struct scrub_check *check)
{
	struct daemon *daemon = scrub->daemon;
	enum tier_id tier = check->stream.claim.tier;
	enum slot_verdict verdict = check->stream.verdict;
	uint32_t entry = cache_slot(daemon->cache, tier, check->slot)->entry;
	bool is_above = false;
	unsigned shards_count = 0;

	scrub->figures.damaged[tier]++;
	log_line(LOG_WARNING, "scrub_found", "tier=%s verdict=%s readback=%d",
		 tier == TIER_NVME ? "nvme" : "cpu", slot_verdict_name(verdict),
		 check == &scrub->readback);
	if (tier == TIER_NVME && entry != ENTRY_NONE) {
		is_above = cache_copy_is_whole(daemon->cache, entry, TIER_CPU);
		shards_count = cache_entry(daemon->cache, entry)->shards_count;
	}
	slot_was_wrong(daemon, tier, check->slot, verdict);
	if (is_above)
		rewrite(daemon, entry, shards_count);
}

static struct slot_header *arena_header(struct daemon *daemon, const struct slot_place *place)
{
	for (unsigned i = 0; i < daemon->tenants_count; i++)
		if (daemon->tenants[i].cpu_area == place->area)
			return arena_slot(&daemon->tenants[i].arena, place->offset);
	return NULL;
}

void scrub_source_take(struct scrub *scrub)
{
	struct daemon *daemon = scrub->daemon;
	uint32_t entry = cache_slot(daemon->cache, TIER_NVME, scrub->readback.slot)->entry;
	uint32_t cpu = cache_copy_slot(daemon->cache, entry, TIER_CPU,
				       scrub->readback.stream.claim.shard);

	scrub->source_was_checked = false;
	scrub->source_slot = SLOT_NONE;
	if (cpu == SLOT_NONE || cache_slot(daemon->cache, TIER_CPU, cpu)->state != SLOT_READY)
		return;
	slot_claim_make(daemon, TIER_CPU, cpu, &scrub->source);
	scrub->source_header = arena_header(daemon, &scrub->source.place);
	scrub->source_slot = cpu;
	cache_slot_hold(daemon->cache, TIER_CPU, cpu);
}

static void source_give(struct scrub *scrub)
{
	struct daemon *daemon = scrub->daemon;

	if (scrub->source_slot == SLOT_NONE)
		return;
	cache_slot_release(daemon->cache, TIER_CPU, scrub->source_slot);
	if (scrub->source_was_checked && scrub->source_verdict != SLOT_GOOD &&
	    slot_is_readable(daemon, TIER_CPU, scrub->source_slot,
			     scrub->source.place.slot_generation))
		slot_was_wrong(daemon, TIER_CPU, scrub->source_slot, scrub->source_verdict);
}

/* ---- one slot ---- */

bool scrub_slot_is_there(const struct daemon *daemon, enum tier_id tier, uint32_t number)
{
	const struct slot *slot = cache_slot(daemon->cache, tier, number);

	/* An orphan (no ring) belongs to nobody any more. */
	return slot->state == SLOT_READY && slot->entry != ENTRY_NONE && slot->sibling != SLOT_NONE;
}

void scrub_check_open(struct scrub *scrub, struct scrub_check *check, enum tier_id tier,
		      uint32_t slot)
{
	assert(!check->is_open && scrub_slot_is_there(scrub->daemon, tier, slot));
	memset(&check->stream, 0, sizeof(check->stream));
	check->stream.cipher = check == &scrub->readback;
	slot_claim_make(scrub->daemon, tier, slot, &check->stream.claim);
	check->slot = slot;
	check->is_open = true;
}

/* `result`: 0 it was checked, -EIO it could not be read, -EAGAIN it was not tried to the end. */
static void check_ended(struct scrub *scrub, struct scrub_check *check, int result)
{
	struct daemon *daemon = scrub->daemon;
	const struct slot_place *place = &check->stream.claim.place;
	enum tier_id tier = check->stream.claim.tier;
	bool is_good = result == 0 && check->stream.verdict == SLOT_GOOD;

	assert(check->is_open && scrub->check != check);
	check->is_open = false;
	if (check == &scrub->readback)
		source_give(scrub);
	scrub->figures.unreadable += result == -EIO;
	if (result == 0) {
		scrub->figures.slots[tier]++;
		scrub->figures.bytes[tier] += place->slot_bytes;
	}
	if (!is_good && result != -EAGAIN &&
	    slot_is_readable(daemon, tier, check->slot, place->slot_generation)) {
		if (result == 0)
			found_wrong(scrub, check);
		else
			slot_was_unreadable(daemon, check->slot);
	}
	if (check == &scrub->readback)
		readback_ended(scrub, is_good             ? READBACK_GOOD
				      : result == 0       ? READBACK_BAD
				      : result == -EAGAIN ? READBACK_SKIPPED
							  : READBACK_FAILED);
}

void scrub_check_give_up(struct scrub *scrub, struct scrub_check *check)
{
	check_ended(scrub, check, -EAGAIN);
	scrub->figures.given_up += check == &scrub->round;
}

/* ---- one piece of it ---- */

static void piece_ended(struct scrub *scrub, int result)
{
	struct scrub_check *check = scrub->check;

	cache_slot_release(scrub->daemon->cache, check->stream.claim.tier, check->slot);
	scrub->check = NULL;
	scrub_become(scrub, SCRUB_IDLE);
	if (result == 0 && !check->stream.is_ended && check == &scrub->round && scrub->is_left)
		result = -EAGAIN;
	if (check == &scrub->round)
		scrub->is_left = false;
	if (result == 0 && !check->stream.is_ended) {
		/* A round goes on when its budget says so; a read-back is to be over soon. */
		if (check != &scrub->readback || scrub_piece_begin(scrub, check) == 0)
			return;
		result = -EAGAIN;
	}
	check_ended(scrub, check, result);
}

static void piece_work(struct mill_op *op)
{
	struct scrub *scrub = list_item(op, struct scrub, mill);
	struct slot_stream *stream = &scrub->check->stream;

	slot_stream_piece(scrub->daemon, stream, scrub->piece, scrub->piece_bytes);
	if (scrub->check != &scrub->readback || !stream->is_ended)
		return;
	/* Whole, in its place and of this key, but not what was written: an earlier write's. */
	if (stream->verdict == SLOT_GOOD &&
	    memcmp(&stream->header.identity, &scrub->written, sizeof(scrub->written)) != 0)
		stream->verdict = SLOT_STALE;
	scrub->source_was_checked = stream->verdict != SLOT_GOOD && scrub->source_slot != SLOT_NONE;
	if (scrub->source_was_checked)
		scrub->source_verdict = slot_claim_check(scrub->daemon, &scrub->source, op->mill,
							 scrub->source_header);
}

static void piece_checked(struct mill_op *op)
{
	piece_ended(list_item(op, struct scrub, mill), 0);
}

static void piece_mill(struct scrub *scrub)
{
	scrub_become(scrub, SCRUB_MILLED);
	scrub->mill.work = piece_work;
	scrub->mill.done = piece_checked;
	scrub->mill.result = 0;
	bool was_taken = mills_submit(&scrub->daemon->mills, &scrub->mill);
	assert(was_taken);
}

static void piece_read(struct tier_op *op)
{
	struct scrub *scrub = list_item(op, struct scrub, io);

	assert(scrub->state == SCRUB_READING);
	if (op->result != 0) {
		piece_ended(scrub, -EIO);
		return;
	}
	tier_speed_mend(&scrub->daemon->speeds[TIER_NVME], op);
	piece_mill(scrub);
}

static int piece_submit(struct scrub *scrub, const struct slot_stream *stream)
{
	scrub->piece = scrub->buffer;
	scrub->io.verb = TIER_READ;
	scrub->io.device = stream->claim.place.device;
	scrub->io.offset = stream->claim.place.offset + stream->bytes;
	scrub->io.memory = scrub->buffer;
	scrub->io.memory_bytes = scrub->piece_bytes;
	scrub->io.done = piece_read;
	return tier_submit(scrub->daemon->nvme, &scrub->io);
}

int scrub_piece_begin(struct scrub *scrub, struct scrub_check *check)
{
	struct cache *cache = scrub->daemon->cache;
	const struct slot_stream *stream = &check->stream;
	const struct slot_place *place = &stream->claim.place;
	enum tier_id tier = stream->claim.tier;
	uint64_t rest = slot_stream_rest(stream);
	int result = 0;

	assert(check->is_open && scrub->state == SCRUB_IDLE);
	if (!cache_slot_is_current(cache, tier, check->slot, place->slot_generation) ||
	    !scrub_slot_is_there(scrub->daemon, tier, check->slot))
		return -ENOENT;
	scrub->piece_bytes = rest < SCRUB_PIECE_BYTES ? rest : SCRUB_PIECE_BYTES;
	if (tier == TIER_NVME)
		result = piece_submit(scrub, stream);
	if (result < 0)
		return result;
	cache_slot_hold(cache, tier, check->slot);
	scrub->check = check;
	if (tier == TIER_NVME) {
		scrub_become(scrub, SCRUB_READING);
		return 0;
	}
	scrub->piece = (uint8_t *)arena_header(scrub->daemon, place) + stream->bytes;
	piece_mill(scrub);
	return 0;
}
