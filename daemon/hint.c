/* daemon/hint.c: HINT: what an engine knows of the future of its blocks. */
#include "daemon/mover.h"
#include "daemon/session.h"

#include <errno.h>

/* The entries of one hint; one at a time, on the loop. */
static uint32_t wanted[FRAME_KEYS_MAX];

/* The entries that a hint names and that are here, in order; at most FRAME_KEYS_MAX. */
static unsigned hint_entries(struct session *session, const struct frame_hint *frame)
{
	struct cache_query query = {
		.space = frame->space,
		.group = frame->group,
		.count = frame->count,
		.hashes = (const uint8_t(*)[BLOCK_HASH_BYTES])(frame + 1),
	};

	cache_find(session->daemon->cache, &query, wanted);
	return frame->count;
}

static unsigned prefetch(struct session *session, unsigned count, bool *out_deferred)
{
	struct daemon *daemon = session->daemon;
	unsigned begun = 0;

	for (unsigned i = 0; i < count; i++) {
		unsigned shards = wanted[i] == ENTRY_NONE
					  ? 0
					  : cache_entry(daemon->cache, wanted[i])->shards_count;

		for (unsigned shard = 0; shard < shards; shard++) {
			int result = mover_raise(daemon, session->tenant, wanted[i], shard,
						 daemon->now_us + daemon->settings.lease_us_max,
						 NULL);

			*out_deferred = *out_deferred || result == -EAGAIN;
			begun += result == 0 || result == -EALREADY;
		}
	}
	return begun;
}

static unsigned pin(struct session *session, const struct frame_hint *frame, unsigned count,
		    uint64_t *out_lease)
{
	struct daemon *daemon = session->daemon;
	uint64_t lease_us = frame->retain_us < daemon->settings.lease_us_max
				    ? frame->retain_us
				    : daemon->settings.lease_us_max;
	unsigned present = 0, granted = 0;

	for (unsigned i = 0; i < count; i++)
		if (wanted[i] != ENTRY_NONE)
			wanted[present++] = wanted[i];
	if (present == 0 || lease_us == 0 || !lease_is_left(daemon, session->tenant))
		return 0;
	if (cache_lease_grant(daemon->cache, session->tenant->handle, wanted, present,
			      daemon->now_us + lease_us, out_lease, &granted) < 0)
		return 0;
	/* Who was told of a pin alone can give it back; what is retained outlives its engine. */
	if (frame->kind == FRAME_HINT_PIN)
		cache_lease_own(daemon->cache, *out_lease, &session->leases);
	return granted;
}

static unsigned present_of(unsigned count)
{
	unsigned present = 0;

	for (unsigned i = 0; i < count; i++)
		present += wanted[i] != ENTRY_NONE;
	return present;
}

void hint_frame(struct session *session, const struct frame_hint *frame)
{
	struct daemon *daemon = session->daemon;
	struct frame_hint_reply reply = { 0 };
	bool is_deferred = false;
	unsigned count, present;

	if (session->state != SESSION_REGISTERED || !session_may_use_space(session, frame->space)) {
		session_refuse(session, frame->header.request, -EINVAL,
			       "HINT: not a registered engine's space");
		return;
	}
	count = hint_entries(session, frame);
	present = present_of(count);
	switch ((enum frame_hint_kind)frame->kind) {
	case FRAME_HINT_END:
		reply.blocks = cache_demote_tail(daemon->cache, wanted, count);
		break;
	case FRAME_HINT_TOUCH:
		cache_touch(daemon->cache, wanted, count);
		reply.blocks = present;
		break;
	case FRAME_HINT_PREFETCH:
		reply.blocks = prefetch(session, count, &is_deferred);
		break;
	/* RETAIN and PIN: a lease; RETAIN's nobody gives back, so its deadline ends it */
	default:
		reply.blocks = pin(session, frame, count, &reply.lease);
		break;
	}
	reply.outcome = reply.blocks == 0 ? FRAME_HINT_REJECTED
			: is_deferred     ? FRAME_HINT_DEFERRED
			: reply.blocks < present && frame->kind != FRAME_HINT_END
				? FRAME_HINT_CLIPPED
				: FRAME_HINT_ACCEPTED;
	session_reply(session, &reply, sizeof(reply), FRAME_HINT_REPLY, frame->header.request, 0);
}
