/* daemon/explain.c: EXPLAIN and BYPASS: why a key hits or misses, and the switch. */
#include "daemon/batch.h"
#include "daemon/graveyard.h"
#include "daemon/server.h"

#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static const uint8_t no_fingerprint[SPACE_ID_BYTES];
static const char *const mode_names[FRAME_BYPASS_MODES] = { "off", "on", "observe" };

enum frame_bypass_mode daemon_bypass_parse(const char *word)
{
	for (unsigned mode = 0; mode < FRAME_BYPASS_MODES; mode++)
		if (strcmp(word, mode_names[mode]) == 0)
			return mode;
	assert(!"the settings allow no other word");
	return FRAME_BYPASS_OFF;
}

static unsigned shards_present(const struct daemon *daemon, uint32_t entry, enum tier_id tier,
			       unsigned shards)
{
	unsigned count = 0;

	for (unsigned shard = 0; shard < shards; shard++) {
		uint32_t slot = cache_copy_slot(daemon->cache, entry, tier, shard);
		enum slot_state state = slot == SLOT_NONE
						? SLOT_FREE
						: cache_slot(daemon->cache, tier, slot)->state;

		count += state == SLOT_READY || state == SLOT_LEAVING;
	}
	return count;
}

static void explain_entry(const struct daemon *daemon, uint32_t index,
			  struct frame_explained_item *item)
{
	const struct entry *entry = cache_entry(daemon->cache, index);
	unsigned cpu = shards_present(daemon, index, TIER_CPU, entry->shards_count);
	unsigned nvme = shards_present(daemon, index, TIER_NVME, entry->shards_count);

	item->shards_present = cpu > nvme ? cpu : nvme;
	if (cpu == entry->shards_count)
		item->reason = FRAME_REASON_HIT_CPU;
	else if (nvme == entry->shards_count)
		item->reason = FRAME_REASON_HIT_NVME;
	else if (item->shards_present > 0)
		item->reason = FRAME_REASON_SHARDS_MISSING;
	else
		item->reason = FRAME_REASON_FILLING;
}

void explain_key(struct daemon *daemon, uint32_t space, uint16_t group, const uint8_t *hash,
		 struct frame_explained_item *item)
{
	struct cache_query query = {
		.space = space,
		.group = group,
		.hashes = (const uint8_t(*)[BLOCK_HASH_BYTES])hash,
		.count = 1,
	};
	uint32_t found = ENTRY_NONE;
	uint32_t any;

	memset(item, 0, sizeof(*item));
	cache_find(daemon->cache, &query, &found);
	any = found != ENTRY_NONE ? found : cache_find_any(daemon->cache, space, group, hash);
	if (any != ENTRY_NONE)
		explain_entry(daemon, any, item);
	else
		item->reason = graveyard_find(daemon->graveyard,
					      cache_space_fingerprint(daemon->cache, space), hash,
					      daemon->now_us, &item->age_us);
	/* Whole in a tier and yet not found: its epoch is below a floor. */
	if (found == ENTRY_NONE && any != ENTRY_NONE &&
	    (item->reason == FRAME_REASON_HIT_CPU || item->reason == FRAME_REASON_HIT_NVME))
		item->reason = FRAME_REASON_FORGOTTEN;
}

