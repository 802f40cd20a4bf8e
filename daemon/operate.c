/* daemon/operate.c: which function serves which verb of an operator, and who may ask. */
#include "daemon/operate.h"

#include "daemon/purge.h"
#include "daemon/server.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
	void (*serve)(const struct operation *operation);
	bool is_admins; /* on the admin socket only: it is about the whole node */
} verbs[FRAME_OPERATE_VERBS] = {
	[FRAME_OPERATE_LIST] = { operate_list, false },
	[FRAME_OPERATE_STAT] = { operate_stat, false },
	[FRAME_OPERATE_PIN] = { operate_pin, false },
	[FRAME_OPERATE_PURGE] = { operate_purge, false },
	[FRAME_OPERATE_DRAIN] = { operate_drain, true },
	[FRAME_OPERATE_RELOAD] = { operate_reload, true },
	[FRAME_OPERATE_CONFIG] = { operate_config, true },
	[FRAME_OPERATE_REQUESTS] = { operate_requests, false },
	[FRAME_OPERATE_VERIFY] = { operate_verify, true },
};

static struct tenant *tenant_by_name(struct daemon *daemon, const char *name)
{
	for (unsigned i = 0; i < daemon->tenants_count; i++)
		if (strcmp(daemon->tenants[i].name, name) == 0)
			return &daemon->tenants[i];
	return NULL;
}

/* Whose blocks the frame is about. False: it was refused. */
static bool find_tenant(struct operation *operation)
{
	struct session *session = operation->session;
	const char *name = operation->frame->tenant;
	uint64_t request = operation->frame->header.request;

	operation->tenant = session->tenant;
	if (name[0] == '\0')
		return true;
	operation->tenant = tenant_by_name(session->daemon, name);
	if (!session->is_admin && operation->tenant != session->tenant)
		operate_refuse(session, request, -EPERM,
			       "this socket is tenant %s's: what concerns others needs the admin socket, %s/admin.sock",
			       session->tenant->name, session->daemon->settings.run_directory);
	else if (operation->tenant == NULL)
		operate_refuse(session, request, -ENOENT, "there is no tenant %s", name);
	else
		return true;
	return false;
}

uint32_t operate_next_space(const struct operation *operation, uint32_t *cursor)
{
	static const uint8_t any[SPACE_ID_BYTES];
	struct cache *cache = operation->session->daemon->cache;
	const uint8_t *fingerprint = operation->frame->fingerprint;
	bool is_any = memcmp(fingerprint, any, SPACE_ID_BYTES) == 0;

	while (*cursor < cache_spaces_end(cache)) {
		uint32_t space = (*cursor)++;

		if (cache_space_is_known(cache, space) &&
		    (operation->tenant == NULL ||
		     cache_space_tenant(cache, space) == operation->tenant->handle) &&
		    (is_any || memcmp(cache_space_fingerprint(cache, space), fingerprint,
				      SPACE_ID_BYTES) == 0))
			return space;
	}
	return UINT32_MAX;
}

void operate_frame(struct session *session, const struct frame_operate *frame)
{
	struct operation operation = { .session = session, .frame = frame };

	if (verbs[frame->verb].is_admins && !session->is_admin)
		operate_refuse(session, frame->header.request, -EPERM,
			       "%s concerns the whole node: ask on the admin socket, %s/admin.sock",
			       frame_operate_name(frame->verb),
			       session->daemon->settings.run_directory);
	else if (find_tenant(&operation))
		verbs[frame->verb].serve(&operation);
}

void operate_answer_begin(struct daemon *daemon, struct json_text *json)
{
	struct frame_text *reply = server_scratch(daemon);

	json_text_init(json, (char *)(reply + 1), FRAME_TEXT_BYTES_MAX);
}

void operate_answer_end(struct session *session, uint64_t request, struct json_text *json)
{
	struct frame_text *reply = server_scratch(session->daemon);

	if (!json_text_ok(json)) {
		operate_refuse(session, request, -E2BIG, "the answer is longer than a frame");
		return;
	}
	session_reply(session, reply, (uint32_t)(sizeof(*reply) + json->bytes), FRAME_TEXT, request,
		      0);
}

void operate_refuse(struct session *session, uint64_t request, int result, const char *format, ...)
{
	char words[400];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(words, sizeof(words), format, arguments);
	va_end(arguments);
	session_reply_text(session, FRAME_ERROR, request, result, words, strlen(words));
}
