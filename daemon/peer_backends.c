/* daemon/peer_backends.c: the transports that are built in. */
#include "daemon/peer_backends.h"

#include <stddef.h>

const struct transport_ops *const peer_transports[] = { &transport_ucx, &transport_tcp, NULL };
