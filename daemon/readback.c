/* daemon/readback.c: the canary: one write in readback_every is read back and compared. */
#include "daemon/scrub_parts.h"

#include "base/log.h"

#include <assert.h>

#define READBACK_LATE_US 1000000u

const char *readback_result_name(enum readback_result result)
{
	static const char *const names[READBACK_RESULTS] = { "good", "bad", "failed", "skipped" };

	assert(result < READBACK_RESULTS);
	return names[result];
}

void readback_consider(struct daemon *daemon, uint32_t nvme_slot,
		       const struct slot_identity *written)
{
	struct scrub *scrub = daemon->scrub;
	struct readback *readback;

	if (daemon->settings.readback_every == 0 ||
	    scrub->writes++ % daemon->settings.readback_every != 0)
		return;
	if (scrub->readbacks_end - scrub->readbacks_begin == READBACKS_MAX) {
		scrub->figures.readbacks[READBACK_SKIPPED]++;
		return;
	}
	readback = &scrub->readbacks[scrub->readbacks_end++ % READBACKS_MAX];
	readback->slot = nvme_slot;
	readback->generation = cache_slot(daemon->cache, TIER_NVME, nvme_slot)->generation;
	readback->late_us = daemon->now_us + READBACK_LATE_US;
	readback->written = *written;
}

bool readback_begin(struct scrub *scrub, bool is_quiet)
{
	struct daemon *daemon = scrub->daemon;
	const struct readback *readback;

	if (scrub->readbacks_begin == scrub->readbacks_end)
		return false;
	readback = &scrub->readbacks[scrub->readbacks_begin % READBACKS_MAX];
	if (!is_quiet && daemon->now_us < readback->late_us)
		return false;
	scrub->readbacks_begin++;
	if (!cache_slot_is_current(daemon->cache, TIER_NVME, readback->slot,
				   readback->generation) ||
	    !scrub_slot_is_there(daemon, TIER_NVME, readback->slot)) {
		scrub->figures.readbacks[READBACK_SKIPPED]++;
		return true;
	}
	scrub_check_open(scrub, &scrub->readback, TIER_NVME, readback->slot);
	scrub->written = readback->written;
	scrub_source_take(scrub);
	if (scrub_piece_begin(scrub, &scrub->readback) < 0)
		scrub_check_give_up(scrub, &scrub->readback);
	return true;
}

/* Errors of the device itself are counted by the tier; these only we can see. */
static void device_was_wrong(struct scrub *scrub, uint32_t number)
{
	struct daemon *daemon = scrub->daemon;
	struct nvme_device *device = daemon->devices[number].device;

	if (scrub->bad[number] == 0 ||
	    daemon->now_us - scrub->window_us[number] >= READBACK_WINDOW_US) {
		scrub->bad[number] = 0;
		scrub->window_us[number] = daemon->now_us;
	}
	scrub->bad[number]++;
	log_line(LOG_ERROR, "readback_wrong", "device=%s bad=%u fenced_at=%u",
		 nvme_device_path(device), scrub->bad[number], READBACKS_BAD_MAX);
	if (scrub->bad[number] >= READBACKS_BAD_MAX)
		nvme_device_fence(device, "blocks just written were read back wrong");
}

void readback_ended(struct scrub *scrub, enum readback_result result)
{
	const struct slot_stream *stream = &scrub->readback.stream;

	assert(scrub->state == SCRUB_IDLE && !scrub->readback.is_open);
	scrub->figures.readbacks[result]++;
	/* Another block's bytes are the device's doing. Damaged ones may have been so in memory
	 * before they were written; that they were not, only the copy there can show. */
	if (result == READBACK_BAD &&
	    (stream->verdict == SLOT_STALE ||
	     (scrub->source_was_checked && scrub->source_verdict == SLOT_GOOD)))
		device_was_wrong(scrub, stream->claim.place.device);
}
