/*
 * tiers/peer/peer_server.h: the work of the peer process: it listens, connects and connects again,
 * passes frames on, and moves bytes of blocks between arenas and the network.
 *
 * A session is up when its channel and its data link are; when one of them ends, the other is
 * ended, then all transfers, and then it is down. Between two nodes there is one session: of two
 * connections that were begun at once, the one that the node with the smaller id made is kept.
 * A transfer is answered exactly once, when nothing of it is read or written any more. What a peer
 * says is hostile: a chunk that is not wanted any more is thrown away, one that lies ends the
 * session.
 *
 * Runs on: one thread, and one for names. Nothing here waits. Allocates at create, when it opens,
 * and for a connection; never for a transfer.
 */
#ifndef KVTIER_TIERS_PEER_PEER_SERVER_H
#define KVTIER_TIERS_PEER_PEER_SERVER_H

#include "base/clock.h"
#include "base/error.h"
#include "tiers/peer/peer_messages.h"
#include "transfer/peer/channel.h"
#include "transfer/peer/transport.h"

#include <stdbool.h>
#include <stdint.h>

#define PEER_BACKOFF_US_MIN (UINT64_C(100) * 1000)
#define PEER_BACKOFF_US_MAX (UINT64_C(10) * 1000000)
#define PEER_CONNECT_US_MAX (UINT64_C(10) * 1000000) /* from the socket to a session that is up */
#define PEER_SILENCE_US_MAX (UINT64_C(5) * 1000000)
#define PEER_PING_US (UINT64_C(1) * 1000000)
#define PEER_STRANGERS_MAX 64u                     /* who have not proved anything yet */
#define PEER_CREDIT_BYTES (UINT64_C(16) << 20)     /* of a link, under way at once */
#define PEER_TRANSFER_BYTES_MAX (UINT64_C(4) << 30)
#define PEER_TRANSPORTS_MAX 2u

struct peer_server_config {
	const char *listen;            /* "address:port" */
	/* The first that both nodes have is taken; NULL behind the last. */
	const struct transport_ops *transports[PEER_TRANSPORTS_MAX + 1];
	bool is_encrypted;
	bool has_tls;                  /* nobody is spoken to before peer_server_tls() */
	struct clock *clock;
	/* Sends a message up. False: there is no room. */
	bool (*answer)(void *owner, const struct peer_message *message);
	/* For how many there is room. */
	uint32_t (*room)(void *owner);
	void *owner;
};

struct peer_server;

must_check int peer_server_create(struct peer_server **out_server,
				  const struct peer_server_config *config, struct error *error);
/* Whatever is under way ends unanswered. NULL is allowed. */
void peer_server_destroy(struct peer_server *server);
/* Of ARENA and SETUP; takes no descriptor. The first SETUP opens everything, and READY says how
 * that went. -EPROTO: not a packet; others: it cannot go on. */
must_check int peer_server_packet(struct peer_server *server, const void *packet, size_t bytes,
				  const int *fds, unsigned fds_count, struct error *error);
/* Before SETUP, once; taken. */
void peer_server_tls(struct peer_server *server, struct channel_tls *tls, const char *name);
/* False: the next message has to wait for a step. */
bool peer_server_has_room(const struct peer_server *server);
/* 0, or -EPROTO. */
must_check int peer_server_message(struct peer_server *server, const struct peer_message *message,
				   struct error *error);
/* One pass; whether it did anything. Under a silent parent (may_start false) nothing new is
 * sent or accepted; what is under way ends. */
bool peer_server_step(struct peer_server *server, uint64_t now_us, bool may_start);
/* Readable when a step has something to do, after peer_server_arm(), which says false when it has
 * already; at peer_server_next_us() it has in any case. */
int peer_server_fd(const struct peer_server *server);
must_check bool peer_server_arm(struct peer_server *server);
void peer_server_awake(struct peer_server *server);
uint64_t peer_server_next_us(const struct peer_server *server);
/* Where it listens, as it turned out: port 0 becomes one. */
uint16_t peer_server_port(const struct peer_server *server);

#endif
