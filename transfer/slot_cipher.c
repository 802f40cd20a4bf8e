/* transfer/slot_cipher.c: what of a slot is enciphered, what is authenticated, and by which key. */
#include "transfer/slot_cipher.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Lives that one thread keeps keys of: of each tenant the running one, and those still read. */
#define LIVES_KEPT 32u

struct life {
	struct cipher *cipher;
	const struct slot_key *key; /* borrowed; NULL: unused */
	uint32_t key_id;
	uint8_t bytes[SLOT_LIFE_BYTES];
	uint64_t used;
};

struct slot_cipher {
	struct life lives[LIVES_KEPT];
	uint64_t clock;
};

/* The identity part up to its checksums, and the address. */
struct authenticated {
	uint8_t identity[offsetof(struct slot_identity, segment_crcs)];
	struct slot_address address;
};

static struct crypto_bytes words(const char *text)
{
	return (struct crypto_bytes){ text, strlen(text) };
}

struct slot_nonce slot_nonce_make(const uint8_t life[SLOT_LIFE_BYTES], uint64_t count)
{
	struct slot_nonce nonce;

	assert(count < SLOT_NONCES_MAX);
	memcpy(nonce.bytes, life, SLOT_LIFE_BYTES);
	memcpy(nonce.bytes + SLOT_LIFE_BYTES, &count, sizeof(nonce.bytes) - SLOT_LIFE_BYTES);
	return nonce;
}

void slot_key_identify(struct slot_key *key)
{
	crypto_derive((struct crypto_bytes){ key->bytes, sizeof(key->bytes) },
		      words("kvtier/key-id/1"), words(""), &key->id, sizeof(key->id));
	if (key->id == 0)
		key->id = 1;
}

int slot_cipher_create(struct slot_cipher **out_cipher, struct error *error)
{
	struct slot_cipher *cipher = calloc(1, sizeof(*cipher));
	int result = 0;

	if (cipher == NULL)
		return error_set(error, -ENOMEM, "no memory for a cipher");
	for (unsigned i = 0; result == 0 && i < LIVES_KEPT; i++)
		result = cipher_create(&cipher->lives[i].cipher, error);
	if (result < 0) {
		slot_cipher_destroy(cipher);
		return result;
	}
	*out_cipher = cipher;
	return 0;
}

void slot_cipher_destroy(struct slot_cipher *cipher)
{
	if (cipher == NULL)
		return;
	for (unsigned i = 0; i < LIVES_KEPT; i++)
		cipher_destroy(cipher->lives[i].cipher);
	free(cipher);
}

/* The cipher of this key and life: a kept one, or the one unused for longest, its key derived. */
static struct cipher *cipher_of_life(struct slot_cipher *cipher, const struct slot_key *key,
				     const uint8_t *bytes)
{
	struct life *oldest = &cipher->lives[0];
	uint8_t derived[CRYPTO_KEY_BYTES];

	assert(key->id != 0);
	for (unsigned i = 0; i < LIVES_KEPT; i++) {
		struct life *life = &cipher->lives[i];

		if (life->key == key && life->key_id == key->id &&
		    memcmp(life->bytes, bytes, SLOT_LIFE_BYTES) == 0) {
			life->used = ++cipher->clock;
			return life->cipher;
		}
		if (life->used < oldest->used)
			oldest = life;
	}
	crypto_derive((struct crypto_bytes){ key->bytes, sizeof(key->bytes) },
		      (struct crypto_bytes){ bytes, SLOT_LIFE_BYTES }, words("kvtier/life/1"),
		      derived, sizeof(derived));
	cipher_set_key(oldest->cipher, derived);
	crypto_wipe(derived, sizeof(derived));
	oldest->key = key;
	oldest->key_id = key->id;
	memcpy(oldest->bytes, bytes, SLOT_LIFE_BYTES);
	oldest->used = ++cipher->clock;
	return oldest->cipher;
}

void slot_cipher_prepare(struct slot_cipher *cipher, const struct slot_key *key,
			 const uint8_t life[SLOT_LIFE_BYTES])
{
	(void)cipher_of_life(cipher, key, life);
}

