/*
 * transfer/peer/transport.h: bytes of blocks between two nodes: messages of a small head and a
 * payload that goes from the sender's memory into memory that the receiver chooses when it has
 * seen the head.
 *
 * One table, so that back ends have the same tests. What a peer sends is hostile: a head is
 * copied before it is handed on, a payload is never longer than its head said, nothing is written
 * but what arriving() gave. A *link* joins two transports. Who connects it knows the other's
 * address() and a token; the other expects that token. Both come by the authenticated control
 * connection, so who does not know a token gets no link; a connection that has not named one
 * within TRANSPORT_TOKEN_US is closed, and at most TRANSPORT_STRANGERS_MAX wait.
 *
 * Runs on: one thread; only create() may block. Order is kept among messages of a link where the
 * back end does so; do not rely on it.
 */
#ifndef KVTIER_TRANSFER_PEER_TRANSPORT_H
#define KVTIER_TRANSFER_PEER_TRANSPORT_H

#include "base/clock.h"
#include "base/error.h"
#include "base/list.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct transport;
struct transport_link;

#define TRANSPORT_HEAD_BYTES 64u
#define TRANSPORT_PAYLOAD_MAX (2u << 20)
#define TRANSPORT_ADDRESS_BYTES_MAX 2048u
#define TRANSPORT_TOKEN_BYTES 32u
#define TRANSPORT_REGIONS_MAX 64u
#define TRANSPORT_LINKS_MAX 512u
#define TRANSPORT_STRANGERS_MAX 32u
#define TRANSPORT_TOKEN_US (UINT64_C(5) * 1000000)
#define TRANSPORT_REASON_BYTES 160u

/* A message on its way; the caller's, unchanged until done(). */
struct transport_send {
	struct list_node link;
	struct transport_link *to;
	uint8_t head[TRANSPORT_HEAD_BYTES];
	const void *payload;
	uint32_t bytes;
	/* Nothing reads the payload any more. 0: it was handed to the network (not: it has
	 * arrived). */
	void (*done)(struct transport_send *send, int result);
	uint64_t room[16];     /* the back end's own */
};

struct transport_events {
	/* A head has come: where its payload is to go, there until arrived() was called; NULL:
	 * nobody wants it, it is
	 * read and thrown away. */
	void *(*arriving)(void *owner, const uint8_t head[TRANSPORT_HEAD_BYTES], uint32_t bytes);
	/* Nothing writes there any more. 0: all of it is there. Also for what nobody wanted. */
	void (*arrived)(void *owner, const uint8_t head[TRANSPORT_HEAD_BYTES], uint32_t bytes,
			void *memory, int result);
	/* Once: it is joined; messages may have been sent before. */
	void (*up)(void *owner);
	/* Once, in any case: all sends are done(), all arrivals arrived(); the link is gone. */
	void (*down)(void *owner, int result, const char *reason);
};

struct transport_config {
	const char *host;      /* to listen on; NULL: all */
	uint16_t port_min, port_max;  /* 0: any */
	uint64_t idle_us_max;  /* a link that should move and does not for so long is down */
	struct clock *clock;
};

struct transport_ops {
	const char *name;      /* "tcp", "ucx" */
	int (*create)(struct transport **out_transport,
		      const struct transport_config *config, struct error *error);
	void (*destroy)(struct transport *transport);   /* all links are down */
	/* Memory that payloads lie in: it may be registered once here. Others work too, slower. */
	int (*region)(struct transport *transport, void *start, uint64_t bytes,
		      struct error *error);
	/* How others reach it: at most TRANSPORT_ADDRESS_BYTES_MAX bytes. host: as the other side
	 * reaches this node (its end of the control connection). */
	uint32_t (*address)(struct transport *transport, const char *host, uint8_t *out_bytes);
	/* events.up or down follows. -EINVAL: not an address of this back end; -EAGAIN: too many
	 * links. */
	int (*connect)(struct transport *transport, const uint8_t *address, uint32_t address_bytes,
		       const uint8_t token[TRANSPORT_TOKEN_BYTES],
		       const struct transport_events *events, void *owner,
		       struct transport_link **out_link, struct error *error);
	int (*expect)(struct transport *transport, const uint8_t token[TRANSPORT_TOKEN_BYTES],
		      const struct transport_events *events, void *owner,
		      struct transport_link **out_link, struct error *error);
	void (*send)(struct transport_link *link, struct transport_send *send);
	/* Ends it soon, whatever is under way; down() follows (never from inside this call). */
	void (*close)(struct transport_link *link, int result, const char *reason);
	/* One pass; whether it did anything. */
	bool (*step)(struct transport *transport, uint64_t now_us);
	/* Readable when a step has something to do; arm() first, which says false when it has
	 * already. */
	int (*fd)(struct transport *transport);
	bool (*arm)(struct transport *transport);
	/* For people: "tcp by io_uring, 10.0.0.1:4711", "ucx 1.13.1: tcp/eth0 rc_mlx5/mlx5_0:1". */
	void (*describe)(struct transport *transport, char *text, size_t bytes);
};

/* By sockets: a connection a link, head and payload in one call of the kernel each way. */
extern const struct transport_ops transport_tcp;
/* By UCX's active messages. create() says -ENOSYS and why where libucp is not here or too old, or
 * was not there when this was built. UCX reads its own frames: who reaches its port need not know a
 * token for that, so it is for networks whose nodes are trusted. A wrong token gets no answer, so
 * who connects with it is down after idle_us_max. */
extern const struct transport_ops transport_ucx;

#endif
