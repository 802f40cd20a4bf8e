/* daemon/peer_link_parts.h: what peer_link.c and peer_link_open.c share. For those two. */
#ifndef KVTIER_DAEMON_PEER_LINK_PARTS_H
#define KVTIER_DAEMON_PEER_LINK_PARTS_H

#include "daemon/peer_link.h"

enum session_state {
	SESSION_FREE,
	SESSION_WANTED,   /* to be connected; the process is to be told */
	SESSION_ASKED,    /* it was told */
	SESSION_ACCEPTED, /* it came by itself, and is up */
	SESSION_UNWANTED, /* the process is to be told */
	SESSION_LEAVING,  /* it was told; FORGOTTEN comes */
	SESSION_STATES
};

struct link_session {
	enum session_state state;
	bool is_up; /* the owner was told of it */
	uint32_t life;
	uint32_t transfers_count;
	char address[PEER_ADDRESS_TEXT_MAX]; /* of one that is asked for */
	char transport[16];
	struct peer_line line;
};

struct link_transfer {
	struct peer_transfer *transfer; /* NULL: the number is free */
	bool is_stopping;               /* the process is still to be told */
};

struct link_arena {
	int fd;
	uint64_t bytes; /* 0: none */
	bool is_sent;   /* to this life */
};

struct peer_link {
	struct peer_link_config config;
	struct worker *worker;
	bool is_ready;
	uint32_t changes;
	char transport[PEER_TEXT_BYTES];
	char reason[WORKER_REASON_BYTES];
	struct peer_setup *setup; /* memory for keys */
	struct peer_tls *tls;     /* the same; NULL: none */
	bool is_setup_sent, is_tls_sent; /* to this life */
	char resolving[PEER_ADDRESS_TEXT_MAX]; /* "": no name is asked for */
	bool is_resolve_said;
	uint64_t looked_us;
	uint32_t transfers_count, free_count, stopping_count, unsaid_count;
	struct link_arena arenas[PEER_ARENAS_MAX];
	struct link_session sessions[PEER_SESSIONS_MAX];
	uint32_t free[PEER_TRANSFERS_MAX];
	struct link_transfer transfers[PEER_TRANSFERS_MAX];
};

/* The process has gone, or is not to be heard any more: nothing is read or written. */
void peer_link_all_end(struct peer_link *link, const char *reason);
/* For the worker's frame: of messages, and of a life's end. */
void peer_link_on_message(void *owner, const void *bytes);
void peer_link_on_end(void *owner, const char *reason);

#endif
