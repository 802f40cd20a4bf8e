/* daemon/notify.c: the sd_notify protocol: one datagram of lines to a Unix socket named in the
 * environment. */
#include "daemon/notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int notify_send(const char *lines, struct error *error)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	socklen_t address_bytes;
	ssize_t sent;
	int fd, result = 0;

	if (path == NULL || path[0] == '\0')
		return 0;
	if ((path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof(address.sun_path))
		return error_set(
			error, -EINVAL,
			"NOTIFY_SOCKET: '%.60s' is neither an absolute path nor an abstract name",
			path);
	memcpy(address.sun_path, path, strlen(path));
	address_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	if (path[0] == '@')
		address.sun_path[0] =
			'\0'; /* an abstract name has no end mark; its length ends it */
	else
		address_bytes++;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_set(error, -errno, "NOTIFY_SOCKET: no socket: %s", strerror(errno));
	sent = sendto(fd, lines, strlen(lines), MSG_NOSIGNAL, (struct sockaddr *)&address,
		      address_bytes);
	if (sent < 0)
		result = error_set(error, -errno, "NOTIFY_SOCKET: %.60s: %s", path,
				   strerror(errno));
	else if ((size_t)sent != strlen(lines))
		result = error_set(error, -EMSGSIZE, "NOTIFY_SOCKET: %.60s: cut short", path);
	close(fd);
	return result;
}

static uint64_t number_of(const char *name)
{
	const char *text = getenv(name);
	char *end;
	unsigned long long number;

	if (text == NULL || text[0] < '0' || text[0] > '9')
		return 0;
	errno = 0;
	number = strtoull(text, &end, 10);
	return errno != 0 || *end != '\0' ? 0 : number;
}

uint64_t notify_watchdog_us(void)
{
	/* The variables are inherited: they may have been meant for our parent. */
	if (getenv("WATCHDOG_PID") != NULL && number_of("WATCHDOG_PID") != (uint64_t)getpid())
		return 0;
	return number_of("WATCHDOG_USEC") / 2;
}
