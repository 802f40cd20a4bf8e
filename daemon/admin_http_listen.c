/* daemon/admin_http_listen.c: sockets that listen. */
#include "daemon/admin_http_listen.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 64

union address {
	struct sockaddr any;
	struct sockaddr_in four;
	struct sockaddr_in6 six;
	struct sockaddr_un path;
};

static int listen_at(const char *name, const union address *address, socklen_t address_bytes,
		     int *out_fd, struct error *error)
{
	int one = 1, result;
	int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return error_set(error, -errno, "http_listen: %s: no socket: %s%s", name, strerror(errno),
				 error_advice(-errno));
	if ((address->any.sa_family != AF_UNIX &&
	     setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0) ||
	    bind(fd, &address->any, address_bytes) < 0 || listen(fd, BACKLOG) < 0) {
		result = error_set(error, -errno, "http_listen: cannot listen at %s: %s%s", name, strerror(errno),
				   error_advice(-errno));
		close(fd);
		return result;
	}
	*out_fd = fd;
	return 0;
}

int listen_unix(const char *path, int *out_fd, struct error *error)
{
	union address address = { .path = { .sun_family = AF_UNIX } };
	struct stat status;
	int fd, result;

	if (strlen(path) >= sizeof(address.path.sun_path))
		return error_set(error, -ENAMETOOLONG,
				 "%s: a socket's path has at most %zu characters", path,
				 sizeof(address.path.sun_path) - 1);
	memcpy(address.path.sun_path, path, strlen(path));
	if (lstat(path, &status) == 0) {
		if (!S_ISSOCK(status.st_mode))
			return error_set(error, -EEXIST, "%s: is there already and no socket",
					 path);
		if (unlink(path) < 0)
			return error_set(error, -errno, "%s: cannot be replaced: %s", path,
					 strerror(errno));
	}
	result = listen_at(path, &address, sizeof(address.path), &fd, error);
	if (result < 0)
		return result;
	if (chmod(path, 0660) < 0) {
		result = error_set(error, -errno, "%s: chmod: %s", address.path.sun_path,
				   strerror(errno));
		unlink(path);
		close(fd);
		return result;
	}
	*out_fd = fd;
	return 0;
}

int listen_tcp(const char *text, int *out_fd, struct error *error)
{
	union address address;
	const char *colon = strrchr(text, ':');
	size_t host_bytes = colon == NULL ? 0 : (size_t)(colon - text);
	char host[64];
	long port = colon == NULL ? -1 : strtol(colon + 1, NULL, 10);

	memset(&address, 0, sizeof(address));
	if (host_bytes == 0 || host_bytes >= sizeof(host) || port < 0 || port > 65535)
		return error_set(error, -EINVAL, "%s: is not ADDRESS:PORT, such as 127.0.0.1:9469",
				 text);
	memcpy(host, text, host_bytes);
	host[host_bytes] = '\0';
	if (host[0] == '[' && host[host_bytes - 1] == ']') {
		host[host_bytes - 1] = '\0';
		address.six.sin6_family = AF_INET6;
		address.six.sin6_port = htons((uint16_t)port);
		if (inet_pton(AF_INET6, host + 1, &address.six.sin6_addr) == 1)
			return listen_at(text, &address, sizeof(address.six), out_fd, error);
	} else {
		address.four.sin_family = AF_INET;
		address.four.sin_port = htons((uint16_t)port);
		if (inet_pton(AF_INET, host, &address.four.sin_addr) == 1)
			return listen_at(text, &address, sizeof(address.four), out_fd, error);
	}
	return error_set(error, -EINVAL, "%s: is not ADDRESS:PORT, such as 127.0.0.1:9469", text);
}

unsigned listen_port(int fd)
{
	union address address;
	socklen_t bytes = sizeof(address);
	int result = getsockname(fd, &address.any, &bytes);

	assert(result == 0);
	return ntohs(address.any.sa_family == AF_INET6 ? address.six.sin6_port
						       : address.four.sin_port);
}

int listen_accept(int listen_fd, struct in6_addr *out_peer)
{
	union address address;
	socklen_t bytes = sizeof(address);
	int fd = accept4(listen_fd, &address.any, &bytes, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return -errno;
	memset(out_peer, 0, sizeof(*out_peer));
	if (address.any.sa_family == AF_INET6) {
		*out_peer = address.six.sin6_addr;
	} else if (address.any.sa_family == AF_INET) { /* as ::ffff:1.2.3.4 */
		memset(&out_peer->s6_addr[10], 0xff, 2);
		memcpy(&out_peer->s6_addr[12], &address.four.sin_addr, 4);
	}
	return fd;
}

bool peer_is_loopback(const struct in6_addr *peer)
{
	return IN6_IS_ADDR_LOOPBACK(peer) ||
	       (IN6_IS_ADDR_V4MAPPED(peer) && peer->s6_addr[12] == 127);
}
