/*
 * daemon/admin_http.h: pages for people and machines, on a Unix socket and on TCP. Never blocks; at
 * most connections_max clients, share_max of one address, each with a deadline that its bytes do
 * not move, so a slow or silent one is gone in time. Where there is no room, whoever of the same
 * address has not asked for longest makes room, so a flood turns out itself.
 * Runs on: admin_http_step, admin_http_fd: the loop thread. Open, close: main.
 */
#ifndef KVTIER_DAEMON_ADMIN_HTTP_H
#define KVTIER_DAEMON_ADMIN_HTTP_H

#include "base/clock.h"
#include "base/error.h"
#include "base/text.h"

#include <stdbool.h>
#include <stdint.h>

#define ADMIN_HTTP_CONNECTIONS_MAX 64u
#define ADMIN_HTTP_PAGES_MAX 16u

struct http_parser;

/* A request for a page, and what the page says of its answer. */
struct admin_http_call {
	const struct http_parser *request; /* borrowed */
	bool is_verbose;                   /* the query has "verbose" */
	struct text *out;                  /* gets the page */
	const char *content_type;          /* of the table; a page may set another */
	const char *policy; /* NULL: the page loads nothing; see http_answer_head() */
};

struct admin_http_page {
	const char *path; /* "/livez" */
	const char *content_type;
	/* Returns the HTTP status, 200 or 503. */
	int (*render)(void *owner, struct admin_http_call *call);
};

struct admin_http_config {
	const char *
		socket_path; /* Unix socket, mode 0660; a stale one is replaced. NULL or "": none */
	const char *listen;  /* "127.0.0.1:9469", "[::1]:0". NULL or "": none */
	const struct admin_http_page *pages; /* borrowed */
	unsigned pages_count;
	void *owner;              /* of the pages */
	struct clock *clock;      /* for Date; NULL: none is sent */
	unsigned connections_max; /* up to ADMIN_HTTP_CONNECTIONS_MAX; 0: 32 */
	/* Of one address, or of the Unix socket; 0: a quarter of connections_max. */
	unsigned share_max;
	uint64_t request_us_max; /* from accept, or from the answer before, to the request's end; as
				    long again for the answer; 0: 5 s */
	uint64_t page_bytes_max; /* of one page; a larger one is answered with 500. 0: 1 MiB */
};

struct admin_http_counts {
	uint64_t answered, refused;
	uint64_t late;   /* past their deadline */
	uint64_t crowded; /* closed, or not begun, as their address or all have too many */
};

struct admin_http;

must_check int admin_http_open(struct admin_http **out_http, const struct admin_http_config *config,
			       struct error *error);
void admin_http_close(struct admin_http *http);

/* One pass; returns whether it did anything. */
bool admin_http_step(struct admin_http *http, uint64_t now_us);
/* An epoll descriptor: readable when a step has something to do. Ours. */
int admin_http_fd(const struct admin_http *http);
/* When the next step is due at the latest, for a deadline; UINT64_MAX: none. */
uint64_t admin_http_due_us(const struct admin_http *http);
/* The TCP port; 0: none. */
unsigned admin_http_port(const struct admin_http *http);
unsigned admin_http_connections(const struct admin_http *http);
struct admin_http_counts admin_http_counts(const struct admin_http *http);

#endif
