/* daemon/peers.c: the table of other nodes, and who gets what they say. */
#include "daemon/peers.h"

#include "base/log.h"
#include "daemon/fetch.h"
#include "daemon/grant.h"
#include "daemon/tickets.h"
#include "tiers/tier.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define VISIT_US (UINT64_C(300) * 1000000) /* idle, of a node that a ticket named */
#define IDLE_LOOK_US (UINT64_C(1) * 1000000)
/* Believed until measured: a network of 10 Gbit/s. */
#define SPEED_START { .latency_us = 200.0, .bytes_us = 1000.0 }

static struct peer *peer_of(struct peers *peers, uint32_t session)
{
	assert(session < PEER_SESSIONS_MAX);
	return &peers->peers[session];
}

static void peer_begin(struct peers *peers, uint32_t session, const char *address)
{
	struct peer *peer = peer_of(peers, session);

	*peer = (struct peer){
		.is_used = true,
		.session = session,
		.since_us = peers->daemon->now_us,
		.speed = SPEED_START,
	};
	snprintf(peer->address, sizeof(peer->address), "%s", address);
}

static void on_up(void *owner, uint32_t session, uint32_t life, const struct peer_hello *hello,
		  const char *address, bool is_ours)
{
	struct daemon *daemon = owner;
	struct peer *peer = peer_of(daemon->peers, session);
	char quoted[PEER_NAME_BYTES + 8];

	if (!peer->is_used)
		peer_begin(daemon->peers, session, address);
	assert(!peer->is_up && is_ours == peer->is_asked);
	peer->is_up = true;
	peer->life = life;
	peer->hello = *hello;
	peer->reason[0] = 0;
	peer->since_us = daemon->now_us;
	peer->ups++;
	daemon->peers->sessions_ever++;
	log_line(LOG_INFO, "peer_up", "peer=%s name=%s release=%.32s", peer->address,
		 log_quote(quoted, sizeof(quoted), hello->name), hello->release);
	fetch_peer_up(peer, daemon);
}

static void on_down(void *owner, uint32_t session, uint32_t life, int result, const char *reason)
{
	struct daemon *daemon = owner;
	struct peer *peer = peer_of(daemon->peers, session);
	char quoted[PEER_REASON_BYTES + 8];
	bool is_news = strncmp(peer->reason, reason, sizeof(peer->reason) - 1) != 0;

	if (!peer->is_used)
		return;
	assert(!peer->is_up || life == peer->life);
	if (peer->is_up || is_news)
		log_line(LOG_WARNING, "peer_down", "peer=%s result=%d reason=%s", peer->address,
			 result, log_quote(quoted, sizeof(quoted), reason));
	snprintf(peer->reason, sizeof(peer->reason), "%s", reason);
	if (result == -ELOOP && peer->is_asked) {
		memcpy(daemon->peers->itself, peer->address, sizeof(daemon->peers->itself));
		peers_unwant(peer, PEER_BY_FILE | PEER_BY_DNS | PEER_BY_TICKET);
	}
	if (peer->is_up)
		peer->since_us = daemon->now_us;
	peer->is_up = false;
	fetch_peer_down(peer, daemon);
	grant_peer_down(daemon->peers, peer);
	if (!peer->is_asked)
		peer->is_used = false;
}

static void on_frame(void *owner, uint32_t session, uint32_t life, const void *frame)
{
	struct daemon *daemon = owner;
	struct peers *peers = daemon->peers;
	struct peer *peer = peer_of(peers, session);
	const struct peer_frame_header *header = frame;

	if (!peer->is_used || !peer->is_up || life != peer->life)
		return;
	switch ((enum peer_frame_type)header->type) {
	case PEER_QUERY:   grant_query(peers, peer, frame); break;
	case PEER_FETCH:   grant_fetch(peers, peer, frame); break;
	case PEER_RENEW:   grant_renew(peers, peer, header->number); break;
	case PEER_RELEASE: grant_release(peers, peer, header->number); break;
	case PEER_GRANT:   fetch_granted(peers, peer, frame); break;
	case PEER_BLOCK:   fetch_block(peers, peer, frame); break;
	case PEER_FAILED:  fetch_failed(peers, peer, frame); break;
	case PEER_ENDED:   fetch_ended(peers, peer, frame); break;
	default:
		peers->wrong_frames++;
	}
}

