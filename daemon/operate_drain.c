/* daemon/operate_drain.c: DRAIN: on, off, or how far it is. */
#include "daemon/operate.h"

#include "daemon/drain.h"
#include "daemon/mover.h"

void operate_drain(const struct operation *operation)
{
	struct daemon *daemon = operation->session->daemon;
	const struct drain *drain = &daemon->drain;
	struct json_text json;

	if (operation->frame->value == FRAME_DRAIN_ON)
		drain_begin(daemon);
	else if (operation->frame->value == FRAME_DRAIN_OFF)
		drain_end(daemon);
	operate_answer_begin(daemon, &json);
	json_text_object_begin(&json, NULL);
	json_text_string(&json, "state", drain_state_name(drain->state));
	json_text_bool(&json, "done", drain->state == DRAIN_DONE);
	json_text_bool(&json, "has_nvme", daemon->nvme != NULL);
	if (drain_is_on(drain)) {
		json_text_unsigned(&json, "elapsed_us", daemon->now_us - drain->began_us);
		json_text_unsigned(&json, "slots_looked_at",
				   drain->state == DRAIN_LOWERING ? drain->next
								  : daemon->cpu_slots_max);
		json_text_unsigned(&json, "slots", daemon->cpu_slots_max);
		json_text_unsigned(&json, "pending_blocks", mover_pending_down(daemon));
		json_text_unsigned(&json, "written_blocks",
				   daemon->counters.down_blocks - drain->written_before);
		json_text_unsigned(&json, "memory_only_blocks", drain->above_blocks);
	}
	json_text_object_end(&json);
	operate_answer_end(operation->session, operation->frame->header.request, &json);
}
