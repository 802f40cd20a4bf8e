/* base/crypto.c: the one file that speaks to OpenSSL. */
#include "base/crypto.h"

#include <assert.h>
#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* OpenSSL counts in int. */
#define MOVE_BYTES_MAX ((size_t)1 << 30)

static void must_be_one(int result)
{
	assert(result == 1);
}

const char *crypto_library_version(void)
{
	return OpenSSL_version(OPENSSL_VERSION_STRING);
}

/* Opaque: an EVP_MD_CTX by our name. */
static EVP_MD_CTX *context_of(struct digest *digest)
{
	return (EVP_MD_CTX *)digest;
}

struct digest *digest_begin(void)
{
	EVP_MD_CTX *context = EVP_MD_CTX_new();

	assert(context != NULL);
	must_be_one(EVP_DigestInit_ex(context, EVP_sha256(), NULL));
	return (struct digest *)context;
}

void digest_put(struct digest *digest, const void *bytes, size_t count)
{
	must_be_one(EVP_DigestUpdate(context_of(digest), bytes, count));
}

void digest_end(struct digest *digest, uint8_t out_bytes[CRYPTO_DIGEST_BYTES])
{
	must_be_one(EVP_DigestFinal_ex(context_of(digest), out_bytes, NULL));
	EVP_MD_CTX_free(context_of(digest));
}

void crypto_base64(const void *bytes, size_t count, char *out_text)
{
	assert(count <= MOVE_BYTES_MAX);
	(void)EVP_EncodeBlock((uint8_t *)out_text, bytes, (int)count);
}

void crypto_derive(struct crypto_bytes key, struct crypto_bytes salt, struct crypto_bytes info,
		   void *out_key, size_t out_bytes)
{
	EVP_KDF *kind = EVP_KDF_fetch(NULL, "HKDF", NULL);
	EVP_KDF_CTX *context = EVP_KDF_CTX_new(kind);
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)"SHA256", 0),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)key.start, key.count),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *)salt.start,
						  salt.count),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, (void *)info.start,
						  info.count),
		OSSL_PARAM_construct_end(),
	};

	assert(kind != NULL && context != NULL);
	must_be_one(EVP_KDF_derive(context, out_key, out_bytes, params));
	EVP_KDF_CTX_free(context);
	EVP_KDF_free(kind);
}

struct cipher {
	EVP_CIPHER_CTX *context;
};

int cipher_create(struct cipher **out_cipher, struct error *error)
{
	struct cipher *cipher = calloc(1, sizeof(*cipher));
	/* Fetched, not EVP_aes_256_gcm(): that one would be looked up again by each operation. */
	EVP_CIPHER *kind = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
	int result = 0;

	if (cipher != NULL)
		cipher->context = EVP_CIPHER_CTX_new();
	if (cipher == NULL || cipher->context == NULL)
		result = error_set(error, -ENOMEM, "no memory for a cipher");
	else if (kind == NULL ||
		 EVP_CipherInit_ex(cipher->context, kind, NULL, NULL, NULL, 1) != 1)
		result = error_set(error, -ENOTSUP, "OpenSSL %s has no AES-256-GCM",
				   crypto_library_version());
	EVP_CIPHER_free(kind);   /* the context has a hold of its own */
	if (result < 0) {
		cipher_destroy(cipher);
		return result;
	}
	*out_cipher = cipher;
	return 0;
}

void cipher_destroy(struct cipher *cipher)
{
	if (cipher == NULL)
		return;
	EVP_CIPHER_CTX_free(cipher->context);
	free(cipher);
}

void cipher_set_key(struct cipher *cipher, const uint8_t key[CRYPTO_KEY_BYTES])
{
	must_be_one(EVP_CipherInit_ex(cipher->context, NULL, NULL, key, NULL, 1));
}

void cipher_begin(struct cipher *cipher, bool is_seal, const uint8_t iv[CRYPTO_IV_BYTES],
		  struct crypto_bytes authenticated)
{
	int moved;

	must_be_one(EVP_CipherInit_ex(cipher->context, NULL, NULL, NULL, iv, is_seal));
	assert(authenticated.count <= MOVE_BYTES_MAX);
	must_be_one(EVP_CipherUpdate(cipher->context, NULL, &moved, authenticated.start,
				     (int)authenticated.count));
}

void cipher_move(struct cipher *cipher, void *target, const void *source, size_t bytes)
{
	uint8_t *to = target;
	const uint8_t *from = source;

	for (size_t at = 0; at < bytes;) {
		size_t part = bytes - at < MOVE_BYTES_MAX ? bytes - at : MOVE_BYTES_MAX;
		int moved;

		must_be_one(EVP_CipherUpdate(cipher->context, to + at, &moved, from + at,
					     (int)part));
		assert((size_t)moved == part);
		at += part;
	}
}

void cipher_end_seal(struct cipher *cipher, uint8_t out_tag[CRYPTO_TAG_BYTES])
{
	uint8_t nothing[CRYPTO_TAG_BYTES];
	int moved;

	must_be_one(EVP_CipherFinal_ex(cipher->context, nothing, &moved));
	assert(moved == 0);
	must_be_one(EVP_CIPHER_CTX_ctrl(cipher->context, EVP_CTRL_AEAD_GET_TAG,
					CRYPTO_TAG_BYTES, out_tag));
}

bool cipher_end_open(struct cipher *cipher, const uint8_t tag[CRYPTO_TAG_BYTES])
{
	uint8_t nothing[CRYPTO_TAG_BYTES];
	int moved;

	must_be_one(EVP_CIPHER_CTX_ctrl(cipher->context, EVP_CTRL_AEAD_SET_TAG,
					CRYPTO_TAG_BYTES, (void *)tag));
	return EVP_CipherFinal_ex(cipher->context, nothing, &moved) == 1;
}

bool crypto_equal(const void *a, const void *b, size_t bytes)
{
	return CRYPTO_memcmp(a, b, bytes) == 0;
}

void crypto_wipe(void *memory, size_t bytes)
{
	OPENSSL_cleanse(memory, bytes);
}

int crypto_memory_create(void **out_memory, size_t bytes, struct error *error)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			    0);

	if (memory == MAP_FAILED)
		return error_set(error, -ENOMEM, "no memory for keys (%zu bytes)", bytes);
	if (mlock(memory, bytes) < 0) {
		int result = -errno;

		munmap(memory, bytes);
		return error_set(error, result, "cannot lock %zu bytes for keys in memory (%s): raise "
				 "RLIMIT_MEMLOCK", bytes, strerror(-result));
	}
	/* Best effort: no core is written anyway, and children are started by exec. */
	(void)madvise(memory, bytes, MADV_DONTDUMP);
	(void)madvise(memory, bytes, MADV_DONTFORK);
	*out_memory = memory;
	return 0;
}

void crypto_memory_destroy(void *memory, size_t bytes)
{
	if (memory == NULL)
		return;
	OPENSSL_cleanse(memory, bytes);
	munmap(memory, bytes);
}
