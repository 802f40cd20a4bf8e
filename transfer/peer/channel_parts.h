/* transfer/peer/channel_parts.h: what the files of a channel share; for those alone. */
#ifndef KVTIER_TRANSFER_PEER_CHANNEL_PARTS_H
#define KVTIER_TRANSFER_PEER_CHANNEL_PARTS_H

#include "transfer/peer/channel.h"

#include <sys/types.h>

#define CHANNEL_EXPORTER_BYTES 32u

struct channel_io {
	/* > 0: bytes; 0: the other side has closed; -EAGAIN; others: it is broken. */
	ssize_t (*read)(struct channel *channel, void *target, size_t bytes);
	ssize_t (*write)(struct channel *channel, const void *source, size_t bytes);
	/* 1: bytes may go; 0: later; < 0: refused, with the reason. */
	int (*handshake)(struct channel *channel, struct error *error);
	/* Secret bytes of this very connection, the same at both ends. */
	void (*exporter)(const struct channel *channel, uint8_t out_bytes[CHANNEL_EXPORTER_BYTES]);
	void (*destroy)(struct channel *channel);
};

extern const struct channel_io channel_io_plain, channel_io_tls;

enum channel_state {
	CHANNEL_CONNECTING, /* TCP, then TLS */
	CHANNEL_GREETING,   /* HELLO was said */
	CHANNEL_PROVING,    /* theirs has come, and PROOF was said */
	CHANNEL_UP,
	CHANNEL_LEAVING,    /* what is said last is being written */
	CHANNEL_DOWN
};

struct channel {
	struct channel_config config;
	const struct channel_io *io;
	void *session;                 /* of TLS */
	int fd;
	enum channel_state state;
	bool is_hungry;                /* TLS cannot go on before the socket takes bytes */
	uint8_t secrets[CHANNEL_SECRETS_MAX][CHANNEL_SECRET_BYTES];
	unsigned secret;               /* the one of the connecting side's proof */
	struct peer_hello ours, theirs;
	uint8_t exporter[CHANNEL_EXPORTER_BYTES];
	uint64_t began_us, heard_us, pinged_us, round_trip_us, pings;
	int result;                    /* LEAVING, DOWN: why */
	char reason[CHANNEL_REASON_BYTES];
	char fault[96];                /* what TLS says of a connection that broke; "" */
	uint32_t in_bytes;
	uint32_t out_begin, out_end;
	uint8_t in[2 * PEER_FRAME_BYTES_MAX] __attribute__((aligned(8)));
	uint8_t out[CHANNEL_OUT_BYTES];
};

#define CHANNEL_DATA_LABEL "kvtier peer data 1"

/* REFUSED goes as the last frame; down() follows. */
void channel_refuse(struct channel *channel, int result, const char *reason);
/* False: no room. */
bool channel_put(struct channel *channel, const void *frame);

/* channel_handshake.c */
void channel_hello_say(struct channel *channel);
void channel_hello_take(struct channel *channel, const struct peer_hello *theirs);
void channel_proof_take(struct channel *channel, const struct peer_proof *proof);
/* `label`, who sends it, and what both sides know, under one of our secrets. */
void channel_derive(const struct channel *channel, unsigned secret, const char *label,
		    bool is_of_connecting, uint8_t out_bytes[32]);

/* channel_tls.c: of one connection. */
must_check int channel_tls_begin(struct channel *channel, struct error *error);

#endif
