/* daemon/lend.c: LEND: memory of a device that an engine's data connection lends, from the frame to
 * the moment when nothing of it is mapped any more. */
#include "daemon/server.h"

#include "base/failpoint.h"
#include "base/log.h"
#include "transfer/gate.h"
#include "transfer/job_words.h"
#include "transfer/layout.h"
#include "transfer/lend.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static_assert(FRAME_LEND_BYTES_MAX == LEND_BYTES_MAX, "a frame takes every packet");
static_assert(WIRE_FDS_MAX == 1 + LEND_FDS_MAX, "and all of its descriptors");
static_assert(FRAME_GROUPS_MAX == LAYOUT_GROUPS_MAX, "one group each");

static const bool legal_move[LEND_STATES][LEND_STATES] = {
	[LEND_NONE] = { [LEND_ASKED] = true },
	[LEND_ASKED] = { [LEND_LENT] = true,
			 [LEND_NONE] = true, /* refused */
			 [LEND_RETURNING] = true,
			 [LEND_GONE] = true },
	[LEND_LENT] = { [LEND_RETURNING] = true, [LEND_GONE] = true },
	[LEND_RETURNING] = { [LEND_GONE] = true },
};

static void lend_become(struct session *session, enum lend_state next)
{
	assert(legal_move[session->lend_state][next]);
	if (session->lend_state == LEND_LENT)
		list_remove(&session->engine->lenders, &session->lender);
	if (next == LEND_LENT)
		list_append(&session->engine->lenders, &session->lender);
	session->lend_state = next;
}

bool session_may_lend(const struct session *session)
{
	return session->state == SESSION_ATTACHED && session->lend_state == LEND_NONE &&
	       session->daemon->pull_ops != NULL;
}

/* ---- what becomes of it ---- */

static void on_answered(struct lent_memory *lent, int result, const char *text)
{
	struct session *session = list_item(lent, struct session, lent);
	struct frame_lent reply = { .has_word = lent->has_word };
	int fd;

	assert(session->lend_state == LEND_ASKED);
	if (result < 0) {
		lend_become(session, LEND_NONE);
		session_unuse(session);
		session_reply_text(session, FRAME_ERROR, session->lend_request, result, text,
				   strlen(text));
		return;
	}
	lend_become(session, LEND_LENT);
	(void)failpoint(lend_registered);
	fd = session->daemon->pull_ops->process_fd(session->daemon, lent);
	if (fd < 0) {
		session_refuse(session, session->lend_request, -ECONNRESET,
			       "the GPU's process has ended: lend again");
		return;
	}
	log_line(LOG_INFO, "memory_lent", "session=%llu tenant=%s engine=%s",
		 (unsigned long long)session->number, session->tenant->name, session->engine->name);
	session_reply_fds(session, &reply, sizeof(reply), FRAME_LENT, session->lend_request, &fd,
			  1);
}

static void on_returned(struct lent_memory *lent)
{
	struct session *session = list_item(lent, struct session, lent);
	bool was_asked = session->lend_state == LEND_ASKED;

	(void)failpoint(lend_returned);
	lend_become(session, LEND_GONE);
	session_unuse(session);
	if (session->state != SESSION_CLOSING)
		session_refuse(session, was_asked ? session->lend_request : 0, -ECONNRESET,
			       "the GPU's process has ended, and with it what was lent: attach and "
			       "lend again");
}

void lend_end(struct session *session)
{
	if (session->lend_state != LEND_ASKED && session->lend_state != LEND_LENT)
		return;
	lend_become(session, LEND_RETURNING);
	session->daemon->pull_ops->give_back(session->daemon, &session->lent);
}

/* ---- the frame ---- */

/* Sizes are held against what was registered: an engine block is then just a slot's payload. */
static int groups_check(struct session *session, const struct layout *layout, struct error *error)
{
	const struct engine *engine = session->engine;

	if (layout->groups_count != engine->groups_count)
		return error_set(error, -EINVAL, "LEND: %u groups are lent, %u were registered",
				 layout->groups_count, engine->groups_count);
	for (uint32_t i = 0; i < layout->groups_count; i++) {
		if (layout->groups[i].payload_bytes != engine->groups[i].payload_bytes)
			return error_set(error, -EINVAL,
					 "LEND: a block of group %u has %llu bytes, %llu were "
					 "registered",
					 i, (unsigned long long)layout->groups[i].payload_bytes,
					 (unsigned long long)engine->groups[i].payload_bytes);
		session->lent_blocks[i] = layout->groups[i].blocks_count;
	}
	return 0;
}

static int packet_check(struct session *session, const void *packet, size_t bytes,
			struct error *error)
{
	unsigned fds_count = server_fds(session->daemon)->count;
	struct lend_view view;
	struct layout layout;
	int result = lend_read(packet, bytes, &view, error);

	if (result < 0)
		return result;
	if (fds_count != 1 + view.head->fds_count)
		return error_set(error, -EINVAL, "LEND: %u descriptors came, %u are right",
				 fds_count, 1 + view.head->fds_count);
	result = lend_layout(&view, &layout, error);
	if (result < 0)
		return result;
	result = groups_check(session, &layout, error);
	layout_finish(&layout);
	return result;
}

void lend_frame(struct session *session, const struct frame_lend *frame)
{
	struct daemon *daemon = session->daemon;
	const struct wire_fds *fds = server_fds(daemon);
	size_t bytes = frame->header.bytes - sizeof(*frame);
	struct error error = { 0 };
	int result;

	if (session->state != SESSION_ATTACHED || session->lend_state != LEND_NONE ||
	    session->users > 0 || session->batches_count > 0) {
		session_refuse(session, frame->header.request, -EINVAL,
			       "LEND is said once, on a data connection, after CANARY and before "
			       "blocks");
		return;
	}
	if (daemon->pull_ops == NULL)
		result = error_set(&error, -ENODEV,
				   "the daemon has no GPU switched on: setting gpus");
	else
		result = packet_check(session, frame + 1, bytes, &error);
	if (result == 0 && failpoint(lend_received))
		result = error_set(&error, -EAGAIN, "LEND: failpoint");
	if (result == 0) {
		memset(&session->lent, 0, sizeof(session->lent));
		session->lent.answered = on_answered;
		session->lent.returned = on_returned;
		session->lend_request = frame->header.request;
		lend_become(session, LEND_ASKED);
		session->users++;
		result = daemon->pull_ops->lend(daemon, &session->lent, frame + 1, bytes, fds->fds,
						fds->count, &error);
		if (result == 0) {
			(void)failpoint(lend_passed);
			return;
		}
		lend_become(session, LEND_NONE);
		session_unuse(session);
	}
	session_reply_text(session, FRAME_ERROR, frame->header.request, result, error.text,
			   strlen(error.text));
}

/* ---- what may be pulled ---- */

int lend_allows(const struct session *session, unsigned flags, const struct frame_pull *pull,
		const char **out_reason)
{
	if (!(flags & FRAME_PULL)) {
		*out_reason = "blocks are pulled once memory was lent";
		return session->lend_state == LEND_NONE ? 0 : -EINVAL;
	}
	*out_reason = "no memory is lent that blocks could be pulled from";
	if (session->lend_state != LEND_LENT)
		return -EINVAL;
	*out_reason = "gate_value without a word, or too large; job 0; or a job_place that is not";
	if (pull->job == 0 || pull->job_place >= JOB_WORDS || pull->gate_value > GATE_VALUE_MAX)
		return -EINVAL;
	return pull->gate_value > 0 && !session->lent.has_word ? -EINVAL : 0;
}
