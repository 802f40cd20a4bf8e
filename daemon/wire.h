/*
 * daemon/wire.h: a client's socket as a table, so that tests can put clients and the daemon in one
 * thread.
 * Runs on: the loop thread. Never blocks.
 */
#ifndef KVTIER_DAEMON_WIRE_H
#define KVTIER_DAEMON_WIRE_H

#include "base/error.h"

#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

struct wire {
	const struct wire_ops *ops;
	int fd;
	void *owner;      /* a fake's */
};

/* Of the longest LEND: job words, and regions. */
#define WIRE_FDS_MAX 251u

/* Descriptors that came with a packet: the receiver's, to be closed. */
struct wire_fds {
	unsigned count;
	int fds[WIRE_FDS_MAX];
};

struct wire_ops {
	const char *name;
	/* One packet. > 0: bytes (a longer packet is cut: -EMSGSIZE); 0: the other side has closed;
	 * -EAGAIN. Descriptors that come with it go to `out_fds`, close-on-exec; -EMFILE: not all
	 * of them did, and none is left. NULL: there is no room for any, and they are closed. */
	ssize_t (*receive)(struct wire *wire, void *target, size_t bytes_max,
			   struct wire_fds *out_fds);
	/* One packet, whole or not at all. 0; -EAGAIN: full; -EPIPE and others: gone. */
	int (*send)(struct wire *wire, const void *packet, size_t bytes, const int *fds,
		    unsigned fds_count);
	void (*close)(struct wire *wire);
};

/* Accepts what has none. */
void wire_fds_close(struct wire_fds *fds);

/* SOCK_SEQPACKET. */
extern const struct wire_ops wire_unix;

/* A listening socket at `path` (an old one is removed if it is a socket), mode `mode`. Returns the
 * descriptor. */
must_check int wire_listen(const char *path, unsigned mode, struct error *error);
/* A non-blocking, close-on-exec connection, or -EAGAIN. *out_peer: SO_PEERCRED, zeroed when
 * not known. */
must_check int wire_accept(int listen_fd, struct ucred *out_peer);

#endif
