/* daemon/operate_verify.c: VERIFY: the scrubber goes round now, and says how far it is. */
#include "daemon/operate.h"

#include "daemon/scrub.h"

#include <errno.h>

#define MIB (UINT64_C(1) << 20)

static unsigned devices_out_of_use(const struct daemon *daemon)
{
	unsigned count = daemon->absent_count;

	for (unsigned i = 0; i < daemon->devices_count; i++)
		count += nvme_device_is_fenced(daemon->devices[i].device);
	return count;
}

static void answer(const struct operation *operation)
{
	static const char *const states[SCRUB_ASKED_STATES] = { "none", "running", "done", "ended" };
	static const char *const tiers[TIERS] = { [TIER_CPU] = "cpu", [TIER_NVME] = "nvme" };
	struct daemon *daemon = operation->session->daemon;
	struct scrub_asked asked = scrub_ask_again(daemon);
	uint64_t until_us = asked.state == SCRUB_ASKED ? daemon->now_us : asked.ended_us;
	struct json_text json;

	operate_answer_begin(daemon, &json);
	json_text_object_begin(&json, NULL);
	json_text_string(&json, "state", states[asked.state]);
	json_text_bool(&json, "done", asked.state == SCRUB_ASKED_DONE);
	json_text_unsigned(&json, "slots_looked_at", asked.looked_at);
	json_text_unsigned(&json, "slots", asked.slots);
	for (enum tier_id tier = 0; tier < TIERS; tier++) {
		if (!asked.has_tier[tier])
			continue;
		json_text_object_begin(&json, tiers[tier]);
		json_text_unsigned(&json, "checked", asked.figures.slots[tier]);
		json_text_unsigned(&json, "bytes", asked.figures.bytes[tier]);
		json_text_unsigned(&json, "damaged", asked.figures.damaged[tier]);
		json_text_object_end(&json);
	}
	json_text_unsigned(&json, "unreadable", asked.figures.unreadable);
	json_text_unsigned(&json, "in_flux", asked.figures.given_up);
	json_text_unsigned(&json, "rewritten", asked.figures.rewritten);
	json_text_unsigned(&json, "devices_out_of_use",
			   asked.has_tier[TIER_NVME] ? devices_out_of_use(daemon) : 0);
	json_text_unsigned(&json, "elapsed_us",
			   asked.state == SCRUB_UNASKED ? 0 : until_us - asked.began_us);
	json_text_object_end(&json);
	operate_answer_end(operation->session, operation->frame->header.request, &json);
}

void operate_verify(const struct operation *operation)
{
	struct daemon *daemon = operation->session->daemon;
	uint64_t value = operation->frame->value;
	unsigned tiers = FRAME_VERIFY_TIERS(value);
	uint64_t mib = FRAME_VERIFY_RATE(value);
	bool has_tier[TIERS];

	for (enum tier_id tier = 0; tier < TIERS; tier++)
		has_tier[tier] = tiers == 0 || (tiers & 1u << tier) != 0;
	if (FRAME_VERIFY_STEP(value) == FRAME_VERIFY_END)
		scrub_ask_end(daemon);
	if (FRAME_VERIFY_STEP(value) == FRAME_VERIFY_BEGIN &&
	    scrub_ask(daemon, has_tier, (mib > 0 ? mib : FRAME_VERIFY_MIB) * MIB) < 0) {
		operate_refuse(operation->session, operation->frame->header.request, -EBUSY,
			       "another verify is under way: wait until it has ended");
		return;
	}
	answer(operation);
}
