/*
 * daemon/operate.h: OPERATE: what an operator may look at and do, a row a verb. A tenant's socket
 * sees and touches its own tenant, the admin socket all.
 * Runs on: the loop thread.
 */
#ifndef KVTIER_DAEMON_OPERATE_H
#define KVTIER_DAEMON_OPERATE_H

#include "daemon/session.h"
#include "proto/frames_operate.h"
#include "proto/json_text.h"

/* A frame of a socket that may say it. */
struct operation {
	struct session *session;
	const struct frame_operate *frame;
	struct tenant *tenant; /* whose; NULL: all tenants' */
};

void operate_frame(struct session *session, const struct frame_operate *frame);

/* The answer: writes go to `json` between the two; it is sent by the second. What did not fit is
 * an error to the client, so whoever may be long stops in time and gives a cursor. */
void operate_answer_begin(struct daemon *daemon, struct json_text *json);
void operate_answer_end(struct session *session, uint64_t request, struct json_text *json);
/* Instead of an answer: why not. The connection stays. */
__attribute__((format(printf, 4, 5))) void operate_refuse(struct session *session, uint64_t request,
							   int result, const char *format, ...);

/* The rows of the table, each in the file of its name. */
void operate_list(const struct operation *operation);
void operate_stat(const struct operation *operation);
void operate_pin(const struct operation *operation);
void operate_drain(const struct operation *operation);
void operate_reload(const struct operation *operation);
void operate_config(const struct operation *operation);
void operate_requests(const struct operation *operation);
void operate_verify(const struct operation *operation);

/* An answer stops here and gives a cursor: one more row of any kind still fits. */
#define ANSWER_BYTES_ENOUGH (FRAME_TEXT_BYTES_MAX - 4096u)

/* The spaces of a scope: steps through the numbers from *cursor on; UINT32_MAX at the end. */
uint32_t operate_next_space(const struct operation *operation, uint32_t *cursor);

#endif
