/*
 * daemon/peer_ops.h: the seam between the loop and other nodes: whoever keeps connections to them,
 * brings frames (proto/peer.h), and moves bytes of blocks between arenas. The peer process, or
 * a network of the tests' own.
 *
 * A *session* is a connection to one node; each time that it is up has a *life* of its own, and
 * frames and transfers of another life are dropped.
 * Runs on: the loop thread; nothing here waits.
 */
#ifndef KVTIER_DAEMON_PEER_OPS_H
#define KVTIER_DAEMON_PEER_OPS_H

#include "proto/peer.h"

#include <stdbool.h>
#include <stdint.h>

#define PEER_SESSIONS_MAX 256u
#define PEER_TRANSFERS_MAX 4096u

/* Bytes of one block's shard, one way. The caller's until done(). */
struct peer_transfer {
	uint32_t session, life;
	uint64_t tag;
	uint32_t arena;         /* the tenant's number in daemon->tenants */
	uint64_t offset, bytes; /* of the payload, from the arena's start */
	uint64_t deadline_us;   /* of the loop's clock, which is CLOCK_MONOTONIC */
	bool is_place;          /* it is to be received; else sent */
	/* Once, when nothing reads or writes these bytes any more. 0: all of them are there
	 * (a place), or were handed to the network. */
	void (*done)(struct peer_transfer *transfer, int result);
	uint32_t number;        /* the ops' own */
};

/* What the ops tell; `owner` is the daemon. */
struct peer_events {
	/* hello: theirs; address: "host:port" of their end; is_ours: by a connect() of ours. */
	void (*up)(void *owner, uint32_t session, uint32_t life, const struct peer_hello *hello,
		   const char *address, bool is_ours);
	/* Its transfers have ended before. life 0: it was not up; the reason is news all the
	 * same. */
	void (*down)(void *owner, uint32_t session, uint32_t life, int result, const char *reason);
	/* A checked frame, none of the handshake's. */
	void (*frame)(void *owner, uint32_t session, uint32_t life, const void *frame);
};

struct peer_ops {
	const char *name;
	/* Keeps connected to "host:port" until forget(). 0; -EAGAIN: too many; -EINVAL: no
	 * address. */
	int (*connect)(void *room, const char *address, uint32_t *out_session);
	/* Ends it. The number may be used again from now on. */
	void (*forget)(void *room, uint32_t session);
	/* 0; -EAGAIN: later; -ENOTCONN: that life is over. */
	int (*say)(void *room, uint32_t session, uint32_t life, const void *frame);
	/* 0: done() follows. -EAGAIN: too many; -ENOTCONN. */
	int (*transfer)(void *room, struct peer_transfer *transfer);
	/* done() follows soon; never from inside, as with transfer(). */
	void (*stop)(void *room, struct peer_transfer *transfer);
};

#endif
