/* tests/client/fake_fetch.c: the fake daemon's fetches from another node, which has every block. */
#include "tests/client/fake_parts.h"

#include <errno.h>
#include <string.h>

void fake_fetch_begin(struct fake_daemon *fake, struct fake_connection *connection,
		      enum fake_way way)
{
	const struct frame_lookup *frame = (const struct frame_lookup *)fake_incoming;
	struct frame_fetching *reply = (struct frame_fetching *)fake_outgoing;

	fake->fetch.keys_count = connection->keys_count;
	if (fake->fetch.refusal < 0) {
		struct frame_text *error = (struct frame_text *)fake_outgoing;

		memcpy(error + 1, "no such peer", 12);
		frame_start(&error->header, FRAME_ERROR, sizeof(*error) + 12, frame->header.request,
			    0);
		error->header.result = fake->fetch.refusal;
		fake_send(fake, connection, way, error);
		return;
	}
	if (fake->fetch.is_ticket) {
		struct frame_ticketed *ticketed = (struct frame_ticketed *)fake_outgoing;

		memset(ticketed, 0, sizeof(*ticketed));
		strcpy(ticketed->text, "the ticket");
		fake_reply(fake, connection, way, FRAME_TICKETED, sizeof(*ticketed),
			   &frame->header);
		return;
	}
	reply->fetch = ++fake->fetch.number;
	fake_reply(fake, connection, way, FRAME_FETCHING, sizeof(*reply), &frame->header);
}

static void wait_answer(struct fake_daemon *fake, struct fake_connection *connection,
			enum fake_way way, const struct frame_fetch_wait *frame)
{
	struct frame_found *reply = (struct frame_found *)fake_outgoing;
	uint32_t bits_bytes = (fake->fetch.keys_count + 7) / 8;

	fake->fetch.wait_us = frame->wait_us;
	memset(reply, 0, sizeof(*reply));
	frame_start(&reply->header, FRAME_FOUND, sizeof(*reply), frame->header.request, 0);
	if (frame->fetch != fake->fetch.number || fake->fetch.waits > 0) {
		reply->header.result = frame->fetch != fake->fetch.number ? -ESTALE : -EAGAIN;
		fake->fetch.waits -= fake->fetch.waits > 0;
		fake_send(fake, connection, way, reply);
		return;
	}
	reply->keys_count = fake->fetch.keys_count;
	reply->usable_tokens = reply->worth_tokens =
		fake->fetch.keys_count * fake->group.tokens_per_block;
	reply->runs_count = 1;
	*(struct frame_run *)(reply + 1) = (struct frame_run){ .tokens = reply->usable_tokens,
							       .restore_us = 500,
							       .tier = FRAME_TIER_PEER };
	memset((uint8_t *)(reply + 1) + sizeof(struct frame_run), 0xff, bits_bytes);
	reply->header.bytes += (uint32_t)(sizeof(struct frame_run) + bits_bytes);
	fake_send(fake, connection, way, reply);
}

void fake_serve_fetch(struct fake_daemon *fake, struct fake_connection *connection,
		      enum fake_way way)
{
	const struct frame_header *header = (const struct frame_header *)fake_incoming;
	const struct frame_fetch *fetch = (const struct frame_fetch *)header;

	if (header->type == FRAME_TICKET) {
		fake->fetch.is_ticket = true;
		fake->fetch.keep_us = ((const struct frame_ticket *)header)->keep_us;
	} else if (header->type == FRAME_FETCH) {
		fake->fetch.is_ticket = false;
		memcpy(fake->fetch.ticket, fetch + 1, fetch->ticket_bytes);
		fake->fetch.ticket[fetch->ticket_bytes] = '\0';
		memcpy(fake->fetch.peer, fetch->peer, sizeof(fake->fetch.peer));
		fake->fetch.mode = fetch->mode;
		fake->fetch.keep_us = fetch->wait_us;
	} else if (header->type == FRAME_FETCH_END) {
		fake->fetch.ended = ((const struct frame_fetch_end *)header)->fetch;
	} else if (header->type == FRAME_FETCH_WAIT) {
		wait_answer(fake, connection, way, (const struct frame_fetch_wait *)header);
	}
}
