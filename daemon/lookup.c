/* daemon/lookup.c: LOOKUP: the frames of a lookup, what they find, and which one is answered. */
#include "daemon/lookup_parts.h"

#include "daemon/peers.h"
#include "daemon/requests.h"
#include "daemon/server.h"
#include "daemon/spaces.h"

#include <errno.h>
#include <string.h>

static struct lookup single; /* a lookup of one frame; one at a time, on the loop */

static void lookup_begin(struct lookup *lookup, const struct cache *cache,
			 const struct frame_lookup *frame)
{
	memcpy(lookup->tag, frame->tag, FRAME_TAG_BYTES);
	lookup->request = frame->header.request;
	lookup->space = frame->space;
	lookup->changes = cache_changes(cache);
	lookup->keys_count = 0;
	lookup->sections_count = 0;
}

static void names_keep(struct lookup *lookup, const uint8_t (*hashes)[FRAME_HASH_BYTES],
		       unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		memcpy(&lookup->names[lookup->keys_count + i], hashes[i], sizeof(uint64_t));
}

static int sections_add(struct session *session, struct lookup *lookup,
			const struct frame_lookup *frame)
{
	const uint8_t (*hashes)[FRAME_HASH_BYTES];
	const struct frame_keys *keys;
	size_t position = 0;

	while ((keys = frame_lookup_next(frame, &position, &hashes)) != NULL) {
		struct cache_query query = {
			.space = frame->space,
			.group = keys->group,
			.hashes = hashes,
			.count = keys->count,
		};

		if (lookup->sections_count == LOOKUP_SECTIONS_MAX ||
		    lookup->keys_count + keys->count > FRAME_LOOKUP_KEYS_MAX ||
		    keys->group >= session->engine->groups_count)
			return -EINVAL;
		struct lookup_section *section = &lookup->sections[lookup->sections_count++];
		section->group = keys->group;
		section->count = keys->count;
		section->first_position = keys->first_position;
		section->first = lookup->keys_count;
		cache_find_tiers(session->daemon->cache, &query,
				 &lookup->entries[lookup->keys_count],
				 &lookup->tiers[lookup->keys_count]);
		if (lookup != &single)
			names_keep(lookup, hashes, keys->count);
		lookup->keys_count += keys->count;
	}
	return 0;
}

static void section_look_again(const struct cache *cache, struct lookup *lookup,
			       const struct lookup_section *section)
{
	for (uint32_t i = section->first; i < section->first + section->count; i++) {
		uint32_t entry = lookup->entries[i];

		if (entry == ENTRY_NONE)
			continue;
		const struct entry *seen = cache_entry(cache, entry);
		lookup->tiers[i] = (uint8_t)cache_entry_tier(cache, entry);
		if (lookup->tiers[i] != TIERS && !cache_entry_is_forgotten(cache, entry) &&
		    seen->space == lookup->space && seen->group == section->group &&
		    memcmp(seen->hash, &lookup->names[i], sizeof(uint64_t)) == 0)
			continue;
		lookup->entries[i] = ENTRY_NONE;
		lookup->tiers[i] = TIERS;
	}
}

/* The frames before the last found entries that may have gone, or changed hands, since: those are
 * misses by now. */
static void entries_look_again(const struct cache *cache, struct lookup *lookup)
{
	if (lookup->changes == cache_changes(cache))
		return;
	for (uint32_t i = 0; i < lookup->sections_count; i++)
		section_look_again(cache, lookup, &lookup->sections[i]);
}

static void touch(struct daemon *daemon, const struct lookup *lookup)
{
	/* Deepest first: the last section's last key is touched first. */
	for (uint32_t i = lookup->sections_count; i-- > 0;)
		cache_touch(daemon->cache, lookup->entries + lookup->sections[i].first,
			    lookup->sections[i].count);
}

/* A bit a key. Eight bytes of 0 or 1 become one byte by a product that brings each of them to a bit
 * of its own in the topmost byte. */
static void presence_pack(uint8_t *out_bits, const uint8_t *presence, uint32_t keys_count)
{
	uint32_t key = 0;

	for (; key + 8 <= keys_count; key += 8) {
		uint64_t eight;

		memcpy(&eight, presence + key, sizeof(eight));
		out_bits[key / 8] = (uint8_t)(eight * UINT64_C(0x0102040810204080) >> 56);
	}
	if (key < keys_count)
		out_bits[key / 8] = 0;
	for (; key < keys_count; key++)
		out_bits[key / 8] |= (uint8_t)(presence[key] << (key % 8));
}

