/* daemon/peer_backends.h: by what the peer process moves blocks. A test has its own. */
#ifndef KVTIER_DAEMON_PEER_BACKENDS_H
#define KVTIER_DAEMON_PEER_BACKENDS_H

#include "transfer/peer/transport.h"

/* The best first; NULL behind the last. */
extern const struct transport_ops *const peer_transports[];

#endif
