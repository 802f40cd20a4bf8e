/*
 * tiers/peer/peer_names.h: addresses of "host:port", asked of the system's resolver on a thread of
 * its own, as that may wait for minutes.
 * Runs on: the caller's thread, and one of its own. Limit: PEER_LOOKUPS_MAX at once.
 */
#ifndef KVTIER_TIERS_PEER_PEER_NAMES_H
#define KVTIER_TIERS_PEER_PEER_NAMES_H

#include "base/error.h"
#include "tiers/peer/peer_messages.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#define PEER_LOOKUPS_MAX 256u
#define PEER_LOOKUP_ADDRESSES_MAX PEER_SESSIONS_ASKED

struct peer_lookup {
	uint32_t session, turn;              /* the caller's */
	char address[PEER_ADDRESS_TEXT_MAX]; /* "host:port", "[::1]:port" */
	/* The answer: 0, or a negative errno and why. */
	int result;
	char reason[160];
	unsigned count;
	struct sockaddr_storage addresses[PEER_LOOKUP_ADDRESSES_MAX];
	socklen_t bytes[PEER_LOOKUP_ADDRESSES_MAX];
};

struct peer_names;

/* Starts the thread. */
must_check int peer_names_create(struct peer_names **out_names, struct error *error);
/* Waits for a lookup that is under way. Accepts NULL. */
void peer_names_destroy(struct peer_names *names);
/* False: as many as can be are under way. */
must_check bool peer_names_ask(struct peer_names *names, uint32_t session, uint32_t turn,
			       const char *address);
/* An answer, to be given back; or NULL. */
struct peer_lookup *peer_names_take(struct peer_names *names);
void peer_names_give(struct peer_names *names, struct peer_lookup *lookup);
/* See base/mailbox.h. */
int peer_names_fd(const struct peer_names *names);
must_check bool peer_names_sleep(struct peer_names *names);
void peer_names_awake(struct peer_names *names);
/* On the calling thread, and only of what needs no resolver: numbers. False: a name, or wrong. */
must_check bool peer_address_read(const char *address, struct sockaddr_storage *out_address,
				  socklen_t *out_bytes);

/* "10.0.0.1:9470", "[fd00::1]:9470". */
void peer_address_write(const struct sockaddr_storage *address, char *text, size_t bytes);

#endif
