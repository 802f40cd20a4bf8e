/* daemon/session.c: answers to one client, and which room serves which frame. */
#include "daemon/session.h"

#include "base/log.h"
#include "daemon/batch.h"
#include "daemon/fetch.h"
#include "daemon/gathering.h"
#include "daemon/operate.h"
#include "daemon/server.h"
#include "daemon/tickets.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int send_now(struct session *session, const void *frame, uint32_t bytes, const int *fds,
		    unsigned fds_count)
{
	if (session->state == SESSION_CLOSING || session->state == SESSION_FREE)
		return -EPIPE;
	return session->wire.ops->send(&session->wire, frame, bytes, fds, fds_count);
}

void session_reply_fds(struct session *session, void *frame, uint32_t bytes, enum frame_type type,
		       uint64_t request, const int *fds, unsigned fds_count)
{
	struct frame_header *header = frame;
	int32_t result = header->result;

	assert(bytes >= sizeof(*header) && bytes <= FRAME_BYTES_MAX);
	frame_start(header, type, bytes, request, session->daemon->boot_id);
	header->result = result;
	int sent = session->out_bytes > 0 ? -EAGAIN
					  : send_now(session, frame, bytes, fds, fds_count);
	if (sent == 0)
		return;
	/* One reply waits at most: while it does, no frame is read. Descriptors do not wait. */
	if (sent == -EAGAIN && session->out_bytes == 0 && fds_count == 0) {
		memcpy(session->out, frame, bytes);
		session->out_bytes = bytes;
		return;
	}
	session_end(session);
}

void session_reply(struct session *session, void *frame, uint32_t bytes, enum frame_type type,
		   uint64_t request, int result)
{
	((struct frame_header *)frame)->result = result;
	session_reply_fds(session, frame, bytes, type, request, NULL, 0);
}

void session_reply_done(struct session *session, uint64_t request, int result)
{
	struct frame_header header;

	session_reply(session, &header, sizeof(header), FRAME_DONE, request, result);
}

void session_reply_text(struct session *session, enum frame_type type, uint64_t request, int result,
			const char *text, size_t text_bytes)
{
	struct frame_text *frame = server_scratch(session->daemon);

	if (text_bytes > FRAME_TEXT_BYTES_MAX)
		text_bytes = FRAME_TEXT_BYTES_MAX;
	memcpy(frame + 1, text, text_bytes);
	session_reply(session, frame, (uint32_t)(sizeof(*frame) + text_bytes), type, request,
		      result);
}

int session_event(struct session *session, void *frame, uint32_t bytes, enum frame_type type)
{
	int sent;

	if (session->out_bytes > 0)
		return -EAGAIN;
	frame_start(frame, type, bytes, 0, session->daemon->boot_id);
	((struct frame_header *)frame)->result = 0;
	sent = send_now(session, frame, bytes, NULL, 0);
	if (sent == -EAGAIN)
		return -EAGAIN;
	if (sent < 0)
		session_end(session);
	return 0;
}

void session_refuse(struct session *session, uint64_t request, int result, const char *reason)
{
	char quoted[320];

	log_line(LOG_WARNING, "client_refused", "session=%llu tenant=%s pid=%d result=%d reason=%s",
		 (unsigned long long)session->number, session->tenant != NULL ? session->tenant->name : "-",
		 (int)session->peer.pid, result, log_quote(quoted, sizeof(quoted), reason));
	session->daemon->counters.protocol_errors++;
	session_reply_text(session, FRAME_ERROR, request, result, reason, strlen(reason));
	session_end(session);
}

void session_end(struct session *session)
{
	if (session->state == SESSION_CLOSING || session->state == SESSION_FREE)
		return;
	log_line(LOG_DEBUG, "client_closed", "session=%llu", (unsigned long long)session->number);
	session->state = SESSION_CLOSING;
	session->wire.ops->close(&session->wire);
	lookup_abandon(session);
	fetch_session_end(session);
	/* Other ranks load with them, too: what is being loaded is held to its end. */
	cache_leases_leave(session->daemon->cache, &session->leases);
	for (struct list_node *node = list_first(&session->batches); node != NULL;
	     node = list_after(&session->batches, node))
		batch_end_all(list_item(node, struct batch, link), -ECANCELED);
	lend_end(session);
	engine_leave(session);
	/* The window stays mapped until the last mill has let go of it; server_step frees what is
	 * over. */
}

void session_unuse(struct session *session)
{
	assert(session->users > 0);
	session->users--;
}

/* A number means what it meant as long as the engine holds it, and may be any space's otherwise. */
bool session_may_use_space(const struct session *session, uint32_t space)
{
	const struct engine *engine = session->engine;

	if (engine == NULL)
		return false;
	if (space == engine->space)
		return true;
	for (unsigned i = 0; i < engine->adapters_count; i++)
		if (engine->adapters[i] == space)
			return true;
	return false;
}

