/* daemon/forget.c: FORGET: the floor of a space or tenant goes up, durable before the caller is
 * told. */
#include "daemon/forget.h"

#include "daemon/batch.h"
#include "daemon/purge.h"
#include "daemon/server.h"
#include "daemon/spaces.h"

#include "base/failpoint.h"
#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SPACE_ALL           UINT32_MAX
/* under way; each waits for a sync, so they come in faster than they go */
#define FORGETS_A_SESSION_MAX 4u
/* with fewer epochs left, more are asked for */
#define RESERVE_LOW (JOURNAL_RESERVE / 2)

struct forgetting {
	struct mill_op mill;
	struct daemon *daemon;
	struct session *session;               /* NULL: a reservation of epochs */
	struct journal *journal;
	struct journal_record record;
	struct error error;
	uint64_t request;
	void (*done)(struct session *session, uint64_t request, int result);
	struct list_node link;
};

static void forget_work(struct mill_op *op)
{
	struct forgetting *forgetting = list_item(op, struct forgetting, mill);

#ifdef KVTIER_PLANT_FORGET
	if (forgetting->record.floor > 0)
		return;
#endif
	op->result = journal_write(forgetting->journal, &forgetting->record, &forgetting->error);
}

static void forget_done(struct mill_op *op);

/* The journal takes one record at a time: the next one goes when this one is durable. */
static void forget_next(struct daemon *daemon)
{
	struct list_node *node = list_first(&daemon->forgettings);
	struct forgetting *forgetting;

	if (daemon->is_forgetting || node == NULL)
		return;
	forgetting = list_item(node, struct forgetting, link);
	if (mills_submit(&daemon->mills, &forgetting->mill))
		daemon->is_forgetting = true;
}

static void forget_done(struct mill_op *op)
{
	struct forgetting *forgetting = list_item(op, struct forgetting, mill);
	struct daemon *daemon = forgetting->daemon;

	assert(daemon->is_forgetting);
	daemon->is_forgetting = false;
	list_remove(&daemon->forgettings, &forgetting->link);
	if (op->result < 0)
		log_line(LOG_ERROR, "forget_failed", "reason=\"%s\"", forgetting->error.text);
	(void)failpoint(journal_synced);
	if (forgetting->session == NULL && op->result == 0)
		daemon->epoch_reserved = forgetting->record.floor;
	if (forgetting->session != NULL) {
		forgetting->done(forgetting->session, forgetting->request, op->result);
		session_unuse(forgetting->session);
	}
	free(forgetting);
	forget_next(daemon);
}

/* In memory at once: from here on it is a miss, whatever becomes of the journal. */
static void floor_raise(struct daemon *daemon, struct journal_record *record)
{
	daemon->epoch++;
	assert(daemon->epoch <= daemon->epoch_reserved && daemon->epoch <= JOURNAL_FLOOR_MAX);
	record->floor = daemon->epoch;
	spaces_floor_raise(daemon, record);
	daemon->counters.forgets++;
	daemon->is_sweeping = true;
	(void)failpoint(forget_floor_raised);
}

/* What the frame means: a space, also one that is not here now, or the tenant. -ENOENT. */
static int forget_what(struct session *session, const struct frame_forget *frame,
		       struct journal_record *record)
{
	static const uint8_t none[SPACE_ID_BYTES];
	const uint8_t *space = frame->fingerprint;

	if (session->tenant == NULL)
		return -ENOENT;
	memcpy(record->tenant, session->tenant->digest, TENANT_DIGEST_BYTES);
	if (memcmp(space, none, sizeof(none)) == 0 && frame->space == SPACE_ALL) {
		record->kind = JOURNAL_TENANT;
		return 0;
	}
	if (memcmp(space, none, sizeof(none)) == 0) {
		if (!session_may_use_space(session, frame->space))
			return -ENOENT;
		space = cache_space_fingerprint(session->daemon->cache, frame->space);
	}
	record->kind = JOURNAL_SPACE;
	memcpy(record->space, space, SPACE_ID_BYTES);
	return 0;
}

static unsigned forgettings_of(const struct session *session)
{
	struct list *list = &session->daemon->forgettings;
	unsigned count = 0;

	for (struct list_node *node = list_first(list); node != NULL; node = list_after(list, node))
		count += list_item(node, struct forgetting, link)->session == session;
	return count;
}

struct journal_record forget_reservation(const struct daemon *daemon)
{
	uint64_t floor = daemon->epoch + JOURNAL_RESERVE;

	return (struct journal_record){
		.kind = JOURNAL_RESERVED,
		.floor = floor < JOURNAL_FLOOR_MAX ? floor : JOURNAL_FLOOR_MAX,
	};
}

static struct forgetting *forgetting_make(struct daemon *daemon)
{
	/* A rare call of an operator: not the data path. */
	struct forgetting *forgetting = calloc(1, sizeof(*forgetting));

	if (forgetting == NULL)
		return NULL;
	forgetting->mill.work = forget_work;
	forgetting->mill.done = forget_done;
	forgetting->daemon = daemon;
	forgetting->journal = daemon->journal;
	return forgetting;
}

/* More epochs, if there are few left and nobody asked yet. */
static void epochs_reserve(struct daemon *daemon)
{
	struct list *list = &daemon->forgettings;
	struct forgetting *forgetting;

	if (daemon->epoch + RESERVE_LOW <= daemon->epoch_reserved)
		return;
	for (struct list_node *node = list_first(list); node != NULL; node = list_after(list, node))
		if (list_item(node, struct forgetting, link)->session == NULL)
			return;
	forgetting = forgetting_make(daemon);
	if (forgetting == NULL)
		return;
	forgetting->record = forget_reservation(daemon);
	list_append(list, &forgetting->link);
	forget_next(daemon);
}

int forget_begin(struct session *session, struct journal_record *record, uint64_t request,
		 void (*done)(struct session *session, uint64_t request, int result))
{
	struct daemon *daemon = session->daemon;
	struct forgetting *forgetting;

	epochs_reserve(daemon);
	if (daemon->epoch == daemon->epoch_reserved)
		return -EAGAIN;
	forgetting = forgetting_make(daemon);
	if (forgetting == NULL)
		return -ENOMEM;
	forgetting->session = session;
	forgetting->request = request;
	forgetting->done = done;
	floor_raise(daemon, record);
	forgetting->record = *record;
	session->users++;
	list_append(&daemon->forgettings, &forgetting->link);
	forget_next(daemon);
	return 0;
}

void forget_frame(struct session *session, const struct frame_forget *frame)
{
	struct journal_record record = { 0 };
	int result = forget_what(session, frame, &record);

	if (result == 0 && forgettings_of(session) >= FORGETS_A_SESSION_MAX)
		result = -EAGAIN;
	if (result == 0)
		result = forget_begin(session, &record, frame->header.request, session_reply_done);
	if (result < 0)
		session_reply_done(session, frame->header.request, result);
}

bool forget_step(struct daemon *daemon)
{
	forget_next(daemon);
	if (!daemon->is_sweeping || purge_holds_sweep(daemon))
		return false;
	/* Slots of what was forgotten, or whose space was given back, come back without anybody
	 * asking for them. */
	daemon->gone_reason = FRAME_REASON_FORGOTTEN;
	if (cache_forgotten_sweep(daemon->cache, 256) == 0)
		daemon->is_sweeping = false;
	daemon->gone_reason = FRAME_REASON_EVICTED;
	return true;
}
