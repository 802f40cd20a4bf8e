/*
 * base/crypto.h: OpenSSL in our words: SHA-256, HKDF-SHA256, AES-256-GCM, and memory for keys.
 *
 * OpenSSL fails at what is done here only when it cannot allocate or is broken: there is nothing to
 * go on with, so that is an assert.
 * Runs on: any thread; a digest or cipher belongs to one thread at a time.
 */
#ifndef KVTIER_BASE_CRYPTO_H
#define KVTIER_BASE_CRYPTO_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CRYPTO_KEY_BYTES 32u
#define CRYPTO_DIGEST_BYTES 32u
#define CRYPTO_IV_BYTES 12u
#define CRYPTO_TAG_BYTES 16u

/* "3.0.22" */
const char *crypto_library_version(void);

/* SHA-256 of what is put. `digest_end` also frees it. */
struct digest;
struct digest *digest_begin(void);
void digest_put(struct digest *digest, const void *bytes, size_t count);
void digest_end(struct digest *digest, uint8_t out_bytes[CRYPTO_DIGEST_BYTES]);

/* Base64 with padding; `out_text` has room for 4 letters for each 3 bytes begun, and a NUL. */
void crypto_base64(const void *bytes, size_t count, char *out_text);

struct crypto_bytes {
	const void *start;
	size_t count;
};

/* HKDF-SHA256 (RFC 5869), extract and expand. Allocates. */
void crypto_derive(struct crypto_bytes key, struct crypto_bytes salt, struct crypto_bytes info,
		   void *out_key, size_t out_bytes);

/* AES-256-GCM under one key at a time. The key's schedule is kept, so that an operation costs no
 * more than its bytes; seal and open do not allocate. */
struct cipher;
must_check int cipher_create(struct cipher **out_cipher, struct error *error);
void cipher_destroy(struct cipher *cipher); /* wipes the schedule */
void cipher_set_key(struct cipher *cipher, const uint8_t key[CRYPTO_KEY_BYTES]);

/* One operation: begin, any number of moves, end. Source and target may be the same, or do not
 * overlap. All moves but the last are multiples of 16 bytes, or the fast path is left. */
void cipher_begin(struct cipher *cipher, bool is_seal, const uint8_t iv[CRYPTO_IV_BYTES],
		  struct crypto_bytes authenticated);
void cipher_move(struct cipher *cipher, void *target, const void *source, size_t bytes);
void cipher_end_seal(struct cipher *cipher, uint8_t out_tag[CRYPTO_TAG_BYTES]);
/* False: not what was sealed; what was moved is not to be believed. */
must_check bool cipher_end_open(struct cipher *cipher, const uint8_t tag[CRYPTO_TAG_BYTES]);

/* In a time that does not tell where they differ. */
bool crypto_equal(const void *a, const void *b, size_t bytes);
/* Zeroes memory so that no compiler leaves it out. */
void crypto_wipe(void *memory, size_t bytes);
/* Memory for keys, zeroed: locked, in no core dump, not in children. Blocks; at startup only. */
must_check int crypto_memory_create(void **out_memory, size_t bytes, struct error *error);
/* Wipes it first. Accepts NULL. */
void crypto_memory_destroy(void *memory, size_t bytes);

#endif
