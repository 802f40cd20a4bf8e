/* tiers/peer/peer_parts.h: what the files of the peer server share. For tiers/peer alone. */
#ifndef KVTIER_TIERS_PEER_PEER_PARTS_H
#define KVTIER_TIERS_PEER_PEER_PARTS_H

#include "base/crypto.h"
#include "base/list.h"
#include "base/random.h"
#include "tiers/peer/peer_names.h"
#include "tiers/peer/peer_server.h"

#include <assert.h>

#define CHUNK_BYTES TRANSPORT_PAYLOAD_MAX
#define CHUNKS_A_TRANSFER (PEER_TRANSFER_BYTES_MAX / CHUNK_BYTES)
#define CONNECTIONS_MAX (PEER_SESSIONS_MAX + PEER_STRANGERS_MAX)
#define SENDS_MAX 512u        /* chunks on their way */
#define BUFFERS_MAX 16u       /* of CHUNK_BYTES, for enciphered chunks on their way */
#define FRAMES_MAX 1024u      /* held for all connections */
#define HELD_MAX 64u          /* of a connection: said to us before it was up */
#define UNSAID_MAX 256u       /* of a connection: it does not take them yet */
#define ROOM_MIN 64u          /* for messages up, before a connection is listened to */
#define REPLAYS_BITS 1024u    /* chunks may overtake each other by so many */
#define NO_TRANSFER UINT32_MAX

/* What lies in front of each chunk. The tag seals all before it, and the payload. */
struct chunk_head {
	uint64_t tag;
	uint64_t offset, total; /* of the transfer */
	uint32_t bytes, reserved;
	uint64_t sequence;      /* of its direction, from 1 */
	uint64_t reserved_two;
	uint8_t seal[CRYPTO_TAG_BYTES];
};
#define SEALED_HEAD_BYTES offsetof(struct chunk_head, seal)
static_assert(sizeof(struct chunk_head) == TRANSPORT_HEAD_BYTES, "the head fits the transport's");

enum transfer_state {
	TRANSFER_FREE,
	TRANSFER_MOVING,
	TRANSFER_ENDING,   /* nothing new; what is read or written still ends */
	TRANSFER_ANSWERING /* the parent has no room for the answer yet */
};

struct transfer {
	enum transfer_state state;
	bool is_place;
	struct list_node link; /* of its connection's places or sends, or of the answers */
	struct connection *connection;
	uint64_t tag;
	uint8_t *memory;
	uint64_t bytes, moved;   /* moved: arrived, or given to the transport */
	uint64_t deadline_us;    /* when ENDING: when the connection is ended for it */
	uint32_t under_way;      /* chunks that are read or written now */
	uint32_t next_of_tag;    /* place: in its bucket */
	int result;
	uint64_t seen[CHUNKS_A_TRANSFER / 64]; /* place: a bit a chunk that has come */
};

struct frame_held {
	struct list_node link;
	_Alignas(8) uint8_t frame[PEER_FRAME_BYTES_MAX];
};

enum connection_state {
	CONNECTION_FREE,
	CONNECTION_SHAKING, /* hands */
	CONNECTION_WAITING, /* both are proved; their LINK is to come */
	CONNECTION_LINKING, /* the data link is being made */
	CONNECTION_UP,
	CONNECTION_ENDING,
	CONNECTION_STATES
};

struct connection {
	enum connection_state state;
	struct peer_server *server;
	struct channel *channel;
	short watched;            /* what its descriptor is watched for; 0: not */
	bool is_connecting;       /* our part */
	bool has_channel_ended, is_link_up;
	struct session *session;  /* NULL: none yet, or not any more */
	char address[PEER_ADDRESS_TEXT_MAX];
	struct peer_hello theirs; /* from WAITING on */
	uint64_t deadline_us;     /* to be up; ENDING: to be gone */
	uint64_t proved_us;
	unsigned transport;
	struct transport_link *link; /* NULL: none */
	uint8_t token[PEER_TOKEN_BYTES];
	int end_result;
	char end_reason[160];
	struct list held, unsaid; /* frames */
	bool has_talked;          /* a frame of the session went either way */
	/* Data. */
	struct list places, sends;
	uint32_t transfers_count; /* until they are answered */
	uint64_t under_way_bytes;
	uint64_t sequence;        /* of the last chunk sent */
	uint64_t newest;          /* sequence that came, and those before it */
	uint64_t came[REPLAYS_BITS / 64];
	struct cipher *seals, *opens;
	struct peer_line line, line_said;
	uint64_t line_us;
};

enum session_state {
	SESSION_FREE,
	SESSION_RESTING, /* to connect again, later */
	SESSION_NAMING,  /* its address is looked up */
	SESSION_CONNECTING,
	SESSION_UP,
	SESSION_ENDING,  /* it was up; transfers end */
	SESSION_STATES
};

struct session {
	enum session_state state;
	bool is_asked, is_forgotten;
	bool is_known;                 /* whom the address leads to: node */
	uint8_t node[PEER_NODE_BYTES];
	struct connection *connection; /* from CONNECTING on */
	uint32_t life;                 /* grows, whoever has the number */
	uint32_t turn;                 /* of lookups: an answer to an older one is not for us */
	unsigned attempts, transport;
	uint64_t backoff_us, next_us, up_us;
	char address[PEER_ADDRESS_TEXT_MAX];
	char told[160];                /* the last reason */
};