void explain_frame(struct session *session, const struct frame_explain *frame)
{
	struct daemon *daemon = session->daemon;
	struct frame_explained *reply = server_scratch(daemon);
	struct frame_explained_item *items = (struct frame_explained_item *)(reply + 1);
	const uint8_t *hashes = (const uint8_t *)(frame + 1);
	uint32_t space = frame->space;
	bool is_known = session->tenant != NULL;

	if (is_known && memcmp(frame->fingerprint, no_fingerprint, SPACE_ID_BYTES) != 0)
		is_known = cache_space_find(daemon->cache, session->tenant->handle,
					    frame->fingerprint, &space) == 0;
	else
		is_known = is_known && session_may_use_space(session, space);
	for (unsigned i = 0; i < frame->count; i++) {
		if (is_known)
			explain_key(daemon, space, frame->group,
				    hashes + (size_t)i * BLOCK_HASH_BYTES, &items[i]);
		else
			items[i] = (struct frame_explained_item){ .reason = FRAME_REASON_NO_SPACE };
		if (is_known && daemon_bypass_of(daemon, session->tenant, space) == FRAME_BYPASS_ON)
			items[i].reason = FRAME_REASON_BYPASSED;
	}
	reply->count = frame->count;
	reply->reserved = 0;
	session_reply(session, reply, (uint32_t)(sizeof(*reply) + frame->count * sizeof(*items)),
		      FRAME_EXPLAINED, frame->header.request, 0);
}

enum frame_bypass_mode daemon_bypass_of(const struct daemon *daemon, const struct tenant *tenant,
					uint32_t space)
{
	enum frame_bypass_mode mode = daemon->bypass;

	if (mode != FRAME_BYPASS_OFF)
		return mode;
	mode = tenant->bypass;
	for (unsigned i = 0; mode == FRAME_BYPASS_OFF && i < daemon->space_bypasses_count; i++) {
		const struct space_bypass *bypass = &daemon->space_bypasses[i];

		if (&daemon->tenants[bypass->tenant] == tenant &&
		    memcmp(bypass->fingerprint, cache_space_fingerprint(daemon->cache, space),
			   SPACE_ID_BYTES) == 0)
			mode = bypass->mode;
	}
	return mode;
}

static struct tenant *tenant_by_name(struct daemon *daemon, const char *name)
{
	for (unsigned i = 0; i < daemon->tenants_count; i++)
		if (strcmp(daemon->tenants[i].name, name) == 0)
			return &daemon->tenants[i];
	return NULL;
}

static int bypass_space(struct daemon *daemon, const struct tenant *tenant,
			const struct frame_bypass *frame)
{
	struct space_bypass *bypass = daemon->space_bypasses;
	struct space_bypass *end = bypass + daemon->space_bypasses_count;
	uint32_t number = (uint32_t)(tenant - daemon->tenants);

	while (bypass < end &&
	       (bypass->tenant != number ||
		memcmp(bypass->fingerprint, frame->fingerprint, SPACE_ID_BYTES) != 0))
		bypass++;
	if (bypass == end && daemon->space_bypasses_count == SPACES_BYPASSED_MAX)
		return -ENOSPC;
	if (bypass == end)
		daemon->space_bypasses_count++;
	memcpy(bypass->fingerprint, frame->fingerprint, SPACE_ID_BYTES);
	bypass->tenant = number;
	bypass->mode = frame->mode;
	return 0;
}

void bypass_frame(struct session *session, const struct frame_bypass *frame)
{
	struct daemon *daemon = session->daemon;
	bool is_of_space = memcmp(frame->fingerprint, no_fingerprint, SPACE_ID_BYTES) != 0;
	struct tenant *tenant = session->tenant;
	int result = 0;

	if (frame->tenant[0] != '\0') {
		struct tenant *named = tenant_by_name(daemon, frame->tenant);

		if (named == NULL)
			result = -ENOENT;
		else if (!session->is_admin && named != tenant)
			result = -EPERM;   /* beyond the own tenant: the admin socket */
		tenant = named;
	}
	if (result == 0 && tenant == NULL && is_of_space)
		result = -EINVAL;
	else if (result == 0 && tenant == NULL)
		daemon->bypass = frame->mode;
	else if (result == 0 && is_of_space)
		result = bypass_space(daemon, tenant, frame);
	else if (result == 0)
		tenant->bypass = frame->mode;
	if (result == 0)
		log_line(LOG_INFO, "bypass", "mode=%s tenant=%s space=%s", mode_names[frame->mode],
			 tenant != NULL ? tenant->name : "all", is_of_space ? "one" : "all");
	session_reply_done(session, frame->header.request, result);
}
