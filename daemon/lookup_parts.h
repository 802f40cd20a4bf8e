/*
 * daemon/lookup_parts.h: what the files of a lookup share: from what was found to what is answered.
 * Runs on: the loop thread.
 */
#ifndef KVTIER_DAEMON_LOOKUP_PARTS_H
#define KVTIER_DAEMON_LOOKUP_PARTS_H

#include "daemon/session.h"

#include "index/worth.h"

struct peer_key;

/* A lookup some of whose blocks are on their way from another node; borrowed for the call. */
struct remote_lookup {
	uint32_t space;
	const struct frame_lookup *ask;    /* tag, lease_us, costs */
	uint64_t request;                  /* that is answered */
	const struct lookup_section *sections;
	uint32_t sections_count;
	const struct peer_key *keys;
	uint32_t keys_count;
	const uint8_t *coming;             /* a byte a key */
	const struct tier_speed *speed;    /* of that node; NULL: not known */
	uint64_t queued_bytes;             /* that come before */
};

struct answer {
	/* A byte a key, until the next lookup's: it is there; the answer stands on it. A lease that
	 * was clipped makes the second fewer. */
	const uint8_t *presence, *promised;
	/* From both every group can go on; a lease holds what that takes. */
	uint32_t usable_tokens, worth_tokens;
	uint64_t lease, lease_us;
	const struct remote_lookup *remote; /* NULL: all that counts is here */
	struct worth_run runs[FRAME_RUNS_MAX];
	uint64_t starts[FRAME_RUNS_MAX], ends[FRAME_RUNS_MAX]; /* of the runs, in tokens */
	uint32_t runs_count;
};

/* What is there, or (remote, NULL: nothing) on its way, and how much of it is usable. */
void answer_find(const struct session *session, const struct lookup *lookup,
		 const struct remote_lookup *remote, struct answer *out_answer);
/* A lease on what is usable. One that is refused or clipped makes less usable, never a promise that
 * is not kept. */
void answer_lease(struct session *session, const struct lookup *lookup, uint64_t lease_us,
		  struct answer *answer);
/* Runs of tokens of one tier, and how many leading tokens are worth loading. */
void answer_weigh(const struct session *session, const struct lookup *lookup,
		  const struct frame_lookup *frame, struct answer *answer);

/* Answers with FOUND. */
void lookup_answer_remote(struct session *session, const struct remote_lookup *remote);

#endif
