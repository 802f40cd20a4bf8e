/* daemon/admin_http_listen.h: the two kinds of sockets that daemon/admin_http.c listens on.
 * Opening blocks: main only; accepting does not. */
#ifndef KVTIER_DAEMON_ADMIN_HTTP_LISTEN_H
#define KVTIER_DAEMON_ADMIN_HTTP_LISTEN_H

#include "base/error.h"

#include <netinet/in.h>
#include <stdbool.h>

/* A Unix socket with mode 0660; a socket that stands in its place is replaced, anything else is
 * not. */
must_check int listen_unix(const char *path, int *out_fd, struct error *error);
/* "127.0.0.1:9469" or "[::1]:0". */
must_check int listen_tcp(const char *address, int *out_fd, struct error *error);
unsigned listen_port(int fd);
/* The next connection, not blocking, and whose it is: an IPv4 address as IPv6 has it, all zeros for
 * a Unix socket. */
must_check int listen_accept(int listen_fd, struct in6_addr *out_peer);
bool peer_is_loopback(const struct in6_addr *peer);

#endif
