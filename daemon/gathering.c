/* daemon/gathering.c: see gathering.h. */
#include "daemon/gathering.h"

#include "daemon/fetch.h"
#include "daemon/lookup_parts.h"
#include "daemon/server.h"
#include "daemon/tickets.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

bool gathering_begin(struct session *session, uint64_t request, const char *what)
{
	struct gathering *gathering = &session->gathering;
	char reason[96];

	if (session->state != SESSION_REGISTERED) {
		snprintf(reason, sizeof(reason),
			 "%s: not a control connection of a registered engine", what);
		session_refuse(session, request, -EINVAL, reason);
		return false;
	}
	gathering_drop(session);
	*gathering = (struct gathering){ .is_begun = true };
	if (session->daemon->peers == NULL)
		gathering_refuse(session, -ENOTSUP,
				 "this node has no peers: set peer_listen, or peers");
	return gathering->result == 0;
}

void gathering_refuse(struct session *session, int result, const char *reason)
{
	struct gathering *gathering = &session->gathering;

	if (gathering->result == 0) {
		gathering->result = result;
		snprintf(gathering->reason, sizeof(gathering->reason), "%s", reason);
	}
}

void gathering_drop(struct session *session)
{
	struct gathering *gathering = &session->gathering;

	if (gathering->fetch != NULL)
		fetch_drop(gathering->fetch);
	if (gathering->promise != NULL)
		ticket_drop(session->daemon->peers, gathering->promise);
	gathering->fetch = NULL;
	gathering->promise = NULL;
}

static int promise_keys_add(struct session *session, const struct frame_lookup *frame)
{
	const uint8_t (*hashes)[FRAME_HASH_BYTES];
	const struct frame_keys *keys;
	size_t position = 0;
	int result = 0;

	while ((keys = frame_lookup_next(frame, &position, &hashes)) != NULL) {
		if (keys->group >= session->engine->groups_count)
			return -EINVAL;
		for (unsigned i = 0; result == 0 && i < keys->count; i++)
			result = ticket_key_add(session->daemon->peers, session->gathering.promise,
						keys->group, hashes[i]);
	}
	return result;
}

static void keys_add(struct session *session, const struct frame_lookup *frame)
{
	struct gathering *gathering = &session->gathering;
	int result;

	if (gathering->has_space && gathering->space != frame->space) {
		gathering_refuse(session, -EINVAL, "keys of two spaces");
		return;
	}
	gathering->has_space = true;
	gathering->space = frame->space;
	result = gathering->fetch != NULL ? fetch_keys_add(session, gathering->fetch, frame)
					  : promise_keys_add(session, frame);
	if (result == -EINVAL)
		gathering_refuse(session, result, "no such group");
	else if (result < 0)
		gathering_refuse(session, result,
				 "more than 16384 keys, or 64 sections, or no room for so many");
}

static void gathering_end(struct session *session, const struct frame_lookup *last)
{
	struct gathering *gathering = &session->gathering;
	struct fetch *fetch = gathering->fetch;
	struct promise *promise = gathering->promise;

	gathering->is_begun = false;
	if (daemon_bypass_of(session->daemon, session->tenant, last->space) != FRAME_BYPASS_OFF)
		gathering_refuse(session, -ENOENT, "the cache is turned off");
	if (fetch != NULL)
		fetch_check(session, fetch, last);
	if (gathering->result < 0) {
		gathering_drop(session);
		session_reply_text(session, FRAME_ERROR, last->header.request, gathering->result,
				   gathering->reason, strlen(gathering->reason));
		return;
	}
	gathering->fetch = NULL;
	gathering->promise = NULL;
	if (fetch != NULL)
		fetch_begin(session, fetch, last);
	else
		ticket_issue(session, promise, last);
}

void gathering_keys(struct session *session, const struct frame_lookup *frame)
{
	if (!session->gathering.is_begun || session->state != SESSION_REGISTERED ||
	    !session_may_use_space(session, frame->space)) {
		session_refuse(session, frame->header.request, -EINVAL,
			       "LOOKUP of another node's blocks: not behind FETCH or TICKET, or a "
			       "space of somebody else");
		return;
	}
	if (session->gathering.result == 0)
		keys_add(session, frame);
	if ((frame->header.flags & FRAME_LAST) != 0)
		gathering_end(session, frame);
}
