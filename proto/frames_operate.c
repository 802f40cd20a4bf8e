/* proto/frames_operate.c: what each verb of an operator takes. */
#include "proto/frames_operate.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static const struct {
	const char *name;
	unsigned fields;
} verbs[FRAME_OPERATE_VERBS] = {
	[FRAME_OPERATE_LIST] = { "LIST", FRAME_TAKES_TENANT | FRAME_TAKES_SPACE |
						 FRAME_TAKES_CURSOR | FRAME_TAKES_VALUE |
						 FRAME_TAKES_HASHES },
	[FRAME_OPERATE_STAT] = { "STAT", FRAME_TAKES_TENANT | FRAME_TAKES_SPACE |
						 FRAME_TAKES_GROUP | FRAME_TAKES_HASHES },
	[FRAME_OPERATE_PIN] = { "PIN", FRAME_TAKES_TENANT | FRAME_TAKES_SPACE |
					       FRAME_TAKES_CURSOR | FRAME_TAKES_VALUE |
					       FRAME_TAKES_GROUP | FRAME_TAKES_HASHES },
	[FRAME_OPERATE_PURGE] = { "PURGE",
				  FRAME_TAKES_TENANT | FRAME_TAKES_SPACE | FRAME_TAKES_VALUE },
	[FRAME_OPERATE_DRAIN] = { "DRAIN", FRAME_TAKES_VALUE },
	[FRAME_OPERATE_RELOAD] = { "RELOAD", FRAME_TAKES_CURSOR },
	[FRAME_OPERATE_CONFIG] = { "CONFIG", 0 },
	[FRAME_OPERATE_REQUESTS] = { "REQUESTS",
				     FRAME_TAKES_TENANT | FRAME_TAKES_TAG | FRAME_TAKES_CURSOR },
	[FRAME_OPERATE_VERIFY] = { "VERIFY", FRAME_TAKES_VALUE },
};

const char *frame_operate_name(unsigned verb)
{
	return verb < FRAME_OPERATE_VERBS ? verbs[verb].name : "unknown verb";
}

unsigned frame_operate_fields(unsigned verb)
{
	assert(verb < FRAME_OPERATE_VERBS);
	return verbs[verb].fields;
}

static bool is_zero(const void *bytes, size_t count)
{
	const uint8_t *byte = bytes;

	for (size_t i = 0; i < count; i++)
		if (byte[i] != 0)
			return false;
	return true;
}

/* A field that its verb does not take must be zero: later it may mean something. */
static int check_fields(const struct frame_operate *frame, struct error *error)
{
	const struct {
		const char *name;
		bool is_given;
		unsigned field;
	} fields[] = {
		{ "tenant", !is_zero(frame->tenant, sizeof(frame->tenant)), FRAME_TAKES_TENANT },
		{ "fingerprint", !is_zero(frame->fingerprint, sizeof(frame->fingerprint)),
		  FRAME_TAKES_SPACE },
		{ "tag", !is_zero(frame->tag, sizeof(frame->tag)), FRAME_TAKES_TAG },
		{ "cursor", frame->cursor != 0, FRAME_TAKES_CURSOR },
		{ "value", frame->value != 0, FRAME_TAKES_VALUE },
		{ "group", frame->group != 0, FRAME_TAKES_GROUP },
		{ "hashes", frame->count != 0, FRAME_TAKES_HASHES },
	};
	unsigned takes = frame_operate_fields(frame->verb);

	for (unsigned i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		if (fields[i].is_given && (takes & fields[i].field) == 0)
			return error_set(error, -EPROTO, "OPERATE: %s takes no %s",
					 frame_operate_name(frame->verb), fields[i].name);
	return 0;
}

static int refuse_value(const struct frame_operate *frame, uint64_t limit, struct error *error)
{
	return error_set(error, -EPROTO, "OPERATE: the value of %s is %llu, at most %llu is right",
			 frame_operate_name(frame->verb), (unsigned long long)frame->value,
			 (unsigned long long)limit);
}

int frame_operate_check(const struct frame_operate *frame, struct error *error)
{
	int result;

	if (memchr(frame->tenant, 0, sizeof(frame->tenant)) == NULL)
		return error_set(error, -EPROTO,
				 "OPERATE: tenant does not end in a NUL within %u bytes",
				 FRAME_NAME_BYTES);
	if (frame->verb >= FRAME_OPERATE_VERBS)
		return error_set(error, -EPROTO, "OPERATE: verb is %u, at most %u is right",
				 frame->verb, FRAME_OPERATE_VERBS - 1);
	result = check_fields(frame, error);
	if (result < 0)
		return result;
	if (frame->verb == FRAME_OPERATE_LIST && frame->count != 0 && frame->count != 2)
		return error_set(error, -EPROTO, "OPERATE: LIST takes two hashes or none, not %u",
				 frame->count);
	if (frame->verb == FRAME_OPERATE_STAT && frame->count != 1)
		return error_set(error, -EPROTO, "OPERATE: STAT takes one hash, not %u",
				 frame->count);
	if (frame->verb == FRAME_OPERATE_DRAIN && frame->value >= FRAME_DRAINS)
		return refuse_value(frame, FRAME_DRAINS - 1, error);
	if (frame->verb == FRAME_OPERATE_PURGE && frame->value > 1)
		return refuse_value(frame, 1, error);
	if (frame->verb == FRAME_OPERATE_VERIFY &&
	    (FRAME_VERIFY_STEP(frame->value) >= FRAME_VERIFIES ||
	     FRAME_VERIFY_TIERS(frame->value) > 3 ||
	     FRAME_VERIFY_RATE(frame->value) > FRAME_VERIFY_MIB_MAX))
		return refuse_value(frame,
				    FRAME_VERIFY_VALUE(FRAME_VERIFIES - 1, 3, FRAME_VERIFY_MIB_MAX),
				    error);
	return 0;
}
