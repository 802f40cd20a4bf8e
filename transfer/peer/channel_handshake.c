/* transfer/peer/channel_handshake.c: HELLO and PROOF: who is at the other end. */
#include "transfer/peer/channel_parts.h"

#include "base/crypto.h"
#include "base/random.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define PROOF_LABEL "kvtier peer proof 1"

/* What both sides know of this connection: the connecting side's HELLO, the other's, and what TLS
 * gives. */
static void transcript(const struct channel *channel, uint8_t out_digest[CRYPTO_DIGEST_BYTES])
{
	bool is_ours = channel->config.is_connecting;
	struct digest *digest = digest_begin();

	digest_put(digest, is_ours ? &channel->ours : &channel->theirs, sizeof(channel->ours));
	digest_put(digest, is_ours ? &channel->theirs : &channel->ours, sizeof(channel->ours));
	digest_put(digest, channel->exporter, sizeof(channel->exporter));
	digest_end(digest, out_digest);
}

/* `label`, who sends it, and the transcript, under one of our secrets. */
void channel_derive(const struct channel *channel, unsigned secret, const char *label,
		   bool is_of_connecting, uint8_t out_bytes[32])
{
	struct {
		char label[32];
		uint8_t is_of_connecting;
		uint8_t transcript[CRYPTO_DIGEST_BYTES];
	} info = { .is_of_connecting = is_of_connecting };
	uint8_t salt[2 * PEER_NONCE_BYTES];
	bool is_ours = channel->config.is_connecting;

	snprintf(info.label, sizeof(info.label), "%s", label);
	transcript(channel, info.transcript);
	memcpy(salt, is_ours ? channel->ours.nonce : channel->theirs.nonce, PEER_NONCE_BYTES);
	memcpy(salt + PEER_NONCE_BYTES, is_ours ? channel->theirs.nonce : channel->ours.nonce,
	       PEER_NONCE_BYTES);
	crypto_derive((struct crypto_bytes){ channel->secrets[secret], CHANNEL_SECRET_BYTES },
		      (struct crypto_bytes){ salt, sizeof(salt) },
		      (struct crypto_bytes){ &info, sizeof(info) }, out_bytes, 32);
}

void channel_hello_say(struct channel *channel)
{
	struct peer_hello *hello = &channel->ours;

	channel->io->exporter(channel, channel->exporter);
	peer_frame_start(&hello->header, PEER_HELLO, sizeof(*hello), 0);
	hello->version_min = PEER_VERSION_MIN;
	hello->version_max = PEER_VERSION_MAX;
	random_system(hello->nonce, sizeof(hello->nonce));
	(void)channel_put(channel, hello);
	channel->state = CHANNEL_GREETING;
}

void channel_hello_take(struct channel *channel, const struct peer_hello *theirs)
{
	const struct peer_hello *ours = &channel->ours;
	struct peer_proof proof;
	char reason[CHANNEL_REASON_BYTES];

	channel->theirs = *theirs;
	if (theirs->version_min > PEER_VERSION_MAX || theirs->version_max < PEER_VERSION_MIN) {
		snprintf(reason, sizeof(reason),
			 "this kvtierd speaks versions %u to %u between nodes, the other %u to %u",
			 PEER_VERSION_MIN, PEER_VERSION_MAX, theirs->version_min,
			 theirs->version_max);
		channel_refuse(channel, -EPROTONOSUPPORT, reason);
		return;
	}
	if (theirs->boot_id == ours->boot_id) {
		channel_refuse(channel, -ELOOP, "this node has connected to itself");
		return;
	}
	if ((theirs->features ^ ours->features) & PEER_FEATURE_ENCRYPT) {
		channel_refuse(channel, -EINVAL,
		       "one of the two nodes has peer_encryption on, the other off");
		return;
	}
	peer_frame_start(&proof.header, PEER_PROOF, sizeof(proof), 0);
	channel_derive(channel, 0, PROOF_LABEL, channel->config.is_connecting, proof.mac);
	(void)channel_put(channel, &proof);
	channel->state = CHANNEL_PROVING;
}

void channel_proof_take(struct channel *channel, const struct peer_proof *proof)
{
	uint8_t mac[32];

	for (unsigned i = 0; i < channel->config.secrets_count; i++) {
		channel_derive(channel, i, PROOF_LABEL, !channel->config.is_connecting, mac);
		if (!crypto_equal(mac, proof->mac, sizeof(mac)))
			continue;
		/* Keys of data come from the connecting side's secret, which both know. */
		channel->secret = channel->config.is_connecting ? 0 : i;
		channel->state = CHANNEL_UP;
		channel->pinged_us = channel->heard_us - channel->config.ping_us;
		channel->config.up(channel->config.owner, &channel->theirs);
		return;
	}
	channel_refuse(channel, -EPERM, "the other node has another peer_secret_file");
}
