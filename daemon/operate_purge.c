/* daemon/operate_purge.c: PURGE: begins one, or says how far it is. */
#include "daemon/purge_parts.h"

#include <errno.h>
#include <string.h>

void purge_answer(struct daemon *daemon, struct session *session, uint64_t request)
{
	const struct purge_room *purge = daemon->purge;
	uint64_t until_us = purge->state == PURGE_DONE ? purge->ended_us : daemon->now_us;
	struct json_text json;

	operate_answer_begin(daemon, &json);
	json_text_object_begin(&json, NULL);
	json_text_string(&json, "state", purge_state_name(daemon));
	json_text_bool(&json, "done", purge->state == PURGE_DONE);
	json_text_unsigned(&json, "floor", purge->record.floor);
	json_text_unsigned(&json, "entries_looked_at", purge->cursor);
	json_text_unsigned(&json, "entries", cache_entries_end(daemon->cache));
	json_text_unsigned(&json, "blocks", purge->blocks);
	json_text_unsigned(&json, "slots", purge->slots);
	json_text_unsigned(&json, "bytes", purge->bytes);
	json_text_unsigned(&json, "overwritten_bytes", purge->overwritten_bytes);
	json_text_unsigned(&json, "failed_bytes", purge->failed_bytes);
	json_text_unsigned(&json, "held_slots", purge->held_count);
	json_text_bool(&json, "was_quiet", purge->was_quiet);
	json_text_unsigned(&json, "elapsed_us",
			   purge->state == PURGE_NONE ? 0 : until_us - purge->began_us);
	json_text_object_end(&json);
	operate_answer_end(session, request, &json);
}

static void purge_begin(const struct operation *operation)
{
	static const uint8_t any[SPACE_ID_BYTES];
	struct session *session = operation->session;
	struct purge_room *purge = session->daemon->purge;
	const struct frame_operate *frame = operation->frame;
	bool is_of_space = memcmp(frame->fingerprint, any, SPACE_ID_BYTES) != 0;

	if (purge_is_under_way(session->daemon)) {
		operate_refuse(session, frame->header.request, -EBUSY,
			       "another purge is under way: wait until it has ended");
		return;
	}
	if (is_of_space && operation->tenant == NULL) {
		operate_refuse(session, frame->header.request, -EINVAL,
			       "on the admin socket a space needs its tenant, too");
		return;
	}
	purge_become(purge, PURGE_WAITING);
	purge->tenant = operation->tenant;
	memset(&purge->record, 0, sizeof(purge->record));
	purge->record.kind = is_of_space		 ? JOURNAL_SPACE
			     : operation->tenant != NULL ? JOURNAL_TENANT
							 : JOURNAL_ALL;
	if (operation->tenant != NULL)
		memcpy(purge->record.tenant, operation->tenant->digest, TENANT_DIGEST_BYTES);
	memcpy(purge->record.space, frame->fingerprint, SPACE_ID_BYTES);
	purge->session = session;
	purge->request = frame->header.request;
	session->users++;
	purge->began_us = session->daemon->now_us;
	purge->cursor = 0;
	purge->blocks = purge->slots = purge->bytes = 0;
	purge->overwritten_bytes = purge->failed_bytes = 0;
}

void operate_purge(const struct operation *operation)
{
	const struct purge_room *purge = operation->session->daemon->purge;

	if (operation->frame->value == 0)
		purge_begin(operation);
	else if (purge->state != PURGE_NONE && operation->tenant != NULL &&
		 operation->tenant != purge->tenant)
		operate_refuse(operation->session, operation->frame->header.request, -EPERM,
			       "the purge under way is not this tenant's");
	else
		purge_answer(operation->session->daemon, operation->session,
			     operation->frame->header.request);
}
