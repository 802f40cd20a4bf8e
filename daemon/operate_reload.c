/* daemon/operate_reload.c: RELOAD: the settings are read again, and who asked is told what became
 * of it. */
#include "daemon/operate.h"

#include "daemon/reload.h"

#include <errno.h>
#include <stdlib.h>

struct asked {
	struct reload_request reload;
	struct session *session;
	uint64_t request;
};

static void changes_write(struct json_text *json, const struct reload_report *report)
{
	unsigned count = report->changes_count < RELOAD_CHANGES_MAX ? report->changes_count
								     : RELOAD_CHANGES_MAX;

	json_text_array_begin(json, "changes");
	for (unsigned i = 0; i < count && json->bytes < ANSWER_BYTES_ENOUGH; i++) {
		const struct settings_change *change = &report->changes[i];

		json_text_object_begin(json, NULL);
		json_text_string(json, "key", change->key);
		json_text_string(json, "before", change->from);
		json_text_string(json, "after", change->to);
		json_text_bool(json, "needs_restart", !change->is_reloadable);
		json_text_object_end(json);
	}
	json_text_array_end(json);
}

static void reloaded(struct reload_request *reload, const struct reload_report *report)
{
	struct asked *asked = list_item(reload, struct asked, reload);
	struct session *session = asked->session;
	struct json_text json;

	if (report->result < 0) {
		operate_refuse(session, asked->request, report->result,
			       "%s; the settings in force stay as they were", report->reason.text);
	} else {
		operate_answer_begin(session->daemon, &json);
		json_text_object_begin(&json, NULL);
		json_text_unsigned(&json, "changed", report->changes_count);
		json_text_unsigned(&json, "applied", report->applied_count);
		changes_write(&json, report);
		json_text_object_end(&json);
		operate_answer_end(session, asked->request, &json);
	}
	session_unuse(session);
	free(asked);
}

void operate_reload(const struct operation *operation)
{
	struct session *session = operation->session;
	struct asked *asked = calloc(1, sizeof(*asked)); /* a rare call: not the data path */
	int result = -ENOMEM;

	if (asked != NULL) {
		asked->reload.done = reloaded;
		asked->session = session;
		asked->request = operation->frame->header.request;
		session->users++;
		result = reload_request(session->daemon, &asked->reload);
	}
	if (result == 0)
		return;
	if (asked != NULL)
		session_unuse(session);
	free(asked);
	operate_refuse(session, operation->frame->header.request, result,
		       result == -ENOTSUP ? "this daemon was started without a file to read again"
					  : "no memory");
}
