/*
 * cluster/subscription.h: what publishers say, and answer, over ZeroMQ: daemons of ours
 * (proto/inventory.h) and vLLM's engines (its KV events). A message is [topic,] sequence (8 bytes,
 * the most significant first), payload; a question goes as "", question, and each answer comes as
 * "", [topic,] sequence, payload.
 *
 * A publisher that is not there is tried again by itself; what it said meanwhile is lost here, as
 * is what comes faster than it is taken. Nothing waits. ZeroMQ gives a publisher up for ever that
 * once sent what is no ZMTP, or more than it may: so after a silence both are connected anew.
 * Runs on: one thread; ZeroMQ has one of its own for the network. Owns: its sockets.
 */
#ifndef KVTIER_CLUSTER_SUBSCRIPTION_H
#define KVTIER_CLUSTER_SUBSCRIPTION_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SUBSCRIPTION_ADDRESS_BYTES 300u

/* All of a process. */
struct subscriptions;

struct subscription_config {
	const char *said;         /* "host:port" of what is said; a name is looked up aside */
	const char *asked;        /* "host:port" of questions; NULL: there is nobody to ask */
	uint32_t payload_bytes_max; /* who sends more is cut off */
	uint64_t silent_us_max;   /* that a connection may be silent before it is made anew */
	/* The payload is theirs until they return. */
	void (*on_said)(void *owner, uint64_t sequence, const void *payload, size_t bytes);
	void (*on_answer)(void *owner, uint64_t sequence, const void *payload, size_t bytes);
	void *owner;
};

struct subscription_figures {
	uint64_t said, answers;   /* messages */
	uint64_t malformed;       /* that had not the frames of one */
	uint64_t unasked;         /* questions that could not be sent */
	uint64_t again;           /* times that silent connections were made anew */
};

struct subscription;

must_check int subscriptions_create(struct subscriptions **out_all, struct error *error);
/* After all of its subscriptions. Accepts NULL. */
void subscriptions_destroy(struct subscriptions *all);
/* -EINVAL: no such address can be. -EMFILE: too many. */
must_check int subscription_open(struct subscriptions *all, struct subscription **out_subscription,
				 const struct subscription_config *config, struct error *error);
void subscription_close(struct subscription *subscription);
/* Lost where there is no room, or nobody to ask. */
void subscription_ask(struct subscription *subscription, const void *question, size_t bytes);
/* Takes what has come, at most `messages_max` of each kind. True: there may be more. To be called
 * when one of the descriptors is readable, after each question, as they tell of changes only, and
 * now and then, for silences. */
bool subscription_hear(struct subscription *subscription, unsigned messages_max, uint64_t now_us);
/* For epoll; edges. out_asked: -1 where nobody is asked. */
void subscription_fds(const struct subscription *subscription, int *out_said, int *out_asked);
void subscription_look(const struct subscription *subscription,
		       struct subscription_figures *out_figures);

#endif
