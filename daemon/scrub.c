/* daemon/scrub.c: the round over all slots, and its pace. */
#include "daemon/scrub_parts.h"

#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

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
	scrub->buffer = mmap(NULL, SCRUB_PIECE_BYTES, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (scrub->buffer == MAP_FAILED) {
		free(scrub);
		return error_set(error, -ENOMEM, "no memory to scrub slots in%s",
				 error_advice(-ENOMEM));
	}
	scrub->daemon = daemon;
	scrub->next_tier = TIER_NVME;
	scrub->source_slot = SLOT_NONE;
	daemon->scrub = scrub;
	return 0;
}

void scrub_destroy(struct scrub *scrub)
{
	if (scrub == NULL)
		return;
	assert(scrub->state == SCRUB_IDLE);
	munmap(scrub->buffer, SCRUB_PIECE_BYTES);
	free(scrub);
}

struct nvme_memory scrub_memory(const struct scrub *scrub)
{
	return (struct nvme_memory){ .start = scrub->buffer, .bytes = SCRUB_PIECE_BYTES };
}

struct scrub_figures scrub_figures(const struct daemon *daemon)
{
	return daemon->scrub->figures;
}

/* Whether a check would be in nobody's way: a mill is free, and the devices have little to do. */
static bool is_quiet(const struct daemon *daemon)
{
	if (mills_in_flight(&daemon->mills) >= daemon->mills.count)
		return false;
	return daemon->nvme == NULL ||
	       daemon->nvme->in_flight <= daemon->settings.queue_depth / QUIET_PART;
}

uint32_t scrub_slots_end(const struct daemon *daemon, enum tier_id tier)
{
	return tier == TIER_CPU ? daemon->cpu_slots_max : daemon->nvme_slots_max;
}

/* What the next piece is paid from. 0: there is to be none. */
static uint64_t bytes_second(const struct scrub *scrub)
{
	return scrub->asked.state == SCRUB_ASKED ? scrub->asked.bytes_second
						 : scrub->daemon->settings.scrub_bytes_second;
}

static void pass_end(struct scrub *scrub)
{
	struct daemon *daemon = scrub->daemon;
	bool is_whole = scrub_has_tier(scrub, TIER_CPU) && scrub_has_tier(scrub, TIER_NVME);

	scrub->is_passing = false;
	if (scrub->asked.state == SCRUB_ASKED)
		scrub_asked_become(scrub, SCRUB_ASKED_DONE);
	if (!is_whole)
		return;
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

static uint64_t piece_us(const struct scrub *scrub)
{
	return scrub->piece_bytes * 1000000 / bytes_second(scrub);
}

/* The cost of a piece that was begun. */
static void budget_take(struct scrub *scrub)
{
	uint64_t now_us = scrub->daemon->now_us;
	uint64_t least_us = now_us > CREDIT_US ? now_us - CREDIT_US : 0;

	if (scrub->due_us < least_us)
		scrub->due_us = least_us;
	scrub->due_us += piece_us(scrub);
	scrub->late_us = now_us + SCRUB_FLOOR_PART * piece_us(scrub);
}

/* The next piece of the slot that the round has open. Returns whether the round has its turn: it
 * goes on with other slots behind one that it lost. */
static bool piece_step(struct scrub *scrub)
{
	int result = scrub_piece_begin(scrub, &scrub->round);

	if (result == 0)
		budget_take(scrub);
	else if (result != -EAGAIN)
		scrub_check_give_up(scrub, &scrub->round);
	return result == 0 || result == -EAGAIN;
}

/* Looks at some slots, until one is there to check. */
static void round_step(struct scrub *scrub)
{
	struct daemon *daemon = scrub->daemon;

	if (scrub->round.is_open && piece_step(scrub))
		return;
	for (unsigned looks = 0; looks < LOOKS_A_STEP; looks++) {
		if (scrub->next_slot >= scrub_slots_end(daemon, scrub->next_tier) ||
		    !scrub_has_tier(scrub, scrub->next_tier)) {
			scrub->next_slot = 0;
			if (scrub->next_tier == TIER_CPU) {
				pass_end(scrub);
				return;
			}
			scrub->next_tier = TIER_CPU;
			continue;
		}
		uint32_t number = scrub->next_slot++;
		if (!scrub_slot_is_there(daemon, scrub->next_tier, number))
			continue;
		scrub_check_open(scrub, &scrub->round, scrub->next_tier, number);
		if (piece_step(scrub))
			return;
	}
}

static bool pass_is_due(const struct daemon *daemon)
{
	const struct scrub *scrub = daemon->scrub;

	return scrub->is_passing || scrub->figures.passes == 0 ||
	       scrub->asked.state == SCRUB_ASKED ||
	       daemon->now_us - scrub->pass_began_us >= daemon->settings.scrub_interval_us;
}

/* Between two pieces. What is half deciphered by a key that goes is not looked at to its end. */
static void keys_leave(struct scrub *scrub)
{
	if (scrub->round.is_open)
		scrub_check_give_up(scrub, &scrub->round);
	if (scrub->readback.is_open)
		scrub_check_give_up(scrub, &scrub->readback);
	encryption_streams_leave(scrub->daemon);
}

bool scrub_step(struct daemon *daemon)
{
	struct scrub *scrub = daemon->scrub;
	bool may_check;

	if (scrub->state != SCRUB_IDLE)
		return false;
	if (encryption_wants_streams(daemon))
		keys_leave(scrub);
	if (daemon->phase != DAEMON_SERVING)
		return false;
	if (scrub->asked.state == SCRUB_ASKED &&
	    daemon->now_us - scrub->asked.asked_us >= SCRUB_ASKED_US)
		scrub_ask_end(daemon);
	may_check = is_quiet(daemon);
	if (readback_begin(scrub, may_check))
		return true;
	if (bytes_second(scrub) == 0 || daemon->now_us < scrub->due_us ||
	    (!may_check && daemon->now_us < scrub->late_us) || !pass_is_due(daemon))
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

	/* Whoever has the piece wakes us. */
	if (scrub->state != SCRUB_IDLE || daemon->phase != DAEMON_SERVING)
		return UINT64_MAX;
	if (scrub->readbacks_begin != scrub->readbacks_end)
		return BUSY_LOOK_US;
	if (bytes_second(scrub) == 0)
		return UINT64_MAX;
	if (!pass_is_due(daemon))
		until_us = scrub->pass_began_us + daemon->settings.scrub_interval_us;
	if (until_us > daemon->now_us)
		return until_us - daemon->now_us;
	return BUSY_LOOK_US;
}