static void found_send(struct session *session, const struct lookup *lookup,
		       const struct answer *answer, uint64_t request)
{
	struct frame_found *reply = server_scratch(session->daemon);
	struct frame_run *runs = (struct frame_run *)(reply + 1);
	uint8_t *bits = (uint8_t *)(runs + answer->runs_count);
	uint32_t bits_bytes = (lookup->keys_count + 7) / 8;

	memset(reply, 0, sizeof(*reply));
	reply->lease = answer->lease;
	reply->lease_us = answer->lease_us;
	reply->usable_tokens = answer->usable_tokens;
	reply->worth_tokens = answer->worth_tokens;
	reply->keys_count = lookup->keys_count;
	reply->runs_count = answer->runs_count;
	for (uint32_t i = 0; i < answer->runs_count; i++)
		runs[i] = (struct frame_run){ .tokens = answer->runs[i].tokens,
					      .restore_us = answer->runs[i].restore_us,
					      .tier = answer->runs[i].tier };
	presence_pack(bits, answer->presence, lookup->keys_count);
	session_reply(session, reply,
		      (uint32_t)(sizeof(*reply) + answer->runs_count * sizeof(*runs) + bits_bytes),
		      FRAME_FOUND, request, 0);
}

static void lookup_count(struct daemon *daemon, const struct session *session,
			 const struct lookup *lookup, const struct answer *answer)
{
	struct counters *counters = &daemon->counters;
	struct tenant_counters *own = &session->tenant->counters;
	uint64_t tokens_before = counters->lookup_tokens;

	counters->lookups++;
	counters->lookup_keys += lookup->keys_count;
	for (uint32_t i = 0; i < lookup->sections_count; i++)
		if (lookup->sections[i].group == 0)
			counters->lookup_tokens += (uint64_t)lookup->sections[i].count *
						   session->engine->groups[0].tokens_per_block;
	counters->usable_tokens += answer->usable_tokens;
	counters->worth_tokens += answer->worth_tokens;
	counters->lookup_hits += answer->usable_tokens > 0;
	own->lookups++;
	own->lookup_tokens += counters->lookup_tokens - tokens_before;
	own->usable_tokens += answer->usable_tokens;
	own->lookup_hits += answer->usable_tokens > 0;
	spaces_use(daemon, lookup->space, session->engine->name);
}

/* Hashes of a lookup of several frames are not kept: which key is missing is not known then. */
static void missing_find(const struct frame_lookup *frame, const struct answer *answer,
			 struct request_looked *looked)
{
	const uint8_t (*hashes)[FRAME_HASH_BYTES];
	const struct frame_keys *keys;
	const uint8_t *presence = answer->presence;
	size_t position = 0;

	while ((keys = frame_lookup_next(frame, &position, &hashes)) != NULL) {
		const uint8_t *missing = memchr(presence, 0, keys->count);

		if (missing != NULL) {
			looked->missing = hashes[missing - presence];
			looked->missing_group = keys->group;
			return;
		}
		presence += keys->count;
	}
}

static void lookup_note(struct session *session, const struct lookup *lookup,
			const struct frame_lookup *frame, const struct answer *answer)
{
	struct request_looked looked = {
		.space = lookup->space, .keys = lookup->keys_count,
		.usable_tokens = answer->usable_tokens, .worth_tokens = answer->worth_tokens,
		.wants_lease = frame->lease_us > 0, .has_lease = answer->lease != LEASE_NONE,
	};
	uint32_t counts[TIERS + 1] = { 0 };

	for (uint32_t i = 0; i < lookup->keys_count; i++)
		counts[lookup->tiers[i]]++;
	memcpy(looked.found, counts, sizeof(looked.found));
	for (uint32_t i = 0; i < lookup->sections_count; i++)
		if (lookup->sections[i].group == 0)
			looked.asked_tokens += (uint64_t)lookup->sections[i].count *
					       session->engine->groups[0].tokens_per_block;
	if (lookup == &single && answer->remote == NULL && counts[TIERS] > 0)
		missing_find(frame, answer, &looked);
	requests_looked(session, frame->tag, &looked);
}

static void lookup_answer(struct session *session, struct lookup *lookup,
			  const struct frame_lookup *frame, const struct remote_lookup *remote)
{
	struct daemon *daemon = session->daemon;
	uint64_t request = remote != NULL ? remote->request : frame->header.request;
	struct answer answer;

	if (lookup != &single)
		entries_look_again(daemon->cache, lookup);
	touch(daemon, lookup);
	answer_find(session, lookup, remote, &answer);
	if (daemon_bypass_of(daemon, session->tenant, lookup->space) == FRAME_BYPASS_OBSERVE) {
		/* Counted as it would have been, answered as a miss. */
		lookup_count(daemon, session, lookup, &answer);
		lookup_note(session, lookup, frame, &answer);
		lookup->keys_count = 0;
		answer = (struct answer){ 0 };
		found_send(session, lookup, &answer, request);
		return;
	}
	if (frame->lease_us > 0)
		answer_lease(session, lookup, frame->lease_us, &answer);
	answer_weigh(session, lookup, frame, &answer);
	lookup_count(daemon, session, lookup, &answer);
	lookup_note(session, lookup, frame, &answer);
	found_send(session, lookup, &answer, request);
}

