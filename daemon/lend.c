/* daemon/lend.c: LEND: memory of a device that an engine's data connection lends. */
#include "daemon/session.h"

#include <errno.h>
#include <string.h>

static void lend_refuse(struct session *session, const struct frame_lend *frame, int result,
			const char *reason)
{
	session_reply_text(session, FRAME_ERROR, frame->header.request, result, reason,
			   strlen(reason));
}

void lend_frame(struct session *session, const struct frame_lend *frame)
{
	if (session->state != SESSION_ATTACHED) {
		session_refuse(session, frame->header.request, -EINVAL,
			       "LEND is said once, on a data connection, after ATTACH");
		return;
	}
	lend_refuse(session, frame, -ENODEV,
		    "the daemon has no GPU switched on: setting gpus");
}
