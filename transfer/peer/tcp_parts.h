/* transfer/peer/tcp_parts.h: what the files of the TCP transport share; for those alone. */
#ifndef KVTIER_TRANSFER_PEER_TCP_PARTS_H
#define KVTIER_TRANSFER_PEER_TCP_PARTS_H

#include "transfer/peer/transport.h"

#define TCP_MAGIC UINT64_C(0x315441445454564b) /* "KVTTDAT1" */
#define TCP_MESSAGE_MAGIC 0x4d54564bu          /* "KVTM" */

/* The first bytes of a connection, from who connects; who expected them sends them back.
 * Little-endian. */
struct tcp_preface {
	uint64_t magic;
	uint8_t token[TRANSPORT_TOKEN_BYTES];
};

/* Before each payload. */
struct tcp_head {
	uint8_t head[TRANSPORT_HEAD_BYTES];
	uint32_t magic;
	uint32_t bytes; /* of the payload */
};

enum link_state {
	LINK_CONNECTING, /* ours, until the socket is there */
	LINK_NAMING,     /* ours: our preface goes, theirs is awaited */
	LINK_EXPECTING,  /* theirs is to come: no socket yet */
	LINK_ANSWERING,  /* theirs has come: their preface goes back */
	LINK_JOINED,
	LINK_CLOSING     /* down() follows from the next step */
};

struct transport_link {
	struct list_node link;       /* of the transport */
	struct transport *transport;
	const struct transport_events *events;
	void *owner;
	enum link_state state;
	int fd;                      /* -1: none */
	uint32_t watched;            /* epoll events */
	struct tcp_preface preface;
	uint32_t preface_sent, preface_read;
	struct tcp_preface theirs;
	uint64_t moved_us;           /* when bytes moved last, or there was nothing to move */
	int result;
	char reason[TRANSPORT_REASON_BYTES];
	/* out: the first is on its way */
	struct list sends;
	struct tcp_head out_head;
	uint32_t out_sent;           /* of head and payload */
	/* in */
	struct tcp_head in_head, next_head;
	uint32_t in_head_read, in_read; /* of the head; of the payload */
	bool is_receiving;           /* the head is there */
	uint8_t *in_memory;          /* NULL: nobody wants it */
};

/* Who has connected and not named a token yet. */
struct tcp_stranger {
	int fd;                      /* -1: free */
	uint64_t since_us;
	uint32_t read;
	struct tcp_preface preface;
};

struct transport {
	struct transport_config config;
	int listen_fd, epoll_fd;
	uint16_t port;
	struct list links;
	unsigned links_count;
	uint64_t looked_us;          /* for what is late */
	bool has_dirty;              /* a link has something to do that no socket tells */
	struct tcp_stranger strangers[TRANSPORT_STRANGERS_MAX];
};

/* Bytes in and out, as far as they go at once. Whether anything moved. */
bool tcp_link_step(struct transport_link *link, uint64_t now_us);
/* Nothing touches anybody's memory any more: everything is given back. */
void tcp_link_give_back(struct transport_link *link);
void tcp_link_fail(struct transport_link *link, int result, const char *reason);
/* Something of it is on its way, or ought to be. */
bool tcp_link_is_busy(const struct transport_link *link);
void tcp_socket_prepare(int fd, uint64_t idle_us);

#endif