const struct peer_events peer_events = { .up = on_up, .down = on_down, .frame = on_frame };

int peers_create(struct daemon *daemon, const struct peer_ops *ops, void *room,
		 struct error *error)
{
	struct peers *peers;
	int result;

	if (ops == NULL)
		return 0;
	peers = mmap(NULL, sizeof(*peers), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (peers == MAP_FAILED)
		return error_set(error, -ENOMEM, "no memory for other nodes (%zu bytes)%s",
				 sizeof(*peers), error_advice(-ENOMEM));
	peers->daemon = daemon;
	peers->ops = ops;
	peers->room = room;
	daemon->peers = peers;
	result = fetches_create(peers, error);
	if (result == 0)
		result = grants_create(peers, error);
	return result == 0 ? tickets_create(peers, error) : result;
}

void peers_destroy(struct daemon *daemon)
{
	struct peers *peers = daemon->peers;

	if (peers == NULL)
		return;
	assert(!peers_are_busy(daemon));
	fetches_destroy(peers->fetches);
	grants_destroy(peers->grants);
	tickets_destroy(peers->tickets);
	munmap(peers, sizeof(*peers));
	daemon->peers = NULL;
}

static bool is_idle(const struct peers *peers, const struct peer *peer)
{
	return peer->grants_count == 0 && peer->sends_count == 0 && !fetch_has_peer(peers, peer);
}

/* Nodes that nobody names any more, and nobody wants anything of. */
static void unwanted_end(struct peers *peers)
{
	uint64_t now_us = peers->daemon->now_us;

	if (now_us < peers->idle_us)
		return;
	peers->idle_us = now_us + IDLE_LOOK_US;
	for (unsigned i = 0; i < PEER_SESSIONS_MAX; i++) {
		struct peer *peer = &peers->peers[i];

		if (!peer->is_used || !peer->is_asked)
			continue;
		if (now_us >= peer->visited_us + VISIT_US)
			peers_unwant(peer, PEER_BY_TICKET);
		if (peer->wanted_by != 0 || !is_idle(peers, peer))
			continue;
		log_line(LOG_INFO, "peer_left", "peer=%s", peer->address);
		peers->ops->forget(peers->room, peer->session);
		peer->is_used = false;
	}
}

bool peers_step(struct daemon *daemon)
{
	struct peers *peers = daemon->peers;

	if (peers == NULL)
		return false;
	bool did_work = fetches_step(peers);
	unwanted_end(peers);
	return grants_step(peers) || did_work;
}

bool peers_are_busy(const struct daemon *daemon)
{
	return daemon->peers != NULL && (fetches_arrivals_count(daemon->peers) > 0 ||
					 grants_sends_count(daemon->peers) > 0);
}

bool peers_have_deadlines(const struct daemon *daemon)
{
	return daemon->peers != NULL &&
	       (fetches_count(daemon->peers) > 0 || grants_count(daemon->peers) > 0);
}

void peer_speed_learn(struct peer *peer, uint64_t bytes, uint64_t us, unsigned beside)
{
	const struct tier_op op = { .memory_bytes = (uint32_t)bytes,
				    .finished_us = us > 0 ? us : 1 };

	tier_speed_learn(&peer->speed, &op, beside);
}

struct peer *peers_find(struct daemon *daemon, const char *address)
{
	for (unsigned i = 0; i < PEER_SESSIONS_MAX; i++) {
		struct peer *peer = &daemon->peers->peers[i];

		if (peer->is_used && peer->is_asked && strcmp(peer->address, address) == 0)
			return peer;
	}
	return NULL;
}

struct peer *peers_want(struct daemon *daemon, const char *address, enum peer_source source)
{
	struct peers *peers = daemon->peers;
	struct peer *peer = peers_find(daemon, address);
	uint32_t session;

	if (peer == NULL) {
		if (strlen(address) >= PEER_ADDRESS_TEXT_BYTES ||
		    peers->ops->connect(peers->room, address, &session) < 0)
			return NULL;
		peer_begin(peers, session, address);
		peer = peer_of(peers, session);
		peer->is_asked = true;
	}
	peer->wanted_by |= source;
	if (source == PEER_BY_TICKET)
		peer->visited_us = daemon->now_us;
	return peer;
}

void peers_unwant(struct peer *peer, unsigned sources)
{
	peer->wanted_by &= ~sources;
}
