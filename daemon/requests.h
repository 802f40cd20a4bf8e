/*
 * daemon/requests.h: what lately became of the requests of engines: a ring of the last of them,
 * each by its tenant and the tag that its frames carry (a W3C trace id, or a digest of the engine's
 * own name for it). Frames without a tag leave nothing here.
 *
 * Limit: REQUESTS_MAX; one more takes the place of the oldest.
 * Runs on: the loop thread.
 */
#ifndef KVTIER_DAEMON_REQUESTS_H
#define KVTIER_DAEMON_REQUESTS_H

#include "daemon/daemon.h"
#include "daemon/session.h"

#define REQUESTS_MAX 4096u

/* What became of blocks, whatever was wanted with them. */
enum request_outcome {
	REQUEST_DONE,      /* delivered or stored */
	REQUEST_MISSED,    /* load: not there */
	REQUEST_EXPIRED,   /* the deadline came first */
	REQUEST_CANCELLED, /* by the engine, or as it went away */
	REQUEST_DAMAGED,   /* load: the engine said that the bytes were wrong */
	REQUEST_FAILED,    /* store: the bytes did not become readable */
	REQUEST_OUTCOMES
};

struct request_looked {
	int result; /* 0, or why it was answered as a miss */
	uint32_t space;
	uint64_t asked_tokens, usable_tokens, worth_tokens;
	uint32_t keys;
	uint32_t found[TIERS]; /* keys */
	bool wants_lease, has_lease;
	uint16_t missing_group;
	const uint8_t *missing; /* the first key that is not there; NULL: none, or not known */
};

must_check int requests_create(struct daemon *daemon, struct error *error);
void requests_destroy(struct daemon *daemon);

void requests_looked(struct session *session, const uint8_t tag[FRAME_TAG_BYTES],
		     const struct request_looked *looked);
/* A STORE or LOAD of `blocks` begins. Returns the request's number, for what follows; 0: none. */
uint64_t requests_begin(struct session *session, const uint8_t tag[FRAME_TAG_BYTES],
			      bool is_store, unsigned blocks);
/* Blocks of a STORE: what they were answered. `admission` is CACHE_ADMISSIONS where the daemon was
 * too busy, or passed by. */
void requests_admitted(struct daemon *daemon, uint64_t number,
		       enum cache_admission admission, unsigned blocks);
/* Blocks of it have ended. */
void requests_ended(struct daemon *daemon, uint64_t number, bool is_store,
		    enum request_outcome outcome, unsigned blocks);
/* All of it has, after so long. */
void requests_over(struct daemon *daemon, uint64_t number, bool is_store, uint64_t took_us);

#endif
