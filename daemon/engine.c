/* daemon/engine.c: registration: which space an engine's blocks belong to, which ranks are there,
 * and proof that both sides see the same memory. */
#include "daemon/batch.h"
#include "daemon/fingerprint.h"
#include "daemon/guard.h"
#include "daemon/server.h"
#include "daemon/spaces.h"

#include "base/checksum.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/map.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SLOT_BYTES_MAX UINT64_C(0xfffff000)

static uint32_t ranks_missing(const struct engine *engine)
{
	return engine->world - (uint32_t)__builtin_popcountll(engine->ranks);
}

/* Whether one slot of every group can exist in this tenant's arena. NULL: yes; else the reason. */
static const char *groups_fit(const struct session *session, const struct frame_register *frame)
{
	const struct frame_group *groups = frame_register_groups(frame);
	const struct daemon *daemon = session->daemon;

	for (unsigned i = 0; i < frame->groups_count; i++) {
		uint64_t bytes = groups[i].payload_bytes;

		if (bytes < daemon->settings.block_bytes_min)
			return "a block is smaller than block_bytes_min, which the index is sized for: lower it";
		if (bytes >= SLOT_BYTES_MAX || slot_bytes_for(bytes) > session->tenant->arena.bytes)
			return "a block of this size does not fit the tenant's cpu tier: raise cpu_bytes";
		if (bytes > daemon->settings.window_bytes)
			return "a block of this size does not fit the window: raise window_bytes";
	}
	return NULL;
}

static const char *register_refused(const struct session *session,
				    const struct frame_register *frame)
{
	if (session->tenant == NULL)
		return "REGISTER belongs on a tenant's socket, not on the admin socket";
	if (session->state != SESSION_OPEN || session->connection != FRAME_CONTROL)
		return "REGISTER is said once, on a control connection, after HELLO";
	return groups_fit(session, frame);
}

/* Ranks that stand for one engine must agree on everything that names its blocks. */
static bool engine_agrees(const struct engine *engine, const struct frame_register *frame,
			  const uint8_t *fingerprint)
{
	return engine->world == frame->world &&
	       memcmp(engine->fingerprint, fingerprint, SPACE_ID_BYTES) == 0;
}

static void engine_begin(struct engine *engine, struct session *session,
			 const struct frame_register *frame, const uint8_t *fingerprint,
			 uint32_t space)
{
	memset(engine, 0, sizeof(*engine));
	memcpy(engine->name, frame->engine, sizeof(engine->name));
	memcpy(engine->fingerprint, fingerprint, SPACE_ID_BYTES);
	list_init(&engine->lenders);
	engine->tenant = session->tenant;
	engine->space = space;
	engine->world = frame->world;
	engine->groups_count = frame->groups_count;
	memcpy(engine->groups, frame_register_groups(frame),
	       frame->groups_count * sizeof(struct frame_group));
	cache_space_hold(session->daemon->cache, space);
}

static void engine_end(struct daemon *daemon, struct engine *engine)
{
	log_line(LOG_INFO, "engine_left", "engine=%s tenant=%s", engine->name,
		 engine->tenant->name);
	for (unsigned i = 0; i < engine->adapters_count; i++)
		cache_space_release(daemon->cache, engine->adapters[i]);
	engine->adapters_count = 0;
	cache_space_release(daemon->cache, engine->space);
	engine->tenant = NULL;
}

/* The space that the engine registers in, or registered in before. What is refused on other grounds
 * gives no space back. */
static int engine_space_open(struct session *session, const struct engine *engine,
			     const struct frame_register *frame, const uint8_t *fingerprint,
			     uint32_t *out_space)
{
	if (engine == NULL)
		return -ENFILE;
	if (engine->tenant == NULL)
		return spaces_open(session->daemon, session->tenant, fingerprint, out_space);
	*out_space = engine->space;
	return engine_agrees(engine, frame, fingerprint) ? 0 : -EPERM;
}

/* A registration that has no place: why, and with which code the client is told. */
static void register_has_no_place(struct session *session, uint64_t request, int result)
{
	switch (result) {
	case -EPERM:
		session_refuse(session, request, -EPERM,
			       "another rank registered this engine id with another model, layout "
			       "or world: give each engine an id of its own");
		break;
	case -ENFILE:
		session_refuse(session, request, -ENOSPC,
			       "too many engines: raise connections_max");
		break;
	case -EAGAIN:
		session_refuse(session, request, -ENOSPC,
			       "the blocks of spaces that were given back are still being dropped: "
			       "try again");
		break;
	default:
		session_refuse(session, request, -ENOSPC,
			       "all spaces are in use by engines, requests or leases: raise "
			       "spaces_max");
	}
}

