/*
 * tiers/peer/peer_messages.h: what the daemon and its peer process say to each other: messages of
 * one size in the rings of daemon/worker.h, and packets in the channel beside them (down only):
 * arenas, which are descriptors, and what is secret.
 */
#ifndef KVTIER_TIERS_PEER_PEER_MESSAGES_H
#define KVTIER_TIERS_PEER_PEER_MESSAGES_H

#include "proto/peer.h"

#include <stdint.h>

#define PEER_MESSAGES_MAX 1024u    /* of a ring */
#define PEER_SESSIONS_MAX 256u     /* other nodes at once */
#define PEER_SESSIONS_ASKED 128u   /* numbers below are the daemon's to give: it asked for them */
#define PEER_TRANSFERS_MAX 4096u   /* places and sends; each keeps its answer until it is taken */
#define PEER_ARENAS_MAX 64u        /* tenants */
#define PEER_SECRETS_MAX 4u        /* the first proves, all are believed */
#define PEER_SECRET_BYTES 32u
#define PEER_TEXT_BYTES 240u
#define PEER_ADDRESS_TEXT_MAX 128u /* of "host:port", with its NUL */
#define PEER_PEM_BYTES_MAX 16384u  /* of each of the three files of TLS */

enum peer_verb {
	/* Down. */
	/* Session `number`: keep connected to `text`; UP and DOWN follow, again and again, until
	 * FORGET. */
	PEER_CONNECT = 1,
	PEER_FORGET, /* the session ends, and its number is free once FORGOTTEN comes */
	PEER_SAY,    /* `frame` to the peer of session `number`; one of another life is dropped */
	PEER_PLACE,  /* data of `tag` may come from session `number`: PLACED, once */
	PEER_SEND,   /* data of `tag` goes to session `number`: SENT, once */
	PEER_STOP,   /* transfer `transfer`, a PLACE or a SEND, ends soon */
	PEER_RESOLVE, /* all addresses of the name in `text`: RESOLVED, once; one at a time */
	/* Up. */
	PEER_READY,  /* it listens; text: by what transport; or result and why not, and it ends */
	PEER_UP,     /* session `number`, `life`, `up` */
	/* Session `number`, `life`, result, text. All its transfers have ended. Life 0: it was not
	 * up, and the reason is another than before. */
	PEER_DOWN,
	PEER_SAID,   /* `frame` of session `number`, `life` */
	PEER_PLACED, /* `transfer`; 0: all of it is there. Nothing writes there any more */
	PEER_SENT,   /* `transfer`; 0: all was handed to the network. Nothing reads it any more */
	PEER_FORGOTTEN, /* session `number` */
	PEER_RESOLVED, /* `list`: "host:port", a line each; or result, and in `text` why not */
	PEER_LINE    /* of session `number`, each second while it changes: `line` */
};

struct peer_up {
	struct peer_hello hello;
	char address[PEER_ADDRESS_TEXT_MAX]; /* as it was asked for; else where it came from */
	char transport[16];
};

struct peer_line {
	uint64_t round_trip_us;             /* 0: not known yet */
	uint64_t sent_bytes, placed_bytes;  /* of this life */
	uint64_t bytes_under_way;
};

struct peer_message {
	uint32_t verb;
	int32_t result;
	uint32_t number, life;
	uint32_t transfer;    /* the daemon's, below PEER_TRANSFERS_MAX */
	uint32_t arena;
	uint64_t tag;
	uint64_t offset, bytes; /* in the arena */
	uint64_t deadline_us;   /* CLOCK_MONOTONIC */
	union {
		uint8_t frame[PEER_FRAME_BYTES_MAX];
		struct peer_up up;
		struct peer_line line;
		char text[PEER_TEXT_BYTES];
		char list[PEER_FRAME_BYTES_MAX];
	};
};

enum peer_packet_kind {
	PEER_PACKET_ARENA = 1, /* with one descriptor; struct peer_packet alone */
	PEER_PACKET_SETUP,     /* struct peer_setup; again: other secrets, for what begins later */
	PEER_PACKET_TLS        /* struct peer_tls, before SETUP; again: for what begins later */
};

struct peer_packet {
	uint32_t kind;
	uint32_t number; /* ARENA: the daemon's to choose, once a life */
	uint64_t bytes;  /* ARENA: of all of it */
};

struct peer_setup {
	struct peer_packet packet;
	struct peer_hello hello; /* ours, but for its header and nonce */
	uint32_t secrets_count, reserved;
	uint8_t secrets[PEER_SECRETS_MAX][PEER_SECRET_BYTES];
};

/* What the files hold, NUL-terminated. */
struct peer_tls {
	struct peer_packet packet;
	char ca[PEER_PEM_BYTES_MAX];
	char certificate[PEER_PEM_BYTES_MAX];
	char key[PEER_PEM_BYTES_MAX];
	char name[PEER_ADDRESS_TEXT_MAX]; /* that others' certificates must have; "": any */
};

#endif
