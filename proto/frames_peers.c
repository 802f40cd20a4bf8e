/* proto/frames_peers.c: checks the frames about other nodes' blocks. */
#include "proto/frames_peers.h"

#include "proto/frames_parts.h"

#include <errno.h>
#include <string.h>

int frame_check_ticketed(const struct frame_inspection *in)
{
	const struct frame_ticketed *frame = in->frame;

	if (memchr(frame->text, 0, sizeof(frame->text)) == NULL)
		return error_set(in->error, -EPROTO,
				 "TICKETED: text does not end in a NUL within %zu bytes",
				 sizeof(frame->text));
	return frame_check_count(in, "text", 0, 0, 1);
}

int frame_check_fetch(const struct frame_inspection *in)
{
	const struct frame_fetch *frame = in->frame;

	if (memchr(frame->peer, 0, FRAME_PEER_BYTES) == NULL ||
	    memchr(frame->second, 0, FRAME_PEER_BYTES) == NULL)
		return error_set(in->error, -EPROTO,
				 "FETCH: peer does not end in a NUL within %u bytes",
				 FRAME_PEER_BYTES);
	if (frame->mode >= FRAME_FETCH_MODES)
		return frame_refuse(in, "mode", frame->mode, FRAME_FETCH_MODES - 1);
	return frame_check_count(in, "ticket_bytes", frame->ticket_bytes, FRAME_TICKET_BYTES_MAX,
				 1);
}
