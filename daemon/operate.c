/* daemon/operate.c: which function serves which verb of an operator, and who may ask. */
#include "daemon/operate.h"

#include "daemon/server.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void not_here(const struct operation *operation)
{
	operate_refuse(operation->session, operation->frame->header.request, -ENOTSUP,
		       "this daemon has no %s yet", frame_operate_name(operation->frame->verb));
}

static const struct {
	void (*serve)(const struct operation *operation);
	bool is_admins; /* on the admin socket only: it is about the whole node */
} verbs[FRAME_OPERATE_VERBS] = {
	[FRAME_OPERATE_LIST] = { not_here, false },
	[FRAME_OPERATE_STAT] = { not_here, false },
	[FRAME_OPERATE_PIN] = { not_here, false },
	[FRAME_OPERATE_PURGE] = { not_here, false },
	[FRAME_OPERATE_DRAIN] = { not_here, true },
	[FRAME_OPERATE_RELOAD] = { not_here, true },
	[FRAME_OPERATE_CONFIG] = { operate_config, true },
	[FRAME_OPERATE_REQUESTS] = { not_here, false },
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
