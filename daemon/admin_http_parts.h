/*
 * daemon/admin_http_parts.h: the inside of the server of pages, for admin_http*.c only:
 * admin_http.c has the connections, admin_http_answer.c what is said to a request.
 */
#ifndef KVTIER_DAEMON_ADMIN_HTTP_PARTS_H
#define KVTIER_DAEMON_ADMIN_HTTP_PARTS_H

#include "daemon/admin_http.h"
#include "proto/http.h"

#include <netinet/in.h>

#define ADMIN_HTTP_LISTENERS 2u
#define ADMIN_HTTP_INPUT_BYTES 2048u

enum connection_state {
	CONNECTION_FREE,
	CONNECTION_READING,
	CONNECTION_WRITING,
	CONNECTION_LINGERING /* answered and closed by us; reads what still comes, so that the
				answer is not lost */
};

struct connection {
	enum connection_state state;
	int fd;
	bool closes; /* after the answer */
	bool is_loopback; /* came by TCP to an address of this machine alone */
	struct in6_addr peer; /* whose share it is of; all zeros: the Unix socket's */
	uint64_t deadline_us;
	uint32_t input_start, input_end;
	uint32_t lingered_bytes;
	size_t sent;
	struct text output;
	struct http_parser parser;
	char input[ADMIN_HTTP_INPUT_BYTES];
};

struct admin_http {
	struct admin_http_config config;
	int epoll_fd;
	int listen_fds[ADMIN_HTTP_LISTENERS]; /* the Unix socket's, TCP's; -1: none */
	uint64_t rests_until_us[ADMIN_HTTP_LISTENERS]; /* 0: it is watched */
	unsigned connections_count;
	struct admin_http_counts counts;
	struct text page;
	struct connection connections[];
};

/* The only writer of connection->state: changes it and what is waited for. */
void admin_http_become(struct admin_http *http, struct connection *connection,
		       enum connection_state next);
/* The parser has a whole head: writes the answer, and goes to WRITING, or FREE without memory. */
void admin_http_answer(struct admin_http *http, struct connection *connection, uint64_t now_us);
void admin_http_refuse(struct admin_http *http, struct connection *connection, int status,
		       const char *reason, uint64_t now_us);

#endif