struct send {
	struct transport_send send; /* first */
	struct list_node link;      /* when free */
	struct transfer *transfer;
	uint8_t *buffer;            /* NULL: none */
};

struct arena_mapped {
	uint8_t *memory; /* NULL: none */
	uint64_t bytes;
};

struct peer_server {
	struct peer_server_config config;
	struct random random;
	uint64_t now_us;
	bool is_open;
	int wake_fd, listen_fd;
	unsigned transports_count;
	const struct transport_ops *ops[PEER_TRANSPORTS_MAX];
	struct transport *transports[PEER_TRANSPORTS_MAX];
	struct peer_names *names;
	bool is_resolving;
	struct peer_lookup *resolved;           /* to be told, once there is room */
	struct peer_setup *setup;               /* memory for keys */
	struct channel_tls *tls;
	char tls_name[PEER_ADDRESS_TEXT_MAX];   /* "": any of the CA's */
	struct arena_mapped arenas[PEER_ARENAS_MAX];
	uint64_t looked_us;                     /* for deadlines of transfers */
	unsigned turn;                          /* whose sends are first */
	uint8_t *buffers;                       /* all of them */
	uint8_t *free_buffers[BUFFERS_MAX];
	unsigned free_buffers_count;
	struct list free_sends, free_frames, answers;
	struct session sessions[PEER_SESSIONS_MAX];
	struct connection connections[CONNECTIONS_MAX];
	uint32_t buckets[PEER_TRANSFERS_MAX];   /* places by tag */
	struct transfer transfers[PEER_TRANSFERS_MAX];
	struct send sends[SENDS_MAX];
	struct frame_held frames[FRAMES_MAX];
};

/* ---- peer_server.c ---- */

must_check bool server_say(struct peer_server *server, const struct peer_message *message);
static inline uint32_t server_room(const struct peer_server *server)
{
	return server->config.room(server->config.owner);
}

/* ---- peer_session.c ---- */

must_check int session_connect(struct peer_server *server, const struct peer_message *message,
			       struct error *error);
void session_forget(struct peer_server *server, uint32_t number);
bool sessions_step(struct peer_server *server);
uint64_t session_next_us(const struct session *session);
/* A name's addresses are looked up for the daemon. */
must_check int names_resolve(struct peer_server *server, const struct peer_message *message,
			     struct error *error);
/* Its connection did not become one, or has ended: rest, and the reason is told if it is news. */
void session_rest(struct peer_server *server, struct session *session, int result,
		  const char *reason);
/* Of a connection that can be up: false: not now. */
must_check bool session_up(struct peer_server *server, struct connection *connection);
/* Its connection's transfers have all been answered. False: not now. */
must_check bool session_down(struct peer_server *server, struct session *session, int result,
			     const char *reason);
static inline uint32_t session_number(const struct peer_server *server,
				      const struct session *session)
{
	return (uint32_t)(session - server->sessions);
}

/* ---- peer_connection.c, peer_frames.c ---- */

/* Takes the socket. `session` NULL: it was accepted. NULL: no room, and the socket is closed. */
struct connection *connection_begin(struct peer_server *server, int fd, struct session *session,
				    const char *address);
/* All that belongs to it ends; its session rests. Again: nothing. */
void connection_end(struct connection *connection, int result, const char *reason);
bool connections_step(struct peer_server *server);
uint64_t connection_next_us(const struct connection *connection);
/* At once, answered or not. */
void connection_close(struct connection *connection);
/* Both have proved themselves. */
void connection_is_proved(struct connection *connection);
/* Their LINK. */
void connection_link(struct connection *connection, const void *frame);
extern const struct transport_events connection_link_events;
/* A frame of the daemon's for it. */
void connection_say(struct connection *connection, const void *frame);
/* One of theirs. */
void connection_hear(struct connection *connection, const void *frame);
bool connection_frames_step(struct connection *connection);
void connection_frames_drop(struct connection *connection);
static inline bool is_smaller_node(const struct connection *connection)
{
	return __builtin_memcmp(connection->server->setup->hello.node, connection->theirs.node,
				PEER_NODE_BYTES) < 0;
}

/* ---- peer_transfer.c, peer_place.c, peer_send.c ---- */

/* 0 also where it cannot be: that is answered. */
must_check int transfer_begin(struct peer_server *server, const struct peer_message *message,
			      struct error *error);
void transfer_stop(struct peer_server *server, struct transfer *transfer, int result);
/* Nothing of it is under way any more. */
void transfer_end(struct peer_server *server, struct transfer *transfer, int result);
void transfers_stop(struct connection *connection, int result);
/* Gives answers and looks for deadlines. */
bool transfers_step(struct peer_server *server);
must_check bool place_begin(struct peer_server *server, struct transfer *transfer);
void place_forget(struct peer_server *server, struct transfer *transfer);
void *place_arriving(struct connection *connection, const struct chunk_head *head, uint32_t bytes);
void place_arrived(struct connection *connection, const struct chunk_head *head, void *memory,
		   int result);
bool sends_step(struct peer_server *server);

#endif