void slot_cipher_forget(struct slot_cipher *cipher, const struct slot_key *keys, unsigned count)
{
	static const uint8_t zeros[CRYPTO_KEY_BYTES];

	for (unsigned i = 0; i < LIVES_KEPT; i++) {
		struct life *life = &cipher->lives[i];

		if (life->key < keys || life->key >= keys + count)
			continue;
		/* Takes the place of the schedule and of all that was computed with it. */
		cipher_set_key(life->cipher, zeros);
		*life = (struct life){ .cipher = life->cipher };
	}
}

static void begin(struct cipher *cipher, bool is_seal, const struct slot_header *header)
{
	struct authenticated part;
	uint8_t iv[CRYPTO_IV_BYTES] = { 0 };

	_Static_assert(offsetof(struct authenticated, address) == sizeof(part.identity),
		       "every byte is what is said");
	memcpy(part.identity, &header->identity, sizeof(part.identity));
	memset(part.identity + offsetof(struct slot_identity, crc), 0,
	       sizeof(header->identity.crc));
	memset(part.identity + offsetof(struct slot_identity, tag), 0,
	       sizeof(header->identity.tag));
	part.address = header->address[TIER_NVME];
	part.address.crc = 0;
	memcpy(iv, header->identity.nonce + SLOT_LIFE_BYTES,
	       sizeof(header->identity.nonce) - SLOT_LIFE_BYTES);
	cipher_begin(cipher, is_seal, iv, (struct crypto_bytes){ &part, sizeof(part) });
}

static void move_checksums(struct cipher *cipher, const struct slot_identity *source,
			   struct slot_identity *target)
{
	cipher_move(cipher, target->segment_crcs, source->segment_crcs,
		    source->segments_count * sizeof(source->segment_crcs[0]));
}

static uint64_t padded_bytes(const struct slot_header *header)
{
	return slot_bytes_for(header->identity.payload_bytes) - SLOT_HEADER_BYTES;
}

void slot_encipher(struct slot_cipher *cipher, const struct slot_key *key,
		   const struct slot_nonce *nonce, const struct slot_address *address,
		   const struct slot_header *source, struct slot_header *target)
{
	struct cipher *of_life = cipher_of_life(cipher, key, nonce->bytes);

	assert(source->identity.key_id == 0 && source != target);
	slot_header_clear(target);
	memcpy(&target->identity, &source->identity, offsetof(struct slot_identity, segment_crcs));
	target->identity.key_id = key->id;
	memcpy(target->identity.nonce, nonce->bytes, sizeof(nonce->bytes));
	target->address[TIER_NVME] = *address;
	begin(of_life, true, target);
	/* The payload first: it is a multiple of the cipher's blocks, which the checksums need not
	 * be. */
	cipher_move(of_life, target + 1, source + 1, padded_bytes(source));
	move_checksums(of_life, &source->identity, &target->identity);
	cipher_end_seal(of_life, target->identity.tag);
	slot_identity_seal(target);
	slot_address_seal(&target->address[TIER_NVME]);
}

void slot_open_begin(struct slot_opening *opening, struct slot_cipher *cipher,
		     const struct slot_key *key, const struct slot_header *header)
{
	assert(header->identity.key_id == key->id && key->id != 0);
	opening->cipher = cipher_of_life(cipher, key, header->identity.nonce);
	begin(opening->cipher, false, header);
}

void slot_open_more(struct slot_opening *opening, void *piece, size_t bytes)
{
	cipher_move(opening->cipher, piece, piece, bytes);
}

enum slot_verdict slot_open_end(struct slot_opening *opening, struct slot_header *header)
{
	struct slot_identity *identity = &header->identity;

	move_checksums(opening->cipher, identity, identity);
	if (!cipher_end_open(opening->cipher, identity->tag))
		return SLOT_WRONG_TAG;
	identity->key_id = 0;
	memset(identity->nonce, 0, sizeof(identity->nonce));
	memset(identity->tag, 0, sizeof(identity->tag));
	slot_identity_seal(header);
	return SLOT_GOOD;
}

enum slot_verdict slot_decipher(struct slot_cipher *cipher, const struct slot_key *key,
				struct slot_header *slot)
{
	struct slot_opening opening;

	slot_open_begin(&opening, cipher, key, slot);
	slot_open_more(&opening, slot + 1, padded_bytes(slot));
	return slot_open_end(&opening, slot);
}