void engine_register(struct session *session, const struct frame_register *frame)
{
	struct daemon *daemon = session->daemon;
	const char *refused = register_refused(session, frame);
	struct frame_registered reply = { 0 };
	struct engine *engine;
	uint32_t space;

	if (refused != NULL) {
		session_refuse(session, frame->header.request, -EINVAL, refused);
		return;
	}
	fingerprint_space(session->tenant->name, frame, reply.fingerprint);
	engine = server_engine_place(daemon, session->tenant, frame->engine);
	int result = engine_space_open(session, engine, frame, reply.fingerprint, &space);
	if (result < 0) {
		register_has_no_place(session, frame->header.request, result);
		return;
	}
	if (engine->tenant == NULL)
		engine_begin(engine, session, frame, reply.fingerprint, space);
	engine->sessions++;
	if (frame->roles & FRAME_ROLE_WORKER)
		engine->ranks |= UINT64_C(1) << frame->shard;
	session->engine = engine;
	session->shard = frame->shard;
	session->roles = frame->roles;
	session->engine_token = random_next(&daemon->random) | 1;
	session->state = SESSION_REGISTERED;
	reply.engine_token = session->engine_token;
	reply.space = space;
	reply.ranks_missing = ranks_missing(engine);
	log_line(LOG_INFO, "engine_registered", "engine=%s tenant=%s shard=%u world=%u missing=%u pid=%d uid=%u", engine->name,
		 session->tenant->name, frame->shard, frame->world, reply.ranks_missing,
		 (int)session->peer.pid, (unsigned)session->peer.uid);
	session_reply(session, &reply, sizeof(reply), FRAME_REGISTERED, frame->header.request, 0);
	(void)failpoint(register_answered);
}

/* A client that came back may register before the end of its earlier connection is noticed. */
static bool rank_is_there(const struct daemon *daemon, const struct engine *engine, uint32_t shard)
{
	const struct session *session = NULL;

	while ((session = server_session_after(daemon, session)) != NULL)
		if (session->state == SESSION_REGISTERED && session->engine == engine &&
		    session->shard == shard && (session->roles & FRAME_ROLE_WORKER))
			return true;
	return false;
}

void engine_leave(struct session *session)
{
	struct engine *engine = session->engine;

	if (engine == NULL)
		return;
	assert(engine->sessions > 0);
	/* A rank is there while a control connection of it is. */
	if (session->connection == FRAME_CONTROL && (session->roles & FRAME_ROLE_WORKER) &&
	    !rank_is_there(session->daemon, engine, session->shard))
		engine->ranks &= ~(UINT64_C(1) << session->shard);
	engine->sessions--;
	/* Batches that are not over still ask for the groups; a closing session keeps its
	 * engine. */
	if (engine->sessions == 0)
		engine_end(session->daemon, engine);
}

static struct session *session_by_token(struct daemon *daemon, const struct tenant *tenant,
					uint64_t token)
{
	struct session *session = NULL;

	while ((session = server_session_after(daemon, session)) != NULL)
		if (session->state == SESSION_REGISTERED && session->tenant == tenant &&
		    session->engine_token == token)
			return session;
	return NULL;
}

/* A memfd that neither side can resize; holes that the client punches read as zeros and fail the
 * checksum. */
static int window_open(struct session *session)
{
	uint64_t bytes = session->daemon->settings.window_bytes;
	int fd = memfd_create("kvtier-window", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)bytes) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		goto close_fd;
	void *memory = map_shared_aligned(fd, bytes, PROT_READ);
	if (memory == MAP_FAILED)
		goto close_fd;
	(void)madvise(memory, bytes, MADV_DONTDUMP);
	session->window = memory;
	session->window_bytes = bytes;
	session->window_fd = fd;
	return 0;
close_fd:
	close(fd);
	return -ENOMEM;
}

