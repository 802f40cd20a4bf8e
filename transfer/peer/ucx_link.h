/* transfer/peer/ucx_link.h: what the files of the UCX transport share; for those alone. */
#ifndef KVTIER_TRANSFER_PEER_UCX_LINK_H
#define KVTIER_TRANSFER_PEER_UCX_LINK_H

#include "transfer/peer/transport.h"
#include "transfer/peer/ucx_parts.h"

#if HAVE_UCX

#define UCX_MESSAGE 7u                      /* the number of our active messages */
#define UCX_MAGIC 0x4d55564bu               /* "KVUM": of a message */
#define UCX_ADDRESS_MAGIC 0x4155564bu       /* "KVUA" */
/* Above, the receiver's place is known before the bytes come (rendezvous): they land there. Below,
 * they come with the head and are copied once, which is faster: at 64 KiB three times. */
#define UCX_EAGER_BYTES_MAX (256u << 10)
#define UCX_SENDS_MAX 32u                   /* of a link, given to UCX at once */
#define UCX_RECEIVES_MAX (2 * UCX_SENDS_MAX)

/* How long a link that we close waits for its last word to be taken. UCX does not tell the other
 * node of a forced close while that node's way to us is open. */
#define UCX_BYE_US UINT64_C(100000)

enum ucx_kind { UCX_JOIN = 1, UCX_ACCEPT, UCX_DATA, UCX_BYE };

/* Each message says whose it is: strangers may send us whatever they like. Little-endian. */
struct ucx_head {
	uint32_t magic;
	uint16_t kind;
	uint16_t to;                        /* the receiver's number of the link */
	uint16_t from;                      /* the sender's */
	uint16_t zero;
	uint8_t token[TRANSPORT_TOKEN_BYTES];
	uint8_t head[TRANSPORT_HEAD_BYTES];
};

/* UCX takes addresses as they are, so what was cut or changed is found before it sees them. */
struct ucx_address {
	uint32_t magic;
	uint32_t checksum;                  /* CRC32C of the bytes */
	uint8_t bytes[TRANSPORT_ADDRESS_BYTES_MAX - 8];
};

enum link_state {
	LINK_NAMING,                        /* ours: JOIN goes, ACCEPT is awaited */
	LINK_EXPECTING,
	LINK_ANSWERING,                     /* JOIN has come: the endpoint is to be made */
	LINK_JOINED,
	LINK_CLOSING                        /* down() follows when UCX has let go of everything */
};

/* A payload that UCX writes into a place of ours. */
struct ucx_receive {
	struct transport_link *link;        /* NULL: free */
	uint8_t head[TRANSPORT_HEAD_BYTES];
	uint32_t bytes;
	void *memory;
};

struct transport_link {
	struct list_node link;              /* of the transport */
	struct transport *transport;
	const struct transport_events *events;
	void *owner;
	enum link_state state;
	uint16_t number, their_number;
	uint8_t token[TRANSPORT_TOKEN_BYTES];
	struct ucx_head greeting;           /* our JOIN or ACCEPT, as long as UCX reads it */
	struct ucx_head bye;                /* as long as UCX reads it */
	bool is_bye_due, is_bye_under_way;
	uint64_t bye_us;
	struct ucx_address theirs;
	ucp_ep_h endpoint;                  /* NULL: none */
	bool is_endpoint_closing;
	ucs_status_ptr_t close_request;     /* NULL: none, or it has ended */
	unsigned under_way;                 /* sends that UCX has, the greeting too */
	unsigned receives_count;
	struct ucx_receive receives[UCX_RECEIVES_MAX];
	struct list sends;                  /* not yet given to UCX */
	uint64_t moved_us;
	int result;
	char reason[TRANSPORT_REASON_BYTES];
};

struct transport {
	struct transport_config config;
	const struct ucx_calls *calls;
	ucp_context_h context;
	ucp_worker_h worker;
	int fd;
	struct ucx_address address;
	uint32_t address_bytes;
	ucp_mem_h regions[TRANSPORT_REGIONS_MAX];
	unsigned regions_count;
	struct list links;
	struct transport_link *by_number[TRANSPORT_LINKS_MAX];
	uint64_t now_us;
	bool has_dirty;                     /* a link has something to do that UCX does not tell */
	char lanes[160];                    /* what UCX chose for the last link */
};

void ucx_link_fail(struct transport_link *link, int result, const char *reason);
/* Makes the endpoint to link->theirs and sends the greeting. */
void ucx_link_greet(struct transport_link *link, enum ucx_kind kind);
/* Gives UCX what waits; takes a link that fails apart. True: it has ended, down() is due. */
bool ucx_link_step(struct transport_link *link);
bool ucx_link_is_busy(const struct transport_link *link);
bool ucx_address_is_whole(const struct ucx_address *address, uint32_t bytes);
/* What UCX calls for each message; argument: the transport. */
ucs_status_t ucx_message_take(void *argument, const void *header, size_t header_bytes, void *data,
			      size_t bytes, const ucp_am_recv_param_t *param);

#endif
#endif
