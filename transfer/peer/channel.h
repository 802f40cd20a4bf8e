/*
 * transfer/peer/channel.h: the control connection between two kvtierd: a TCP socket, TLS 1.3 on
 * it where that is configured, a handshake that authenticates both sides, then frames
 * (proto/peer.h) in both directions.
 *
 * Each side says HELLO, and, when it has the other's, PROOF: a MAC (HKDF-SHA256, RFC 5869) under
 * the cluster's secret over both HELLOs, its own part (who connected), and, with TLS, bytes that
 * only the two ends of this very TLS connection know (its exporter, RFC 8446 section 7.5). A peer
 * without the secret, of another version, with another choice of encryption, or that is ourselves
 * is told why (REFUSED) and closed. Several secrets may be given: the first proves, all are
 * believed, so a secret is changed without a pause. Without TLS the secret says who is there when
 * a connection begins; who can change bytes on the way can change them later.
 *
 * PING each `ping_us`; nothing heard for `silence_us` ends it, and so does the kernel
 * (TCP_USER_TIMEOUT). A handshake that takes `handshake_us` is over.
 * Runs on: one thread, which has SIGPIPE ignored where TLS is used; nothing blocks. Memory:
 * buffers made at create; OpenSSL's own. Limits: CHANNEL_OUT_BYTES not yet taken by the socket.
 */
#ifndef KVTIER_TRANSFER_PEER_CHANNEL_H
#define KVTIER_TRANSFER_PEER_CHANNEL_H

#include "base/clock.h"
#include "base/error.h"
#include "proto/peer.h"

#include <stdbool.h>
#include <stdint.h>

#define CHANNEL_SECRETS_MAX 4u
#define CHANNEL_SECRET_BYTES 32u
#define CHANNEL_KEY_BYTES 32u
#define CHANNEL_REASON_BYTES 240u
#define CHANNEL_OUT_BYTES (256u << 10)

struct channel_tls;

struct channel_config {
	bool is_connecting;             /* our part */
	const struct peer_hello *hello; /* ours, but for header, versions and nonce; copied */
	const uint8_t (*secrets)[CHANNEL_SECRET_BYTES]; /* copied */
	unsigned secrets_count;         /* 1..CHANNEL_SECRETS_MAX */
	struct channel_tls *tls;        /* NULL: none; borrowed */
	/* that the other's certificate must have; NULL: any of the CA's */
	const char *tls_name;
	uint64_t handshake_us, ping_us, silence_us;
	struct clock *clock;
	/* Both sides are proven. */
	void (*up)(void *owner, const struct peer_hello *theirs);
	/* A checked frame, none of the handshake's and no PING or PONG; until the call ends. */
	void (*frame)(void *owner, const void *frame);
	/* Once; only destroy may follow. Not from inside create, send or end. */
	void (*down)(void *owner, int result, const char *reason);
	void *owner;
};

struct channel;

/* Takes the socket: non-blocking, connected or connecting. On failure it is closed. */
must_check int channel_create(struct channel **out_channel, int fd,
			      const struct channel_config *config, struct error *error);
/* Closes the socket; wipes keys. down() is not called. NULL is allowed. Not from inside a
 * callback. */
void channel_destroy(struct channel *channel);
int channel_fd(const struct channel *channel);
/* For poll(). */
short channel_events(const struct channel *channel);
/* One pass: whether it did anything. */
bool channel_step(struct channel *channel, uint64_t now_us);
/* When a step is due at the latest, whatever poll() says. */
uint64_t channel_next_us(const struct channel *channel);
/* A whole frame. 0; -EAGAIN: the buffer is full; -ENOTCONN: not up (any more). */
must_check int channel_send(struct channel *channel, const void *frame);
/* REFUSED with the reason, as far as it can still be said; down() follows from the next step. */
void channel_end(struct channel *channel, int result, const char *reason);
/* Of the last PING; 0: not known yet. */
uint64_t channel_round_trip_us(const struct channel *channel);
/* Once it is up: the key for data that goes in this direction; another for each connection. */
void channel_data_key(const struct channel *channel, bool is_sending,
		      uint8_t out_key[CHANNEL_KEY_BYTES]);

/* Both sides' certificates are required. Contents of PEM files; several certificates of CAs, and
 * a chain, may be given. -EINVAL with what is wrong with which. */
must_check int channel_tls_create(struct channel_tls **out_tls, const char *ca,
				  const char *certificate, const char *key, struct error *error);
void channel_tls_destroy(struct channel_tls *tls);

#endif
