/*
 * transfer/slot_cipher.h: enciphers and deciphers a slot (docs/DESIGN.md, "Encryption at rest").
 *
 * AES-256-GCM over the padded payload and then the segments' checksums, which would tell who has
 * the device which plaintexts are equal. Authenticated with them: the identity part without tag and
 * checksums, and the nvme address part, so that rot, a torn write, another place, an earlier
 * generation and a forgery are one check. The key of an operation is derived from the tenant's and
 * the *life* in the nonce: 80 random bits of one start of the daemon. The other 48 bits count, so
 * no key ever sees an IV twice, whatever crashes in between.
 *
 * Runs on: any thread; a slot_cipher belongs to one at a time.
 */
#ifndef KVTIER_TRANSFER_SLOT_CIPHER_H
#define KVTIER_TRANSFER_SLOT_CIPHER_H

#include "base/crypto.h"
#include "transfer/slot_header.h"

#define SLOT_LIFE_BYTES 10u
#define SLOT_NONCES_MAX (UINT64_C(1) << 48) /* in a life: 89 years at 100,000 a second */

/* A tenant's key for what lies on nvme. */
struct slot_key {
	uint8_t bytes[CRYPTO_KEY_BYTES];
	/* Follows from the bytes, so another key under the same name is another key. Never 0. */
	uint32_t id;
};

struct slot_nonce {
	uint8_t bytes[16];
};
_Static_assert(sizeof(struct slot_nonce) == sizeof(((struct slot_identity *)0)->nonce),
	       "a nonce fits into a header");

/* `count` < SLOT_NONCES_MAX, and never the same one twice in a life. */
struct slot_nonce slot_nonce_make(const uint8_t life[SLOT_LIFE_BYTES], uint64_t count);

/* Fills the key's id from its bytes. */
void slot_key_identify(struct slot_key *key);

/* Ciphers with the keys of the lives that were used last. The first operation in a life derives its
 * key; only that allocates. A slot_key is told by its address, so it stays where it is, unchanged,
 * until each slot_cipher that was given it was told to forget it. */
struct slot_cipher;
must_check int slot_cipher_create(struct slot_cipher **out_cipher, struct error *error);
void slot_cipher_destroy(struct slot_cipher *cipher); /* accepts NULL */
/* Derives the key of this life now. */
void slot_cipher_prepare(struct slot_cipher *cipher, const struct slot_key *key,
			 const uint8_t life[SLOT_LIFE_BYTES]);

/* Of `count` keys from `keys` on: nothing that follows from them is left in the cipher. */
void slot_cipher_forget(struct slot_cipher *cipher, const struct slot_key *keys, unsigned count);

/*
 * Writes the enciphered copy of a clear slot to `target`, whose nvme address part is `address`, all
 * of it sealed; the cpu address part is zero. Both have the bytes that the payload needs.
 */
void slot_encipher(struct slot_cipher *cipher, const struct slot_key *key,
		   const struct slot_nonce *nonce, const struct slot_address *address,
		   const struct slot_header *source, struct slot_header *target);
/*
 * In place: a slot whose header and place were checked becomes a clear one, its identity sealed
 * again. SLOT_WRONG_TAG: not what was enciphered; payload and checksums are garbage then. The
 * payload's own checksums remain to be checked.
 */
must_check enum slot_verdict slot_decipher(struct slot_cipher *cipher, const struct slot_key *key,
					   struct slot_header *slot);

/* The same with the payload in pieces, in order, each deciphered in place: begin, any number of
 * more, end. Until the end the slot_cipher does nothing else, and no piece is to be believed. */
struct slot_opening {
	struct cipher *cipher;
};

void slot_open_begin(struct slot_opening *opening, struct slot_cipher *cipher,
		     const struct slot_key *key, const struct slot_header *header);
void slot_open_more(struct slot_opening *opening, void *piece, size_t bytes);
must_check enum slot_verdict slot_open_end(struct slot_opening *opening,
					   struct slot_header *header);

#endif
