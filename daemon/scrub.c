/* daemon/scrub.c: the round over all slots, and the check of one. */
#include "daemon/scrub_parts.h"

#include "base/log.h"
#include "daemon/mover.h"
#include "daemon/slot_check.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* A load never waits behind more than this. */
#define PIECE_BYTES (UINT64_C(256) << 10)
/* What is registered, and kept: only slots beyond it touch more of the buffer. */
#define KEPT_BYTES (UINT64_C(4) << 20)
#define LOOKS_A_STEP 1024u
/* Credit that idle time leaves behind, so that a late loop does not make the round slower. */
#define CREDIT_US 20000u
/* A device is quiet with at most this part of its queue in use. */
#define QUIET_PART 8u
/* How soon to look again whether it is quiet. */
#define BUSY_LOOK_US 10000u

int scrub_create(struct daemon *daemon, struct error *error)
{
	struct scrub *scrub = calloc(1, sizeof(*scrub));

	if (scrub == NULL)
		return error_set(error, -ENOMEM, "no memory to look for damage");
	scrub->buffer = mmap(NULL, SCRUB_SLOT_BYTES_MAX, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (scrub->buffer == MAP_FAILED) {
		free(scrub);
		return error_set(error, -ENOMEM, "no address space to scrub slots in%s",
				 error_advice(-ENOMEM));
	}
	scrub->daemon = daemon;
	scrub->next_tier = TIER_NVME;
	daemon->scrub = scrub;
	return 0;
}

void scrub_destroy(struct scrub *scrub)
{
	if (scrub == NULL)
		return;
	assert(scrub->state == SCRUB_IDLE);
	munmap(scrub->buffer, SCRUB_SLOT_BYTES_MAX);
	free(scrub);
}

struct nvme_memory scrub_memory(const struct scrub *scrub)
{
	return (struct nvme_memory){ .start = scrub->buffer, .bytes = KEPT_BYTES };
}

struct scrub_figures scrub_figures(const struct daemon *daemon)
{
	return daemon->scrub->figures;
}

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

static void found_wrong(struct scrub *scrub)
{
	struct daemon *daemon = scrub->daemon;
	enum tier_id tier = scrub->claim.tier;
	uint32_t entry = cache_slot(daemon->cache, tier, scrub->slot)->entry;
	bool is_above = false;
	unsigned shards_count = 0;

	scrub->figures.damaged[tier]++;
	log_line(LOG_WARNING, "scrub_found", "tier=%s verdict=%s readback=%d",
		 tier == TIER_NVME ? "nvme" : "cpu", slot_verdict_name(scrub->verdict),
		 scrub->is_readback);
	if (tier == TIER_NVME && entry != ENTRY_NONE) {
		is_above = cache_copy_is_whole(daemon->cache, entry, TIER_CPU);
		shards_count = cache_entry(daemon->cache, entry)->shards_count;
	}
	slot_was_wrong(daemon, tier, scrub->slot, scrub->verdict);
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
	uint32_t entry = cache_slot(daemon->cache, TIER_NVME, scrub->slot)->entry;
	uint32_t cpu = cache_copy_slot(daemon->cache, entry, TIER_CPU, scrub->claim.shard);

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

	if (!scrub->is_readback || scrub->source_slot == SLOT_NONE)
		return;
	cache_slot_release(daemon->cache, TIER_CPU, scrub->source_slot);
	if (scrub->source_was_checked && scrub->source_verdict != SLOT_GOOD &&
	    slot_is_readable(daemon, TIER_CPU, scrub->source_slot,
			     scrub->source.place.slot_generation))
		slot_was_wrong(daemon, TIER_CPU, scrub->source_slot, scrub->source_verdict);
}

/* `result`: 0 it was checked, -EIO it could not be read, -EAGAIN it was not tried to the end. */
static void check_ended(struct scrub *scrub, int result)
{
	struct daemon *daemon = scrub->daemon;
	const struct slot_place *place = &scrub->claim.place;
	enum tier_id tier = scrub->claim.tier;
	bool was_read = result == 0;
	bool is_good = was_read && scrub->verdict == SLOT_GOOD;

	cache_slot_release(daemon->cache, tier, scrub->slot);
	source_give(scrub);
	scrub_become(scrub, SCRUB_IDLE);
	scrub->figures.slots[tier] += was_read;
	scrub->figures.bytes[tier] += was_read ? place->slot_bytes : 0;
	if (!is_good && result != -EAGAIN &&
	    slot_is_readable(daemon, tier, scrub->slot, place->slot_generation)) {
		if (was_read)
			found_wrong(scrub);
		else
			slot_was_unreadable(daemon, scrub->slot);
	}
	if (scrub->is_readback)
		readback_ended(scrub, is_good              ? READBACK_GOOD
				      : was_read           ? READBACK_BAD
				      : result == -EAGAIN ? READBACK_SKIPPED
							   : READBACK_FAILED);
	if (place->slot_bytes > KEPT_BYTES && tier == TIER_NVME)
		(void)madvise(scrub->buffer + KEPT_BYTES, SCRUB_SLOT_BYTES_MAX - KEPT_BYTES,
			      MADV_DONTNEED);
}

static void check_work(struct mill_op *op)
{
	struct scrub *scrub = list_item(op, struct scrub, mill);

	scrub->verdict = slot_claim_check(scrub->daemon, &scrub->claim, op->mill, scrub->header);
	/* Whole, in its place and of this key, but not what was written: an earlier write's. */
	if (scrub->verdict == SLOT_GOOD && scrub->is_readback &&
	    memcmp(&scrub->header->identity, &scrub->written, sizeof(scrub->written)) != 0)
		scrub->verdict = SLOT_STALE;
	scrub->source_was_checked = scrub->is_readback && scrub->verdict != SLOT_GOOD &&
				    scrub->source_slot != SLOT_NONE;
	if (scrub->source_was_checked)
		scrub->source_verdict = slot_claim_check(scrub->daemon, &scrub->source, op->mill,
							 scrub->source_header);
}

static void check_done(struct mill_op *op)
{
	check_ended(list_item(op, struct scrub, mill), 0);
}

static void check_mill(struct scrub *scrub)
{
	scrub_become(scrub, SCRUB_MILLED);
	scrub->mill.work = check_work;
	scrub->mill.done = check_done;
	scrub->mill.result = 0;
	bool was_taken = mills_submit(&scrub->daemon->mills, &scrub->mill);
	assert(was_taken);
}

static void piece_done(struct tier_op *op);

/* 0, or why the next piece cannot be read. */
static int piece_submit(struct scrub *scrub)
{
	const struct slot_place *place = &scrub->claim.place;
	uint64_t rest = place->slot_bytes - scrub->read_bytes;

	scrub->io.verb = TIER_READ;
	scrub->io.device = place->device;
	scrub->io.offset = place->offset + scrub->read_bytes;
	scrub->io.memory = scrub->buffer + scrub->read_bytes;
	scrub->io.memory_bytes = rest < PIECE_BYTES ? rest : PIECE_BYTES;
	scrub->io.done = piece_done;
	return tier_submit(scrub->daemon->nvme, &scrub->io);
}

static void piece_done(struct tier_op *op)
{
	struct scrub *scrub = list_item(op, struct scrub, io);

	assert(scrub->state == SCRUB_READING);
	scrub->read_bytes += op->memory_bytes;
	if (op->result == 0 && scrub->read_bytes == scrub->claim.place.slot_bytes) {
		check_mill(scrub);
		return;
	}
	/* Behind what was submitted meanwhile. A full queue ends it: the round comes by again. */
	if (op->result < 0)
		check_ended(scrub, -EIO);
	else if (piece_submit(scrub) < 0)
		check_ended(scrub, -EAGAIN);
}

bool scrub_check_begin(struct scrub *scrub, enum tier_id tier, uint32_t slot)
{
	struct daemon *daemon = scrub->daemon;

	assert(scrub->state == SCRUB_IDLE);
	slot_claim_make(daemon, tier, slot, &scrub->claim);
	if (scrub->claim.place.slot_bytes > SCRUB_SLOT_BYTES_MAX)
		return false;
	scrub->slot = slot;
	scrub->read_bytes = 0;
	scrub->is_readback = false;
	if (tier == TIER_NVME) {
		scrub->header = (struct slot_header *)scrub->buffer;
		if (piece_submit(scrub) < 0)
			return false;
		cache_slot_hold(daemon->cache, tier, slot);
		scrub_become(scrub, SCRUB_READING);
		return true;
	}
	scrub->header = arena_header(daemon, &scrub->claim.place);
	cache_slot_hold(daemon->cache, tier, slot);
	check_mill(scrub);
	return true;
}

/* Whether a check would be in nobody's way: a mill is free, and the devices have little to do. */
static bool is_quiet(const struct daemon *daemon)
{
	if (mills_in_flight(&daemon->mills) >= daemon->mills.count)
		return false;
	return daemon->nvme == NULL ||
	       daemon->nvme->in_flight <= daemon->settings.queue_depth / QUIET_PART;
}

static uint32_t slots_end(const struct daemon *daemon, enum tier_id tier)
{
	return tier == TIER_CPU ? daemon->cpu_slots_max : daemon->nvme_slots_max;
}

static void pass_end(struct scrub *scrub)
{
	struct daemon *daemon = scrub->daemon;

	scrub->is_passing = false;
	scrub->figures.passes++;
	scrub->figures.pass_us = daemon->now_us - scrub->pass_began_us;
	log_line(LOG_DEBUG, "scrubbed", "passes=%llu pass_ms=%llu",
		 (unsigned long long)scrub->figures.passes,
		 (unsigned long long)scrub->figures.pass_us / 1000);
}

static void pass_begin(struct scrub *scrub)
{
	scrub->is_passing = true;
	scrub->pass_began_us = scrub->daemon->now_us;
	scrub->next_tier = TIER_NVME;
	scrub->next_slot = 0;
}

/* The cost of a slot that was begun. */
static void budget_take(struct scrub *scrub)
{
	struct daemon *daemon = scrub->daemon;
	uint64_t least_us = daemon->now_us > CREDIT_US ? daemon->now_us - CREDIT_US : 0;

	if (scrub->due_us < least_us)
		scrub->due_us = least_us;
	scrub->due_us += (uint64_t)scrub->claim.place.slot_bytes * 1000000 /
			 daemon->settings.scrub_bytes_second;
}

/* Looks at some slots, until one is there to check. */
static void round_step(struct scrub *scrub)
{
	struct daemon *daemon = scrub->daemon;

	for (unsigned looks = 0; looks < LOOKS_A_STEP; looks++) {
		if (scrub->next_slot >= slots_end(daemon, scrub->next_tier)) {
			scrub->next_slot = 0;
			if (scrub->next_tier == TIER_CPU) {
				pass_end(scrub);
				return;
			}
			scrub->next_tier = TIER_CPU;
			continue;
		}
		uint32_t number = scrub->next_slot++;
		const struct slot *slot = cache_slot(daemon->cache, scrub->next_tier, number);
		/* An orphan (no ring) belongs to nobody any more. */
		if (slot->state != SLOT_READY || slot->entry == ENTRY_NONE ||
		    slot->sibling == SLOT_NONE)
			continue;
		if (scrub_check_begin(scrub, scrub->next_tier, number)) {
			budget_take(scrub);
			return;
		}
	}
}

static bool pass_is_due(const struct daemon *daemon)
{
	const struct scrub *scrub = daemon->scrub;

	return scrub->is_passing || scrub->figures.passes == 0 ||
	       daemon->now_us - scrub->pass_began_us >= daemon->settings.scrub_interval_us;
}

bool scrub_step(struct daemon *daemon)
{
	struct scrub *scrub = daemon->scrub;

	bool may_check;

	if (scrub->state != SCRUB_IDLE || daemon->phase != DAEMON_SERVING)
		return false;
	may_check = is_quiet(daemon);
	if (readback_begin(scrub, may_check))
		return true;
	if (!may_check || daemon->settings.scrub_bytes_second == 0 ||
	    daemon->now_us < scrub->due_us || !pass_is_due(daemon))
		return false;
	if (!scrub->is_passing)
		pass_begin(scrub);
	round_step(scrub);
	return true;
}

uint64_t scrub_wait_us(const struct daemon *daemon)
{
	const struct scrub *scrub = daemon->scrub;
	uint64_t until_us = scrub->due_us;

	/* Whoever has the slot wakes us. */
	if (scrub->state != SCRUB_IDLE || daemon->phase != DAEMON_SERVING)
		return UINT64_MAX;
	if (scrub->readbacks_begin != scrub->readbacks_end)
		return BUSY_LOOK_US;
	if (daemon->settings.scrub_bytes_second == 0)
		return UINT64_MAX;
	if (!pass_is_due(daemon))
		until_us = scrub->pass_began_us + daemon->settings.scrub_interval_us;
	if (until_us > daemon->now_us)
		return until_us - daemon->now_us;
	return BUSY_LOOK_US;
}