void engine_attach(struct session *session, const struct frame_attach *frame)
{
	struct daemon *daemon = session->daemon;
	struct session *control = session_by_token(daemon, session->tenant, frame->engine_token);
	struct frame_attached reply = { 0 };
	int fds[2];

	/* Its control connection ended between the two: the client registers again. */
	if (control == NULL) {
		session_refuse(session, frame->header.request, -ESTALE,
			       "no connection is registered with this token any more: register again");
		return;
	}
	if (session->state != SESSION_OPEN || session->connection != FRAME_DATA ||
	    !(control->roles & FRAME_ROLE_WORKER)) {
		session_refuse(session, frame->header.request, -EINVAL, "ATTACH is said once, on a data connection, "
			       "with the token of a registered worker");
		return;
	}
	if (window_open(session) < 0) {
		session_refuse(session, frame->header.request, -ENOMEM, "no memory for another window");
		return;
	}
	session->engine = control->engine;
	session->engine->sessions++;
	session->shard = control->shard;
	session->engine_token = control->engine_token;
	session->state = SESSION_ATTACHED;
	reply.arena_bytes = ARENA_HEAD_BYTES + session->tenant->arena.bytes;
	reply.arena_units_offset = ARENA_HEAD_BYTES;
	reply.canary_offset = arena_canary_offset();
	reply.canary_crc = crc32c(arena_canary(&session->tenant->arena), ARENA_CANARY_BYTES);
	reply.window_bytes = session->window_bytes;
	fds[0] = session->tenant->arena.read_fd;
	fds[1] = session->window_fd;
	session_reply_fds(session, &reply, sizeof(reply), FRAME_ATTACHED, frame->header.request,
			  fds, 2);
}

struct canary {
	struct mill_op mill;
	struct session *session;
	uint64_t request;
	uint32_t expected, seen;
};

static void canary_read(void *owner)
{
	struct canary *canary = owner;

	canary->seen = crc32c(canary->session->window, ARENA_CANARY_BYTES);
}

static void canary_work(struct mill_op *op)
{
	struct canary *canary = list_item(op, struct canary, mill);

	op->result = guard_run(canary_read, canary);
}

static void canary_done(struct mill_op *op)
{
	struct canary *canary = list_item(op, struct canary, mill);
	struct session *session = canary->session;

	if (op->result < 0 || canary->seen != canary->expected)
		session_refuse(session, canary->request, -EBADMSG, "CANARY: the window does not show what the client "
			       "wrote: the two sides see different memory");
	else
		session_reply_done(session, canary->request, 0);
	session_unuse(session);
	free(canary);
}

void engine_canary(struct session *session, const struct frame_canary *frame)
{
	struct canary *canary;

	if (session->state != SESSION_ATTACHED || session->users > 0) {
		session_refuse(session, frame->header.request, -EINVAL, "CANARY is said after ATTACH, before blocks");
		return;
	}
	/* Once a connection, before any block: the data path itself allocates nothing. */
	canary = calloc(1, sizeof(*canary));
	if (canary == NULL) {
		session_refuse(session, frame->header.request, -ENOMEM, "no memory");
		return;
	}
	canary->mill.work = canary_work;
	canary->mill.done = canary_done;
	canary->session = session;
	canary->request = frame->header.request;
	canary->expected = frame->crc;
	session->users++;
	if (mills_submit(&session->daemon->mills, &canary->mill))
		return;
	session->users--;
	free(canary);
	session_refuse(session, frame->header.request, -EAGAIN, "the daemon is busy: try again");
}

/* From now on the engine's, until it leaves: clients keep the number. */
static int engine_adapter_add(struct session *session, uint32_t space)
{
	struct engine *engine = session->engine;

	if (session_may_use_space(session, space))
		return 0;
	if (engine->adapters_count == ENGINE_ADAPTERS_MAX)
		return -ENOSPC;
	cache_space_hold(session->daemon->cache, space);
	engine->adapters[engine->adapters_count++] = space;
	return 0;
}

void engine_space(struct session *session, const struct frame_space *frame)
{
	struct frame_space_reply reply = { 0 };
	int result;

	if (session->engine == NULL || frame->space != session->engine->space) {
		session_refuse(session, frame->header.request, -EINVAL, "SPACE derives from the registered space");
		return;
	}
	fingerprint_adapter(session->engine->fingerprint, frame->adapter, reply.fingerprint);
	/* One that will have no place among the engine's does not take another's. */
	result = session->engine->adapters_count < ENGINE_ADAPTERS_MAX
			 ? spaces_open(session->daemon, session->tenant, reply.fingerprint,
				       &reply.space)
			 : cache_space_find(session->daemon->cache, session->tenant->handle,
					    reply.fingerprint, &reply.space);
	if (result == 0)
		result = engine_adapter_add(session, reply.space);
	else if (result == -ENOENT)
		result = -ENOSPC;
	session_reply(session, &reply, sizeof(reply), FRAME_SPACE_REPLY, frame->header.request,
		      result);
}