static void hello(struct session *session, const struct frame_hello *frame)
{
	struct frame_hello_reply reply = { .version = FRAME_VERSION_MAX,
					    .features = FRAME_FEATURE_OPERATE };
	struct daemon *daemon = session->daemon;

	if (frame->version_min > FRAME_VERSION_MAX || frame->version_max < FRAME_VERSION_MIN) {
		session_refuse(session, frame->header.request, -EPROTONOSUPPORT, "HELLO: this daemon speaks "
			       "version 1 of the protocol only");
		return;
	}
	if (session->state != SESSION_NEW) {
		session_refuse(session, frame->header.request, -EPROTO, "HELLO was said already");
		return;
	}
	if (daemon->pull_ops != NULL)
		reply.features |= FRAME_FEATURE_PULL;
	if (daemon->peers != NULL)
		reply.features |= FRAME_FEATURE_PEERS;
	session->state = SESSION_OPEN;
	session->connection = frame->connection;
	reply.keys_max = FRAME_LOOKUP_KEYS_MAX;
	reply.window_bytes = daemon->settings.window_bytes;
	reply.lease_us_max = daemon->settings.lease_us_max;
	reply.batches_max = daemon->settings.batches_max;
	reply.load_window_blocks = daemon->settings.load_window_blocks;
	if (session->tenant != NULL)
		memcpy(reply.tenant, session->tenant->name, sizeof(reply.tenant));
	session_reply(session, &reply, sizeof(reply), FRAME_HELLO_REPLY, frame->header.request, 0);
}

static void lease_release(struct session *session, const struct frame_lease_release *frame)
{
	struct cache *cache = session->daemon->cache;

	if (session->engine != NULL &&
	    cache_lease_is_of(cache, frame->lease, session->tenant->handle))
		cache_lease_release(cache, frame->lease);
}

static void serve(struct session *session, const void *frame, const struct frame_header *header)
{
	switch ((enum frame_type)header->type) {
	case FRAME_HELLO:         hello(session, frame); break;
	case FRAME_REGISTER:      engine_register(session, frame); break;
	case FRAME_ATTACH:        engine_attach(session, frame); break;
	case FRAME_CANARY:        engine_canary(session, frame); break;
	case FRAME_SPACE:         engine_space(session, frame); break;
	case FRAME_LOOKUP:
		if (header->flags & FRAME_REMOTE)
			gathering_keys(session, frame);
		else
			lookup_frame(session, frame);
		break;
	case FRAME_LEASE_RELEASE: lease_release(session, frame); break;
	case FRAME_STORE:         store_frame(session, frame); break;
	case FRAME_COMMIT:        commit_frame(session, frame); break;
	case FRAME_LOAD:          load_frame(session, frame); break;
	case FRAME_RELEASE:       release_frame(session, frame); break;
	case FRAME_CANCEL:        cancel_frame(session, frame); break;
	case FRAME_HINT:          hint_frame(session, frame); break;
	case FRAME_FORGET:        forget_frame(session, frame); break;
	case FRAME_STATS:         stats_frame(session, header); break;
	case FRAME_EXPLAIN:       explain_frame(session, frame); break;
	case FRAME_BYPASS:        bypass_frame(session, frame); break;
	case FRAME_OPERATE:       operate_frame(session, frame); break;
	case FRAME_LEND:          lend_frame(session, frame); break;
	case FRAME_FETCH:         fetch_frame(session, frame); break;
	case FRAME_FETCH_WAIT:    fetch_wait_frame(session, frame); break;
	case FRAME_FETCH_END:     fetch_end_frame(session, frame); break;
	case FRAME_TICKET:        ticket_frame(session, frame); break;
	default:
		assert(!"frame_check lets requests through only");
	}
}

void session_frame(struct session *session, const void *frame, uint32_t bytes)
{
	struct daemon *daemon = session->daemon;
	const struct frame_header *header = frame;
	struct error error;
	uint64_t began_us;

	if (frame_check(frame, bytes, false, &error) < 0) {
		session_refuse(session, bytes >= sizeof(*header) ? header->request : 0, -EPROTO,
			       error.text);
		return;
	}
	if (session->state == SESSION_NEW && header->type != FRAME_HELLO) {
		session_refuse(session, header->request, -EPROTO, "the first frame must be HELLO");
		return;
	}
	began_us = clock_now_us(daemon->clock);
	serve(session, frame, header);
	histogram_add(&daemon->call_us[header->type], clock_now_us(daemon->clock) - began_us);
}

bool session_read(struct session *session, void *frame, struct wire_fds *fds)
{
	ssize_t bytes = session->wire.ops->receive(&session->wire, frame, FRAME_BYTES_MAX,
						   session_may_lend(session) ? fds : NULL);

	if (bytes == -EAGAIN)
		return false;
	if (bytes == -EMSGSIZE)
		session_refuse(session, 0, -EPROTO, "a frame is at most 98304 bytes long");
	else if (bytes == -EMFILE)
		session_refuse(session, 0, -EMFILE, "not all descriptors of a frame arrived: at most 251 may "
			       "be, and the daemon may have too many open");
	else if (bytes <= 0)
		session_end(session);
	else
		session_frame(session, frame, (uint32_t)bytes);
	wire_fds_close(fds);
	return true;
}