void lookup_answer_remote(struct session *session, const struct remote_lookup *remote)
{
	static uint8_t hashes[FRAME_KEYS_MAX][BLOCK_HASH_BYTES];
	struct cache *cache = session->daemon->cache;

	lookup_begin(&single, cache, remote->ask);
	single.space = remote->space;
	single.keys_count = remote->keys_count;
	single.sections_count = remote->sections_count;
	memcpy(single.sections, remote->sections,
	       remote->sections_count * sizeof(single.sections[0]));
	for (uint32_t i = 0; i < remote->sections_count; i++) {
		const struct lookup_section *section = &remote->sections[i];
		struct cache_query query = {
			.space = remote->space,
			.group = section->group,
			.hashes = (const uint8_t (*)[BLOCK_HASH_BYTES])hashes,
			.count = section->count,
		};

		for (uint32_t key = 0; key < section->count; key++)
			memcpy(hashes[key], remote->keys[section->first + key].hash,
			       BLOCK_HASH_BYTES);
		cache_find_tiers(cache, &query, &single.entries[section->first],
				 &single.tiers[section->first]);
	}
	lookup_answer(session, &single, remote->ask, remote);
}

/* What a lookup cannot be answered for now; 0: it can. */
static int lookup_check(const struct session *session, const struct frame_lookup *frame)
{
	if (session->state != SESSION_REGISTERED || !session_may_use_space(session, frame->space))
		return -EINVAL;
	if (__builtin_popcountll(session->engine->ranks) < session->engine->world)
		return -EAGAIN;
	if (daemon_bypass_of(session->daemon, session->tenant, frame->space) == FRAME_BYPASS_ON)
		return -ENOENT;
	return 0;
}

static void miss_send(struct session *session, const struct frame_lookup *frame, int result)
{
	struct frame_found reply = { 0 };
	struct request_looked looked = { .result = result, .space = frame->space };

	requests_looked(session, frame->tag, &looked);
	session_reply(session, &reply, sizeof(reply), FRAME_FOUND, frame->header.request,
		      result == -ENOENT ? 0 : result);
}

void lookup_abandon(struct session *session)
{
	if (session->lookup != NULL)
		session->lookup->session = NULL;
	session->lookup = NULL;
}

/* Of a lookup that lost a frame nothing may be answered but a miss: its positions would be counted
 * as the engine's own. */
static bool lookup_is_lost(const struct session *session, uint64_t request)
{
	return session->has_lost_lookup && session->lost_lookup == request;
}

static void lookup_lose(struct session *session, uint64_t request)
{
	lookup_abandon(session);
	session->has_lost_lookup = true;
	session->lost_lookup = request;
}

/* What the frame goes on with, or begins. NULL: no room, or not what was begun under its number. */
static struct lookup *lookup_of(struct session *session, const struct frame_lookup *frame)
{
	bool is_last = frame->header.flags & FRAME_LAST;
	struct lookup *begun = session->lookup;

	if (begun != NULL && begun->request == frame->header.request) {
		bool is_same = begun->space == frame->space &&
			       memcmp(begun->tag, frame->tag, FRAME_TAG_BYTES) == 0;

		return is_same ? begun : NULL;
	}
	if (begun != NULL)
		lookup_lose(session, begun->request);
	struct lookup *lookup = is_last ? &single : server_lookup_take(session->daemon);
	if (lookup == NULL)
		return NULL;
	lookup_begin(lookup, session->daemon->cache, frame);
	if (!is_last) {
		lookup->session = session;
		session->lookup = lookup;
	}
	return lookup;
}

void lookup_frame(struct session *session, const struct frame_lookup *frame)
{
	bool is_last = frame->header.flags & FRAME_LAST;
	int result = lookup_check(session, frame);
	struct lookup *lookup = NULL;

	if (result == -EINVAL) {
		session_refuse(session, frame->header.request, result,
			       "LOOKUP: not a control connection of a registered engine, or a "
			       "space of somebody else");
		return;
	}
	if (result == 0 && lookup_is_lost(session, frame->header.request))
		result = -EBUSY;
	if (result == 0) {
		lookup = lookup_of(session, frame);
		result = lookup == NULL ? -EBUSY : sections_add(session, lookup, frame);
	}
	if (result == -EINVAL) {
		session_refuse(session, frame->header.request, result,
			       "LOOKUP: no such group, or more than 65536 keys or 1024 sections");
		return;
	}
	if (!is_last) {
		if (result < 0)
			lookup_lose(session, frame->header.request);
		return;
	}
	if (result < 0)
		miss_send(session, frame, result);
	else
		lookup_answer(session, lookup, frame, NULL);
	if (session->lookup != NULL && session->lookup->request == frame->header.request)
		lookup_abandon(session);
}
